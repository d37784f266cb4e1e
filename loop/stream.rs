//! Drives one channel's pull: one GET outstanding, syncs on a thread beside it.
//!
//! The next GET never waits for the last sync; `got` in it is the last finished
//! one. What no GET has told for a while is told by a request of its own. A
//! bare status moves nothing: it makes us ask (doc/PROTOCOL.md#streams).

use crate::World;
use crate::comm::{self, Trouble};
use crate::gather::Gather;
use crate::net::{Answer, Get, Net};
use crate::peers::Known;
use crate::pull::{Pull, Sync, Synced, Want};
use crate::streams::Moved;
use spool::bucket::{Mover, Priority};
use spool::log::CopyError;
use spool::name::Chan;
use spool::retry::{Backoff, Ceiling};
use spool::url::{self, Ask, What, Word};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

#[path = "stream_under.rs"]
mod under;
use under::{Next, Under, advance, finished, lost_thread};

/// What a stream tells the job that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It cannot go on for now; the next try comes in so long.
    Trouble(Chan, Trouble, Duration),
    /// It goes on.
    Fine(Chan),
    /// Our own disk failed it; it is to be opened anew.
    Failed(Chan, Trouble),
    /// END is held for good, and the producer was told.
    Ended(Chan),
    /// It can never be completed; `broken` says so.
    Broken(Chan),
    /// The peer says that the job is gone or over: ask for it.
    Over,
}

/// A live job's pulls wait this long for a byte.
const WAIT: Duration = Duration::from_secs(2);
/// Before END, a few bytes wait this long for more, to be made durable together.
const SYNC_PATIENCE: Duration = Duration::from_millis(20);
/// What is durable waits this long for a GET that tells it.
const TELL_PATIENCE: Duration = Duration::from_millis(100);
/// How long to wait before looking again whether the reader took something.
const FULL: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];

/// So many answers in a row may bring nothing before the next GET waits; a
/// segment that was cut to nothing, and the one after it, are no more than two.
const FRUITLESS_MAX: u32 = 2;
/// How long it waits then.
const FRUITLESS_APART: Duration = Duration::from_millis(100);
/// The producer is asked to look at its log no more often than this.
const TIPS_APART: Duration = Duration::from_secs(5);

/// One channel being pulled.
pub struct Stream<N: Net> {
    world: Arc<World<N>>,
    peer: Arc<Known>,
    who: Mover,
    pull: Pull,
    events: UnboundedSender<Event>,
    backoff: Backoff,
    troubled: bool,
    /// Answers in a row that brought nothing, and came sooner than that takes.
    fruitless: u32,
    /// When the last GET was asked.
    asked: Duration,
    full: Duration,
    /// The highest `got` that the producer was told.
    told: u64,
    unsynced: Gather,
    untold: Gather,
    syncing: Option<JoinHandle<spool::fs::Result<Synced>>>,
    telling: Option<JoinHandle<u64>>,
    /// Where what came could not follow, and how often.
    stumbled: (u64, u32),
    tip_at: Duration,
    moved: Moved,
}

impl<N: Net> Stream<N> {
    /// A stream that `run` drives.
    pub fn new(
        world: Arc<World<N>>,
        peer: Arc<Known>,
        pull: Pull,
        events: UnboundedSender<Event>,
        moved: Moved,
    ) -> Stream<N> {
        let (backoff, full) = (Backoff::default(), FULL[0]);
        let (fruitless, asked, told, troubled) = (0, Duration::ZERO, 0, false);
        let (unsynced, untold) = (Gather::new(SYNC_PATIENCE), Gather::new(TELL_PATIENCE));
        let (syncing, telling, stumbled, tip_at) = (None, None, (0, 0), Duration::ZERO);
        let (msgid, chan) = (pull.msgid(), pull.chan());
        let priority = Priority::of(&*world.fs, msgid);
        let who = Mover { peer: peer.remote.username.clone(), msgid, chan, priority };
        Stream {
            world,
            peer,
            who,
            pull,
            events,
            backoff,
            troubled,
            fruitless,
            asked,
            full,
            told,
            unsynced,
            untold,
            syncing,
            telling,
            stumbled,
            tip_at,
            moved,
        }
    }

