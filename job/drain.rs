//! The way of the command's output into its log.
//!
//! Reads no more than the window lets through, so a slow consumer slows the
//! command and costs no memory. A full disk costs time only: what was read
//! waits here, and nothing more is read.

use rustix::io::Errno;
use spool::fs::{Error, Fs};
use spool::log::Writer;
use spool::segment::{EndKind, OVERHEAD, RECORD};
use spool::usage::{Meter, Room};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes read in one go.
const CHUNK: usize = 256 << 10;
/// How often a full disk is tried again.
pub const FULL_WAIT: Duration = Duration::from_secs(1);
/// How often a quota that is used up is looked at again: nobody tells when it is not.
const QUOTA_WAIT: Duration = Duration::from_millis(50);
/// How much is appended between two looks at what the consumer has.
const LOOK_EVERY: u64 = 1 << 20;
/// A stream is left to fill the pipe for so long before we look again: one read
/// of many pieces costs as much as one of one.
const REST: Duration = Duration::from_millis(1);
/// So many reads with less than `REST` between them are a stream.
const STREAK: u32 = 8;

/// What an output waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// There may be more at once.
    More,
    /// The command writes nothing.
    Idle,
    /// The command writes a stream, which is left to gather until this moment, or its end.
    Gathering(Instant),
    /// The consumer does not take what is there.
    Window,
    /// The disk is full, or the quota used up, until at least this moment.
    Disk(Instant),
    /// The log has its END.
    Over,
}

/// Drains one output of a command.
pub struct Drain {
    pipe: Option<OwnedFd>,
    buffer: Vec<u8>,
    /// What of the buffer is not yet in the log.
    from: usize,
    to: usize,
    /// How the log is to end, as soon as everything is in it.
    ending: Option<EndKind>,
    full_until: Option<Instant>,
    /// How much the log may hold that its consumer does not.
    window: u64,
    /// Nobody takes anything from the log before the command has ended.
    held: bool,
    fs: Arc<dyn Fs>,
    meter: Meter,
    looked_at: u64,
    read_at: Instant,
    streak: u32,
    /// The state after the last step.
    pub state: Drained,
}

impl Drain {
    /// Drains a pipe that does not block, as far as this window goes, into a log
    /// that this meter is for. `held`: the log is held back, so that nobody takes from it.
    pub fn new(pipe: OwnedFd, window: u64, held: bool, fs: Arc<dyn Fs>, meter: Meter) -> Drain {
        Drain {
            pipe: Some(pipe),
            buffer: vec![0; CHUNK],
            from: 0,
            to: 0,
            ending: None,
            full_until: None,
            window,
            held,
            fs,
            meter,
            looked_at: 0,
            read_at: Instant::now(),
            streak: 0,
            state: Drained::More,
        }
    }

    /// The command was given all that there is: what it writes next is an
    /// answer, which somebody waits for, and not more of a stream.
    pub fn asked(&mut self) {
        self.streak = 0;
        if matches!(self.state, Drained::Gathering(_)) {
            self.state = Drained::Idle;
        }
    }

    /// Our read end, while it is open.
    pub fn pipe(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref()
    }

    /// Is the log's END the next thing that is written?
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Nobody wants this output any more: the command is to feel it.
    pub fn reader_gone(&mut self) {
        if self.pipe.take().is_some() {
            (self.from, self.to) = (0, 0);
            self.ending = Some(EndKind::ReaderGone);
        }
    }

    /// Takes a piece over into the log.
    pub fn step(&mut self, log: &mut Writer) -> Result<(), Error> {
        self.state = self.try_step(log)?;
        Ok(())
    }

