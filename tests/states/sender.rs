//! The sender of the abstract world: what lies in `queue/<msgid>` and `jobs/<msgid>`.
//!
//! A state is reduced to what `spool/look.rs` makes of the files: a mark is
//! believed when the file it names is the file that lies there, so of the two
//! only that is kept. `send.req`, the certificate without its mark and `why`
//! are left out: nothing reads them. What happens to it is `sending.rs`.

use super::code::{Coded, coded_enum, coded_struct};
use super::rules::{KEEP_MESSAGE, LOST_PEER, NAMELESS_TELLS, PAIR_RECEIPT};
use super::words::{Heard, Said, World};
use service::answer::{self, Data, Seen, Write};
use spool::name::{Chan, Digest, Role};
use spool::phase::{Belief, QueueSeen, RecipientSeen, SenderSeen};
use spool::url::Ask;

coded_enum!(
    /// The message in `queue/<msgid>`.
    Letter {
        Whole,
        /// It does not open.
        Lost,
        /// The `peer` file cannot be read either: the service shows the directory to nobody.
        Nameless,
    }
);

coded_enum!(
    /// `send.rdy` with the certificate it promises.
    Ready {
        Absent,
        Doubted,
        /// The certificate of the key that is set aside.
        Current,
        /// Of another key.
        Stale,
    }
);

coded_enum!(
    /// The sealed message.
    Sealed {
        Absent,
        /// It opens with the key that is set aside.
        Current,
        /// It is for another key, and says so.
        Stale,
        /// It says that it is for the key set aside, and does not open.
        Poison,
    }
);

coded_enum!(
    /// A receipt in a mark or file.
    Slip { Absent, Garbage, Valid }
);

coded_enum!(
    /// `done`, with its outcome.
    Told {
        Absent,
        /// Not started.
        Idle,
        /// Anything else.
        Other,
    }
);

coded_enum!(
    /// How a log of input ends so far.
    Input { Open, Eof, Aborted }
);

coded_enum!(
    /// The logs of a producer on its own disk.
    Log {
        Sound,
        /// The last of it is gone, and what is left is good: only its writer knows.
        Cut,
        /// Damaged: its consumer cannot go on.
        Spoilt,
        /// The same, and its consumer has asked for a look.
        Tipped,
    }
);

coded_struct!(
    /// What lies in `queue/<msgid>`.
    Queue {
        letter: Letter,
        ready: Ready,
        ok: Belief,
        sealed: Sealed,
        ack_req: Slip,
        ack_ok: bool,
    }
);

coded_struct!(
    /// What lies in `jobs/<msgid>` of the sender.
    Asked {
        /// The job's secret opens.
        key: bool,
        receipt: Slip,
        sent: bool,
        cancel: bool,
        done: Told,
        /// `plumb` lives.
        wanted: bool,
        /// END is held on the control log.
        control: bool,
        /// END is held on the outputs.
        outputs: bool,
        /// The input that goes out.
        input: Input,
        /// What became of its log.
        log: Log,
        broken: bool,
    }
);

coded_enum!(
    /// `jobs/<msgid>` whose `peer` file cannot be believed: the recipient's table has it.
    Nameless { Fresh, Remains, Over }
);

/// What is in `jobs/<msgid>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Jobs {
    Absent,
    Nameless(Nameless),
    Asked(Asked),
}

impl Coded for Jobs {
    const COUNT: u32 = 1 + Nameless::COUNT + Asked::COUNT;
    fn code(self) -> u32 {
        match self {
            Jobs::Absent => 0,
            Jobs::Nameless(nameless) => 1 + nameless.code(),
            Jobs::Asked(asked) => 1 + Nameless::COUNT + asked.code(),
        }
    }
    fn of(code: u32) -> Jobs {
        match code {
            0 => Jobs::Absent,
            code if code <= Nameless::COUNT => Jobs::Nameless(Nameless::of(code - 1)),
            code => Jobs::Asked(Asked::of(code - 1 - Nameless::COUNT)),
        }
    }
}

coded_struct!(
    /// The sender's side.
    Sender { queue: Option<Queue>, jobs: Jobs }
);

impl Log {
    /// The mark of a consumer that cannot go on; where the log is good it is removed.
    pub fn tipped(self) -> Log {
        if self == Log::Spoilt { Log::Tipped } else { self }
    }
}

/// Stands for the valid receipt.
const RECEIPT: Digest = Digest([1; 32]);

impl Sender {
    /// A job that is committed and not yet queued, with a living `plumb`.
    pub fn fresh() -> Sender {
        let asked = Asked {
            key: true,
            receipt: Slip::Absent,
            sent: false,
            cancel: false,
            done: Told::Absent,
            wanted: true,
            control: false,
            outputs: false,
            input: Input::Open,
            log: Log::Sound,
            broken: false,
        };
        Sender { queue: None, jobs: Jobs::Asked(asked) }
    }

    /// The job, if it can be believed.
    pub fn asked(self) -> Option<Asked> {
        match self.jobs {
            Jobs::Asked(asked) => Some(asked),
            Jobs::Absent | Jobs::Nameless(_) => None,
        }
    }

    /// The same with its job changed.
    pub fn with(mut self, change: impl FnOnce(&mut Asked)) -> Sender {
        if let Jobs::Asked(asked) = &mut self.jobs {
            change(asked);
        }
        self
    }

    /// The same with its message changed.
    pub fn in_queue(mut self, change: impl FnOnce(&mut Queue)) -> Sender {
        if let Some(queue) = &mut self.queue {
            change(queue);
        }
        self
    }

