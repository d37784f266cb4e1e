//! The daemon's child: orders in, steps and streams in the middle, reports and signs of life out.
//!
//! Each message is worked on by one task at a time; an order for one that is
//! being worked on wakes it, or is remembered. The end of the orders ends the
//! process: whatever was under way is found again on the disk.

use crate::World;
use crate::comm;
use crate::jobs::{Job, STEP};
use crate::net::Http;
use crate::peers::Peers;
use crate::steps::Steps;
use crate::streams::shortage;
use crate::{incoming, outgoing, peers, turn};
use keygen::{Identity, stock};
use spool::alive::{self, ALIVE, Pulse};
use spool::clock::System;
use spool::fs::Fs;
use spool::home::{self, Home};
use spool::layout::Place;
use spool::name::MsgId;
use spool::report::{Order, Report};
use spool::turned::{Given, Other};
use spool::url::Ask;
use std::collections::HashMap;
use std::future::Future;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// While a peer is unknown or out of reach, peers are read again no more often
/// than this; a tenth of it for one that is unknown.
const PEERS_APART: Duration = Duration::from_secs(10);

/// How often one looks whether somebody changed a peer.
const CHANGES_APART: Duration = Duration::from_secs(3);

/// What stands against starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The home.
    #[error(transparent)]
    Home(#[from] home::Error),
    /// The identity.
    #[error(transparent)]
    Keygen(#[from] keygen::Error),
    /// The runtime.
    #[error("cannot start: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The world of a home, as it really is. Peers call in to the daemon's worker only.
pub fn world(home: &Home, net: Http) -> Result<Arc<World<Http>>, Error> {
    spool::limit::raise_descriptors();
    home.check()?;
    let (disk, identity) = (home.open_spool()?, Identity::load(home)?);
    let (clock, settings) = (Arc::new(System::default()), home.settings()?);
    let spool_key = home.spool_key()?;
    let world = World::new(disk, clock.clone(), clock, net, identity, spool_key, settings, Peers::default());
    world.read_peers(home);
    Ok(Arc::new(world))
}

/// A runtime for whatever asks peers.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Works on what standard input orders until it ends.
pub fn run(home: &Home) -> Result<(), Error> {
    // A disk may be slow: from here on we live.
    say(ALIVE);
    let world = world(home, Http::called())?;
    let runtime = runtime()?;
    let (orders, incoming) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match line.parse::<Order>() {
                Ok(order) => drop(orders.send(order)),
                Err(bad) => tracing::warn!("{bad}: {line:?}"),
            }
        }
    });
    let home = home.clone();
    runtime.block_on(Worker::new(world, home).serve(incoming));
    // Syncs that are under way may take long; nobody waits for them, and the process ends at once.
    runtime.shutdown_background();
    Ok(())
}

/// Works on one message by hand, and gives the reports of what it did.
pub fn by_hand(home: &Home, place: Place, msgid: MsgId, tell: impl Fn(Report)) -> Result<Report, Error> {
    let world = world(home, Http::default())?;
    Ok(runtime()?.block_on(async move {
        match place {
            Place::Queue => outgoing::work(&world, msgid).await,
            Place::Rqueue => incoming::work(&world, msgid).await,
            Place::Jobs => Job::new(world, msgid).attend(&Notify::new(), tell).await,
        }
    }))
}

/// Makes durable what a predecessor was killed over: a delivery that is seen
/// may not be synced, and its receipt must not be told before.
pub fn settle(fs: &dyn Fs) -> spool::fs::Result<()> {
    Place::ALL.into_iter().try_for_each(|place| fs.sync_dir(place.word()))
}

/// What is being worked on.
struct Work {
    wake: Arc<Notify>,
    again: bool,
}

struct Worker {
    world: Arc<World<Http>>,
    home: Home,
    pulse: Pulse,
    works: HashMap<(Place, MsgId), Work>,
    peers_read: Instant,
    /// The `peer.toml` of all peers, as they were at the last look.
    seen: Vec<peers::Stamp>,
    /// The peers were read again.
    peers_known: Arc<Notify>,
    /// The service, and the connections that are kept for it.
    service: Arc<Other>,
    given: UnboundedReceiver<Given>,
    kept: turn::Kept,
    reports: UnboundedSender<(Report, bool)>,
    reported: UnboundedReceiver<(Report, bool)>,
}

