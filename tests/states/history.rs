//! A state with its past: what has happened, and what must never have.

use super::code::Coded;
use super::converge::fits;
use super::keeper::Keeper;
use super::receiving;
use super::recipient::{Exit, Recipient, Supply};
use super::sender::{Input, Jobs, Nameless, Sender, Slip, Told};
use super::sending;
use super::words::{Actor, Effect, Heard, Said, Side, Turn, World};

/// What somebody who listens can say again: bits of `Memory::said` in this order.
pub const SAID: [Said; 6] = [Said::Msg, Said::SndCurrent, Said::SndOther, Said::Rcp, Said::Ack, Said::Cxl];

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Memory {
    pub crashes: u8,
    pub said: u8,
    /// How often, up to 2.
    pub delivered: u8,
    /// How often, up to 2.
    pub started: u8,
    /// Somebody was told that nothing was started.
    pub told_idle: bool,
    /// Somebody did not want it any more, or could not.
    pub excused: bool,
    pub queued: bool,
    /// The output was taken.
    pub taken: bool,
    /// The keeper died while the command ran.
    pub killed: bool,
    /// Files that were damaged, or removed.
    pub damages: u8,
    /// `plumb` heard how its job ended.
    pub told: bool,
    /// The recipient's whole job was removed.
    pub forgot: bool,
}

impl Memory {
    /// Somebody may have listened.
    pub fn hear(&mut self, said: Said) {
        if let Some(at) = SAID.iter().position(|&other| other == said) {
            self.said |= 1 << at;
        }
    }

    /// What was said of the last sealing is of another one after this.
    pub fn sealed_anew(&mut self) {
        if self.said & 0b10 != 0 {
            self.said = self.said & !0b10 | 0b100;
        }
    }

    /// As a number of 37 bits.
    pub fn code(self) -> u64 {
        let bits = [self.told_idle, self.excused, self.queued, self.taken, self.killed];
        let counts = u64::from(self.crashes) << 12 | u64::from(self.said) << 4;
        let counts = counts | u64::from(self.delivered) << 2 | u64::from(self.started);
        let code = bits.into_iter().fold(counts, |code, bit| code << 1 | u64::from(bit));
        code | u64::from(self.damages) << 25 | u64::from(self.told) << 27 | u64::from(self.forgot) << 28
    }

    /// The memory with this number.
    pub fn of(code: u64) -> Memory {
        let bit = |at: u32| code >> at & 1 == 1;
        let count = |at: u32, bits: u32| (code >> at & ((1 << bits) - 1)) as u8;
        Memory {
            crashes: count(17, 8),
            said: count(9, 8),
            delivered: count(7, 2),
            started: count(5, 2),
            told_idle: bit(4),
            excused: bit(3),
            queued: bit(2),
            taken: bit(1),
            killed: bit(0),
            damages: count(25, 2),
            told: bit(27),
            forgot: bit(28),
        }
    }
}

/// Something under way: what was decided, or what was heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pending {
    Sender(Turn<sending::Step>, Option<Heard>),
    Recipient(Turn<receiving::Step>, Option<Heard>),
}

impl Pending {
    /// Who waits for it.
    pub fn actor(self) -> Actor {
        match self {
            Pending::Sender(turn, _) => turn.actor,
            Pending::Recipient(turn, _) => turn.actor,
        }
    }

    /// Is it a wish that a producer look at its own log?
    pub fn is_tip(self) -> bool {
        let said = match self {
            Pending::Sender(turn, _) => turn.said,
            Pending::Recipient(turn, _) => turn.said,
        };
        said == Some(Said::Tip)
    }

    /// The sender sealed anew meanwhile.
    pub fn sealed_anew(self) -> Pending {
        match self {
            Pending::Recipient(turn, Some(Heard::Opens)) => Pending::Recipient(turn, Some(Heard::OpensStale)),
            Pending::Recipient(turn, Some(Heard::Poison)) => Pending::Recipient(turn, Some(Heard::PoisonStale)),
            Pending::Sender(turn, None) => Pending::Sender(turn.stale(), None),
            same => same,
        }
    }

    /// The recipient's key went meanwhile.
    fn key_renewed(self) -> Pending {
        match self {
            Pending::Sender(turn, Some(Heard::Ok)) if turn.said == Some(Said::Msg) => {
                Pending::Sender(turn, Some(Heard::OkStale))
            }
            Pending::Sender(turn, None) => Pending::Sender(turn.stale(), None),
            same => same,
        }
    }
}

/// One state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    pub sender: Sender,
    pub recipient: Recipient,
    pub memory: Memory,
    pub pending: Option<Pending>,
}

/// How a state was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Begun,
    Whole(Actor),
    LostQuestion(Actor),
    LostAnswer(Actor),
    Crash(Actor),
    Decides(Actor),
    Waits(Actor),
    Forged(Actor),
    Replay(Said),
    Fault(&'static str),
}

impl Node {
    /// A message about to be queued.
    pub fn begin() -> Node {
        Node::of(Sender::fresh(), Recipient::Nothing(Supply::Full))
    }

