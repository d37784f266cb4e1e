//! A limit on bytes a second, and who of those that wait for it is next.
//!
//! One [`Bucket`] for each peer and direction fills at the rate that holds.
//! Whoever moves bytes asks, is given a piece or a time after which to ask
//! again, and says what it moved. Next is the job that has moved the fewest
//! bytes in the last seconds, by its priority, so a small job passes one that
//! has moved much; but nobody waits for longer than about a second, because a
//! pull that brings nothing is given up (doc/PROTOCOL.md#streams). Pieces are
//! small where the rate is. Control is counted, and never waits.
//!
//! Time is an argument; nothing here sleeps.

use crate::facts::Facts;
use crate::fs::{Fs, Result};
use crate::layout::{PRIORITY, Place};
use crate::name::{Chan, MsgId, Username};
use crate::timetable::{Rates, Timetable, Zone};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What is sent goes in pieces of an eighth of a second, within these bounds in
/// bytes: its puller waits for the next.
const PIECE_UP: [u64; 2] = [256, 256 << 10];
/// Where many wait they are smaller, but none smaller than this.
const PIECE_UP_MIN: u64 = 16;
/// What is pulled is asked for by half seconds: each piece costs a GET.
const PIECE_DOWN: [u64; 2] = [4 << 10, 1 << 20];
/// Who has waited for so long is next, whatever it has moved.
const OVERDUE: Duration = Duration::from_secs(1);
/// It is given this part of a piece then.
const OVERDUE_PART: u64 = 8;
/// What was moved is half forgotten after so many seconds.
const HALF_LIFE: f64 = 8.0;
/// Who was told to ask again and does not come for so long waits no more.
const LATE: Duration = Duration::from_millis(100);
/// Waiting times: shorter ones cost more than they shape.
const WAIT: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(500)];

/// What came before a limit began, or fell, is paid for with so many seconds at most.
const DEBT_MAX: f64 = 5.0;

/// How much a job's bytes count against it, beside others of its peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Priority {
    /// Four times the share of a normal one.
    High,
    /// What a job has if nothing is said.
    #[default]
    Normal,
    /// A quarter of the share of a normal one.
    Low,
}

