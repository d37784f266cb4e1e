//! The recipient of the abstract world: `rqueue/<msgid>`, and the job it becomes.
//!
//! As in `sender.rs`, a state is what `spool/look.rs` can see of the files:
//! `peer.ok` is believed when the key of its digest lies there, `recv.req` when
//! it names that key, `recv.rdy` when the sealed file has the digest it names.
//! `peer.req` is left out: nothing reads it, and an empty `rqueue/<msgid>` is
//! what it stands for. Beside `jobs/<msgid>` all that `rqueue/<msgid>` contains
//! is one bit. What happens to it is `receiving.rs`.

use super::code::{Coded, coded_enum, coded_struct};
use super::keeper::Keeper;
use super::rules::{ACK_UNKNOWN, KEY_ONCE, NAME_KEY, NAMELESS_TELLS};
use super::sender::{Input, Log, Slip};
use super::words::{Heard, Said, World};
use service::answer::{self, Answer, Data, Incoming, Seen, Write};
use spool::name::{Chan, Digest, Role};
use spool::phase::{Belief, RecipientSeen, RqueueSeen};
use spool::url::{self, Ask, Word};

coded_enum!(
    /// `recv.req`, by what it names.
    Named {
        Absent,
        Doubted,
        /// The file that lies at the sender, for the key set aside.
        Current,
        /// Another file for that key.
        Other,
    }
);

coded_enum!(
    /// `recv.rdy` with the sealed file it promises.
    Fetched {
        Absent,
        Doubted,
        /// The file that lies at the sender; it opens.
        Current,
        /// The file that lies at the sender; it does not.
        Poison,
        /// Another file; it opens.
        Other,
        /// Another file; it does not.
        OtherPoison,
    }
);

coded_enum!(
    /// `run.exit`, by its outcome.
    Exit {
        Absent,
        /// The command was started and ended.
        Ran,
        /// It may have been started.
        Interrupted,
        /// It was not started.
        Idle,
    }
);

coded_enum!(
    /// What a new message needs.
    Supply { Full, NoStock, NoRoom }
);

coded_struct!(
    /// What lies in `rqueue/<msgid>`.
    Rqueue {
        key: bool,
        peer_ok: Belief,
        req: Named,
        ready: Fetched,
        cancel: bool,
        over: bool,
        message: bool,
        receipt: Slip,
    }
);

coded_struct!(
    /// What lies in `jobs/<msgid>` of the recipient, and the process beside it.
    Job {
        owner: bool,
        message: bool,
        unclean: bool,
        receipt: Slip,
        acked: bool,
        cancel: bool,
        started: bool,
        exit: Exit,
        /// END stands on the outputs.
        outputs: bool,
        /// EXIT and END stand on the control log.
        control: bool,
        /// The logs that go out.
        log: Log,
        /// The input that came in.
        input: Input,
        drained: bool,
        over: bool,
        remains: bool,
        keeper: Keeper,
    }
);

/// The recipient's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recipient {
    Nothing(Supply),
    /// `None`: its `peer` file cannot be believed.
    Rqueue(Option<Rqueue>),
    /// `beside`: `rqueue/<msgid>` is here too.
    Job {
        beside: bool,
        job: Job,
    },
}

impl Coded for Recipient {
    const COUNT: u32 = Supply::COUNT + <Option<Rqueue>>::COUNT + 2 * Job::COUNT;
    fn code(self) -> u32 {
        let jobs = Supply::COUNT + <Option<Rqueue>>::COUNT;
        match self {
            Recipient::Nothing(supply) => supply.code(),
            Recipient::Rqueue(rqueue) => Supply::COUNT + rqueue.code(),
            Recipient::Job { beside, job } => jobs + beside.code() * Job::COUNT + job.code(),
        }
    }
    fn of(code: u32) -> Recipient {
        let Some(beyond) = code.checked_sub(Supply::COUNT) else { return Recipient::Nothing(Supply::of(code)) };
        match beyond.checked_sub(<Option<Rqueue>>::COUNT) {
            None => Recipient::Rqueue(Option::of(beyond)),
            Some(job) => Recipient::Job { beside: job >= Job::COUNT, job: Job::of(job % Job::COUNT) },
        }
    }
}

const KEY: Digest = Digest([1; 32]);
const OTHER_KEY: Digest = Digest([2; 32]);
const FILE: Digest = Digest([3; 32]);
const OTHER_FILE: Digest = Digest([4; 32]);

fn sealed(digest: Digest, key: Digest) -> url::Sealed {
    url::Sealed { digest, length: 1, key }
}

