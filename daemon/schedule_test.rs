//! The schedule under a clock and a dice of our own. Random tests print their
//! seed when they fail; `NETPLUMB_SEED` repeats one.

use super::*;
use crate::ready::{PROBES_MAX, UNDERWAY_MAX};
use spool::clock::System;
use spool::retry::Ceiling;
use std::sync::Mutex;

/// A small generator (SplitMix64) with a seed.
struct Dice(Mutex<u64>);

impl Rng for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let mut state = self.0.lock().unwrap();
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes()[..chunk.len()]);
        }
    }
}

fn dice() -> Dice {
    let given = std::env::var("NETPLUMB_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| System::default().below(u64::MAX));
    println!("NETPLUMB_SEED={seed}");
    Dice(Mutex::new(seed))
}

fn msgid(n: u64) -> MsgId {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    MsgId(bytes)
}

fn peer(n: u64) -> Username {
    Username::of_ca(&n.to_be_bytes())
}

#[path = "storm_test.rs"]
mod storms;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A schedule with its clock: peers are told by the first two bytes' remainder.
struct World {
    schedule: Schedule,
    dice: Dice,
    now: Duration,
    peers: u64,
}

impl World {
    fn new(peers: u64) -> World {
        World { schedule: Schedule::new(), dice: dice(), now: Duration::from_secs(1000), peers }
    }

    fn look(&mut self, n: u64, because: Because) {
        self.schedule.look(Place::Queue, msgid(n), because, self.now, &self.dice);
    }

    fn peer_of(&self, msgid: MsgId) -> u64 {
        u64::from_be_bytes(msgid.0[..8].try_into().unwrap()) % self.peers
    }

    /// What may be started at this moment.
    fn starts(&mut self) -> Vec<(Place, MsgId)> {
        let peers = self.peers;
        let of = |msgid: MsgId| u64::from_be_bytes(msgid.0[..8].try_into().unwrap()) % peers;
        while self.schedule.sort(1000, &mut |_, msgid| Some(peer(of(msgid)))) {}
        self.schedule.tick(self.now, &self.dice);
        std::iter::from_fn(|| self.schedule.start(self.now, &self.dice)).collect()
    }

    fn report(&mut self, n: u64, turn: Turn, change: impl FnOnce(&mut Report)) -> Option<Duration> {
        let mut report = Report::new(Place::Queue, msgid(n), turn);
        change(&mut report);
        self.schedule.report(&report, self.now, &self.dice)
    }

    fn unreachable(&mut self, n: u64) -> Option<Duration> {
        self.report(n, Turn::Later, |report| report.cause = Some("unreachable".into()))
    }

    /// Lets time pass until something may start, at most so long; says how long it took.
    fn until_start(&mut self, max: Duration) -> Option<(Duration, Vec<(Place, MsgId)>)> {
        let began = self.now;
        loop {
            let starts = self.starts();
            if !starts.is_empty() {
                return Some((self.now - began, starts));
            }
            self.now += self.schedule.wake(self.now)?.max(Duration::from_micros(1));
            if self.now > began + max {
                self.now = began + max;
                return None;
            }
        }
    }
}

#[test]
fn an_event_is_a_look_at_once_and_many_are_one() {
    let mut world = World::new(1);
    for _ in 0..1000 {
        world.look(1, Because::Event);
    }
    assert_eq!(world.starts(), [(Place::Queue, msgid(1))]);
    assert_eq!(world.starts(), []);
}

#[test]
fn an_event_during_a_step_means_another_step_right_after() {
    let mut world = World::new(1);
    world.look(1, Because::Event);
    assert_eq!(world.starts().len(), 1);
    for _ in 0..1000 {
        world.look(1, Because::Event);
    }
    assert_eq!(world.starts(), [], "not two steps of one directory at a time");
    // Whatever the report says, also "gone": the event may be of a new directory.
    for turn in [Turn::Rest, Turn::Gone, Turn::Live, Turn::Peer, Turn::Later] {
        world.report(1, turn, |_| {});
        assert_eq!(world.starts().len(), 1, "{turn:?}");
        world.look(1, Because::Event);
    }
}

#[test]
fn what_is_gone_is_forgotten_and_may_come_again() {
    let mut world = World::new(1);
    world.look(1, Because::Event);
    world.look(2, Because::Event);
    assert_eq!(world.starts().len(), 2);
    world.report(1, Turn::Gone, |_| {});
    world.report(2, Turn::Gone, |_| {});
    assert!(world.schedule.is_empty() && world.schedule.wake(world.now).is_none());
    world.report(3, Turn::Gone, |_| {});
    assert!(world.schedule.is_empty(), "a late line about something unknown");
    // Some come back in another order: the old numbers must not be mixed up.
    world.look(2, Because::Event);
    world.schedule.everything();
    assert_eq!(world.starts(), [(Place::Queue, msgid(2))]);
    (3..7).for_each(|n| world.look(n, Because::Event));
    assert_eq!(world.starts().len(), 4);
    (2..7).for_each(|n| assert_eq!(world.report(n, Turn::Gone, |_| {}), None));
    assert!(world.schedule.is_empty());
}

#[test]
fn nothing_is_left_without_a_timer() {
    for turn in [Turn::Rest, Turn::Live, Turn::Peer, Turn::Later] {
        let mut world = World::new(1);
        world.look(1, Because::Event);
        world.starts();
        world.report(1, turn, |_| {});
        let (after, starts) = world.until_start(Duration::from_secs(7200)).expect("looked at again");
        assert_eq!(starts.len(), 1);
        let least = match turn {
            Turn::Rest => Duration::from_secs(45),
            Turn::Live => Duration::from_secs(30),
            Turn::Peer | Turn::Later | Turn::Gone => Duration::ZERO,
        };
        assert!(after >= least, "{turn:?} after {after:?}");
    }
}

/// A mark that was removed in a job at rest was seen after an hour; an hour later, with many of them, is fine.
#[test]
fn what_rests_is_looked_at_within_two_minutes_and_no_more_than_twice_in_a_second() {
    for (count, within) in [(1, 90), (90, 90), (1000, 1000), (20_000, 7200)] {
        let mut world = World::new(1);
        let rests = (0..count).map(|n| world.report(n, Turn::Rest, |_| {}));
        let last = rests.last().flatten().expect("it is looked at again");
        assert!(last <= Duration::from_secs(within), "{count}: {last:?}");
        assert!(last >= Duration::from_millis(count * 500).min(Duration::from_secs(3600)), "{count}: {last:?}");
    }
}

#[test]
fn a_lost_line_costs_a_retry_and_no_more() {
    let mut world = World::new(1);
    world.look(1, Because::Event);
    assert_eq!(world.starts().len(), 1);
    let (after, _) = world.until_start(Duration::from_secs(300)).expect("asked again");
    assert!(after >= Duration::from_micros(LOST));
}

#[test]
fn delays_double_up_to_their_ceiling() {
    for ceiling in [Ceiling::Live, Ceiling::Foreground, Ceiling::Background] {
        let mut world = World::new(1);
        world.look(1, Because::Event);
        world.starts();
        let mut longest = Duration::ZERO;
        for n in 0..200 {
            let next = world.report(1, Turn::Peer, |report| report.bound(ceiling)).unwrap();
            let bound = Duration::from_millis(100).saturating_mul(1 << n.min(16)).min(ceiling.delay_max());
            assert!(next <= bound, "{next:?} > {bound:?} at {n}");
            longest = longest.max(next);
            world.until_start(ceiling.delay_max() + SECOND).expect("asked again");
        }
        assert!(longest > ceiling.delay_max() / 2, "full jitter reaches far up");
    }
}

#[test]
fn a_word_with_progress_starts_the_delays_anew_and_one_without_does_not() {
    let mut world = World::new(1);
    world.look(1, Because::Event);
    world.starts();
    for _ in 0..20 {
        world.unreachable(1);
        world.until_start(61 * SECOND).unwrap();
    }
    let said = |word: &str| {
        let word = word.to_string();
        move |report: &mut Report| (report.heard, report.did) = (true, vec![word])
    };
    assert!(world.report(1, Turn::Peer, said("msg")).unwrap() <= 100 * MS);
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        world.until_start(61 * SECOND).unwrap();
        longest = longest.max(world.report(1, Turn::Peer, said("msg")).unwrap());
    }
    assert!(longest > 20 * SECOND, "two live peers must not spin: {longest:?}");
    world.until_start(61 * SECOND).unwrap();
    assert!(world.report(1, Turn::Peer, said("snd")).unwrap() <= 100 * MS);
}

