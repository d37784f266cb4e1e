//! What a peer may GET.
//!
//! Sockets and parsing around a pure core: `door.rs` finds out who asks,
//! `observe.rs` what lies here, `answer.rs` decides, `note.rs` writes, and
//! `pull.rs` sends what was laid out. This process knows no key but those that
//! check incoming requests, dials nobody, and does nothing for strangers
//! (doc/PROTOCOL.md#urls). `turn.rs` exchanges connections with the loop.

pub mod answer;
mod body;
mod channel;
mod connection;
mod door;
mod durable;
mod note;
mod observe;
mod peers;
mod pool;
mod pull;
#[cfg(test)]
mod recording;
pub mod request;
mod room;
pub mod sandbox;
mod throttle;
mod turn;
mod watch;

use crate::body::Buffers;
use crate::channel::Channel;
use crate::connection::Handle;
use crate::peers::{Heard, Peers, Strangers, Troubles};
use crate::pool::{Number, Pool};
use crate::request::Desk;
use crate::watch::Watcher;
use spool::alive::{self, Pulse};
use spool::bucket::{Gate, Way};
use spool::clock::{System, boot};
use spool::crypto::Key;
use spool::fs::Fs;
use spool::home::{Home, Settings};
use spool::layout::{Place, log_out};
use spool::limit::Descriptors;
use spool::name::{Chan, MsgId, Username};
use spool::timetable::Zone;
use spool::turned::{Meeting, Other};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Threads for what may wait for the disk.
const DISK_THREADS: usize = 32;
/// Those of them that one peer's requests and syncs may use at once.
const DISK_THREADS_OF_PEER: usize = 8;
/// How long a predecessor that is dying may keep our addresses: less than the daemon
/// waits for a sign of life.
const BIND: Duration = Duration::from_secs(10);
const BINDS_APART: Duration = Duration::from_millis(50);
/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 1024;
const LOOKS_APART: Duration = Duration::from_secs(1);

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The home is not as it should be.
    #[error(transparent)]
    Home(#[from] spool::home::Error),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] spool::fs::Error),
    /// The address is somebody else's, or not ours.
    #[error(
        "cannot listen on {address}: {source}\n  hint: another address can be set in netplumb.toml: listen = [\"…\"]"
    )]
    Listen {
        /// The address from the settings.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system refused threads or descriptors.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A service that has its sockets and its spool, and does not serve yet.
pub struct Service {
    home: Home,
    settings: Settings,
    ours: Username,
    fs: Arc<dyn Fs>,
    listeners: Vec<TcpListener>,
    meeting: Option<Meeting>,
    zone: Zone,
}

impl Service {
    /// Opens the spool and binds every address of the settings, and the socket
    /// at which the loop is met; an address that is in use is tried again for
    /// ten seconds. No thread is started.
    pub fn bind(home: &Home) -> Result<Service, Error> {
        let (ours, settings) = (home.username()?, home.settings()?);
        let fs = home.open_spool()?;
        // What a predecessor was killed over is visible, and may not be durable.
        for place in Place::ALL {
            fs.sync_dir(place.word())?;
        }
        let (mut listeners, until) = (Vec::new(), Instant::now() + BIND);
        for address in &settings.listen {
            let bound = bind(address, until).map_err(|source| Error::Listen { address: address.clone(), source })?;
            listeners.extend(bound);
        }
        // Without it nothing is turned, and all else works.
        let meeting = Meeting::bind(&fs).inspect_err(|error| warn!("{error}: no connection can be turned")).ok();
        // Read here: a sandbox lets nobody open the zone's file.
        let zone = Zone::local();
        Ok(Service { home: home.clone(), settings, ours, fs, listeners, meeting, zone })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Gives up, for this thread and those that `serve` starts, whatever the service does not need.
    pub fn confine(&self) -> sandbox::Confined {
        // OpenSSL reads its settings the first time that it is used, and the boot has its name in /proc.
        Key([0; 32]).mac("netplumb request", &[]);
        boot();
        let confined = sandbox::confine(&self.home);
        match confined {
            sandbox::Confined::Fully => info!("{confined}"),
            sandbox::Confined::Partly | sandbox::Confined::Not(_) => warn!("{confined}"),
        }
        confined
    }

    /// Serves until `input` ends, or until `config/peers` is another directory
    /// than it was. Writes one line to `output` for peers that are heard, and while
    /// it lives one every three seconds (doc/SPOOL.md#signs-of-life). A
    /// crash leaves what `note.rs` says, and no more.
    pub fn serve(self, input: impl Read + Send + 'static, output: impl Write + Send + 'static) -> Result<(), Error> {
        spool::limit::raise_descriptors();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(DISK_THREADS)
            .build()?;
        let served = runtime.block_on(self.run(input, output));
        // A sync that is running keeps nobody waiting: nothing was told of it yet.
        runtime.shutdown_background();
        served
    }

    async fn run(self, input: impl Read + Send + 'static, output: impl Write + Send + 'static) -> Result<(), Error> {
        let (end, ended) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("input".into()).spawn(move || {
            read_to_end(input);
            let _ = end.send(());
        })?;
        let shared = Arc::new(Shared {
            desk: Arc::new(Desk::new(self.fs.clone(), self.settings, Arc::new(System::default()))),
            peers: Peers::new(self.home.clone()),
            heard: Heard::new(output)?,
            certs: self.home.config.join("certs"),
            ours: self.ours,
            fs: self.fs,
            strangers: Strangers::default(),
            troubles: Troubles::default(),
            pool: Mutex::new(Pool::default()),
            channels: Mutex::new(HashMap::new()),
            work: Mutex::new(HashMap::new()),
            watcher: Arc::new(Watcher::new(&self.home.spool)),
            buffers: Arc::new(Buffers::default()),
            other: Arc::default(),
            gate: Gate::in_zone(Way::Up, self.zone),
            clock: System::default(),
            descriptors: Descriptors::count(),
        });
        if let Some(meeting) = self.meeting {
            turn::meet(&shared, meeting)?;
        }
        for listener in self.listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(connection::accept(shared.clone(), listener));
        }
        tokio::spawn(connection::sweep(shared.clone()));
        tokio::spawn(live(shared.clone()));
        let watcher = shared.watcher.clone();
        tokio::spawn(async move { watcher.run().await });
        tokio::select! {
            _ = ended => {}
            () = replaced(&shared.peers) => warn!("config/peers is another directory than at the start: ending, to be started again"),
        }
        Ok(())
    }
}

/// Binds all addresses that a text stands for.
fn bind(address: &str, until: Instant) -> std::io::Result<Vec<TcpListener>> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    addresses.into_iter().map(|address| bind_one(address, until)).collect()
}