    fn try_step(&mut self, log: &mut Writer) -> Result<Drained, Error> {
        if let Some(until) = self.full_until.filter(|until| Instant::now() < *until) {
            return Ok(Drained::Disk(until));
        }
        self.full_until = None;
        if self.from == self.to
            && let Some(pipe) = &self.pipe
        {
            let held = log.held();
            if held >= self.window / 2 && (log.offset() >= self.looked_at + LOOK_EVERY || self.state == Drained::Window)
            {
                log.forget()?;
                self.looked_at = log.offset();
            }
            // What does not fit into the window whole is not read: small reads would make it no better.
            if log.held() + (RECORD + OVERHEAD) as u64 > self.window {
                log.forget()?;
            }
            let room = self.window.saturating_sub(log.held()) as usize / (RECORD + OVERHEAD) * RECORD;
            if room == 0 {
                return Ok(Drained::Window);
            }
            match self.meter.room(&*self.fs, log.offset(), log.held()) {
                Room::Bytes(_) => {}
                // What is held back waits for its own command: nothing will free it.
                Room::Quota if self.held && self.meter.is_spent(&*self.fs) => return Ok(Drained::Window),
                room => {
                    log.forget()?;
                    let wait = if room == Room::Disk { FULL_WAIT } else { QUOTA_WAIT };
                    return Ok(Drained::Disk(Instant::now() + wait));
                }
            }
            match rustix::io::read(pipe, &mut self.buffer[..room.min(CHUNK)]) {
                Ok(0) => {
                    self.pipe = None;
                    self.ending = Some(EndKind::Eof);
                    return Ok(Drained::More);
                }
                Ok(count) => {
                    (self.from, self.to) = (0, count);
                    self.streak = self.streak.saturating_add(1);
                    self.read_at = Instant::now();
                }
                Err(Errno::AGAIN) => return Ok(self.wait_for_more()),
                Err(Errno::INTR) => return Ok(Drained::More),
                Err(errno) => return Err(Error::io("read", "a pipe of the command", errno)),
            }
        }
        let appended = if self.from < self.to {
            log.append(&self.buffer[self.from..self.to]).map(|count| self.from += count)
        } else if let Some(kind) = self.ending {
            log.append_end(kind)
        } else {
            return Ok(Drained::Over);
        };
        match appended {
            Ok(()) if log.ended().is_some() => {
                self.ending = None;
                Ok(Drained::Over)
            }
            // A short read: what comes next is only just being written.
            Ok(()) if self.pipe.is_some() && self.from == self.to && self.to < RECORD => Ok(self.wait_for_more()),
            Ok(()) => Ok(Drained::More),
            Err(error) if error.passes().is_some() => {
                let until = Instant::now() + FULL_WAIT;
                self.full_until = Some(until);
                Ok(Drained::Disk(until))
            }
            Err(error) => Err(error),
        }
    }

    /// The pipe is empty, or nearly so: what to wait for.
    fn wait_for_more(&mut self) -> Drained {
        let until = self.read_at + REST;
        if Instant::now() >= until {
            self.streak = 0;
        }
        if self.streak < STREAK { Drained::Idle } else { Drained::Gathering(until) }
    }

    /// The command was killed: takes over what still lies in the pipe, as far as
    /// the disk has room, whatever the window says.
    pub fn take_rest(&mut self, log: &mut Writer) {
        loop {
            if self.from == self.to {
                let Some(pipe) = &self.pipe else { return };
                match rustix::io::read(pipe, &mut self.buffer) {
                    Ok(count) if count > 0 => (self.from, self.to) = (0, count),
                    Ok(_) | Err(_) => return self.pipe = None,
                }
            }
            match log.append(&self.buffer[self.from..self.to]) {
                Ok(count) => self.from += count,
                Err(_) => return self.pipe = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::atomic::Disk;
    use spool::crypto::Key;
    use spool::name::{Chan, MsgId, Role, Username};
    use spool::segment::{JobKeys, Stream};

    /// A command that was asked and answered again and again was taken for one
    /// that writes a stream: each answer lay in the pipe for a millisecond.
    #[test]
    fn an_answer_is_no_stream() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::open(directory.path()).unwrap());
        let sender = Username::of_ca(b"sender");
        let keys =
            JobKeys { secret: Key([1; 32]), sender: sender.clone(), recipient: sender.clone(), msgid: MsgId([1; 20]) };
        spool::layout::make_dirs(&*disk, "out").unwrap();
        let mut log =
            Writer::open(disk.clone(), "out", keys, Stream { chan: Chan::STDOUT, producer: Role::Recipient }).unwrap();
        let (pipe, command) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        let meter = Meter::new(Arc::default(), sender, MsgId([1; 20]), Chan::STDOUT, Default::default());
        let mut drain = Drain::new(pipe, spool::log::WINDOW, false, disk, meter);
        let mut written = |drain: &mut Drain| {
            rustix::io::write(&command, b"x").unwrap();
            drain.step(&mut log).unwrap();
            drain.state
        };
        for _ in 0..10 * STREAK {
            drain.asked();
            assert_eq!(written(&mut drain), Drained::Idle);
        }
        // A machine that is busy elsewhere can take a stream for a few pieces.
        let gathers = (0..1000).any(|_| matches!(written(&mut drain), Drained::Gathering(_)));
        assert!(gathers, "what was not asked for is a stream");
        drain.asked();
        assert_eq!(drain.state, Drained::Idle, "it is listened to again at once");
    }
}
