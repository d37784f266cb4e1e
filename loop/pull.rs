//! One channel's log on its way to us: what to GET next, and what came.
//!
//! No waiting and no tasks here: `stream.rs` drives it with sockets and
//! threads, a simulator by hand. What has been synced is told to the producer
//! as `got` with the next GET (doc/PROTOCOL.md#streams).

use crate::comm::Trouble;
use spool::fs::{Error, Fs, Lock, Result};
use spool::layout::{Place, log_in, log_in_all, make_dirs};
use spool::log::{self, Copy, CopyError, WINDOW};
use spool::name::{Chan, MsgId, Role};
use spool::segment::{BadSegment, End, JobKeys, Stream};
use spool::usage::{Bounds, Meter, Room, Usage};
use std::sync::Arc;

/// How much may lie here before we look how far its reader is.
const UNREAD: u64 = 256 << 10;

/// The copy of one channel's log, with how much of it is durable.
pub struct Pull {
    fs: Arc<dyn Fs>,
    dir: String,
    keys: JobKeys,
    stream: Stream,
    copy: Copy,
    synced: u64,
    read: u64,
    /// No GET was wanted when we were asked last, and perhaps because of `read`.
    held_up: bool,
    /// How far the last GET asked for, in its segment's file.
    until: u64,
    /// Segments that may have bytes which are not yet durable, oldest first.
    unsynced: Vec<u64>,
    /// The segment whose name is durable.
    named: Option<u64>,
    meter: Meter,
    /// The lock of the directory of all logs, held for as long as this lives.
    lock: Option<Arc<Lock>>,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// GET this segment from one offset in its file, up to another.
    Get {
        /// The segment.
        n: u64,
        /// The offset in its file.
        from: u64,
        /// No further than this, so that the window is kept.
        until: u64,
    },
    /// The reader must take something first.
    Full,
    /// Our own disk must have room first: `quota` or `disk_full`.
    NoRoom(&'static str),
    /// Nothing: END is held.
    End,
}

impl Pull {
    /// Opens the copy of a job's channel where it stopped. What lies there from
    /// before counts as not yet durable.
    pub fn open(fs: Arc<dyn Fs>, keys: JobKeys, stream: Stream) -> Result<Pull> {
        let dir = log_in(keys.msgid, stream.chan);
        make_dirs(&*fs, &dir)?;
        let copy = Copy::open(fs.clone(), &dir, keys.clone(), stream)?;
        let unsynced = log::segments(&*fs, &dir)?;
        let read = log::hinted(&*fs, &format!("{dir}/read"))?;
        let producer = if stream.producer == Role::Sender { &keys.sender } else { &keys.recipient };
        let meter = Meter::new(Arc::default(), producer.clone(), keys.msgid, stream.chan, Bounds::default());
        let (synced, held_up, until, named) = (0, false, 0, None);
        let lock = None;
        Ok(Pull { fs, dir, keys, stream, copy, synced, read, held_up, until, unsynced, named, meter, lock })
    }

    /// The same under the lock of whoever pulls the job's logs.
    pub fn under(mut self, lock: Arc<Lock>) -> Pull {
        self.lock = Some(lock);
        self
    }

    /// The same, measured with all others of this process.
    pub fn measured(mut self, usage: &Arc<Usage>) -> Pull {
        self.meter.share(usage);
        self
    }

    /// What bounds the copy on our disk, beside its window.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.meter.set_bounds(bounds);
    }

    /// The channel.
    pub fn chan(&self) -> Chan {
        self.stream.chan
    }

    /// The job.
    pub fn msgid(&self) -> MsgId {
        self.keys.msgid
    }

    /// What to do next. Looks at how far the reader is.
    pub fn want(&mut self) -> Want {
        if self.copy.end().is_some() {
            return Want::End;
        }
        // Looked for only where it can matter: mostly the reader is right behind us.
        let unread = self.copy.offset().saturating_sub(self.read);
        if std::mem::replace(&mut self.held_up, true) || unread > UNREAD {
            // A hint that cannot be read is none: the reader is at least where it was.
            let hint = log::hinted(&*self.fs, &format!("{}/read", self.dir)).unwrap_or(0);
            // Nobody has read what is not here yet.
            self.read = self.read.max(hint.min(self.copy.offset()));
        }
        let beyond = |window| self.read.saturating_add(window).saturating_sub(self.copy.offset());
        // Looked for only where it matters: most readers take what comes.
        let allowance = match beyond(WINDOW) {
            0 => beyond(log::window(&*self.fs, &self.dir)),
            some => some,
        };
        if allowance == 0 {
            return Want::Full;
        }
        let held = self.copy.offset().saturating_sub(self.read);
        let allowance = match self.meter.room(&*self.fs, self.copy.offset(), held) {
            Room::Bytes(room) => allowance.min(room),
            room => return Want::NoRoom(room.cause().unwrap_or("disk_full")),
        };
        let (n, from) = self.copy.wanted();
        self.held_up = false;
        self.until = from.saturating_add(allowance);
        Want::Get { n, from, until: self.until }
    }

    /// The GET that is wanted asks for no more than up to here.
    pub fn narrow(&mut self, until: u64) {
        self.until = self.until.min(until);
    }

