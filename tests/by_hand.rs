//! What doc/SPOOL.md#by-hand allows an administrator to do while everything runs.

use crate::homes::{PLUMB, Peer, pair, pair_behind_links, pair_up, wait_until};
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

/// `plumb` with nothing to read, in the background; the command notes each of its runs.
fn start(a: &Peer, runs: &Path, command: &str) -> Child {
    let text = format!("echo ran >>{}; {command}", runs.display());
    let mut plumb = a.command(PLUMB);
    plumb.args(["b", &text]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    plumb.spawn().expect("plumb starts")
}

/// The only id in this place, once it is there.
fn only_id(peer: &Peer, place: &str) -> String {
    wait_until(&format!("one in {place}"), || peer.ids(place).len() == 1);
    peer.ids(place).remove(0)
}

fn runs(at: &Path) -> usize {
    std::fs::read_to_string(at).unwrap_or_default().lines().count()
}

fn end(child: Child) -> (i32, String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code().expect("no signal"), text(&stdout), text(&stderr))
}

/// A message that waits for a peer which is down.
fn waiting() -> (Peer, Peer, Child, String) {
    let (mut a, b) = pair();
    a.up();
    let plumb = start(&a, &b.home.join("runs"), "echo done");
    let id = only_id(&a, "queue");
    wait_until("it was tried", || attempts(&a, &id) > 0);
    (a, b, plumb, id)
}

/// How often a message was tried.
fn attempts(peer: &Peer, id: &str) -> u64 {
    let text = std::fs::read_to_string(peer.spool(&format!("queue/{id}/why"))).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("attempts=")?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_message_put_aside_waits_and_goes_on_when_it_is_put_back() {
    let (a, mut b, mut plumb, id) = waiting();
    std::fs::rename(a.spool(&format!("queue/{id}")), a.spool(&format!("hold/{id}"))).unwrap();
    b.up();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(runs(&b.home.join("runs")), 0, "it was put aside");
    assert!(plumb.try_wait().unwrap().is_none(), "plumb waits");
    std::fs::rename(a.spool(&format!("hold/{id}")), a.spool(&format!("queue/{id}"))).unwrap();
    let (status, stdout, stderr) = end(plumb);
    assert_eq!((status, stdout.as_str()), (0, "done\n"), "{stderr}");
    assert_eq!(runs(&b.home.join("runs")), 1);
}

#[test]
fn a_message_that_is_removed_never_runs_and_plumb_says_so() {
    let (a, mut b, plumb, id) = waiting();
    std::fs::remove_dir_all(a.spool(&format!("queue/{id}"))).unwrap();
    let (status, _, stderr) = end(plumb);
    assert_eq!(status, 255, "{stderr}");
    assert!(stderr.contains("queue"), "{stderr}");
    assert!(stderr.lines().last().unwrap().starts_with("plumb: origin=transport status="), "{stderr}");
    b.up();
    // The control: the same peers carry the next one.
    assert_eq!(a.plumb(&["b", "echo next"], b"").good().text(), "next\n");
    assert_eq!(runs(&b.home.join("runs")), 0);
}

#[test]
fn a_message_that_is_touched_is_tried_at_once() {
    let (a, _b, mut plumb, id) = waiting();
    // The longer it waits the rarer it is tried.
    wait_until("it is tried rarely", || {
        let before = attempts(&a, &id);
        std::thread::sleep(Duration::from_secs(3));
        attempts(&a, &id) <= before + 1
    });
    // By themselves so many tries would take minutes.
    let (mut touches, mut tried) = (0, 0);
    wait_until("twenty touches are each followed by a try", || {
        if attempts(&a, &id) > tried {
            (touches, tried) = (touches + 1, attempts(&a, &id));
            let now = std::fs::FileTimes::new().set_modified(std::time::SystemTime::now());
            std::fs::File::open(a.spool(&format!("queue/{id}"))).unwrap().set_times(now).unwrap();
        }
        touches > 20
    });
    plumb.kill().unwrap();
    plumb.wait().unwrap();
}

#[test]
fn an_arriving_message_that_is_removed_comes_again_and_runs_once() {
    let (a, b, links) = pair_behind_links(50 << 20);
    links[1].swallow(true);
    let at = b.home.join("runs");
    let plumb = start(&a, &at, "echo done");
    let id = only_id(&b, "rqueue");
    std::fs::remove_dir_all(b.spool(&format!("rqueue/{id}"))).unwrap();
    links[1].swallow(false);
    let (status, stdout, stderr) = end(plumb);
    assert_eq!((status, stdout.as_str()), (0, "done\n"), "{stderr}");
    assert_eq!(runs(&at), 1);
}

#[test]
fn a_job_removed_at_its_recipient_is_an_unknown_outcome() {
    let (a, b) = pair_up();
    let at = b.home.join("runs");
    let plumb = start(&a, &at, "sleep 1000");
    wait_until("it runs", || runs(&at) == 1);
    let id = only_id(&b, "jobs");
    wait_until("it is confirmed", || b.spool(&format!("jobs/{id}/acked")).exists());
    remove(&b.spool(&format!("jobs/{id}")));
    let (status, _, stderr) = end(plumb);
    assert_eq!(status, 255, "{stderr}");
    assert!(stderr.lines().last().unwrap().contains("status=76"), "{stderr}");
    assert_eq!(runs(&at), 1, "it is not run again");
}

#[test]
fn a_job_removed_at_its_sender_ends_at_its_recipient() {
    let (a, b) = pair_up();
    let at = b.home.join("runs");
    let plumb = start(&a, &at, "exec sleep 1000");
    wait_until("it runs", || runs(&at) == 1);
    let id = only_id(&a, "jobs");
    wait_until("it is confirmed", || a.ids("queue").is_empty());
    remove(&a.spool(&format!("jobs/{id}")));
    let (status, _, stderr) = end(plumb);
    assert_eq!(status, 255, "{stderr}");
    wait_until("the command is ended", || b.spool(&format!("jobs/{id}/over")).exists());
    wait_until("no keeper is left", || b.children("keeper").is_empty());
}

/// Removes a directory in which others still make files.
fn remove(dir: &Path) {
    wait_until("the directory is gone", || std::fs::remove_dir_all(dir).is_ok() || !dir.exists());
}
