//! Where every step stands: in a line, under way, or waiting for its time.
//!
//! The bookkeeping of the schedule, which decides. Invariant: each directory
//! stands in exactly one of the lines, the timers and the steps under way, but
//! for the moment in which it is moved. Times are microseconds.

use crate::hopes::Hopes;
use crate::ready::{Class, Permit, Ready};
use spool::layout::Place;
use spool::name::MsgId;
use spool::report::Turn;
use spool::retry::Backoff;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// The number of the group of those whose peer cannot be read.
pub(crate) const NOBODY: u32 = 0;

/// Where a step stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State {
    /// Its peer is to be read first.
    Unsorted(Class),
    /// In a line, with its ticket.
    Due(Class, u64),
    /// The worker is at it; was it touched meanwhile?
    Underway { since: u64, permit: Permit, touched: bool },
    /// Until then, or until something happens.
    Waiting(u64),
}

/// One directory.
pub(crate) struct Step {
    pub(crate) place: Place,
    pub(crate) msgid: MsgId,
    pub(crate) peer: u32,
    pub(crate) state: State,
    pub(crate) backoff: Backoff,
    /// Of its last report.
    pub(crate) turn: Option<Turn>,
    pub(crate) heard: bool,
    pub(crate) did: u32,
    /// The second in which it was last started, and how often in it.
    pub(crate) burst: (u32, u8),
}

/// All of them.
pub(crate) struct Steps {
    pub(crate) numbers: HashMap<(Place, MsgId), u32>,
    pub(crate) all: Vec<Step>,
    free: Vec<u32>,
    /// Those whose peer is to be read, by class.
    pub(crate) unsorted: [VecDeque<u32>; 2],
    pub(crate) timers: BTreeSet<(u64, u32)>,
    pub(crate) underway: BTreeSet<(u64, u32)>,
    pub(crate) ready: Ready,
    /// By peer.
    pub(crate) hopes: Vec<Hopes>,
}

impl Default for Steps {
    fn default() -> Steps {
        let mut steps = Steps {
            numbers: HashMap::new(),
            all: Vec::new(),
            free: Vec::new(),
            unsorted: Default::default(),
            timers: BTreeSet::new(),
            underway: BTreeSet::new(),
            ready: Ready::default(),
            hopes: Vec::new(),
        };
        // NOBODY.
        steps.add_peer();
        steps
    }
}

impl Steps {
    /// Adds a peer; they are numbered from 0.
    pub(crate) fn add_peer(&mut self) -> u32 {
        self.hopes.push(Hopes::default());
        self.ready.add_peer()
    }

    /// The numbers of all directories, in the order in which they came.
    pub(crate) fn known(&self) -> Vec<u32> {
        let mut known: Vec<u32> = self.numbers.values().copied().collect();
        known.sort_unstable();
        known
    }

    pub(crate) fn state(&self, id: u32) -> State {
        self.all[id as usize].state
    }

    /// The step's number; a new one stands nowhere yet, as if its time had come.
    pub(crate) fn number(&mut self, place: Place, msgid: MsgId) -> u32 {
        if let Some(&id) = self.numbers.get(&(place, msgid)) {
            return id;
        }
        let step = Step {
            place,
            msgid,
            peer: NOBODY,
            state: State::Waiting(0),
            backoff: Backoff::default(),
            turn: None,
            heard: false,
            did: 0,
            burst: (0, 0),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.all[id as usize] = step;
                id
            }
            None => {
                self.all.push(step);
                self.all.len() as u32 - 1
            }
        };
        self.numbers.insert((place, msgid), id);
        id
    }

    /// Takes a step out of whatever it stands in.
    fn lift(&mut self, id: u32) {
        let step = &self.all[id as usize];
        match step.state {
            State::Due(class, ticket) => self.ready.withdraw(step.peer, step.place as usize, class, ticket, id),
            State::Waiting(due) => drop(self.timers.remove(&(due, id))),
            State::Unsorted(_) | State::Underway { .. } => {}
        }
        self.hopes[step.peer as usize].leave(id);
    }

    pub(crate) fn wait(&mut self, id: u32, due: u64) {
        self.lift(id);
        self.timers.insert((due, id));
        self.all[id as usize].state = State::Waiting(due);
    }

    pub(crate) fn enqueue(&mut self, id: u32, class: Class) {
        self.lift(id);
        let step = &mut self.all[id as usize];
        if step.peer == NOBODY {
            self.unsorted[class as usize].push_back(id);
            step.state = State::Unsorted(class);
        } else {
            step.state = State::Due(class, self.ready.put(step.peer, step.place as usize, class, id));
        }
    }

    /// Ends a step that is under way; says since when it was, and whether it was touched meanwhile.
    pub(crate) fn end(&mut self, id: u32) -> Option<(u64, bool)> {
        let step = &mut self.all[id as usize];
        let State::Underway { since, permit, touched } = step.state else { return None };
        self.underway.remove(&(since, id));
        self.ready.done(step.peer, permit);
        step.state = State::Waiting(0);
        Some((since, touched))
    }

    pub(crate) fn forget(&mut self, id: u32) {
        self.lift(id);
        let step = &self.all[id as usize];
        self.numbers.remove(&(step.place, step.msgid));
        self.free.push(id);
    }
}
