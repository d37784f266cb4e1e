//! Jobs at a gate, with a clock that the test moves.

use super::*;

const K: u64 = 1 << 10;
const TICK: Duration = Duration::from_millis(1);

struct Job {
    who: Mover,
    /// Bytes that it still has to move.
    left: u64,
    moved: u64,
    ask_at: Duration,
    /// The longest that it got nothing.
    starved: Duration,
    served: Duration,
    ended: Option<Duration>,
}

fn job(n: u8, priority: Priority, left: u64) -> Job {
    let who = Mover { peer: Username::of_ca(b"peer"), msgid: MsgId([n; 20]), chan: Chan::STDIN, priority };
    let zero = Duration::ZERO;
    Job { who, left, moved: 0, ask_at: zero, starved: zero, served: zero, ended: None }
}

struct World {
    gate: Gate,
    now: Duration,
}

fn world() -> World {
    World { gate: Gate::new(Way::Up), now: Duration::ZERO }
}

impl World {
    /// Lets the jobs run for so long.
    fn run(&mut self, timetable: &str, jobs: &mut [Job], long: Duration) {
        let timetable: Timetable = timetable.parse().unwrap();
        let end = self.now + long;
        jobs.iter_mut().for_each(|job| job.served = job.served.max(self.now));
        while self.now < end {
            for job in jobs.iter_mut().filter(|job| job.left > 0 && job.ask_at <= self.now) {
                match self.gate.ask(self.now, &timetable, &job.who) {
                    Ok(most) => {
                        let bytes = most.min(job.left);
                        assert!(bytes > 0);
                        self.gate.moved(self.now, &timetable, &job.who, bytes);
                        (job.left, job.moved) = (job.left - bytes, job.moved + bytes);
                        job.starved = job.starved.max(self.now - job.served);
                        job.served = self.now;
                        job.ended = (job.left == 0).then_some(self.now);
                    }
                    Err(wait) => {
                        assert!(!wait.is_zero());
                        job.ask_at = self.now + wait;
                    }
                }
            }
            self.now += TICK;
        }
    }
}

fn within(value: u64, expected: u64, percent: u64) {
    assert!(value.abs_diff(expected) * 100 <= expected * percent, "{value}, expected {expected} within {percent} %");
}

#[test]
fn the_rate_is_kept_whatever_it_is_and_however_many_share_it() {
    for (rate, way) in [K, 64 * K, K << 10, 100 << 20].into_iter().flat_map(|rate| [(rate, Way::Up), (rate, Way::Down)])
    {
        for count in [1, 3, 40] {
            let (mut world, text) = (World { gate: Gate::new(way), now: Duration::ZERO }, format!("{rate}B"));
            let mut jobs: Vec<Job> = (0..count).map(|n| job(n, Priority::Normal, u64::MAX)).collect();
            world.run(&text, &mut jobs, Duration::from_secs(20));
            let moved = jobs.iter().map(|job| job.moved).sum::<u64>();
            let piece = Bucket { rate, ..Bucket::new(way) }.piece();
            assert!(moved + piece >= 19 * rate && moved <= 21 * rate, "{moved} at {rate}");
            if way == Way::Down {
                continue;
            }
            // A puller waits for the next piece, and gives up after three seconds.
            let starved = jobs.iter().map(|job| job.starved).max().unwrap();
            assert!(starved < Duration::from_millis(2500), "{rate} {count}: nothing for {starved:?}");
        }
    }
}

#[test]
fn without_a_limit_nothing_waits() {
    let (gate, who) = (Gate::new(Way::Down), job(1, Priority::Normal, 0).who);
    for text in ["off", "0", "1k:off"] {
        for _ in 0..100 {
            assert_eq!(gate.ask(Duration::ZERO, &text.parse().unwrap(), &who), Ok(u64::MAX), "{text}");
            gate.moved(Duration::ZERO, &text.parse().unwrap(), &who, 1 << 30);
        }
    }
    assert_eq!(gate.ask(Duration::ZERO, &Timetable::default(), &who), Ok(u64::MAX));
    assert!(gate.ask(Duration::ZERO, &"1k".parse().unwrap(), &who).is_err(), "control: a limit is one");
}

