//! `plumb` as a process on a simulated disk: submits a job, seals its input,
//! delivers its output, hears how it ended, and leaves `done`.
//!
//! It keeps the order that `plumb/attend.rs` keeps: the command's own status is
//! passed on only when EXIT was heard and END of both outputs was delivered,
//! and `done` is left after that.

use super::disk::SimDisk;
use super::people::{A, B, people};
use job::Error;
use job::message::Start;
use job::submit::{self, Prepared, Submitted};
use spool::control::{Control, Heard, Listener};
use spool::damage;
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{Owner, PLUMB, Place, hold, log_in, log_out};
use spool::log::{self, Item, Reader, Tail, Writer};
use spool::look;
use spool::name::{Chan, MsgId, Role};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::{EndKind, JobKeys, Stream};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How a `plumb` ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With the command's outcome, and all output that belongs to it.
    Of(Outcome),
    /// The command ran to its end, but its output is not complete.
    Incomplete(Outcome),
    /// Our own disk failed.
    Disk(Outcome),
}

/// A `plumb` process.
pub struct Plumb {
    disk: SimDisk,
    start: Start,
    input: VecDeque<Vec<u8>>,
    prepared: Option<(Submitted, Option<Prepared>)>,
    /// The input is to be sealed by this one.
    feeds: bool,
    writer: Option<Writer>,
    queued: bool,
    ears: Option<Ears>,
    /// Where the END of the input was put.
    tail: Option<Tail>,
    /// It began to write END{eof}.
    pub sent_end: bool,
    /// What it delivered of stdout and stderr.
    pub delivered: [Vec<u8>; 2],
    /// How it ended, if it lived so long.
    pub ending: Option<Ending>,
}

struct Ears {
    listener: Listener,
    deaf: bool,
    exit: Option<Outcome>,
    done: Option<Outcome>,
    outputs: [Output; 2],
}

struct Output {
    reader: Reader,
    settled: Option<Settled>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    Whole,
    /// Nothing more will come, and this is not the end; or the command was killed there.
    Stopped,
    Broken,
}

impl Plumb {
    /// A process with this input to send, for a job of this kind.
    pub fn start(disk: SimDisk, input: impl IntoIterator<Item = Vec<u8>>, batch: bool, repeat: bool) -> Plumb {
        Plumb {
            disk,
            start: Start { argv: vec![b"echo-it".to_vec()], batch, repeat, ..Start::default() },
            input: input.into_iter().collect(),
            prepared: None,
            feeds: true,
            writer: None,
            queued: false,
            ears: None,
            tail: None,
            sent_end: false,
            delivered: [Vec::new(), Vec::new()],
            ending: None,
        }
    }

    /// A process that goes on with a job; what is left of `input` it seals, if the log has no END.
    pub fn attach(disk: SimDisk, keys: JobKeys, input: &[u8]) -> Result<Plumb, Error> {
        let lock = disk.lock_file(&Place::Jobs.file(keys.msgid, PLUMB), Duration::ZERO)?;
        let lock = lock.ok_or_else(|| Error::Ours("another process has the lock".into()))?;
        let dir = log_out(keys.msgid, Chan::STDIN);
        let ended = log::ended_at(&disk, &dir)?.is_some();
        let given = look::detached(&disk, keys.msgid)? == Some(true);
        let stream = Stream { chan: Chan::STDIN, producer: Role::Sender };
        if given
            && !ended
            && let damage::Found::Damaged(damage) = damage::look(&disk, &dir, &keys, stream, u64::MAX)?
        {
            submit::cancel_for(&disk, keys.msgid, damage.facts())?;
        }
        let feeds = !ended && !given;
        let mut plumb = Plumb { feeds, queued: true, sent_end: !feeds, ..Plumb::start(disk.clone(), [], false, false) };
        if feeds {
            let writer = Writer::open(Arc::new(disk), &dir, keys.clone(), stream)?.zipped(true);
            let rest = input.get(writer.plain() as usize..).unwrap_or_default();
            plumb.input = [rest.to_vec()].into_iter().filter(|rest| !rest.is_empty()).collect();
            plumb.writer = Some(writer);
        }
        plumb.prepared = Some((Submitted { keys, lock }, None));
        Ok(plumb)
    }

    /// Is the process gone, by itself or killed?
    pub fn is_gone(&self) -> bool {
        self.disk.is_dead()
    }

    /// The job, once it was prepared.
    pub fn msgid(&self) -> Option<MsgId> {
        self.prepared.as_ref().map(|(submitted, _)| submitted.keys.msgid)
    }

