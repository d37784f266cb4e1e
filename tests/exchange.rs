//! A command on the other machine, as ssh would run it.

use crate::homes::{
    NETPLUMB, PLUMB, Peer, free_address, kill_9, noise, pair, pair_behind_links, pair_up, read_up_to, run, send,
    until_there, wait_for, wait_until, wait_until_grown,
};
use rustix::process::Signal;
use spool::log::WINDOW;
use spool::segment::SEGMENT;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

#[test]
fn output_error_and_status_come_back_apart_and_whole() {
    all_comes_back(20 * MIB);
}

#[test]
#[ignore = "the same with 100 MiB"]
fn a_hundred_mebibytes_come_back_whole() {
    all_comes_back(100 * MIB);
}

fn all_comes_back(size: usize) {
    let (a, _b) = pair_up();
    let input = noise(size, 1);
    let ran = a.plumb(&["-q", "b", "cat; echo e >&2; exit 37"], &input);
    assert_eq!(ran.status, 37);
    assert!(ran.stdout == input, "stdout differs: {} of {} bytes", ran.stdout.len(), input.len());
    assert_eq!(ran.stderr, "e\n");
    println!("{} MiB there and back in {:.2} s", size / MIB, ran.took.as_secs_f64());
}

#[test]
fn a_remote_death_by_signal_is_128_and_the_signal() {
    let (a, _b) = pair_up();
    assert_eq!(a.plumb(&["b", "kill -TERM $$"], b"").status, 143);
}

#[test]
fn an_unknown_host_is_255_with_the_stable_last_line() {
    let (a, _b) = pair_up();
    let ran = a.plumb(&["nobody", "true"], b"");
    assert_eq!(ran.status, 255);
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("plumb: origin=transport status=67 reason="), "{last}");
}

#[test]
fn a_command_goes_on_after_its_input_ended() {
    let (a, _b) = pair_up();
    assert_eq!(a.plumb(&["b", "cat; sleep 1; echo end"], b"x").good().text(), "xend\n");
}

#[test]
fn it_ends_with_the_command_even_while_its_input_is_held_open() {
    ends_while_its_input_is_held_open();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn it_ends_with_the_command_within_a_second_while_its_input_is_held_open() {
    let took = ends_while_its_input_is_held_open();
    assert!(took < Duration::from_secs(1), "took {took:?}");
}

fn ends_while_its_input_is_held_open() -> Duration {
    let (a, _b) = pair_up();
    a.plumb(&["b", "true"], b"").good();
    let (mut child, started) = (start(&a, &["b", "true"]), Instant::now());
    let stdin = child.stdin.take();
    assert!(wait_for("it ends", || child.try_wait().unwrap()).success());
    drop(stdin);
    started.elapsed()
}

#[test]
fn a_reader_that_has_enough_ends_an_endless_writer() {
    let (a, _b) = pair_up();
    let mut command = a.command(PLUMB);
    let mut child = command.args(["b", "head -1"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || while stdin.write_all(&b"y\n".repeat(1000)).is_ok() {});
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"y\n".as_slice()));
    writer.join().unwrap();
}

#[test]
fn a_writer_whose_reader_left_ends_on_both_sides() {
    let (a, b) = pair_up();
    let mut command = a.command(PLUMB);
    let mut child = command.args(["b", "head -c 1G /dev/zero"]).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(read_up_to(child.stdout.take().unwrap(), 5).len(), 5);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(141), "death by SIGPIPE over there");
    wait_until("no keeper is left", || b.children("keeper").is_empty());
}

#[test]
fn a_peer_without_a_shell_is_refused_and_nothing_runs() {
    let (mut a, mut b) = (Peer::new("a", None), Peer::new("b", None));
    a.knows(&b, &b.address.clone());
    let card = a.netplumb(&["card"]).good().stdout;
    let mut add = b.command(NETPLUMB);
    add.args(["peer", "add", "a", "-", "--address", &a.address]);
    run(add, &card).good();
    a.up();
    b.up();
    let proof = b.home.join("proof");
    let ran = a.plumb(&["b", &format!("touch {}", proof.display())], b"");
    assert_eq!(ran.status, 255);
    assert!(ran.stderr.contains("refused"), "{}", ran.stderr);
    assert!(!proof.exists());
}

