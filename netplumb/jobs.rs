//! `netplumb jobs`: one line for each job, ours and those that we run.
//!
//! Sizes and ends are read from the logs without keys; whether `plumb` and
//! keeper live is asked of their locks. Tombstones, of which there may be a
//! hundred thousand, are passed over by name unless `--all` asks for them.

use crate::listing::{Align, answer, bytes, each, line, seconds, table};
use crate::logs;
use crate::view::{View, short};
use crate::why::Why;
use serde::Serialize;
use spool::fs::Fs;
use spool::layout::{self, DETACHED, KEY, MESSAGE, Owner, PLUMB, Place};
use spool::look;
use spool::name::{MsgId, Role};
use spool::phase::{Mark, RecipientPhase, RecipientSeen, SenderPhase, SenderSeen};
use spool::standing::{self, Taker};
use std::io::Write;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// One line of JSON for each job; later versions may add members.
    #[arg(long)]
    json: bool,
    /// Also those that are over and of which only the tombstone stands.
    #[arg(long)]
    all: bool,
    /// Only those for or from this peer.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    answer(args.json, |out| {
        let view = View::open()?;
        list(&view, &args, out)
    })
}

/// What was seen of one job.
struct Row {
    msgid: MsgId,
    owner: Option<Owner>,
    phase: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    plumb: bool,
    detached: bool,
    keeper: bool,
    outcome: Option<String>,
    why: Option<Why>,
    error: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    role: Option<&'static str>,
    direction: &'static str,
    phase: &'static str,
    peer: Option<&'a str>,
    username: Option<&'a str>,
    age_seconds: Option<u64>,
    bytes_in: u64,
    bytes_out: u64,
    plumb: bool,
    detached: bool,
    keeper: bool,
    outcome: Option<&'a str>,
    cause: Option<&'a str>,
    next_at: Option<u64>,
    error: Option<&'a str>,
}

fn list(view: &View, args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    let peer = args.peer.as_deref().map(|name| view.peer(name)).transpose()?;
    let ids = Place::Jobs.ids(&*view.fs)?;
    let mut rows = each(&ids, |msgid| {
        if !args.all && look::has(&*view.fs, &Place::Jobs.dir(*msgid), Mark::Over) {
            return None;
        }
        let row = see(view, *msgid)?;
        (peer.is_none() || peer.as_ref() == row.owner.as_ref().map(|owner| &owner.username)).then_some(row)
    });
    rows.sort_by_cached_key(|row| (row.owner.as_ref().map(|owner| owner.born), row.msgid));
    view.mention_troubles();
    if args.json {
        return rows.iter().try_for_each(|row| line(out, &json(view, row)));
    }
    if rows.is_empty() {
        eprintln!("there are no jobs{}", if args.all { "" } else { " (tombstones: --all)" });
        return Ok(());
    }
    use Align::{Left, Right};
    let heads = [
        ("ROLE", Left),
        ("ID", Left),
        ("PHASE", Left),
        ("PEER", Left),
        ("AGE", Right),
        ("IN", Right),
        ("OUT", Right),
        ("ALIVE", Left),
        ("OUTCOME OR REASON", Left),
    ];
    Ok(table(out, heads, rows.iter().map(|row| cells(view, row)))?)
}

fn cells(view: &View, row: &Row) -> [String; 9] {
    let alive = match (row.plumb, row.keeper) {
        (true, true) => "both",
        (true, false) => "plumb",
        (false, true) => "keeper",
        (false, false) if row.detached => "detached",
        (false, false) => "-",
    };
    let reason = || row.why.as_ref().map(Why::reason).or(row.error.clone()).unwrap_or_default();
    [
        direction(row).into(),
        short(row.msgid),
        row.phase.into(),
        view.short_name(row.owner.as_ref().map(|owner| &owner.username)),
        row.owner.as_ref().map_or("?".into(), |owner| seconds(view.age(owner))),
        bytes(row.bytes_in),
        bytes(row.bytes_out),
        alive.into(),
        row.outcome.clone().unwrap_or_else(reason),
    ]
}

fn json<'a>(view: &'a View, row: &'a Row) -> Line<'a> {
    let (owner, why) = (row.owner.as_ref(), row.why.as_ref());
    Line {
        kind: "job",
        id: row.msgid.to_string(),
        role: owner.map(|owner| owner.role.word()),
        direction: direction(row),
        phase: row.phase,
        peer: owner.and_then(|owner| view.name(&owner.username)),
        username: owner.map(|owner| owner.username.as_str()),
        age_seconds: owner.map(|owner| view.age(owner)),
        bytes_in: row.bytes_in,
        bytes_out: row.bytes_out,
        plumb: row.plumb,
        detached: row.detached,
        keeper: row.keeper,
        outcome: row.outcome.as_deref(),
        cause: why.and_then(|why| why.cause.as_deref()),
        next_at: why.and_then(|why| why.next_at),
        error: row.error.as_deref().or(why.and_then(|why| why.last_error.as_deref())),
    }
}

