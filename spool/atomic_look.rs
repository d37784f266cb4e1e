//! Looks at names of the spool without opening what they lead to.

use super::mode::mending;
use super::parent;
use crate::fs::{Error, Kind, Result};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

pub(crate) fn kind(mode: u32) -> Kind {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        _ => Kind::Odd,
    }
}

pub(crate) fn is_ours(stat: &rustix::fs::Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
}

/// Can this be a file that one of ours made?
pub(crate) fn is_our_file(stat: &rustix::fs::Stat) -> bool {
    kind(stat.st_mode) == Kind::File && is_ours(stat)
}

/// Can this have a lock of one of ours?
pub(crate) fn is_lockable(stat: &rustix::fs::Stat) -> bool {
    kind(stat.st_mode) == Kind::Dir || is_our_file(stat)
}

/// Did an open fail because the name leads to a link, a directory, a socket, or a device that is not there?
pub(crate) fn is_odd(error: &std::io::Error) -> bool {
    const ODD: [Errno; 4] = [Errno::LOOP, Errno::ISDIR, Errno::NXIO, Errno::NODEV];
    Errno::from_io_error(error).is_some_and(|errno| ODD.contains(&errno))
}

/// Looks at what has this name, without opening it or following a link; `None` if nothing has.
pub(crate) fn find(root: &OwnedFd, verb: &'static str, path: &str) -> Result<Option<rustix::fs::Stat>> {
    let name = if path.is_empty() { "." } else { path };
    match mending(root, &[parent(path)], || rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW)) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => other.map(Some).map_err(|errno| Error::io(verb, path, errno)),
    }
}

/// Does `path` lead to the file that is open as `fd`?
pub(crate) fn is_name_of(root: &OwnedFd, path: &str, fd: impl AsFd) -> Result<bool> {
    let Some(named) = find(root, "look at", path)? else { return Ok(false) };
    let open = rustix::fs::fstat(fd).map_err(|errno| Error::io("look at", path, errno))?;
    Ok(named.st_ino == open.st_ino && named.st_dev == open.st_dev)
}

/// The error of an open that failed, or `odd` if that was because of the kind of the thing.
pub(crate) fn oddness(error: Error, odd: impl Fn() -> Error) -> Error {
    match &error {
        Error::Io { source, .. } if is_odd(source) => odd(),
        Error::Io { .. } | Error::Unsynced { .. } | Error::Damaged { .. } => error,
    }
}
