//! Talking to a peer: a request out, an authenticated reply back.
//!
//! Only a reply that verifies moves anything; everything else is [`Trouble`],
//! with a code for the schedule and a sentence for the person
//! (doc/PROTOCOL.md#requests).

use crate::World;
use crate::net::{Answer, Get, Net, NetError};
use crate::peers::Known;
use crate::state::Came;
use spool::name::{Chan, Digest, MsgId, Nonce, decimal};
use spool::outcome::Outcome;
use spool::url::{self, Ask, REPLY_MAX, Reply, What, Word};
use std::time::Duration;

/// Why nothing could be done, for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// A code: `unreachable`, `unauthentic`, `disk_full`, `disk`, `lock`, …
    pub cause: &'static str,
    /// The sentence.
    pub error: String,
}

impl Trouble {
    /// Trouble of this kind.
    pub fn new(cause: &'static str, error: impl ToString) -> Trouble {
        Trouble { cause, error: error.to_string() }
    }
}

impl From<NetError> for Trouble {
    fn from(error: NetError) -> Trouble {
        // It is there: what is missing is a free way to it.
        let cause = match error {
            NetError::Busy(_) => "busy",
            NetError::Shortage(_) => "shortage",
            _ => "unreachable",
        };
        Trouble::new(cause, error)
    }
}

impl From<spool::fs::Error> for Trouble {
    fn from(error: spool::fs::Error) -> Trouble {
        Trouble::new(error.passes().unwrap_or("disk"), error)
    }
}

/// What DONE brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// A receipt, unchecked.
    Receipt(Digest),
    /// How the job ended.
    Outcome(Outcome),
}

/// What DONE brought, if it can be read.
pub fn given(reply: &Reply) -> Option<Given> {
    let text = std::str::from_utf8(&reply.data).ok()?;
    match text.trim_end().split_once(' ')? {
        ("receipt", digest) => Some(Given::Receipt(digest.parse().ok()?)),
        ("outcome", outcome) => Some(Given::Outcome(outcome.parse().unwrap_or(Outcome::Unknown))),
        _ => None,
    }
}

/// What a reply means to the tables.
pub fn came(reply: &Reply) -> Came {
    match reply.word {
        Word::Ok => Came::Ok,
        Word::Done => match given(reply) {
            Some(Given::Outcome(_)) => Came::Outcome,
            Some(Given::Receipt(_)) | None => Came::Receipt,
        },
        Word::NeedKey => Came::NeedKey,
        Word::Gone => Came::Gone,
        Word::Later => Came::Later,
    }
}

/// Says something to a peer and gives its authentic reply, which is news to
/// whoever waits for this peer to be in reach.
pub async fn ask<N: Net>(world: &World<N>, peer: &Known, ask: Ask, msgid: MsgId) -> Result<Reply, Trouble> {
    let reply = inquire(world, peer, ask, msgid).await;
    match &reply {
        Ok(_) => world.reach(&peer.remote.username),
        Err(trouble) if trouble.cause == "unreachable" => world.miss(&peer.remote.username),
        Err(_) => {}
    }
    reply
}

/// The same as no news: for a question that a bare status of this peer raised.
/// Were its reply news, streams that fail alike would wake each other for ever.
pub async fn inquire<N: Net>(world: &World<N>, peer: &Known, ask: Ask, msgid: MsgId) -> Result<Reply, Trouble> {
    let question = Question::new(world, peer, ask, msgid);
    question.reply(world.net.get(&peer.remote, question.get.clone()).await?).await
}

/// A request that is ready to be sent, and knows its authentic reply.
pub struct Question<'a> {
    /// What is to be sent.
    pub get: Get,
    verb: &'static str,
    peer: &'a Known,
}

impl Question<'_> {
    /// Signs a request to this peer.
    pub fn new<'a, N: Net>(world: &World<N>, peer: &'a Known, ask: Ask, msgid: MsgId) -> Question<'a> {
        let verb = ask.verb();
        let what = What::Request(ask, msgid, nonce(world));
        let path = url::sign(&peer.remote.username, &what, world.ours(), &peer.pair.request_out);
        Question { get: Get { path, from: 0, until: None, wait: Duration::ZERO }, verb, peer }
    }

    /// Reads what came back.
    pub async fn reply(&self, mut answer: Answer) -> Result<Reply, Trouble> {
        let body = answer.body.whole(REPLY_MAX).await?;
        let Some(reply) = Reply::open(&body, &self.get.path, &self.peer.pair.request_out) else {
            let verb = self.verb;
            let error = match answer.status {
                404 => format!("{verb}: it does not know us (404)"),
                status => format!("{verb}: an answer that does not verify (status {status})"),
            };
            return Err(Trouble::new("unauthentic", error));
        };
        Ok(reply)
    }
}

/// A fresh nonce.
pub fn nonce<N: Net>(world: &World<N>) -> Nonce {
    let mut nonce = [0; 16];
    world.rng.fill(&mut nonce);
    Nonce(nonce)
}

/// First and last segment of a channel's log, from the data of `sta`'s OK.
pub fn segments_of(data: &[u8], chan: Chan) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(data).ok()?;
    text.lines().find_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        let (first, last) = rest.split_once(' ')?;
        (name.parse() == Ok(chan)).then_some((decimal(first)?, decimal(last)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segments_of_a_channel_are_found() {
        assert_eq!(segments_of(b"0 0 0\n2 3 17\n", Chan::STDOUT), Some((3, 17)));
        assert_eq!(segments_of(b"0 0 0\n", Chan::STDOUT), None);
        assert_eq!(segments_of(b"2 x 1\n", Chan::STDOUT), None);
    }
}
