//! Who may come in: from the head of an HTTP request to a verified word of a peer.
//!
//! The order is: form, grammar, names, MAC; each costs no more than it must,
//! and whatever fails first, the stranger gets one and the same 404, an empty
//! body, and a closed connection. Before the MAC has been verified nothing is
//! written, nobody is dialled, and no public-key operation is done.

use crate::body::Body;
use crate::connection::{Handle, Visitor};
use crate::peers::Strange;
use crate::pool::{Crowded, PEER_MAX, PULLING_MAX};
use crate::pull::{Wanted, message, segment};
use crate::request::Attended;
use crate::turn;
use crate::{Shared, lock};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use spool::home::Peer;
use spool::look::CERT_MAX;
use spool::name::MsgId;
use spool::url::{Ask, Cert, Path, What};
use std::sync::Arc;

/// The answer to whoever has no business here.
fn stranger() -> Response<Body> {
    nothing(StatusCode::NOT_FOUND)
}

/// A bare status, and the end of the connection.
pub(crate) fn nothing(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    // Said by ourselves, for hyper leaves it out of the answer to a HEAD.
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

pub(crate) fn whole(bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::bytes(bytes));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers a request. The connection is busy until the answer has been sent; it
/// ends without one if its peer has too many, so that the peer tries again later.
pub(crate) async fn answer(visitor: Arc<Visitor>, mut request: Request<Incoming>) -> Result<Response<Body>, Crowded> {
    let busy = visitor.activity.busy();
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, _) = request.into_parts();
    let response = match enter(&visitor, &head) {
        Ok(Entered::Cert(cert)) => certificate(&visitor.shared, cert).await,
        Ok(Entered::Peer(peer, what)) => {
            admit(&visitor, &peer, &what)?;
            match what {
                What::Turn(_) => turn::answer(&visitor, &peer.username, &head.headers, upgrade),
                what => attend(&visitor, peer, what, &head).await,
            }
        }
        Err(strange) => {
            visitor.shared.strangers.note(strange);
            None
        }
    };
    Ok(response.unwrap_or_else(stranger).map(|body| body.with(busy)))
}

/// Who came in, and for what.
enum Entered {
    Cert(Cert),
    Peer(Arc<Peer>, What),
}

fn enter(visitor: &Visitor, head: &Parts) -> Result<Entered, Strange> {
    if !is_plain(head) {
        return Err(Strange::Form);
    }
    let shared = &visitor.shared;
    let path = Path::parse(head.uri.path()).ok_or(Strange::Grammar)?;
    if path.to != shared.ours {
        return Err(Strange::Unknown);
    }
    let from = match (&path.what, &path.from) {
        (What::Cert(cert), _) => return Ok(Entered::Cert(*cert)),
        (_, Some(from)) => from,
        (_, None) => return Err(Strange::Grammar),
    };
    let peer = shared.peers.find(from).ok_or(Strange::Unknown)?;
    if !path.verify(&peer.request_key) {
        return Err(Strange::Mac);
    }
    let greets = matches!(path.what, What::Request(Ask::Hlo, ..));
    shared.heard.note(from, greets || matches!(path.what, What::Turn(_)));
    visitor.token.iter().for_each(|token| token.say(!greets));
    Ok(Entered::Peer(peer, path.what))
}

/// Moves the connection into its peer's pool, where there may be no room for it.
fn admit(visitor: &Visitor, peer: &Peer, what: &What) -> Result<(), Crowded> {
    let shared = &visitor.shared;
    let max = match what {
        What::Seg { .. } | What::Turn(_) => PULLING_MAX,
        What::Request(..) | What::Queue(_) | What::Cert(_) => PEER_MAX,
    };
    let admitted = lock(&shared.pool).admit(visitor.number, &peer.username, max, Handle::is_idle);
    match admitted {
        Ok(leaving) => leaving.map(Handle::end),
        Err(crowded) => {
            shared.troubles.note(peer, "cannot serve all its connections", &format!("it has {max} that are busy"));
            return Err(crowded);
        }
    };
    Ok(())
}

/// A GET of a path, without a body: hyper would take much more.
fn is_plain(head: &Parts) -> bool {
    let headers = &head.headers;
    let bodiless = headers.get_all(CONTENT_LENGTH).iter().all(|length| length == "0");
    head.method == Method::GET
        && head.uri.scheme().is_none()
        && head.uri.authority().is_none()
        && head.uri.query().is_none()
        && bodiless
        && !headers.contains_key(TRANSFER_ENCODING)
}

/// One of the public certificates, as it is.
async fn certificate(shared: &Shared, cert: Cert) -> Option<Response<Body>> {
    use std::io::Read;
    let file = std::fs::File::open(shared.certs.join(cert.file())).ok()?;
    let mut bytes = Vec::new();
    file.take(CERT_MAX as u64).read_to_end(&mut bytes).ok()?;
    Some(whole(bytes))
}

async fn attend(visitor: &Visitor, peer: Arc<Peer>, what: What, head: &Parts) -> Option<Response<Body>> {
    let shared = &visitor.shared;
    match what {
        What::Cert(cert) => certificate(shared, cert).await,
        What::Queue(msgid) => message(shared, &peer, msgid, &head.headers),
        What::Seg { msgid, chan, n, got } => {
            let wanted = Wanted { peer: &peer, connection: visitor.number, msgid, chan, n, got };
            segment(shared, wanted, &head.headers).await
        }
        // Answered before it comes here.
        What::Turn(_) => None,
        What::Request(ask, msgid, _) => reply(shared, peer, ask, msgid, head.uri.path()).await,
    }
}

/// Attends to a request where waiting for the disk stops nobody else.
async fn reply(shared: &Arc<Shared>, peer: Arc<Peer>, ask: Ask, msgid: MsgId, path: &str) -> Option<Response<Body>> {
    let permit = shared.work(&peer.username).acquire_owned().await;
    let (desk, peer_there, verb) = (shared.desk.clone(), peer.clone(), ask.verb());
    let attended = tokio::task::spawn_blocking(move || desk.attend(&peer_there, &ask, msgid)).await;
    drop(permit);
    let Attended { reply, trouble } = attended.ok()?;
    if let Some(trouble) = trouble {
        shared.troubles.note(&peer, &format!("cannot do what its {verb} says"), &trouble);
    }
    reply.map(|reply| whole(reply.seal(path, &peer.request_key)))
}
