//! Signs of life: whether daemon, service and loop do what they are there for.
//!
//! Service and loop write the line [`ALIVE`] to the daemon every few seconds, from
//! where their work is done, so a child that is stopped or hangs is silent. The
//! daemon answers whoever connects to [`SOCKET`] with one line of JSON, [`Life`],
//! from its own main loop, so a daemon that hangs is silent. No sign of life
//! touches the disk (doc/SPOOL.md#signs-of-life). `daemon/child.rs` decides
//! which child is replaced, and when; a person is told of [`Trouble`].

use crate::atomic::Disk;
use crate::fs::{Error, Fs, Result};
use crate::wait::poll_readable;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The line by which a child says that it lives.
pub const ALIVE: &str = "alive";
/// A child says so this often.
pub const BEAT: Duration = Duration::from_secs(3);
/// A child that has not been heard for so many seconds does not answer: it missed
/// three beats. The daemon replaces it later, see `SILENCE` in `daemon/child.rs`.
const QUIET_SECONDS: u64 = 10;
/// A child whose threads do not finish the smallest piece of work for so long says no
/// more that it lives. The schedule gives up a step after the same time.
const STALLED: Duration = Duration::from_secs(120);
/// The name of the daemon's socket in the spool.
pub const SOCKET: &str = "daemon.socket";
/// The number of callers that may wait to be let in; a daemon that hangs lets none of them in.
const BACKLOG: i32 = 64;
/// The longest answer in bytes.
const ANSWER_MAX: usize = 4096;
/// How often a question that waits looks whether the daemon is stopped, and knocks again where nobody was.
const LOOKS_APART: Duration = Duration::from_millis(50);

/// A child's own look at its work: it lives as long as its threads finish what they are given.
pub struct Pulse {
    sent: Instant,
    back: Arc<AtomicBool>,
}

/// Tells a [`Pulse`] that its piece of work was done.
pub struct Back(Arc<AtomicBool>);

impl Back {
    /// The piece of work is done.
    pub fn done(self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Pulse {
    /// A pulse that begins at `now`.
    pub fn new(now: Instant) -> Pulse {
        Pulse { sent: now, back: Arc::new(AtomicBool::new(true)) }
    }

    /// Says whether the child may say at `now` that it lives. `send` gives its threads a
    /// piece of work that does nothing but call [`Back::done`]; one is under way at a time.
    pub fn beats(&mut self, now: Instant, send: impl FnOnce(Back)) -> bool {
        if self.back.swap(false, Ordering::Relaxed) {
            self.sent = now;
            send(Back(self.back.clone()));
        }
        now.saturating_duration_since(self.sent) < STALLED
    }
}

/// The daemon's word on itself and its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The daemon's process.
    pub pid: u32,
    /// The service.
    pub service: Child,
    /// The loop.
    pub r#loop: Child,
}

/// The daemon's knowledge of one of its children.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// For how long it has given no sign of life, in seconds for which the daemon was awake.
    pub silent_seconds: u64,
    /// How often another one was started in its place.
    pub restarts: u64,
}

impl Life {
    /// The children by their names.
    pub fn children(&self) -> [(&'static str, &Child); 2] {
        [("service", &self.service), ("loop", &self.r#loop)]
    }

    /// Names the children that do not live as they should.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.children().into_iter().filter_map(|(who, child)| child.trouble(who)).collect()
    }

    /// Answers a question; whoever does not read the answer at once misses it.
    pub fn tell(&self, caller: &OwnedFd) {
        let line = serde_json::to_string(self).expect("numbers") + "\n";
        let _ = rustix::net::send(caller, line.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

impl Child {
    /// How this child, of this name, does not live as it should.
    pub fn trouble(&self, who: &'static str) -> Option<Trouble> {
        let is_fine = |pid| self.silent_seconds < QUIET_SECONDS && State::of(pid) != State::Stopped;
        match self.pid {
            Some(pid) if is_fine(pid) => None,
            Some(pid) => Some(Trouble::Silent { who, pid: Some(pid), state: State::of(pid) }),
            None => Some(Trouble::Gone { who, restarts: self.restarts }),
        }
    }
}

/// Somebody who does not live as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The daemon's lock is free.
    NoDaemon,
    /// A process that is there does not answer.
    Silent {
        /// `daemon`, `service` or `loop`.
        who: &'static str,
        /// The process, if it is known.
        pid: Option<u32>,
        /// The state of that process.
        state: State,
    },
    /// A child is not there at the moment.
    Gone {
        /// `service` or `loop`.
        who: &'static str,
        /// How often another one was started in its place.
        restarts: u64,
    },
}

impl Trouble {
    /// Will nothing move before somebody does something? The daemon replaces its children by itself.
    pub fn is_lasting(&self) -> bool {
        matches!(self, Trouble::NoDaemon | Trouble::Silent { who: "daemon", .. })
    }

    /// Is it a process that is stopped? No patience helps then.
    pub fn is_stopped(&self) -> bool {
        matches!(self, Trouble::Silent { state: State::Stopped, .. })
    }

    /// Says what is wrong, without saying with whom.
    pub fn what(&self) -> String {
        match self {
            Trouble::NoDaemon => "does not run".into(),
            Trouble::Silent { pid: None, .. } => "does not answer".into(),
            Trouble::Silent { pid: Some(pid), state, .. } => format!("does not answer (pid {pid}{state})"),
            Trouble::Gone { restarts: 0, .. } => "does not run at the moment".into(),
            Trouble::Gone { restarts, .. } => format!("does not run at the moment (started again {restarts} times)"),
        }
    }

    /// Says what would help.
    pub fn hint(&self) -> String {
        match self {
            Trouble::NoDaemon => "netplumb daemon".into(),
            Trouble::Silent { who: "daemon", pid: Some(pid), state: State::Stopped } => {
                format!("kill -CONT {pid} lets it go on")
            }
            Trouble::Silent { who: "daemon", pid, .. } => {
                let kill = pid.map_or("end it".into(), |pid| format!("kill -9 {pid}"));
                format!("if that lasts, {kill} and start it again; commands that run go on")
            }
            Trouble::Silent { .. } => "the daemon replaces it within half a minute".into(),
            Trouble::Gone { .. } => "the daemon starts it again, and its log says how it ended".into(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Trouble::NoDaemon => f.write_str("no daemon runs here"),
            Trouble::Silent { who, .. } | Trouble::Gone { who, .. } => write!(f, "the {who} here {}", self.what()),
        }
    }
}

/// The state of a process, as far as it explains its silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Stopped by a signal or a debugger.
    Stopped,
    /// Waiting in the kernel, for a disk as a rule: no signal reaches it.
    Disk,
    /// Dead.
    Dead,
    /// Anything else.
    Other,
}

impl State {
    /// The state of the process of this number at this moment.
    pub fn of(pid: u32) -> State {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => State::parse(&stat),
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::Dead,
            Err(_) => State::Other,
        }
    }

    /// Reads a line of `/proc/PID/stat`: the letter behind the name, which may hold anything.
    fn parse(stat: &str) -> State {
        match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
            Some('T' | 't') => State::Stopped,
            Some('D') => State::Disk,
            Some('Z' | 'X') => State::Dead,
            Some(_) | None => State::Other,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            State::Stopped => " is stopped",
            State::Disk => " waits for the disk",
            State::Dead => " is dead",
            State::Other => "",
        })
    }
}

/// The socket at which the daemon is asked. Dropped, nobody waits at it any more.
pub struct Door(OwnedFd);

impl Door {
    /// Binds it, in the place of a dead predecessor's and of whatever else has its name.
    pub fn open(disk: &Disk) -> Result<Door> {
        let trouble = |errno| Error::io("listen at", SOCKET, errno);
        let socket = socket(SocketFlags::CLOEXEC).map_err(trouble)?;
        disk.remove(SOCKET)?;
        disk.bind_socket(SOCKET, &socket)?;
        rustix::net::listen(&socket, BACKLOG).map_err(trouble)?;
        Ok(Door(socket))
    }

