//! Signals, before and after the peer has the command.

use crate::fake::{Here, Running};
use crate::{last, noise};
use rustix::process::Signal;
use spool::control::Control;
use spool::fs::Fs;
use spool::layout::Place;
use spool::name::Chan;
use spool::outcome::Outcome;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn int_term_and_hup_before_the_receipt_end_it_and_it_says_whether_anything_can_have_run() {
    ended_before_the_receipt();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn int_term_and_hup_before_the_receipt_end_it_within_a_second() {
    let took = ended_before_the_receipt();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Gives the longest time from a signal to the end.
fn ended_before_the_receipt() -> Duration {
    let not_started = "plumb: origin=transport status=75 reason=not-started";
    let unknown = "plumb: origin=transport status=76 reason=outcome-unknown";
    let cases = [
        (Signal::INT, 130, false, false, not_started),
        (Signal::TERM, 143, false, false, not_started),
        (Signal::HUP, 129, true, false, unknown),
        (Signal::INT, 130, false, true, unknown),
    ];
    let mut longest = Duration::ZERO;
    for (signal, exit, sent, locked, line) in cases {
        let here = Here::new();
        let mut plumb = here.plumb(&["nas", "make"]);
        let stdin = plumb.child.stdin.take();
        let peer = here.meet();
        if sent {
            peer.sent();
        }
        let lock = if locked { here.fs.lock_dir(&Place::Queue.dir(peer.msgid), Duration::ZERO).unwrap() } else { None };
        let before = Instant::now();
        plumb.signal(signal);
        let (status, _, stderr) = plumb.finish();
        longest = longest.max(before.elapsed());
        assert_eq!((status, last(&stderr)), (exit, line));
        assert!(peer.mark("cancel").is_some() && peer.mark("done").is_none());
        drop((stdin, lock));
    }
    longest
}

#[test]
fn signals_travel_once_the_peer_has_the_command() {
    let here = Here::new();
    let plumb = here.plumb(&["-q", "nas", "sleep", "1000"]);
    let mut peer = here.meet();
    peer.receipt();
    for (signal, number) in [(Signal::USR1, 10), (Signal::HUP, 1), (Signal::INT, 2), (Signal::TERM, 15)] {
        plumb.signal(signal);
        assert_eq!(peer.hears(), Control::Signal(number));
    }
    peer.exits(Outcome::Signal(15));
    assert_eq!(plumb.finish(), (143, Vec::new(), String::new()));
}

#[test]
fn the_same_signal_twice_cancels_a_command_that_runs() {
    let cases = [(Signal::INT, 2, "SIGINT"), (Signal::TERM, 15, "SIGTERM"), (Signal::HUP, 1, "SIGHUP")];
    for (signal, number, name) in cases {
        let here = Here::new();
        // While its input comes through a pipe, INT cannot leave it.
        let mut plumb = here.plumb(&["nas", "sleep", "1000"]);
        let _stdin = plumb.child.stdin.take();
        let mut peer = here.meet();
        peer.receipt();
        plumb.signal(signal);
        assert_eq!(peer.hears(), Control::Signal(number));
        plumb.signal_until_it_ends(signal);
        let (status, _, stderr) = plumb.finish();
        let line = "plumb: origin=transport status=76 reason=cancelled";
        assert_eq!((status, last(&stderr)), (128 + i32::from(number), line));
        assert_eq!(peer.mark("cancel").unwrap().text("reason"), Some(name));
    }
}

/// TERM to a job that was stuck had no effect that could be seen.
#[test]
fn a_signal_that_ends_nothing_is_spoken_of() {
    let here = Here::new();
    let plumb = here.plumb(&["nas", "sleep", "1000"]);
    let mut peer = here.meet();
    peer.receipt();
    plumb.signal(Signal::TERM);
    assert_eq!(peer.hears(), Control::Signal(15));
    std::thread::sleep(Duration::from_millis(3500));
    plumb.signal(Signal::TERM);
    assert_eq!(peer.hears(), Control::Signal(15), "it is too late to be the second one");
    peer.exits(Outcome::Signal(15));
    let (status, _, stderr) = plumb.finish();
    let line = "plumb: SIGTERM was passed on to nas; twice within 2 s it cancels the job";
    assert_eq!(status, 143);
    // The second one is told of as well, if it is not over before.
    assert!(!stderr.is_empty() && stderr.lines().all(|said| said == line), "{stderr}");
}

#[test]
fn int_while_the_rest_is_being_written_ends_it() {
    let here = Here::new();
    // Nobody reads stdout: the pipe fills.
    let mut plumb = here.plumb(&["-v", "nas", "cat"]);
    let mut peer = here.meet();
    peer.receipt();
    peer.says(Chan::STDOUT, &noise(4 << 20));
    peer.exits(Outcome::Exited(0));
    plumb.says("exited 0\n");
    plumb.signal(Signal::INT);
    let status = plumb.finish();
    assert_eq!((status.0, last(&status.2)), (130, "plumb: origin=transport status=76 reason=output-incomplete"));
}

#[test]
fn a_hangup_that_was_ignored_stays_ignored() {
    let here = Here::new();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" nas sleep 1000", env!("CARGO_BIN_EXE_plumb")]);
    command.env("NETPLUMB_HOME", here.home.config.parent().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let plumb = Running::new(&mut command);
    let mut peer = here.meet();
    plumb.signal(Signal::HUP);
    peer.receipt();
    plumb.signal(Signal::USR2);
    assert_eq!(peer.hears(), Control::Signal(12), "no HUP came before it");
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}
