//! The sender's first act: a job directory, then, as the commit, its message.
//!
//! After a crash there is nothing, or a job directory that the loop cancels
//! because it has neither message nor a living `plumb`, or a queued message
//! (doc/SPOOL.md#queue).

use crate::Error;
use crate::message::{self, Start};
use spool::atomic;
use spool::crypto::{Key, SpoolKey};
use spool::facts::Facts;
use spool::fs::{Fs, Lock};
use spool::layout::{DETACHED, KEY, MESSAGE, Owner, PEER, PLUMB, Place, log_in, log_out, rest_label};
use spool::log;
use spool::name::{Chan, Digest, MsgId, Role, Username};
use spool::phase::Mark;
use spool::segment::JobKeys;
use std::time::Duration;

/// A job that has been queued, and is ours while the lock is held.
pub struct Submitted {
    /// The secret, and what it is bound to.
    pub keys: JobKeys,
    /// Held for the life of `plumb`; free means that nobody waits.
    pub lock: Lock,
}

/// Makes a job for `recipient`. `queue` commits it; until then nobody acts on it.
/// Job and message are written and synced together, for the disk's sake.
pub fn prepare(
    fs: &dyn Fs,
    spool_key: &SpoolKey,
    ours: &Username,
    recipient: &Username,
    start: &Start,
) -> Result<(Submitted, Prepared), Error> {
    let (msgid, secret) = (MsgId(rand::random()), Key::random());
    let message = message::write(&secret, start)?;
    let owner = Owner::new(fs, recipient.clone(), Role::Sender, Some(Digest::of(&message)))?;
    let (job, queued) = (Hidden::new(Place::Jobs, msgid), Hidden::new(Place::Queue, msgid));
    let made = (|| {
        let key = spool_key.seal(&rest_label(KEY, msgid), &secret.0);
        let message = spool_key.seal(&rest_label(MESSAGE, msgid), &message);
        job.write(fs, &owner, &[(KEY, &key)])?;
        start.priority.note(fs, &job.hidden)?;
        queued.write(fs, &owner, &[(MESSAGE, &message), (Mark::SendReq.name(), b"")])?;
        for (side, producer) in [("out", Role::Sender), ("in", Role::Recipient)] {
            for chan in producer.produces() {
                spool::layout::make_dirs(fs, &job.file(&format!("{side}/{chan}")))?;
            }
        }
        let lock = fs.lock_file(&job.file(PLUMB), Duration::ZERO)?;
        fs.sync_all(&[&job.file(PEER), &job.file(KEY), &queued.file(PEER), &queued.file(MESSAGE)])?;
        fs.sync_all(&[&job.hidden, &queued.hidden])?;
        job.appear(fs)?;
        lock.ok_or_else(|| Error::Ours("another process has the lock of a new job".into()))
    })();
    let lock = made.inspect_err(|_| [&job, &queued].iter().for_each(|dir| drop(fs.remove(&dir.hidden))))?;
    let keys = JobKeys { secret, sender: ours.clone(), recipient: recipient.clone(), msgid };
    Ok((Submitted { keys, lock }, Prepared { queued }))
}

/// A directory under a temporary name.
struct Hidden {
    hidden: String,
    dir: String,
}

impl Hidden {
    fn new(place: Place, msgid: MsgId) -> Hidden {
        let dir = place.dir(msgid);
        Hidden { hidden: atomic::temporary(&dir), dir }
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.hidden)
    }

    fn write(&self, fs: &dyn Fs, owner: &Owner, files: &[(&str, &[u8])]) -> Result<(), Error> {
        fs.make_dir(&self.hidden)?;
        owner.facts().hint(fs, &self.file(PEER))?;
        files.iter().try_for_each(|(name, bytes)| Ok(fs.hint(&self.file(name), bytes)?))
    }

    /// Gives it its name, durably; what is in it has been synced.
    fn appear(&self, fs: &dyn Fs) -> Result<(), Error> {
        Ok(fs.commit_dir(&self.hidden, &self.dir, &[])?)
    }
}

/// A message that is ready to be queued.
pub struct Prepared {
    queued: Hidden,
}

impl Prepared {
    /// Queues the message: durable afterwards, and the daemon sees it. If the
    /// disk was full, nothing is there and it may be tried again.
    pub fn queue(&self, fs: &dyn Fs) -> Result<(), Error> {
        self.queued.appear(fs)
    }
}

/// Lets the output of a job wait here, for whoever attaches later.
pub fn keep_output(fs: &dyn Fs, msgid: MsgId) -> Result<(), Error> {
    let outputs = [Chan::STDOUT, Chan::STDERR].map(|chan| log_in(msgid, chan));
    Ok(outputs.iter().try_for_each(|dir| log::widen(fs, dir, spool::usage::WHOLE_LOG))?)
}

/// From here on a queued job needs no `plumb`: durable afterwards. `input_ended`:
/// the input has its END; if that is lost later, the input broke off. Otherwise
/// somebody who attaches may go on with it.
pub fn detach(fs: &dyn Fs, msgid: MsgId, input_ended: bool) -> Result<(), Error> {
    keep_output(fs, msgid)?;
    let (dir, path) = (log_out(msgid, Chan::STDIN), Place::Jobs.file(msgid, DETACHED));
    if !input_ended {
        // Who goes on with it must find all of it.
        let segments: Vec<String> = log::segments(fs, &dir)?.iter().map(|n| format!("{dir}/{n}")).collect();
        fs.sync_all(&segments.iter().map(String::as_str).chain([dir.as_str()]).collect::<Vec<_>>())?;
    } else if spool::look::detached(fs, msgid)? == Some(false) {
        fs.remove(&path)?;
    }
    let facts = spool::facts::Facts::new().with("input", if input_ended { "ended" } else { "open" });
    match facts.commit(fs, &path) {
        Err(error) if !error.is_taken() => return Err(error.into()),
        _ => {}
    }
    spool::layout::touch(fs, Place::Jobs, msgid);
    Ok(())
}

/// From here on a job needs a `plumb` again, or nobody any more: durable afterwards.
pub fn reattach(fs: &dyn Fs, msgid: MsgId) -> Result<(), Error> {
    let path = Place::Jobs.file(msgid, DETACHED);
    if fs.exists(&path) {
        fs.remove(&path)?;
        match fs.sync_dir(&Place::Jobs.dir(msgid)) {
            // The loop has forgotten the job meanwhile, and this mark with it.
            Err(error) if error.is_absent() => return Ok(()),
            synced => synced?,
        }
        spool::layout::touch(fs, Place::Jobs, msgid);
    }
    Ok(())
}

/// Says that a job is to end, for this reason. Harmless if it is ending already.
/// The message's lock is taken if it is free at once, so that no `snd` leaves
/// meanwhile; the answer says whether that was so.
pub fn cancel(fs: &dyn Fs, msgid: MsgId, reason: &str) -> Result<bool, Error> {
    cancel_for(fs, msgid, Facts::new().with("reason", reason))
}

/// The same, with more facts than a reason.
pub fn cancel_for(fs: &dyn Fs, msgid: MsgId, facts: Facts) -> Result<bool, Error> {
    let lock = fs.lock_dir(&Place::Queue.dir(msgid), Duration::ZERO);
    let alone = matches!(lock, Ok(Some(_)));
    let facts = facts.with("at", spool::clock::uptime(fs)?);
    match facts.commit(fs, &Place::Jobs.file(msgid, Mark::Cancel.name())) {
        Err(error) if !error.is_taken() => return Err(error.into()),
        _ => {}
    }
    spool::layout::touch(fs, Place::Jobs, msgid);
    Ok(alone)
}
