//! A whole exchange, struck by one fault at every operation of either disk.
//!
//! `plumb` sends three records of input, the command echoes them and exits with
//! 7; receipt, acknowledgement, end and forgetting follow. Whatever is struck,
//! both sides come to rest, and what is promised for that fault holds.

use super::disk::{Broken, Fault, SimDisk};
use super::keeper::{Lived, STATUS};
use super::people::{A, B};
use super::plumb::{Ending, Plumb};
use super::two::Two;
use spool::facts::Facts;
use spool::fs::{Fs, is_hidden};
use spool::layout::Place;
use spool::outcome::Outcome;
use spool::phase::Mark;
use std::collections::{BTreeMap, BTreeSet};

pub const INPUT: [&[u8]; 3] = [b"first record ", b"second record ", b"and the third"];

/// What became of an exchange.
pub struct Told {
    rested: bool,
    /// How `plumb` ended.
    pub ending: Option<Ending>,
    delivered: Vec<u8>,
    sent_end: bool,
    lived: Lived,
    /// What the recipient's tombstone says.
    over: Option<Outcome>,
    lost_keepers: u32,
    remains: BTreeSet<String>,
    /// What lay there then, if one seed is repeated.
    dump: String,
    forgotten: bool,
    violations: Vec<String>,
    pub struck: Option<String>,
    pub operations: [u64; 2],
    looks: [u64; 2],
    batch: bool,
    repeat: bool,
    /// A file was damaged.
    pub harmed: bool,
    /// The two spools are of different times, so each may not know what the other has done.
    pub apart: bool,
    /// How long it took.
    pub rounds: u32,
}

/// Tells a story from the first act of `plumb` until nothing is left of it.
/// `begin` sees to its beginning, as far as it goes.
pub fn tell(mut two: Two, begin: impl FnOnce(&mut Two)) -> Told {
    let disk = two.machines[A].disk.process();
    two.plumb = Some(Plumb::start(disk, INPUT.map(<[u8]>::to_vec), two.batch, two.repeat));
    begin(&mut two);
    conclude(two)
}

/// Tells the rest of a story that has begun.
pub fn conclude(mut two: Two) -> Told {
    let mut rested = two.rest();
    if two.heal() {
        rested &= two.rest();
    }
    let mut remains: BTreeSet<String> = [A, B].into_iter().flat_map(|who| two.remains(who)).collect();
    let (operations, looks) = (two.operations(), two.looks());
    let dump = if super::is_repeated() { format!("\n{}", two.dump()) } else { String::new() };
    // Output that nobody came for waits to be collected; in time it is too old.
    let collect = remains.iter().any(|what| what == "a's jobs: Ended");
    if collect {
        two.age();
        rested &= two.rest();
        remains = [A, B].into_iter().flat_map(|who| two.remains(who)).collect();
    }
    let recipient = &two.machines[B].disk;
    let jobs = Place::Jobs.ids(recipient).unwrap_or_default();
    let over = jobs
        .first()
        .and_then(|msgid| Facts::read(recipient, &Place::Jobs.file(*msgid, Mark::Over.name())).ok()??.value("outcome"));
    two.age_tombstones();
    rested &= two.rest();
    let is_empty = |disk: &SimDisk| {
        let visible = |dir| disk.list(dir).unwrap_or_default().iter().any(|entry| !is_hidden(&entry.name));
        !["queue", "rqueue", "jobs", "running"].into_iter().any(visible)
    };
    let forgotten = two.machines.iter().all(|machine| is_empty(&machine.disk));
    let plumb = two.plumb.as_ref();
    Told {
        rested,
        ending: plumb.and_then(|plumb| plumb.ending.clone()),
        delivered: plumb.map(|plumb| plumb.delivered[0].clone()).unwrap_or_default(),
        sent_end: plumb.is_none_or(|plumb| plumb.sent_end),
        lived: two.machines[B].ledger.lived(),
        over,
        lost_keepers: two.machines[B].lost_keepers,
        remains,
        dump,
        forgotten,
        violations: two.wire.violations(),
        struck: [A, B].into_iter().find_map(|who| two.machines[who].disk.struck()),
        operations,
        looks,
        batch: two.batch,
        repeat: two.repeat,
        harmed: false,
        apart: false,
        rounds: two.rounds,
    }
}

impl Told {
    /// What was promised, whatever goes wrong, and does not hold.
    pub fn broken_always(&self) -> Option<String> {
        let input = INPUT.concat();
        let Lived { runs, read, saw_end } = &self.lived;
        if let Some(violation) = self.violations.first() {
            return Some(violation.clone());
        }
        if !self.rested {
            return Some(format!("no rest in {} rounds; {:?}", self.rounds, self.remains));
        }
        if !self.remains.is_empty() {
            return Some(format!("at rest remains {:?}{}", self.remains, self.dump));
        }
        if !self.forgotten {
            return Some("a tombstone stays although it is confirmed and old".into());
        }
        if *runs > 1 && !self.repeat {
            return Some(format!("the command ran {runs} times"));
        }
        if *saw_end && !(self.sent_end && *read == input) {
            return Some("the command read a false end of file".into());
        }
        if !input.starts_with(read) {
            return Some("the command read something else".into());
        }
        if self.batch && *runs > 0 && !self.sent_end {
            return Some("it was started before its input was whole".into());
        }
        let exited = Outcome::Exited(STATUS);
        let outcome = self.outcome()?;
        if outcome == Outcome::NotStarted && *runs > 0 && !self.apart {
            return Some("\"not started\", and the command ran".into());
        }
        // A tombstone whose job was damaged may know less.
        let over = self.over == Some(exited.clone()) || self.harmed;
        let saw_end = *saw_end || self.apart;
        if outcome == exited && (self.delivered != input || !saw_end || !over) {
            return Some(format!(
                "a false success: {:?}, over {:?}",
                String::from_utf8_lossy(&self.delivered),
                self.over
            ));
        }
        None
    }

