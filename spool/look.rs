//! What lies in a directory of the spool: fills in what `phase.rs` decides on.
//!
//! Reading only, and never more than a step needs. A mark is [`Believed`] when
//! what it promises is there with the digest it names. What cannot be read is
//! an error, never an absence: on an absence things are removed.
//!
//! [`Believed`]: Belief::Believed

use crate::clock;
use crate::crypto::{REST_OVERHEAD, SpoolKey};
use crate::facts::Facts;
use crate::fs::{Fs, Result};
use crate::layout::{self, DETACHED, HELD, KEY, MESSAGE, ONETIME, ONETIME_PEM, Owner, PLUMB, Place, SEALED};
use crate::log;
use crate::name::{Chan, Digest, MsgId, Role};
use crate::outcome::Outcome;
use crate::phase::{Belief, Mark, QueueSeen, RecipientSeen, RqueueSeen, SenderSeen};
use crate::segment::JobKeys;
use crate::url::Sealed;

/// The largest message in bytes: 64 KiB and a recipe of 1 MiB.
pub const MESSAGE_MAX: usize = (1 << 20) + (64 << 10);
/// The same, sealed at rest: what the file `message` holds at most.
pub const MESSAGE_REST_MAX: usize = MESSAGE_MAX + REST_OVERHEAD;
/// The largest certificate in bytes.
pub const CERT_MAX: usize = 4 << 10;
/// The largest sealed message in bytes: header, certificate, records.
pub const SEALED_MAX: usize = MESSAGE_MAX + CERT_MAX + (4 << 10);

/// How long things may lie, in seconds of observed uptime.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Without any progress.
    pub idle_max: u64,
    /// A confirmed tombstone.
    pub tombstone: u64,
}

/// The digest of a file in a directory; `None` if it is lost.
pub fn digest(fs: &dyn Fs, path: &str, max: usize) -> Result<Option<Digest>> {
    Ok(fs.read_if_sound(path, max)?.map(|bytes| Digest::of(&bytes)))
}

/// The facts of a mark.
pub fn mark(fs: &dyn Fs, dir: &str, mark: Mark) -> Result<Option<Facts>> {
    Facts::read(fs, &format!("{dir}/{}", mark.name()))
}

/// Is the mark there, whatever it contains? For whoever asks again: trouble counts as no.
pub fn has(fs: &dyn Fs, dir: &str, mark: Mark) -> bool {
    fs.exists(&format!("{dir}/{}", mark.name()))
}

/// Is this job of a peer to end, or over although its keeper lives? Both marks count by their names.
pub fn is_to_end(fs: &dyn Fs, msgid: MsgId) -> bool {
    let dir = Place::Jobs.dir(msgid);
    has(fs, &dir, Mark::Cancel) || has(fs, &dir, Mark::Over)
}

/// The outcome that `done` gives a job that we asked for. A `done` without one is
/// as good as none: the recipient is asked again.
pub fn done(fs: &dyn Fs, msgid: MsgId) -> Result<Option<Outcome>> {
    Ok(mark(fs, &Place::Jobs.dir(msgid), Mark::Done)?.and_then(|facts| facts.value("outcome")))
}

fn belief(there: bool, holds: impl FnOnce() -> Result<bool>) -> Result<Belief> {
    Ok(match there {
        false => Belief::Absent,
        true if holds()? => Belief::Believed,
        true => Belief::Doubted,
    })
}

/// Seconds since the latest of these marks was put down, or since birth.
fn idle(fs: &dyn Fs, dir: &str, owner: Option<&Owner>, marks: &[Mark]) -> Result<u64> {
    let alive = log::hinted(fs, &format!("{dir}/alive"))?;
    let mut latest = alive.max(owner.map_or(0, |owner| owner.born));
    for &name in marks {
        let at = mark(fs, dir, name)?.and_then(|facts| facts.value("at"));
        latest = latest.max(at.unwrap_or(0));
    }
    Ok(clock::uptime(fs)?.saturating_sub(latest))
}

/// The facts of `send.ok`, `recv.req` and `recv.rdy`: what `snd` says.
pub fn sealed_facts(sealed: &Sealed) -> Facts {
    Facts::new().with("digest", sealed.digest).with("length", sealed.length).with("key", sealed.key)
}

