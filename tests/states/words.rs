//! What the two sides of the abstract world say to each other, and who acts.
//!
//! A request and what is heard of it are reduced to what a decision can depend
//! on: of two digests only whether they are the same, of an outcome only
//! whether the command may have been started.

use super::code::coded_enum;
use r#loop::state::Came;
use spool::url::Word;

coded_enum!(
    /// Whoever does one thing after another, until nothing changes any more.
    Actor {
        /// The sender's loop on `queue/<msgid>`.
        Queue,
        /// The sender's loop on `jobs/<msgid>`.
        Asked,
        /// `plumb`, alive, or whoever collects what a detached job gave.
        Plumb,
        /// The recipient's loop on `rqueue/<msgid>`.
        Rqueue,
        /// The recipient's loop on `jobs/<msgid>`.
        Job,
        /// The recipient's daemon and the keeper that it starts.
        Keeper,
        /// Whoever frees disk and refills the stock of keys.
        Supply,
    }
);

coded_enum!(
    /// What one side asks of the other.
    Said {
        Msg,
        /// With the key that is set aside, and the digest of the file that lies here.
        SndCurrent,
        /// With that key, for another sealing.
        SndOther,
        /// With another key.
        SndStale,
        Rcp,
        Ack,
        Sta,
        Cxl,
        /// The sealed message that lies at the sender.
        FetchCurrent,
        /// A sealed message that does not lie there.
        FetchOther,
        /// The segments of the other side's logs, up to where they end.
        Pull,
        /// END is held on all of them.
        Got,
        /// A log cannot be gone on with: its producer is to look at its own disk.
        Tip,
    }
);

coded_enum!(
    /// What is heard of it.
    Heard {
        Silence,
        Ok,
        /// OK, with a certificate that was made for this answer.
        OkFresh,
        /// OK, with a certificate whose key is gone meanwhile.
        OkStale,
        ReceiptValid,
        ReceiptGarbage,
        /// The outcome: not started.
        OutcomeIdle,
        /// The outcome of what may have been started.
        OutcomeRan,
        NeedKey,
        Gone,
        Later,
        /// DONE without data.
        Done,
        /// The sealed message that was asked for; it opens.
        Opens,
        /// The sealed message that was asked for; it does not open.
        Poison,
        /// The same, but the sender sealed anew meanwhile.
        OpensStale,
        PoisonStale,
        /// Another file than the one asked for.
        Mismatch,
        /// Segments without END.
        Bytes,
        /// END of the outputs.
        Outputs,
        /// END of the control log.
        Control,
        /// Both.
        Ends,
        /// END{eof} of the input.
        Eof,
        /// END{aborted} of the input.
        Aborted,
    }
);

impl Heard {
    /// The word of a reply, where it has no data that matters.
    pub fn word(word: Word) -> Heard {
        match word {
            Word::Ok => Heard::Ok,
            Word::Done => Heard::Done,
            Word::NeedKey => Heard::NeedKey,
            Word::Gone => Heard::Gone,
            Word::Later => Heard::Later,
        }
    }

    /// What the tables call it.
    pub fn came(self) -> Came {
        match self {
            Heard::Silence => Came::Silence,
            Heard::Ok | Heard::OkFresh | Heard::OkStale => Came::Ok,
            Heard::ReceiptValid | Heard::ReceiptGarbage | Heard::Done => Came::Receipt,
            Heard::OutcomeIdle | Heard::OutcomeRan => Came::Outcome,
            Heard::NeedKey => Came::NeedKey,
            Heard::Gone => Came::Gone,
            Heard::Later => Came::Later,
            Heard::Opens | Heard::Poison | Heard::OpensStale | Heard::PoisonStale => Came::Worked,
            Heard::Mismatch => Came::Failed,
            Heard::Bytes | Heard::Outputs | Heard::Control | Heard::Ends | Heard::Eof | Heard::Aborted => Came::Ok,
        }
    }
}

/// What a step does beyond its own side's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Effect {
    /// What the other side holds of ours is no longer current: the key that was
    /// set aside, or the sealed file.
    pub renewed: bool,
    /// END is held on all logs, and the other side is told.
    pub got: bool,
    /// The message was handed over.
    pub delivered: bool,
    /// The command was started.
    pub started: bool,
}

impl Effect {
    /// Both together.
    pub fn and(self, other: Effect) -> Effect {
        Effect {
            renewed: self.renewed | other.renewed,
            got: self.got | other.got,
            delivered: self.delivered | other.delivered,
            started: self.started | other.started,
        }
    }
}

/// What an actor does next: work of its own, or a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Turn<Step> {
    /// Who.
    pub actor: Actor,
    /// The step of its table.
    pub step: Step,
    /// What it asks.
    pub said: Option<Said>,
}

impl<Step> Turn<Step> {
    /// The same where its message has become one for another key, or was sealed anew.
    pub fn stale(self) -> Turn<Step> {
        let said = self.said.map(|said| if said == Said::SndCurrent { Said::SndStale } else { said });
        Turn { said, ..self }
    }
}

/// Where a side stands after each change of a step; the last is the whole step.
pub type Trail<S> = Vec<(S, Effect)>;

/// One of the two sides.
pub trait Side: super::code::Coded + std::fmt::Debug + Eq + std::hash::Hash + Send + Sync + 'static {
    /// The steps of its actors.
    type Step: Copy + std::fmt::Debug + Eq + std::hash::Hash;

    /// Can it be told from all the others? Of several descriptions of the same files only one is legal.
    fn legal(self) -> bool;
    /// At rest for good, as far as this side can see.
    fn clean(self, world: &World) -> bool;
    /// The message itself is no longer on its way, as far as this side can see.
    fn settled(self) -> bool;
    /// What it needs of the other side, or is for it: see `fits`.
    fn bond(self) -> u8;
    /// What its actors would do, in the order in which each of them would.
    fn turns(self, world: &World) -> Vec<Turn<Self::Step>>;
    /// The state in which the question leaves.
    fn asking(self, world: &World, turn: Turn<Self::Step>) -> Self;
    /// The rest of the step, change by change.
    fn follow(self, world: &World, turn: Turn<Self::Step>, heard: Heard) -> Trail<Self>;
    /// Answers a question.
    fn answer(self, world: &World, said: Said) -> (Self, Heard);
    /// What it holds of the other side's is no longer current.
    fn renewed(self) -> Self;
    /// What the other side can say to this one.
    fn hears() -> &'static [Said];
    /// What can be heard of what this one says.
    fn may_hear(said: Said) -> &'static [Heard];
}

/// What does not change in a search: the rules that hold, and how old things are.
#[derive(Debug, Clone, Copy, Default)]
pub struct World {
    /// The rules of doc/PROTOCOL.md that are taken out, and other mutations.
    pub rules: super::rules::Rules,
    /// The sender's message and job have waited for their maximum age.
    pub sender_old: bool,
    /// The recipient's job has.
    pub recipient_old: bool,
    /// A tombstone has stood for its time.
    pub tombstone_old: bool,
    /// Nobody takes the output.
    pub uncollected: bool,
    /// The job starts with its whole input.
    pub batch: bool,
    /// It may be run again.
    pub repeat: bool,
}