    /// How the job ended, as `plumb` says; `None` if it did not live so long.
    pub fn outcome(&self) -> Option<Outcome> {
        Some(match self.ending.as_ref()? {
            Ending::Of(outcome) | Ending::Disk(outcome) => outcome.clone(),
            Ending::Incomplete(_) => Outcome::Unknown,
        })
    }

    /// What was promised for one fault on one side, and does not hold.
    fn broken_promise(&self, who: usize, fault: Option<Fault>) -> Option<String> {
        if let Some(broken) = self.broken_always() {
            return Some(broken);
        }
        let exited = Outcome::Exited(STATUS);
        let Some(outcome) = self.outcome() else {
            let may_kill = who == A && matches!(fault, Some(Fault::Kill | Fault::KillHalfway | Fault::Cut));
            return (!may_kill).then(|| "plumb never ended".into());
        };
        let promised = match (who, fault) {
            // It is run again; what a failed sync loses is another matter.
            (B, Some(Fault::Kill | Fault::KillHalfway | Fault::Cut)) if self.repeat => outcome == exited,
            (B, Some(Fault::Kill | Fault::KillHalfway)) if self.lost_keepers > 0 => {
                outcome == exited || outcome == Outcome::Interrupted
            }
            (B, Some(Fault::Cut)) => outcome == exited || outcome == Outcome::Interrupted,
            (_, Some(Fault::Unsynced | Fault::Unread)) => true,
            _ => outcome == exited,
        };
        (!promised).then(|| format!("it ended with {:?}, over {:?}", self.ending, self.over))
    }
}

/// Strikes one operation, and says what promise broke, if one did.
fn strike(who: usize, at: u64, fault: Fault, seed: u64, prepare: impl Fn(&mut Two)) -> Option<String> {
    let mut two = Two::fresh(seed);
    prepare(&mut two);
    two.strike(who, at, fault);
    let told = tell(two, |_| {});
    let name = ["sender", "recipient"][who];
    let struck = told.struck.clone().unwrap_or_default();
    let broken = told.broken_promise(who, Some(fault))?;
    Some(format!("{name}, operation {at}, seed {seed}: {struck}: {broken}"))
}

/// Strikes every operation of both sides, one in each story, and gives every promise that breaks.
fn strike_all(
    fault: Fault,
    seeds: std::ops::Range<u64>,
    prepare: impl Fn(&mut Two) + Copy,
) -> impl Iterator<Item = String> {
    let mut two = Two::fresh(0);
    prepare(&mut two);
    let told = tell(two, |_| {});
    let operations = if fault == Fault::Unread { told.looks } else { told.operations };
    let points = [A, B].into_iter().flat_map(move |who| (1..=operations[who]).map(move |at| (who, at)));
    let points = seeds.flat_map(move |seed| points.clone().map(move |(who, at)| (who, at, seed)));
    points.filter_map(move |(who, at, seed)| strike(who, at, fault, seed * 1000 + at, prepare))
}

pub fn nothing(_: &mut Two) {}

pub fn all_kept(broken: impl Iterator<Item = String>) {
    let broken: Vec<String> = broken.collect();
    let mut kinds: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for line in &broken {
        let kind = line.splitn(3, ": ").nth(2).unwrap_or(line).to_string();
        kinds.entry(kind).or_insert((0, line.clone())).0 += 1;
    }
    for (count, line) in kinds.values() {
        eprintln!("{count} times: {line}");
    }
    assert!(broken.is_empty(), "{} promises broken", broken.len());
}

#[test]
fn without_any_fault_the_command_runs_once_and_nothing_is_left() {
    let told = tell(Two::fresh(1), |_| {});
    eprintln!("{:?} operations, {} rounds, {:?}", told.operations, told.rounds, told.ending);
    assert_eq!(told.broken_promise(A, None), None);
    assert_eq!(told.ending, Some(Ending::Of(Outcome::Exited(STATUS))));
}

#[test]
fn any_process_may_be_killed_at_any_operation() {
    all_kept(strike_all(Fault::Kill, 0..1, nothing));
    all_kept(strike_all(Fault::KillHalfway, 0..1, nothing));
}

#[test]
fn any_operation_may_find_the_disk_full() {
    all_kept(strike_all(Fault::Full, 0..1, nothing));
    all_kept(strike_all(Fault::Short, 0..1, nothing));
}

