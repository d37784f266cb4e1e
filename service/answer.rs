//! What a request is answered, and what is noted first: pure and total.
//!
//! The shell (`request.rs`) looks at the directories of this message, asks here,
//! carries out the one write, and sends the reply. Every request states an
//! absolute fact, so each answer is right when it is asked twice, late, or in
//! another order (doc/PROTOCOL.md#requests, doc/PROTOCOL.md#states).

use spool::name::{Chan, Digest, Role};
use spool::url::{Ask, Sealed, Word};

/// What lies here of the message that is asked about, all of it this peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// `queue/<msgid>` is here.
    pub queue: bool,
    /// `rqueue/<msgid>` is here.
    pub incoming: Option<Incoming>,
    /// `jobs/<msgid>` is here.
    pub job: Option<Job>,
    /// This peer's quota, the disk's floor and its health permit new work.
    pub room: bool,
    /// A one-time key is in stock.
    pub stock: bool,
}

/// What lies in `rqueue/<msgid>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Incoming {
    /// The digest of the one-time certificate that `peer.ok` promises, if it can be believed.
    pub key: Option<Digest>,
    /// What the last `snd` said, from `recv.rdy` or `recv.req`.
    pub noticed: Option<Sealed>,
    /// It is to end.
    pub cancel: bool,
}

/// What lies in `jobs/<msgid>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Job {
    /// Our side; `None` if its `peer` file cannot be believed.
    pub role: Option<Role>,
    /// `receipt` is there and can be read.
    pub receipt: bool,
    /// The sender has our receipt.
    pub acked: bool,
    /// It is to end.
    pub cancel: bool,
    /// It is over, with an outcome.
    pub over: bool,
}

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The word.
    pub word: Word,
    /// What goes with it.
    pub data: Data,
    /// What is noted first. If that fails, the answer is LATER.
    pub write: Option<Write>,
}

/// What goes with the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    None,
    /// The one-time certificate that is set aside.
    Cert,
    /// `receipt …`, the one in `jobs/<msgid>`.
    Receipt,
    /// `outcome …`, the one in `jobs/<msgid>/over`.
    Outcome,
    /// First and last segment of each outgoing log.
    Logs,
}

/// What is noted. Each is harmless when repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Sets a one-time key from the stock aside: `rqueue/<msgid>` with `peer.ok`, durably.
    Claim,
    /// Makes `rqueue/<msgid>` with `peer.req`: the loop sets a key aside.
    Expect,
    /// Makes or replaces `recv.req`.
    Notice(Sealed),
    /// Makes or replaces `ack.req`, unchecked: the loop believes only a valid receipt.
    Offer(Digest),
    /// Makes `acked`.
    Acked,
    /// Makes `cancel` in `rqueue/<msgid>`.
    CancelIncoming,
    /// Makes `cancel` in `jobs/<msgid>`.
    CancelJob,
    /// Makes `rqueue/<msgid>` with `cancel`: the loop makes the tombstone.
    Bury,
    /// Leaves the hint `out/<chan>/got`.
    Got(Chan, u64),
    /// Leaves the hint `out/<chan>/tip`.
    Tip(Chan, u64),
}

/// Answers a request.
pub fn answer(seen: &Seen, ask: &Ask) -> Answer {
    match ask {
        Ask::Msg => msg(seen),
        Ask::Snd(sealed) => snd(seen, *sealed),
        Ask::Rcp(receipt) => rcp(seen, *receipt),
        Ask::Ack => ack(seen),
        Ask::Sta => sta(seen),
        Ask::Cxl => cxl(seen),
        Ask::Tip(chan, offset) => about_job(seen, Write::Tip(*chan, *offset)),
        Ask::Got(chan, offset) => about_job(seen, Write::Got(*chan, *offset)),
        Ask::Hlo => word(Word::Ok),
    }
}

fn word(word: Word) -> Answer {
    Answer { word, data: Data::None, write: None }
}

fn with(word: Word, data: Data) -> Answer {
    Answer { word, data, write: None }
}

fn after(write: Write, word: Word, data: Data) -> Answer {
    Answer { word, data, write: Some(write) }
}

/// The answer to a sender whose message has become a job, or a tombstone.
fn delivered(job: &Job) -> Answer {
    match (job.role, job.receipt, job.over) {
        (Some(Role::Sender), _, _) => word(Word::Later),
        // Its outcome is all that can still be had of it.
        (Some(Role::Recipient) | None, _, true) => with(Word::Done, Data::Outcome),
        (Some(Role::Recipient), true, false) => with(Word::Done, Data::Receipt),
        // Damaged: the loop is about to make it over.
        (Some(Role::Recipient) | None, _, false) => word(Word::Later),
    }
}

fn msg(seen: &Seen) -> Answer {
    match (&seen.job, &seen.incoming) {
        (Some(job), _) => delivered(job),
        (None, Some(Incoming { cancel: true, .. })) => word(Word::Later),
        (None, Some(Incoming { key: Some(_), .. })) => with(Word::Ok, Data::Cert),
        (None, Some(Incoming { key: None, .. })) => word(Word::Later),
        (None, None) if !seen.room => word(Word::Later),
        (None, None) if seen.stock => after(Write::Claim, Word::Ok, Data::Cert),
        (None, None) => after(Write::Expect, Word::Later, Data::None),
    }
}

