//! Modes that shut ourselves out: none of them was made here, so each is mended where it is met.

use super::look::{is_ours, kind};
use super::{DIR, FILE};
use crate::fs::Kind;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Does something with these paths. Where a mode forbids it, the modes are mended, and it is done again.
pub(super) fn mending<T>(
    root: &OwnedFd,
    paths: &[&str],
    act: impl Fn() -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    match act() {
        Err(Errno::ACCESS) if paths.iter().fold(false, |mended, path| open_up(root, path) || mended) => act(),
        other => other,
    }
}

/// Gives our own directories on the way to `path`, and what lies there, the modes back that
/// they were made with; says whether one of them had another.
fn open_up(root: &OwnedFd, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.fold(false, |mended, end| open_up_one(root, &path[..end]) || mended)
}

fn open_up_one(root: &OwnedFd, path: &str) -> bool {
    let Ok(stat) = rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let mode = match kind(stat.st_mode) {
        Kind::File => FILE,
        Kind::Dir => DIR,
        Kind::Odd => return false,
    };
    let shut = !Mode::from_raw_mode(stat.st_mode).contains(mode);
    shut && is_ours(&stat) && rustix::fs::chmodat(root, path, mode, AtFlags::empty()).is_ok()
}
