//! A keeper for every job that is to run here: who needs one, who must wait.
//!
//! Decided from names alone, every time anew: a delivered job that is neither
//! over, ended nor cancelled, and whose `running/<msgid>` nobody holds. Keepers
//! outlive the daemon (each makes its own session); those of an earlier daemon
//! are found by their locks. Invariants: the holder of a lock in `running/` is
//! known, whatever is left of its job, and the job is looked at when the lock is
//! free again; never two of ours for one job, never more for a peer than its
//! quota, and a keeper that gets nowhere is started again only after a growing pause.

use crate::child::how;
use spool::clock::Rng;
use spool::fs::{Fs, Result};
use spool::layout::{MESSAGE, Owner, Place, running};
use spool::look::{self, Ages};
use spool::name::{MsgId, Role, Username};
use spool::phase::RecipientSeen;
use spool::retry::{Backoff, Ceiling};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Jobs that are looked at in one go, so that nothing else is kept waiting.
const LOOKS_MAX: usize = 256;
/// How often the locks of keepers that are not our children are looked at.
const FOREIGN_APART: Duration = Duration::from_secs(1);

/// How far a job has come, as its keeper moves it.
type Stage = (bool, bool, bool, bool);

fn stage(seen: &RecipientSeen) -> Stage {
    (seen.started, seen.outputs_ended, seen.exit, seen.control_ended)
}

/// What was seen of a job that waits for its keeper, and when.
struct Looked {
    at: Duration,
    stage: Stage,
}

/// A keeper that lives, or a guard that still has its lock.
struct Running {
    /// Whose job it is; `None` if that is lost.
    peer: Option<Username>,
    /// Ours, with the stage at its start; `None` if an earlier daemon started it.
    ours: Option<(Child, Stage)>,
}

/// A job whose keeper came to its end without getting anywhere, or could not be
/// started, or that could not be looked at: it is tried again.
struct Failed {
    backoff: Backoff,
    /// Not before this.
    at: Duration,
}

/// All keepers of this spool.
pub(crate) struct Keepers {
    program: PathBuf,
    ages: Ages,
    quotas: HashMap<Username, usize>,
    quota: usize,
    running: HashMap<MsgId, Running>,
    /// By peer, in order of birth.
    waiting: HashMap<Username, BTreeMap<(u64, MsgId), Looked>>,
    failed: HashMap<MsgId, Failed>,
    unseen: VecDeque<MsgId>,
    retries: BTreeSet<(Duration, MsgId)>,
    foreign_at: Duration,
}

impl Keepers {
    pub(crate) fn new(program: &Path, ages: Ages) -> Keepers {
        Keepers {
            program: program.to_path_buf(),
            ages,
            quotas: HashMap::new(),
            quota: spool::home::Quota::default().jobs,
            running: HashMap::new(),
            waiting: HashMap::new(),
            failed: HashMap::new(),
            unseen: VecDeque::new(),
            retries: BTreeSet::new(),
            foreign_at: Duration::ZERO,
        }
    }

    /// Takes over what the configuration says.
    pub(crate) fn set_bounds(&mut self, ages: Ages, quotas: HashMap<Username, usize>) {
        (self.ages, self.quotas) = (ages, quotas);
    }

    /// A job may need a keeper: something happened there.
    pub(crate) fn look(&mut self, msgid: MsgId) {
        if !self.running.contains_key(&msgid) && self.unseen.front() != Some(&msgid) {
            self.unseen.push_front(msgid);
        }
    }

    /// These jobs may need keepers: a scan found them.
    pub(crate) fn look_later(&mut self, msgids: impl Iterator<Item = MsgId>) {
        self.unseen.extend(msgids);
    }

