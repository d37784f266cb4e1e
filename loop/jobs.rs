//! Works on `jobs/<msgid>`: both sides of a job (doc/SPOOL.md#jobs).
//!
//! Steps are decided under the directory's lock from a fresh look; streams run
//! beside them without it. A job is attended to as long as its logs flow, and
//! handed back to the schedule when it only waits for one word of the peer.

use crate::World;
use crate::comm::Trouble;
use crate::net::Net;
use crate::peers::Known;
use crate::state::{self, Change, RecipientStep, SenderStep};
use crate::steps::{self, Steps};
use crate::stream::Event;
use crate::streams::{Streams, shortage};
use spool::fs::Lock;
use spool::layout::{self, ALONG, Owner, PLUMB, Place, log_in};
use spool::look;
use spool::name::{Chan, Digest, MsgId, Role};
use spool::phase::{Mark, RecipientPhase, SenderPhase};
use spool::report::{Report, Turn};
use spool::retry::{Backoff, Ceiling};
use spool::segment::JobKeys;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

#[path = "job_acts.rs"]
mod acts;
#[path = "job_check.rs"]
mod check;
#[path = "job_files.rs"]
mod files;

use files::{keys, message, priority, recipient_loss, sender_loss};

/// After its input was aborted, a recipient has this long to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whether the peer still has the job is asked about this often, at random, while its logs flow.
const ASK_EVERY: Duration = Duration::from_secs(45);
/// That a job is not idle is noted this often, in seconds of observed uptime.
const ALIVE_EVERY: u64 = 3600;

/// Descriptors that a step takes: a lock, a connection, and a file for a moment.
pub const STEP: usize = 3;
/// How long a step waits for descriptors.
const NO_DESCRIPTORS: Duration = Duration::from_secs(1);

/// Why the oldest jobs end.
const TOO_OLD: &str = "nothing happened for its maximum age (max_age_days)";

/// What one look at a job decided.
enum Decided {
    Sender(SenderStep),
    Recipient(RecipientStep, bool),
    /// The directory is gone.
    Gone,
}

/// A job that is being worked on.
pub struct Job<N: Net> {
    world: Arc<World<N>>,
    msgid: MsgId,
    /// As the file `peer` said at the last look.
    owner: Option<Owner>,
    /// The fields below were read.
    known: bool,
    peer: Option<Arc<Known>>,
    keys: Option<JobKeys>,
    /// At the recipient, while the message is here: the receipt for it.
    owed: Option<Digest>,
    streams: Streams,
    /// Channels whose producer knows that their END is held here.
    told: Vec<Chan>,
    /// Nothing happened for its maximum age.
    expired: bool,
    /// Why it is to end by our own decision, if that is no wish of anybody's.
    loss: Option<&'static str>,
    /// A job of ours that was left, and waits to be heard of.
    kept: bool,
    /// When the input was found aborted.
    aborted: Option<Duration>,
    /// When `rcp` and `sta` are due again.
    ask_at: Duration,
    /// Nothing but its logs' flowing has been waited for before.
    flowed: bool,
    backoff: Backoff,
    by_hand: bool,
    /// What is known of the logs that we produce.
    checked: check::Checked,
}

impl<N: Net> Job<N> {
    /// A job to be worked on.
    pub fn new(world: Arc<World<N>>, msgid: MsgId) -> Job<N> {
        Job {
            world,
            msgid,
            known: false,
            owner: None,
            peer: None,
            keys: None,
            owed: None,
            streams: Streams::default(),
            told: Vec::new(),
            expired: false,
            loss: None,
            kept: false,
            aborted: None,
            ask_at: Duration::ZERO,
            flowed: false,
            backoff: Backoff::default(),
            by_hand: false,
            checked: check::Checked::default(),
        }
    }

    /// Reads whose it is, and what opens it. What is lost is `None`; as long as
    /// something cannot be read, nothing is decided.
    fn know(&mut self) -> Result<(), Trouble> {
        let world = &self.world;
        let owner = Owner::read(&*world.fs, &Place::Jobs.dir(self.msgid))?;
        let peer = owner.as_ref().and_then(|owner| world.peer(&owner.username));
        let message = message(world, self.msgid)?;
        let keys = match &owner {
            Some(owner) => keys(world, self.msgid, owner, message.as_deref())?,
            None => None,
        };
        if let Some(message) = message.as_deref() {
            // Noted for the service, which cannot open the message.
            // One that finds no room on the disk is the normal one.
            let _ = priority(message).note(&*world.fs, &Place::Jobs.dir(self.msgid));
        }
        let digest = message.as_deref().map(|message| Digest::of(message));
        self.owed = peer.as_ref().zip(digest).map(|(peer, digest)| peer.pair.give_receipt(self.msgid, digest));
        (self.owner, self.peer, self.keys, self.known) = (owner, peer, keys, true);
        Ok(())
    }

