//! What a batch job waits for before it is started: the whole of its input.
//!
//! Every record is opened once as it arrives, so what is missing or damaged is
//! found here and not by the command. `look` never waits, so that a simulated
//! keeper can look by hand; `stay` waits between the looks of a real one.
//! Invariant: `Whole` is said only after an authentic END{eof}, with every
//! record before it opened (doc/PROTOCOL.md#states).

use crate::Error;
use crate::eyes::LOOK_EVERY;
use crate::hold::{Grip, Hold};
use crate::keeper::Job;
use spool::control::{Control, Heard, Listener};
use spool::layout::{Owner, Place, log_in, running};
use spool::log::{self, Item, Reader};
use spool::look::is_to_end;
use spool::name::{Chan, MsgId, Role};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::{EndKind, OVERHEAD, RECORD};
use spool::usage::{self, Bounds};
use spool::wait::Watch;
use std::path::Path;
use std::time::{Duration, Instant};

/// Signals that end whoever does not provide for them: before the start there is nobody who could.
const ENDING: [u8; 5] = [1, 2, 3, 9, 15];
/// Input that has not grown for so long may have no room to.
const CROWDED_AFTER: Duration = Duration::from_secs(10);
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
    /// Older ones that wait as this does hold what the peer's jobs may have.
    Crowded,
    /// Its sender gave a signal that ends it.
    Unwanted,
}

impl Arrival {
    /// How a job ends of which nothing has run, if this stands against its start.
    pub fn outcome(self, quota: u64) -> Option<Outcome> {
        match self {
            Arrival::Awaited | Arrival::Whole => None,
            Arrival::Incomplete | Arrival::Unwanted => Some(Outcome::NotStarted),
            Arrival::Crowded => {
                Some(Outcome::Refused("batch jobs that came before hold all that its quota allows; try again".into()))
            }
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
    bounds: Bounds,
    /// How far the input was when it last grew, and since when it has not.
    grown: (u64, Instant),
}

impl Waiting {
    /// Lets as much of the input come as may lie here, and a record more, which tells that there is more.
    pub(crate) fn new(job: Job, quota: u64, bounds: Bounds) -> Result<Waiting, Error> {
        log::widen(&*job.fs, &log_in(job.msgid(), Chan::STDIN), quota.saturating_add((RECORD + OVERHEAD) as u64))?;
        let listener = Some(Listener::new(job.reader(Chan::CONTROL)?));
        Ok(Waiting { job, quota, input: None, listener, damaged: 0, bounds, grown: (0, Instant::now()) })
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

    /// Has it come no further for a while because of others that wait for the
    /// same? None of them would ever go on: the oldest stays.
    fn is_crowded_out(&mut self) -> bool {
        let (fs, msgid) = (&*self.job.fs, self.job.msgid());
        let offset = self.input.as_ref().map_or(0, Reader::offset);
        if offset != self.grown.0 {
            self.grown = (offset, Instant::now());
        }
        let sender = &self.job.keys.sender;
        if self.grown.1.elapsed() < CROWDED_AFTER || usage::lack(fs, msgid, sender, &self.bounds) != Some("quota") {
            return false;
        }
        let age = |id: MsgId| {
            let owner = Owner::read(fs, &Place::Jobs.dir(id)).ok().flatten()?;
            let waits = fs.exists(&format!("{}/window", log_in(id, Chan::STDIN)))
                && !fs.exists(&Place::Jobs.file(id, Mark::RunStarted.name()));
            (waits && owner.username == *sender && owner.role == Role::Recipient).then_some((owner.born, id))
        };
        let ours = age(msgid);
        let others = Place::Jobs.ids(fs).unwrap_or_default().into_iter().filter(|id| *id != msgid);
        ours.is_some() && others.filter_map(age).any(|other| Some(other) < ours)
    }

    /// Hears what the sender says. The command, once it runs, hears all of it again.
    fn is_unwanted(&mut self) -> Result<bool, Error> {
        while let Some(listener) = &mut self.listener {
            match listener.hear() {
                Ok(Heard::Said(Control::Signal(number))) if ENDING.contains(&number) => return Ok(true),
                Ok(Heard::Said(_)) => {}
                Ok(Heard::Nothing) => break,
                Ok(Heard::End | Heard::Broken) => self.listener = None,
                Err(spool::fs::Error::Damaged { .. }) => self.listener = None,
                Err(error) if error.passes().is_some() => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Waits until it is known what becomes of the input; `Awaited` says that
    /// the job is cancelled or gone, `None` that another keeper has it. `root`
    /// is the spool's directory.
    pub fn stay(mut self, root: &Path, hold: &mut Hold) -> Result<Option<Arrival>, Error> {
        let (fs, msgid) = (self.job.fs.clone(), self.job.msgid());
        let (watch, lock) = (Watch::for_a_while(), root.join(running(msgid)));
        for dir in [Place::Jobs.dir(msgid), log_in(msgid, Chan::CONTROL), log_in(msgid, Chan::STDIN)] {
            watch.add(&root.join(dir));
        }
        watch.add(&lock);
        loop {
            let arrival = match self.look()? {
                Arrival::Awaited if self.is_crowded_out() => Arrival::Crowded,
                arrival => arrival,
            };
            // Asked last: what comes of the wait is acted upon by whoever has the job.
            match hold.keep()? {
                Grip::Firm => {}
                Grip::Renewed => drop(watch.add(&lock)),
                Grip::Open | Grip::Lost => return Ok(None),
            }
            let gone = || !fs.exists(&Place::Jobs.dir(msgid)) || is_to_end(&*fs, msgid);
            if arrival != Arrival::Awaited || gone() {
                return Ok(Some(arrival));
            }
            match self.damaged {
                0 => watch.wait(&[], LOOK_EVERY),
                _ => std::thread::sleep(LOOK_EVERY),
            }
        }
    }
}
