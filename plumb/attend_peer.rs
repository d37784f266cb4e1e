//! What the peer says to whoever attends a job, and what is said to it.

use super::{Attendant, say};
use crate::doubt::Doubt;
use crate::screen::one_line;
use spool::control::{Control, Heard, Listener};
use spool::fs::{Error, Fs};
use spool::layout::{self, Place};
use spool::log::Reader;
use spool::look;
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;

impl Attendant<'_> {
    pub(super) fn look_for_done(&mut self) {
        if self.done.is_some() {
            return;
        }
        let done = look::done(&*self.job.fs, self.job.msgid());
        let (done, over) = match done.and_then(|done| Ok((done, self.over()?))) {
            Ok(found) => found,
            // It is looked for again.
            Err(error) => return self.job.blocked.note(&error),
        };
        self.done = done.or(over);
        if self.done.is_none() && !self.job.fs.exists(&Place::Jobs.dir(self.job.msgid())) {
            self.screen.note("the job's directory is gone from the spool");
            self.done = Some(Outcome::Unknown);
        }
    }

    /// How the job ended if `over` is here, which counts by its name. The loop makes it where `peer`
    /// is damaged, for then it does not know the job for ours; or the directory is another job's.
    fn over(&self) -> Result<Option<Outcome>, Error> {
        if !self.job.fs.is_there(&self.job.file(Mark::Over.name()))? {
            return Ok(None);
        }
        let outcome = self.mark(Mark::Over)?.and_then(|over| over.value("outcome"));
        Ok(Some(outcome.unwrap_or(Outcome::Unknown)))
    }

    pub(super) fn hear(&mut self) {
        while !self.deaf {
            match self.next_word() {
                Ok(Heard::Said(Control::Exit(outcome))) => {
                    self.screen.detail(format_args!("{}: {}", self.peer, one_line(&outcome)));
                    self.exit.get_or_insert(outcome);
                }
                Ok(Heard::Said(Control::Close(Chan::STDIN))) => self.job.unread.declare(),
                // The keeper has no more to say to us.
                Ok(Heard::Said(Control::Signal(_) | Control::Close(_))) => {}
                Ok(Heard::Nothing) => {
                    self.doubt = Doubt::default();
                    return;
                }
                Ok(Heard::End | Heard::Broken) => self.deaf = true,
                // A disk that does not answer is asked again at the next look.
                Err(error @ Error::Io { .. }) => return self.job.blocked.note(&error),
                Err(Error::Damaged { .. }) if !self.doubt.is_settled(self.job) => {
                    self.listener = None;
                    return;
                }
                Err(error) => {
                    self.screen.note(error);
                    self.deaf = true;
                }
            }
        }
    }

    /// The next thing on channel 0, which is heard from its beginning by whoever opens it.
    fn next_word(&mut self) -> Result<Heard, Error> {
        let listener = match &mut self.listener {
            Some(listener) => listener,
            None => {
                let (dir, stream) = self.job.incoming(Chan::CONTROL);
                let reader = Reader::open(self.job.spool(), &dir, self.job.keys.clone(), stream)?;
                self.listener.insert(Listener::new(reader))
            }
        };
        listener.hear()
    }

    pub(super) fn speak(&mut self) {
        while let Some(control) = self.unsaid.front() {
            match say(&mut self.speaker, self.job, control) {
                // It is said when there is room again.
                Err(job::Error::Disk(error)) if error.passes().is_some() => return self.job.blocked.note(&error),
                Err(error) => self.screen.note(format_args!("cannot tell {}: {error}", self.peer)),
                Ok(()) => layout::touch(&*self.job.fs, Place::Jobs, self.job.msgid()),
            }
            self.unsaid.pop_front();
        }
    }
}
