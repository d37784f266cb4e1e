//! The guard: a small process between keeper and command, so that the death of
//! either of us is never an end of file (doc/PROTOCOL.md#control).
//!
//! Keeper and guard each hold a write end of the command's stdin, and each sees
//! the other die: the guard by a pidfd of the keeper, the keeper by its socket.
//! Whoever is left kills first and closes after. The guard closes its copy on
//! the keeper's word alone, said after an authenticated END, confirms, and the
//! keeper closes last. It is the command's parent: it dies, the command is
//! killed by the kernel, and what was below it falls to the keeper. It does not
//! reap the command before its own end, so the number of the process group
//! stays taken and a signal to it meets nobody else. It also inherits the lock
//! of `running/<msgid>`, and is handed the one that the keeper takes anew, so no
//! other keeper believes the job dead before the command is.

use crate::{sys, tree};
use nix::sys::signal::{SigSet, Signal as Number};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, setpgid};
use spool::outcome::Outcome;
use std::ffi::CString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What a pipe should hold, in bytes, if the system lets us: fewer wake-ups.
const PIPE: usize = 1 << 20;
/// How long an orphaned guard keeps the job's lock while the command does not die.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program with all that it is started with.
pub struct Command {
    /// Its path.
    pub program: CString,
    /// Its words, its own name first.
    pub argv: Vec<CString>,
    /// `NAME=value`, and nothing else.
    pub env: Vec<CString>,
    /// Where it starts.
    pub dir: CString,
}

/// Our ends of a command's standard streams; they do not block.
pub struct Pipes {
    /// To be written.
    pub stdin: OwnedFd,
    /// To be read.
    pub stdout: OwnedFd,
    /// To be read.
    pub stderr: OwnedFd,
}

/// What the guard says.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// The command is there, as leader of its own group.
    Started(Pid),
    /// It could not be made, for this reason of the system.
    Failed(i32),
    /// The command has ended.
    Ended(Outcome),
    /// The guard's write end of stdin is closed.
    Closed,
    /// The guard is dead.
    Gone,
}

/// The keeper's side of its guard.
pub struct Guard {
    socket: OwnedFd,
    pid: Pid,
    group: Option<Pid>,
    gone: bool,
}

impl Guard {
    /// Starts a guard, and the command below it. This process must have one
    /// thread. An error: nothing was started.
    pub fn start(command: &Command) -> io::Result<(Guard, Pipes)> {
        let keeper = pidfd_open(getpid(), PidfdFlags::empty())?;
        let (stdin_read, stdin) = pipe()?;
        let (stdout, stdout_write) = pipe()?;
        let (stderr, stderr_write) = pipe()?;
        let (socket, socket_guard) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Only our ends: an open file's flags are shared with whoever has a copy, but not across the pipe.
        for end in [&stdin, &stdout, &stderr] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        nix::sys::prctl::set_child_subreaper(true)?;
        match sys::fork()? {
            Some(pid) => Ok((Guard { socket, pid, group: None, gone: false }, Pipes { stdin, stdout, stderr })),
            None => {
                drop((socket, stdout, stderr));
                let ends = Ends { stdin: stdin_read, stdout: stdout_write, stderr: stderr_write };
                let watch = || watch(command, &socket_guard, &keeper, ends, stdin);
                // An unwinding guard must not come back as a second keeper.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(watch));
                sys::exit_now(0)
            }
        }
    }

    /// Waits for the first word: `Started`, or why not.
    pub fn first_word(&mut self) -> Word {
        self.recv(RecvFlags::empty()).unwrap_or(Word::Gone)
    }

    /// The next word, if there is one.
    pub fn hear(&mut self) -> Option<Word> {
        self.recv(RecvFlags::DONTWAIT)
    }

    fn recv(&mut self, flags: RecvFlags) -> Option<Word> {
        if self.gone {
            return None;
        }
        let mut bytes = [0; 5];
        let count = loop {
            match recv(&self.socket, &mut bytes, flags) {
                Ok((_, count)) => break count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return None,
                Err(_) => break 0,
            }
        };
        let number = i32::from_ne_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        let word = match (count, bytes[0]) {
            (5, b's') => Pid::from_raw(number).map_or(Word::Gone, Word::Started),
            (5, b'f') => Word::Failed(number),
            (5, b'x') => Word::Ended(Outcome::Exited(number as u8)),
            (5, b'k') => Word::Ended(Outcome::Signal(number as u8)),
            (5, b'c') => Word::Closed,
            _ => Word::Gone,
        };
        match word {
            Word::Started(group) => self.group = Some(group),
            Word::Gone => self.gone = true,
            Word::Failed(_) | Word::Ended(_) | Word::Closed => {}
        }
        Some(word)
    }

    /// Becomes readable when there is a word.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Tells the guard to close its write end of stdin: the input's END was
    /// authentic, and all before it is written. It answers `Closed`.
    pub fn close_stdin(&self) {
        let _ = send(&self.socket, b"e", SendFlags::NOSIGNAL);
    }

    /// Has the guard hold this lock too: the one that it inherited has lost its name.
    pub fn hold(&self, lock: BorrowedFd) {
        let fds = [lock];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let _ = sendmsg(&self.socket, &[IoSlice::new(b"l")], &mut ancillary, SendFlags::NOSIGNAL);
    }

    /// Tells the guard that the job has ended. Without this it kills when we go.
    pub fn done(&self) {
        let _ = send(&self.socket, b"d", SendFlags::NOSIGNAL);
    }

