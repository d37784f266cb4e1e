//! Every state that can be reached from one message, with faults on the way.
//!
//! One thing happens at a time: an actor's turn, or a fault. A question can be
//! lost, or its answer; an answer can be late, and so can a decision (one of
//! them at a time): meanwhile all the others go on. A crash can come between
//! any two changes of a step. Whatever was said once can be said again by
//! somebody who listened, at any time.

use super::code::Coded;
use super::faults::Faults;
use super::history::{How, Memory, Node, Pending};
use super::keeper::Deed;
use super::quotient::Mix;
use super::receiving;
use super::recipient::{Exit, Job, Named, Recipient};
use super::rules::{AUTHENTIC, HOLD_FIRST};
use super::sender::{Sender, Told};
use super::sending;
use super::words::{Actor, Effect, Heard, Said, Side, Turn, World};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

/// What a search found.
#[derive(Debug, Default)]
pub struct Reached {
    pub states: usize,
    /// Pairs of both sides' states.
    pub pairs: usize,
    /// How many of those cannot come to rest.
    pub stuck: usize,
    /// Some of them.
    pub stuck_like: Vec<Node>,
    /// What must not be, with the way to it.
    pub wrong: Vec<(&'static str, Vec<(How, Node)>)>,
}

impl Reached {
    /// The names of what went wrong.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self.wrong.iter().map(|(name, _)| *name).collect();
        names.extend((self.stuck > 0).then_some("cannot come to rest"));
        names
    }

    /// Prints the way to each wrong.
    pub fn print(&self) {
        for node in &self.stuck_like {
            println!("-- cannot come to rest\n      {:?}\n      {:?}", node.sender, node.recipient);
        }
        for (name, path) in &self.wrong {
            println!("-- {name}");
            for (how, node) in path {
                println!("   {how:?}\n      {:?}\n      {:?}", node.sender, node.recipient);
                println!("      {:?} {:?}", node.memory, node.pending);
            }
        }
    }
}

/// The search itself.
pub struct Search {
    pub world: World,
    pub faults: Faults,
}

const REFUSE: receiving::Step = receiving::Step::Keeper(Deed::Refuse);
/// More states than this are too many.
const STATES_MAX: usize = 60_000_000;

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// The states so far, each as one number, and how each was reached.
#[derive(Default)]
struct Seen {
    ids: Map<u128, u32>,
    keys: Vec<u128>,
    from: Vec<(u32, How)>,
    pendings: Vec<Option<Pending>>,
    pending_ids: HashMap<Option<Pending>, u8>,
}

impl Seen {
    /// Notes a state; false if it was there.
    fn add(&mut self, node: &Node, from: u32, how: How) -> bool {
        let next = self.pendings.len();
        let pending = *self.pending_ids.entry(node.pending).or_insert_with(|| {
            self.pendings.push(node.pending);
            u8::try_from(next).expect("few things can be under way")
        });
        let key = u128::from(node.pair()) << 64 | u128::from(node.memory.code() << 8 | u64::from(pending));
        let id = self.keys.len() as u32;
        if *self.ids.entry(key).or_insert(id) != id {
            return false;
        }
        self.keys.push(key);
        self.from.push((from, how));
        true
    }

    fn node(&self, id: usize) -> Node {
        let key = self.keys[id];
        Node {
            sender: Sender::of((key >> 96) as u32),
            recipient: Recipient::of((key >> 64) as u32),
            memory: Memory::of(key as u64 >> 8),
            pending: self.pendings[(key & 255) as usize],
        }
    }

    fn path(&self, mut id: usize) -> Vec<(How, Node)> {
        let mut path = Vec::new();
        loop {
            let (from, how) = self.from[id];
            path.push((how, self.node(id)));
            if how == How::Begun {
                path.reverse();
                return path;
            }
            id = from as usize;
        }
    }
}

impl Search {
    /// Walks through everything in reach of a message about to be queued.
    pub fn run(&self) -> Reached {
        let mut seen = Seen::default();
        seen.add(&Node::begin(), 0, How::Begun);
        let mut reached = Reached::default();
        let (mut at, mut next) = (0, Vec::new());
        while at < seen.keys.len() {
            next.clear();
            self.next(&seen.node(at), &mut next);
            for (how, node) in &next {
                if !seen.add(node, at as u32, *how) {
                    continue;
                }
                if let Some(wrong) = node.wrong(&self.world)
                    && !reached.wrong.iter().any(|(name, _)| *name == wrong)
                {
                    reached.wrong.push((wrong, seen.path(seen.keys.len() - 1)));
                }
            }
            at += 1;
            assert!(at < STATES_MAX, "more than {STATES_MAX} states");
        }
        reached.states = seen.keys.len();
        let mut pairs: Vec<u64> = seen.keys.iter().map(|key| (key >> 64) as u64).collect();
        drop(seen);
        pairs.sort_unstable();
        pairs.dedup();
        reached.pairs = pairs.len();
        let stuck = self.stuck(&pairs);
        reached.stuck = stuck.len();
        let like = stuck.into_iter().step_by(reached.stuck.max(5) / 5);
        reached.stuck_like = like.map(|at| node_of(pairs[at as usize])).collect();
        reached
    }

