//! The streams of one job: a task for each channel that this side pulls.
//!
//! A stream that panicked has failed like one whose disk failed: it is named,
//! and opened anew. One that ended by itself stays noted, and is not. All of
//! them hold the lock of `in/`: two processes that pull one log would cut off
//! what the other has just appended (doc/SPOOL.md#jobs). Where `in/` is replaced
//! under them, nothing more is told to be held, and all begin anew in the
//! directory that has the name.

use crate::World;
use crate::comm::Trouble;
use crate::net::Net;
use crate::peers::Known;
use crate::pull::Pull;
use crate::stream::{Event, Stream};
use spool::fs::{Fs, Lock};
use spool::layout::{log_in, log_in_all, make_dirs};
use spool::limit::Reserved;
use spool::log;
use spool::name::{Chan, Role};
use spool::segment::{self, JobKeys};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{Id, JoinSet};

/// Descriptors that the lock of `in/` takes, and that each stream takes: a
/// connection and a segment.
const LOCK: usize = 1;
const EACH: usize = 2;
/// Where descriptors are short, streams without a byte for so long let others go first.
const IDLE: Duration = Duration::from_secs(3);

/// Those that run, and what they say.
pub struct Streams {
    tasks: JoinSet<()>,
    /// Channels that are pulled, or were to their end.
    known: Vec<(Chan, Id)>,
    /// Those of them that were pulled to their end.
    ended: Vec<Chan>,
    /// That of `in/`, and the descriptors for all of it, with each task as long as it runs.
    held: Option<(Arc<Lock>, Arc<Reserved>)>,
    /// When bytes came last.
    moved: Moved,
    events: (UnboundedSender<Event>, UnboundedReceiver<Event>),
}

impl Default for Streams {
    fn default() -> Streams {
        let (tasks, events) = (JoinSet::new(), unbounded_channel());
        Streams { tasks, known: Vec::new(), ended: Vec::new(), held: None, moved: Moved::default(), events }
    }
}

impl Streams {
    /// Starts those that this producer's channels need and that do not run yet;
    /// all of them anew, if `in/` is not the directory any more that they write to,
    /// and one that had come to its end, if that END is not on our disk any more.
    pub async fn start<N: Net>(
        &mut self,
        world: &Arc<World<N>>,
        peer: &Arc<Known>,
        keys: &JobKeys,
        producer: Role,
    ) -> Result<(), Trouble> {
        if let Some((lock, _)) = &self.held
            && !lock.is_at(&log_in_all(keys.msgid))?
        {
            self.stop().await;
        }
        let (lock, reserved) = match &self.held {
            Some(held) => held.clone(),
            None => {
                let channels = producer.produces().len();
                let reserved = world.descriptors.reserve(LOCK + channels * EACH).ok_or_else(shortage)?;
                self.moved.now();
                self.held.insert((Arc::new(lock(&*world.fs, keys)?), Arc::new(reserved))).clone()
            }
        };
        for chan in self.ended.clone() {
            if log::ended_at(&*world.fs, &log_in(keys.msgid, chan))?.is_none() {
                self.ended.retain(|ended| *ended != chan);
                self.known.retain(|(known, _)| *known != chan);
            }
        }
        for &chan in producer.produces() {
            let broken = world.fs.exists(&format!("{}/broken", log_in(keys.msgid, chan)));
            if broken || self.known.iter().any(|(known, _)| *known == chan) {
                continue;
            }
            let pull = Pull::open(world.fs.clone(), keys.clone(), segment::Stream { chan, producer })?;
            let pull = pull.measured(&world.usage).under(lock.clone());
            let stream = Stream::new(world.clone(), peer.clone(), pull, self.events.0.clone(), self.moved.clone());
            let reserved = reserved.clone();
            let task = self.tasks.spawn(async move {
                stream.run().await;
                drop(reserved);
            });
            self.known.push((chan, task.id()));
        }
        Ok(())
    }

    /// Ends them all. None of them touches the disk after that, but for syncs under way.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
        self.known.clear();
        self.ended.clear();
        self.held = None;
    }

    /// Do they have descriptors that others may need?
    pub fn hold_something(&self) -> bool {
        self.held.is_some()
    }

    /// Has nothing come for so long that somebody else may go first?
    pub fn are_idle(&self) -> bool {
        self.moved.since() >= IDLE
    }

    /// What one of them says next. Dropping this future loses nothing.
    pub async fn next(&mut self) -> Event {
        loop {
            let event = tokio::select! {
                biased;
                Some(event) = self.events.1.recv() => event,
                Some(ended) = self.tasks.join_next_with_id() => match ended {
                    Err(died) if died.is_panic() => match self.known.iter().find(|(_, id)| *id == died.id()) {
                        Some((chan, _)) => Event::Failed(*chan, Trouble::new("later", format!("channel {chan}: {died}"))),
                        None => continue,
                    },
                    Ok(_) | Err(_) => continue,
                },
                else => std::future::pending().await,
            };
            match &event {
                Event::Failed(chan, _) => self.known.retain(|(known, _)| known != chan),
                Event::Ended(chan) => self.ended.push(*chan),
                _ => {}
            }
            return event;
        }
    }
}

/// When bytes came last, on any of a job's logs.
#[derive(Clone)]
pub struct Moved(Arc<Mutex<Instant>>);

impl Default for Moved {
    fn default() -> Moved {
        Moved(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Moved {
    /// They came now.
    pub fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn since(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// The trouble of whoever gets no descriptors.
pub fn shortage() -> Trouble {
    Trouble::new("shortage", "all file descriptors that this process may have are in use (ulimit -n)")
}

/// The lock of whoever pulls a job's logs.
fn lock(fs: &dyn Fs, keys: &JobKeys) -> Result<Lock, Trouble> {
    let dir = log_in_all(keys.msgid);
    make_dirs(fs, &dir)?;
    let lock = fs.lock_dir(&dir, Duration::from_millis(20))?;
    lock.ok_or_else(|| Trouble::new("lock", "another process pulls its logs"))
}
