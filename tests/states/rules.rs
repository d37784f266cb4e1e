//! The product's tables, and the same with one rule taken out.
//!
//! Where a rule of doc/PROTOCOL.md#states is kept by a table, the searches ask
//! the table through here, so that it can be removed without touching the
//! product. The other rules are removed where the files are: `sender.rs`,
//! `recipient.rs`, `receiving.rs`, `keeper.rs` and `reach.rs` ask what is lacking.

use super::sender::Slip;
use super::words::Heard;
use r#loop::state::{self, Came, Change, File, QueueStep, RecipientStep, RqueueStep, SenderStep};
use spool::phase::{Belief, Mark, QueueSeen, RecipientSeen, RqueueSeen, SenderPhase, SenderSeen};

/// What is taken out: one bit for each rule or mutation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rules(u64);

/// Rule 1: a mark that cannot be believed is taken back.
pub const DEMOTE: u64 = 1 << 1;
/// Rule 2: the sender keeps the message until the receipt is durable.
pub const KEEP_MESSAGE: u64 = 1 << 2;
/// Rule 3: a key is set aside once.
pub const KEY_ONCE: u64 = 1 << 3;
/// Rule 4: `snd` names its key, and NEEDKEY says that it is another.
pub const NAME_KEY: u64 = 1 << 4;
/// Rule 5: a receipt outlives the sealing.
pub const PAIR_RECEIPT: u64 = 1 << 5;
/// Rule 6: delivery and tombstone are one rename.
pub const ONE_RENAME: u64 = 1 << 6;
/// Rule 7: replies are authentic.
pub const AUTHENTIC: u64 = 1 << 7;
/// Rule 8: `ack` of an unknown id is OK.
pub const ACK_UNKNOWN: u64 = 1 << 8;
/// Rule 9: both sides ask, and learn GONE.
pub const ASK: u64 = 1 << 9;
/// `run.started` is durable before the command starts.
pub const STARTED_FIRST: u64 = 1 << 10;
/// `run.exit` is made after END of the outputs.
pub const EXIT_AFTER_OUTPUTS: u64 = 1 << 11;
/// EXIT is told after `run.exit`.
pub const EXIT_FIRST: u64 = 1 << 12;
/// What was started and has no keeper is interrupted, never started anew.
pub const NEVER_AGAIN: u64 = 1 << 13;
/// `sent` is made before the first `snd`.
pub const SENT_FIRST: u64 = 1 << 14;
/// END is held durably before `got` says so.
pub const HOLD_FIRST: u64 = 1 << 15;
/// A batch job is started after the END{eof} of its input.
pub const WHOLE_FIRST: u64 = 1 << 17;
/// The outputs of what may be run again are offered after `run.exit`.
pub const OFFER_LAST: u64 = 1 << 18;
/// What was started stays so when it is run again.
pub const STARTED_STAYS: u64 = 1 << 19;

