//! `netplumb why ID`: what a message or job waits for, since when, and what would help.
//!
//! The daemon leaves a file `why` in each directory (doc/SPOOL.md#why); this
//! prints it with one sentence for its cause. The times in it are wall-clock
//! seconds: they are for people, and decide nothing.

use crate::listing::{answer, field, line, seconds};
use crate::view::{Found, View, told};
use serde::Serialize;
use spool::alive::{State, Trouble};
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{Owner, Place, WHY, run_again, runs_again};
use spool::name::{MsgId, Role};
use spool::phase::Mark;
use spool::standing::{self, Taker};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The message or job: its id, or the first digits of it.
    id: String,
    /// One line of JSON for each directory.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    answer(args.json, |out| {
        let view = View::open()?;
        tell(&view, &view.find(&args.id)?, args.json, now(), out)
    })
}

/// Wall-clock seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the file `why` of a directory says; every part may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Why {
    /// A code.
    pub cause: Option<String>,
    /// Failures in a row.
    pub attempts: Option<u64>,
    /// The first error, for a person.
    pub first_error: Option<String>,
    /// When that was, in wall-clock seconds.
    pub first_at: Option<u64>,
    /// The last error, for a person.
    pub last_error: Option<String>,
    /// When that was, in wall-clock seconds.
    pub last_at: Option<u64>,
    /// When it is tried next, in wall-clock seconds.
    pub next_at: Option<u64>,
}

impl Why {
    /// Reads the file in a directory; `None` if it is not there, or says nothing.
    pub fn read(fs: &dyn Fs, dir: &str) -> Option<Why> {
        let facts = Facts::read(fs, &format!("{dir}/{WHY}")).ok()??;
        let text = |name| facts.text(name).filter(|text| !text.is_empty()).map(str::to_string);
        let why = Why {
            cause: text("cause"),
            attempts: facts.value("attempts"),
            first_error: text("first_error"),
            first_at: facts.value("first_at"),
            last_error: text("last_error"),
            last_at: facts.value("last_at"),
            next_at: facts.value("next_at"),
        };
        (why != Why::default()).then_some(why)
    }

    /// What a job waits for, seen at this moment: what the file says, unless our own
    /// disk has no room, for then nothing can be written there either.
    pub fn of_job(view: &View, msgid: MsgId, owner: Option<&Owner>) -> Option<Why> {
        let dir = Place::Jobs.dir(msgid);
        let written = Why::read(&*view.fs, &dir);
        let lack = owner.filter(|_| !is_over(view, msgid, owner)).and_then(|owner| view.lack(msgid, owner));
        match (lack, &written) {
            (Some("disk_full"), _) | (Some(_), None) => {
                Some(Why { cause: lack.map(str::to_string), ..written.unwrap_or_default() })
            }
            (Some(_), Some(_)) | (None, _) => written,
        }
    }

    /// Cause and last error, on one line.
    pub fn reason(&self) -> String {
        match (&self.cause, &self.last_error) {
            (Some(cause), Some(error)) => format!("{cause}: {error}"),
            (Some(text), None) | (None, Some(text)) => text.clone(),
            (None, None) => String::new(),
        }
    }

    /// When it is tried next, as seen from `now`.
    pub fn next(&self, now: u64) -> String {
        match self.next_at {
            None => String::new(),
            Some(at) if at <= now => "due".into(),
            Some(at) => format!("in {}", seconds(at - now)),
        }
    }
}

