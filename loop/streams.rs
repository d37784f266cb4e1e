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
use spool::name::{Chan, Role};
use spool::segment::{self, JobKeys};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{Id, JoinSet};

/// Those that run, and what they say.
pub struct Streams {
    tasks: JoinSet<()>,
    /// Channels that are pulled, or were to their end.
    known: Vec<(Chan, Id)>,
    /// That of `in/`, with each task as long as it runs.
    lock: Option<Arc<Lock>>,
    events: (UnboundedSender<Event>, UnboundedReceiver<Event>),
}

impl Default for Streams {
    fn default() -> Streams {
        Streams { tasks: JoinSet::new(), known: Vec::new(), lock: None, events: unbounded_channel() }
    }
}

impl Streams {
    /// Starts those that this producer's channels need and that do not run yet;
    /// all of them anew, if `in/` is not the directory any more that they write to.
    pub async fn start<N: Net>(
        &mut self,
        world: &Arc<World<N>>,
        peer: &Arc<Known>,
        keys: &JobKeys,
        producer: Role,
    ) -> Result<(), Trouble> {
        if let Some(lock) = &self.lock
            && !lock.is_at(&log_in_all(keys.msgid))?
        {
            self.stop().await;
        }
        let lock = match &self.lock {
            Some(lock) => lock.clone(),
            None => self.lock.insert(Arc::new(lock(&*world.fs, keys)?)).clone(),
        };
        for &chan in producer.produces() {
            let broken = world.fs.exists(&format!("{}/broken", log_in(keys.msgid, chan)));
            if broken || self.known.iter().any(|(known, _)| *known == chan) {
                continue;
            }
            let pull = Pull::open(world.fs.clone(), keys.clone(), segment::Stream { chan, producer })?;
            let pull = pull.measured(&world.usage).under(lock.clone());
            let stream = Stream::new(world.clone(), peer.clone(), pull, self.events.0.clone());
            let task = self.tasks.spawn(stream.run());
            self.known.push((chan, task.id()));
        }
        Ok(())
    }

    /// Ends them all. None of them touches the disk after that, but for syncs under way.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
        self.known.clear();
        self.lock = None;
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
            if let Event::Failed(chan, _) = &event {
                self.known.retain(|(known, _)| known != chan);
            }
            return event;
        }
    }
}

/// The lock of whoever pulls a job's logs.
fn lock(fs: &dyn Fs, keys: &JobKeys) -> Result<Lock, Trouble> {
    let dir = log_in_all(keys.msgid);
    make_dirs(fs, &dir)?;
    let lock = fs.lock_dir(&dir, Duration::from_millis(20))?;
    lock.ok_or_else(|| Trouble::new("lock", "another process pulls its logs"))
}
