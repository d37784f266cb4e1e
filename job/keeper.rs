//! The life of a job at its recipient, as far as the disk sees it.
//!
//! `begin` looks, asks the gluepot, and makes `run.started` durable before
//! anything may start; `Job::finish` is the one way to `run.exit`, to EXIT and
//! END. The outputs of a job that may be run again lie in `held/` until `run.exit`
//! is durable: what an interrupted run has said is dropped unseen. What lies between them, processes and pipes, is `run.rs`. All of it
//! works on any [`Fs`], so crash tests run it on a simulated disk.
//!
//! Invariant: a command is started only after a `run.started` that this call
//! made (or `run.again.<k>`, where START says `repeat`); EXIT is said only after END of the outputs and `run.exit` are
//! durable. After a crash anywhere a new `begin` goes on from the files alone
//! (doc/SPOOL.md#jobs).

use crate::Error;
use crate::batch::{Arrival, Waiting};
use crate::gluepot::{self, Known, Permitted, Verdict};
use crate::hold;
use crate::message;
use spool::clock;
use spool::control::{Control, Heard, Listener, Speaker};
use spool::crypto::SpoolKey;
use spool::facts::Facts;
use spool::fs::Fs;
use spool::home::Settings;
use spool::layout::{self, HELD, Owner, Place, log_held, log_in, log_out};
use spool::log::{self, Reader, Writer};
use spool::look::{self, Ages};
use spool::name::{Chan, Digest, MsgId, Role, Username};
use spool::outcome::Outcome;
use spool::phase::{KeeperPhase, Mark};
use spool::segment::{EndKind, JobKeys, Stream};
use spool::usage::Bounds;
use std::sync::Arc;
use std::time::Duration;

/// How long another may have the job's directory before we give up for this time.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// A policy that was changed within this may be half written.
pub const SETTLED: Duration = Duration::from_secs(2);

/// Where jobs run: what is the same for all of them.
pub struct Site {
    /// The spool.
    pub fs: Arc<dyn Fs>,
    /// Opens what was delivered.
    pub spool_key: SpoolKey,
    /// Who we are.
    pub ours: Username,
    /// How long things may lie.
    pub ages: Ages,
    /// As whom commands run.
    pub user: String,
    /// The floor of free space, of which logs leave a part.
    pub settings: Settings,
    /// Answers what only the machine knows of an earlier run.
    pub processes: Processes,
}

/// The questions of a keeper about a run that another keeper began.
pub struct Processes {
    /// Does the keeper that this mark of a run names still live, as another process than this?
    pub lives: fn(&Facts) -> bool,
    /// Kills what an earlier run of this job has left; false if something is left all the same.
    pub clear: fn(MsgId) -> bool,
}

/// A job whose secret is open.
#[derive(Clone)]
pub struct Job {
    /// The spool.
    pub fs: Arc<dyn Fs>,
    /// The job's name, and the keys of its logs.
    pub keys: JobKeys,
    /// It may be run again: its outputs are held back until it has ended.
    pub repeat: bool,
    /// The outputs are compressed.
    pub compress: bool,
}

/// What became of a look at a job.
pub enum Begin {
    /// There is nothing to do: it is over, cancelled, or has ended, or the keeper that began its run lives.
    Nothing,
    /// Another step has the directory; try again.
    Locked,
    /// It has ended without a process of ours, with all that belongs to that.
    Ended(Outcome),
    /// A batch job's input is not here yet: wait for it, and look again.
    Await(Box<Waiting>),
    /// `run.started` is durable: start this, once.
    Start(Box<Started>),
}

/// A command that is to be started.
pub struct Started {
    /// The job.
    pub job: Job,
    /// What the gluepot permits.
    pub permitted: Permitted,
    /// What we call the peer that asked.
    pub peer: String,
    /// It was started before, and interrupted.
    pub again: bool,
    /// What may lie here of an output that is held back.
    pub quota: u64,
    /// What bounds all output on our disk.
    pub bounds: Bounds,
}

