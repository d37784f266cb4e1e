//! `netplumb wait ID`: waits for the end of a job, and ends as its command did.
//!
//! Nothing is taken and nothing changed: the output of a job of ours is still
//! there for `plumb -attach=ID`. The daemon is asked to look at the job once in a
//! while, for damage to a job that rests is no event.

use crate::fail::{self, NO_ID, fail};
use crate::listing::{answer, clean, line};
use crate::logs;
use crate::view::{View, told};
use plumb::Ending;
use serde::Serialize;
use spool::fs::Fs;
use spool::layout::{self, KEY, Place, log_in};
use spool::look;
use spool::name::{Chan, MsgId, Role};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::standing::{self, NOWHERE, SECRET_LOST, Standing};
use spool::wait::Watch;
use std::time::{Duration, Instant};

/// Not ended yet: try later.
const NOT_YET: u8 = 75;
/// How long a lost wake-up can keep us.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the daemon may take to leave a notice of a job that is lost.
const NOTICE_WAIT: Duration = Duration::from_secs(2);
/// How often one looks whether those live who move the job.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How often the daemon is asked to look at the job.
const TOUCH_EVERY: Duration = Duration::from_secs(30);

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
    /// Why the outcome cannot be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub outcome: Outcome,
    /// Why that cannot be known.
    pub lost: Option<String>,
}

impl End {
    fn of(outcome: Outcome) -> End {
        End { outcome, lost: None }
    }

    fn lost(why: impl ToString) -> End {
        End { outcome: Outcome::Unknown, lost: Some(why.to_string()) }
    }
}

/// Does it; the exit status is the command's.
pub fn run(args: Args) -> u8 {
    let mut status = 0;
    let ran = answer(args.json, |out| {
        let view = View::open()?;
        let msgid = view.find(&args.id)?.msgid;
        let End { outcome, lost } = wait(&view, msgid, args.timeout.map(Duration::from_secs))?;
        status = Ending::of(outcome.clone()).status();
        if args.json {
            let (id, outcome) = (msgid.to_string(), outcome.to_string());
            return line(out, &Line { kind: "end", id, outcome, status, error: lost });
        }
        let why = lost.map(|why| format!(": {why}")).unwrap_or_default();
        Ok(writeln!(out, "{msgid}: {}", clean(&format!("{outcome}{why}")))?)
    });
    match ran {
        Ok(()) => status,
        failed => fail::exit(failed),
    }
}

/// Waits for the end of a job.
fn wait(view: &View, msgid: MsgId, patience: Option<Duration>) -> anyhow::Result<End> {
    let started = Instant::now();
    let watch = Watch::new();
    for dir in [Place::Jobs.dir(msgid), log_in(msgid, Chan::CONTROL)] {
        watch.add(&view.home.spool.join(dir));
    }
    let (mut troubles, mut asked, mut touched) = (Vec::new(), None::<Instant>, None::<Instant>);
    let (mut here, mut gone) = (false, None::<Instant>);
    loop {
        match ended(view, msgid) {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => here = true,
            // A job that was lost under our eyes gets a notice in a moment.
            Err(error) if here => {
                if gone.get_or_insert_with(Instant::now).elapsed() >= NOTICE_WAIT {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        if touched.is_none_or(|at| at.elapsed() >= TOUCH_EVERY) {
            layout::touch(&*view.fs, Place::Jobs, msgid);
            touched = Some(Instant::now());
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

/// How a job ended, once nothing more of it will come. An error if no such job is here.
pub fn ended(view: &View, msgid: MsgId) -> anyhow::Result<Option<End>> {
    let fs = &*view.fs;
    let owner = match standing::of(fs, msgid)? {
        Standing::Job(owner) => owner,
        Standing::Arriving => return Ok(None),
        Standing::Lost(why) => return Ok(Some(End::lost(why))),
        Standing::Nowhere => return Err(fail(NO_ID, format!("job {msgid}: {NOWHERE}"))),
    };
    if let Some(outcome) = standing::outcome(fs, msgid)? {
        return Ok(Some(End::of(outcome)));
    }
    if owner.role == Role::Recipient {
        return Ok(None);
    }
    let (ages, dir) = (view.home.settings().unwrap_or_default().ages(), Place::Jobs.dir(msgid));
    let key = fs.exists(&format!("{dir}/{KEY}"));
    if !look::sender(fs, msgid, &ages, &owner, key, look::has(fs, &dir, Mark::Receipt))?.ended {
        return Ok(None);
    }
    let keys = look::sender_keys(fs, msgid, &view.spool_key()?, &view.home.username()?)?;
    let Some(keys) = keys else { return Ok(Some(End::lost(SECRET_LOST))) };
    Ok(Some(End::of(logs::end_held(fs, &keys).unwrap_or(Outcome::Unknown))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{hand_made, status};
    use spool::facts::Facts;
    use spool::log::Writer;
    use spool::segment::{EndKind, Stream};

    #[test]
    fn it_waits_until_there_is_an_outcome_and_gives_up_when_told_to() {
        let hand = hand_made();
        let submitted = hand.submit(&["true"]);
        let msgid = submitted.keys.msgid;
        let early = wait(&hand.view, msgid, Some(Duration::from_millis(20)));
        assert_eq!(status(early.unwrap_err()), NOT_YET);
        let facts = Facts::new().with("outcome", Outcome::Interrupted);
        facts.hint(&*hand.view.fs, &Place::Jobs.file(msgid, "done")).unwrap();
        let end = wait(&hand.view, msgid, None).unwrap();
        assert_eq!((end.clone(), Ending::of(end.outcome).status()), (End::of(Outcome::Interrupted), 76));
    }

    /// The verb waited for ever for a job that nobody could know anything of.
    #[test]
    fn a_job_that_is_lost_has_ended_with_an_unknown_outcome() {
        let hand = hand_made();
        let keys = hand.submit(&["true"]).keys;
        let msgid = keys.msgid;
        for &chan in Role::Recipient.produces() {
            let (dir, stream) = (log_in(msgid, chan), Stream { chan, producer: Role::Recipient });
            Writer::open(hand.view.fs.clone(), &dir, keys.clone(), stream).unwrap().end(EndKind::Eof).unwrap();
        }
        assert_eq!(wait(&hand.view, msgid, Some(Duration::ZERO)).unwrap().lost, None, "control: it can be read");
        hand.put(&Place::Jobs.file(msgid, KEY), "rubbish");
        let of_key = wait(&hand.view, msgid, Some(Duration::ZERO)).unwrap();
        assert_eq!(of_key, End::lost(SECRET_LOST));
        hand.view.fs.remove(&Place::Jobs.file(msgid, "peer")).unwrap();
        let of_peer = wait(&hand.view, msgid, Some(Duration::ZERO)).unwrap();
        hand.view.fs.remove(&Place::Jobs.dir(msgid)).unwrap();
        let of_dir = wait(&hand.view, msgid, Some(Duration::ZERO)).unwrap();
        for (end, word) in [(of_peer, "`peer`"), (of_dir, "is gone")] {
            assert_eq!(end.outcome, Outcome::Unknown);
            assert!(end.lost.as_ref().is_some_and(|why| why.contains(word)), "{end:?}");
        }
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
