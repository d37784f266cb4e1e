//! When to look: for every directory of the spool, when its next step is due.
//!
//! Pure and total: events, reports, time and chance come in as arguments, the
//! next directory to look at comes out; what is done about it is the worker's.
//! Invariants: a step that is not under way has a due time or stands in a line;
//! an event while a step is under way means another step right after; in every
//! state but "gone" there is a timer, so a lost event or line costs time only
//! (doc/PROTOCOL.md#retries).

use crate::ready::Class;
use crate::steps::{NOBODY, State, Steps};
use spool::clock::Rng;
use spool::layout::Place;
use spool::name::{MsgId, Username};
use spool::report::{Report, Turn};
use spool::retry::{Backoff, Ceiling};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// A directory that is at rest is looked at again after this, up to twice this: damage inside it
/// wakes nobody. Where many directories are known, tombstones mostly, it takes longer.
const REST: [u64; 2] = [45_000_000, 3_600_000_000];
/// The rest is this long for each directory that is known, so at most two are looked at in a second.
const REST_EACH: u64 = 500_000;
/// A live job is looked at again after this, up to twice this: its stream task reports by itself.
const LIVE: u64 = 30_000_000;
/// A step that has not reported for this long counts as lost.
const LOST: u64 = 120_000_000;
/// Moved on at one go, so that nothing else is kept waiting.
const MOVED_MAX: usize = 2048;
/// So many steps of one directory in a second are no accident: the next ones are spread out.
const BURST: u8 = 50;
/// Why a step waits, when a word of the peer would not help.
const LOCAL_CAUSES: [&str; 5] = ["disk_full", "lock", "reader", "shortage", "sick"];

/// Why a directory is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// Something happened there.
    Event,
    /// A scan found it.
    Found,
}

impl Because {
    fn class(self) -> Class {
        match self {
            Because::Event => Class::Event,
            Because::Found => Class::Retry,
        }
    }
}

/// All directories, and when each is due.
#[derive(Default)]
pub struct Schedule {
    steps: Steps,
    peers: HashMap<Username, u32>,
}

impl Schedule {
    /// Knows of nothing yet.
    pub fn new() -> Schedule {
        Schedule::default()
    }

    /// The number of directories that are known.
    pub fn len(&self) -> usize {
        self.steps.numbers.len()
    }

    /// Is nothing known?
    pub fn is_empty(&self) -> bool {
        self.steps.numbers.is_empty()
    }

    /// A directory is to be looked at. Any number of calls before the look are one.
    pub fn look(&mut self, place: Place, msgid: MsgId, because: Because, now: Duration, rng: &dyn Rng) {
        let id = self.steps.number(place, msgid);
        let (now, class) = (micros(now), because.class());
        match self.steps.all[id as usize].state {
            State::Underway { since, permit, .. } => {
                self.steps.all[id as usize].state = State::Underway { since, permit, touched: true };
            }
            State::Waiting(due) => {
                // Its own steps may be what touches it: that must not become a hot loop.
                match self.is_bursting(id, now) {
                    true => self.steps.wait(id, due.min(now + 20_000 + rng.below(30_000))),
                    false => self.steps.enqueue(id, class),
                }
            }
            State::Unsorted(Class::Retry) | State::Due(Class::Retry, _) if class == Class::Event => {
                self.steps.enqueue(id, class)
            }
            State::Unsorted(_) | State::Due(..) => {}
        }
    }

    /// Reads the peer of up to `count` directories of which it is not known;
    /// says whether there are more. Nothing of them is started before.
    pub fn sort(&mut self, count: usize, whose: &mut dyn FnMut(Place, MsgId) -> Option<Username>) -> bool {
        for _ in 0..count {
            let [events, retries] = &mut self.steps.unsorted;
            let Some((class, id)) = events
                .pop_front()
                .map(|id| (Class::Event, id))
                .or_else(|| retries.pop_front().map(|id| (Class::Retry, id)))
            else {
                return false;
            };
            // One that was found first and touched then stands in both lines.
            if !matches!(self.steps.all[id as usize].state, State::Unsorted(present) if present == class) {
                continue;
            }
            let step = &self.steps.all[id as usize];
            let peer = whose(step.place, step.msgid).map_or(NOBODY, |username| self.peer(&username));
            let step = &mut self.steps.all[id as usize];
            step.peer = peer;
            step.state = State::Due(class, self.steps.ready.put(peer, step.place as usize, class, id));
        }
        self.steps.unsorted.iter().any(|line| !line.is_empty())
    }

