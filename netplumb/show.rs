//! `netplumb show ID`: everything that is here of one message or job.
//!
//! Files with their facts, which marks can be believed, each channel's log,
//! whose it is, why it waits; and, where the spool key can be read, what it
//! asks for: the words, the user, the names of the variables. Never a secret,
//! never a variable's value.

use crate::jobs::{outcome, phase};
use crate::listing::{answer, bytes, clean, field, line, quoted, seconds};
use crate::logs;
use crate::view::{Found, View};
use crate::why::{Why, now};
use job::message::Start;
use serde::Serialize;
use spool::clock;
use spool::facts::{FACTS_MAX, Facts};
use spool::fs::{Entry, Fs, is_hidden};
use spool::layout::{DETACHED, MESSAGE, ONETIME, Owner, PEER, Place, rest_label};
use spool::look;
use spool::name::{Digest, MsgId, Role};
use spool::phase::{Belief, Mark, QueuePhase, QueueSeen, RqueuePhase, RqueueSeen};
use spool::standing;
use std::collections::BTreeMap;
use std::io::Write;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The message or job: its id, or the first digits of it.
    id: String,
    /// All of it as one line of JSON; later versions may add members.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    answer(args.json, |out| {
        let view = View::open()?;
        let shown = see(&view, &view.find(&args.id)?);
        if args.json { line(out, &shown) } else { print(&shown, now(), out) }
    })
}

#[derive(Serialize)]
struct Shown {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    here: Vec<&'static str>,
    peer: Option<String>,
    username: Option<String>,
    role: Option<&'static str>,
    born: Option<u64>,
    age_seconds: Option<u64>,
    this_boot: Option<bool>,
    start: Option<Asked>,
    sealed: Option<String>,
    outcome: Option<String>,
    /// Why its outcome cannot be known.
    lost: Option<String>,
    places: Vec<Lies>,
    aside: Vec<Aside>,
    channels: Vec<logs::Seen>,
}

/// What lies outside of the three places: held, set aside, or noticed.
#[derive(Serialize)]
struct Aside {
    path: String,
    files: Vec<Lying>,
    text: Option<String>,
}

/// What START asks for.
#[derive(Serialize)]
struct Asked {
    argv: Vec<String>,
    command: String,
    user: String,
    env: Vec<String>,
    batch: bool,
    repeat: bool,
}

impl From<Start> for Asked {
    fn from(start: Start) -> Asked {
        let argv = start.argv.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let Start { batch, repeat, .. } = start;
        let (command, env) = (quoted(&start.argv), start.env.into_keys().collect());
        Asked { argv, command, user: start.user, env, batch, repeat }
    }
}

/// What lies in one place.
#[derive(Serialize)]
struct Lies {
    place: &'static str,
    phase: String,
    files: Vec<Lying>,
    why: Option<Why>,
}

#[derive(Serialize)]
struct Lying {
    name: String,
    bytes: u64,
    mark: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    belief: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    facts: BTreeMap<String, String>,
}

