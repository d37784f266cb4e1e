//! A job while it runs: one loop around the command's three pipes, the two
//! logs that come in, the three that go out, and the guard.
//!
//! One thread, which waits in one `poll`. What belongs to the disk alone is
//! `keeper.rs`; here are processes. Invariant: whoever is to die is killed
//! before anything of ours is closed.

use crate::Error;
use crate::account::Account;
use crate::drain::{Drain, Drained, FULL_WAIT};
use crate::eyes::{Eyes, LOOK_EVERY};
use crate::feed::{Fed, Feed};
use crate::guard::{Guard, Left, Word};
use crate::hold::{Grip, Hold};
use crate::keeper::{Job, Logs, Started};
use crate::tree;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use spool::control::{Control, Heard, Listener};
use spool::damage::Damage;
use spool::facts::Facts;
use spool::layout::Place;
use spool::log::{WINDOW, Writer};
use spool::look::is_to_end;
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::EndKind;
use spool::usage::{Meter, Usage};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a cancelled command has before it is killed.
const TERM_WAIT: Duration = Duration::from_secs(10);
/// How long we wait for a killed command to be gone before we say so.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Starts a command, and stays with it until the job has ended here, or another
/// keeper has it (`None`). `root` is the spool's directory. What a crash leaves,
/// the next keeper completes.
pub fn run(
    started: Started,
    hold: &mut Hold,
    root: &Path,
    account: &Account,
) -> Result<(Option<Outcome>, Left), Error> {
    let Started { job, permitted, peer, again, quota, bounds } = started;
    let never = |hold: &mut Hold, outcome: Outcome, kind: EndKind| {
        let finished = finish(hold, || job.finish(&mut job.logs()?, outcome.clone(), kind))?;
        Ok((finished, Left::default()))
    };
    if is_cancelled(&job) {
        return never(hold, Outcome::Cancelled, EndKind::Eof);
    }
    let cannot = |why: String| match again {
        true => Outcome::Interrupted,
        false => Outcome::Refused(format!("the command could not be started: {why}")),
    };
    let made = account.command(&permitted, job.msgid(), &peer);
    let started = made
        .map_err(|error| error.to_string())
        .and_then(|command| Guard::start(&command).map_err(|error| error.to_string()));
    let (mut guard, pipes) = match started {
        Ok(started) => started,
        Err(why) => return never(hold, cannot(why), EndKind::Eof),
    };
    match guard.first_word() {
        Word::Started(_) => {}
        Word::Failed(errno) => {
            return never(hold, cannot(std::io::Error::from_raw_os_error(errno).to_string()), EndKind::Eof);
        }
        Word::Ended(_) | Word::Closed | Word::Gone => {
            let killed = guard.kill_all(Some(&pipes.stdin), KILL_WAIT);
            run_again(&job, killed)?;
            let (outcome, _) = never(hold, Outcome::Interrupted, EndKind::Aborted)?;
            return Ok((outcome, Left::of(guard, Some(pipes.stdin))));
        }
    }
    let mut logs = patiently(|| job.logs())?;
    for name in &permitted.denied {
        let line = format!("netplumb: {name} not passed on (denied)\n");
        patiently(|| Ok(logs.stderr.append(line.as_bytes())?))?;
    }
    let usage: Arc<Usage> = Arc::default();
    let drain = |pipe, chan| {
        let meter = Meter::new(usage.clone(), job.keys.sender.clone(), job.msgid(), chan, bounds);
        Drain::new(pipe, if job.repeat { quota } else { WINDOW }, job.repeat, job.fs.clone(), meter)
    };
    let running = Running {
        eyes: Eyes::new(root, &job),
        feed: Feed::new(patiently(|| job.reader(Chan::STDIN))?, pipes.stdin, job.repeat),
        fed: Fed::More,
        listener: Some(Listener::new(patiently(|| job.reader(Chan::CONTROL))?)),
        drains: [drain(pipes.stdout, Chan::STDOUT), drain(pipes.stderr, Chan::STDERR)],
        quota,
        unsaid: None,
        kill_at: None,
        status: None,
        hold,
        job,
        guard,
        logs,
    };
    running.stay()
}

/// Does something again, and again, while the disk is full or the system is short of something.
pub(crate) fn patiently<T>(mut what: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match what() {
            Err(error) if error.passes().is_some() => std::thread::sleep(FULL_WAIT),
            other => return other,
        }
    }
}

