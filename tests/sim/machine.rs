//! One peer's machine: its disk, its loop, its keepers, and the daemon's part
//! of looking at everything again and again.
//!
//! Every process has its own handle on the disk. One that is dead is thrown
//! away with all that it remembered, and started anew when its turn comes.

use super::disk::SimDisk;
use super::keeper::{self, Keeper, Ledger};
use super::net::{SimNet, Wire};
use super::people::{people, settings};
use keygen::stock;
use r#loop::World;
use r#loop::comm::{self, Trouble, segments_of};
use r#loop::jobs::Job;
use r#loop::net::{Get, Net};
use r#loop::pull::{Pull, Want};
use r#loop::{incoming, outgoing};
use spool::atomic::SICK;
use spool::clock::{Clock, Rng};
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{Owner, Place, log_in};
use spool::log::{self, CopyError};
use spool::look;
use spool::name::{Chan, MsgId, Role};
use spool::report::Turn;
use spool::segment::{JobKeys, Stream};
use spool::url::{self, Ask, What, Word};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Runs a future that never waits.
pub fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a step waited, in a world where nothing has to be waited for"),
    }
}

/// Runs the steps that look at a whole log, on a thread of their own.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_multi_thread().worker_threads(1).build().expect("a thread"))
}

/// Time and chance of a simulation.
#[derive(Clone)]
pub struct Fate {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
}

/// A loop process.
struct Loop {
    disk: SimDisk,
    world: Arc<World<SimNet>>,
    jobs: BTreeMap<MsgId, Attended>,
}

/// A job whose logs flow.
struct Attended {
    job: Job<SimNet>,
    pulls: Vec<Puller>,
}

/// One machine.
pub struct Machine {
    /// Whose it is.
    pub who: usize,
    /// Its disk, as seen from outside.
    pub disk: SimDisk,
    /// What commands lived through here.
    pub ledger: Ledger,
    /// Keepers that were killed.
    pub lost_keepers: u32,
    /// Keepers start commands too early: a negative control.
    pub hasty: bool,
    wire: Arc<Wire>,
    fate: Fate,
    worker: Option<Loop>,
    keepers: BTreeMap<MsgId, Keeper>,
}

/// One thing that a machine can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// A step of the loop.
    Step(Place, MsgId),
    /// A piece of a pull.
    Pull(MsgId, usize),
    /// A piece of a keeper's work.
    Keep(MsgId),
}

impl Machine {
    /// A machine that has its disk and nothing running.
    pub fn new(who: usize, disk: SimDisk, wire: Arc<Wire>, fate: Fate) -> Machine {
        let ledger = Ledger::default();
        Machine { who, disk, ledger, lost_keepers: 0, hasty: false, wire, fate, worker: None, keepers: BTreeMap::new() }
    }

    /// Throws away what is dead, and starts the loop and the service if they do not run.
    pub fn revive(&mut self) {
        let lost = self.keepers.values().filter(|keeper| keeper.was_killed()).count();
        self.lost_keepers += lost as u32;
        self.keepers.retain(|_, keeper| !keeper.is_gone());
        if self.worker.as_ref().is_none_or(|worker| worker.disk.is_dead()) {
            self.worker = None;
            let (disk, person) = (self.disk.process(), &people()[self.who]);
            let net = SimNet { wire: self.wire.clone(), from: self.who };
            let peers = [(person.known.remote.username.clone(), person.known.clone())].into();
            let (fs, fate) = (Arc::new(disk.clone()), &self.fate);
            let identity = person.identity.clone();
            let key = person.spool_key.clone();
            let world = World::new(fs, fate.clock.clone(), fate.rng.clone(), net, identity, key, settings(), peers);
            let worker = Loop { disk, world: Arc::new(world), jobs: BTreeMap::new() };
            // As the worker does at its start.
            let _ = r#loop::worker::settle(&worker.disk);
            let _ = stock::check(&worker.disk, &person.identity, &person.spool_key);
            worker.refill(self.who);
            self.worker = Some(worker);
        }
        self.wire.revive(self.who);
    }

    /// A failed sync has left its word: the daemon is started anew, and forgets it.
    pub fn heal(&mut self) -> bool {
        let sick = self.disk.exists(SICK);
        if sick {
            self.disk.unplant(SICK);
            self.worker.iter().for_each(|worker| worker.disk.kill());
            self.wire.kill(self.who);
        }
        sick
    }

    /// After a power cut every process is gone, and directories are of another boot.
    pub fn restart(&mut self, seed: u64) {
        self.worker = None;
        self.keepers.clear();
        self.disk.restart(seed);
        for (path, bytes) in self.disk.tree() {
            if let Some(facts) = Facts::believed(&path, &bytes).filter(|_| path.ends_with("/peer")) {
                self.disk.plant(&path, &facts.with("boot", "before").content(&path));
            }
        }
    }

