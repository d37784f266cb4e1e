//! The file `why` in a directory that waits: cause, attempts, errors, next try.
//!
//! For people: `netplumb why` and `plumb`'s waiting line read it, nothing
//! decides by it. It is a hint, written when something has waited for a second,
//! so a step that succeeds writes nothing; rewritten at most once a second,
//! unless the cause changes; removed when the cause is gone. What is to be
//! remembered of earlier tries is in the file itself, so it outlives us.

use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{Place, WHY};
use spool::name::MsgId;
use spool::report::{Report, Turn};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What waits for less is not written about, and nothing more often than this.
const APART: Duration = Duration::from_secs(1);
/// Files written at one go.
const WRITTEN_MAX: usize = 32;

type Key = (Place, MsgId);

/// One directory that waits.
struct Waiting {
    since: Duration,
    since_wall: u64,
    written: Option<Duration>,
    /// The cause that is in the file.
    cause: Option<String>,
    /// Tries that are not yet in the file.
    attempts: u32,
    news: Option<Box<News>>,
}

/// What is to be written, and when.
struct News {
    at: Duration,
    cause: String,
    peer: Option<String>,
    first_error: Option<String>,
    error: Option<String>,
    last_at: u64,
    next_at: u64,
}

/// All directories that wait.
#[derive(Default)]
pub(crate) struct Whys {
    waiting: HashMap<Key, Waiting>,
    due: BTreeSet<(Duration, Key)>,
}

impl Whys {
    /// Notes a report; `next` is when it is tried again, `wall` the wall clock
    /// in seconds, `known` whether there was a report before. Says whether a
    /// `why` may lie there that is no longer true.
    pub(crate) fn note(&mut self, report: &Report, next: Duration, known: bool, now: Duration, wall: u64) -> bool {
        let Some(key) = report.about() else { return false };
        match report.turn {
            Turn::Gone => {
                self.forget(key);
                false
            }
            // A stream that cannot go on says so, and when it tries again by itself.
            Turn::Live if report.cause.is_some() => {
                self.waits(key, report, report.next_ms.map_or(next, Duration::from_millis), now, wall);
                false
            }
            Turn::Rest | Turn::Live => {
                let written = self.forget(key);
                written || !known
            }
            Turn::Peer | Turn::Later => {
                self.waits(key, report, next, now, wall);
                false
            }
        }
    }

    fn waits(&mut self, key: Key, report: &Report, next: Duration, now: Duration, wall: u64) {
        let cause = report.cause.clone().unwrap_or_else(|| match report.turn {
            Turn::Peer => "peer".to_string(),
            Turn::Later | Turn::Gone | Turn::Rest | Turn::Live => "later".to_string(),
        });
        let new = Waiting { since: now, since_wall: wall, written: None, cause: None, attempts: 0, news: None };
        let waiting = self.waiting.entry(key).or_insert(new);
        waiting.attempts += 1;
        let patience = waiting.since + APART;
        let at = match waiting.written {
            Some(written) if waiting.cause.as_ref() == Some(&cause) => patience.max(written + APART),
            Some(_) | None => patience,
        };
        let mut first_error = report.error.clone();
        if let Some(old) = waiting.news.take() {
            self.due.remove(&(old.at, key));
            first_error = old.first_error.or(first_error);
        }
        let next_at = wall + (next + Duration::from_millis(500)).as_secs();
        let (peer, error) = (report.peer.clone(), report.error.clone());
        waiting.news = Some(Box::new(News { at, cause, peer, first_error, error, last_at: wall, next_at }));
        self.due.insert((at, key));
    }

    /// Forgets a directory; says whether its file was written.
    fn forget(&mut self, key: Key) -> bool {
        let Some(waiting) = self.waiting.remove(&key) else { return false };
        if let Some(news) = waiting.news {
            self.due.remove(&(news.at, key));
        }
        waiting.written.is_some()
    }

    /// What is to be written at this moment, some of it.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Key> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).take(WRITTEN_MAX);
        due.map(|(_, key)| *key).collect()
    }

    /// Writes one of them. What cannot be written is left: it is for people only.
    pub(crate) fn write(&mut self, fs: &dyn Fs, key: Key, now: Duration) {
        let Some(waiting) = self.waiting.get_mut(&key) else { return };
        let Some(news) = waiting.news.take() else { return };
        self.due.remove(&(news.at, key));
        let path = key.0.file(key.1, WHY);
        let old = Facts::read(fs, &path).ok().flatten().unwrap_or_default();
        let attempts = old.value::<u64>("attempts").unwrap_or(0).saturating_add(waiting.attempts.into());
        let first_error = old.text("first_error").map(str::to_string).or(news.first_error);
        let facts = Facts::new()
            .with("cause", &news.cause)
            .with_some("peer", news.peer)
            .with("attempts", attempts)
            .with_some("first_error", first_error)
            .with("first_at", old.value::<u64>("first_at").unwrap_or(waiting.since_wall))
            .with_some("last_error", news.error)
            .with("last_at", news.last_at)
            .with("next_at", news.next_at);
        match facts.hint(fs, &path) {
            Ok(()) => waiting.attempts = 0,
            Err(error) => tracing::debug!("{error}"),
        }
        (waiting.written, waiting.cause) = (Some(now), Some(news.cause));
    }

    /// When something is to be written.
    pub(crate) fn wake(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }
}