    /// Does what is due; says which jobs lost their keeper.
    pub(crate) fn tick(&mut self, fs: &dyn Fs, now: Duration, rng: &dyn Rng) -> Vec<MsgId> {
        let mut lost = Vec::new();
        if now >= self.foreign_at {
            self.foreign_at = now + FOREIGN_APART;
            let ended = |(msgid, keeper): (&MsgId, &Running)| {
                (keeper.ours.is_none() && !fs.is_locked(&running(*msgid)).unwrap_or(true)).then_some(*msgid)
            };
            let ended: Vec<MsgId> = self.running.iter().filter_map(ended).collect();
            for msgid in ended {
                self.running.remove(&msgid);
                self.unseen.push_front(msgid);
                lost.push(msgid);
            }
        }
        while let Some(&(at, msgid)) = self.retries.first().filter(|(at, _)| *at <= now) {
            self.retries.remove(&(at, msgid));
            self.unseen.push_front(msgid);
        }
        for _ in 0..LOOKS_MAX {
            let Some(msgid) = self.unseen.pop_front() else { break };
            self.examine(fs, msgid, now, rng);
        }
        self.start(fs, now, rng);
        lost
    }

    /// Looks which of our keepers have ended; says of which jobs.
    pub(crate) fn reap(&mut self, fs: &dyn Fs, now: Duration, rng: &dyn Rng) -> Vec<MsgId> {
        let mut ended = Vec::new();
        for (msgid, keeper) in &mut self.running {
            if let Some((child, stage)) = &mut keeper.ours
                && let Ok(Some(status)) = child.try_wait()
            {
                ended.push((*msgid, *stage, status));
            }
        }
        for (msgid, before, status) in &ended {
            self.running.remove(msgid);
            self.unseen.push_front(*msgid);
            match self.seen(fs, *msgid) {
                Ok(Some((_, seen))) if seen.wants_keeper() && stage(&seen) == *before => {
                    self.got_nowhere(*msgid, &how(*status), now, rng)
                }
                // It is looked at again, and tried again by that look.
                Err(_) => {}
                Ok(_) => drop(self.failed.remove(msgid)),
            }
        }
        ended.into_iter().map(|(msgid, _, _)| msgid).collect()
    }

    /// When something is due.
    pub(crate) fn wake(&self) -> Option<Duration> {
        let foreign = self.running.values().any(|keeper| keeper.ours.is_none()).then_some(self.foreign_at);
        let retry = self.retries.first().map(|(at, _)| *at);
        let unseen = (!self.unseen.is_empty()).then_some(Duration::ZERO);
        [foreign, retry, unseen].into_iter().flatten().min()
    }

    /// Lets go of all keepers, which live on; those that are our children are still to be waited for.
    pub(crate) fn leave(&mut self) -> Vec<Child> {
        self.running.drain().filter_map(|(_, keeper)| Some(keeper.ours?.0)).collect()
    }

    /// What is there of a job that we run, if it may need a keeper at all.
    fn seen(&self, fs: &dyn Fs, msgid: MsgId) -> Result<Option<(Owner, RecipientSeen)>> {
        let dir = Place::Jobs.dir(msgid);
        // The cheapest question first: a job of ours and a tombstone have no message.
        if !fs.is_there(&format!("{dir}/{MESSAGE}"))? {
            return Ok(None);
        }
        let Some(owner) = Owner::read(fs, &dir)?.filter(|owner| owner.role == Role::Recipient) else { return Ok(None) };
        let seen = look::recipient(fs, msgid, &self.ages, Some(&owner), true)?;
        Ok(Some((owner, seen)))
    }

    fn examine(&mut self, fs: &dyn Fs, msgid: MsgId, now: Duration, rng: &dyn Rng) {
        if self.running.contains_key(&msgid) {
            return;
        }
        let held = fs.is_locked(&running(msgid));
        if matches!(held, Ok(true)) {
            let owner = Owner::read(fs, &Place::Jobs.dir(msgid)).ok().flatten();
            self.running.insert(msgid, Running { peer: owner.map(|owner| owner.username), ours: None });
            return;
        }
        if self.failed.get(&msgid).is_some_and(|failed| failed.at > now) {
            return;
        }
        match held.and_then(|_| self.seen(fs, msgid)) {
            Ok(Some((owner, seen))) if seen.wants_keeper() => {
                let looked = Looked { at: now, stage: stage(&seen) };
                self.waiting.entry(owner.username).or_default().insert((owner.born, msgid), looked);
            }
            Ok(_) => drop(self.failed.remove(&msgid)),
            Err(error) => self.got_nowhere(msgid, &error.to_string(), now, rng),
        }
    }

