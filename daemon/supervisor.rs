//! The daemon: one loop that joins the watch, the schedule and the children.
//!
//! It has no keys and no network, and decides nothing: events go into the
//! schedule, the schedule's orders to the worker, the worker's reports back.
//! When the spool leaves its place (an unmount, a rename) everything is let go
//! and the spool's return awaited. Whatever dies, this included, nothing is
//! lost: a new daemon looks at everything (doc/ARCHITECTURE.md#processes).

use crate::Error;
use crate::child::Word;
use crate::door::Caller;
use crate::session::Session;
use crate::watch::Seen;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use spool::atomic::Disk;
use spool::home::Home;
use spool::spool_id::Foreign;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often to look whether the spool is back.
const BACK_AGAIN: Duration = Duration::from_millis(250);

/// What happens to a daemon.
#[derive(Debug)]
pub(crate) enum Event {
    Seen(Seen),
    Service(u64, Word),
    Worker(u64, Word),
    /// Some child of this process ended.
    ChildEnded,
    /// Somebody asks whether we live.
    Asked(Caller),
    Reload,
    Everything,
    Stop,
}

/// Tells a running daemon what to do.
#[derive(Clone)]
pub struct Remote(Sender<Event>);

impl Remote {
    /// End within seconds; keepers live on.
    pub fn stop(&self) {
        let _ = self.0.send(Event::Stop);
    }

    /// Read settings and peers again; the service is restarted.
    pub fn reload(&self) {
        let _ = self.0.send(Event::Reload);
    }

    /// Everything is due.
    pub fn everything(&self) {
        let _ = self.0.send(Event::Everything);
    }

    /// Obeys TERM and INT (stop), HUP (reload) and USR1 (everything), as long as the process lives.
    pub fn obey_signals(&self) -> Result<(), Error> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(Error::System)?;
        let remote = self.clone();
        let obey = move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => remote.reload(),
                    SIGUSR1 => remote.everything(),
                    _ => remote.stop(),
                }
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(obey).map_err(Error::System)?;
        Ok(())
    }
}

/// A daemon that is to be run.
pub struct Supervisor {
    /// What is started as `service`, `loop` and `keeper <msgid>`.
    pub program: PathBuf,
    /// Whose spool it is.
    pub home: Home,
    /// Watch with inotify, or only poll.
    pub inotify: bool,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Supervisor {
    /// A daemon for this home; the remote may be used before it runs.
    pub fn new(program: PathBuf, home: Home) -> (Supervisor, Remote) {
        let (sender, events) = channel();
        let remote = Remote(sender.clone());
        (Supervisor { program, home, inotify: true, sender, events }, remote)
    }

    /// Runs until it is told to stop. Errors only at the start: a loose home,
    /// a spool that cannot be opened, another daemon.
    pub fn run(self) -> Result<(), Error> {
        self.home.check()?;
        let disk = self.home.open_spool()?;
        let mut session = self.begin(disk)?;
        let _reaper = self.watch_children()?;
        loop {
            match session.serve(&self.events) {
                Outcome::Stop => {
                    session.end();
                    return Ok(());
                }
                Outcome::Gone => {
                    tracing::error!("the spool {} is gone: waiting for it", self.home.spool.display());
                    let keepers = session.end();
                    match self.standby(keepers) {
                        Some(back) => session = back,
                        None => return Ok(()),
                    }
                    tracing::info!("the spool is back");
                }
            }
        }
    }

    fn begin(&self, disk: Arc<Disk>) -> Result<Session, Error> {
        Session::begin(&self.program, &self.home, disk, self.inotify, &self.sender)
    }

    /// Waits for the spool to come back; `None` if told to stop meanwhile.
    fn standby(&self, mut keepers: Vec<Child>) -> Option<Session> {
        let mut said = String::new();
        loop {
            match self.events.recv_timeout(BACK_AGAIN) {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
                Ok(_) => continue,
                Err(RecvTimeoutError::Timeout) => {}
            }
            keepers.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            match self.reopen() {
                Ok(Some(mut session)) => {
                    session.adopt(keepers);
                    return Some(session);
                }
                Ok(None) => {}
                Err(error) if error.to_string() == said => {}
                Err(error) => {
                    said = error.to_string();
                    tracing::error!("the spool cannot be used: {said}");
                }
            }
        }
    }

    /// Opens what is at the spool's place, if it is this home's spool: an empty mount point is not.
    fn reopen(&self) -> Result<Option<Session>, Error> {
        let disk = match self.home.open_spool() {
            Err(spool::home::Error::Foreign(Foreign::Away(_) | Foreign::Nameless(_))) => return Ok(None),
            other => other?,
        };
        self.home.check()?;
        self.begin(disk).map(Some)
    }

    /// Turns SIGCHLD into events, until what it gives is dropped.
    fn watch_children(&self) -> Result<Reaper, Error> {
        let mut signals = Signals::new([SIGCHLD]).map_err(Error::System)?;
        let handle = signals.handle();
        let sender = self.sender.clone();
        let tell = move || signals.forever().take_while(|_| sender.send(Event::ChildEnded).is_ok()).for_each(drop);
        std::thread::Builder::new().name("children".into()).spawn(tell).map_err(Error::System)?;
        Ok(Reaper(handle))
    }
}

struct Reaper(signal_hook::iterator::Handle);

impl Drop for Reaper {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Why a session ended.
pub(crate) enum Outcome {
    Stop,
    Gone,
}
