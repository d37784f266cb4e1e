//! Our stdin, sealed into `out/1` as it comes.
//!
//! Reading stops while a window's worth (or the quota that somebody chose) is
//! not yet safe at the peer, or the disk has no room, so a slow peer slows
//! whoever feeds us. Only a real end of file becomes END{eof}: input
//! that cannot be read is END{aborted}, and the peer kills the command rather
//! than let it take that for the end (doc/PROTOCOL.md#streams).

use crate::begin::Job;
use crate::bell::{Bell, Event, LastWord, Over};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use spool::fs::{Error, Fs};
use spool::log::{WINDOW, Writer};
use spool::name::Chan;
use spool::segment::EndKind;
use spool::usage::{Meter, Room};
use spool::wait::Watch;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is read in one go, in bytes.
const CHUNK: usize = 256 << 10;
/// What a pipe may hold, in bytes; the most that an ordinary user may ask for.
pub const PIPE: usize = 1 << 20;
/// How long a lost wake-up, or a full disk, can keep us.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How our input ended.
#[derive(Debug)]
pub enum InputEnd {
    /// Its end of file is in the log, durably.
    Eof,
    /// It could not be read; the log says that it broke off.
    Unreadable(Errno),
    /// The command reads no more of it; whoever writes to us is told by a broken pipe.
    Unread,
    /// The log cannot be written.
    Disk(Error),
}

/// Begins to read stdin, on a thread of its own; with `nothing`, it is at its end at once.
pub fn start(job: &Job, bell: &Bell, nothing: bool) -> io::Result<()> {
    let (job, bell) = (job.clone(), bell.clone());
    let thread = std::thread::Builder::new().name("stdin".into());
    thread.spawn(move || {
        let source = (!nothing).then(rustix::stdio::stdin);
        let died = Error::io("seal", "stdin", io::Error::other("the thread that reads it died"));
        let last = LastWord::new(&bell, Event::Input(InputEnd::Disk(died)));
        let end = carry(&job, source).unwrap_or_else(InputEnd::Disk);
        last.say(Event::Input(end));
    })?;
    Ok(())
}

fn carry(job: &Job, source: Option<BorrowedFd>) -> Result<InputEnd, Error> {
    let (dir, stream) = job.outgoing(Chan::STDIN);
    let writer = patiently(&job.blocked, || Writer::open(job.spool(), &dir, job.keys.clone(), stream))?;
    let meter = Meter::new(Arc::default(), job.keys.recipient.clone(), job.msgid(), Chan::STDIN, job.bounds);
    // A quota that somebody chose is what may wait here while the peer is off.
    let window = if job.bounds.job == 0 { WINDOW } else { u64::MAX };
    let mut input =
        Input { fs: job.spool(), writer, watch: Watch::for_a_while(), meter, window, blocked: &job.blocked };
    let Some(source) = source else {
        return input.end(EndKind::Eof).map(|()| InputEnd::Eof);
    };
    // Only pipes have a size; a smaller one costs time, no more.
    let _ = rustix::pipe::fcntl_setpipe_size(source, PIPE);
    input.watch.add(&job.root.join(&dir));
    let mut buffer = vec![0; CHUNK];
    loop {
        input.wait_for_room(&job.unread)?;
        if job.unread.comes_before(source) {
            leave(source);
            return input.end(EndKind::ReaderGone).map(|()| InputEnd::Unread);
        }
        match rustix::io::read(source, &mut buffer) {
            Ok(0) => return input.end(EndKind::Eof).map(|()| InputEnd::Eof),
            Ok(count) => input.seal(&buffer[..count])?,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return input.end(EndKind::Aborted).map(|()| InputEnd::Unreadable(errno)),
        }
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
        self.writer.forget()?;
        while !self.has_room() && !unread.is_declared() {
            self.watch.wait(&[unread.fd()], LOOK_EVERY);
            self.writer.forget()?;
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

/// Why nothing more is read, for whoever says it: `quota` or `disk_full`.
#[derive(Clone, Default)]
pub struct Blocked(Arc<Mutex<Option<&'static str>>>);

impl Blocked {
    /// The cause, as long as there is one.
    pub fn cause(&self) -> Option<&'static str> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, cause: Option<&'static str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }
}

/// Tries again for as long as the disk is full; what the peer has by then makes room.
fn patiently<T>(blocked: &Blocked, mut act: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match act() {
            Err(error) if error.is_full() => {
                blocked.set(Some("disk_full"));
                std::thread::sleep(LOOK_EVERY);
            }
            other => return other,
        }
    }
}