/// For a cause: whom it waits for, and what would help, with PEER and ID in it.
/// Unknown causes are nobody's.
pub fn explain(cause: &str) -> Option<(&'static str, &'static str)> {
    Some(match cause {
        "unreachable" => (
            "peer",
            "goes on by itself when the peer answers; look at the network, at its daemon, and at `address` in peers/PEER/peer.toml; one that is never dialled has to call in (`turn` in its peer.toml)",
        ),
        "busy" => ("peer", "all connections that it keeps open to us are in use; goes on when one is free"),
        "receipt" => ("peer", "it was told and has not yet said that it holds the message; ask there: netplumb why ID"),
        "key" => ("peer", "it has no one-time key ready; its daemon makes more by itself, if it has room"),
        "peer" => ("peer", "it is its turn"),
        "no_peer" => ("us", "nobody of this identity is known here: netplumb peer add"),
        "sender" => {
            ("peer", "its sender's turn: goes on when it says the next word, ends when it has forgotten the message")
        }
        "unauthentic" => (
            "peer",
            "its answers do not verify: compare what both sides hold for each other, and pair again if it differs",
        ),
        "reader" => ("reader", "what has arrived is not read: goes on when the program at the end of the pipe reads"),
        "quota" => (
            "reader",
            "as much lies here as `quota` in peers/PEER/peer.toml allows: goes on when what reads it has taken some",
        ),
        "disk_full" => ("us", "make room on the spool's file system (netplumb check says how much); goes on by itself"),
        "shortage" => (
            "us",
            "this machine is short of file descriptors or memory: goes on by itself when there are more (prlimit -n on the process, or LimitNOFILE= of its unit)",
        ),
        "peer_later" => ("peer", "it is short of disk, descriptors or memory at the moment: goes on by itself"),
        "disk" => ("us", "our own spool refuses, see the error; netplumb check, netplumb show ID"),
        "sick" => ("us", "a sync failed, so nothing new is begun: check the disk, then start the daemon anew"),
        "lock" => ("us", "another of our processes works on it: nothing to do, unless that one is stopped"),
        "later" => ("us", "it could not be done at this moment; it is tried again by itself"),
        "keeper" => ("us", "the job's keeper does not run yet, or any more: the daemon starts it"),
        "cancel" => ("peer", "it was cancelled: ends when the peer has confirmed that, and what it had done"),
        "over" => ("us", "the peer says that the job is over: ends by itself"),
        "interrupted" => {
            ("us", "a channel can never be completed: the job ends by itself, with an error that says what is missing")
        }
        "collect" => {
            ("plumb", "it is over and told: it is forgotten when the plumb that has it, or reads along, has gone")
        }
        _ => return None,
    })
}

/// Tells what a job without a `why` does, by the word for its phase; ID stands for its id.
fn unwritten(phase: &str, taker: Taker) -> &'static str {
    match (phase, taker) {
        ("waiting", _) => "waits for its message, which is in queue/",
        ("unqueued", Taker::Plumb) => "plumb is about to queue its message, or its message was taken away",
        ("unqueued", _) => "its message was taken out of the queue",
        ("live" | "running", _) => "goes on; nothing is known to be in its way",
        ("delivered", _) => "the daemon starts a keeper for it when fewer than `quota.jobs` of its peer run",
        ("exited", _) => "the command has ended; its output is being pulled",
        ("ended", Taker::Plumb) => "all output is here; plumb is taking it",
        ("ended", Taker::Later) => "all output is here and waits for: plumb -attach=ID",
        ("ended", Taker::Along) => "all output is here; it is being ended when the plumb that reads along has gone",
        ("ended", Taker::Nobody) => "all output is here and nobody takes it; it is being ended",
        ("abandoned" | "ending" | "to-cancel", _) => "plumb is gone; it is being ended",
        ("cancelled", _) => "is being cancelled",
        ("interrupted" | "to-finish", _) => "its outcome is about to be put down",
        ("done", Taker::Later) => "it is over; its outcome waits for: plumb -attach=ID",
        ("done", _) => "it is over; the recipient is being told",
        ("over" | "forgotten", _) => "it is over",
        _ => "nothing is noted: the daemon has not looked yet",
    }
}

/// Tells what a directory without a `why` waits for.
fn state(view: &View, place: Place, msgid: MsgId, owner: Option<&Owner>) -> String {
    let phase = match place {
        Place::Jobs => crate::jobs::phase(view, msgid, owner).unwrap_or_default(),
        Place::Queue | Place::Rqueue => "",
    };
    if let Some(pid) = stopped_keeper(view, msgid).filter(|_| phase == "running") {
        return format!("its keeper (pid {pid}) is stopped: kill -CONT {pid} lets it go on");
    }
    unwritten(phase, standing::taker(&*view.fs, msgid)).replace("ID", &crate::view::short(msgid))
}

