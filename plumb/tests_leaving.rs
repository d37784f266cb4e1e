//! Jobs that are left to themselves, and those who come later.

use crate::fake::{Here, Peer, Running, wait_for, wait_until};
use crate::{last, noise};
use rustix::process::Signal;
use spool::control::Control;
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{DETACHED, Place, log_in};
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::segment::EndKind;
use std::io::{Read, Write};
use std::process::{Output, Stdio};
use std::time::Duration;

/// A job without input that was left: its id and its peer.
fn left(here: &Here) -> (String, Peer) {
    let output = here.output(&["-q", "-detach", "-n", "nas", "make"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    let id = String::from_utf8(output.stdout).unwrap().trim_end().to_string();
    let peer = here.meet();
    assert_eq!(id, peer.msgid.to_string());
    peer.receipt();
    (id, peer)
}

fn attach(here: &Here, id: &str, more: &[&str]) -> Running {
    let attach = format!("-attach={id}");
    Running::new(here.command(&[&[attach.as_str()], more].concat()).stdin(Stdio::null()))
}

fn read(plumb: &mut Running, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    plumb.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_job_is_left_and_taken_up_again_by_the_first_digits_of_its_id() {
    let here = Here::new();
    let (id, mut peer) = left(&here);
    assert_eq!(peer.mark(DETACHED).unwrap().text("input"), Some("ended"));
    assert_eq!(peer.input(), (Vec::new(), EndKind::Eof));
    peer.says(Chan::STDOUT, b"made\n");
    peer.says(Chan::STDERR, b"warned\n");
    peer.exits(Outcome::Exited(4));
    let plumb = attach(&here, &id[..8], &["-q"]);
    assert_eq!(plumb.finish(), (4, b"made\n".to_vec(), "warned\n".into()));
    assert_eq!(peer.mark("done").unwrap().text("outcome"), Some("exited 4"));
    assert!(peer.mark(DETACHED).is_none(), "all of it was taken: it can be forgotten");
}

#[test]
fn one_with_input_is_on_its_own_when_all_of_that_is_here_and_not_before() {
    let here = Here::new();
    let mut plumb = here.plumb(&["-detach", "nas", "cat"]);
    let peer = here.meet();
    plumb.child.stdin.as_mut().unwrap().write_all(b"half").unwrap();
    wait_until("the input", || peer.input_offset() > 0);
    assert!(plumb.child.try_wait().unwrap().is_none() && peer.mark(DETACHED).is_none());
    drop(plumb.child.stdin.take());
    let (status, id, _) = plumb.finish();
    assert_eq!((status, String::from_utf8(id).unwrap()), (0, format!("{}\n", peer.msgid)));
    assert!(peer.mark(DETACHED).is_some());

    let mut killed = here.plumb(&["-detach", "nas", "cat"]);
    here.fs.remove(&Place::Queue.dir(peer.msgid)).unwrap();
    let other = here.meet();
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(other.mark(DETACHED).is_none(), "its input broke off");
}

#[test]
fn a_job_that_is_refused_while_it_is_handed_over_is_told_of() {
    let here = Here::new();
    let plumb = here.plumb(&["-detach", "nas", "cat"]);
    let mut peer = here.meet();
    peer.receipt();
    peer.exits(Outcome::Refused("no".into()));
    let (status, stdout, stderr) = plumb.finish();
    assert_eq!((status, stdout.len(), last(&stderr)), (255, 0, "plumb: origin=transport status=77 reason=refused"));
}

#[test]
fn one_that_is_told_to_end_while_it_is_handed_over_is_no_success() {
    let here = Here::new();
    let plumb = here.plumb(&["-detach", "nas", "cat"]);
    let mut peer = here.meet();
    peer.receipt();
    plumb.signal(Signal::TERM);
    assert_eq!(peer.hears(), Control::Signal(15));
    peer.exits(Outcome::Signal(15));
    let (status, stdout, stderr) = plumb.finish();
    let line = "plumb: origin=transport status=76 reason=detached";
    assert_eq!((status, stdout.len(), last(&stderr)), (143, 0, line));
}

#[test]
fn what_a_killed_reader_had_written_is_not_given_again_with_an_offset() {
    let here = Here::new();
    let (id, mut peer) = left(&here);
    let output = noise(3 << 20);
    let mut first = attach(&here, &id, &[]);
    peer.says(Chan::STDOUT, &output[..2 << 20]);
    let mut whole = read(&mut first, 1_234_567);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    peer.says(Chan::STDOUT, &output[2 << 20..]);
    peer.exits(Outcome::Exited(0));
    // What lay in the pipe was written: only the file's own size says what is missing.
    let offset = format!("-offset={}", whole.len());
    let rest = here.output(&["-q", &format!("-attach={id}"), &offset]);
    whole.extend(rest.stdout);
    assert_eq!((rest.status.code(), rest.stderr.as_slice()), (Some(0), b"".as_slice()));
    assert!(whole == output);
}

#[test]
fn without_an_offset_it_goes_on_where_the_last_reader_was() {
    let here = Here::new();
    let (id, mut peer) = left(&here);
    peer.says(Chan::STDOUT, b"one\n");
    let mut first = attach(&here, &id, &[]);
    assert_eq!(read(&mut first, 4), b"one\n");
    let hint = format!("{}/read", log_in(peer.msgid, Chan::STDOUT));
    wait_until("the hint", || here.fs.exists(&hint));
    drop(first);
    peer.says(Chan::STDOUT, b"two\n");
    peer.exits(Outcome::Exited(0));
    assert_eq!(attach(&here, &id, &["-q"]).finish(), (0, b"two\n".to_vec(), String::new()));
}

#[test]
fn a_second_one_reads_along_and_leaves_no_trace() {
    let here = Here::new();
    let (id, mut peer) = left(&here);
    peer.says(Chan::STDOUT, b"one\n");
    let mut first = attach(&here, &id, &[]);
    assert_eq!(read(&mut first, 4), b"one\n");
    let mut second = attach(&here, &id, &["-offset=0"]);
    assert_eq!(read(&mut second, 4), b"one\n");
    peer.says(Chan::STDOUT, b"two\n");
    assert_eq!((read(&mut first, 4), read(&mut second, 4)), (b"two\n".to_vec(), b"two\n".to_vec()));
    second.signal(Signal::INT);
    let (status, _, stderr) = second.finish();
    assert_eq!((status, last(&stderr)), (130, "plumb: origin=transport status=76 reason=detached"));
    let mut third = attach(&here, &id, &["-offset=0"]);
    assert_eq!(read(&mut third, 8), b"one\ntwo\n");
    peer.exits(Outcome::Exited(5));
    let (status, stdout, stderr) = third.finish();
    assert!(stderr.contains("another plumb has this job"), "{stderr}");
    assert_eq!((status, stdout.len()), (5, 0));
    assert_eq!(first.finish().0, 5, "nobody told the command of an INT");
}

#[test]
fn output_that_cannot_be_written_is_kept_for_another_time() {
    let here = Here::new();
    let (id, mut peer) = left(&here);
    peer.says(Chan::STDOUT, b"precious\n");
    peer.exits(Outcome::Exited(0));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let failed: Output = here.command(&[&format!("-attach={id}")]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(failed.stderr).unwrap();
    let line = "plumb: origin=transport status=74 reason=output-failed";
    assert_eq!((failed.status.code(), last(&stderr)), (Some(255), line));
    assert!(peer.mark("done").is_none() && peer.mark(DETACHED).is_some());
    assert_eq!(attach(&here, &id, &["-q"]).finish(), (0, b"precious\n".to_vec(), String::new()));
}

#[test]
fn an_offset_that_is_not_there_loses_nothing() {
    let here = Here::new();
    let (id, mut peer) = left(&here);
    peer.says(Chan::STDOUT, b"precious\n");
    peer.exits(Outcome::Exited(0));
    let (status, stdout, stderr) = attach(&here, &id, &["-offset=10"]).finish();
    assert_eq!((status, stdout.len()), (255, 0), "{stderr}");
    assert!(stderr.contains("incomplete at 9: there is no more of it"), "{stderr}");
    assert_eq!(attach(&here, &id, &["-q", "-offset=9"]).finish(), (0, Vec::new(), String::new()));
}

#[test]
fn int_twice_leaves_a_job_whose_input_has_ended() {
    let here = Here::new();
    let mut plumb = Running::new(here.command(&["nas", "sleep", "1000"]).stdin(Stdio::null()));
    let mut peer = here.meet();
    peer.receipt();
    wait_until("the input's end", || peer.input().1 == EndKind::Eof);
    plumb.signal(Signal::INT);
    assert_eq!(peer.hears(), Control::Signal(2));
    plumb.signal_until_it_ends(Signal::INT);
    let (status, _, stderr) = plumb.finish();
    assert!(stderr.contains(&format!("plumb -attach={}", peer.msgid)), "{stderr}");
    assert_eq!((status, last(&stderr)), (130, "plumb: origin=transport status=76 reason=detached"));
    assert!(peer.mark("cancel").is_none() && peer.mark(DETACHED).is_some());
    peer.exits(Outcome::Signal(2));
    assert_eq!(attach(&here, &peer.msgid.to_string(), &[]).finish().0, 130);
}

#[test]
fn who_attaches_may_go_on_with_an_input_that_was_left_open() {
    let here = Here::new();
    let (id, mut peer) = left(&here);
    // As one that was left at a terminal: no END, and a mark that says so.
    here.fs.remove(&format!("{}/0", spool::layout::log_out(peer.msgid, Chan::STDIN))).unwrap();
    here.fs.remove(&peer.file(DETACHED)).unwrap();
    Facts::new().with("input", "open").commit(&*here.fs, &peer.file(DETACHED)).unwrap();
    let mut plumb = here.plumb(&[&format!("-attach={id}")]);
    wait_until("the mark to go", || peer.mark(DETACHED).is_none());
    plumb.child.stdin.as_mut().unwrap().write_all(b"more").unwrap();
    drop(plumb.child.stdin.take());
    assert_eq!(peer.input(), (b"more".to_vec(), EndKind::Eof));
    wait_for("the mark to be back", || peer.mark(DETACHED));
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn now_does_not_wait_for_a_peer_that_is_out_of_reach() {
    let here = Here::new();
    let plumb = here.plumb(&["-now", "nas", "true"]);
    let peer = here.meet();
    let why = Facts::new().with("cause", "unreachable").with("last_error", "10.0.0.9:4117: connection refused");
    peer.why(Place::Queue, why);
    let (status, _, stderr) = plumb.finish();
    assert!(stderr.starts_with("plumb: nas: 10.0.0.9:4117: connection refused; not queued (-now)\n"), "{stderr}");
    assert_eq!((status, last(&stderr)), (255, "plumb: origin=transport status=75 reason=not-started"));
    assert!(peer.mark("cancel").is_some());

    // One that has it is waited for.
    here.fs.remove(&Place::Queue.dir(peer.msgid)).unwrap();
    let mut plumb = here.plumb(&["-now", "nas", "true"]);
    let mut peer = here.meet();
    peer.sent();
    peer.why(Place::Queue, Facts::new().with("cause", "unreachable").with("last_error", "gone"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(plumb.child.try_wait().unwrap().is_none());
    peer.receipt();
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn what_is_no_job_of_ours_cannot_be_attached_to() {
    let here = Here::new();
    for (words, line) in [
        (["-attach=abcd", "-q"], "plumb: origin=transport status=66 reason=no-such-job"),
        (["-attach=no-id", "-q"], "plumb: origin=transport status=64 reason=usage"),
        (["-attach=abcd", "-from=true"], "plumb: origin=transport status=64 reason=usage"),
        (["-attach=abcd", "-z"], "plumb: origin=transport status=64 reason=usage"),
        (["-attach=abcd", "nas"], "plumb: origin=transport status=64 reason=usage"),
        (["-offset=3", "nas"], "plumb: origin=transport status=64 reason=usage"),
    ] {
        let output = here.output(&words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), last(&stderr)), (Some(255), line), "{words:?}");
    }
}