/// Does what ends a job, if that is still ours; `None`: another keeper has it.
fn finish(hold: &mut Hold, mut act: impl FnMut() -> Result<Outcome, Error>) -> Result<Option<Outcome>, Error> {
    patiently(|| if hold.settle()? == Grip::Lost { Ok(None) } else { act().map(Some) })
}

fn is_cancelled(job: &Job) -> bool {
    is_to_end(&*job.fs, job.msgid())
}

/// An error, and no end of the job, if the next keeper is to run an interrupted command again.
fn run_again(job: &Job, killed: bool) -> Result<(), Error> {
    if job.repeat && killed && !is_cancelled(job) {
        return Err(Error::Ours("the command was interrupted, and is to be run again".into()));
    }
    Ok(())
}

/// What a cancelled job comes to, by the reason for it.
fn cancelled(job: &Job) -> Outcome {
    let cancel = Facts::read(&*job.fs, &Place::Jobs.file(job.msgid(), Mark::Cancel.name()));
    match cancel.ok().flatten().and_then(|cancel| Damage::told(&cancel)) {
        Some((Chan::STDOUT | Chan::STDERR, plain)) => Outcome::OutputIncomplete(plain),
        _ => Outcome::Cancelled,
    }
}

/// How the loop ends.
enum End {
    /// By itself.
    Natural(Outcome),
    /// The command is to be killed.
    Kill(Outcome),
    /// The same, and nothing more is written: another keeper has the job.
    Lost,
}

struct Running<'a> {
    hold: &'a mut Hold,
    job: Job,
    guard: Guard,
    logs: Logs,
    eyes: Eyes,
    feed: Feed,
    fed: Fed,
    listener: Option<Listener>,
    drains: [Drain; 2],
    /// What an output may have that is held back.
    quota: u64,
    /// When to try again to say that nobody reads stdin.
    unsaid: Option<Instant>,
    /// It is cancelled, and killed then.
    kill_at: Option<Instant>,
    status: Option<Outcome>,
}