    /// Could others find lost by now what we have read? The service answers nobody
    /// without `peer`, and a keeper that begins opens the message anew.
    fn is_doubtful(&self) -> Result<bool, Trouble> {
        let fs = &*self.world.fs;
        let recipient = self.owner.as_ref().is_some_and(|owner| owner.role == Role::Recipient);
        let keeper = recipient && fs.is_locked(&layout::running(self.msgid))?;
        Ok((recipient && !keeper) || Owner::read(fs, &Place::Jobs.dir(self.msgid))? != self.owner)
    }

    /// Works on it without streams: steps until the next move is somebody
    /// else's, asking at once whatever can be asked.
    pub async fn once(mut self) -> Report {
        self.step().await
    }

    /// The same for whoever pulls its logs by hand: it may be done again, and
    /// what must be remembered in between is. [`Turn::Live`] says that logs flow.
    pub async fn step(&mut self) -> Report {
        (self.by_hand, self.flowed) = (true, true);
        self.ask_at = Duration::from_nanos(1);
        let mut steps = self.steps();
        let turn = self.round(&mut steps).await.map(|turn| turn.unwrap_or(Turn::Live));
        steps.report(turn)
    }

    /// Works on it until no log flows and the next move is somebody else's.
    /// `wake` says that something here changed; `tell` takes reports on the way.
    pub async fn attend(mut self, wake: &Notify, tell: impl Fn(Report)) -> Report {
        let mut steps = self.steps();
        // Each order is answered by a report, or the schedule would take it for unfinished.
        let mut ordered = true;
        loop {
            if let Some(turn) = self.reserved_round(&mut steps).await.transpose() {
                self.streams.stop().await;
                return steps.report(turn);
            }
            if std::mem::take(&mut ordered) {
                tell(self.steps().report(Ok(Turn::Live)));
            }
            while !self.is_due() {
                if self.gives_way() {
                    self.streams.stop().await;
                    return self.steps().report(Err(shortage()));
                }
                tokio::select! {
                    () = wake.notified() => {
                        ordered = true;
                        break;
                    }
                    () = tokio::time::sleep(self.until_due().min(NO_DESCRIPTORS)) => {}
                    event = self.streams.next() => {
                        let ends = matches!(event, Event::Ended(_) | Event::Broken(_));
                        self.hear(event).map(&tell);
                        if ends {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// A round with the descriptors that it needs. Without them, logs that flow go on.
    async fn reserved_round(&mut self, steps: &mut Steps) -> Result<Option<Turn>, Trouble> {
        match self.world.descriptors.reserve(STEP) {
            Some(_reserved) => self.round(steps).await,
            None if self.streams.hold_something() => {
                self.ask_at = self.world.clock.now() + NO_DESCRIPTORS;
                Ok(None)
            }
            None => Err(shortage()),
        }
    }

    /// Do other jobs need the descriptors of our logs, which are idle?
    fn gives_way(&self) -> bool {
        self.streams.hold_something() && self.streams.are_idle() && self.world.descriptors.are_wanted()
    }

    /// How long until a word or the end of our patience is due.
    fn until_due(&self) -> Duration {
        let due = self.aborted.map_or(self.ask_at, |since| self.ask_at.min(since + PATIENCE));
        let due = self.checked.due.map_or(due, |check| due.min(check));
        due.saturating_sub(self.world.clock.now())
    }

    fn is_due(&self) -> bool {
        self.until_due().is_zero()
    }

    fn steps(&self) -> Steps {
        let mut steps = Steps::new(Place::Jobs, self.msgid);
        steps.peer(self.peer.as_ref().map(|peer| peer.name.to_string()));
        steps.bound(self.ceiling());
        steps.kept(self.kept);
        steps
    }

    fn ceiling(&self) -> Ceiling {
        let waits = self.is_wanted();
        match &self.peer {
            Some(peer) if self.world.ceiling(peer) == Ceiling::Live => Ceiling::Live,
            _ if waits => Ceiling::Foreground,
            _ => Ceiling::Background,
        }
    }

    /// Steps until something must be waited for: `None` while logs flow.
    async fn round(&mut self, steps: &mut Steps) -> Result<Option<Turn>, Trouble> {
        if !self.known || self.is_doubtful()? {
            self.know()?;
        }
        *steps = self.steps();
        while steps.another() {
            // Held until its changes are made, but for the time of a question.
            let mut lock = self.lock()?;
            if lock.is_none() {
                self.lose_running()?;
                return Ok(Some(Turn::Gone));
            }
            self.check().await?;
            let (decided, flowing) = self.decide()?;
            steps.kept(self.kept);
            if flowing {
                if !self.by_hand {
                    self.start_streams().await?;
                }
            } else {
                self.streams.stop().await;
            }
            let (came, brought) = match self.act(&decided, &mut lock, steps).await {
                Ok(Some(came)) => came,
                Ok(None) => return Ok(None),
                // Logs flow whether or not one word came through.
                Err(trouble) if flowing => {
                    self.ask_at = self.world.clock.now() + self.backoff.delay(self.ceiling(), &*self.world.rng);
                    steps.waits_for(trouble.cause);
                    return Ok(None);
                }
                Err(trouble) => return Err(trouble),
            };
            let changes = match decided {
                Decided::Gone => return Ok(Some(Turn::Gone)),
                Decided::Sender(step) => state::sender_after(step, came),
                Decided::Recipient(step, over) => state::recipient_after(step, came, over),
            };
            if changes.contains(&Change::ForgetJob) && (self.is_wanted() || self.is_read_along()?) {
                steps.waits_for("collect");
                return Ok(Some(Turn::Peer));
            }
            if changes.contains(&Change::ForgetJob) && self.is_kept()? {
                return Ok(Some(Turn::Rest));
            }
            for change in changes {
                self.apply(*change, &brought)?;
            }
            if changes.contains(&Change::ForgetJob) {
                return Ok(Some(Turn::Gone));
            }
            if changes.is_empty() {
                return Ok(if flowing { None } else { Some(self.turn(&decided, steps)) });
            }
        }
        Err(Trouble::new("disk", "its marks change again and again"))
    }

    fn lock(&self) -> Result<Option<Lock>, Trouble> {
        steps::lock(&*self.world.fs, &Place::Jobs.dir(self.msgid), Duration::from_millis(100))
    }

    /// Whose turn it is when nothing changed and no log flows.
    fn turn(&self, decided: &Decided, steps: &mut Steps) -> Turn {
        let (cause, turn) = match decided {
            Decided::Gone => ("", Turn::Gone),
            Decided::Sender(SenderStep::Tell | SenderStep::Cxl) => ("cancel", Turn::Peer),
            Decided::Sender(_) => ("collect", Turn::Rest),
            Decided::Recipient(RecipientStep::Rcp, _) => ("receipt", Turn::Peer),
            Decided::Recipient(RecipientStep::Ask, _) => ("reader", Turn::Peer),
            Decided::Recipient(RecipientStep::Release, _) => ("cancel", Turn::Peer),
            Decided::Recipient(_, true) => return Turn::Rest,
            Decided::Recipient(_, false) => ("keeper", Turn::Rest),
        };
        steps.waits_for(cause);
        turn
    }

    /// Does a living `plumb` still read from here?
    fn is_wanted(&self) -> bool {
        let sender = self.owner.as_ref().is_some_and(|owner| owner.role == Role::Sender);
        let lock = Place::Jobs.file(self.msgid, PLUMB);
        sender && (self.world.fs.is_locked(&lock).unwrap_or(true) || self.world.is_unseen(self.msgid))
    }

    /// Does a living `plumb` read our job's output along?
    fn is_read_along(&self) -> Result<bool, Trouble> {
        let (fs, dir) = (&*self.world.fs, Place::Jobs.dir(self.msgid));
        let along = fs.list(&dir)?.into_iter().filter(|entry| entry.name.starts_with(ALONG));
        Ok(along.map(|entry| fs.is_locked(&format!("{dir}/{}", entry.name))).any(|locked| locked.unwrap_or(true)))
    }

    /// Does the end of a job that nobody waited for wait to be heard?
    fn is_kept(&self) -> Result<bool, Trouble> {
        let sender = self.owner.as_ref().is_some_and(|owner| owner.role == Role::Sender);
        Ok(sender && !self.expired && look::detached(&*self.world.fs, self.msgid)?.is_some())
    }

    /// Looks, and asks the tables; also says whether logs flow.
    fn decide(&mut self) -> Result<(Decided, bool), Trouble> {
        let (fs, ages) = (&*self.world.fs, self.world.settings.ages());
        let dir = Place::Jobs.dir(self.msgid);
        if !fs.is_there(&dir)? {
            return Ok((Decided::Gone, false));
        }
        // A directory that was emptied says nothing of its job any more, not even that it was never sent.
        self.owner = Owner::read(fs, &dir)?;
        match &self.owner {
            Some(owner) if owner.role == Role::Sender => {
                let receipt = self.receipt_is_valid(owner)?;
                let mut seen = look::sender(fs, self.msgid, &ages, owner, self.keys.is_some(), receipt)?;
                if !seen.wanted && self.world.is_unseen(self.msgid) {
                    return Err(Trouble::new("lock", "the lock of plumb has lost its name, and may be taken anew"));
                }
                (self.expired, self.kept) = (seen.too_old, look::detached(fs, self.msgid)?.is_some());
                self.loss = sender_loss(&seen);
                let now = self.world.clock.now();
                if seen.control_ended && !seen.wanted && seen.input_ended {
                    seen.control_ended = self.has_aborted()?;
                }
                if seen.phase() == SenderPhase::Ending {
                    seen.patience_over = now >= *self.aborted.get_or_insert(now) + PATIENCE;
                } else {
                    self.aborted = None;
                }
                if seen.phase() == SenderPhase::Ended && !seen.wanted && seen.input_ended {
                    seen.patience_over = self.has_aborted()?;
                }
                let flowing = match seen.phase() {
                    SenderPhase::Live | SenderPhase::Ending => true,
                    // The recipient keeps its logs until it is told that they are held here.
                    SenderPhase::Ended => self.peer.is_some() && self.has_untold(),
                    _ => false,
                };
                if flowing && seen.phase() == SenderPhase::Ended {
                    self.ask_at = self.ask_at.max(now + self.ask_every());
                }
                Ok((Decided::Sender(state::sender(&seen)), flowing))
            }
            owner => {
                let seen = look::recipient(fs, self.msgid, &ages, owner.as_ref(), self.keys.is_some())?;
                self.loss = recipient_loss(&seen);
                let receipt = self.receipt()?.is_some();
                let flowing = seen.phase() == RecipientPhase::Live;
                Ok((Decided::Recipient(state::recipient(&seen, receipt), seen.over), flowing))
            }
        }
    }

    fn receipt_is_valid(&self, owner: &Owner) -> Result<bool, Trouble> {
        let facts = look::mark(&*self.world.fs, &Place::Jobs.dir(self.msgid), Mark::Receipt)?;
        let receipt: Option<Digest> = facts.and_then(|facts| facts.value("receipt"));
        Ok(match (receipt, owner.digest, &self.peer) {
            (Some(receipt), Some(digest), Some(peer)) => peer.pair.is_receipt(receipt, self.msgid, digest),
            // It was valid when it was put down. That its peer cannot be read at the moment ends no job.
            (Some(_), _, None) => true,
            _ => false,
        })
    }

    /// Starts the streams that this side pulls, those that do not run yet.
    async fn start_streams(&mut self) -> Result<(), Trouble> {
        let (Some(peer), Some(keys), Some(owner)) = (&self.peer, &self.keys, &self.owner) else { return Ok(()) };
        self.streams.start(&self.world, peer, keys, owner.role.other()).await
    }

    /// Is there an output whose producer may not know that its END is held here?
    fn has_untold(&self) -> bool {
        let broken = |chan: Chan| self.world.fs.exists(&format!("{}/broken", log_in(self.msgid, chan)));
        Role::Recipient.produces().iter().any(|&chan| !self.told.contains(&chan) && !broken(chan))
    }

    /// Takes a stream's word; a report if a person might want to know.
    fn hear(&mut self, event: Event) -> Option<Report> {
        let (trouble, delay) = match event {
            Event::Trouble(_, trouble, delay) => (Some(trouble), Some(delay)),
            Event::Fine(_) => (None, None),
            Event::Failed(_, trouble) => {
                self.ask_at = self.world.clock.now() + Duration::from_secs(1);
                (Some(trouble), Some(Duration::from_secs(1)))
            }
            Event::Ended(chan) => {
                if !self.told.contains(&chan) {
                    self.told.push(chan);
                }
                return None;
            }
            Event::Broken(_) => return None,
            Event::Over => {
                self.ask_at = self.world.clock.now().min(self.ask_at).max(Duration::from_nanos(1));
                return None;
            }
        };
        let mut steps = self.steps();
        steps.next_in(delay);
        let mut report = steps.report(Ok(Turn::Live));
        report.cause = trouble.as_ref().map(|trouble| trouble.cause.to_string());
        report.error = trouble.map(|trouble| trouble.error);
        Some(report)
    }
}