/// Each job has three pulls that wait; connections were ended for newer ones,
/// and dialled again: forty jobs made hundreds.
#[test]
fn forty_jobs_at_once_end_well_and_no_connection_is_cut() {
    let (a, b, links) = pair_behind_links(0);
    let start = |n| {
        let words = ["b".to_string(), format!("sleep 1; echo {n}")];
        let mut command = a.command(PLUMB);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let started = Instant::now();
    let running: Vec<Child> = (0..40).map(start).collect();
    for (n, child) in running.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout), (Some(0), format!("{n}\n").into_bytes()), "{said}");
    }
    let opened = links.map(|link| link.opened());
    println!("forty jobs in {:.1} s, connections {opened:?}", started.elapsed().as_secs_f64());
    for log in [a.log(), b.log()] {
        assert!(!log.contains("connection dropped") && !log.contains("cannot serve all its connections"), "{log}");
    }
}

#[test]
fn it_waits_for_a_peer_that_is_down_and_says_why() {
    waits_for_a_peer_that_is_down(Duration::from_secs(3));
}

#[test]
#[ignore = "the same with a peer that is down for a minute; judges how long it takes, on a quiet machine"]
fn it_waits_for_a_peer_that_is_down_for_a_minute() {
    let took = waits_for_a_peer_that_is_down(Duration::from_secs(60));
    assert!(took < Duration::from_secs(15), "took {took:?}");
}

/// Gives the time from the peer's return to the end.
fn waits_for_a_peer_that_is_down(long: Duration) -> Duration {
    let (mut a, mut b) = pair();
    a.up();
    let mut child = start(&a, &["b", "cat"]);
    child.stdin.take().unwrap().write_all(b"patience").unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("connection refused"), "{said}");
    let why = a.netplumb(&["why", &a.ids("queue")[0]]).good().text();
    assert!(why.contains("connection refused"), "{why}");
    std::thread::sleep(long);
    assert!(child.try_wait().unwrap().is_none());
    b.up();
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    let took = started.elapsed();
    println!("down for {long:?}: done {:.2} s after the peer came up", took.as_secs_f64());
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"patience".as_slice()), "{said}");
    took
}

#[test]
fn nothing_is_left_but_the_tombstone() {
    let (a, b) = pair_up();
    for _ in 0..5 {
        a.plumb(&["b", "cat"], b"small").good();
    }
    wait_until("the sender forgets", || a.ids("jobs").is_empty() && a.ids("queue").is_empty());
    wait_until("the recipient cleans up", || {
        b.ids("rqueue").is_empty() && b.ids("running").is_empty() && b.children("keeper").is_empty()
    });
    for id in b.ids("jobs") {
        let dir = b.home.join("spool/jobs").join(id);
        wait_until("segments and secret are destroyed", || {
            !dir.join("in").exists() && !dir.join("out").exists() && !dir.join("message").exists()
        });
    }
}

/// Window and one segment, and something for marks and logs of the other channels.
const BOUND: u64 = WINDOW + SEGMENT + (256 << 10);

/// Starts `plumb` with pipes.
fn start(a: &Peer, words: &[&str]) -> Child {
    let mut command = a.command(PLUMB);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("plumb starts")
}

/// What both spools reach at most while something is waited for.
struct Spools<'a> {
    peers: [&'a Peer; 2],
    before: [u64; 2],
    most: [u64; 2],
}

