//! The receiver's machine stops at any moment: whatever of it lives is gone at
//! once, and its daemon starts again. What each class of job is promised then.
//! (That a real reboot also changes the boot id is `loop`'s and `spool`'s to know.)

use crate::homes::{
    Chance, PLUMB, Peer, kill_9, noise, pair_up, processes_with, read_up_to, seed, wait_for, wait_until,
};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// More than two segments: what would be forgotten can be.
const INPUT: usize = 20 << 20;

/// What the sender says of its job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Plain,
    Batch,
    Repeat,
}

impl Class {
    fn options(self) -> &'static [&'static str] {
        match self {
            Class::Plain => &[],
            Class::Batch => &["-batch"],
            Class::Repeat => &["-batch", "-repeat"],
        }
    }
}

/// What one job left.
#[derive(Debug)]
struct Seen {
    status: Option<i32>,
    stdout: String,
    last_line: String,
    runs: usize,
    /// The command's last act was done.
    done: bool,
}

/// What was promised to this class, and does not hold.
fn broken(class: Class, seen: &Seen) -> Option<&'static str> {
    let run = seen.stdout.lines().next().unwrap_or_default();
    let whole = seen.stdout == format!("{run}\n{INPUT}\nend of {run}\n");
    let unknown = seen.last_line.starts_with("plumb: origin=transport status=76 reason=");
    let idle = seen.last_line.starts_with("plumb: origin=transport status=75 reason=");
    match (seen.status, class) {
        (_, Class::Plain | Class::Batch) if seen.runs > 1 => Some("it ran twice"),
        (Some(0), _) if !seen.done => Some("told done of what was not"),
        (Some(0), _) if !whole => Some("the output is not that of one run"),
        (Some(0), _) => None,
        (_, Class::Repeat) => Some("it was not run to its end"),
        (Some(255), _) if unknown => None,
        (Some(255), _) if idle && seen.runs == 0 => None,
        _ => Some("neither its status nor \"outcome unknown\""),
    }
}

/// One job, struck at one moment.
struct Trial<'a> {
    b: &'a mut Peer,
    traces: PathBuf,
    plumb: Child,
}

impl<'a> Trial<'a> {
    fn begin(a: &Peer, b: &'a mut Peer, class: Class, more: &[&str], number: usize) -> Trial<'a> {
        let traces = b.home.join(format!("traces-{number}"));
        std::fs::create_dir(&traces).expect("a directory");
        let text = "echo run >>runs; run=$(wc -l <runs); echo $run; wc -c; sleep 1; touch done; echo end of $run";
        let mut command = a.command(PLUMB);
        command.args(class.options()).args(more).args(["b", &format!("cd {}; {text}", traces.display())]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut plumb = command.spawn().expect("plumb starts");
        let mut stdin = plumb.stdin.take().expect("a pipe");
        std::thread::spawn(move || noise(INPUT, 3).chunks(1 << 20).try_for_each(|piece| stdin.write_all(piece)));
        Trial { b, traces, plumb }
    }

    /// The job's id, from a `plumb` that leaves it.
    fn left(&mut self) -> String {
        let said = read_up_to(self.plumb.stdout.take().expect("a pipe"), 64);
        assert_eq!(self.plumb.wait().expect("it is ours").code(), Some(0));
        String::from_utf8_lossy(&said).trim_end().to_string()
    }

    /// Another `plumb` takes the job up.
    fn attach(&mut self, a: &Peer, id: &str) {
        let mut command = a.command(PLUMB);
        command.args(["-n", &format!("-attach={id}")]).stdin(Stdio::null()).stdout(Stdio::piped());
        self.plumb = command.stderr(Stdio::piped()).spawn().expect("plumb starts");
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.traces.join("runs")).unwrap_or_default().lines().count()
    }

    /// All that the machine loses: daemon, service, loop, keepers, guards, commands.
    fn alive(&self) -> BTreeSet<u32> {
        let jobs = self.b.ids("jobs").into_iter().flat_map(|id| processes_with(&format!("PLUMB_JOB={id}")));
        self.b.processes().into_iter().chain(jobs).collect()
    }

    /// Nobody sees anybody else die: all of them stand still first.
    fn reboot(&mut self) {
        let mut stopped = BTreeSet::new();
        loop {
            let fresh: Vec<u32> = self.alive().difference(&stopped).copied().collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                let it = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
                let _ = rustix::process::kill_process(it, rustix::process::Signal::STOP);
                stopped.insert(pid);
            }
        }
        for pid in stopped {
            kill_9(pid);
        }
        self.b.kill();
        wait_until("all are gone", || self.alive().is_empty());
        self.b.up_without_waiting();
    }