    /// The next directory that the worker is to look at, if it may be started.
    pub fn start(&mut self, now: Duration, rng: &dyn Rng) -> Option<(Place, MsgId)> {
        let now = micros(now);
        let (id, permit) = self.steps.ready.start(now, rng)?;
        let second = (now / 1_000_000) as u32;
        let step = &mut self.steps.all[id as usize];
        step.state = State::Underway { since: now, permit, touched: false };
        step.burst = (second, if step.burst.0 == second { step.burst.1.saturating_add(1) } else { 1 });
        self.steps.underway.insert((now, id));
        Some((step.place, step.msgid))
    }

    /// A step could not be handed to the worker after all: it is due again.
    pub fn unstart(&mut self, place: Place, msgid: MsgId) {
        let Some(&id) = self.steps.numbers.get(&(place, msgid)) else { return };
        if self.steps.end(id).is_some() {
            self.steps.enqueue(id, Class::Event);
        }
    }

    /// Moves on what became due. Call it before `start`.
    pub fn tick(&mut self, now: Duration, rng: &dyn Rng) {
        let now = micros(now);
        while let Some(&(since, id)) = self.steps.underway.first().filter(|(since, _)| since + LOST <= now) {
            self.steps.underway.remove(&(since, id));
            self.steps.end(id);
            let delay = self.steps.all[id as usize].backoff.delay(Ceiling::Background, rng);
            self.steps.wait(id, now + micros(delay));
        }
        for peer in 0..self.steps.hopes.len() as u32 {
            if let Some(news) = self.steps.hopes[peer as usize].overdue(now) {
                self.release(peer, news, now);
            }
            for _ in 0..MOVED_MAX {
                let Some(id) = self.steps.hopes[peer as usize].released() else { break };
                if let State::Waiting(due) = self.steps.all[id as usize].state {
                    self.steps.all[id as usize].backoff.reset();
                    self.steps.wait(id, due.min(now + micros(Backoff::soon(rng))));
                }
            }
        }
        for _ in 0..MOVED_MAX {
            let Some(&(_, id)) = self.steps.timers.first().filter(|(due, _)| *due <= now) else { break };
            self.steps.enqueue(id, Class::Retry);
        }
    }

    /// How long `tick` has nothing to do, if nothing else happens.
    pub fn wake(&self, now: Duration) -> Option<Duration> {
        let now = micros(now);
        if self.steps.unsorted.iter().any(|line| !line.is_empty()) {
            return Some(Duration::ZERO);
        }
        let timer = self.steps.timers.first().map(|(due, _)| *due);
        let lost = self.steps.underway.first().map(|(since, _)| since + LOST);
        let hopes = self.steps.hopes.iter().filter_map(|hopes| hopes.wake(now)).min();
        let next = [timer, lost, hopes, self.steps.ready.wake(now)].into_iter().flatten().min();
        next.map(|at| Duration::from_micros(at.saturating_sub(now)))
    }

    /// Was this directory ever reported on?
    pub fn was_reported(&self, place: Place, msgid: MsgId) -> bool {
        self.steps.numbers.get(&(place, msgid)).is_some_and(|&id| self.steps.all[id as usize].turn.is_some())
    }

    /// Takes in what the worker says about a directory, asked or not; says
    /// after what time the next look is due, if it waits.
    pub fn report(&mut self, report: &Report, now: Duration, rng: &dyn Rng) -> Option<Duration> {
        let (place, msgid) = report.about()?;
        if report.turn == Turn::Gone && !self.steps.numbers.contains_key(&(place, msgid)) {
            return None;
        }
        let (id, now) = (self.steps.number(place, msgid), micros(now));
        let ended = self.steps.end(id);
        let peer = self.steps.all[id as usize].peer;
        let spoke = ended.is_some_and(|(since, _)| self.released_since(peer, since));
        let progress = self.note(id, report);
        if report.heard {
            let news = self.steps.ready.heard(peer, now);
            self.steps.ready.reached(peer, now);
            self.release(peer, news, now);
        } else if report.turn == Turn::Later && report.cause.as_deref() == Some("unreachable") {
            self.steps.ready.failed(peer);
        }
        match (self.steps.state(id), ended) {
            // It was not asked for and stands in a line: it will be looked at.
            (State::Unsorted(_) | State::Due(..), None) => return None,
            (_, Some((_, true))) if self.is_bursting(id, now) => {
                self.steps.wait(id, now + 20_000 + rng.below(30_000));
                return None;
            }
            (_, Some((_, true))) => {
                self.steps.enqueue(id, Class::Event);
                return None;
            }
            (_, Some((_, false)) | None) => {}
        }
        let step = &mut self.steps.all[id as usize];
        // A word that came while this step hung in a dead connection counts for it too.
        if progress || spoke && !report.heard || matches!(report.turn, Turn::Rest | Turn::Live) {
            step.backoff.reset();
        }
        let delay = match report.turn {
            Turn::Gone => {
                self.steps.forget(id);
                return None;
            }
            Turn::Rest => {
                let rest = (self.steps.numbers.len() as u64 * REST_EACH).clamp(REST[0], REST[1]);
                rest + rng.below(rest)
            }
            Turn::Live => LIVE + rng.below(LIVE),
            Turn::Peer | Turn::Later => micros(step.backoff.delay(ceiling(report), rng)),
        };
        self.steps.wait(id, now + delay);
        let hopes = &mut self.steps.hopes[peer as usize];
        let local = report.cause.as_deref().is_some_and(|cause| LOCAL_CAUSES.contains(&cause));
        match report.turn {
            Turn::Peer => hopes.wait(id, true),
            Turn::Later if report.heard || !local => hopes.wait(id, report.heard),
            Turn::Later | Turn::Rest | Turn::Live | Turn::Gone => {}
        }
        Some(Duration::from_micros(delay))
    }