impl<'a> Spools<'a> {
    fn of(a: &'a Peer, b: &'a Peer) -> Spools<'a> {
        let before = [a.spool_size(), b.spool_size()];
        Spools { peers: [a, b], before, most: [0; 2] }
    }

    /// Looks for so long.
    fn watch(&mut self, long: Duration) {
        let until = Instant::now() + long;
        while Instant::now() < until {
            for (most, peer) in self.most.iter_mut().zip(self.peers) {
                *most = peer.spool_size().max(*most);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self, what: &str) {
        let over = [0, 1].map(|i| self.most[i].saturating_sub(self.before[i]));
        println!(
            "{what}: spools at most {:.2} and {:.2} MiB larger",
            over[0] as f64 / MIB as f64,
            over[1] as f64 / MIB as f64
        );
        assert!(over.iter().all(|over| *over <= BOUND), "{over:?} bytes over their earlier sizes, allowed {BOUND}");
        assert!(over.iter().any(|over| *over > 1 << 20), "control: something lies there: {over:?}");
    }
}

/// A remote reader takes a part, then nothing for so long, then the rest.
fn remote_reader_stops(long: Duration) {
    let (a, b) = pair_up();
    let (part, size) = (32 * MIB, 32 * MIB + 4 * WINDOW as usize);
    let go = b.home.join("go");
    let text = format!("head -c {part} >/dev/null; {}; wc -c", until_there(&go));
    let mut spools = Spools::of(&a, &b);
    let mut child = start(&a, &["b", &text]);
    let mut stdin = child.stdin.take().unwrap();
    let written = Arc::new(AtomicU64::new(0));
    let (count, input) = (written.clone(), noise(size, 7));
    let writer = std::thread::spawn(move || {
        for piece in input.chunks(64 << 10) {
            stdin.write_all(piece).expect("plumb reads on");
            count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    });
    let written = || written.load(Ordering::Relaxed);
    // A window lies here, another one there; the rest is in pipes and on the way.
    let full = part as u64 + 2 * WINDOW;
    wait_until_grown("both windows are full", full, written);
    spools.watch(long / 2);
    let why = a.netplumb(&["why", &a.ids("jobs")[0]]).text();
    let other = a.plumb(&["b", "cat"], b"others go on").good();
    assert_eq!(other.text(), "others go on");
    spools.watch(long / 4);
    let blocked_at = written();
    assert!(blocked_at < full + (14 << 20), "the writer does not block: {blocked_at} bytes were taken from it");
    std::fs::write(&go, "").unwrap();
    spools.check(&format!("a remote reader that stops for {long:?}"));
    println!("  the writer blocks at {} MiB; another job took {:?}; why: {}", blocked_at >> 20, other.took, why.trim());
    writer.join().expect("everything is taken in the end");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), (size - part).to_string());
}

#[test]
fn a_remote_reader_that_stops_blocks_the_writer_and_fills_no_disk() {
    remote_reader_stops(Duration::from_secs(8));
}

#[test]
#[ignore = "the same for a minute"]
fn a_remote_reader_that_stops_for_a_minute_fills_no_disk() {
    remote_reader_stops(Duration::from_secs(60));
}

/// Our reader takes a part, then nothing for so long, then the rest.
fn our_reader_stops(long: Duration) {
    let (a, b) = pair_up();
    let (part, size) = (32 * MIB, 32 * MIB + 4 * WINDOW as usize);
    let progress = b.home.join("progress");
    let text = format!(
        "echo heard >&2; for i in $(seq {}); do head -c {MIB} /dev/zero; echo $i >{}; done",
        size / MIB,
        progress.display()
    );
    let mut spools = Spools::of(&a, &b);
    let mut child = start(&a, &["-q", "b", &text]);
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    assert_eq!(read_up_to(&mut stdout, part).len(), part);
    let reached = || std::fs::read_to_string(&progress).unwrap_or_default().trim().parse::<usize>().unwrap_or(0);
    // A window counts what was sealed, which is a little more than what was written.
    let full = (part + 2 * WINDOW as usize) / MIB - 1;
    wait_until_grown("both windows are full", full as u64, || reached() as u64);
    spools.watch(long / 2);
    // Another channel of the same job is not held up.
    assert_eq!(read_up_to(&mut stderr, 6), b"heard\n");
    spools.watch(long / 4);
    let blocked_at = reached();
    assert!(blocked_at < full + 16, "the command does not block: it wrote {blocked_at} MiB");
    spools.check(&format!("our reader that stops for {long:?}"));
    println!("  the command blocks at {blocked_at} MiB");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), size - part);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn our_reader_that_stops_blocks_the_command_and_fills_no_disk() {
    our_reader_stops(Duration::from_secs(8));
}

#[test]
#[ignore = "the same for a minute"]
fn our_reader_that_stops_for_a_minute_fills_no_disk() {
    our_reader_stops(Duration::from_secs(60));
}

