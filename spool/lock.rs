//! Locks on the real disk: `flock` of a file or a directory, by which others see that its holder lives.
//!
//! A lock belongs to the file that was opened, and others find it by its name. A
//! name that is removed, renamed or replaced hides a lock that is still held:
//! [`Held::is_at`] tells its holder, who takes it anew. A
//! name of a lock whose thing can be no file of ours counts as no lock (doc/SPOOL.md#locks).

use crate::fs::{Error, Held, Lock, Result};
use rustix::fs::{AtFlags, FileType, FlockOperation, Stat};
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
        let trouble = |errno| Error::io("lock", path, errno);
        let Some(named) = stat(&self.root, path).map_err(trouble)? else { return Ok(false) };
        let held = rustix::fs::fstat(&self.fd).map_err(trouble)?;
        Ok(named.st_ino == held.st_ino && named.st_dev == held.st_dev && can_be_ours(&held))
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
    let trouble = |errno| Error::io("lock", path, errno);
    match stat(root, path).map_err(trouble)? {
        Some(stat) if can_be_ours(&stat) => {}
        Some(_) | None => return Ok(false),
    }
    let fd = match open() {
        Err(error) if error.is_absent() => return Ok(false),
        other => other?,
    };
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(trouble(errno)),
    }
}

/// Looks at the thing that has this name, without opening it; `None` if there is none.
pub(crate) fn stat(root: &OwnedFd, path: &str) -> rustix::io::Result<Option<Stat>> {
    let name = if path.is_empty() { "." } else { path };
    match rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => other.map(Some),
    }
}

/// Can this be locked by one of ours, for its name alone? A directory, or a
/// file that has no second name and that we may open.
fn can_be_ours(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        _ => can_be_our_file(stat),
    }
}

/// The same, where it is to be a file.
pub(crate) fn can_be_our_file(stat: &Stat) -> bool {
    let regular = FileType::from_raw_mode(stat.st_mode).is_file();
    regular && stat.st_nlink <= 1 && stat.st_mode & 0o600 == 0o600
}