    /// Two sides without a past.
    pub fn of(sender: Sender, recipient: Recipient) -> Node {
        Node { sender, recipient, memory: Memory::default(), pending: None }
    }

    /// What all actors would do.
    pub fn turns(&self, world: &World) -> Vec<Pending> {
        let senders = self.sender.turns(world).into_iter().map(|turn| Pending::Sender(turn, None));
        let recipients = self.recipient.turns(world).into_iter().map(|turn| Pending::Recipient(turn, None));
        senders.chain(recipients).collect()
    }

    /// May tombstones have stood for their time? One without a `peer` stands for longer than
    /// anybody waits: nothing of the job is left at the other side, or its end was seen.
    pub fn may_forget(&self, world: &World) -> bool {
        let nobodys = self.recipient.job().is_some_and(|job| !job.owner);
        let unread = matches!(self.sender.jobs, Jobs::Nameless(_)) && !self.memory.told && !self.memory.excused;
        !unread && (!nobodys || (self.sender.clean(world) && self.pending.is_none()))
    }

    /// Both sides as one number.
    pub fn pair(&self) -> u64 {
        u64::from(self.sender.code()) << 32 | u64::from(self.recipient.code())
    }

    /// What an effect of the recipient's does to the rest.
    pub fn renew_key(&mut self, effect: Effect) {
        if effect.renewed {
            self.sender = self.sender.renewed();
            self.memory.said &= !0b110;
            self.pending = self.pending.map(Pending::key_renewed);
        }
    }

    /// The keeper dies, and the guard kills the command.
    pub fn keeper_dies(&mut self) {
        self.memory.killed |= self.recipient.job().is_some_and(|job| job.keeper == Keeper::Running);
        self.recipient = self.recipient.in_job(|job| job.keeper = Keeper::Dead);
    }

    /// What must never be.
    pub fn wrong(&self, world: &World) -> Option<&'static str> {
        let Node { sender, recipient, memory, pending } = self;
        if !sender.legal() || !recipient.legal() || !fits(sender.bond(), recipient.bond()) {
            return Some("a state without a legal description");
        }
        let asked = sender.asked();
        let receipted = asked.is_some_and(|asked| asked.receipt == Slip::Valid)
            || sender.queue.is_some_and(|queue| queue.ack_req == Slip::Valid)
            || matches!(pending, Some(Pending::Sender(_, Some(Heard::ReceiptValid))));
        let at_rest = sender.clean(world) && recipient.clean(world) && pending.is_none();
        let nameless = matches!(sender.jobs, Jobs::Nameless(Nameless::Over));
        let told = memory.taken || memory.told || nameless;
        let wrongs = [
            ("delivered twice", memory.delivered > 1 && !memory.forgot),
            ("started twice", memory.started > 1 && !memory.forgot),
            ("a receipt before delivery", receipted && memory.delivered == 0),
            ("told \"not started\" of what was started", memory.told_idle && memory.started > 0 && !memory.forgot),
            ("lost", at_rest && !memory.excused && !memory.taken && memory.damages == 0),
            ("ends without an outcome", at_rest && !memory.excused && !told && memory.damages > 0),
        ];
        let wrong = wrongs.into_iter().find(|(_, is_so)| *is_so).map(|(name, _)| name);
        wrong.or_else(|| self.wrong_job(world))
    }

    fn wrong_job(&self, world: &World) -> Option<&'static str> {
        let (job, asked, memory) = (self.recipient.job()?, self.sender.asked(), self.memory);
        if memory.forgot {
            return None;
        }
        let (exit, exits) = (job.exit, job.exit != Exit::Absent);
        let held = asked.is_none_or(|asked| (asked.control && asked.outputs) || asked.done != Told::Absent);
        // Somebody who listened can say `cxl` when nobody is left to be told.
        let listened = asked.is_some();
        let always = [
            (
                "an exit status of what did not end by itself",
                exit == Exit::Ran && (memory.started == 0 || memory.killed),
            ),
            ("an exit \"not started\" of what was started", exit == Exit::Idle && memory.started > 0),
            ("\"not started\" about what was started", job.over && job.is_idle() && memory.started > 0 && listened),
        ];
        // What damage takes away of a file takes what the file proves.
        let undamaged = [
            ("EXIT before run.exit", !job.over && job.control && !(exits && job.outputs)),
            ("run.exit before END of the outputs", !world.repeat && !job.over && exits && !job.outputs),
            ("outputs offered before run.exit", world.repeat && !job.over && !exits && job.outputs),
            (
                "started before its input was whole",
                world.batch && !job.over && memory.started > 0 && job.input != Input::Eof,
            ),
            ("an exit that is not durable is known", asked.is_some_and(|asked| asked.control) && !exits),
            ("output is given up before it is held", job.drained && !held),
        ];
        let undamaged = undamaged.into_iter().filter(|_| memory.damages == 0);
        always.into_iter().chain(undamaged).find(|(_, is_so)| *is_so).map(|(name, _)| name)
    }
}
