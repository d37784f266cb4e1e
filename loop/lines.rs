//! The connections on which we ask a peer: those that wait for their next GET.
//!
//! A turned connection is kept for as long as the peer keeps it, one that we
//! dialled for a while. Those that were used last are used first, so that the
//! peer can count how many of its own are in use (doc/PROTOCOL.md#turned-connections).

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::SendRequest;
use spool::limit::descriptors_max;
use spool::name::Username;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Kept connections are used again within this; the service keeps them longer.
const KEPT: Duration = Duration::from_secs(30);
/// So many connections are kept for each peer.
const KEPT_MAX: usize = 16;
/// And this part of all descriptors at most.
const KEPT_PART: usize = 64;

/// What sends GETs over one connection.
pub type Sender = SendRequest<Empty<Bytes>>;

/// A connection on which we ask, one GET at a time.
pub struct Line {
    /// What sends them.
    pub sender: Sender,
    /// The peer opened it, and keeps it.
    turned: bool,
    since: Instant,
}

impl Line {
    /// One that has just been made.
    pub fn new(sender: Sender, turned: bool) -> Line {
        Line { sender, turned, since: Instant::now() }
    }

    fn is_good(&self) -> bool {
        !self.sender.is_closed() && (self.turned || self.since.elapsed() < KEPT)
    }
}

/// Those of a peer that wait for their next GET.
#[derive(Default)]
struct Lines {
    /// The last is the next to be used: those that were used last are used first.
    kept: Vec<Line>,
    /// One more is here.
    more: Arc<Notify>,
    /// So many the peer keeps open, in use or not.
    turned: usize,
}

/// Connections that wait for their next GET.
#[derive(Clone, Default)]
pub struct Idle(Arc<Mutex<HashMap<Username, Lines>>>);

impl Idle {
    fn of<T>(&self, peer: &Username, act: impl FnOnce(&mut Lines) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(all.entry(peer.clone()).or_default())
    }

    /// The one that was used last.
    pub fn take(&self, peer: &Username) -> Option<Line> {
        self.of(peer, |lines| {
            lines.kept.retain(Line::is_good);
            lines.kept.pop()
        })
    }

    /// Gives one back.
    pub fn put(&self, peer: &Username, line: Line) {
        self.of(peer, |lines| {
            // The peer opens another for each that goes: a turned one is never too many.
            // Where descriptors are few, others need them more.
            let most = KEPT_MAX.min(descriptors_max() / KEPT_PART);
            if (line.turned || lines.kept.len() < most) && !line.sender.is_closed() {
                lines.kept.push(Line { since: Instant::now(), ..line });
                lines.more.notify_one();
            }
        });
    }

    /// Waits for one to come free, or to come.
    pub async fn wait(&self, peer: &Username) -> Line {
        loop {
            let more = self.of(peer, |lines| lines.more.clone());
            // From here on none that comes is missed.
            let mut one_more = std::pin::pin!(more.notified());
            one_more.as_mut().enable();
            let Some(mut line) = self.take(peer) else {
                one_more.await;
                continue;
            };
            // It is given back a moment before it is ready, and may have ended since.
            if line.sender.ready().await.is_ok() {
                return line;
            }
        }
    }

    /// Adds one that the peer has turned, to be used when all others are in
    /// use. It counts until what is given back is dropped.
    pub fn admit(&self, peer: &Username, line: Option<Line>) -> Admitted {
        self.of(peer, |lines| {
            lines.turned += 1;
            lines.kept.retain(Line::is_good);
            lines.kept.splice(0..0, line);
            lines.more.notify_one();
        });
        Admitted { idle: self.clone(), peer: peer.clone() }
    }

    /// So many the peer keeps open, in use or not.
    pub fn turned(&self, peer: &Username) -> usize {
        self.of(peer, |lines| lines.turned)
    }
}

/// A turned connection that GETs may use.
pub struct Admitted {
    idle: Idle,
    peer: Username,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.idle.of(&self.peer, |lines| lines.turned -= 1);
    }
}
