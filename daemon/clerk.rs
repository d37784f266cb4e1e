//! Slow work beside the schedule: notices, and what others left behind.
//!
//! A thread of its own, so that a sync never keeps an event waiting. A notice
//! is durable once for each message, then `on_notice` is run for it, one at a
//! time and not for long. Names that begin with a dot are temporary: those that
//! have lain in a fixed parent for an hour, in our own sight and with nobody's
//! lock on them, are what a crash left, and go.

use spool::facts::Facts;
use spool::fs::{Fs, is_hidden};
use spool::layout::{PARENTS, PLUMB};
use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// What is hidden for this long is nobody's.
const LEFT: Duration = Duration::from_secs(3600);
/// A notice that cannot be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);
/// Notices that wait to be written, and commands that wait to be run.
const WAITING_MAX: usize = 1000;
/// A command for a notice is killed after this.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// Something that a person should know: a loss, an expiry, a refusal.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    /// Its name in `notices/`: the message, or what was moved aside.
    pub(crate) about: String,
    pub(crate) what: String,
    pub(crate) peer: Option<String>,
    /// The wall clock in seconds, for people only.
    pub(crate) at: u64,
}

/// What the clerk is told.
pub(crate) enum Errand {
    Notice(Notice),
    /// The command to run for each notice.
    Command(Option<String>),
}

/// Starts the clerk, who goes when the other end is dropped.
pub(crate) fn start(fs: Arc<dyn Fs>) -> Sender<Errand> {
    let (sender, errands) = channel();
    let spawned = std::thread::Builder::new().name("clerk".into()).spawn(move || work(&*fs, &errands));
    if let Err(error) = spawned {
        tracing::error!("no thread for notices: {error}");
    }
    sender
}

fn work(fs: &dyn Fs, errands: &Receiver<Errand>) {
    let (mut command, mut unwritten) = (None, VecDeque::new());
    let mut leftovers = Leftovers::default();
    leftovers.sweep(fs, Duration::ZERO);
    let (began, mut swept) = (Instant::now(), Instant::now());
    loop {
        let wait = if unwritten.is_empty() { LEFT.saturating_sub(swept.elapsed()) } else { AGAIN };
        let first = match errands.recv_timeout(wait) {
            Ok(errand) => Some(errand),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // All are made durable before a command is run for one.
        for errand in first.into_iter().chain(errands.try_iter()) {
            match errand {
                Errand::Command(other) => command = other,
                Errand::Notice(notice) if unwritten.len() < WAITING_MAX => unwritten.push_back(notice),
                Errand::Notice(notice) => tracing::error!("{}: no room for the notice: {}", notice.about, notice.what),
            }
        }
        let mut written = Vec::new();
        unwritten.retain(|notice| match commit(fs, notice) {
            Some(new) => {
                written.extend(new.then(|| notice.clone()));
                false
            }
            None => true,
        });
        if let Some(command) = &command {
            written.iter().for_each(|notice| run(command, notice));
        }
        if swept.elapsed() >= LEFT {
            swept = Instant::now();
            leftovers.sweep(fs, began.elapsed());
        }
    }
}

fn facts(notice: &Notice) -> Facts {
    Facts::new().with("what", &notice.what).with_some("peer", notice.peer.as_ref()).with("at", notice.at)
}

/// Writes a notice; says whether it is new, `None` if it could not be written.
fn commit(fs: &dyn Fs, notice: &Notice) -> Option<bool> {
    match facts(notice).commit(fs, &format!("notices/{}", notice.about)) {
        Ok(()) => {
            tracing::warn!("{}: {}", notice.about, notice.what.escape_debug());
            Some(true)
        }
        Err(error) if error.is_taken() => Some(false),
        Err(error) => {
            tracing::warn!("notice: {error}");
            None
        }
    }
}

/// Runs the command with the notice's text on its stdin.
fn run(command: &str, notice: &Notice) {
    let spawned = Command::new("sh").arg("-c").arg(command).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return tracing::warn!("on_notice cannot be run: {error}"),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A few hundred bytes fit into any pipe: this does not block.
        let _ = stdin.write_all(format!("id={}\n{}", notice.about, facts(notice)).as_bytes());
    }
    let until = Instant::now() + COMMAND_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return,
            Ok(Some(status)) => return tracing::warn!("on_notice {}", crate::child::how(status)),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return tracing::warn!("on_notice took more than {COMMAND_MAX:?} and was killed");
            }
        }
    }
}