impl Rqueue {
    /// A directory with nothing in it but whose it is.
    pub const BARE: Rqueue = Rqueue {
        key: false,
        peer_ok: Belief::Absent,
        req: Named::Absent,
        ready: Fetched::Absent,
        cancel: false,
        over: false,
        message: false,
        receipt: Slip::Absent,
    };

    /// As `look::rqueue`. An old one is only dropped (or buried), and what then is here is young again.
    pub fn seen(&self, job: bool) -> RqueueSeen {
        RqueueSeen {
            job,
            owner: true,
            cancel: self.cancel,
            too_old: false,
            key: self.key,
            peer_ok: self.peer_ok,
            recv_req: match self.req {
                Named::Absent => Belief::Absent,
                Named::Doubted => Belief::Doubted,
                Named::Current | Named::Other => Belief::Believed,
            },
            recv_rdy: match self.ready {
                Fetched::Absent => Belief::Absent,
                Fetched::Doubted => Belief::Doubted,
                Fetched::Current | Fetched::Poison | Fetched::Other | Fetched::OtherPoison => Belief::Believed,
            },
        }
    }

    /// As the service sees it.
    pub fn incoming(&self) -> Incoming {
        let noticed = match (self.ready, self.req) {
            (Fetched::Current | Fetched::Poison, _) => Some(sealed(FILE, KEY)),
            (Fetched::Other | Fetched::OtherPoison, _) => Some(sealed(OTHER_FILE, KEY)),
            (_, Named::Current) => Some(sealed(FILE, KEY)),
            (_, Named::Other) => Some(sealed(OTHER_FILE, KEY)),
            (_, Named::Doubted) => Some(sealed(OTHER_FILE, OTHER_KEY)),
            (_, Named::Absent) => None,
        };
        let key = (self.peer_ok == Belief::Believed).then_some(KEY);
        Incoming { key, noticed, cancel: self.cancel }
    }

    /// The key is gone: what names it is no longer believed.
    pub fn lose_key(&mut self) {
        self.key = false;
        if self.peer_ok == Belief::Believed {
            self.peer_ok = Belief::Doubted;
            self.req = if self.req == Named::Absent { Named::Absent } else { Named::Doubted };
            self.ready = if self.ready == Fetched::Absent { Fetched::Absent } else { Fetched::Doubted };
        }
    }
}

impl Job {
    /// As `look::recipient`.
    pub fn seen(&self, world: &World) -> RecipientSeen {
        RecipientSeen {
            owner: self.owner,
            message: self.message,
            unclean: self.unclean,
            acked: self.acked,
            cancel: self.cancel,
            started: self.started,
            exit: self.exit != Exit::Absent,
            outputs_ended: self.outputs,
            control_ended: self.control,
            keeper: self.keeper != Keeper::Dead,
            drained: self.drained,
            over: self.over,
            remains: self.remains,
            too_old: world.recipient_old,
            tombstone_old: world.tombstone_old,
        }
    }

    /// Says its outcome that the command was not started?
    pub fn is_idle(&self) -> bool {
        !self.started && matches!(self.exit, Exit::Absent | Exit::Idle)
    }

    /// What a pull brings of its logs.
    fn pulled_from(&self) -> Heard {
        match (self.outputs, self.control) {
            _ if !self.owner || !self.remains || self.over => Heard::Silence,
            _ if self.log != Log::Sound => Heard::Bytes,
            (false, false) => Heard::Bytes,
            (true, false) => Heard::Outputs,
            (false, true) => Heard::Control,
            (true, true) => Heard::Ends,
        }
    }
}

impl Recipient {
    /// `rqueue/<msgid>`, if its owner is known and no job lies beside it.
    pub fn rqueue(self) -> Option<Rqueue> {
        match self {
            Recipient::Rqueue(rqueue) => rqueue,
            Recipient::Nothing(_) | Recipient::Job { .. } => None,
        }
    }

    /// The job, if there is one.
    pub fn job(self) -> Option<Job> {
        match self {
            Recipient::Job { job, .. } => Some(job),
            Recipient::Nothing(_) | Recipient::Rqueue(_) => None,
        }
    }

    /// The same with its `rqueue` changed.
    pub fn in_rqueue(mut self, change: impl FnOnce(&mut Rqueue)) -> Recipient {
        if let Recipient::Rqueue(Some(rqueue)) = &mut self {
            change(rqueue);
        }
        self
    }

    /// The same with its job changed.
    pub fn in_job(mut self, change: impl FnOnce(&mut Job)) -> Recipient {
        if let Recipient::Job { job, .. } = &mut self {
            change(job);
        }
        self
    }

