//! One inotify for all logs that somebody waits for.
//!
//! An event says "look", nothing more. Events are read only while somebody
//! waits: until then equal ones are one in the kernel, and a busy writer costs
//! nothing. Without inotify the waiting is a short sleep.

// Tokio has no safe way of waiting for a descriptor that is not a socket.
#![allow(unsafe_code)]

use crate::lock;
use spool::wait::Watch;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How often to look without inotify.
const POLL: Duration = Duration::from_millis(20);
/// How often to look although nothing was heard: an event may be lost.
const RECHECK: Duration = Duration::from_secs(1);

struct Inotify(Watch);

impl AsRawFd for Inotify {
    fn as_raw_fd(&self) -> RawFd {
        // Made only of a watch that has a descriptor.
        self.0.fd().map_or(-1, |fd| fd.as_fd().as_raw_fd())
    }
}

fn readable(inotify: Inotify) -> Option<AsyncFd<Inotify>> {
    // SAFETY: the descriptor is owned by the watch inside, which never replaces
    // or closes it before it is dropped, and it is dropped with the `AsyncFd`.
    unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }.ok()
}

/// Watches logs.
pub(crate) struct Watcher {
    root: PathBuf,
    inotify: Option<AsyncFd<Inotify>>,
    changed: Mutex<HashMap<i32, Arc<Notify>>>,
    waiting: AtomicUsize,
    somebody: Notify,
}

impl Watcher {
    /// Watches nothing yet; within a runtime. Paths will be below `root`.
    pub fn new(root: &Path) -> Watcher {
        let watch = Watch::new();
        let works = watch.fd().is_some();
        let inotify = works.then(|| readable(Inotify(watch))).flatten();
        Watcher {
            root: root.to_path_buf(),
            inotify,
            changed: Mutex::new(HashMap::new()),
            waiting: AtomicUsize::new(0),
            somebody: Notify::new(),
        }
    }

    /// Reads events for as long as the service runs.
    pub async fn run(&self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        loop {
            while self.waiting.load(Ordering::Relaxed) == 0 {
                self.somebody.notified().await;
            }
            let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
            let numbers = inotify.get_ref().0.changed();
            ready.clear_ready();
            let changed = lock(&self.changed);
            for number in numbers {
                match number {
                    Some(number) => drop(changed.get(&number).map(|changed| changed.notify_waiters())),
                    // Events were lost.
                    None => changed.values().for_each(|changed| changed.notify_waiters()),
                }
            }
        }
    }

    /// Watches a directory for `changed`; asked again, it finds out whether it
    /// is still the same one. `None`: it is not there, or cannot be watched.
    pub fn add(&self, directory: &str, changed: &Arc<Notify>) -> Option<i32> {
        let number = self.inotify.as_ref()?.get_ref().0.add(&self.root.join(directory))?;
        lock(&self.changed).insert(number, changed.clone());
        Some(number)
    }

    /// Watches it no more.
    pub fn remove(&self, number: i32) {
        lock(&self.changed).remove(&number);
        if let Some(inotify) = &self.inotify {
            inotify.get_ref().0.remove(number);
        }
    }

    /// Counts somebody who waits, until it is dropped.
    pub fn waiting(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.somebody.notify_one();
        Waiting(self)
    }

    /// How long to wait for an event of a directory that is watched, or not.
    pub fn patience(watched: bool) -> Duration {
        if watched { RECHECK } else { POLL }
    }
}

/// Somebody waits for events.
pub(crate) struct Waiting<'a>(&'a Watcher);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