    fn next(&self, node: &Node, next: &mut Vec<(How, Node)>) {
        let busy = node.pending.map(Pending::actor);
        let mut take = |turns: Vec<Pending>, excused: bool| {
            for pending in turns {
                let refusal = matches!(pending, Pending::Recipient(turn, _) if turn.step == REFUSE);
                if busy != Some(pending.actor()) && (self.faults.refuse || !refusal) {
                    let mut here = *node;
                    here.memory.excused |= excused;
                    self.take(&here, pending, next);
                }
            }
        };
        take(node.turns(&self.world), false);
        if self.faults.forget && node.may_forget(&self.world) {
            take(node.turns(&World { tombstone_old: true, ..self.world }), false);
        }
        if self.faults.age {
            // Each of the two by itself, and only what age alone brings about.
            let usual = node.turns(&self.world);
            for (sender_old, recipient_old) in [(true, false), (false, true)] {
                let old = node.turns(&World { sender_old, recipient_old, ..self.world });
                take(old.into_iter().filter(|turn| !usual.contains(turn)).collect(), true);
            }
        }
        let free = Node { pending: None, ..*node };
        match node.pending {
            None => {}
            Some(pending @ (Pending::Sender(_, None) | Pending::Recipient(_, None))) => {
                next.push((How::LostQuestion(pending.actor()), free));
                self.act(&free, pending, next);
            }
            Some(Pending::Sender(turn, Some(heard))) => {
                next.push((How::LostAnswer(turn.actor), free));
                self.follow_sender(&free, turn, heard, How::Whole(turn.actor), next);
            }
            Some(Pending::Recipient(turn, Some(heard))) => {
                next.push((How::LostAnswer(turn.actor), free));
                self.follow_recipient(&free, turn, heard, next);
            }
        }
        self.faults.strike(&self.world, node, next);
    }

    /// An actor's turn: at once, or later.
    fn take(&self, node: &Node, pending: Pending, next: &mut Vec<(How, Node)>) {
        let actor = pending.actor();
        let waits = !matches!(actor, Actor::Plumb | Actor::Keeper | Actor::Supply) && !pending.is_tip();
        if self.faults.late && waits && node.pending.is_none() {
            next.push((How::Decides(actor), Node { pending: Some(pending), ..*node }));
        }
        self.act(node, pending, next);
    }

    fn act(&self, node: &Node, pending: Pending, next: &mut Vec<(How, Node)>) {
        match pending {
            Pending::Sender(turn, _) => self.act_sender(node, turn, next),
            Pending::Recipient(turn, _) => self.act_recipient(node, turn, next),
        }
    }

    fn act_sender(&self, node: &Node, turn: Turn<sending::Step>, next: &mut Vec<(How, Node)>) {
        let actor = turn.actor;
        let mut here = Node { sender: node.sender.asking(&self.world, turn), ..*node };
        let Some(said) = turn.said else {
            return self.follow_sender(&here, turn, Heard::Silence, How::Whole(actor), next);
        };
        // The step was decided before this was put down, and perhaps long ago.
        let said = match said {
            Said::SndCurrent | Said::SndStale => {
                let turns = here.sender.turns(&self.world);
                let again = turns.into_iter().find(|again| again.actor == actor && again.step == turn.step);
                again.and_then(|again| again.said).unwrap_or(said)
            }
            said => said,
        };
        if self.faults.replays {
            here.memory.hear(said);
        }
        next.push((How::LostQuestion(actor), here));
        let (recipient, heard) = here.recipient.answer(&self.world, said);
        here.recipient = recipient;
        here.renew_key(Effect { renewed: heard == Heard::OkFresh, ..Effect::default() });
        next.push((How::LostAnswer(actor), here));
        if self.world.rules.lacks(HOLD_FIRST) && said == Said::Pull && heard == Heard::Ends {
            let (recipient, _) = recipient.answer(&self.world, Said::Got);
            next.push((How::LostAnswer(actor), Node { recipient, ..here }));
        }
        if self.faults.late && here.pending.is_none() {
            let waiting = Some(Pending::Sender(turn, Some(heard)));
            next.push((How::Waits(actor), Node { pending: waiting, ..here }));
        }
        self.follow_sender(&here, turn, heard, How::Whole(actor), next);
        if self.world.rules.lacks(AUTHENTIC) {
            for forged in [Heard::OutcomeIdle, Heard::OutcomeRan, Heard::ReceiptGarbage] {
                if Sender::may_hear(said).contains(&forged) {
                    self.follow_sender(&here, turn, forged, How::Forged(actor), next);
                }
            }
        }
    }