fn snd(seen: &Seen, sealed: Sealed) -> Answer {
    match (&seen.job, &seen.incoming) {
        (Some(job), _) => delivered(job),
        (None, Some(Incoming { cancel: true, .. })) => word(Word::Later),
        (None, Some(incoming)) if incoming.key != Some(sealed.key) => word(Word::NeedKey),
        (None, Some(incoming)) if incoming.noticed == Some(sealed) => word(Word::Ok),
        (None, Some(_)) => after(Write::Notice(sealed), Word::Ok, Data::None),
        (None, None) => word(Word::NeedKey),
    }
}

fn rcp(seen: &Seen, receipt: Digest) -> Answer {
    match (seen.queue, &seen.job) {
        (true, Some(Job { receipt: true, .. })) => word(Word::Ok),
        (true, _) => after(Write::Offer(receipt), Word::Ok, Data::None),
        (false, Some(Job { role: Some(Role::Sender) | None, .. })) => word(Word::Done),
        (false, _) => word(Word::Gone),
    }
}

fn ack(seen: &Seen) -> Answer {
    match &seen.job {
        Some(Job { role: Some(Role::Recipient), acked: false, .. }) => after(Write::Acked, Word::Ok, Data::None),
        // Also for an unknown id: repeating the last word must be harmless.
        _ => word(Word::Ok),
    }
}

fn sta(seen: &Seen) -> Answer {
    match (seen.queue, &seen.job) {
        (_, Some(Job { role: Some(Role::Recipient) | None, over: true, .. })) => with(Word::Done, Data::Outcome),
        (_, Some(_)) => with(Word::Ok, Data::Logs),
        (true, None) => word(Word::Ok),
        // An `rqueue/<msgid>` alone is no job: who asks about one learns that it is lost.
        (false, None) => word(Word::Gone),
    }
}

fn cxl(seen: &Seen) -> Answer {
    match (&seen.job, &seen.incoming) {
        (Some(Job { role: Some(Role::Sender), .. }), _) => word(Word::Ok),
        (Some(Job { over: true, .. }), _) => with(Word::Done, Data::Outcome),
        (Some(Job { cancel: true, .. }), _) => word(Word::Ok),
        (Some(_), _) => after(Write::CancelJob, Word::Ok, Data::None),
        (None, Some(Incoming { cancel: true, .. })) => word(Word::Ok),
        (None, Some(_)) => after(Write::CancelIncoming, Word::Ok, Data::None),
        (None, None) if seen.room => after(Write::Bury, Word::Ok, Data::None),
        (None, None) => word(Word::Later),
    }
}

fn about_job(seen: &Seen, write: Write) -> Answer {
    match seen.job {
        Some(_) => after(write, Word::Ok, Data::None),
        None => word(Word::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Digest = Digest([1; 32]);

    fn sealed() -> Sealed {
        Sealed { digest: DIGEST, length: 100, key: Digest([2; 32]) }
    }

    #[test]
    fn a_key_is_set_aside_before_it_is_answered_and_only_with_room() {
        let seen = Seen { room: true, stock: true, ..Seen::default() };
        assert_eq!(answer(&seen, &Ask::Msg), after(Write::Claim, Word::Ok, Data::Cert));
        assert_eq!(answer(&Seen { stock: false, ..seen }, &Ask::Msg).write, Some(Write::Expect));
        assert_eq!(answer(&Seen { room: false, ..seen }, &Ask::Msg), word(Word::Later));
    }

    #[test]
    fn snd_with_another_key_is_told_so_and_noted_nowhere() {
        let incoming = Incoming { key: Some(Digest([3; 32])), ..Incoming::default() };
        let seen = Seen { incoming: Some(incoming), ..Seen::default() };
        assert_eq!(answer(&seen, &Ask::Snd(sealed())), word(Word::NeedKey));
        let right = Incoming { key: Some(sealed().key), ..incoming };
        let noticing = answer(&Seen { incoming: Some(right), ..seen }, &Ask::Snd(sealed()));
        assert_eq!(noticing.write, Some(Write::Notice(sealed())));
        let again = Incoming { noticed: Some(sealed()), ..right };
        assert_eq!(answer(&Seen { incoming: Some(again), ..seen }, &Ask::Snd(sealed())), word(Word::Ok));
    }

    #[test]
    fn the_last_ack_may_be_repeated_for_ever() {
        assert_eq!(answer(&Seen::default(), &Ask::Ack), word(Word::Ok));
    }

    #[test]
    fn gone_is_said_only_when_neither_message_nor_job_is_here() {
        for (queue, job) in [(true, None), (false, Some(Job::default())), (true, Some(Job::default()))] {
            let seen = Seen { queue, job, ..Seen::default() };
            for ask in [Ask::Sta, Ask::Rcp(DIGEST)] {
                assert_ne!(answer(&seen, &ask).word, Word::Gone, "{seen:?} {ask:?}");
            }
        }
        let half = Seen { incoming: Some(Incoming::default()), ..Seen::default() };
        assert_eq!(answer(&half, &Ask::Sta), word(Word::Gone));
    }

    #[test]
    fn a_delivered_message_is_answered_with_its_receipt_and_never_taken_again() {
        let job = Job { role: Some(Role::Recipient), receipt: true, ..Job::default() };
        let seen = Seen { job: Some(job), room: true, stock: true, ..Seen::default() };
        for ask in [Ask::Msg, Ask::Snd(sealed())] {
            assert_eq!(answer(&seen, &ask), with(Word::Done, Data::Receipt));
        }
    }
}
