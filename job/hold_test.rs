//! Keepers whose lock has lost its name: each goes on alone, another leaves, and no kill of ours is told as an end.

use crate::deaths::{chance, children, kill, seeds};
use crate::pause;
use crate::rig::{Rig, known, site};
use job::batch::Arrival;
use job::keeper::{Begin, begin};
use job::message::Start;
use spool::facts::Facts;
use spool::fs::{Fs, Lock};
use spool::layout::{Place, running};
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::EndKind;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

const STOP: i32 = 19;
const CONT: i32 = 18;

/// The name of the keeper's lock.
fn name(rig: &Rig) -> PathBuf {
    rig.root.join(running(rig.msgid))
}

fn is_seen(rig: &Rig) -> bool {
    rig.disk.is_locked(&running(rig.msgid)).unwrap()
}

/// A job whose command notes that it was started and echoes what it reads.
fn started(mut rig: Rig) -> (Rig, Child) {
    let keeper = rig.keeper();
    rig.until("its start", |rig| rig.home("ready").exists());
    (rig, keeper)
}

fn runs(rig: &Rig) -> usize {
    std::fs::read_to_string(rig.home("ready")).unwrap_or_default().lines().count()
}

const ECHO: &str = "echo run >>ready; cat; echo end";

/// The lock of another keeper, once nobody has it.
fn other(rig: &Rig) -> Lock {
    let lock = rig.disk.lock_file(&running(rig.msgid), Duration::from_secs(20)).unwrap();
    lock.expect("nobody else has it")
}

/// How a keeper that is to leave has left: well, or not. Panics if it stays.
fn leaves(keeper: &mut Child) -> bool {
    let late = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = keeper.try_wait().unwrap() {
            return status.success();
        }
        if Instant::now() > late {
            kill(keeper.id() as i32, 9);
            panic!("it stays");
        }
        pause(2);
    }
}

/// Every file of the job with its size.
fn sizes(rig: &Rig) -> Vec<(PathBuf, u64)> {
    fn walk(dir: &Path, sizes: &mut Vec<(PathBuf, u64)>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), sizes),
                false => sizes.push((entry.path(), entry.metadata().unwrap().len())),
            }
        }
    }
    let mut sizes = Vec::new();
    walk(&rig.root.join(Place::Jobs.dir(rig.msgid)), &mut sizes);
    sizes.sort();
    sizes
}

/// Others saw no keeper any more, and another one was started.
pub fn a_keeper_whose_lock_loses_its_name_is_seen_again_within_moments() {
    let (mut rig, keeper) = started(Rig::new(ECHO));
    let second_name = |path: &Path| path.with_file_name(format!("second.{}", rand::random::<u32>()));
    let away = |path: &Path| std::fs::rename(path, second_name(path)).unwrap();
    // In one step: the keeper may be faster than the second of two.
    let replace = |path: &Path, make: &dyn Fn(&Path)| {
        let other = second_name(path);
        make(&other);
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, &other, CWD, path, RenameFlags::EXCHANGE).unwrap();
    };
    type Way<'a> = (&'a str, &'a dyn Fn(&Path));
    let ways: [Way; 7] = [
        ("removed", &|path| std::fs::remove_file(path).unwrap()),
        ("renamed", &|path| away(path)),
        ("replaced by a file", &|path| replace(path, &|path| std::fs::write(path, b"").unwrap())),
        ("replaced by a directory", &|path| replace(path, &|path| std::fs::create_dir(path).unwrap())),
        ("replaced by a link", &|path| replace(path, &|path| std::os::unix::fs::symlink(path, path).unwrap())),
        ("given a second name", &|path| std::fs::hard_link(path, second_name(path)).unwrap()),
        ("renamed with its directory", &|path| away(path.parent().unwrap())),
    ];
    for (way, lose) in ways {
        rig.until("the lock", is_seen);
        let path = name(&rig);
        lose(&path);
        let began = Instant::now();
        rig.until(&format!("the lock that was {way}"), is_seen);
        println!("{way}: seen again after {:?}", began.elapsed());
        rig.send(b"more\n");
    }
    rig.stdin.end(EndKind::Eof).unwrap();
    assert_eq!(rig.wait_for(keeper), Outcome::Exited(0));
    assert_eq!(rig.stdout(), ["more\n".repeat(7), "end\n".into()].concat().as_bytes());
}

