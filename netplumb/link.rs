//! A bad link on one machine: a TCP proxy that is slow, cuts, and swallows.
//!
//! The demonstration and the end-to-end tests put it between two peers. What
//! it counts are the bytes that passed it, in both directions together.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// One direction takes so much at a time, in bytes: what a cut can lose beside the sockets' buffers.
const PIECE: usize = 32 << 10;

/// What was not sent in so long may be made good: a thread that is woken late does not make the link slower.
const BURST: Duration = Duration::from_millis(20);

/// A link to one address. It ends with the process.
pub struct Link {
    /// Where to dial instead of the target.
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    bytes_per_second: u64,
    bytes: AtomicU64,
    opened: AtomicU64,
    silent: AtomicBool,
    connections: Mutex<Vec<Weak<Connection>>>,
    /// When the link is free again.
    free_at: Mutex<Instant>,
}

/// Whoever dialled, and the target. Both close when neither direction passes anything any more.
struct Connection {
    near: TcpStream,
    far: TcpStream,
}

impl Link {
    /// Opens a link to `target` on a free port. 0 bytes per second: no limit.
    pub fn open(target: &str, bytes_per_second: u64) -> io::Result<Link> {
        // The target may not be there yet, and its port free: a link to itself would have no end.
        let listener = loop {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            if listener.local_addr()?.to_string() != target {
                break listener;
            }
        };
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            bytes_per_second,
            bytes: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            connections: Mutex::new(Vec::new()),
            free_at: Mutex::new(Instant::now()),
        });
        let (target, accepting) = (target.to_string(), state.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (state, target) = (accepting.clone(), target.clone());
                std::thread::spawn(move || state.join(near, &target));
            }
        });
        Ok(Link { address, state })
    }

    /// Closes every connection; says how many there were.
    pub fn cut(&self) -> usize {
        let connections = std::mem::take(&mut *lock(&self.state.connections));
        let living: Vec<Arc<Connection>> = connections.iter().filter_map(Weak::upgrade).collect();
        for connection in &living {
            let _ = connection.near.shutdown(Shutdown::Both);
            let _ = connection.far.shutdown(Shutdown::Both);
        }
        living.len()
    }

    /// From here on nothing passes and nothing closes, or everything again.
    #[allow(dead_code, reason = "the demonstration only cuts")]
    pub fn swallow(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::Relaxed);
    }

    /// Connections that were opened, whether or not they still are.
    #[allow(dead_code, reason = "the demonstration does not count them")]
    pub fn opened(&self) -> u64 {
        self.state.opened.load(Ordering::Relaxed)
    }

    /// Bytes that have passed.
    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }
}

impl State {
    fn join(self: Arc<State>, near: TcpStream, target: &str) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.hold();
        let Ok(far) = TcpStream::connect(target) else { return };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        let connection = Arc::new(Connection { near, far });
        {
            let mut connections = lock(&self.connections);
            connections.retain(|connection| connection.strong_count() > 0);
            connections.push(Arc::downgrade(&connection));
        }
        let (state, back) = (self.clone(), connection.clone());
        std::thread::spawn(move || state.pass(&back.far, &back.near));
        self.pass(&connection.near, &connection.far);
    }

    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.hold();
            self.wait_for(count);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
            self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    /// Waits while the link swallows everything.
    fn hold(&self) {
        while self.silent.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many bytes fit under the limit.
    fn wait_for(&self, count: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let takes = Duration::from_nanos(count as u64 * 1_000_000_000 / self.bytes_per_second);
        let free_at = {
            let mut free_at = lock(&self.free_at);
            let earliest = Instant::now().checked_sub(BURST).unwrap_or(*free_at);
            *free_at = (*free_at).max(earliest) + takes;
            *free_at
        };
        // Shorter sleeps cost more than they shape.
        let ahead = free_at.saturating_duration_since(Instant::now());
        if ahead > Duration::from_millis(1) {
            std::thread::sleep(ahead);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
