//! Jobs that start with their whole input, and those that may be run again.

use crate::deaths::{WITNESS, saw_nothing};
use crate::pause;
use crate::rig::{Rig, known, site};
use job::batch::{Arrival, Waiting};
use job::keeper::{Begin, begin};
use job::message::Start;
use spool::control::Control;
use spool::fs::Fs;
use spool::layout::{HELD, Place, log_in, log_out, runs_again};
use spool::log::{hinted, segments};
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::EndKind;

const QUOTA: u64 = 3 << 20;

fn rig(command: &str, repeat: bool) -> Rig {
    let argv = vec![command.as_bytes().to_vec()];
    let rig = Rig::with(Start { argv, batch: true, repeat, ..Start::default() });
    std::fs::write(rig.root.join("quota"), QUOTA.to_string()).unwrap();
    rig
}

/// A rig whose whole input has arrived.
fn whole(command: &str, repeat: bool, input: &[u8]) -> Rig {
    let mut rig = rig(command, repeat);
    rig.send(input);
    rig.stdin.end(EndKind::Eof).unwrap();
    while rig.carry() {}
    rig
}

fn look(rig: &Rig) -> Begin {
    begin(&site(&rig.root, i64::MAX), rig.msgid, &known(&rig.root), Arrival::Awaited).unwrap()
}

fn waiting(rig: &Rig) -> Box<Waiting> {
    match look(rig) {
        Begin::Await(waiting) => waiting,
        _ => panic!("it is to wait"),
    }
}

fn never_ran(rig: &Rig) -> bool {
    !rig.has(Mark::RunStarted) && !rig.home("ran").exists()
}

pub fn a_batch_command_starts_when_its_input_is_whole() {
    let mut rig = rig("touch ran; wc -c", false);
    rig.send(&[7; 1_000_000]);
    let keeper = rig.keeper();
    while rig.carry() {}
    pause(300);
    rig.send(&[7; 1_000_000]);
    while rig.carry() {}
    pause(300);
    assert!(never_ran(&rig));
    let window = hinted(&*rig.disk, &format!("{}/window", log_in(rig.msgid, Chan::STDIN))).unwrap();
    assert!((QUOTA + 1..QUOTA + (1 << 17)).contains(&window), "more than a window may come: {window}");
    rig.stdin.end(EndKind::Eof).unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::Exited(0));
    assert_eq!(rig.stdout(), b"2000000\n");
    // The control: without -batch it does not wait.
    let mut rig = Rig::new("touch ran; wc -c");
    rig.send(&[7; 1000]);
    let keeper = rig.keeper();
    rig.until("its start", |rig| rig.home("ran").exists());
    rig.stdin.end(EndKind::Eof).unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::Exited(0));
}

pub fn a_batch_job_whose_input_breaks_off_never_starts() {
    for kind in [EndKind::Aborted, EndKind::ReaderGone] {
        let mut rig = rig("touch ran", true);
        rig.send(&[7; 10_000]);
        let keeper = rig.keeper();
        while rig.carry() {}
        rig.stdin.end(kind).unwrap();
        assert_eq!(rig.wait_for(keeper), Outcome::NotStarted);
        assert_eq!(rig.ends(), [Some(EndKind::Eof); 2]);
        assert!(never_ran(&rig));
    }
    let mut rig = rig("touch ran", false);
    rig.send(b"12345");
    let keeper = rig.keeper();
    while rig.carry() {}
    rig.disk.hint(&format!("{}/broken", log_in(rig.msgid, Chan::STDIN)), b"").unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::NotStarted);
    assert!(never_ran(&rig));
}

pub fn a_batch_input_that_is_damaged_here_is_not_whole() {
    let mut rig = whole("touch ran", false, &[7; 100_000]);
    assert_eq!(waiting(&rig).look().unwrap(), Arrival::Whole);
    let path = rig.root.join(log_in(rig.msgid, Chan::STDIN)).join("0");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let mut waiting = waiting(&rig);
    let looks: Vec<Arrival> = (0..5).map(|_| waiting.look().unwrap()).collect();
    assert_eq!(looks[..4], [Arrival::Awaited; 4], "the loop may cut it back, and pull it again");
    assert_eq!(looks[4], Arrival::Incomplete);
    let ended = begin(&site(&rig.root, i64::MAX), rig.msgid, &known(&rig.root), looks[4]).unwrap();
    assert!(matches!(ended, Begin::Ended(Outcome::NotStarted)));
    rig.until("the end", |rig| rig.exit() == Some(Outcome::NotStarted));
    assert!(never_ran(&rig));
}

pub fn a_batch_input_larger_than_the_quota_is_refused() {
    let mut rig = rig("touch ran", false);
    rig.send(&vec![7; QUOTA as usize + 1]);
    assert_eq!(rig.run(), Outcome::Refused(format!("input larger than the quota of {QUOTA} bytes")));
    assert!(never_ran(&rig));
    assert_eq!(whole("cat >/dev/null", false, &[7; (QUOTA - (1 << 17)) as usize]).run(), Outcome::Exited(0));
}

