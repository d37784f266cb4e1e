//! A real directory in the place of a simulated disk: the product's own verbs,
//! seen by processes that the simulation can end.

use super::disk::{Process, SimDisk, Tree};
use spool::atomic::Disk;
use spool::fs::{Held, Lock, LogFile, Result};
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// A lock that is gone with the process that took it.
type Taken = Arc<Mutex<Option<Lock>>>;

/// The directory, and the locks in it.
pub struct Real {
    pub disk: Disk,
    directory: TempDir,
    locks: Mutex<Vec<(Process, Taken)>>,
}

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Real {
    /// An empty spool in memory, where there is a file system for that.
    pub fn new() -> Real {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let disk = Disk::open(directory.path()).expect("it is there");
        let real = Real { disk, directory, locks: Mutex::default() };
        spool::layout::DIRECTORIES.iter().for_each(|name| real.plant_dir(name));
        real
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Writes a file, with the directories above it.
    pub fn plant(&self, path: &str, bytes: &[u8]) {
        self.plant_dir(path.rsplit_once('/').map_or("", |(dir, _)| dir));
        fs::write(self.path(path), bytes).expect("it is ours");
    }

    /// Removes a file, or a directory with all that is in it.
    pub fn unplant(&self, path: &str) {
        let path = self.path(path);
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }

    /// Makes a directory with its parents.
    pub fn plant_dir(&self, path: &str) {
        fs::create_dir_all(self.path(path)).expect("it is ours");
    }

    /// Every file with its content, every directory with none.
    pub fn tree(&self) -> Tree {
        let root = self.directory.path();
        let entries = walkdir::WalkDir::new(root).into_iter().flatten();
        let named = entries.filter_map(|entry| {
            let path = entry.path().strip_prefix(root).ok()?.to_str()?.to_string();
            match entry.file_type().is_dir() {
                true => Some((path + "/", Vec::new())),
                false => Some((path, fs::read(entry.path()).ok()?)),
            }
        });
        named.collect()
    }

    /// A lock that a process has taken.
    pub fn lock(&self, process: Process, lock: Option<Lock>) -> Option<Lock> {
        let taken = Arc::new(Mutex::new(Some(lock?)));
        open(&self.locks).push((process, taken.clone()));
        Some(Box::new(RealLock(taken)))
    }

    /// The process has ended.
    pub fn unlock(&self, process: Process) {
        open(&self.locks).retain(|(holder, taken)| {
            if *holder == process {
                *open(taken) = None;
            }
            *holder != process
        });
    }

    /// An open log of a process.
    pub fn log(&self, disk: &SimDisk, log: Box<dyn LogFile>) -> Box<dyn LogFile> {
        Box::new(RealLog { disk: disk.clone(), log })
    }
}

struct RealLock(Taken);

impl Held for RealLock {
    fn is_at(&self, path: &str) -> Result<bool> {
        open(&self.0).as_ref().map_or(Ok(false), |lock| lock.is_at(path))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for RealLock {
    fn drop(&mut self) {
        *open(&self.0) = None;
    }
}

struct RealLog {
    disk: SimDisk,
    log: Box<dyn LogFile>,
}

impl LogFile for RealLog {
    fn append(&mut self, bytes: &[u8]) -> Result<usize> {
        self.disk.counted()?;
        self.log.append(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.log.read_at(buffer, offset)
    }

    fn size(&self) -> Result<u64> {
        self.log.size()
    }

    fn is_at(&self, path: &str) -> Result<bool> {
        self.log.is_at(path)
    }

    fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.disk.counted()?;
        self.log.truncate(size)
    }
}
