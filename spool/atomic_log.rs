//! The file of a log on the real disk: appended to, cut, synced.

use super::look::is_name_of;
use super::unsynced;
use crate::fs::{Error, LogFile, Result};
use rustix::fs::fdatasync;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// One of a log's files, held open.
pub(super) struct DiskLog {
    pub(super) root: Arc<OwnedFd>,
    pub(super) file: File,
    pub(super) path: String,
    pub(super) end: u64,
}

impl DiskLog {
    /// An error if somebody else cut the file, grew it, or took its name away: what
    /// is appended then is lost, or stands behind a hole.
    fn check_as_left(&self) -> Result<()> {
        let stat = rustix::fs::fstat(&self.file).map_err(|errno| Error::io("look at", &self.path, errno))?;
        let what = match (stat.st_nlink, stat.st_size as u64) {
            (0, _) => "was removed while it was written".to_string(),
            (_, size) if size != self.end => format!("has {size} bytes, and {} when it was last written", self.end),
            _ => return Ok(()),
        };
        Err(Error::damaged(&self.path, what))
    }
}

impl LogFile for DiskLog {
    fn append(&mut self, bytes: &[u8]) -> Result<usize> {
        self.check_as_left()?;
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

    fn is_at(&self, path: &str) -> Result<bool> {
        is_name_of(&self.root, path, &self.file)
    }

    fn sync(&self) -> Result<()> {
        let synced = rustix::io::retry_on_intr(|| fdatasync(&self.file));
        synced.map_err(|errno| unsynced(&self.root, &self.path, errno.into()))
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.file.set_len(size).map_err(|source| Error::io("truncate", &self.path, source))?;
        self.end = size;
        Ok(())
    }
}
