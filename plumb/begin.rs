//! From a command line to a queued job: home, peer, room on the disk, and the
//! two durable writes of `job::submit`.
//!
//! Until the message is queued nothing has left this machine, so whatever goes
//! wrong here ends as "not started", or earlier.

use crate::args::Request;
use crate::bell::{Bell, Event, Events, Over};
use crate::blocked::Blocked;
use crate::ending::{Ending, Reason};
use crate::presence::Presence;
use crate::producer::Producer;
use crate::screen::Screen;
use crate::why::{Why, is_daemon_alive};
use crate::{input, signals};
use job::message::Start;
use job::submit::{self, Submitted};
use spool::atomic::{Disk, SICK};
use spool::crypto::SpoolKey;
use spool::fs::Fs;
use spool::home::{Home, Settings};
use spool::layout::{Place, log_in, log_out};
use spool::name::{Chan, MsgId, Role, Username};
use spool::segment::{JobKeys, Stream};
use spool::usage::Bounds;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often a full disk is looked at.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// A job of ours, as all threads know it.
#[derive(Clone)]
pub struct Job {
    /// The spool.
    pub fs: Arc<Disk>,
    /// Where the spool is: directories are watched by their full path.
    pub root: PathBuf,
    /// The job's secret and id.
    pub keys: JobKeys,
    /// Our input is compressed.
    pub compress: bool,
    /// What makes our input, if that is not our stdin.
    pub producer: Option<Arc<Producer>>,
    /// Declared when nothing more will come.
    pub over: Over,
    /// Declared when the command reads no more of our input.
    pub unread: Over,
    /// What bounds our input on the disk.
    pub bounds: Bounds,
    /// Why no more of our input is read.
    pub blocked: Blocked,
}

impl Job {
    /// The job's id.
    pub fn msgid(&self) -> MsgId {
        self.keys.msgid
    }

    /// `jobs/<msgid>/<name>`
    pub fn file(&self, name: &str) -> String {
        Place::Jobs.file(self.msgid(), name)
    }

    /// The directory of a log that we append to.
    pub fn outgoing(&self, chan: Chan) -> (String, Stream) {
        (log_out(self.msgid(), chan), Stream { chan, producer: Role::Sender })
    }

    /// The directory of a log that the loop fills for us.
    pub fn incoming(&self, chan: Chan) -> (String, Stream) {
        (log_in(self.msgid(), chan), Stream { chan, producer: Role::Recipient })
    }

    /// The spool once more, for those who keep it.
    pub fn spool(&self) -> Arc<dyn Fs> {
        self.fs.clone()
    }
}

/// What is needed before a job can be made.
pub struct Ready {
    fs: Arc<Disk>,
    root: PathBuf,
    spool_key: SpoolKey,
    ours: Username,
    theirs: Username,
    settings: Settings,
    /// Whatever is asked of this peer is compressed.
    compress: bool,
    bounds: Bounds,
}

/// Looks up identity, settings and the peer.
pub fn ready(host: &str) -> Result<Ready, Ending> {
    let home = Home::find().map_err(home_failed)?;
    let ours = home.username().map_err(home_failed)?;
    let fs = home.open_spool().map_err(home_failed)?;
    home.check().map_err(home_failed)?;
    let spool_key = home.spool_key().map_err(home_failed)?;
    let settings = home.settings().map_err(home_failed)?;
    let nobody = |what: String| Ending::failed(Reason::NoSuchPeer, what);
    let name = host.parse().map_err(|bad| nobody(format!("{host:?} is no peer's name: {bad}")))?;
    let peer = home.peer(&name).map_err(home_failed)?;
    let hint = "hint: peers are listed by: netplumb peer list";
    let peer = peer.ok_or_else(|| nobody(format!("no peer {host} is known here\n  {hint}")))?;
    let compress = peer.policy.compress;
    let bounds = Bounds::new(&settings, &peer.policy.quota);
    Ok(Ready { fs, root: home.spool, spool_key, ours, theirs: peer.username, settings, compress, bounds })
}

pub(crate) fn home_failed(error: spool::home::Error) -> Ending {
    let reason = match error {
        spool::home::Error::Io { .. } | spool::home::Error::Spool(_) => Reason::Disk,
        _ => Reason::Config,
    };
    Ending::failed(reason, error)
}