fn direction(row: &Row) -> &'static str {
    match row.owner.as_ref().map(|owner| owner.role) {
        Some(Role::Sender) => "out",
        Some(Role::Recipient) => "in",
        None => "?",
    }
}

fn see(view: &View, msgid: MsgId) -> Option<Row> {
    let (fs, dir) = (&*view.fs, Place::Jobs.dir(msgid));
    let owner = Owner::read(fs, &dir).ok().flatten();
    if owner.is_none() && !fs.exists(&dir) {
        return None;
    }
    let (phase, error) = match phase(view, msgid, owner.as_ref()) {
        Ok(phase) if owner.is_none() => (phase, standing::lost(fs, msgid)),
        Ok(phase) => (phase, None),
        Err(error) => ("unreadable", Some(error.to_string())),
    };
    // Channel 0 is our own talk; people count what they piped.
    let logs: Vec<logs::Seen> = logs::all(fs, msgid).into_iter().filter(|seen| seen.chan > 0).collect();
    let sum = |side| logs.iter().filter(|seen| seen.side == side).map(|seen| seen.plain).fold(0, u64::saturating_add);
    Some(Row {
        msgid,
        phase,
        bytes_in: sum("in"),
        bytes_out: sum("out"),
        plumb: fs.is_locked(&format!("{dir}/{PLUMB}")).unwrap_or(false),
        detached: fs.exists(&format!("{dir}/{DETACHED}")),
        keeper: fs.is_locked(&layout::running(msgid)).unwrap_or(false),
        outcome: outcome(fs, msgid).or_else(|| (phase == "ended").then(|| waiting(view, msgid))?),
        why: Why::of_job(view, msgid, owner.as_ref()),
        error: error.or_else(|| logs.into_iter().find_map(|seen| seen.damaged)),
        owner,
    })
}

/// How a job of ours ended whose output waits here: its recipient said so, and our keys open that.
fn waiting(view: &View, msgid: MsgId) -> Option<String> {
    let said = logs::end_held(&*view.fs, &view.job_keys(msgid).ok()?)?;
    let taken = if standing::taker(&*view.fs, msgid) == Taker::Plumb {
        "plumb takes its output"
    } else {
        "its output waits here"
    };
    Some(format!("{said}; {taken}"))
}

/// How the job ended, as far as a mark says so.
pub fn outcome(fs: &dyn Fs, msgid: MsgId) -> Option<String> {
    standing::outcome(fs, msgid).ok().flatten().map(|outcome| outcome.to_string())
}

/// The word for where a job stands (doc/SPOOL.md#jobs). Without keys: what lies
/// there is taken to open.
pub fn phase(view: &View, msgid: MsgId, owner: Option<&Owner>) -> spool::fs::Result<&'static str> {
    let (fs, dir) = (&*view.fs, Place::Jobs.dir(msgid));
    // Settings that cannot be read make nothing older than it is.
    let ages = view.home.settings().unwrap_or_default().ages();
    let there = |name: &str| fs.exists(&format!("{dir}/{name}"));
    match owner {
        Some(owner) if owner.role == Role::Sender => {
            let receipt = look::has(fs, &dir, Mark::Receipt);
            Ok(sender_word(&look::sender(fs, msgid, &ages, owner, there(KEY), receipt)?))
        }
        _ => Ok(recipient_word(&look::recipient(fs, msgid, &ages, owner, there(MESSAGE))?)),
    }
}

fn sender_word(seen: &SenderSeen) -> &'static str {
    match seen.phase() {
        SenderPhase::Done => "done",
        SenderPhase::Forgotten => "forgotten",
        SenderPhase::Ended => "ended",
        SenderPhase::ToFinish => "to-finish",
        SenderPhase::CancelledUnsent | SenderPhase::Cancelled => "cancelled",
        SenderPhase::ToCancel => "to-cancel",
        SenderPhase::Abandoned => "abandoned",
        SenderPhase::Ending => "ending",
        SenderPhase::Live => "live",
        SenderPhase::Waiting => "waiting",
        SenderPhase::Unqueued => "unqueued",
    }
}

