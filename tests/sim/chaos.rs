//! An exchange in all weathers: requests lost, replies lost, cut and forged,
//! captures replayed, processes killed, power cut, disks full, in an order of
//! chance. In the end the weather is fine, and what is promised whatever goes
//! wrong must hold; if only the network was bad, the command's own status.

use super::cut::Chance;
use super::disk::Fault;
use super::keeper::STATUS;
use super::net::Weather;
use super::seeds;
use super::story::tell;
use super::two::Two;
use spool::outcome::Outcome;

const FAULTS: [Fault; 5] = [Fault::Kill, Fault::KillHalfway, Fault::Cut, Fault::Full, Fault::Short];

/// One exchange; says what promise broke.
fn storm(seed: u64, faults: bool) -> Option<String> {
    let mut chance = Chance(seed);
    let mut often = || if chance.happens(500) { chance.below(400) } else { 0 };
    let weather = Weather { lose_request: often(), lose_reply: often(), replay: often(), cut: often(), forge: often() };
    let mut struck = 0;
    let mut two = Two::fresh(seed);
    (two.batch, two.repeat) = (!seed.is_multiple_of(3), seed % 3 == 2);
    let told = tell(two, |two| {
        two.wire.set_weather(weather);
        for _ in 0..20 + chance.below(60) {
            if faults && chance.happens(100) {
                let (who, fault) = (chance.below(2) as usize, FAULTS[chance.below(5) as usize]);
                two.strike(who, two.operations()[who] + 1 + chance.below(60), fault);
                struck += 1;
            }
            two.random_round(&mut chance);
        }
        two.wire.set_weather(Weather::default());
        two.machines.iter().for_each(|machine| machine.disk.strike(None));
    });
    let exited = told.outcome() == Some(Outcome::Exited(STATUS));
    let broken = told.broken_always().or_else(|| {
        (struck == 0 && !exited)
            .then(|| format!("nothing but the network was bad, and it ended with {:?}", told.ending))
    });
    broken.map(|broken| format!("NETPLUMB_SEED={seed}: {struck} faults, {weather:?}: {broken}"))
}

fn storms(count: u64, faults: bool) {
    let broken: Vec<String> = seeds(count).filter_map(|seed| storm(seed, faults)).collect();
    broken.iter().take(20).for_each(|line| eprintln!("{line}"));
    assert!(broken.is_empty(), "{} of {count} storms broke a promise", broken.len());
}

#[test]
fn a_bad_network_costs_time_only() {
    storms(if cfg!(debug_assertions) { 50 } else { 600 }, false);
}

#[test]
fn whatever_goes_wrong_promises_hold() {
    storms(if cfg!(debug_assertions) { 50 } else { 1000 }, true);
}

#[test]
#[ignore = "the long form: cargo test --release --test main -- --ignored --nocapture many_storms"]
fn many_storms() {
    storms(100_000, false);
    storms(100_000, true);
}
