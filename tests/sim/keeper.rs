//! A keeper process on a simulated disk, with a command that is not a process.
//!
//! It does what `job/process.rs` and `job/run.rs` do, in their order, around
//! the product's `begin` and `finish`. The command echoes its standard input
//! and exits with status 7 at the end of it. What it lived through is kept
//! outside both machines, where no crash reaches.

use super::disk::SimDisk;
use super::people::{Person, settings};
use job::Error;
use job::batch::{Arrival, Waiting};
use job::gluepot;
use job::keeper::{Begin, Job, Logs, Processes, Site, begin};
use spool::fs::{Fs, Lock};
use spool::layout::{Owner, Place, running};
use spool::log::{Item, Reader};
use spool::look;
use spool::name::{Chan, Digest, MsgId, Role};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::EndKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The command's exit status.
pub const STATUS: u8 = 7;

/// What commands lived through; shared by all keepers, and by the test.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Lived>>);

/// What one command lived through.
#[derive(Clone, Debug, Default)]
pub struct Lived {
    /// How often it was started.
    pub runs: u32,
    /// What it read.
    pub read: Vec<u8>,
    /// It read an end of file.
    pub saw_end: bool,
}

impl Ledger {
    /// What it says.
    pub fn lived(&self) -> Lived {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// What happened before a story begins.
    pub fn begin(&self, lived: Lived) {
        self.note(|before| *before = lived);
    }

    fn note(&self, what: impl FnOnce(&mut Lived)) {
        what(&mut self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

/// Does a job want a keeper? As the daemon asks it.
pub fn is_wanted(fs: &dyn Fs, msgid: MsgId) -> bool {
    let dir = Place::Jobs.dir(msgid);
    if !fs.exists(&format!("{dir}/message")) {
        return false;
    }
    let Some(owner) = Owner::read(fs, &dir).ok().flatten().filter(|owner| owner.role == Role::Recipient) else {
        return false;
    };
    look::recipient(fs, msgid, &settings().ages(), Some(&owner), true).is_ok_and(|seen| seen.wants_keeper())
}

/// A keeper process.
pub struct Keeper {
    disk: SimDisk,
    msgid: MsgId,
    ledger: Ledger,
    site: Site,
    lock: Option<Lock>,
    /// A batch job's input is awaited.
    waiting: Option<Box<Waiting>>,
    arrival: Arrival,
    running: Option<Running>,
    /// The end that is still to be made.
    ending: Option<(Outcome, EndKind)>,
    /// Starts the command before `run.started`: a negative control.
    hasty: bool,
    done: bool,
}

struct Running {
    job: Job,
    logs: Option<Logs>,
    input: Reader,
    /// Output that is not yet in the log.
    unwritten: Vec<u8>,
}

impl Keeper {
    /// A process that is to keep this job.
    pub fn start(person: &Person, disk: SimDisk, msgid: MsgId, ledger: Ledger, hasty: bool) -> Keeper {
        let site = Site {
            fs: Arc::new(disk.clone()),
            spool_key: person.spool_key.clone(),
            ours: person.username().clone(),
            ages: settings().ages(),
            user: "me".into(),
            settings: Default::default(),
            // All keepers here are one process of the machine that simulates them.
            processes: Processes { lives: |_| false, clear: |_| true },
        };
        let (waiting, arrival) = (None, Arrival::Awaited);
        Keeper {
            disk,
            msgid,
            ledger,
            site,
            lock: None,
            waiting,
            arrival,
            running: None,
            ending: None,
            hasty,
            done: false,
        }
    }

    /// Is the process gone, by itself or killed?
    pub fn is_gone(&self) -> bool {
        self.done || self.disk.is_dead()
    }

    /// Was it killed before its work was done?
    pub fn was_killed(&self) -> bool {
        !self.done && self.disk.is_dead()
    }

    /// Does a piece of its work.
    pub fn step(&mut self, person: &Person) {
        match self.try_step(person) {
            Ok(()) => {}
            // Tried again, as `patiently` does.
            Err(error) if error.passes().is_some() => {}
            // The next keeper runs it again.
            Err(_) if self.running.as_ref().is_some_and(|running| running.job.repeat) && self.ending.is_none() => {
                self.leave()
            }
            Err(_) if self.running.is_some() && self.ending.is_none() => {
                self.ending = Some((Outcome::Interrupted, EndKind::Aborted));
            }
            Err(_) if self.disk.is_dead() => {}
            // The process ends with an error; the daemon starts another.
            Err(_) => self.leave(),
        }
    }

    fn leave(&mut self) {
        self.done = true;
        self.disk.kill();
    }

    fn try_step(&mut self, person: &Person) -> Result<(), Error> {
        if self.lock.is_none() {
            self.lock = self.disk.lock_file(&running(self.msgid), Duration::ZERO)?;
            if self.lock.is_none() {
                self.leave();
                return Ok(());
            }
        }
        if let Some((outcome, kind)) = self.ending.clone() {
            let Some(running) = &mut self.running else { return self.end() };
            running.finish(outcome, kind)?;
            return self.end();
        }
        if let Some(waiting) = &mut self.waiting {
            self.arrival = waiting.look()?;
            let cancelled = look::has(&self.disk, &Place::Jobs.dir(self.msgid), Mark::Cancel);
            if self.arrival == Arrival::Awaited && !cancelled {
                return Ok(());
            }
            self.waiting = None;
        }
        match &mut self.running {
            None => self.begin(person),
            Some(running) => {
                self.ending = running.live(&self.ledger)?;
                Ok(())
            }
        }
    }

    fn begin(&mut self, person: &Person) -> Result<(), Error> {
        if self.hasty && !look::has(&self.disk, &Place::Jobs.dir(self.msgid), Mark::RunStarted) {
            self.ledger.note(|lived| lived.runs += 1);
        }
        let known = |username: &spool::name::Username| {
            Ok((*username == person.peer.username).then(|| gluepot::Known {
                name: person.peer.name.to_string(),
                policy: person.peer.policy.clone(),
                digest: Digest::of(b"policy"),
                quota: spool::usage::WHOLE_LOG,
                age: Duration::MAX,
            }))
        };
        match begin(&self.site, self.msgid, &known, self.arrival)? {
            Begin::Nothing | Begin::Ended(_) => self.end(),
            Begin::Locked => {
                self.leave();
                Ok(())
            }
            Begin::Await(waiting) => {
                self.waiting = Some(waiting);
                Ok(())
            }
            Begin::Start(started) => {
                let job = started.job;
                if look::has(&*job.fs, &Place::Jobs.dir(self.msgid), Mark::Cancel) {
                    let mut never = Running { input: job.reader(Chan::STDIN)?, job, logs: None, unwritten: Vec::new() };
                    never.finish(Outcome::Cancelled, EndKind::Eof)?;
                    return self.end();
                }
                if !self.hasty {
                    self.ledger.note(|lived| lived.runs += 1);
                }
                if started.again {
                    self.ledger.note(|lived| (lived.read, lived.saw_end) = (Vec::new(), false));
                }
                let input = job.reader(Chan::STDIN)?;
                self.running = Some(Running { job, logs: None, input, unwritten: Vec::new() });
                Ok(())
            }
        }
    }

    /// The job has ended here: the last act.
    fn end(&mut self) -> Result<(), Error> {
        self.disk.remove(&running(self.msgid))?;
        self.lock = None;
        self.leave();
        Ok(())
    }
}

impl Running {
    fn logs(&mut self) -> Result<&mut Logs, Error> {
        if self.logs.is_none() {
            self.logs = Some(self.job.logs()?);
        }
        self.logs.as_mut().ok_or_else(|| Error::Ours("just made".into()))
    }

    fn finish(&mut self, outcome: Outcome, kind: EndKind) -> Result<(), Error> {
        let job = self.job.clone();
        job.finish(self.logs()?, outcome, kind).map(drop)
    }

    /// Feeds the command a piece and takes over what it says; the end, if this is it.
    fn live(&mut self, ledger: &Ledger) -> Result<Option<(Outcome, EndKind)>, Error> {
        self.drain()?;
        let dir = Place::Jobs.dir(self.job.msgid());
        if look::has(&*self.job.fs, &dir, Mark::Cancel) {
            return Ok(Some((Outcome::Cancelled, EndKind::Aborted)));
        }
        match self.input.advance() {
            Ok(Item::Data(_)) => {
                let data = self.input.data().to_vec();
                ledger.note(|lived| lived.read.extend_from_slice(&data));
                self.unwritten.extend_from_slice(&data);
                if !self.job.repeat {
                    self.input.took(Duration::ZERO, true)?;
                }
                self.drain()?;
                Ok(None)
            }
            Ok(Item::End(end)) if end.kind == EndKind::Eof => {
                ledger.note(|lived| lived.saw_end = true);
                Ok(Some((Outcome::Exited(STATUS), EndKind::Eof)))
            }
            Ok(Item::End(_) | Item::Broken) | Err(spool::fs::Error::Damaged { .. }) => {
                Ok(Some((Outcome::InputIncomplete(self.input.plain()), EndKind::Aborted)))
            }
            Ok(Item::Nothing) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn drain(&mut self) -> Result<(), Error> {
        while !self.unwritten.is_empty() {
            let bytes = std::mem::take(&mut self.unwritten);
            let appended = self.logs().and_then(|logs| Ok(logs.stdout.append(&bytes)?));
            let count = *appended.as_ref().unwrap_or(&0);
            self.unwritten = bytes[count..].to_vec();
            appended?;
        }
        Ok(())
    }
}
