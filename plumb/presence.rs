//! How others see that a `plumb` has its job: the lock of `plumb`, or of `along.<n>`.
//!
//! Loop and daemon ask for that lock, and end a job that nobody waits for. They
//! find it by its name: where that is lost, the lock is taken anew at once
//! (doc/SPOOL.md#locks).

use spool::atomic::Disk;
use spool::fs::{Fs, Lock, Result};
use spool::layout::{self, ALONG, PLUMB, Place};
use spool::name::MsgId;
use std::sync::Arc;
use std::time::Duration;

/// How long another's lock may last before we believe in another `plumb`: lookers hold it for a moment.
const LOOKERS: Duration = Duration::from_millis(300);
/// The most that may read along and keep a job from being forgotten under them.
const ALONG_MAX: u32 = 64;

/// A place at a job.
pub struct Presence {
    fs: Arc<Disk>,
    msgid: MsgId,
    path: String,
    lock: Lock,
}

/// The result of a look at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Others see us.
    Yes,
    /// They see us again, perhaps at another path.
    Again,
    /// Another `plumb` has the place.
    Ousted,
}

impl Presence {
    /// The place of the `plumb` that made a job, with the lock that it made for it.
    pub fn made(fs: Arc<Disk>, msgid: MsgId, lock: Lock) -> Presence {
        Presence { fs, msgid, path: Place::Jobs.file(msgid, PLUMB), lock }
    }

    /// The one place of a job from which it is read and written; `None` if another has it.
    pub fn take(fs: Arc<Disk>, msgid: MsgId) -> Result<Option<Presence>> {
        let lock = fs.lock_file(&Place::Jobs.file(msgid, PLUMB), LOOKERS)?;
        Ok(lock.map(|lock| Presence::made(fs, msgid, lock)))
    }

    /// A place among those who read along; `None` if there are too many.
    pub fn along(fs: Arc<Disk>, msgid: MsgId) -> Result<Option<Presence>> {
        let place = free_place(&fs, msgid)?;
        Ok(place.map(|(path, lock)| Presence { fs, msgid, path, lock }))
    }

    /// Where the lock lies.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Looks whether others see us, and takes the lock anew where they do not.
    /// A look that fails is repeated.
    pub fn keep(&mut self) -> Seen {
        if self.lock.is_at(&self.path).unwrap_or(true) {
            return Seen::Yes;
        }
        let alone = self.path == Place::Jobs.file(self.msgid, PLUMB);
        let taken = match alone {
            true => self.fs.lock_file(&self.path, LOOKERS).map(|lock| lock.map(|lock| (self.path.clone(), lock))),
            false => free_place(&self.fs, self.msgid),
        };
        match taken {
            Ok(Some((path, lock))) => {
                (self.path, self.lock) = (path, lock);
                // The daemon looks for our death only where it has seen us live, and a message
                // that nobody seemed to want rests.
                layout::touch(&*self.fs, Place::Jobs, self.msgid);
                layout::touch(&*self.fs, Place::Queue, self.msgid);
                Seen::Again
            }
            Ok(None) if alone => Seen::Ousted,
            Ok(None) | Err(_) => Seen::Yes,
        }
    }
}

fn free_place(fs: &Disk, msgid: MsgId) -> Result<Option<(String, Lock)>> {
    for n in 0..ALONG_MAX {
        let path = Place::Jobs.file(msgid, &format!("{ALONG}{n}"));
        if let Some(lock) = fs.lock_file(&path, Duration::ZERO)? {
            return Ok(Some((path, lock)));
        }
    }
    Ok(None)
}
