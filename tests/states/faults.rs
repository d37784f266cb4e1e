//! What can go wrong, beside lost words and steps cut short: those `reach.rs` has.

use super::damage::Harm;
use super::history::{How, Node, Pending, SAID};
use super::keeper::Keeper;
use super::recipient::{Fetched, Named, Recipient, Supply};
use super::sender::{Jobs, Queue, Ready, Sender, Slip, Told};
use super::words::{Actor, Effect, Heard, Said, Side, World};
use spool::phase::Belief;

/// Which of them there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// How many crashes, of whatever kind.
    pub crashes: u8,
    /// What was said is said again.
    pub replays: bool,
    /// An answer, or what was decided, waits while all others go on.
    pub late: bool,
    /// Somebody cancels.
    pub cancel: bool,
    /// `plumb` dies.
    pub plumb_dies: bool,
    /// The keeper dies: a crash. And the command may end before its input does.
    pub keeper_dies: bool,
    /// A machine loses its power, and one mark that was not synced: a crash.
    pub power: bool,
    /// The recipient loses `rqueue/<msgid>`: a crash.
    pub amnesia: bool,
    /// A tombstone has stood for its time.
    pub forget: bool,
    /// Messages and jobs have waited for their maximum age.
    pub age: bool,
    /// The gluepot may say no.
    pub refuse: bool,
    /// So many files are damaged, each at any time.
    pub damages: u8,
    /// So many files are removed, or replaced by what is no file of ours.
    pub missing: u8,
}

impl Faults {
    /// Crashes and replays, nothing else.
    pub fn crashes(crashes: u8) -> Faults {
        Faults { crashes, replays: true, ..Faults::default() }
    }

    /// All of them at once.
    pub fn all(crashes: u8) -> Faults {
        Faults {
            crashes,
            replays: true,
            late: true,
            cancel: true,
            plumb_dies: true,
            keeper_dies: true,
            power: true,
            amnesia: true,
            forget: true,
            age: true,
            refuse: true,
            damages: 0,
            missing: 0,
        }
    }

    /// A crash, if there may be one more.
    pub fn crash(&self, how: How, mut node: Node, next: &mut Vec<(How, Node)>) {
        if node.memory.crashes < self.crashes {
            node.memory.crashes += 1;
            next.push((how, node));
        }
    }

    /// All that can go wrong here.
    pub fn strike(&self, world: &World, node: &Node, next: &mut Vec<(How, Node)>) {
        if self.replays {
            replay(world, node, next);
        }
        self.strike_plumb(node, next);
        self.strike_recipient(node, next);
        if self.power {
            self.cut_power(node, next);
        }
        if node.memory.damages < self.damages {
            harm(node, node.sender.damaged(world.rules), node.recipient.damaged(world.rules), next);
        }
        if node.memory.damages < self.missing {
            harm(node, node.sender.missing(), node.recipient.missing(), next);
        }
    }

    fn strike_plumb(&self, node: &Node, next: &mut Vec<(How, Node)>) {
        if self.plumb_dies && node.sender.asked().is_some_and(|asked| !asked.wanted && asked.done == Told::Absent) {
            let sender = node.sender.with(|asked| asked.wanted = true);
            next.push((How::Fault("somebody attaches"), Node { sender, ..*node }));
        }
        let Some(asked) = node.sender.asked().filter(|asked| asked.wanted) else { return };
        if self.cancel && !asked.cancel && asked.done == Told::Absent {
            let mut here = *node;
            here.sender = here.sender.with(|asked| asked.cancel = true);
            here.memory.excused = true;
            // With the message's lock, which a step of the queue would hold.
            let alone = node.sender.queue.is_some() && node.pending.map(Pending::actor) != Some(Actor::Queue);
            here.memory.told_idle |= alone && !node.sender.may_have_left();
            next.push((How::Fault("cancelled by hand"), here));
        }
        if self.plumb_dies {
            let mut here = *node;
            here.sender = here.sender.with(|asked| asked.wanted = false);
            here.memory.excused = true;
            next.push((How::Fault("plumb dies"), here));
        }
    }

    fn strike_recipient(&self, node: &Node, next: &mut Vec<(How, Node)>) {
        let keeper = node.recipient.job().map_or(Keeper::Dead, |job| job.keeper);
        if self.keeper_dies && keeper != Keeper::Dead {
            let mut here = *node;
            here.keeper_dies();
            self.crash(How::Fault("the keeper dies"), here, next);
        }
        if self.keeper_dies && keeper == Keeper::Running {
            let recipient = node.recipient.in_job(|job| job.keeper = Keeper::EndingRan);
            next.push((How::Fault("the command ends early"), Node { recipient, ..*node }));
        }
        if matches!(node.recipient, Recipient::Rqueue(_)) && (self.amnesia || self.age) {
            let mut here = *node;
            let rqueue = node.recipient.rqueue();
            here.recipient = Recipient::Nothing(Supply::Full);
            here.renew_key(Effect { renewed: rqueue.is_some_and(|rqueue| rqueue.key), ..Effect::default() });
            let idle = node.pending.map(Pending::actor) != Some(Actor::Rqueue);
            if self.age && idle && rqueue.is_some_and(|rqueue| !rqueue.cancel) {
                next.push((How::Fault("rqueue is too old"), here));
            }
            if self.amnesia {
                self.crash(How::Fault("rqueue is lost"), here, next);
            }
        }
    }

