//! Which marks mean what: every combination of marks and files maps to one phase.
//!
//! Pure and total. `look.rs` fills in what was seen; here the most advanced
//! mark that can be believed decides. A mark is believed only with the files
//! it promises (it holds their digest); one that is not is [`Doubted`], and the
//! loop takes it back, which demotes the message one step. Two names count by
//! existing, whatever they contain: `run.started` and `jobs/<msgid>`
//! (doc/PROTOCOL.md#states, doc/SPOOL.md#phases).
//!
//! Here are the marks and the phases of a message, in `phase_job.rs` those of a job.
//!
//! [`Doubted`]: Belief::Doubted

pub use crate::phase_job::{KeeperPhase, RecipientPhase, RecipientSeen, SenderPhase, SenderSeen};

/// A state mark: a small file whose name says how far something has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// Outgoing: the recipient's one-time certificate is wanted.
    SendReq,
    /// Outgoing: the one-time certificate is here.
    SendRdy,
    /// Outgoing: the message is sealed to it.
    SendOk,
    /// Outgoing: a receipt came, unchecked.
    AckReq,
    /// Outgoing: the valid receipt is durable in the job.
    AckOk,
    /// Incoming: a one-time key is wanted.
    PeerReq,
    /// Incoming: a one-time key is set aside.
    PeerOk,
    /// Incoming: the sealed message is to be fetched.
    RecvReq,
    /// Incoming: the sealed message is here.
    RecvRdy,
    /// Delivered, and cleaned up; the receipt is to be told.
    RecvOk,
    /// The sender has the receipt.
    Acked,
    /// This is to end.
    Cancel,
    /// Outgoing: a `snd` may have left.
    Sent,
    /// Outgoing: the receipt, checked and durable. Incoming: the receipt we gave.
    Receipt,
    /// The command may have been started.
    RunStarted,
    /// How the command ended.
    RunExit,
    /// Incoming: the job is over; its outcome stays.
    Over,
    /// Outgoing: the job is over; the recipient is to be told.
    Done,
}

impl Mark {
    /// All of them.
    pub const ALL: [Mark; 18] = [
        Mark::SendReq,
        Mark::SendRdy,
        Mark::SendOk,
        Mark::AckReq,
        Mark::AckOk,
        Mark::PeerReq,
        Mark::PeerOk,
        Mark::RecvReq,
        Mark::RecvRdy,
        Mark::RecvOk,
        Mark::Acked,
        Mark::Cancel,
        Mark::Sent,
        Mark::Receipt,
        Mark::RunStarted,
        Mark::RunExit,
        Mark::Over,
        Mark::Done,
    ];

    /// The name of its file.
    pub fn name(self) -> &'static str {
        match self {
            Mark::SendReq => "send.req",
            Mark::SendRdy => "send.rdy",
            Mark::SendOk => "send.ok",
            Mark::AckReq => "ack.req",
            Mark::AckOk => "ack.ok",
            Mark::PeerReq => "peer.req",
            Mark::PeerOk => "peer.ok",
            Mark::RecvReq => "recv.req",
            Mark::RecvRdy => "recv.rdy",
            Mark::RecvOk => "recv.ok",
            Mark::Acked => "acked",
            Mark::Cancel => "cancel",
            Mark::Sent => "sent",
            Mark::Receipt => "receipt",
            Mark::RunStarted => "run.started",
            Mark::RunExit => "run.exit",
            Mark::Over => "over",
            Mark::Done => "done",
        }
    }
}

/// What was found of a mark that promises files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Belief {
    /// It is not there.
    #[default]
    Absent,
    /// It is there; what it promises is not, or differs.
    Doubted,
    /// It is there with all that it promises.
    Believed,
}

/// What was seen of an outgoing message: `queue/<msgid>`, and what `jobs/<msgid>` says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct QueueSeen {
    /// The message opens under the spool key, and is the one that the job asked for.
    pub message: bool,
    /// Promises the one-time certificate.
    pub send_rdy: Belief,
    /// Promises the sealed message.
    pub send_ok: Belief,
    /// Promises a receipt that is valid.
    pub ack_req: Belief,
    /// The name alone: what it promises is `receipt`.
    pub ack_ok: bool,
    /// `jobs/<msgid>` is here.
    pub job: bool,
    /// The valid receipt is durable in the job.
    pub receipt: bool,
    /// The job is cancelled or done: nothing may leave any more.
    pub cancel: bool,
    /// A living `plumb` holds the job's lock, or the job is detached.
    pub wanted: bool,
    /// Nobody wanted it for its maximum age.
    pub too_old: bool,
}

