//! Who dies, and that nobody takes it for an end of file.

use crate::patience::wait_until;
use crate::pause;
use crate::rig::Rig;
use spool::fs::Fs;
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::EndKind;
use std::process::Child;
use std::time::{Duration, Instant};

/// Says that it is there, and leaves a file if it ever reads an end of file.
pub const WITNESS: &str = "touch ready; cat >/dev/null && touch saw-eof";
/// The same, as fast as a shell can.
const QUICK_WITNESS: &str = "touch ready; while read -r line; do :; done; : >saw-eof";
/// The first, and another that left the group, whose parent is gone.
const WITNESSES: &str = "exec 3<&0; setsid sh -c 'cat >/dev/null && touch saw-eof' <&3 3<&- & \
                         setsid -f sh -c 'touch ready; cat >/dev/null && touch saw-eof' 3<&-; \
                         exec 3<&-; cat >/dev/null && touch saw-eof";

pub fn saw_nothing(rig: &Rig) {
    nothing_is_left(rig);
    assert!(!rig.home("saw-eof").exists(), "a false end of file");
}

fn nothing_is_left(rig: &Rig) {
    wait_until("no process is left", || rig.processes().is_empty());
}

pub fn input_that_breaks_off_kills_and_is_no_end_of_file() {
    for command in [WITNESS, WITNESSES, QUICK_WITNESS] {
        for kind in [EndKind::Aborted, EndKind::ReaderGone] {
            let mut rig = Rig::new(command);
            rig.send(&[1; 10_000]);
            let keeper = rig.keeper();
            rig.until("the witness", |rig| rig.home("ready").exists());
            rig.stdin.end(kind).unwrap();
            assert_eq!(rig.wait_for(keeper), Outcome::InputIncomplete(10_000));
            assert_eq!(rig.ends(), [Some(EndKind::Aborted); 2]);
            saw_nothing(&rig);
        }
    }
    let mut rig = Rig::new(WITNESS);
    rig.send(b"12345");
    let keeper = rig.keeper();
    rig.until("the witness", |rig| rig.home("ready").exists());
    rig.carry();
    rig.disk.hint(&format!("{}/broken", spool::layout::log_in(rig.msgid, Chan::STDIN)), b"").unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::InputIncomplete(5));
    saw_nothing(&rig);
}

pub fn a_daemon_that_keeps_stdin_reads_no_end_of_file() {
    // As `ssh HOST 'setsid -f server >log 2>&1'`: it outlives its job, and nothing is closed under it.
    let mut rig =
        Rig::new("setsid -f sh -c 'touch ready; cat && touch saw-eof' >/dev/null 2>&1; sleep 0.1; echo started");
    assert_eq!(rig.run(), Outcome::Exited(0));
    assert_eq!(rig.stdout(), b"started\n");
    pause(200);
    let left = rig.processes();
    assert!(!left.is_empty() && !rig.home("saw-eof").exists());
    left.into_iter().for_each(|pid| kill(pid, 9));
    saw_nothing(&rig);
}

/// Runs a witness with a stream of input, kills when `when` says so, and has a
/// second keeper report.
fn killed_at(seed: u64, whom: impl Fn(&Child) -> Vec<i32>) -> Rig {
    println!("SEED={seed}");
    let (command, size) = match seed % 4 {
        0 => (WITNESS, 3_000_000),
        1 => (WITNESSES, 3_000_000),
        // It reads byte by byte.
        _ => (QUICK_WITNESS, 1000),
    };
    let mut rig = Rig::new(command);
    let (early, ended) = (chance(seed, 3) > 0, chance(seed + 1000, 4) == 0);
    rig.send(&vec![1; chance(seed + 2000, size) as usize]);
    let mut keeper = rig.keeper();
    if !early {
        rig.until("the witness", |rig| rig.home("ready").exists());
    }
    let until = Instant::now() + Duration::from_micros(chance(seed + 3000, if early { 15_000 } else { 5000 }));
    while Instant::now() < until {
        rig.carry();
    }
    let mut whom = whom(&keeper);
    if chance(seed + 4000, 2) == 0 {
        whom.reverse();
    }
    whom.iter().for_each(|pid| kill(*pid, 9));
    // After that, what the sender says comes too late for the first keeper.
    if whom.contains(&(keeper.id() as i32)) {
        keeper.wait().unwrap();
    }
    if ended {
        rig.stdin.end(EndKind::Aborted).unwrap();
    }
    while rig.carry() {}
    // A keeper that only lost its guard reports by itself; the other finds nothing to do.
    let started = rig.has(Mark::RunStarted);
    let second = rig.keeper();
    if !started && rig.outcome_on_disk().is_none() && !ended {
        // It was killed before anything had been promised: the second one runs it.
        rig.until("a second start", |rig| rig.has(Mark::RunStarted));
        rig.stdin.end(EndKind::Aborted).unwrap();
    }
    let outcome = rig.wait_for(second);
    let _ = keeper.wait();
    let expected = matches!(outcome, Outcome::Interrupted | Outcome::InputIncomplete(_));
    assert!(expected, "seed {seed}: {outcome}");
    if started {
        assert!(ended || outcome == Outcome::Interrupted, "seed {seed}: {outcome}");
    }
    nothing_is_left(&rig);
    rig
}

pub fn a_killed_keeper_is_no_end_of_file() {
    seeds(40).for_each(|seed| saw_nothing(&killed_at(seed, |keeper| vec![keeper.id() as i32])));
}

pub fn a_killed_guard_is_no_end_of_file() {
    for seed in seeds(40) {
        saw_nothing(&killed_at(seed, |keeper| {
            // A keeper that is ending has none any more.
            let late = Instant::now() + Duration::from_secs(5);
            loop {
                let guards = children(keeper.id());
                if !guards.is_empty() || Instant::now() > late {
                    return guards;
                }
            }
        }));
    }
}

pub fn both_killed_leave_nothing_behind() {
    // At one moment: nobody is left to kill before closing, so what read stdin may have seen its end. It dies, though.
    seeds(15).for_each(|seed| {
        killed_at(seed, |keeper| [children(keeper.id()), vec![keeper.id() as i32]].concat());
    });
}

pub fn kill(pid: i32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

pub fn children(pid: u32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// A small number that a seed decides.
pub fn chance(seed: u64, end: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % end
}

/// SEED=n: that one. SEEDS=n: so many, for a long run.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    number("SEED").map_or(0..number("SEEDS").unwrap_or(count), |seed| seed..seed + 1)
}
