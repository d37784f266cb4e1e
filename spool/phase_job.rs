//! Where a job stands, at its sender, at its recipient, and for its keeper: the
//! second half of `phase.rs`, as pure and as total (doc/SPOOL.md#jobs).

/// What was seen of a job that we asked for, `jobs/<msgid>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SenderSeen {
    /// The job's secret opens under the spool key.
    pub key: bool,
    /// `queue/<msgid>` is here.
    pub queue: bool,
    /// The message lies in `hold/`: somebody put it aside.
    pub held: bool,
    /// The valid receipt is durable.
    pub receipt: bool,
    /// A `snd` may have left.
    pub sent: bool,
    /// It is to end.
    pub cancel: bool,
    /// A living `plumb` holds its lock, or the job is detached.
    pub wanted: bool,
    /// A living `plumb` holds its lock.
    pub attended: bool,
    /// END is held on every incoming log.
    pub ended: bool,
    /// END is held on the incoming control channel, and our input broke off: no
    /// more is worth waiting for.
    pub control_ended: bool,
    /// An incoming log can never be completed.
    pub broken: bool,
    /// Our own input log has its END.
    pub input_ended: bool,
    /// After the input was aborted, the recipient has ended by itself, or had its time for that.
    pub patience_over: bool,
    /// It is over, with an outcome.
    pub done: bool,
    /// Nothing happened for its maximum age.
    pub too_old: bool,
}

/// Where a job that we asked for stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SenderPhase {
    /// The outcome is here: tell the recipient, then forget.
    Done,
    /// The recipient could not be told for the maximum age: forget.
    Forgotten,
    /// All output is here; it waits to be taken.
    Ended,
    /// Nothing more will come of it: the outcome is to be put down.
    ToFinish,
    /// To end, and no `snd` ever left.
    CancelledUnsent,
    /// To end: the recipient must say which stage was reached.
    Cancelled,
    /// Nobody waits for it, or it cannot go on, or waited too long: cancel.
    ToCancel,
    /// Nobody waits for it; its input has no END yet.
    Abandoned,
    /// Nobody waits for it; the recipient is given time to end.
    Ending,
    /// Logs flow both ways.
    Live,
    /// The message is on its way.
    Waiting,
    /// Neither message nor receipt is here: a living `plumb` is about to queue
    /// it, or it lies in `hold/`.
    Unqueued,
}

impl SenderSeen {
    /// The phase of a job that we asked for.
    pub fn phase(&self) -> SenderPhase {
        if self.done {
            return if self.too_old { SenderPhase::Forgotten } else { SenderPhase::Done };
        }
        if self.ended && self.key {
            // What a command whose input broke off had to say is not kept for nobody.
            let over = self.cancel || self.too_old || (self.patience_over && !self.wanted);
            return if over { SenderPhase::ToFinish } else { SenderPhase::Ended };
        }
        // `cancel` outlives `done`, and nothing is sent beside it.
        if self.cancel && (self.broken || self.too_old) {
            return SenderPhase::ToFinish;
        }
        if self.cancel {
            return if self.sent || self.receipt { SenderPhase::Cancelled } else { SenderPhase::CancelledUnsent };
        }
        if self.too_old || !self.key || self.broken {
            return SenderPhase::ToCancel;
        }
        match (self.receipt, self.queue, self.wanted) {
            (true, _, true) => SenderPhase::Live,
            // The queue has let go of it, so its receipt was here and is damaged: the
            // recipient says whether it has the job.
            (false, false, true) if self.sent && !self.held => SenderPhase::Live,
            (false, false, true) if self.attended || self.held => SenderPhase::Unqueued,
            // Detached, and the message is lost that nobody has got.
            (false, false, true) => SenderPhase::ToCancel,
            (true, _, false) if !self.input_ended => SenderPhase::Abandoned,
            (true, _, false) if self.control_ended || self.patience_over => SenderPhase::ToCancel,
            (true, _, false) => SenderPhase::Ending,
            (false, true, true) => SenderPhase::Waiting,
            (false, _, false) => SenderPhase::ToCancel,
        }
    }
}