impl Running<'_> {
    fn stay(mut self) -> Result<(Option<Outcome>, Left), Error> {
        let end = loop {
            match self.live() {
                Err(error) if error.passes().is_some() => {
                    std::thread::sleep(FULL_WAIT);
                    self.eyes.open_all();
                }
                end => break end,
            }
        };
        // Asked before anything is written: it may have been another keeper that killed the command.
        if matches!(end, Ok(End::Lost)) || patiently(|| self.hold.settle())? == Grip::Lost {
            return Ok(self.lose());
        }
        let (outcome, kind) = match end {
            Ok(End::Natural(outcome)) => {
                // Whoever of the group still reads would read a false end of file.
                if self.feed.pipe().is_some_and(|stdin| !self.feed.has_ended() && tree::has_reader(stdin)) {
                    self.guard.signal(9);
                }
                (outcome, EndKind::Eof)
            }
            Ok(End::Kill(outcome)) => self.kill(outcome)?,
            Ok(End::Lost) => return Ok(self.lose()),
            Err(error) => {
                tracing::error!(%error, "the job cannot go on");
                self.kill(Outcome::Interrupted)?
            }
        };
        let finished = finish(self.hold, || self.job.finish(&mut self.logs, outcome.clone(), kind))?;
        Ok(if finished.is_some() { (finished, self.left()) } else { self.lose() })
    }

    /// Another keeper has the job: kills the command, and leaves the rest to that
    /// one. The guard sees us go, and closes stdin after it has killed too.
    fn lose(self) -> (Option<Outcome>, Left) {
        tracing::warn!(msgid = %self.job.msgid(), "another keeper has this job");
        if !self.guard.kill_all(self.feed.pipe(), KILL_WAIT) {
            tracing::error!("something that the command started cannot be killed");
        }
        (None, Left::default())
    }

    fn left(self) -> Left {
        Left::of(self.guard, self.feed.into_pipe())
    }

    /// Kills the command, and says how the job ends.
    fn kill(&mut self, outcome: Outcome) -> Result<(Outcome, EndKind), Error> {
        let killed = self.guard.kill_all(self.feed.pipe(), KILL_WAIT);
        if !killed {
            tracing::error!("something that the command started cannot be killed");
        }
        if outcome == Outcome::Interrupted {
            run_again(&self.job, killed)?;
        }
        self.drains[0].take_rest(&mut self.logs.stdout);
        self.drains[1].take_rest(&mut self.logs.stderr);
        Ok((outcome, EndKind::Aborted))
    }

    fn live(&mut self) -> Result<End, Error> {
        loop {
            // An end that another keeper's kill brought about is not written.
            let ending = self.unsaid.is_some() || self.drains.iter().any(Drain::is_ending);
            if (std::mem::take(&mut self.eyes.hold) || ending) && self.is_lost() {
                return Ok(End::Lost);
            }
            if std::mem::take(&mut self.eyes.job) && self.kill_at.is_none() {
                if is_cancelled(&self.job) {
                    self.guard.signal(15);
                    // A stopped one hears it only when it goes on.
                    self.guard.signal(18);
                    self.kill_at = Some(Instant::now() + TERM_WAIT);
                } else if !self.job.fs.exists(&Place::Jobs.dir(self.job.msgid())) {
                    // Somebody removed the job by hand.
                    return Ok(End::Kill(Outcome::Cancelled));
                }
            }
            while std::mem::take(&mut self.eyes.guard) {
                if !self.hear_guard() {
                    return Ok(End::Kill(Outcome::Interrupted));
                }
            }
            if std::mem::take(&mut self.eyes.control) {
                self.hear_control()?;
            }
            if let Some(outcome) = self.feed()? {
                return Ok(End::Kill(outcome));
            }
            self.drain()?;
            if let Some(end) = self.end() {
                return Ok(end);
            }
            self.wait();
        }
    }

    /// Sees to it that others see us; has another keeper the job? A look
    /// that fails is repeated.
    fn is_lost(&mut self) -> bool {
        self.eyes.watch_lock();
        match self.hold.settle() {
            Ok(Grip::Renewed) => {
                self.eyes.watch_lock();
                if let Some(lock) = self.hold.fd() {
                    self.guard.hold(lock);
                }
                false
            }
            Ok(Grip::Lost) => true,
            Ok(Grip::Firm | Grip::Open) | Err(_) => false,
        }
    }

    fn end(&self) -> Option<End> {
        let over = |drain: &Drain| drain.state == Drained::Over;
        let stuck = |drain: &Drain| matches!(drain.state, Drained::Window | Drained::Disk(_));
        let Some(kill_at) = self.kill_at else {
            // Nobody takes what is held back, so there will be no more room.
            if self.job.repeat && self.drains.iter().any(|drain| drain.state == Drained::Window) {
                return Some(End::Kill(Outcome::OutputTooLarge(self.quota)));
            }
            let status = self.status.as_ref().filter(|_| self.drains.iter().all(over));
            return status.map(|status| End::Natural(status.clone()));
        };
        match self.status {
            Some(_) if self.drains.iter().all(over) => Some(End::Natural(cancelled(&self.job))),
            // Nobody waits for what a cancelled command still had to say.
            Some(_) if self.drains.iter().any(stuck) => Some(End::Kill(cancelled(&self.job))),
            Some(_) | None if Instant::now() >= kill_at => Some(End::Kill(cancelled(&self.job))),
            Some(_) | None => None,
        }
    }

    /// Takes in what the guard says; false if it is dead.
    fn hear_guard(&mut self) -> bool {
        while let Some(word) = self.guard.hear() {
            match word {
                Word::Ended(outcome) => self.status = Some(outcome),
                Word::Closed => self.feed.close(),
                Word::Gone => return false,
                Word::Started(_) | Word::Failed(_) => {}
            }
        }
        true
    }

    fn hear_control(&mut self) -> Result<(), Error> {
        while let Some(listener) = &mut self.listener {
            match listener.hear() {
                Ok(Heard::Said(Control::Signal(number))) if (1..=31).contains(&number) => self.guard.signal(number),
                Ok(Heard::Said(Control::Close(Chan::STDOUT))) => self.drains[0].reader_gone(),
                Ok(Heard::Said(Control::Close(Chan::STDERR))) => self.drains[1].reader_gone(),
                Ok(Heard::Said(_)) => {}
                Ok(Heard::Nothing) => break,
                Ok(Heard::End | Heard::Broken) => self.listener = None,
                // The rest of what is said is lost; the command needs none of it.
                Err(spool::fs::Error::Damaged { .. }) => self.listener = None,
                // Only its hint has no room; it will be heard again.
                Err(error) if error.passes().is_some() => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Feeds a piece; an outcome if the command is to be killed.
    fn feed(&mut self) -> Result<Option<Outcome>, Error> {
        if self.unsaid.is_some_and(|due| Instant::now() >= due) {
            self.unsaid = match self.logs.control.say(&Control::Close(Chan::STDIN)) {
                Err(error) if error.passes().is_some() => Some(Instant::now() + FULL_WAIT),
                other => other.map(|()| None)?,
            };
        }
        let due = self.feed.due().is_some_and(|due| Instant::now() >= due);
        let looked = std::mem::take(&mut self.eyes.stdin);
        if looked || due || matches!(self.fed, Fed::More) {
            self.fed = self.feed.step()?;
            let given = self.fed == Fed::More;
            if given {
                // What was given is mostly all there is.
                self.fed = self.feed.step()?;
            }
            match self.fed {
                Fed::Empty if given => self.drains.iter_mut().for_each(Drain::asked),
                Fed::End => self.guard.close_stdin(),
                Fed::ReaderGone => self.unsaid = Some(Instant::now()),
                Fed::Incomplete(at) => return Ok(Some(Outcome::InputIncomplete(at))),
                Fed::More | Fed::Full | Fed::Empty | Fed::Over => {}
            }
        }
        Ok(None)
    }

    fn drain(&mut self) -> Result<(), Error> {
        let logs: [&mut Writer; 2] = [&mut self.logs.stdout, &mut self.logs.stderr];
        let eyes = self.eyes.outputs.iter_mut();
        for ((drain, log), eye) in self.drains.iter_mut().zip(logs).zip(eyes) {
            let due = match drain.state {
                Drained::More => true,
                Drained::Gathering(until) | Drained::Disk(until) => Instant::now() >= until,
                Drained::Idle | Drained::Window | Drained::Over => false,
            };
            if std::mem::take(&mut eye.open) || due {
                drain.step(log)?;
            }
            if drain.state == Drained::Window && eye.watched.is_none() {
                eye.watched = self.eyes.watch.add(&eye.dir);
                // It may have moved before we watched.
                drain.step(log)?;
            }
            if drain.state != Drained::Window
                && let Some(watched) = eye.watched.take()
            {
                self.eyes.watch.remove(watched);
            }
        }
        Ok(())
    }

    /// Waits for whatever there is to wait for, and opens the eyes for it.
    fn wait(&mut self) {
        let now = Instant::now();
        let eyes = &mut self.eyes;
        let more = self.fed == Fed::More || self.drains.iter().any(|drain| drain.state == Drained::More);
        let timers = self.drains.iter().filter_map(|drain| match drain.state {
            Drained::Gathering(until) | Drained::Disk(until) => Some(until),
            Drained::More | Drained::Idle | Drained::Window | Drained::Over => None,
        });
        let timers = timers.chain(self.feed.due()).chain(self.unsaid).chain(self.kill_at).chain([eyes.next_look]);
        let timeout = timers.min().map_or(LOOK_EVERY, |until| until.saturating_duration_since(now));
        let timeout = if more { Duration::ZERO } else { timeout };

        let inotify = eyes.watch.fd();
        let mut fds = vec![PollFd::from_borrowed_fd(self.guard.fd(), PollFlags::IN)];
        fds.extend(inotify.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let first = fds.len();
        let wanted = if self.fed == Fed::Full { PollFlags::OUT } else { PollFlags::empty() };
        fds.extend(self.feed.pipe().map(|pipe| PollFd::new(pipe, wanted)));
        let second = fds.len();
        let mut polled = [false; 2];
        for (drain, polled) in self.drains.iter().zip(&mut polled) {
            let wanted = match drain.state {
                Drained::Idle => PollFlags::IN,
                // Its end is an event without being asked for.
                Drained::Gathering(_) => PollFlags::empty(),
                Drained::More | Drained::Window | Drained::Disk(_) | Drained::Over => continue,
            };
            if let Some(pipe) = drain.pipe() {
                fds.push(PollFd::new(pipe, wanted));
                *polled = true;
            }
        }
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        let _ = poll(&mut fds, Some(&timeout));
        let revents: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();

        eyes.guard |= !revents[0].is_empty();
        let mut outputs = revents[second..].iter();
        for (eye, _) in eyes.outputs.iter_mut().zip(polled).filter(|(_, polled)| *polled) {
            eye.open |= outputs.next().is_some_and(|flags| !flags.is_empty());
        }
        if inotify.is_some() && !revents[1].is_empty() {
            eyes.look();
        }
        if Instant::now() >= eyes.next_look {
            eyes.open_all();
        }
        let stdin = revents[first..second].first().copied().unwrap_or(PollFlags::empty());
        eyes.stdin |= stdin.contains(PollFlags::OUT);
        if stdin.contains(PollFlags::ERR) {
            self.feed.close();
            self.unsaid = Some(Instant::now());
        }
    }
}
