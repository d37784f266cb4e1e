//! Notices that something happened in the spool's fixed parents.
//!
//! inotify (by `notify`) where there is an instance left, otherwise polling of
//! names and times; both only ever say "look". Access events are dropped: our
//! own scans and steps open directories and would wake us for ever. After a
//! watch is established, after an overflow and after any error everything is
//! scanned, so nothing is missed for longer than that. Leaves it to the
//! schedule what a look is.

use crate::scan::{Change, Scan};
use notify::event::{EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use spool::layout::{PARENTS, Place};
use spool::name::MsgId;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How soon and how late a poll follows the one before.
const POLL_MIN: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_millis(200);
/// Of all time, at most this part goes into scanning.
const SCAN_SHARE: u32 = 4;
/// How often to try to get inotify back.
const INOTIFY_AGAIN: Duration = Duration::from_secs(2);

/// What was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Something happened in this directory, or it came or went.
    Look(Place, MsgId),
    /// A first scan found these, the latest touched first.
    Found(Vec<Change>),
    /// A later scan found these changed, new or gone.
    Changed(Vec<Change>),
    /// A person should know this about the watch itself.
    Say(String),
}

/// Watches until it is dropped.
pub struct Watch {
    shared: Arc<Shared>,
    wake: Sender<Notice>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    spool: PathBuf,
    scan: Mutex<Scan>,
    polling: AtomicBool,
}

/// What the watching thread is told.
enum Notice {
    /// Events were lost: scan.
    Rescan,
    /// The watch is no longer whole: establish it anew.
    Lost,
    Stop,
}

impl Watch {
    /// Starts to watch the spool at this path and tells `seen` of everything,
    /// from other threads. The first thing it tells is a scan.
    pub fn start(spool: &Path, inotify: bool, seen: impl Fn(Seen) + Send + Clone + 'static) -> Watch {
        let scan = Mutex::new(Scan::new(spool));
        let shared = Arc::new(Shared { spool: spool.to_path_buf(), scan, polling: AtomicBool::new(false) });
        let (wake, woken) = channel();
        let (watched, notices) = (shared.clone(), wake.clone());
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || watch(&watched, inotify, &notices, &woken, &seen))
            .ok();
        Watch { shared, wake, thread }
    }

    /// Does something that changes a directory's time without meaning "look".
    pub fn unseen<T>(&self, place: Place, msgid: MsgId, change: impl FnOnce() -> T) -> T {
        if !self.shared.polling.load(Ordering::Relaxed) {
            return change();
        }
        self.shared.scan().unseen(place, msgid, change)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.wake.send(Notice::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn scan(&self) -> std::sync::MutexGuard<'_, Scan> {
        self.scan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scans once; says whether anything had changed, and how long it took.
    fn look(&self, first: &mut bool, seen: &impl Fn(Seen)) -> (bool, Duration) {
        let began = Instant::now();
        let changes = self.scan().changes();
        let any = !changes.is_empty();
        match std::mem::replace(first, false) {
            true => seen(Seen::Found(changes)),
            false if any => seen(Seen::Changed(changes)),
            false => {}
        }
        (any, began.elapsed())
    }
}

fn watch(
    shared: &Arc<Shared>,
    inotify: bool,
    notices: &Sender<Notice>,
    woken: &Receiver<Notice>,
    seen: &(impl Fn(Seen) + Send + Clone + 'static),
) {
    let (mut first, mut said) = (true, false);
    loop {
        let established = if inotify { establish(&shared.spool, notices, seen).map_err(Some) } else { Err(None) };
        shared.polling.store(established.is_err(), Ordering::Relaxed);
        let go_on = match established {
            Ok(_watcher) => {
                if std::mem::replace(&mut said, false) {
                    seen(Seen::Say("watching with inotify again".into()));
                }
                watch_events(shared, woken, &mut first, seen)
            }
            Err(error) => {
                if let Some(error) = error.filter(|_| !std::mem::replace(&mut said, true)) {
                    seen(Seen::Say(format!("no inotify ({error}): polling every {POLL_MIN:?} to {POLL_MAX:?}")));
                }
                poll(shared, woken, inotify, &mut first, seen)
            }
        };
        if !go_on {
            return;
        }
    }
}

/// Scans as often as the events demand; false means stop.
fn watch_events(shared: &Shared, woken: &Receiver<Notice>, first: &mut bool, seen: &impl Fn(Seen)) -> bool {
    loop {
        let (_, took) = shared.look(first, seen);
        match woken.recv() {
            Ok(Notice::Rescan) => {}
            Ok(Notice::Lost) => return true,
            Ok(Notice::Stop) | Err(_) => return false,
        }
        // An overflow that our own steps cause must not become a loop of scans.
        match pause(woken, POLL_MIN.max(took * SCAN_SHARE)) {
            Pause::Over => {}
            Pause::Lost => return true,
            Pause::Stop => return false,
        }
    }
}

/// How a pause ended.
enum Pause {
    Over,
    Lost,
    Stop,
}

/// Waits; what is to be scanned in it is scanned after it.
fn pause(woken: &Receiver<Notice>, length: Duration) -> Pause {
    let (until, mut lost) = (Instant::now() + length, false);
    loop {
        match woken.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Notice::Rescan) => {}
            Ok(Notice::Lost) => lost = true,
            Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => return Pause::Stop,
            Err(RecvTimeoutError::Timeout) => return if lost { Pause::Lost } else { Pause::Over },
        }
    }
}

