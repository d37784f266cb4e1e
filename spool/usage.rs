//! What the logs of jobs take of our disk, and whether one may take more.
//!
//! Whoever makes a log grow asks its [`Meter`] first: `plumb` and keeper for
//! what they produce, the loop for what it pulls. A log that may not grow waits;
//! nothing fails. Asked is only before a log begins to grow, and then once for a
//! piece of what is left, so that nothing is measured on the way of a byte.
//!
//! Invariant: no bound can stop what must come through for space to be freed.
//! 1. Control (channel 0), END, marks and hints are never asked about.
//! 2. Each log may hold [`SHARE`] beyond what its consumer has, whatever the
//!    others of its job and peer hold, and what that may take on the disk is
//!    kept free of the others within the job's bound. So each log moves on when
//!    its consumer does, and a command whose input waits can still be heard.
//! 3. The floor of free space has two steps: below the first only shares grow,
//!    and below the second nothing, which leaves room for marks.
//!
//! A job takes at most its bound and a segment, all of a peer's jobs at most
//! theirs and a share and a segment for each log in use (doc/SPOOL.md#quotas).

use crate::fs::{Free, Fs};
use crate::home::{Quota, Settings};
use crate::layout::{HELD, Owner, Place, channels};
use crate::name::{Chan, MsgId, Username, decimal};
use crate::segment::{OVERHEAD, RECORD, SEGMENT};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that a log may always hold beyond what its consumer has.
pub const SHARE: u64 = 1 << 20;
/// A job's bound is no less than this: the shares, and the segments they lie in.
pub const JOB_MIN: u64 = 4 * SEGMENT;
/// The least and the most that a log may grow between two questions.
const PIECE: [u64; 2] = [1 << 20, 32 << 20];
/// A whole record: a log that may grow may grow by one.
const WHOLE: u64 = (RECORD + OVERHEAD) as u64;
/// What was measured of a peer is believed for so long, and for longer if it took long:
/// other processes may grow meanwhile.
const KEPT: Duration = Duration::from_millis(20);
const COST_PART: u32 = 20;
/// The channels of a job that carry much.
const BULK: [Chan; 3] = [Chan::STDIN, Chan::STDOUT, Chan::STDERR];

/// What bounds the logs of a peer's jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one job; 0: each of its logs has its window, and no more.
    pub job: u64,
    /// Bytes of all jobs of a peer; 0: no bound.
    pub peer: u64,
    /// Free bytes below which new work waits; logs leave a quarter of it alone.
    pub free_bytes_min: u64,
    /// The same for inodes.
    pub free_inodes_min: u64,
}

impl Bounds {
    /// What settings and a peer's quota say.
    pub fn new(settings: &Settings, quota: &Quota) -> Bounds {
        let job = if quota.job_bytes.0 == 0 { 0 } else { quota.job_bytes.0.max(JOB_MIN) };
        let Settings { free_bytes_min, free_inodes_min, .. } = *settings;
        Bounds { job, peer: quota.bytes.0, free_bytes_min, free_inodes_min }
    }

    /// How much logs may still take of what is free, if they leave this part of the floor alone.
    pub fn left(&self, free: Free, part: u64) -> u64 {
        let inodes = free.inodes > self.free_inodes_min / part || self.free_inodes_min == 0;
        if inodes { free.bytes.saturating_sub(self.free_bytes_min / part) } else { 0 }
    }
}

/// What of one log may wait here as a whole, in bytes, if nobody chose a bound for its job.
pub const WHOLE_LOG: u64 = 1 << 30;

impl Bounds {
    /// What of one log may wait here as a whole: less than the bounds by what
    /// is kept free for its job's other logs, so that who has more learns it.
    pub fn whole_log(&self) -> u64 {
        let bounds = [self.job, self.peer].into_iter().filter(|bound| *bound > 0);
        let shares = BULK.len() as u64 * (SEGMENT + SHARE);
        bounds.map(|bound| bound.saturating_sub(shares).max(SHARE)).min().unwrap_or(WHOLE_LOG)
    }

    /// Does a job hold as much as it may, whatever others hold?
    pub fn is_spent(&self, fs: &dyn Fs, msgid: MsgId) -> bool {
        let least = [self.job, self.peer].into_iter().filter(|bound| *bound > 0).min();
        let held = || of_job(fs, msgid).values().sum::<u64>();
        least.is_some_and(|bound| held() + BULK.len() as u64 * (SEGMENT + SHARE) + WHOLE > bound)
    }
}

/// Whether a log may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// By so many bytes.
    Bytes(u64),
    /// Not before its job, or its peer's jobs, hold less.
    Quota,
    /// Not before the disk has more room.
    Disk,
}

impl Room {
    /// The bytes; 0, if it has to wait.
    pub fn bytes(self) -> u64 {
        match self {
            Room::Bytes(bytes) => bytes,
            Room::Quota | Room::Disk => 0,
        }
    }

    /// Why it has to wait, as `why` says it.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Room::Bytes(_) => None,
            Room::Quota => Some("quota"),
            Room::Disk => Some("disk_full"),
        }
    }
}

/// The bytes of a job's logs on our disk, by channel. What cannot be looked at counts as nothing.
pub fn of_job(fs: &dyn Fs, msgid: MsgId) -> HashMap<Chan, u64> {
    let mut sizes = HashMap::new();
    for side in ["in", "out", HELD] {
        for chan in channels(fs, msgid, side).unwrap_or_default() {
            let dir = Place::Jobs.file(msgid, &format!("{side}/{chan}"));
            let names = fs.list(&dir).unwrap_or_default().into_iter().map(|entry| entry.name);
            let segments = names.filter(|name| decimal(name).is_some());
            let size = segments.filter_map(|name| fs.size(&format!("{dir}/{name}")).ok().flatten()).sum::<u64>();
            *sizes.entry(chan).or_insert(0) += size;
        }
    }
    sizes
}

