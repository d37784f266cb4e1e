//! One file is damaged, and nothing else goes wrong: it ends, with a reported outcome.
//!
//! Of a whole exchange each file is harmed before each operation of its disk,
//! while all processes live. And from each pair of phases that the two spools
//! were in, whichever belong together, with any one file harmed at one of the
//! two, on simulated disks and in real directories: everything comes to rest.

use super::cut::Chance;
use super::disk::{Harm, SimDisk, Tree, general};
use super::keeper::Lived;
use super::people::{A, B, people};
use super::plumb::Plumb;
use super::real::Real;
use super::seeds;
use super::story::{INPUT, Told, all_kept, batch, conclude, nothing, repeat, tell};
use super::two::{Two, phase};
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{DETACHED, Place, log_out};
use spool::log;
use spool::look;
use spool::name::{Chan, MsgId};
use std::collections::BTreeMap;
use std::time::Instant;

const HARMS: [Harm; 5] = [Harm::Flip, Harm::Cut, Harm::Zero, Harm::Gone, Harm::Odd];
const NAMES: [&str; 2] = ["sender", "recipient"];

/// Is it a file of a message or job, and no hidden one?
fn is_of_a_job(path: &str) -> bool {
    let ours = Place::ALL.iter().any(|place| path.starts_with(&format!("{}/ID", place.word())));
    ours && !path.contains(".hidden")
}

/// A directory that is removed takes with it what no file of it can say.
fn can_be(path: &str, harm: Harm) -> bool {
    let directory = path.ends_with('/');
    match harm {
        Harm::Flip | Harm::Cut | Harm::Zero => !directory,
        // What says that it is to end, or that it was received, is taken back by whoever removes it.
        Harm::Gone | Harm::Odd => !directory && !path.ends_with("/cancel") && !path.ends_with("/run.started"),
    }
}

/// What broke, of what is promised when one file is harmed.
fn broken(told: &mut Told) -> Option<String> {
    told.harmed = true;
    told.broken_always().or_else(|| told.outcome().is_none().then(|| "plumb never ended".into()))
}

/// Every file that lies on a disk before each of its operations.
fn files_at_operations(prepare: fn(&mut Two)) -> Vec<(usize, u64, String)> {
    let mut two = Two::fresh(0);
    prepare(&mut two);
    let disks = [A, B].map(|who| two.machines[who].disk.clone());
    disks.iter().for_each(SimDisk::keep);
    tell(two, |_| {});
    let mut points = Vec::new();
    for (who, disk) in disks.iter().enumerate() {
        for (at, (_, tree)) in disk.kept().into_iter().enumerate() {
            let paths = tree.keys().map(|path| general(path)).filter(|path| is_of_a_job(path));
            points.extend(paths.map(|path| (who, at as u64 + 1, path)));
        }
    }
    points
}

/// Harms a file in the middle of an exchange, and says what promise broke.
fn strike(who: usize, at: u64, path: &str, harm: Harm, prepare: fn(&mut Two)) -> Option<String> {
    let mut two = Two::fresh(at);
    prepare(&mut two);
    // What is told is held against what a disk still has.
    two.wire.unchecked();
    two.machines[who].disk.strike_file(at, path, harm);
    let mut told = tell(two, |_| {});
    let broken = broken(&mut told)?;
    Some(format!("{} {at}, {path} {harm:?}: {broken}", NAMES[who]))
}

/// Harms so many files of exchanges, spread over all operations.
fn strike_some(share: u64, prepare: fn(&mut Two)) {
    let points = files_at_operations(prepare);
    let begun = Instant::now();
    let all = points.iter().flat_map(|point| HARMS.map(|harm| (point, harm)));
    let all: Vec<_> = all.filter(|((_, _, path), harm)| can_be(path, *harm)).collect();
    let mut chance = Chance(share);
    let some: Vec<_> = all.into_iter().filter(|_| chance.below(share) == 0).collect();
    println!("{} stories with a harmed file", some.len());
    all_kept(some.into_iter().filter_map(|((who, at, path), harm)| strike(*who, *at, path, harm, prepare)));
    println!("   in {:.1?}", begun.elapsed());
}

#[test]
fn any_file_may_be_damaged_at_any_operation() {
    let share = if cfg!(debug_assertions) { 2000 } else { 100 };
    for prepare in [nothing, batch, repeat] {
        strike_some(share, prepare);
    }
}