/// Reads what `sealed_facts` wrote.
pub fn sealed(facts: &Facts) -> Option<Sealed> {
    Some(Sealed { digest: facts.value("digest")?, length: facts.value("length")?, key: facts.value("key")? })
}

/// Looks at `queue/<msgid>`. `opens` says whether the message file's content is
/// the message that the job asked for, `valid` whether a receipt is.
pub fn queue(
    fs: &dyn Fs,
    msgid: MsgId,
    ages: &Ages,
    opens: impl Fn(&[u8], Option<Digest>) -> bool,
    valid: impl Fn(Digest, Digest) -> bool,
) -> Result<QueueSeen> {
    let (dir, job_dir) = (Place::Queue.dir(msgid), Place::Jobs.dir(msgid));
    let (owner, job) = (Owner::read(fs, &dir)?, Owner::read(fs, &job_dir)?);
    let wanted = job.as_ref().and_then(|job| job.digest).or(owner.as_ref().and_then(|owner| owner.digest));
    let receipt_in = |facts: Option<Facts>| {
        let receipt = facts.and_then(|facts| facts.value("receipt"));
        receipt.zip(wanted).is_some_and(|(receipt, digest)| valid(receipt, digest))
    };
    let there = |dir: &str, mark: Mark| fs.is_there(&format!("{dir}/{}", mark.name()));
    let key = digest(fs, &format!("{dir}/{ONETIME_PEM}"), CERT_MAX)?;
    let believed_rdy = || {
        let facts = mark(fs, &dir, Mark::SendRdy)?;
        Ok(facts.is_some_and(|facts| key.is_some() && facts.value("key") == key))
    };
    let believed_ok = || {
        let facts = mark(fs, &dir, Mark::SendOk)?.and_then(|facts| sealed(&facts));
        let Some(sealed) = facts else { return Ok(false) };
        Ok(Some(sealed.digest) == digest(fs, &format!("{dir}/{SEALED}"), SEALED_MAX)?)
    };
    let message = fs.read_if_sound(&format!("{dir}/{MESSAGE}"), MESSAGE_REST_MAX)?;
    Ok(QueueSeen {
        message: owner.is_some() && message.is_some_and(|bytes| opens(&bytes, wanted)),
        send_rdy: belief(there(&dir, Mark::SendRdy)?, believed_rdy)?,
        send_ok: belief(there(&dir, Mark::SendOk)?, believed_ok)?,
        ack_req: belief(there(&dir, Mark::AckReq)?, || Ok(receipt_in(mark(fs, &dir, Mark::AckReq)?)))?,
        ack_ok: there(&dir, Mark::AckOk)?,
        job: job.is_some_and(|job| job.role == Role::Sender),
        receipt: receipt_in(mark(fs, &job_dir, Mark::Receipt)?),
        cancel: there(&job_dir, Mark::Cancel)? || done(fs, msgid)?.is_some(),
        wanted: is_wanted(fs, msgid)?,
        too_old: idle(fs, &dir, owner.as_ref(), &[])? > ages.idle_max,
    })
}

/// The digest of the one-time certificate that `peer.ok` promises in `dir`, if
/// it is there with its private half, both unaltered.
pub fn key_aside(fs: &dyn Fs, dir: &str) -> Result<Option<Digest>> {
    let Some(facts) = mark(fs, dir, Mark::PeerOk)? else { return Ok(None) };
    let Some((cert, key)) = key_digests(fs, dir)? else { return Ok(None) };
    Ok((facts.value("cert") == Some(cert) && facts.value("private") == Some(key)).then_some(cert))
}

/// The facts of `peer.ok` for the key that lies in `dir/onetime`.
pub fn key_facts(fs: &dyn Fs, dir: &str) -> Result<Option<Facts>> {
    let digests = key_digests(fs, dir)?;
    Ok(digests.map(|(cert, key)| Facts::new().with("cert", cert).with("private", key)))
}

fn key_digests(fs: &dyn Fs, dir: &str) -> Result<Option<(Digest, Digest)>> {
    let cert = digest(fs, &format!("{dir}/{ONETIME}/cert.pem"), CERT_MAX)?;
    let key = digest(fs, &format!("{dir}/{ONETIME}/key"), CERT_MAX)?;
    Ok(cert.zip(key))
}

