//! A disk that remembers what was done to it, and fails where a test wants it to.

use spool::atomic::Disk;
use spool::fs::{Entry, Error, Free, Fs, Lock, LogFile, Result, Stat};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A real disk below, with a list of its changes.
pub struct Recording {
    disk: Disk,
    done: Mutex<Vec<String>>,
    fails: Mutex<Option<&'static str>>,
    ends: Mutex<Option<Ends>>,
}

/// Says of each sync that is under way that it ends, and whether well.
pub type Ends = Arc<Mutex<Receiver<bool>>>;

impl Recording {
    /// A disk in this directory, with the parents that a claim needs.
    pub fn new(root: &Path) -> Recording {
        let disk = Disk::open(root).unwrap();
        for parent in ["onetime", "rqueue", "jobs", "queue"] {
            disk.make_dir(parent).unwrap();
        }
        Recording { disk, done: Mutex::new(Vec::new()), fails: Mutex::new(None), ends: Mutex::new(None) }
    }

    /// From now on, the first change whose line begins so fails.
    pub fn fail(&self, line: &'static str) {
        *self.fails.lock().unwrap() = Some(line);
    }

    /// From now on, a sync of several paths ends when it is told to.
    pub fn hold_syncs(&self, ends: Ends) {
        *self.ends.lock().unwrap() = Some(ends);
    }

    /// What was done since the last time, hidden names without their random part.
    pub fn done(&self) -> Vec<String> {
        std::mem::take(&mut self.done.lock().unwrap())
    }

    fn note(&self, line: String) -> Result<()> {
        let hidden = |part: &str| match part.split_once('.') {
            Some(("", rest)) => format!(".{}", rest.rsplit_once('.').map_or(rest, |(name, _)| name)),
            _ => part.to_string(),
        };
        let words = line.split(' ').map(|word| word.split('/').map(hidden).collect::<Vec<_>>().join("/"));
        let line = words.collect::<Vec<_>>().join(" ");
        let failing = self.fails.lock().unwrap().take_if(|start| line.starts_with(*start)).is_some();
        self.done.lock().unwrap().push(line.clone());
        if failing { Err(Error::io("test", &line, std::io::ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

impl Fs for Recording {
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.note(format!("commit {path}"))?;
        self.disk.commit(path, bytes)
    }
    fn hint(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.note(format!("hint {path}"))?;
        self.disk.hint(path, bytes)
    }
    fn make_dir(&self, path: &str) -> Result<()> {
        self.note(format!("make {path}"))?;
        self.disk.make_dir(path)
    }
    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Result<()> {
        self.note(format!("commit_dir {from} {to} {}", files.join(",")))?;
        self.disk.commit_dir(from, to, files)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.note(format!("rename {from} {to}"))?;
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.note(format!("remove {path}"))?;
        self.disk.remove(path)
    }
    fn sync_dir(&self, path: &str) -> Result<()> {
        self.note(format!("sync {path}"))?;
        self.disk.sync_dir(path)
    }
    fn sync_all(&self, paths: &[&str]) -> Result<()> {
        paths.iter().try_for_each(|path| self.note(format!("sync {path}")))?;
        let ends = self.ends.lock().unwrap().clone();
        if ends.is_some_and(|ends| !ends.lock().unwrap().recv().unwrap()) {
            return Err(Error::unsynced(paths[0], std::io::ErrorKind::Other));
        }
        self.disk.sync_all(paths)
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
        self.disk.create_log(path)
    }
    fn open_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        self.disk.open_log(path)
    }
    fn lock_dir(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        self.note(format!("lock {path}"))?;
        self.disk.lock_dir(path, wait)
    }
    fn lock_file(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        self.note(format!("lock {path}"))?;
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
