//! `netplumb wait ID`: waits for the end of a job, and ends as its command did.
//!
//! Nothing is taken and nothing changed: the output of a job of ours is still
//! there for `plumb -attach=ID`.

use crate::fail::{self, NO_ID, fail};
use crate::jobs::outcome;
use crate::listing::{answer, clean, line};
use crate::logs;
use crate::view::{View, told};
use plumb::Ending;
use serde::Serialize;
use spool::fs::Fs;
use spool::layout::{KEY, Owner, Place, log_in};
use spool::look;
use spool::name::{Chan, MsgId, Role};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::wait::Watch;
use std::time::{Duration, Instant};

/// Not ended yet: try later.
const NOT_YET: u8 = 75;
/// How long a lost wake-up can keep us.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often one looks whether those live who move the job.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The words after the verb.
#[derive(clap::Args)]
#[command(after_help = "\
Exit status: that of the command, 128+N if signal N killed it. Otherwise as in the
last line of plumb: 74 its input broke off, 75 not started, 76 the outcome is not
known, 77 refused. 66: no such job. 75 also when --timeout is over.")]
pub struct Args {
    /// The job: its id, or the first digits of it.
    id: String,
    /// Gives up after so many seconds, with status 75.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The end as a line of JSON; later versions may add members.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    outcome: String,
    status: u8,
}

/// Does it; the exit status is the command's.
pub fn run(args: Args) -> u8 {
    let mut status = 0;
    let ran = answer(args.json, |out| {
        let Some(view) = View::open()? else { return Err(fail(NO_ID, "nothing was ever queued here")) };
        let msgid = view.find(&args.id)?.msgid;
        let ended = wait(&view, msgid, args.timeout.map(Duration::from_secs))?;
        let ending = Ending::of(ended.clone());
        status = ending.status();
        if args.json {
            let (id, outcome) = (msgid.to_string(), ended.to_string());
            return line(out, &Line { kind: "end", id, outcome, status });
        }
        Ok(writeln!(out, "{msgid}: {}", clean(&ended.to_string()))?)
    });
    match ran {
        Ok(()) => status,
        failed => fail::exit(failed),
    }
}

/// Waits for the end of a job.
fn wait(view: &View, msgid: MsgId, patience: Option<Duration>) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let watch = Watch::new();
    for dir in [Place::Jobs.dir(msgid), log_in(msgid, Chan::CONTROL)] {
        watch.add(&view.home.spool.join(dir));
    }
    let (mut troubles, mut asked) = (Vec::new(), None::<Instant>);
    loop {
        if let Some(outcome) = ended(view, msgid)? {
            return Ok(outcome);
        }
        if asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            let before = std::mem::replace(&mut troubles, view.troubles());
            troubles
                .iter()
                .filter(|trouble| !before.contains(trouble))
                .for_each(|trouble| eprintln!("{}", told(trouble)));
            asked = Some(Instant::now());
        }
        let left = patience.map_or(LOOK_EVERY, |patience| patience.saturating_sub(started.elapsed()));
        if left.is_zero() {
            return Err(fail(NOT_YET, format!("job {msgid} has not ended\n  hint: netplumb why {msgid}")));
        }
        watch.wait(&[], left.min(LOOK_EVERY));
    }
}

/// How a job ended, once nothing more of it will come.
pub fn ended(view: &View, msgid: MsgId) -> anyhow::Result<Option<Outcome>> {
    let (fs, dir) = (&*view.fs, Place::Jobs.dir(msgid));
    // A mark counts by its name; one whose outcome cannot be read leaves it unknown.
    if [Mark::Over, Mark::Done, Mark::RunExit].into_iter().any(|mark| look::has(fs, &dir, mark)) {
        let outcome = outcome(fs, &dir).and_then(|outcome| outcome.parse().ok());
        return Ok(Some(outcome.unwrap_or(Outcome::Unknown)));
    }
    let Some(owner) = Owner::read(fs, &dir)? else {
        let queued = fs.exists(&Place::Rqueue.dir(msgid)) || fs.exists(&dir);
        let gone = format!("job {msgid} is gone: its output was collected, or it was cancelled and forgotten");
        return if queued { Ok(None) } else { Err(fail(NO_ID, gone)) };
    };
    if owner.role == Role::Recipient {
        return Ok(None);
    }
    let ages = view.home.settings().unwrap_or_default().ages();
    let key = fs.exists(&format!("{dir}/{KEY}"));
    if !look::sender(fs, msgid, &ages, &owner, key, look::has(fs, &dir, Mark::Receipt))?.ended {
        return Ok(None);
    }
    Ok(Some(logs::end_held(fs, &view.job_keys(msgid)?).unwrap_or(Outcome::Unknown)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{hand_made, status};
    use spool::facts::Facts;

    #[test]
    fn it_waits_until_there_is_an_outcome_and_gives_up_when_told_to() {
        let hand = hand_made();
        let submitted = hand.submit(&["true"]);
        let msgid = submitted.keys.msgid;
        let early = wait(&hand.view, msgid, Some(Duration::from_millis(20)));
        assert_eq!(status(early.unwrap_err()), NOT_YET);
        let facts = Facts::new().with("outcome", Outcome::Interrupted);
        facts.hint(&*hand.view.fs, &Place::Jobs.file(msgid, "done")).unwrap();
        let outcome = wait(&hand.view, msgid, None).unwrap();
        assert_eq!((outcome.clone(), Ending::of(outcome).status()), (Outcome::Interrupted, 76));
    }

    #[test]
    fn a_job_that_is_gone_is_no_id() {
        let hand = hand_made();
        let msgid = MsgId([9; 20]);
        assert_eq!(status(wait(&hand.view, msgid, None).unwrap_err()), NO_ID);
        assert_eq!(Ending::of(Outcome::Exited(3)).status(), 3);
        assert_eq!(Ending::of(Outcome::Signal(9)).status(), 137);
    }
}
