//! Finds and kills what a command left behind.
//!
//! Everything that a command started is below the guard, which is a subreaper:
//! an orphan stays in sight, also one that left the process group. `/proc`
//! says who is whose child. A killed process takes no further step, so once
//! the signal is sent, closing stdin is no end of file to anybody.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A line of the process table.
struct Process {
    pid: i32,
    parent: i32,
    alive: bool,
    /// When it was started, in ticks since the boot.
    since: u64,
}

/// All processes that can be seen.
fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(process).collect()
}

/// Reads `/proc/<pid>/stat`: the name may hold anything, but no line has a `)` after it.
fn process(pid: i32) -> Option<Process> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    // The 22nd field of all; two of those behind the name are taken.
    Some(Process { pid, parent, alive, since: fields.nth(17)?.parse().ok()? })
}

/// When a process was started, in ticks since the boot; `None` if it does not live.
pub fn since(pid: i32) -> Option<u64> {
    process(pid).filter(|process| process.alive).map(|process| process.since)
}

/// The living processes below this one, `but` and what is not below anybody left out.
fn descendants(but: Option<Pid>) -> Vec<Pid> {
    let processes = processes();
    let mut known = vec![getpid().as_raw_pid()];
    let mut at = 0;
    while let Some(&parent) = known.get(at) {
        known.extend(processes.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        at += 1;
    }
    let but = but.map_or(0, Pid::as_raw_pid);
    let found =
        processes.iter().filter(|process| process.alive && process.pid != but && known[1..].contains(&process.pid));
    found.filter_map(|process| Pid::from_raw(process.pid)).collect()
}

/// Kills the group and all that is below this process, `but` left out, until
/// nothing is left and nobody can read what `stdin` is the write end of, or
/// `patience` is over. Says whether nothing is left.
pub fn kill_all(group: Option<Pid>, but: Option<Pid>, stdin: Option<&impl AsFd>, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let left = descendants(but);
        for &pid in &left {
            let _ = kill_process(pid, Signal::KILL);
        }
        if left.is_empty() && !stdin.is_some_and(|stdin| has_reader(stdin)) {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Can anybody read what this is the write end of?
pub fn has_reader(stdin: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(stdin, PollFlags::empty())];
    let asked = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    asked.is_err() || !fds[0].revents().contains(PollFlags::ERR)
}

/// Keeps the write end open while anybody could take its closing for an end of file.
pub fn linger(stdin: &impl AsFd) {
    while has_reader(stdin) {
        let mut fds = [PollFd::new(stdin, PollFlags::empty())];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 }));
    }
}

/// Kills whoever has this variable in its environment, except ourselves: what
/// a job left when its keeper and guard were killed at once. Says whether
/// nothing is left, for which it waits no longer than `patience`.
pub fn kill_marked(variable: &str, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    let marked = |process: &Process| {
        let environ = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environ.split(|&b| b == 0).any(|entry| entry == variable.as_bytes())
    };
    let ours = getpid().as_raw_pid();
    loop {
        let mut left = false;
        for process in processes().iter().filter(|process| process.alive && process.pid != ours && marked(process)) {
            left = true;
            if let Some(pid) = Pid::from_raw(process.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if !left || Instant::now() >= until {
            return !left;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