fn see(view: &View, found: &Found) -> Shown {
    let (fs, msgid) = (&*view.fs, found.msgid);
    let owner =
        [Place::Jobs, Place::Queue, Place::Rqueue].iter().find_map(|place| Owner::read(fs, &place.dir(msgid)).ok()?);
    let (start, sealed) = match asked(view, found) {
        Ok(start) => (Some(start.into()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let lost = standing::lost(fs, msgid);
    let said = || logs::exit_said(fs, &view.job_keys(msgid).ok()?, owner.as_ref()?.role);
    Shown {
        kind: "show",
        id: msgid.to_string(),
        here: found.here.clone(),
        peer: owner.as_ref().and_then(|owner| view.name(&owner.username)).map(str::to_string),
        username: owner.as_ref().map(|owner| owner.username.to_string()),
        role: owner.as_ref().map(|owner| owner.role.word()),
        born: owner.as_ref().map(|owner| owner.born),
        age_seconds: owner.as_ref().map(|owner| view.age(owner)),
        this_boot: owner.as_ref().map(|owner| owner.boot == clock::boot()),
        start,
        sealed,
        outcome: outcome(fs, msgid).filter(|_| lost.is_none()).or_else(|| said().map(|outcome| outcome.to_string())),
        lost,
        places: found.places().map(|place| lies(view, place, msgid, owner.as_ref())).collect(),
        aside: view.aside(msgid).into_iter().map(|(path, is_dir)| aside(fs, path, is_dir)).collect(),
        channels: logs::all(fs, msgid),
    }
}

fn aside(fs: &dyn Fs, path: String, is_dir: bool) -> Aside {
    if is_dir {
        let entries = fs.list(&path).unwrap_or_default();
        return Aside {
            files: entries.iter().flat_map(|entry| lying(fs, &path, entry, &[])).collect(),
            path,
            text: None,
        };
    }
    let text = fs.read(&path, FACTS_MAX).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Aside { text: text.ok().filter(|text| !text.is_empty()), path, files: Vec::new() }
}

/// Opens START, wherever the message lies.
fn asked(view: &View, found: &Found) -> anyhow::Result<Start> {
    let here = |place: &Place| view.fs.exists(&place.file(found.msgid, MESSAGE));
    let Some(place) = found.places().find(here) else { anyhow::bail!("the message is not here") };
    let (_, start) = job::message::open(&*view.fs, place, found.msgid, &view.spool_key()?)?;
    Ok(start)
}

fn lies(view: &View, place: Place, msgid: MsgId, owner: Option<&Owner>) -> Lies {
    let (fs, dir) = (&*view.fs, place.dir(msgid));
    let ages = view.home.settings().unwrap_or_default().ages();
    let mut beliefs = Vec::new();
    let phase = match place {
        Place::Queue => {
            let opens = |sealed: &[u8], wanted: Option<Digest>| match view.spool_key() {
                Ok(key) => key
                    .open(&rest_label(MESSAGE, msgid), sealed)
                    .is_ok_and(|message| wanted.is_none_or(|wanted| wanted == Digest::of(&message))),
                Err(_) => true,
            };
            // Only the loop holds the key that checks a receipt.
            look::queue(fs, msgid, &ages, opens, |_, _| true).map(|seen| {
                beliefs = vec![(Mark::SendRdy, seen.send_rdy), (Mark::SendOk, seen.send_ok)];
                queue_words(&seen)
            })
        }
        Place::Rqueue => look::rqueue(fs, msgid, &ages).map(|seen| {
            beliefs =
                vec![(Mark::PeerOk, seen.peer_ok), (Mark::RecvReq, seen.recv_req), (Mark::RecvRdy, seen.recv_rdy)];
            rqueue_words(&seen)
        }),
        Place::Jobs => phase(view, msgid, owner).map(str::to_string),
    };
    let phase = phase.unwrap_or_else(|error| format!("unreadable: {error}"));
    let mut entries = fs.list(&dir).unwrap_or_default();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let files = entries.iter().flat_map(|entry| lying(fs, &dir, entry, &beliefs)).collect();
    Lies { place: place.word(), phase, files, why: Why::read(fs, &dir) }
}

/// A file, or the files of the one-time key; the logs are shown by themselves.
fn lying(fs: &dyn Fs, dir: &str, entry: &Entry, beliefs: &[(Mark, Belief)]) -> Vec<Lying> {
    let mut name = entry.name.clone();
    if entry.is_dir && name == ONETIME {
        let inner = fs.list(&format!("{dir}/{name}")).unwrap_or_default();
        let files = inner.into_iter().filter(|entry| !entry.is_dir);
        let named = files.map(|inner| Entry { name: format!("{name}/{}", inner.name), is_dir: false });
        return named.flat_map(|entry| lying(fs, dir, &entry, beliefs)).collect();
    }
    let mark = Mark::ALL.into_iter().find(|mark| mark.name() == name);
    if entry.is_dir {
        if name == "in" || name == "out" {
            return Vec::new();
        }
        name.push('/');
    }
    let path = format!("{dir}/{}", entry.name);
    let told = mark.is_some() || name == PEER || name == DETACHED;
    let read = if told { Facts::read(fs, &path).ok().flatten() } else { None };
    let damaged = told && read.is_none() && fs.size(&path).ok().flatten().is_some_and(|size| size > 0);
    let facts = read.unwrap_or_default();
    let facts = facts.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let belief = beliefs.iter().find(|(of, _)| Some(*of) == mark).and_then(|(_, belief)| match belief {
        Belief::Absent => None,
        Belief::Doubted => Some("doubted"),
        Belief::Believed => Some("believed"),
    });
    let belief = belief.or(damaged.then_some("damaged"));
    let bytes = fs.size(&path).ok().flatten().unwrap_or(0);
    let hidden = is_hidden(&entry.name);
    vec![Lying {
        name: if hidden { format!("{name} (temporary)") } else { name },
        bytes,
        mark: mark.is_some(),
        belief,
        facts,
    }]
}

/// The words for where an outgoing message stands (doc/SPOOL.md#queue).
fn queue_words(seen: &QueueSeen) -> String {
    match seen.phase() {
        QueuePhase::Orphan => "orphan".into(),
        QueuePhase::Receipted => "receipted".into(),
        QueuePhase::Offered => "offered".into(),
        QueuePhase::Doubted(mark) => format!("doubted {}", mark.name()),
        QueuePhase::Cancelled => "cancelled".into(),
        QueuePhase::Unwanted => "unwanted".into(),
        QueuePhase::Lost => "lost".into(),
        QueuePhase::Old => "old".into(),
        QueuePhase::Sealed => "sealed".into(),
        QueuePhase::Keyed => "keyed".into(),
        QueuePhase::Wanted => "wanted".into(),
    }
}

/// The words for where an incoming message stands (doc/SPOOL.md#rqueue).
fn rqueue_words(seen: &RqueueSeen) -> String {
    match seen.phase() {
        RqueuePhase::Delivered => "delivered".into(),
        RqueuePhase::Nameless => "nameless".into(),
        RqueuePhase::Cancelled => "cancelled".into(),
        RqueuePhase::Old => "old".into(),
        RqueuePhase::Fetched => "fetched".into(),
        RqueuePhase::Noticed => "noticed".into(),
        RqueuePhase::Keyed => "keyed".into(),
        RqueuePhase::Unpromised => "unpromised".into(),
        RqueuePhase::Bare => "bare".into(),
        RqueuePhase::Doubted(mark) => format!("doubted {}", mark.name()),
    }
}

fn print(shown: &Shown, now: u64, out: &mut dyn Write) -> anyhow::Result<()> {
    field(out, "id", &shown.id)?;
    field(out, "here", shown.here.join(" "))?;
    match (&shown.peer, &shown.username) {
        (Some(name), Some(username)) => field(out, "peer", format!("{name} ({username})"))?,
        (None, Some(username)) => field(out, "peer", format!("{username} (not among our peers)"))?,
        (_, None) => field(out, "peer", "its peer file cannot be read")?,
    }
    if let Some(role) = shown.role {
        let ours = if role == Role::Sender.word() { "we asked for it" } else { "we run it" };
        field(out, "role", format!("{role}: {ours}"))?;
    }
    if let (Some(age), Some(this_boot)) = (shown.age_seconds, shown.this_boot) {
        let boot = if this_boot { "this boot" } else { "an earlier boot" };
        field(out, "age", format!("{} of observed uptime, made in {boot}", seconds(age)))?;
    }
    match (&shown.start, &shown.sealed) {
        (Some(start), _) => {
            field(out, "command", &start.command)?;
            field(out, "user", if start.user.is_empty() { "whoever the recipient is" } else { &start.user })?;
            field(out, "env", if start.env.is_empty() { "-".into() } else { start.env.join(" ") })?;
            match (start.batch, start.repeat) {
                (false, _) => {}
                (true, false) => field(out, "starts", "with its whole input")?,
                (true, true) => field(out, "starts", "with its whole input, and again if it is interrupted")?,
            }
        }
        (None, why) => field(out, "command", format!("? ({})", why.as_deref().unwrap_or("sealed")))?,
    }
    match (&shown.lost, &shown.outcome) {
        (Some(why), _) => field(out, "outcome", format!("not known: {why}"))?,
        (None, Some(outcome)) => field(out, "outcome", outcome)?,
        (None, None) => {}
    }
    for place in &shown.places {
        writeln!(out)?;
        field(out, place.place, &place.phase)?;
        print_files(shown, &place.files, out)?;
        if let Some(why) = &place.why {
            let next = why.next(now);
            field(
                out,
                "  waits",
                format!("{}{}{next}", why.reason(), if next.is_empty() { "" } else { "; next try " }),
            )?;
        }
    }
    for aside in &shown.aside {
        writeln!(out, "\n{}", clean(&aside.path))?;
        print_files(shown, &aside.files, out)?;
        for line in aside.text.iter().flat_map(|text| text.lines()) {
            writeln!(out, "  {}", clean(line))?;
        }
    }
    if !shown.channels.is_empty() {
        writeln!(out)?;
    }
    for seen in &shown.channels {
        field(out, &format!("{}/{}", seen.side, seen.chan), channel(seen))?;
    }
    Ok(())
}

fn print_files(shown: &Shown, files: &[Lying], out: &mut dyn Write) -> anyhow::Result<()> {
    for file in files {
        // What stands above need not stand beside every `peer`.
        let above = |name: &str, value: &str| match name {
            "username" => shown.username.as_deref() == Some(value),
            "role" => shown.role == Some(value),
            "boot" => true,
            _ => false,
        };
        let told = file.facts.iter().filter(|(name, value)| file.name != PEER || !above(name, value));
        let facts: Vec<String> = told.map(|(name, value)| format!("{name}={value}")).collect();
        let belief = file.belief.map(|belief| format!("{belief}: ")).unwrap_or_default();
        let text = format!("{:>10}  {belief}{}", bytes(file.bytes), facts.join(" "));
        field(out, &format!("  {:<16}", clean(&file.name)), text.trim_end())?;
    }
    Ok(())
}

/// One log in words.
fn channel(seen: &logs::Seen) -> String {
    let taken = if seen.side == "in" { "read" } else { "got" };
    if seen.segments.is_none() && seen.hint.is_none() && !seen.broken {
        return "nothing yet".into();
    }
    let mut text = match seen.segments {
        None => "no segment".to_string(),
        Some((first, last)) if first == last => format!("segment {first}, {} here", bytes(seen.bytes)),
        Some((first, last)) => format!("segments {first} to {last}, {} here", bytes(seen.bytes)),
    };
    let data = match seen.zipped {
        // What is in it cannot be counted without the keys.
        true => "compressed".to_string(),
        false => format!("{} of data", bytes(seen.plain)),
    };
    text.push_str(&format!("; ends at {} ({data})", seen.offset));
    text.push_str(&seen.hint.map(|at| format!("; {taken} {at}")).unwrap_or_default());
    text.push_str(if seen.end { "; END" } else { "; no END" });
    if seen.torn > 0 {
        text.push_str(&format!("; {} bytes of an unfinished record", seen.torn));
    }
    if seen.broken {
        text.push_str("; broken: it can never be completed");
    }
    text + &seen.damaged.as_ref().map(|what| format!("; damaged: {what}")).unwrap_or_default()
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