    /// The service had an authentic word of this peer.
    pub fn heard(&mut self, username: &Username, now: Duration) {
        let Some(&peer) = self.peers.get(username) else { return };
        let now = micros(now);
        let news = self.steps.ready.heard(peer, now);
        self.release(peer, news, now);
    }

    /// Everything is due, whatever it waits for.
    pub fn everything(&mut self) {
        self.steps.ready.forget_failures();
        for id in self.steps.known() {
            let step = &mut self.steps.all[id as usize];
            match step.state {
                State::Waiting(_) => {
                    step.backoff.reset();
                    self.steps.enqueue(id, Class::Retry);
                }
                State::Underway { since, permit, .. } => step.state = State::Underway { since, permit, touched: true },
                State::Unsorted(_) | State::Due(..) => {}
            }
        }
    }

    /// The worker is another one: it is told everything anew, what was live first.
    pub fn anew(&mut self) {
        for (_, id) in std::mem::take(&mut self.steps.underway) {
            self.steps.end(id);
            self.steps.enqueue(id, Class::Event);
        }
        for id in self.steps.known() {
            if self.steps.all[id as usize].turn == Some(Turn::Live) && matches!(self.steps.state(id), State::Waiting(_))
            {
                self.steps.enqueue(id, Class::Event);
            }
        }
        self.everything();
    }

    fn peer(&mut self, username: &Username) -> u32 {
        if let Some(&peer) = self.peers.get(username) {
            return peer;
        }
        let peer = self.steps.add_peer();
        self.peers.insert(username.clone(), peer);
        peer
    }

    /// Remembers a report; says whether it shows progress: the next delay is a first one then.
    fn note(&mut self, id: u32, report: &Report) -> bool {
        let mut hasher = DefaultHasher::new();
        report.did.hash(&mut hasher);
        let did = hasher.finish() as u32;
        let step = &mut self.steps.all[id as usize];
        let repeats = step.heard && step.turn == Some(report.turn) && step.did == did;
        (step.turn, step.heard, step.did) = (Some(report.turn), report.heard, did);
        report.heard && !repeats
    }

    /// Was the peer reached, or what waits for it released, since then?
    fn released_since(&self, peer: u32, since: u64) -> bool {
        self.steps.hopes[peer as usize].released_since(since) || self.steps.ready.reached_since(peer, since)
    }

    fn is_bursting(&self, id: u32, now: u64) -> bool {
        let (second, count) = self.steps.all[id as usize].burst;
        u64::from(second) == now / 1_000_000 && count >= BURST
    }

    /// Lets what waits for a peer go.
    fn release(&mut self, peer: u32, news: bool, now: u64) {
        let eager = self.steps.ready.is_waited_for(peer);
        if self.steps.hopes[peer as usize].release(news, eager, now) {
            self.steps.ready.assume_reachable(peer);
        }
    }
}

/// How long the next try may wait. Nobody tells when a disk has room again, the
/// process a descriptor, or a lock is free, and to look costs nobody else anything:
/// so one looks more often.
fn ceiling(report: &Report) -> Ceiling {
    match (report.cause.as_deref(), report.ceiling()) {
        (Some("disk_full" | "shortage" | "lock"), Ceiling::Live | Ceiling::Foreground) => Ceiling::Live,
        (Some("disk_full" | "shortage" | "lock"), Ceiling::Background) => Ceiling::Foreground,
        (_, ceiling) => ceiling,
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

#[cfg(test)]
#[path = "schedule_test.rs"]
mod tests;