/// The keeper that started a job's command, if that is stopped.
fn stopped_keeper(view: &View, msgid: MsgId) -> Option<u32> {
    let started = match runs_again(&*view.fs, msgid).unwrap_or(0) {
        0 => Place::Jobs.file(msgid, Mark::RunStarted.name()),
        times => run_again(msgid, times),
    };
    let pid = Facts::read(&*view.fs, &started).ok()??.value("keeper")?;
    (State::of(pid) == State::Stopped).then_some(pid)
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    place: &'static str,
    peer: Option<&'a str>,
    waits_for: Option<&'static str>,
    #[serde(flatten)]
    why: Why,
    next_in_seconds: Option<u64>,
    unblock: Option<String>,
    /// The words for what the job does, where no cause is noted.
    state: Option<String>,
    /// Why its outcome cannot be known.
    lost: Option<&'a str>,
    over: bool,
    /// Does a daemon run?
    daemon: bool,
    /// The process of daemon, service and loop that does not live, if there is one.
    trouble: Option<String>,
}

/// Everything that was seen of one directory.
struct Seen {
    place: Place,
    owner: Option<Owner>,
    why: Option<Why>,
    state: Option<String>,
    over: bool,
}

fn see(view: &View, place: Place, msgid: MsgId) -> Seen {
    let dir = place.dir(msgid);
    let owner = Owner::read(&*view.fs, &dir).ok().flatten();
    let why = match place {
        Place::Jobs => Why::of_job(view, msgid, owner.as_ref()),
        Place::Queue | Place::Rqueue => Why::read(&*view.fs, &dir),
    };
    let state = why.is_none().then(|| state(view, place, msgid, owner.as_ref()));
    let over = place == Place::Jobs && is_over(view, msgid, owner.as_ref());
    Seen { place, owner, why, state, over }
}

fn tell(view: &View, found: &Found, json: bool, now: u64, out: &mut dyn Write) -> anyhow::Result<()> {
    let (lost, troubles) = (standing::lost(&*view.fs, found.msgid), view.troubles());
    let seen: Vec<Seen> = found.places().map(|place| see(view, place, found.msgid)).collect();
    if json {
        return tell_json(view, found.msgid, &seen, lost.as_deref(), &troubles, now, out);
    }
    let daemon = !troubles.contains(&Trouble::NoDaemon);
    for seen in &seen {
        print(view, found.msgid, seen, daemon, now, out)?;
    }
    for aside in found.here.iter().filter(|here| Place::of(here).is_none()) {
        let text = match *aside {
            "hold" => "it is held: nothing is done with it until it is moved back",
            "notices" => "there is a notice about it",
            _ => continue,
        };
        writeln!(out, "{aside}/{}\n  {text}", found.msgid)?;
    }
    if let Some(why) = lost {
        field(out, "lost", why)?;
    }
    for trouble in &troubles {
        writeln!(out, "{}", told(trouble))?;
    }
    Ok(())
}

/// A line for each directory, and one for a job of which only a notice is left.
fn tell_json(
    view: &View,
    msgid: MsgId,
    seen: &[Seen],
    lost: Option<&str>,
    troubles: &[Trouble],
    now: u64,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let id = msgid.to_string();
    let bare = || Line {
        kind: "why",
        id: id.clone(),
        place: "notices",
        peer: None,
        waits_for: None,
        why: Why::default(),
        next_in_seconds: None,
        unblock: None,
        state: None,
        lost,
        over: false,
        daemon: !troubles.contains(&Trouble::NoDaemon),
        trouble: troubles.first().map(Trouble::to_string),
    };
    for seen in seen {
        let why = seen.why.clone().unwrap_or_default();
        let known = why.cause.as_deref().and_then(explain);
        let peer = seen.owner.as_ref().and_then(|owner| view.name(&owner.username));
        let help = |help: &str| help.replace("ID", &id).replace("PEER", peer.unwrap_or("?"));
        let row = Line {
            place: seen.place.word(),
            peer,
            waits_for: known.map(|(whom, _)| whom),
            next_in_seconds: why.next_at.map(|at| at.saturating_sub(now)),
            unblock: known.map(|(_, text)| help(text)),
            state: seen.state.clone(),
            over: seen.over,
            why,
            ..bare()
        };
        line(out, &row)?;
    }
    if seen.is_empty() && lost.is_some() { line(out, &bare()) } else { Ok(()) }
}

