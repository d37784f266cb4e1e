//! Jobs that end otherwise than by their command: put down by the loop, broken, removed by hand.

use crate::fake::{Here, wait_for};
use crate::{last, noise};
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{Place, log_in_all};
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::segment::EndKind;
use std::io::Read;
use std::time::Duration;

#[test]
fn an_outcome_that_the_loop_puts_down_ends_it_with_what_there_is() {
    let cases = [
        (Outcome::NotStarted, 255, "plumb: origin=transport status=75 reason=not-started"),
        (Outcome::Refused("no shell".into()), 255, "plumb: origin=transport status=77 reason=refused"),
        (Outcome::Unknown, 255, "plumb: origin=transport status=76 reason=outcome-unknown"),
        (Outcome::Interrupted, 255, "plumb: origin=transport status=76 reason=interrupted"),
        // Without END there may be more output than what is here.
        (Outcome::Exited(0), 255, "plumb: origin=transport status=76 reason=output-incomplete"),
    ];
    for (outcome, status, line) in cases {
        let here = Here::new();
        let plumb = here.plumb(&["nas", "make"]);
        let mut peer = here.meet();
        peer.receipt();
        peer.says(Chan::STDOUT, b"so far\n");
        peer.done(outcome.clone());
        let (ended, stdout, stderr) = plumb.finish();
        assert_eq!((ended, last(&stderr)), (status, line), "{outcome}");
        assert_eq!(stdout, b"so far\n", "{outcome}");
        assert_eq!(peer.mark("done").unwrap().value("outcome"), Some(outcome), "it stays as the loop left it");
    }
}

#[test]
fn an_outcome_put_down_by_the_loop_counts_when_all_output_is_here() {
    let here = Here::new();
    let plumb = here.plumb(&["-q", "nas", "make"]);
    let mut peer = here.meet();
    peer.receipt();
    peer.ends(Chan::STDOUT, EndKind::Eof);
    peer.ends(Chan::STDERR, EndKind::Eof);
    peer.done(Outcome::Exited(4));
    assert_eq!(plumb.finish(), (4, Vec::new(), String::new()));
}

#[test]
fn all_output_that_is_here_is_delivered_although_the_job_is_over() {
    let here = Here::new();
    let mut plumb = here.plumb(&["nas", "make"]);
    let mut peer = here.meet();
    peer.receipt();
    // More than a pipe holds: most of it waits in the spool when the job is over.
    peer.says(Chan::STDOUT, &noise(6 << 20));
    peer.done(Outcome::Cancelled);
    let mut stdout = plumb.stdout.take().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut read = Vec::new();
    stdout.read_to_end(&mut read).unwrap();
    assert!(read == noise(6 << 20), "{} bytes", read.len());
    let (status, _, stderr) = plumb.finish();
    assert_eq!((status, last(&stderr)), (255, "plumb: origin=transport status=76 reason=cancelled"));
}

#[test]
fn an_interrupted_log_is_never_a_success() {
    for chan in [Chan::STDOUT, Chan::STDERR] {
        let here = Here::new();
        let plumb = here.plumb(&["nas", "make"]);
        let mut peer = here.meet();
        peer.receipt();
        peer.says(chan, b"12345");
        peer.broken(chan);
        let (status, _, stderr) = plumb.finish();
        assert_eq!((status, last(&stderr)), (255, "plumb: origin=transport status=76 reason=output-incomplete"));
        assert!(stderr.contains("outcome unknown") && stderr.contains("incomplete at 5"), "{stderr}");
        assert_eq!(peer.mark("done").unwrap().text("outcome"), Some("unknown"));
    }
}

#[test]
fn an_output_that_was_cut_off_is_not_a_success_although_the_command_was_one() {
    let here = Here::new();
    let plumb = here.plumb(&["nas", "make"]);
    let mut peer = here.meet();
    peer.receipt();
    peer.says(Chan::STDOUT, b"12345");
    peer.ends(Chan::STDOUT, EndKind::Aborted);
    peer.ends(Chan::STDERR, EndKind::Eof);
    peer.announces(Outcome::Exited(0));
    let (status, stdout, stderr) = plumb.finish();
    assert_eq!((status, stdout.as_slice()), (255, &b"12345"[..]));
    assert_eq!(last(&stderr), "plumb: origin=transport status=76 reason=output-incomplete");
}

