//! From every content of the two spools everything comes to rest.
//!
//! No crash is needed for that, no lost word, and no age: what honestly waits
//! for age is output that nobody collects (here somebody does), and then half a
//! message of the same id at the other side, which only damage can have left.

use super::code::Coded;
use super::converge::{Found, Pairs, fits};
use super::damage::Harm;
use super::keeper::Keeper;
use super::recipient::{Exit, Job, Recipient};
use super::rules::Rules;
use super::sender::{Asked, Input, Jobs, Log, Queue, Sender, Slip, Told};
use super::words::{Actor, Effect, Heard, Said, Side, World};
use std::time::Instant;

/// All states of a side that can be told apart.
fn all<S: Side>() -> impl Iterator<Item = S> + Send {
    (0..S::COUNT).map(S::of).filter(|state| state.legal())
}

/// The sender's states with such jobs. The jobs are chosen once, and not for each message anew.
fn senders_of(keep: impl Fn(&Asked) -> bool) -> impl Iterator<Item = Sender> + Send {
    let is_kept = |jobs: &Jobs| if let Jobs::Asked(asked) = jobs { keep(asked) } else { true };
    let jobs: Vec<Jobs> = Jobs::all().filter(is_kept).collect();
    let queues = <Option<Queue>>::all();
    let pairs = queues.flat_map(move |queue| jobs.clone().into_iter().map(move |jobs| Sender { queue, jobs }));
    pairs.filter(|state| state.legal())
}

/// The recipient's states with such jobs.
fn recipients_of(keep: impl Fn(&Job) -> bool + Send) -> impl Iterator<Item = Recipient> + Send {
    let rqueues = (0..Recipient::COUNT - 2 * Job::COUNT).map(Recipient::of);
    let jobs = Job::all().filter(keep).flat_map(|job| [false, true].map(|beside| Recipient::Job { beside, job }));
    rqueues.chain(jobs).filter(|state| state.legal())
}

/// The sender's states but for what makes no difference to the way of a message:
/// a job ends for one reason, and all its output has come or none.
fn is_plain(asked: &Asked) -> bool {
    let plain = !asked.broken && asked.done != Told::Idle && asked.receipt != Slip::Garbage;
    plain && asked.control == asked.outputs && asked.log == Log::Sound
}

/// The recipient's states, likewise; what a keeper leads to is added by the search.
fn is_still(job: &Job) -> bool {
    let still = job.keeper == Keeper::Dead && !job.drained && job.log == Log::Sound;
    still && job.exit != Exit::Idle && job.outputs == job.control
}

/// Nothing that only a damaged disk does to a job of ours.
fn is_sound(asked: &Asked) -> bool {
    is_plain(asked) && asked.key && asked.wanted && (asked.receipt == Slip::Valid || !asked.control)
}

/// Nothing that only a damaged disk does to a job that we run.
fn is_owned(job: &Job) -> bool {
    is_still(job) && job.owner && (job.exit == Exit::Absent || job.started)
}

fn is_usual(state: &Recipient) -> bool {
    state.rqueue().is_none_or(|rqueue| !rqueue.over && !rqueue.message && rqueue.receipt == Slip::Absent)
}

/// Jobs of which no more than one thing is lost, however far a keeper is.
fn kept() -> impl Iterator<Item = Recipient> + Send {
    let runs = recipients_of(|job| job.log == Log::Sound && job.unclean && !job.acked && job.receipt == Slip::Valid);
    runs.filter(|state| state.rqueue().is_none())
}

fn senders() -> impl Iterator<Item = Sender> + Send {
    senders_of(is_plain)
}

fn recipients() -> impl Iterator<Item = Recipient> + Send {
    recipients_of(is_still)
}

/// Fewer still: nothing that only a damaged disk does to a job.
pub fn few() -> (impl Iterator<Item = Sender> + Send, impl Iterator<Item = Recipient> + Send) {
    (senders_of(is_sound), recipients_of(is_owned).filter(is_usual))
}

/// Each of these states with any one file damaged, or missing.
fn harmed<S: Side>(states: &[S], harms: impl Fn(S) -> Vec<Harm<S>>) -> Vec<S> {
    states.iter().flat_map(|&state| harms(state)).map(|harm| harm.state).collect()
}