    /// Is the guard dead? Then a write end of stdin that is still open is ours alone.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Sends a signal to the command's process group.
    pub fn signal(&self, number: u8) {
        let (Some(group), Ok(signal)) = (self.group, Number::try_from(i32::from(number))) else { return };
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group.as_raw_pid()), signal);
    }

    /// Kills the command and all that it left; see [`tree::kill_all`].
    pub fn kill_all(&self, stdin: Option<&OwnedFd>, patience: Duration) -> bool {
        tree::kill_all(self.group, (!self.gone).then_some(self.pid), stdin, patience)
    }
}

/// What stays when a job has ended: somebody may still hold the command's stdin.
#[derive(Default)]
pub struct Left {
    guard: Option<Guard>,
    stdin: Option<OwnedFd>,
}

impl Left {
    /// Keeps a guard and our write end of stdin.
    pub fn of(guard: Guard, stdin: Option<OwnedFd>) -> Left {
        Left { guard: Some(guard), stdin }
    }

    /// Lets the guard go. It stays as long as somebody could take the closing
    /// of stdin for an end of file; if it is dead, we do.
    pub fn leave(self) {
        let Some(mut guard) = self.guard else { return };
        // Heard before it is let go: after that its silence is no death.
        while guard.hear().is_some() {}
        if !guard.is_gone() {
            guard.done();
        } else if let Some(stdin) = self.stdin {
            tree::linger(&stdin);
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let _ = fcntl_setpipe_size(&write, PIPE);
    Ok((read, write))
}

/// The command's ends of its pipes.
struct Ends {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// The guard itself.
fn watch(command: &Command, socket: &OwnedFd, keeper: &OwnedFd, ends: Ends, stdin: OwnedFd) {
    let say = |word: u8, number: i32| {
        let bytes = [&[word], number.to_ne_bytes().as_slice()].concat();
        let _ = send(socket, &bytes, SendFlags::NOSIGNAL);
    };
    for signal in [Number::SIGHUP, Number::SIGINT, Number::SIGQUIT, Number::SIGTERM, Number::SIGPIPE] {
        sys::ignore(signal);
    }
    // Who kills processes by the program's name should not meet both of us at once.
    let _ = nix::sys::prctl::set_name(c"job-guard");
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let mut children = SigSet::empty();
    children.add(Number::SIGCHLD);
    let made = children
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
    let children = match made {
        Ok(children) => children,
        Err(errno) => return say(b'f', errno as i32),
    };
    let us = getpid();
    let group = match sys::fork() {
        Ok(Some(pid)) => pid,
        Ok(None) => become_command(command, us, ends),
        Err(error) => return say(b'f', error.raw_os_error().unwrap_or(0)),
    };
    let _ = setpgid(Some(group), Some(group));
    drop(ends);
    say(b's', group.as_raw_pid());

    let (mut stdin, mut ended) = (Some(stdin), false);
    // In the place of the inherited one, if that has lost its name.
    let mut lock = None;
    loop {
        let mut fds = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(keeper, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        let [spoken, died, child] = fds.map(|fd| !fd.revents().is_empty());
        if child {
            while let Ok(Some(_)) = children.read_signal() {}
            if !ended && let Some((word, number)) = reap(group) {
                ended = true;
                say(word, number);
            }
        }
        let mut word = [0; 1];
        match if spoken { listen(socket, &mut word, &mut lock) } else { Ok(1) } {
            Ok(1) if word == *b"e" => {
                stdin = None;
                say(b'c', 0);
            }
            Ok(1) if word == *b"d" => break,
            Ok(1) if !died => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if !died => {}
            // The keeper is dead. A hang-up is no word: kill first, close after.
            Ok(_) | Err(_) => {
                tree::kill_all(Some(group), None, stdin.as_ref(), PATIENCE);
                break;
            }
        }
    }
    if let Some(stdin) = stdin {
        tree::linger(&sys::close_all_but(stdin));
    }
}

/// Hears a word of the keeper, and takes the lock that may come with it.
fn listen(socket: &OwnedFd, word: &mut [u8; 1], lock: &mut Option<OwnedFd>) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let heard = recvmsg(socket, &mut [IoSliceMut::new(word)], &mut ancillary, flags)?;
    let given = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    *lock = given.or(lock.take());
    Ok(heard.bytes)
}

/// Takes note of the children that ended; how the command did, if it is among
/// them. The command itself stays unreaped.
fn reap(command: Pid) -> Option<(u8, i32)> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let (pid, word, number) = match waitid(Id::All, flags) {
            Ok(WaitStatus::Exited(pid, status)) => (pid, b'x', status),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, b'k', signal as i32),
            Ok(_) | Err(_) => return None,
        };
        if pid.as_raw() == command.as_raw_pid() {
            return Some((word, number));
        }
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// Turns this process into the command.
fn become_command(command: &Command, guard: Pid, ends: Ends) -> ! {
    let complain = |what: &str, error: io::Error| {
        let line = format!("netplumb: {what}: {error}\n");
        let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
    };
    let _ = setpgid(None, None);
    let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The guard may have died before that.
    if tied.is_err() || getppid() != Some(guard) {
        sys::exit_now(126);
    }
    sys::default_signals();
    let joined = rustix::stdio::dup2_stdin(&ends.stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(&ends.stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(&ends.stderr));
    if joined.is_err() {
        sys::exit_now(126);
    }
    if let Err(errno) = rustix::process::chdir(&*command.dir) {
        complain(&format!("cannot enter {}", command.dir.to_string_lossy()), errno.into());
        let _ = rustix::process::chdir("/");
    }
    let Err(errno) = nix::unistd::execve(&command.program, &command.argv, &command.env);
    complain(&format!("cannot run {}", command.program.to_string_lossy()), errno.into());
    sys::exit_now(if errno == nix::errno::Errno::ENOENT { 127 } else { 126 })
}