/// What was seen of a job that we run, `jobs/<msgid>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RecipientSeen {
    /// The `peer` file can be believed.
    pub owner: bool,
    /// The message opens under the spool key.
    pub message: bool,
    /// The sealed message or its one-time key is still here.
    pub unclean: bool,
    /// The sender has the receipt, or nothing.
    pub acked: bool,
    /// It is to end.
    pub cancel: bool,
    /// The command may have been started: `run.started` is here, or output of it.
    pub started: bool,
    /// How it ended is durable.
    pub exit: bool,
    /// END stands on every output log.
    pub outputs_ended: bool,
    /// EXIT and END stand on the control log.
    pub control_ended: bool,
    /// A living keeper holds `running/<msgid>`.
    pub keeper: bool,
    /// The sender's `got` reached END on every output log and the control log.
    pub drained: bool,
    /// It is over, durably.
    pub over: bool,
    /// Segments, secret or message are still here.
    pub remains: bool,
    /// Nothing happened for its maximum age.
    pub too_old: bool,
    /// The tombstone has stood for its time.
    pub tombstone_old: bool,
}

/// Where a job that we run stands, as the loop sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecipientPhase {
    /// Over, confirmed (or nobody's), and old enough: to be forgotten once the sender has.
    Expired,
    /// Over; segments and secret are to be destroyed.
    Remains,
    /// Over; the receipt is not confirmed.
    OverUnacked,
    /// Over: the tombstone.
    Over,
    /// Delivered; the one-time key is to be destroyed.
    Unclean,
    /// Nothing more will come of it: the outcome is to be made final.
    ToFinish,
    /// Nothing happened for too long, or what is needed to go on is lost: cancel.
    ToCancel,
    /// To end; the living keeper kills.
    Ending,
    /// It ended; its output waits to be pulled.
    Exited,
    /// It runs, or is about to: input is pulled.
    Live,
}

impl RecipientSeen {
    /// The phase of a job that we run.
    pub fn phase(&self) -> RecipientPhase {
        if self.over {
            return match (self.remains, self.acked, self.tombstone_old) {
                (true, _, _) => RecipientPhase::Remains,
                (false, true, true) => RecipientPhase::Expired,
                (false, false, _) if self.owner => RecipientPhase::OverUnacked,
                (false, false, true) => RecipientPhase::Expired,
                (false, true, false) | (false, false, false) => RecipientPhase::Over,
            };
        }
        if self.unclean && self.owner && self.message {
            return RecipientPhase::Unclean;
        }
        match (self.keeper, self.cancel, self.too_old || !self.owner || !self.message) {
            (true, true, _) => return RecipientPhase::Ending,
            // Without an owner nobody can be asked for the rest of the input, and
            // without the message, which has the secret, nobody can open it.
            (true, false, true) => return RecipientPhase::ToCancel,
            (true, false, false) => return RecipientPhase::Live,
            (false, true, _) => return RecipientPhase::ToFinish,
            (false, false, _) => {}
        }
        let announced = self.announced();
        if !self.owner || (!self.message && !announced) || (announced && (self.drained || self.too_old)) {
            return RecipientPhase::ToFinish;
        }
        match (announced, self.too_old) {
            (true, _) => RecipientPhase::Exited,
            (false, true) => RecipientPhase::ToCancel,
            (false, false) => RecipientPhase::Live,
        }
    }

    /// Must a keeper be started? The daemon asks this, from names alone.
    pub fn wants_keeper(&self) -> bool {
        self.message && !self.announced() && !self.keeper && !self.over && !self.cancel
    }

    /// Is there nothing left for a keeper to say? All logs must have their END:
    /// a sender waits for each of them.
    fn announced(&self) -> bool {
        self.exit && self.outputs_ended && self.control_ended
    }
}

/// What a keeper that has its job's lock must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeeperPhase {
    /// Nothing: it is over, or cancelled, or ended already.
    Nothing,
    /// Nothing has run: ask the gluepot, then start.
    Start,
    /// Something may have run, and its keeper is gone: drop its output, and start anew.
    Again,
    /// Something may have run, its keeper is gone, and it is not to be run again.
    Interrupted,
    /// It ended; EXIT or END is missing on a log.
    Unannounced,
}

impl RecipientSeen {
    /// The phase of a job for a keeper that has just taken its lock. `repeat`:
    /// its sender says that it may be run again.
    pub fn keeper_phase(&self, repeat: bool) -> KeeperPhase {
        match (self.over, self.started, self.exit) {
            (true, _, _) => KeeperPhase::Nothing,
            (false, _, true) if self.announced() => KeeperPhase::Nothing,
            (false, _, true) => KeeperPhase::Unannounced,
            // What was offered may have been taken: its reader would get a part of each run.
            (false, true, false) if repeat && !self.cancel && !self.outputs_ended => KeeperPhase::Again,
            (false, true, false) => KeeperPhase::Interrupted,
            (false, false, false) if self.cancel => KeeperPhase::Nothing,
            (false, false, false) => KeeperPhase::Start,
        }
    }
}
