//! What the three kinds of work share: counting steps, putting marks, reporting.

use crate::comm::Trouble;
use crate::state::Came;
use spool::clock;
use spool::facts::Facts;
use spool::fs::{Fs, Lock, Result};
use spool::layout::{self, Place};
use spool::name::MsgId;
use spool::phase::Mark;
use spool::report::{Report, Turn};
use spool::retry::Ceiling;
use std::time::Duration;

/// More steps than any message needs in one go.
const STEPS_MAX: u32 = 24;

/// The steps of one piece of work, as they will be reported.
pub struct Steps {
    report: Report,
    count: u32,
}

impl Steps {
    /// No steps yet.
    pub fn new(place: Place, msgid: MsgId) -> Steps {
        Steps { report: Report::new(place, msgid, Turn::Rest), count: 0 }
    }

    /// Counts a step; false when there have been too many to be progress.
    pub fn another(&mut self) -> bool {
        self.count += 1;
        self.count <= STEPS_MAX
    }

    /// Notes what was done.
    pub fn did(&mut self, what: &str) {
        self.report.did.push(what.to_string());
    }

    /// An authentic word of the peer came.
    pub fn heard(&mut self) {
        self.report.heard = true;
    }

    /// Names the peer.
    pub fn peer(&mut self, name: Option<String>) {
        self.report.peer = name;
    }

    /// Bounds the next retry.
    pub fn bound(&mut self, ceiling: Ceiling) {
        self.report.bound(ceiling);
    }

    /// What it waits for, as a code.
    pub fn waits_for(&mut self, cause: &str) {
        self.report.cause = Some(cause.to_string());
    }

    /// The next try comes in so long, without the schedule's doing.
    pub fn next_in(&mut self, delay: Option<std::time::Duration>) {
        self.report.next_ms = delay.map(|delay| delay.as_millis() as u64);
    }

    /// The job was left, and waits to be heard of.
    pub fn kept(&mut self, kept: bool) {
        self.report.kept = kept;
    }

    /// Tells a person.
    pub fn notice(&mut self, what: &str) {
        self.report.notice = Some(what.to_string());
    }

    /// The report, after the last step.
    pub fn report(mut self, turn: std::result::Result<Turn, Trouble>) -> Report {
        match turn {
            Ok(turn) => self.report.turn = turn,
            Err(trouble) => {
                self.report.turn = Turn::Later;
                self.report.cause = Some(trouble.cause.to_string());
                self.report.error = Some(trouble.error);
            }
        }
        self.report
    }
}

/// Takes the lock of a directory that is worked on: `None` if there is no such
/// directory. Anything else that lies at its name is moved aside.
pub fn lock(fs: &dyn Fs, dir: &str, wait: Duration) -> std::result::Result<Option<Lock>, Trouble> {
    match fs.lock_dir(dir, wait) {
        Err(error) if error.is_absent() => layout::clear(fs, dir).map(|_| None).map_err(Trouble::from),
        Err(error) => match layout::clear(fs, dir)? {
            true => Ok(None),
            false => Err(error.into()),
        },
        Ok(None) => Err(Trouble::new("lock", "another process works on it")),
        Ok(Some(lock)) => Ok(Some(lock)),
    }
}

/// Makes a mark in `jobs/<msgid>`, with the time of its making. Durable are those
/// that a promise rests on; one of those that is there already stays, but a
/// receipt that could not be believed is replaced.
pub fn put_in_job(fs: &dyn Fs, msgid: MsgId, mark: Mark, facts: Facts) -> Result<()> {
    let path = Place::Jobs.file(msgid, mark.name());
    let facts = facts.with("at", clock::uptime(fs)?);
    match mark {
        Mark::Receipt => {
            fs.remove(&path)?;
            facts.commit(fs, &path)?;
        }
        Mark::Over => match facts.commit(fs, &path) {
            Err(error) if error.is_taken() => {}
            other => other?,
        },
        // Once is enough: a rewritten `cancel` would be young for ever.
        Mark::Sent | Mark::Cancel if fs.is_there(&path)? => return Ok(()),
        _ => facts.hint(fs, &path)?,
    }
    if mark != Mark::Sent {
        layout::touch(fs, Place::Jobs, msgid);
    }
    Ok(())
}

/// A reply's word, for logs and for `netplumb loop`.
pub fn word(came: Came) -> &'static str {
    match came {
        Came::Silence => "-",
        Came::Ok => "OK",
        Came::Receipt | Came::Outcome => "DONE",
        Came::NeedKey => "NEEDKEY",
        Came::Gone => "GONE",
        Came::Later => "LATER",
        Came::Worked => "done",
        Came::Failed => "failed",
    }
}
