//! What a step of a job does: asks the peer, and carries out the changes that
//! `state.rs` names, in their order (doc/SPOOL.md#jobs).

use super::{ALIVE_EVERY, ASK_EVERY, Decided, Job};
use crate::comm::{self, Given, Trouble, given};
use crate::net::Net;
use crate::state::{Came, Change, File, RecipientStep, SenderStep};
use crate::steps::{self, Steps};
use spool::atomic::SICK;
use spool::control::Listener;
use spool::damage::Damage;
use spool::facts::Facts;
use spool::fs::{Error, Lock};
use spool::layout::{self, HELD, MESSAGE, ONETIME, PRIORITY, Place, SEALED, log_in, log_out};
use spool::log::{self, Reader, Writer};
use spool::look;
use spool::name::{Chan, Digest, Role};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::retry::Ceiling;
use spool::segment::{self, EndKind};
use spool::url::Ask;
use std::time::Duration;

impl<N: Net> Job<N> {
    /// Does the step. `None`: it is not due, or nothing is to be done but wait.
    /// The lock is let go while a word is waited for, and taken again for what it changes.
    pub(super) async fn act(
        &mut self,
        decided: &Decided,
        lock: &mut Option<Lock>,
        steps: &mut Steps,
    ) -> Result<Option<(Came, Option<Outcome>)>, Trouble> {
        let fs = &*self.world.fs;
        let ask = match decided {
            Decided::Gone => return Ok(Some((Came::Worked, None))),
            Decided::Sender(step) => match step {
                SenderStep::Rest => return Ok(Some((Came::Worked, None))),
                SenderStep::Forget | SenderStep::Abort | SenderStep::Cancel => {
                    steps.did("end");
                    if *step == SenderStep::Cancel {
                        self.tell_loss(steps, "it is cancelled");
                    }
                    return Ok(Some((Came::Worked, None)));
                }
                SenderStep::Finish => return Ok(Some((Came::Worked, Some(self.sender_outcome()?)))),
                SenderStep::Tell | SenderStep::Cxl => Ask::Cxl,
                SenderStep::Stream => Ask::Sta,
            },
            Decided::Recipient(step, _) => match step {
                RecipientStep::Rest => return Ok(Some((Came::Worked, None))),
                // A delivery that could not be synced is not to be told of.
                RecipientStep::Clean if fs.exists(SICK) => {
                    return Err(Trouble::new("sick", "a sync has failed since the daemon started"));
                }
                RecipientStep::Forget | RecipientStep::Destroy | RecipientStep::Clean | RecipientStep::Cancel => {
                    steps.did("clean");
                    if *step == RecipientStep::Cancel {
                        self.tell_loss(steps, "it is cancelled");
                    }
                    return Ok(Some((Came::Worked, None)));
                }
                RecipientStep::Finish => {
                    let outcome = self.recipient_outcome()?;
                    if !self.has(Mark::Cancel)? {
                        self.tell_loss(steps, &format!("its outcome is \"{outcome}\""));
                    }
                    return Ok(Some((Came::Worked, Some(outcome))));
                }
                RecipientStep::Vouch => {
                    self.owed.ok_or_else(|| Trouble::new("no_peer", "its peer is not known here"))?;
                    steps.did("receipt");
                    return Ok(Some((Came::Worked, None)));
                }
                RecipientStep::Rcp => {
                    let receipt = self.receipt()?;
                    Ask::Rcp(receipt.ok_or_else(|| Trouble::new("disk", "the receipt changed meanwhile"))?)
                }
                RecipientStep::Ask | RecipientStep::Stream | RecipientStep::Release => Ask::Sta,
            },
        };
        let flows = matches!(
            decided,
            Decided::Sender(SenderStep::Stream) | Decided::Recipient(RecipientStep::Stream | RecipientStep::Rcp, false)
        );
        let now = self.world.clock.now();
        if flows && now < self.ask_at {
            return Ok(None);
        }
        let stream =
            matches!(decided, Decided::Sender(SenderStep::Stream) | Decided::Recipient(RecipientStep::Stream, _));
        if stream && !std::mem::replace(&mut self.flowed, true) {
            // A job whose logs have just begun to flow is there.
            self.ask_at = now + self.ask_every();
            return Ok(None);
        }
        let asks = if ask == Ask::Cxl && self.holds_receipt()? { vec![Ask::Sta, Ask::Cxl] } else { vec![ask] };
        *lock = None;
        let (came, outcome) = self.ask_in_turn(asks, steps).await?;
        *lock = self.lock()?;
        if lock.is_none() {
            // It was removed meanwhile: the next look finds nothing.
            return Ok(Some((Came::Silence, None)));
        }
        self.ask_at = now
            + if stream {
                self.backoff.reset();
                self.live()?;
                self.ask_every()
            } else {
                self.backoff.delay(self.ceiling().max(Ceiling::Foreground), &*self.world.rng)
            };
        Ok(Some((came, outcome)))
    }

