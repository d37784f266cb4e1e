//! One message, one step: the part of netplumb that holds the keys and dials.
//!
//! `state.rs` has the tables; `outgoing.rs`, `incoming.rs` and `jobs.rs` (with `job_acts.rs`)
//! look at a directory under its lock, do the step that the tables name, and
//! carry out its changes; `pull.rs` and `stream.rs` copy the logs of jobs; `turn.rs` keeps
//! connections open to and from peers that cannot be dialled, `lines.rs` has those that wait. Time, chance,
//! disk and network are arguments ([`World`]), so all of it runs in a
//! simulator. Nothing in memory matters after a restart: every step looks
//! again. `worker.rs` is the daemon's child.

pub mod comm;
pub mod crypto;
pub mod fetch;
mod gather;
pub mod incoming;
pub mod jobs;
mod lines;
pub mod net;
pub mod outgoing;
pub mod peers;
pub mod pull;
pub mod state;
pub mod steps;
pub mod stream;
pub mod streams;
pub mod turn;
pub mod worker;

#[cfg(test)]
mod jobs_test;
#[cfg(test)]
#[path = "../tests/patience.rs"]
mod patience;
#[cfg(test)]
mod rig_test;
#[cfg(test)]
mod stream_test;

use crate::net::Net;
use crate::peers::{Known, Peers};
use keygen::Identity;
use spool::bucket::{Gate, Way};
use spool::clock::{Clock, Rng};
use spool::crypto::SpoolKey;
use spool::fs::Fs;
use spool::home::{Home, Settings};
use spool::layout::{PLUMB, Place};
use spool::limit::Descriptors;
use spool::name::{MsgId, Username};
use spool::retry::Ceiling;
use spool::roster::Roster;
use spool::usage::{Bounds, Usage};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::Notify;

/// A job's retries are quick while its peer spoke within this.
const LIVE: Duration = Duration::from_secs(600);
/// A sender that was given a key has this long before it is asked whether it still wants it.
const EARLY: Duration = Duration::from_secs(2);

/// A `plumb` that lives has this long to take its lock anew, where that has lost its name.
const UNSEEN: Duration = Duration::from_secs(10);
/// A lock's file is empty; what anybody may have written into it.
const LOCK_MAX: usize = 4 << 10;

/// Everything that a step may use.
pub struct World<N: Net> {
    /// The spool.
    pub fs: Arc<dyn Fs>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// The way to peers.
    pub net: N,
    /// Who we are.
    pub identity: Identity,
    /// The key of what waits here.
    pub spool_key: SpoolKey,
    /// What the configuration says.
    pub settings: Settings,
    /// What the jobs of peers take of our disk.
    pub usage: Arc<Usage>,
    /// How fast peers may be pulled.
    pub gate: Gate,
    /// The descriptors that work and streams have reserved.
    pub descriptors: Arc<Descriptors>,
    peers: RwLock<Arc<Peers>>,
    roster: Mutex<Roster>,
    voices: Mutex<HashMap<Username, Voice>>,
    /// When an incoming message was first seen to wait for its sender.
    waiting: Mutex<HashMap<MsgId, Duration>>,
    /// When the lock of a job's `plumb` was first found without its name.
    unseen: Mutex<HashMap<MsgId, Duration>>,
}

/// When a peer last spoke, and who waits for it to speak again.
#[derive(Default)]
struct Voice {
    last: Option<Duration>,
    /// It could not be reached since then.
    missed: bool,
    next: Arc<Notify>,
}

