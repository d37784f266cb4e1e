//! Lets in whoever asks whether the daemon lives (doc/SPOOL.md#signs-of-life).
//!
//! A thread waits at the socket; the answer is the main loop's, so it comes only
//! while that turns. The next caller is let in when the last one was answered, so
//! a main loop that hangs piles up no descriptors.

use spool::alive::{self, Life};
use spool::atomic::Disk;
use spool::fs::{Error, Fs, Result};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Without a descriptor for a caller the next try comes after this.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Somebody who asks.
#[derive(Debug)]
pub(crate) struct Caller {
    way: OwnedFd,
    /// Dropped, the next one is let in.
    _next: Sender<()>,
}

impl Caller {
    pub(crate) fn answer(self, life: &Life) {
        life.tell(&self.way);
    }
}

/// The open door; dropped, it is closed.
pub(crate) struct Door(Arc<alive::Door>);

impl Door {
    /// Opens it, and tells `tell` of each caller from another thread.
    pub(crate) fn open(disk: &Disk, tell: impl Fn(Caller) + Send + 'static) -> Result<Door> {
        let door = Arc::new(alive::Door::open(disk)?);
        let inner = door.clone();
        let attend = move || {
            loop {
                match inner.accept() {
                    Ok(way) => {
                        let (next, answered) = channel();
                        tell(Caller { way, _next: next });
                        let _ = answered.recv();
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return,
                    Err(_) => std::thread::sleep(EXHAUSTED),
                }
            }
        };
        let thread = std::thread::Builder::new().name("door".into()).spawn(attend);
        thread.map_err(|error| Error::io("listen at", alive::SOCKET, error))?;
        Ok(Door(door))
    }

    /// Does the socket still have its name?
    pub(crate) fn is_found(disk: &Disk) -> bool {
        // If one cannot tell, it has.
        disk.is_there(alive::SOCKET).unwrap_or(true)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.0.close();
    }
}