    /// Asks the peer one question after the other, as long as the answer is OK.
    async fn ask_in_turn(&self, asks: Vec<Ask>, steps: &mut Steps) -> Result<(Came, Option<Outcome>), Trouble> {
        let peer = self.peer.clone().ok_or_else(|| Trouble::new("no_peer", "its peer is not known here"))?;
        let mut last = (Came::Silence, None);
        for ask in asks {
            let verb = ask.verb();
            let reply = comm::ask(&self.world, &peer, ask, self.msgid).await?;
            steps.heard();
            let came = comm::came(&reply);
            steps.did(&format!("{verb} {}", steps::word(came)));
            let outcome = match (came, given(&reply)) {
                (_, Some(Given::Outcome(outcome))) => Some(outcome),
                (Came::Gone, _) => Some(Outcome::Unknown),
                _ => None,
            };
            last = (came, outcome);
            if came != Came::Ok {
                break;
            }
        }
        Ok(last)
    }

    /// Has the recipient of this job of ours confirmed that it has the message? If it lost the job since,
    /// `cxl` would have it make a tombstone that says "not started", so `sta` is asked before.
    fn holds_receipt(&self) -> Result<bool, Trouble> {
        self.owner.as_ref().map_or(Ok(false), |owner| self.receipt_is_valid(owner))
    }

    /// Notes, once in a while, that a job whose logs flow does not lie idle.
    fn live(&self) -> Result<(), Trouble> {
        let (fs, path) = (&*self.world.fs, Place::Jobs.file(self.msgid, "alive"));
        let uptime = spool::clock::uptime(fs)?;
        if log::hinted(fs, &path)?.saturating_add(ALIVE_EVERY) < uptime {
            log::hint(fs, &path, uptime)?;
        }
        Ok(())
    }

    pub(super) fn ask_every(&self) -> Duration {
        ASK_EVERY / 2 + Duration::from_millis(self.world.rng.below(ASK_EVERY.as_millis() as u64))
    }

    /// Our receipt, if it lies here and is right as far as that can be known.
    pub(super) fn receipt(&self) -> Result<Option<Digest>, Trouble> {
        let facts = look::mark(&*self.world.fs, &Place::Jobs.dir(self.msgid), Mark::Receipt)?;
        let receipt = facts.and_then(|facts| facts.value("receipt"));
        Ok(receipt.filter(|receipt| self.owed.is_none_or(|owed| owed == *receipt)))
    }

    /// Leaves a notice of what was lost, if that is why the job ends.
    fn tell_loss(&self, steps: &mut Steps, so: &str) {
        if let Some(loss) = self.loss {
            tracing::warn!("job {}: {loss}; {so}", self.msgid);
            steps.notice(&format!("{loss}; {so}"));
        }
    }

    /// What is put down when nothing more will come from the recipient.
    fn sender_outcome(&self) -> Result<Outcome, Trouble> {
        let Some(owner) = &self.owner else { return Ok(Outcome::Unknown) };
        if let Some(outcome) = self.told_outcome()? {
            return Ok(outcome);
        }
        let sent = look::may_have_left(&*self.world.fs, self.msgid, owner)?;
        Ok(if sent { Outcome::Unknown } else { Outcome::NotStarted })
    }

    /// How the command of this job of ours ended, if that and all of its output are here.
    fn told_outcome(&self) -> Result<Option<Outcome>, Trouble> {
        let Some(keys) = self.keys.clone() else { return Ok(None) };
        for &chan in Role::Recipient.produces() {
            if log::ended_at(&*self.world.fs, &log_in(self.msgid, chan))?.is_none() {
                return Ok(None);
            }
        }
        let log = |chan| (log_in(self.msgid, chan), segment::Stream { chan, producer: Role::Recipient });
        let (dir, stream) = log(Chan::CONTROL);
        let control = Reader::open(self.world.fs.clone(), &dir, keys.clone(), stream);
        let told = match control.and_then(|log| Listener::new(log).hear_exit()) {
            Err(Error::Damaged { .. }) => return Ok(None),
            other => other?,
        };
        for chan in [Chan::STDOUT, Chan::STDERR] {
            let (dir, stream) = log(chan);
            let end = log::Copy::open(self.world.fs.clone(), &dir, keys.clone(), stream)?.end();
            // A command whose output broke off has no success, whatever its EXIT says.
            if let (Some(Outcome::Exited(_) | Outcome::Signal(_)), Some(end)) = (&told, end)
                && end.kind == EndKind::Aborted
            {
                return Ok(Some(Outcome::OutputIncomplete(end.length)));
            }
        }
        Ok(told)
    }

    fn has(&self, mark: Mark) -> Result<bool, Trouble> {
        Ok(self.world.fs.is_there(&Place::Jobs.file(self.msgid, mark.name()))?)
    }

