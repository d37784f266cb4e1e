//! The two machines together: rounds of work until nothing moves, faults, and
//! what must be so in the end.

use super::cut::Chance;
use super::disk::{Broken, Fault, SimDisk};
use super::machine::{Fate, Machine};
use super::net::Wire;
use super::people::{A, B, people, settings};
use super::plumb::Plumb;
use spool::clock::{CLOCK, Clock, Rng};
use spool::facts::Facts;
use spool::fs::{Fs, is_hidden};
use spool::layout::{MESSAGE, Owner, Place, rest_label};
use spool::look;
use spool::name::{Digest, MsgId, Role};
use spool::phase::Mark;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time that passes when it is told to.
#[derive(Default)]
pub struct HandClock(AtomicU64);

impl HandClock {
    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Chance that a seed repeats.
struct SeededRng(Mutex<Chance>);

impl Rng for SeededRng {
    fn fill(&self, bytes: &mut [u8]) {
        let mut chance = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        bytes.iter_mut().for_each(|byte| *byte = chance.below(256) as u8);
    }
}

/// More rounds than any exchange needs.
const ROUNDS_MAX: u32 = 400;
/// What passes in a round.
const ROUND: Duration = Duration::from_millis(200);
/// Beyond every pause of the product that is not an age.
const PAUSE: Duration = Duration::from_secs(11);
/// So many quiet rounds in a row are rest.
const QUIET: u32 = 3;
/// Older than any message may become.
const AGE: u64 = 8 * 24 * 3600;
/// Older than any confirmed tombstone.
const TOMBSTONE: u64 = 31 * 24 * 3600;

/// Both machines, what is between them, and a `plumb`.
pub struct Two {
    pub machines: [Machine; 2],
    pub wire: Arc<Wire>,
    pub plumb: Option<Plumb>,
    /// The job starts with its whole input.
    pub batch: bool,
    /// It may be run again.
    pub repeat: bool,
    pub rounds: u32,
    clock: Arc<HandClock>,
    /// Seeds of what power cuts take.
    cuts: Chance,
}

impl Two {
    /// Two machines with these disks.
    pub fn new(disks: [SimDisk; 2], seed: u64) -> Two {
        let clock = Arc::new(HandClock::default());
        // Not zero: a job asks for the first time after a moment.
        clock.pass(Duration::from_secs(1000));
        let rng = Arc::new(SeededRng(Mutex::new(Chance(seed))));
        let fate = Fate { clock: clock.clone(), rng };
        let wire = Wire::new(disks.clone(), clock.clone(), seed);
        let [a, b] = disks;
        let machines = [Machine::new(A, a, wire.clone(), fate.clone()), Machine::new(B, b, wire.clone(), fate)];
        Two { machines, wire, plumb: None, batch: false, repeat: false, rounds: 0, clock, cuts: Chance(seed) }
    }

    /// Two machines with nothing to do.
    pub fn fresh(seed: u64) -> Two {
        Two::new([A, B].map(|who| people()[who].spool()), seed)
    }

    /// Orders a fault at an operation of one machine.
    pub fn strike(&self, who: usize, at: u64, fault: Fault) {
        self.machines[who].disk.strike(Some((at, fault)));
    }

    /// Leaves things out on both machines.
    pub fn break_it(&self, broken: &Broken) {
        self.machines.iter().for_each(|machine| machine.disk.break_it(broken));
    }

    /// Starts what is dead, on machines that lost their power too.
    fn recover(&mut self) {
        for who in [A, B] {
            if self.machines[who].disk.is_cut() {
                let seed = self.cuts.below(u64::MAX);
                self.machines[who].restart(seed);
            }
            self.machines[who].revive();
        }
    }

    /// Operations of both disks so far.
    pub fn operations(&self) -> [u64; 2] {
        [A, B].map(|who| self.machines[who].disk.operations())
    }

    /// Looks at both disks so far.
    pub fn looks(&self) -> [u64; 2] {
        [A, B].map(|who| self.machines[who].disk.looks())
    }

    fn plumb(&mut self) {
        if let Some(plumb) = self.plumb.as_mut().filter(|plumb| !plumb.is_gone()) {
            plumb.step();
            self.recover();
        }
    }

    /// Everything that can move moves once, in a fixed order.
    pub fn round(&mut self) {
        self.rounds += 1;
        self.recover();
        self.plumb();
        for who in [A, B] {
            for turn in self.machines[who].turns() {
                self.machines[who].turn(turn, false);
                self.recover();
            }
        }
        self.clock.pass(ROUND);
    }

    /// Some of what can move moves, in an order of chance.
    pub fn random_round(&mut self, chance: &mut Chance) {
        self.rounds += 1;
        self.recover();
        let mut turns: Vec<Option<_>> = vec![None];
        for who in [A, B] {
            turns.extend(self.machines[who].turns().into_iter().map(|turn| Some((who, turn))));
        }
        while !turns.is_empty() {
            let which = chance.below(turns.len() as u64) as usize;
            let turn = turns.swap_remove(which);
            if chance.happens(300) {
                continue;
            }
            match turn {
                None => self.plumb(),
                Some((who, turn)) => {
                    self.machines[who].turn(turn, chance.happens(300));
                    self.recover();
                }
            }
        }
        self.clock.pass(ROUND * (1 + chance.below(20) as u32));
    }

