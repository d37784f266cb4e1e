//! What `plumb` itself costs. Run by hand, in a release build, on a quiet machine.

use crate::fake::Here;
use crate::noise;
use spool::fs::Fs;
use spool::layout::Place;
use spool::outcome::Outcome;
use std::io::Write;
use std::time::Instant;

/// CPU seconds that a process has used so far, in user and system mode.
fn cpu(pid: u32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let seconds = |field: &str| field.parse::<f64>().unwrap() / 100.0;
    (seconds(fields[11]), seconds(fields[12]))
}

#[test]
#[ignore = "a measurement: cargo test --release --test plumb-alone -- --ignored --nocapture"]
fn a_gibibyte_of_input_costs_at_most_the_cpu_that_it_may() {
    let here = Here::new();
    let mut plumb = here.plumb(&["-q", "nas", "cat"]);
    let mut stdin = plumb.child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        let _ = rustix::pipe::fcntl_setpipe_size(&stdin, 1 << 20);
        let part = noise(1 << 20);
        (0..1024).for_each(|_| stdin.write_all(&part).unwrap());
    });
    let mut peer = here.meet();
    peer.receipt();
    let before = Instant::now();
    let began = cpu(plumb.child.id());
    peer.pretends_to_take_the_input();
    feeder.join().unwrap();
    let (elapsed, (user, system)) = (before.elapsed(), cpu(plumb.child.id()));
    let seconds = user + system - began.0 - began.1;
    eprintln!("1 GiB in {elapsed:.2?}: {seconds:.2} s of CPU ({user:.2} user, {system:.2} system)");
    peer.exits(Outcome::Exited(0));
    assert_eq!(plumb.finish().0, 0);
    // About 0.6 of this is the kernel's: pipe to page cache, and the unlinking of what the peer has.
    assert!(seconds <= 1.3 || cfg!(debug_assertions), "{seconds}");
}

#[test]
#[ignore = "a measurement: cargo test --release --test plumb-alone -- --ignored --nocapture"]
fn a_command_is_queued_within_milliseconds() {
    let here = Here::new();
    let mut times = Vec::new();
    for _ in 0..50 {
        let before = Instant::now();
        let plumb = here.plumb(&["nas", "true"]);
        while Place::Queue.ids(&*here.fs).unwrap().is_empty() {}
        times.push(before.elapsed());
        let mut peer = here.meet();
        peer.receipt();
        peer.exits(Outcome::Exited(0));
        plumb.finish();
        here.fs.remove(&Place::Jobs.dir(peer.msgid)).unwrap();
    }
    times.sort();
    let mut bare = Vec::new();
    for _ in 0..50 {
        let before = Instant::now();
        here.output(&["--version"]);
        bare.push(before.elapsed());
    }
    bare.sort();
    eprintln!("from start to queued: median {:.2?}, best {:.2?}; --version: {:.2?}", times[25], times[0], bare[25]);
}