/// Removes a `why` that is no longer true.
pub(crate) fn clear(fs: &dyn Fs, place: Place, msgid: MsgId) {
    let path = place.file(msgid, WHY);
    if fs.exists(&path) {
        let _ = fs.remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::atomic::Disk;

    const MSGID: MsgId = MsgId([9; 20]);
    const KEY: Key = (Place::Queue, MSGID);

    struct World {
        _directory: tempfile::TempDir,
        disk: Disk,
        whys: Whys,
    }

    impl World {
        fn new() -> World {
            let directory = tempfile::tempdir().unwrap();
            let disk = Disk::open(directory.path()).unwrap();
            disk.make_dir("queue").unwrap();
            disk.make_dir(&Place::Queue.dir(MSGID)).unwrap();
            World { _directory: directory, disk, whys: Whys::default() }
        }

        fn later(&mut self, cause: &str, error: &str, at: u64) {
            let mut report = Report::new(Place::Queue, MSGID, Turn::Later);
            (report.cause, report.error) = (Some(cause.into()), Some(error.into()));
            let now = Duration::from_millis(at);
            self.whys.note(&report, Duration::from_secs(7), true, now, 1000 + at / 1000);
        }

        /// Writes what is due; says how many files.
        fn write(&mut self, at: u64) -> usize {
            let now = Duration::from_millis(at);
            let due = self.whys.due(now);
            due.iter().for_each(|key| self.whys.write(&self.disk, *key, now));
            due.len()
        }

        fn read(&self) -> Option<Facts> {
            Facts::read(&self.disk, &KEY.0.file(KEY.1, WHY)).unwrap()
        }
    }

    #[test]
    fn what_waits_for_less_than_a_second_writes_nothing() {
        let mut world = World::new();
        world.later("unreachable", "refused", 0);
        assert_eq!(world.write(999), 0);
        let rest = Report::new(Place::Queue, MSGID, Turn::Rest);
        assert!(!world.whys.note(&rest, Duration::ZERO, true, Duration::from_millis(999), 0));
        assert_eq!((world.write(5000), world.read()), (0, None));
    }

    #[test]
    fn it_says_cause_attempts_first_and_last_error_and_next_try() {
        let mut world = World::new();
        world.later("unreachable", "no route", 0);
        world.later("unreachable", "refused", 500);
        assert_eq!(world.write(1000), 1);
        let facts = world.read().unwrap();
        assert_eq!((facts.text("cause"), facts.value("attempts")), (Some("unreachable"), Some(2)));
        assert_eq!((facts.text("first_error"), facts.text("last_error")), (Some("no route"), Some("refused")));
        world.later("unreachable", "timed out", 3000);
        assert_eq!(world.write(3000), 1);
        let facts = world.read().unwrap();
        assert_eq!((facts.text("first_error"), facts.text("last_error")), (Some("no route"), Some("timed out")));
        let times = (facts.value("attempts"), facts.value("first_at"), facts.value("last_at"), facts.value("next_at"));
        assert_eq!(times, (Some(3), Some(1000), Some(1003), Some(1010)));
    }

    #[test]
    fn a_live_job_whose_stream_cannot_go_on_says_so_until_it_goes_on() {
        let mut world = World::new();
        let mut report = Report::new(Place::Queue, MSGID, Turn::Live);
        (report.cause, report.error) = (Some("unreachable".into()), Some("refused".into()));
        report.next_ms = Some(9000);
        let note = |world: &mut World, report: &Report, at: u64| {
            world.whys.note(report, Duration::from_secs(40), true, Duration::from_millis(at), 1000)
        };
        note(&mut world, &report, 0);
        assert_eq!(world.write(1000), 1);
        let facts = world.read().unwrap();
        assert_eq!((facts.text("last_error"), facts.value("next_at")), (Some("refused"), Some(1009)));
        assert!(note(&mut world, &Report::new(Place::Queue, MSGID, Turn::Live), 2000), "it is no longer true");
    }

    #[test]
    fn it_is_rewritten_once_a_second_or_when_the_cause_changes() {
        let mut world = World::new();
        world.later("unreachable", "a", 0);
        world.write(1000);
        world.later("unreachable", "b", 1100);
        assert_eq!(world.write(1999), 0);
        assert_eq!(world.write(2000), 1);
        world.later("disk_full", "c", 2100);
        assert_eq!(world.write(2100), 1);
    }

    #[test]
    fn another_daemon_goes_on_counting_and_clears_what_is_no_longer_true() {
        let mut world = World::new();
        world.later("unreachable", "a", 0);
        world.write(1000);
        world.whys = Whys::default();
        world.later("unreachable", "b", 0);
        world.write(1000);
        let facts = world.read().unwrap();
        assert_eq!((facts.value("attempts"), facts.text("first_error")), (Some(2), Some("a")));
        world.whys = Whys::default();
        let rest = Report::new(Place::Queue, MSGID, Turn::Rest);
        assert!(world.whys.note(&rest, Duration::ZERO, false, Duration::ZERO, 0));
        clear(&world.disk, Place::Queue, MSGID);
        assert_eq!(world.read(), None);
    }
}