    /// Pulls until END is held and told, or the channel is broken, or our own
    /// disk fails: then the job opens it anew.
    pub async fn run(mut self) {
        let chan = self.pull.chan();
        let event = match self.pulled().await {
            Ok(()) => Event::Ended(chan),
            Err(trouble) if trouble.cause == "interrupted" => {
                tracing::warn!("{} channel {chan}: {}", self.pull.msgid(), trouble.error);
                match self.pull.interrupt(&trouble.error) {
                    Ok(()) => Event::Broken(chan),
                    Err(error) => Event::Failed(chan, error.into()),
                }
            }
            Err(trouble) => Event::Failed(chan, trouble),
        };
        let _ = self.events.send(event);
    }

    async fn pulled(&mut self) -> Result<(), Trouble> {
        let mut under = self.next_get();
        loop {
            let ends = matches!(under, Under::End);
            if ends && self.pull.ended().is_some() && self.told >= self.pull.offset() {
                return Ok(());
            }
            self.start_sync(ends);
            if !matches!(under, Under::Body(_)) {
                self.start_telling(ends);
            }
            tokio::select! {
                biased;
                synced = finished(&mut self.syncing) => {
                    match synced.unwrap_or_else(|_| Err(lost_thread())) {
                        Ok(synced) => self.pull.synced(synced)?,
                        Err(error) => return Err(self.unsynced(error)),
                    }
                }
                told = finished(&mut self.telling) => self.told = self.told.max(told.unwrap_or(0)),
                next = advance(&mut under) => {
                    under = match next {
                        Next::Bytes(Ok(Some(bytes))) => self.feed(under, &bytes)?,
                        Next::Again => self.next_get(),
                        Next::Bytes(Ok(None)) => self.again(),
                        Next::Bytes(Err(error)) | Next::Answer(Err(error)) => self.pause(error.into()),
                        Next::Answer(Ok(answer)) => self.answered(answer).await?,
                    };
                }
                () = self.unsynced.due(), if self.syncing.is_none() => {}
                () = self.untold.due(), if self.telling.is_none() && !matches!(under, Under::Body(_)) => {}
            }
        }
    }

    /// Our copy could not be synced. If the sync itself failed, the next one would
    /// prove nothing: what it was about is removed, and pulled anew.
    fn unsynced(&self, error: spool::fs::Error) -> Trouble {
        if error.is_unsynced() {
            tracing::error!("{} channel {}: {error}; it is pulled anew", self.pull.msgid(), self.pull.chan());
            if let Err(error) = self.pull.condemn() {
                return error.into();
            }
        }
        error.into()
    }

    /// What is to be under way next, with nothing in the way.
    fn next_get(&mut self) -> Under {
        // What is known of the peer may have changed since we began.
        if let Some(peer) = self.world.peer(&self.peer.remote.username) {
            self.pull.set_bounds(self.world.bounds(&peer));
            self.peer = peer;
        }
        match self.pull.want() {
            Want::End => Under::End,
            Want::Full => {
                let pause = self.full;
                self.full = (pause * 2).min(FULL[1]);
                Under::Pause(Box::pin(tokio::time::sleep(pause)))
            }
            Want::NoRoom(cause) => self.no_room(cause),
            Want::Get { n, from, until } => {
                self.full = FULL[0];
                // No more is asked for than may come: what was sent and waits in
                // sockets would be lost with a connection that is given up for it.
                let until = match self.world.gate.ask(self.world.clock.now(), &self.peer.policy.bwlimit, &self.who) {
                    Ok(most) => until.min(from.saturating_add(most)),
                    Err(wait) => return Under::Pause(Box::pin(tokio::time::sleep(wait))),
                };
                self.pull.narrow(until);
                self.asked = self.world.clock.now();
                let got = self.pull.got();
                self.told = self.told.max(got);
                let what = What::Seg { msgid: self.pull.msgid(), chan: self.pull.chan(), n, got };
                let path = url::sign(&self.peer.remote.username, &what, self.world.ours(), &self.peer.pair.request_out);
                let get = Get { path, from, until: Some(until), wait: WAIT };
                let (world, peer) = (self.world.clone(), self.peer.clone());
                Under::Get(Box::pin(async move { world.net.get(&peer.remote, get).await }))
            }
        }
    }

