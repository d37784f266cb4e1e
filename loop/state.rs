//! The protocol as tables: phase → step, and (step, what came of it) → changes.
//!
//! Pure and total, without a clock. `outgoing.rs`, `incoming.rs` and `jobs.rs`
//! look, ask here, do the step, and carry out the changes in their order; a
//! crash between any two leaves a state that has a phase again. The state-space searches walk these very
//! tables (doc/PROTOCOL.md#states).

use spool::phase::{Mark, QueuePhase, QueueSeen, RecipientPhase, RecipientSeen, RqueuePhase, RqueueSeen};
use spool::phase::{SenderPhase, SenderSeen};

/// What came of a step: what the peer said, or what the work gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Came {
    /// The peer said nothing that can be believed.
    Silence,
    /// OK.
    Ok,
    /// DONE with a receipt (for `msg` and `snd`), or without data (for `rcp`).
    Receipt,
    /// DONE with an outcome.
    Outcome,
    /// NEEDKEY.
    NeedKey,
    /// GONE.
    Gone,
    /// LATER.
    Later,
    /// Our own work succeeded.
    Worked,
    /// Our own work showed that what it rests on is wrong.
    Failed,
}

impl Came {
    /// Everything that can come.
    pub const ALL: [Came; 9] = [
        Came::Silence,
        Came::Ok,
        Came::Receipt,
        Came::Outcome,
        Came::NeedKey,
        Came::Gone,
        Came::Later,
        Came::Worked,
        Came::Failed,
    ];
}

/// A file or directory beside the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum File {
    /// The recipient's one-time certificate, at the sender.
    Certificate,
    /// The sealed message.
    Sealed,
    /// The one-time key that was set aside: a directory.
    Key,
    /// The message, opened, sealed under the spool key.
    Message,
}

/// One change to the spool. The content comes from the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Writes a file in the message's own directory.
    Keep(File),
    /// Removes one.
    Lose(File),
    /// Makes or replaces a mark in the message's own directory.
    Put(Mark),
    /// Takes a mark back.
    Take(Mark),
    /// Makes a mark in `jobs/<msgid>`, durably where a promise rests on it.
    PutInJob(Mark),
    /// Renames `rqueue/<msgid>` to `jobs/<msgid>`, never replacing, durably.
    Deliver,
    /// Ends our own input log with END{aborted}.
    Abort,
    /// Removes the segments, the message and the secret of a job.
    Destroy,
    /// Removes `queue/<msgid>`.
    ForgetQueue,
    /// Removes `rqueue/<msgid>`.
    ForgetRqueue,
    /// Removes `jobs/<msgid>`.
    ForgetJob,
}

use Change::*;

/// What is to be done with an outgoing message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueStep {
    /// Nobody waits for it.
    Drop,
    /// Say `ack`.
    Ack,
    /// Take the valid receipt over.
    Accept,
    /// Take back a mark that cannot be believed.
    TakeBack(Mark),
    /// It can never be sent: cancel the job.
    GiveUp,
    /// Its job will be told of; nothing leaves from here.
    Rest,
    /// Say `snd`.
    Snd,
    /// Seal it to the one-time certificate.
    Seal,
    /// Say `msg`.
    Msg,
}

/// The next step of an outgoing message.
pub fn queue(seen: &QueueSeen) -> QueueStep {
    match seen.phase() {
        QueuePhase::Orphan => QueueStep::Drop,
        QueuePhase::Receipted => QueueStep::Ack,
        QueuePhase::Offered => QueueStep::Accept,
        QueuePhase::Doubted(mark) => QueueStep::TakeBack(mark),
        QueuePhase::Cancelled | QueuePhase::Unwanted => QueueStep::Rest,
        QueuePhase::Lost | QueuePhase::Old => QueueStep::GiveUp,
        QueuePhase::Sealed => QueueStep::Snd,
        QueuePhase::Keyed => QueueStep::Seal,
        QueuePhase::Wanted => QueueStep::Msg,
    }
}