fn bind_one(address: SocketAddr, until: Instant) -> std::io::Result<TcpListener> {
    loop {
        // The standard library sets SO_REUSEADDR.
        match TcpListener::bind(address) {
            Ok(listener) => {
                rustix::net::listen(&listener, BACKLOG)?;
                return Ok(listener);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(BINDS_APART);
            }
            Err(error) => return Err(error),
        }
    }
}

fn read_to_end(mut input: impl Read) {
    let mut buffer = [0; 256];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return,
            Ok(_) | Err(_) => {}
        }
    }
}

/// Tells the daemon that we live: that requests get their turn, and that what
/// waits for the disk comes to its end.
async fn live(shared: Arc<Shared>) {
    let mut pulse = Pulse::new(Instant::now());
    loop {
        if pulse.beats(Instant::now(), |back| drop(tokio::task::spawn_blocking(|| back.done()))) {
            shared.heard.beat();
        }
        tokio::time::sleep(alive::BEAT).await;
    }
}

async fn replaced(peers: &Peers) {
    while !peers.replaced() {
        tokio::time::sleep(LOOKS_APART).await;
    }
}

/// What all connections share.
struct Shared {
    ours: Username,
    certs: PathBuf,
    fs: Arc<dyn Fs>,
    desk: Arc<Desk>,
    peers: Peers,
    heard: Heard,
    strangers: Strangers,
    troubles: Troubles,
    pool: Mutex<Pool<Handle>>,
    channels: Mutex<HashMap<(MsgId, Chan), Arc<Channel>>>,
    work: Mutex<HashMap<Username, Arc<Semaphore>>>,
    watcher: Arc<Watcher>,
    buffers: Arc<Buffers>,
    /// The loop, with which connections are exchanged.
    other: Arc<Other>,
    gate: Gate,
    clock: System,
    descriptors: Arc<Descriptors>,
}

impl Shared {
    /// An outgoing log. The job is this peer's: nobody else makes an entry.
    fn channel(&self, msgid: MsgId, chan: Chan) -> Arc<Channel> {
        let make = || Arc::new(Channel::new(log_out(msgid, chan), self.watcher.clone()));
        lock(&self.channels).entry((msgid, chan)).or_insert_with(make).clone()
    }

    fn forget_channels(&self) {
        lock(&self.channels).retain(|_, channel| !channel.is_forgotten());
    }

    /// What may be done at once for a peer.
    fn work(&self, peer: &Username) -> Arc<Semaphore> {
        let make = || Arc::new(Semaphore::new(DISK_THREADS_OF_PEER));
        lock(&self.work).entry(peer.clone()).or_insert_with(make).clone()
    }

    /// Ends a connection.
    fn cut(&self, number: Number) {
        let handle = lock(&self.pool).take(number);
        if let Some(handle) = handle {
            handle.end();
        }
    }
}
