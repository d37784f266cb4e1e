//! GETs from a peer: the one way in which bytes come to us.
//!
//! [`Net`] is an argument of every step, so that the same steps run in a
//! simulator. [`Http`] is the real one: HTTP/1.1 through hyper, a few kept
//! connections per peer, addresses from `peer.toml` only. No redirects, no
//! body that is longer than announced, and nothing that hangs: a dead link is
//! noticed within ten seconds (doc/PROTOCOL.md#urls). A connection that the
//! peer has turned (`turn.rs`) is kept and used like one that was dialled.

use crate::lines::{Admitted, Idle, Line, Sender};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, handshake};
use hyper::header::{CONTENT_RANGE, HOST, HeaderMap, RANGE};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use spool::name::Username;
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpStream;

/// One GET.
#[derive(Debug, Clone)]
pub struct Get {
    /// The whole path, signed.
    pub path: String,
    /// From this offset on.
    pub from: u64,
    /// Up to this offset, exclusive; `None`: as far as there is.
    pub until: Option<u64>,
    /// How long the peer may wait for a byte to come.
    pub wait: Duration,
}

/// What came back: a status that proves nothing, and bytes that must prove themselves.
pub struct Answer {
    /// 200, 204, 206, 404, 416, …
    pub status: u16,
    /// The offset of the first byte, from Content-Range.
    pub start: u64,
    /// The size of the whole file, if it is closed.
    pub total: Option<u64>,
    /// The bytes.
    pub body: Body,
}

/// The bytes of an answer, as they arrive.
pub enum Body {
    /// All here.
    Whole(Option<Bytes>),
    /// Arriving; the connection is kept when all has come.
    Arriving(Box<Arriving>),
}

/// A body on its way.
pub struct Arriving {
    incoming: Incoming,
    keep: Option<(Line, Idle)>,
    peer: Username,
    patience: Duration,
}

impl Body {
    /// The next bytes; `None` when all have come. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NetError> {
        let arriving = match self {
            Body::Whole(bytes) => return Ok(bytes.take()),
            Body::Arriving(arriving) => arriving,
        };
        loop {
            let frame = tokio::time::timeout(arriving.patience, arriving.incoming.frame()).await;
            match frame.map_err(|_| NetError::Silent(arriving.patience))? {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => {}
                },
                Some(Err(error)) => return Err(NetError::Http(error.to_string())),
                None => {
                    if let Some((line, idle)) = arriving.keep.take() {
                        idle.put(&arriving.peer, line);
                    }
                    *self = Body::Whole(None);
                    return Ok(None);
                }
            }
        }
    }

    /// All of it, at most `max` bytes.
    pub async fn whole(&mut self, max: usize) -> Result<Vec<u8>, NetError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > max {
                return Err(NetError::Http(format!("an answer longer than {max} bytes")));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}

/// Why nothing came, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// No address is known.
    #[error("no address is known")]
    NoAddress,
    /// The peer is never dialled, and keeps no connection to us.
    #[error("it has not called in, and is never dialled")]
    Uncalled,
    /// The peer is never dialled, and so many connections as it keeps are in use.
    #[error("all {0} connections that it keeps to us are in use")]
    Busy(usize),
    /// The peer is never dialled, and its connections are another process's.
    #[error("it is never dialled, and its connections to us are the daemon's")]
    NotOurs,
    /// No address could be connected to; the last reason.
    #[error("{address}: {reason}")]
    Unreachable {
        /// The last address that was tried.
        address: String,
        /// Its reason.
        reason: String,
    },
    /// Our own system has no descriptor left for a connection.
    #[error("this machine is short of something: {0}")]
    Shortage(String),
    /// Connected, and then nothing came for so long.
    #[error("no answer for {} s", .0.as_secs())]
    Silent(Duration),
    /// Something that is not our HTTP.
    #[error("{0}")]
    Http(String),
}

/// A peer as the network sees it.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Who it is.
    pub username: Username,
    /// Where to dial it, in order; empty: it has to call in.
    pub addresses: Vec<String>,
}

/// Gets something from a peer. "A connection to this peer" is all that is
/// asked for; whether it was dialled or turned is the transport's matter.
pub trait Net: Send + Sync + 'static {
    /// Sends one GET and gives the head of the answer with its body.
    fn get(&self, remote: &Remote, get: Get) -> impl Future<Output = Result<Answer, NetError>> + Send;
}

/// A connection must stand within this time, in each direction.
pub const DIAL: Duration = Duration::from_secs(3);
/// A peer that was given no time to wait must answer within this: it may have to sync first.
pub const ANSWER: Duration = Duration::from_secs(10);
/// Beyond the time it was given, a waiting peer gets this much more.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes that are kept of an answer over a turned connection: whoever replays `turn` can have many of them.
const TURNED_BUFFER: usize = 64 << 10;

/// HTTP over TCP.
#[derive(Clone, Default)]
pub struct Http {
    idle: Idle,
    /// Peers call in to this process.
    called: bool,
}

