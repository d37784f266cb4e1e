//! Input that broke off: looked for on our own disk, and told of at the end.

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
        let (fs, (dir, stream)) = (&*self.job.fs, self.job.outgoing(Chan::STDIN));
        if fs.size(&tail.path)?.is_some_and(|size| size >= tail.size) {
            return Ok(());
        }
        if log::hinted(fs, &format!("{dir}/got"))? < tail.offset
            && let damage::Found::Damaged(damage) = damage::look(fs, &dir, &self.job.keys, stream, tail.offset)?
        {
            self.screen.note(damage.facts().text("reason").unwrap_or_default());
            let _ = submit::cancel_for(fs, self.job.msgid(), damage.facts());
        }
        self.tail = None;
        Ok(())
    }

    /// The ending, if it was not the input that broke off; or what that came to.
    pub(super) fn blame(&self, outcome: Outcome, ending: Ending) -> Ending {
        let cancel = self.mark(Mark::Cancel).ok().flatten();
        let lost = cancel.filter(|cancel| Damage::told(cancel).is_some());
        let lost = lost.and_then(|cancel| cancel.text("reason").map(str::to_string));
        let ran = matches!(outcome, Outcome::Exited(_) | Outcome::Signal(_));
        let what = match (self.failed.as_deref(), lost.as_deref(), &outcome) {
            // What it did without its input is no success.
            (Some(how), _, outcome) if ran => format!("{how}; the command had ended by itself ({outcome})"),
            (Some(how), _, Outcome::InputIncomplete(_) | Outcome::Cancelled)
            | (None, Some(how), Outcome::InputIncomplete(_) | Outcome::Cancelled) => {
                format!("{how}, so the command was killed")
            }
            (Some(how), _, Outcome::NotStarted) => format!("{how}, so the command was not started"),
            _ => return ending,
        };
        Ending { outcome: Some(outcome), ..Ending::failed(Reason::InputIncomplete, what) }
    }
}