fn recipient_word(seen: &RecipientSeen) -> &'static str {
    match seen.phase() {
        RecipientPhase::Expired | RecipientPhase::Remains | RecipientPhase::OverUnacked | RecipientPhase::Over => {
            "over"
        }
        RecipientPhase::ToFinish => "to-finish",
        RecipientPhase::ToCancel => "to-cancel",
        RecipientPhase::Ending => "ending",
        RecipientPhase::Exited => "exited",
        // The loop treats these alike; a person wants to know what the command does.
        RecipientPhase::Unclean | RecipientPhase::Live => match (seen.exit, seen.started, seen.keeper) {
            (true, _, _) => "exited",
            (false, false, _) => "delivered",
            (false, true, true) => "running",
            (false, true, false) => "interrupted",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{hand_made, printed};
    use spool::name::Chan;
    use spool::segment::{EndKind, Stream};
    use std::time::Duration;

    const RUN: MsgId = MsgId([0xcd; 20]);

    fn args(json: bool, all: bool) -> Args {
        Args { json, all, peer: None }
    }

    fn lines(view: &View, all: bool) -> Vec<serde_json::Value> {
        let text = printed(|out| list(view, &args(true, all), out));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn our_job_is_told_with_phase_bytes_and_whether_plumb_lives() {
        let hand = hand_made();
        let submitted = hand.submit(&["tar", "xf", "-"]);
        let msgid = submitted.keys.msgid;
        let stream = Stream { chan: Chan::STDIN, producer: Role::Sender };
        let dir = layout::log_out(msgid, Chan::STDIN);
        let mut writer = spool::log::Writer::open(hand.view.fs.clone(), &dir, submitted.keys.clone(), stream).unwrap();
        writer.append(&[1; 70_000]).unwrap();
        writer.end(EndKind::Eof).unwrap();
        let seen = lines(&hand.view, false).remove(0);
        assert_eq!(
            (&seen["phase"], &seen["plumb"], &seen["direction"]),
            (&"waiting".into(), &true.into(), &"out".into())
        );
        assert_eq!((&seen["bytes_out"], &seen["bytes_in"]), (&70_000.into(), &0.into()));
        drop(submitted);
        assert_eq!(lines(&hand.view, false)[0]["phase"], "to-cancel");
    }

    #[test]
    fn a_job_that_we_run_goes_from_delivered_to_its_tombstone() {
        let hand = hand_made();
        let phase = || lines(&hand.view, true).remove(0)["phase"].as_str().unwrap().to_string();
        hand.own(Place::Jobs, RUN, Role::Recipient);
        hand.put(&Place::Jobs.file(RUN, MESSAGE), "sealed");
        hand.mark(Place::Jobs, RUN, Mark::RecvOk);
        assert_eq!(phase(), "delivered");
        hand.mark(Place::Jobs, RUN, Mark::RunStarted);
        assert_eq!(phase(), "interrupted");
        let lock = hand.view.fs.lock_file(&layout::running(RUN), Duration::ZERO).unwrap();
        assert_eq!(phase(), "running");
        assert_eq!(lines(&hand.view, true)[0]["keeper"], true);
        drop(lock);
        hand.facts(&Place::Jobs.file(RUN, Mark::RunExit.name()), "outcome=exited 3\n");
        assert_eq!(phase(), "exited");
        hand.facts(&Place::Jobs.file(RUN, Mark::Over.name()), "outcome=exited 3\n");
        assert_eq!(lines(&hand.view, true)[0]["outcome"], "exited 3");
        assert!(lines(&hand.view, false).is_empty(), "a tombstone is listed with --all only");
    }

    #[test]
    fn anything_may_lie_in_jobs() {
        let hand = hand_made();
        let root = hand.directory.path().join("spool");
        hand.put(&Place::Jobs.file(RUN, "peer"), [0xff; 300]);
        hand.own(Place::Jobs, MsgId([1; 20]), Role::Sender);
        for dir in ["in/0", "in/70000", "in/x", "out/1/0"] {
            std::fs::create_dir_all(root.join(Place::Jobs.file(MsgId([1; 20]), dir))).unwrap();
        }
        let in0 = root.join(Place::Jobs.file(MsgId([1; 20]), "in/0"));
        std::os::unix::fs::symlink("/etc/passwd", in0.join("7")).unwrap();
        std::fs::create_dir(root.join(Place::Jobs.dir(MsgId([2; 20])))).unwrap();
        assert_eq!(lines(&hand.view, true).len(), 3);
        let text = printed(|out| list(&hand.view, &args(false, false), out));
        assert!(text.contains("is no regular file of ours"), "{text}");
    }
}