    /// The channels that are pulled: what is wanted of each.
    pub fn pulls(&self) -> Vec<String> {
        let jobs = self.worker.iter().flat_map(|worker| worker.jobs.values());
        jobs.flat_map(|attended| &attended.pulls).map(Puller::show).collect()
    }

    /// All that can be done here at this moment, in a fixed order.
    pub fn turns(&self) -> Vec<Turned> {
        let mut turns = Vec::new();
        for place in Place::ALL {
            for msgid in place.ids(&self.disk).unwrap_or_default() {
                turns.push(Turned::Step(place, msgid));
            }
        }
        for (msgid, attended) in self.worker.iter().flat_map(|worker| &worker.jobs) {
            turns.extend((0..attended.pulls.len()).map(|number| Turned::Pull(*msgid, number)));
        }
        for msgid in Place::Jobs.ids(&self.disk).unwrap_or_default() {
            if self.keepers.contains_key(&msgid) || keeper::is_wanted(&self.disk, msgid) {
                turns.push(Turned::Keep(msgid));
            }
        }
        turns
    }

    /// Does one thing. `late`: a sync of a pull is left for later.
    pub fn turn(&mut self, turn: Turned, late: bool) {
        let person = &people()[self.who];
        match turn {
            Turned::Step(place, msgid) => {
                let Some(worker) = &mut self.worker else { return };
                worker.step(self.who, place, msgid);
            }
            Turned::Pull(msgid, number) => {
                let Some(worker) = &mut self.worker else { return };
                let Some(attended) = worker.jobs.get_mut(&msgid) else { return };
                let Some(puller) = attended.pulls.get_mut(number) else { return };
                puller.step(&worker.world, self.who, late);
            }
            Turned::Keep(msgid) => {
                let (disk, ledger, hasty) = (&self.disk, &self.ledger, self.hasty);
                let make = || Keeper::start(person, disk.process(), msgid, ledger.clone(), hasty);
                self.keepers.entry(msgid).or_insert_with(make).step(person);
            }
        }
    }
}

impl Loop {
    fn refill(&self, who: usize) {
        let person = &people()[who];
        let wanted = self.world.settings.onetime_keys;
        if stock::is_low(&self.disk, wanted).unwrap_or(false) {
            let _ = stock::refill(&self.disk, &person.identity, &person.spool_key, wanted);
        }
    }

    fn step(&mut self, who: usize, place: Place, msgid: MsgId) {
        match place {
            Place::Queue => drop(at_once(outgoing::work(&self.world, msgid))),
            Place::Rqueue => {
                at_once(incoming::work(&self.world, msgid));
                self.refill(who);
            }
            Place::Jobs => {
                let world = self.world.clone();
                let attended = self.jobs.entry(msgid);
                let attended = attended.or_insert_with(|| Attended { job: Job::new(world, msgid), pulls: Vec::new() });
                let report = runtime().block_on(attended.job.step());
                if report.turn != Turn::Live || self.disk.is_dead() {
                    self.jobs.remove(&msgid);
                } else {
                    attended.start_pulls(&self.disk, who, msgid);
                }
            }
        }
    }
}

impl Attended {
    fn start_pulls(&mut self, disk: &SimDisk, who: usize, msgid: MsgId) {
        // What was pulled to its end is pulled anew where that END is gone.
        let is_cut = |chan: Chan| {
            let (dir, broken) = (log_in(msgid, chan), format!("{}/broken", log_in(msgid, chan)));
            !disk.exists(&broken) && log::ended_at(disk, &dir).is_ok_and(|end| end.is_none())
        };
        self.pulls.retain(|puller| !puller.failed && !(puller.over && is_cut(puller.chan)));
        let Some((keys, producer)) = keys(disk, who, msgid) else { return };
        for &chan in producer.produces() {
            let broken = disk.exists(&format!("{}/broken", log_in(msgid, chan)));
            if broken || self.pulls.iter().any(|puller| puller.chan == chan) {
                continue;
            }
            if let Ok(pull) = Pull::open(Arc::new(disk.clone()), keys.clone(), Stream { chan, producer }) {
                self.pulls.push(Puller {
                    chan,
                    pull,
                    told: 0,
                    stumbled: (0, 0),
                    over: false,
                    failed: false,
                    last: String::new(),
                });
            }
        }
    }
}

/// The keys of a job at either side, and who produces what is pulled here.
fn keys(disk: &SimDisk, who: usize, msgid: MsgId) -> Option<(JobKeys, Role)> {
    let person = &people()[who];
    let owner = Owner::read(disk, &Place::Jobs.dir(msgid)).ok()??;
    let keys = match owner.role {
        Role::Sender => look::sender_keys(disk, msgid, &person.spool_key, person.username()).ok()??,
        Role::Recipient => {
            let message = job::message::unseal(disk, Place::Jobs, msgid, &person.spool_key).ok()?;
            let (secret, _) = job::message::read_parts(&message).ok()?;
            JobKeys { secret, sender: owner.username.clone(), recipient: person.username().clone(), msgid }
        }
    };
    Some((keys, owner.role.other()))
}

