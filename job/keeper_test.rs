//! Keepers with real processes on a disk of their own, without a network.
//!
//! A keeper forks, so it needs a process of one thread: this program starts
//! itself as one. `cargo test -p job --test keeper NAME` runs what has NAME in
//! its name; SEED=n repeats a random test, SEEDS=n runs it so often.

#[path = "batch_test.rs"]
mod batch;
#[path = "deaths_test.rs"]
mod deaths;
#[path = "hold_test.rs"]
mod hold;
#[path = "lifecycle_test.rs"]
mod lifecycle;
#[path = "limp_test.rs"]
mod limp;
#[path = "../tests/patience.rs"]
mod patience;
#[path = "rig_test.rs"]
mod rig;

use batch::*;
use deaths::*;
use hold::*;
use job::message::Start;
use lifecycle::*;
use patience::wait_until;
use rig::Rig;
use spool::control::Control;
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{Place, log_out};
use spool::log::{WINDOW, hint};
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::EndKind;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

macro_rules! tests {
    ($($name:ident)*) => { &[$((stringify!($name), $name as fn())),*] };
}

const TESTS: &[(&str, fn())] = tests! {
    a_command_gives_its_output_and_its_status
    a_signal_that_kills_is_told
    a_command_finds_a_clean_account_and_what_may_be_passed_on
    stdin_ends_and_the_command_goes_on
    a_command_may_end_while_its_stdin_is_open
    much_input_comes_through_unaltered
    much_output_waits_for_its_consumer
    a_reader_of_stdin_that_goes_is_told
    a_reader_of_stdout_that_goes_is_felt
    signals_reach_the_whole_group
    input_that_breaks_off_kills_and_is_no_end_of_file
    a_daemon_that_keeps_stdin_reads_no_end_of_file
    a_killed_keeper_is_no_end_of_file
    a_killed_guard_is_no_end_of_file
    both_killed_leave_nothing_behind
    a_cancelled_command_is_asked_to_end
    a_cancelled_command_that_will_not_end_is_killed
    a_command_whose_job_is_over_is_ended
    what_is_cancelled_before_it_starts_never_does
    a_refused_command_does_not_run
    a_full_disk_costs_time_only
    a_second_keeper_leaves_the_job_alone
    grandchildren_that_hold_the_output_are_waited_for
    a_job_whose_directory_is_removed_ends
    a_crash_at_any_change_is_completed_and_never_started_twice
    a_refusal_that_a_crash_cut_short_stays_one
    a_message_that_cannot_be_understood_ends
    what_stands_of_exit_is_not_said_again
    a_batch_command_starts_when_its_input_is_whole
    a_batch_job_whose_input_breaks_off_never_starts
    a_batch_input_that_is_damaged_here_is_not_whole
    a_batch_input_larger_than_the_quota_is_refused
    a_batch_job_that_waits_can_be_cancelled
    a_keeper_that_is_killed_while_it_waits_costs_nothing
    what_may_be_run_again_gives_the_output_of_one_run
    what_may_be_run_again_is_when_its_guard_dies
    what_may_be_run_again_and_is_cancelled_is_not
    held_output_larger_than_the_quota_ends_the_job
    a_crash_at_any_change_of_what_may_be_run_again_gives_one_run
    what_stands_against_another_run_does_not_undo_the_first
    a_start_in_another_boot_counts_as_one_whatever_it_says
    a_keeper_whose_lock_loses_its_name_is_seen_again_within_moments
    a_second_keeper_leaves_a_job_whose_keeper_lives_without_its_lock
    a_kill_by_another_keeper_is_never_told_as_the_commands_own_end
    a_keeper_that_lost_its_job_kills_its_command_and_writes_nothing
    the_guard_holds_the_lock_that_was_taken_anew
    a_keeper_that_waits_for_input_takes_its_lock_anew_or_leaves
    a_run_that_another_keeper_has_begun_is_left_to_it
    names_that_are_lost_at_any_moment_cost_nothing
};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, root, msgid] = words.as_slice()
        && verb == "keep"
    {
        return rig::keeper_main(root.as_ref(), msgid.parse().unwrap());
    }
    if words.iter().any(|word| word == "--list") {
        return TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    if words.iter().any(|word| word == "bench") {
        return bench();
    }
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen: Vec<_> = TESTS
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())))
        .collect();
    let (queue, failed) = (Mutex::new(chosen.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((name, test)) = { queue.lock().unwrap().next() } {
                    let began = Instant::now();
                    let passed = std::panic::catch_unwind(test).is_ok();
                    println!(
                        "test {name} ... {} ({:.1} s)",
                        if passed { "ok" } else { "FAILED" },
                        began.elapsed().as_secs_f64()
                    );
                    if !passed {
                        failed.lock().unwrap().push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("\n{} of {} tests passed", chosen.len() - failed.len(), chosen.len());
    if !failed.is_empty() {
        println!("failed: {}", failed.join(" "));
        std::process::exit(101);
    }
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn a_command_gives_its_output_and_its_status() {
    let mut rig = Rig::new("echo out; echo err >&2; exit 37");
    assert_eq!(rig.run(), Outcome::Exited(37));
    assert_eq!((rig.stdout(), rig.stderr().as_str()), (b"out\n".as_slice(), "err\n"));
    assert_eq!(rig.ends(), [Some(EndKind::Eof); 2]);
    assert_eq!(rig.outcome_on_disk(), Some(Outcome::Exited(37)));
    let mut rig = Rig::new("no-such-command-anywhere");
    assert_eq!(rig.run(), Outcome::Exited(127));
}

fn a_signal_that_kills_is_told() {
    assert_eq!(Rig::new("kill -TERM $$").run(), Outcome::Signal(15));
    assert_eq!(Rig::new("kill -KILL $$").run(), Outcome::Signal(9));
}

fn a_command_finds_a_clean_account_and_what_may_be_passed_on() {
    let script = "pwd; umask >/dev/null; ls -l /proc/self/fd | grep -c -- '->'; env; \
                  grep -E '^Sig(Blk|Ign)' /proc/self/status; ps -o pgid= -p $$ | tr -d ' ' | sed \"s/^$$\\$/leader/\"";
    let env = [("GIT_PROTOCOL", "version=2"), ("LD_PRELOAD", "/evil.so"), ("PLUMB_JOB", "lie")];
    let env: BTreeMap<_, _> = env.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    let mut rig = Rig::with(Start { argv: vec![script.into()], env, user: "somebody".into(), ..Start::default() });
    assert_eq!(rig.run(), Outcome::Exited(0), "{}", rig.stderr());
    let text = String::from_utf8(rig.stdout().to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], rig.root.join("home").to_str().unwrap());
    // 0, 1, 2, and the directory that ls reads.
    assert_eq!(lines[1], "4", "{text}");
    let job = format!("PLUMB_JOB={}", rig.msgid);
    for line in ["GIT_PROTOCOL=version=2", "PLUMB_PEER=nas", "USER=somebody", "LOGNAME=somebody", &job, "leader"] {
        assert!(lines.contains(&line), "{line} is not in {text}");
    }
    assert!(lines.iter().any(|line| line.starts_with("SigBlk") && line.ends_with("0000000000000000")), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("SigIgn") && line.ends_with("0000000000000000")), "{text}");
    for gone in ["LD_PRELOAD", "SECRET_OF_THE_KEEPER", "lie"] {
        assert!(!text.contains(gone), "{gone} is in {text}");
    }
    assert_eq!(rig.stderr(), "netplumb: LD_PRELOAD not passed on (denied)\n");
}

fn stdin_ends_and_the_command_goes_on() {
    let mut rig = Rig::new("cat; sleep 0.3; echo end");
    rig.send(b"hello\n");
    let keeper = rig.keeper();
    rig.until("the echo", |rig| rig.stdout() == b"hello\n");
    rig.stdin.end(EndKind::Eof).unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::Exited(0));
    assert_eq!(rig.stdout(), b"hello\nend\n");
}

fn a_command_may_end_while_its_stdin_is_open() {
    let mut rig = Rig::new("read line; echo got $line");
    rig.send(b"x\n");
    assert_eq!(rig.run(), Outcome::Exited(0));
    assert_eq!(rig.stdout(), b"got x\n");
}

fn much_input_comes_through_unaltered() {
    let mut rig = Rig::new("cat");
    let bytes: Vec<u8> = (0..3 * WINDOW).map(|n| chance(n / 8, 256) as u8 ^ n as u8).collect();
    rig.send(&bytes);
    rig.stdin.end(EndKind::Eof).unwrap();
    assert_eq!(rig.run(), Outcome::Exited(0));
    assert!(rig.stdout() == bytes);
    let read =
        spool::log::hinted(&*rig.disk, &format!("{}/read", spool::layout::log_in(rig.msgid, Chan::STDIN))).unwrap();
    assert_eq!(read, rig.stdin.offset(), "what was fed is told to the end");
}

fn much_output_waits_for_its_consumer() {
    let size = 5 * WINDOW as usize;
    let mut rig = Rig::new(&format!("head -c {size} /dev/zero; echo >&2 done"));
    rig.pulls = false;
    let keeper = rig.keeper();
    rig.until("a full window", |rig| rig.out_size(Chan::STDOUT) > WINDOW - (128 << 10));
    pause(300);
    let full = rig.out_size(Chan::STDOUT);
    pause(300);
    assert_eq!(rig.out_size(Chan::STDOUT), full, "it grew beyond the window");
    assert!(full <= WINDOW + (1 << 10), "{full}");
    let outcome = rig.wait_for(keeper);
    assert_eq!(outcome, Outcome::Exited(0));
    assert!(rig.stdout().len() == size && rig.stdout().iter().all(|&b| b == 0));
    assert!(rig.out_size(Chan::STDOUT) < 5 * WINDOW / 2, "what was taken is forgotten");
}

fn a_reader_of_stdin_that_goes_is_told() {
    let mut rig = Rig::new("exec <&-; sleep 0.3; echo on");
    rig.send(&[0; 3_000_000]);
    assert_eq!(rig.run(), Outcome::Exited(0));
    assert_eq!(rig.said.iter().filter(|said| **said == Control::Close(Chan::STDIN)).count(), 1);
    assert_eq!(rig.stdout(), b"on\n");
}

fn a_reader_of_stdout_that_goes_is_felt() {
    let mut rig = Rig::new("exec yes");
    let keeper = rig.keeper();
    rig.until("some output", |rig| rig.stdout().len() > 1000);
    rig.control.say(&Control::Close(Chan::STDOUT)).unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::Signal(13));
    assert_eq!(rig.ends(), [Some(EndKind::ReaderGone), Some(EndKind::Eof)]);
}