/// Scans again and again, for a while if inotify may come back; false means stop.
fn poll(shared: &Shared, woken: &Receiver<Notice>, inotify: bool, first: &mut bool, seen: &impl Fn(Seen)) -> bool {
    let (began, mut apart) = (Instant::now(), POLL_MIN);
    while !inotify || began.elapsed() < INOTIFY_AGAIN {
        let (any, took) = shared.look(first, seen);
        apart = if any { POLL_MIN } else { (apart * 3 / 2).min(POLL_MAX) };
        if let Pause::Stop = pause(woken, apart.max(took * SCAN_SHARE)) {
            return false;
        }
    }
    true
}

fn establish(
    spool: &Path,
    notices: &Sender<Notice>,
    seen: &(impl Fn(Seen) + Send + Clone + 'static),
) -> notify::Result<RecommendedWatcher> {
    let (notices, seen) = (notices.clone(), seen.clone());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) if event.need_rescan() => drop(notices.send(Notice::Rescan)),
        Ok(event) if event.kind.is_access() => {}
        // Both names of a rename have been told one by one before.
        Ok(event) if event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {}
        Ok(event) => {
            for path in &event.paths {
                match subject(path) {
                    Subject::Directory(place, msgid) => seen(Seen::Look(place, msgid)),
                    Subject::Parent if is_leaving(event.kind) => drop(notices.send(Notice::Lost)),
                    Subject::Parent | Subject::Nothing => {}
                }
            }
        }
        Err(_) => drop(notices.send(Notice::Lost)),
    })?;
    for parent in PARENTS {
        watcher.watch(&spool.join(parent), RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

fn is_leaving(kind: EventKind) -> bool {
    matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)))
}

/// What an event's path is about.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Directory(Place, MsgId),
    /// One of the watched parents themselves.
    Parent,
    /// Something hidden, or nothing of ours.
    Nothing,
}

fn subject(path: &Path) -> Subject {
    let word = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_string);
    let Some(name) = word(path) else { return Subject::Nothing };
    if PARENTS.contains(&name.as_str()) {
        return Subject::Parent;
    }
    let place = path.parent().and_then(word).and_then(|parent| place_of(&parent));
    match (place, name.parse()) {
        (Some(place), Ok(msgid)) => Subject::Directory(place, msgid),
        _ => Subject::Nothing,
    }
}