    fn cut_power(&self, node: &Node, next: &mut Vec<(How, Node)>) {
        let mut stopped = *node;
        if matches!(stopped.pending, Some(Pending::Sender(..))) {
            stopped.pending = None;
        }
        if !matches!(stopped.sender.jobs, Jobs::Absent) || stopped.sender.queue.is_some() {
            // Another boot: `sent` counts as there, and `plumb` is gone; the job may be one that needs none.
            stopped.memory.excused = true;
            let wanted = stopped.sender.asked().is_some_and(|asked| asked.wanted);
            for wanted in [false, true].into_iter().filter(|still| wanted || !still) {
                let sender = stopped.sender.with(|asked| (asked.wanted, asked.sent) = (wanted, true));
                for sender in sender.without_a_hint() {
                    self.crash(How::Fault("the sender loses power"), Node { sender, ..stopped }, next);
                }
            }
        }
        let mut stopped = *node;
        if matches!(stopped.pending, Some(Pending::Recipient(..))) {
            stopped.pending = None;
        }
        stopped.keeper_dies();
        for recipient in stopped.recipient.without_a_hint() {
            self.crash(How::Fault("the recipient loses power"), Node { recipient, ..stopped }, next);
        }
    }
}

/// Each of these happens, alone.
fn harm(node: &Node, sender: Vec<Harm<Sender>>, recipient: Vec<Harm<Recipient>>, next: &mut Vec<(How, Node)>) {
    let mut harmed = *node;
    harmed.memory.damages += 1;
    for harm in sender {
        let mut here = Node { sender: harm.state, ..harmed };
        if harm.renewed {
            here.recipient = here.recipient.renewed();
            here.memory.sealed_anew();
            here.pending = here.pending.map(Pending::sealed_anew);
        }
        // `plumb` sees that the directory is gone; of a job that was left a notice says so.
        here.memory.told |= harm.forgot;
        next.push((How::Fault(harm.what), here));
    }
    for harm in recipient {
        let mut here = Node { recipient: harm.state, ..harmed };
        here.renew_key(Effect { renewed: harm.renewed, ..Effect::default() });
        here.memory.forgot |= harm.forgot;
        next.push((How::Fault(harm.what), here));
    }
}

/// What was said once is said again; nobody hears the answer.
fn replay(world: &World, node: &Node, next: &mut Vec<(How, Node)>) {
    let said = SAID.iter().enumerate().filter(|(at, _)| node.memory.said >> at & 1 == 1);
    for (_, &said) in said {
        let mut here = *node;
        if said == Said::Rcp {
            here.sender = here.sender.answer(world, said).0;
        } else {
            let (recipient, heard) = here.recipient.answer(world, said);
            here.recipient = recipient;
            here.renew_key(Effect { renewed: heard == Heard::OkFresh, ..Effect::default() });
        }
        next.push((How::Replay(said), here));
    }
}

impl Sender {
    /// What a power cut can leave: all, or all but one mark that was not synced.
    fn without_a_hint(self) -> Vec<Sender> {
        let mut left = vec![self];
        let lost: [fn(&mut Queue); 7] = [
            |queue| queue.ready = Ready::Absent,
            |queue| queue.ready = Ready::Doubted,
            |queue| queue.ok = Belief::Absent,
            |queue| queue.ok = Belief::Doubted,
            |queue| queue.ack_req = Slip::Absent,
            |queue| queue.ack_req = Slip::Garbage,
            |queue| queue.ack_ok = false,
        ];
        if self.queue.is_some() {
            left.extend(lost.map(|lose| self.in_queue(lose)));
        }
        left.push(self.with(|asked| asked.done = Told::Absent));
        left
    }
}

impl Recipient {
    /// The same for the recipient.
    fn without_a_hint(self) -> Vec<Recipient> {
        let mut left = vec![self];
        if self.rqueue().is_some() {
            left.push(self.in_rqueue(|rqueue| rqueue.req = Named::Absent));
            left.push(self.in_rqueue(|rqueue| rqueue.req = Named::Doubted));
            left.push(self.in_rqueue(|rqueue| rqueue.ready = Fetched::Absent));
            left.push(self.in_rqueue(|rqueue| rqueue.ready = Fetched::Doubted));
            left.push(self.in_rqueue(|rqueue| rqueue.cancel = false));
            left.push(self.in_rqueue(|rqueue| rqueue.over = false));
            left.push(self.in_rqueue(|rqueue| rqueue.receipt = Slip::Absent));
            left.push(self.in_rqueue(|rqueue| rqueue.message = false));
        }
        if self.job().is_some_and(|job| !job.over) {
            left.push(self.in_job(|job| job.acked = false));
            left.push(self.in_job(|job| job.unclean = true));
            left.push(self.in_job(|job| job.cancel = false));
            left.push(self.in_job(|job| job.drained = false));
        }
        left
    }
}