/// A loop remembered what it had read, and one that could not open its input log decided nothing.
#[test]
fn what_opens_a_job_may_be_damaged_at_any_operation() {
    let points = files_at_operations(nothing).into_iter().enumerate();
    let opens = |path: &str| ["jobs/ID/key", "jobs/ID/message", "jobs/ID/peer"].contains(&path);
    let step = if cfg!(debug_assertions) { 97 } else { 11 };
    let some = points.filter(|(number, (_, _, path))| opens(path) && number % step == 0);
    all_kept(some.filter_map(|(_, (who, at, path))| strike(who, at, &path, Harm::Flip, nothing)));
}

/// `cargo test --release --test main -- --ignored --nocapture every_file_may_be`
#[test]
#[ignore = "half an hour"]
fn every_file_may_be_damaged_at_every_operation() {
    for prepare in [nothing, batch, repeat] {
        strike_some(1, prepare);
    }
}

/// A spool as it lay at some moment of an exchange.
struct Moment {
    /// Its phases, and the marks that say more.
    what: String,
    /// It lay so from here on.
    at: Instant,
    /// And no longer than until then.
    until: Instant,
    tree: Tree,
}

const TELLING: [&str; 9] = ["sent", "receipt", "done", "cancel", "acked", "over", "run.started", "run.exit", "recv.ok"];

/// Each pair of phases in which one of the two spools was, once.
fn moments() -> [Vec<Moment>; 2] {
    let two = Two::fresh(0);
    let disks = [A, B].map(|who| two.machines[who].disk.clone());
    disks.iter().for_each(SimDisk::keep);
    tell(two, |_| {});
    [A, B].map(|who| {
        let mut moments = BTreeMap::new();
        for (at, tree) in disks[who].kept() {
            let disk = planted(SimDisk::new(), &tree);
            let mut what = String::new();
            for place in Place::ALL {
                for msgid in place.ids(&disk).unwrap_or_default() {
                    what += &format!("{} {}, ", place.word(), phase(&disk, who, place, msgid));
                    let marks = TELLING.iter().filter(|mark| disk.exists(&place.file(msgid, mark)));
                    what += &marks.map(|mark| format!("{mark}, ")).collect::<String>();
                }
            }
            let tree = left(&disk, tree);
            let moment = Moment { what: what.clone(), at, until: at, tree };
            moments.entry(what).or_insert(moment).until = at;
        }
        moments.into_values().collect()
    })
}

/// The same spool, whose job was left when its input had come to its end.
fn left(disk: &SimDisk, mut tree: Tree) -> Tree {
    for msgid in Place::Jobs.ids(disk).unwrap_or_default() {
        let path = Place::Jobs.file(msgid, DETACHED);
        if log::ended_at(disk, &log_out(msgid, Chan::STDIN)).is_ok_and(|end| end.is_some()) {
            tree.insert(path.clone(), Facts::new().with("input", "ended").content(&path));
        }
    }
    tree
}

fn planted(disk: SimDisk, tree: &Tree) -> SimDisk {
    for (path, bytes) in tree {
        match path.strip_suffix('/') {
            Some(dir) => disk.plant_dir(dir),
            None => disk.plant(path, bytes),
        }
    }
    disk
}

/// A tree with one file harmed.
fn harmed(tree: &Tree, path: &str, harm: Harm) -> Tree {
    let mut tree = tree.clone();
    match (harm, tree.remove(path)) {
        (_, None) | (Harm::Gone, _) => {}
        (Harm::Odd, _) => drop(tree.insert(format!("{path}/"), Vec::new())),
        (Harm::Flip | Harm::Cut | Harm::Zero, Some(mut bytes)) => {
            harm.of(&mut bytes);
            tree.insert(path.to_string(), bytes);
        }
    }
    tree
}

/// Where a story begins.
struct Start<'a> {
    moments: [&'a Moment; 2],
    /// The side, the file and its fate.
    harm: (usize, &'a str, Harm),
}

/// All pairs of moments, with each file harmed in each way.
fn starts(moments: &[Vec<Moment>; 2]) -> impl Iterator<Item = Start<'_>> {
    let pairs = moments[A].iter().flat_map(|a| moments[B].iter().map(move |b| [a, b]));
    let files = pairs.flat_map(|pair| [A, B].map(|who| pair[who].tree.keys().map(move |path| (pair, who, path))));
    let harms =
        files.flatten().flat_map(|(moments, who, path)| HARMS.map(|harm| Start { moments, harm: (who, path, harm) }));
    harms.filter(|start| {
        let (_, path, harm) = start.harm;
        is_of_a_job(&general(path)) && can_be(path, harm)
    })
}

