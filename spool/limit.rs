//! How much of the system a process may have.
//!
//! Descriptors are reserved before work or connections are taken on, so that
//! what is under way never finds none left. The limit is asked for each time:
//! it may be raised while the process runs (prlimit(1)).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Of the limit, so many descriptors stay for what is open for a moment only: locks, looks, syncs.
const MOMENTARY: usize = 24;
/// Where the limit is low, no more than this part of it.
const MOMENTARY_PART: usize = 4;
/// Somebody who got none asks again within this.
const WANTED: Duration = Duration::from_secs(3);

/// As many descriptors as we may have: connections and segments need them. For
/// processes that start no command, which would inherit it.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Without more, work waits for descriptors as it does for space.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// So many descriptors this process may have at present.
pub fn descriptors_max() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize)
}

/// The descriptors of this process that are promised to somebody.
pub struct Descriptors {
    /// Those that were open when the counting began.
    base: usize,
    reserved: AtomicUsize,
    /// When somebody got none.
    refused: Mutex<Option<Instant>>,
}

impl Descriptors {
    /// Counts what this process has open: that stays.
    pub fn count() -> Arc<Descriptors> {
        // One of them is that of the look itself.
        let open = std::fs::read_dir("/proc/self/fd").map_or(16, |entries| entries.count().saturating_sub(1));
        Arc::new(Descriptors { base: open, reserved: AtomicUsize::new(0), refused: Mutex::default() })
    }

    /// As many as all that is reserved may come to.
    fn limit(&self) -> usize {
        let limit = descriptors_max();
        limit.saturating_sub(self.base + MOMENTARY.min(limit / MOMENTARY_PART))
    }

    /// Promises so many, until the promise is dropped; `None`: there are not so many left.
    pub fn reserve(self: &Arc<Self>, count: usize) -> Option<Reserved> {
        let limit = self.limit();
        let more = |reserved: usize| reserved.checked_add(count).filter(|all| *all <= limit);
        let got = self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !got {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        got.then(|| Reserved { count, of: self.clone() })
    }

    /// Did somebody get none a moment ago, and will ask again?
    pub fn are_wanted(&self) -> bool {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| at.elapsed() < WANTED)
    }
}

/// Descriptors that are promised to whoever has this.
pub struct Reserved {
    count: usize,
    of: Arc<Descriptors>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.of.reserved.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_promised_than_there_is_and_what_is_dropped_is_promised_again() {
        let descriptors = Descriptors::count();
        let all = descriptors.limit();
        let most = descriptors.reserve(all - 1).unwrap();
        assert!(!descriptors.are_wanted());
        assert!(descriptors.reserve(2).is_none() && descriptors.are_wanted());
        let last = descriptors.reserve(1).unwrap();
        assert!(descriptors.reserve(1).is_none());
        drop((most, last));
        assert!(descriptors.reserve(all).is_some() && descriptors.reserve(usize::MAX).is_none());
    }
}
