//! The file system as netplumb uses it: one synchronous trait of a dozen verbs.
//!
//! Everything that decides something reads and writes the spool through [`Fs`],
//! so that the product's own steps run on a simulated disk as they do on a real
//! one. Paths are relative to the spool directory, made of parsed names.
//! What each verb leaves after a crash stands beside it; `atomic.rs` is the
//! only real implementation (doc/SPOOL.md#verbs).

use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What went wrong on the disk, and with which file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused a verb.
    #[error("cannot {verb} {path}: {source}")]
    Io {
        /// What was tried: `commit`, `read`, …
        verb: &'static str,
        /// The file, relative to the spool.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A sync failed on an open file: what it was about may be lost, whatever
    /// the next sync says.
    #[error("cannot sync {path}: {source}")]
    Unsynced {
        /// The file or directory, relative to the spool.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is there and is not what it should be.
    #[error("{path}: {what}")]
    Damaged {
        /// The file, relative to the spool.
        path: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The result of a verb.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an error of a failed system call.
    pub fn io(verb: &'static str, path: &str, source: impl Into<io::Error>) -> Error {
        Error::Io { verb, path: path.to_string(), source: source.into() }
    }

    /// Makes an error of a file whose content cannot be believed.
    pub fn damaged(path: &str, what: impl Into<String>) -> Error {
        Error::Damaged { path: path.to_string(), what: what.into() }
    }

    /// Makes an error of a sync that failed on an open file.
    pub fn unsynced(path: &str, source: impl Into<io::Error>) -> Error {
        Error::Unsynced { path: path.to_string(), source: source.into() }
    }

    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Error::Io { source, .. } => Some(source.kind()),
            Error::Unsynced { .. } | Error::Damaged { .. } => None,
        }
    }

    /// The file is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self.kind(), Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }

    /// The name is taken.
    pub fn is_taken(&self) -> bool {
        matches!(self.kind(), Some(io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty))
    }

    /// The content is lost: there is no such file, or it is damaged. Any other
    /// trouble may pass, and proves no loss.
    pub fn is_loss(&self) -> bool {
        self.is_absent() || matches!(self, Error::Damaged { .. })
    }

    /// A sync failed on an open file: nothing may be told that rests on it.
    pub fn is_unsynced(&self) -> bool {
        matches!(self, Error::Unsynced { .. })
    }

    /// No space or no inodes are left: waiting may help. A failed sync is never
    /// that: it is not repeated whatever it said.
    pub fn is_full(&self) -> bool {
        matches!(
            self.kind(),
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
        )
    }

    /// The system is short of descriptors or memory, or was interrupted: waiting
    /// may help, and the disk is sound.
    pub fn is_shortage(&self) -> bool {
        match self {
            Error::Io { source, .. } => is_shortage(source),
            Error::Unsynced { .. } | Error::Damaged { .. } => false,
        }
    }

    /// The code of what has to pass before the same may succeed, as `why` names
    /// it: `disk_full` or `shortage`. `None`: waiting is not known to help.
    pub fn passes(&self) -> Option<&'static str> {
        match (self.is_full(), self.is_shortage()) {
            (true, _) => Some("disk_full"),
            (false, true) => Some("shortage"),
            (false, false) => None,
        }
    }
}

/// Does this error say that the system is short of descriptors or memory, or was interrupted?
pub fn is_shortage(error: &io::Error) -> bool {
    const SHORTAGES: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|errno| SHORTAGES.contains(&errno))
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last part of the path.
    pub name: String,
    /// A directory, not a file.
    pub is_dir: bool,
}

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A link, a FIFO, a socket, a device: netplumb makes none of them where it looks for files.
    Odd,
}

/// What is known of a name without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it leads to.
    pub kind: Kind,
    /// Its size in bytes; directories have one too.
    pub size: u64,
}

/// What the file system has left.
#[derive(Debug, Clone, Copy)]
pub struct Free {
    /// Bytes that an ordinary user may still write.
    pub bytes: u64,
    /// Files that may still be made.
    pub inodes: u64,
}

