//! What a system's processes cost: processor time and resident memory, read from /proc.
//!
//! The bench is the reaper of every orphan below it, so nothing that it started
//! can leave its family tree. A process belongs to the system that it was
//! [started for](belongs), or whose name it has in its environment ([`MARK`]:
//! orphans are found by it), or to which one of its ancestors belongs (sshd
//! writes over its environment, and commands get a new one). A process that has
//! ended is counted by whoever waited for it (`cutime`, `cstime`), which is the
//! bench or a process of the system, so the sum over the living and what the
//! bench itself has waited for misses nothing, however short a process lived.

use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The environment variable that names the system.
pub const MARK: &str = "NETPLUMB_BENCH";
/// The kernel counts times of processes in these, on every architecture that Debian has.
const TICKS_PER_SECOND: f64 = 100.0;
/// Memory is looked at so often. The kernel keeps the peak; only the growth of a last moment can be missed.
const LOOK: Duration = Duration::from_millis(100);
/// Processes are at rest when they took at most one tick in this time.
const REST: Duration = Duration::from_millis(300);
/// Longer than this nobody is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The processes that were started to stay, with their systems.
static STARTED: Mutex<BTreeMap<u32, String>> = Mutex::new(BTreeMap::new());

/// What was used between opening and closing an account.
#[derive(Clone, Copy)]
pub struct Cost {
    /// User and system time of all processes of both sides, in seconds.
    pub cpu: f64,
    /// The peak resident size of the largest process, in KiB.
    pub peak_kib: u64,
}

/// An open account of one system.
pub struct Account {
    system: String,
    ticks: u64,
    open: Arc<AtomicBool>,
    peak_kib: Arc<AtomicU64>,
    watch: std::thread::JoinHandle<()>,
}

impl Account {
    /// Opens it.
    pub fn open(system: &str) -> Account {
        let (open, peak_kib) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (name, watched, peak) = (system.to_string(), open.clone(), peak_kib.clone());
        let watch = std::thread::spawn(move || {
            while watched.load(Ordering::Relaxed) {
                let largest = members(&name).map(|(pid, _)| resident_peak_kib(pid)).max();
                peak.fetch_max(largest.unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Account { system: system.into(), ticks: ticks(system), open, peak_kib, watch }
    }

    /// Closes it, when the processes are at rest: what is tidied up afterwards costs too.
    pub fn close(self) -> Cost {
        let (mut used, started) = (ticks(&self.system), Instant::now());
        while started.elapsed() < PATIENCE {
            std::thread::sleep(REST);
            let before = std::mem::replace(&mut used, ticks(&self.system));
            if used <= before + 1 {
                break;
            }
        }
        self.open.store(false, Ordering::Relaxed);
        let _ = self.watch.join();
        let cpu = used.saturating_sub(self.ticks) as f64 / TICKS_PER_SECOND;
        Cost { cpu, peak_kib: self.peak_kib.load(Ordering::Relaxed) }
    }
}

/// The ticks that a system's living processes, and everybody whom the bench has waited for, have used.
/// Differences count: while one system is measured, the bench waits for no other's processes.
pub fn ticks(system: &str) -> u64 {
    reap_orphans();
    let waited_for = Process::read(std::process::id()).map_or(0, |bench| bench.ticks_of_children);
    waited_for + members(system).map(|(_, process)| process.ticks + process.ticks_of_children).sum::<u64>()
}

/// Says that a process, and what it starts, belongs to a system.
pub fn belongs(pid: u32, system: &str) {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, system.into());
}

/// Kills whatever lives below the bench.
pub fn end_all() {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let family = family();
        if family.is_empty() {
            return STARTED.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        for pid in family.keys().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
        reap_orphans();
    }
}

/// One line of /proc/PID/stat.
struct Process {
    parent: u32,
    zombie: bool,
    ticks: u64,
    ticks_of_children: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name may contain anything; the last parenthesis ends it.
        let words: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let number = |nth: usize| words.get(nth)?.parse::<u64>().ok();
        Some(Process {
            parent: number(1)? as u32,
            zombie: words[0] == "Z",
            ticks: number(11)? + number(12)?,
            ticks_of_children: number(13)? + number(14)?,
        })
    }
}

/// Everything below the bench.
fn family() -> BTreeMap<u32, Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut all: BTreeMap<u32, Process> = pids.filter_map(|pid| Some((pid, Process::read(pid)?))).collect();
    let mut known = vec![std::process::id()];
    let mut next = 0;
    while let Some(parent) = known.get(next).copied() {
        known.extend(all.iter().filter(|(_, process)| process.parent == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    all.retain(|pid, _| known[1..].contains(pid));
    all
}

/// The processes of a system.
fn members(system: &str) -> impl Iterator<Item = (u32, Process)> {
    let mark = format!("{MARK}={system}").into_bytes();
    let family = family();
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let marked = |pid: u32| {
        if let Some(known) = started.get(&pid) {
            return known == system;
        }
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    let mut members: Vec<u32> = family.keys().copied().filter(|pid| marked(*pid)).collect();
    let mut next = 0;
    while let Some(parent) = members.get(next).copied() {
        let more: Vec<u32> = family.iter().filter(|(_, child)| child.parent == parent).map(|(pid, _)| *pid).collect();
        members.extend(more.into_iter().filter(|pid| !members.contains(pid)).collect::<Vec<_>>());
        next += 1;
    }
    family.into_iter().filter(move |(pid, _)| members.contains(pid))
}

/// Waits for what has ended and has nobody else to wait for it.
fn reap_orphans() {
    let bench = std::process::id();
    let dead = family().into_iter().filter(|(_, process)| process.zombie && process.parent == bench);
    for pid in dead.filter_map(|(pid, _)| Pid::from_raw(pid as i32)) {
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn resident_peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
