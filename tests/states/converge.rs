//! Every pair of states: does it come to rest, and in how many runs?
//!
//! A *run* is what a loop does when it is woken: one actor does one thing after
//! another until nothing changes any more. The search goes backwards from the
//! pairs at the goal, so cycles, of which a protocol that repeats has plenty,
//! cannot deceive it. No crash, no lost reply and no age helps on the way: what
//! those leave behind is one of the states again.

use super::code::Coded;
use super::quotient::{Act, Class, Quotient};
use super::recipient::Recipient;
use super::sender::Sender;
use super::words::{Actor, Effect, Heard, Said, World};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

/// Both sides, each as its classes.
pub struct Pairs {
    pub sender: Quotient<Sender>,
    pub recipient: Quotient<Recipient>,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// Pairs of states.
    pub states: u128,
    /// Pairs of classes.
    pub classes: u64,
    /// Pairs of states that do not reach the goal.
    pub stuck: u128,
    /// Pairs of classes at the goal that somebody still changes.
    pub restless: u64,
    /// The largest number of runs.
    pub runs: u8,
    /// Pairs of states by the number of their runs.
    pub by_runs: Vec<u128>,
    /// Some pairs that are stuck.
    pub examples: Vec<(Sender, Recipient)>,
}

const UNKNOWN: u8 = u8::MAX;
/// A run that is longer goes round in circles.
const LONG: usize = 64;

/// Can what the sender holds be so while the recipient holds this?
pub fn fits(sender: u8, recipient: u8) -> bool {
    let (keyed, file) = (sender & 1 == 1, sender >> 1);
    let key = recipient & 1 == 1;
    let named = match recipient >> 1 {
        0 => true,
        // `recv.req` names it: a file that says it is for the key set aside.
        1 => file == 1 || file == 3,
        2 => file == 1,
        _ => file == 3,
    };
    (key || !keyed) && named
}

impl Pairs {
    /// All that `senders` and `recipients` lead to.
    pub fn new(
        world: &World,
        senders: impl Iterator<Item = Sender> + Send,
        recipients: impl Iterator<Item = Recipient> + Send,
    ) -> Pairs {
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| Quotient::new(world, senders));
            let recipient = Quotient::new(world, recipients);
            Pairs { sender: sender.join().expect("no panic there"), recipient }
        })
    }

    /// Where a turn of the sender's leads.
    pub fn sender_acts(&self, (_, b): (u32, u32), act: &Act) -> (u32, u32) {
        let (heard, b) = match act.said {
            None => (Heard::Silence, b),
            Some(said) => self.recipient.classes[b as usize].answers[said.code() as usize],
        };
        let (a, effect) = act.next[if act.said.is_some() { heard.code() as usize } else { 0 }];
        let after = &self.recipient.classes[b as usize];
        match effect {
            Effect { renewed: true, .. } => (a, after.renewed),
            Effect { got: true, .. } => (a, after.answers[Said::Got.code() as usize].1),
            _ => (a, b),
        }
    }

    /// Where a turn of the recipient's leads.
    pub fn recipient_acts(&self, (a, _): (u32, u32), act: &Act) -> (u32, u32) {
        let (heard, a) = match act.said {
            None => (Heard::Silence, a),
            Some(said) => self.sender.classes[a as usize].answers[said.code() as usize],
        };
        let (b, effect) = act.next[if act.said.is_some() { heard.code() as usize } else { 0 }];
        (if effect.renewed { self.sender.classes[a as usize].renewed } else { a }, b)
    }

    /// What an actor's next turn makes of a pair, if it changes it.
    fn turn(&self, pair: (u32, u32), actor: Actor) -> Option<(u32, u32)> {
        let of_sender = &self.sender.classes[pair.0 as usize].acts[actor.code() as usize];
        let of_recipient = &self.recipient.classes[pair.1 as usize].acts[actor.code() as usize];
        let senders = of_sender.iter().map(|act| self.sender_acts(pair, act));
        let recipients = of_recipient.iter().map(|act| self.recipient_acts(pair, act));
        senders.chain(recipients).find(|&next| next != pair)
    }

    /// Where a run of this actor ends; `None` if it does not even begin.
    fn run(&self, pair: (u32, u32), actor: Actor) -> Option<(u32, u32)> {
        let mut end = self.turn(pair, actor)?;
        for _ in 0..LONG {
            let Some(next) = self.turn(end, actor) else { break };
            end = next;
        }
        Some(end)
    }

    /// Searches backwards from the pairs that are at the goal, on two threads.
    pub fn search(&self, goal: impl Fn(&Class<Sender>, &Class<Recipient>) -> bool) -> Found {
        let width = self.recipient.classes.len();
        let runs: Vec<AtomicU8> = (0..self.sender.classes.len() * width).map(|_| AtomicU8::new(UNKNOWN)).collect();
        let runs_of = |(a, b): (u32, u32)| &runs[a as usize * width + b as usize];
        let mut found = Found::default();
        self.each(0..self.sender.classes.len(), |pair, sender, recipient| {
            found.classes += 1;
            found.states += u128::from(sender.size) * u128::from(recipient.size);
            if goal(sender, recipient) {
                runs_of(pair).store(0, Relaxed);
                let moves = Actor::all().filter(|&actor| actor != Actor::Supply);
                found.restless += u64::from(moves.into_iter().any(|actor| self.turn(pair, actor).is_some()));
            }
        });
        for level in 1..UNKNOWN {
            let progress = AtomicBool::new(false);
            let sweep = |rows| {
                self.each(rows, |pair, _, _| {
                    let is_near = |actor| self.run(pair, actor).is_some_and(|end| runs_of(end).load(Relaxed) < level);
                    if runs_of(pair).load(Relaxed) == UNKNOWN && Actor::all().any(is_near) {
                        runs_of(pair).store(level, Relaxed);
                        progress.store(true, Relaxed);
                    }
                });
            };
            let half = self.sender.classes.len() / 2;
            std::thread::scope(|scope| {
                scope.spawn(|| sweep(0..half));
                sweep(half..self.sender.classes.len());
            });
            if !progress.into_inner() {
                break;
            }
            found.runs = level;
        }
        found.by_runs = vec![0; usize::from(found.runs) + 1];
        self.each(0..self.sender.classes.len(), |pair, sender, recipient| {
            let size = u128::from(sender.size) * u128::from(recipient.size);
            match found.by_runs.get_mut(usize::from(runs_of(pair).load(Relaxed))) {
                Some(count) => *count += size,
                None => {
                    found.stuck += size;
                    found.examples.push((sender.example, recipient.example));
                    found.examples.truncate(8);
                }
            }
        });
        found
    }

    /// Does something for each pair that can be, of these classes of the sender's.
    pub fn each(
        &self,
        rows: std::ops::Range<usize>,
        mut then: impl FnMut((u32, u32), &Class<Sender>, &Class<Recipient>),
    ) {
        for a in rows {
            let sender = &self.sender.classes[a];
            for (b, recipient) in self.recipient.classes.iter().enumerate() {
                if fits(sender.bond, recipient.bond) {
                    then((a as u32, b as u32), sender, recipient);
                }
            }
        }
    }
}
