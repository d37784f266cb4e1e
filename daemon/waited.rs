//! Jobs for which a `plumb` waits: the death of one is no event, but its lock is free then.
//!
//! Looks at those locks by the clock, that of `plumb` and those of whoever reads
//! along, and knows nothing that is not found again by looking at all jobs. There
//! are as many as living `plumb`s, so few.

use spool::fs::{Fs, Result};
use spool::layout::{ALONG, PLUMB, Place};
use spool::name::MsgId;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

/// How often the locks are looked at.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// Jobs that are looked at for the first time in one go, so that nothing else is kept waiting.
const LOOKS_MAX: usize = 256;

/// The jobs that somebody waits for.
#[derive(Default)]
pub(crate) struct Waited {
    /// With the names of the locks that are held.
    jobs: HashMap<MsgId, BTreeSet<String>>,
    unseen: VecDeque<MsgId>,
    due: Duration,
}

impl Waited {
    /// Somebody may wait for these jobs.
    pub(crate) fn look(&mut self, msgids: impl IntoIterator<Item = MsgId>) {
        self.unseen.extend(msgids);
    }

    /// Looks, if it is time; says which jobs somebody has left.
    pub(crate) fn tick(&mut self, fs: &dyn Fs, now: Duration) -> Vec<MsgId> {
        for _ in 0..LOOKS_MAX.min(self.unseen.len()) {
            let Some(msgid) = self.unseen.pop_front() else { break };
            if self.jobs.contains_key(&msgid) {
                continue;
            }
            match held(fs, msgid) {
                Ok(locks) if locks.is_empty() => {}
                // A job that cannot be looked at counts as waited for, and is looked at again.
                locks => drop(self.jobs.insert(msgid, locks.unwrap_or_else(|_| BTreeSet::from([PLUMB.into()])))),
            }
        }
        if now < self.due {
            return Vec::new();
        }
        self.due = now + LOOKS_APART;
        let mut left = Vec::new();
        self.jobs.retain(|msgid, known| {
            let Ok(locks) = held(fs, *msgid) else { return true };
            if !known.is_subset(&locks) {
                left.push(*msgid);
            }
            *known = locks;
            !known.is_empty()
        });
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

/// The names of the locks in a job's directory that a living `plumb` holds.
fn held(fs: &dyn Fs, msgid: MsgId) -> Result<BTreeSet<String>> {
    let dir = Place::Jobs.dir(msgid);
    let mut locks = BTreeSet::new();
    // The cheapest question first: a job that we run and a tombstone have no such file.
    if !fs.is_there(&format!("{dir}/{PLUMB}"))? {
        return Ok(locks);
    }
    for name in fs.list(&dir)?.into_iter().map(|entry| entry.name) {
        if (name == PLUMB || name.starts_with(ALONG)) && fs.is_locked(&format!("{dir}/{name}"))? {
            locks.insert(name);
        }
    }
    Ok(locks)
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

    /// Its death was no event, and the job was looked at when the step's own time came.
    #[test]
    fn a_plumb_that_read_along_and_died_is_noticed_too() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        let job = MsgId([1; 20]);
        spool::layout::make_dirs(&disk, &Place::Jobs.dir(job)).unwrap();
        let lock = |name: &str| disk.lock_file(&Place::Jobs.file(job, name), Duration::ZERO).unwrap().unwrap();
        let (plumb, along) = (lock(PLUMB), lock("along.0"));
        let mut waited = Waited::default();
        waited.look([job]);
        assert_eq!(waited.tick(&disk, Duration::ZERO), []);
        drop(plumb);
        assert_eq!(waited.tick(&disk, LOOKS_APART), [job], "nobody takes the output away");
        // Another daemon finds the one that is left.
        let mut waited = Waited::default();
        waited.look([job]);
        assert_eq!(waited.tick(&disk, Duration::ZERO), []);
        drop(along);
        assert_eq!(waited.tick(&disk, LOOKS_APART), [job], "and nobody reads along");
        assert_eq!(waited.wake(), None);
    }
}
