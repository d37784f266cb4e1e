//! A round: two homes, jobs in all states, a blow, and the report.

use super::fault::{Blow, Mode, SIDES};
use super::ground::Ground;
use super::judge::{Broken, Promise};
use super::lies;
use super::play::{Client, Job};
use super::rest;
use super::zoo;
use crate::homes::{Chance, Peer, kill_9, send};
use crate::link::Link;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of files that are larger no copy is kept, in bytes.
pub const OLD_MAX: u64 = 1 << 20;

/// The wishes for a round.
#[derive(Clone)]
pub struct Wish {
    /// Decides everything that chance decides.
    pub seed: u64,
    /// Strikes in the place of what chance would choose.
    pub blow: Option<Blow>,
    /// Only these jobs; empty: all.
    pub jobs: Vec<String>,
    /// Rounds and what failed in them lie below this directory.
    pub below: PathBuf,
    /// Judges also whether everything is prompt, and at rest; on a busy machine it may not be.
    pub timed: bool,
}

/// The report of a round.
pub struct Report {
    /// The wish's.
    pub seed: u64,
    /// The blow that struck.
    pub blow: Blow,
    /// By which results are counted: for each fault the kind of file and the verb.
    pub kinds: Vec<String>,
    /// Facts for a reader who looks for the cause.
    pub notes: Vec<String>,
    /// The broken promises.
    pub broken: Vec<Broken>,
    /// Where its files lie, if a promise was broken.
    pub kept: Option<PathBuf>,
    /// How many jobs it had.
    pub jobs: usize,
    /// How long it took.
    pub took: Duration,
}

/// A round on its way.
pub struct Round {
    /// All of it lies below this.
    pub directory: PathBuf,
    /// The source of chance.
    pub chance: Chance,
    /// The two homes, a and b.
    pub peers: [Peer; 2],
    /// Through the first a dials b, through the second b dials a.
    pub links: Vec<Link>,
    /// The jobs, in the order of their start.
    pub jobs: Vec<Job>,
    /// The spools, for the faults.
    pub ground: Ground,
    /// How many copies of the spools there are.
    pub moments: usize,
    /// At the blow everything passes.
    pub flows: bool,
    /// Ids of the jobs that a fault touched.
    pub touched: BTreeSet<String>,
    /// Of these: where a fault took all that the sender had.
    pub removed: BTreeSet<String>,
    /// Of these: where it is documented that the command may run again, for the spool knows of no run.
    pub may_rerun: BTreeSet<String>,
    /// A fault struck what belongs to no job.
    pub home_wide: bool,
    /// Where each job was at the blow.
    pub phases: BTreeMap<String, String>,
    /// Facts for a reader who looks for the cause.
    pub notes: Vec<String>,
    /// The promises broken so far.
    pub broken: Vec<Broken>,
    /// Time is judged.
    pub timed: bool,
    restarts: [(usize, Instant); 2],
}

/// Plays a round to its end.
pub fn play(wish: &Wish) -> Report {
    let started = Instant::now();
    let directory = wish.below.join(wish.seed.to_string());
    let _ = fs::remove_dir_all(&directory);
    let mut round = Round::prepare(wish, &directory);
    let mut blow = Blow { mode: Mode::Live, faults: Vec::new() };
    match round.set_the_stage() {
        Ok(()) => {
            blow = round.strike(wish.blow.as_ref());
            round.look_after_the_blow(&blow);
            round.let_end();
            round.judge();
        }
        Err(what) => round.note(Promise::Prepared, "round", what),
    }
    round.end();
    let kinds = blow.faults.iter().map(|fault| format!("{} {}", lies::kind(fault), fault.verb.word())).collect();
    let Round { peers, broken, mut notes, jobs, flows, phases, .. } = round;
    let count = jobs.len();
    drop(jobs);
    notes.insert(0, if flows { "everything flows".into() } else { "nothing flows".into() });
    for name in blow.faults.iter().filter_map(|fault| fault.path.split(['{', '}']).nth(1)) {
        if let Some(phase) = phases.get(name) {
            notes.push(format!("{name} was {phase}"));
        }
    }
    let kept = (!broken.is_empty()).then(|| directory.clone());
    match kept {
        Some(_) => {
            let said = broken.iter().map(|it| format!("{:?} {}: {}\n", it.promise, it.of, it.seen));
            let text = format!("{blow}\n{notes:#?}\n{}", said.collect::<String>());
            let _ = fs::write(directory.join("report"), text);
            leave_out_what_is_large(&directory);
            // The homes stay for whoever looks for the fault: all of their processes have ended.
            peers.into_iter().for_each(std::mem::forget);
        }
        None => {
            drop(peers);
            let _ = fs::remove_dir_all(&directory);
        }
    }
    Report { seed: wish.seed, blow, kinds, notes, broken, kept, jobs: count, took: started.elapsed() }
}

