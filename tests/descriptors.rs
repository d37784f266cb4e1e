//! Too few descriptors are a shortage and no loss: a job that cannot get one
//! waits, says why, and goes on when there are more. These tests limit the
//! daemon of one side with all its children, `plumb`, or a verb of `netplumb`.

use crate::homes::{Chance, NETPLUMB, PLUMB, Peer, pair, run, seed, wait_until};
use crate::tracked::{Class, Input, Job, Plan, Text, Told};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

/// When no job has ended for this long, the remaining jobs are taken to wait for descriptors.
const QUIET: Duration = Duration::from_secs(8);
/// A job that waits shows its cause within this time.
const TELLING: Duration = Duration::from_secs(12);
/// All jobs end within this time after the limit is raised.
const PATIENCE: Duration = Duration::from_secs(60);
/// More descriptors than these tests need.
const ENOUGH: u64 = 4096;

/// The process whose descriptors are limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Few {
    Sender,
    Recipient,
    Plumb,
}

/// Many jobs at once between two homes, and the faults that were found.
struct Crowd {
    jobs: Vec<Job>,
    few: Few,
    broken: Vec<String>,
    /// The causes that waiting jobs showed, with the number of jobs.
    causes: BTreeMap<String, usize>,
    /// Causes that blame something other than the shortage.
    misleading: BTreeSet<String>,
    a: Peer,
    b: Peer,
    outside: tempfile::TempDir,
}

impl Crowd {
    fn begin(few: Few, descriptors: u64) -> Crowd {
        let (mut a, mut b) = pair();
        // Of two limits only one is the matter.
        b.quota(&a, "jobs = 1000");
        for (peer, side) in [(&mut a, Few::Sender), (&mut b, Few::Recipient)] {
            match few == side {
                true => peer.up_as(peer.command_with_descriptors(NETPLUMB, descriptors, descriptors)),
                false => peer.up(),
            }
        }
        let outside = tempfile::tempdir().expect("a directory");
        let (causes, misleading) = (BTreeMap::new(), BTreeSet::new());
        Crowd { jobs: Vec::new(), few, broken: Vec::new(), causes, misleading, a, b, outside }
    }

    /// Begins `count` jobs at once.
    fn come(&mut self, count: usize, descriptors: u64, chance: &mut Chance) {
        for number in 0..count {
            let command = match self.few {
                Few::Plumb => self.a.command_with_descriptors(PLUMB, descriptors, ENOUGH),
                Few::Sender | Few::Recipient => self.a.command(PLUMB),
            };
            let traces = self.outside.path().join(format!("job-{number}"));
            self.jobs.push(Job::begin_by(command, plan(number, chance), traces));
        }
    }

