//! Turned connections: dialled by one peer, asked over by the other.
//!
//! [`keep`] is the end of a peer that cannot be dialled: it dials, says `turn`,
//! and hands the connection to our service, which answers on it as on any
//! other. [`take`] is the other end: our service was told `turn`, and gave us
//! the connection to ask over. A `turn` may be a replay, so a connection is
//! used only after the peer has answered a `hlo` over it
//! (doc/PROTOCOL.md#turned-connections).

use crate::World;
use crate::comm::{Question, Trouble, nonce};
use crate::lines::Sender;
use crate::net::{self, ANSWER, Http};
use crate::peers::Known;
use spool::atomic::Disk;
use spool::home::Home;
use spool::name::{MsgId, Username};
use spool::retry::Backoff;
use spool::turned::{Given, Other, Way};
use spool::url::{self, Ask, What};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{AbortHandle, JoinSet};

/// So many connections are kept to a peer that it has not used yet …
const SPARE: usize = 3;
/// … and so many in all.
const ALL_MAX: usize = 128;
/// The longest head of an answer to `turn`, in bytes.
const HEAD_MAX: usize = 1024;
/// How often to look for the service.
const MEET_APART: Duration = Duration::from_millis(100);

/// Meets the service, for as long as this process lives: what it gives comes out.
pub fn meet(home: &Home) -> (Arc<Other>, UnboundedReceiver<Given>) {
    let (other, spool) = (Arc::new(Other::default()), home.spool.clone());
    let (give, given) = unbounded_channel();
    let met = other.clone();
    std::thread::spawn(move || {
        while !give.is_closed() {
            // The spool may have been away: it is opened anew.
            if let Ok(way) = Disk::open(&spool).and_then(|disk| Way::connect(&disk)) {
                met.attend(way, |given| drop(give.send(given)));
            }
            std::thread::sleep(MEET_APART);
        }
    });
    (other, given)
}

/// The connections that are kept, peer by peer.
#[derive(Default)]
pub struct Kept(HashMap<Username, AbortHandle>);

impl Kept {
    /// Begins for peers that want it, ends for those that do not any more.
    pub fn follow(&mut self, world: &Arc<World<Http>>, other: &Arc<Other>) {
        let peers = world.peers();
        let wanted = |username: &Username| peers.get(username).is_some_and(|peer| peer.policy.turn);
        let ends = |username: &Username, keeping: &AbortHandle| !wanted(username) || keeping.is_finished();
        self.0.extract_if(|username, keeping| ends(username, keeping)).for_each(|(_, keeping)| keeping.abort());
        for username in peers.keys().filter(|username| wanted(username)) {
            let start = || tokio::spawn(keep(world.clone(), other.clone(), username.clone())).abort_handle();
            self.0.entry(username.clone()).or_insert_with(start);
        }
    }
}

/// Keeps connections open to a peer. When this is dropped, they end.
async fn keep(world: Arc<World<Http>>, other: Arc<Other>, username: Username) {
    let (mut lines, used, changed) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (mut backoff, mut pause, mut said) = (Backoff::default(), None, String::new());
    loop {
        let Some(peer) = world.peer(&username) else { return };
        while pause.is_none()
            && lines.len() < ALL_MAX
            && lines.len().saturating_sub(used.load(Ordering::Relaxed)) < SPARE
        {
            let used = Used { count: used.clone(), changed: changed.clone(), is: false };
            lines.spawn(line(world.clone(), other.clone(), peer.clone(), used));
        }
        let delay = pause;
        tokio::select! {
            () = changed.notified() => {}
            () = rest(&world, &username, delay.unwrap_or_default()), if delay.is_some() => pause = None,
            Some(ended) = lines.join_next() => {
                let ended = ended.unwrap_or_else(|died| Err(Trouble::new("later", died)));
                match ended {
                    // It worked: whatever ended it, the next one is wanted at once.
                    Ok(()) => {
                        backoff.reset();
                        said.clear();
                        pause = pause.or(Some(Backoff::soon(&*world.rng)));
                    }
                    Err(trouble) => {
                        if trouble.cause == "unreachable" {
                            world.miss(&username);
                        }
                        // Of our own service the daemon tells.
                        if trouble.cause != "later" && said != trouble.error {
                            tracing::warn!(peer = %peer.name, "no connection for it to ask us over: {}", trouble.error);
                            said = trouble.error;
                        }
                        if pause.is_none() {
                            pause = Some(backoff.delay(world.ceiling(&peer), &*world.rng));
                        }
                    }
                }
            }
        }
    }
}

