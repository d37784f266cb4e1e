//! Measures what the processes of a round use, and finds those that are left, in `/proc`: all of them have
//! the round's directory in their command line or environment.

use crate::homes::processes_with;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A hundredth of a second in nanoseconds: so Linux counts what children have used that have ended.
const TICK: u64 = 10_000_000;
/// The most that all processes may use at rest, in thousandths of one processor; also the most for each of them.
const REST_MAX: f64 = 30.0;
/// The most that a job may add that is held open: four requests that are renewed every second.
const OPEN_JOB: f64 = 1.0;
/// On a machine on which others wait for a processor the same work takes so many times as long.
const CROWDED: f64 = 4.0;

/// Do others wait for a processor more than a tenth of the time?
fn is_crowded() -> bool {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let share = text.split("avg10=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    share.is_some_and(|share| share > 10.0)
}

/// How long we look at a time.
const WINDOW: Duration = Duration::from_secs(4);

/// The processes of a round, and for how many nanoseconds each has used a processor, with its children that have ended.
fn used(directory: &Path) -> BTreeMap<u32, u64> {
    let text = directory.display().to_string();
    let pids = processes_with(&text).into_iter();
    pids.filter_map(|pid| Some((pid, nanoseconds(pid)?))).collect()
}

/// Of the living threads it is known exactly: counted in ticks, a process that often wakes for a moment looks busy.
fn nanoseconds(pid: u32) -> Option<u64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let of_thread = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let numbers = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(13).take(2);
    let of_children: u64 = numbers.filter_map(|number| number.parse::<u64>().ok()).sum();
    Some(threads.filter_map(of_thread).sum::<u64>() + of_children * TICK)
}

/// The words of a process.
pub fn words(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").chars().take(300).collect()
}

/// Waits until the processes of a round, with so many open jobs, have rested for a window, at most so long.
/// Gives what they used then in thousandths of one processor; else says what they used last.
pub fn comes_to_rest(directory: &Path, open_jobs: usize, patience: Duration) -> Result<f64, String> {
    let started = Instant::now();
    loop {
        let (before, since) = (used(directory), Instant::now());
        std::thread::sleep(WINDOW);
        let after = used(directory);
        let window = since.elapsed().as_nanos() as f64;
        let spent = |(pid, now): (&u32, &u64)| (*pid, now.saturating_sub(before.get(pid).copied().unwrap_or(0)));
        let mut spent: Vec<(u32, u64)> = after.iter().map(spent).collect();
        spent.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        let thousandths = |used: u64| used as f64 / window * 1000.0;
        let all = thousandths(spent.iter().map(|(_, used)| used).sum());
        let one = spent.first().map_or(0.0, |(_, used)| thousandths(*used));
        let factor = if is_crowded() { CROWDED } else { 1.0 };
        if all < factor * (REST_MAX + OPEN_JOB * open_jobs as f64) && one < factor * REST_MAX {
            return Ok(all);
        }
        if started.elapsed() >= patience {
            let most = spent.iter().take(3);
            let most: Vec<String> =
                most.map(|(pid, used)| format!("{:.1} %: {}", thousandths(*used) / 10.0, words(*pid))).collect();
            return Err(format!("{:.1} % of a processor; most: {most:?}", all / 10.0));
        }
    }
}

/// Processes of a round that live; ours is not among them, nor is one that nobody has waited for.
pub fn living(directory: &Path) -> Vec<u32> {
    let mut pids = processes_with(&directory.display().to_string());
    pids.retain(|pid| !words(*pid).is_empty());
    pids
}
