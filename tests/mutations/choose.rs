//! Which faults strike: drawn from what lies there, each kind of file as likely as any other.

use super::fault::{Blow, Fault, Mode, Odd, Verb, Way, escape};
use super::ground::Ground;
use super::lies::{self, Entry, There, job_of};
use crate::homes::Chance;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds among which one strikes files that belong to no job.
const HOME_WIDE: u64 = 5;
/// Faults among which one makes a file that was not there, under a name that files have.
const MADE: u64 = 6;
/// The most jobs of a round that are struck, each by one fault.
const FAULTS_MAX: u64 = 4;
/// Files that say a number.
const NUMBERS: [&str; 6] = ["clock", "read", "got", "window", "tip", "alive"];

/// Names that a file of a job, a message or a log can have: a copy gets one of them.
const NAMES: [&str; 48] = [
    "peer",
    "message",
    "key",
    "plumb",
    "detached",
    "along.7",
    "sent",
    "receipt",
    "done",
    "cancel",
    "run.started",
    "run.exit",
    "run.again.1",
    "over",
    "acked",
    "recv.ok",
    "priority",
    "alive",
    "why",
    "send.req",
    "send.rdy",
    "send.ok",
    "onetime.pem",
    "sealed",
    "ack.req",
    "ack.ok",
    "peer.req",
    "peer.ok",
    "recv.req",
    "recv.rdy",
    ".part",
    "in",
    "out",
    "held",
    "onetime",
    "0",
    "1",
    "2",
    "3",
    "7",
    "999",
    ".next",
    "got",
    "tip",
    "window",
    "read",
    "broken",
    "cert.pem",
];

/// Names that nobody of us would make.
const STRANGE: [&[u8]; 12] = [
    b"\xff\xfe\x80",
    b"\xc3\x28",
    b"junk",
    b".hidden",
    b"new\nline",
    b"-rf",
    b"7",
    b"99999999999999999999",
    b"0123456789abcdef0123456789abcdef01234567",
    b"0123456789ABCDEF0123456789ABCDEF01234567",
    b"peer~",
    b".\xff\xff",
];

/// Draws a blow.
pub fn blow(chance: &mut Chance, ground: &Ground, moments: usize) -> Blow {
    let mode = match chance.below(8) {
        0 => Mode::Stopped,
        1 => Mode::Killed,
        2 | 3 => Mode::Crashed,
        _ => Mode::Live,
    };
    let lists = [0, 1].map(|side| lies::list(ground, side, moments));
    if chance.below(HOME_WIDE) == 0 {
        let fault = draw(chance, &lists, |entry| entry.job.is_none());
        return Blow { mode, faults: fault.into_iter().collect() };
    }
    let (mut faults, mut struck): (Vec<Fault>, BTreeSet<String>) = Default::default();
    for _ in 0..=chance.below(FAULTS_MAX) {
        let fault = draw(chance, &lists, |entry| entry.job.as_ref().is_some_and(|job| !struck.contains(job)));
        let Some(fault) = fault else { continue };
        let both = [Some(&fault.path), other(&fault)].map(|path| path.and_then(|path| job_of(path)));
        struck.extend(both.into_iter().flatten());
        faults.push(fault);
    }
    Blow { mode, faults }
}

fn other(fault: &Fault) -> Option<&String> {
    if let Verb::Swap(path) | Verb::Copy(path) = &fault.verb { Some(path) } else { None }
}

fn draw(chance: &mut Chance, lists: &[Vec<Entry>; 2], wanted: impl Fn(&Entry) -> bool) -> Option<Fault> {
    let (side, made) = (chance.below(2) as usize, chance.below(MADE) == 0);
    let mut kinds: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in lists[side].iter().filter(|entry| wanted(entry) && (entry.there == There::No) == made) {
        kinds.entry(&entry.kind).or_default().push(entry);
    }
    let count = kinds.len() as u64;
    let of_kind = kinds.into_values().nth(chance.below(count) as usize)?;
    let entry = of_kind[chance.below(of_kind.len() as u64) as usize];
    let alike: Vec<&&Entry> = of_kind.iter().filter(|it| it.there == There::Yes && it.path != entry.path).collect();
    let beside: Vec<&Entry> = lists[side].iter().filter(|it| is_beside(it, entry)).collect();
    let partner = match (alike.is_empty(), beside.is_empty()) {
        (false, _) if chance.below(2) == 0 => Some(alike[chance.below(alike.len() as u64) as usize].path.clone()),
        (_, false) => Some(beside[chance.below(beside.len() as u64) as usize].path.clone()),
        _ => None,
    };
    let mut fault = Fault { side, path: entry.path.clone(), verb: Verb::Delete };
    verb(chance, entry, partner, &mut fault);
    Some(fault)
}

