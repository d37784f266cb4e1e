//! One round: two homes, jobs in all states, a blow, and what came of it.

use super::choose;
use super::fault::{self, Blow, Ground, Mode, SIDES, Verb};
use super::judge::{self, Broken, Promise, Seen};
use super::lies;
use super::play::{self, Client, Job};
use super::rest;
use super::verbs;
use super::zoo::{self, Before, Ready, Stage};
use crate::homes::{Chance, NETPLUMB, PLUMB, Peer, send};
use crate::link::Link;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a job may take to the state that it is to be in at the blow.
const READY: Duration = Duration::from_secs(90);
/// Of files that are larger no copy is kept.
const OLD_MAX: u64 = 1 << 20;
/// A new job works within this time.
const NEW_JOB: Duration = Duration::from_secs(10);
/// The same where the daemon has to be started anew for it.
const NEW_JOB_ANEW: Duration = Duration::from_secs(60);
/// When our processes are to be at rest after a blow.
const REST_AFTER: Duration = Duration::from_secs(10);

/// What is asked of a round.
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
}

/// What came of a round.
pub struct Report {
    /// The wish's.
    pub seed: u64,
    /// What struck.
    pub blow: Blow,
    /// By which results are counted: for each fault the kind of file and the verb.
    pub kinds: Vec<String>,
    /// What else is worth to know.
    pub notes: Vec<String>,
    /// What was broken.
    pub broken: Vec<Broken>,
    /// What is left of it, if something was broken.
    pub kept: Option<PathBuf>,
    /// How many jobs it had.
    pub jobs: usize,
    /// How long it took.
    pub took: Duration,
}