    fn start(&mut self, fs: &dyn Fs, now: Duration, rng: &dyn Rng) {
        let peers: Vec<Username> = self.waiting.keys().cloned().collect();
        for peer in peers {
            let quota = self.quotas.get(&peer).copied().unwrap_or(self.quota);
            let mut room = quota
                .saturating_sub(self.running.values().filter(|keeper| keeper.peer.as_ref() == Some(&peer)).count());
            while room > 0 {
                let Some(((_, msgid), looked)) = self.waiting.get_mut(&peer).and_then(BTreeMap::pop_first) else {
                    break;
                };
                // It may have waited for long: what was seen then may be past.
                let found = match looked.at == now {
                    true => Ok(Some(looked.stage)),
                    false => self
                        .seen(fs, msgid)
                        .map(|seen| seen.filter(|(_, seen)| seen.wants_keeper()).map(|(_, seen)| stage(&seen))),
                };
                match found {
                    Ok(Some(stage)) => room -= usize::from(self.start_one(msgid, &peer, stage, now, rng)),
                    Ok(None) => {}
                    Err(error) => self.got_nowhere(msgid, &error.to_string(), now, rng),
                }
            }
            if self.waiting.get(&peer).is_some_and(BTreeMap::is_empty) {
                self.waiting.remove(&peer);
            }
        }
    }

    fn start_one(&mut self, msgid: MsgId, peer: &Username, stage: Stage, now: Duration, rng: &dyn Rng) -> bool {
        let mut command = Command::new(&self.program);
        command.arg("keeper").arg(msgid.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        match command.spawn() {
            Ok(child) => {
                let ours = Some((child, stage));
                self.running.insert(msgid, Running { peer: Some(peer.clone()), ours });
                true
            }
            Err(error) => {
                self.got_nowhere(msgid, &format!("cannot be started: {error}"), now, rng);
                false
            }
        }
    }

    fn got_nowhere(&mut self, msgid: MsgId, how: &str, now: Duration, rng: &dyn Rng) {
        let failed = self.failed.entry(msgid).or_insert(Failed { backoff: Backoff::default(), at: now });
        failed.at = now + failed.backoff.delay(Ceiling::Foreground, rng);
        self.retries.insert((failed.at, msgid));
        tracing::warn!("keeper of {msgid} got nowhere: {how}; tried again in {:?}", failed.at - now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::atomic::Disk;
    use spool::clock::System;
    use spool::layout::{PEER, make_dirs};

    /// An error of the disk counted as "needs no keeper", and nothing came back to it.
    #[test]
    fn a_job_that_cannot_be_looked_at_is_looked_at_again() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        let (msgid, rng) = (MsgId([1; 20]), System::default());
        make_dirs(&disk, "jobs").unwrap();
        make_dirs(&disk, "running").unwrap();
        make_dirs(&disk, &Place::Jobs.dir(msgid)).unwrap();
        let owner = Owner::new(&disk, Username::of_ca(b"a"), Role::Recipient, None).unwrap();
        owner.facts().hint(&disk, &Place::Jobs.file(msgid, PEER)).unwrap();
        disk.hint(&Place::Jobs.file(msgid, MESSAGE), b"").unwrap();
        // Nothing can be said of what lies behind a link to itself.
        let (job, real) = (directory.path().join(Place::Jobs.dir(msgid)), directory.path().join("real"));
        std::fs::rename(&job, &real).unwrap();
        std::os::unix::fs::symlink(&job, &job).unwrap();
        let ages = Ages { idle_max: u64::MAX, tombstone: u64::MAX };
        let mut keepers = Keepers::new(Path::new("true"), ages);
        keepers.look(msgid);
        let mut now = Duration::ZERO;
        for _ in 0..3 {
            keepers.tick(&disk, now, &rng);
            assert!(keepers.running.is_empty());
            now = keepers.wake().expect("it is tried again");
        }
        std::fs::remove_file(&job).unwrap();
        std::fs::rename(&real, &job).unwrap();
        keepers.tick(&disk, now, &rng);
        assert!(keepers.running.contains_key(&msgid));
        keepers.leave().into_iter().for_each(|mut child| drop(child.wait()));
    }
}
