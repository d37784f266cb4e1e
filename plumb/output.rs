//! One of the command's outputs, from `in/<chan>` to our stdout or stderr, as
//! it arrives.
//!
//! What was written is noted (`took`) only after write(2) took it. A reader of
//! ours that went away is told to the waiting thread at once; what still
//! arrives is then read and dropped, so that the other side is not held up.

use crate::attend::Role;
use crate::begin::Job;
use crate::bell::{Bell, Event, LastWord};
use crate::doubt::Doubt;
use crate::input::PIPE;
use crate::screen::Screen;
use rustix::io::Errno;
use spool::fs::Error;
use spool::log::{HINTS_APART, Item, Reader};
use spool::name::Chan;
use spool::segment::EndKind;
use spool::wait::Watch;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a lost wake-up can keep us.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a read of our own disk is tried before it counts as lost, and how far apart.
const TRIES: u32 = 50;
const TRIES_APART: Duration = Duration::from_millis(100);
/// How long one waits before another look at a log that is damaged.
const MEND_WAIT: Duration = Duration::from_millis(200);

/// What became of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// All of it was written.
    Whole,
    /// Our reader went away (EPIPE), and does not miss anything.
    Gone,
    /// All that was here was written; there is no END, and the job is over.
    Stopped {
        /// Bytes that were delivered.
        at: u64,
    },
    /// All of it was written; the command was killed before it had written more.
    Cut {
        /// Bytes that were delivered.
        at: u64,
    },
    /// It can never be completed.
    Broken {
        /// Bytes that were delivered.
        at: u64,
        /// What is wrong with it.
        why: String,
        /// Whoever attaches later may get more of it: from another place, or of a disk that answers.
        again: bool,
    },
    /// Our stdout or stderr refused it.
    Refused(Errno),
}

/// How a channel is taken.
#[derive(Debug, Clone, Copy)]
pub struct Taking {
    /// For whom.
    pub role: Role,
    /// From this byte on; `None`: where the last reader left off.
    pub from: Option<u64>,
}

/// Begins to deliver a channel to where it belongs, on a thread of its own.
pub fn start(job: &Job, bell: &Bell, screen: &Arc<Screen>, chan: Chan, taking: Taking) -> io::Result<()> {
    let target = if chan == Chan::STDOUT { rustix::stdio::stdout() } else { rustix::stdio::stderr() };
    let (job, bell, screen) = (job.clone(), bell.clone(), screen.clone());
    let name = if chan == Chan::STDOUT { "stdout" } else { "stderr" };
    std::thread::Builder::new().name(name.into()).spawn(move || {
        let watch = Watch::for_a_while();
        let died = Delivered::Broken { at: 0, why: "the thread that delivers it died".into(), again: true };
        let last = LastWord::new(&bell, Event::Delivered(chan, died));
        let delivered = Delivery { job: &job, bell: &bell, screen: &screen, watch: &watch, chan, taking }.run(target);
        // Said before the watch is closed, which takes a while.
        last.say(Event::Delivered(chan, delivered));
    })?;
    Ok(())
}

struct Delivery<'a> {
    job: &'a Job,
    bell: &'a Bell,
    screen: &'a Screen,
    watch: &'a Watch,
    chan: Chan,
    taking: Taking,
}