/// What must be on the disk before an outgoing message's step is done.
pub fn queue_before(step: QueueStep) -> &'static [Change] {
    match step {
        // Once a `snd` may have left, "not started" can no longer be said. `send.ok` says so too.
        QueueStep::Snd | QueueStep::TakeBack(Mark::SendOk) => &[PutInJob(Mark::Sent)],
        QueueStep::Drop
        | QueueStep::Ack
        | QueueStep::Accept
        | QueueStep::TakeBack(_)
        | QueueStep::GiveUp
        | QueueStep::Rest
        | QueueStep::Seal
        | QueueStep::Msg => &[],
    }
}

/// What an outgoing message's step changes.
pub fn queue_after(step: QueueStep, came: Came) -> &'static [Change] {
    use Came::*;
    match (step, came) {
        (QueueStep::Drop, _) => &[ForgetQueue],
        (QueueStep::Ack, Ok | Receipt | Outcome | Gone) => &[ForgetQueue],
        (QueueStep::Ack, Silence | NeedKey | Later | Worked | Failed) => &[],
        (QueueStep::Accept, _) => &[PutInJob(Mark::Receipt), Put(Mark::AckOk), Take(Mark::AckReq)],
        (QueueStep::TakeBack(mark), _) => take_back(mark),
        (QueueStep::GiveUp, _) => &[PutInJob(Mark::Cancel)],
        (QueueStep::Rest, _) => &[],
        (QueueStep::Msg, Ok) => &[Keep(File::Certificate), Put(Mark::SendRdy), Take(Mark::SendReq)],
        (QueueStep::Msg | QueueStep::Snd, Receipt) => &[Put(Mark::AckReq)],
        (QueueStep::Msg | QueueStep::Snd, Outcome) => &[PutInJob(Mark::Done)],
        (QueueStep::Msg, Silence | NeedKey | Gone | Later | Worked | Failed) => &[],
        (QueueStep::Snd, NeedKey) => &[Put(Mark::SendReq), Take(Mark::SendRdy), Take(Mark::SendOk)],
        (QueueStep::Snd, Silence | Ok | Gone | Later | Worked | Failed) => &[],
        (QueueStep::Seal, Worked) => &[Keep(File::Sealed), Put(Mark::SendOk), Take(Mark::SendRdy)],
        // The certificate is not of this peer, or not for this.
        (QueueStep::Seal, Failed) => &[Put(Mark::SendReq), Take(Mark::SendRdy)],
        (QueueStep::Seal, Silence | Ok | Receipt | Outcome | NeedKey | Gone | Later) => &[],
    }
}

/// A mark that is taken back demotes the message one step: what lay below it counts again.
fn take_back(mark: Mark) -> &'static [Change] {
    match mark {
        Mark::SendRdy => &[Take(Mark::SendRdy)],
        Mark::SendOk => &[Take(Mark::SendOk)],
        Mark::AckReq => &[Take(Mark::AckReq)],
        Mark::AckOk => &[Take(Mark::AckOk)],
        Mark::PeerOk => &[Take(Mark::PeerOk)],
        Mark::RecvReq => &[Take(Mark::RecvReq)],
        Mark::RecvRdy => &[Take(Mark::RecvRdy), Lose(File::Sealed)],
        Mark::SendReq
        | Mark::PeerReq
        | Mark::RecvOk
        | Mark::Acked
        | Mark::Cancel
        | Mark::Sent
        | Mark::Receipt
        | Mark::RunStarted
        | Mark::RunExit
        | Mark::Over
        | Mark::Done => &[],
    }
}

/// What is to be done with an incoming message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RqueueStep {
    /// It is a leftover.
    Drop,
    /// Make the tombstone "cancelled, not started".
    Bury,
    /// Open it and deliver.
    Open,
    /// Fetch the sealed message.
    Fetch,
    /// Ask the sender whether it still exists.
    Ask,
    /// Promise the key that lies here.
    Promise,
    /// Set a key aside.
    Key,
    /// Take back a mark that cannot be believed.
    TakeBack(Mark),
}