/// Looks at a job whose `running/<msgid>` the caller has locked, and does what
/// needs no process. Harmless at any time and any number of times; after a
/// crash in it the next call goes on. An error that `passes` is worth another try.
/// `arrival` is what waiting for a batch job's input came to; [`Arrival::Awaited`] before that.
pub fn begin(site: &Site, msgid: MsgId, known: &Roster, arrival: Arrival) -> Result<Begin, Error> {
    let (fs, dir) = (&site.fs, Place::Jobs.dir(msgid));
    let lock = match fs.lock_dir(&dir, LOCK_WAIT) {
        Err(error) if error.is_absent() => return Ok(Begin::Nothing),
        other => other?,
    };
    let Some(_lock) = lock else { return Ok(Begin::Locked) };
    // No run begins while we have this lock, so what is killed here belongs to no living keeper.
    let Some(cleared) = clear(site, msgid)? else { return Ok(Begin::Nothing) };
    let Some(Delivered { job, phase, start }) = delivered(site, msgid)? else { return Ok(Begin::Nothing) };
    let batch = start.as_ref().is_ok_and(|start| start.batch);
    let again = phase == KeeperPhase::Again;
    if again && !cleared {
        return Err(Error::Ours(format!("what job {msgid} started before cannot be killed")));
    }
    job.make_dirs()?;
    match phase {
        KeeperPhase::Nothing => return Ok(Begin::Nothing),
        // Where `run.exit` stands its outcome is said, whatever is given here.
        KeeperPhase::Unannounced | KeeperPhase::Interrupted => return job.end(Outcome::Interrupted, EndKind::Aborted),
        KeeperPhase::Start | KeeperPhase::Again => job.hold()?,
    }
    let against = if job.any_output_ended()? {
        // A refusal that a crash cut short stays one, whatever the policy says today. In a
        // batch job it may have been the input that was refused.
        if batch { Outcome::NotStarted } else { Outcome::Refused("it was refused before".into()) }
    } else {
        match (verdict(site, &job.keys.sender, start, known)?, if batch { arrival } else { Arrival::Whole }) {
            ((Verdict::Refused(why), _), _) => Outcome::Refused(why),
            ((Verdict::Run(_), None), _) => Outcome::Refused("this peer is not known here".into()),
            ((Verdict::Run(_), Some(known)), Arrival::Awaited) => {
                return Ok(Begin::Await(Box::new(Waiting::new(
                    job,
                    known.quota,
                    Bounds::new(&site.settings, &known.policy.quota),
                )?)));
            }
            ((Verdict::Run(permitted), Some(known)), arrival) => match arrival.outcome(known.quota) {
                Some(against) => against,
                None => {
                    if !commit_started(&**fs, msgid, &known, again)? {
                        return Ok(Begin::Nothing);
                    }
                    let bounds = Bounds::new(&site.settings, &known.policy.quota);
                    let (peer, quota) = (known.name, known.quota);
                    return Ok(Begin::Start(Box::new(Started { job, permitted, peer, again, quota, bounds })));
                }
            },
        }
    };
    if again {
        tracing::warn!(%msgid, "not run again: {against}");
        return job.end(Outcome::Interrupted, EndKind::Aborted);
    }
    job.end(against, EndKind::Eof)
}

/// A job that a keeper may have something to do for.
struct Delivered {
    job: Job,
    phase: KeeperPhase,
    start: Result<message::Start, Error>,
}

/// Opens a job; `None`: there is nothing to do for a keeper.
fn delivered(site: &Site, msgid: MsgId) -> Result<Option<Delivered>, Error> {
    let (fs, dir) = (&site.fs, Place::Jobs.dir(msgid));
    let owner = Owner::read(&**fs, &dir)?.filter(|owner| owner.role == Role::Recipient);
    let Some(owner) = owner else { return Ok(None) };
    let message = message::unseal(&**fs, Place::Jobs, msgid, &site.spool_key);
    let seen = look::recipient(&**fs, msgid, &site.ages, Some(&owner), message.is_ok())?;
    // Without the message there is no secret, so nobody can be told: the loop ends such a job.
    let Ok(message) = message else { return Ok(None) };
    if seen.keeper_phase(false) == KeeperPhase::Nothing {
        return Ok(None);
    }
    let (secret, start) = match message::read_parts(&message) {
        Ok(parts) => parts,
        Err(error) => {
            crate::submit::cancel(&**fs, msgid, &error.to_string())?;
            return Ok(None);
        }
    };
    let keys = JobKeys { secret, sender: owner.username, recipient: site.ours.clone(), msgid };
    let repeat = start.as_ref().is_ok_and(|start| start.repeat);
    let compress = start.as_ref().is_ok_and(|start| start.compress);
    let job = Job { fs: fs.clone(), keys, repeat, compress };
    Ok(Some(Delivered { job, phase: seen.keeper_phase(repeat), start }))
}

/// Finds the peer with a username. `None`: it is sure that there is no such peer;
/// an error: the peers cannot be read at the moment.
pub type Roster<'a> = dyn Fn(&Username) -> Result<Option<Known>, Error> + 'a;