/// The bytes of the logs of all of a peer's jobs.
pub fn of_peer(fs: &dyn Fs, username: &Username) -> u64 {
    let taken = |msgid: MsgId| {
        let size: u64 = of_job(fs, msgid).values().sum();
        // Whose it is matters only where there is something.
        let ours = || Owner::read(fs, &Place::Jobs.dir(msgid)).ok().flatten();
        if size > 0 && ours().is_some_and(|owner| owner.username == *username) { size } else { 0 }
    };
    Place::Jobs.ids(fs).unwrap_or_default().into_iter().map(taken).sum()
}

/// What was measured of peers a moment ago; one for all meters of a process.
#[derive(Default)]
pub struct Usage(Mutex<HashMap<Username, (Instant, u64)>>);

impl Usage {
    /// Asks `grant` by how much a job of this peer may grow, with what they take together.
    fn grant(&self, fs: &dyn Fs, username: &Username, grant: impl FnOnce(u64) -> u64) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (_, taken) = match known.get_mut(username).filter(|(until, _)| now < *until) {
            Some(kept) => kept,
            None => {
                let taken = of_peer(fs, username);
                let until = Instant::now() + KEPT.max(now.elapsed() * COST_PART);
                known.entry(username.clone()).insert_entry((until, taken)).into_mut()
            }
        };
        let granted = grant(*taken);
        *taken += granted;
        granted
    }
}

/// Asks for one log.
pub struct Meter {
    usage: Arc<Usage>,
    peer: Username,
    msgid: MsgId,
    chan: Chan,
    bounds: Bounds,
    /// Up to this offset nothing needs to be asked.
    granted: u64,
}

impl Meter {
    /// A meter for the log of this channel; the job is this peer's.
    pub fn new(usage: Arc<Usage>, peer: Username, msgid: MsgId, chan: Chan, bounds: Bounds) -> Meter {
        Meter { usage, peer, msgid, chan, bounds, granted: 0 }
    }

    /// Does the log's job hold as much as it may, whatever others hold?
    pub fn is_spent(&self, fs: &dyn Fs) -> bool {
        self.bounds.is_spent(fs, self.msgid)
    }

    /// Shares what is measured with all who have the same.
    pub fn share(&mut self, usage: &Arc<Usage>) {
        self.usage = usage.clone();
    }

    /// Other bounds from here on.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// By how much the log may grow that ends at `offset` and holds `held` bytes
    /// beyond what its consumer has.
    pub fn room(&mut self, fs: &dyn Fs, offset: u64, held: u64) -> Room {
        if self.bounds == Bounds::default() || self.chan == Chan::CONTROL {
            return Room::Bytes(u64::MAX);
        }
        if offset.saturating_add(WHOLE) <= self.granted {
            return Room::Bytes(self.granted - offset);
        }
        let room = self.ask(fs, held);
        self.granted = offset.saturating_add(room.bytes());
        room
    }

    fn ask(&self, fs: &dyn Fs, held: u64) -> Room {
        let share = (held < SHARE).then(|| Room::Bytes((SHARE - held).max(WHOLE)));
        // What cannot be asked stops nothing: the write itself will say.
        let left = fs.free().map_or(u64::MAX, |free| self.bounds.left(free, 4));
        if left == 0 {
            let share = share.filter(|_| fs.free().is_ok_and(|free| self.bounds.left(free, 8) > 0));
            return share.unwrap_or(Room::Disk);
        }
        let job = match self.bounds.job {
            0 => left,
            job => left.min(job.saturating_sub(self.taken(fs))),
        };
        let room = match self.bounds.peer {
            0 => piece(job, 8),
            // What one process is granted others do not see before it is there.
            peer => self.usage.grant(fs, &self.peer, |taken| piece(job.min(peer.saturating_sub(taken)), 64)),
        };
        if room > 0 { Room::Bytes(room) } else { share.unwrap_or(Room::Quota) }
    }

    fn taken(&self, fs: &dyn Fs) -> u64 {
        taken(&of_job(fs, self.msgid), self.chan)
    }
}

/// What a job's logs take, with what is kept free for the shares of all but one.
fn taken(sizes: &HashMap<Chan, u64>, but: Chan) -> u64 {
    let size = |chan: &Chan| sizes.get(chan).copied().unwrap_or(0);
    let others = BULK.iter().filter(|chan| **chan != but);
    sizes.values().sum::<u64>() + others.map(|chan| (SEGMENT + SHARE).saturating_sub(size(chan))).sum::<u64>()
}

/// What some log of this job has to wait for here, for whoever wants to know:
/// `disk_full` or `quota`.
pub fn lack(fs: &dyn Fs, msgid: MsgId, peer: &Username, bounds: &Bounds) -> Option<&'static str> {
    if fs.free().is_ok_and(|free| bounds.left(free, 4) == 0) {
        return Room::Disk.cause();
    }
    let sizes = of_job(fs, msgid);
    let holds = |chan: &Chan| sizes.get(chan).is_some_and(|size| *size > SHARE);
    let job = bounds.job > 0 && BULK.iter().any(|chan| holds(chan) && taken(&sizes, *chan) + WHOLE > bounds.job);
    let full = job || bounds.peer > 0 && BULK.iter().any(holds) && of_peer(fs, peer) + WHOLE > bounds.peer;
    full.then_some("quota")
}

/// A part of what is left, so that several who ask at once do not take it twice.
fn piece(room: u64, part: u64) -> u64 {
    if room < WHOLE { 0 } else { room.min((room / part).clamp(PIECE[0], PIECE[1])) }
}

#[cfg(test)]
#[path = "usage_test.rs"]
mod tests;
