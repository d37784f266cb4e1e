//! Goes on with a job of ours that was left: by `-detach`, by a second INT, or
//! by a `plumb` that died.
//!
//! Whoever gets the job's lock is its one reader and writer, as the first
//! `plumb` was; any other reads along and takes nothing away. What was noted as
//! read is not given again; up to one write of a `plumb` that was killed may
//! repeat, unless `-offset` says where its output really ends.

use crate::args::{Attach, Request};
use crate::attend::{self, Role, Stance};
use crate::begin::{Job, home_failed};
use crate::bell::Over;
use crate::blocked::Blocked;
use crate::ending::{Ending, Reason};
use crate::presence::Presence;
use crate::screen::Screen;
use crate::{deliver, input, listen, threads_failed};
use job::submit;
use spool::damage::{self, Found};
use spool::fs::Fs;
use spool::home::Home;
use spool::layout::{self, Owner, Place, log_out};
use spool::name::{Chan, MsgId, Role as Side};
use spool::outcome::Outcome;
use spool::standing::{self, NOWHERE, SECRET_LOST, Standing, Unfound};
use spool::usage::Bounds;
use spool::{log, look};
use std::io::IsTerminal;
use std::sync::Arc;

/// Attends to the job that is wished for.
pub fn attach(request: &Request, wish: &Attach, screen: &Arc<Screen>) -> Result<Ending, Ending> {
    let home = Home::find().map_err(home_failed)?;
    let ours = home.username().map_err(home_failed)?;
    let fs = home.open_spool().map_err(home_failed)?;
    home.check().map_err(home_failed)?;
    let spool_key = home.spool_key().map_err(home_failed)?;
    let msgid = standing::find(&*fs, &wish.id).map_err(unfound)?;
    let failed = |error| failed_at(&*fs, msgid, error);
    let owner = ours_of(&*fs, msgid)?;
    let keys = look::sender_keys(&*fs, msgid, &spool_key, &ours).map_err(failed)?;
    let keys = match keys {
        Some(keys) => keys,
        None => {
            let outcome = standing::outcome(&*fs, msgid).map_err(failed)?;
            // Nothing that was not found says anything of a job that was removed meanwhile.
            ours_of(&*fs, msgid)?;
            // The loop ends the job, for nobody can take what came of it.
            layout::touch(&*fs, Place::Jobs, msgid);
            return Err(unreadable(outcome).for_job(msgid));
        }
    };
    let peers = home.peers(|error| screen.detail(error));
    let known = peers.get(&owner.username);
    let peer = known.map_or_else(|| "a peer that was removed".into(), |peer| peer.name.to_string());
    let settings = home.settings().map_err(home_failed)?;
    let bounds = known.map_or_else(Bounds::default, |peer| Bounds::new(&settings, &peer.policy.quota));

    let alone = Presence::take(fs.clone(), msgid).map_err(failed)?;
    let role = if alone.is_some() { Role::Again } else { Role::Along };
    let (bell, events) = listen()?;
    let over = || Over::new().map_err(threads_failed);
    let (root, over, unread) = (home.spool, over()?, over()?);
    let blocked = Blocked::default();
    let job = Job { fs, root, keys, compress: false, producer: None, over, unread, bounds, blocked };
    let failed = |error| failed_at(&*job.fs, msgid, error);
    let ended = log::ended_at(&*job.fs, &log_out(msgid, Chan::STDIN)).map_err(failed)?.is_some();
    let given = look::detached(&*job.fs, msgid).map_err(failed)? == Some(true);
    if given && !ended && role == Role::Again {
        lose_input(&job).map_err(failed)?;
    }
    let feeds = role == Role::Again && !ended && !given && !request.no_input;
    let mut presence = match alone {
        None => Presence::along(job.fs.clone(), msgid).map_err(failed)?,
        alone => alone,
    };
    // A loop that rests does not see what was lost of the output since.
    layout::touch(&*job.fs, Place::Jobs, msgid);
    if role == Role::Along {
        screen.note("another plumb has this job: its output is read along, nothing is sent");
    }
    if feeds {
        // If we die in the middle of a pipe, what we had read of it is lost: nobody may go on after that.
        if !std::io::stdin().is_terminal() {
            submit::reattach(&*job.fs, msgid).map_err(|error| Ending::failed(Reason::Disk, error).for_job(msgid))?;
        }
        input::start(&job, &bell, false).map_err(threads_failed)?;
    }
    deliver(&job, &bell, screen, role, wish.offset)?;
    let stance = Stance { role, feeds, now: false };
    let ending = attend::attend(&job, presence.as_mut(), &peer, stance, screen, &events);
    // The locks end with the process.
    std::mem::forget(presence);
    Ok(ending)
}

/// The input was given as a whole and has lost its END: nothing that is added could
/// be told from it, so the command is not to take the rest for all.
fn lose_input(job: &Job) -> Result<(), spool::fs::Error> {
    let (dir, stream) = job.outgoing(Chan::STDIN);
    if let Found::Damaged(damage) = damage::look(&*job.fs, &dir, &job.keys, stream, u64::MAX)? {
        // A full disk is no reason to go on without it: the loop ends such a job when nobody waits for it.
        let _ = submit::cancel_for(&*job.fs, job.msgid(), damage.facts());
    }
    Ok(())
}

fn disk_failed(error: spool::fs::Error) -> Ending {
    Ending::failed(Reason::Disk, error)
}

/// The end for a job of which something could not be opened: it may have been removed meanwhile.
fn failed_at(fs: &dyn Fs, msgid: MsgId, error: spool::fs::Error) -> Ending {
    let removed = if error.is_absent() { ours_of(fs, msgid).err() } else { None };
    removed.unwrap_or_else(|| disk_failed(error).for_job(msgid))
}

/// Whose job it is, if it is one that we asked for.
fn ours_of(fs: &dyn Fs, msgid: MsgId) -> Result<Owner, Ending> {
    let ending = match standing::of(fs, msgid).map_err(|error| disk_failed(error).for_job(msgid))? {
        Standing::Job(owner) if owner.role == Side::Sender => return Ok(owner),
        Standing::Job(_) | Standing::Arriving => {
            let what = "it was not asked for here; who asked for it attaches";
            Ending::failed(Reason::NoSuchJob, format!("job {msgid}: {what}"))
        }
        Standing::Lost(why) => Ending::lost(format!("job {msgid}: {why}")),
        Standing::Nowhere => Ending::failed(Reason::NoSuchJob, format!("job {msgid}: {NOWHERE}")),
    };
    Err(ending.for_job(msgid))
}

/// The end of a job whose output cannot be read, by what a mark says of it.
fn unreadable(outcome: Option<Outcome>) -> Ending {
    match outcome {
        Some(Outcome::Exited(_) | Outcome::Signal(_)) => {
            Ending { outcome, ..Ending::failed(Reason::OutputIncomplete, SECRET_LOST) }
        }
        None | Some(Outcome::Unknown) => Ending::lost(SECRET_LOST),
        Some(outcome) => Ending::of(outcome),
    }
}

fn unfound(unfound: Unfound) -> Ending {
    match unfound {
        Unfound::Bad(_) => Ending::failed(Reason::Usage, format!("-attach={unfound}")),
        Unfound::Nothing(_) | Unfound::Several(..) => Ending::failed(Reason::NoSuchJob, unfound),
        Unfound::Disk(error) => disk_failed(error),
    }
}
