//! What our own side lacks while a job is attended, for whoever says it.

use spool::fs::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A shortage is shown for so long after it was met: looks are as far apart as this.
const RECENT: Duration = Duration::from_secs(3);

/// Shared by the threads of one `plumb`.
#[derive(Clone, Default)]
pub struct Blocked(Arc<Mutex<Lack>>);

#[derive(Default)]
struct Lack {
    /// Why no more input is read: `quota` or `disk_full`.
    input: Option<&'static str>,
    /// When somebody got no descriptor or no memory.
    short: Option<Instant>,
}

impl Blocked {
    /// The cause, as long as there is one: `shortage`, `quota` or `disk_full`.
    pub fn cause(&self) -> Option<&'static str> {
        let lack = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match lack.short {
            Some(at) if at.elapsed() < RECENT => Some("shortage"),
            _ => lack.input,
        }
    }

    /// Says why no more input is read.
    pub fn set(&self, cause: Option<&'static str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).input = cause;
    }

    /// Notes an error after which the same is tried again, if it is a shortage.
    pub fn note(&self, error: &Error) {
        if error.is_shortage() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).short = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_shortage_is_said_before_what_keeps_the_input_back() {
        let blocked = Blocked::default();
        assert_eq!(blocked.cause(), None);
        blocked.set(Some("quota"));
        blocked.note(&Error::io("read", "x", io::ErrorKind::NotFound));
        assert_eq!(blocked.cause(), Some("quota"));
        blocked.note(&Error::io("read", "x", rustix::io::Errno::MFILE));
        assert_eq!(blocked.cause(), Some("shortage"));
    }
}
