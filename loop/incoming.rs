//! Works on `rqueue/<msgid>`: a message on its way in (doc/SPOOL.md#rqueue).

use crate::World;
use crate::comm::{self, Trouble};
use crate::crypto;
use crate::fetch::{self, Fetched};
use crate::net::Net;
use crate::peers::Known;
use crate::state::{self, Came, Change, File, RqueueStep};
use crate::steps::{self, Steps};
use keygen::{onetime, stock};
use spool::clock;
use spool::facts::Facts;
use spool::layout::{self, MESSAGE, ONETIME, Owner, PEER, Place, SEALED, rest_label};
use spool::look::{self, CERT_MAX, SEALED_MAX};
use spool::name::{Digest, MsgId, Role};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::report::{Report, Turn};
use spool::url::Ask;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Works on an incoming message until the next move is somebody else's.
pub async fn work<N: Net>(world: &World<N>, msgid: MsgId) -> Report {
    let mut steps = Steps::new(Place::Rqueue, msgid);
    let turn = run(world, msgid, &mut steps).await;
    if matches!(turn, Ok(Turn::Gone)) {
        world.forget(msgid);
    }
    steps.report(turn)
}

async fn run<N: Net>(world: &World<N>, msgid: MsgId, steps: &mut Steps) -> Result<Turn, Trouble> {
    let fs = &*world.fs;
    let dir = Place::Rqueue.dir(msgid);
    let Some(lock) = steps::lock(fs, &dir, Duration::ZERO)? else { return Ok(Turn::Gone) };
    let peer = Owner::read(fs, &dir)?.and_then(|owner| world.peer(&owner.username));
    steps.peer(peer.as_ref().map(|peer| peer.name.to_string()));
    while steps.another() {
        let seen = look::rqueue(fs, msgid, &world.settings.ages())?;
        if !lock.is_at(&dir)? {
            // It was removed while we looked.
            return Ok(Turn::Gone);
        }
        let step = state::rqueue(&seen);
        let mut message = Zeroizing::new(Vec::new());
        let came = act(world, msgid, peer.as_ref(), step, &mut message, steps).await?;
        let changes = state::rqueue_after(step, came);
        let mut taken = false;
        for change in changes {
            match apply(world, msgid, peer.as_deref(), *change, &message) {
                Err(error) if *change == Change::Deliver && error.is_taken() => taken = true,
                other => other?,
            }
        }
        if taken {
            // `jobs/<msgid>` was there first: the next look sees it. A file of that name was never delivered.
            layout::clear(fs, &Place::Jobs.dir(msgid))?;
            continue;
        }
        if changes.iter().any(|change| matches!(change, Change::ForgetRqueue | Change::Deliver)) {
            return Ok(Turn::Gone);
        }
        if changes.is_empty() {
            steps.waits_for("sender");
            return Ok(Turn::Peer);
        }
    }
    Err(Trouble::new("disk", "its marks change again and again"))
}

/// Does the step itself.
async fn act<N: Net>(
    world: &World<N>,
    msgid: MsgId,
    peer: Option<&Arc<Known>>,
    step: RqueueStep,
    message: &mut Zeroizing<Vec<u8>>,
    steps: &mut Steps,
) -> Result<Came, Trouble> {
    let known = || peer.ok_or_else(|| Trouble::new("no_peer", "its peer is not known here"));
    match step {
        RqueueStep::Drop | RqueueStep::TakeBack(_) => {
            steps.did("demote");
            Ok(Came::Worked)
        }
        RqueueStep::Bury => {
            steps.did("tombstone");
            Ok(Came::Worked)
        }
        RqueueStep::Key => {
            steps.did("key");
            set_aside(world, msgid)
        }
        RqueueStep::Promise => {
            steps.did("key");
            Ok(if key(world, msgid)?.is_some() { Came::Worked } else { Came::Failed })
        }
        RqueueStep::Open => {
            steps.did("open");
            open(world, msgid, known()?, message)
        }
        // The sender has just been told of this key: it gets a while before it is asked.
        RqueueStep::Ask if world.is_early(msgid) => Ok(Came::Silence),
        RqueueStep::Ask => ask(world, msgid, known()?, steps).await,
        RqueueStep::Fetch => {
            steps.did("fetch");
            let peer = known()?;
            let said = look::mark(&*world.fs, &Place::Rqueue.dir(msgid), Mark::RecvReq)?;
            let said = said.and_then(|facts| look::sealed(&facts));
            let said = said.ok_or_else(|| Trouble::new("disk", "recv.req changed meanwhile"))?;
            match fetch::sealed(world, peer, msgid, said).await {
                Ok(Fetched::Here) => Ok(Came::Worked),
                Ok(Fetched::Another) => Ok(Came::Failed),
                // It may be gone for good: only its owner's word says so.
                Err(trouble) if matches!(trouble.cause, "unreachable" | "busy") => {
                    match ask(world, msgid, peer, steps).await? {
                        came @ (Came::Gone | Came::Outcome) => Ok(came),
                        _ => Err(trouble),
                    }
                }
                Err(trouble) => Err(trouble),
            }
        }
    }
}

async fn ask<N: Net>(world: &World<N>, msgid: MsgId, peer: &Known, steps: &mut Steps) -> Result<Came, Trouble> {
    let reply = comm::ask(world, peer, Ask::Sta, msgid).await?;
    steps.heard();
    let came = comm::came(&reply);
    steps.did(&format!("sta {}", steps::word(came)));
    Ok(came)
}