fn signals_reach_the_whole_group() {
    let mut rig = Rig::new(
        "trap 'echo trapped' USR1; (trap 'echo inner; exit 0' USR1; echo ready; while :; do sleep 0.05; done); echo over",
    );
    let keeper = rig.keeper();
    rig.until("readiness", |rig| rig.stdout() == b"ready\n");
    rig.control.say(&Control::Signal(99)).unwrap();
    rig.control.say(&Control::Signal(10)).unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::Exited(0));
    let text = String::from_utf8_lossy(rig.stdout()).into_owned();
    assert!(text.contains("inner") && text.contains("trapped") && text.ends_with("over\n"), "{text}");
}

fn cancel(rig: &Rig) {
    job::submit::cancel(&*rig.disk, rig.msgid, "a test").unwrap();
}

fn a_cancelled_command_is_asked_to_end() {
    let mut rig = Rig::new("trap 'echo bye; exit 3' TERM; touch ready; while :; do sleep 0.05; done");
    let keeper = rig.keeper();
    rig.until("readiness", |rig| rig.home("ready").exists());
    cancel(&rig);
    assert_eq!(rig.wait_for(keeper), Outcome::Cancelled);
    assert_eq!(rig.stdout(), b"bye\n");
    saw_nothing(&rig);
}