/// Hidden names, and since when they have been seen.
#[derive(Default)]
struct Leftovers(HashMap<String, Duration>);

impl Leftovers {
    /// Notes what is hidden, and removes what has been there for an hour.
    fn sweep(&mut self, fs: &dyn Fs, now: Duration) {
        let mut present = HashMap::new();
        for parent in PARENTS.into_iter().chain(["onetime", "notices"]) {
            let entries = fs.list(parent).unwrap_or_default();
            for name in entries.into_iter().map(|entry| entry.name).filter(|name| is_hidden(name)) {
                let path = format!("{parent}/{name}");
                let since = self.0.get(&path).copied().unwrap_or(now);
                if now < since + LEFT || is_held(fs, &path) {
                    present.insert(path, since);
                } else if let Err(error) = fs.remove(&path) {
                    tracing::warn!("leftover: {error}");
                    present.insert(path, since);
                }
            }
        }
        self.0 = present;
    }
}

/// Does somebody living work on it? If that cannot be said, yes.
fn is_held(fs: &dyn Fs, path: &str) -> bool {
    fs.is_locked(path).unwrap_or(true) || fs.is_locked(&format!("{path}/{PLUMB}")).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::atomic::Disk;
    use spool::name::MsgId;

    fn spool() -> (tempfile::TempDir, Arc<Disk>) {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        for parent in spool::layout::DIRECTORIES {
            disk.make_dir(parent).unwrap();
        }
        (directory, Arc::new(disk))
    }

    #[test]
    fn what_a_crash_left_goes_after_an_hour_and_what_somebody_holds_stays() {
        let (_directory, disk) = spool();
        for path in ["queue/.left", "jobs/.left", "jobs/.held", "jobs/real", "onetime/.left", "hold/.theirs"] {
            disk.make_dir(path).unwrap();
        }
        disk.hint("running/.file", b"").unwrap();
        let lock = disk.lock_file("jobs/.held/plumb", Duration::ZERO).unwrap();
        let mut leftovers = Leftovers::default();
        leftovers.sweep(&*disk, Duration::ZERO);
        leftovers.sweep(&*disk, LEFT - Duration::from_secs(1));
        assert!(disk.exists("queue/.left"), "not before its time");
        disk.make_dir("queue/.young").unwrap();
        leftovers.sweep(&*disk, LEFT);
        let gone = ["queue/.left", "jobs/.left", "onetime/.left", "running/.file"];
        let stay = ["jobs/.held", "jobs/real", "queue/.young", "hold/.theirs"];
        assert!(gone.iter().all(|path| !disk.exists(path)) && stay.iter().all(|path| disk.exists(path)));
        drop(lock);
        // A process that another test is starting may hold a copy of the lock for a moment.
        crate::patience::wait_until("nobody holds it any more", || {
            leftovers.sweep(&*disk, LEFT);
            !disk.exists("jobs/.held")
        });
    }

    #[test]
    fn a_notice_is_written_once_and_the_command_runs_once() {
        let (directory, disk) = spool();
        let heard = directory.path().join("heard");
        let clerk = start(disk.clone());
        clerk.send(Errand::Command(Some(format!("cat >>'{}'", heard.display())))).unwrap();
        let msgid = MsgId([5; 20]);
        for what in ["the output is incomplete", "something later"] {
            let notice = Notice { about: msgid.to_string(), what: what.into(), peer: Some("nas".into()), at: 77 };
            clerk.send(Errand::Notice(notice)).unwrap();
        }
        // A second message's notice is last in line: when it is heard, the others were dealt with.
        let last = Notice { about: MsgId([6; 20]).to_string(), what: "last".into(), peer: None, at: 78 };
        clerk.send(Errand::Notice(last)).unwrap();
        let text = crate::patience::wait_for("the last notice is heard", || {
            std::fs::read_to_string(&heard).ok().filter(|text| text.contains("what=last\n"))
        });
        assert_eq!(text.matches("id=").count(), 2);
        let facts = Facts::read(&*disk, &format!("notices/{msgid}")).unwrap().unwrap();
        assert_eq!((facts.text("what"), facts.text("peer")), (Some("the output is incomplete"), Some("nas")));
        assert_eq!(facts.value::<u64>("at"), Some(77));
    }
}