    /// Takes over bytes that came; says how many became readable. Bytes that do
    /// not verify are dropped: pull again. So is what nobody asked for: were it
    /// kept, the peer would decide how much of our disk it fills.
    pub fn feed(&mut self, bytes: &[u8]) -> std::result::Result<usize, CopyError> {
        let before = self.copy.segment();
        let room = self.until.saturating_sub(self.copy.wanted().1);
        let (bytes, beyond) = bytes.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
        let fed = match self.copy.feed(bytes) {
            Ok(_) if !beyond.is_empty() => Err(BadSegment("more bytes than were asked for").into()),
            fed => fed,
        };
        match &fed {
            Ok(_) => {
                if self.copy.segment() != before {
                    self.unsynced.extend(self.copy.segment());
                }
            }
            // Counters are spent: the next bytes need a copy that knows its place.
            Err(CopyError::Bad(_) | CopyError::Disk(_)) => {
                // Something else may lie at the name of its directory by now. A job that was removed stays so.
                if self.fs.is_dir(&Place::Jobs.dir(self.keys.msgid))? {
                    make_dirs(&*self.fs, &self.dir)?;
                }
                self.copy = Copy::open(self.fs.clone(), &self.dir, self.keys.clone(), self.stream)?;
            }
            Err(CopyError::Broken { .. }) => {}
        }
        fed
    }

    /// The wanted segment is said to be closed and so large.
    pub fn close(&mut self, size: u64) {
        self.copy.close(size);
    }

    /// Nothing new came: what was not verified is wanted again. Says whether there was any.
    pub fn doubt(&mut self) -> bool {
        self.copy.doubt()
    }

    /// Nothing new came: should it have? EXIT and the END behind it are said
    /// only when each output has its own END.
    pub fn is_overdue(&self) -> bool {
        let output = self.stream.producer == Role::Recipient && self.stream.chan != Chan::CONTROL;
        let control = log_in(self.keys.msgid, Chan::CONTROL);
        output && log::ended_at(&*self.fs, &control).is_ok_and(|end| end.is_some())
    }

    /// The wanted segment is not there; an authentic word says which are. An
    /// error: what is wanted is gone for good.
    pub fn missing(&mut self, first: u64, last: u64) -> std::result::Result<(), Trouble> {
        let (n, _) = self.copy.wanted();
        if n < first {
            let why = format!("segment {n} is gone, the first is {first}");
            return Err(Trouble::new("interrupted", why));
        }
        if n > last {
            self.copy.back();
        }
        Ok(())
    }

    /// The end of what is held, durable or not.
    pub fn offset(&self) -> u64 {
        self.copy.offset()
    }

    /// The end of what is held for good.
    pub fn got(&self) -> u64 {
        self.synced
    }

    /// END, once it is held for good.
    pub fn ended(&self) -> Option<End> {
        self.copy.end().filter(|_| self.synced == self.copy.offset())
    }

    /// Work for a thread that may block, if anything is not yet durable.
    pub fn sync(&self) -> Option<Sync> {
        if self.synced == self.copy.offset() {
            return None;
        }
        let (segment, dir) = (self.copy.segment(), self.dir.clone());
        let (named, above_named) = (self.named == segment, self.named.is_some());
        let (fs, segments, offset) = (self.fs.clone(), self.unsynced.clone(), self.copy.offset());
        Some(Sync { fs, segments, dir, named, above_named, segment, offset })
    }

    /// A sync is done: all below its offset is durable. An error if another
    /// directory or file has got the name: what came was not written there.
    pub fn synced(&mut self, sync: Synced) -> Result<()> {
        let all = log_in_all(self.keys.msgid);
        if let Some(lock) = &self.lock
            && !lock.is_at(&all)?
        {
            return Err(Error::io("sync", &all, std::io::Error::other("the directory was replaced")));
        }
        if !self.copy.is_in_place()? {
            return Err(Error::io("sync", &self.dir, std::io::Error::other("the log was replaced")));
        }
        self.synced = self.synced.max(sync.offset);
        self.named = sync.segment;
        self.unsynced.retain(|n| Some(*n) >= sync.segment);
        self.copy.forget(self.read, self.synced)
    }

    /// Removes the segments whose sync failed; the copy is to be opened anew after that.
    pub fn condemn(&self) -> Result<()> {
        self.unsynced.iter().try_for_each(|n| self.fs.remove(&format!("{}/{n}", self.dir)))
    }

    /// The channel can never be completed: says so durably, for whoever reads it.
    pub fn interrupt(&self, why: &str) -> Result<()> {
        let path = format!("{}/broken", self.dir);
        match self.fs.commit(&path, format!("{why}\n").as_bytes()) {
            Err(error) if error.is_taken() => Ok(()),
            other => other,
        }
    }
}

/// A sync that is to be done, on any thread.
pub struct Sync {
    fs: Arc<dyn Fs>,
    segments: Vec<u64>,
    dir: String,
    named: bool,
    above_named: bool,
    segment: Option<u64>,
    offset: u64,
}

/// A sync that is done.
pub struct Synced {
    segment: Option<u64>,
    offset: u64,
}

impl Sync {
    /// Does it: the segments, and for a new one their directory (and the first
    /// time those above it).
    pub fn run(self) -> Result<Synced> {
        let above = self.dir.match_indices('/').skip(1).map(|(at, _)| &self.dir[..at]);
        let names: Vec<&str> = match (self.named, self.above_named) {
            (true, _) => Vec::new(),
            (false, true) => vec![&self.dir],
            // Whichever segment is the first: those before it may hold nothing.
            (false, false) => above.chain([self.dir.as_str()]).collect(),
        };
        let segments: Vec<String> = self.segments.iter().map(|n| format!("{}/{n}", self.dir)).collect();
        let paths: Vec<&str> = segments.iter().map(String::as_str).chain(names).collect();
        self.fs.sync_all(&paths)?;
        Ok(Synced { segment: self.segment, offset: self.offset })
    }
}

impl From<CopyError> for Trouble {
    fn from(error: CopyError) -> Trouble {
        match error {
            CopyError::Disk(error) => error.into(),
            CopyError::Bad(_) => Trouble::new("unauthentic", error),
            CopyError::Broken { .. } => Trouble::new("interrupted", error),
        }
    }
}
