//! Who goes next: what is due, by peer, and how much of it may be under way.
//!
//! Peers take turns, and within a peer the three places do, so that no pile
//! keeps another waiting. What a peer may have under way depends on evidence:
//! one that spoke lately gets a large share; one that has not, a small one; of
//! one that cannot be reached only a few steps are tried at a time, and retries
//! among them are spread out. Peers without evidence share half of the whole,
//! so steps that hang in a dead peer's dial never use up everything. Pure: time
//! and chance are arguments, times are microseconds.

use spool::clock::Rng;
use std::collections::{BTreeSet, VecDeque};

/// Steps under way at once.
pub(crate) const UNDERWAY_MAX: usize = 64;
/// Of these, with peers that did not speak lately; the rest stays for those that did.
const UNPROVEN_MAX: usize = UNDERWAY_MAX / 2;
/// With one peer that spoke lately.
const PROVEN_PEER_MAX: usize = 24;
/// With one peer of which nothing is known.
const UNPROVEN_PEER_MAX: usize = 8;
/// Retries with a peer that cannot be reached.
pub(crate) const PROBES_MAX: usize = 4;
/// All steps with a peer that cannot be reached: an event is not kept waiting by probes.
const FAILING_PEER_MAX: usize = 12;
/// The longest pause between two probes of a peer; the mean is half of it.
const PROBES_APART: u64 = 100_000;
/// A peer that spoke within this time spoke lately.
const LATELY: u64 = 60_000_000;
/// A word of a peer that could not be reached is news after this silence: one
/// step that always fails must not make news of every word.
const SILENCE: u64 = 10_000_000;
/// Events go before retries, but every so often a retry goes first.
const RETRY_EVERY: u8 = 4;

/// Why something is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Something happened there.
    Event,
    /// Its time came, or a first scan found it.
    Retry,
}

/// What a step under way takes up; given back with `Ready::done`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permit {
    probe: bool,
    unproven: bool,
}

/// What is due for one peer, and what is known of the peer.
#[derive(Default)]
struct Peer {
    /// By class and place, in the order in which it became due.
    due: [[BTreeSet<(u64, u32)>; 3]; 2],
    /// The place that was served last, by class.
    served: [usize; 2],
    starts: u8,
    underway: usize,
    probes: usize,
    failing: bool,
    heard_at: Option<u64>,
    reached_at: Option<u64>,
    /// No probe before this.
    gate: u64,
    in_rotation: bool,
}

impl Peer {
    fn is_proven(&self, now: u64) -> bool {
        self.heard_at.is_some_and(|at| now.saturating_sub(at) < LATELY)
    }

    fn has(&self, class: Class) -> bool {
        self.due[class as usize].iter().any(|place| !place.is_empty())
    }

    fn may_start(&self, class: Class, now: u64) -> bool {
        match (self.failing, class) {
            (true, Class::Retry) => self.probes < PROBES_MAX && self.underway < FAILING_PEER_MAX && now >= self.gate,
            (true, Class::Event) => self.underway < FAILING_PEER_MAX,
            (false, _) if self.is_proven(now) => self.underway < PROVEN_PEER_MAX,
            (false, _) => self.underway < UNPROVEN_PEER_MAX,
        }
    }

    /// The class to start next, if any may start.
    fn class(&self, now: u64) -> Option<Class> {
        let order = match self.starts % RETRY_EVERY {
            0 => [Class::Retry, Class::Event],
            _ => [Class::Event, Class::Retry],
        };
        order.into_iter().find(|&class| self.has(class) && self.may_start(class, now))
    }

    /// Takes the oldest of the place whose turn it is.
    fn take(&mut self, class: Class) -> Option<u32> {
        let (places, served) = (&mut self.due[class as usize], &mut self.served[class as usize]);
        for step in 1..=places.len() {
            let place = (*served + step) % places.len();
            if let Some((_, id)) = places[place].pop_first() {
                *served = place;
                return Some(id);
            }
        }
        None
    }
}

/// Everything that is due.
#[derive(Default)]
pub(crate) struct Ready {
    peers: Vec<Peer>,
    rotation: VecDeque<u32>,
    underway: usize,
    unproven: usize,
    ticket: u64,
}

impl Ready {
    /// Adds a peer; they are numbered from 0.
    pub(crate) fn add_peer(&mut self) -> u32 {
        self.peers.push(Peer::default());
        self.peers.len() as u32 - 1
    }

