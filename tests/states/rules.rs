//! The product's tables, and the same with one rule taken out.
//!
//! Where a rule of doc/PROTOCOL.md#states is kept by a table, the searches ask
//! the table through here, so that it can be removed without touching the
//! product. The other rules are removed where the files are: `sender.rs`,
//! `recipient.rs`, `receiving.rs`, `keeper.rs` and `reach.rs` ask what is lacking.

use super::words::Heard;
use r#loop::state::{self, Came, Change, File, QueueStep, RqueueStep};
use spool::phase::Mark;

/// What is taken out: one bit a rule or mutation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rules(u32);

/// Rule 1: a mark that cannot be believed is taken back.
pub const DEMOTE: u32 = 1 << 1;
/// Rule 2: the sender keeps the message until the receipt is durable.
pub const KEEP_MESSAGE: u32 = 1 << 2;
/// Rule 3: a key is set aside once.
pub const KEY_ONCE: u32 = 1 << 3;
/// Rule 4: `snd` names its key, and NEEDKEY says that it is another.
pub const NAME_KEY: u32 = 1 << 4;
/// Rule 5: a receipt outlives the sealing.
pub const PAIR_RECEIPT: u32 = 1 << 5;
/// Rule 6: delivery and tombstone are one rename.
pub const ONE_RENAME: u32 = 1 << 6;
/// Rule 7: replies are authentic.
pub const AUTHENTIC: u32 = 1 << 7;
/// Rule 8: `ack` of an unknown id is OK.
pub const ACK_UNKNOWN: u32 = 1 << 8;
/// Rule 9: both sides ask, and learn GONE.
pub const ASK: u32 = 1 << 9;
/// `run.started` is durable before the command starts.
pub const STARTED_FIRST: u32 = 1 << 10;
/// `run.exit` is made after END of the outputs.
pub const EXIT_AFTER_OUTPUTS: u32 = 1 << 11;
/// EXIT is told after `run.exit`.
pub const EXIT_FIRST: u32 = 1 << 12;
/// What was started and has no keeper is interrupted, never started anew.
pub const NEVER_AGAIN: u32 = 1 << 13;
/// `sent` is made before the first `snd`.
pub const SENT_FIRST: u32 = 1 << 14;
/// END is held durably before `got` says so.
pub const HOLD_FIRST: u32 = 1 << 15;
/// A batch job is started after the END{eof} of its input.
pub const WHOLE_FIRST: u32 = 1 << 17;
/// The outputs of what may be run again are offered after `run.exit`.
pub const OFFER_LAST: u32 = 1 << 18;
/// What was started stays so when it is run again.
pub const STARTED_STAYS: u32 = 1 << 19;

impl Rules {
    /// All rules but these.
    pub fn without(rules: u32) -> Rules {
        Rules(rules)
    }

    /// Is this one taken out?
    pub fn lacks(self, rule: u32) -> bool {
        self.0 & rule != 0
    }

    /// What came of a question.
    pub fn came(self, heard: Heard) -> Came {
        match heard.came() {
            Came::Gone if self.lacks(ASK) => Came::Silence,
            came => came,
        }
    }

    /// `queue_before`.
    pub fn queue_before(self, step: QueueStep) -> &'static [Change] {
        if self.lacks(SENT_FIRST) { &[] } else { state::queue_before(step) }
    }

    /// `queue_after`.
    pub fn queue_after(self, step: QueueStep, came: Came) -> &'static [Change] {
        match (step, came) {
            (QueueStep::TakeBack(_), _) if self.lacks(DEMOTE) => &[],
            (QueueStep::Seal, Came::Worked) if self.lacks(KEEP_MESSAGE) => &[
                Change::Keep(File::Sealed),
                Change::Put(Mark::SendOk),
                Change::Take(Mark::SendRdy),
                Change::Lose(File::Message),
            ],
            _ => state::queue_after(step, came),
        }
    }

    /// `rqueue_after`.
    pub fn rqueue_after(self, step: RqueueStep, came: Came) -> &'static [Change] {
        match step {
            RqueueStep::TakeBack(_) if self.lacks(DEMOTE) => &[],
            _ => state::rqueue_after(step, came),
        }
    }
}
