//! `plumb` as a process of its own, with a peer that is played on the disk.

mod fake;
#[path = "../tests/patience.rs"]
mod patience;
mod tests_clients;
mod tests_leaving;
mod tests_lost;
mod tests_measured;
mod tests_signals;
mod tests_waiting;

use fake::{Here, Running, wait_until};
use spool::control::Control;
use spool::layout::Place;
use spool::log::WINDOW;
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::segment::EndKind;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The last line on stderr.
fn last(stderr: &str) -> &str {
    stderr.trim_end().rsplit('\n').next().unwrap()
}

/// Bytes that do not repeat where a record or segment ends.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length.div_ceil(8)).flat_map(|_| step().to_le_bytes()).take(length).collect()
}

#[test]
fn both_outputs_and_the_status_come_through_and_nothing_else() {
    let here = Here::new();
    let plumb = here.plumb(&["-q", "-l", "bob", "nas", "printf", "%s", "a b"]);
    let mut peer = here.meet();
    assert_eq!(peer.start.argv, [&b"printf"[..], b"%s", b"a b"]);
    assert_eq!(peer.start.user, "bob");
    peer.receipt();
    let output = noise(9 << 20);
    let writer = std::thread::spawn({
        let output = output.clone();
        move || {
            for part in output.chunks(1_000_003) {
                peer.says(Chan::STDOUT, part);
            }
            peer.says(Chan::STDERR, b"to stderr\n");
            peer.exits(Outcome::Exited(7));
            peer
        }
    });
    let mut plumb = plumb;
    let mut stdout = plumb.stdout.take().unwrap();
    let mut read = Vec::new();
    stdout.read_to_end(&mut read).unwrap();
    let (status, _, stderr) = plumb.finish();
    let peer = writer.join().unwrap();
    assert!(read == output, "{} bytes of {}", read.len(), output.len());
    assert_eq!((status, stderr.as_str()), (7, "to stderr\n"));
    assert_eq!(peer.mark("done").unwrap().text("outcome"), Some("exited 7"));
}

#[test]
fn what_the_command_says_is_delivered_while_it_runs() {
    let here = Here::new();
    let mut plumb = here.plumb(&["nas", "cat"]);
    let mut peer = here.meet();
    peer.receipt();
    let mut stdout = plumb.stdout.take().unwrap();
    for line in ["one\n", "two\n"] {
        peer.says(Chan::STDOUT, line.as_bytes());
        let mut read = [0; 4];
        stdout.read_exact(&mut read).unwrap();
        assert_eq!(&read, line.as_bytes());
        assert!(peer.mark("done").is_none());
    }
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn the_input_ends_and_the_command_goes_on() {
    let here = Here::new();
    let mut plumb = here.plumb(&["-q", "nas", "cat"]);
    let input = noise(3 * WINDOW as usize + 12345);
    let mut stdin = plumb.child.stdin.take().unwrap();
    let feeder = std::thread::spawn({
        let input = input.clone();
        move || stdin.write_all(&input).unwrap()
    });
    let mut peer = here.meet();
    peer.receipt();
    let (taken, end) = peer.input();
    feeder.join().unwrap();
    assert!(taken == input && end == EndKind::Eof);
    assert!(plumb.child.try_wait().unwrap().is_none(), "it waits for the command");
    peer.says(Chan::STDOUT, b"late\n");
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish(), (0, b"late\n".to_vec(), String::new()));
}