/// The second one killed the command, and the first told that as the command's own end.
pub fn a_second_keeper_leaves_a_job_whose_keeper_lives_without_its_lock() {
    for repeat in [false, true] {
        let (argv, batch) = (vec![ECHO.into()], repeat);
        let mut rig = Rig::with(Start { argv, batch, repeat, ..Start::default() });
        rig.send(b"some\n");
        if repeat {
            rig.stdin.end(EndKind::Eof).unwrap();
            // Its output is held back, so the command is caught by its being stopped.
            while rig.carry() {}
        }
        let (mut rig, keeper) = started(rig);
        let first = keeper.id() as i32;
        kill(first, STOP);
        std::fs::remove_file(name(&rig)).unwrap();
        let marks = || ["run.exit", "run.again.1"].map(|mark| rig.disk.exists(&Place::Jobs.file(rig.msgid, mark)));
        assert!(leaves(&mut rig.keeper()), "the second one leaves");
        assert_eq!(marks(), [false, false]);
        assert!(!name(&rig).exists(), "it leaves no name behind");
        assert!(!rig.processes().is_empty() || repeat, "the command lives");
        kill(first, CONT);
        rig.send_more(repeat);
        assert_eq!(rig.wait_for(keeper), Outcome::Exited(0));
        let said = if repeat { "some\nend\n" } else { "some\nmore\nend\n" };
        assert_eq!((rig.stdout(), runs(&rig)), (said.as_bytes(), 1));
    }
}

impl Rig {
    /// Ends the input, if that was not done, with a little more of it.
    fn send_more(&mut self, ended: bool) {
        if !ended {
            self.send(b"more\n");
            self.stdin.end(EndKind::Eof).unwrap();
        }
    }
}

/// A command that another keeper killed ended by itself, as the first told it.
pub fn a_kill_by_another_keeper_is_never_told_as_the_commands_own_end() {
    let (mut rig, mut keeper) = started(Rig::new(ECHO));
    rig.send(b"some\n");
    rig.until("the echo", |rig| rig.stdout() == b"some\n");
    // Another keeper that does not see the first one: it has the lock, and kills.
    kill(keeper.id() as i32, STOP);
    std::fs::remove_file(name(&rig)).unwrap();
    let lock = other(&rig);
    let command = rig.processes();
    assert!(!command.is_empty());
    command.into_iter().for_each(|pid| kill(pid, 9));
    let before = sizes(&rig);
    kill(keeper.id() as i32, CONT);
    pause(500);
    assert_eq!(sizes(&rig), before, "it does not know yet whose the job is");
    assert!(keeper.try_wait().unwrap().is_none());
    let exit = Place::Jobs.file(rig.msgid, Mark::RunExit.name());
    Facts::new().with("outcome", Outcome::Interrupted).commit(&*rig.disk, &exit).unwrap();
    let before = sizes(&rig);
    assert!(leaves(&mut keeper), "it leaves quietly");
    assert_eq!(sizes(&rig), before, "without another byte of marks or logs");
    assert!(is_seen(&rig), "the other's lock is still there");
    drop(lock);
    // The next keeper completes the rest, as ever.
    let next = rig.keeper();
    assert_eq!(rig.wait_for(next), Outcome::Interrupted);
}

/// The same while the command goes on: two keepers wrote the same logs.
pub fn a_keeper_that_lost_its_job_kills_its_command_and_writes_nothing() {
    let (mut rig, mut keeper) = started(Rig::new("echo run >>ready; while :; do echo x; sleep 0.01; done"));
    rig.until("some output", |rig| rig.stdout().len() > 10);
    kill(keeper.id() as i32, STOP);
    std::fs::remove_file(name(&rig)).unwrap();
    let lock = other(&rig);
    let run = Place::Jobs.file(rig.msgid, "run.again.1");
    Facts::new().with("keeper", std::process::id()).commit(&*rig.disk, &run).unwrap();
    let before = sizes(&rig);
    kill(keeper.id() as i32, CONT);
    assert!(leaves(&mut keeper));
    assert_eq!(sizes(&rig), before);
    assert!(is_seen(&rig), "the other's lock is still there");
    drop(lock);
    let late = Instant::now() + Duration::from_secs(20);
    while !rig.processes().is_empty() {
        assert!(Instant::now() < late, "its command is left");
        pause(5);
    }
}