#[test]
fn the_power_may_go_at_any_operation() {
    all_kept(strike_all(Fault::Cut, 0..6, nothing));
}

#[test]
fn any_sync_may_fail() {
    all_kept(strike_all(Fault::Unsynced, 0..1, nothing));
}

/// A file that could not be opened to be synced was taken for lost, and its job cancelled.
#[test]
fn any_operation_may_find_no_descriptor() {
    for prepare in [nothing, batch, repeat] {
        all_kept(strike_all(Fault::Shortage, 0..1, prepare));
    }
}

/// A file that could not be read at the moment was taken for a lost one: our own job
/// for one that we run, its message for an orphan, and both were removed.
#[test]
fn any_look_may_fail() {
    all_kept(strike_all(Fault::Unread, 0..1, nothing));
}

#[test]
#[ignore = "some minutes: cargo test --release --test main -- --ignored --nocapture any_look"]
fn any_look_may_fail_in_every_kind_of_job() {
    for prepare in [batch, repeat] {
        all_kept(strike_all(Fault::Unread, 0..1, prepare));
    }
}

#[test]
fn a_look_that_fails_and_says_that_nothing_is_there_breaks_promises() {
    let blind = |two: &mut Two| two.break_it(&Broken { blind: true, ..Broken::default() });
    eprintln!("{}", strike_all(Fault::Unread, 0..1, blind).next().expect("a promise breaks"));
}

pub fn batch(two: &mut Two) {
    two.batch = true;
}

pub fn repeat(two: &mut Two) {
    (two.batch, two.repeat) = (true, true);
}

#[test]
fn a_batch_job_keeps_its_promises_at_every_fault() {
    for fault in [Fault::Kill, Fault::KillHalfway, Fault::Full, Fault::Short, Fault::Unsynced] {
        all_kept(strike_all(fault, 0..1, batch));
    }
    all_kept(strike_all(Fault::Cut, 0..2, batch));
}

#[test]
fn what_may_be_run_again_ends_by_itself_whatever_its_machine_does() {
    for fault in [Fault::Kill, Fault::KillHalfway, Fault::Full, Fault::Short, Fault::Unsynced] {
        all_kept(strike_all(fault, 0..1, repeat));
    }
    all_kept(strike_all(Fault::Cut, 0..3, repeat));
    // The control: some were struck while they ran, and what may not be run again is not.
    let told = |prepare: fn(&mut Two), at: u64| {
        let mut two = Two::fresh(at);
        prepare(&mut two);
        two.strike(B, at, Fault::Kill);
        tell(two, |_| {})
    };
    let again = (1..200).filter(|&at| told(repeat, at).lived.runs == 2).count();
    let interrupted = (1..200).filter(|&at| told(batch, at).outcome() == Some(Outcome::Interrupted)).count();
    assert!(again > 3 && interrupted > 3, "{again} {interrupted}");
}

/// The checks of what is said are left out: the loss itself must show. That
/// everything comes to rest does not hang on any sync, so "remains" is not among it.
#[test]
fn without_syncs_a_power_cut_breaks_promises() {
    let broken: Vec<String> = strike_all(Fault::Cut, 0..2, |two| {
        two.wire.unchecked();
        two.break_it(&Broken { without_sync: vec![String::new()], ..Broken::default() });
    })
    .collect();
    let is_there = |what: &str| assert!(broken.iter().any(|line| line.contains(what)), "{what}");
    ["ran 2 times", "a false success", "it ended with"].into_iter().for_each(is_there);
}

#[test]
fn a_directory_that_is_renamed_before_its_files_are_synced_breaks_promises() {
    let mut broken = strike_all(Fault::Cut, 0..6, |two| {
        two.wire.unchecked();
        two.break_it(&Broken { mark_first: true, ..Broken::default() });
    });
    eprintln!("{}", broken.next().expect("a promise breaks"));
}

#[test]
fn a_command_that_starts_before_run_started_runs_twice() {
    let mut broken = strike_all(Fault::Kill, 0..1, |two| two.machines[B].hasty = true);
    let broken = broken.next().expect("a promise breaks");
    assert!(broken.contains("ran 2 times"), "{broken}");
}

/// For each sync of the product: with it left out, a power cut breaks a promise.
#[test]
#[ignore = "some minutes: cargo test --release --test main -- --ignored --nocapture each_sync"]
fn each_sync_is_needed() {
    let two = Two::fresh(0);
    let disks = [A, B].map(|who| two.machines[who].disk.clone());
    tell(two, |_| {});
    let labels: BTreeSet<String> = disks.iter().flat_map(SimDisk::labels).collect();
    let mut needless = Vec::new();
    for label in labels {
        let broken = strike_all(Fault::Cut, 0..12, |two| {
            two.break_it(&Broken { without_sync: vec![label.clone()], ..Broken::default() });
        })
        .next();
        eprintln!("{label}: {}", broken.as_deref().unwrap_or("nobody misses it"));
        if broken.is_none() {
            needless.push(label);
        }
    }
    eprintln!("{} of them nobody misses: {needless:?}", needless.len());
}