    /// Puts a step in its line; the ticket takes it out again.
    pub(crate) fn put(&mut self, peer: u32, place: usize, class: Class, id: u32) -> u64 {
        self.ticket += 1;
        let of = &mut self.peers[peer as usize];
        of.due[class as usize][place].insert((self.ticket, id));
        if !std::mem::replace(&mut of.in_rotation, true) {
            self.rotation.push_back(peer);
        }
        self.ticket
    }

    /// Takes a step out of its line.
    pub(crate) fn withdraw(&mut self, peer: u32, place: usize, class: Class, ticket: u64, id: u32) {
        self.peers[peer as usize].due[class as usize][place].remove(&(ticket, id));
    }

    /// Starts the next step that may start.
    pub(crate) fn start(&mut self, now: u64, rng: &dyn Rng) -> Option<(u32, Permit)> {
        for _ in 0..self.rotation.len() {
            if self.underway >= UNDERWAY_MAX {
                return None;
            }
            let number = self.rotation.pop_front()?;
            let peer = &mut self.peers[number as usize];
            if !peer.has(Class::Event) && !peer.has(Class::Retry) {
                peer.in_rotation = false;
                continue;
            }
            self.rotation.push_back(number);
            let unproven = peer.failing || !peer.is_proven(now);
            if unproven && self.unproven >= UNPROVEN_MAX {
                continue;
            }
            let Some(class) = peer.class(now) else { continue };
            let Some(id) = peer.take(class) else { continue };
            let permit = Permit { probe: peer.failing && class == Class::Retry, unproven };
            if permit.probe {
                peer.gate = now + rng.below(PROBES_APART + 1);
            }
            peer.starts = peer.starts.wrapping_add(1);
            peer.underway += 1;
            peer.probes += usize::from(permit.probe);
            self.underway += 1;
            self.unproven += usize::from(unproven);
            return Some((id, permit));
        }
        None
    }

    /// Gives back what a step took up.
    pub(crate) fn done(&mut self, peer: u32, permit: Permit) {
        let peer = &mut self.peers[peer as usize];
        peer.underway -= 1;
        peer.probes -= usize::from(permit.probe);
        self.underway -= 1;
        self.unproven -= usize::from(permit.unproven);
    }

    /// The peer spoke; says whether that is news: it was silent for long, or
    /// for a while in which it could not be reached.
    pub(crate) fn heard(&mut self, peer: u32, now: u64) -> bool {
        let peer = &mut self.peers[peer as usize];
        let silence = if peer.failing { SILENCE } else { LATELY };
        let before = peer.heard_at.replace(now);
        before.is_none_or(|at| now.saturating_sub(at) >= silence)
    }

    /// We reached the peer. That it reached us does not say so: it may be behind a NAT.
    pub(crate) fn reached(&mut self, peer: u32, now: u64) {
        let peer = &mut self.peers[peer as usize];
        (peer.reached_at, peer.failing) = (Some(now), false);
    }

    /// Was the peer reached since then?
    pub(crate) fn reached_since(&self, peer: u32, since: u64) -> bool {
        self.peers[peer as usize].reached_at.is_some_and(|at| at > since)
    }

    /// It may be reachable: everything that waits gets its chance.
    pub(crate) fn assume_reachable(&mut self, peer: u32) {
        self.peers[peer as usize].failing = false;
    }

    /// Is it failing, or is a step with it under way?
    pub(crate) fn is_waited_for(&self, peer: u32) -> bool {
        let peer = &self.peers[peer as usize];
        peer.failing || peer.underway > 0
    }

    /// The peer cannot be reached.
    pub(crate) fn failed(&mut self, peer: u32) {
        self.peers[peer as usize].failing = true;
    }

    /// Nothing is known of any peer any more: each gets its chance.
    pub(crate) fn forget_failures(&mut self) {
        for peer in &mut self.peers {
            (peer.failing, peer.gate) = (false, 0);
        }
    }

    /// When something that is due and held back by nothing but time may start.
    pub(crate) fn wake(&self, now: u64) -> Option<u64> {
        if self.underway >= UNDERWAY_MAX || self.unproven >= UNPROVEN_MAX {
            return None;
        }
        let peers = self.rotation.iter().map(|&number| &self.peers[number as usize]);
        let gated = peers.filter(|peer| peer.failing && peer.has(Class::Retry) && peer.gate > now);
        gated.filter(|peer| peer.may_start(Class::Retry, peer.gate)).map(|peer| peer.gate).min()
    }

    #[cfg(test)]
    pub(crate) fn underway(&self) -> usize {
        self.underway
    }
}