/// The command of such a job ran on for ever, and nobody was left to hear of it.
fn a_command_whose_job_is_over_is_ended() {
    let mut rig = Rig::new("touch ready; sleep 1000");
    let mut keeper = rig.keeper();
    rig.until("readiness", |rig| rig.home("ready").exists());
    Facts::new()
        .with("outcome", Outcome::Unknown)
        .commit(&*rig.disk, &Place::Jobs.file(rig.msgid, Mark::Over.name()))
        .unwrap();
    assert!(keeper.wait().unwrap().success());
    saw_nothing(&rig);
}

fn a_cancelled_command_that_will_not_end_is_killed() {
    let took = cancelled_although_it_will_not_end();
    assert!(took.as_secs() >= 9, "it has time to end: {took:?}");

    // Nobody takes its output any more: that does not keep it.
    let mut rig = Rig::new("yes");
    rig.pulls = false;
    let mut keeper = rig.keeper();
    rig.until("a full window", |rig| rig.out_size(Chan::STDOUT) > WINDOW - (128 << 10));
    cancel(&rig);
    wait_until("it has an outcome", || rig.outcome_on_disk().is_some());
    assert!(keeper.wait().unwrap().success());
    assert_eq!(rig.outcome_on_disk(), Some(Outcome::Cancelled));
}

/// Gives the time from the cancelling to the end.
fn cancelled_although_it_will_not_end() -> Duration {
    let mut rig =
        Rig::new("trap '' TERM; touch ready; setsid sleep 1000 & cat >/dev/null && touch saw-eof; sleep 1000");
    let keeper = rig.keeper();
    rig.until("readiness", |rig| rig.home("ready").exists());
    cancel(&rig);
    let began = Instant::now();
    assert_eq!(rig.wait_for(keeper), Outcome::Cancelled);
    let took = began.elapsed();
    saw_nothing(&rig);
    took
}

fn what_is_cancelled_before_it_starts_never_does() {
    let rig = Rig::new("touch ran");
    cancel(&rig);
    assert!(rig.keeper().wait().unwrap().success());
    assert!(!rig.has(Mark::RunStarted) && !rig.home("ran").exists());
}

