//! A keeper's hold on its job: the lock by which others see that it lives, and the mark that names it.
//!
//! A lock is found by its name, `running/<msgid>`, and a name can be lost while
//! the lock is held. A run cannot be: its mark (`run.started`, or the last
//! `run.again.<k>`) names the keeper that began it. While that one lives no other
//! acts on the job, whoever has the lock: it takes the lock anew, and a keeper
//! that got it in between leaves. Invariant: of two keepers at most one writes
//! marks or logs, and neither takes a kill by the other for the command's own
//! end (doc/SPOOL.md#the-keeper).

use crate::{Error, tree};
use spool::clock;
use spool::facts::Facts;
use spool::fs::{Fs, Lock};
use spool::layout::{self, Place, running};
use spool::name::MsgId;
use spool::phase::Mark;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long another's lock may last before we believe in another keeper:
/// lookers hold it for a moment.
const RUNNING_WAIT: Duration = Duration::from_secs(1);
/// How often a lock that another keeper has is tried again.
const SETTLE_EVERY: Duration = Duration::from_millis(5);

/// The result of a look at a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grip {
    /// Others see by the lock that we live.
    Firm,
    /// They see it again: the name was lost, and the lock was taken anew.
    Renewed,
    /// Another has the lock, and has done nothing with it so far.
    Open,
    /// Another keeper has acted on the job: it is not ours any more.
    Lost,
}

/// The hold of a keeper that lives.
pub struct Hold {
    fs: Arc<dyn Fs>,
    msgid: MsgId,
    lock: Lock,
    /// The name was lost, and it is not yet known whether another keeper has acted since.
    doubted: bool,
}

impl Hold {
    /// Takes the lock; `None` if another has it.
    pub fn take(fs: Arc<dyn Fs>, msgid: MsgId) -> Result<Option<Hold>, Error> {
        let lock = lock(&*fs, msgid, RUNNING_WAIT)?;
        Ok(lock.map(|lock| Hold { fs, msgid, lock, doubted: false }))
    }

    /// For a keeper that no run names yet: looks whether the name is lost, and
    /// takes the lock anew. [`Grip::Open`]: another keeper has the job.
    pub fn keep(&mut self) -> Result<Grip, Error> {
        self.renew(RUNNING_WAIT)
    }

    /// For the keeper that the last run names: the same, and looks whether
    /// another keeper has acted while the name was lost. As long as another has
    /// the lock and has not acted, it waits: to act or to leave takes a moment. After a
    /// second it takes the name away from that lock.
    /// Never [`Grip::Open`].
    pub fn settle(&mut self) -> Result<Grip, Error> {
        let started = Instant::now();
        loop {
            let grip = self.renew(Duration::ZERO)?;
            self.doubted |= grip != Grip::Firm;
            if !self.doubted {
                return Ok(Grip::Firm);
            }
            // With the lock in hand what another keeper has done stands; without it there may be more to come.
            if self.is_lost()? {
                return Ok(Grip::Lost);
            }
            if grip != Grip::Open {
                self.doubted = false;
                return Ok(Grip::Renewed);
            }
            if started.elapsed() >= RUNNING_WAIT {
                // A keeper of this job would have left by now. The lock is that of another job, whose
                // name was exchanged with ours, and its keeper waits for us.
                self.fs.remove(&running(self.msgid))?;
            }
            std::thread::sleep(SETTLE_EVERY);
        }
    }

    fn renew(&mut self, wait: Duration) -> Result<Grip, Error> {
        if self.lock.is_at(&running(self.msgid))? {
            return Ok(Grip::Firm);
        }
        let Some(anew) = lock(&*self.fs, self.msgid, wait)? else { return Ok(Grip::Open) };
        tracing::warn!(msgid = %self.msgid, "the name of the keeper's lock was lost; it is taken anew");
        self.lock = anew;
        Ok(Grip::Renewed)
    }

    /// Has another keeper begun a run, or ended the job?
    fn is_lost(&self) -> Result<bool, Error> {
        let exit = self.fs.is_there(&Place::Jobs.file(self.msgid, Mark::RunExit.name()))?;
        Ok(exit || last_run(&*self.fs, self.msgid)?.is_some_and(|run| !is_ours(&run)))
    }

    /// The descriptor of the lock, for the guard.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.lock.fd()
    }

    /// The keeper's last act: removes the name, if it is still that of our lock, and lets go.
    pub fn leave(self) -> Result<(), Error> {
        let path = running(self.msgid);
        if self.lock.is_at(&path)? {
            self.fs.remove(&path)?;
        }
        Ok(())
    }
}

/// Takes the lock, in a directory that is made again if it is gone.
fn lock(fs: &dyn Fs, msgid: MsgId, wait: Duration) -> Result<Option<Lock>, Error> {
    let path = running(msgid);
    match fs.lock_file(&path, wait) {
        Err(error) if error.is_absent() => {
            layout::make_dirs(fs, path.rsplit_once('/').map_or("", |(dir, _)| dir))?;
            Ok(fs.lock_file(&path, wait)?)
        }
        other => Ok(other?),
    }
}

/// The facts by which the mark of a run names the keeper that makes it: within a
/// boot, its pid and the moment of its start name one process for good.
pub fn named() -> Facts {
    let pid = std::process::id();
    let since = tree::since(pid as i32);
    Facts::new().with("boot", clock::boot()).with("keeper", pid).with_some("since", since)
}

/// The mark of the last run of a job, if there was one. The mark counts by its name: a damaged one names no keeper.
pub fn last_run(fs: &dyn Fs, msgid: MsgId) -> Result<Option<Facts>, Error> {
    let path = match layout::runs_again(fs, msgid)? {
        0 => Place::Jobs.file(msgid, Mark::RunStarted.name()),
        times => layout::run_again(msgid, times),
    };
    Ok(if fs.is_there(&path)? { Some(Facts::read(fs, &path)?.unwrap_or_default()) } else { None })
}

/// Does this mark name us?
fn is_ours(run: &Facts) -> bool {
    let ours = named();
    ["boot", "keeper", "since"].into_iter().all(|name| run.text(name) == ours.text(name))
}

/// Does the keeper live that this mark names, and is it another process than this?
pub fn lives(run: &Facts) -> bool {
    let started = run.value::<i32>("keeper").and_then(tree::since);
    run.text("boot") == Some(&clock::boot()) && started.is_some() && started == run.value("since") && !is_ours(run)
}
