//! `netplumb cancel ID`: puts the mark that ends a job, and says what happens next.
//!
//! The mark is all that is done here; the loop and the keeper do the rest, and
//! doing it twice is harmless. Works without a daemon: then it is done when one runs.

use crate::fail::{NO_ID, fail};
use crate::jobs::outcome;
use crate::listing::{answer, clean};
use crate::view::{Found, View};
use crate::wait::End;
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{self, Owner, Place};
use spool::look::has;
use spool::name::{MsgId, Role};
use spool::phase::Mark;
use spool::standing::{self, NOWHERE, Standing};

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The job: its id, or the first digits of it.
    id: String,
    /// Noted with the mark, for whoever asks why.
    #[arg(long, value_name = "TEXT", default_value = "netplumb cancel")]
    reason: String,
    /// Says what would happen, and changes nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    answer(false, |out| {
        let view = View::open()?;
        let found = view.find(&args.id)?;
        let said = cancel(&view, &found, (!args.dry_run).then_some(args.reason.as_str()))?;
        writeln!(out, "{}: {}", found.msgid, clean(&said))?;
        for trouble in view.troubles() {
            writeln!(out, "{trouble}: this goes on when that is mended\n  hint: {}", trouble.hint())?;
        }
        Ok(())
    })
}

/// Puts the mark, if there is a reason, and says what comes of it.
fn cancel(view: &View, found: &Found, reason: Option<&str>) -> anyhow::Result<String> {
    let (fs, msgid) = (&*view.fs, found.msgid);
    let dir = Place::Jobs.dir(msgid);
    let owner = match standing::of(fs, msgid)? {
        Standing::Job(owner) => Some(owner),
        Standing::Lost(why) => {
            return Ok(format!("its outcome is not known, and what is left of it ends by itself: {why}"));
        }
        Standing::Arriving | Standing::Nowhere => None,
    };
    if let Some(owner) = owner {
        let sender = owner.role == Role::Sender;
        if standing::is_over(fs, msgid, owner.role) {
            let outcome = outcome(fs, msgid).unwrap_or_else(|| "its outcome cannot be read".into());
            if sender && has_left(view, msgid) {
                if reason.is_some() {
                    job::submit::reattach(fs, msgid)?;
                }
                let forgotten = if reason.is_some() { "is forgotten now" } else { "would be forgotten" };
                return Ok(format!("it is over already: {outcome}; nobody attached to it, and it {forgotten}"));
            }
            return Ok(format!("it is over already: {outcome}"));
        }
        // Without keys it is a job like any other.
        let ended = (sender && has_left(view, msgid)).then(|| crate::wait::ended(view, msgid).ok().flatten());
        if let Some(End { outcome, .. }) = ended.flatten() {
            let Some(_) = reason else { return Ok(format!("it has ended: {outcome}; its output would be forgotten")) };
            let facts = Facts::new().with("outcome", &outcome).with("at", view.uptime);
            facts.hint(fs, &Place::Jobs.file(msgid, Mark::Done.name()))?;
            job::submit::reattach(fs, msgid)?;
            return Ok(format!("it had ended: {outcome}; its output is forgotten now"));
        }
        let next = if sender { of_ours(view, msgid) } else { of_theirs(view, msgid) };
        if has(fs, &dir, Mark::Cancel) {
            return Ok(format!("it is being cancelled already; {next}"));
        }
        let alone = match reason {
            Some(reason) => job::submit::cancel(fs, msgid, reason)?,
            None => true,
        };
        let busy = sender && found.is_in(Place::Queue) && !alone;
        let late = if busy { " (a step of it is under way at this moment)" } else { "" };
        return Ok(format!("{}; {next}{late}", done(reason)));
    }
    if found.is_in(Place::Rqueue) {
        if let Some(reason) = reason {
            let facts = Facts::new().with("reason", reason).with("at", view.uptime);
            match facts.commit(fs, &Place::Rqueue.file(msgid, Mark::Cancel.name())) {
                Err(error) if !error.is_taken() => return Err(error.into()),
                _ => layout::touch(fs, Place::Rqueue, msgid),
            }
        }
        return Ok(format!("{}; it was not delivered yet: its sender is told that it was not started", done(reason)));
    }
    Err(fail(NO_ID, format!("job {msgid}: {NOWHERE} (only {} has something)", found.here.join(", "))))
}

/// Does the job go on, or wait to be heard, without a `plumb`?
fn has_left(view: &View, msgid: MsgId) -> bool {
    view.fs.exists(&Place::Jobs.file(msgid, spool::layout::DETACHED))
}

fn done(reason: Option<&str>) -> &'static str {
    if reason.is_some() { "cancelled" } else { "would be cancelled" }
}

