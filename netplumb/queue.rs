//! `netplumb queue`: one line for each message on its way.
//!
//! Takes no lock and may be run at any time: a message that comes, goes or
//! moves meanwhile is listed once or not at all. Marks are shown as they lie
//! there; `netplumb show` says whether they can be believed.

use crate::listing::{Align, answer, bytes, each, line, seconds, table};
use crate::view::{View, short};
use crate::why::{Why, now};
use serde::Serialize;
use spool::fs::{Entry, Fs, is_hidden};
use spool::layout::{ONETIME, Owner, Place};
use spool::name::{MsgId, Username};
use spool::phase::Mark;
use std::io::Write;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// One line of JSON for each message; later versions may add members.
    #[arg(long)]
    json: bool,
    /// Only those to or from this peer.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    answer(args.json, |out| {
        let view = View::open()?;
        list(&view, &args, now(), out)
    })
}

/// What was seen of one message.
struct Row {
    msgid: MsgId,
    place: Place,
    mark: &'static str,
    bytes: u64,
    owner: Option<Owner>,
    why: Option<Why>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    direction: &'static str,
    mark: &'static str,
    bytes: u64,
    age_seconds: Option<u64>,
    peer: Option<&'a str>,
    username: Option<&'a str>,
    cause: Option<&'a str>,
    error: Option<&'a str>,
    attempts: Option<u64>,
    next_at: Option<u64>,
    next_in_seconds: Option<u64>,
}

fn list(view: &View, args: &Args, now: u64, out: &mut dyn Write) -> anyhow::Result<()> {
    let peer = args.peer.as_deref().map(|name| view.peer(name)).transpose()?;
    let mut rows = Vec::new();
    for place in [Place::Queue, Place::Rqueue] {
        let ids = place.ids(&*view.fs)?;
        rows.extend(each(&ids, |msgid| see(view, place, *msgid, peer.as_ref())));
    }
    rows.sort_by_cached_key(|row| (row.owner.as_ref().map(|owner| owner.born), row.msgid));
    view.mention_troubles();
    if args.json {
        return rows.iter().try_for_each(|row| line(out, &json(view, row, now)));
    }
    if rows.is_empty() {
        eprintln!("the queue is empty");
        return Ok(());
    }
    use Align::{Left, Right};
    let heads = [
        ("DIR", Left),
        ("ID", Left),
        ("MARK", Left),
        ("SIZE", Right),
        ("AGE", Right),
        ("PEER", Left),
        ("NEXT", Left),
        ("REASON", Left),
    ];
    Ok(table(out, heads, rows.iter().map(|row| cells(view, row, now)))?)
}

fn cells(view: &View, row: &Row, now: u64) -> [String; 8] {
    [
        direction(row.place).into(),
        short(row.msgid),
        row.mark.into(),
        bytes(row.bytes),
        row.owner.as_ref().map_or("?".into(), |owner| seconds(view.age(owner))),
        view.short_name(row.owner.as_ref().map(|owner| &owner.username)),
        row.why.as_ref().map(|why| why.next(now)).filter(|next| !next.is_empty()).unwrap_or_else(|| "-".into()),
        row.why.as_ref().map(Why::reason).unwrap_or_default(),
    ]
}

fn json<'a>(view: &'a View, row: &'a Row, now: u64) -> Line<'a> {
    let (owner, why) = (row.owner.as_ref(), row.why.as_ref());
    Line {
        kind: "message",
        id: row.msgid.to_string(),
        direction: direction(row.place),
        mark: row.mark,
        bytes: row.bytes,
        age_seconds: owner.map(|owner| view.age(owner)),
        peer: owner.and_then(|owner| view.name(&owner.username)),
        username: owner.map(|owner| owner.username.as_str()),
        cause: why.and_then(|why| why.cause.as_deref()),
        error: why.and_then(|why| why.last_error.as_deref()),
        attempts: why.and_then(|why| why.attempts),
        next_at: why.and_then(|why| why.next_at),
        next_in_seconds: why.and_then(|why| why.next_at).map(|at| at.saturating_sub(now)),
    }
}

fn direction(place: Place) -> &'static str {
    match place {
        Place::Queue => "out",
        Place::Rqueue => "in",
        Place::Jobs => "job",
    }
}

/// Looks at one message; `None` if it is another peer's, or gone.
fn see(view: &View, place: Place, msgid: MsgId, peer: Option<&Username>) -> Option<Row> {
    let (fs, dir) = (&*view.fs, place.dir(msgid));
    let owner = Owner::read(fs, &dir).ok().flatten();
    if peer.is_some() && owner.as_ref().map(|owner| &owner.username) != peer {
        return None;
    }
    let entries = fs.list(&dir).unwrap_or_default();
    if entries.is_empty() && !fs.exists(&dir) {
        return None;
    }
    let job = if place == Place::Queue { fs.list(&Place::Jobs.dir(msgid)).unwrap_or_default() } else { Vec::new() };
    let sizes = entries.iter().filter(|entry| !is_hidden(&entry.name)).map(|entry| size(fs, &dir, entry));
    let why = Why::read(fs, &dir);
    Some(Row { msgid, place, mark: farthest(place, &entries, &job), bytes: sizes.sum(), owner, why })
}

/// Bytes of a file; of a directory (the one-time key), those of its files.
fn size(fs: &dyn Fs, dir: &str, entry: &Entry) -> u64 {
    let path = format!("{dir}/{}", entry.name);
    match (entry.is_dir, entry.name == ONETIME) {
        (false, _) => fs.size(&path).ok().flatten().unwrap_or(0),
        (true, false) => 0,
        (true, true) => {
            let inner = fs.list(&path).unwrap_or_default();
            inner.iter().filter(|entry| !entry.is_dir).map(|entry| size(fs, &path, entry)).sum()
        }
    }
}