impl Worker {
    fn new(world: Arc<World<Http>>, home: Home) -> Worker {
        let (reports, reported) = unbounded_channel();
        let ((service, given), kept) = (turn::meet(&home), turn::Kept::default());
        let (peers_read, peers_known) = (Instant::now(), Arc::new(Notify::new()));
        // Nothing: what changed since the peers were read, a moment ago, is found at the first look.
        let (works, seen) = (HashMap::new(), Vec::new());
        let pulse = Pulse::new(Instant::now());
        Worker { world, home, pulse, works, peers_read, seen, peers_known, service, given, kept, reports, reported }
    }

    async fn serve(mut self, mut orders: UnboundedReceiver<Order>) {
        let world = self.world.clone();
        let mut checking = tokio::task::spawn_blocking(move || {
            settle(&*world.fs)?;
            stock::check(&*world.fs, &world.identity, &world.spool_key)
        });
        let mut beats = tokio::time::interval(alive::BEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let checked = loop {
            tokio::select! {
                checked = &mut checking => break checked,
                _ = beats.tick() => self.beat(),
            }
        };
        if let Ok(Err(error)) = checked {
            tracing::warn!("cannot begin well: {error}");
        }
        self.refill();
        self.kept.follow(&self.world, &self.service);
        let mut looks = tokio::time::interval(CHANGES_APART);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beats.tick() => self.beat(),
                _ = looks.tick() => self.look_at_peers(),
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                Some((report, last)) = self.reported.recv() => self.pass_on(report, last),
                Some(given) = self.given.recv() => self.take(given),
                () = self.peers_known.notified() => self.kept.follow(&self.world, &self.service),
            }
        }
    }

    /// Tells the daemon that we live: that orders and reports get their turn, and that
    /// steps, and what waits for the disk, come to their end.
    fn beat(&mut self) {
        let send = |back: alive::Back| {
            let work = async { tokio::task::spawn_blocking(|| back.done()).await };
            drop(tokio::spawn(work));
        };
        if self.pulse.beats(Instant::now(), send) {
            say(ALIVE);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Look(place, msgid) => self.look(place, msgid),
            Order::Heard(username) => self.world.hear(&username),
            Order::Hello => self.hello(),
            Order::Reload => self.read_peers(),
        }
    }

    /// A limit, a quota or an address may be another one.
    fn look_at_peers(&mut self) {
        let seen = peers::stamps(&self.home);
        if seen != self.seen {
            self.seen = seen;
            self.read_peers();
        }
    }

    fn read_peers(&mut self) {
        self.peers_read = Instant::now();
        let (world, home, known) = (self.world.clone(), self.home.clone(), self.peers_known.clone());
        tokio::task::spawn_blocking(move || {
            world.read_peers(&home);
            known.notify_one();
        });
    }

    /// Takes a connection that a peer has turned. One of a peer that is not
    /// known yet ends, and comes again.
    fn take(&mut self, given: Given) {
        match self.world.peer(&given.peer) {
            Some(peer) => drop(tokio::spawn(turn::take(self.world.clone(), peer, given))),
            None if self.peers_read.elapsed() > PEERS_APART / 10 => self.read_peers(),
            None => {}
        }
    }

    fn look(&mut self, place: Place, msgid: MsgId) {
        if let Some(work) = self.works.get_mut(&(place, msgid)) {
            match place {
                Place::Jobs => work.wake.notify_one(),
                Place::Queue | Place::Rqueue => work.again = true,
            }
            return;
        }
        let wake = Arc::new(Notify::new());
        self.works.insert((place, msgid), Work { wake: wake.clone(), again: false });
        let (world, reports) = (self.world.clone(), self.reports.clone());
        tokio::spawn(async move {
            let tell = reports.clone();
            let work = async move {
                let reserved = match place {
                    Place::Queue | Place::Rqueue => world.descriptors.reserve(STEP),
                    // A job that streams reserves by itself.
                    Place::Jobs => None,
                };
                match place {
                    Place::Queue | Place::Rqueue if reserved.is_none() => {
                        Steps::new(place, msgid).report(Err(shortage()))
                    }
                    Place::Queue => outgoing::work(&world, msgid).await,
                    Place::Rqueue => incoming::work(&world, msgid).await,
                    Place::Jobs => {
                        let tell = |report| drop(tell.send((report, false)));
                        Job::new(world, msgid).attend(&wake, tell).await
                    }
                }
            };
            let _ = reports.send((watched(place, msgid, work).await, true));
        });
    }

    /// Passes a report to the daemon. The last one of a piece of work ends it,
    /// or begins it anew if something changed meanwhile.
    fn pass_on(&mut self, report: Report, last: bool) {
        let about = report.about();
        // Somebody may have been added, or have moved.
        let apart = match report.cause.as_deref() {
            Some("no_peer") => PEERS_APART / 10,
            _ => PEERS_APART,
        };
        if matches!(report.cause.as_deref(), Some("no_peer" | "unreachable")) && self.peers_read.elapsed() > apart {
            self.read_peers();
        }
        say(&report.line());
        let Some((place, msgid)) = about.filter(|_| last) else { return };
        let work = self.works.remove(&(place, msgid));
        if place == Place::Rqueue {
            self.refill();
        }
        if work.is_some_and(|work| work.again || is_notified(&work.wake)) {
            self.look(place, msgid);
        }
    }

    /// Keeps the stock of one-time keys filled, beside everything else.
    fn refill(&self) {
        let world = self.world.clone();
        let wanted = world.settings.onetime_keys;
        tokio::task::spawn_blocking(move || {
            let refilled = match stock::is_low(&*world.fs, wanted) {
                Ok(false) => return,
                Ok(true) => stock::refill(&*world.fs, &world.identity, &world.spool_key, wanted),
                Err(error) => Err(error),
            };
            if let Err(error) = refilled {
                tracing::warn!("cannot make one-time keys: {error}");
            }
        });
    }

    /// Says to every peer that we are here.
    fn hello(&self) {
        for peer in self.world.peers().values() {
            let (world, peer) = (self.world.clone(), peer.clone());
            tokio::spawn(async move {
                // Who is not there now will be asked when there is something to say.
                let _ = comm::ask(&world, &peer, Ask::Hlo, MsgId::NONE).await;
            });
        }
    }
}