#[test]
fn delays_are_drawn_independently_for_each_directory() {
    let mut world = World::new(1);
    for n in 0..64 {
        world.look(n, Because::Event);
    }
    let mut delays = std::collections::BTreeSet::new();
    while let [_, ..] = world.starts()[..] {
        for n in 0..64 {
            if matches!(
                world.schedule.steps.state(world.schedule.steps.numbers[&(Place::Queue, msgid(n))]),
                State::Underway { .. }
            ) {
                delays.insert(world.report(n, Turn::Peer, |_| {}).unwrap());
            }
        }
    }
    assert!(delays.len() > 60, "{} different delays", delays.len());
}

#[test]
fn a_word_of_the_peer_releases_what_waits_for_it() {
    for by_service in [true, false] {
        let mut world = World::new(2);
        // Even ones are of peer 0, odd ones of peer 1.
        for n in 0..6 {
            world.look(n, Because::Event);
        }
        world.starts();
        for _ in 0..12 {
            for n in 0..6 {
                world.unreachable(n);
            }
            world.now += 60 * SECOND;
            while world.starts().len() == PROBES_MAX {
                world.now += 100 * MS;
            }
        }
        for n in 0..6 {
            world.unreachable(n);
        }
        if by_service {
            world.schedule.heard(&peer(0), world.now);
        } else {
            world.look(0, Because::Event);
            world.starts();
            world.report(0, Turn::Rest, |report| report.heard = true);
        }
        let began = world.now;
        let mut started = Vec::new();
        while let Some((_, more)) = world.until_start((began + 51 * MS).saturating_sub(world.now)) {
            started.extend(more.into_iter().map(|(_, id)| world.peer_of(id)));
        }
        let expected = if by_service { 3 } else { 2 };
        assert_eq!(started.iter().filter(|&&of| of == 0).count(), expected, "all of peer 0 within 50 ms");
    }
}

