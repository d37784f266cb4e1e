//! The keeper as a process: whoever holds the lock of `running/<msgid>`.
//!
//! It survives the daemon that started it. The lock's file is removed by its
//! holder as the last act; one who waited for it finds that the name has left
//! the file, and takes a new one, so two never hold it at once.

use crate::account::Account;
use crate::batch::Arrival;
use crate::keeper::{Begin, Roster, Site, begin};
use crate::run::{Left, patiently, run};
use crate::{Error, sys, tree};
use spool::layout::{Place, running};
use spool::name::MsgId;
use spool::outcome::Outcome;
use spool::phase::Mark;
use std::path::Path;
use std::time::Duration;

/// How long another's lock may last before we believe in another keeper:
/// lookers hold it for a moment.
const RUNNING_WAIT: Duration = Duration::from_secs(1);
/// How long what an interrupted run has left may take to die.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Prepares a process for being a keeper: a session of its own, no descriptor of
/// its starter's stays open, and no terminal's end reaches it. Call it first of
/// all, with one thread.
pub fn detach() {
    // It fails for a leader of a session, which needs none.
    let _ = rustix::process::setsid();
    sys::close_inherited();
    sys::ignore(nix::sys::signal::Signal::SIGHUP);
}

/// Keeps one job: does what is to be done, and returns when the job has ended
/// here, with its outcome (`None`: there was nothing to do, or another keeper
/// lives). `root` is the spool's directory. The process must have one thread.
/// What a crash or an error leaves, the next keeper completes.
pub fn keep(
    site: &Site,
    root: &Path,
    account: &Account,
    msgid: MsgId,
    known: &Roster,
) -> Result<Option<Outcome>, Error> {
    let fs = &site.fs;
    let Some(lock) = fs.lock_file(&running(msgid), RUNNING_WAIT)? else { return Ok(None) };
    let has = |mark: Mark| fs.exists(&Place::Jobs.file(msgid, mark.name()));
    let mut clear = true;
    if has(Mark::RunStarted) && !has(Mark::RunExit) {
        clear = tree::kill_marked(&format!("PLUMB_JOB={msgid}"), KILL_WAIT);
    }
    let mut arrival = Arrival::Awaited;
    let (outcome, left) = loop {
        match patiently(|| begin(site, msgid, known, arrival))? {
            Begin::Nothing => break (None, Left::default()),
            Begin::Locked => return Err(Error::Ours(format!("the directory of job {msgid} stays locked"))),
            Begin::Ended(outcome) => break (Some(outcome), Left::default()),
            Begin::Await(waiting) => arrival = waiting.stay(root)?,
            Begin::Start(_) if !clear => {
                return Err(Error::Ours(format!("what job {msgid} started before cannot be killed")));
            }
            Begin::Start(started) => {
                let (outcome, left) = run(*started, root, account)?;
                break (Some(outcome), left);
            }
        }
    };
    fs.remove(&running(msgid))?;
    drop(lock);
    left.leave();
    Ok(outcome)
}