/// Where an outgoing message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueuePhase {
    /// Its job is gone: nobody waits for it.
    Orphan,
    /// The receipt is durable: say `ack`, then forget.
    Receipted,
    /// A valid receipt lies unconfirmed in `ack.req`.
    Offered,
    /// Its most advanced mark cannot be believed.
    Doubted(Mark),
    /// Its job is cancelled or done.
    Cancelled,
    /// Nobody waits for its job, which is about to be cancelled for that.
    Unwanted,
    /// The message itself is lost.
    Lost,
    /// Waited too long.
    Old,
    /// Sealed: say `snd`.
    Sealed,
    /// The one-time certificate is here: seal.
    Keyed,
    /// Say `msg`.
    Wanted,
}

impl QueueSeen {
    /// The phase of an outgoing message.
    pub fn phase(&self) -> QueuePhase {
        if !self.job {
            return QueuePhase::Orphan;
        }
        if self.receipt {
            return QueuePhase::Receipted;
        }
        match self.ack_req {
            Belief::Believed => return QueuePhase::Offered,
            Belief::Doubted => return QueuePhase::Doubted(Mark::AckReq),
            Belief::Absent => {}
        }
        if self.ack_ok {
            return QueuePhase::Doubted(Mark::AckOk);
        }
        if self.cancel {
            return QueuePhase::Cancelled;
        }
        if !self.wanted {
            return QueuePhase::Unwanted;
        }
        if !self.message {
            return QueuePhase::Lost;
        }
        if self.too_old {
            return QueuePhase::Old;
        }
        match (self.send_ok, self.send_rdy) {
            (Belief::Believed, _) => QueuePhase::Sealed,
            (Belief::Doubted, _) => QueuePhase::Doubted(Mark::SendOk),
            (Belief::Absent, Belief::Believed) => QueuePhase::Keyed,
            (Belief::Absent, Belief::Doubted) => QueuePhase::Doubted(Mark::SendRdy),
            (Belief::Absent, Belief::Absent) => QueuePhase::Wanted,
        }
    }
}

/// What was seen of an incoming message, `rqueue/<msgid>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RqueueSeen {
    /// `jobs/<msgid>` is here: it was delivered, or its tombstone stands.
    pub job: bool,
    /// The `peer` file can be believed: we know whom to ask.
    pub owner: bool,
    /// The sender said that it is over.
    pub cancel: bool,
    /// Nobody wanted it for its maximum age.
    pub too_old: bool,
    /// A one-time key with its certificate lies in `onetime/`.
    pub key: bool,
    /// Promises that key, unaltered.
    pub peer_ok: Belief,
    /// Promises what `snd` said, for that key.
    pub recv_req: Belief,
    /// Promises the sealed message that `snd` named.
    pub recv_rdy: Belief,
}

/// Where an incoming message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RqueuePhase {
    /// `jobs/<msgid>` stands beside it.
    Delivered,
    /// Nobody knows whose it is.
    Nameless,
    /// Over before it was delivered: the tombstone is to be made.
    Cancelled,
    /// Waited too long.
    Old,
    /// The sealed message is here: open and deliver it.
    Fetched,
    /// The sealed message is to be fetched.
    Noticed,
    /// A key is set aside; the sender's turn.
    Keyed,
    /// A key lies here and was not yet promised.
    Unpromised,
    /// A key is wanted.
    Bare,
    /// Its most advanced mark cannot be believed.
    Doubted(Mark),
}

impl RqueueSeen {
    /// The phase of an incoming message.
    pub fn phase(&self) -> RqueuePhase {
        if self.job {
            return RqueuePhase::Delivered;
        }
        if !self.owner {
            return RqueuePhase::Nameless;
        }
        if self.cancel {
            return RqueuePhase::Cancelled;
        }
        if self.too_old {
            return RqueuePhase::Old;
        }
        match (self.recv_rdy, self.recv_req, self.peer_ok) {
            (Belief::Believed, _, _) => RqueuePhase::Fetched,
            (Belief::Doubted, _, _) => RqueuePhase::Doubted(Mark::RecvRdy),
            (Belief::Absent, Belief::Believed, _) => RqueuePhase::Noticed,
            (Belief::Absent, Belief::Doubted, _) => RqueuePhase::Doubted(Mark::RecvReq),
            (Belief::Absent, Belief::Absent, Belief::Believed) => RqueuePhase::Keyed,
            (Belief::Absent, Belief::Absent, Belief::Doubted) => RqueuePhase::Doubted(Mark::PeerOk),
            (Belief::Absent, Belief::Absent, Belief::Absent) if self.key => RqueuePhase::Unpromised,
            (Belief::Absent, Belief::Absent, Belief::Absent) => RqueuePhase::Bare,
        }
    }
}