fn of_ours(view: &View, msgid: MsgId) -> &'static str {
    let (fs, dir) = (&*view.fs, Place::Jobs.dir(msgid));
    let receipt = has(fs, &dir, Mark::Receipt);
    // The mark `sent` is a hint: after another boot it may be lost.
    let earlier = Owner::read(fs, &dir).ok().flatten().is_none_or(|owner| owner.boot != spool::clock::boot());
    match (receipt, has(fs, &dir, Mark::Sent) || earlier) {
        (true, _) => "the recipient is told to end it, again and again until it says what it had done",
        (false, true) => "it may have been sent: the recipient is asked until it says whether it had started",
        (false, false) => "nothing of it was sent: it ends as not started",
    }
}

fn of_theirs(view: &View, msgid: MsgId) -> &'static str {
    let (fs, dir) = (&*view.fs, Place::Jobs.dir(msgid));
    let keeper = fs.is_locked(&layout::running(msgid)).unwrap_or(false);
    match (has(fs, &dir, Mark::RunExit), has(fs, &dir, Mark::RunStarted), keeper) {
        (true, _, _) => "the command had ended before: its status stays, output that was not pulled is dropped",
        (false, true, true) => "its keeper ends the command: TERM, and KILL after 10 s; the sender is told",
        (false, true, false) => "the command has no keeper any more: the sender is told that it was interrupted",
        (false, false, _) => "the command was not started, and will not be; the sender is told",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{hand_made, status};

    const ID: MsgId = MsgId([0xab; 20]);

    #[test]
    fn our_unsent_job_is_marked_and_told_not_started() {
        let hand = hand_made();
        let msgid = hand.submit(&["cat"]).keys.msgid;
        let found = hand.view.find(&msgid.to_string()[..10]).unwrap();
        assert!(cancel(&hand.view, &found, None).unwrap().starts_with("would be cancelled; nothing of it was sent"));
        assert!(!has(&*hand.view.fs, &Place::Jobs.dir(msgid), Mark::Cancel), "a dry run changes nothing");
        assert!(cancel(&hand.view, &found, Some("enough")).unwrap().contains("not started"));
        let facts = spool::look::mark(&*hand.view.fs, &Place::Jobs.dir(msgid), Mark::Cancel).unwrap().unwrap();
        assert_eq!((facts.text("reason"), facts.value("at")), (Some("enough"), Some(1000)));
        assert!(cancel(&hand.view, &found, Some("again")).unwrap().contains("already"));
        hand.mark(Place::Jobs, msgid, Mark::Sent);
        assert!(cancel(&hand.view, &found, None).unwrap().contains("may have been sent"));
    }

    #[test]
    fn a_step_under_way_is_mentioned() {
        let hand = hand_made();
        let msgid = hand.submit(&["cat"]).keys.msgid;
        let _step = hand.view.fs.lock_dir(&Place::Queue.dir(msgid), std::time::Duration::ZERO).unwrap();
        let found = hand.view.find(&msgid.to_string()).unwrap();
        assert!(cancel(&hand.view, &found, Some("enough")).unwrap().contains("under way"));
    }

    #[test]
    fn a_job_that_we_run_is_marked_for_its_keeper_and_a_tombstone_left_alone() {
        let hand = hand_made();
        hand.own(Place::Jobs, ID, Role::Recipient);
        hand.mark(Place::Jobs, ID, Mark::RunStarted);
        let found = hand.view.find("ab").unwrap();
        assert!(cancel(&hand.view, &found, Some("x")).unwrap().contains("interrupted"));
        assert!(has(&*hand.view.fs, &Place::Jobs.dir(ID), Mark::Cancel));
        hand.facts(&Place::Jobs.file(ID, Mark::Over.name()), "outcome=cancelled\n");
        assert_eq!(cancel(&hand.view, &found, Some("x")).unwrap(), "it is over already: cancelled");
    }

    #[test]
    fn an_undelivered_message_is_buried_and_a_mere_notice_is_no_job() {
        let hand = hand_made();
        hand.own(Place::Rqueue, ID, Role::Recipient);
        let found = hand.view.find("ab").unwrap();
        assert!(cancel(&hand.view, &found, Some("x")).unwrap().contains("not started"));
        assert!(has(&*hand.view.fs, &Place::Rqueue.dir(ID), Mark::Cancel));
        hand.put(&format!("notices/{}", MsgId([1; 20])), "lost\n");
        let error = cancel(&hand.view, &hand.view.find("01").unwrap(), Some("x")).unwrap_err();
        assert_eq!(status(error), NO_ID);
    }
}
