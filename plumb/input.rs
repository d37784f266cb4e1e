//! Our stdin, sealed into `out/1` as it comes.
//!
//! Reading stops while a window's worth (or the quota that somebody chose) is
//! not yet safe at the peer, or the disk has no room, so a slow peer slows
//! whoever feeds us. Only a real end of file becomes END{eof}: input
//! that cannot be read, or whose producer failed, is END{aborted}, and the peer
//! kills the command rather than let it take that for the end
//! (doc/PROTOCOL.md#streams).

use crate::begin::Job;
use crate::bell::{Bell, Event, LastWord, Over};
use crate::blocked::Blocked;
use crate::producer::{Next, Producer};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use spool::fs::{Error, Fs};
use spool::log::{Tail, WINDOW, Writer};
use spool::name::Chan;
use spool::segment::{EndKind, RECORD};
use spool::usage::{Meter, Room};
use spool::wait::Watch;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is read in one go, in bytes.
const CHUNK: usize = 256 << 10;
/// What a pipe may hold, in bytes; the most that an ordinary user may ask for.
pub const PIPE: usize = 1 << 20;
/// How long a lost wake-up, or a full disk, can keep us.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Small pieces of a stream that is compressed are left to gather for so long:
/// each piece by itself compresses badly.
const REST: Duration = Duration::from_millis(1);
/// So many reads of at least this size, each within `REST` of the one before, are a stream.
const STREAK: u32 = 8;
const STREAM_MIN: usize = 4 << 10;

/// How our input ended.
#[derive(Debug)]
pub enum InputEnd {
    /// Its end of file is in the log, durably: here.
    Eof(Tail),
    /// Its producer failed, which has been told; the log says that it broke off.
    Failed,
    /// It could not be read; the log says that it broke off.
    Unreadable(Errno),
    /// The command reads no more of it; whoever writes to us is told by a broken pipe.
    Unread,
    /// The log cannot be written.
    Disk(Error),
}

/// Begins to read our input, on a thread of its own; with `nothing`, it is at its end at once.
pub fn start(job: &Job, bell: &Bell, nothing: bool) -> io::Result<()> {
    let (job, bell) = (job.clone(), bell.clone());
    let thread = std::thread::Builder::new().name("stdin".into());
    thread.spawn(move || {
        let source = match &job.producer {
            Some(producer) => Source::Producer(producer.clone()),
            None if nothing => Source::Nothing,
            None => Source::Stdin,
        };
        let died = Error::io("seal", "stdin", io::Error::other("the thread that reads it died"));
        let last = LastWord::new(&bell, Event::Input(InputEnd::Disk(died)));
        let end = carry(&job, &bell, &source).unwrap_or_else(InputEnd::Disk);
        last.say(Event::Input(end));
    })?;
    Ok(())
}

fn carry(job: &Job, bell: &Bell, source: &Source) -> Result<InputEnd, Error> {
    let (dir, stream) = job.outgoing(Chan::STDIN);
    let writer = patiently(&job.blocked, || Writer::open(job.spool(), &dir, job.keys.clone(), stream))?;
    let writer = writer.zipped(job.compress);
    let meter = Meter::new(Arc::default(), job.keys.recipient.clone(), job.msgid(), Chan::STDIN, job.bounds);
    // A quota that somebody chose is what may wait here while the peer is off.
    let window = if job.bounds.job == 0 { WINDOW } else { u64::MAX };
    let (fs, watch, blocked) = (job.spool(), Watch::for_a_while(), &job.blocked);
    let mut input = Input { fs, writer, watch, meter, window, blocked };
    let Some(pipe) = source.pipe() else {
        return input.end(EndKind::Eof).map(|()| InputEnd::Eof(input.writer.tail()));
    };
    // Only pipes have a size; a smaller one costs time, no more.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
    input.watch.add(&job.root.join(&dir));
    let mut buffer = vec![0; CHUNK];
    let mut pace = Pace { streak: 0, read_at: Instant::now() };
    loop {
        input.wait_for_room(&job.unread)?;
        let next = match source.wait(&job.unread) {
            Next::Read => match rustix::io::read(pipe, &mut buffer) {
                Ok(0) if source.has_hung_up() => {
                    return input.end(EndKind::Aborted).map(|()| InputEnd::Unreadable(Errno::IO));
                }
                Ok(0) => match source.finish(&job.unread) {
                    Next::Read => return input.end(EndKind::Eof).map(|()| InputEnd::Eof(input.writer.tail())),
                    next => next,
                },
                Ok(count) => {
                    input.seal(&buffer[..count])?;
                    if job.compress {
                        pace.read(count);
                    }
                    continue;
                }
                Err(Errno::INTR | Errno::AGAIN) => continue,
                Err(errno) => return input.end(EndKind::Aborted).map(|()| InputEnd::Unreadable(errno)),
            },
            next => next,
        };
        if let Next::Failed(how) = next {
            // Told first: the peer may be faster with what comes of it.
            bell.ring(Event::Failed(format!("the producer {how} after {} bytes", input.writer.plain())));
            return input.end(EndKind::Aborted).map(|()| InputEnd::Failed);
        }
        source.leave();
        return input.end(EndKind::ReaderGone).map(|()| InputEnd::Unread);
    }
}

