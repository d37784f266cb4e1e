//! Works on `queue/<msgid>`: a message on its way out (doc/SPOOL.md#queue).

use crate::World;
use crate::comm::{self, Given, Trouble, given};
use crate::crypto;
use crate::net::Net;
use crate::peers::Known;
use crate::state::{self, Came, Change, File, QueueStep};
use crate::steps::{self, Steps};
use spool::facts::Facts;
use spool::layout::{self, MESSAGE, ONETIME_PEM, Owner, Place, SEALED, rest_label};
use spool::look::{self, CERT_MAX, MESSAGE_REST_MAX};
use spool::name::{Digest, MsgId};
use spool::outcome::Outcome;
use spool::phase::{Mark, QueuePhase};
use spool::report::{Report, Turn};
use spool::retry::Ceiling;
use spool::url::{Ask, Sealed};
use std::sync::Arc;
use std::time::Duration;

/// What a step brought, for the changes after it.
#[derive(Default)]
struct Brought {
    certificate: Vec<u8>,
    sealed: Option<(Vec<u8>, Sealed)>,
    receipt: Option<Digest>,
    outcome: Option<Outcome>,
    reason: &'static str,
}

/// Works on an outgoing message until the next move is somebody else's.
pub async fn work<N: Net>(world: &World<N>, msgid: MsgId) -> Report {
    let mut steps = Steps::new(Place::Queue, msgid);
    let turn = run(world, msgid, &mut steps).await;
    steps.report(turn)
}

async fn run<N: Net>(world: &World<N>, msgid: MsgId, steps: &mut Steps) -> Result<Turn, Trouble> {
    let fs = &*world.fs;
    let dir = Place::Queue.dir(msgid);
    let Some(lock) = steps::lock(fs, &dir, Duration::ZERO)? else { return Ok(Turn::Gone) };
    let waits = fs.is_locked(&Place::Jobs.file(msgid, spool::layout::PLUMB))?;
    steps.bound(if waits { Ceiling::Foreground } else { Ceiling::Background });
    let owner = Owner::read(fs, &dir)?.or(Owner::read(fs, &Place::Jobs.dir(msgid))?);
    let peer = owner.and_then(|owner| world.peer(&owner.username));
    steps.peer(peer.as_ref().map(|peer| peer.name.to_string()));
    while steps.another() {
        let seen = look(world, msgid, peer.as_deref())?;
        if !lock.is_at(&dir)? {
            // It was moved to `hold/` while we looked: what was missed there is not lost.
            return Ok(Turn::Gone);
        }
        let step = state::queue(&seen);
        let mut brought = Brought::default();
        for change in state::queue_before(step) {
            apply(world, msgid, *change, &brought)?;
        }
        let came = act(world, msgid, peer.as_ref(), step, &mut brought, steps).await?;
        let changes = state::queue_after(step, came);
        for change in changes {
            apply(world, msgid, *change, &brought)?;
        }
        if changes.contains(&Change::ForgetQueue) {
            return Ok(Turn::Gone);
        }
        if seen.phase() == QueuePhase::Unwanted {
            // A lost `detached` is no event: only we know that the job is to be cancelled.
            layout::touch(fs, Place::Jobs, msgid);
        }
        if changes.is_empty() {
            steps.waits_for(match step {
                QueueStep::Snd => "receipt",
                QueueStep::Msg => "key",
                _ => "cancel",
            });
            return Ok(match step {
                // A lock that is taken anew is no event either.
                QueueStep::Rest if seen.phase() == QueuePhase::Unwanted => Turn::Later,
                QueueStep::Rest => Turn::Rest,
                _ => Turn::Peer,
            });
        }
    }
    Err(Trouble::new("key", "the peer wants another key again and again"))
}

fn look<N: Net>(world: &World<N>, msgid: MsgId, peer: Option<&Known>) -> Result<spool::phase::QueueSeen, Trouble> {
    let opens = |sealed: &[u8], digest: Option<Digest>| {
        let opened = world.spool_key.open(&rest_label(MESSAGE, msgid), sealed);
        opened.is_ok_and(|message| digest == Some(Digest::of(&message)))
    };
    let valid = |receipt: Digest, digest: Digest| peer.is_some_and(|peer| peer.pair.is_receipt(receipt, msgid, digest));
    Ok(look::queue(&*world.fs, msgid, &world.settings.ages(), opens, valid)?)
}

