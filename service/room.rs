//! Is there room for new work: this peer's quota, the disk's floor and its health.
//!
//! Counting goes through all messages and jobs, so a count is kept for a
//! second, and for longer if it took long; what we make meanwhile is added.

use crate::lock;
use spool::atomic::SICK;
use spool::clock::Clock;
use spool::fs::Fs;
use spool::home::{Peer, Settings};
use spool::layout::{Owner, Place};
use spool::look::has;
use spool::name::{Role, Username};
use spool::phase::Mark;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEPT: Duration = Duration::from_secs(1);
/// Counting takes at most this part of the time.
const COST_PART: u32 = 20;

/// Why new work has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// A sync has failed since the daemon started.
    Sick,
    /// Below the floor of free bytes or inodes.
    Disk,
    /// The peer has its number of messages and jobs here.
    Quota,
}

impl Full {
    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Full::Sick => "a sync has failed",
            Full::Disk => "the disk is full",
            Full::Quota => "its quota of messages and jobs is used up",
        }
    }
}

struct Count {
    until: Option<Duration>,
    messages: HashMap<Username, usize>,
}

/// Knows the floor, and counts.
pub struct Room {
    settings: Settings,
    clock: Arc<dyn Clock>,
    count: Mutex<Count>,
}

impl Room {
    /// Nothing is counted yet.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Room {
        Room { settings, clock, count: Mutex::new(Count { until: None, messages: HashMap::new() }) }
    }

    /// Why this peer's new work has to wait, if it has to.
    pub fn full(&self, fs: &dyn Fs, peer: &Peer) -> Option<Full> {
        if fs.exists(SICK) {
            return Some(Full::Sick);
        }
        if !fs.free().is_ok_and(|free| self.settings.has_room(free)) {
            return Some(Full::Disk);
        }
        (self.messages(fs, &peer.username) >= peer.policy.quota.messages).then_some(Full::Quota)
    }

    fn messages(&self, fs: &dyn Fs, username: &Username) -> usize {
        let mut count = lock(&self.count);
        let now = self.clock.now();
        if count.until.is_none_or(|until| now >= until) {
            count.messages = messages(fs);
            let after = self.clock.now();
            count.until = Some(after + KEPT.max((after - now) * COST_PART));
        }
        count.messages.get(username).copied().unwrap_or(0)
    }

    /// A message of this peer was made.
    pub fn made(&self, username: &Username) {
        let mut count = lock(&self.count);
        *count.messages.entry(username.clone()).or_default() += 1;
    }
}

/// Each peer's messages and jobs that are not both over and confirmed: whatever
/// a job keeps on our disk is counted for as long as it is kept.
fn messages(fs: &dyn Fs) -> HashMap<Username, usize> {
    let mut messages = HashMap::new();
    let mut add = |owner: Owner| *messages.entry(owner.username).or_default() += 1;
    for msgid in Place::Rqueue.ids(fs).unwrap_or_default() {
        Owner::read(fs, &Place::Rqueue.dir(msgid)).ok().flatten().map(&mut add);
    }
    for msgid in Place::Jobs.ids(fs).unwrap_or_default() {
        let dir = Place::Jobs.dir(msgid);
        if has(fs, &dir, Mark::Acked) && has(fs, &dir, Mark::Over) {
            continue;
        }
        Owner::read(fs, &dir).ok().flatten().filter(|owner| owner.role == Role::Recipient).map(&mut add);
    }
    messages
}