/// What the command had lived through by then, as far as its marks say it.
fn lived(disk: &SimDisk, msgid: MsgId) -> Lived {
    let has = |mark: &str| disk.exists(&Place::Jobs.file(msgid, mark));
    let read = if has("run.exit") { INPUT.concat() } else { Vec::new() };
    Lived { runs: has("run.started").into(), read, saw_end: has("run.exit") }
}

/// The job that a tree is of.
fn job_of(tree: &Tree) -> Option<MsgId> {
    tree.keys().find_map(|path| path.strip_prefix("jobs/")?.get(..40)?.parse().ok())
}

/// Tells a story from its start; says what broke.
fn told(start: &Start, disk: fn() -> SimDisk) -> Option<String> {
    let (who, path, harm) = start.harm;
    let whole = start.moments.map(|moment| &moment.tree);
    let mut trees = whole.map(Tree::clone);
    trees[who] = harmed(whole[who], path, harm);
    let disks = [A, B].map(|who| planted(disk(), &trees[who]));
    let mut two = Two::new(disks.clone(), 1);
    two.wire.unchecked();
    if let Some(msgid) = job_of(whole[B]) {
        let sound = planted(SimDisk::new(), whole[B]);
        two.machines[B].ledger.begin(lived(&sound, msgid));
    }
    let mut attached = false;
    if let Some(msgid) = job_of(whole[A]) {
        let keys = look::sender_keys(&disks[A], msgid, &people()[A].spool_key, people()[A].username());
        if let Some(keys) = keys.expect("it can be read") {
            two.plumb = Some(Plumb::attach(disks[A].process(), keys, &INPUT.concat()).expect("nobody has it"));
            attached = true;
        } else {
            // Whoever attaches hears that it is lost, and need not come again.
            job::submit::reattach(&disks[A], msgid).expect("it is there");
        }
    }
    let mut told = conclude(two);
    told.harmed = true;
    // An old copy of the sender's spool does not know what it had said, one of the recipient's what it had done.
    told.apart = start.moments[A].at.max(start.moments[B].at) > start.moments[A].until.min(start.moments[B].until)
        || start.moments.iter().any(|moment| moment.what.is_empty());
    let broken = told.broken_always();
    let broken = broken.or_else(|| (attached && told.outcome().is_none()).then(|| "plumb never ended".into()));
    let [a, b] = start.moments.map(|moment| moment.what.trim_end_matches(", "));
    broken.map(|broken| format!("{}'s {} {harm:?}, a at [{a}], b at [{b}]: {broken}", NAMES[who], general(path)))
}

fn tell_some(what: &str, share: u64, disk: fn() -> SimDisk) {
    let (moments, begun, mut chance) = (moments(), Instant::now(), Chance(share));
    let pairs = moments[A].len() * moments[B].len();
    let some: Vec<Start> = starts(&moments).filter(|_| chance.below(share) == 0).collect();
    println!(
        "{what}: {} starts, from {} x {} = {pairs} pairs of phases",
        some.len(),
        moments[A].len(),
        moments[B].len()
    );
    let one = seeds(some.len() as u64);
    // A child that another test is just starting has for a moment the real locks that we hold, so a story that
    // broke is told again: a fault of the product breaks it each time.
    let told_twice = |start| told(start, disk).and_then(|_| told(start, disk));
    all_kept(some[one.start as usize..one.end as usize].iter().filter_map(told_twice));
    println!("   in {:.1?}", begun.elapsed());
}

#[test]
fn from_any_pair_of_phases_with_a_damaged_file_everything_comes_to_rest() {
    tell_some("on simulated disks", if cfg!(debug_assertions) { 1000 } else { 40 }, SimDisk::new);
}

#[test]
fn from_the_same_starts_in_real_directories_everything_comes_to_rest() {
    tell_some("in real directories", if cfg!(debug_assertions) { 2000 } else { 100 }, || SimDisk::on(Real::new()));
}

/// `cargo test --release --test main -- --ignored --nocapture from_every_pair`
#[test]
#[ignore = "half an hour"]
fn from_every_pair_of_phases_with_every_file_damaged_everything_comes_to_rest() {
    tell_some("on simulated disks", 1, SimDisk::new);
    tell_some("in real directories", 1, || SimDisk::on(Real::new()));
}