/// A damaged log of ours ends its job when its consumer asks for a look.
pub const CHECK: u64 = 1 << 20;
/// `plumb` sees that the END of its input is gone.
pub const SPOT: u64 = 1 << 21;
/// A damaged `run.started` counts by its name.
pub const STARTED_BY_NAME: u64 = 1 << 22;
/// A damaged `run.exit` counts by its name.
pub const EXIT_BY_NAME: u64 = 1 << 23;
/// A damaged `run.exit` says nothing of how the command ended.
pub const EXIT_UNREAD: u64 = 1 << 24;
/// A damaged `cancel` counts by its name.
pub const CANCEL_BY_NAME: u64 = 1 << 25;
/// A damaged `sent` counts by its name.
pub const SENT_BY_NAME: u64 = 1 << 26;
/// A damaged receipt of the sender still says that a `snd` has left.
pub const RECEIPT_BY_NAME: u64 = 1 << 27;
/// Row *orphan* of the queue.
pub const ORPHAN: u64 = 1 << 28;
/// Row *lost* of the queue, for a damaged `message`.
pub const LOST_MESSAGE: u64 = 1 << 29;
/// Row *lost* of the queue, for a damaged `peer`.
pub const LOST_PEER: u64 = 1 << 30;
/// A `send.ok` that is damaged, or whose sealed message is, is doubted.
pub const DOUBT_SEND_OK: u64 = 1 << 31;
/// A `peer.ok` that is damaged, or whose key is, is doubted.
pub const DOUBT_PEER_OK: u64 = 1 << 32;
/// Row *nameless* of the incoming queue.
pub const NAMELESS_IN: u64 = 1 << 33;
/// Row *live* of a sender's job, for a lost receipt.
pub const LOST_RECEIPT: u64 = 1 << 34;
/// Row *to-cancel* of a sender's job, for a damaged `key`.
pub const LOST_KEY: u64 = 1 << 35;
/// Row *to-finish* of a sender's job, for a log that can never be completed.
pub const BROKEN: u64 = 1 << 36;
/// Row *to-cancel* of a recipient's job, for a `peer` or `message` that is damaged under a living keeper.
pub const LIVING_LOSS: u64 = 1 << 37;
/// Row *to-finish* of a job without a `peer`, on either side.
pub const NAMELESS_ENDS: u64 = 1 << 38;
/// Row *to-finish* of a recipient's job, for a damaged `message`.
pub const MESSAGE_ENDS: u64 = 1 << 39;
/// A damaged receipt of the recipient's is made again.
pub const VOUCH: u64 = 1 << 40;
/// A job without a `peer` is answered about with its outcome.
pub const NAMELESS_TELLS: u64 = 1 << 41;

/// The outputs of what may be run again are not made anew once they were offered.
pub const OFFERED_STAYS: u64 = 1 << 42;

impl Rules {
    /// All rules but these.
    pub fn without(rules: u64) -> Rules {
        Rules(rules)
    }

    /// Is this one taken out?
    pub fn lacks(self, rule: u64) -> bool {
        self.0 & rule != 0
    }

    /// What came of a question.
    pub fn came(self, heard: Heard) -> Came {
        match heard.came() {
            Came::Gone if self.lacks(ASK) => Came::Silence,
            came => came,
        }
    }

    /// `queue`.
    pub fn queue(self, seen: &QueueSeen) -> QueueStep {
        let mut seen = *seen;
        seen.message |= self.lacks(LOST_MESSAGE);
        if self.lacks(DOUBT_SEND_OK) && seen.send_ok == Belief::Doubted {
            seen.send_ok = Belief::Believed;
        }
        match state::queue(&seen) {
            QueueStep::Drop if self.lacks(ORPHAN) => QueueStep::Rest,
            step => step,
        }
    }

    /// `rqueue`.
    pub fn rqueue(self, seen: &RqueueSeen) -> RqueueStep {
        let mut seen = *seen;
        if self.lacks(DOUBT_PEER_OK) && seen.peer_ok == Belief::Doubted {
            seen.peer_ok = Belief::Believed;
        }
        state::rqueue(&seen)
    }

    /// `sender`.
    pub fn sender(self, seen: &SenderSeen) -> SenderStep {
        let mut seen = *seen;
        seen.key |= self.lacks(LOST_KEY);
        seen.broken &= !self.lacks(BROKEN);
        if self.lacks(LOST_RECEIPT) && !seen.receipt && seen.phase() == SenderPhase::Live {
            return SenderStep::Rest;
        }
        state::sender(&seen)
    }

    /// `recipient`.
    pub fn recipient(self, seen: &RecipientSeen, receipt: Slip) -> RecipientStep {
        let mut seen = *seen;
        if seen.keeper && self.lacks(LIVING_LOSS) {
            (seen.owner, seen.message) = (true, true);
        }
        seen.message |= self.lacks(MESSAGE_ENDS) && !seen.keeper && !seen.over;
        let valid = receipt == Slip::Valid || (receipt == Slip::Garbage && self.lacks(VOUCH));
        match state::recipient(&seen, valid) {
            RecipientStep::Finish if self.lacks(NAMELESS_ENDS) && !seen.owner => RecipientStep::Rest,
            step => step,
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