#[test]
fn peers_that_are_added_or_move_while_the_daemons_run_are_known() {
    let (mut a, mut b) = (Peer::new("a", None), Peer::new("b", None));
    a.up();
    b.up();
    a.knows(&b, &free_address());
    b.knows(&a, &a.address.clone());
    let child = start(&a, &["b", "echo found"]);
    wait_until("it is queued", || !a.ids("queue").is_empty());
    std::thread::sleep(Duration::from_secs(2));
    // The address was wrong; somebody mends it.
    a.netplumb(&["peer", "remove", "b"]).good();
    a.knows(&b, &b.address.clone());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "found\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_job_whose_link_breaks_says_so_and_goes_on() {
    let (a, mut b) = pair_up();
    let mut child = start(&a, &["b", "cat"]);
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    stdin.write_all(b"one\n").unwrap();
    assert_eq!(read_up_to(&mut stdout, 4), b"one\n");
    let id = a.ids("jobs").remove(0);
    let why = || a.netplumb(&["why", &id]).good().text();
    assert!(why().contains("nothing is known to be in its way"), "{}", why());
    b.kill();
    // They end with their daemon, some of them before they are killed.
    for pid in b.children("service").into_iter().chain(b.children("loop")) {
        kill_9(pid);
    }
    wait_until("it says so", || why().contains("connection refused"));
    b.up();
    stdin.write_all(b"two\n").unwrap();
    assert_eq!(read_up_to(&mut stdout, 4), b"two\n");
    wait_until("it is no longer said", || !why().contains("connection refused"));
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_interrupt_before_the_receipt_is_130_and_nothing_was_started() {
    interrupted_before_the_receipt();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn an_interrupt_before_the_receipt_is_obeyed_within_two_seconds() {
    let took = interrupted_before_the_receipt();
    assert!(took < Duration::from_secs(2), "at once, not after {took:?}");
}

fn interrupted_before_the_receipt() -> Duration {
    let (mut a, mut b) = pair();
    a.up();
    let proof = b.home.join("proof");
    let child = start(&a, &["b", &format!("touch {}", proof.display())]);
    wait_until("it is queued", || !a.ids("queue").is_empty());
    std::thread::sleep(Duration::from_millis(500));
    send(child.id(), Signal::INT);
    let sent = Instant::now();
    let output = child.wait_with_output().unwrap();
    let took = sent.elapsed();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("not started"), "{said}");
    assert_eq!(said.lines().last(), Some("plumb: origin=transport status=75 reason=not-started"));
    b.up();
    wait_until("it is forgotten", || a.ids("jobs").is_empty() && a.ids("queue").is_empty());
    a.plumb(&["b", "true"], b"").good();
    assert!(!proof.exists());
    took
}

/// Starts a command that says "ready".
fn started(a: &Peer, text: &str) -> Child {
    let mut child = start(a, &["b", text]);
    assert_eq!(read_up_to(child.stdout.as_mut().unwrap(), 6), b"ready\n");
    child
}

#[test]
fn a_signal_after_the_receipt_travels_to_the_command() {
    let (a, _b) = pair_up();
    let child = started(&a, "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done");
    send(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), b"caught\n".as_slice()));
    let child = started(&a, "echo ready; exec sleep 1000");
    send(child.id(), Signal::TERM);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
}

#[test]
fn a_second_interrupt_cancels_a_command_that_does_not_heed_the_first() {
    interrupted_again();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn a_second_interrupt_cancels_within_two_seconds() {
    let took = interrupted_again();
    assert!(took < Duration::from_secs(2), "at once, not after {took:?}");
}

/// Gives the time from the first interrupt to the end.
fn interrupted_again() -> Duration {
    let (a, b) = pair_up();
    let mut child = started(&a, "trap '' INT; echo ready; while :; do sleep 0.05; done");
    let asked = Instant::now();
    // The system may give two that are close together as one.
    wait_until("it has ended", || {
        send(child.id(), Signal::INT);
        std::thread::sleep(Duration::from_millis(300));
        child.try_wait().unwrap().is_some()
    });
    let took = asked.elapsed();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert_eq!(said.lines().last(), Some("plumb: origin=transport status=76 reason=cancelled"));
    wait_until("the command is ended", || b.children("keeper").is_empty());
    took
}
