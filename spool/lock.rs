//! Locks on the real disk: `flock` of a file or a directory, by which others see that its holder lives.
//!
//! A lock belongs to the file that was opened, and others find it by its name. A
//! name that is removed, renamed or replaced hides a lock that is still held:
//! [`Held::is_at`] tells its holder, who takes it anew. A thing that has the name
//! of a lock and can be no file of ours counts as a free lock (doc/SPOOL.md#locks).

use crate::atomic::look::{find, is_lockable, is_name_of};
use crate::fs::{Error, Held, Lock, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a lock that another has is tried again.
const TRIES_APART: Duration = Duration::from_millis(2);

struct DiskLock {
    root: Arc<OwnedFd>,
    fd: OwnedFd,
}

impl Held for DiskLock {
    fn is_at(&self, path: &str) -> Result<bool> {
        is_name_of(&self.root, path, &self.fd)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}

/// Takes the lock of what `open` gives; `None` if another has it for all of `wait`.
pub(crate) fn take(
    root: &Arc<OwnedFd>,
    path: &str,
    wait: Duration,
    open: impl Fn() -> Result<OwnedFd>,
) -> Result<Option<Lock>> {
    let until = Instant::now() + wait;
    loop {
        let lock = DiskLock { root: root.clone(), fd: open()? };
        // A lock on what has just left its name is nobody's.
        if try_now(path, &lock.fd)? && lock.is_at(path)? {
            return Ok(Some(Box::new(lock)));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(TRIES_APART);
    }
}

/// Takes the lock of what is open, which is to have this name; false if another has it.
pub(crate) fn try_now(path: &str, fd: &OwnedFd) -> Result<bool> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(Error::io("lock", path, errno)),
    }
}

/// Does somebody hold the lock of what `open` gives, which has this name?
pub(crate) fn is_taken(root: &OwnedFd, path: &str, open: impl Fn() -> Result<OwnedFd>) -> Result<bool> {
    if !find(root, "lock", path)?.is_some_and(|stat| is_lockable(&stat)) {
        return Ok(false);
    }
    let fd = match open() {
        Err(error) if error.is_absent() => return Ok(false),
        other => other?,
    };
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(Error::io("lock", path, errno)),
    }
}