/// Looks at `rqueue/<msgid>`.
pub fn rqueue(fs: &dyn Fs, msgid: MsgId, ages: &Ages) -> Result<RqueueSeen> {
    let dir = Place::Rqueue.dir(msgid);
    let owner = Owner::read(fs, &dir)?;
    let aside = key_aside(fs, &dir)?;
    let there = |mark: Mark| fs.is_there(&format!("{dir}/{}", mark.name()));
    let said = |name| {
        let said = mark(fs, &dir, name)?.and_then(|facts| sealed(&facts));
        Ok(said.filter(|said| Some(said.key) == aside))
    };
    let fetched = || {
        let Some(said) = said(Mark::RecvRdy)? else { return Ok(false) };
        Ok(Some(said.digest) == digest(fs, &format!("{dir}/{SEALED}"), SEALED_MAX)?)
    };
    Ok(RqueueSeen {
        job: fs.is_dir(&Place::Jobs.dir(msgid))?,
        cancel: there(Mark::Cancel)?,
        too_old: idle(fs, &dir, owner.as_ref(), &[])? > ages.idle_max,
        owner: owner.is_some(),
        key: key_digests(fs, &dir)?.is_some(),
        peer_ok: belief(there(Mark::PeerOk)?, || Ok(aside.is_some()))?,
        recv_req: belief(there(Mark::RecvReq)?, || Ok(said(Mark::RecvReq)?.is_some()))?,
        recv_rdy: belief(there(Mark::RecvRdy)?, fetched)?,
    })
}

/// Looks at `jobs/<msgid>` where we are the sender. `keys` opened its secret.
pub fn sender(fs: &dyn Fs, msgid: MsgId, ages: &Ages, owner: &Owner, keys: bool, receipt: bool) -> Result<SenderSeen> {
    let dir = Place::Jobs.dir(msgid);
    let incoming = Role::Recipient.produces();
    let log = |chan: Chan| layout::log_in(msgid, chan);
    let ended = |chan: Chan| Ok::<bool, crate::fs::Error>(log::ended_at(fs, &log(chan))?.is_some());
    let (mut all_ended, mut broken) = (true, false);
    for &chan in incoming {
        all_ended &= ended(chan)?;
        broken |= fs.is_there(&format!("{}/broken", log(chan)))?;
    }
    let there = |mark: Mark| fs.is_there(&format!("{dir}/{}", mark.name()));
    Ok(SenderSeen {
        key: keys,
        queue: fs.is_dir(&Place::Queue.dir(msgid))?,
        held: fs.is_there(&layout::hold(msgid))?,
        receipt,
        sent: may_have_left(fs, msgid, owner)?,
        cancel: there(Mark::Cancel)?,
        wanted: is_wanted(fs, msgid)?,
        attended: is_attended(fs, msgid)?,
        ended: all_ended,
        control_ended: ended(Chan::CONTROL)?,
        broken,
        input_ended: input_ended(fs, msgid)?,
        patience_over: false,
        done: done(fs, msgid)?.is_some(),
        too_old: idle(fs, &dir, Some(owner), &[Mark::Cancel, Mark::Done])? > ages.idle_max,
    })
}

/// Does a living `plumb` hold the lock of a job that we asked for?
pub fn is_attended(fs: &dyn Fs, msgid: MsgId) -> Result<bool> {
    fs.is_locked(&Place::Jobs.file(msgid, PLUMB))
}

/// Does somebody wait for a job that we asked for, or is it to go on by itself?
fn is_wanted(fs: &dyn Fs, msgid: MsgId) -> Result<bool> {
    Ok(match detached(fs, msgid)? {
        Some(false) => true,
        Some(true) if input_ended(fs, msgid)? => true,
        Some(true) | None => is_attended(fs, msgid)?,
    })
}

/// Has our own input of a job its END?
fn input_ended(fs: &dyn Fs, msgid: MsgId) -> Result<bool> {
    Ok(log::ended_at(fs, &layout::log_out(msgid, Chan::STDIN))?.is_some())
}