/// The next step of an incoming message.
pub fn rqueue(seen: &RqueueSeen) -> RqueueStep {
    match seen.phase() {
        RqueuePhase::Delivered | RqueuePhase::Nameless | RqueuePhase::Old => RqueueStep::Drop,
        RqueuePhase::Cancelled => RqueueStep::Bury,
        RqueuePhase::Fetched => RqueueStep::Open,
        RqueuePhase::Noticed => RqueueStep::Fetch,
        RqueuePhase::Keyed => RqueueStep::Ask,
        RqueuePhase::Unpromised => RqueueStep::Promise,
        RqueuePhase::Bare => RqueueStep::Key,
        RqueuePhase::Doubted(mark) => RqueueStep::TakeBack(mark),
    }
}

/// What an incoming message's step changes.
pub fn rqueue_after(step: RqueueStep, came: Came) -> &'static [Change] {
    use Came::*;
    match (step, came) {
        (RqueueStep::Drop, _) => &[ForgetRqueue],
        // What a delivery that was cut short left behind must not be told as one, and the reverse.
        (RqueueStep::Bury, _) => &[Take(Mark::Receipt), Put(Mark::Over), Deliver],
        (RqueueStep::Open, Worked) => &[Take(Mark::Over), Keep(File::Message), Put(Mark::Receipt), Deliver],
        // What its digest vouches for does not open with this key, so it never will. Without
        // the key the sender's next `snd` is told NEEDKEY, and it seals anew.
        (RqueueStep::Open, Failed) => {
            &[Take(Mark::RecvRdy), Take(Mark::RecvReq), Lose(File::Sealed), Take(Mark::PeerOk), Lose(File::Key)]
        }
        (RqueueStep::Open, Silence | Ok | Receipt | Outcome | NeedKey | Gone | Later) => &[],
        (RqueueStep::Fetch, Worked) => &[Put(Mark::RecvRdy), Take(Mark::RecvReq)],
        (RqueueStep::Fetch, Failed) => &[Take(Mark::RecvReq), Lose(File::Sealed)],
        // An outcome is all that is left of it there.
        (RqueueStep::Fetch | RqueueStep::Ask, Gone | Outcome) => &[ForgetRqueue],
        (RqueueStep::Fetch, Silence | Ok | Receipt | NeedKey | Later) => &[],
        (RqueueStep::Ask, Silence | Ok | Receipt | NeedKey | Later | Worked | Failed) => &[],
        (RqueueStep::Promise, Worked) => &[Put(Mark::PeerOk), Take(Mark::PeerReq)],
        (RqueueStep::Promise, Failed) => &[Lose(File::Key)],
        (RqueueStep::Promise, Silence | Ok | Receipt | Outcome | NeedKey | Gone | Later) => &[],
        (RqueueStep::Key, Worked) => &[Keep(File::Key), Put(Mark::PeerOk), Take(Mark::PeerReq)],
        (RqueueStep::Key, Silence | Ok | Receipt | Outcome | NeedKey | Gone | Later | Failed) => &[],
        (RqueueStep::TakeBack(mark), _) => take_back(mark),
    }
}

/// What is to be done with a job that we asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SenderStep {
    /// Forget it: the recipient knows, or never heard of it, or cannot be told.
    Forget,
    /// Tell the recipient that it is over.
    Tell,
    /// Put the outcome down.
    Finish,
    /// Ask the recipient to end it, and which stage was reached.
    Cxl,
    /// Begin to end it.
    Cancel,
    /// End our input: nobody feeds it any more.
    Abort,
    /// Pull the output; ask whether the job is still there.
    Stream,
    /// Somebody else's turn.
    Rest,
}

