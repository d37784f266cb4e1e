//! What a batch job waits for before it is started: the whole of its input.
//!
//! Every record is opened once as it arrives, so what is missing or damaged is
//! found here and not by the command. `look` never waits, so that a simulated
//! keeper can look by hand; `stay` waits between the looks of a real one.
//! Invariant: `Whole` is said only after an authentic END{eof}, with every
//! record before it opened (doc/PROTOCOL.md#states).

use crate::Error;
use crate::control::{Control, Heard, Listener};
use crate::eyes::LOOK_EVERY;
use crate::keeper::Job;
use spool::layout::{Place, log_in};
use spool::log::{self, Item, Reader};
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::{EndKind, OVERHEAD, RECORD};
use spool::wait::Watch;
use std::path::Path;

/// Signals that end whoever does not provide for them: before the start there is nobody who could.
const ENDING: [u8; 5] = [1, 2, 3, 9, 15];
/// So many looks in a row may find damage: the loop cuts off what a power cut
/// has left behind the last whole record, and pulls it again.
const DAMAGED_MAX: u32 = 5;

/// How much of a batch job's input is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Not all of it yet.
    Awaited,
    /// All of it, and it verifies.
    Whole,
    /// It broke off, or is damaged: it will never be whole.
    Incomplete,
    /// More than the quota.
    TooLarge,
    /// Its sender gave a signal that ends it.
    Unwanted,
}

impl Arrival {
    /// How a job ends of which nothing has run, if this stands against its start.
    pub fn outcome(self, quota: u64) -> Option<Outcome> {
        match self {
            Arrival::Awaited | Arrival::Whole => None,
            Arrival::Incomplete | Arrival::Unwanted => Some(Outcome::NotStarted),
            Arrival::TooLarge => Some(Outcome::Refused(format!("input larger than the quota of {quota} bytes"))),
        }
    }
}

/// Waits for the input of one job.
pub struct Waiting {
    job: Job,
    quota: u64,
    input: Option<Reader>,
    listener: Option<Listener>,
    damaged: u32,
}

impl Waiting {
    /// Lets as much of the input come as may lie here, and a record more, which tells that there is more.
    pub(crate) fn new(job: Job, quota: u64) -> Result<Waiting, Error> {
        log::widen(&*job.fs, &log_in(job.msgid(), Chan::STDIN), quota.saturating_add((RECORD + OVERHEAD) as u64))?;
        let listener = Some(Listener::new(job.reader(Chan::CONTROL)?));
        Ok(Waiting { job, quota, input: None, listener, damaged: 0 })
    }

    /// Opens what has come since the last look.
    pub fn look(&mut self) -> Result<Arrival, Error> {
        if self.is_unwanted()? {
            return Ok(Arrival::Unwanted);
        }
        match self.advance() {
            Err(Error::Disk(spool::fs::Error::Damaged { path, what })) => {
                tracing::warn!("{path}: {what}");
                (self.input, self.damaged) = (None, self.damaged + 1);
                Ok(if self.damaged < DAMAGED_MAX { Arrival::Awaited } else { Arrival::Incomplete })
            }
            other => {
                self.damaged = 0;
                other
            }
        }
    }

    fn advance(&mut self) -> Result<Arrival, Error> {
        let input = match &mut self.input {
            Some(input) => input,
            None => self.input.insert(self.job.reader(Chan::STDIN)?),
        };
        loop {
            match input.advance()? {
                Item::Data(_) if input.offset() > self.quota => return Ok(Arrival::TooLarge),
                Item::Data(_) => {}
                Item::End(end) if end.kind == EndKind::Eof => return Ok(Arrival::Whole),
                Item::End(_) | Item::Broken => return Ok(Arrival::Incomplete),
                Item::Nothing => return Ok(Arrival::Awaited),
            }
        }
    }

    /// Hears what the sender says. The command, once it runs, hears all of it again.
    fn is_unwanted(&mut self) -> Result<bool, Error> {
        while let Some(listener) = &mut self.listener {
            match listener.hear() {
                Ok(Heard::Said(Control::Signal(number))) if ENDING.contains(&number) => return Ok(true),
                Ok(Heard::Said(_)) => {}
                Ok(Heard::Nothing) => break,
                Ok(Heard::End | Heard::Broken) => self.listener = None,
                Err(Error::Peer(_) | Error::Disk(spool::fs::Error::Damaged { .. })) => self.listener = None,
                Err(error) if error.is_full() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Waits until it is known what becomes of the input; `Awaited` says that
    /// the job is cancelled or gone. `root` is the spool's directory.
    pub fn stay(mut self, root: &Path) -> Result<Arrival, Error> {
        let (fs, msgid) = (self.job.fs.clone(), self.job.msgid());
        let watch = Watch::for_a_while();
        for dir in [Place::Jobs.dir(msgid), log_in(msgid, Chan::CONTROL), log_in(msgid, Chan::STDIN)] {
            watch.add(&root.join(dir));
        }
        loop {
            let arrival = self.look()?;
            let gone =
                || !fs.exists(&Place::Jobs.dir(msgid)) || fs.exists(&Place::Jobs.file(msgid, Mark::Cancel.name()));
            if arrival != Arrival::Awaited || gone() {
                return Ok(arrival);
            }
            match self.damaged {
                0 => watch.wait(&[], LOOK_EVERY),
                _ => std::thread::sleep(LOOK_EVERY),
            }
        }
    }
}
