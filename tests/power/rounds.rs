//! A run of power cuts: the test begins jobs, asks for them, attaches to them and
//! cancels some, and cuts the power. After some cuts everything must come to rest,
//! and the jobs are judged.

use super::promise::Struck;
use super::site::{Site, cut};
use crate::homes::{Chance, PLUMB};
use crate::image::{Kind, Loss};
use crate::tracked::{Job, Plan, Told};
use std::collections::BTreeMap;
use std::fmt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The number of cuts between two rests, so that jobs live through several.
const CUTS_BEFORE_REST: usize = 8;

/// A job that has ended and is still there after so many attaches counts as never forgotten.
const TAKERS: usize = 30;

/// The figures of a run.
#[derive(Default)]
pub struct Tally {
    pub cuts: usize,
    jobs: usize,
    left: usize,
    attached: usize,
    cancelled: usize,
    again: usize,
    slowest_rest: Duration,
    ends: BTreeMap<String, usize>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Tally { cuts, jobs, left, attached, cancelled, again, slowest_rest, ends } = self;
        write!(
            f,
            "{cuts} cuts, {jobs} jobs ({left} left, {attached} attached to, {cancelled} cancelled, {again} run again), "
        )?;
        write!(f, "at rest within {:.0} s; ends: {ends:?}", slowest_rest.as_secs_f64())
    }
}

/// Two sides, and the jobs between them.
pub struct Run {
    /// The broken promises, with the evidence.
    pub broken: Vec<String>,
    pub tally: Tally,
    /// Has it failed to come to rest? Further cuts would say nothing more.
    pub is_stuck: bool,
    jobs: Vec<Struck>,
    a: Site,
    b: Site,
    chance: Chance,
    since_rest: usize,
    patience: Duration,
    // Declared after the sites, which write their logs into it until they are dropped.
    outside: tempfile::TempDir,
}

impl Run {
    /// Starts two peers, each on an image of its own. They must come to rest within `patience`. `None`, with the
    /// reason printed, where no image can be made.
    pub fn begin(kind: Kind, chance: Chance, patience: Duration) -> Option<Run> {
        let outside = tempfile::tempdir().expect("a directory");
        let (mut a, mut b) = (Site::new("a", kind, outside.path())?, Site::new("b", kind, outside.path())?);
        a.peer.knows(&b.peer, &b.peer.address);
        b.peer.knows(&a.peer, &a.peer.address);
        for site in [&mut a, &mut b] {
            site.image.switch().sync();
            site.peer.up();
        }
        let (broken, jobs, tally) = (Vec::new(), Vec::new(), Tally::default());
        Some(Run { broken, tally, is_stuck: false, jobs, a, b, chance, since_rest: 0, patience, outside })
    }

    /// Have there been enough cuts since the last rest?
    pub fn is_time_to_rest(&self) -> bool {
        self.since_rest >= CUTS_BEFORE_REST
    }

    /// Begins some jobs, waits for some time, cuts the power of one side or both, and brings it back.
    pub fn cut(&mut self) {
        for _ in 0..2 + self.chance.below(4) {
            self.begin_job();
        }
        let delay = match self.chance.below(4) {
            0 => self.chance.below_millis(200),
            _ => self.chance.below_millis(2000),
        };
        let half = Instant::now() + delay / 2;
        std::thread::sleep(delay / 2);
        self.ask_and_attach();
        if self.chance.below(4) == 0 {
            // The system itself writes back from time to time.
            [&self.a, &self.b][self.chance.below(2) as usize].image.switch().sync();
        }
        std::thread::sleep(delay.saturating_sub(half.elapsed()));
        let (sender, recipient) = [(true, false), (false, true), (true, true)][self.chance.below(3) as usize];
        let loss = if self.chance.below(3) == 0 { Loss::Contents } else { Loss::Everything };
        self.strike(sender, recipient, loss);
        self.check_what_was_left();
        for site in [&mut self.a, &mut self.b] {
            if site.peer.daemon_pid().is_none() {
                site.peer.up();
            }
        }
    }

    fn begin_job(&mut self) {
        let traces = self.outside.path().join(format!("job-{}", self.tally.jobs));
        let plan = Plan::any(&mut self.chance);
        self.tally.jobs += 1;
        self.tally.left += usize::from(plan.left);
        self.jobs.push(Struck::new(Job::begin(&self.a.peer, plan, traces)));
    }

    /// Of the jobs that were left, cancels some, asks how some have ended, and attaches to some.
    fn ask_and_attach(&mut self) {
        for job in &mut self.jobs {
            job.collect();
            if !job.is_wanted() {
                continue;
            }
            if self.chance.below(12) == 0 {
                self.tally.cancelled += 1;
                job.cancel(&self.a.peer);
            }
            if self.chance.below(3) == 0 {
                job.ask(&self.a.peer);
            }
            if self.chance.below(3) == 0 {
                self.tally.attached += 1;
                job.attach(&self.a.peer, self.chance.below(3) == 0);
            }
        }
    }

    fn strike(&mut self, sender: bool, recipient: bool, loss: Loss) {
        let mut sites = Vec::new();
        sites.extend(sender.then_some(&mut self.a));
        sites.extend(recipient.then_some(&mut self.b));
        cut(&mut sites, loss);
        self.tally.cuts += 1;
        self.since_rest += 1;
        for job in &mut self.jobs {
            let number = self.tally.cuts;
            job.note(format!("cut {number} of sender: {sender}, of recipient: {recipient}, lost: {loss:?}"));
            job.strike(sender, recipient);
        }
    }

