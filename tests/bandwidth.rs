//! A limit on bytes a second, counted where they pass: on the link.

use crate::homes::{PLUMB, Peer, noise, pair_behind_links, wait_until};
use crate::link::Link;
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
    let (a, b, links) = pair_behind_links(0);
    match who {
        Limits::Sender => set(&a, &b, &format!("{limit}:off")),
        Limits::Receiver => set(&b, &a, &format!("off:{limit}")),
    }
    // What is set while a daemon runs is known to it within some seconds.
    std::thread::sleep(Duration::from_secs(5));
    (a, b, links)
}

fn a_rate_is_kept(who: Limits) {
    let (a, b, [_, link]) = limited(who, "2M");
    let (child, stdin) = start(&a, &["b", "cat >/dev/null"]);
    feed(stdin);
    wait_until(Duration::from_secs(30), "it flows", || link.bytes() > MIB);
    let held = rate(&link, Duration::from_secs(5));
    println!("2 MiB/s are {:.2}", held as f64 / MIB as f64);
    assert!(held.abs_diff(2 * MIB) * 100 < 2 * MIB * 15, "{held}");
    // Another limit, for a job that runs.
    match who {
        Limits::Sender => set(&a, &b, "512k:off"),
        Limits::Receiver => set(&b, &a, "off:512k"),
    }
    std::thread::sleep(Duration::from_secs(8));
    let held = rate(&link, Duration::from_secs(5));
    println!("512 KiB/s are {:.1}", held as f64 / 1024.0);
    assert!(held.abs_diff(MIB / 2) * 100 < MIB / 2 * 15, "{held}");
    set(if who == Limits::Sender { &a } else { &b }, if who == Limits::Sender { &b } else { &a }, "off");
    wait_until(Duration::from_secs(20), "control: without a limit it is faster", || {
        rate(&link, Duration::from_secs(1)) > 6 * MIB
    });
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
    assert_eq!(ran.stderr, "", "nothing was in its way");
}

#[test]
fn a_slow_rate_goes_on_where_we_send() {
    a_slow_rate_goes_on(Limits::Sender);
}

#[test]
fn a_slow_rate_goes_on_where_we_pull() {
    a_slow_rate_goes_on(Limits::Receiver);
}

/// What passes while a small job runs is little more than the job itself.
fn a_small_job_overtakes(who: Limits) {
    let (a, _b, [_, link]) = limited(who, "1M");
    let (child, stdin) = start(&a, &["-priority=low", "b", "cat >/dev/null"]);
    feed(stdin);
    wait_until(Duration::from_secs(30), "the large one flows", || link.bytes() > 4 * MIB);
    // While it begins and ends, the large one has the link.
    let (size, before) = (4 * MIB, link.bytes());
    let ran = a.plumb(&["b", "wc -c"], &noise(size as usize, 2)).good();
    let passed = link.bytes() - before;
    println!(
        "4 MiB beside a large job: {:.2} MiB passed in {:.2} s",
        passed as f64 / MIB as f64,
        ran.took.as_secs_f64()
    );
    assert_eq!(ran.text().trim(), size.to_string());
    assert!(passed < 2 * size, "it waited behind the large one: {passed}");
    end(child);
}

#[test]
fn a_small_job_overtakes_where_we_send() {
    a_small_job_overtakes(Limits::Sender);
}

#[test]
fn a_small_job_overtakes_where_we_pull() {
    a_small_job_overtakes(Limits::Receiver);
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
