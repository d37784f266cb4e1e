//! Which faults strike: drawn from what lies there, each kind of file as likely as any other.

use super::fault::{Blow, Fault, Ground, Mode, Odd, SIDES, Verb, Way, escape};
use crate::homes::Chance;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Directories whose names are ids of messages.
const PLACES: [&str; 6] = ["jobs", "queue", "rqueue", "running", "hold", "notices"];
/// One in so many rounds strikes what belongs to no job.
const HOME_WIDE: u64 = 5;
/// At most so many jobs of a round are struck, one fault each.
const FAULTS_MAX: u64 = 4;
/// Files whose content is a number.
const NUMBERS: [&str; 6] = ["clock", "read", "got", "window", "tip", "alive"];

/// Names that a file of a job, a message or a log can have: a copy gets one of them.
const NAMES: [&str; 48] = [
    "peer", "message", "key", "plumb", "detached", "along.7", "sent", "receipt", "done", "cancel", "run.started",
    "run.exit", "run.again.1", "over", "acked", "recv.ok", "priority", "alive", "why", "send.req", "send.rdy",
    "send.ok", "onetime.pem", "sealed", "ack.req", "ack.ok", "peer.req", "peer.ok", "recv.req", "recv.rdy", ".part",
    "in", "out", "held", "onetime", "0", "1", "2", "3", "7", "999", ".next", "got", "tip", "window", "read", "broken",
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

/// A path that a fault may strike.
struct Entry {
    path: String,
    /// The path with names in the place of ids and numbers: what counts as one kind.
    kind: String,
    /// The job that it belongs to.
    job: Option<String>,
    is_dir: bool,
    size: u64,
    there: There,
    /// Earlier moments of which there is a copy of it, the oldest first.
    older: Vec<usize>,
}

/// Is something at a path?
#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    Yes,
    /// In the copy of this earlier moment, and not any more.
    Before(usize),
    /// Something can be made there.
    No,
}