/// Writes a line for the daemon. When that is gone, our orders end as well.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The report of a piece of work; that it panicked, if it did. Without one its
/// orders would only ever wake what is dead.
async fn watched(place: Place, msgid: MsgId, work: impl Future<Output = Report> + Send + 'static) -> Report {
    tokio::spawn(work).await.unwrap_or_else(|died| {
        tracing::error!("{} {msgid}: {died}", place.word());
        Steps::new(place, msgid).report(Err(comm::Trouble::new("later", died)))
    })
}

/// Was this woken while nobody waited?
fn is_notified(wake: &Notify) -> bool {
    let mut notified = std::pin::pin!(wake.notified());
    notified.as_mut().enable()
}

/// Asks a peer for a sign of life; the round trip in milliseconds.
pub fn test(home: &Home, name: &spool::name::PeerName) -> Result<Result<f64, comm::Trouble>, Error> {
    let world = world(home, Http::default())?;
    let peer = world.peers().values().find(|peer| peer.name == *name).cloned();
    let Some(peer) = peer else { return Ok(Err(comm::Trouble::new("no_peer", "not known here"))) };
    Ok(runtime()?.block_on(async {
        comm::ask(&world, &peer, Ask::Hlo, MsgId::NONE).await?;
        let started = std::time::Instant::now();
        comm::ask(&world, &peer, Ask::Hlo, MsgId::NONE).await?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::report::Turn;

    /// A task that panicked kept its place: later orders only woke it, for ever.
    #[tokio::test]
    async fn work_that_panics_is_reported_and_left() {
        let msgid = MsgId([1; 20]);
        let report = watched(Place::Rqueue, msgid, async { panic!("a bug") }).await;
        assert_eq!((report.turn, report.about()), (Turn::Later, Some((Place::Rqueue, msgid))));
        assert!(report.error.unwrap().contains("a bug"));
    }
}