/// Takes a key out of the stock by one rename, making one if there is none.
fn set_aside<N: Net>(world: &World<N>, msgid: MsgId) -> Result<Came, Trouble> {
    let fs = &*world.fs;
    let to = Place::Rqueue.file(msgid, ONETIME);
    fs.remove(&to)?;
    for _ in 0..2 {
        for entry in fs.list(ONETIME)?.iter().filter(|entry| !spool::fs::is_hidden(&entry.name)) {
            match fs.rename(&format!("{ONETIME}/{}", entry.name), &to) {
                Err(error) if error.is_absent() => {}
                other => return Ok(other.map(|()| Came::Worked)?),
            }
        }
        stock::refill(fs, &world.identity, &world.spool_key, 1).map_err(|error| Trouble::new("disk", error))?;
    }
    Ok(Came::Failed)
}

/// A one-time certificate with its private half.
type Halves = (Vec<u8>, Zeroizing<[u8; 32]>);

/// The one-time key that lies here, if both halves belong together.
fn key<N: Net>(world: &World<N>, msgid: MsgId) -> spool::fs::Result<Option<Halves>> {
    let read = |name: &str| world.fs.read_if_sound(&Place::Rqueue.file(msgid, &format!("{ONETIME}/{name}")), CERT_MAX);
    Ok(read("cert.pem")?.zip(read("key")?).and_then(|(certificate, sealed)| {
        let private = onetime::open_private(&world.spool_key, &certificate, &sealed).ok()?;
        Some((certificate, private))
    }))
}

fn open<N: Net>(
    world: &World<N>,
    msgid: MsgId,
    peer: &Known,
    message: &mut Zeroizing<Vec<u8>>,
) -> Result<Came, Trouble> {
    let Some((certificate, private)) = key(world, msgid)? else { return Ok(Came::Failed) };
    let sealed = world.fs.read(&Place::Rqueue.file(msgid, SEALED), SEALED_MAX)?;
    match crypto::open(peer, msgid, &certificate, &private, &sealed) {
        Ok(opened) => {
            *message = opened;
            Ok(Came::Worked)
        }
        Err(error) => {
            tracing::warn!("{msgid} from {}: {error}", peer.name);
            Ok(Came::Failed)
        }
    }
}

fn apply<N: Net>(
    world: &World<N>,
    msgid: MsgId,
    peer: Option<&Known>,
    change: Change,
    message: &[u8],
) -> spool::fs::Result<()> {
    let fs = &*world.fs;
    let file = |name: &str| Place::Rqueue.file(msgid, name);
    match change {
        Change::Keep(File::Message) => {
            fs.hint(&file(MESSAGE), &world.spool_key.seal(&rest_label(MESSAGE, msgid), message))
        }
        Change::Lose(File::Sealed) => fs.remove(&file(SEALED)),
        Change::Lose(File::Key) => fs.remove(&file(ONETIME)),
        // `set_aside` has put it there.
        Change::Keep(File::Key) => Ok(()),
        Change::Put(Mark::PeerOk) => {
            // `peer.ok` is answered as soon as it is seen: all that it rests on is durable
            // before, also that the key left the stock, and this directory's own name.
            for dir in [ONETIME, &file(ONETIME), Place::Rqueue.word()] {
                fs.sync_dir(dir)?;
            }
            let facts = look::key_facts(fs, &Place::Rqueue.dir(msgid))?.unwrap_or_default();
            facts.commit(fs, &file(Mark::PeerOk.name()))
        }
        Change::Put(mark) => {
            let facts = match mark {
                Mark::Over => Facts::new().with("outcome", Outcome::NotStarted).with("at", clock::uptime(fs)?),
                Mark::Receipt => receipt(msgid, peer, message),
                Mark::RecvRdy => Facts::read(fs, &file(Mark::RecvReq.name()))?.unwrap_or_default(),
                _ => Facts::new(),
            };
            facts.hint(fs, &file(mark.name()))
        }
        Change::Take(mark) => fs.remove(&file(mark.name())),
        Change::Deliver => {
            let names = [PEER, MESSAGE, Mark::Receipt.name(), Mark::Over.name()];
            let mut there = Vec::new();
            for name in names {
                if fs.is_there(&file(name))? {
                    there.push(name);
                }
            }
            if there.contains(&MESSAGE) {
                // Here, so that whoever waits for a log can watch its directory at once.
                for (side, producer) in [("in", Role::Sender), ("out", Role::Recipient)] {
                    for chan in producer.produces() {
                        layout::make_dirs(fs, &file(&format!("{side}/{chan}")))?;
                    }
                }
            }
            fs.commit_dir(&Place::Rqueue.dir(msgid), &Place::Jobs.dir(msgid), &there)
        }
        Change::ForgetRqueue => fs.remove(&Place::Rqueue.dir(msgid)),
        Change::Keep(File::Certificate | File::Sealed)
        | Change::Lose(File::Certificate | File::Message)
        | Change::PutInJob(_)
        | Change::Abort
        | Change::Destroy
        | Change::ForgetQueue
        | Change::ForgetJob => unreachable!("no step of an incoming message has this change"),
    }
}

fn receipt(msgid: MsgId, peer: Option<&Known>, message: &[u8]) -> Facts {
    let receipt = peer.map(|peer| peer.pair.give_receipt(msgid, Digest::of(message)));
    Facts::new().with_some("receipt", receipt)
}