/// The most advanced mark that lies there, in the order of `spool/phase.rs`.
fn farthest(place: Place, entries: &[Entry], job: &[Entry]) -> &'static str {
    let has = |entries: &[Entry], mark: Mark| entries.iter().any(|entry| entry.name == mark.name());
    let among = |marks: &[Mark]| marks.iter().find(|mark| has(entries, **mark)).map(|mark| mark.name());
    let found = match place {
        Place::Queue if job.is_empty() => Some("orphan"),
        Place::Queue if has(job, Mark::Receipt) => Some(Mark::AckOk.name()),
        Place::Queue if has(entries, Mark::AckReq) => Some(Mark::AckReq.name()),
        Place::Queue if has(entries, Mark::AckOk) => Some(Mark::AckOk.name()),
        Place::Queue if has(job, Mark::Cancel) || has(job, Mark::Done) => Some(Mark::Cancel.name()),
        Place::Queue => among(&[Mark::SendOk, Mark::SendRdy, Mark::SendReq]),
        Place::Rqueue => among(&[Mark::Cancel, Mark::RecvRdy, Mark::RecvReq, Mark::PeerOk, Mark::PeerReq]),
        Place::Jobs => None,
    };
    found.unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{hand_made, nas, printed, status};
    use spool::layout::WHY;
    use spool::name::Role;

    const OUT: MsgId = MsgId([0xab; 20]);
    const IN: MsgId = MsgId([0xcd; 20]);

    fn args(json: bool, peer: Option<&str>) -> Args {
        Args { json, peer: peer.map(str::to_string) }
    }

    #[test]
    fn both_directions_are_listed_with_mark_size_age_peer_and_reason() {
        let hand = hand_made();
        hand.own(Place::Queue, OUT, Role::Sender);
        hand.own(Place::Jobs, OUT, Role::Sender);
        hand.mark(Place::Queue, OUT, Mark::SendReq);
        hand.mark(Place::Queue, OUT, Mark::SendRdy);
        hand.put(&Place::Queue.file(OUT, "message"), vec![0; 5000]);
        hand.facts(&Place::Queue.file(OUT, WHY), "cause=unreachable\nlast_error=refused\nnext_at=112\n");
        hand.own(Place::Rqueue, IN, Role::Recipient);
        hand.mark(Place::Rqueue, IN, Mark::PeerReq);
        let text = printed(|out| list(&hand.view, &args(false, None), 100, out));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words[..3], ["out", "abababababab", "send.rdy"]);
        assert!(lines[1].contains("15 min") && lines[1].ends_with("nas   in 12 s  unreachable: refused"), "{text}");
        assert_eq!(lines[2].split_whitespace().take(3).collect::<Vec<_>>(), ["in", "cdcdcdcdcdcd", "peer.req"]);

        let json = printed(|out| list(&hand.view, &args(true, None), 100, out));
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!(first["id"], OUT.to_string());
        assert!(first["bytes"].as_u64().unwrap() > 5000);
        assert_eq!((&first["age_seconds"], &first["next_in_seconds"]), (&940.into(), &12.into()));
        assert_eq!((&first["peer"], &first["username"]), (&"nas".into(), &nas().as_str().into()));
    }

    #[test]
    fn only_the_named_peers_are_listed_and_an_unknown_name_is_67() {
        let hand = hand_made();
        hand.own(Place::Rqueue, IN, Role::Recipient);
        hand.put(&Place::Rqueue.file(OUT, "peer"), "garbage");
        assert_eq!(printed(|out| list(&hand.view, &args(true, Some("nas")), 0, out)).lines().count(), 1);
        assert_eq!(printed(|out| list(&hand.view, &args(true, None), 0, out)).lines().count(), 2);
        let error = list(&hand.view, &args(true, Some("moon")), 0, &mut Vec::new()).unwrap_err();
        assert_eq!(status(error), crate::fail::NO_PEER);
    }

    #[test]
    fn anything_may_lie_in_the_queue() {
        let hand = hand_made();
        let root = hand.directory.path().join("spool");
        let dir = root.join(Place::Queue.dir(OUT));
        std::fs::create_dir_all(dir.join("peer")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join("why")).unwrap();
        std::fs::create_dir_all(dir.join("send.ok/deep")).unwrap();
        std::fs::create_dir_all(root.join("queue/.half")).unwrap();
        std::fs::create_dir_all(root.join("queue/not-an-id")).unwrap();
        std::fs::write(root.join("queue").join(IN.to_string()), "a file where a directory should be").unwrap();
        std::fs::remove_dir(root.join("rqueue")).unwrap();
        std::fs::write(root.join("rqueue"), "not a directory").unwrap();
        let text = printed(|out| list(&hand.view, &args(false, None), 0, out));
        assert!(text.lines().count() == 2 && text.contains("orphan"), "{text}");
    }

    #[test]
    fn directories_that_vanish_while_they_are_listed_do_no_harm() {
        let hand = hand_made();
        let ids: Vec<MsgId> = (0..200).map(|n| MsgId([n; 20])).collect();
        std::thread::scope(|scope| {
            let churn = scope.spawn(|| {
                for msgid in ids.iter().cycle().take(600) {
                    hand.own(Place::Queue, *msgid, Role::Sender);
                    let _ = hand.view.fs.remove(&Place::Queue.dir(*msgid));
                }
            });
            while !churn.is_finished() {
                let json = printed(|out| list(&hand.view, &args(true, None), 0, out));
                assert!(json.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
            }
        });
    }
}
