//! The way of the sender's bytes into the command's stdin.
//!
//! Never blocks: what the pipe does not take waits, and so does the log. A
//! place in the log is left behind only when its bytes are in the pipe, and never
//! where the job may be run again: then all of the input is to stay. The
//! pipe is closed here after the guard's confirmation of an authentic END, or
//! when nobody reads it any more (doc/PROTOCOL.md#control).

use rustix::io::Errno;
use spool::fs::Error;
use spool::log::{HINTS_APART, Item, Reader};
use spool::segment::EndKind;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// What one step of feeding came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// There may be more at once.
    More,
    /// The pipe is full.
    Full,
    /// The log has no more yet.
    Empty,
    /// All is in the pipe, and the END is authentic: the guard is to close first.
    End,
    /// The input broke off, so many plaintext bytes after its start.
    Incomplete(u64),
    /// Nobody reads the pipe any more; it is closed.
    ReaderGone,
    /// There is nothing to feed any more.
    Over,
}

/// Feeds a command.
pub struct Feed {
    reader: Reader,
    pipe: Option<OwnedFd>,
    /// How much of the reader's present data is in the pipe.
    written: usize,
    held: usize,
    ended: bool,
    /// The log is kept as a whole.
    keep: bool,
    began: Instant,
    hint_due: Option<Instant>,
}

impl Feed {
    /// Feeds what the reader opens into a pipe that does not block. `keep` says
    /// that it will be read once more after a crash.
    pub fn new(reader: Reader, pipe: OwnedFd, keep: bool) -> Feed {
        let (written, held, ended, hint_due) = (0, 0, false, None);
        Feed { reader, pipe: Some(pipe), written, held, ended, keep, began: Instant::now(), hint_due }
    }

    /// Our write end, while it is open.
    pub fn pipe(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref()
    }

    /// Closes our write end: the guard has confirmed that this is the last one,
    /// or nobody reads the pipe any more.
    pub fn close(&mut self) {
        self.pipe = None;
    }

    /// Has all of the input been fed, up to an END?
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Gives our write end away.
    pub fn into_pipe(self) -> Option<OwnedFd> {
        self.pipe
    }

    /// Feeds a piece.
    pub fn step(&mut self) -> Result<Fed, Error> {
        self.leave_hint(false)?;
        if self.ended || self.pipe.is_none() {
            return Ok(Fed::Over);
        }
        if self.written == self.held {
            match self.reader.advance() {
                Ok(Item::Data(count)) => (self.written, self.held) = (0, count),
                Ok(Item::Nothing) => return Ok(Fed::Empty),
                Ok(Item::End(end)) => {
                    self.ended = true;
                    self.leave_hint(true)?;
                    return Ok(if end.kind == EndKind::Eof { Fed::End } else { Fed::Incomplete(self.reader.plain()) });
                }
                // Damage here is a loss of input as any other: the command must not take it for an end.
                Ok(Item::Broken) | Err(Error::Damaged { .. }) => {
                    self.ended = true;
                    return Ok(Fed::Incomplete(self.reader.plain()));
                }
                Err(error) => return Err(error),
            }
        }
        let Some(pipe) = &self.pipe else { return Ok(Fed::Over) };
        match rustix::io::write(pipe, &self.reader.data()[self.written..self.held]) {
            Ok(count) => self.written += count,
            Err(Errno::AGAIN) => return Ok(Fed::Full),
            Err(Errno::INTR) => return Ok(Fed::More),
            Err(_) => {
                self.pipe = None;
                return Ok(Fed::ReaderGone);
            }
        }
        if self.written < self.held {
            return Ok(Fed::Full);
        }
        self.hint_due = self.hint_due.or(Some(Instant::now() + HINTS_APART));
        self.took(false)?;
        Ok(Fed::More)
    }

    /// Says how far the command has been fed, if it is time for that.
    fn leave_hint(&mut self, now: bool) -> Result<(), Error> {
        if now || self.hint_due.is_some_and(|due| Instant::now() >= due) {
            self.hint_due = None;
            self.took(true)?;
        }
        Ok(())
    }

    fn took(&mut self, idle: bool) -> Result<(), Error> {
        if self.keep {
            return Ok(());
        }
        match self.reader.took(self.began.elapsed(), idle) {
            Err(error) if error.passes().is_some() => {
                self.hint_due = Some(Instant::now() + Duration::from_secs(1));
                Ok(())
            }
            other => other,
        }
    }

    /// When the next step is due although nothing happened.
    pub fn due(&self) -> Option<Instant> {
        self.hint_due
    }
}