/// A round on its way.
pub struct Round {
    directory: PathBuf,
    chance: Chance,
    /// The two homes.
    pub peers: [Peer; 2],
    links: Vec<Link>,
    jobs: Vec<Job>,
    ground: Ground,
    moments: usize,
    flows: bool,
    touched: BTreeSet<String>,
    removed: BTreeSet<String>,
    may_rerun: BTreeSet<String>,
    home_wide: bool,
    phases: BTreeMap<String, String>,
    notes: Vec<String>,
    broken: Vec<Broken>,
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
            restarts: [(0, Instant::now()); 2],
        }
    }

    fn note(&mut self, promise: Promise, of: impl Into<String>, seen: impl Into<String>) {
        self.broken.push(Broken { promise, of: of.into(), seen: seen.into() });
    }

    /// Keeps a copy of both spools, from which old files can be put back.
    fn remember(&mut self) {
        let moment = self.directory.join("old").join(self.moments.to_string());
        for side in [0, 1] {
            let to = moment.join(SIDES[side]);
            fs::create_dir_all(&to).expect("a directory");
            for name in ["jobs", "queue", "rqueue", "running", "clock", "hold"] {
                let _ = fault::copy(&self.ground.spools[side].join(name), &to.join(name), OLD_MAX);
            }
        }
        self.moments += 1;
    }

    /// Brings every job where it is to be at the blow.
    fn set_the_stage(&mut self) -> Result<(), String> {
        self.peers.iter_mut().for_each(Peer::up);
        self.begin(Stage::Open);
        std::thread::sleep(Duration::from_millis(150));
        self.remember();
        self.await_ready(&[Stage::Open])?;
        self.remember();
        if self.flows {
            self.just_before()?;
            for stage in [Stage::Delivering, Stage::OneWay, Stage::Asking, Stage::Silent] {
                self.begin(stage);
            }
            std::thread::sleep(self.chance.below_millis(400));
            self.await_ids()?;
        } else {
            self.begin(Stage::Delivering);
            self.until_there("jobs", Stage::Delivering);
            self.links[1].swallow(true);
            self.begin(Stage::OneWay);
            self.await_ready(&[Stage::Delivering, Stage::OneWay])?;
            self.begin(Stage::Asking);
            self.until_there("rqueue", Stage::Asking);
            self.links[0].swallow(true);
            self.remember();
            self.begin(Stage::Silent);
            self.await_ready(&[Stage::Asking, Stage::Silent])?;
            self.just_before()?;
            std::thread::sleep(self.chance.below_millis(1500));
        }
        self.ground.ids = self.jobs.iter().filter_map(|job| Some((job.name().to_string(), job.id.clone()?))).collect();
        Ok(())
    }

    fn begin(&mut self, stage: Stage) {
        for job in self.jobs.iter_mut().filter(|job| job.plan.stage == stage) {
            job.begin(&self.peers);
        }
    }

    /// Waits until the recipient has something of the jobs of a stage, for a moment only: it may have come and gone.
    fn until_there(&mut self, place: &str, stage: Stage) {
        let until = Instant::now() + Duration::from_secs(3);
        for n in 0..self.jobs.len() {
            while self.jobs[n].plan.stage == stage && Instant::now() < until {
                if self.jobs[n].learn_id() && self.jobs[n].at(&self.peers, place, "")[0].exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn await_ids(&mut self) -> Result<(), String> {
        let until = Instant::now() + READY;
        while !self.jobs.iter_mut().map(Job::learn_id).fold(true, |all, known| all && known) {
            if Instant::now() > until {
                return Err("not all jobs have an id".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn await_ready(&mut self, stages: &[Stage]) -> Result<(), String> {
        let until = Instant::now() + READY;
        for n in 0..self.jobs.len() {
            if !stages.contains(&self.jobs[n].plan.stage) {
                continue;
            }
            while !(self.jobs[n].learn_id() && self.is_ready(n)) {
                if Instant::now() > until {
                    let job = &mut self.jobs[n];
                    let said = job.clients[0].said().stderr;
                    let said = String::from_utf8_lossy(&said).into_owned();
                    return Err(format!("{} is not {:?}; id {:?}; {said}", job.name(), job.plan.ready, job.id));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn is_ready(&mut self, n: usize) -> bool {
        let size = |dir: &Path| -> u64 {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
        };
        let job = &mut self.jobs[n];
        match job.plan.ready {
            Ready::Ended => job.clients[0].ended().is_some(),
            Ready::Said(count) => job.clients[0].written() >= count,
            Ready::Ran => job.runs() > 0,
            Ready::Arrived(count) => size(&job.at(&self.peers, "jobs", "/in/1")[0]) >= count,
            Ready::Stored(count) => size(&job.at(&self.peers, "jobs", "/in/2")[1]) >= count,
            Ready::Finished => {
                let logs = job.at(&self.peers, "jobs", "/in")[1].clone();
                let Ok(disk) = spool::atomic::Disk::open(&logs) else { return false };
                ["0", "2", "3"].iter().all(|chan| spool::log::ended_at(&disk, chan).is_ok_and(|end| end.is_some()))
            }
            Ready::Noticed => {
                job.at(&self.peers, "rqueue", "")[0].exists() || job.at(&self.peers, "jobs", "")[0].exists()
            }
            Ready::Queued => job.at(&self.peers, "queue", "")[1].exists(),
        }
    }

    /// What happens to some jobs just before the blow.
    fn just_before(&mut self) -> Result<(), String> {
        for n in 0..self.jobs.len() {
            let job = &mut self.jobs[n];
            let Some(id) = job.id.clone() else { continue };
            match job.plan.before {
                Before::Nothing => {}
                Before::Go => job.go(),
                Before::Cancel => drop(self.peers[job.plan.from].netplumb(&["cancel", &id])),
                Before::Hold if self.flows => {}
                Before::Hold => {
                    let [_, from] = job.at(&self.peers, "queue", "");
                    let [_, to] = job.at(&self.peers, "hold", "");
                    fs::rename(from, to).map_err(|error| format!("{} cannot be held: {error}", job.name()))?;
                }
                Before::Kill => job.clients[0].kill(),
                Before::Attach => {
                    let until = Instant::now() + READY;
                    job.clients[0].end_by(until).ok_or("plumb does not leave its job")?;
                    job.attach(&self.peers);
                    std::thread::sleep(Duration::from_millis(100));
                    job.attach(&self.peers);
                }
            }
        }
        Ok(())
    }

    /// Notes where each job is.
    fn note_phases(&mut self) {
        for side in [0, 1] {
            for place in ["queue", "rqueue", "jobs"] {
                let spool = &self.ground.spools[side];
                for (name, id) in &self.ground.ids {
                    let directory = spool.join(place).join(id);
                    if !directory.exists() {
                        continue;
                    }
                    let mut files = fault::names(&directory);
                    files.retain(|name| !["peer", "message", "in", "out", "why", "priority"].contains(&name.as_str()));
                    files.sort();
                    let text = format!("{} {place}[{}] ", SIDES[side], files.join(" "));
                    self.phases.entry(name.clone()).or_default().push_str(&text);
                }
            }
        }
        let text: String = self.phases.iter().map(|(name, phase)| format!("{name}: {phase}\n")).collect();
        let _ = fs::write(self.directory.join("phases"), text);
    }

    /// Strikes, and opens the links again.
    fn strike(&mut self, wished: Option<&Blow>) -> Blow {
        let blow = wished.cloned().unwrap_or_else(|| choose::blow(&mut self.chance, &self.ground, self.moments));
        let sides: BTreeSet<usize> = blow.faults.iter().map(|fault| fault.side).collect();
        for side in &sides {
            match blow.mode {
                Mode::Live => {}
                Mode::Stopped => stop(&mut self.peers[*side]),
                Mode::Killed | Mode::Crashed => {
                    let peer = &mut self.peers[*side];
                    let verbs = ["service", "loop", "keeper"];
                    let last = if blow.mode == Mode::Crashed { 3 } else { 2 };
                    for pid in verbs[..last].iter().flat_map(|verb| peer.children(verb)) {
                        crate::homes::kill_9(pid);
                    }
                    peer.kill();
                }
            }
        }
        self.note_phases();
        if blow.mode == Mode::Crashed {
            self.shaken(&sides);
        }
        for fault in &blow.faults {
            self.expect_of(fault);
            let struck = self.ground.strike(fault);
            if let (Err(error), Some(_)) = (&struck, wished) {
                self.note(Promise::Prepared, "blow", format!("{fault} cannot be done: {error}"));
            }
            let result =
                struck.map_or_else(|error| format!("{fault}: missed: {error}"), |()| format!("{fault}: struck"));
            self.notes.push(result);
        }
        if blow.mode != Mode::Live {
            sides.iter().for_each(|side| self.peers[*side].up_without_waiting());
        }
        std::thread::sleep(self.chance.below_millis(1500));
        self.links.iter().for_each(|link| link.swallow(false));
        blow
    }

    /// Notes the jobs whose commands are killed with their keepers: their outcome may be "interrupted".
    fn shaken(&mut self, sides: &BTreeSet<usize>) {
        for job in self.jobs.iter().filter(|job| sides.contains(&(1 - job.plan.from))) {
            let at = |mark: &str| job.at(&self.peers, "jobs", mark)[0].exists();
            if at("/run.started") && !at("/over") {
                self.touched.extend(job.id.clone());
            }
        }
    }

    /// Notes what a fault may do before it does so.
    fn expect_of(&mut self, fault: &fault::Fault) {
        let ids = self.ground.touched(fault);
        let parts = self.ground.below(fault.side, &fault.path).iter().count();
        self.home_wide |= ids.is_empty() || parts < 2;
        for id in ids {
            let job = self.jobs.iter().find(|job| job.id.as_deref() == Some(&id));
            let takes_all = parts <= 2
                && matches!(
                    fault.verb,
                    Verb::Delete | Verb::Empty | Verb::Swap(_) | Verb::Become(_) | Verb::Old(_) | Verb::Mode
                );
            let in_jobs = self.ground.below(fault.side, &fault.path).starts_with("jobs");
            if let Some(job) = job.filter(|_| takes_all) {
                let is_sender = job.plan.from == fault.side;
                if is_sender && in_jobs {
                    self.removed.insert(id.clone());
                }
                let acked = job.at(&self.peers, "jobs", "/acked")[0].exists();
                // Documented in doc/SPOOL.md#by-hand: a recipient that lost a job before `acked`
                // receives it again, and one that got an old copy of it may run it again.
                if !is_sender && in_jobs && (!acked || matches!(fault.verb, Verb::Old(_))) {
                    self.may_rerun.insert(id.clone());
                }
            }
            self.touched.insert(id);
        }
    }

    /// New jobs, verbs and rest, while the jobs that were there wait for us.
    fn look_after_the_blow(&mut self, blow: &Blow) {
        let struck_at = Instant::now();
        self.new_jobs(0);
        self.keep_up();
        let (broken, asked) = verbs::all(&self.peers, &self.ground, blow, &self.directory.join("verbs"));
        self.broken.extend(broken);
        self.notes.push(format!("{asked} verbs"));
        let restless = REST_AFTER.saturating_sub(struck_at.elapsed());
        std::thread::sleep(restless);
        self.rest("after the blow", self.jobs.len());
    }

    fn rest(&mut self, when: &str, open_jobs: usize) {
        match rest::comes_to_rest(&self.directory, open_jobs, Duration::from_secs(20)) {
            Ok(used) => self.notes.push(format!("{when} {:.1} % of a processor", used / 10.0)),
            Err(what) => self.note(Promise::Rest, when, what),
        }
    }

    /// A new job in each direction, at the same time.
    fn new_jobs(&mut self, time: usize) {
        let started = Instant::now();
        let begin = |from: usize| {
            let to = self.peers[1 - from].name;
            let mut command = self.peers[from].command(PLUMB);
            let word = format!("new-{time}-{from}");
            command.args([to, &format!("cat; echo {word}")]).stdin(Stdio::null());
            Client::start(&word, command, self.directory.join("work").join(&word), true)
        };
        let mut clients = [begin(0), begin(1)];
        let mut anew = false;
        while clients.iter_mut().any(|client| client.ended().is_none()) && started.elapsed() < NEW_JOB_ANEW {
            if started.elapsed() > NEW_JOB && self.home_wide && !anew {
                anew = true;
                for peer in &mut self.peers {
                    stop(peer);
                    peer.up_without_waiting();
                }
            }
            self.keep_up();
            std::thread::sleep(Duration::from_millis(20));
        }
        for mut client in clients {
            let (word, ended) = (client.label.clone(), client.ended());
            client.kill();
            let said = client.said();
            let text = String::from_utf8_lossy(&said.stderr).trim_end().to_string();
            let good = |ended: &play::Ended| ended.status == 0 && said.stdout == format!("{word}\n").into_bytes();
            match ended {
                Some(ended) if good(&ended) && ended.took > NEW_JOB && !anew => {
                    self.note(Promise::NewJob, word, format!("late: {:.1} s; {text}", ended.took.as_secs_f64()));
                }
                Some(ended) if good(&ended) => {
                    let how = if ended.took > NEW_JOB { ", with new daemons" } else { "" };
                    self.notes.push(format!("{word} {:.1} s{how}", ended.took.as_secs_f64()));
                }
                Some(ended) => self.note(Promise::NewJob, word, format!("status {}: {text}", ended.status)),
                None => self.note(Promise::NewJob, word, format!("not within {NEW_JOB_ANEW:?}; {text}")),
            }
        }
    }

    /// Starts a daemon that has ended by itself, as a supervisor would.
    fn keep_up(&mut self) {
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

    /// Lets every job come to its end, and waits for that.
    fn let_end(&mut self) {
        let deadline = Instant::now() + judge::patience();
        for job in &mut self.jobs {
            job.release();
            if job.plan.before == Before::Hold {
                let ([_, held], [_, queued]) = (job.at(&self.peers, "hold", ""), job.at(&self.peers, "queue", ""));
                let _ = fs::rename(held, queued);
            }
        }
        let (mut waits, mut attached) = (BTreeMap::new(), BTreeSet::new());
        while Instant::now() < deadline && !self.all_ended(&mut waits, &mut attached) {
            self.keep_up();
            std::thread::sleep(Duration::from_millis(50));
        }
        let waited = waits.into_iter().map(|(n, mut client): (usize, Client)| {
            let ended = client.ended();
            client.kill();
            (n, ended, client.said())
        });
        for (n, ended, said) in waited.collect::<Vec<_>>() {
            self.judge_wait(n, ended.map(|ended| ended.status), &said);
        }
        let rows = loop {
            let rows = self.unfinished();
            if rows.is_empty() || Instant::now() > deadline {
                break rows;
            }
            self.keep_up();
            std::thread::sleep(Duration::from_millis(500));
        };
        for (side, id, what) in rows {
            let name = self.name_of(&id);
            self.note(Promise::Ends, format!("{name} at {}", SIDES[side]), what);
        }
        for (side, row) in self.rows() {
            let job = self.jobs.iter().find(|job| job.id.as_deref() == row["id"].as_str());
            let Some((name, lie)) = job.and_then(|job| Some((job.name(), judge::lies(&row, job.runs())?))) else {
                continue;
            };
            self.note(lie.0, format!("{name} at {}", SIDES[side]), lie.1);
        }
    }

    /// All that `netplumb jobs --all --json` says, with the side that says it.
    fn rows(&self) -> Vec<(usize, serde_json::Value)> {
        let of_side = |side: usize| {
            let files = self.directory.join("verbs").join(format!("rows-{}", SIDES[side]));
            let (_, said) = play::verb(&self.peers[side], &["jobs", "--all", "--json"], files, Duration::from_secs(10));
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            let rows = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            rows.map(|row| (side, row)).collect::<Vec<_>>()
        };
        [of_side(0), of_side(1)].concat()
    }

    /// Have all `plumb`s ended? Jobs that were left are waited for, and then attached to.
    fn all_ended(&mut self, waits: &mut BTreeMap<usize, Client>, attached: &mut BTreeSet<usize>) -> bool {
        let mut all = true;
        for n in 0..self.jobs.len() {
            let job = &mut self.jobs[n];
            let ended = job.clients.iter_mut().fold(true, |all, client| client.ended().is_some() && all);
            all &= ended;
            let (true, Some(id)) = (job.plan.is_left() && job.clients.len() == 1 && ended, job.id.clone()) else {
                continue;
            };
            let (peer, files) = (&self.peers[job.plan.from], self.directory.join("verbs").join(format!("wait-{n}")));
            let wait = waits.entry(n).or_insert_with(|| {
                let mut command = peer.command(NETPLUMB);
                command.args(["wait", &id]).stdin(Stdio::null());
                Client::start("wait", command, files, true)
            });
            all = false;
            if wait.ended().is_some() && attached.insert(n) {
                job.attach(&self.peers);
            }
        }
        all
    }

    fn name_of(&self, id: &str) -> String {
        let job = self.jobs.iter().find(|job| job.id.as_deref() == Some(id));
        job.map_or_else(|| format!("unknown {id}"), |job| job.name().to_string())
    }

    /// What is not at its end on either side.
    fn unfinished(&self) -> Vec<(usize, String, String)> {
        let mut rows = Vec::new();
        for side in [0, 1] {
            for words in [&["jobs", "--all", "--json"][..], &["queue", "--json"]] {
                let files = self.directory.join("verbs").join(format!("last-{}-{}", words[0], SIDES[side]));
                let (ended, said) = play::verb(&self.peers[side], words, files, Duration::from_secs(10));
                let text = String::from_utf8_lossy(&said.stdout).into_owned();
                if ended.is_none_or(|ended| ended.status != 0) {
                    rows.push((side, words[0].into(), format!("netplumb {}: {ended:?} {text}", words[0])));
                }
                let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
                for row in lines.filter(|row| row["id"].is_string()) {
                    let id = row["id"].as_str().unwrap_or_default().to_string();
                    let job = self.jobs.iter().find(|job| job.id.as_deref() == Some(&id));
                    let kept = job.is_some_and(|job| {
                        job.plan.is_left() || job.plan.before == Before::Kill || self.touched.contains(&id)
                    });
                    let what = match words[0] {
                        "queue" => Some(format!("in a queue: {row}")),
                        _ => judge::row(&row, kept),
                    };
                    rows.extend(what.map(|what| (side, id, what)));
                }
            }
        }
        rows
    }

    fn judge_wait(&mut self, n: usize, status: Option<i32>, said: &play::Said) {
        let job = &self.jobs[n];
        let (name, runs) = (job.name(), job.runs());
        let zoo::Expect::Exit(right, ..) = job.plan.expect else { return };
        let id = job.id.clone().unwrap_or_default();
        let touched = self.touched.contains(&id);
        let text = format!("netplumb wait: {status:?}: {}", String::from_utf8_lossy(&said.stderr).trim_end());
        let attached = self.jobs[n].clients.get_mut(1).and_then(|client| {
            let status = client.ended()?.status;
            Some(judge::reason(&client.said().stderr).map_or(status, |(_, number)| number))
        });
        if let (Some(waited), Some(attached)) = (status, attached)
            && !judge::agree(waited, attached)
        {
            self.note(Promise::Agree, name, format!("netplumb wait: {waited}, plumb -attach: {attached}"));
        }
        match status {
            None => self.note(Promise::Ends, name, text),
            Some(status) if status == right => {}
            Some(_) if !touched => self.note(Promise::Unharmed, name, text),
            Some(66) if !self.removed.contains(&id) => self.note(Promise::NotForgotten, name, text),
            Some(75 | 77) if runs > 0 => {
                self.note(Promise::TrueNotStarted, name, format!("{text}; it ran {runs} times"))
            }
            Some(66 | 74 | 75 | 76 | 77) => {}
            Some(_) => self.note(Promise::TrueStatus, name, format!("{text} for {right}")),
        }
    }

    /// Judges what every `plumb` gave, and how often commands ran.
    fn judge(&mut self) {
        let mut broken = Vec::new();
        for job in &mut self.jobs {
            let (name, id, runs) = (job.name(), job.id.clone().unwrap_or_default(), job.runs());
            let (touched, removed) = (self.touched.contains(&id), self.removed.contains(&id));
            if let Some(what) = judge::runs(runs, job.plan.may_repeat()) {
                if self.may_rerun.contains(&id) {
                    self.notes.push(format!("{name}: {what}, which is documented"));
                } else {
                    broken.push(Broken { promise: Promise::Once, of: name.into(), seen: what });
                }
            }
            // One that only left its job has done its part; one that was killed says nothing.
            let skipped = usize::from(job.plan.is_left() || job.plan.before == Before::Kill);
            for client in job.clients.iter_mut().skip(skipped) {
                let status = client.ended().map(|ended| ended.status);
                client.kill();
                let said = client.said();
                let (stdout, stderr) = (said.stdout.as_slice(), said.stderr.as_slice());
                let seen = Seen { status, stdout, stderr, runs, touched, removed };
                for (promise, seen) in judge::plumb(&job.plan.expect, &seen) {
                    broken.push(Broken { promise, of: client.label.clone(), seen });
                }
            }
        }
        let worked = self.broken.iter().all(|it| it.promise != Promise::NewJob);
        self.broken.extend(broken);
        if worked {
            self.new_jobs(1);
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
            // What has not ended has its processes.
            if ended {
                self.note(Promise::NothingLeft, pid.to_string(), rest::words(pid));
            }
            crate::homes::kill_9(pid);
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
fn stop(peer: &mut Peer) {
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

/// Is a second daemon turned away, as long as the first one runs?
pub fn second_daemon_is_turned_away(peer: &Peer, files: PathBuf) -> Result<(), String> {
    let (ended, said) = play::verb(peer, &["daemon"], files, Duration::from_secs(3));
    match ended {
        Some(_) => Ok(()),
        None => Err(format!("a second daemon runs: {}", String::from_utf8_lossy(&said.stderr))),
    }
}