    /// Waits for the next one who asks; an error of the kind `InvalidInput` once it is closed.
    pub fn accept(&self) -> io::Result<OwnedFd> {
        Ok(rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC)?)
    }

    /// Lets nobody in any more, and ends a wait in `accept`.
    pub fn close(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}

fn socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// A question to the daemon that is under way. Only [`ask`] waits for the answer.
pub struct Question {
    asked: Instant,
    way: Option<OwnedFd>,
    pid: Option<u32>,
    heard: Vec<u8>,
}

impl Question {
    /// A question that is asked from `now` on.
    pub fn new(now: Instant) -> Question {
        Question { asked: now, way: None, pid: None, heard: Vec::new() }
    }

    /// The answer, if it is here by now. A daemon that has only just begun is asked anew by this.
    pub fn answer(&mut self, disk: &Disk) -> Option<Life> {
        if self.way.is_none() {
            self.knock(disk);
        }
        let mut buffer = [0; ANSWER_MAX];
        match rustix::net::recv(self.way.as_ref()?, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((count, _)) if count > 0 && self.heard.len() < ANSWER_MAX => {
                self.heard.extend_from_slice(&buffer[..count]);
            }
            Ok(_) => (self.way, self.heard) = (None, Vec::new()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.way = None,
        }
        let line = self.heard.split_inclusive(|byte| *byte == b'\n').next()?;
        serde_json::from_slice(line).ok()
    }

    fn knock(&mut self, disk: &Disk) {
        // A caller for whom there is no room at the door is turned away at once.
        let Ok(way) = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            // We are short of something ourselves: nobody was asked yet.
            self.asked = Instant::now();
            return;
        };
        let Ok(address) = disk.socket_address(SOCKET) else { return };
        if rustix::net::connect(&way, &address).is_ok() {
            let creds = rustix::net::sockopt::socket_peercred(&way);
            self.pid = creds.ok().and_then(|creds| u32::try_from(creds.pid.as_raw_nonzero().get()).ok());
            self.way = Some(way);
        }
    }

    /// Says for how long there has been no answer.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.asked)
    }

    /// Gives the words for the time without an answer.
    pub fn trouble(&self) -> Trouble {
        let state = self.pid.map_or(State::Other, State::of);
        Trouble::Silent { who: "daemon", pid: self.pid, state }
    }
}

/// Asks the daemon, and waits for its answer for at most `patience`; not for one that is stopped.
pub fn ask(disk: &Disk, patience: Duration) -> std::result::Result<Life, Trouble> {
    let mut question = Question::new(Instant::now());
    loop {
        if let Some(life) = question.answer(disk) {
            return Ok(life);
        }
        let (trouble, age) = (question.trouble(), question.age(Instant::now()));
        let left = patience.saturating_sub(age);
        if left.is_zero() || (trouble.is_stopped() && age > LOOKS_APART) {
            return Err(trouble);
        }
        match &question.way {
            Some(way) => poll_readable(&[way.as_fd()], left.min(LOOKS_APART)),
            None => std::thread::sleep(left.min(LOOKS_APART)),
        }
    }
}

#[cfg(test)]
#[path = "alive_test.rs"]
mod tests;