/// The loop pulls the log, and would have mended what a power cut left.
#[test]
fn damage_in_a_delivered_segment_is_found_and_is_the_end() {
    let here = Here::new();
    let plumb = here.plumb(&["nas", "make"]);
    let mut peer = here.meet();
    peer.receipt();
    let _lock = here.fs.lock_dir(&log_in_all(peer.msgid), Duration::ZERO).unwrap().expect("the loop has it");
    // Damaged before its name appears, as the loop would never leave it.
    let dir = here.home.spool.join(format!("jobs/{}/in/2", peer.msgid));
    std::fs::write(dir.join(".x"), vec![7; 4096]).unwrap();
    std::fs::rename(dir.join(".x"), dir.join("0")).unwrap();
    let (status, stdout, stderr) = plumb.finish();
    assert_eq!((status, stdout.as_slice()), (255, &b""[..]));
    assert_eq!(last(&stderr), "plumb: origin=transport status=76 reason=output-incomplete");
    peer.ends(Chan::STDERR, EndKind::Eof);
}

#[test]
fn a_message_that_was_removed_by_hand_is_cancelled() {
    let here = Here::new();
    let plumb = here.plumb(&["nas", "make"]);
    let peer = here.meet();
    here.fs.remove(&Place::Queue.dir(peer.msgid)).unwrap();
    wait_for("the cancel mark", || peer.mark("cancel"));
    peer.done(Outcome::NotStarted);
    let (status, _, stderr) = plumb.finish();
    assert_eq!((status, last(&stderr)), (255, "plumb: origin=transport status=75 reason=not-started"));
}

/// It was always said to have been removed by hand, and its outcome to be unknown.
#[test]
fn a_message_that_our_own_loop_removed_ends_as_the_loop_says() {
    let over = |outcome| Facts::new().with("outcome", outcome);
    let cases: [(&str, Facts, &str); 3] = [
        ("cancel", Facts::new().with("reason", "lost or too old"), "the job is cancelled: lost or too old"),
        ("over", over(Outcome::NotStarted), "reason=not-started"),
        ("over", over(Outcome::Unknown), "reason=outcome-unknown"),
    ];
    for (mark, facts, expected) in cases {
        let here = Here::new();
        let mut plumb = here.plumb(&["nas", "make"]);
        let peer = here.meet();
        facts.hint(&*here.fs, &peer.file(mark)).unwrap();
        here.fs.remove(&Place::Queue.dir(peer.msgid)).unwrap();
        let mut said = String::new();
        if mark == "cancel" {
            said = plumb.says(expected);
            peer.done(Outcome::NotStarted);
        }
        let (status, _, stderr) = plumb.finish();
        let stderr = said + &stderr;
        assert!(status == 255 && stderr.contains(expected), "{mark}: {stderr}");
        assert!(!stderr.contains("by hand"), "{stderr}");
    }
}

/// A peer's text could hold a last line of its own.
#[test]
fn a_refusal_cannot_forge_our_last_line() {
    let here = Here::new();
    let plumb = here.plumb(&["-v", "nas", "make"]);
    let mut peer = here.meet();
    peer.receipt();
    peer.exits(Outcome::Refused("no\nplumb: origin=transport status=75 reason=not-started".into()));
    let (_, _, stderr) = plumb.finish();
    let lines = stderr.lines().filter(|line| line.starts_with("plumb: origin="));
    assert_eq!(lines.collect::<Vec<_>>(), ["plumb: origin=transport status=77 reason=refused"], "{stderr}");
}

#[test]
fn a_held_message_waits() {
    let here = Here::new();
    let plumb = here.plumb(&["nas", "make"]);
    let mut peer = here.meet();
    let (queue, hold) = (Place::Queue.dir(peer.msgid), format!("hold/{}", peer.msgid));
    here.fs.rename(&queue, &hold).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(peer.mark("cancel").is_none());
    here.fs.rename(&hold, &queue).unwrap();
    peer.receipt();
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn a_job_that_was_removed_by_hand_has_an_unknown_outcome() {
    let here = Here::new();
    let plumb = here.plumb(&["nas", "make"]);
    let peer = here.meet();
    peer.receipt();
    here.fs.remove(&Place::Jobs.dir(peer.msgid)).unwrap();
    let (status, _, stderr) = plumb.finish();
    assert_eq!((status, last(&stderr)), (255, "plumb: origin=transport status=76 reason=outcome-unknown"));
}
