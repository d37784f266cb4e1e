//! Signs of life, given and asked for.

use super::*;

fn life(silent_seconds: u64, pid: Option<u32>) -> Life {
    let fine = Child { pid: Some(std::process::id()), ..Child::default() };
    Life { pid: std::process::id(), service: fine, r#loop: Child { pid, silent_seconds, restarts: 3 } }
}

/// A disk in a directory whose path is longer than a socket's may be.
fn disk() -> (tempfile::TempDir, Disk) {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::make(&directory.path().join("d".repeat(200))).unwrap();
    (directory, disk)
}

#[test]
fn a_pulse_beats_until_the_smallest_piece_of_work_takes_two_minutes() {
    let (start, second) = (Instant::now(), Duration::from_secs(1));
    let mut pulse = Pulse::new(start);
    let mut under_way = Vec::new();
    assert!(pulse.beats(start, |back| under_way.push(back)));
    assert!(pulse.beats(start + 100 * second, |_| panic!("one is under way")));
    under_way.pop().unwrap().done();
    assert!(pulse.beats(start + 101 * second, |back| under_way.push(back)));
    assert!(pulse.beats(start + 220 * second, |_| panic!("one is under way")));
    assert!(!pulse.beats(start + 221 * second, |_| panic!("one is under way")));
    // A child that was only slow is alive again.
    under_way.pop().unwrap().done();
    assert!(pulse.beats(start + 300 * second, |back| under_way.push(back)));
    drop(under_way.pop());
    assert!(!pulse.beats(start + 500 * second, |_| panic!("it was lost, not done")));
}

#[test]
fn a_daemon_answers_whoever_asks_and_takes_the_place_of_a_dead_one() {
    let (_directory, disk) = disk();
    disk.make_dir(SOCKET).unwrap();
    disk.make_dir(&format!("{SOCKET}/odd")).unwrap();
    drop(Door::open(&disk).expect("in the place of what does not belong there"));
    let door = Arc::new(Door::open(&disk).expect("in the place of one that is gone"));
    let thread = {
        let door = door.clone();
        std::thread::spawn(move || {
            let mut count = 0;
            while let Ok(caller) = door.accept() {
                count += 1;
                life(count, None).tell(&caller);
            }
            count
        })
    };
    for count in 1..=100 {
        assert_eq!(ask(&disk, Duration::from_secs(60)), Ok(life(count, None)));
    }
    door.close();
    assert_eq!(thread.join().unwrap(), 100);
}

/// A question to a daemon that hung was to wait for ever, or to fail at once when its door was full.
#[test]
fn one_that_does_not_answer_costs_its_patience_however_many_asked_before() {
    let (_directory, disk) = disk();
    let patience = Duration::from_millis(20);
    assert!(matches!(ask(&disk, patience), Err(Trouble::Silent { who: "daemon", pid: None, .. })), "nobody is there");
    let _door = Door::open(&disk).unwrap();
    let us = Trouble::Silent { who: "daemon", pid: Some(std::process::id()), state: State::of(std::process::id()) };
    assert_eq!(ask(&disk, patience).unwrap_err().to_string(), us.to_string());
    let mut waiting: Vec<Question> = (0..2 * BACKLOG).map(|_| Question::new(Instant::now())).collect();
    assert!(waiting.iter_mut().all(|question| question.answer(&disk).is_none()));
    assert!(matches!(ask(&disk, patience), Err(Trouble::Silent { who: "daemon", pid: None, .. })), "the door is full");
}

#[test]
fn half_an_answer_is_none_and_one_that_breaks_off_is_asked_for_again() {
    let (_directory, disk) = disk();
    let door = Door::open(&disk).unwrap();
    let mut question = Question::new(Instant::now());
    assert_eq!(question.answer(&disk), None);
    let caller = door.accept().unwrap();
    let line = serde_json::to_string(&life(1, None)).unwrap() + "\n";
    let (first, second) = line.as_bytes().split_at(20);
    rustix::net::send(&caller, first, SendFlags::NOSIGNAL).unwrap();
    assert_eq!(question.answer(&disk), None);
    rustix::net::send(&caller, second, SendFlags::NOSIGNAL).unwrap();
    assert_eq!(question.answer(&disk), Some(life(1, None)));
    let mut question = Question::new(Instant::now());
    assert_eq!(question.answer(&disk), None);
    let caller = door.accept().unwrap();
    rustix::net::send(&caller, first, SendFlags::NOSIGNAL).unwrap();
    drop(caller);
    assert_eq!(question.answer(&disk), None);
    assert_eq!(question.answer(&disk), None);
    assert_eq!(question.answer(&disk), None, "it has knocked again");
    life(2, None).tell(&door.accept().unwrap());
    assert_eq!(question.answer(&disk), Some(life(2, None)));
}

#[test]
fn a_child_is_in_trouble_when_it_is_gone_stopped_or_silent() {
    let us = Some(std::process::id());
    assert_eq!(life(9, us).troubles(), []);
    let text = |life: Life| life.troubles().iter().map(Trouble::to_string).collect::<Vec<_>>().join("\n");
    assert!(text(life(10, us)).starts_with("the loop here does not answer (pid "));
    assert_eq!(text(life(0, None)), "the loop here does not run at the moment (started again 3 times)");
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while State::of(child.id()) != State::Stopped {
        assert!(Instant::now() < until, "it stops");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(
        text(life(0, Some(child.id()))),
        format!("the loop here does not answer (pid {} is stopped)", child.id())
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(State::of(child.id()), State::Dead);
}

#[test]
fn a_state_is_read_behind_whatever_a_process_calls_itself() {
    assert_eq!(State::parse("12 (net) T (x) D 1 2 3"), State::Disk);
    assert_eq!(State::parse("12 (netplumb) t 1 2 3"), State::Stopped);
    assert_eq!(State::parse("12 (netplumb) S 1 2 3"), State::Other);
    assert_eq!(State::parse(""), State::Other);
}
