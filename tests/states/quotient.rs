//! A side's states, put together where nobody could tell them apart.
//!
//! The two sides have millions of states each, their pairs far too many to
//! walk through. But most of what can lie in a directory does not matter to
//! what happens next. Two states are put into one class only if both are clean
//! or both are not, fit to the same states of the other side, say the same,
//! answer the same, and whatever is heard leads into the same class again
//! (bisimulation: classes are split until that holds). So the pairs of classes
//! have exactly the paths that the pairs of states have, with the same lengths.

use super::code::Coded;
use super::words::{Actor, Effect, Heard, Said, Side, World};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// What a class does at one of its actors' turns.
pub struct Act {
    pub said: Option<Said>,
    /// By what is heard; of work of its own there is only one.
    pub next: Vec<(u32, Effect)>,
}

/// States that nobody can tell apart.
pub struct Class<S> {
    /// One of them.
    pub example: S,
    /// How many there are.
    pub size: u64,
    pub clean: bool,
    pub settled: bool,
    pub bond: u8,
    /// By the actor, in the order in which it would.
    pub acts: Vec<Vec<Act>>,
    /// By what is said.
    pub answers: Vec<(Heard, u32)>,
    pub renewed: u32,
}

/// A side as classes.
pub struct Quotient<S> {
    pub classes: Vec<Class<S>>,
    /// How many states there are.
    pub states: u64,
    class_of: HashMap<u32, u32, BuildHasherDefault<Mix>>,
}

/// One thing that can happen to a state: a label, and where it leads.
struct Edge {
    label: u32,
    to: u32,
}

/// A hash for numbers.
#[derive(Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }
    fn write_u128(&mut self, n: u128) {
        self.write_u64(n as u64);
        self.write_u64((n >> 64) as u64);
    }
    fn write_u64(&mut self, n: u64) {
        let wide = u128::from(self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15) * 0xda94_2042_e4dd_58b5_u128;
        self.0 = (wide as u64) ^ ((wide >> 64) as u64).rotate_left(23);
    }
}

const NOWHERE: u32 = u32::MAX;

impl<S: Side> Quotient<S> {
    /// The classes of all states that `seeds` lead to.
    pub fn new(world: &World, seeds: impl Iterator<Item = S>) -> Quotient<S> {
        let (states, edges, starts) = walk(world, seeds);
        let class = refine(world, &states, &edges, &starts);
        let mut quotient = Quotient { classes: Vec::new(), states: states.len() as u64, class_of: HashMap::default() };
        for (state, &id) in states.iter().zip(&class) {
            quotient.class_of.insert(state.code(), id);
        }
        for (&state, &id) in states.iter().zip(&class) {
            // Ids are given in the order in which they are first met.
            if id as usize == quotient.classes.len() {
                let class = quotient.describe(world, state);
                quotient.classes.push(class);
            }
            quotient.classes[id as usize].size += 1;
        }
        quotient
    }

    /// The class of a state.
    pub fn class(&self, state: S) -> u32 {
        self.class_of.get(&state.code()).copied().unwrap_or(NOWHERE)
    }

    fn describe(&self, world: &World, state: S) -> Class<S> {
        let mut acts: Vec<Vec<Act>> = Actor::all().map(|_| Vec::new()).collect();
        for turn in state.turns(world) {
            let asking = state.asking(world, turn);
            let next_on = |heard| {
                let (next, effect) = asking.follow(world, turn, heard).pop().unwrap_or((asking, Effect::default()));
                (self.class(next), effect)
            };
            let next = match turn.said {
                None => vec![next_on(Heard::Silence)],
                Some(said) => {
                    let mut next = vec![(NOWHERE, Effect::default()); Heard::COUNT as usize];
                    for &heard in S::may_hear(said) {
                        next[heard.code() as usize] = next_on(heard);
                    }
                    next
                }
            };
            acts[turn.actor.code() as usize].push(Act { said: turn.said, next });
        }
        let mut answers = vec![(Heard::Silence, NOWHERE); Said::COUNT as usize];
        for &said in S::hears() {
            let (next, heard) = state.answer(world, said);
            answers[said.code() as usize] = (heard, self.class(next));
        }
        Class {
            example: state,
            size: 0,
            clean: state.clean(world),
            settled: state.settled(),
            bond: state.bond(),
            acts,
            answers,
            renewed: self.class(state.renewed()),
        }
    }
}

