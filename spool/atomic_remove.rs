//! Removal of a whole directory from the real disk.

use super::mode::mending;
use super::{DIR, Disk, absent_is_fine};
use crate::fs::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

impl Disk {
    /// Removes a directory with all that is in it, whatever its names are made of.
    pub(super) fn remove_tree(&self, path: &str) -> Result<()> {
        let fd = match self.fd("remove", path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.is_absent() => return Ok(()),
            other => other?,
        };
        empty(&fd).map_err(|errno| Error::io("remove", path, errno))?;
        let remove = || rustix::fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR);
        absent_is_fine(mending(&self.root, &[path], remove), path)
    }
}

/// Removes all that is in an open directory; what is not there any more is removed already.
fn empty(directory: &OwnedFd) -> rustix::io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut raw = RawDir::new(directory, &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let removed = match remove_from(directory, name) {
            // Its mode does not let us.
            Err(Errno::ACCESS) => rustix::fs::fchmod(directory, DIR).and_then(|()| remove_from(directory, name)),
            other => other,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn remove_from(directory: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(directory, name, flags, Mode::empty());
    let inner = match open() {
        Err(Errno::ACCESS) => rustix::fs::chmodat(directory, name, DIR, AtFlags::empty()).and_then(|()| open()),
        other => other,
    };
    empty(&inner?)?;
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
}