/// Both sides with any one file damaged or missing at one of them.
fn with_a_harm(
    senders: impl Iterator<Item = Sender>,
    recipients: impl Iterator<Item = Recipient>,
) -> [(&'static str, Vec<Sender>, Vec<Recipient>); 2] {
    let (senders, recipients): (Vec<Sender>, Vec<Recipient>) = (senders.collect(), recipients.collect());
    let rules = Rules::default();
    let bad_senders = harmed(&senders, |state| [state.damaged(rules), state.missing()].into_iter().flatten().collect());
    let bad_recipients =
        harmed(&recipients, |state| [state.damaged(rules), state.missing()].into_iter().flatten().collect());
    [("harmed at the sender", bad_senders, recipients), ("harmed at the recipient", senders, bad_recipients)]
}

/// What a build without optimization can bear, and a mutant in any: all that a message can be, of a job at its beginning.
pub fn least() -> (impl Iterator<Item = Sender> + Send, impl Iterator<Item = Recipient> + Send) {
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
    rests(&format!("{what}, {world:?}"), &Pairs::new(&world, senders, recipients), begun)
}

/// Everything comes to rest, and stays there.
fn rests(what: &str, pairs: &Pairs, begun: Instant) -> Found {
    let found = pairs.search(|sender, recipient| sender.clean && recipient.clean);
    print(what, pairs, &found, begun);
    println!("   closure: {} clean pairs of classes that something still changes", found.restless);
    assert_eq!((found.stuck, found.restless), (0, 0), "{what}");
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
    let (senders, recipients) = least();
    let found = comes_to_rest("few states", World::default(), senders, recipients);
    assert!(found.states >= 5_000_000 && found.runs <= 12, "{found:?}");
}

#[test]
fn a_message_is_off_its_way_after_few_runs() {
    if is_fast("every state") {
        let (begun, (senders, recipients)) = (Instant::now(), few());
        let pairs = Pairs::new(&World::default(), senders, recipients);
        rests("every state", &pairs, begun);
        let found = pairs.search(|sender, recipient| sender.settled && recipient.settled);
        print("the message alone", &pairs, &found, begun);
        assert!(found.stuck == 0 && found.runs <= 9, "{found:?}");
    }
}

/// From every pair of phases with any one file damaged or missing, on either side.
#[test]
fn from_every_state_with_a_damaged_file_everything_comes_to_rest() {
    let (senders, recipients) = least();
    for (what, senders, recipients) in with_a_harm(senders, recipients) {
        let found = comes_to_rest(what, World::default(), senders.into_iter(), recipients.into_iter());
        assert!(found.states >= 5_000_000, "{found:?}");
    }
}

/// The same for a job however far a keeper is. The command reads all its input before it ends.
#[test]
fn from_every_state_of_a_job_and_its_keeper_it_ends() {
    if is_fast("every job") {
        let senders = senders_of(is_sound).filter(|state| state.queue.is_none());
        comes_to_rest("every job", World::default(), senders, kept());
    }
}

/// The same for a job that starts with its whole input, and for one that may be run again.
#[test]
fn from_every_state_of_a_batch_job_it_ends() {
    if is_fast("every batch job") {
        for (what, repeat) in [("every batch job", false), ("every job that may be run again", true)] {
            let world = World { batch: true, repeat, ..World::default() };
            let senders = senders_of(is_sound).filter(|state| state.queue.is_none());
            comes_to_rest(what, world, senders, kept());
        }
    }
}

/// Age is no way to rest, and must be none out of it either.
#[test]
fn whatever_is_too_old_comes_to_rest_as_well() {
    for (what, world) in old_worlds() {
        let (senders, recipients) = least();
        comes_to_rest(&what, world, senders, recipients);
    }
}

#[test]
fn a_message_leaves_the_queue_though_nobody_collects_its_job() {
    let (begun, (senders, recipients)) = (Instant::now(), least());
    let pairs = Pairs::new(&World { uncollected: true, ..World::default() }, senders, recipients);
    let found = pairs.search(|sender, _| sender.settled);
    print("uncollected", &pairs, &found, begun);
    assert_eq!(found.stuck, 0);
}

/// `cargo test --release --test main -- --ignored --nocapture from_every_state`
#[test]
#[ignore = "half an hour, and 6 GB"]
fn from_every_state_whatever_everything_comes_to_rest() {
    comes_to_rest("every state", World::default(), senders(), recipients());
    let jobs = || senders_of(|_| true).filter(|state| state.queue.is_none());
    let runs = || recipients_of(|_| true).filter(|state| state.rqueue().is_none());
    comes_to_rest("every job", World::default(), jobs(), runs());
    for (what, repeat) in [("every batch job", false), ("every job that may be run again", true)] {
        comes_to_rest(what, World { batch: true, repeat, ..World::default() }, jobs(), runs());
    }
    comes_to_rest("every state whatever", World::default(), all(), all());
    for (what, world) in old_worlds() {
        comes_to_rest(&what, world, senders(), recipients());
    }
}

/// `cargo test --release --test main -- --ignored --nocapture from_every_state_with`
#[test]
#[ignore = "minutes"]
fn from_every_state_with_any_file_damaged_it_ends_in_every_world() {
    let batch = World { batch: true, ..World::default() };
    let worlds = [World::default(), batch, World { repeat: true, ..batch }].into_iter();
    for world in worlds.chain(old_worlds().map(|(_, world)| world)) {
        let (senders, recipients) = few();
        for (what, senders, recipients) in with_a_harm(senders, recipients) {
            let found = comes_to_rest(what, world, senders.into_iter(), recipients.into_iter());
            assert!(found.states >= 5_000_000, "{found:?}");
        }
    }
}

/// What the searches rest on: a class does what each of its states does.
#[test]
fn no_state_can_be_told_from_its_class() {
    let world = World::default();
    let step = if cfg!(debug_assertions) { 1009 } else { 97 };
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