impl Delivery<'_> {
    fn run(&self, target: BorrowedFd) -> Delivered {
        let Delivery { job, watch, taking, .. } = self;
        let (dir, stream) = job.incoming(self.chan);
        // Watched before the first look: what comes in between wakes us.
        watch.add(&job.root.join(&dir));
        let _ = rustix::pipe::fcntl_setpipe_size(target, PIPE);
        let open = || match taking.from {
            Some(offset) => Reader::open_at(job.spool(), &dir, job.keys.clone(), stream, offset),
            None => Reader::open(job.spool(), &dir, job.keys.clone(), stream),
        };
        let mut doubt = Doubt::default();
        let mut reader = loop {
            match self.patiently(open) {
                Ok(reader) => break reader,
                Err(error) if self.may_be_mended(&error, &mut doubt) => watch.wait(&[job.over.fd()], MEND_WAIT),
                Err(error) => return broken(0, error),
            }
        };
        let along = taking.role == Role::Along;
        let mut notes = Notes { started: Instant::now(), noted: Duration::ZERO, owed: false, along };
        // Why nobody reads it any more.
        let mut lost: Option<Delivered> = None;
        loop {
            // Asked before the look: what is here when the job is over is all there will be.
            let over = job.over.is_declared();
            match self.patiently(|| reader.advance()) {
                Ok(Item::Data(_)) => {
                    doubt = Doubt::default();
                    if lost.is_none()
                        && let Err(errno) = self.screen.deliver(self.chan, target, reader.data())
                    {
                        if errno != Errno::PIPE && taking.role == Role::Again {
                            return Delivered::Refused(errno);
                        }
                        lost = Some(self.unread(errno));
                    }
                    notes.took(&mut reader);
                }
                Ok(Item::End(end)) => {
                    notes.idle(&mut reader);
                    let whole = end.kind == EndKind::Eof;
                    let short = taking.from.is_some_and(|from| from > end.length);
                    return lost.unwrap_or(match (whole, short) {
                        (_, true) => {
                            let why = "there is no more of it".into();
                            Delivered::Broken { at: end.length, why, again: true }
                        }
                        (true, false) => Delivered::Whole,
                        (false, false) => Delivered::Cut { at: end.length },
                    });
                }
                Ok(Item::Nothing) if over => return lost.unwrap_or(Delivered::Stopped { at: reader.plain() }),
                Ok(Item::Nothing) => {
                    let wait = notes.idle(&mut reader);
                    watch.wait(&[job.over.fd()], wait);
                }
                Ok(Item::Broken) => {
                    let why = "it was interrupted and cannot be continued".into();
                    return lost.unwrap_or(Delivered::Broken { at: reader.plain(), why, again: false });
                }
                Err(error) if self.may_be_mended(&error, &mut doubt) => {
                    watch.wait(&[job.over.fd()], MEND_WAIT);
                    // Where that fails too, the next look does.
                    let _ = reader.reopen();
                }
                Err(error) => return lost.unwrap_or(broken(reader.plain(), error)),
            }
        }
    }

    /// A disk that does not answer is asked again for a while, and a system that is
    /// short of something for as long as it is.
    fn patiently<T>(&self, mut look: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut tries = 1;
        loop {
            match look() {
                Err(error) if error.passes().is_some() => self.job.blocked.note(&error),
                Err(Error::Io { .. }) if tries < TRIES => tries += 1,
                other => return other,
            }
            std::thread::sleep(TRIES_APART);
        }
    }

    /// May the loop pull anew what is damaged?
    fn may_be_mended(&self, error: &Error, doubt: &mut Doubt) -> bool {
        matches!(error, Error::Damaged { .. }) && !doubt.is_settled(self.job)
    }

    /// Our own reader takes no more.
    fn unread(&self, errno: Errno) -> Delivered {
        let unread = if errno == Errno::PIPE { Delivered::Gone } else { Delivered::Refused(errno) };
        self.bell.ring(Event::Unread(self.chan, unread.clone()));
        unread
    }
}

/// An output that our own disk does not give.
fn broken(at: u64, error: Error) -> Delivered {
    Delivered::Broken { at, why: error.to_string(), again: matches!(error, Error::Io { .. }) }
}

/// When the loop is told how far we are: not for every record, and not never.
struct Notes {
    started: Instant,
    noted: Duration,
    owed: bool,
    /// Somebody else is the reader: nothing is noted.
    along: bool,
}

impl Notes {
    fn took(&mut self, reader: &mut Reader) {
        if self.along {
            return;
        }
        // A hint that finds no room on the disk is left later.
        self.owed = true;
        let _ = reader.took(self.started.elapsed(), false);
    }

    /// Nothing is here at the moment; says how long one may wait for more.
    fn idle(&mut self, reader: &mut Reader) -> Duration {
        let now = self.started.elapsed();
        if !self.owed {
            return LOOK_EVERY;
        }
        if now < self.noted + HINTS_APART {
            return self.noted + HINTS_APART - now;
        }
        if reader.took(now, true).is_ok() {
            (self.owed, self.noted) = (false, now);
        }
        LOOK_EVERY
    }
}