impl<N: Net> World<N> {
    /// Puts a world together.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        fs: Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        net: N,
        identity: Identity,
        spool_key: SpoolKey,
        settings: Settings,
        peers: Peers,
    ) -> World<N> {
        let (peers, voices, waiting) = (RwLock::new(Arc::new(peers)), Mutex::default(), Mutex::default());
        let (usage, gate, unseen) = (Arc::default(), Gate::new(Way::Down), Mutex::default());
        let (descriptors, roster) = (Descriptors::count(), Mutex::default());
        World {
            fs,
            clock,
            rng,
            net,
            identity,
            spool_key,
            settings,
            usage,
            gate,
            descriptors,
            peers,
            roster,
            voices,
            waiting,
            unseen,
        }
    }

    /// Our own username.
    pub fn ours(&self) -> &Username {
        self.identity.username()
    }

    /// A peer that we know.
    pub fn peer(&self, username: &Username) -> Option<Arc<Known>> {
        self.peers().get(username).cloned()
    }

    /// All peers that we know.
    pub fn peers(&self) -> Arc<Peers> {
        self.peers.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Knows these peers from here on.
    pub fn know(&self, peers: Peers) {
        *self.peers.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(peers);
    }

    /// Reads all peers again; those that cannot be read stay as they were.
    pub fn read_peers(&self, home: &Home) {
        let mut roster = self.roster.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.know(peers::load(home, &self.identity, &mut roster, &self.peers()));
    }

    /// What bounds the logs of this peer's jobs on our disk.
    pub fn bounds(&self, peer: &Known) -> Bounds {
        Bounds::new(&self.settings, &peer.policy.quota)
    }

    fn voice<T>(&self, username: &Username, look: impl FnOnce(&mut Voice) -> T) -> T {
        let mut voices = self.voices.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        look(voices.entry(username.clone()).or_default())
    }

    /// Has this incoming message been waiting for its sender for a moment only?
    pub fn is_early(&self, msgid: MsgId) -> bool {
        let now = self.clock.now();
        let mut waiting = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        now < *waiting.entry(msgid).or_insert(now) + EARLY
    }

    /// Forgets how long a message or job has been waiting.
    pub fn forget(&self, msgid: MsgId) {
        for waits in [&self.waiting, &self.unseen] {
            waits.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&msgid);
        }
    }

    /// Has the lock of a job's `plumb` been without its name for a moment only? A
    /// `plumb` that lives takes it anew, so that it is held when it has a name
    /// again; one that died leaves a lock behind that is free.
    pub fn is_unseen(&self, msgid: MsgId) -> bool {
        let (now, path) = (self.clock.now(), Place::Jobs.file(msgid, PLUMB));
        let lock = self.fs.read_if_sound(&path, LOCK_MAX);
        let mut unseen = self.unseen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Ok(Some(_)) = lock {
            unseen.remove(&msgid);
            return self.fs.is_locked(&path).unwrap_or(true);
        }
        now < *unseen.entry(msgid).or_insert(now) + UNSEEN
    }

    /// This peer spoke to us: whoever waits for it need wait no longer.
    pub fn hear(&self, username: &Username) {
        self.miss(username);
        self.reach(username);
    }

    /// An authentic word of this peer came, or bytes that verify. If it had been
    /// out of reach, whoever waits for it need wait no longer; a peer that was
    /// never away has not become more willing by speaking once more.
    pub fn reach(&self, username: &Username) {
        let now = self.clock.now();
        self.voice(username, |voice| {
            voice.last = Some(now);
            if std::mem::take(&mut voice.missed) {
                voice.next.notify_waiters();
            }
        });
    }

    /// This peer could not be reached.
    pub fn miss(&self, username: &Username) {
        self.voice(username, |voice| voice.missed = true);
    }

    /// Becomes ready when this peer is heard.
    pub fn heard(&self, username: &Username) -> impl Future<Output = ()> + Send + use<N> {
        let next = self.voice(username, |voice| voice.next.clone());
        async move { next.notified().await }
    }

    /// How long retries of a live job with this peer may wait.
    pub fn ceiling(&self, peer: &Known) -> Ceiling {
        let now = self.clock.now();
        let last = self.voice(&peer.remote.username, |voice| voice.last);
        match last {
            Some(last) if now.saturating_sub(last) < LIVE => Ceiling::Live,
            _ => Ceiling::Foreground,
        }
    }
}
