//! Waiting for a directory to change.
//!
//! Whoever waits for a log watches that log's one directory. An event only
//! says "look": where inotify has no instance left, the wait is a short sleep,
//! and everything still works. Opening and reading make no events, and equal
//! events in a row are one, so a busy writer costs its watcher nothing until
//! it waits.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How often to look without inotify.
const POLL: Duration = Duration::from_millis(20);
/// A watch that may be short-lived looks this often …
const YOUNG_POLL: Duration = Duration::from_millis(1);
/// … and asks for events only when it has lived for so long.
const YOUNG: Duration = Duration::from_millis(100);

/// Directories that are watched together.
pub struct Watch {
    inotify: OnceLock<Option<OwnedFd>>,
    /// Directories that wait for `inotify`.
    directories: Mutex<Vec<PathBuf>>,
    born: Instant,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Watch {
        let watch = Watch::for_a_while();
        watch.establish();
        watch
    }

    /// The same for whoever may have nothing to wait for in a moment: for the
    /// first tenth of a second `wait` looks every millisecond instead. An
    /// inotify descriptor that has watched something takes the kernel some 15 ms
    /// to close, which is more than a small job takes.
    pub fn for_a_while() -> Watch {
        Watch { inotify: OnceLock::new(), directories: Mutex::default(), born: Instant::now() }
    }

    fn establish(&self) {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let _ = self.inotify.set(inotify::init(flags).ok());
        for directory in std::mem::take(&mut *self.waiting()) {
            self.add(&directory);
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<PathBuf>> {
        self.directories.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a directory, or a lone file, which changes when it loses its name;
    /// the number comes back from `changed`. `None` without inotify (yet), or
    /// when it is not there.
    pub fn add(&self, directory: &Path) -> Option<i32> {
        use inotify::WatchFlags as W;
        let Some(inotify) = self.inotify.get() else {
            self.waiting().push(directory.to_path_buf());
            return None;
        };
        let what = W::MODIFY | W::CREATE | W::MOVED_TO | W::ATTRIB | W::DELETE_SELF | W::MOVE_SELF;
        inotify::add_watch(inotify.as_ref()?, directory, what).ok()
    }

    /// Stops watching a directory.
    pub fn remove(&self, number: i32) {
        if let Some(Some(inotify)) = self.inotify.get() {
            let _ = inotify::remove_watch(inotify, number);
        }
    }

    /// The descriptor that becomes readable on a change, if inotify works.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.get()?.as_ref().map(AsFd::as_fd)
    }

    /// Takes the events that are there; says which directories changed, and
    /// `None` among them if that is not known (the queue overflowed).
    pub fn changed(&self) -> Vec<Option<i32>> {
        let Some(Some(inotify)) = self.inotify.get() else { return Vec::new() };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut numbers = Vec::new();
        while let Ok(event) = reader.next() {
            let overflow = event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
            let number = if overflow { None } else { Some(event.wd()) };
            if numbers.last() != Some(&number) {
                numbers.push(number);
            }
        }
        numbers
    }

    /// Waits until something changed, another descriptor became readable, or the
    /// time is up. It may be none of them: look.
    pub fn wait(&self, others: &[BorrowedFd], timeout: Duration) {
        match self.inotify.get() {
            None if self.born.elapsed() < YOUNG => poll_readable(others, timeout.min(YOUNG_POLL)),
            // What changed before this is seen by looking, and by nobody else.
            None => self.establish(),
            Some(None) => poll_readable(others, timeout.min(POLL)),
            Some(Some(inotify)) => {
                let mut all = vec![inotify.as_fd()];
                all.extend_from_slice(others);
                poll_readable(&all, timeout);
                self.changed();
            }
        }
    }
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new()
    }
}

/// Waits until one of these is readable (or hung up), or the time is up.
pub fn poll_readable(fds: &[BorrowedFd], timeout: Duration) {
    let mut fds: Vec<PollFd> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    let _ = poll(&mut fds, Some(&timeout));
}