#[test]
fn a_peer_that_is_away_gets_a_window_and_then_reading_stops() {
    let here = Here::new();
    let mut plumb = here.plumb(&["-q", "nas", "cat"]);
    let mut stdin = plumb.child.stdin.take().unwrap();
    let total = 3 * WINDOW as usize;
    let feeder = std::thread::spawn(move || stdin.write_all(&noise(total)).unwrap());
    let mut peer = here.meet();
    wait_until("a full window", || peer.input_offset() >= WINDOW);
    std::thread::sleep(Duration::from_millis(700));
    let held = peer.input_offset();
    assert!((WINDOW..WINDOW + (1 << 20)).contains(&held), "{held}");
    peer.receipt();
    let (taken, _) = peer.input();
    assert!(taken == noise(total));
    feeder.join().unwrap();
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn input_that_cannot_be_read_is_never_an_end_of_file() {
    let here = Here::new();
    // Reading a directory fails with EISDIR.
    let directory = std::fs::File::open(&here.home.config).unwrap();
    let plumb = Running::new(here.command(&["nas", "cat"]).stdin(directory));
    let mut peer = here.meet();
    peer.receipt();
    assert_eq!(peer.input(), (Vec::new(), EndKind::Aborted));
    peer.exits(Outcome::InputIncomplete(0));
    let (status, _, stderr) = plumb.finish();
    assert_eq!((status, last(&stderr)), (255, "plumb: origin=transport status=74 reason=input-incomplete"));
    assert!(stderr.contains("cannot read stdin"), "{stderr}");
}

#[test]
fn it_ends_with_the_command_although_stdin_is_open() {
    ends_although_stdin_is_open();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn it_ends_with_the_command_within_a_second_although_stdin_is_open() {
    let took = ends_although_stdin_is_open();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn ends_although_stdin_is_open() -> Duration {
    let here = Here::new();
    let mut plumb = here.plumb(&["nas", "true"]);
    let stdin = plumb.child.stdin.take();
    let mut peer = here.meet();
    peer.receipt();
    peer.exits(Outcome::Exited(3));
    let before = Instant::now();
    assert_eq!(plumb.finish().0, 3);
    drop(stdin);
    before.elapsed()
}

#[test]
fn with_n_the_input_is_empty_and_ours_is_left_alone() {
    let here = Here::new();
    let (mut theirs, ours) = std::io::pipe().unwrap();
    (&ours).write_all(b"for somebody else").unwrap();
    drop(ours);
    let plumb = Running::new(here.command(&["-n", "nas", "cat"]).stdin(theirs.try_clone().unwrap()));
    let mut peer = here.meet();
    peer.receipt();
    assert_eq!(peer.input(), (Vec::new(), EndKind::Eof));
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
    let mut left = String::new();
    theirs.read_to_string(&mut left).unwrap();
    assert_eq!(left, "for somebody else");
}

#[test]
fn a_reader_that_goes_away_closes_the_commands_pipe_and_the_status_still_comes() {
    let here = Here::new();
    let mut plumb = here.plumb(&["-q", "nas", "yes"]);
    let mut peer = here.meet();
    peer.receipt();
    drop(plumb.stdout.take());
    peer.says(Chan::STDOUT, b"y\n");
    assert_eq!(peer.hears(), Control::Close(Chan::STDOUT));
    peer.says(Chan::STDERR, b"still here\n");
    peer.ends(Chan::STDOUT, EndKind::ReaderGone);
    peer.ends(Chan::STDERR, EndKind::Eof);
    peer.announces(Outcome::Signal(13));
    let (status, _, stderr) = plumb.finish();
    assert_eq!((status, stderr.as_str()), (141, "still here\n"));
}

#[test]
fn a_command_that_closes_its_stdin_closes_our_writers_pipe() {
    let here = Here::new();
    let mut plumb = here.plumb(&["nas", "exec <&-; sleep 1"]);
    let mut stdin = plumb.child.stdin.take().unwrap();
    stdin.write_all(b"some").unwrap();
    let mut peer = here.meet();
    peer.receipt();
    wait_until("the input", || peer.input_offset() > 0);
    peer.says(Chan::STDERR, b"not yet\n");
    peer.says_on_control(&Control::Close(Chan::STDIN));
    wait_until("a broken pipe", || stdin.write_all(b"more").is_err());
    let (taken, end) = peer.input();
    assert!(taken.starts_with(b"some") && end == EndKind::ReaderGone);
    assert!(plumb.child.try_wait().unwrap().is_none(), "it waits for the command");
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
}

#[test]
fn a_full_disk_under_our_stdout_is_not_a_success() {
    let here = Here::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let plumb = Running::new(here.command(&["nas", "cat"]).stdout(full));
    let mut peer = here.meet();
    peer.receipt();
    peer.says(Chan::STDOUT, b"data");
    assert_eq!(peer.hears(), Control::Close(Chan::STDOUT));
    peer.exits(Outcome::Exited(0));
    let (status, _, stderr) = plumb.finish();
    assert_eq!((status, last(&stderr)), (255, "plumb: origin=transport status=74 reason=output-failed"));
    assert_eq!(peer.mark("done").unwrap().text("outcome"), Some("exited 0"));
}

#[test]
fn the_ending_is_told_on_the_descriptor_that_was_asked_for() {
    let here = Here::new();
    let told = here.home.spool.join("../told");
    let words = format!("exec \"$0\" -status-fd=7 \"$@\" 7>'{}'", told.display());
    let sh = |rest: &[&str]| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &words, env!("CARGO_BIN_EXE_plumb")]).args(rest);
        command.env("NETPLUMB_HOME", here.home.config.parent().unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::new(&mut command)
    };
    let plumb = sh(&["nas", "false"]);
    let mut peer = here.meet();
    peer.receipt();
    peer.exits(Outcome::Exited(1));
    assert_eq!(plumb.finish().0, 1);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&told).unwrap()).unwrap();
    assert_eq!((json["origin"].as_str(), json["status"].as_u64()), (Some("remote"), Some(1)));
    assert_eq!((json["outcome"].as_str(), json["job"].as_str()), (Some("exited 1"), Some(&*peer.msgid.to_string())));
    assert_eq!(sh(&["nobody", "true"]).finish().0, 255);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&told).unwrap()).unwrap();
    assert_eq!((json["reason"].as_str(), json["status"].as_u64()), (Some("no-such-peer"), Some(67)));
    assert_eq!(sh(&["nas"]).finish().0, 255);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&told).unwrap()).unwrap();
    assert_eq!(json["reason"], "usage");
}

