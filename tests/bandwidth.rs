//! A limit on bytes a second, counted where they pass: on the link.

use crate::homes::{PLUMB, Peer, arrived, hindrances, noise, pair_behind_links, pair_with_links, wait_until};
use crate::link::Link;
use spool::log::WINDOW;
use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn set(peer: &Peer, other: &Peer, limit: &str) {
    peer.netplumb(&["peer", "set", other.name, &format!("--bwlimit={limit}")]).good();
}

fn start(a: &Peer, words: &[&str]) -> (Child, ChildStdin) {
    let mut command = a.command(PLUMB);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("plumb starts");
    let stdin = child.stdin.take().expect("a pipe");
    (child, stdin)
}

/// Feeds a job without end, until the job is over.
fn feed(mut stdin: ChildStdin) {
    let piece = noise(64 << 10, 1);
    std::thread::spawn(move || while stdin.write_all(&piece).is_ok() {});
}

/// Bytes a second that pass a link, over some seconds.
fn rate(link: &Link, long: Duration) -> u64 {
    let (began, before) = (Instant::now(), link.bytes());
    std::thread::sleep(long);
    ((link.bytes() - before) as f64 / began.elapsed().as_secs_f64()) as u64
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Who of the two limits what `a` sends to `b`.
#[derive(Clone, Copy, PartialEq)]
enum Limits {
    Sender,
    Receiver,
}

/// Two peers, of which one lets so much of what `a` sends pass.
fn limited(who: Limits, limit: &str) -> (Peer, Peer, [Link; 2]) {
    let (mut a, mut b, links) = pair_with_links(0);
    limits(who, &a, &b, limit);
    a.up();
    b.up();
    (a, b, links)
}

fn limits(who: Limits, a: &Peer, b: &Peer, limit: &str) {
    match who {
        Limits::Sender => set(a, b, &format!("{limit}:off")),
        Limits::Receiver => set(b, a, &format!("off:{limit}")),
    }
}

/// Is this at most as much as the limit, and a little for what is counted with it?
fn is_within(rate: u64, limit: u64) -> bool {
    rate * 100 < limit * 115
}

fn a_rate_is_kept(who: Limits) {
    let (a, b, [_, link]) = limited(who, "2M");
    let (child, stdin) = start(&a, &["b", "cat >/dev/null"]);
    feed(stdin);
    wait_until("it flows", || link.bytes() > MIB);
    let held = rate(&link, Duration::from_secs(3));
    println!("2 MiB/s are {:.2}", held as f64 / MIB as f64);
    assert!(is_within(held, 2 * MIB), "{held}");
    // Another limit, for a job that runs, is known within some seconds.
    limits(who, &a, &b, "512k");
    wait_until("another limit is kept", || is_within(rate(&link, Duration::from_secs(2)), MIB / 2));
    let held = rate(&link, Duration::from_secs(3));
    println!("512 KiB/s are {:.1}", held as f64 / 1024.0);
    assert!(is_within(held, MIB / 2), "{held}");
    limits(who, &a, &b, "off");
    wait_until("control: without a limit it is faster", || rate(&link, Duration::from_secs(1)) > MIB);
    end(child);
}

#[test]
fn a_rate_is_kept_where_we_send() {
    a_rate_is_kept(Limits::Sender);
}

#[test]
fn a_rate_is_kept_where_we_pull() {
    a_rate_is_kept(Limits::Receiver);
}

#[test]
#[ignore = "judges how fast it is, on a quiet machine"]
fn a_rate_is_reached_and_another_one_after_it() {
    for who in [Limits::Sender, Limits::Receiver] {
        let (a, b, [_, link]) = limited(who, "2M");
        let (child, stdin) = start(&a, &["b", "cat >/dev/null"]);
        feed(stdin);
        wait_until("it flows", || link.bytes() > MIB);
        for (limit, rated) in [("2M", 2 * MIB), ("512k", MIB / 2)] {
            limits(who, &a, &b, limit);
            std::thread::sleep(Duration::from_secs(8));
            let held = rate(&link, Duration::from_secs(5));
            assert!(held.abs_diff(rated) * 100 < rated * 15, "{held} at {limit}");
        }
        limits(who, &a, &b, "off");
        wait_until("without a limit it is fast", || rate(&link, Duration::from_secs(1)) > 6 * MIB);
        end(child);
    }
}

/// A record takes several seconds: no pull is given up for it, and nothing passes twice.
fn a_slow_rate_goes_on(who: Limits) {
    let (a, _b, [_, link]) = limited(who, "12k");
    let size = 60 << 10;
    let before = link.bytes();
    let ran = a.plumb(&["b", "wc -c"], &noise(size, 4)).good();
    assert_eq!(ran.text().trim(), size.to_string());
    let passed = link.bytes() - before;
    println!("{size} bytes at 12 KiB/s: {passed} passed in {:.1} s; {}", ran.took.as_secs_f64(), ran.stderr);
    assert!(passed < size as u64 * 13 / 10, "{passed} bytes for {size}");
    assert_eq!(hindrances(&ran.stderr), [] as [&str; 0]);
}

#[test]
fn a_slow_rate_goes_on_where_we_send() {
    a_slow_rate_goes_on(Limits::Sender);
}

#[test]
fn a_slow_rate_goes_on_where_we_pull() {
    a_slow_rate_goes_on(Limits::Receiver);
}

const SMALL: u64 = 4 * MIB;

/// What passes while the input of a small job does, beside a large job with a full window.
fn passes_with_a_small_job(who: Limits) -> u64 {
    let (a, b, [_, link]) = limited(who, "1M");
    let (child, stdin) = start(&a, &["-priority=low", "b", "cat >/dev/null"]);
    feed(stdin);
    wait_until("the large one flows", || link.bytes() > 4 * MIB);
    let large = b.ids("jobs");
    let passed = std::thread::scope(|scope| {
        let small = scope.spawn(|| a.plumb(&["b", "wc -c"], &noise(SMALL as usize, 2)).good());
        let there = || b.ids("jobs").iter().filter(|id| !large.contains(id)).map(|id| arrived(&b, id)).sum::<u64>();
        // While it begins and ends, the large one has the link.
        wait_until("the small one flows", || there() > 0);
        let before = link.bytes();
        wait_until("the small one is there", || there() >= SMALL || small.is_finished());
        let passed = link.bytes() - before;
        assert_eq!(small.join().expect("it ends").text().trim(), SMALL.to_string());
        passed
    });
    println!("4 MiB beside a large job: {:.2} MiB passed", passed as f64 / MIB as f64);
    end(child);
    passed
}

/// The large one would take half a minute.
fn a_small_job_overtakes(who: Limits) {
    let passed = passes_with_a_small_job(who);
    assert!(passed < WINDOW / 2, "it waited behind the large one: {passed}");
}

#[test]
fn a_small_job_overtakes_where_we_send() {
    a_small_job_overtakes(Limits::Sender);
}

#[test]
fn a_small_job_overtakes_where_we_pull() {
    a_small_job_overtakes(Limits::Receiver);
}

#[test]
#[ignore = "judges how fast it is, on a quiet machine"]
fn a_small_job_has_nearly_the_whole_rate() {
    for who in [Limits::Sender, Limits::Receiver] {
        let passed = passes_with_a_small_job(who);
        assert!(passed < SMALL * 3 / 2, "{passed} passed");
    }
}

/// Without a limit of ours, on a link that is full.
#[test]
#[ignore = "prints figures, of a link of 5 MB/s"]
fn a_small_job_beside_a_large_one_on_a_full_link() {
    let (a, _b, _links) = pair_behind_links(5_000_000);
    a.plumb(&["b", "true"], b"").good();
    let small = |size: usize| {
        let mut took: Vec<f64> =
            (0..7).map(|n| a.plumb(&["b", "wc -c"], &noise(size, n)).good().took.as_secs_f64()).collect();
        took.sort_by(f64::total_cmp);
        took[3]
    };
    let sizes = [10, 64 << 10, 1 << 20];
    let alone = sizes.map(small);
    let (child, stdin) = start(&a, &["b", "cat >/dev/null"]);
    feed(stdin);
    std::thread::sleep(Duration::from_secs(5));
    let beside = sizes.map(small);
    end(child);
    for ((size, alone), beside) in sizes.into_iter().zip(alone).zip(beside) {
        println!("{size} bytes: alone {alone:.3} s, beside a large job {beside:.3} s, {:.1} times", beside / alone);
    }
}

#[test]
fn a_timetable_that_cannot_be_read_is_named_and_nothing_changes() {
    let (a, b, _links) = pair_behind_links(0);
    let ran = a.netplumb(&["peer", "set", b.name, "--bwlimit=8:00,1M"]);
    assert_eq!(ran.status, 64, "{}", ran.stderr);
    assert!(ran.stderr.contains("\"8:00\" is no time"), "{}", ran.stderr);
    assert!(!a.netplumb(&["peer", "list"]).good().text().contains("1M"));
    set(&a, &b, "08:00,512k 23:00,off");
    assert!(a.netplumb(&["peer", "list"]).good().text().contains("08:00,512k 23:00,off"));
    assert_eq!(a.netplumb(&["peer", "set", "nobody", "--bwlimit=1M"]).status, 67);
    assert_eq!(a.plumb(&["-priority=urgent", "b", "true"], b"").status, 255);
}