/// All states in reach, with their edges: those of state `i` begin at `starts[i]`.
fn walk<S: Side>(world: &World, seeds: impl Iterator<Item = S>) -> (Vec<S>, Vec<Edge>, Vec<u32>) {
    let mut index = vec![NOWHERE; S::COUNT as usize];
    let mut states = Vec::new();
    let mut id = |states: &mut Vec<S>, state: S| {
        let slot = &mut index[state.code() as usize];
        if *slot == NOWHERE {
            assert!(state.legal(), "no legal description: {state:?}");
            *slot = states.len() as u32;
            states.push(state);
        }
        *slot
    };
    for seed in seeds {
        id(&mut states, seed);
    }
    let (mut edges, mut starts, mut at) = (Vec::new(), Vec::new(), 0);
    while at < states.len() {
        let state = states[at];
        starts.push(edges.len() as u32);
        for (position, turn) in state.turns(world).into_iter().enumerate() {
            let asking = state.asking(world, turn);
            let heard: &[Heard] = turn.said.map_or(&[Heard::Silence], S::may_hear);
            for &heard in heard {
                let (next, effect) = asking.follow(world, turn, heard).pop().unwrap_or((asking, Effect::default()));
                let said = turn.said.map_or(0, |said| said.code() + 1);
                let told = u32::from(effect.renewed) | u32::from(effect.got) << 1;
                let label = turn.actor.code() << 20 | (position as u32) << 16 | said << 8 | heard.code() << 2 | told;
                edges.push(Edge { label, to: id(&mut states, next) });
            }
        }
        for &said in S::hears() {
            let (next, heard) = state.answer(world, said);
            let label = 1 << 30 | said.code() << 8 | heard.code();
            edges.push(Edge { label, to: id(&mut states, next) });
        }
        edges.push(Edge { label: 1 << 31, to: id(&mut states, state.renewed()) });
        at += 1;
    }
    starts.push(edges.len() as u32);
    (states, edges, starts)
}

/// Splits until no edge tells two states of a class apart.
fn refine<S: Side>(world: &World, states: &[S], edges: &[Edge], starts: &[u32]) -> Vec<u32> {
    let mut class: Vec<u32> = states
        .iter()
        .map(|state| u32::from(state.bond()) << 2 | u32::from(state.settled()) << 1 | u32::from(state.clean(world)))
        .collect();
    let mut count = 0;
    loop {
        let signature = |at: usize| {
            let (mut low, mut high) = (Mix(class[at].into()), Mix(u64::MAX - u64::from(class[at])));
            for edge in &edges[starts[at] as usize..starts[at + 1] as usize] {
                let word = u64::from(edge.label) << 32 | u64::from(class[edge.to as usize]);
                low.write_u64(word);
                high.write_u64(word.rotate_left(17));
            }
            u128::from(low.0) << 64 | u128::from(high.0)
        };
        let half = states.len() / 2;
        let signatures = std::thread::scope(|scope| {
            let later = scope.spawn(|| (half..states.len()).map(signature).collect::<Vec<u128>>());
            let mut all: Vec<u128> = (0..half).map(signature).collect();
            all.extend(later.join().expect("no panic there"));
            all
        });
        let mut ids: HashMap<u128, u32, BuildHasherDefault<Mix>> = HashMap::default();
        for (class, signature) in class.iter_mut().zip(signatures) {
            let next = ids.len() as u32;
            *class = *ids.entry(signature).or_insert(next);
        }
        if ids.len() == count {
            return class;
        }
        count = ids.len();
    }
}