    fn end(mut self) -> Seen {
        let (mut out, mut err) = (self.plumb.stdout.take().expect("a pipe"), self.plumb.stderr.take().expect("a pipe"));
        let status = wait_for("plumb ends", || self.plumb.try_wait().expect("it is ours")).code();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (stdout, said) = (text(read_up_to(&mut out, 64 << 10)), text(read_up_to(&mut err, 64 << 10)));
        let last_line = said.lines().last().unwrap_or_default().to_string();
        let (runs, done) = (self.runs(), self.traces.join("done").exists());
        Seen { status, stdout, last_line, runs, done }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let _ = self.plumb.kill();
        let _ = self.plumb.wait();
    }
}

/// Reboots at so many points; says what was seen. Every other point lies within the run.
fn reboots(class: Class, points: usize, name: &str) -> Vec<Seen> {
    strikes(class, points, name, false)
}

/// The same; with `left`, of jobs that nobody waits for until `netplumb wait` does.
fn strikes(class: Class, points: usize, name: &str, left: bool) -> Vec<Seen> {
    let (a, mut b) = pair_up();
    let mut chance = Chance(seed(name));
    let mut all = Vec::new();
    for number in 0..points {
        let within = number % 2 == 0;
        let mut trial = Trial::begin(&a, &mut b, class, if left { &["-detach"] } else { &[] }, number);
        let id = left.then(|| trial.left());
        if within {
            wait_until("it runs", || trial.runs() == 1);
        }
        let delay = chance.below_millis(if within { 900 } else { 1500 });
        std::thread::sleep(delay);
        trial.reboot();
        let waited = id.map(|id| {
            let waited = a.netplumb(&["wait", &id]).status;
            trial.attach(&a, &id);
            waited
        });
        let seen = trial.end();
        if let Some(waited) = waited {
            let told = seen.last_line.split("status=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            assert_eq!(Some(waited), told.or(seen.status), "{seen:?}");
        }
        println!("{class:?}, rebooted after {delay:?} (of its run: {within}): {seen:?}");
        assert_eq!(broken(class, &seen), None, "{seen:?}");
        all.push(seen);
    }
    all
}

fn plain_or_batch(class: Class, points: usize, name: &str) {
    let all = reboots(class, points, name);
    assert!(all.iter().any(|seen| seen.status == Some(255) && seen.runs == 1), "control: some were interrupted");
}

fn repeat(points: usize, name: &str) {
    let all = reboots(Class::Repeat, points, name);
    let twice = all.iter().find(|seen| seen.runs > 1).expect("control: some were run again");
    assert_eq!(broken(Class::Batch, twice), Some("it ran twice"), "control: that would be seen");
}

#[test]
fn a_job_on_a_machine_that_reboots_is_not_run_again_and_its_outcome_is_unknown() {
    plain_or_batch(Class::Plain, 5, "plain");
}

#[test]
fn a_batch_job_on_a_machine_that_reboots_is_not_run_again_and_its_outcome_is_unknown() {
    plain_or_batch(Class::Batch, 5, "batch");
}

#[test]
fn a_job_that_may_be_run_again_is_and_gives_the_output_of_one_run() {
    repeat(5, "repeat");
}

#[test]
fn whoever_waits_for_a_job_that_was_left_is_told_the_same() {
    for class in [Class::Plain, Class::Batch, Class::Repeat] {
        strikes(class, 2, "left", true);
    }
}

#[test]
#[ignore = "twenty points of each class"]
fn twenty_reboots_of_each_class_of_jobs_that_were_left() {
    for class in [Class::Plain, Class::Batch, Class::Repeat] {
        let all = strikes(class, 20, "left", true);
        assert!(all.iter().any(|seen| seen.last_line.contains("status=76")) != (class == Class::Repeat));
    }
}

#[test]
#[ignore = "twenty points of each class"]
fn twenty_reboots_of_each_class() {
    plain_or_batch(Class::Plain, 20, "plain");
    plain_or_batch(Class::Batch, 20, "batch");
    repeat(20, "repeat");
}

#[test]
fn without_a_reboot_a_job_of_each_class_ends_and_what_is_false_is_seen() {
    let (a, mut b) = pair_up();
    for (number, class) in [Class::Plain, Class::Batch, Class::Repeat].into_iter().enumerate() {
        let seen = Trial::begin(&a, &mut b, class, &[], number).end();
        assert_eq!((broken(class, &seen), seen.status, seen.runs), (None, Some(0), 1), "{seen:?}");
        for (wrong, what) in [
            (
                Seen { done: false, stdout: seen.stdout.clone(), last_line: String::new(), ..seen },
                "told done of what was not",
            ),
            (Seen { stdout: "1\n".into(), last_line: String::new(), ..seen }, "the output is not that of one run"),
        ] {
            assert_eq!(broken(class, &wrong), Some(what));
        }
        let idle = "plumb: origin=transport status=75 reason=not-started".to_string();
        let wrong = Seen { status: Some(255), last_line: idle, stdout: String::new(), ..seen };
        assert!(broken(class, &wrong).is_some(), "not started, and it ran");
    }
}