/// In the same directory, and there.
fn is_beside(it: &Entry, entry: &Entry) -> bool {
    let parent = |path: &str| path.rsplit_once('/').map(|(parent, _)| parent.to_string());
    it.there == There::Yes
        && it.path != entry.path
        && parent(&it.path) == parent(&entry.path)
        && entry.path.contains('/')
}

fn verb(chance: &mut Chance, entry: &Entry, partner: Option<String>, fault: &mut Fault) {
    let odd = Odd::ALL[chance.below(5) as usize];
    let way = if chance.below(3) == 0 { Way::Anew } else { Way::InPlace };
    let last = entry.path.rsplit('/').next().unwrap_or_default();
    let is_number = NUMBERS.contains(&last) && entry.there != There::No || entry.is_hint();
    fault.verb = match entry.there {
        There::Before(moment) => Verb::Old(moment),
        There::Yes | There::No if is_number && chance.below(2) == 0 => Verb::Number(number(chance, entry)),
        There::No => Verb::Make(odd),
        There::Yes if entry.is_dir => return of_directory(chance, entry, partner, odd, fault),
        There::Yes => of_file(chance, entry, partner, odd, way),
    };
}

/// A number that a hint can have: often one at which a record ends.
fn number(chance: &mut Chance, entry: &Entry) -> u64 {
    let any = chance.below(200_000);
    let numbers = [0, 1, any % 1000, any, 1 << 40, u64::MAX];
    let at_records = (!entry.records.is_empty()).then(|| chance.below(entry.records.len() as u64) as usize);
    match at_records {
        Some(n) if chance.below(2) == 0 => entry.records[n].in_log,
        _ => numbers[chance.below(6) as usize],
    }
}

fn of_directory(chance: &mut Chance, entry: &Entry, partner: Option<String>, odd: Odd, fault: &mut Fault) {
    fault.verb = match chance.below(10) {
        0 => Verb::Delete,
        1 => Verb::Empty,
        2 | 3 => Verb::Become(if odd == Odd::Directory { Odd::File } else { odd }),
        4 => Verb::Mode,
        5 => partner.map_or(Verb::Delete, Verb::Swap),
        6 => Verb::Copy(renamed(chance, entry)),
        7 => entry.older.first().copied().map_or(Verb::Empty, Verb::Old),
        _ => {
            fault.path = format!("{}/{}", entry.path, escape(STRANGE[chance.below(12) as usize]));
            Verb::Make(odd)
        }
    };
}

fn of_file(chance: &mut Chance, entry: &Entry, partner: Option<String>, odd: Odd, way: Way) -> Verb {
    let number = chance.below(1 << 40);
    let is_empty = entry.size == 0;
    match chance.below(15) {
        0 | 1 => Verb::Delete,
        2 if !is_empty => Verb::Truncate([0, 500, 999][chance.below(3) as usize], way),
        3 | 4 if !is_empty => Verb::Flip(number, way),
        5 if !is_empty => Verb::Zero(way),
        6 => partner.map_or(Verb::Junk(number, way), Verb::Swap),
        7 => Verb::Copy(renamed(chance, entry)),
        8 => Verb::Become(Odd::Directory),
        9 => Verb::Become(Odd::Fifo),
        10 => Verb::Become(if odd == Odd::Dangling { odd } else { Odd::Link }),
        11 => Verb::SecondLink,
        12 => Verb::Mode,
        13 => entry.older.first().copied().map_or(Verb::Junk(number, way), Verb::Old),
        14 if !entry.records.is_empty() => {
            let n = chance.below(entry.records.len() as u64) as usize;
            Verb::Keep(entry.records[n].in_file, way)
        }
        _ => Verb::Junk(number, way),
    }
}

/// A path beside this one: with another id if its name is one, else with a name that a file there can have.
fn renamed(chance: &mut Chance, entry: &Entry) -> String {
    let (parent, name) = entry.path.rsplit_once('/').map_or(("", entry.path.as_str()), |(parent, name)| (parent, name));
    let prefix = if parent.is_empty() { String::new() } else { format!("{parent}/") };
    if name.starts_with('{') {
        let id: String = (0..20).map(|_| format!("{:02x}", chance.below(256))).collect();
        return format!("{prefix}{id}");
    }
    format!("{prefix}{}", NAMES[chance.below(NAMES.len() as u64) as usize])
}