    /// The next GET after an answer without trouble: at once, or the peer would
    /// have us ask in a circle, a while after some that brought nothing.
    fn again(&mut self) -> Under {
        self.fruitless = self.fruitless.saturating_add(1);
        match self.fruitless {
            0..=FRUITLESS_MAX => self.next_get(),
            _ => self.rest(FRUITLESS_APART),
        }
    }

    /// Takes the head of an answer.
    async fn answered(&mut self, answer: Answer) -> Result<Under, Trouble> {
        match (answer.status, answer.total) {
            (200 | 206, _) => return Ok(Under::Body(answer.body)),
            (503, _) => {
                let why = "the peer's disk or system does not let it serve this pull at the moment";
                return Ok(self.pause(Trouble::new("peer_later", why)));
            }
            (204, _) => {
                self.calm();
                if self.pull.doubt() || self.pull.is_overdue() {
                    self.stumble();
                }
                if self.world.clock.now() >= self.asked + WAIT / 2 {
                    self.fruitless = 0;
                }
                return Ok(self.again());
            }
            (416, Some(total)) => {
                let before = self.pull.want();
                self.pull.close(total);
                if self.pull.want() != before {
                    return Ok(self.again());
                }
            }
            // We hold more than it has.
            (416, None) => self.stumble(),
            _ => {}
        }
        if self.pull.doubt() {
            self.stumble();
            return Ok(self.again());
        }
        self.ask(answer.status).await
    }

    /// A bare status proves nothing: asks for an authentic word.
    async fn ask(&mut self, status: u16) -> Result<Under, Trouble> {
        let reply = match comm::inquire(&self.world, &self.peer, Ask::Sta, self.pull.msgid()).await {
            Ok(reply) => reply,
            Err(trouble) => return Ok(self.pause(trouble)),
        };
        if reply.word == Word::Later {
            return Ok(self.pause(Trouble::new("peer_later", "the peer asks to be asked again later")));
        }
        if reply.word != Word::Ok {
            let _ = self.events.send(Event::Over);
            return Ok(self.pause(Trouble::new("over", "the peer says that the job is over")));
        }
        match comm::segments_of(&reply.data, self.pull.chan()) {
            Some((first, last)) => {
                self.pull.missing(first, last)?;
                // It says that it has what it does not serve: it is to look at its own disk.
                self.stumble();
            }
            // Its producer has not begun: soon.
            None if self.pull.offset() == 0 => return Ok(self.rest(Backoff::soon(&*self.world.rng))),
            None => return Err(Trouble::new("interrupted", "the log is gone")),
        }
        Ok(self.pause(Trouble::new("unauthentic", format!("a pull was answered with status {status}"))))
    }

    fn feed(&mut self, under: Under, bytes: &[u8]) -> Result<Under, Trouble> {
        let limit = &self.peer.policy.bwlimit;
        self.world.gate.moved(self.world.clock.now(), limit, &self.who, bytes.len() as u64);
        match self.pull.feed(bytes) {
            Ok(fresh) => {
                // Under a limit the pieces may be smaller than a record.
                if fresh > 0 || !limit.is_empty() {
                    self.fruitless = 0;
                }
                if fresh > 0 {
                    self.moved.now();
                    self.fine();
                }
                Ok(under)
            }
            Err(error @ CopyError::Broken { .. }) => Err(error.into()),
            Err(error) => {
                if matches!(error, CopyError::Bad(_)) {
                    self.stumble();
                }
                Ok(self.pause(error.into()))
            }
        }
    }