impl Priority {
    /// The word for it, in START, in a job's directory and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        }
    }

    fn weight(self) -> f64 {
        match self {
            Priority::High => 4.0,
            Priority::Normal => 1.0,
            Priority::Low => 0.25,
        }
    }

    /// A job's, from its directory; normal if that cannot be read.
    pub fn of(fs: &dyn Fs, msgid: MsgId) -> Priority {
        let facts = Facts::read(fs, &Place::Jobs.file(msgid, PRIORITY)).ok().flatten();
        facts.and_then(|facts| facts.value(PRIORITY)).unwrap_or_default()
    }

    /// Notes it in a directory, where it is not the one that counts without.
    pub fn note(self, fs: &dyn Fs, dir: &str) -> Result<()> {
        match self {
            Priority::Normal => Ok(()),
            _ => Facts::new().with(PRIORITY, self).hint(fs, &format!("{dir}/{PRIORITY}")),
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Priority {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Priority, String> {
        let all = [Priority::High, Priority::Normal, Priority::Low];
        let found = all.into_iter().find(|priority| priority.word() == text);
        found.ok_or_else(|| format!("{text:?} is no priority; there are high, normal and low"))
    }
}

/// Who moves bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mover {
    /// The peer to or from which they go.
    pub peer: Username,
    /// The job.
    pub msgid: MsgId,
    /// Its channel.
    pub chan: Chan,
    /// The job's priority.
    pub priority: Priority,
}

struct Moved {
    bytes: f64,
    at: Duration,
}

impl Moved {
    fn at(&self, now: Duration) -> f64 {
        self.bytes * (-(now.saturating_sub(self.at)).as_secs_f64() / HALF_LIFE).exp2()
    }
}

struct Waiting {
    since: Duration,
    until: Duration,
    weight: f64,
}

/// What may pass at the moment, in one direction, and who waits for it.
struct Bucket {
    way: Way,
    rate: u64,
    /// Less than nothing, when more came than was there.
    level: f64,
    at: Duration,
    moved: HashMap<MsgId, Moved>,
    waiting: HashMap<(MsgId, Chan), Waiting>,
}

impl Bucket {
    fn new(way: Way) -> Bucket {
        Bucket { way, rate: 0, level: 0.0, at: Duration::ZERO, moved: HashMap::new(), waiting: HashMap::new() }
    }

    /// The largest piece at this rate.
    fn piece(&self) -> u64 {
        match self.way {
            Way::Up => (self.rate / 8).clamp(PIECE_UP[0], PIECE_UP[1]),
            Way::Down => (self.rate / 2).clamp(PIECE_DOWN[0], PIECE_DOWN[1]),
        }
    }

    /// The smallest that is given while so many wait.
    fn least(&self, waiting: u64) -> u64 {
        match self.way {
            Way::Up => (self.piece() / waiting).max(PIECE_UP_MIN),
            Way::Down => self.piece(),
        }
    }

    /// Fills at the old rate up to this moment, and at this one from here on.
    fn fill(&mut self, now: Duration, rate: u64) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        let depth = (2 * self.piece()).max(self.rate / 4) as f64;
        self.level = (self.level + passed * self.rate as f64).min(depth);
        (self.at, self.rate) = (now, rate);
    }

    fn ask(&mut self, now: Duration, who: &Mover) -> std::result::Result<u64, Duration> {
        self.waiting.retain(|_, waiting| waiting.until + LATE >= now);
        let key = (who.msgid, who.chan);
        let since = self.waiting.get(&key).map_or(now, |waiting| waiting.since);
        let waiting = self.waiting.len() + usize::from(!self.waiting.contains_key(&key));
        let missing = self.least(waiting as u64) as f64 - self.level;
        let wait = if missing > 0.0 { missing / self.rate as f64 } else { 0.0 };
        if missing <= 0.0 && !self.is_behind(now, who, since) {
            self.waiting.remove(&key);
            // Who is let pass only because it has waited so long is kept alive, no more.
            let overdue = waiting > 1 && now.saturating_sub(since) > OVERDUE;
            let part = if overdue { OVERDUE_PART } else { 1 };
            return Ok((self.piece() / part).max(PIECE_UP_MIN).min(self.level as u64));
        }
        let wait = Duration::from_secs_f64(wait.min(WAIT[1].as_secs_f64())).max(WAIT[0]);
        self.waiting.insert(key, Waiting { since, until: now + wait, weight: who.priority.weight() });
        Err(wait)
    }

    /// Is another one's turn before this one's?
    fn is_behind(&self, now: Duration, who: &Mover, since: Duration) -> bool {
        let claim = |msgid: MsgId, weight: f64, since: Duration| {
            let overdue = now.saturating_sub(since) > OVERDUE;
            let moved = self.moved.get(&msgid).map_or(0.0, |moved| moved.at(now)) / weight;
            // Those that are overdue by their time, before all others by what they moved.
            (!overdue, if overdue { since.as_secs_f64() } else { moved })
        };
        let ours = claim(who.msgid, who.priority.weight(), since);
        let mut others = self.waiting.iter().filter(|((msgid, _), _)| *msgid != who.msgid);
        others.any(|((msgid, _), waiting)| claim(*msgid, waiting.weight, waiting.since) < ours)
    }

    fn moved(&mut self, now: Duration, who: &Mover, bytes: u64) {
        let least = -DEBT_MAX * self.rate as f64;
        self.level = (self.level - bytes as f64).max(least.min(self.level));
        let before = self.moved.get(&who.msgid).map_or(0.0, |moved| moved.at(now));
        self.moved.insert(who.msgid, Moved { bytes: before + bytes as f64, at: now });
        if self.moved.len() > 64 {
            self.moved.retain(|_, moved| moved.at(now) > 1.0);
        }
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From us to the peer.
    Up,
    /// From the peer to us.
    Down,
}

/// The limits of all peers in one direction.
pub struct Gate {
    way: Way,
    zone: OnceLock<Zone>,
    buckets: Mutex<HashMap<Username, Bucket>>,
}

impl Gate {
    /// A gate that has let nothing pass. The time zone is read when it is needed first.
    pub fn new(way: Way) -> Gate {
        Gate { way, zone: OnceLock::new(), buckets: Mutex::default() }
    }

    /// The same with a time zone that was read before.
    pub fn in_zone(way: Way, zone: Zone) -> Gate {
        Gate { zone: zone.into(), ..Gate::new(way) }
    }

    /// How many bytes may be moved at this moment, or after what time to ask
    /// again. `now` is any clock that does not jump.
    pub fn ask(&self, now: Duration, timetable: &Timetable, who: &Mover) -> std::result::Result<u64, Duration> {
        match self.rate(timetable) {
            Some(rate) if who.chan != Chan::CONTROL => {
                let mut buckets = self.buckets();
                let bucket = buckets.entry(who.peer.clone()).or_insert_with(|| Bucket::new(self.way));
                bucket.fill(now, rate);
                bucket.ask(now, who)
            }
            _ => Ok(u64::MAX),
        }
    }

    /// So many bytes were moved.
    pub fn moved(&self, now: Duration, timetable: &Timetable, who: &Mover, bytes: u64) {
        if let Some(rate) = self.rate(timetable) {
            let mut buckets = self.buckets();
            let bucket = buckets.entry(who.peer.clone()).or_insert_with(|| Bucket::new(self.way));
            bucket.fill(now, rate);
            bucket.moved(now, who, bytes);
        }
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<Username, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rate(&self, timetable: &Timetable) -> Option<u64> {
        if timetable.is_empty() {
            return None;
        }
        let Rates { up, down } = timetable.at(self.zone.get_or_init(Zone::local).now());
        if self.way == Way::Up { up } else { down }
    }
}

#[cfg(test)]
#[path = "bucket_test.rs"]
mod tests;