    /// Does a piece of its work.
    pub fn step(&mut self) {
        match self.try_step() {
            Ok(()) => {}
            // Waits for room.
            Err(error) if error.passes().is_some() => {}
            Err(_) if self.disk.is_dead() => {}
            Err(_) => {
                let outcome = if self.queued { self.cancel() } else { Outcome::NotStarted };
                // Nobody comes again for a job that was left.
                let _ = self.msgid().map(|msgid| submit::reattach(&self.disk, msgid));
                self.end(Ending::Disk(outcome));
            }
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.disk.kill();
    }

    fn cancel(&self) -> Outcome {
        let Some(msgid) = self.msgid() else { return Outcome::NotStarted };
        let alone = submit::cancel(&self.disk, msgid, "our disk failed");
        let owner = Owner::read(&self.disk, &Place::Jobs.dir(msgid)).ok().flatten();
        let unsent = owner.is_some_and(|owner| matches!(look::may_have_left(&self.disk, msgid, &owner), Ok(false)));
        if matches!(alone, Ok(true)) && unsent { Outcome::NotStarted } else { Outcome::Unknown }
    }

    fn try_step(&mut self) -> Result<(), Error> {
        let Some((submitted, prepared)) = &self.prepared else {
            let (person, to) = (&people()[A], people()[B].username());
            let made = submit::prepare(&self.disk, &person.spool_key, person.username(), to, &self.start)?;
            self.prepared = Some((made.0, Some(made.1)));
            return Ok(());
        };
        let keys = submitted.keys.clone();
        if self.writer.is_none() && self.feeds {
            let stream = Stream { chan: Chan::STDIN, producer: Role::Sender };
            let dir = log_out(keys.msgid, Chan::STDIN);
            // What goes is compressed, what comes is not.
            self.writer = Some(Writer::open(Arc::new(self.disk.clone()), &dir, keys, stream)?.zipped(true));
            return self.feed();
        }
        if !self.queued {
            if let Some(prepared) = prepared {
                prepared.queue(&self.disk)?;
            }
            self.queued = true;
            return Ok(());
        }
        self.feed()?;
        if self.ears.is_none() {
            self.ears = Some(Ears::open(&self.disk, &keys)?);
        }
        if self.ears.as_ref().is_some_and(|ears| !ears.is_over()) {
            self.look_around(&keys)?;
        }
        self.attend(keys.msgid)
    }

    /// Seals the next piece of input, or its end.
    fn feed(&mut self) -> Result<(), Error> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.forget()?;
        if let Some(piece) = self.input.front_mut() {
            let count = writer.append(piece)?;
            piece.drain(..count);
            if piece.is_empty() {
                self.input.pop_front();
            }
        } else if writer.ended().is_none() || !self.sent_end {
            self.sent_end = true;
            writer.end(EndKind::Eof)?;
            self.tail = Some(writer.tail());
        }
        Ok(())
    }

    /// Is the message still on its way, and the END of our input still on our disk?
    fn look_around(&mut self, keys: &JobKeys) -> Result<(), Error> {
        let (disk, msgid) = (&self.disk, keys.msgid);
        let there = |path: &str| disk.exists(path);
        let gone = !disk.is_dir(&Place::Queue.dir(msgid))? && !there(&hold(msgid));
        if gone && !there(&Place::Jobs.file(msgid, Mark::Receipt.name())) {
            submit::cancel(disk, msgid, "gone from the queue")?;
        }
        let Some(tail) = &self.tail else { return Ok(()) };
        let dir = log_out(msgid, Chan::STDIN);
        let is_cut = disk.size(&tail.path)?.is_none_or(|size| size < tail.size);
        if is_cut && log::hinted(disk, &format!("{dir}/got"))? < tail.offset {
            let stream = Stream { chan: Chan::STDIN, producer: Role::Sender };
            if let damage::Found::Damaged(damage) = damage::look(disk, &dir, keys, stream, tail.offset)? {
                submit::cancel_for(disk, msgid, damage.facts())?;
            }
        }
        self.tail = self.tail.take().filter(|_| !is_cut);
        Ok(())
    }

