//! Every verb that looks answers in time, whatever lies there.

use super::fault::{Blow, SIDES, Verb};
use super::ground::Ground;
use super::judge::{Broken, Promise};
use super::lies;
use super::play;
use super::rest;
use crate::homes::Peer;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Jobs that no fault touched and that are looked at too.
const OTHERS: usize = 2;

/// How long a second daemon may take: it waits a while for the answer of the first one.
const TURNED_AWAY: Duration = Duration::from_secs(15);

/// Asks all verbs of both sides, of which each must answer within `limit`. Gives the broken promises, and how many were asked.
pub fn all(peers: &[Peer; 2], ground: &Ground, blow: &Blow, files: &Path, limit: Duration) -> (Vec<Broken>, usize) {
    let mut asked: Vec<(usize, Vec<String>)> = Vec::new();
    let mut ids: BTreeSet<String> = blow.faults.iter().flat_map(|fault| ground.touched(fault)).take(4).collect();
    ids.extend(ground.ids.values().take(OTHERS).cloned());
    for side in [0, 1] {
        for words in [&["queue"][..], &["jobs"], &["jobs", "--all"], &["peer", "list"], &["check"]] {
            asked.push((side, words.iter().map(|word| word.to_string()).collect()));
        }
        for id in &ids {
            asked.extend(["show", "why"].map(|verb| (side, vec![verb.to_string(), id.clone()])));
        }
    }
    for fault in &blow.faults {
        let mut paths = vec![ground.below(fault.side, &fault.path)];
        if let Verb::Swap(other) | Verb::Copy(other) = &fault.verb {
            paths.push(ground.below(fault.side, other));
        }
        // A name that is no text cannot be a word of ours here; the program takes it as it is.
        let words = paths.iter().filter_map(|path| ground.spools[fault.side].join(path).to_str().map(str::to_string));
        asked.extend(words.map(|path| (fault.side, vec!["dump".to_string(), path])));
    }
    let json = asked.iter().map(|(side, words)| (*side, [words.as_slice(), &["--json".to_string()]].concat()));
    asked.extend(json.collect::<Vec<_>>());
    let mut broken = Vec::new();
    for (n, (side, words)) in asked.iter().enumerate() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (ended, said) = play::verb(&peers[*side], &words, files.join(n.to_string()), limit);
        let of = format!("{} at {}", words.join(" "), SIDES[*side]);
        let seen = match ended {
            None => format!("no answer within {limit:?}"),
            Some(ended) if ended.status >= 101 => {
                format!("status {}: {}", ended.status, String::from_utf8_lossy(&said.stderr))
            }
            Some(_) => continue,
        };
        broken.push(Broken { promise: Promise::Verbs, of, seen });
    }
    for fault in blow.faults.iter().filter(|fault| lies::job_of(&fault.path).is_none()) {
        let files = files.join("second-daemon");
        if let Err(seen) = second_daemon_is_turned_away(&peers[fault.side], files) {
            broken.push(Broken { promise: Promise::Verbs, of: "daemon".into(), seen });
        }
    }
    (broken, asked.len())
}

/// Is a second daemon turned away, as long as the first one runs?
fn second_daemon_is_turned_away(peer: &Peer, files: PathBuf) -> Result<(), String> {
    let lives = || peer.daemon_pid().is_some_and(|pid| !rest::words(pid).is_empty());
    let lived = lives();
    let (ended, said) = play::verb(peer, &["daemon"], files, TURNED_AWAY);
    match ended {
        None if lived && lives() => Err(format!("a second daemon runs: {}", String::from_utf8_lossy(&said.stderr))),
        _ => Ok(()),
    }
}
