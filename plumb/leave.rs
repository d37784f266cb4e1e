//! When a job is left to itself, and when it is not even waited for.

use super::Attendant;
use crate::ending::{Ending, Reason};
use crate::presence::Seen;
use crate::signals;
use crate::why::Why;
use job::submit;
use spool::outcome::Outcome;
use spool::phase::Mark;
use std::io::IsTerminal;

/// How we stand to the job.
#[derive(Debug, Clone, Copy)]
pub struct Stance {
    /// What we are to it.
    pub role: Role,
    /// Its input comes from us, and has not ended.
    pub feeds: bool,
    /// A peer that cannot be reached is not waited for.
    pub now: bool,
}

/// What a `plumb` is to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that made it.
    First,
    /// The one that made it, and goes as soon as it has all input.
    Leaving,
    /// One that came later and is alone: what it does not deliver is kept.
    Again,
    /// Another one has it: this one reads along, and touches nothing.
    Along,
}

impl Attendant<'_> {
    /// May this signal, twice, leave the job to itself? Not while we read its
    /// input from a pipe: what comes there after us would be lost.
    pub(super) fn may_leave(&self, signal: i32) -> bool {
        let typed = || self.job.producer.is_none() && std::io::stdin().is_terminal();
        signal == signals::INTERRUPT && (!self.stance.feeds || typed())
    }

    /// Sees to it that others see us; an ending, if another `plumb` has our place.
    pub(super) fn is_ousted(&mut self) -> Option<Ending> {
        let presence = self.presence.as_mut()?;
        let seen = presence.keep();
        if seen == Seen::Again {
            self.watch.add(&self.job.root.join(presence.path()));
        }
        let what = "another plumb has this job now; it goes on without us";
        (seen == Seen::Ousted).then(|| Ending::failed(Reason::Detached, what))
    }

    /// Leaves the job to itself; it needs us no more.
    pub(super) fn detach(&self) -> Result<(), job::Error> {
        submit::detach(&*self.job.fs, self.job.msgid(), !self.stance.feeds)
    }

    /// The end of one that only came to hand the job over, as soon as it can go.
    pub(super) fn leaves(&self) -> Option<Ending> {
        if self.stance.role != Role::Leaving {
            return None;
        }
        // One that ended before it had all of its input is told of at once.
        let ran = |outcome: &&Outcome| matches!(outcome, Outcome::Exited(_) | Outcome::Signal(_));
        if let Some(outcome) = self.done.as_ref().or(self.exit.as_ref().filter(|outcome| !ran(outcome))) {
            return Some(self.judge_input(Ending::of(outcome.clone()), outcome.clone()));
        }
        let waits = self.stance.now && !self.receipt;
        let ended = !self.stance.feeds || self.exit.is_some();
        match (!waits && ended).then(|| self.detach())? {
            Err(error) if error.passes().is_some() => None,
            Err(error) => {
                let outcome = Some(self.cancel("our disk failed"));
                Some(Ending { outcome, ..Ending::failed(Reason::Disk, error) })
            }
            Ok(()) => Some(match (self.asked, &self.exit) {
                (Some((signal, _)), _) => Ending::goes_on(self.job.msgid()).by_signal(signal),
                (None, Some(outcome)) => self.judge_input(Ending::left(), outcome.clone()),
                (None, None) => Ending::left(),
            }),
        }
    }

    /// With `-now`: the end, if the peer is out of reach and has nothing of it.
    pub(super) fn fails_now(&mut self) -> Option<Ending> {
        if !self.stance.now || self.receipt || self.has(Mark::Sent) {
            return None;
        }
        let why = self.progress.waits_for(false).filter(Why::is_out_of_reach)?;
        let what = format!("{}: {}; not queued (-now)", self.peer, why.what());
        Some(match self.cancel("it cannot be reached now") {
            Outcome::NotStarted => Ending::failed(Reason::NotStarted, what),
            outcome => Ending::of(outcome),
        })
    }
}