    /// As the service sees it.
    pub fn service_seen(self) -> Seen {
        let job = self.job().map(|job| answer::Job {
            role: job.owner.then_some(Role::Recipient),
            receipt: job.receipt != Slip::Absent,
            acked: job.acked,
            cancel: job.cancel,
            over: job.over,
        });
        let supply = if let Recipient::Nothing(supply) = self { supply } else { Supply::Full };
        Seen {
            queue: false,
            incoming: self.rqueue().map(|rqueue| rqueue.incoming()),
            job,
            room: supply != Supply::NoRoom,
            stock: supply == Supply::Full,
        }
    }

    /// What the service answers, after what it notes.
    pub fn answered(self, world: &World, said: Said) -> (Recipient, Heard) {
        let ask = match said {
            Said::Msg => Ask::Msg,
            Said::SndCurrent => Ask::Snd(sealed(FILE, KEY)),
            Said::SndOther => Ask::Snd(sealed(OTHER_FILE, KEY)),
            Said::SndStale => Ask::Snd(sealed(FILE, OTHER_KEY)),
            Said::Ack => Ask::Ack,
            Said::Cxl => Ask::Cxl,
            Said::Got => Ask::Got(Chan::STDOUT, 1),
            Said::Tip => Ask::Tip(Chan::STDOUT, 0),
            Said::Pull => return (self, self.job().map_or(Heard::Silence, |job| job.pulled_from())),
            _ => Ask::Sta,
        };
        let rules = world.rules;
        match (said, self) {
            // Shown to nobody.
            (_, Recipient::Rqueue(None)) => return (self, Heard::Silence),
            (Said::Ack, Recipient::Nothing(_) | Recipient::Rqueue(_)) if rules.lacks(ACK_UNKNOWN) => {
                return (self, Heard::Silence);
            }
            (Said::Msg, Recipient::Rqueue(Some(Rqueue { peer_ok: Belief::Believed, cancel: false, .. })))
                if rules.lacks(KEY_ONCE) =>
            {
                let here = self.in_rqueue(|rqueue| {
                    rqueue.lose_key();
                    (rqueue.key, rqueue.peer_ok) = (true, Belief::Believed);
                });
                return (here, Heard::OkFresh);
            }
            _ => {}
        }
        let answer = answer::answer(&self.service_seen(), &ask);
        let heard = match (answer.data, self.job()) {
            (Data::Outcome, Some(Job { owner: false, .. })) if rules.lacks(NAMELESS_TELLS) => Heard::Later,
            (Data::Receipt, Some(Job { receipt: Slip::Valid, .. })) => Heard::ReceiptValid,
            (Data::Receipt, _) => Heard::ReceiptGarbage,
            (Data::Outcome, Some(job)) if job.is_idle() => Heard::OutcomeIdle,
            (Data::Outcome, _) => Heard::OutcomeRan,
            _ if answer.word == Word::NeedKey && rules.lacks(NAME_KEY) => Heard::Later,
            _ => Heard::word(answer.word),
        };
        self.written(answer).map_or((self, Heard::Later), |here| (here, heard))
    }

    /// As `service/note.rs` writes it; `None` if it cannot.
    fn written(self, answer: Answer) -> Option<Recipient> {
        let appear = |rqueue| match self {
            Recipient::Nothing(_) => Some(Recipient::Rqueue(Some(rqueue))),
            Recipient::Rqueue(_) | Recipient::Job { .. } => None,
        };
        match answer.write {
            None | Some(Write::Offer(_)) => Some(self),
            Some(Write::Tip(..)) => Some(self.in_job(|job| job.log = job.log.tipped())),
            Some(Write::Claim) => appear(Rqueue { key: true, peer_ok: Belief::Believed, ..Rqueue::BARE }),
            Some(Write::Expect) => appear(Rqueue::BARE),
            Some(Write::Bury) => appear(Rqueue { cancel: true, ..Rqueue::BARE }),
            Some(Write::Notice(sealed)) => Some(self.in_rqueue(|rqueue| {
                rqueue.req = if sealed.digest == FILE { Named::Current } else { Named::Other };
                // What was fetched is another file.
                rqueue.ready = if rqueue.ready == Fetched::Doubted { Fetched::Doubted } else { Fetched::Absent };
            })),
            Some(Write::CancelIncoming) => Some(self.in_rqueue(|rqueue| rqueue.cancel = true)),
            Some(Write::CancelJob) => Some(self.in_job(|job| job.cancel = true)),
            Some(Write::Acked) => Some(self.in_job(|job| job.acked = true)),
            Some(Write::Got(..)) => Some(self.in_job(|job| job.drained |= job.outputs && job.control)),
        }
    }
}