    fn act_recipient(&self, node: &Node, turn: Turn<receiving::Step>, next: &mut Vec<(How, Node)>) {
        let (actor, mut here) = (turn.actor, *node);
        let Some(said) = turn.said else {
            return self.follow_recipient(&here, turn, Heard::Silence, next);
        };
        // The sender may have sealed anew since this was decided.
        let named = here.recipient.rqueue().map(|rqueue| rqueue.req);
        let said = match said {
            Said::FetchCurrent if named != Some(Named::Current) => Said::FetchOther,
            said => said,
        };
        if self.faults.replays {
            here.memory.hear(said);
        }
        next.push((How::LostQuestion(actor), here));
        let (sender, heard) = here.sender.answer(&self.world, said);
        here.sender = sender;
        next.push((How::LostAnswer(actor), here));
        if self.faults.late && here.pending.is_none() {
            let waiting = Some(Pending::Recipient(turn, Some(heard)));
            next.push((How::Waits(actor), Node { pending: waiting, ..here }));
        }
        self.follow_recipient(&here, turn, heard, next);
    }

    fn follow_sender(
        &self,
        node: &Node,
        turn: Turn<sending::Step>,
        heard: Heard,
        how: How,
        next: &mut Vec<(How, Node)>,
    ) {
        let mut memory = node.memory;
        match turn.step {
            sending::Step::Plumb(sending::Deed::Enqueue) if memory.queued => return,
            sending::Step::Plumb(sending::Deed::Enqueue) => memory.queued = true,
            sending::Step::Plumb(sending::Deed::Take) => memory.taken = true,
            sending::Step::Plumb(sending::Deed::Leave) => memory.told = true,
            _ => {}
        }
        let trail = node.sender.follow(&self.world, turn, heard);
        let whole = trail.len() - 1;
        for (at, (sender, effect)) in trail.into_iter().enumerate() {
            let mut here = Node { sender, memory, ..*node };
            if effect.renewed {
                here.recipient = here.recipient.renewed();
                here.memory.sealed_anew();
                here.pending = here.pending.map(Pending::sealed_anew);
            }
            here.memory.told_idle |= sender.asked().is_some_and(|asked| asked.done == Told::Idle);
            if at < whole {
                self.faults.crash(How::Crash(turn.actor), here, next);
                continue;
            }
            next.push((how, here));
            if effect.got {
                let (recipient, _) = here.recipient.answer(&self.world, Said::Got);
                next.push((how, Node { recipient, ..here }));
            }
        }
    }

    fn follow_recipient(&self, node: &Node, turn: Turn<receiving::Step>, heard: Heard, next: &mut Vec<(How, Node)>) {
        let trail = node.recipient.follow(&self.world, turn, heard);
        let whole = trail.len() - 1;
        for (at, (recipient, effect)) in trail.into_iter().enumerate() {
            let mut here = Node { recipient, ..*node };
            here.renew_key(effect);
            // What was offered is not run again.
            let dropped = |job: Job| job.exit == Exit::Absent && !job.outputs;
            if effect.started && self.world.repeat && node.recipient.job().is_some_and(dropped) {
                // Run again: what was before it counts no more.
                (here.memory.started, here.memory.killed) = (0, false);
            }
            here.memory.delivered = (here.memory.delivered + u8::from(effect.delivered)).min(2);
            here.memory.started = (here.memory.started + u8::from(effect.started)).min(2);
            if at < whole {
                self.faults.crash(How::Crash(turn.actor), here, next);
            } else {
                next.push((How::Whole(turn.actor), here));
            }
        }
    }

    /// Which of these pairs cannot come to rest, if nothing goes wrong any more.
    fn stuck(&self, pairs: &[u64]) -> Vec<u32> {
        let calm = Search { world: self.world, faults: Faults::default() };
        let index: Map<u64, u32> = pairs.iter().enumerate().map(|(at, &pair)| (pair, at as u32)).collect();
        let is_clean = |node: &Node| node.sender.clean(&self.world) && node.recipient.clean(&self.world);
        let mut rests: Vec<bool> = pairs.iter().map(|&pair| is_clean(&node_of(pair))).collect();
        let mut left: Vec<u32> = (0..pairs.len() as u32).filter(|&at| !rests[at as usize]).collect();
        let mut next = Vec::new();
        loop {
            let before = left.len();
            left.reverse();
            left.retain(|&at| {
                next.clear();
                calm.next(&node_of(pairs[at as usize]), &mut next);
                let whole = next.iter().filter(|(how, _)| matches!(how, How::Whole(_)));
                rests[at as usize] =
                    whole.filter_map(|(_, node)| index.get(&node.pair())).any(|&to| rests[to as usize]);
                !rests[at as usize]
            });
            if left.len() == before || left.is_empty() {
                return left;
            }
        }
    }
}

/// Both sides without a past, from their number.
fn node_of(pair: u64) -> Node {
    Node::of(Sender::of((pair >> 32) as u32), Recipient::of(pair as u32))
}