/// Drives one channel as `loop/stream.rs` does, one GET or one sync at a time.
struct Puller {
    chan: Chan,
    pull: Pull,
    told: u64,
    /// Where what came could not follow, and how often.
    stumbled: (u64, u32),
    /// END is held and told, or the channel is broken.
    over: bool,
    /// Our own disk failed it.
    failed: bool,
    /// What stood against it last.
    last: String,
}

impl Puller {
    fn show(&self) -> String {
        let Puller { chan, pull, told, over, failed, .. } = self;
        let (offset, got, last) = (pull.offset(), pull.got(), &self.last);
        format!("{chan}: at {offset}, got {got}, told {told}, over {over}, failed {failed}: {last}")
    }

    fn step(&mut self, world: &World<SimNet>, who: usize, late: bool) {
        if self.over || self.failed {
            return;
        }
        let pulled = self.pulled(world, who, late);
        self.last = pulled.as_ref().err().map(|trouble| trouble.error.clone()).unwrap_or_default();
        match pulled {
            Ok(()) => {}
            Err(trouble) if trouble.cause == "interrupted" => match self.pull.interrupt(&trouble.error) {
                Ok(()) => self.over = true,
                Err(_) => self.failed = true,
            },
            Err(trouble) if trouble.cause.starts_with("disk") => self.failed = true,
            Err(_) => {}
        }
    }

    fn pulled(&mut self, world: &World<SimNet>, who: usize, late: bool) -> Result<(), Trouble> {
        if let Some(sync) = self.pull.sync().filter(|_| !late) {
            self.pull.synced(sync.run()?)?;
        }
        let person = &people()[who];
        let (peer, got, msgid) = (&person.known, self.pull.got(), self.pull.msgid());
        match self.pull.want() {
            Want::Full | Want::NoRoom(_) => Ok(()),
            Want::End if self.pull.ended().is_some() && self.told >= self.pull.offset() => {
                self.over = true;
                Ok(())
            }
            Want::End if got <= self.told => Ok(()),
            Want::End => {
                at_once(comm::ask(world, peer, Ask::Got(self.chan, got), msgid))?;
                self.told = got;
                Ok(())
            }
            Want::Get { n, from, until } => {
                self.told = self.told.max(got);
                let what = What::Seg { msgid, chan: self.chan, n, got };
                let path = url::sign(&peer.remote.username, &what, person.username(), &peer.pair.request_out);
                let get = Get { path, from, until: Some(until), wait: Duration::ZERO };
                let mut answer = at_once(world.net.get(&peer.remote, get))?;
                match (answer.status, answer.total) {
                    (200 | 206, _) => {
                        while let Some(bytes) = at_once(answer.body.next())? {
                            match self.pull.feed(&bytes) {
                                Ok(_) => {}
                                Err(error @ CopyError::Bad(_)) => {
                                    self.stumble(world, who);
                                    return Err(error.into());
                                }
                                Err(error) => return Err(error.into()),
                            }
                        }
                        return Ok(());
                    }
                    (204, _) => {
                        if self.pull.doubt() || self.pull.is_overdue() {
                            self.stumble(world, who);
                        }
                        return Ok(());
                    }
                    (416, Some(total)) => {
                        let before = self.pull.want();
                        self.pull.close(total);
                        if self.pull.want() != before {
                            return Ok(());
                        }
                    }
                    (416, None) => self.stumble(world, who),
                    _ => {}
                }
                if self.pull.doubt() {
                    self.stumble(world, who);
                    return Ok(());
                }
                self.ask(world, who)
            }
        }
    }

    /// What came cannot follow what is held; when it is so again, the producer is to look.
    fn stumble(&mut self, world: &World<SimNet>, who: usize) {
        let at = self.pull.offset();
        self.stumbled = (at, if self.stumbled.0 == at { self.stumbled.1 + 1 } else { 1 });
        if self.stumbled.1 > 1 {
            let tip = Ask::Tip(self.chan, at);
            let _ = at_once(comm::ask(world, &people()[who].known, tip, self.pull.msgid()));
        }
    }

    /// A bare status proves nothing.
    fn ask(&mut self, world: &World<SimNet>, who: usize) -> Result<(), Trouble> {
        let peer = &people()[who].known;
        let reply = at_once(comm::ask(world, peer, Ask::Sta, self.pull.msgid()))?;
        if reply.word != Word::Ok {
            return Ok(());
        }
        match segments_of(&reply.data, self.chan) {
            Some((first, last)) => {
                self.pull.missing(first, last)?;
                self.stumble(world, who);
                Ok(())
            }
            None if self.pull.offset() == 0 => Ok(()),
            None => Err(Trouble::new("interrupted", "the log is gone")),
        }
    }
}
