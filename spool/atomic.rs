//! The real disk: the only code that changes the file system.
//!
//! Every path is resolved beneath the spool's own directory without following
//! links (`openat2`), every file is made exclusively with mode 0600, and every
//! order of writes, syncs and renames that a promise rests on stands here
//! (doc/SPOOL.md#verbs). A sync that fails on an open file is never repeated:
//! the file goes, the spool is marked `sick`, and new work is refused until the
//! next start. A file that cannot be opened for want of a descriptor is sound.

use crate::fs::{Entry, Error, Free, Fs, Kind, Lock, LogFile, Result, Stat, is_hidden};
use crate::lock;
use log::DiskLog;
use look::{find, is_odd, is_our_file, kind, oddness};
use mode::mending;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::fs::{fdatasync, fsync};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[path = "atomic_log.rs"]
mod log;
#[path = "atomic_look.rs"]
pub(crate) mod look;
#[path = "atomic_mode.rs"]
mod mode;
#[path = "atomic_remove.rs"]
mod remove;

/// A directory that is held open; all paths are below it.
pub struct Disk {
    root: Arc<OwnedFd>,
}

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
const FILE: Mode = Mode::from_raw_mode(0o600);
const DIR: Mode = Mode::from_raw_mode(0o700);
/// So many syncs are under way together at most: each is a thread.
const SYNCS_MAX: usize = 32;
/// The name under which a failed sync is remembered; `Disk::heal` removes it.
pub const SICK: &str = "sick";