impl Net for Http {
    async fn get(&self, remote: &Remote, get: Get) -> Result<Answer, NetError> {
        let patience = if get.wait.is_zero() { ANSWER } else { get.wait + GRACE };
        // A kept connection may have died unnoticed: then one more try, on a new one.
        if let Some(mut line) = self.idle.take(&remote.username)
            && line.sender.ready().await.is_ok()
        {
            match self.send(line, remote, &get, patience).await {
                Err(NetError::Http(_)) => {}
                other => return other,
            }
        }
        let line = self.line(remote).await?;
        self.send(line, remote, &get, patience).await
    }
}

impl Http {
    /// That of the process in which peers call in.
    pub fn called() -> Http {
        Http { called: true, ..Http::default() }
    }

    /// A connection to this peer, dialled by whoever can.
    async fn line(&self, remote: &Remote) -> Result<Line, NetError> {
        if remote.addresses.is_empty() {
            if !self.called {
                return Err(NetError::NotOurs);
            }
            let some = tokio::time::timeout(DIAL, self.idle.wait(&remote.username)).await;
            return some.map_err(|_| match self.idle.turned(&remote.username) {
                0 => NetError::Uncalled,
                all => NetError::Busy(all),
            });
        }
        let stream = dial(remote).await?;
        let client = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = client.map_err(|error| NetError::Http(error.to_string()))?;
        tokio::spawn(connection);
        Ok(Line::new(sender, false))
    }

    /// Sends one GET over this very connection, which must not have been used, and lets nobody else use it.
    pub async fn get_over(sender: Sender, remote: &Remote, get: &Get) -> Result<(Answer, Http), NetError> {
        let alone = Http::default();
        let line = Line::new(sender, true);
        Ok((alone.send(line, remote, get, ANSWER).await?, alone))
    }

    /// Lets GETs to this peer use the connection that was used alone, when all others are in use. The peer keeps it
    /// until what is given back is dropped.
    pub fn admit(&self, peer: &Username, alone: &Http) -> Admitted {
        self.idle.admit(peer, alone.idle.take(peer))
    }

    async fn send(&self, mut line: Line, remote: &Remote, get: &Get, patience: Duration) -> Result<Answer, NetError> {
        let mut request = hyper::Request::get(&get.path).header(HOST, "netplumb");
        if get.from > 0 || get.until.is_some() {
            let until = get.until.map(|until| until.saturating_sub(1).to_string()).unwrap_or_default();
            request = request.header(RANGE, format!("bytes={}-{until}", get.from));
        }
        if !get.wait.is_zero() {
            request = request.header("prefer", format!("wait={}", get.wait.as_secs()));
        }
        let request = request.body(Empty::new()).map_err(|error| NetError::Http(error.to_string()))?;
        let answered = tokio::time::timeout(patience, line.sender.send_request(request)).await;
        let response = answered.map_err(|_| NetError::Silent(patience))?;
        let response = response.map_err(|error| NetError::Http(error.to_string()))?;
        let (head, incoming) = response.into_parts();
        let (start, total) = content_range(&head.headers);
        let (peer, idle) = (remote.username.clone(), self.idle.clone());
        let mut body = Body::Arriving(Box::new(Arriving { incoming, keep: Some((line, idle)), peer, patience }));
        if matches!(head.status.as_u16(), 204 | 416 | 404) {
            // No bytes follow: the connection is free at once.
            body.whole(0).await?;
        }
        Ok(Answer { status: head.status.as_u16(), start, total, body })
    }
}

/// Becomes the HTTP client on a turned connection; what is beside the sender drives it, to its end.
pub async fn client(stream: TcpStream) -> hyper::Result<(Sender, Connection<TokioIo<TcpStream>, Empty<Bytes>>)> {
    Builder::new().max_buf_size(TURNED_BUFFER).handshake(TokioIo::new(stream)).await
}

/// Tries the addresses in their order.
pub async fn dial(remote: &Remote) -> Result<TcpStream, NetError> {
    let mut last = NetError::NoAddress;
    for address in &remote.addresses {
        match tokio::time::timeout(DIAL, TcpStream::connect(address.as_str())).await {
            Ok(Ok(stream)) => {
                harden(&stream);
                return Ok(stream);
            }
            Ok(Err(error)) if spool::fs::is_shortage(&error) => last = NetError::Shortage(words(&error)),
            Ok(Err(error)) => {
                last = NetError::Unreachable { address: address.clone(), reason: words(&error) };
            }
            Err(_) => last = NetError::Unreachable { address: address.clone(), reason: "timed out".into() },
        }
    }
    Err(last)
}

/// "Connection refused (os error 111)": the number helps nobody.
pub fn words(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Makes a dead link known within ten seconds.
fn harden(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(4)).with_interval(Duration::from_secs(2)).with_retries(2);
    let socket = SockRef::from(stream);
    // A socket without these still has the time-outs above.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(10)));
}

/// Start and total of `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10`.
fn content_range(headers: &HeaderMap) -> (u64, Option<u64>) {
    let parsed = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(|text| {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let start = range.split_once('-').and_then(|(start, _)| start.parse().ok()).unwrap_or(0);
        Some((start, total.parse().ok()))
    });
    parsed.unwrap_or((0, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_in_their_three_forms() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(read("bytes 5-9/10"), (5, Some(10)));
        assert_eq!(read("bytes 5-9/*"), (5, None));
        assert_eq!(read("bytes */10"), (0, Some(10)));
        assert_eq!(read("nonsense"), (0, None));
    }
}
