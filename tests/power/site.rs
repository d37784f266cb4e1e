//! One side: a home, configuration and spool, on an image whose power can be cut.

use crate::homes::{Peer, all_pids, kill_9, wait_until};
use crate::image::{Image, Kind, Loss, Switch};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The size of an image; xfs needs 300 at least.
const MEBIBYTES: u64 = 600;

/// A peer on an image of its own. Its daemons log outside of the image, to `log`.
pub struct Site {
    pub peer: Peer,
    pub image: Image,
    log: std::path::PathBuf,
}

impl Site {
    /// `None`, with the reason printed, where no image can be made.
    pub fn new(name: &'static str, kind: Kind, outside: &Path) -> Option<Site> {
        let image = Image::new(kind, MEBIBYTES)?;
        let peer = Peer::new(name, Some(&image.point()));
        let log = outside.join(format!("{name}.log"));
        std::os::unix::fs::symlink(&log, peer.home.join("daemon.log")).expect("a link");
        Some(Site { peer, image, log })
    }

    /// The pids of all processes that this machine loses with its power. Only its job tells whose a command is.
    pub fn living(&self) -> BTreeSet<u32> {
        let home = format!("NETPLUMB_HOME={}", self.peer.home.display());
        // Only the sender of a job has its `key`.
        let is_run_here = |id: &String| !self.peer.spool(&format!("jobs/{id}/key")).exists();
        let jobs: BTreeSet<String> = self.peer.ids("jobs").into_iter().filter(is_run_here).collect();
        let ours = |variable: &[u8]| {
            let job = variable.strip_prefix(b"PLUMB_JOB=").map(String::from_utf8_lossy);
            variable == home.as_bytes() || job.is_some_and(|job| jobs.contains(&*job))
        };
        let of = |pid: &u32| std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        all_pids().filter(|pid| of(pid).split(|byte| *byte == 0).any(ours)).collect()
    }

    /// The rows of `netplumb jobs --json`, which leaves tombstones out.
    pub fn jobs(&self) -> Vec<serde_json::Value> {
        let listing = self.peer.netplumb(&["jobs", "--json"]).good().text();
        listing.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The outcome of every job here, tombstones included.
    pub fn outcomes(&self) -> BTreeMap<String, String> {
        let listing = self.peer.netplumb(&["jobs", "--all", "--json"]).good().text();
        let rows = listing.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let text = |row: &serde_json::Value, name| row[name].as_str().unwrap_or_default().to_string();
        rows.map(|row| (text(&row, "id"), text(&row, "outcome"))).collect()
    }

    /// Names a message on its way, a job that is not a confirmed tombstone, or a keeper, if there is one.
    pub fn unrest(&self) -> Option<String> {
        for place in ["queue", "rqueue", "running"] {
            if let Some(id) = self.peer.ids(place).first() {
                return Some(format!("{place}/{id}"));
            }
        }
        for id in self.peer.ids("jobs") {
            if !["over", "acked"].iter().all(|mark| self.peer.spool(&format!("jobs/{id}/{mark}")).exists()) {
                return Some(format!("job {id}: {}", self.peer.netplumb(&["why", &id]).text()));
            }
        }
        self.peer.children("keeper").first().map(|pid| format!("keeper {pid}"))
    }

    /// The log of the daemons since the previous call.
    pub fn news(&self) -> String {
        let said = self.peer.log();
        let _ = std::fs::OpenOptions::new().write(true).truncate(true).open(&self.log);
        said
    }
}

/// Cuts the power of these sides at one moment. Their processes are gone, and what was durable is mounted again.
pub fn cut(sites: &mut [&mut Site], loss: Loss) {
    // All processes are stopped first, so that none sees another die or a disk fail. A
    // stopped process is like a process that was not scheduled any more.
    let mut stopped = BTreeSet::new();
    loop {
        let living = sites.iter().flat_map(|site| site.living());
        let fresh: Vec<u32> = living.filter(|pid| !stopped.contains(pid)).collect();
        if fresh.is_empty() {
            break;
        }
        fresh.iter().for_each(|pid| stop(*pid));
        stopped.extend(fresh);
    }
    let switches: Vec<Switch> = sites.iter().map(|site| site.image.switch()).collect();
    switches.into_iter().for_each(|switch| switch.cut(loss));
    for pid in &stopped {
        kill_9(*pid);
    }
    for site in &mut *sites {
        site.peer.kill();
    }
    wait_until("all are gone", || stopped.iter().all(|pid| !is_alive(*pid)));
    for site in &mut *sites {
        site.image.unmount().expect("nobody uses it");
        site.image.mount().expect("the file system is sound");
    }
}

/// Stops a process, if it is still there.
fn stop(pid: u32) {
    if is_alive(pid) {
        let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
        let _ = rustix::process::kill_process(pid, Signal::STOP);
    }
}

/// Is this process there, and not just a zombie, which holds nothing?
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}