    /// As `look::queue`.
    pub fn queue_seen(self, world: &World) -> Option<QueueSeen> {
        let queue = self.queue?;
        let asked = self.asked();
        // Without rule 5 a receipt is worth something only beside the sealing that it is for,
        // without rule 2 a sealed message is all that is kept.
        let (believed, rules) = (queue.ok == Belief::Believed, world.rules);
        let outlives = believed || !rules.lacks(PAIR_RECEIPT);
        let lost = queue.letter == Letter::Lost || (queue.letter == Letter::Nameless && !rules.lacks(LOST_PEER));
        let message = !lost || (believed && rules.lacks(KEEP_MESSAGE));
        Some(QueueSeen {
            message,
            send_rdy: match queue.ready {
                Ready::Absent => Belief::Absent,
                Ready::Doubted => Belief::Doubted,
                Ready::Current | Ready::Stale => Belief::Believed,
            },
            send_ok: queue.ok,
            ack_req: match queue.ack_req {
                Slip::Absent => Belief::Absent,
                Slip::Valid if outlives => Belief::Believed,
                Slip::Garbage | Slip::Valid => Belief::Doubted,
            },
            ack_ok: queue.ack_ok,
            job: asked.is_some(),
            receipt: asked.is_some_and(|asked| asked.receipt == Slip::Valid),
            cancel: asked.is_some_and(|asked| asked.cancel || asked.done != Told::Absent),
            wanted: asked.is_some_and(|asked| asked.wanted),
            too_old: world.sender_old,
        })
    }

    /// As `look::sender`.
    pub fn asked_seen(self, world: &World) -> Option<SenderSeen> {
        let asked = self.asked()?;
        Some(SenderSeen {
            key: asked.key,
            queue: self.queue.is_some(),
            held: false,
            receipt: asked.receipt == Slip::Valid,
            sent: self.may_have_left(),
            cancel: asked.cancel,
            wanted: asked.wanted,
            attended: asked.wanted,
            ended: asked.control && asked.outputs,
            control_ended: asked.control && asked.input == Input::Aborted && asked.log != Log::Cut,
            broken: asked.broken,
            input_ended: asked.input != Input::Open && asked.log != Log::Cut,
            patience_over: false,
            done: asked.done != Told::Absent,
            too_old: world.sender_old,
        })
    }

    /// As `look::may_have_left`.
    pub fn may_have_left(self) -> bool {
        let sealed = self.queue.is_some_and(|queue| queue.ok != Belief::Absent);
        let heard = |asked: Asked| asked.sent || asked.receipt != Slip::Absent || asked.control || asked.outputs;
        sealed || self.asked().is_some_and(heard)
    }

    /// As `look::recipient`, which looks at a job without an owner.
    pub fn nameless_seen(self, world: &World) -> Option<RecipientSeen> {
        let Jobs::Nameless(nameless) = self.jobs else { return None };
        Some(RecipientSeen {
            unclean: true,
            over: nameless != Nameless::Fresh,
            remains: nameless != Nameless::Over,
            tombstone_old: world.tombstone_old,
            ..RecipientSeen::default()
        })
    }

    /// What the service answers, after what it notes.
    pub fn answered(self, world: &World, said: Said) -> (Sender, Heard) {
        if said == Said::Pull {
            return (self, self.pulled_from());
        }
        if self.queue.is_some_and(|queue| queue.letter == Letter::Nameless) {
            return (self, Heard::Silence);
        }
        let offered = self.queue.filter(|queue| queue.ok != Belief::Absent).map(|queue| queue.sealed);
        let ask = match (said, offered) {
            (Said::FetchCurrent, Some(Sealed::Current)) => return (self, Heard::Opens),
            (Said::FetchCurrent, Some(Sealed::Poison)) => return (self, Heard::Poison),
            (Said::FetchCurrent | Said::FetchOther, Some(Sealed::Current | Sealed::Poison | Sealed::Stale)) => {
                return (self, Heard::Mismatch);
            }
            // Where nothing can be fetched, it is asked whether the message is still there.
            (Said::FetchCurrent | Said::FetchOther, Some(Sealed::Absent) | None) => Ask::Sta,
            (Said::Rcp, _) => Ask::Rcp(RECEIPT),
            (Said::Tip, _) => Ask::Tip(Chan::STDIN, 0),
            (_, _) => Ask::Sta,
        };
        let answer = answer::answer(&self.service_seen(), &ask);
        let here = match answer.write {
            Some(Write::Offer(_)) => self.in_queue(|queue| queue.ack_req = Slip::Valid),
            Some(Write::Tip(..)) => self.with(|asked| asked.log = asked.log.tipped()),
            _ => self,
        };
        let heard = match answer.data {
            Data::Outcome if world.rules.lacks(NAMELESS_TELLS) => Heard::Later,
            Data::Outcome => Heard::OutcomeRan,
            _ => Heard::word(answer.word),
        };
        (here, heard)
    }

    /// As the service sees it.
    fn service_seen(self) -> Seen {
        let job = match self.jobs {
            Jobs::Absent => None,
            Jobs::Nameless(nameless) => {
                Some(answer::Job { over: nameless != Nameless::Fresh, ..answer::Job::default() })
            }
            Jobs::Asked(asked) => Some(answer::Job {
                role: Some(Role::Sender),
                receipt: asked.receipt != Slip::Absent,
                acked: false,
                cancel: asked.cancel,
                over: false,
            }),
        };
        Seen { queue: self.queue.is_some(), job, room: true, stock: true, ..Seen::default() }
    }

    fn pulled_from(self) -> Heard {
        self.asked().map_or(Heard::Silence, |asked| match asked.input {
            _ if asked.log != Log::Sound => Heard::Bytes,
            Input::Open => Heard::Bytes,
            Input::Eof => Heard::Eof,
            Input::Aborted => Heard::Aborted,
        })
    }
}
