//! Deaths are not ends of file: whoever is killed in the middle, no command
//! reads an end that was not sent, nothing runs twice, and nothing is left.

use crate::homes::{
    Chance, PLUMB, Peer, kill_9, noise, pair_up, parent, processes_with, read_up_to, seed, wait_for, wait_until,
};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Keeper,
    Guard,
}

/// One command, whose input never ends by itself, on its way.
struct Trial<'a> {
    a: &'a Peer,
    b: &'a Peer,
    /// Made anew for each trial: what the command does is seen in it.
    traces: PathBuf,
    plumb: Child,
    writer: Option<Writer>,
    known: BTreeSet<String>,
}

/// Holds the input open, or writes into it all the time; says so long it lives.
struct Writer {
    enough: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<ChildStdin>,
}

impl Writer {
    fn begin(mut stdin: ChildStdin, bulk: bool) -> Writer {
        let enough = Arc::new(AtomicBool::new(false));
        let stop = enough.clone();
        let thread = std::thread::spawn(move || {
            let piece = noise(64 << 10, 5);
            let _ = stdin.write_all(&piece);
            while !stop.load(Ordering::Relaxed) {
                match bulk {
                    true if stdin.write_all(&piece).is_ok() => {}
                    _ => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            stdin
        });
        Writer { enough, thread }
    }

    /// Ends the input, properly.
    fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        drop(self.thread.join().expect("the writer ends"));
    }
}

impl<'a> Trial<'a> {
    fn begin(a: &'a Peer, b: &'a Peer, number: usize, bulk: bool) -> Trial<'a> {
        let traces = b.home.join(format!("traces-{number}"));
        std::fs::create_dir(&traces).expect("a directory");
        let dir = traces.display();
        let text = format!("echo run >>{dir}/runs; cat >/dev/null && touch {dir}/saw-eof");
        let known = b.ids("jobs").into_iter().collect();
        let mut command = a.command(PLUMB);
        command.args(["b", &text]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut plumb = command.spawn().expect("plumb starts");
        let writer = plumb.stdin.take().map(|stdin| Writer::begin(stdin, bulk));
        Trial { a, b, traces, plumb, writer, known }
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.traces.join("runs")).unwrap_or_default().lines().count()
    }

    fn saw_eof(&self) -> bool {
        self.traces.join("saw-eof").exists()
    }

    /// The job at the recipient, if it has come so far.
    fn job(&self) -> Option<String> {
        self.b.ids("jobs").into_iter().find(|id| !self.known.contains(id))
    }

    /// Kills a keeper or its guard, as soon as there is one; gives the keeper's pid.
    fn kill(&self, victim: Victim) -> u32 {
        wait_for("there is somebody to kill", || {
            let keeper = keeper(self.b)?;
            let found = match victim {
                Victim::Keeper => Some(keeper),
                Victim::Guard => self.b.child_of(keeper),
            };
            found.is_some_and(kill_9).then_some(keeper)
        })
    }

    /// The keeper that has started the command.
    fn started_by(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.b.spool(&format!("jobs/{}/run.started", self.job()?))).ok()?;
        text.lines().find_map(|line| line.strip_prefix("keeper=")?.parse().ok())
    }

    /// Nothing of the job runs any more.
    fn is_quiet(&self) -> bool {
        self.b.children("keeper").is_empty()
            && self.b.ids("running").is_empty()
            && processes_with(&self.traces.display().to_string()).iter().all(|pid| *pid == self.plumb.id())
    }

    /// The job's outcome at the recipient; "nothing came" if it never heard of it.
    fn outcome(&self) -> String {
        let Some(id) = self.job() else { return "nothing came".into() };
        self.b.job(&id)["outcome"].as_str().unwrap_or("none").to_string()
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let _ = self.plumb.kill();
        let _ = self.plumb.wait();
        if let Some(writer) = self.writer.take() {
            writer.enough.store(true, Ordering::Relaxed);
        }
    }
}

/// The keeper that the daemon started; its guard has the same command line.
fn keeper(peer: &Peer) -> Option<u32> {
    let daemon = peer.daemon_pid()?;
    peer.children("keeper").into_iter().find(|pid| parent(*pid) == Some(daemon))
}