#[test]
fn what_cannot_begin_is_255_with_its_reason_and_leaves_nothing() {
    let here = Here::new();
    let cases: [(&[&str], &str); 6] = [
        (&["nobody", "true"], "plumb: origin=transport status=67 reason=no-such-peer"),
        (&["../nas", "true"], "plumb: origin=transport status=67 reason=no-such-peer"),
        (&["nas"], "plumb: origin=transport status=64 reason=usage"),
        (&["-detach", "-attach=ab", "nas"], "plumb: origin=transport status=64 reason=usage"),
        (&["-status-fd=99", "nas", "true"], "plumb: origin=transport status=64 reason=usage"),
        (&["-export=PLUMB_TEST_UNSET", "nas", "true"], "plumb: origin=transport status=64 reason=usage"),
    ];
    for (words, line) in cases {
        let output = here.output(words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), last(&stderr)), (Some(255), line), "{words:?}");
        assert!(output.stdout.is_empty());
    }
    let large = "x".repeat(120_000);
    let many: Vec<&str> = ["nas"].into_iter().chain([large.as_str(); 10]).collect();
    let stderr = String::from_utf8(here.output(&many).stderr).unwrap();
    assert_eq!(last(&stderr), "plumb: origin=transport status=64 reason=usage");
    assert!(Place::Jobs.ids(&*here.fs).unwrap().is_empty() && Place::Queue.ids(&*here.fs).unwrap().is_empty());
    std::fs::remove_file(here.home.config.join("certs/username")).unwrap();
    let output = here.output(&["nas", "true"]);
    assert!(String::from_utf8(output.stderr).unwrap().ends_with("status=78 reason=config\n"));
}

#[test]
fn help_version_and_ssh_g_need_no_home() {
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_plumb"));
        let output = command.args(words).env_clear().output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["-h"]).starts_with("Usage: plumb"));
    assert!(run(&["--version"]).starts_with("plumb "));
    assert!(run(&["-G", "-p", "2222", "bob@nas"]).contains("host nas\nhostname nas\nuser bob\nport 2222\n"));
}
