//! Many directories, hours of time, peers that hang, come and go.

use super::*;
use std::collections::VecDeque;

#[test]
fn two_peers_that_answer_but_do_not_progress_do_not_spin() {
    let mut world = World::new(1);
    for n in 0..20 {
        world.look(n, Because::Event);
    }
    let (mut steps, began) = (0, world.now);
    while world.now < began + 3600 * SECOND {
        let Some((_, starts)) = world.until_start(100 * SECOND) else { break };
        for (_, id) in starts {
            let n = u64::from_be_bytes(id.0[..8].try_into().unwrap());
            // One of them fails for a reason of its own.
            if n == 0 {
                world.unreachable(n);
                continue;
            }
            steps += 1;
            world.report(n, Turn::Later, |report| (report.heard, report.did) = (true, vec!["msg".into()]));
            // The other side talks to us all the time.
            world.schedule.heard(&peer(0), world.now);
        }
    }
    let per_directory = steps / 19;
    assert!((60..400).contains(&per_directory), "{per_directory} steps in an hour, the ceiling is one a minute");
}

#[test]
fn a_peer_that_reaches_us_and_not_we_it_costs_a_bounded_number_of_tries() {
    let mut world = World::new(1);
    for n in 0..1000 {
        world.look(n, Because::Found);
    }
    let (mut steps, began) = (0u64, world.now);
    while world.now < began + 60 * SECOND {
        for (_, id) in world.starts() {
            steps += 1;
            let n = u64::from_be_bytes(id.0[..8].try_into().unwrap());
            world.unreachable(n);
        }
        world.now += MS;
        world.schedule.heard(&peer(0), world.now);
    }
    assert!(steps < 60 * 60, "{steps} tries in a minute");
    assert!(steps > 60, "and still {steps} tries");
}

#[test]
fn a_hundred_thousand_messages_for_a_dead_peer_are_probed_and_go_when_it_is_back() {
    let mut world = World::new(1);
    for n in 0..100_000 {
        world.look(n, Because::Found);
    }
    let (mut tries, began) = (0u64, world.now);
    let mut hanging: VecDeque<(Duration, u64)> = VecDeque::new();
    while world.now < began + 30 * SECOND {
        for (_, id) in world.starts() {
            tries += 1;
            hanging.push_back((world.now, u64::from_be_bytes(id.0[..8].try_into().unwrap())));
        }
        assert!(hanging.len() <= 8, "{} dials at once into nothing", hanging.len());
        while hanging.front().is_some_and(|(at, _)| *at + 50 * MS <= world.now) {
            let (_, n) = hanging.pop_front().unwrap();
            world.unreachable(n);
        }
        world.now += MS;
    }
    assert!((30..30 * 90).contains(&tries), "{tries} tries");
    // It is back: each step succeeds at once.
    let (mut done, back) = (0, world.now);
    for (_, n) in std::mem::take(&mut hanging) {
        done += 1;
        world.report(n, Turn::Gone, |report| report.heard = true);
    }
    while !world.schedule.is_empty() {
        let (_, starts) = world.until_start(61 * SECOND).expect("all of them go");
        assert!(starts.len() <= UNDERWAY_MAX);
        for (_, id) in starts {
            done += 1;
            let n = u64::from_be_bytes(id.0[..8].try_into().unwrap());
            world.report(n, Turn::Gone, |report| report.heard = true);
        }
    }
    assert_eq!(done, 100_000);
    assert!(world.now - back < 2 * SECOND, "took {:?}", world.now - back);
}

#[test]
fn a_dead_peers_pile_does_not_keep_a_living_peer_waiting() {
    let mut world = World::new(20);
    // Peers 1 to 19 hang; every step of peer 0 must start at once.
    world.look(0, Because::Event);
    world.starts();
    world.report(0, Turn::Rest, |report| report.heard = true);
    for n in 0..10_000 {
        if n % 20 != 0 {
            world.look(n, Because::Event);
        }
    }
    let hanging = world.starts().len();
    assert!(hanging < UNDERWAY_MAX, "room is left");
    for n in 0..100 {
        world.look(20 * (n % 10), Because::Event);
        let starts = world.starts();
        assert_eq!(starts.len(), 1);
        assert_eq!(world.peer_of(starts[0].1), 0);
        world.report(20 * (n % 10), Turn::Rest, |report| report.heard = true);
        world.now += 20 * MS;
    }
}

#[test]
fn hours_of_chance_starve_nothing() {
    let mut world = World::new(4);
    // Peer 3 is dead, peer 2 comes and goes, 0 and 1 answer; reports come late or are lost.
    for n in 0..200 {
        world.look(n, Because::Found);
    }
    let (began, mut last) = (world.now, vec![world.now; 200]);
    let mut underway: Vec<(Duration, u64)> = Vec::new();
    let mut most = [Duration::ZERO; 4];
    while world.now < began + 4 * 3600 * SECOND {
        for (_, id) in world.starts() {
            let n = u64::from_be_bytes(id.0[..8].try_into().unwrap());
            let waited = world.now - last[n as usize];
            most[n as usize % 4] = most[n as usize % 4].max(waited);
            last[n as usize] = world.now;
            underway.push((world.now + Duration::from_millis(world.dice.below(400)), n));
        }
        assert!(world.schedule.steps.ready.underway() <= UNDERWAY_MAX);
        let next = underway.iter().map(|(at, _)| *at).min();
        let wake = world.schedule.wake(world.now).map(|after| world.now + after);
        world.now = [next, wake].into_iter().flatten().min().expect("something is always due").max(world.now + MS);
        let (due, later): (Vec<_>, Vec<_>) = underway.into_iter().partition(|(at, _)| *at <= world.now);
        underway = later;
        for (_, n) in due {
            let awake = (world.now.as_secs() / 600).is_multiple_of(2);
            match (n % 4, world.dice.below(100)) {
                (_, 0) => {}
                (3, _) => drop(world.unreachable(n)),
                (2, _) if !awake => drop(world.unreachable(n)),
                (_, 1..5) => world.look(n, Because::Event),
                (_, chance) => {
                    let turn = if chance < 50 { Turn::Peer } else { Turn::Later };
                    world.report(n, turn, |report| report.heard = true);
                }
            }
        }
    }
    for (peer, most) in most.iter().enumerate() {
        assert!(*most < 400 * SECOND, "a message of peer {peer} waited {most:?}");
    }
}