impl Round {
    fn prepare(wish: &Wish, directory: &Path) -> Round {
        for name in ["work", "away", "old", "verbs"] {
            fs::create_dir_all(directory.join(name)).expect("a directory");
        }
        let mut chance = Chance(wish.seed);
        let peers = [Peer::new("a", Some(directory)), Peer::new("b", Some(directory))];
        let links = [1, 0].map(|to: usize| Link::open(&peers[to].address, 0).expect("a link"));
        let (tight, flows) = (chance.below(4) == 0, chance.below(4) == 0);
        for from in [0, 1] {
            let (one, other) = (&peers[from], &peers[1 - from]);
            one.knows(other, &links[from].address.to_string());
            one.quota(other, if tight { "jobs = 64\njob_bytes = \"32M\"" } else { "jobs = 64" });
        }
        let work = directory.join("work");
        let mut plans = zoo::plans(&work, &mut chance, tight);
        plans.retain(|plan| wish.jobs.is_empty() || wish.jobs.iter().any(|name| name == plan.name));
        let jobs: Vec<Job> = plans.into_iter().map(|plan| Job::new(plan, &work)).collect();
        let ground = Ground {
            spools: [0, 1].map(|side: usize| peers[side].home.join("spool")),
            ids: BTreeMap::new(),
            away: directory.join("away"),
            old: directory.join("old"),
        };
        let notes = if tight { vec!["job_bytes is 32 MiB".into()] } else { Vec::new() };
        Round {
            directory: directory.into(),
            chance,
            peers,
            links: links.into(),
            jobs,
            ground,
            moments: 0,
            flows,
            touched: BTreeSet::new(),
            removed: BTreeSet::new(),
            may_rerun: BTreeSet::new(),
            home_wide: false,
            phases: BTreeMap::new(),
            notes,
            broken: Vec::new(),
            timed: wish.timed,
            restarts: [(0, Instant::now()); 2],
        }
    }

    /// Notes that a promise was broken.
    pub fn note(&mut self, promise: Promise, of: impl Into<String>, seen: impl Into<String>) {
        self.broken.push(Broken { promise, of: of.into(), seen: seen.into() });
    }

    /// Starts a daemon that has ended by itself, as a supervisor would.
    pub fn keep_up(&mut self) {
        for side in [0, 1] {
            let peer = &mut self.peers[side];
            let lives = peer.daemon_pid().is_some_and(|pid| !rest::words(pid).is_empty());
            let (count, last) = self.restarts[side];
            if !lives && last.elapsed() > Duration::from_secs(1) {
                self.restarts[side] = (count + 1, Instant::now());
                let log = peer.log();
                let last = log.lines().last().unwrap_or_default().to_string();
                peer.kill();
                peer.up_without_waiting();
                if count < 3 {
                    self.notes.push(format!("the daemon of {} had ended: {last}", SIDES[side]));
                }
            }
        }
    }

    /// Ends what runs, and looks for what is left and for what was said.
    fn end(&mut self) {
        self.links.iter().for_each(|link| link.swallow(false));
        if self.broken.iter().all(|it| it.promise != Promise::Prepared) {
            self.rest("in the end", 0);
        }
        self.jobs.iter_mut().flat_map(|job| &mut job.clients).for_each(Client::kill);
        self.peers.iter_mut().for_each(stop);
        let until = Instant::now() + Duration::from_secs(5);
        while !rest::living(&self.directory).is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
        let ended = self.broken.iter().all(|it| !matches!(it.promise, Promise::Prepared | Promise::Ends));
        for pid in rest::living(&self.directory) {
            // Jobs that have not ended still have their processes.
            if ended {
                self.note(Promise::NothingLeft, pid.to_string(), rest::words(pid));
            }
            kill_9(pid);
        }
        for path in walkdir::WalkDir::new(&self.directory).into_iter().flatten() {
            let name = path.file_name().to_string_lossy().into_owned();
            if name != "daemon.log" && !name.ends_with(".err") {
                continue;
            }
            let text = fs::read(path.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            for line in text.lines().filter(|line| line.contains("panicked at")) {
                self.note(Promise::NoPanic, name.clone(), line);
            }
        }
    }
}

/// Rounds that failed may be many: segments and the like of more than a MiB do not stay.
fn leave_out_what_is_large(directory: &Path) {
    for found in walkdir::WalkDir::new(directory).into_iter().flatten() {
        if found.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > OLD_MAX) {
            let _ = fs::remove_file(found.path());
        }
    }
}

/// Tells a daemon to end, and waits for that.
pub fn stop(peer: &mut Peer) {
    let Some(pid) = peer.daemon_pid() else { return };
    if !rest::words(pid).is_empty() {
        send(pid, rustix::process::Signal::TERM);
    }
    let until = Instant::now() + Duration::from_secs(10);
    while !rest::words(pid).is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    peer.kill();
}
