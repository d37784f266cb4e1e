//! The round trip of a small job: `echo hi | … cat`, from the start of the local program to its end.

use crate::netplumb::Netplumb;
use crate::ssh::Ssh;
use crate::stage::{Stage, command, spawn};
use crate::{account, table};
use anyhow::{Context, ensure};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DISK: &str = "plumb, spool on disk";
const TMPFS: &str = "plumb, spool on tmpfs";
const NEW: &str = "ssh, new connection";
const SHARED: &str = "ssh, running master";
const LOCAL: &str = "cat on this side alone";
/// After each job, so that what a system tidies up afterwards is not charged to the next one.
const PAUSE: Duration = Duration::from_millis(50);

/// Measures so many round trips of each, in turn, and prints them.
pub fn measure(stage: &Stage, trips: usize) -> anyhow::Result<()> {
    let disk = Netplumb::up(DISK, &stage.on_disk("small")?)?;
    let tmpfs = Netplumb::up(TMPFS, &stage.in_memory("small")?)?;
    let ssh = Ssh::up(NEW, &stage.short("new")?)?;
    // A server of its own, so that the two are told apart in the account.
    let shared = Ssh::up(SHARED, &stage.short("shared")?)?;
    shared.master()?;
    type Make<'a> = Box<dyn Fn() -> Command + 'a>;
    let systems: [(&str, Make); 5] = [
        (DISK, Box::new(|| disk.plumb("cat"))),
        (TMPFS, Box::new(|| tmpfs.plumb("cat"))),
        (NEW, Box::new(|| ssh.new_connection(&[], "cat"))),
        (SHARED, Box::new(|| shared.shared_connection("cat"))),
        (LOCAL, Box::new(|| command(LOCAL, "cat"))),
    ];
    let mut millis: [Vec<f64>; 5] = Default::default();
    let mut ticks = [0; 5];
    for trip in 0..=trips {
        for (nth, (name, make)) in systems.iter().enumerate() {
            let before = account::ticks(name);
            let took = round_trip(make()).context(*name)?;
            std::thread::sleep(PAUSE);
            // The first one fetches programs from the disk.
            if trip > 0 {
                ticks[nth] += account::ticks(name).saturating_sub(before);
                millis[nth].push(took.as_secs_f64() * 1000.0);
            }
        }
    }
    account::end_all();
    print(trips, &systems.map(|(name, _)| name), &millis, &ticks);
    Ok(())
}

fn round_trip(mut command: Command) -> anyhow::Result<Duration> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let started = Instant::now();
    let mut child = spawn(&mut command)?;
    child.stdin.take().map(|mut stdin| stdin.write_all(b"hi\n")).transpose()?;
    let output = child.wait_with_output()?;
    let took = started.elapsed();
    ensure!(output.status.success() && output.stdout == b"hi\n", "{command:?}: {}", output.status);
    Ok(took)
}

fn print(trips: usize, names: &[&str; 5], millis: &[Vec<f64>; 5], ticks: &[u64; 5]) {
    let rows: Vec<Vec<String>> = names
        .iter()
        .zip(millis)
        .zip(ticks)
        .map(|((name, millis), ticks)| {
            let figures = [50, 99].map(|percent| table::percentile(millis, percent));
            let cpu = *ticks as f64 * 10.0 / trips as f64;
            let figures = [figures[0], figures[1], cpu].map(|figure| format!("{figure:.1}"));
            [&[name.to_string()], &figures[..]].concat()
        })
        .collect();
    let title = format!("round trip of `echo hi | … cat`, {trips} of each, in turn");
    table::print(&title, &["", "p50 ms", "p99 ms", "CPU ms"], &rows);
    println!("  CPU: all processes of both sides, per job, with what follows within {} ms.\n", PAUSE.as_millis());
    let of = |system: usize| table::median(&millis[system]);
    table::ratio("round trip p50: plumb (disk) / new ssh connection", &[of(0) / of(2)], "≤ 0.2");
    table::ratio("round trip p50: plumb (tmpfs) / new ssh connection", &[of(1) / of(2)], "none");
    table::ratio("round trip p50: plumb (disk) / ssh master", &[of(0) / of(3)], "none");
}
