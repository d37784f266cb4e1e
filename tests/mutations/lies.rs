//! Lists all that a fault can strike: the files of a spool, those of earlier moments, and those that could be there.

use super::fault::{Fault, SIDES, escape};
use super::ground::{self, Ground};
use spool::segment::{HEADER, Header};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Directories whose names are ids of messages.
const PLACES: [&str; 6] = ["jobs", "queue", "rqueue", "running", "hold", "notices"];
/// Files that are there at times only, by their directory.
const HOME_WIDE: [&str; 6] = ["sick", "turned", "junk", "clock", "id", "daemon.socket"];
const JOB: [&str; 22] = [
    "detached",
    "along.0",
    "along.5",
    "sent",
    "receipt",
    "done",
    "acked",
    "recv.ok",
    "run.started",
    "run.again.1",
    "run.exit",
    "over",
    "cancel",
    "priority",
    "alive",
    "why",
    "key",
    "message",
    "held",
    "sealed",
    "onetime",
    "plumb",
];
const QUEUE: [&str; 8] = ["onetime.pem", "send.req", "send.rdy", "sealed", "send.ok", "ack.req", "ack.ok", "cancel"];
const RQUEUE: [&str; 11] = [
    "peer.req", "onetime", "peer.ok", "recv.req", ".part", "sealed", "recv.rdy", "message", "receipt", "cancel", "over",
];
const HINTS: [&str; 7] = ["read", "got", "tip", "window", "broken", ".next", "1"];

/// A path that a fault may strike.
pub struct Entry {
    /// Below the spool, as in a fault's text.
    pub path: String,
    /// The path with names in the place of ids and numbers: what counts as one kind.
    pub kind: String,
    /// The job that it belongs to.
    pub job: Option<String>,
    /// Is it a directory?
    pub is_dir: bool,
    /// Its size in bytes.
    pub size: u64,
    /// Is it there?
    pub there: There,
    /// Earlier moments of which there is a copy of it, the oldest first.
    pub older: Vec<usize>,
    /// Where records end: in a segment, or for a hint in the log that it is about.
    pub records: Vec<RecordEnd>,
}

/// Where a record ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordEnd {
    /// Bytes of the file up to there.
    pub in_file: u64,
    /// Sealed bytes of the log up to there.
    pub in_log: u64,
}

/// Is something at a path?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum There {
    Yes,
    /// In the copy of this earlier moment, and not any more.
    Before(usize),
    /// Something can be made there.
    No,
}

impl Entry {
    /// Is it a hint of a log?
    pub fn is_hint(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        parts.len() == 5 && HINTS[..4].contains(&parts[4])
    }
}

/// The name in braces in a path.
pub fn job_of(path: &str) -> Option<String> {
    let name = path.split_once('{')?.1.split_once('}')?.0;
    (name.parse::<u64>().is_err()).then(|| name.to_string())
}

/// Lists all that lies in a spool, lay there at an earlier moment, or could lie there.
pub fn list(ground: &Ground, side: usize, moments: usize) -> Vec<Entry> {
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
    entries.extend(makeable(&entries, &there));
    entries
}

/// Names at which nothing lies and something could.
fn makeable(entries: &[Entry], there: &BTreeSet<String>) -> Vec<Entry> {
    let mut made = Vec::new();
    let mut add = |directory: Option<&Entry>, name: &str| {
        let (path, kind) = directory.map_or((name.to_string(), name.to_string()), |directory| {
            (format!("{}/{name}", directory.path), format!("{}/{name}", directory.kind))
        });
        if there.contains(&path) {
            return;
        }
        let (kind, job) = (format!("{kind} (made)"), directory.and_then(|directory| directory.job.clone()));
        let records = directory.map_or(Vec::new(), |directory| directory.records.clone());
        made.push(Entry { path, kind, job, is_dir: false, size: 0, there: There::No, older: Vec::new(), records });
    };
    HOME_WIDE.iter().for_each(|name| add(None, name));
    for directory in entries.iter().filter(|entry| entry.is_dir && entry.there == There::Yes && entry.job.is_some()) {
        let parts: Vec<&str> = directory.path.split('/').collect();
        match parts[..] {
            ["jobs", _] => JOB.iter().for_each(|name| add(Some(directory), name)),
            ["queue", _] => QUEUE.iter().for_each(|name| add(Some(directory), name)),
            ["rqueue", _] => RQUEUE.iter().for_each(|name| add(Some(directory), name)),
            ["jobs", _, "in" | "out", _] => HINTS.iter().for_each(|name| add(Some(directory), name)),
            _ => {}
        }
    }
    made
}

/// Where the records of a segment end; nothing if it is none.
fn records(path: &Path) -> Vec<RecordEnd> {
    let Ok(bytes) = std::fs::read(path) else { return Vec::new() };
    let Ok(header) = Header::parse(&bytes) else { return Vec::new() };
    let mut ends = Vec::new();
    let mut at = HEADER;
    while let Some(word) = bytes.get(at..at + 4) {
        let size = u32::from_be_bytes(word.try_into().expect("four bytes")) & 0x7fff_ffff;
        at += 4 + size as usize;
        if at > bytes.len() {
            break;
        }
        ends.push(RecordEnd { in_file: at as u64, in_log: header.base + (at - HEADER) as u64 });
    }
    ends
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
        let is_log = parts.len() == 4 && metadata.is_dir() && ["in", "out", "held"].contains(&parts[2].as_str());
        let segments = if is_log { ground::names(found.path()) } else { Vec::new() };
        let mut ends: Vec<RecordEnd> = segments.iter().flat_map(|name| records(&found.path().join(name))).collect();
        if parts.len() == 5 && metadata.is_file() && metadata.len() > HEADER as u64 {
            ends = records(found.path());
        }
        let kind = kind.join("/") + if there == There::Yes { "" } else { " (gone)" };
        let is_dir = metadata.is_dir();
        let path = path.join("/");
        entries.push(Entry { path, kind, job, is_dir, size: metadata.len(), there, older: Vec::new(), records: ends });
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