/// The guard had only the lock that had lost its name: another keeper began while the command lived.
pub fn the_guard_holds_the_lock_that_was_taken_anew() {
    let (mut rig, mut keeper) = started(Rig::new(ECHO));
    std::fs::remove_file(name(&rig)).unwrap();
    rig.until("the lock", is_seen);
    // The keeper hands it over in the same moment.
    pause(200);
    let guard = children(keeper.id())[0];
    kill(guard, STOP);
    kill(keeper.id() as i32, 9);
    keeper.wait().unwrap();
    pause(50);
    assert!(is_seen(&rig) && !rig.processes().is_empty(), "the guard lives, and so does the command");
    kill(guard, CONT);
    rig.until("the end of the guard", |rig| !is_seen(rig));
    assert!(rig.processes().is_empty(), "it has killed first");
}

/// A keeper that waited for a batch job's input did not look at its lock at all.
pub fn a_keeper_that_waits_for_input_takes_its_lock_anew_or_leaves() {
    let rig = || {
        let argv = vec![ECHO.into()];
        let mut rig = Rig::with(Start { argv, batch: true, ..Start::default() });
        rig.send(b"some\n");
        let keeper = rig.keeper();
        let window = format!("{}/window", spool::layout::log_in(rig.msgid, Chan::STDIN));
        rig.until("a keeper that waits", |rig| is_seen(rig) && rig.disk.exists(&window));
        (rig, keeper)
    };
    let (mut seen, keeper) = rig();
    for _ in 0..3 {
        std::fs::remove_file(name(&seen)).unwrap();
        seen.until("the lock", is_seen);
    }
    seen.stdin.end(EndKind::Eof).unwrap();
    assert_eq!(seen.wait_for(keeper), Outcome::Exited(0));
    assert_eq!(seen.stdout(), b"some\nend\n");

    let (mut lost, mut keeper) = rig();
    kill(keeper.id() as i32, STOP);
    std::fs::remove_file(name(&lost)).unwrap();
    let lock = other(&lost);
    lost.stdin.end(EndKind::Eof).unwrap();
    while lost.carry() {}
    kill(keeper.id() as i32, CONT);
    assert!(leaves(&mut keeper));
    assert!(!lost.has(Mark::RunStarted) && is_seen(&lost), "another keeper has the job");
    drop(lock);
}

/// A keeper that found the mark of another's run ended with an error.
pub fn a_run_that_another_keeper_has_begun_is_left_to_it() {
    let rig = Rig::new(ECHO);
    std::fs::write(rig.root.join("thief"), b"").unwrap();
    let looked = begin(&site(&rig.root, i64::MAX), rig.msgid, &known(&rig.root), Arrival::Awaited);
    assert!(matches!(looked, Ok(Begin::Nothing)), "{:?}", looked.err());
    assert_eq!(rig.outcome_on_disk(), None);
}

/// Two keepers began, and one said that the other's `END` was in its way.
pub fn names_that_are_lost_at_any_moment_cost_nothing() {
    for seed in seeds(15) {
        println!("SEED={seed}");
        let repeat = seed % 3 == 0;
        let (argv, batch) = (vec![ECHO.into()], seed % 3 != 1);
        let mut rig = Rig::with(Start { argv, batch, repeat, ..Start::default() });
        rig.send(b"some\n");
        let mut keepers = vec![rig.keeper()];
        for turn in 0..12 {
            let until = Instant::now() + Duration::from_micros(chance(seed * 100 + turn, 25_000));
            while Instant::now() < until {
                rig.carry();
            }
            let _ = std::fs::remove_file(name(&rig));
            keepers.push(rig.keeper());
            if turn == 6 {
                rig.stdin.end(EndKind::Eof).unwrap();
            }
        }
        rig.until("the end", |rig| rig.control_ended && rig.ends().iter().all(Option::is_some));
        assert_eq!(rig.exit(), Some(Outcome::Exited(0)), "seed {seed}");
        assert_eq!((rig.stdout(), runs(&rig)), (b"some\nend\n".as_slice(), 1), "seed {seed}");
        for mut keeper in keepers {
            assert!(keeper.wait().unwrap().success(), "seed {seed}");
        }
    }
}
