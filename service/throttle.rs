//! How fast a body may go: the peer's `bwlimit`, shared by all of its jobs.
//!
//! Asked before each piece, with the limit as it stands at that moment, so a
//! change holds for what is being sent. A body that waits holds nothing: the
//! connection is busy, and its other side takes whatever is sent.

use crate::Shared;
use spool::bucket::{Mover, Priority};
use spool::clock::Clock;
use spool::home::Peer;
use spool::name::{Chan, MsgId};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::Sleep;

/// Lets one body through.
pub(crate) struct Throttle {
    shared: Arc<Shared>,
    who: Mover,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Throttle {
    /// For what this peer pulls of a channel; a message goes as channel 0, which never waits.
    pub fn new(shared: &Arc<Shared>, peer: &Peer, msgid: MsgId, chan: Chan) -> Throttle {
        let limited = !peer.policy.bwlimit.is_empty();
        let priority = if limited { Priority::of(&*shared.fs, msgid) } else { Priority::Normal };
        let who = Mover { peer: peer.username.clone(), msgid, chan, priority };
        Throttle { shared: shared.clone(), who, sleep: None }
    }

    /// Ready with the bytes that may be sent at this moment.
    pub fn poll(&mut self, context: &mut Context) -> Poll<u64> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(context));
                self.sleep = None;
            }
            let Some(peer) = self.shared.peers.find(&self.who.peer) else { return Poll::Ready(u64::MAX) };
            match self.shared.gate.ask(self.shared.clock.now(), &peer.policy.bwlimit, &self.who) {
                Ok(most) => return Poll::Ready(most),
                Err(wait) => self.sleep = Some(Box::pin(tokio::time::sleep(wait))),
            }
        }
    }

    /// So many bytes were handed to the socket.
    pub fn moved(&self, bytes: usize) {
        if let Some(peer) = self.shared.peers.find(&self.who.peer) {
            self.shared.gate.moved(self.shared.clock.now(), &peer.policy.bwlimit, &self.who, bytes as u64);
        }
    }
}