/// `plumb` is killed: the command ends as one whose input broke off.
fn plumb_dies(points: usize, name: &str) {
    let (a, b) = pair_up();
    let mut chance = Chance(seed(name));
    for number in 0..points {
        let bulk = number % 2 == 1;
        let delay = chance.below_millis(if bulk { 2000 } else { 300 });
        let mut trial = Trial::begin(&a, &b, number, bulk);
        std::thread::sleep(delay);
        trial.plumb.kill().unwrap();
        trial.plumb.wait().unwrap();
        let died = Instant::now();
        let gone = || trial.is_quiet() && trial.a.ids("queue").is_empty() && trial.b.ids("rqueue").is_empty();
        let over = || gone() && trial.job().is_none_or(|id| trial.b.spool(&format!("jobs/{id}/over")).exists());
        // Nothing may be there yet of what is still to come: quiet is what stays so.
        wait_until("the other side ends", || {
            over() && trial.a.ids("jobs").is_empty() && {
                std::thread::sleep(Duration::from_millis(50));
                over()
            }
        });
        let (outcome, took) = (trial.outcome(), died.elapsed());
        println!("plumb killed after {delay:?} (bulk: {bulk}): {outcome}, {} runs, ended after {took:?}", trial.runs());
        assert!(!trial.saw_eof(), "the command read an end of file that was never sent");
        match outcome.as_str() {
            "nothing came" | "not started" => assert_eq!(trial.runs(), 0, "{outcome}"),
            "cancelled" => assert!(trial.runs() <= 1),
            other => assert!(other.starts_with("input incomplete at ") && trial.runs() <= 1, "{other}"),
        }
    }
}

/// Keeper or guard are killed: the command was interrupted, if it was started; else it runs, once.
fn helper_dies(victim: Victim, points: usize, name: &str) {
    let (a, b) = pair_up();
    let mut chance = Chance(seed(name));
    let mut interrupted = 0;
    for number in 0..points {
        let bulk = number % 2 == 1;
        let delay = chance.below_millis(if bulk { 2000 } else { 300 });
        let mut trial = Trial::begin(&a, &b, number, bulk);
        // On a slow disk no delay is long enough for all of them to be in the middle.
        if number % 3 == 2 {
            wait_until("it runs", || trial.runs() == 1);
        }
        std::thread::sleep(delay);
        let first = trial.kill(victim);
        let died = Instant::now();
        let status = wait_for("plumb ends, or another keeper has started the command", || {
            let by_another = trial.started_by().is_some_and(|keeper| keeper != first) && trial.runs() == 1;
            trial.plumb.try_wait().unwrap().map(Some).or(by_another.then_some(None))
        });
        assert!(!trial.saw_eof(), "the command read an end of file that was never sent");
        match status {
            Some(status) => {
                let took = died.elapsed();
                let said = read_up_to(trial.plumb.stderr.take().unwrap(), 64 << 10);
                let said = String::from_utf8_lossy(&said).into_owned();
                wait_until("no process is left", || trial.is_quiet());
                let outcome = trial.outcome();
                println!(
                    "{victim:?} killed after {delay:?} (bulk: {bulk}): {outcome}, {} runs, {took:?}",
                    trial.runs()
                );
                assert_eq!(status.code(), Some(255), "{said}");
                assert_eq!(said.lines().last(), Some("plumb: origin=transport status=76 reason=interrupted"), "{said}");
                assert_eq!(outcome, "interrupted");
                assert!(trial.runs() <= 1);
                interrupted += 1;
            }
            None => {
                // Killed before anything was started: another keeper did it. An end that is sent is seen.
                println!(
                    "{victim:?} killed after {delay:?} (bulk: {bulk}): before the start, so another one started it"
                );
                trial.writer.take().unwrap().end();
                assert_eq!(trial.plumb.wait().unwrap().code(), Some(0));
                assert!(trial.saw_eof() && trial.runs() == 1);
            }
        }
        assert!(!trial.saw_eof() || status.is_none(), "the command read an end of file that was never sent");
    }
    assert!(interrupted > 0, "control: some were killed in the middle");
}

#[test]
fn a_killed_plumb_is_no_end_of_file() {
    plumb_dies(6, "a_killed_plumb_is_no_end_of_file");
}

#[test]
fn a_killed_keeper_is_no_end_of_file() {
    helper_dies(Victim::Keeper, 6, "a_killed_keeper_is_no_end_of_file");
}

#[test]
fn a_killed_guard_is_no_end_of_file() {
    helper_dies(Victim::Guard, 4, "a_killed_guard_is_no_end_of_file");
}

#[test]
#[ignore = "twenty points"]
fn a_plumb_killed_at_twenty_points_is_no_end_of_file() {
    plumb_dies(20, "a_plumb_killed_at_twenty_points_is_no_end_of_file");
}

#[test]
#[ignore = "twenty points"]
fn a_keeper_killed_at_twenty_points_is_no_end_of_file() {
    helper_dies(Victim::Keeper, 20, "a_keeper_killed_at_twenty_points_is_no_end_of_file");
}

#[test]
#[ignore = "twenty points"]
fn a_guard_killed_at_twenty_points_is_no_end_of_file() {
    helper_dies(Victim::Guard, 20, "a_guard_killed_at_twenty_points_is_no_end_of_file");
}

#[test]
fn an_end_of_file_that_is_sent_is_seen() {
    // The control of all the others.
    let (a, b) = pair_up();
    for number in 0..2 {
        let mut trial = Trial::begin(&a, &b, number, number == 1);
        wait_until("it runs", || trial.runs() == 1);
        assert!(!trial.saw_eof());
        trial.writer.take().unwrap().end();
        assert_eq!(trial.plumb.wait().unwrap().code(), Some(0));
        assert!(trial.saw_eof());
    }
}