pub fn a_batch_job_that_waits_can_be_cancelled() {
    let mut rig = rig("touch ran", true);
    rig.send(b"some");
    let mut keeper = rig.keeper();
    while rig.carry() {}
    pause(200);
    job::submit::cancel(&*rig.disk, rig.msgid, "a test").unwrap();
    assert!(keeper.wait().unwrap().success());
    assert!(never_ran(&rig) && rig.outcome_on_disk().is_none(), "the loop says: not started");
    // A signal, before there is anybody to take it.
    let mut rig = self::rig("touch ran", false);
    let keeper = rig.keeper();
    rig.control.say(&Control::Signal(10)).unwrap();
    while rig.carry() {}
    pause(200);
    assert!(rig.outcome_on_disk().is_none());
    rig.control.say(&Control::Signal(2)).unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::NotStarted);
    assert!(never_ran(&rig));
}

pub fn a_keeper_that_is_killed_while_it_waits_costs_nothing() {
    let mut rig = rig("touch ran; wc -c", false);
    rig.send(&[7; 500_000]);
    let mut keeper = rig.keeper();
    while rig.carry() {}
    pause(200);
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    rig.send(&[7; 500_000]);
    rig.stdin.end(EndKind::Eof).unwrap();
    assert_eq!(rig.run(), Outcome::Exited(0));
    assert_eq!(rig.stdout(), b"1000000\n");
}

/// Says which run it is, reads all its input, and stays until it may end.
const SAYS: &str = "echo run >>runs; wc -l <runs; wc -c; touch said; while [ ! -e end ]; do sleep 0.01; done; exit 5";

pub fn what_may_be_run_again_gives_the_output_of_one_run() {
    let input = vec![7; 2_000_000];
    for killed in 0..3 {
        let mut rig = whole(SAYS, true, &input);
        for run in 0..killed {
            let mut keeper = rig.keeper();
            rig.until("its output", |rig| rig.home("said").exists());
            pause(100);
            keeper.kill().unwrap();
            keeper.wait().unwrap();
            std::fs::remove_file(rig.home("said")).unwrap();
            rig.carry();
            assert!(
                rig.stdout().is_empty() && segments(&*rig.disk, &log_out(rig.msgid, Chan::STDOUT)).unwrap().is_empty()
            );
            assert_eq!(runs_again(&*rig.disk, rig.msgid).unwrap(), run);
        }
        std::fs::write(rig.home("end"), "").unwrap();
        assert_eq!(rig.run(), Outcome::Exited(5));
        let text = String::from_utf8_lossy(rig.stdout()).into_owned();
        let numbers: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(numbers, [(killed + 1).to_string().as_str(), "2000000"]);
        assert_eq!(rig.ends(), [Some(EndKind::Eof); 2]);
        assert_eq!(hinted(&*rig.disk, &format!("{}/read", log_in(rig.msgid, Chan::STDIN))).unwrap(), 0);
        assert!(!rig.disk.exists(&Place::Jobs.file(rig.msgid, &format!("{HELD}/2"))));
    }
    // The control: what may not be run again is not, and its input need not stay.
    let mut rig = whole(SAYS, false, &input);
    let mut keeper = rig.keeper();
    rig.until("its output", |rig| rig.home("said").exists() && !rig.stdout().is_empty());
    pause(100);
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    assert_eq!(rig.run(), Outcome::Interrupted);
    assert_eq!(std::fs::read_to_string(rig.home("runs")).unwrap(), "run\n");
    assert!(hinted(&*rig.disk, &format!("{}/read", log_in(rig.msgid, Chan::STDIN))).unwrap() > 0);
}

pub fn what_may_be_run_again_is_when_its_guard_dies() {
    let mut rig = whole(SAYS, true, b"input");
    let mut keeper = rig.keeper();
    rig.until("its output", |rig| rig.home("said").exists());
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", keeper.id())).unwrap();
    let guard: i32 = children.trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(guard).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    assert!(!keeper.wait().unwrap().success());
    assert_eq!(rig.outcome_on_disk(), None);
    std::fs::write(rig.home("end"), "").unwrap();
    assert_eq!(rig.run(), Outcome::Exited(5));
    assert_eq!(rig.stdout().iter().filter(|b| **b == b'\n').count(), 2);
}