/// Waits for so long, or until the peer is in reach again.
async fn rest(world: &World<Http>, username: &Username, delay: Duration) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = world.heard(username) => {}
    }
}

/// Counts a connection as used from the first GET over it until its end.
struct Used {
    count: Arc<AtomicUsize>,
    changed: Arc<Notify>,
    is: bool,
}

impl Used {
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.is, true) {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.count.fetch_sub(usize::from(self.is), Ordering::Relaxed);
    }
}

/// One connection from its dialling to its end. An error: the peer never asked over it.
async fn line(world: Arc<World<Http>>, other: Arc<Other>, peer: Arc<Known>, mut used: Used) -> Result<(), Trouble> {
    if !other.is_there() {
        return Err(Trouble::new("later", "our own service is not there"));
    }
    let mut stream = net::dial(&peer.remote).await?;
    let path = url::sign(&peer.remote.username, &What::Turn(nonce(&world)), world.ours(), &peer.pair.request_out);
    let turned = tokio::time::timeout(ANSWER, turn(&mut stream, &path)).await;
    turned.map_err(|_| Trouble::new("unreachable", format!("no answer for {} s", ANSWER.as_secs())))??;
    let trouble = |error: std::io::Error| Trouble::new("later", format!("our own service does not take it: {error}"));
    let (mut token, theirs) = UnixStream::pair().map_err(trouble)?;
    other.give(&peer.remote.username, &stream, &theirs).map_err(trouble)?;
    drop((stream, theirs));
    // The service says one byte at the first authentic word, and one when more than `hlo` is asked.
    token.read_u8().await.map_err(|_| Trouble::new("unreachable", "it ended before the peer said a word"))?;
    while token.read_u8().await.is_ok() {
        used.begin();
    }
    Ok(())
}

/// Says `turn`, and reads the answer: not a byte more, for what follows is the service's.
async fn turn(stream: &mut TcpStream, path: &str) -> Result<(), Trouble> {
    let broken = |error: std::io::Error| Trouble::new("unreachable", format!("turn: {}", net::words(&error)));
    let request = format!("GET {path} HTTP/1.1\r\nHost: netplumb\r\nConnection: upgrade\r\nUpgrade: netplumb\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_MAX {
            return Err(Trouble::new("unauthentic", format!("turn: an answer longer than {HEAD_MAX} bytes")));
        }
        head.push(stream.read_u8().await.map_err(broken)?);
    }
    let status = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_string();
    match status.as_str() {
        "101" => Ok(()),
        "404" => Err(Trouble::new("unauthentic", "turn: it does not know us (404)")),
        "503" => Err(Trouble::new("unreachable", "turn: nobody there takes it at the moment (503)")),
        _ => Err(Trouble::new("unauthentic", format!("turn: a strange answer ({})", status.escape_debug()))),
    }
}

/// Asks over a connection that our service was given, from its proof to its
/// end. One that does not prove itself ends with that, or when the service wants its place.
pub async fn take(world: Arc<World<Http>>, peer: Arc<Known>, given: Given) {
    let username = peer.remote.username.clone();
    let (stream, token) = (given.stream, given.token);
    let ready = stream.set_nonblocking(true).and_then(|()| token.set_nonblocking(true));
    let both = ready.and_then(|()| Ok((TcpStream::from_std(stream)?, UnixStream::from_std(token)?)));
    let Ok((stream, mut token)) = both else { return };
    let Ok((sender, connection)) = net::client(stream).await else { return };
    let mut connection = std::pin::pin!(connection);
    let question = Question::new(&world, &peer, Ask::Hlo, MsgId::NONE);
    let alone = tokio::select! {
        _ = &mut connection => return,
        _ = token.read_u8() => return,
        proved = tokio::time::timeout(ANSWER, prove(&question, &peer, sender)) => match proved {
            Ok(Ok(alone)) => alone,
            // One that drips its answer is no better than one that is silent.
            Err(_) => return,
            Ok(Err(trouble)) => {
                // Whoever replays `turn` could write here as much as it likes.
                tracing::debug!(peer = %peer.name, "a turned connection that does not lead to it: {}", trouble.error);
                return;
            }
        },
    };
    if token.write_u8(b'.').await.is_err() {
        return;
    }
    let _admitted = world.net.admit(&username, &alone);
    world.reach(&username);
    let _ = connection.await;
}

/// Has the peer answer over this very connection.
async fn prove(question: &Question<'_>, peer: &Known, sender: Sender) -> Result<Http, Trouble> {
    let (answer, alone) = Http::get_over(sender, &peer.remote, &question.get).await?;
    question.reply(answer).await?;
    Ok(alone)
}
