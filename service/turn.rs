//! Turned connections, as the service has them.
//!
//! A peer that says `turn` is answered 101, and its connection goes to our
//! loop, which asks over it from here on. A connection that our loop has
//! turned comes from it, and is answered like one that was accepted. What
//! becomes of a connection is said on its token; when that ends, so does the
//! connection (doc/PROTOCOL.md#turned-connections).

use crate::body::Body;
use crate::connection::{Observed, Visitor, enter, reserve};
use crate::door::{nothing, whole};
use crate::pool::Source;
use crate::{Shared, lock};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper::{Response, StatusCode};
use spool::name::Username;
use spool::turned::{Given, Meeting};
use std::io::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tracing::warn;

/// What the protocol is called in the head.
const NETPLUMB: HeaderValue = HeaderValue::from_static("netplumb");
/// Without descriptors left, how long before the next try.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// A connection that is to go to the loop when 101 has been sent.
pub(crate) struct Turning {
    peer: Username,
    upgrade: OnUpgrade,
}

/// Answers `turn`; `None` if it is not said as it should be.
pub(crate) fn answer(
    visitor: &Visitor,
    peer: &Username,
    headers: &HeaderMap,
    upgrade: OnUpgrade,
) -> Option<Response<Body>> {
    let right = headers.get(UPGRADE) == Some(&NETPLUMB) && visitor.token.is_none();
    if !right {
        return None;
    }
    if !visitor.shared.other.is_there() {
        return Some(nothing(StatusCode::SERVICE_UNAVAILABLE));
    }
    *lock(&visitor.turning) = Some(Turning { peer: peer.clone(), upgrade });
    let mut response = whole(Vec::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, NETPLUMB);
    Some(response)
}

/// Hands a connection to the loop, and counts it until the loop is done with it. It may have to leave
/// for another, as an idle one, until the loop says that it leads to the peer.
pub(crate) async fn hand_over(visitor: &Visitor, turning: Turning) -> Option<()> {
    let upgraded = turning.upgrade.await.ok()?;
    let Parts { io, read_buf, .. } = upgraded.downcast::<Observed>().ok()?;
    // Whoever turned it speaks only when it is asked.
    if !read_buf.is_empty() {
        return None;
    }
    let stream = io.into_stream();
    let (mut token, theirs) = UnixStream::pair().ok()?;
    visitor.shared.other.give(&turning.peer, &stream, &theirs).ok()?;
    drop((stream, theirs));
    token.read_u8().await.ok()?;
    let _busy = visitor.activity.busy();
    while token.read_u8().await.is_ok() {}
    None
}

/// Meets the loop and takes what it gives, for as long as the service runs.
pub(crate) fn meet(shared: &Arc<Shared>, meeting: Meeting) -> Result<()> {
    let (shared, runtime) = (Arc::downgrade(shared), Handle::current());
    let attend = move || {
        while let Some(other) = Weak::upgrade(&shared).map(|shared| shared.other.clone()) {
            match meeting.accept() {
                Ok(way) => other.attend(way, |given| {
                    let _runtime = runtime.enter();
                    if let Some(Err(error)) = Weak::upgrade(&shared).map(|shared| take(&shared, given)) {
                        warn!("cannot take a turned connection: {error}");
                    }
                }),
                Err(_) => std::thread::sleep(EXHAUSTED),
            }
        }
    };
    std::thread::Builder::new().name("turned".into()).spawn(attend)?;
    Ok(())
}

/// Answers on a connection that the loop has turned.
fn take(shared: &Arc<Shared>, given: Given) -> Result<()> {
    given.stream.set_nonblocking(true)?;
    given.token.set_nonblocking(true)?;
    let source = Source::of(given.stream.peer_addr()?.ip());
    let stream = TcpStream::from_std(given.stream)?;
    let token = Token { stream: UnixStream::from_std(given.token)?, said: AtomicUsize::new(0) };
    let reserved = reserve(shared).ok_or(std::io::ErrorKind::WouldBlock)?;
    enter(shared, stream, source, Some(token), reserved);
    Ok(())
}

/// Tells the loop what becomes of a connection.
pub(crate) struct Token {
    stream: UnixStream,
    said: AtomicUsize,
}

impl Token {
    /// An authentic word came, for the first time, and `more` than a greeting: a byte for each.
    pub fn say(&self, more: bool) {
        let all = if more { 2 } else { 1 };
        let before = self.said.load(Ordering::Relaxed);
        // Past the runtime, which may not have heard yet that it can be written to. The
        // requests of one connection come one after the other.
        if before < all
            && let Ok(count) = rustix::io::write(&self.stream, &b".."[before..all])
        {
            self.said.store(before + count, Ordering::Relaxed);
        }
    }

    /// Becomes ready when the loop is done with it, or gone.
    pub async fn ended(&self) {
        let mut byte = [0];
        while self.stream.readable().await.is_ok() {
            match self.stream.try_read(&mut byte) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}