/// Asks the gluepot, and logs what it says with the policy's digest. A refusal is
/// for good, so it is not made on a policy that somebody may still be writing.
fn verdict(
    site: &Site,
    sender: &Username,
    start: Result<message::Start, Error>,
    roster: &Roster,
) -> Result<(Verdict, Option<Known>), Error> {
    let (known, verdict) = loop {
        let known = roster(sender)?;
        let verdict = match &start {
            Ok(start) => gluepot::decide(known.as_ref(), &site.user, start),
            Err(error) => Verdict::Refused(error.to_string()),
        };
        let age = known.as_ref().map_or(SETTLED, |known| known.age);
        match verdict {
            Verdict::Refused(_) if age < SETTLED => std::thread::sleep(SETTLED - age),
            verdict => break (known, verdict),
        }
    };
    let (name, policy) = known.as_ref().map_or(("-", None), |known| (known.name.as_str(), Some(known.digest)));
    let policy = policy.as_ref().map_or("none".to_string(), Digest::to_string);
    match &verdict {
        Verdict::Run(_) => tracing::info!(peer = name, policy, "the gluepot permits it"),
        Verdict::Refused(why) => tracing::warn!(peer = name, policy, why, "the gluepot refuses it"),
    }
    Ok((verdict, known))
}

/// Sees to what an earlier run of a job has left, and says whether nothing is
/// left of it; `None`: its keeper lives.
fn clear(site: &Site, msgid: MsgId) -> Result<Option<bool>, Error> {
    let Some(run) = hold::last_run(&*site.fs, msgid)? else { return Ok(Some(true)) };
    if (site.processes.lives)(&run) {
        let pid = run.text("keeper").unwrap_or_default();
        tracing::warn!(%msgid, pid, "the keeper that began this run lives: it goes on alone");
        return Ok(None);
    }
    let ended = site.fs.is_there(&Place::Jobs.file(msgid, Mark::RunExit.name()))?;
    Ok(Some(ended || (site.processes.clear)(msgid)))
}

