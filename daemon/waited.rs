//! Jobs for which a `plumb` waits: the death of one is no event, but its lock is free then.
//!
//! Looks at those locks by the clock, and knows nothing that is not found again
//! by looking at all jobs. As many as there are living `plumb`s, so few.

use spool::fs::Fs;
use spool::layout::{PLUMB, Place};
use spool::name::MsgId;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// How often the locks are looked at.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// Jobs that are looked at for the first time in one go, so that nothing else is kept waiting.
const LOOKS_MAX: usize = 256;

/// The jobs that somebody waits for.
#[derive(Default)]
pub(crate) struct Waited {
    jobs: HashSet<MsgId>,
    unseen: VecDeque<MsgId>,
    due: Duration,
}

impl Waited {
    /// Somebody may wait for these jobs.
    pub(crate) fn look(&mut self, msgids: impl IntoIterator<Item = MsgId>) {
        self.unseen.extend(msgids);
    }

    /// Looks, if it is time; says for which jobs nobody waits any more.
    pub(crate) fn tick(&mut self, fs: &dyn Fs, now: Duration) -> Vec<MsgId> {
        // If one cannot tell, it is asked again.
        let locked = |msgid: MsgId| fs.is_locked(&Place::Jobs.file(msgid, PLUMB)).unwrap_or(true);
        for _ in 0..LOOKS_MAX.min(self.unseen.len()) {
            let Some(msgid) = self.unseen.pop_front() else { break };
            if !self.jobs.contains(&msgid) && locked(msgid) {
                self.jobs.insert(msgid);
            }
        }
        if now < self.due {
            return Vec::new();
        }
        self.due = now + LOOKS_APART;
        let left: Vec<MsgId> = self.jobs.iter().copied().filter(|msgid| !locked(*msgid)).collect();
        self.jobs.retain(|msgid| !left.contains(msgid));
        left
    }

    /// When the next look is due.
    pub(crate) fn wake(&self) -> Option<Duration> {
        match (self.unseen.is_empty(), self.jobs.is_empty()) {
            (false, _) => Some(Duration::ZERO),
            (true, false) => Some(self.due),
            (true, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::atomic::Disk;

    #[test]
    fn a_plumb_that_died_is_noticed_once() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        let jobs = [MsgId([1; 20]), MsgId([2; 20])];
        disk.make_dir("jobs").unwrap();
        for msgid in jobs {
            disk.make_dir(&Place::Jobs.dir(msgid)).unwrap();
        }
        let lock = disk.lock_file(&Place::Jobs.file(jobs[0], PLUMB), Duration::ZERO).unwrap().unwrap();
        let mut waited = Waited::default();
        assert_eq!(waited.wake(), None);
        waited.look(jobs);
        assert_eq!(waited.tick(&disk, Duration::ZERO), []);
        drop(lock);
        assert_eq!(waited.tick(&disk, LOOKS_APART / 2), [], "not before it is time");
        assert_eq!(waited.tick(&disk, waited.wake().unwrap()), [jobs[0]]);
        assert_eq!(waited.tick(&disk, 9 * LOOKS_APART), []);
        assert_eq!(waited.wake(), None);
    }
}