    /// What is put down when a job that we run is over. A directory that does not
    /// say whose it is may be anything, so nothing is claimed of it.
    fn recipient_outcome(&self) -> Result<Outcome, Trouble> {
        if self.owner.is_none() {
            return Ok(Outcome::Unknown);
        }
        let exit = look::mark(&*self.world.fs, &Place::Jobs.dir(self.msgid), Mark::RunExit)?;
        let cancel = look::mark(&*self.world.fs, &Place::Jobs.dir(self.msgid), Mark::Cancel)?;
        let damaged = cancel.and_then(|cancel| Damage::told(&cancel)).filter(|(chan, _)| *chan != Chan::CONTROL);
        Ok(match exit.and_then(|facts| facts.value("outcome")) {
            // It came to its end; what it said of that did not.
            Some(Outcome::Exited(_) | Outcome::Signal(_)) if damaged.is_some() => {
                Outcome::OutputIncomplete(damaged.map_or(0, |(_, plain)| plain))
            }
            Some(outcome) => outcome,
            None if self.has(Mark::RunStarted)? || self.has(Mark::RunExit)? => Outcome::Interrupted,
            None if look::has_spoken(&*self.world.fs, self.msgid)? => Outcome::Interrupted,
            None => Outcome::NotStarted,
        })
    }

    pub(super) fn apply(&mut self, change: Change, outcome: &Option<Outcome>) -> Result<(), Trouble> {
        let fs = &*self.world.fs;
        let file = |name: &str| Place::Jobs.file(self.msgid, name);
        match change {
            Change::PutInJob(mark) => {
                let reason = self.loss.filter(|_| mark == Mark::Cancel);
                let facts = Facts::new().with_some("outcome", outcome.as_ref()).with_some("reason", reason);
                steps::put_in_job(fs, self.msgid, mark, facts)?;
                if mark == Mark::Over {
                    self.lose_running()?;
                }
            }
            Change::Put(Mark::Receipt) => {
                Facts::new().with_some("receipt", self.owed).hint(fs, &file(Mark::Receipt.name()))?;
            }
            Change::Put(mark) => Facts::new().with("at", spool::clock::uptime(fs)?).hint(fs, &file(mark.name()))?,
            Change::Lose(File::Key) => fs.remove(&file(ONETIME))?,
            Change::Lose(File::Sealed) => {
                fs.remove(&file(SEALED))?;
                for mark in [Mark::PeerReq, Mark::PeerOk, Mark::RecvReq, Mark::RecvRdy] {
                    fs.remove(&file(mark.name()))?;
                }
            }
            Change::Abort => self.abort()?,
            Change::Destroy => {
                self.lose_running()?;
                for name in ["in", "out", HELD, MESSAGE, ONETIME, SEALED, PRIORITY] {
                    fs.remove(&file(name))?;
                }
                for mark in [Mark::PeerReq, Mark::PeerOk, Mark::RecvReq, Mark::RecvRdy, Mark::Cancel] {
                    fs.remove(&file(mark.name()))?;
                }
                (self.keys, self.owed) = (None, None);
            }
            Change::ForgetQueue => fs.remove(&Place::Queue.dir(self.msgid))?,
            Change::ForgetJob => {
                self.lose_running()?;
                fs.remove(&Place::Jobs.dir(self.msgid))?;
                self.world.forget(self.msgid);
            }
            Change::Keep(_)
            | Change::Lose(File::Certificate | File::Message)
            | Change::Take(_)
            | Change::Deliver
            | Change::ForgetRqueue => unreachable!("no step of a job has this change"),
        }
        Ok(())
    }

    /// Removes the lock of a keeper that was killed before it could.
    pub(super) fn lose_running(&self) -> Result<(), Trouble> {
        let (fs, path) = (&*self.world.fs, layout::running(self.msgid));
        if fs.exists(&path)
            && let Some(_lock) = fs.lock_file(&path, Duration::ZERO)?
        {
            fs.remove(&path)?;
        }
        Ok(())
    }

    /// Ends our input log in place of the `plumb` that is gone.
    fn abort(&self) -> Result<(), Trouble> {
        Ok(self.input()?.end(EndKind::Aborted)?)
    }

    /// Was our input broken off, by us or by a `plumb` that could not read it?
    /// Unknown counts as no: without its secret a job ends in another way.
    pub(super) fn has_aborted(&self) -> Result<bool, Trouble> {
        if self.keys.is_none() {
            return Ok(false);
        }
        Ok(self.input()?.ended().is_some_and(|end| end.kind == EndKind::Aborted))
    }

    fn input(&self) -> Result<Writer, Trouble> {
        let keys = self.keys.clone().ok_or_else(|| Trouble::new("disk", "the job's secret is lost"))?;
        let dir = log_out(self.msgid, Chan::STDIN);
        layout::make_dirs(&*self.world.fs, &dir)?;
        let stream = segment::Stream { chan: Chan::STDIN, producer: Role::Sender };
        Ok(Writer::open(self.world.fs.clone(), &dir, keys, stream)?)
    }
}