    /// Waits until all of these jobs have ended, or none has ended for `patience`; attaches to those that were
    /// left. Gives the number that has not ended.
    fn run(&mut self, patience: Duration, of: impl Fn(&Job) -> bool) -> usize {
        let (mut left, mut since) = (usize::MAX, Instant::now());
        loop {
            let mut waiting = 0;
            for job in self.jobs.iter_mut().filter(|job| of(job)) {
                let ended = job.collect();
                if ended && job.left && job.told.is_none() {
                    job.attach(&self.a, false);
                }
                waiting += usize::from(job.told.is_none());
            }
            if waiting < left {
                (left, since) = (waiting, Instant::now());
            }
            if waiting == 0 || since.elapsed() > patience {
                return waiting;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Checks that each job that stands still shows a cause, and that at least one cause names descriptors.
    fn all_say_why(&mut self, of: impl Fn(&Job) -> bool) {
        let began = Instant::now();
        let waiting = self.waiting(&of);
        let ids = self.ids_of(&waiting);
        let size = |crowd: &Crowd, at: usize| (crowd.jobs[at].heard(), ids.get(&at).map(|id| crowd.size(id)));
        let sizes: BTreeMap<usize, _> = waiting.iter().map(|at| (*at, size(self, *at))).collect();
        let (mut silent, mut is_named) = (waiting, false);
        while !(silent.is_empty() && is_named) && began.elapsed() < TELLING {
            let still = self.waiting(&of);
            silent.retain(|at| still.contains(at));
            if still.is_empty() {
                return;
            }
            for at in still.into_iter().filter(|at| sizes.contains_key(at)) {
                let causes = self.causes_of(at, ids.get(&at));
                is_named |= causes.iter().any(|cause| names_descriptors(cause));
                if let Some(cause) = causes.first().filter(|_| silent.remove(&at)) {
                    *self.causes.entry(cause.chars().take(80).collect()).or_default() += 1;
                }
                let false_cause = causes.into_iter().find(|cause| misleads(cause));
                self.misleading.extend(false_cause);
            }
        }
        let mut stuck = self.waiting(&of);
        stuck.retain(|at| sizes.get(at) == Some(&size(self, *at)));
        for at in silent.intersection(&stuck) {
            self.broken.push(format!("stands still and nobody says why: {:#?}", self.jobs[*at].events));
        }
        if !is_named && !stuck.is_empty() {
            self.broken.push(format!("jobs wait, and nobody says that descriptors are few: {:?}", self.causes));
        }
    }

    /// The jobs, of these, that have not ended.
    fn waiting(&mut self, of: &impl Fn(&Job) -> bool) -> BTreeSet<usize> {
        let mut waiting = BTreeSet::new();
        for (at, job) in self.jobs.iter_mut().enumerate().filter(|(_, job)| of(job)) {
            job.collect();
            if job.told.is_none() {
                waiting.insert(at);
            }
        }
        waiting
    }

    /// The ids of these jobs, as far as a trace of a run or `netplumb show` tells them.
    fn ids_of(&self, wanted: &BTreeSet<usize>) -> BTreeMap<usize, String> {
        let mut found = BTreeMap::new();
        let places = [(&self.a, "queue"), (&self.a, "jobs"), (&self.b, "rqueue"), (&self.b, "jobs")];
        let ids: BTreeSet<String> = places.iter().flat_map(|(peer, place)| peer.ids(place)).collect();
        for id in ids {
            let is_known = |job: &Job| job.id.as_ref() == Some(&id) || job.runs().first() == Some(&id);
            let at = wanted.iter().find(|at| is_known(&self.jobs[**at])).or_else(|| {
                let shown = self.both(&["show", &id]).concat();
                wanted.iter().find(|at| shown.contains(&format!("cd {} ", self.jobs[**at].traces.display())))
            });
            found.extend(at.map(|at| (*at, id.clone())));
        }
        found
    }

    /// The output of a verb on both sides.
    fn both(&self, words: &[&str]) -> [String; 2] {
        [&self.a, &self.b].map(|peer| peer.netplumb(words).text())
    }

    /// The bytes that both sides store of a job.
    fn size(&self, id: &str) -> u64 {
        let dirs = [&self.a, &self.b].map(|peer| ["queue", "rqueue", "jobs"].map(|place| peer.spool(place).join(id)));
        let files = dirs.iter().flatten().flat_map(|dir| walkdir::WalkDir::new(dir).into_iter().flatten());
        files.filter_map(|file| file.metadata().ok()).filter(|it| it.is_file()).map(|it| it.len()).sum()
    }

    /// The causes of a job's wait, as `plumb`'s own lines and `why` and `jobs` of both sides show them.
    fn causes_of(&self, at: usize, id: Option<&String>) -> Vec<String> {
        let said = self.jobs[at].said();
        let mut causes: Vec<String> =
            said.lines().filter_map(|line| line.strip_prefix("plumb: b: ").map(str::to_string)).collect();
        let Some(id) = id else { return causes };
        let lines = [self.both(&["why", "--json", id]), self.both(&["jobs", "--json"])].concat();
        for row in lines.iter().flat_map(|text| text.lines()) {
            let row: serde_json::Value = serde_json::from_str(row).expect("JSON");
            let texts = ["cause", "last_error", "error"].map(|name| row[name].as_str().unwrap_or_default());
            let text = texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
            if row["id"] == **id && !text.is_empty() {
                causes.push(text);
            }
        }
        causes
    }

    /// Raises the limit: of each `plumb` while it runs, of a daemon by another start, for that may need a right
    /// that nobody here has.
    fn raise(&mut self) {
        let raised = Rlimit { current: Some(ENOUGH), maximum: Some(ENOUGH) };
        match self.few {
            Few::Plumb => {
                let pids = self.jobs.iter().filter_map(Job::plumb).filter_map(|pid| Pid::from_raw(pid as i32));
                pids.for_each(|pid| {
                    let _ = prlimit(Some(pid), Resource::Nofile, raised.clone());
                });
            }
            Few::Sender | Few::Recipient => {
                let peer = if self.few == Few::Sender { &mut self.a } else { &mut self.b };
                peer.kill();
                peer.up();
            }
        }
    }

    /// Waits until both sides are at rest, then notes each job that did not end as its plan says.
    fn judge(&mut self) {
        let began = Instant::now();
        let rests = |peer: &Peer| ["queue", "rqueue", "running"].iter().all(|place| peer.ids(place).is_empty());
        while !(rests(&self.a) && rests(&self.b) && self.a.ids("jobs").is_empty()) {
            if began.elapsed() > PATIENCE {
                self.broken.push(format!("no rest: {:?} at a, {:?} at b", self.a.ids("jobs"), self.b.ids("running")));
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for job in &self.jobs {
            let mut broken = job.broken();
            match &job.told {
                Some(Told::Status(_)) => {}
                Some(Told::Reason(reason)) if self.few == Few::Plumb && may_give_up(reason, job) => {}
                told => broken.push(format!("its end: {told:?}")),
            }
            self.broken.extend(broken.iter().map(|what| format!("{what}: {:#?}", job.events)));
        }
        let misleading = std::mem::take(&mut self.misleading).into_iter();
        self.broken.extend(misleading.map(|cause| format!("a shortage is called by another name: {cause}")));
        for peer in [&self.a, &self.b] {
            let said = peer.log();
            if peer.spool("sick").exists() || !peer.ids("notices").is_empty() || said.contains("panicked") {
                self.broken.push(format!("{} has panicked, is sick, or has notices", peer.name));
            }
        }
    }
}

/// A `plumb` that had too few descriptors to begin may end with one of these reasons, if its command never ran.
fn may_give_up(reason: &str, job: &Job) -> bool {
    ["not-started", "disk", "config"].contains(&reason) && job.runs().is_empty()
}

fn names_descriptors(cause: &str) -> bool {
    let cause = cause.to_lowercase();
    cause.contains("descriptor") || cause.contains("open files")
}

/// Does this cause blame the peer or a file?
fn misleads(cause: &str) -> bool {
    ["unauthentic", "no_peer", "does not know us", "damaged", "sick"].iter().any(|word| cause.contains(word))
}

/// The plan of the n-th job: small, large both ways, waiting for its input, left with `-detach`, or batch.
fn plan(number: usize, chance: &mut Chance) -> Plan {
    let plain = Plan {
        class: Class::Plain,
        text: Text::Echo,
        input: Input::Paced(Duration::ZERO),
        left: false,
        zipped: false,
        size: chance.below(5000) as usize,
        pause: Duration::ZERO,
        status: 0,
    };
    let large = (1 << 20) + chance.below(3 << 20) as usize;
    match number % 6 {
        0 => plain,
        1 => Plan { size: large, zipped: chance.below(2) == 0, ..plain },
        2 => Plan { input: Input::Held, size: large / 8, status: 3, ..plain },
        3 => Plan { left: true, size: large / 2, pause: Duration::from_secs(2), ..plain },
        4 => Plan { left: true, text: Text::Source, size: large, status: 42, ..plain },
        _ => {
            let class = [Class::Batch, Class::Repeat][chance.below(2) as usize];
            Plan { class, text: Text::Sink, input: Input::From(Duration::ZERO), size: large, ..plain }
        }
    }
}

/// Runs `count` jobs at once under this limit, then raises the limit; gives the faults that it found.
fn crowd(few: Few, descriptors: u64, count: usize, chance: &mut Chance) -> Vec<String> {
    let began = Instant::now();
    let mut crowd = Crowd::begin(few, descriptors);
    crowd.come(count, descriptors, chance);
    let is_held = |job: &Job| job.plan.input == Input::Held;
    let mut late = crowd.run(QUIET, |job| !is_held(job));
    crowd.all_say_why(|job| !is_held(job));
    crowd.jobs.iter_mut().for_each(Job::release);
    late = late.max(crowd.run(QUIET, |_| true));
    crowd.all_say_why(|_| true);
    let (limited, raised) = (began.elapsed(), Instant::now());
    let mut hung = crowd.waiting(&|_| true).len();
    if hung > 0 {
        crowd.raise();
    }
    while hung > 0 && raised.elapsed() < PATIENCE {
        hung = crowd.run(Duration::ZERO, |_| true);
    }
    let wrong = |job: &&Job| job.told.as_ref().is_some_and(|told| *told != Told::Status(job.plan.status));
    let wrong = crowd.jobs.iter().filter(wrong).count();
    crowd.judge();
    println!(
        "{few:?}, {descriptors} descriptors, {count} jobs: {late} waited, for {:?}; {wrong} ended wrong; \
         {hung} hung when there were enough; {:.0} s, and {:.0} s then; {} findings",
        crowd.causes,
        limited.as_secs_f64(),
        raised.elapsed().as_secs_f64(),
        crowd.broken.len()
    );
    crowd.broken
}

fn nothing_is_broken(broken: &[String]) {
    broken.iter().for_each(|what| println!("{what}"));
    assert!(broken.is_empty(), "{} findings, see above", broken.len());
}

#[test]
fn a_recipient_with_few_descriptors_lets_jobs_wait_and_loses_none() {
    let mut chance = Chance(seed("a_recipient_with_few_descriptors"));
    nothing_is_broken(&crowd(Few::Recipient, 64, 30, &mut chance));
}

#[test]
fn a_sender_with_few_descriptors_lets_jobs_wait_and_loses_none() {
    let mut chance = Chance(seed("a_sender_with_few_descriptors"));
    nothing_is_broken(&crowd(Few::Sender, 40, 30, &mut chance));
}

#[test]
fn a_plumb_with_few_descriptors_waits_or_says_that_nothing_was_started() {
    let mut chance = Chance(seed("a_plumb_with_few_descriptors"));
    let broken: Vec<String> = [5, 8, 16].iter().flat_map(|few| crowd(Few::Plumb, *few, 6, &mut chance)).collect();
    nothing_is_broken(&broken);
}

#[test]
#[ignore = "twenty limits"]
fn few_descriptors_of_a_plumb_let_it_wait_or_say_that_nothing_was_started() {
    let mut chance = Chance(seed("few_descriptors_of_a_plumb"));
    let broken: Vec<String> = (4..24).flat_map(|few| crowd(Few::Plumb, few, 6, &mut chance)).collect();
    nothing_is_broken(&broken);
}

#[test]
#[ignore = "five limits on either side"]
fn few_descriptors_on_either_side_let_jobs_wait_and_lose_none() {
    let mut chance = Chance(seed("few_descriptors_on_either_side"));
    let mut broken = Vec::new();
    for few in [Few::Sender, Few::Recipient] {
        for (descriptors, count) in [(32, 30), (40, 30), (64, 30), (128, 30), (256, 30), (256, 100)] {
            broken.extend(crowd(few, descriptors, count, &mut chance));
        }
    }
    nothing_is_broken(&broken);
}

/// Shows that the same jobs find no fault with enough descriptors.
#[test]
fn with_enough_descriptors_no_job_waits() {
    let mut chance = Chance(seed("with_enough_descriptors"));
    nothing_is_broken(&crowd(Few::Recipient, ENOUGH, 12, &mut chance));
}

/// The names and contents of all files in a spool.
fn contents(peer: &Peer) -> BTreeMap<String, Vec<u8>> {
    let walk = walkdir::WalkDir::new(peer.home.join("spool")).into_iter().map(|entry| entry.expect("a spool"));
    let files = walk.filter(|entry| entry.file_type().is_file());
    files.map(|entry| (entry.path().display().to_string(), std::fs::read(entry.path()).expect("a file"))).collect()
}

/// The facts in a listing that do not change with time.
fn facts(listing: &str) -> BTreeSet<String> {
    let rows = listing.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let facts = ["id", "peer", "mark", "phase", "outcome", "cause", "what", "level"];
    rows.map(|row| facts.map(|name| row[name].to_string()).join(" ")).collect()
}

#[test]
fn a_verb_with_few_descriptors_says_so_or_the_truth_and_changes_nothing() {
    let (mut a, mut b) = pair();
    a.up();
    b.up();
    let done = a.plumb(&["-detach", "-n", "b", "echo done"], b"").good().text().trim_end().to_string();
    assert_eq!(a.netplumb(&["wait", &done]).status, 0);
    let at_rest = || b.spool(&format!("jobs/{done}/over")).exists() || b.ids("running").is_empty();
    wait_until("nothing runs", at_rest);
    a.kill();
    b.kill();
    let waiting = a.plumb(&["-detach", "-n", "b", "true"], b"").good().text().trim_end().to_string();
    let rest = || [&a, &b].iter().all(|peer| ["service", "loop", "keeper"].iter().all(|v| peer.children(v).is_empty()));
    wait_until("all daemons are gone", rest);
    let before = [&a, &b].map(contents);
    let mut broken = Vec::new();
    let (mut told, mut refused) = (0, 0);
    let verbs: [&[&str]; 9] = [
        &["queue", "--json"],
        &["jobs", "--all", "--json"],
        &["show", "--json", &done],
        &["why", "--json", &waiting],
        &["wait", &done, "--timeout=0"],
        &["check", "--json"],
        &["cancel", "--dry-run", &waiting],
        &["peer", "list"],
        &["card"],
    ];
    for words in verbs {
        let truth = a.netplumb(words);
        for descriptors in 4..=24 {
            let mut command: Command = a.command_with_descriptors(NETPLUMB, descriptors, descriptors);
            command.args(words);
            let ran = run(command, b"");
            let said = format!("{words:?} with {descriptors}: {}, {}{}", ran.status, ran.text(), ran.stderr);
            let is_true = ran.status == truth.status && facts(&ran.text()) == facts(&truth.text());
            // A program that cannot load its libraries ends with 127.
            let is_refused = ran.status != 0 && ran.status != 101 && names_descriptors(&said);
            (told, refused) = (told + usize::from(is_true), refused + usize::from(!is_true && is_refused));
            if said.contains("panicked") || ran.took > Duration::from_secs(20) || !(is_true || is_refused) {
                broken.push(said);
            }
        }
    }
    println!("{told} told the truth, {refused} said that they have too few descriptors");
    assert!([&a, &b].map(contents) == before, "a verb that looks has changed a spool");
    nothing_is_broken(&broken);
}