/// Makes the job and queues it, waiting while the disk has no room. Its input
/// is read from the moment when it has a directory. The job is ours as long as
/// the presence lives.
pub fn queue(
    ready: Ready,
    request: &Request,
    screen: &Screen,
    bell: &Bell,
    events: &Events,
) -> Result<(Job, Option<Presence>), Ending> {
    let compress = request.compress || ready.compress;
    let start = Start {
        argv: request.words.clone(),
        user: request.user.clone(),
        env: request.env.iter().cloned().collect(),
        batch: request.batch,
        repeat: request.repeat,
        compress,
        priority: request.priority,
    };
    let mut room = Room { ready: &ready, host: &request.host, screen, events, told: None, presence: None };
    let (submitted, prepared) =
        room.patiently(|fs| submit::prepare(fs, &ready.spool_key, &ready.ours, &ready.theirs, &start))?;
    let Submitted { keys, lock } = submitted;
    room.presence = Some(Presence::made(ready.fs.clone(), keys.msgid, lock));
    if request.detach {
        // Until all input is here nobody takes what comes of it.
        room.patiently(|fs| submit::keep_output(fs, keys.msgid))?;
    }
    let over = || Over::new().map_err(|error| Ending::failed(Reason::Disk, error));
    let (fs, root) = (ready.fs.clone(), ready.root.clone());
    let producer = request.from.as_deref().map(Producer::start).transpose();
    let no_producer = |error| Ending::failed(Reason::NotStarted, format_args!("cannot start the producer: {error}"));
    let producer = producer.map_err(no_producer)?.map(Arc::new);
    let (bounds, blocked) = (ready.bounds, Blocked::default());
    let job = Job { fs, root, keys, compress, producer, over: over()?, unread: over()?, bounds, blocked };
    let nothing = request.no_input || (request.detach && job.producer.is_none() && is_terminal(screen));
    input::start(&job, bell, nothing).map_err(|error| Ending::failed(Reason::Disk, error))?;
    if !is_daemon_alive(&*job.fs) {
        screen.note(Why::because("no_daemon").text(&request.host, 0));
    }
    room.patiently(|fs| prepared.queue(fs)).map_err(|ending| ending.for_job(job.msgid()))?;
    screen.detail(format_args!("job {} is queued for {}", job.msgid(), request.host));
    Ok((job, room.presence))
}

/// Nobody can type into a job that is left alone.
fn is_terminal(screen: &Screen) -> bool {
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        screen.detail("stdin is a terminal: the command's input is empty");
    }
    terminal
}

/// Waits for room on the disk, and says so.
struct Room<'a> {
    ready: &'a Ready,
    host: &'a str,
    screen: &'a Screen,
    events: &'a Events,
    told: Option<Why>,
    /// Our place at the job, once there is one.
    presence: Option<Presence>,
}

impl Room<'_> {
    /// Does something that needs room as soon as there is some.
    fn patiently<T>(&mut self, mut act: impl FnMut(&dyn Fs) -> Result<T, job::Error>) -> Result<T, Ending> {
        loop {
            match self.lack() {
                None => match act(&*self.ready.fs) {
                    Ok(done) => return Ok(done),
                    Err(error) => match (error.passes(), error) {
                        (Some(cause), _) => self.wait(cause)?,
                        (None, error @ job::Error::Disk(_)) => return Err(Ending::failed(Reason::Disk, error)),
                        (None, error) => return Err(Ending::failed(Reason::Usage, error)),
                    },
                },
                Some(cause) => self.wait(cause)?,
            }
        }
    }

    fn lack(&self) -> Option<&'static str> {
        if self.ready.fs.exists(SICK) {
            return Some("sick");
        }
        let room = self.ready.fs.free().is_ok_and(|free| self.ready.settings.has_room(free));
        (!room).then_some("disk_full")
    }

    fn wait(&mut self, cause: &str) -> Result<(), Ending> {
        let why = Why::because(cause);
        if self.told.as_ref() != Some(&why) {
            self.screen.note(why.text(self.host, 0));
            self.told = Some(why);
        }
        spool::wait::poll_readable(&[self.events.fd()], ROOM_EVERY);
        // Another that has our place is found when the job is attended to.
        self.presence.as_mut().map(Presence::keep);
        while let Some(event) = self.events.take() {
            if let Event::Signal(signal, _) = event {
                let what = format!("{} while it waited here; it was not started", signals::name(signal));
                return Err(Ending::failed(Reason::NotStarted, what).by_signal(signal));
            }
        }
        Ok(())
    }
}
