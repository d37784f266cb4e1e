//! Programs that talk to and fro within one job: bare round trips, and rsync with many small files.

use crate::account;
use crate::netplumb::Netplumb;
use crate::ssh::Ssh;
use crate::stage::{Stage, command, spawn, timed};
use crate::table;
use anyhow::{Context, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

const SYSTEMS: [&str; 4] = ["plumb, spool on disk", "plumb, spool on tmpfs", "ssh", "cat alone"];
/// An append that is made durable, which is what a hop of ours is to be measured by.
const APPEND: &str = "append and fdatasync";
/// The pieces that go to and fro, in bytes.
const SIZES: [usize; 2] = [1, 1024];
/// The first round trips of a job find nothing warm.
const WARM: usize = 100;
const FILES: usize = 1000;
/// The lengths of the files, in bytes.
const LENGTHS: std::ops::Range<usize> = 1024..4096;

/// The systems, up.
struct Systems {
    disk: Netplumb,
    tmpfs: Netplumb,
    ssh: Ssh,
}

impl Systems {
    fn command(&self, system: usize, remote: &str) -> Command {
        match system {
            0 => self.disk.plumb(remote),
            1 => self.tmpfs.plumb(remote),
            2 => self.ssh.new_connection(&[], remote),
            _ => command(SYSTEMS[3], "cat"),
        }
    }
}

/// Measures so many round trips and so many runs of rsync, in turn, and prints them.
pub fn measure(stage: &Stage, trips: usize, rounds: usize) -> anyhow::Result<()> {
    let (disk, tmpfs) = (stage.on_disk("chatty")?, stage.in_memory("chatty")?);
    let systems = Systems {
        disk: Netplumb::up(SYSTEMS[0], &disk)?,
        tmpfs: Netplumb::up(SYSTEMS[1], &tmpfs)?,
        ssh: Ssh::up(SYSTEMS[2], &stage.short("chatty")?)?,
    };
    for size in SIZES {
        round_trips(stage, &systems, &disk, size, trips, rounds).with_context(|| format!("{size} bytes to and fro"))?;
    }
    rsync(stage, &systems, &stage.in_memory("files")?, rounds)?;
    account::end_all();
    Ok(())
}

/// One system's round trips.
#[derive(Default)]
struct Trips {
    micros: Vec<f64>,
    /// Of each round.
    per_second: Vec<f64>,
    p50: Vec<f64>,
    ticks: u64,
}

fn round_trips(
    stage: &Stage,
    systems: &Systems,
    disk: &Path,
    size: usize,
    trips: usize,
    rounds: usize,
) -> anyhow::Result<()> {
    let mut all: [Trips; 4] = Default::default();
    let mut appends = Trips::default();
    for _ in 0..rounds {
        for (system, all) in all.iter_mut().enumerate() {
            stage.quiet();
            let mut echo = Echo::start(systems.command(system, "cat"))?;
            echo.trips(size, WARM)?;
            let before = account::ticks(SYSTEMS[system]);
            all.add(&echo.trips(size, trips)?);
            all.ticks += account::ticks(SYSTEMS[system]).saturating_sub(before);
            echo.end()?;
        }
        stage.quiet();
        appends.add(&durable_appends(disk, size, trips)?);
    }
    let mut rows = Vec::new();
    for (name, trips) in SYSTEMS.iter().zip(&all).chain([(&APPEND, &appends)]) {
        let of = |percent| table::percentile(&trips.micros, percent) / 1000.0;
        let (count, cpu) = (trips.micros.len() as f64, trips.ticks as f64 * 10.0);
        let cpu = if *name == APPEND { String::new() } else { format!("{:.2}", cpu / count) };
        let per_second = format!("{:.0}", table::median(&trips.per_second));
        rows.push(vec![name.to_string(), per_second, format!("{:.2}", of(50)), format!("{:.2}", of(99)), cpu]);
    }
    let title = format!("{size} byte(s) to a running `cat` and back, {rounds} × {trips} round trips of each, in turn");
    table::print(&title, &["", "per s", "p50 ms", "p99 ms", "CPU ms"], &rows);
    println!(
        "  {APPEND}: one, to a file on the same disk. A round trip of plumb waits for two, and begins two more.\n"
    );
    let ratio = |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(one, two)| one / two).collect::<Vec<f64>>();
    table::ratio("round trips per s: plumb (disk)", &all[0].per_second, "≥ 500");
    table::ratio("round trips per s: plumb (tmpfs)", &all[1].per_second, "≥ 1000; the aim is 2000");
    table::ratio("round trips per s: plumb (disk) / ssh", &ratio(&all[0].per_second, &all[2].per_second), "none");
    table::ratio("round trips per s: plumb (tmpfs) / ssh", &ratio(&all[1].per_second, &all[2].per_second), "none");
    let two: Vec<f64> = appends.p50.iter().map(|one| 2.0 * one).collect();
    table::ratio("round trip p50: plumb (disk) / two durable appends", &ratio(&all[0].p50, &two), "none");
    Ok(())
}

