//! What became of our input, where it was not all given: its producer failed,
//! or our own disk lost some of it. Neither looks like a success.

use super::Attendant;
use crate::ending::{Ending, Reason};
use job::submit;
use spool::damage::{self, Damage};
use spool::fs::{Error, Fs};
use spool::log;
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;

impl Attendant<'_> {
    /// Is the END of our input still on our disk, until the peer has it? It
    /// would wait for one that is gone; only we can know that there was one.
    pub(super) fn look_at_input(&mut self) -> Result<(), Error> {
        let Some(tail) = self.tail.as_ref().filter(|_| !self.is_over()) else { return Ok(()) };
        let (fs, (dir, _)) = (&*self.job.fs, self.job.outgoing(Chan::STDIN));
        if fs.size(&tail.path)?.is_some_and(|size| size >= tail.size) {
            return Ok(());
        }
        if log::hinted(fs, &format!("{dir}/got"))? < tail.offset {
            self.tell_damage(tail.offset)?;
        }
        self.tail = None;
        Ok(())
    }

    /// Cancels the job if less than `claimed` bytes of the log of our input are good on our
    /// disk: the command must not take what it has for all of it.
    pub(super) fn tell_damage(&self, claimed: u64) -> Result<(), Error> {
        let (fs, (dir, stream)) = (&*self.job.fs, self.job.outgoing(Chan::STDIN));
        if let damage::Found::Damaged(damage) = damage::look(fs, &dir, &self.job.keys, stream, claimed)? {
            self.screen.note(damage.facts().text("reason").unwrap_or_default());
            let _ = submit::cancel_for(fs, self.job.msgid(), damage.facts());
        }
        Ok(())
    }

    /// The ending, by what our input lacked.
    pub(super) fn judge_input(&self, ending: Ending, outcome: Outcome) -> Ending {
        let ran = matches!(outcome, Outcome::Exited(_) | Outcome::Signal(_));
        let cancel = self.mark(Mark::Cancel).ok().flatten();
        let lost = cancel.filter(|cancel| Damage::told(cancel).is_some());
        let lost = lost.and_then(|cancel| cancel.text("reason").map(str::to_string));
        let what = match (self.failed.as_deref(), lost.as_deref(), &outcome) {
            // What it did without its input is no success.
            (Some(how), _, outcome) if ran => format!("{how}; the command had ended by itself ({outcome})"),
            (Some(how), _, Outcome::InputIncomplete(_) | Outcome::Cancelled)
            | (None, Some(how), Outcome::InputIncomplete(_) | Outcome::Cancelled) => {
                format!("{how}, so the command was killed")
            }
            // A batch job waits for the whole of it.
            (Some(how), _, Outcome::NotStarted) => {
                let what = format!("{how}, so the command was not started");
                return Ending { outcome: Some(outcome), ..Ending::failed(Reason::NotStarted, what) };
            }
            _ => return ending,
        };
        Ending { outcome: Some(outcome), ..Ending::failed(Reason::InputIncomplete, what) }
    }
}