    /// What came cannot follow what is held. Once, the link did it; when it is so
    /// again at the same place, the producer is asked to look at its own disk:
    /// only it can know (doc/PROTOCOL.md#streams).
    fn stumble(&mut self) {
        let (at, now) = (self.pull.offset(), self.world.clock.now());
        self.stumbled = (at, if self.stumbled.0 == at { self.stumbled.1.saturating_add(1) } else { 1 });
        if self.stumbled.1 > 1 && now >= self.tip_at {
            self.tip_at = now + TIPS_APART;
            let (world, peer, tip) = (self.world.clone(), self.peer.clone(), Ask::Tip(self.pull.chan(), at));
            let msgid = self.pull.msgid();
            tokio::spawn(async move { drop(comm::ask(&world, &peer, tip, msgid).await) });
        }
    }

    /// Bytes came that verify.
    fn fine(&mut self) {
        self.world.reach(&self.peer.remote.username);
        self.calm();
    }

    /// It goes on: the next trouble is a first one.
    fn calm(&mut self) {
        self.backoff.reset();
        if std::mem::take(&mut self.troubled) {
            let _ = self.events.send(Event::Fine(self.pull.chan()));
        }
    }

    /// Waits before the next try, less if the peer comes into reach meanwhile.
    fn pause(&mut self, trouble: Trouble) -> Under {
        if trouble.cause == "unreachable" {
            self.world.miss(&self.peer.remote.username);
        }
        let ceiling = match trouble.cause {
            "over" => Ceiling::Foreground,
            "disk_full" => Ceiling::Live,
            _ => self.world.ceiling(&self.peer),
        };
        let delay = self.backoff.delay(ceiling, &*self.world.rng);
        self.troubled = true;
        let _ = self.events.send(Event::Trouble(self.pull.chan(), trouble, delay));
        self.rest(delay)
    }

    /// Our own disk has no room: looks again soon, for nobody tells when it has.
    fn no_room(&mut self, cause: &'static str) -> Under {
        let error = match cause {
            "quota" => "the quota of its job, or of its peer, is used up",
            _ => "the spool's file system has less left than logs leave alone",
        };
        self.troubled = true;
        let delay = self.backoff.delay(Ceiling::Live, &*self.world.rng);
        let _ = self.events.send(Event::Trouble(self.pull.chan(), Trouble::new(cause, error), delay));
        Under::Pause(Box::pin(tokio::time::sleep(delay)))
    }

    fn rest(&self, delay: Duration) -> Under {
        let heard = self.world.heard(&self.peer.remote.username);
        Under::Pause(Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = heard => {}
            }
        }))
    }

    /// Makes what came durable, on a thread that may block; one at a time.
    fn start_sync(&mut self, ends: bool) {
        let due = self.unsynced.is_due(self.pull.offset().saturating_sub(self.pull.got())) || ends;
        if due
            && self.syncing.is_none()
            && let Some(sync) = self.pull.sync()
        {
            self.unsynced.is_due(0);
            self.syncing = Some(tokio::task::spawn_blocking(move || Sync::run(sync)));
        }
    }

    /// Tells the producer what is held, by a request of its own; one at a time.
    fn start_telling(&mut self, ends: bool) {
        let got = self.pull.got();
        let due = self.untold.is_due(got.saturating_sub(self.told)) || ends;
        if !due || self.telling.is_some() || got <= self.told {
            return;
        }
        let (world, peer, events) = (self.world.clone(), self.peer.clone(), self.events.clone());
        let (msgid, chan) = (self.pull.msgid(), self.pull.chan());
        self.telling = Some(tokio::spawn(async move {
            let mut backoff = Backoff::default();
            loop {
                match comm::ask(&world, &peer, Ask::Got(chan, got), msgid).await {
                    Ok(reply) => {
                        if reply.word == Word::Gone {
                            let _ = events.send(Event::Over);
                        }
                        return got;
                    }
                    Err(_) => tokio::time::sleep(backoff.delay(world.ceiling(&peer), &*world.rng)).await,
                }
            }
        }));
    }
}

impl<N: Net> Drop for Stream<N> {
    fn drop(&mut self) {
        if let Some(telling) = &self.telling {
            telling.abort();
        }
    }
}