    fn attend(&mut self, msgid: MsgId) -> Result<(), Error> {
        let Some(ears) = &mut self.ears else { return Ok(()) };
        ears.look_for_done(&self.disk, msgid);
        ears.hear()?;
        let over = ears.is_over();
        for (output, delivered) in ears.outputs.iter_mut().zip(&mut self.delivered) {
            output.deliver(delivered, over)?;
        }
        if !ears.is_over() || ears.outputs.iter().any(|output| output.settled.is_none()) {
            return Ok(());
        }
        let outcome = ears.exit.clone().or(ears.done.clone()).unwrap_or(Outcome::Unknown);
        let ran = matches!(outcome, Outcome::Exited(_) | Outcome::Signal(_));
        let lost = |output: &Output| match output.settled {
            Some(Settled::Stopped) => ran,
            Some(Settled::Broken) => ran || outcome == Outcome::Unknown,
            Some(Settled::Whole) | None => false,
        };
        let incomplete = ears.outputs.iter().any(lost);
        // It was left, and is heard now.
        submit::reattach(&self.disk, msgid)?;
        if ears.done.is_none() {
            let known = if incomplete { Outcome::Unknown } else { outcome.clone() };
            let facts = Facts::new().with("outcome", known).with_some("at", spool::clock::uptime(&self.disk).ok());
            let _ = facts.hint(&self.disk, &Place::Jobs.file(msgid, Mark::Done.name()));
        }
        // Killed in its last act, it said nothing.
        if !self.disk.is_dead() {
            self.end(if incomplete { Ending::Incomplete(outcome) } else { Ending::Of(outcome) });
        }
        Ok(())
    }
}

impl Ears {
    fn open(disk: &SimDisk, keys: &JobKeys) -> Result<Ears, Error> {
        let reader = |chan: Chan| {
            let stream = Stream { chan, producer: Role::Recipient };
            Reader::open_at(Arc::new(disk.clone()), &log_in(keys.msgid, chan), keys.clone(), stream, 0)
        };
        let output = |chan| Ok::<Output, Error>(Output { reader: reader(chan)?, settled: None });
        let outputs = [output(Chan::STDOUT)?, output(Chan::STDERR)?];
        Ok(Ears { listener: Listener::new(reader(Chan::CONTROL)?), deaf: false, exit: None, done: None, outputs })
    }

    fn look_for_done(&mut self, disk: &SimDisk, msgid: MsgId) {
        if disk.is_dead() || self.done.is_some() {
            return;
        }
        let (Ok(done), Ok(over)) = (look::done(disk, msgid), look::mark(disk, &Place::Jobs.dir(msgid), Mark::Over))
        else {
            return;
        };
        // Where `peer` is damaged the loop does not know the job for ours.
        self.done = done.or(over.map(|over| over.value("outcome").unwrap_or(Outcome::Unknown)));
        if self.done.is_none() && !disk.exists(&Place::Jobs.dir(msgid)) {
            self.done = Some(Outcome::Unknown);
        }
    }

    fn hear(&mut self) -> Result<(), Error> {
        while !self.deaf {
            match self.listener.hear() {
                Ok(Heard::Said(Control::Exit(outcome))) => drop(self.exit.get_or_insert(outcome)),
                Ok(Heard::Said(Control::Signal(_) | Control::Close(_))) => {}
                Ok(Heard::Nothing) => return Ok(()),
                Ok(Heard::End | Heard::Broken) => self.deaf = true,
                Err(error @ spool::fs::Error::Io { .. }) => return Err(error.into()),
                Err(_) => self.deaf = true,
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let settled = |output: &Output| output.settled.is_some();
        let broken = |output: &Output| output.settled == Some(Settled::Broken);
        (self.exit.is_some() && self.outputs.iter().all(settled))
            || self.done.is_some()
            || (self.deaf && self.exit.is_none())
            || self.outputs.iter().any(broken)
    }
}

impl Output {
    /// Delivers what is here; `over`: what is here is all there will be.
    fn deliver(&mut self, delivered: &mut Vec<u8>, over: bool) -> Result<(), Error> {
        while self.settled.is_none() {
            match self.reader.advance() {
                Ok(Item::Data(_)) => {
                    delivered.extend_from_slice(self.reader.data());
                    // A hint that finds no room is left later.
                    let _ = self.reader.took(Duration::ZERO, true);
                }
                Ok(Item::End(end)) if end.kind == EndKind::Eof => self.settled = Some(Settled::Whole),
                Ok(Item::End(_)) => self.settled = Some(Settled::Stopped),
                Ok(Item::Broken) => self.settled = Some(Settled::Broken),
                Ok(Item::Nothing) if over => self.settled = Some(Settled::Stopped),
                Ok(Item::Nothing) => return Ok(()),
                Err(error @ spool::fs::Error::Io { .. }) => return Err(error.into()),
                Err(_) => self.settled = Some(Settled::Broken),
            }
        }
        Ok(())
    }
}