/// Where our input comes from.
enum Source {
    /// It is at its end at once.
    Nothing,
    /// Our stdin.
    Stdin,
    /// A command of this machine.
    Producer(Arc<Producer>),
}

impl Source {
    fn pipe(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Source::Nothing => None,
            Source::Stdin => Some(rustix::stdio::stdin()),
            Source::Producer(producer) => Some(producer.pipe()),
        }
    }

    /// Waits until there is something to read.
    fn wait(&self, unread: &Over) -> Next {
        match self {
            Source::Producer(producer) => producer.wait(unread),
            Source::Stdin if unread.comes_before(rustix::stdio::stdin()) => Next::Unwanted,
            Source::Stdin | Source::Nothing => Next::Read,
        }
    }

    /// The pipe is at its end: is that the end of the input?
    fn finish(&self, unread: &Over) -> Next {
        match self {
            Source::Producer(producer) => producer.finish(unread),
            Source::Stdin | Source::Nothing => Next::Read,
        }
    }

    /// A terminal that is gone reads as one at whose end somebody typed ^D.
    fn has_hung_up(&self) -> bool {
        let gone = || rustix::termios::tcgetattr(rustix::stdio::stdin()).err();
        matches!(self, Source::Stdin) && gone() == Some(Errno::IO)
    }

    /// Nobody reads it any more: whoever makes it is to feel that.
    fn leave(&self) {
        match self {
            Source::Producer(producer) => producer.end(),
            Source::Stdin => leave(rustix::stdio::stdin()),
            Source::Nothing => {}
        }
    }
}

/// How fast our input comes.
struct Pace {
    streak: u32,
    read_at: Instant,
}

impl Pace {
    /// So much was read; in a stream, waits until more is there.
    fn read(&mut self, count: usize) {
        let streams = count >= STREAM_MIN && self.read_at.elapsed() < REST;
        self.streak = if streams { self.streak.saturating_add(1) } else { 0 };
        if self.streak >= STREAK && count < RECORD {
            std::thread::sleep(REST.saturating_sub(self.read_at.elapsed()));
        }
        self.read_at = Instant::now();
    }
}

/// Lets go of our end of the pipe: the descriptor stays taken, by nothing.
fn leave(stdin: BorrowedFd) {
    debug_assert_eq!(stdin.as_raw_fd(), 0);
    let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let _ = nothing.and_then(rustix::stdio::dup2_stdin);
}

struct Input<'a> {
    fs: Arc<dyn Fs>,
    writer: Writer,
    watch: Watch,
    meter: Meter,
    /// What is held here at most beyond what the peer has.
    window: u64,
    blocked: &'a Blocked,
}

impl Input<'_> {
    fn has_room(&mut self) -> bool {
        let held = self.writer.held();
        let room =
            if held < self.window { self.meter.room(&*self.fs, self.writer.offset(), held) } else { Room::Bytes(0) };
        self.blocked.set(room.cause());
        room.bytes() > 0
    }

    /// Waits until there is room here for more.
    fn wait_for_room(&mut self, unread: &Over) -> Result<(), Error> {
        if self.has_room() {
            return Ok(());
        }
        patiently(self.blocked, || self.writer.forget())?;
        while !self.has_room() && !unread.is_declared() {
            self.watch.wait(&[unread.fd()], LOOK_EVERY);
            patiently(self.blocked, || self.writer.forget())?;
        }
        Ok(())
    }

    fn seal(&mut self, mut plain: &[u8]) -> Result<(), Error> {
        while !plain.is_empty() {
            let taken =
                patiently(self.blocked, || self.writer.append(plain).inspect_err(|_| drop(self.writer.forget())))?;
            plain = &plain[taken..];
        }
        Ok(())
    }

    fn end(&mut self, kind: EndKind) -> Result<(), Error> {
        patiently(self.blocked, || self.writer.end(kind).inspect_err(|_| drop(self.writer.forget())))
    }
}

/// Tries again for as long as the disk is full, which what the peer has by then
/// may end, or the system is short of something.
fn patiently<T>(blocked: &Blocked, mut act: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        let done = act();
        let Some(cause) = done.as_ref().err().and_then(Error::passes) else { return done };
        blocked.set(Some(cause));
        std::thread::sleep(LOOK_EVERY);
    }
}
