//! A disk for tests: it fails for good after so many changes, is full while a
//! certain file exists, and with another has run.started taken when it is made.

use spool::atomic::Disk;
use spool::fs::{Entry, Error, Free, Fs, Lock, LogFile, Result, Stat};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

#[derive(Clone)]
struct Limits {
    changes: Arc<AtomicI64>,
    full: PathBuf,
    thief: PathBuf,
}

impl Limits {
    fn change(&self, path: &str) -> Result<()> {
        if self.changes.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(Error::io("change", path, ErrorKind::BrokenPipe));
        }
        if self.full.exists() {
            return Err(Error::io("change", path, ErrorKind::StorageFull));
        }
        Ok(())
    }
}

/// A disk with limits.
pub struct Limp {
    disk: Disk,
    limits: Limits,
}

impl Limp {
    /// Allows so many changes, and none while `full` exists in the directory.
    pub fn open(root: &Path, changes: i64) -> Limp {
        let limits =
            Limits { changes: Arc::new(AtomicI64::new(changes)), full: root.join("full"), thief: root.join("thief") };
        Limp { disk: Disk::open(root).unwrap(), limits }
    }

    fn log(&self, file: Box<dyn LogFile>, path: &str) -> Box<dyn LogFile> {
        Box::new(LimpLog { file, path: path.to_string(), limits: self.limits.clone() })
    }
}

struct LimpLog {
    file: Box<dyn LogFile>,
    path: String,
    limits: Limits,
}

impl LogFile for LimpLog {
    fn append(&mut self, bytes: &[u8]) -> Result<usize> {
        self.limits.change(&self.path)?;
        self.file.append(bytes)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn size(&self) -> Result<u64> {
        self.file.size()
    }
    fn is_at(&self, path: &str) -> Result<bool> {
        self.file.is_at(path)
    }
    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
    fn truncate(&mut self, size: u64) -> Result<()> {
        self.file.truncate(size)
    }
}

impl Fs for Limp {
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.limits.change(path)?;
        if path.ends_with("run.started") && self.limits.thief.exists() {
            self.disk.commit(path, b"")?;
        }
        self.disk.commit(path, bytes)
    }
    fn hint(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.limits.change(path)?;
        self.disk.hint(path, bytes)
    }
    fn make_dir(&self, path: &str) -> Result<()> {
        self.limits.change(path)?;
        self.disk.make_dir(path)
    }
    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Result<()> {
        self.limits.change(to)?;
        self.disk.commit_dir(from, to, files)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.limits.change(to)?;
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.limits.change(path)?;
        self.disk.remove(path)
    }
    fn sync_dir(&self, path: &str) -> Result<()> {
        self.disk.sync_dir(path)
    }
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>> {
        self.disk.read(path, max)
    }
    fn stat(&self, path: &str) -> Result<Option<Stat>> {
        self.disk.stat(path)
    }
    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        self.disk.list(path)
    }
    fn create_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        self.limits.change(path)?;
        Ok(self.log(self.disk.create_log(path)?, path))
    }
    fn open_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        Ok(self.log(self.disk.open_log(path)?, path))
    }
    fn lock_dir(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        self.disk.lock_dir(path, wait)
    }
    fn lock_file(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        self.disk.lock_file(path, wait)
    }
    fn is_locked(&self, path: &str) -> Result<bool> {
        self.disk.is_locked(path)
    }
    fn touch(&self, path: &str) -> Result<()> {
        self.disk.touch(path)
    }
    fn free(&self) -> Result<Free> {
        self.disk.free()
    }
}
