//! What lies here of one message: fills in what `answer.rs` decides on.
//!
//! Reading only, in an order that a delivery in between cannot deceive:
//! `rqueue`, then `jobs`, then `rqueue` again, for a message moves from the
//! first to the second by one rename. What is another peer's is nobody's.

use crate::answer::{Incoming, Job, Seen};
use spool::fs::{Error, Fs};
use spool::layout::{Owner, Place};
use spool::look;
use spool::name::{Digest, KeyId, MsgId, Username};
use spool::phase::Mark;

/// Why nothing can be said of a message.
#[derive(Debug)]
pub enum Unseen {
    /// It belongs to another peer, or to nobody who could be named: the answer is
    /// a stranger's, which moves nothing.
    Foreign,
    /// Our disk does not say at the moment: the answer is LATER.
    Disk(Error),
}

impl From<Error> for Unseen {
    fn from(error: Error) -> Unseen {
        Unseen::Disk(error)
    }
}

/// Whose a directory is.
enum Whose {
    Absent,
    Theirs(Owner),
    Foreign,
    Unbelievable,
}

/// A name that leads to no directory was never a message.
fn whose(fs: &dyn Fs, dir: &str, from: &Username) -> spool::fs::Result<Whose> {
    if !fs.is_dir(dir)? {
        return Ok(Whose::Absent);
    }
    Ok(match Owner::read(fs, dir)? {
        Some(owner) if owner.username == *from => Whose::Theirs(owner),
        Some(_) => Whose::Foreign,
        None if fs.is_dir(dir)? => Whose::Unbelievable,
        None => Whose::Absent,
    })
}

/// Looks at the three directories of a message for the peer `from`. `room` and
/// `stock` are left for whoever needs them.
pub fn observe(fs: &dyn Fs, from: &Username, msgid: MsgId) -> Result<Seen, Unseen> {
    let mut incoming = incoming(fs, from, msgid)?;
    let job = job(fs, from, msgid)?;
    if incoming.is_none() && job.is_none() {
        incoming = self::incoming(fs, from, msgid)?;
    }
    let queue = match whose(fs, &Place::Queue.dir(msgid), from)? {
        Whose::Absent => false,
        Whose::Theirs(_) => true,
        Whose::Foreign | Whose::Unbelievable => return Err(Unseen::Foreign),
    };
    Ok(Seen { queue, incoming, job, room: false, stock: false })
}

fn incoming(fs: &dyn Fs, from: &Username, msgid: MsgId) -> Result<Option<Incoming>, Unseen> {
    let dir = Place::Rqueue.dir(msgid);
    match whose(fs, &dir, from)? {
        Whose::Absent => return Ok(None),
        Whose::Theirs(_) => {}
        Whose::Foreign | Whose::Unbelievable => return Err(Unseen::Foreign),
    }
    let said = |mark| look::mark(fs, &dir, mark).map(|facts| facts.and_then(|facts| look::sealed(&facts)));
    Ok(Some(Incoming {
        key: look::key_aside(fs, &dir)?,
        noticed: said(Mark::RecvRdy)?.or(said(Mark::RecvReq)?),
        cancel: look::has(fs, &dir, Mark::Cancel),
    }))
}

fn job(fs: &dyn Fs, from: &Username, msgid: MsgId) -> Result<Option<Job>, Unseen> {
    let dir = Place::Jobs.dir(msgid);
    let role = match whose(fs, &dir, from)? {
        Whose::Absent => return Ok(None),
        Whose::Theirs(owner) => Some(owner.role),
        Whose::Foreign => return Err(Unseen::Foreign),
        // The name alone says that it was delivered.
        Whose::Unbelievable => None,
    };
    Ok(Some(Job {
        role,
        receipt: receipt(fs, msgid).is_some(),
        acked: look::has(fs, &dir, Mark::Acked),
        cancel: look::has(fs, &dir, Mark::Cancel),
        over: look::has(fs, &dir, Mark::Over),
    }))
}

/// The receipt that lies in a job.
pub fn receipt(fs: &dyn Fs, msgid: MsgId) -> Option<Digest> {
    look::mark(fs, &Place::Jobs.dir(msgid), Mark::Receipt).ok()??.value("receipt")
}

/// The one-time keys in stock.
pub fn stock(fs: &dyn Fs) -> Vec<KeyId> {
    let entries = fs.list("onetime").unwrap_or_default();
    entries.into_iter().filter(|entry| entry.is_dir).filter_map(|entry| entry.name.parse().ok()).collect()
}

/// Is this job this peer's, beyond doubt?
pub fn owns_job(fs: &dyn Fs, from: &Username, msgid: MsgId) -> spool::fs::Result<bool> {
    let owner = Owner::read(fs, &Place::Jobs.dir(msgid))?;
    Ok(owner.is_some_and(|owner| owner.username == *from))
}

/// Is this outgoing message for this peer, and sealed?
pub fn offers_message(fs: &dyn Fs, from: &Username, msgid: MsgId) -> spool::fs::Result<bool> {
    let dir = Place::Queue.dir(msgid);
    Ok(matches!(whose(fs, &dir, from)?, Whose::Theirs(_)) && look::has(fs, &dir, Mark::SendOk))
}