/// May a `snd` of this message have left? "Not started" is said only where this
/// is false, so whatever the recipient can have caused counts beside the mark
/// `sent`. That is a hint: after another boot it may be lost, so it counts as there.
/// A directory that misses a log with which it was made misses perhaps the marks as well.
pub fn may_have_left(fs: &dyn Fs, msgid: MsgId, owner: &Owner) -> Result<bool> {
    let dir = Place::Jobs.dir(msgid);
    let marks = [(&dir, Mark::Sent), (&dir, Mark::Receipt), (&Place::Queue.dir(msgid), Mark::SendOk)];
    for (dir, mark) in marks {
        if fs.is_there(&format!("{dir}/{}", mark.name()))? {
            return Ok(true);
        }
    }
    for &chan in Role::Recipient.produces() {
        let log = layout::log_in(msgid, chan);
        if !fs.is_dir(&log)? || !log::segments(fs, &log)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(owner.boot != clock::boot())
}

/// Is this job to live without a `plumb`? Says then whether its input had its
/// END when it was left alone: if that is gone since, the input broke off. A
/// damaged mark still says that the job was left, so its end is kept for its owner.
pub fn detached(fs: &dyn Fs, msgid: MsgId) -> Result<Option<bool>> {
    let path = Place::Jobs.file(msgid, DETACHED);
    match Facts::read(fs, &path)? {
        Some(facts) => Ok(Some(facts.text("input") != Some("open"))),
        None => Ok(fs.is_there(&path)?.then_some(true)),
    }
}

/// Looks at `jobs/<msgid>` where we are the recipient. `message` says whether it opens.
pub fn recipient(
    fs: &dyn Fs,
    msgid: MsgId,
    ages: &Ages,
    owner: Option<&Owner>,
    message: bool,
) -> Result<RecipientSeen> {
    let dir = Place::Jobs.dir(msgid);
    let there = |name: &str| fs.is_there(&format!("{dir}/{name}"));
    let has = |mark: Mark| there(mark.name());
    let end = |chan: Chan| log::ended_at(fs, &layout::log_out(msgid, chan));
    let (control, stdout, stderr) = (end(Chan::CONTROL)?, end(Chan::STDOUT)?, end(Chan::STDERR)?);
    let taken = |chan: Chan, end: Option<u64>| {
        let Some(end) = end else { return Ok(false) };
        log::hinted(fs, &format!("{}/got", layout::log_out(msgid, chan))).map(|got| got >= end)
    };
    let idle = idle(fs, &dir, owner, &[Mark::Cancel, Mark::RunExit, Mark::Over])?;
    Ok(RecipientSeen {
        owner: owner.is_some(),
        message,
        unclean: there(ONETIME)? || there(SEALED)? || !has(Mark::RecvOk)?,
        acked: has(Mark::Acked)?,
        cancel: has(Mark::Cancel)?,
        started: has(Mark::RunStarted)? || has_spoken(fs, msgid)?,
        exit: has(Mark::RunExit)?,
        outputs_ended: stdout.is_some() && stderr.is_some(),
        control_ended: control.is_some(),
        keeper: fs.is_locked(&layout::running(msgid))?,
        drained: taken(Chan::CONTROL, control)? && taken(Chan::STDOUT, stdout)? && taken(Chan::STDERR, stderr)?,
        over: has(Mark::Over)?,
        remains: there(MESSAGE)? || there(ONETIME)? || there(SEALED)? || there("in")? || there("out")? || there(HELD)?,
        too_old: idle > ages.idle_max,
        tombstone_old: idle > ages.tombstone,
    })
}

/// Does output of the command lie in its logs? Then it was started, whatever became of the mark.
pub fn has_spoken(fs: &dyn Fs, msgid: MsgId) -> Result<bool> {
    for chan in [Chan::STDOUT, Chan::STDERR] {
        if log::has_data(fs, &layout::log_out(msgid, chan))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The keys of a job that we asked for, from its secret under the spool key;
/// `None` if that is lost, or does not open.
pub fn sender_keys(
    fs: &dyn Fs,
    msgid: MsgId,
    spool_key: &SpoolKey,
    ours: &crate::name::Username,
) -> Result<Option<JobKeys>> {
    let dir = Place::Jobs.dir(msgid);
    let owner = Owner::read(fs, &dir)?.filter(|owner| owner.role == Role::Sender);
    let sealed = fs.read_if_sound(&format!("{dir}/{KEY}"), 256)?;
    Ok(owner.zip(sealed).and_then(|(owner, sealed)| {
        let secret = spool_key.open(&layout::rest_label(KEY, msgid), &sealed).ok()?;
        let secret = crate::crypto::Key(secret.as_slice().try_into().ok()?);
        Some(JobKeys { secret, sender: ours.clone(), recipient: owner.username, msgid })
    }))
}