fn a_refused_command_does_not_run() {
    let mut rig = Rig::new("touch ran");
    std::fs::write(rig.root.join("refuse"), "").unwrap();
    assert!(matches!(rig.run(), Outcome::Refused(_)));
    assert!(!rig.has(Mark::RunStarted) && !rig.home("ran").exists());
    assert_eq!(rig.ends(), [Some(EndKind::Eof); 2]);
    // Nothing is left to do, and a changed mind changes nothing.
    std::fs::remove_file(rig.root.join("refuse")).unwrap();
    assert!(rig.keeper().wait().unwrap().success());
    assert!(!rig.home("ran").exists());
}

fn a_full_disk_costs_time_only() {
    let mut rig = Rig::new("echo ready; wc -c; head -c 3000000 /dev/zero; echo late >&2; exit 5");
    let keeper = rig.keeper();
    rig.until("some output", |rig| rig.stdout() == b"ready\n");
    std::fs::write(rig.root.join("full"), "").unwrap();
    rig.send(&[3; 6_000_000]);
    rig.stdin.end(EndKind::Eof).unwrap();
    while rig.carry() {}
    pause(1500);
    assert_eq!(rig.outcome_on_disk(), None);
    std::fs::remove_file(rig.root.join("full")).unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::Exited(5));
    assert!(rig.stdout().starts_with(b"ready\n6000000\n"));
    assert_eq!((rig.stdout().len(), rig.stderr().as_str()), (3_000_014, "late\n"));
}

fn a_second_keeper_leaves_the_job_alone() {
    let mut rig = Rig::new("echo once; read line");
    let first = rig.keeper();
    rig.until("the first", |rig| rig.stdout() == b"once\n");
    assert!(rig.keeper().wait().unwrap().success());
    assert_eq!(rig.outcome_on_disk(), None);
    rig.stdin.end(EndKind::Eof).unwrap();
    assert_eq!(rig.wait_for(first), Outcome::Exited(1));
    assert_eq!(rig.stdout(), b"once\n");
}

fn grandchildren_that_hold_the_output_are_waited_for() {
    let mut rig = Rig::new("(sleep 0.4; echo late) & echo early; exit 4");
    let began = Instant::now();
    assert_eq!(rig.run(), Outcome::Exited(4));
    assert!(began.elapsed() > Duration::from_millis(350));
    assert_eq!(rig.stdout(), b"early\nlate\n");
}

fn a_job_whose_directory_is_removed_ends() {
    let mut rig = Rig::new(WITNESS);
    let mut keeper = rig.keeper();
    rig.until("the witness", |rig| rig.home("ready").exists());
    rig.disk.remove(&Place::Jobs.dir(rig.msgid)).unwrap();
    let _ = keeper.wait().unwrap();
    saw_nothing(&rig);
}

/// What a small job and a cancellation take, and the keeper's CPU time per GiB each way.
fn bench() {
    let took = cancelled_although_it_will_not_end();
    println!("a command that will not end is killed {took:?} after it was cancelled");
    assert!(took < Duration::from_secs(15));

    let mut times = Vec::new();
    for _ in 0..60 {
        let rig = Rig::new("true");
        assert!(rig.keeper().wait().unwrap().success());
        times.push(std::fs::read_to_string(rig.root.join("kept")).unwrap().parse::<u64>().unwrap());
    }
    times.sort();
    println!("a small job from lock to END: best {} us, median {} us, worst {} us", times[0], times[30], times[59]);

    let mut rig = Rig::new("cat >/dev/null");
    let block = vec![7; 1 << 20];
    for _ in 0..512 {
        rig.send(&block);
        while rig.carry() {}
    }
    rig.stdin.end(EndKind::Eof).unwrap();
    while rig.carry() {}
    bulk("stdin", &mut rig, |_| {});

    // Memory that was never used may cost more than all the rest: the first is no measure.
    for _ in 0..3 {
        let mut rig = Rig::new("head -c 536870912 /dev/zero");
        rig.pulls = false;
        bulk("stdout", &mut rig, |rig| {
            // As if the consumer had everything at once; the directory may not be there yet.
            let _ = hint(&*rig.disk, &format!("{}/got", log_out(rig.msgid, Chan::STDOUT)), u64::MAX / 2);
        });
    }
}

/// Runs a command that moves half a GiB, and says what that cost the keeper.
fn bulk(what: &str, rig: &mut Rig, meanwhile: impl Fn(&Rig)) {
    let mut keeper = rig.keeper();
    let (began, mut cpu) = (Instant::now(), Duration::ZERO);
    while rig.outcome_on_disk().is_none() {
        meanwhile(rig);
        cpu = cpu.max(cpu_of(keeper.id()));
        pause(1);
    }
    println!("{what}: {:.2} CPU s per GiB, {:?} for 512 MiB", 2.0 * cpu.as_secs_f64(), began.elapsed());
    keeper.wait().unwrap();
}

fn cpu_of(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0))
}