/// Does the step itself.
async fn act<N: Net>(
    world: &World<N>,
    msgid: MsgId,
    peer: Option<&Arc<Known>>,
    step: QueueStep,
    brought: &mut Brought,
    steps: &mut Steps,
) -> Result<Came, Trouble> {
    let fs = &*world.fs;
    let ask = match step {
        QueueStep::Rest => return Ok(Came::Worked),
        QueueStep::Drop | QueueStep::TakeBack(_) => {
            steps.did("demote");
            return Ok(Came::Worked);
        }
        QueueStep::GiveUp => {
            brought.reason = "lost or too old";
            steps.notice("the message is lost or waited too long; its job is cancelled");
            return Ok(Came::Worked);
        }
        QueueStep::Accept => {
            steps.did("receipt");
            brought.receipt = mark_receipt(world, msgid)?;
            return Ok(Came::Worked);
        }
        QueueStep::Seal => {
            steps.did("seal");
            return seal(world, msgid, peer, brought);
        }
        QueueStep::Msg => Ask::Msg,
        QueueStep::Ack => Ask::Ack,
        QueueStep::Snd => {
            let said = look::mark(fs, &Place::Queue.dir(msgid), Mark::SendOk)?.and_then(|facts| look::sealed(&facts));
            Ask::Snd(said.ok_or_else(|| Trouble::new("disk", "send.ok changed meanwhile"))?)
        }
    };
    let peer = peer.ok_or_else(|| Trouble::new("no_peer", "its peer is not known here"))?;
    let verb = ask.verb();
    let reply = comm::ask(world, peer, ask, msgid).await?;
    steps.heard();
    let came = comm::came(&reply);
    steps.did(&format!("{verb} {}", steps::word(came)));
    match given(&reply) {
        Some(Given::Receipt(receipt)) => brought.receipt = Some(receipt),
        Some(Given::Outcome(outcome)) => brought.outcome = Some(outcome),
        None => {}
    }
    if step == QueueStep::Msg && came == Came::Ok {
        brought.certificate = reply.data;
    }
    Ok(came)
}

fn mark_receipt<N: Net>(world: &World<N>, msgid: MsgId) -> spool::fs::Result<Option<Digest>> {
    let facts = look::mark(&*world.fs, &Place::Queue.dir(msgid), Mark::AckReq)?;
    Ok(facts.and_then(|facts| facts.value("receipt")))
}

fn seal<N: Net>(
    world: &World<N>,
    msgid: MsgId,
    peer: Option<&Arc<Known>>,
    brought: &mut Brought,
) -> Result<Came, Trouble> {
    let peer = peer.ok_or_else(|| Trouble::new("no_peer", "its peer is not known here"))?;
    let onetime = world.fs.read(&Place::Queue.file(msgid, ONETIME_PEM), CERT_MAX)?;
    let stored = world.fs.read(&Place::Queue.file(msgid, MESSAGE), MESSAGE_REST_MAX)?;
    let message = world.spool_key.open(&rest_label(MESSAGE, msgid), &stored);
    let message = message.map_err(|error| Trouble::new("disk", format!("message {error}")))?;
    match crypto::seal(&world.identity, peer, msgid, &onetime, &message) {
        Ok(sealed) => {
            let (digest, length) = (Digest::of(&sealed), sealed.len() as u64);
            brought.sealed = Some((sealed, Sealed { digest, length, key: Digest::of(&onetime) }));
            Ok(Came::Worked)
        }
        Err(error) => {
            tracing::warn!("{msgid}: the one-time certificate of {} is refused: {error}", peer.name);
            Ok(Came::Failed)
        }
    }
}

fn apply<N: Net>(world: &World<N>, msgid: MsgId, change: Change, brought: &Brought) -> Result<(), Trouble> {
    let fs = &*world.fs;
    let file = |name: &str| Place::Queue.file(msgid, name);
    match change {
        Change::Keep(File::Certificate) => fs.hint(&file(ONETIME_PEM), &brought.certificate)?,
        Change::Keep(File::Sealed) => {
            if let Some((bytes, _)) = &brought.sealed {
                fs.hint(&file(SEALED), bytes)?;
            }
        }
        Change::Put(mark) => {
            let facts = match (mark, &brought.sealed) {
                (Mark::SendRdy, _) => Facts::new().with("key", Digest::of(&brought.certificate)),
                (Mark::SendOk, Some((_, sealed))) => look::sealed_facts(sealed),
                (Mark::AckReq, _) => Facts::new().with_some("receipt", brought.receipt),
                _ => Facts::new(),
            };
            facts.hint(fs, &file(mark.name()))?;
        }
        Change::Take(mark) => fs.remove(&file(mark.name()))?,
        Change::PutInJob(mark) => {
            let facts = Facts::new()
                .with_some("receipt", brought.receipt.filter(|_| mark == Mark::Receipt))
                .with_some("outcome", brought.outcome.as_ref().filter(|_| mark == Mark::Done))
                .with_some("reason", Some(brought.reason).filter(|_| mark == Mark::Cancel));
            steps::put_in_job(fs, msgid, mark, facts)?;
        }
        Change::ForgetQueue => fs.remove(&Place::Queue.dir(msgid))?,
        Change::Keep(File::Key | File::Message)
        | Change::Lose(_)
        | Change::Deliver
        | Change::Abort
        | Change::Destroy
        | Change::ForgetRqueue
        | Change::ForgetJob => unreachable!("no step of an outgoing message has this change"),
    }
    Ok(())
}
