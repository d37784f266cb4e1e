//! A disk that dies after so many operations, for tests: from then on nothing
//! changes any more, as if the process had been killed there.

use spool::atomic::Disk;
use spool::fs::{Entry, Error, Free, Fs, Lock, LogFile, Result, Stat};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub struct Failing {
    disk: Disk,
    left: AtomicUsize,
}

impl Failing {
    /// Lets `steps` changes or syncs pass, and none after them.
    pub fn after(disk: Disk, steps: usize) -> Failing {
        Failing { disk, left: AtomicUsize::new(steps) }
    }

    /// The disk as the crash left it.
    pub fn recover(self) -> Disk {
        self.disk
    }

    fn step(&self, path: &str) -> Result<()> {
        let passed = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        passed.map(drop).map_err(|_| Error::io("reach", path, io::Error::other("killed")))
    }
}

impl Fs for Failing {
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.step(path)?;
        self.disk.commit(path, bytes)
    }
    fn hint(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.step(path)?;
        self.disk.hint(path, bytes)
    }
    fn make_dir(&self, path: &str) -> Result<()> {
        self.step(path)?;
        self.disk.make_dir(path)
    }
    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Result<()> {
        self.step(to)?;
        self.disk.commit_dir(from, to, files)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.step(to)?;
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.step(path)?;
        self.disk.remove(path)
    }
    fn sync_dir(&self, path: &str) -> Result<()> {
        self.step(path)?;
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
        self.step(path)?;
        self.disk.create_log(path)
    }
    fn open_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        self.step(path)?;
        self.disk.open_log(path)
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