/// Prints one directory for a person.
fn print(view: &View, msgid: MsgId, seen: &Seen, daemon: bool, now: u64, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "{}", seen.place.dir(msgid))?;
    let name = view.short_name(seen.owner.as_ref().map(|owner| &owner.username));
    let mut say = |name: &str, value: String| field(out, &format!("  {name}"), value);
    say("peer", name.clone())?;
    if let Some(state) = &seen.state {
        say("state", state.clone())?;
    }
    let Some(why) = &seen.why else { return Ok(()) };
    let known = why.cause.as_deref().and_then(explain);
    let ago = |at: u64| format!("{} ago", seconds(now.saturating_sub(at)));
    say("cause", why.cause.clone().unwrap_or_else(|| "none given".into()))?;
    if let Some((whom, _)) = known {
        say("waits for", if whom == "peer" { name.clone() } else { whom.into() })?;
    }
    if let Some(at) = why.first_at {
        say("since", ago(at))?;
    }
    if let Some(attempts) = why.attempts {
        say("attempts", attempts.to_string())?;
    }
    if let Some(error) = why.first_error.as_ref().filter(|first| Some(*first) != why.last_error.as_ref()) {
        say("first error", error.clone())?;
    }
    match (why.last_at.map(ago), &why.last_error) {
        (Some(ago), Some(error)) => say("last error", format!("{error} ({ago})"))?,
        (None, Some(error)) => say("last error", error.clone())?,
        (Some(ago), None) => say("last try", ago)?,
        (None, None) => {}
    }
    if why.next_at.is_some() {
        say("next try", if daemon { why.next(now) } else { "when a daemon runs".into() })?;
    }
    if let Some((_, help)) = known {
        say("help", help.replace("ID", &crate::view::short(msgid)).replace("PEER", &name))?;
    }
    Ok(())
}