#[test]
fn control_is_counted_and_never_waits() {
    let (gate, limit) = (Gate::new(Way::Up), "10k".parse().unwrap());
    let bulk = job(1, Priority::Normal, 0).who;
    let control = Mover { chan: Chan::CONTROL, ..bulk.clone() };
    let second = Duration::from_secs(1);
    assert!(gate.ask(second, &limit, &bulk).is_err(), "a bucket begins empty");
    assert!(gate.ask(2 * second, &limit, &bulk).is_ok());
    gate.moved(2 * second, &limit, &control, 50 * K);
    assert_eq!(gate.ask(2 * second, &limit, &control), Ok(u64::MAX));
    assert!(gate.ask(4 * second, &limit, &bulk).is_err(), "what it took is owed");
    assert!(gate.ask(8 * second, &limit, &bulk).is_ok());
}

#[test]
fn a_small_job_passes_one_that_has_moved_much() {
    let alone = {
        let mut jobs = [job(1, Priority::Normal, 512 * K)];
        world().run("1M", &mut jobs, Duration::from_secs(10));
        jobs[0].ended.unwrap()
    };
    let mut world = world();
    let mut jobs = vec![job(1, Priority::Normal, u64::MAX)];
    world.run("1M", &mut jobs, Duration::from_secs(10));
    let begun = world.now;
    jobs.push(job(2, Priority::Normal, 512 * K));
    world.run("1M", &mut jobs, Duration::from_secs(10));
    let took = jobs[1].ended.expect("it has ended") - begun;
    assert!(took < alone * 2, "{took:?} beside a large one, {alone:?} alone");
}

#[test]
fn shares_are_by_priority_and_nobody_starves() {
    let mut world = world();
    let mut jobs = [
        job(1, Priority::High, u64::MAX),
        job(2, Priority::Normal, u64::MAX),
        job(3, Priority::Normal, u64::MAX),
        job(4, Priority::Low, u64::MAX),
    ];
    world.run("1M", &mut jobs, Duration::from_secs(60));
    let [high, normal, other, low] = jobs.each_ref().map(|job| job.moved);
    within(normal, other, 5);
    within(high, 4 * normal, 20);
    within(normal, 4 * low, 30);
    assert!(jobs.iter().all(|job| job.starved < Duration::from_millis(1500)));
}

#[test]
fn another_rate_holds_at_once() {
    let mut world = world();
    let mut jobs = [job(1, Priority::Normal, u64::MAX)];
    world.run("1M", &mut jobs, Duration::from_secs(4));
    let before = jobs[0].moved;
    world.run("64k", &mut jobs, Duration::from_secs(10));
    within(jobs[0].moved - before, 10 * 64 * K, 10);
    let before = jobs[0].moved;
    world.run("4M", &mut jobs, Duration::from_secs(4));
    within(jobs[0].moved - before, 16 << 20, 10);
}

#[test]
fn one_that_has_gone_keeps_nobody_waiting() {
    let (gate, limit) = (Gate::new(Way::Up), "1M".parse().unwrap());
    let [gone, stays] = [1, 2].map(|n| job(n, Priority::Normal, 0).who);
    let mut now = Duration::from_secs(1);
    gate.moved(now, &limit, &stays, 8 << 20);
    assert!(gate.ask(now, &limit, &gone).is_err());
    // The one that stays has moved much; the other never asks again.
    let begun = now;
    loop {
        match gate.ask(now, &limit, &stays) {
            Ok(_) => break,
            Err(wait) => now += wait,
        }
    }
    assert!(now - begun < Duration::from_secs(9), "{:?}", now - begun);
}

#[test]
fn priorities_are_read_as_they_are_written() {
    for priority in [Priority::High, Priority::Normal, Priority::Low] {
        assert_eq!(priority.word().parse(), Ok(priority));
    }
    assert!("urgent".parse::<Priority>().is_err());
}