pub fn what_may_be_run_again_and_is_cancelled_is_not() {
    let mut rig = whole(WITNESS, true, b"");
    // It sees an end of file, which is authentic here.
    let keeper = rig.keeper();
    assert_eq!(rig.wait_for(keeper), Outcome::Exited(0));
    let rig = whole("echo run >>runs; touch ready; sleep 100", true, b"");
    let mut keeper = rig.keeper();
    while !rig.home("ready").exists() {
        pause(5);
    }
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    job::submit::cancel(&*rig.disk, rig.msgid, "a test").unwrap();
    assert!(rig.keeper().wait().unwrap().success());
    assert_eq!(rig.outcome_on_disk(), Some(Outcome::Interrupted));
    assert_eq!(std::fs::read_to_string(rig.home("runs")).unwrap(), "run\n");
    saw_nothing(&rig);
}

pub fn held_output_larger_than_the_quota_ends_the_job() {
    let mut rig = whole("exec yes", true, b"");
    assert_eq!(rig.run(), Outcome::OutputTooLarge(QUOTA));
    assert_eq!(rig.ends()[0], Some(EndKind::Aborted));
    let size = rig.stdout().len() as u64;
    assert!((QUOTA - (1 << 17)..QUOTA + (2 << 20)).contains(&size), "{size}");
    // The control: as much as the quota lets through is delivered.
    let mut rig = whole("head -c 2900000 /dev/zero", true, b"");
    assert_eq!(rig.run(), Outcome::Exited(0));
    assert_eq!(rig.stdout().len(), 2_900_000);
}

/// All that a keeper does for a job that may be run again, without the command:
/// run number `run` says so. Says whether the command was to be started.
fn live(rig: &Rig, changes: i64, run: u32) -> (bool, Result<(), job::Error>) {
    let again = |arrival| begin(&site(&rig.root, changes), rig.msgid, &known(&rig.root), arrival);
    let looked = match again(Arrival::Awaited) {
        Ok(Begin::Await(mut waiting)) => waiting.look().and_then(again),
        other => other,
    };
    let started = match looked {
        Ok(Begin::Start(started)) => started,
        other => return (false, other.map(drop)),
    };
    let ended = (|| {
        let mut logs = started.job.logs()?;
        logs.stdout.append(format!("run {run}").as_bytes())?;
        started.job.finish(&mut logs, Outcome::Exited(run as u8), EndKind::Eof)
    })();
    (true, ended.map(drop))
}

pub fn a_crash_at_any_change_of_what_may_be_run_again_gives_one_run() {
    let mut twice = 0;
    for changes in 0.. {
        let mut rig = whole("true", true, b"input");
        let (started, first) = live(&rig, changes, 1);
        let exited = rig.outcome_on_disk();
        if exited.is_none() {
            for chan in [Chan::STDOUT, Chan::STDERR] {
                let offered = segments(&*rig.disk, &log_out(rig.msgid, chan)).unwrap();
                assert!(offered.is_empty(), "offered before run.exit, after {changes} changes");
            }
        }
        let (again, second) = live(&rig, i64::MAX, 2);
        second.unwrap();
        assert_eq!(again, exited.is_none(), "after {changes} changes");
        twice += u32::from(started && again);
        rig.until("the end", |rig| rig.control_ended && rig.ends() == [Some(EndKind::Eof); 2]);
        let (outcome, run) = if again { (Outcome::Exited(2), "run 2") } else { (Outcome::Exited(1), "run 1") };
        assert_eq!((rig.exit(), rig.stdout()), (Some(outcome), run.as_bytes()), "after {changes} changes");
        assert!(matches!(look(&rig), Begin::Nothing), "it is over");
        if first.is_ok() {
            assert!(changes > 20 && twice > 5, "{changes} {twice}");
            break;
        }
    }
}

/// What a real reboot leaves: marks of another boot, or such that lost their content.
pub fn a_start_in_another_boot_counts_as_one_whatever_it_says() {
    for content in [&b"boot=another\nkeeper=1\nat=0\n"[..], b"", b"\0\0\0\0"] {
        let run = |repeat| {
            let rig = whole("touch ran; echo one", repeat, b"");
            rig.disk.commit(&Place::Jobs.file(rig.msgid, Mark::RunStarted.name()), content).unwrap();
            rig
        };
        let mut rig = run(false);
        assert_eq!(rig.run(), Outcome::Interrupted);
        assert!(!rig.home("ran").exists());
        let mut rig = run(true);
        assert_eq!((rig.run(), rig.stdout()), (Outcome::Exited(0), &b"one\n"[..]));
        assert_eq!(runs_again(&*rig.disk, rig.msgid).unwrap(), 1);
    }
}

pub fn what_stands_against_another_run_does_not_undo_the_first() {
    let mut rig = whole("touch ran", true, b"");
    rig.disk.commit(&Place::Jobs.file(rig.msgid, Mark::RunStarted.name()), b"").unwrap();
    std::fs::write(rig.root.join("refuse"), "").unwrap();
    assert_eq!(rig.run(), Outcome::Interrupted, "it cannot be said that it did not run");
    assert!(!rig.home("ran").exists());
}