impl Disk {
    /// Opens a directory that exists.
    pub fn open(root: &Path) -> Result<Disk> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root_fd = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|errno| Error::io("open", &root.to_string_lossy(), errno))?;
        Ok(Disk { root: Arc::new(root_fd) })
    }

    /// Makes a directory with mode 0700, and its parents, unless it is there; then opens it.
    pub fn make(root: &Path) -> Result<Disk> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(|source| Error::io("make", &root.to_string_lossy(), source))?;
        Disk::open(root)
    }

    /// Is this still the directory that `root` names? False after an unmount or a move.
    pub fn is_still(&self, root: &Path) -> bool {
        let (Ok(held), Ok(named)) = (rustix::fs::fstat(&self.root), rustix::fs::stat(root)) else {
            return false;
        };
        held.st_dev == named.st_dev && held.st_ino == named.st_ino
    }

    /// Forgets a failed sync: a starting daemon has looked at everything anew.
    pub fn heal(&self) -> Result<()> {
        self.remove(SICK)
    }

    /// Gives a socket this name, in place of one that a dead process left. A crash may take the name, or leave it.
    pub fn bind_socket(&self, path: &str, socket: &OwnedFd) -> Result<()> {
        match self.unlink(path) {
            Err(Errno::ISDIR) => self.aside(path)?,
            other => absent_is_fine(other, path)?,
        }
        let address = self.socket_address(path)?;
        let bound = rustix::fs::fchmod(socket, FILE).and_then(|()| rustix::net::bind(socket, &address));
        bound.map_err(|errno| Error::io("bind", path, errno))
    }

    /// Where a socket of this name is reached, however deep the spool lies: a socket's path has at most 107 bytes.
    pub fn socket_address(&self, path: &str) -> Result<SocketAddrUnix> {
        let short = format!("/proc/self/fd/{}/{path}", self.root.as_raw_fd());
        SocketAddrUnix::new(short).map_err(|errno| Error::io("reach", path, errno))
    }

    fn fd(&self, verb: &'static str, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let opened = mending(&self.root, &[path], || open_beneath(&self.root, path, flags));
        opened.map_err(|errno| Error::io(verb, path, errno))
    }

    /// Opens what can be ours: a regular file of our own uid. Anything else of
    /// that name is damage, and never blocks. Gives the file and its size.
    fn regular(&self, verb: &'static str, path: &str, flags: OFlags) -> Result<(File, u64)> {
        let odd = || Error::damaged(path, "is no regular file of ours");
        let fd = self.fd(verb, path, flags | OFlags::NONBLOCK).map_err(|error| oddness(error, odd))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::io(verb, path, errno))?;
        if !is_our_file(&stat) {
            return Err(odd());
        }
        Ok((File::from(fd), stat.st_size as u64))
    }

    /// Writes a new file under a temporary name beside `path`; says the name.
    fn write_beside(&self, verb: &'static str, path: &str, bytes: &[u8], sync: bool) -> Result<String> {
        let temporary = temporary(path);
        let fd = self.fd(verb, &temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let file = File::from(fd);
        let written = file.write_all_at(bytes, 0).map_err(|source| Error::io(verb, path, source));
        let synced = written.and_then(|()| if sync { self.synced(path, || fsync(&file)) } else { Ok(()) });
        if synced.is_err() {
            let _ = rustix::fs::unlinkat(&self.root, &temporary, AtFlags::empty());
        }
        synced.map(|()| temporary)
    }

    /// Writes a new file beside `path` and gives it that name; without success
    /// nothing stays. A directory in the place of a file that may be replaced is moved aside.
    fn place(&self, verb: &'static str, path: &str, bytes: &[u8], sync: bool, flags: RenameFlags) -> Result<()> {
        let temporary = self.write_beside(verb, path, bytes, sync)?;
        let mut renamed = self.renamed(verb, &temporary, path, flags);
        if flags.is_empty() && renamed.is_err() && self.is_dir(path)? {
            renamed = self.aside(path).and_then(|()| self.renamed(verb, &temporary, path, flags));
        }
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&self.root, &temporary, AtFlags::empty());
        }
        renamed
    }

    fn renamed(&self, verb: &'static str, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
        let rename = || rustix::fs::renameat_with(&self.root, from, &self.root, to, flags);
        mending(&self.root, &[from, to], rename).map_err(|errno| Error::io(verb, to, errno))
    }

    fn unlink(&self, path: &str) -> rustix::io::Result<()> {
        mending(&self.root, &[path], || rustix::fs::unlinkat(&self.root, path, AtFlags::empty()))
    }

    /// Opens a file or a directory to be synced. A change whose last act is a sync
    /// opens first: short of descriptors, it fails while nothing is changed.
    fn opened<'a>(&self, path: &'a str) -> Result<Opened<'a>> {
        let odd = || Error::damaged(path, "is no file or directory of ours");
        let fd = self.fd("open", path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|error| oddness(error, odd))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::io("look at", path, errno))?;
        // A FIFO or a device refuses every sync, which says nothing of the disk.
        if kind(stat.st_mode) == Kind::Odd {
            return Err(odd());
        }
        Ok(Opened { path, fd, kind: kind(stat.st_mode) })
    }

    fn sync_one(&self, Opened { path, fd, kind }: &Opened) -> Result<()> {
        self.synced(path, || if *kind == Kind::File { fdatasync(fd) } else { fsync(fd) })
    }

    /// Syncs all of these, and says the worst of what happened. Syncs that are
    /// under way together share one commit of the journal.
    fn sync_open(&self, opened: Vec<Opened>) -> Result<()> {
        let Some((first, others)) = opened.split_first() else { return Ok(()) };
        std::thread::scope(|scope| {
            let start = |other| (other, spawn(scope, move || self.sync_one(other)).ok());
            let others: Vec<_> = others.iter().map(start).collect();
            let first = self.sync_one(first);
            let others = others.into_iter().map(|(other, thread)| match thread {
                Some(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // The system has no thread for it.
                None => self.sync_one(other),
            });
            others.fold(first, worse)
        })
    }

    /// Syncs an open file. A failure makes the spool sick.
    fn synced(&self, path: &str, sync: impl FnMut() -> rustix::io::Result<()>) -> Result<()> {
        rustix::io::retry_on_intr(sync).map_err(|errno| unsynced(&self.root, path, errno.into()))
    }

    /// Opens a file that is to be locked. An absent one is made, and has the lock
    /// when it gets its name, so nobody ever finds it free. A thing that has the
    /// name and can be no file of ours is moved aside.
    fn lockable(&self, path: &str) -> Result<OwnedFd> {
        loop {
            match find(&self.root, "lock", path)? {
                Some(stat) if is_our_file(&stat) => match self.fd("lock", path, OFlags::RDWR | OFlags::NONBLOCK) {
                    Err(error) if error.is_absent() => {}
                    other => return other,
                },
                Some(_) => self.aside(path)?,
                None => {}
            }
            let hidden = temporary(path);
            let fd = self.fd("lock", &hidden, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
            let locked = lock::try_now(path, &fd);
            match locked.and_then(|_| self.renamed("lock", &hidden, path, RenameFlags::NOREPLACE)) {
                Ok(()) => return Ok(fd),
                Err(error) => {
                    let _ = rustix::fs::unlinkat(&self.root, &hidden, AtFlags::empty());
                    if !error.is_taken() {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl Fs for Disk {
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let parent = self.opened(parent(path))?;
        self.place("commit", path, bytes, true, RenameFlags::NOREPLACE)?;
        self.sync_open(vec![parent])
    }

    fn hint(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.place("hint", path, bytes, false, RenameFlags::empty())
    }

    fn make_dir(&self, path: &str) -> Result<()> {
        // A link among the parents would lead out of the spool, or to another place in it.
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above = match self.fd("make", above, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Error::Io { source, .. }) if is_odd(&source) => {
                return Err(Error::damaged(above, "is a link, not a directory of ours"));
            }
            other => other?,
        };
        let made = mending(&self.root, &[path], || rustix::fs::mkdirat(&above, name, DIR));
        made.map_err(|errno| Error::io("make", path, errno))
    }

    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Result<()> {
        let files: Vec<String> = files.iter().map(|name| format!("{from}/{name}")).collect();
        self.sync_all(&files.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.sync_dir(from)?;
        let mut parents = vec![self.opened(parent(to))?];
        if parent(to) != parent(from) {
            parents.push(self.opened(parent(from))?);
        }
        self.renamed("commit", from, to, RenameFlags::NOREPLACE)?;
        self.sync_open(parents)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.renamed("rename", from, to, RenameFlags::NOREPLACE)
    }

    fn remove(&self, path: &str) -> Result<()> {
        match self.unlink(path) {
            Err(Errno::ISDIR) => {}
            other => return absent_is_fine(other, path),
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        let leaving = if is_hidden(name) { path.to_string() } else { temporary(&format!("{path}.del")) };
        if leaving != path {
            match self.renamed("remove", path, &leaving, RenameFlags::NOREPLACE) {
                Err(error) if error.is_absent() => return Ok(()),
                other => other?,
            }
        }
        self.remove_tree(&leaving)
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        let fd = self.fd("open", path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.synced(path, || fsync(&fd))
    }

    fn sync_all(&self, paths: &[&str]) -> Result<()> {
        let mut opened = Vec::with_capacity(paths.len().min(SYNCS_MAX));
        for path in paths {
            match self.opened(path) {
                // There is no descriptor for it beside the others.
                Err(error) if error.is_shortage() && !opened.is_empty() => {
                    self.sync_open(std::mem::take(&mut opened))?;
                    opened.push(self.opened(path)?);
                }
                other => opened.push(other?),
            }
            if opened.len() == SYNCS_MAX {
                self.sync_open(std::mem::take(&mut opened))?;
            }
        }
        self.sync_open(opened)
    }

    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>> {
        use std::io::Read;
        let (file, size) = self.regular("read", path, OFlags::RDONLY)?;
        let limit = max as u64 + 1;
        // Room for all of it, and for the look that finds no more.
        let mut bytes = Vec::with_capacity(size.min(max as u64) as usize + 1);
        file.take(limit).read_to_end(&mut bytes).map_err(|source| Error::io("read", path, source))?;
        if bytes.len() > max {
            return Err(Error::damaged(path, format!("longer than {max} bytes")));
        }
        Ok(bytes)
    }

    fn stat(&self, path: &str) -> Result<Option<Stat>> {
        let found = find(&self.root, "look at", path)?;
        Ok(found.map(|stat| Stat { kind: kind(stat.st_mode), size: stat.st_size as u64 }))
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        let fd = match self.fd("list", path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.is_absent() => return Ok(Vec::new()),
            Err(Error::Io { source, .. }) if is_odd(&source) => return Ok(Vec::new()),
            other => other?,
        };
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut raw = RawDir::new(fd, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = entry.map_err(|errno| Error::io("list", path, errno))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            entries.push(Entry { name: name.to_string(), is_dir: entry.file_type().is_dir() });
        }
        Ok(entries)
    }

    fn create_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        let fd = self.fd("make", path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        Ok(Box::new(DiskLog { root: self.root.clone(), file: File::from(fd), path: path.to_string(), end: 0 }))
    }

    fn open_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        let (file, end) = self.regular("open", path, OFlags::RDWR)?;
        Ok(Box::new(DiskLog { root: self.root.clone(), file, path: path.to_string(), end }))
    }

    fn lock_dir(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        lock::take(&self.root, path, wait, || self.fd("lock", path, OFlags::RDONLY | OFlags::DIRECTORY))
    }

    fn lock_file(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        lock::take(&self.root, path, wait, || self.lockable(path))
    }

    fn is_locked(&self, path: &str) -> Result<bool> {
        lock::is_taken(&self.root, path, || self.fd("lock", path, OFlags::RDONLY | OFlags::NONBLOCK))
    }

    fn touch(&self, path: &str) -> Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ };
        let times = Timestamps { last_access: now, last_modification: now };
        let touch = || rustix::fs::utimensat(&self.root, path, &times, AtFlags::SYMLINK_NOFOLLOW);
        absent_is_fine(mending(&self.root, &[path], touch), path)
    }

    fn free(&self) -> Result<Free> {
        let stat = rustix::fs::fstatvfs(&self.root).map_err(|errno| Error::io("look at", "", errno))?;
        // btrfs and others count no inodes: then there is no floor to keep.
        let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
        Ok(Free { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes })
    }
}

/// What is open to be synced.
struct Opened<'a> {
    path: &'a str,
    fd: OwnedFd,
    kind: Kind,
}

fn open_beneath(root: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mode = if flags.contains(OFlags::CREATE) { FILE } else { Mode::empty() };
    let path_or_dot = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(root, path_or_dot, flags | OFlags::CLOEXEC, mode, RESOLVE)
}

/// Leaves a word about a failed sync for every process to see, and makes the error.
/// A file system that finds only at a sync that it is full (one on a network, or on
/// thin storage) may have lost what the sync was about; the disk is sound all the same.
fn unsynced(root: &OwnedFd, path: &str, source: std::io::Error) -> Error {
    if !matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        let text = format!("sync of {path} failed: {source}\n");
        if let Ok(fd) = open_beneath(root, SICK, OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK) {
            let _ = File::from(fd).write_all_at(text.as_bytes(), 0);
        }
    }
    Error::unsynced(path, source)
}

/// A fresh hidden name in the directory of `path`.
pub fn temporary(path: &str) -> String {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let slash = if directory.is_empty() { "" } else { "/" };
    format!("{directory}{slash}.{}.{:08x}", name.trim_start_matches('.'), rand::random::<u32>())
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Of two syncs, the one that lost more.
fn worse(one: Result<()>, other: Result<()>) -> Result<()> {
    if other.as_ref().is_err_and(Error::is_unsynced) { other } else { one.and(other) }
}

/// A thread of its own, if the system has one.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> std::io::Result<std::thread::ScopedJoinHandle<'scope, T>> {
    #[cfg(test)]
    if tests::NO_THREADS.get() {
        return Err(std::io::ErrorKind::WouldBlock.into());
    }
    std::thread::Builder::new().spawn_scoped(scope, work)
}

fn absent_is_fine(result: rustix::io::Result<()>, path: &str) -> Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::io("remove", path, errno)),
    }
}

#[cfg(test)]
#[path = "atomic_test.rs"]
mod tests;