    /// Looks, before a daemon runs again, for each job whose id was printed.
    fn check_what_was_left(&mut self) {
        let mut lost = Vec::new();
        for job in &mut self.jobs {
            job.collect();
            if job.is_missed(&self.a.peer) {
                lost.push((job.id.clone().unwrap_or_default(), format!("{:#?}", job.events)));
            }
        }
        for (id, events) in lost {
            self.report(&id, format!("its id was printed, and it is gone after a power cut\n{events}"));
        }
    }

    /// Attaches to all jobs that wait for it, waits until nothing moves any more, and judges the jobs.
    pub fn rest(&mut self) {
        let began = Instant::now();
        self.since_rest = 0;
        let mut strays = Vec::new();
        while let Some(what) = self.moves(&mut strays) {
            if began.elapsed() > self.patience {
                self.broken.push(format!("not at rest after {:?}: {what}", self.patience));
                self.is_stuck = true;
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        for (_, mut plumb) in strays {
            let _ = plumb.kill().and_then(|()| plumb.wait());
        }
        self.tally.slowest_rest = self.tally.slowest_rest.max(began.elapsed());
        self.judge();
    }

    /// Names something that still moves, if anything does. Attaches to jobs that wait for it.
    fn moves(&mut self, strays: &mut Vec<(String, Child)>) -> Option<String> {
        let mut moving = None;
        for job in &mut self.jobs {
            if job.is_wanted() {
                job.attach(&self.a.peer, false);
            }
            if !job.collect() || job.is_wanted() {
                moving = Some(format!("plumb of job {:?}: {:#?}", job.id, job.events));
            }
        }
        moving.or_else(|| self.take_up_what_nobody_waits_for(strays)).or_else(|| {
            let at = |site: &Site| site.unrest().map(|what| format!("{what} at {}", site.peer.name));
            at(&self.a).or_else(|| at(&self.b))
        })
    }

    /// Attaches to jobs that have lost their `plumb`: they keep output or end until somebody does.
    fn take_up_what_nobody_waits_for(&mut self, strays: &mut Vec<(String, Child)>) -> Option<String> {
        let mut running = Vec::new();
        for (id, plumb) in &mut *strays {
            if plumb.try_wait().expect("it is ours").is_none() {
                running.push(id.clone());
            }
        }
        for row in self.a.jobs() {
            let id = row["id"].as_str().unwrap_or_default().to_string();
            let rests = row["detached"] == true || row["phase"] == "ended" || row["phase"] == "done";
            if row["plumb"] == true || !rests || running.contains(&id) {
                continue;
            }
            if strays.iter().filter(|(stray, _)| *stray == id).count() > TAKERS {
                let taken = format!("{TAKERS} have attached to it and ended, and it is not forgotten: {row}");
                self.report(&id, taken);
                self.a.peer.netplumb(&["cancel", &id]);
                strays.retain(|(stray, _)| *stray != id);
                continue;
            }
            match self.owner(&id) {
                Some(at) if self.jobs[at].told.is_none() && self.jobs[at].plumb().is_none() => {
                    self.jobs[at].id = Some(id);
                    self.jobs[at].attach(&self.a.peer, false);
                }
                _ => {
                    let mut command = self.a.peer.command(PLUMB);
                    command.args(["-n", &format!("-attach={id}")]).stdin(Stdio::null());
                    let plumb = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("plumb starts");
                    strays.push((id, plumb));
                }
            }
        }
        (!running.is_empty()).then(|| format!("a plumb that takes what nobody waits for: {running:?}"))
    }

    /// Finds the job with this id: by the id itself, a trace of a run, or the command that `show` prints.
    fn owner(&self, id: &str) -> Option<usize> {
        let known = |job: &Struck| job.id.as_deref() == Some(id) || job.runs().iter().any(|run| run == id);
        self.jobs.iter().position(known).or_else(|| {
            let shown = [&self.a, &self.b].map(|site| site.peer.netplumb(&["show", id]).text()).concat();
            self.jobs.iter().position(|job| shown.contains(&format!("cd {} ", job.traces.display())))
        })
    }

    /// Checks the promises of every job, and forgets the jobs.
    fn judge(&mut self) {
        let tombstones: BTreeMap<String, String> = self.b.outcomes();
        for mut job in std::mem::take(&mut self.jobs) {
            job.collect();
            self.tally.again += job.runs().len().saturating_sub(1);
            let end = job.told.as_ref().map_or("nothing told".into(), Told::to_string);
            *self.tally.ends.entry(end).or_default() += 1;
            let mut broken = job.broken();
            for id in job.runs().iter().take(1) {
                broken.extend(job.contradiction(tombstones.get(id).map(String::as_str)));
            }
            let id = job.runs().first().or(job.id.as_ref()).cloned().unwrap_or_default();
            for what in broken {
                self.report(&id, format!("{what}\n{:#?}", job.events));
            }
            let _ = std::fs::remove_dir_all(&job.traces);
        }
        for site in [&self.a, &self.b] {
            let (name, said) = (site.peer.name, site.news());
            let wrong = site.peer.spool("sick").exists() || !site.peer.ids("notices").is_empty();
            if wrong || said.contains("panicked") {
                self.broken.push(format!("{name} has panicked, is sick, or has notices:\n{said}"));
            }
        }
    }

    /// Notes a broken promise, with what both sides know of its job.
    fn report(&mut self, id: &str, what: String) {
        let mut text = format!("cut {}: job {id}: {what}", self.tally.cuts);
        for site in [&self.a, &self.b].into_iter().filter(|_| !id.is_empty()) {
            let said = site.peer.log();
            let said: Vec<&str> = said.lines().filter(|line| line.contains(id)).collect();
            let shown = site.peer.netplumb(&["show", id]).text();
            text += &format!("\n--- {}:\n{}\n{shown}", site.peer.name, said.join("\n"));
        }
        self.broken.push(text);
    }
}