/// Draws a blow.
pub fn blow(chance: &mut Chance, ground: &Ground, moments: usize) -> Blow {
    let mode = match chance.below(5) {
        0 => Mode::Stopped,
        1 => Mode::Killed,
        _ => Mode::Live,
    };
    let lists = [0, 1].map(|side| list(ground, side, moments));
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

/// The name in braces in a path.
fn job_of(path: &str) -> Option<String> {
    let name = path.split_once('{')?.1.split_once('}')?.0;
    (name.parse::<u64>().is_err()).then(|| name.to_string())
}

fn draw(chance: &mut Chance, lists: &[Vec<Entry>; 2], wanted: impl Fn(&Entry) -> bool) -> Option<Fault> {
    let side = chance.below(2) as usize;
    let mut kinds: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in lists[side].iter().filter(|entry| wanted(entry)) {
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
    it.there == There::Yes && it.path != entry.path && parent(&it.path) == parent(&entry.path) && entry.path.contains('/')
}

fn verb(chance: &mut Chance, entry: &Entry, partner: Option<String>, fault: &mut Fault) {
    let odd = Odd::ALL[chance.below(5) as usize];
    match entry.there {
        There::Yes => {}
        There::Before(moment) => return fault.verb = Verb::Old(moment),
        There::No => return fault.verb = Verb::Make(odd),
    }
    let way = if chance.below(3) == 0 { Way::Anew } else { Way::InPlace };
    let number = chance.below(1 << 40);
    // An older one that differs, where there is one.
    let old = entry.older.first().copied().map_or(Verb::Junk(number, way), Verb::Old);
    let swapped = |otherwise: Verb| partner.clone().map_or(otherwise, Verb::Swap);
    fault.verb = if entry.is_dir {
        match chance.below(10) {
            0 => Verb::Delete,
            1 => Verb::Empty,
            2 | 3 => Verb::Become(if odd == Odd::Directory { Odd::File } else { odd }),
            4 => Verb::Mode,
            5 => swapped(Verb::Delete),
            6 => Verb::Copy(renamed(chance, entry)),
            7 => entry.older.first().copied().map_or(Verb::Empty, Verb::Old),
            _ => {
                fault.path = format!("{}/{}", entry.path, escape(STRANGE[chance.below(12) as usize]));
                Verb::Make(odd)
            }
        }
    } else {
        let last = entry.path.rsplit('/').next().unwrap_or_default();
        if NUMBERS.contains(&last) && chance.below(3) == 0 {
            let numbers = [0, 1, number % 1000, number % 200_000, 1 << 40, u64::MAX];
            fault.verb = Verb::Text(numbers[chance.below(6) as usize].to_string(), way);
            return;
        }
        let is_empty = entry.size == 0;
        match chance.below(14) {
            0 | 1 => Verb::Delete,
            2 if !is_empty => Verb::Truncate([0, 500, 999][chance.below(3) as usize], way),
            3 | 4 if !is_empty => Verb::Flip(number, way),
            5 if !is_empty => Verb::Zero(way),
            6 => swapped(Verb::Junk(number, way)),
            7 => Verb::Copy(renamed(chance, entry)),
            8 => Verb::Become(Odd::Directory),
            9 => Verb::Become(Odd::Fifo),
            10 => Verb::Become(if odd == Odd::Dangling { odd } else { Odd::Link }),
            11 => Verb::SecondLink,
            12 => Verb::Mode,
            13 => old,
            _ => Verb::Junk(number, way),
        }
    };
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

/// All that lies in a spool, or lay there at an earlier moment.
fn list(ground: &Ground, side: usize, moments: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    walk(ground, side, &ground.spools[side], There::Yes, &mut entries);
    let mut here: BTreeMap<String, usize> = BTreeMap::new();
    for moment in 0..moments {
        here.extend(entries.iter().enumerate().map(|(n, entry)| (entry.path.clone(), n)));
        let root = ground.old.join(moment.to_string()).join(SIDES[side]);
        let mut before = Vec::new();
        walk(ground, side, &root, There::Before(moment), &mut before);
        for entry in before {
            match here.get(&entry.path) {
                Some(n) => entries[*n].older.push(moment),
                None => entries.push(entry),
            }
        }
    }
    // Of a directory that went the whole is put back.
    let there: BTreeSet<String> =
        entries.iter().filter(|entry| entry.there == There::Yes).map(|entry| entry.path.clone()).collect();
    entries.retain(|entry| {
        let parent = entry.path.rsplit_once('/').map(|(parent, _)| parent);
        entry.there == There::Yes || parent.is_none_or(|parent| there.contains(parent))
    });
    for name in ["sick", "turned", "junk"].iter().filter(|name| !there.contains(**name)) {
        let kind = format!("{name} (made)");
        let path = name.to_string();
        entries.push(Entry { path, kind, job: None, is_dir: false, size: 0, there: There::No, older: Vec::new() });
    }
    entries
}

fn walk(ground: &Ground, side: usize, root: &Path, there: There, entries: &mut Vec<Entry>) {
    let names: BTreeMap<&str, &str> = ground.ids.iter().map(|(name, id)| (id.as_str(), name.as_str())).collect();
    let stock = ground.stock(side);
    for found in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name().into_iter().flatten() {
        let Ok(below) = found.path().strip_prefix(root) else { continue };
        let parts: Vec<String> = below.iter().map(|part| escape(part.as_bytes())).collect();
        let (mut path, mut kind) = (parts.clone(), parts.clone());
        let mut job = None;
        if let (Some(place), Some(id)) = (parts.first(), parts.get(1)) {
            if PLACES.contains(&place.as_str()) {
                let Some(name) = names.get(id.as_str()) else { continue };
                (path[1], kind[1], job) = (format!("{{{name}}}"), "ID".into(), Some(name.to_string()));
            } else if place == "onetime" {
                let Some(number) = stock.iter().position(|key| key == id) else { continue };
                (path[1], kind[1]) = (format!("{{{number}}}"), "KEY".into());
            }
        }
        if kind[0] == "jobs" && job.is_some() {
            let sender = job.as_deref().is_some_and(|name| name.starts_with("b-")) == (side == 1);
            kind.insert(0, if sender { "sender" } else { "recipient" }.into());
        }
        let numbered = |part: &String| part.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(last) = kind.last_mut().filter(|last| numbered(last) && parts.len() > 4) {
            *last = "N".into();
        }
        let Ok(metadata) = found.metadata() else { continue };
        let kind = kind.join("/") + if there == There::Yes { "" } else { " (gone)" };
        let is_dir = metadata.is_dir();
        entries.push(Entry { path: path.join("/"), kind, job, is_dir, size: metadata.len(), there, older: Vec::new() });
    }
}

/// The kind of what a fault strikes, by which results are counted.
pub fn kind(fault: &Fault) -> String {
    let mut parts: Vec<String> = fault.path.split('/').map(str::to_string).collect();
    let job = job_of(&fault.path);
    if let Some(second) = parts.get_mut(1).filter(|part| part.starts_with('{')) {
        *second = "ID".into();
    }
    let digits = |part: &String| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() > 4
        && let Some(last) = parts.last_mut().filter(|last| digits(last))
    {
        *last = "N".into();
    }
    let of_sender = job.map(|job| job.starts_with("b-") == (fault.side == 1));
    let role = of_sender.map_or("", |sender| if sender { "sender " } else { "recipient " });
    format!("{role}{}", parts.join("/"))
}