/// A lock: held until it is dropped, gone with its process. Others see it by
/// its name, and a name can be lost.
pub trait Held: Send + Sync {
    /// Does this path name what is locked? If not (it was removed, renamed or
    /// replaced), others see no lock there, and may take another one.
    fn is_at(&self, path: &str) -> Result<bool>;
    /// The descriptor that holds the lock, for a child that is to hold it too; `None` on a simulated disk.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A lock of either disk.
pub type Lock = Box<dyn Held>;

/// The verbs. `Disk` is the real one.
pub trait Fs: Send + Sync {
    /// Makes a file durably and never replaces one. After a crash: absent, or whole.
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<()>;
    /// Makes or replaces a small file by rename, without a sync. After a power
    /// cut: the old one, the new one, or an empty one; a reader believes none
    /// of them without its digest.
    fn hint(&self, path: &str, bytes: &[u8]) -> Result<()>;
    /// Makes a directory under a temporary name; `commit_dir` makes it real.
    fn make_dir(&self, path: &str) -> Result<()>;
    /// Makes a prepared directory real under its name, never replacing: syncs
    /// `files` in it, then itself, renames it, syncs the parents. After a crash:
    /// absent, or there with those files whole.
    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Result<()>;
    /// Renames within the spool, never replacing, without a sync.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file, or a directory with all that is in it (which first
    /// leaves its name). What is not there is removed already. May be lost in a power cut.
    fn remove(&self, path: &str) -> Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &str) -> Result<()>;
    /// Makes files (their content) and directories (their names) durable, in no
    /// order, at the cost of one if the file system can join them.
    fn sync_all(&self, paths: &[&str]) -> Result<()> {
        paths.iter().try_for_each(|path| match self.open_log(path) {
            Ok(file) => file.sync(),
            Err(error) if error.is_absent() => Err(error),
            Err(_) => self.sync_dir(path),
        })
    }
    /// Reads a whole file of at most `max` bytes. Never blocks: a name that leads
    /// to no regular file of ours is damage.
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>>;
    /// Looks at a name without opening it, and without following a link; `None` if it is not there.
    fn stat(&self, path: &str) -> Result<Option<Stat>>;
    /// The names in a directory, in no order. A directory that is not there is empty, and so is a link to one.
    fn list(&self, path: &str) -> Result<Vec<Entry>>;
    /// Makes a log file, exclusively.
    fn create_log(&self, path: &str) -> Result<Box<dyn LogFile>>;
    /// Opens a log file that exists, for reading and appending. Never blocks: a
    /// name that leads to no regular file of ours is damage.
    fn open_log(&self, path: &str) -> Result<Box<dyn LogFile>>;
    /// Takes the lock of a directory that exists; `None` if another has it for all of `wait`.
    fn lock_dir(&self, path: &str, wait: Duration) -> Result<Option<Lock>>;
    /// Takes the lock of a file, made if absent; `None` if another has it for all
    /// of `wait`. A thing that has the name and can be no lock of ours (a directory,
    /// a link, a socket) gets a hidden name first.
    fn lock_file(&self, path: &str, wait: Duration) -> Result<Option<Lock>>;
    /// Does somebody hold the lock of this file or directory? Not, if it is
    /// absent, or can be no lock of ours. Never waits, whatever has the name.
    /// Asking never keeps another asker out, but may make a taker try again.
    fn is_locked(&self, path: &str) -> Result<bool>;
    /// Wakes whoever watches the parent of this directory.
    fn touch(&self, path: &str) -> Result<()>;
    /// What is left on this file system.
    fn free(&self) -> Result<Free>;

    /// Reads a whole file; `None` if it is lost: not there, or damaged.
    fn read_if_sound(&self, path: &str, max: usize) -> Result<Option<Vec<u8>>> {
        match self.read(path, max) {
            Err(error) if error.is_loss() => Ok(None),
            other => other.map(Some),
        }
    }
    /// The size of a file in bytes; `None` if it is not there.
    fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.stat(path)?.map(|stat| stat.size))
    }
    /// Is there anything of this name?
    fn is_there(&self, path: &str) -> Result<bool> {
        Ok(self.stat(path)?.is_some())
    }
    /// Is there a directory of this name, and not a link to one?
    fn is_dir(&self, path: &str) -> Result<bool> {
        Ok(self.stat(path)?.is_some_and(|stat| stat.kind == Kind::Dir))
    }
    /// Moves what lies at `path`, and cannot be ours, out of the way: into `odd/`,
    /// under a name that says where it lay. A crash leaves it at one of the two places.
    fn aside(&self, path: &str) -> Result<()> {
        match self.rename(path, &odd(path)) {
            Err(error) if error.is_absent() => {
                if !self.is_there(path)? {
                    return Ok(());
                }
                match self.make_dir(ODD) {
                    Err(error) if !error.is_taken() => Err(error),
                    _ => self.rename(path, &odd(path)),
                }
            }
            other => other,
        }
    }
    /// Like `is_there`, where a wrong no is harmless: trouble counts as no.
    fn exists(&self, path: &str) -> bool {
        self.is_there(path).unwrap_or(false)
    }
}

/// An open log: only ever appended to, or cut back to a valid end.
pub trait LogFile: Send + Sync {
    /// Appends what it can of `bytes` and says how many: fewer than all when
    /// the disk is filling up; an error if none. Not durable. Readers see it at
    /// once. A file that somebody else cut or grew meanwhile is damage.
    fn append(&mut self, bytes: &[u8]) -> Result<usize>;
    /// Reads at `offset` into `buffer`; short at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// The size in bytes, also of what another process appended.
    fn size(&self) -> Result<u64>;
    /// Does this name lead to the file that is open here?
    fn is_at(&self, path: &str) -> Result<bool>;
    /// Makes the bytes up to the present size durable (not the name: `sync_dir`).
    fn sync(&self) -> Result<()>;
    /// Cuts the file back to `size` bytes.
    fn truncate(&mut self, size: u64) -> Result<()>;
}

/// Where things go that cannot be ours: [`Fs::aside`].
pub const ODD: &str = "odd";

/// A fresh name in [`ODD`] that says what lay where: `odd/jobs.<msgid>.message.01234567`.
fn odd(path: &str) -> String {
    format!("{ODD}/{}.{:08x}", path.replace('/', ".").trim_start_matches('.'), rand::random::<u32>())
}

/// True if a name is temporary: prepared, half-removed, or not yet real.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}