#[test]
fn places_and_peers_take_turns() {
    let mut world = World::new(2);
    world.schedule.heard(&peer(0), world.now);
    for n in 0..1000 {
        world.look(2 * n, Because::Event);
    }
    world.schedule.look(Place::Jobs, msgid(2), Because::Event, world.now, &world.dice);
    world.look(1, Because::Event);
    let first = world.starts();
    assert!(first.contains(&(Place::Jobs, msgid(2))), "a pile in queue does not hide a job");
    assert!(first.contains(&(Place::Queue, msgid(1))), "nor another peer's message");
    let mut world = World::new(1);
    world.schedule.heard(&peer(0), world.now);
    for n in 0..100 {
        for place in Place::ALL {
            world.schedule.look(place, msgid(n), Because::Event, world.now, &world.dice);
        }
    }
    let first = world.starts();
    for place in Place::ALL {
        let share = first.iter().filter(|(at, _)| *at == place).count();
        assert!(share >= first.len() / 3, "{} has {share} of {}", place.word(), first.len());
    }
}

#[test]
fn events_without_end_do_not_starve_a_retry() {
    let mut world = World::new(1);
    world.look(0, Because::Event);
    world.starts();
    world.report(0, Turn::Peer, |_| {});
    let mut waited = 0;
    loop {
        for n in 1..200 {
            world.look(n, Because::Event);
        }
        world.now += 10 * MS;
        let starts = world.starts();
        if starts.contains(&(Place::Queue, msgid(0))) {
            break;
        }
        for (_, id) in starts {
            let n = u64::from_be_bytes(id.0[..8].try_into().unwrap());
            world.report(n, Turn::Rest, |report| report.heard = true);
        }
        waited += 1;
        assert!(waited < 100, "starved");
    }
}

#[test]
fn a_step_that_touches_its_own_directory_is_no_hot_loop() {
    let mut world = World::new(1);
    world.look(1, Because::Event);
    let (mut steps, began) = (0, world.now);
    while world.now < began + 10 * SECOND {
        for _ in world.starts() {
            steps += 1;
            world.look(1, Because::Event);
            world.report(1, Turn::Rest, |_| {});
            world.look(1, Because::Event);
        }
        world.now += Duration::from_micros(100);
    }
    assert!(steps < 10 * 110, "{steps} steps in ten seconds");
    assert!(steps > 100, "and still {steps}");
}

#[test]
fn a_new_worker_is_told_everything_what_was_live_first() {
    let mut world = World::new(1);
    world.schedule.heard(&peer(0), world.now);
    for n in 0..20 {
        world.look(n, Because::Event);
    }
    while let [_, ..] = world.starts()[..] {}
    for n in 0..8 {
        let turn = [Turn::Rest, Turn::Live, Turn::Peer, Turn::Later][n as usize % 4];
        world.report(n, turn, |_| {});
    }
    world.starts();
    world.schedule.anew();
    let mut told = Vec::new();
    loop {
        let starts = world.starts();
        if starts.is_empty() {
            break;
        }
        for (_, id) in starts {
            let n = u64::from_be_bytes(id.0[..8].try_into().unwrap());
            told.push(n);
            world.report(n, Turn::Rest, |_| {});
        }
    }
    told.sort_unstable();
    assert_eq!(told, (0..20).collect::<Vec<_>>());
}

/// Room on the disk makes no event, nor does another process that lets a lock go.
#[test]
fn a_full_disk_and_a_lock_are_looked_at_again_soon() {
    let mut world = World::new(1);
    let longest = |world: &mut World, cause: &str, ceiling: Ceiling| {
        let later = |world: &mut World| {
            world.report(1, Turn::Later, |report| {
                report.cause = Some(cause.into());
                report.bound(ceiling);
            })
        };
        (0..200).filter_map(|_| later(world)).max().unwrap()
    };
    for cause in ["disk_full", "lock"] {
        assert!(longest(&mut world, cause, Ceiling::Foreground) <= Duration::from_secs(1), "{cause}");
        assert!(longest(&mut world, cause, Ceiling::Background) <= Duration::from_secs(15), "{cause}");
    }
    assert!(longest(&mut world, "disk", Ceiling::Foreground) > Duration::from_secs(1), "control: other causes wait");
}
