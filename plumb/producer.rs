//! `-from`: the command of this machine that makes the remote command's input.
//!
//! It is the leader of a process group of its own. It dies with us, whatever
//! kills us, and is ended when nobody wants its output any more. Its status is
//! left uncollected: so its number stays its own for as long as we live.
#![allow(unsafe_code)]

use crate::bell::Over;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use rustix::process::{getpid, getppid, kill_process_group, pidfd_open, set_parent_process_death_signal, waitid};
use spool::wait::poll_readable;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long it has to end by itself, once it is told to.
const TERM_WAIT: Duration = Duration::from_secs(2);

/// The producer while it runs, and after.
pub struct Producer {
    group: Pid,
    process: OwnedFd,
    pipe: OwnedFd,
}

/// What it comes to next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// There is something to read, or the end.
    Read,
    /// It failed: in these words.
    Failed(String),
    /// Nobody wants more of it.
    Unwanted,
}

impl Producer {
    /// Starts a shell with this command. It reads our stdin, unless that is a
    /// terminal, which answers the foreground only.
    pub fn start(command: &str) -> io::Result<Producer> {
        let (pipe, end) = io::pipe()?;
        let stdin = rustix::stdio::stdin();
        let terminal = rustix::termios::isatty(stdin);
        let us = getpid();
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).process_group(0).stdout(end);
        shell.stdin(if terminal { Stdio::null() } else { Stdio::inherit() });
        // SAFETY: between fork and exec only two system calls are made, and no memory is allocated.
        unsafe {
            shell.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // We may have died before that.
                if getppid() == Some(us) { Ok(()) } else { Err(Errno::SRCH.into()) }
            });
        }
        let child = shell.spawn()?;
        let group = Pid::from_child(&child);
        Ok(Producer { group, process: pidfd_open(group, PidfdFlags::empty())?, pipe: pipe.into() })
    }

    /// What it writes.
    pub fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Waits until there is something to read.
    pub fn wait(&self, unwanted: &Over) -> Next {
        loop {
            match self.status() {
                _ if unwanted.is_declared() => return Next::Unwanted,
                Some(Some(failure)) => return Next::Failed(failure),
                // What it started may still write.
                Some(None) if unwanted.comes_before(self.pipe()) => return Next::Unwanted,
                Some(None) => return Next::Read,
                None => {}
            }
            let [unwanted, pipe] = [unwanted.fd(), self.pipe()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let mut fds = [unwanted, PollFd::new(&self.process, PollFlags::IN), pipe];
            if poll(&mut fds, None).is_ok() && fds[..2].iter().all(|fd| fd.revents().is_empty()) {
                return Next::Read;
            }
        }
    }

    /// It has written everything: waits until it has ended.
    pub fn finish(&self, unwanted: &Over) -> Next {
        loop {
            match self.status() {
                _ if unwanted.is_declared() => return Next::Unwanted,
                Some(Some(failure)) => return Next::Failed(failure),
                Some(None) => return Next::Read,
                None => poll_readable(&[unwanted.fd(), self.process.as_fd()], TERM_WAIT),
            }
        }
    }

    /// How it ended, if it has: `None` within, if it did well.
    #[allow(clippy::option_option)]
    fn status(&self) -> Option<Option<String>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Some(failure(&waitid(WaitId::PidFd(self.process.as_fd()), options).ok()??))
    }

    /// Ends it, and what it started in its group; returns when it is gone.
    pub fn end(&self) {
        let _ = kill_process_group(self.group, Signal::TERM);
        // A stopped one hears it only when it goes on.
        let _ = kill_process_group(self.group, Signal::CONT);
        if self.status().is_none() {
            poll_readable(&[self.process.as_fd()], TERM_WAIT);
        }
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}

fn failure(status: &WaitIdStatus) -> Option<String> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => None,
        (Some(status), _) => Some(format!("exited {status}")),
        (None, Some(signal)) => Some(format!("was killed by signal {signal}")),
        (None, None) => Some("ended in an unknown way".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(command: &str) -> (Vec<u8>, Next) {
        let (producer, unwanted) = (Producer::start(command).unwrap(), Over::new().unwrap());
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match producer.wait(&unwanted) {
                Next::Read => match rustix::io::read(producer.pipe(), &mut buffer).unwrap() {
                    0 => return (bytes, producer.finish(&unwanted)),
                    count => bytes.extend_from_slice(&buffer[..count]),
                },
                other => return (bytes, other),
            }
        }
    }

    #[test]
    fn only_status_0_is_an_end_of_file() {
        assert_eq!(end_of("printf abc"), (b"abc".to_vec(), Next::Read));
        assert_eq!(end_of("printf abc; exec >&-; sleep 0.05"), (b"abc".to_vec(), Next::Read));
        assert_eq!(end_of("exit 3").1, Next::Failed("exited 3".into()));
        assert_eq!(end_of("exec >&-; sleep 0.05; exit 3").1, Next::Failed("exited 3".into()));
        assert_eq!(end_of("kill -9 $$").1, Next::Failed("was killed by signal 9".into()));
        // What it left behind holds the pipe open, and does not hold us up.
        assert_eq!(end_of("sleep 60 & exit 4").1, Next::Failed("exited 4".into()));
        assert_eq!(end_of("(sleep 0.05; printf late) & exit 0"), (b"late".to_vec(), Next::Read));
    }

    #[test]
    fn one_that_nobody_wants_is_ended_although_it_does_not_want_to() {
        let (producer, unwanted) =
            (Producer::start("trap '' TERM; while :; do echo x; done").unwrap(), Over::new().unwrap());
        assert_eq!(producer.wait(&unwanted), Next::Read);
        unwanted.declare();
        assert_eq!(producer.wait(&unwanted), Next::Unwanted);
        assert_eq!(producer.finish(&unwanted), Next::Unwanted);
        producer.end();
        poll_readable(&[producer.process.as_fd()], Duration::from_secs(10));
        assert_eq!(producer.status(), Some(Some("was killed by signal 9".into())));
    }
}
