//! Any spool comes to rest: real homes with jobs in all states, and a fault that strikes files of a
//! live spool (doc/SPOOL.md names them all). Each round is two fresh homes, some thirty jobs, one
//! blow; `round.rs` plays it, `judge.rs` says what is promised.
//!
//! `cargo test --release -- --ignored mutations` plays 300 rounds and says what was broken, by kind.
//! Its environment:
//!
//! | variable | is |
//! |---|---|
//! | `NETPLUMB_SEED` | the seed of the first round; the next ones count on. A run that was ended goes on with the seed it said last |
//! | `NETPLUMB_ROUNDS` | how many rounds |
//! | `NETPLUMB_ABREAST` | how many of them at the same time |
//! | `NETPLUMB_BLOW` | strikes instead of what chance would choose: the words that a report has, or `live` for no fault at all |
//! | `NETPLUMB_JOBS` | only jobs of these names, with commas between them |
//! | `NETPLUMB_PATIENCE` | seconds after which a job that has not ended hangs, 180 if nothing is said |
//! | `NETPLUMB_KEEP` | below it lie the rounds; those that failed stay |
//!
//! For example `NETPLUMB_SEED=17 NETPLUMB_ROUNDS=1` plays round 17 again, and with the `NETPLUMB_BLOW` of its
//! report the same files are struck, however the timing was. A case that is to stay is a test in
//! `cases.rs`, with the same words.

mod after;
mod blow;
mod cases;
mod choose;
mod ending;
mod fault;
mod ground;
mod judge;
mod lies;
mod play;
mod rest;
mod round;
mod stage;
mod verbs;
mod zoo;

use fault::Blow;
use judge::{Broken, Promise};
use round::{Report, Wish};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Rounds of a whole run.
const ROUNDS: u64 = 300;
/// Rounds at the same time: most of a round is waiting.
const ABREAST: u64 = 6;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Root may read files of every mode; this takes that away from all processes that we start.
fn give_up_reading_everything() {
    use rustix::thread::CapabilitySet;
    for capability in [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH] {
        // Other users have none to give up.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
}

/// Plays a round; a panic in it is a report too.
fn play(wish: &Wish) -> Report {
    let started = Instant::now();
    give_up_reading_everything();
    std::panic::catch_unwind(|| round::play(wish)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        let seen = text.unwrap_or_else(|| "a panic without words".into());
        Report {
            seed: wish.seed,
            blow: Blow { mode: fault::Mode::Live, faults: Vec::new() },
            kinds: Vec::new(),
            notes: Vec::new(),
            broken: vec![Broken { promise: Promise::Prepared, of: "round".into(), seen }],
            kept: Some(wish.below.join(wish.seed.to_string())),
            jobs: 0,
            took: started.elapsed(),
        }
    })
}

/// The most reports of one kind that are printed for a round.
const ALIKE: usize = 5;

fn print(report: &Report, done: u64, rounds: u64) {
    let Report { seed, blow, notes, broken, kept, jobs, took, .. } = report;
    let verdict = if broken.is_empty() { "good" } else { "BROKEN" };
    let mut text = format!("{done}/{rounds} seed {seed} {verdict}, {jobs} jobs, {:.0} s: {blow}\n", took.as_secs_f64());
    if let Some(kept) = kept {
        text += &format!("    kept: {}\n", kept.display());
        text.extend(notes.iter().map(|note| format!("    {note}\n")));
        let mut counts: BTreeMap<Promise, usize> = BTreeMap::new();
        for it in broken {
            let count = counts.entry(it.promise).or_default();
            *count += 1;
            if *count <= ALIKE {
                let cause = cause(blow, &it.of);
                text += &format!("    {:?}: {} [{cause}]: {}\n", it.promise, it.of, it.seen.trim_end());
            }
        }
        let more = counts.into_iter().filter(|(_, count)| *count > ALIKE);
        text.extend(more.map(|(promise, count)| format!("    {promise:?}: {count} in all; see its file report\n")));
    }
    print!("{text}");
}

/// The fault that touched the job of which something is said, or the whole blow.
fn cause(blow: &Blow, of: &str) -> String {
    let name = of.split(' ').next().unwrap_or_default();
    let its = blow.faults.iter().find(|fault| fault.to_string().contains(&format!("{{{name}}}")));
    its.map_or_else(|| blow.to_string(), |fault| format!("{}; {fault}", blow.mode.word()))
}

fn sum_up(reports: &[Report]) {
    let mut promises: BTreeMap<Promise, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for report in reports {
        for it in &report.broken {
            let causes = promises.entry(it.promise).or_default();
            causes.entry(cause(&report.blow, &it.of)).or_default().push(format!("{} {}", report.seed, it.of));
        }
    }
    let good = reports.iter().filter(|report| report.broken.is_empty()).count();
    let jobs: usize = reports.iter().map(|report| report.jobs).sum();
    let faults: usize = reports.iter().map(|report| report.blow.faults.len()).sum();
    println!("{good} of {} rounds are good, with {jobs} jobs and {faults} faults", reports.len());
    let mut kinds: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for report in reports {
        for kind in &report.kinds {
            kinds.entry(kind).or_default()[usize::from(!report.broken.is_empty())] += 1;
        }
    }
    println!("{} kinds of faults, good and broken rounds of each:", kinds.len());
    kinds.iter().for_each(|(kind, [good, bad])| println!("    {kind}: {good} {bad}"));
    for (promise, causes) in promises {
        println!("{promise:?}: {} causes", causes.len());
        for (cause, mut seen) in causes {
            let count = seen.len();
            seen.truncate(3);
            println!("    {cause}: {count}, {}", seen.join(", "));
        }
    }
}

#[test]
#[ignore = "300 rounds of two homes"]
fn mutations_of_live_spools_harm_nobody_else_and_everything_ends() {
    let first = number("NETPLUMB_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let rounds = number("NETPLUMB_ROUNDS").unwrap_or(ROUNDS);
    let abreast = number("NETPLUMB_ABREAST").unwrap_or(ABREAST).clamp(1, rounds.max(1));
    let blow = std::env::var("NETPLUMB_BLOW").ok().map(|text| text.parse().expect("NETPLUMB_BLOW"));
    let jobs = std::env::var("NETPLUMB_JOBS").unwrap_or_default();
    let jobs: Vec<String> = jobs.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect();
    let below = std::env::var_os("NETPLUMB_KEEP").map(PathBuf::from);
    let below = below.unwrap_or_else(|| std::env::temp_dir().join(format!("netplumb-mutations-{first}")));
    println!("mutations: NETPLUMB_SEED={first} NETPLUMB_ROUNDS={rounds}, below {}", below.display());
    let (next, reports) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..abreast {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= rounds {
                        return;
                    }
                    let (blow, jobs, below) = (blow.clone(), jobs.clone(), below.clone());
                    let report = play(&Wish { seed: first + n, blow, jobs, below, timed: true });
                    let mut reports = reports.lock().expect("no panic holds it");
                    reports.push(report);
                    print(reports.last().expect("it was just added"), reports.len() as u64, rounds);
                }
            });
        }
    });
    let reports = reports.into_inner().expect("no panic holds it");
    sum_up(&reports);
    let broken = reports.iter().filter(|report| !report.broken.is_empty()).count();
    assert_eq!(broken, 0, "rounds that broke a promise; they lie below {}", below.display());
    let _ = std::fs::remove_dir(&below);
}
