//! The keeper as a process: whoever holds the lock of `running/<msgid>`, and is named by the job's last run.
//!
//! It survives the daemon that started it. The lock's file is removed by its
//! holder as the last act; one who waited for it finds that the name has left
//! the file, and takes a new one. A name that is lost before that is `hold.rs`.

use crate::account::Account;
use crate::batch::Arrival;
use crate::guard::Left;
use crate::hold::{self, Hold};
use crate::keeper::{Begin, Processes, Roster, Site, begin};
use crate::run::{patiently, run};
use crate::{Error, sys, tree};
use spool::name::MsgId;
use spool::outcome::Outcome;
use std::path::Path;
use std::time::Duration;

/// The processes of this machine.
pub const PROCESSES: Processes = Processes { lives: hold::lives, clear };
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
    let Some(mut hold) = Hold::take(site.fs.clone(), msgid)? else { return Ok(None) };
    let mut arrival = Arrival::Awaited;
    let (outcome, left) = loop {
        match patiently(|| begin(site, msgid, known, arrival))? {
            Begin::Nothing => break (None, Left::default()),
            Begin::Locked => return Err(Error::Ours(format!("the directory of job {msgid} stays locked"))),
            Begin::Ended(outcome) => break (Some(outcome), Left::default()),
            Begin::Await(waiting) => match waiting.stay(root, &mut hold)? {
                Some(came) => arrival = came,
                None => break (None, Left::default()),
            },
            Begin::Start(started) => break run(*started, &mut hold, root, account)?,
        }
    };
    hold.leave()?;
    left.leave();
    Ok(outcome)
}

/// Kills what an earlier run of this job has left; false if something is left all the same.
fn clear(msgid: MsgId) -> bool {
    tree::kill_marked(&format!("PLUMB_JOB={msgid}"), KILL_WAIT)
}
