//! Readings of the files of a job: message, keys, priority, and what was lost.

use super::TOO_OLD;
use crate::World;
use crate::comm::Trouble;
use crate::net::Net;
use spool::bucket::Priority;
use spool::crypto::Key;
use spool::layout::{MESSAGE, Owner, Place, rest_label};
use spool::look::{self, MESSAGE_REST_MAX};
use spool::name::{MsgId, Role};
use spool::phase::{RecipientSeen, SenderSeen};
use spool::segment::JobKeys;
use spool::tap1::{self, Kind};
use zeroize::Zeroizing;

/// Why a job that we asked for cannot go on, though nobody ended it.
pub(super) fn sender_loss(seen: &SenderSeen) -> Option<&'static str> {
    match seen {
        SenderSeen { too_old: true, .. } => Some(TOO_OLD),
        SenderSeen { key: false, .. } => Some("its secret (the file `key`) is lost or damaged"),
        SenderSeen { broken: true, .. } => {
            Some("one of its outputs can never be completed (the file `broken` beside it)")
        }
        SenderSeen {
            queue: false, held: false, receipt: false, sent: false, attended: false, wanted: true, ..
        } => Some("its message is lost from the queue"),
        _ => None,
    }
}

/// Why a job that we run cannot go on, though nobody ended it.
pub(super) fn recipient_loss(seen: &RecipientSeen) -> Option<&'static str> {
    match seen {
        RecipientSeen { owner: false, .. } => Some("the file `peer` is lost or damaged, so nobody knows whose it was"),
        RecipientSeen { too_old: true, .. } => Some(TOO_OLD),
        RecipientSeen { message: false, .. } => Some("its message is lost or damaged"),
        _ => None,
    }
}

/// The message that was delivered, if it opens.
pub(super) fn message<N: Net>(world: &World<N>, msgid: MsgId) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
    let sealed = world.fs.read_if_sound(&Place::Jobs.file(msgid, MESSAGE), MESSAGE_REST_MAX)?;
    Ok(sealed.and_then(|sealed| world.spool_key.open(&rest_label(MESSAGE, msgid), &sealed).ok()))
}

/// The keys of a job, whichever side we are on; `None` if its secret does not open.
pub(super) fn keys<N: Net>(
    world: &World<N>,
    msgid: MsgId,
    owner: &Owner,
    message: Option<&Vec<u8>>,
) -> Result<Option<JobKeys>, Trouble> {
    match owner.role {
        Role::Sender => Ok(look::sender_keys(&*world.fs, msgid, &world.spool_key, world.ours())?),
        Role::Recipient => Ok(message.and_then(|message| secret(message)).map(|secret| JobKeys {
            secret,
            sender: owner.username.clone(),
            recipient: world.ours().clone(),
            msgid,
        })),
    }
}

/// The job's priority, as START says it.
pub(super) fn priority(mut message: &[u8]) -> Priority {
    let mut start = || {
        tap1::read(&mut message).ok()??;
        let packet = tap1::read(&mut message).ok()??;
        let list = tap1::read_list(&packet.payload).ok()?;
        std::str::from_utf8(list.get("priority")?).ok()?.parse().ok()
    };
    start().unwrap_or_default()
}

/// The secret of a job, from its message.
pub(super) fn secret(mut message: &[u8]) -> Option<Key> {
    let packet = tap1::read(&mut message).ok()??;
    Some(Key(packet.payload.try_into().ok().filter(|_| packet.kind == Kind::Key)?))
}