/// From here on the command counts as started; `again`: once more. What it was
/// before stands: that something has run is never taken back. False: another
/// keeper has begun this run.
fn commit_started(fs: &dyn Fs, msgid: MsgId, known: &Known, again: bool) -> Result<bool, Error> {
    let facts = hold::named().with("at", clock::uptime(fs)?).with("peer", &known.name).with("policy", known.digest);
    let path = if again {
        let times = layout::runs_again(fs, msgid)? + 1;
        tracing::warn!(%msgid, times, "interrupted, and run again");
        layout::run_again(msgid, times)
    } else {
        Place::Jobs.file(msgid, Mark::RunStarted.name())
    };
    match facts.commit(fs, &path) {
        Err(error) if error.is_taken() => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// The logs that a job writes.
pub struct Logs {
    /// EXIT, and CLOSE before it.
    pub control: Speaker,
    /// The command's standard output.
    pub stdout: Writer,
    /// The command's standard error.
    pub stderr: Writer,
    /// EXIT stands on the control log.
    said: bool,
}

impl Job {
    /// The job's name.
    pub fn msgid(&self) -> MsgId {
        self.keys.msgid
    }

    fn make_dirs(&self) -> Result<(), Error> {
        for chan in Role::Recipient.produces() {
            layout::make_dirs(&*self.fs, &log_out(self.msgid(), *chan))?;
        }
        for chan in Role::Sender.produces() {
            layout::make_dirs(&*self.fs, &log_in(self.msgid(), *chan))?;
        }
        Ok(())
    }

    /// Before a start: drops what an interrupted run has said, which nobody has
    /// seen, and makes new logs. Never after `run.exit`: by then they may be offered.
    fn hold(&self) -> Result<(), Error> {
        if !self.repeat {
            return Ok(());
        }
        self.fs.remove(&Place::Jobs.file(self.msgid(), HELD))?;
        for chan in [Chan::STDOUT, Chan::STDERR] {
            layout::make_dirs(&*self.fs, &log_held(self.msgid(), chan))?;
        }
        Ok(())
    }

    /// Is this one of the logs that are not offered before the job has ended?
    fn holds(&self, chan: Chan) -> bool {
        self.repeat && chan != Chan::CONTROL
    }

    /// Where a log of ours lies: what is still held back is the log, whatever lies at its later place.
    fn log(&self, chan: Chan) -> Result<String, Error> {
        let held = log_held(self.msgid(), chan);
        Ok(if self.holds(chan) && self.fs.is_there(&held)? { held } else { log_out(self.msgid(), chan) })
    }

    fn writer(&self, chan: Chan) -> Result<Writer, Error> {
        let stream = Stream { chan, producer: Role::Recipient };
        let writer = Writer::open(self.fs.clone(), &self.log(chan)?, self.keys.clone(), stream)?;
        Ok(writer.zipped(self.compress && chan != Chan::CONTROL))
    }

    /// Offers what was held back, each log by one rename; harmless where that is done.
    fn offer(&self) -> Result<(), Error> {
        for chan in [Chan::STDOUT, Chan::STDERR].into_iter().filter(|chan| self.holds(*chan)) {
            let (held, out) = (log_held(self.msgid(), chan), log_out(self.msgid(), chan));
            if self.fs.is_there(&held)? {
                // The empty one, which those who wait for it watch.
                self.fs.remove(&out)?;
                self.fs.rename(&held, &out)?;
            }
        }
        Ok(())
    }

    fn any_output_ended(&self) -> Result<bool, Error> {
        let ended = |chan| log::ended_at(&*self.fs, &self.log(chan)?).map_err(Error::from);
        Ok(ended(Chan::STDOUT)?.is_some() || ended(Chan::STDERR)?.is_some())
    }

    /// Reads what the sender says on a channel, from its start: a command is fed
    /// once, and hears all that was said before it. The hint `read` of an earlier
    /// keeper is for the loop.
    pub fn reader(&self, chan: Chan) -> Result<Reader, Error> {
        let stream = Stream { chan, producer: Role::Sender };
        Ok(Reader::open_at(self.fs.clone(), &log_in(self.msgid(), chan), self.keys.clone(), stream, 0)?)
    }

    /// Opens the logs that this side writes, where they stopped.
    pub fn logs(&self) -> Result<Logs, Error> {
        let said = self.has_said_exit();
        Ok(Logs {
            control: Speaker::new(self.writer(Chan::CONTROL)?),
            stdout: self.writer(Chan::STDOUT)?,
            stderr: self.writer(Chan::STDERR)?,
            said,
        })
    }

    /// Does EXIT stand on our control log? What cannot be read counts as no: a
    /// fact may be said twice.
    fn has_said_exit(&self) -> bool {
        let stream = Stream { chan: Chan::CONTROL, producer: Role::Recipient };
        let dir = log_out(self.msgid(), Chan::CONTROL);
        let Ok(reader) = Reader::open(self.fs.clone(), &dir, self.keys.clone(), stream) else { return false };
        let mut listener = Listener::new(reader);
        while let Ok(Heard::Said(control)) = listener.hear() {
            if matches!(control, Control::Exit(_)) {
                return true;
            }
        }
        false
    }

    fn end(&self, outcome: Outcome, kind: EndKind) -> Result<Begin, Error> {
        let outcome = self.finish(&mut self.logs()?, outcome, kind)?;
        Ok(Begin::Ended(outcome))
    }

    /// Ends a job: END (of this kind, where there is none) on the outputs,
    /// `run.exit`, then EXIT and END on the control log, each durable before
    /// the next. Says the outcome that stands: the one given, or an earlier one.
    /// After a crash, or an error, the same again completes what is missing.
    pub fn finish(&self, logs: &mut Logs, outcome: Outcome, kind: EndKind) -> Result<Outcome, Error> {
        let exit = Place::Jobs.file(self.msgid(), Mark::RunExit.name());
        for writer in [&mut logs.stdout, &mut logs.stderr] {
            writer.append_end(kind)?;
        }
        if !self.fs.exists(&exit) {
            log::sync_all(&*self.fs, &[&logs.stdout, &logs.stderr])?;
            self.fs.sync_dir(&Place::Jobs.file(self.msgid(), if self.repeat { HELD } else { "out" }))?;
            let facts = Facts::new().with("outcome", &outcome).with("at", clock::uptime(&*self.fs)?);
            match facts.commit(&*self.fs, &exit) {
                Err(error) if !error.is_taken() => return Err(error.into()),
                _ => {}
            }
        }
        self.offer()?;
        // The name counts, whatever it contains: damage there is "interrupted".
        let outcome = Facts::read(&*self.fs, &exit)?.and_then(|facts| facts.value("outcome"));
        let outcome = outcome.unwrap_or(Outcome::Interrupted);
        if !logs.said && logs.control.log.ended().is_none() {
            logs.control.say(&Control::Exit(outcome.clone()))?;
            logs.said = true;
        }
        logs.control.end()?;
        layout::touch(&*self.fs, Place::Jobs, self.msgid());
        Ok(outcome)
    }
}