/// The next step of a job that we asked for.
pub fn sender(seen: &SenderSeen) -> SenderStep {
    match seen.phase() {
        SenderPhase::Done if seen.sent || seen.receipt => SenderStep::Tell,
        SenderPhase::Done | SenderPhase::Forgotten => SenderStep::Forget,
        SenderPhase::Ended | SenderPhase::Waiting | SenderPhase::Unqueued => SenderStep::Rest,
        SenderPhase::ToFinish | SenderPhase::CancelledUnsent => SenderStep::Finish,
        SenderPhase::Cancelled => SenderStep::Cxl,
        SenderPhase::ToCancel => SenderStep::Cancel,
        SenderPhase::Abandoned => SenderStep::Abort,
        SenderPhase::Ending | SenderPhase::Live => SenderStep::Stream,
    }
}

/// What the step of a job that we asked for changes.
pub fn sender_after(step: SenderStep, came: Came) -> &'static [Change] {
    use Came::*;
    match (step, came) {
        (SenderStep::Forget, _) => &[ForgetQueue, ForgetJob],
        (SenderStep::Tell, Outcome | Receipt | Gone) => &[ForgetQueue, ForgetJob],
        (SenderStep::Tell, Silence | Ok | NeedKey | Later | Worked | Failed) => &[],
        (SenderStep::Finish, _) => &[PutInJob(Mark::Done)],
        (SenderStep::Cxl, Outcome | Gone) => &[PutInJob(Mark::Done)],
        (SenderStep::Cxl, Silence | Ok | Receipt | NeedKey | Later | Worked | Failed) => &[],
        (SenderStep::Cancel, _) => &[PutInJob(Mark::Cancel)],
        (SenderStep::Abort, _) => &[Abort],
        (SenderStep::Stream, Gone | Outcome) => &[PutInJob(Mark::Done)],
        (SenderStep::Stream, Silence | Ok | Receipt | NeedKey | Later | Worked | Failed) => &[],
        (SenderStep::Rest, _) => &[],
    }
}

/// What is to be done with a job that we run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecipientStep {
    /// The tombstone is nobody's, and has stood for its time.
    Forget,
    /// The tombstone has stood for its time: ask whether the sender still has the job.
    Release,
    /// Destroy segments, message and secret.
    Destroy,
    /// Destroy the one-time key and the sealed message.
    Clean,
    /// Make the outcome final.
    Finish,
    /// Begin to end it.
    Cancel,
    /// Make the receipt again, from the message.
    Vouch,
    /// Say `rcp`.
    Rcp,
    /// Ask whether the sender still has it.
    Ask,
    /// Pull the input; ask whether the sender still has it.
    Stream,
    /// Somebody else's turn, or nobody's.
    Rest,
}

/// The next step of a job that we run. `receipt`: a valid one lies here and can be told.
pub fn recipient(seen: &RecipientSeen, receipt: bool) -> RecipientStep {
    match seen.phase() {
        // A sender that still has it could be told by the next tombstone that nothing was started.
        RecipientPhase::Expired if seen.owner => RecipientStep::Release,
        RecipientPhase::Expired => RecipientStep::Forget,
        RecipientPhase::Remains => RecipientStep::Destroy,
        RecipientPhase::OverUnacked if receipt => RecipientStep::Rcp,
        RecipientPhase::OverUnacked => RecipientStep::Ask,
        RecipientPhase::Over | RecipientPhase::Ending => RecipientStep::Rest,
        RecipientPhase::Unclean => RecipientStep::Clean,
        RecipientPhase::ToFinish => RecipientStep::Finish,
        RecipientPhase::ToCancel => RecipientStep::Cancel,
        // The service answers with the receipt: a sender that lost its own asks for it for ever.
        RecipientPhase::Exited | RecipientPhase::Live if !receipt => match (seen.message, seen.keeper) {
            (true, _) => RecipientStep::Vouch,
            (false, true) => RecipientStep::Cancel,
            (false, false) => RecipientStep::Finish,
        },
        RecipientPhase::Exited | RecipientPhase::Live if !seen.acked => RecipientStep::Rcp,
        RecipientPhase::Exited => RecipientStep::Ask,
        RecipientPhase::Live => RecipientStep::Stream,
    }
}