impl Trips {
    fn add(&mut self, seconds: &[f64]) {
        self.per_second.push(seconds.len() as f64 / seconds.iter().sum::<f64>());
        self.p50.push(table::median(seconds));
        self.micros.extend(seconds.iter().map(|seconds| seconds * 1e6));
    }
}

/// Does something so often; says how long each took, in seconds.
fn repeated(times: usize, mut what: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    (0..times)
        .map(|_| {
            let started = Instant::now();
            what().map(|()| started.elapsed().as_secs_f64())
        })
        .collect()
}

fn durable_appends(disk: &Path, size: usize, times: usize) -> anyhow::Result<Vec<f64>> {
    let mut file = tempfile::tempfile_in(disk)?;
    let piece = vec![b'x'; size];
    repeated(times, || Ok(file.write_all(&piece).and_then(|()| file.sync_data())?))
}

/// A running command that gives back what it is given.
struct Echo {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Echo {
    fn start(mut command: Command) -> anyhow::Result<Echo> {
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let (to, from) = child.stdin.take().zip(child.stdout.take()).context("no pipes")?;
        Ok(Echo { child, to, from })
    }

    fn trips(&mut self, size: usize, times: usize) -> anyhow::Result<Vec<f64>> {
        let (there, mut back) = (vec![b'x'; size], vec![0; size]);
        repeated(times, || {
            self.to.write_all(&there)?;
            self.from.read_exact(&mut back)?;
            ensure!(back == there, "something else came back");
            Ok(())
        })
    }

    fn end(mut self) -> anyhow::Result<()> {
        drop(self.to);
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// rsync of many small files, there and back again.
fn rsync(stage: &Stage, systems: &Systems, files: &Path, rounds: usize) -> anyhow::Result<()> {
    let from = files.join("from");
    make_files(&from)?;
    let mut seconds: [[Vec<f64>; 2]; 3] = Default::default();
    for round in 0..=rounds {
        for (system, seconds) in seconds.iter_mut().enumerate() {
            let (to, back) = (files.join("to"), files.join("back"));
            stage.quiet();
            let there = timed(sync(systems, system, &from, &to, true))?;
            let again = timed(sync(systems, system, &to, &back, false))?;
            same(&from, &back)?;
            std::fs::remove_dir_all(&to)?;
            std::fs::remove_dir_all(&back)?;
            // The first one fetches programs from the disk.
            if round > 0 {
                seconds[0].push(there.as_secs_f64());
                seconds[1].push(again.as_secs_f64());
            }
        }
    }
    let rows: Vec<Vec<String>> = SYSTEMS
        .iter()
        .zip(&seconds)
        .map(|(name, [there, back])| {
            let figures = [there, back].map(|seconds| format!("{:.0}", table::median(seconds) * 1000.0));
            [&[name.to_string()], &figures[..]].concat()
        })
        .collect();
    let title = format!("rsync -a of {FILES} files of 1 to 4 KiB, medians of {rounds} rounds in turn");
    table::print(&title, &["", "there ms", "back ms"], &rows);
    println!("  The files lie in memory; so does what rsync makes of them.\n");
    let ratio = |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(one, two)| one / two).collect::<Vec<f64>>();
    for (nth, direction) in ["there", "back"].iter().enumerate() {
        for (system, name) in [(0, "disk"), (1, "tmpfs")] {
            let what = format!("rsync {direction}: plumb ({name}) / ssh");
            let bound = if system == 0 { "≤ 2" } else { "none" };
            table::ratio(&what, &ratio(&seconds[system][nth], &seconds[2][nth]), bound);
        }
    }
    Ok(())
}

fn sync(systems: &Systems, system: usize, from: &Path, to: &Path, there: bool) -> Command {
    // What rsync adds to these words is the host and its command.
    let shell = systems.command(system, "");
    let mut words: Vec<String> = std::iter::once(shell.get_program())
        .chain(shell.get_args())
        .map(|word| word.to_string_lossy().into())
        .collect();
    words.pop();
    let host = words.pop().unwrap_or_default();
    let mut rsync = command(SYSTEMS[system], "rsync");
    rsync.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    rsync.args(["-a", "-e", &words.join(" ")]);
    let (from, to) = (format!("{}/", from.display()), format!("{}/", to.display()));
    match there {
        true => rsync.args([from, format!("{host}:{to}")]),
        false => rsync.args([format!("{host}:{from}"), to]),
    };
    rsync
}

fn make_files(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut chance = File::open("/dev/urandom")?;
    let mut bytes = vec![0; LENGTHS.end];
    for nth in 0..FILES {
        chance.read_exact(&mut bytes)?;
        let length = LENGTHS.start + nth * 7919 % LENGTHS.len();
        std::fs::write(directory.join(format!("{nth}")), &bytes[..length])?;
    }
    Ok(())
}

fn same(one: &Path, two: &Path) -> anyhow::Result<()> {
    for nth in 0..FILES {
        let name = nth.to_string();
        ensure!(std::fs::read(one.join(&name))? == std::fs::read(two.join(&name))?, "file {name} is not the same");
    }
    Ok(())
}
