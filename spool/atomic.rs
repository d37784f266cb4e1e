//! The real disk: the only code that changes the file system.
//!
//! Every path is resolved beneath the spool's own directory without following
//! links (`openat2`), every file is made exclusively with mode 0600, and every
//! order of writes, syncs and renames that a promise rests on stands here
//! (doc/SPOOL.md#verbs). A sync that fails is never repeated: the file goes,
//! the spool is marked `sick`, and new work is refused until the next start.

use crate::fs::{Entry, Error, Free, Fs, Lock, LogFile, Result, is_hidden};
use crate::lock;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
        absent_is_fine(rustix::fs::unlinkat(&self.root, path, AtFlags::empty()), path)?;
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
        open_beneath(&self.root, path, flags).map_err(|errno| Error::io(verb, path, errno))
    }

    /// Opens for reading, and only what can be ours: a regular file with one
    /// link and our own uid. Never blocks on a FIFO that somebody planted. What
    /// is refused is not lost: it may be ours again when a second link is gone.
    /// Gives the file and its size.
    fn regular(&self, verb: &'static str, path: &str, flags: OFlags) -> Result<(File, u64)> {
        let fd = self.fd(verb, path, flags | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::io(verb, path, errno))?;
        let regular = FileType::from_raw_mode(stat.st_mode).is_file();
        if !regular || stat.st_nlink > 1 || stat.st_uid != rustix::process::geteuid().as_raw() {
            let why = format!("refused: not a regular file of ours with one link ({} links)", stat.st_nlink);
            return Err(Error::io(verb, path, std::io::Error::other(why)));
        }
        Ok((File::from(fd), stat.st_size as u64))
    }

    /// Writes a new file under a temporary name beside `path`; says the name.
    fn write_beside(&self, verb: &'static str, path: &str, bytes: &[u8], sync: bool) -> Result<String> {
        let temporary = temporary(path);
        let fd = self.fd(verb, &temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        let file = File::from(fd);
        let written = file.write_all_at(bytes, 0).map_err(|source| Error::io(verb, path, source));
        let synced = written.and_then(|()| if sync { self.synced(path, file.sync_all()) } else { Ok(()) });
        if synced.is_err() {
            let _ = rustix::fs::unlinkat(&self.root, &temporary, AtFlags::empty());
        }
        synced.map(|()| temporary)
    }

    /// Writes a new file beside `path` and gives it that name; without success nothing stays.
    fn place(&self, verb: &'static str, path: &str, bytes: &[u8], sync: bool, flags: RenameFlags) -> Result<()> {
        let temporary = self.write_beside(verb, path, bytes, sync)?;
        let renamed = self.renamed(verb, &temporary, path, flags);
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&self.root, &temporary, AtFlags::empty());
        }
        renamed
    }

    fn renamed(&self, verb: &'static str, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
        rustix::fs::renameat_with(&self.root, from, &self.root, to, flags).map_err(|errno| Error::io(verb, to, errno))
    }

    /// Syncs a file or a directory, whichever it is.
    fn sync_one(&self, path: &str) -> Result<()> {
        let fd = self.fd("sync", path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let is_file = rustix::fs::fstat(&fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        let synced = if is_file { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) };
        self.synced(path, synced.map_err(Into::into))
    }

    /// Passes a sync's result on; a failure makes the spool sick.
    fn synced(&self, path: &str, result: std::io::Result<()>) -> Result<()> {
        result.map_err(|source| sick(&self.root, path, source))
    }

    /// Opens a file that is to be locked. An absent one is made, and has the lock
    /// when it gets its name, so nobody ever finds it free. A thing that has the
    /// name and can be no lock of ours gets a hidden name.
    fn lockable(&self, path: &str) -> Result<OwnedFd> {
        loop {
            match lock::stat(&self.root, path).map_err(|errno| Error::io("lock", path, errno))? {
                Some(stat) if lock::can_be_our_file(&stat) => {
                    match self.fd("lock", path, OFlags::RDWR | OFlags::NONBLOCK) {
                        Err(error) if error.is_absent() => {}
                        other => return other,
                    }
                }
                Some(_) => match self.renamed("lock", path, &temporary(path), RenameFlags::NOREPLACE) {
                    Err(error) if !error.is_absent() => return Err(error),
                    Ok(()) | Err(_) => {}
                },
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

    fn remove_tree(&self, path: &str) -> Result<()> {
        for entry in self.list(path)? {
            let inner = format!("{path}/{}", entry.name);
            if entry.is_dir {
                self.remove_tree(&inner)?;
            } else {
                absent_is_fine(rustix::fs::unlinkat(&self.root, &inner, AtFlags::empty()), &inner)?;
            }
        }
        absent_is_fine(rustix::fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR), path)
    }
}

impl Fs for Disk {
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.place("commit", path, bytes, true, RenameFlags::NOREPLACE)?;
        self.sync_dir(parent(path))
    }

    fn hint(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.place("hint", path, bytes, false, RenameFlags::empty())
    }

    fn make_dir(&self, path: &str) -> Result<()> {
        rustix::fs::mkdirat(&self.root, path, DIR).map_err(|errno| Error::io("make", path, errno))
    }

    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Result<()> {
        let files: Vec<String> = files.iter().map(|name| format!("{from}/{name}")).collect();
        self.sync_all(&files.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.sync_dir(from)?;
        self.renamed("commit", from, to, RenameFlags::NOREPLACE)?;
        let parents = [parent(to), parent(from)];
        self.sync_all(if parents[0] == parents[1] { &parents[..1] } else { &parents })
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.renamed("rename", from, to, RenameFlags::NOREPLACE)
    }

    fn remove(&self, path: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.root, path, AtFlags::empty()) {
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
        let fd = self.fd("sync", path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.synced(path, rustix::fs::fsync(fd).map_err(Into::into))
    }

    fn sync_all(&self, paths: &[&str]) -> Result<()> {
        // Syncs that are under way together share one commit of the journal.
        match paths {
            [] => Ok(()),
            [path] => self.sync_one(path),
            _ if paths.len() > SYNCS_MAX => paths.chunks(SYNCS_MAX).try_for_each(|some| self.sync_all(some)),
            [path, others @ ..] => std::thread::scope(|scope| {
                let start = |&other| spawn(scope, move || self.sync_one(other)).map_err(|_| other);
                let others: Vec<_> = others.iter().map(start).collect();
                let lost = |_| Error::io("sync", path, std::io::Error::other("the thread is gone"));
                let results = others.into_iter().map(|other| match other {
                    Ok(thread) => thread.join().map_err(lost).and_then(|synced| synced),
                    // The system has no thread for it.
                    Err(other) => self.sync_one(other),
                });
                let synced = self.sync_one(path);
                results.fold(synced, |synced, result| synced.and(result))
            }),
        }
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

    fn size(&self, path: &str) -> Result<Option<u64>> {
        match rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_size as u64)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Error::io("look at", path, errno)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        let fd = match self.fd("list", path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.is_absent() => return Ok(Vec::new()),
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
        absent_is_fine(rustix::fs::utimensat(&self.root, path, &times, AtFlags::SYMLINK_NOFOLLOW), path)
    }

    fn free(&self) -> Result<Free> {
        let stat = rustix::fs::fstatvfs(&self.root).map_err(|errno| Error::io("look at", "", errno))?;
        // btrfs and others count no inodes: then there is no floor to keep.
        let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
        Ok(Free { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes })
    }
}

struct DiskLog {
    root: Arc<OwnedFd>,
    file: File,
    path: String,
    end: u64,
}

impl LogFile for DiskLog {
    fn append(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut count = 0;
        while count < bytes.len() {
            match self.file.write_at(&bytes[count..], self.end) {
                Ok(written) => {
                    count += written;
                    self.end += written as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) if count > 0 => break,
                Err(source) => return Err(Error::io("append to", &self.path, source)),
            }
        }
        Ok(count)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::io("read", &self.path, source)),
            }
        }
        Ok(filled)
    }

    fn size(&self) -> Result<u64> {
        let metadata = self.file.metadata().map_err(|source| Error::io("look at", &self.path, source))?;
        Ok(metadata.len())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|source| sick(&self.root, &self.path, source))
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.file.set_len(size).map_err(|source| Error::io("truncate", &self.path, source))?;
        self.end = size;
        Ok(())
    }
}

fn open_beneath(root: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mode = if flags.contains(OFlags::CREATE) { FILE } else { Mode::empty() };
    let path_or_dot = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(root, path_or_dot, flags | OFlags::CLOEXEC, mode, RESOLVE)
}

/// Leaves a word about a failed sync for every process to see, and makes the error.
/// A file system that finds only at a sync that it is full (one on a network, or on
/// thin storage) may have lost what the sync was about; the disk is sound all the same.
fn sick(root: &OwnedFd, path: &str, source: std::io::Error) -> Error {
    if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        return Error::io("sync", path, source);
    }
    let text = format!("sync of {path} failed: {source}\n");
    if let Ok(fd) = open_beneath(root, SICK, OFlags::WRONLY | OFlags::CREATE) {
        let _ = File::from(fd).write_all_at(text.as_bytes(), 0);
    }
    Error::io("sync", path, source)
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