/// What the step of a job that we run changes. `over`: it is over already.
pub fn recipient_after(step: RecipientStep, came: Came, over: bool) -> &'static [Change] {
    use Came::*;
    match (step, came) {
        (RecipientStep::Forget, _) | (RecipientStep::Release, Gone | Outcome) => &[ForgetJob],
        (RecipientStep::Release, Silence | Ok | Receipt | NeedKey | Later | Worked | Failed) => &[],
        (RecipientStep::Destroy, _) => &[Destroy],
        (RecipientStep::Clean, _) => &[Lose(File::Key), Lose(File::Sealed), Put(Mark::RecvOk)],
        (RecipientStep::Finish, _) => &[PutInJob(Mark::Over)],
        (RecipientStep::Cancel, _) => &[PutInJob(Mark::Cancel)],
        (RecipientStep::Vouch, _) => &[Put(Mark::Receipt)],
        (RecipientStep::Rcp, Receipt | Outcome) => &[Put(Mark::Acked)],
        (RecipientStep::Rcp, Gone) | (RecipientStep::Ask, Gone | Outcome) if over => &[Put(Mark::Acked)],
        // An outcome is all that is left of it there.
        (RecipientStep::Rcp, Gone) | (RecipientStep::Ask | RecipientStep::Stream, Gone | Outcome) => {
            &[PutInJob(Mark::Cancel), Put(Mark::Acked)]
        }
        (RecipientStep::Rcp, Silence | Ok | NeedKey | Later | Worked | Failed) => &[],
        (RecipientStep::Ask, Silence | Ok | Receipt | NeedKey | Later | Worked | Failed) => &[],
        (RecipientStep::Stream, Silence | Ok | Receipt | NeedKey | Later | Worked | Failed) => &[],
        (RecipientStep::Rest, _) => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::phase::Belief;

    #[test]
    fn a_lost_receipt_mark_never_sends_again_what_may_have_run() {
        // With a durable receipt nothing but `ack` leaves, whatever else lies there.
        let seen = QueueSeen { job: true, receipt: true, message: true, ..QueueSeen::default() };
        assert_eq!(queue(&seen), QueueStep::Ack);
        assert_eq!(queue(&QueueSeen { cancel: true, too_old: true, ..seen }), QueueStep::Ack);
    }

    #[test]
    fn nothing_leaves_a_cancelled_message() {
        for combination in 0..36 {
            let belief = |n: u32| [Belief::Absent, Belief::Doubted, Belief::Believed][n as usize % 3];
            let seen = QueueSeen {
                job: true,
                cancel: true,
                send_ok: belief(combination),
                send_rdy: belief(combination / 3),
                message: combination / 9 % 2 == 1,
                too_old: combination / 18 == 1,
                ..QueueSeen::default()
            };
            assert!(!matches!(queue(&seen), QueueStep::Msg | QueueStep::Snd | QueueStep::Seal), "{seen:?}");
        }
    }

    #[test]
    fn a_step_that_waits_for_the_peer_changes_nothing_on_silence() {
        for step in [QueueStep::Msg, QueueStep::Snd, QueueStep::Ack] {
            assert_eq!(queue_after(step, Came::Silence), &[]);
        }
        for step in [RqueueStep::Fetch, RqueueStep::Ask] {
            assert_eq!(rqueue_after(step, Came::Silence), &[]);
        }
        for step in [SenderStep::Tell, SenderStep::Cxl, SenderStep::Stream] {
            assert_eq!(sender_after(step, Came::Silence), &[]);
        }
        for step in [RecipientStep::Rcp, RecipientStep::Ask, RecipientStep::Stream] {
            assert_eq!(recipient_after(step, Came::Silence, false), &[]);
        }
    }
}