fn is_over(view: &View, msgid: MsgId, owner: Option<&Owner>) -> bool {
    standing::is_over(&*view.fs, msgid, owner.map_or(Role::Recipient, |owner| owner.role))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{hand_made, printed};
    use spool::layout::log_in;
    use spool::log::Writer;
    use spool::segment::{EndKind, Stream};

    const ID: MsgId = MsgId([0xab; 20]);

    fn facts() -> String {
        let facts = Facts::new().with("cause", "unreachable").with("attempts", 7).with("first_at", 1000);
        let facts = facts.with("first_error", "timed out").with("last_error", "connection refused");
        facts.with("last_at", 4590).with("next_at", 4612).to_string()
    }

    #[test]
    fn a_cause_is_told_with_its_times_and_what_would_help() {
        let hand = hand_made();
        hand.own(Place::Queue, ID, Role::Sender);
        hand.facts(&Place::Queue.file(ID, WHY), &facts());
        let found = hand.view.find("ab").unwrap();
        let text = printed(|out| tell(&hand.view, &found, false, 4600, out));
        for part in [
            "nas",
            "unreachable",
            "7",
            "1 h 00 ago",
            "timed out",
            "connection refused (10 s ago)",
            "peers/nas/peer.toml",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("no daemon runs"), "{text}");
        let json = printed(|out| tell(&hand.view, &found, true, 4600, out));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["cause"], &value["next_in_seconds"]), (&"unreachable".into(), &12.into()));
        assert_eq!((&value["waits_for"], &value["daemon"]), (&"peer".into(), &false.into()));
    }

    /// Of a job that was left it said that plumb was taking its output, where no plumb lived.
    #[test]
    fn the_end_of_a_job_that_was_left_waits_for_whoever_attaches() {
        let hand = hand_made();
        let submitted = hand.submit(&["true"]);
        let (keys, fs) = (submitted.keys.clone(), hand.view.fs.clone());
        for &chan in Role::Recipient.produces() {
            let (dir, stream) = (log_in(keys.msgid, chan), Stream { chan, producer: Role::Recipient });
            Writer::open(fs.clone(), &dir, keys.clone(), stream).unwrap().end(EndKind::Eof).unwrap();
        }
        let told = || {
            let found = hand.view.find(&keys.msgid.to_string()).unwrap();
            printed(|out| tell(&hand.view, &found, false, 0, out))
        };
        assert!(told().contains("plumb is taking it"), "{}", told());
        job::submit::detach(&*fs, keys.msgid, false).unwrap();
        assert!(told().contains("plumb is taking it"), "it has not gone yet: {}", told());
        drop(submitted.lock);
        let waits = format!("waits for: plumb -attach={}", crate::view::short(keys.msgid));
        assert!(told().contains(&waits), "{}", told());
        job::submit::reattach(&*fs, keys.msgid).unwrap();
        assert!(told().contains("nobody takes it"), "{}", told());
    }

    #[test]
    fn a_keeper_that_is_stopped_is_named() {
        let hand = hand_made();
        hand.own(Place::Jobs, ID, Role::Recipient);
        hand.put(&Place::Jobs.file(ID, "message"), "sealed");
        hand.mark(Place::Jobs, ID, Mark::RecvOk);
        let mut keeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let facts = Facts::new().with("keeper", keeper.id());
        facts.hint(&*hand.view.fs, &Place::Jobs.file(ID, Mark::RunStarted.name())).unwrap();
        let _lock = hand.view.fs.lock_file(&spool::layout::running(ID), std::time::Duration::ZERO).unwrap();
        let told = || printed(|out| tell(&hand.view, &hand.view.find("ab").unwrap(), false, 0, out));
        assert!(told().contains("goes on; nothing is known"), "{}", told());
        let pid = rustix::process::Pid::from_child(&keeper);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while State::of(keeper.id()) != State::Stopped {
            assert!(std::time::Instant::now() < until, "it stops");
        }
        assert!(told().contains(&format!("its keeper (pid {}) is stopped", keeper.id())), "{}", told());
        keeper.kill().unwrap();
        keeper.wait().unwrap();
    }

    #[test]
    fn a_job_of_which_only_a_notice_is_left_is_told_as_lost() {
        let hand = hand_made();
        let facts = Facts::new().with("what", "its directory was removed");
        facts.hint(&*hand.view.fs, &format!("notices/{ID}")).unwrap();
        let found = hand.view.find("ab").unwrap();
        let text = printed(|out| tell(&hand.view, &found, false, 0, out));
        assert!(text.contains("lost         its directory was removed"), "{text}");
        let json = printed(|out| tell(&hand.view, &found, true, 0, out));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value["place"], &value["lost"]), (&"notices".into(), &"its directory was removed".into()));
    }

    #[test]
    fn an_unknown_cause_and_a_damaged_file_are_told_as_they_are() {
        let hand = hand_made();
        hand.own(Place::Jobs, ID, Role::Recipient);
        hand.facts(&Place::Jobs.file(ID, WHY), "cause=moon\u{1b}phase\nattempts=many\n\u{fffd}\n");
        let found = hand.view.find("ab").unwrap();
        let text = printed(|out| tell(&hand.view, &found, false, 0, out));
        assert!(text.contains("moon\\u{1b}phase"), "{text}");
        hand.put(&Place::Jobs.file(ID, WHY), [0xff, 0xfe, b'\n']);
        assert!(printed(|out| tell(&hand.view, &found, false, 0, out)).contains("outcome is about to be put down"));
    }

    #[test]
    fn every_cause_of_the_loop_has_its_sentence() {
        let table = include_str!("../doc/SPOOL.md").split("## why").nth(1).expect("the section");
        let rows = table.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
        let causes: Vec<&str> = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`')).collect();
        let causes: Vec<&str> = causes.into_iter().filter(|cause| !cause.trim().is_empty()).collect();
        assert!(causes.len() > 10, "{causes:?}");
        for cause in causes {
            assert!(explain(cause).is_some_and(|(_, help)| !help.is_empty()), "{cause}");
        }
        assert_eq!(explain("moon"), None);
    }
}
