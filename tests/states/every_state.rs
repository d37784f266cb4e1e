//! From every content of the two spools everything comes to rest.
//!
//! No crash is needed for that, no lost word, and no age: what honestly waits
//! for age is output that nobody collects (here somebody does), and then half a
//! message of the same id at the other side, which only damage can have left.

use super::code::Coded;
use super::converge::{Found, Pairs, fits};
use super::keeper::Keeper;
use super::recipient::{Exit, Recipient};
use super::sender::{Asked, Input, Sender, Slip, Told};
use super::words::{Actor, Effect, Heard, Said, Side, World};
use std::time::Instant;

/// All states of a side that can be told apart.
fn all<S: Side>() -> impl Iterator<Item = S> + Send {
    (0..S::COUNT).map(S::of).filter(|state| state.legal())
}

/// The sender's states but for what makes no difference to the way of a message:
/// a job ends for one reason, and all its output has come or none.
fn senders() -> impl Iterator<Item = Sender> + Send {
    all::<Sender>().filter(|state| {
        state.asked().is_none_or(|asked| {
            let plain = !asked.broken && asked.done != Told::Idle && asked.receipt != Slip::Garbage;
            plain && asked.control == asked.outputs
        })
    })
}

/// The recipient's states, likewise; what a keeper leads to is added by the search.
fn recipients() -> impl Iterator<Item = Recipient> + Send {
    all::<Recipient>().filter(|state| {
        state.job().is_none_or(|job| {
            let still = job.keeper == Keeper::Dead && !job.drained;
            still && job.exit != Exit::Idle && job.outputs == job.control
        })
    })
}

/// Fewer still: nothing that only a damaged disk does to a job.
pub fn few() -> (impl Iterator<Item = Sender> + Send, impl Iterator<Item = Recipient> + Send) {
    let senders = senders().filter(|state| {
        state.asked().is_none_or(|asked| asked.key && asked.wanted && (asked.receipt == Slip::Valid || !asked.control))
    });
    let recipients = recipients().filter(|state| {
        let job = state.job().is_none_or(|job| job.owner && (job.exit == Exit::Absent || job.started));
        job && state.rqueue().is_none_or(|rqueue| !rqueue.over && !rqueue.message && rqueue.receipt == Slip::Absent)
    });
    (senders, recipients)
}

/// What a build without optimization can bear: all that a message can be, of a job at its beginning.
fn least() -> (impl Iterator<Item = Sender> + Send, impl Iterator<Item = Recipient> + Send) {
    let (senders, recipients) = few();
    let senders = senders.filter(|state| {
        let begun = Sender::fresh().with(|asked| asked.sent = true).asked();
        state.asked().is_none_or(|asked| Some(Asked { receipt: Slip::Absent, ..asked }) == begun)
    });
    let recipients = recipients.filter(|state| {
        state
            .job()
            .is_none_or(|job| !job.started && !job.outputs && !job.over && job.input == Input::Open && job.unclean)
    });
    (senders, recipients)
}

/// Are the searches worth their time in this build?
pub fn is_fast(what: &str) -> bool {
    if cfg!(debug_assertions) {
        println!("{what}: skipped, it takes too long without optimization");
    }
    !cfg!(debug_assertions)
}

fn print(what: &str, pairs: &Pairs, found: &Found, begun: Instant) {
    let (a, b) = (&pairs.sender, &pairs.recipient);
    println!("{what}: {} states (of {} x {}), in {:.1?}", found.states, a.states, b.states, begun.elapsed());
    println!("   as {} pairs of classes (of {} x {})", found.classes, a.classes.len(), b.classes.len());
    println!("   not converging: {}; at most {} runs; states by runs: {:?}", found.stuck, found.runs, found.by_runs);
    for (sender, recipient) in &found.examples {
        println!("   stuck: {sender:?}\n          {recipient:?}");
    }
}

fn comes_to_rest(
    what: &str,
    world: World,
    senders: impl Iterator<Item = Sender> + Send,
    recipients: impl Iterator<Item = Recipient> + Send,
) -> Found {
    let begun = Instant::now();
    let pairs = Pairs::new(&world, senders, recipients);
    let found = pairs.search(|sender, recipient| sender.clean && recipient.clean);
    print(what, &pairs, &found, begun);
    println!("   closure: {} clean pairs of classes that something still changes", found.restless);
    assert_eq!((found.stuck, found.restless), (0, 0), "{what}: {world:?}");
    found
}

/// Every combination of what is old: sender's, recipient's, the tombstone.
fn old_worlds() -> impl Iterator<Item = (String, World)> {
    (1..8).map(|bits| {
        let [sender_old, recipient_old, tombstone_old] = [1, 2, 4].map(|bit| bits & bit != 0);
        let world = World { sender_old, recipient_old, tombstone_old, ..World::default() };
        (format!("old: sender {sender_old}, recipient {recipient_old}, tombstone {tombstone_old}"), world)
    })
}

