//! What is said, and done, while a command cannot go anywhere yet.

use crate::fake::{Here, Running};
use crate::last;
use rustix::process::Signal;
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::Place;
use spool::outcome::Outcome;
use std::io::{BufRead, Read};
use std::time::Duration;

#[test]
fn without_a_daemon_it_says_so_at_once_and_waits() {
    let mut here = Here::new();
    here.stop_daemon();
    let mut plumb = here.plumb(&["nas", "true"]);
    let mut line = [0; 64];
    let count = plumb.stderr.as_mut().unwrap().read(&mut line).unwrap();
    assert!(line[..count].starts_with(b"plumb: nas: queued; no daemon runs here"));
    let mut peer = here.meet();
    peer.receipt();
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn a_wait_is_explained_once() {
    let here = Here::new();
    let mut command = here.command(&["nas", "true"]);
    let mut plumb = Running::new(&mut command);
    let mut peer = here.meet();
    let facts = Facts::new().with("cause", "unreachable").with("last_error", "connection refused");
    peer.why(Place::Queue, facts.clone());
    assert_eq!(plumb.says("\n"), "plumb: nas: connection refused\n");
    for attempts in 0..3 {
        peer.why(Place::Queue, facts.clone().with("attempts", attempts));
        std::thread::sleep(Duration::from_millis(700));
    }
    peer.receipt();
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish(), (0, Vec::new(), String::new()));
}

/// Reads what it says until it says this line.
fn read_until(plumb: &mut Running, wanted: &str) {
    let mut lines = std::io::BufReader::new(plumb.stderr.as_mut().unwrap()).lines().map_while(Result::ok);
    let before = lines.position(|line| line == wanted);
    assert!(before.is_some_and(|before| before <= 1), "{wanted:?} comes first, or after the wait itself: {before:?}");
}

#[test]
fn a_loop_that_does_not_answer_is_named_also_while_a_job_runs() {
    let here = Here::new();
    let mut plumb = here.plumb(&["nas", "true"]);
    let mut peer = here.meet();
    peer.receipt();
    here.daemon_says(|life| life.r#loop.silent_seconds = 20);
    read_until(&mut plumb, &format!("plumb: nas: the loop here does not answer (pid {})", std::process::id()));
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn a_sick_spool_takes_no_new_work_until_it_is_well() {
    let here = Here::new();
    here.fs.hint(spool::atomic::SICK, b"sync failed").unwrap();
    let mut plumb = here.plumb(&["nas", "true"]);
    let said = plumb.says("\n");
    assert!(said.starts_with("plumb: nas: a sync of the spool failed"), "{said}");
    assert!(Place::Jobs.ids(&*here.fs).unwrap().is_empty());
    here.fs.heal().unwrap();
    let mut peer = here.meet();
    peer.receipt();
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn without_room_it_waits_and_int_ends_the_wait_with_nothing_started() {
    let here = Here::new();
    std::fs::write(here.home.config.join("netplumb.toml"), "free_bytes_min = 9000000000000000000\n").unwrap();
    let mut plumb = here.plumb(&["nas", "true"]);
    let mut line = [0; 256];
    let count = plumb.stderr.as_mut().unwrap().read(&mut line).unwrap();
    assert!(line[..count].starts_with(b"plumb: nas: the disk is full"));
    plumb.signal(Signal::INT);
    let (status, _, stderr) = plumb.finish();
    assert_eq!((status, last(&stderr)), (130, "plumb: origin=transport status=75 reason=not-started"));
    assert!(Place::Jobs.ids(&*here.fs).unwrap().is_empty());
}