    /// Goes on until nothing changes any more; says whether that came to be.
    pub fn rest(&mut self) -> bool {
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            let before = self.operations();
            self.round();
            if self.operations() != before {
                quiet = 0;
                continue;
            }
            quiet += 1;
            if quiet == QUIET {
                return true;
            }
            self.clock.pass(PAUSE);
        }
        false
    }

    /// Where a sync has failed, the daemon is started anew; says whether one was.
    pub fn heal(&mut self) -> bool {
        self.machines.iter_mut().map(Machine::heal).fold(false, |any, healed| any | healed)
    }

    /// Everything becomes too old, but for tombstones.
    pub fn age(&self) {
        self.grow_older(AGE);
    }

    /// Confirmed tombstones become too old.
    pub fn age_tombstones(&self) {
        self.grow_older(TOMBSTONE);
    }

    fn grow_older(&self, seconds: u64) {
        for machine in &self.machines {
            let now = spool::clock::uptime(&machine.disk).expect("it is alive") + seconds;
            machine.disk.plant(CLOCK, &Facts::new().with("uptime", now).content(CLOCK));
        }
    }

    /// Everything that lies on both disks, and what is being pulled: for whoever repeats a seed.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for (machine, name) in self.machines.iter().zip(["a", "b"]) {
            for (path, bytes) in machine.disk.tree() {
                let shown = if bytes.len() > 40 || bytes.contains(&0) {
                    String::new()
                } else {
                    String::from_utf8_lossy(&bytes).escape_debug().to_string()
                };
                text += &format!("{name} {path} {} {shown}\n", bytes.len());
            }
            text += &format!("{name} pulls {:?}\n", machine.pulls());
        }
        text
    }

    /// What is left on a machine beyond its stock, hidden names and tombstones
    /// that hold no more than they should: the phase of each.
    pub fn remains(&self, who: usize) -> BTreeSet<String> {
        let disk = &self.machines[who].disk;
        let mut remains = BTreeSet::new();
        for place in Place::ALL {
            for msgid in place.ids(disk).unwrap_or_default() {
                let phase = phase(disk, who, place, msgid);
                if !phase.starts_with("Over") {
                    remains.insert(format!("{}'s {}: {phase}", ["a", "b"][who], place.word()));
                }
            }
        }
        for entry in disk.list("running").unwrap_or_default() {
            // One that came back after a power cut goes with the tombstone.
            if !is_hidden(&entry.name) && !disk.exists(&format!("jobs/{}/over", entry.name)) {
                remains.insert(format!("{}'s running", ["a", "b"][who]));
            }
        }
        remains
    }
}

/// Where a message or job stands, as the product's own tables see it.
pub fn phase(disk: &SimDisk, who: usize, place: Place, msgid: MsgId) -> String {
    let (person, ages) = (&people()[who], settings().ages());
    let pair = &person.known.pair;
    let valid = |receipt: Digest, digest: Digest| pair.is_receipt(receipt, msgid, digest);
    let dir = place.dir(msgid);
    let owner = Owner::read(disk, &dir).expect("it can be read");
    match place {
        Place::Queue => {
            let opens = |sealed: &[u8], digest: Option<Digest>| {
                let opened = person.spool_key.open(&rest_label(MESSAGE, msgid), sealed);
                opened.is_ok_and(|message| digest == Some(Digest::of(&message)))
            };
            let seen = look::queue(disk, msgid, &ages, opens, valid);
            format!("{:?}", seen.map(|seen| seen.phase()).expect("it can be looked at"))
        }
        Place::Rqueue => {
            format!("{:?}", look::rqueue(disk, msgid, &ages).map(|seen| seen.phase()).expect("it can be looked at"))
        }
        Place::Jobs => match owner {
            Some(owner) if owner.role == Role::Sender => {
                let keys = look::sender_keys(disk, msgid, &person.spool_key, person.username());
                let keys = keys.expect("it can be read").is_some();
                let receipt = look::mark(disk, &dir, Mark::Receipt)
                    .expect("it can be read")
                    .and_then(|facts| facts.value("receipt"));
                let receipt = receipt.zip(owner.digest).is_some_and(|(receipt, digest)| valid(receipt, digest));
                let seen = look::sender(disk, msgid, &ages, &owner, keys, receipt);
                format!("{:?}", seen.map(|seen| seen.phase()).expect("it can be looked at"))
            }
            owner => {
                let message = job::message::unseal(disk, Place::Jobs, msgid, &person.spool_key).is_ok();
                let seen = look::recipient(disk, msgid, &ages, owner.as_ref(), message);
                format!("{:?}", seen.map(|seen| seen.phase()).expect("it can be looked at"))
            }
        },
    }
}