#[test]
fn from_every_state_everything_comes_to_rest_and_stays_there() {
    let found = if is_fast("every state but few") {
        comes_to_rest("every state", World::default(), senders(), recipients())
    } else {
        let (senders, recipients) = least();
        comes_to_rest("few states", World::default(), senders, recipients)
    };
    assert!(found.states >= 5_000_000 && found.runs <= 12, "{found:?}");
}

/// The same for all that a job can be at both sides, however far a keeper is, and
/// whether or not `plumb` lives. The command reads all its input before it ends.
#[test]
fn from_every_state_of_a_job_and_its_keeper_it_ends() {
    if is_fast("every job") {
        let senders = all::<Sender>().filter(|state| state.queue.is_none());
        let recipients = all::<Recipient>().filter(|state| state.rqueue().is_none());
        comes_to_rest("every job", World::default(), senders, recipients);
    }
}

/// The same for a job that starts with its whole input, and for one that may be run again.
#[test]
fn from_every_state_of_a_batch_job_it_ends() {
    if is_fast("every batch job") {
        for (what, repeat) in [("every batch job", false), ("every job that may be run again", true)] {
            let world = World { batch: true, repeat, ..World::default() };
            let senders = senders().filter(|state| state.queue.is_none());
            let recipients = all::<Recipient>().filter(|state| state.rqueue().is_none());
            comes_to_rest(what, world, senders, recipients);
        }
    }
}

/// Age is no way to rest, and must be none out of it either.
#[test]
fn whatever_is_too_old_comes_to_rest_as_well() {
    if is_fast("too old") {
        for (what, world) in old_worlds() {
            let (senders, recipients) = few();
            comes_to_rest(&what, world, senders, recipients);
        }
    }
}

#[test]
fn a_message_is_off_its_way_after_few_runs() {
    if is_fast("the message alone") {
        let (begun, (senders, recipients)) = (Instant::now(), few());
        let pairs = Pairs::new(&World::default(), senders, recipients);
        let found = pairs.search(|sender, recipient| sender.settled && recipient.settled);
        print("the message alone", &pairs, &found, begun);
        assert!(found.stuck == 0 && found.runs <= 9, "{found:?}");
    }
}

#[test]
fn a_message_leaves_the_queue_though_nobody_collects_its_job() {
    if is_fast("uncollected") {
        let (begun, (senders, recipients)) = (Instant::now(), few());
        let pairs = Pairs::new(&World { uncollected: true, ..World::default() }, senders, recipients);
        let found = pairs.search(|sender, _| sender.settled);
        print("uncollected", &pairs, &found, begun);
        assert_eq!(found.stuck, 0);
    }
}

#[test]
#[ignore = "minutes"]
fn from_every_state_whatever_everything_comes_to_rest() {
    comes_to_rest("every state whatever", World::default(), all(), all());
    for (what, world) in old_worlds() {
        comes_to_rest(&what, world, senders(), recipients());
    }
}

/// What the searches rest on: a class does what each of its states does.
#[test]
fn no_state_can_be_told_from_its_class() {
    let world = World::default();
    let step = if cfg!(debug_assertions) { 307 } else { 11 };
    let (senders, recipients): (Vec<Sender>, Vec<Recipient>) =
        (all().step_by(step).collect(), all().step_by(step).collect());
    let pairs = Pairs::new(&world, senders.iter().copied(), recipients.iter().copied());
    let mut checked = 0;
    for (at, &sender) in senders.iter().enumerate() {
        let recipient = recipients[at * 7919 % recipients.len()];
        if !fits(sender.bond(), recipient.bond()) {
            continue;
        }
        let pair = (pairs.sender.class(sender), pairs.recipient.class(recipient));
        let mut places = vec![0; Actor::COUNT as usize];
        for turn in sender.turns(&world) {
            let asked = turn.said.map(|said| recipient.answer(&world, said));
            let (other, heard) = asked.unwrap_or((recipient, Heard::Silence));
            let trail = sender.asking(&world, turn).follow(&world, turn, heard);
            let (next, effect) = *trail.last().expect("a step leads somewhere");
            let other = match effect {
                Effect { renewed: true, .. } => other.renewed(),
                Effect { got: true, .. } => other.answer(&world, Said::Got).0,
                _ => other,
            };
            let acts = &pairs.sender.classes[pair.0 as usize].acts[turn.actor.code() as usize];
            let place = &mut places[turn.actor.code() as usize];
            let classes = (pairs.sender.class(next), pairs.recipient.class(other));
            assert_eq!(pairs.sender_acts(pair, &acts[*place]), classes, "{turn:?} of {sender:?} with {recipient:?}");
            *place += 1;
            checked += 1;
        }
    }
    assert!(checked > 1000, "{checked}");
}