/// What happens to `running/<msgid>` is about the job.
pub(crate) fn place_of(parent: &str) -> Option<Place> {
    if parent == "running" { Some(Place::Jobs) } else { Place::of(parent) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patience::PATIENCE;
    use spool::atomic::Disk;
    use spool::fs::Fs;

    fn spool() -> (tempfile::TempDir, Disk) {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        PARENTS.iter().for_each(|parent| disk.make_dir(parent).unwrap());
        (directory, disk)
    }

    fn started(directory: &Path, inotify: bool) -> (Watch, Receiver<Seen>) {
        let (sender, receiver) = channel();
        let watch = Watch::start(directory, inotify, move |seen| drop(sender.send(seen)));
        (watch, receiver)
    }

    /// The next that is seen.
    fn next(seen: &Receiver<Seen>) -> Seen {
        seen.recv_timeout(PATIENCE).expect("something is seen")
    }

    /// Waits until this is seen to have changed.
    fn look_comes(seen: &Receiver<Seen>, place: Place, msgid: MsgId) {
        while !is_look(&next(seen), place, msgid) {}
    }

    /// Takes all that is seen of what has changed until now. `n` is not used twice.
    fn seen_until_now(seen: &Receiver<Seen>, disk: &Disk, n: u8) -> Vec<Seen> {
        let mut all = Vec::new();
        // What comes last is seen last; but a poll that is under way may see the first mark only.
        for mark in [MsgId([n; 20]), MsgId([n + 1; 20])] {
            disk.make_dir(&Place::Jobs.dir(mark)).unwrap();
            while !all.last().is_some_and(|seen| is_look(seen, Place::Jobs, mark)) {
                all.push(next(seen));
            }
        }
        all
    }

    fn is_look(seen: &Seen, place: Place, msgid: MsgId) -> bool {
        match seen {
            Seen::Look(at, id) => (*at, *id) == (place, msgid),
            Seen::Changed(changes) => changes.contains(&(place, msgid)),
            Seen::Found(_) | Seen::Say(_) => false,
        }
    }

    #[test]
    fn paths_become_places_and_hidden_names_nothing() {
        let msgid = MsgId([7; 20]);
        let at = |parent: &str, name: &str| subject(&Path::new("/spool").join(parent).join(name));
        assert_eq!(at("queue", &msgid.to_string()), Subject::Directory(Place::Queue, msgid));
        assert_eq!(at("running", &msgid.to_string()), Subject::Directory(Place::Jobs, msgid));
        assert_eq!(at("queue", &format!(".{msgid}.01234567")), Subject::Nothing);
        assert_eq!(at("hold", &msgid.to_string()), Subject::Nothing);
        assert_eq!(at("", "jobs"), Subject::Parent);
    }

    #[test]
    fn a_touch_a_coming_and_a_going_are_seen_and_reading_is_not() {
        for inotify in [true, false] {
            let (directory, disk) = spool();
            let (old, new) = (MsgId([1; 20]), MsgId([2; 20]));
            disk.make_dir(&Place::Rqueue.dir(old)).unwrap();
            let (_watch, seen) = started(directory.path(), inotify);
            assert_eq!(next(&seen), Seen::Found(vec![(Place::Rqueue, old)]));
            seen_until_now(&seen, &disk, 10);
            for _ in 0..10 {
                disk.list("rqueue").unwrap();
                disk.list(&Place::Rqueue.dir(old)).unwrap();
                assert!(!disk.is_locked(&Place::Rqueue.dir(old)).unwrap());
            }
            let woken = seen_until_now(&seen, &disk, 20);
            let is_woken = woken.iter().any(|seen| is_look(seen, Place::Rqueue, old));
            assert!(!is_woken, "reading wakes nobody (inotify: {inotify})");
            disk.touch(&Place::Rqueue.dir(old)).unwrap();
            look_comes(&seen, Place::Rqueue, old);
            disk.make_dir("queue/.new").unwrap();
            disk.commit_dir("queue/.new", &Place::Queue.dir(new), &[]).unwrap();
            look_comes(&seen, Place::Queue, new);
            seen_until_now(&seen, &disk, 30);
            disk.remove(&Place::Queue.dir(new)).unwrap();
            look_comes(&seen, Place::Queue, new);
            disk.commit(&spool::layout::running(old), b"").unwrap();
            look_comes(&seen, Place::Jobs, old);
        }
    }

    #[test]
    fn a_parent_that_was_replaced_is_watched_again() {
        let (directory, disk) = spool();
        let (_watch, seen) = started(directory.path(), true);
        assert_eq!(next(&seen), Seen::Found(vec![]));
        disk.remove("queue").unwrap();
        disk.make_dir("queue").unwrap();
        std::thread::sleep(Duration::from_millis(400));
        let msgid = MsgId([3; 20]);
        disk.make_dir(&Place::Queue.dir(msgid)).unwrap();
        look_comes(&seen, Place::Queue, msgid);
    }

    #[test]
    fn what_is_not_to_be_seen_is_not_seen_by_a_poll() {
        let (directory, disk) = spool();
        let msgid = MsgId([4; 20]);
        disk.make_dir(&Place::Queue.dir(msgid)).unwrap();
        let (watch, seen) = started(directory.path(), false);
        seen_until_now(&seen, &disk, 10);
        watch.unseen(Place::Queue, msgid, || disk.hint(&Place::Queue.file(msgid, "why"), b"x").unwrap());
        let woken = seen_until_now(&seen, &disk, 20);
        assert!(!woken.iter().any(|seen| is_look(seen, Place::Queue, msgid)), "{woken:?}");
        disk.hint(&Place::Queue.file(msgid, "other"), b"x").unwrap();
        look_comes(&seen, Place::Queue, msgid);
    }
}
