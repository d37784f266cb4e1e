//! What the other threads have for the one that waits: an event, and a
//! descriptor that becomes readable with it, beside the watched directories.

use crate::input::InputEnd;
use crate::output::Delivered;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use spool::name::Chan;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// What happened elsewhere in the process.
#[derive(Debug)]
pub enum Event {
    /// We got a signal, at this moment: it may be looked at much later.
    Signal(i32, Instant),
    /// Our input will give no more.
    Input(InputEnd),
    /// Whoever makes our input failed: in these words. The input's end follows.
    Failed(String),
    /// Nobody reads this channel any more, for this reason.
    Unread(Chan, Delivered),
    /// All of this channel that will ever come has been dealt with.
    Delivered(Chan, Delivered),
}

/// Tells the waiting thread; one for each teller.
#[derive(Clone)]
pub struct Bell {
    sender: Sender<Event>,
    fd: Arc<OwnedFd>,
}

impl Bell {
    /// Tells an event.
    pub fn ring(&self, event: Event) {
        // Nobody waits any more when the process is about to exit.
        let _ = self.sender.send(event);
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

/// A thread's last word: said when it is dropped, so also by a thread that dies.
pub struct LastWord {
    bell: Bell,
    event: Option<Event>,
}

impl LastWord {
    /// What is to be told if nothing else is said.
    pub fn new(bell: &Bell, if_it_dies: Event) -> LastWord {
        LastWord { bell: bell.clone(), event: Some(if_it_dies) }
    }

    /// Tells this instead.
    pub fn say(mut self, event: Event) {
        self.event = Some(event);
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            self.bell.ring(event);
        }
    }
}

/// The waiting thread's end.
pub struct Events {
    receiver: Receiver<Event>,
    fd: Arc<OwnedFd>,
}

impl Events {
    /// Makes both ends.
    pub fn new() -> io::Result<(Bell, Events)> {
        let (sender, receiver) = channel();
        let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Bell { sender, fd: fd.clone() }, Events { receiver, fd }))
    }

    /// Readable when there may be an event.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The next event, without waiting.
    pub fn take(&self) -> Option<Event> {
        // The count is cleared first: an event that comes after it is seen by its own.
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
        self.receiver.try_recv().ok()
    }
}

/// Says to several threads at once that the job is over: its descriptor stays readable for good.
#[derive(Clone)]
pub struct Over(Arc<(AtomicBool, OwnedFd)>);

impl Over {
    /// Not yet.
    pub fn new() -> io::Result<Over> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Over(Arc::new((AtomicBool::new(false), fd))))
    }

    /// It is.
    pub fn declare(&self) {
        self.0.0.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.0.1, &1u64.to_ne_bytes());
    }

    /// Is it?
    pub fn is_declared(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    /// Waits until it is, or until this descriptor has something to read, or hung up; says whether it is.
    pub fn comes_before(&self, source: BorrowedFd) -> bool {
        let mut fds = [PollFd::new(&self.0.1, PollFlags::IN), PollFd::from_borrowed_fd(source, PollFlags::IN)];
        // A signal is no reason to go on to a read that nothing could interrupt.
        while poll(&mut fds, None) == Err(Errno::INTR) {}
        !fds[0].revents().is_empty()
    }

    /// Readable when it is.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.1.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output whose thread died was waited for for ever.
    #[test]
    fn a_thread_that_dies_has_a_last_word() {
        let (bell, events) = Events::new().unwrap();
        let gone = || Event::Delivered(Chan::STDOUT, Delivered::Gone);
        let dying = LastWord::new(&bell, gone());
        let thread = std::thread::spawn(move || {
            let _dying = dying;
            panic!("a test of what a panic leaves");
        });
        assert!(thread.join().is_err());
        assert!(matches!(events.take(), Some(Event::Delivered(Chan::STDOUT, Delivered::Gone))));
        LastWord::new(&bell, gone()).say(Event::Delivered(Chan::STDERR, Delivered::Whole));
        assert!(matches!(events.take(), Some(Event::Delivered(Chan::STDERR, Delivered::Whole))));
        assert!(events.take().is_none(), "it is said once");
    }
}
