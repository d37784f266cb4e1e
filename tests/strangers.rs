//! Strangers cost nothing: whatever they send, they leave no trace, cause no
//! connection, get no memory to speak of, and keep no peer out.

use crate::homes::{Chance, PATIENCE, Peer, pair, pair_up, peak_kib, seed, wait_until};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use spool::crypto::Key;
use spool::name::{Chan, MsgId, Nonce, Username};
use spool::url::{Ask, What, sign};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Sends half a head for so long: doc/PROTOCOL.md#bounds.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Threads that flood.
const FLOODERS: u32 = 8;

/// How many strangers come, and how fast.
struct Flood {
    requests: u32,
    per_second: u32,
    half_open: usize,
    honest_jobs: usize,
}

/// A listener that nobody may dial.
struct Trap {
    address: SocketAddr,
    dialled: Arc<AtomicUsize>,
}

impl Trap {
    fn set() -> Trap {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let dialled = Arc::new(AtomicUsize::new(0));
        let count = dialled.clone();
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Trap { address, dialled }
    }

    fn dialled(&self) -> usize {
        self.dialled.load(Ordering::Relaxed)
    }
}

/// Connects from this address of the loopback network.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0)).ok()?;
    rustix::net::connect(&socket, &to).ok()?;
    Some(socket.into())
}

/// One of many addresses, or now and then the peer's own.
fn source(n: u32) -> Ipv4Addr {
    if n.is_multiple_of(5) {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::new(127, 0, (n / 200 % 200) as u8 + 1, (n % 200) as u8 + 1)
    }
}

/// What strangers send to `b`: each kind names the trap wherever an address fits.
fn requests(a: &Peer, b: &Peer, trap: &Trap) -> Vec<Vec<u8>> {
    let (to, known, unknown) = (username(b), username(a), Username::of_ca(b"nobody"));
    let (msgid, wrong) = (MsgId([7; 20]), Key([9; 32]));
    let asks = [Ask::Msg, Ask::Hlo, Ask::Sta, Ask::Cxl, Ask::Ack].map(|ask| What::Request(ask, msgid, Nonce([3; 16])));
    let pulls = [What::Turn(Nonce([3; 16])), What::Queue(msgid), What::Seg { msgid, chan: Chan::STDIN, n: 0, got: 0 }];
    let whats: Vec<What> = asks.into_iter().chain(pulls).collect();
    let head = |method: &str, path: &str, more: &str| {
        let from = format!("Host: {0}\r\nX-Forwarded-For: {0}\r\nReferer: http://{0}/\r\n", trap.address);
        format!("{method} {path} HTTP/1.1\r\n{from}{more}\r\n").into_bytes()
    };
    let mut requests = Vec::new();
    for what in &whats {
        // An unknown user, with a key of its own, and a known one with a wrong MAC.
        requests.push(head("GET", &sign(&to, what, &unknown, &wrong), ""));
        requests.push(head("GET", &sign(&to, what, &known, &wrong), ""));
    }
    let path = sign(&to, &whats[0], &known, &wrong);
    requests.push(head("POST", &path, "Content-Length: 4\r\n"));
    requests.push(head("GET", "/../../private/sign.pem", ""));
    requests.push(head("GET", &format!("http://{}{path}", trap.address), ""));
    requests.push(head("CONNECT", &trap.address.to_string(), ""));
    requests.push(head("GET", &format!("/{}", "a".repeat(2000)), ""));
    requests.push(head("GET", "/", &format!("X-Long: {}\r\n", "x".repeat(64 << 10))));
    requests.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is no HTTP at all\r\n\r\n".to_vec());
    requests
}

fn username(peer: &Peer) -> Username {
    let text = std::fs::read_to_string(peer.home.join("config/certs/username")).expect("a username");
    text.trim().parse().expect("a username")
}

/// Sends them at this rate; says how many were answered 404, and how fast it really was.
fn flood(flood: &Flood, target: SocketAddr, requests: &[Vec<u8>], seed: u64) -> (usize, f64) {
    let started = Instant::now();
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for flooder in 0..FLOODERS {
            let refused = &refused;
            scope.spawn(move || {
                let mut chance = Chance(seed + u64::from(flooder));
                for n in (flooder..flood.requests).step_by(FLOODERS as usize) {
                    let due = started + Duration::from_secs_f64(f64::from(n) / f64::from(flood.per_second));
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let request = &requests[chance.below(requests.len() as u64) as usize];
                    refused.fetch_add(usize::from(is_refused(source(n), target, request)), Ordering::Relaxed);
                }
            });
        }
    });
    (refused.into_inner(), f64::from(flood.requests) / started.elapsed().as_secs_f64())
}

fn is_refused(source: Ipv4Addr, target: SocketAddr, request: &[u8]) -> bool {
    let Some(mut stream) = connect_from(source, target) else { return false };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.write_all(request);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).is_ok() && &answer == b"HTTP/1.1 404"
}

/// Connections with half a head; gives the time until the last of them was closed by the other side.
fn half_open(count: usize, target: SocketAddr) -> (usize, Duration) {
    let started = Instant::now();
    let mut streams = Vec::new();
    for n in 0..count {
        let Some(mut stream) = connect_from(source(n as u32 * 3 + 1), target) else { continue };
        if stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").is_ok() {
            streams.push(stream);
        }
    }
    let opened = streams.len();
    let last = Instant::now();
    for stream in &mut streams {
        let _ = stream.set_read_timeout(Some(4 * HEAD_TIME));
        let mut answer = [0; 256];
        // An end or a reset; an answer may come before it.
        while matches!(stream.read(&mut answer), Ok(1..)) {}
    }
    println!("  {opened} half-open connections, opened in {:?}", last - started);
    (opened, last.elapsed())
}

/// The names in a spool, ids left out, and how many there are of each. The stock
/// is filled up when it is low, the clock noted every minute, and a job that its
/// sender is done with before it is over here has a mark: they are left out.
fn traces(peer: &Peer) -> BTreeMap<String, usize> {
    let spool = peer.home.join("spool");
    let mut traces = BTreeMap::new();
    for entry in walkdir::WalkDir::new(&spool).into_iter().flatten() {
        let path = entry.path().strip_prefix(&spool).expect("below").display().to_string();
        let is_id = |part: &str| part.len() >= 32 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let parts: Vec<&str> = path.split('/').map(|part| if is_id(part) { "ID" } else { part }).collect();
        let name = parts.join("/");
        if !["onetime", "clock"].contains(&parts[0]) && name != "jobs/ID/cancel" {
            *traces.entry(name).or_default() += 1;
        }
    }
    traces
}

/// Runs jobs one after the other; the median of their times.
fn median_of_jobs(a: &Peer, count: usize) -> Duration {
    let mut times: Vec<Duration> = (0..count).map(|_| a.plumb(&["b", "cat"], b"honest").good().took).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Waits until nothing changes any more at a recipient of so many jobs.
fn rest(peer: &Peer, jobs: usize) -> BTreeMap<String, usize> {
    let at_rest = |traces: &BTreeMap<String, usize>| {
        let count = |name: &str| traces.get(name).copied().unwrap_or(0);
        (count("jobs/ID/over"), count("jobs/ID/acked"), count("rqueue/ID"), count("running/ID")) == (jobs, jobs, 0, 0)
            && !traces.keys().any(|name| name.contains("/.") || name.ends_with("/in") || name.ends_with("/why"))
            // The message is removed a moment after `over` is made.
            && count("jobs/ID/message") == 0
    };
    wait_until("all jobs are over", || at_rest(&traces(peer)));
    traces(peer)
}

/// The remote ends of a process's established connections that it opened itself.
pub fn dialled_by(pid: u32, own_port: u16) -> BTreeSet<SocketAddrV4> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inodes: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_string()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let mut dialled = BTreeSet::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (Some(local), Some(remote), Some(inode)) = (fields.get(1), fields.get(2), fields.get(9)) else { continue };
        let (Some(local), Some(remote)) = (address(local), address(remote)) else { continue };
        if inodes.contains(*inode) && local.port() != own_port && remote.port() != 0 {
            dialled.insert(remote);
        }
    }
    dialled
}

/// Reads an address of `/proc/net/tcp`.
fn address(text: &str) -> Option<SocketAddrV4> {
    let (ip, port) = text.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_le_bytes());
    Some(SocketAddrV4::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// What strangers did to a peer.
struct Harm {
    before: Duration,
    meanwhile: Duration,
    service_kib: u64,
    half_open_gone: Duration,
    log_lines: usize,
}

fn suffer(strangers: Flood, name: &str) -> Harm {
    let seed = seed(name);
    let (a, b) = pair_up();
    let trap = Trap::set();
    let target: SocketAddr = b.address.parse().expect("an address");
    a.plumb(&["b", "true"], b"").good();
    let before = median_of_jobs(&a, strangers.honest_jobs);
    let requests = requests(&a, &b, &trap);
    let began = Instant::now();
    let mut dialled = BTreeSet::new();
    let (mut meanwhile, mut answers, mut halves, mut jobs) =
        (Vec::new(), (0, 0.0), (0, Duration::ZERO), 1 + strangers.honest_jobs);
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&strangers, target, &requests, seed));
        let opening = scope.spawn(|| half_open(strangers.half_open, target));
        while !flooding.is_finished() || meanwhile.len() < 3 {
            meanwhile.push(a.plumb(&["b", "cat"], b"honest").good().took);
            jobs += 1;
            for verb in ["service", "loop"] {
                b.children(verb).into_iter().for_each(|pid| dialled.extend(dialled_by(pid, target.port())));
            }
        }
        answers = flooding.join().expect("the flood ends");
        halves = opening.join().expect("they are closed");
    });
    meanwhile.sort_unstable();
    let (minutes, log) = (began.elapsed().as_secs() as usize / 60 + 1, b.log());
    let log_lines = log.lines().filter(|line| line.contains("stranger")).count();
    let harm = Harm {
        before,
        meanwhile: meanwhile[meanwhile.len() / 2],
        service_kib: b.children("service").into_iter().map(peak_kib).max().unwrap_or(0),
        half_open_gone: halves.1,
        log_lines,
    };
    println!(
        "{name}: {} requests at {:.0} a second, {} of them answered 404; {} half-open gone after {:.1} s; {} honest jobs, \
         median {:?} before, {:?} meanwhile; service at most {:.1} MiB; {} log lines about strangers",
        strangers.requests,
        answers.1,
        answers.0,
        halves.0,
        harm.half_open_gone.as_secs_f64(),
        meanwhile.len(),
        harm.before,
        harm.meanwhile,
        harm.service_kib as f64 / 1024.0,
        harm.log_lines
    );
    // The control of the flood itself: it reached the service.
    assert!(answers.0 > strangers.requests as usize / 3, "only {} were answered", answers.0);
    assert!(halves.0 > strangers.half_open / 2, "only {} were opened", halves.0);
    assert!(log_lines <= minutes, "{log_lines} lines in {minutes} minutes");
    assert_eq!(trap.dialled(), 0, "somebody dialled where strangers pointed");
    let peers = BTreeSet::from([a.address.parse().expect("an address")]);
    assert!(dialled.is_subset(&peers), "dialled {dialled:?}, knows only {peers:?}");
    assert_eq!(b.children("service").len(), 1);

    // As many honest jobs alone leave the same names.
    let with = rest(&b, jobs);
    let (mut c, mut d) = pair();
    c.up();
    d.up();
    (0..jobs).for_each(|_| drop(c.plumb(&["b", "cat"], b"honest").good()));
    let alone = rest(&d, jobs);
    assert_eq!(with, alone, "strangers left something in the spool");
    c.plumb(&["b", "cat"], b"honest").good();
    assert_ne!(rest(&d, jobs + 1), alone, "control: one job more is seen");
    harm
}

#[test]
fn strangers_leave_no_trace_and_keep_no_peer_out() {
    let flood = Flood { requests: 2000, per_second: 1000, half_open: 100, honest_jobs: 5 };
    let harm = suffer(flood, "strangers_leave_no_trace_and_keep_no_peer_out");
    assert!(harm.service_kib <= 64 << 10, "{} KiB", harm.service_kib);
}

#[test]
#[ignore = "10,000 requests at 2,000 a second, 1,500 half-open connections"]
fn ten_thousand_strangers_leave_no_trace_and_keep_no_peer_out() {
    let flood = Flood { requests: 10_000, per_second: 2000, half_open: 1500, honest_jobs: 20 };
    let harm = suffer(flood, "ten_thousand_strangers_leave_no_trace_and_keep_no_peer_out");
    assert!(harm.service_kib <= 64 << 10, "{} KiB", harm.service_kib);
    assert!(harm.half_open_gone <= 2 * HEAD_TIME, "gone after {:?}", harm.half_open_gone);
    let allowed = (2 * harm.before).max(harm.before + Duration::from_millis(200));
    assert!(harm.meanwhile <= allowed, "{:?} meanwhile, {:?} before", harm.meanwhile, harm.before);
}

#[test]
fn the_traps_catch_what_they_are_for() {
    let trap = Trap::set();
    let stream = TcpStream::connect(trap.address).unwrap();
    wait_until("the trap counts", || trap.dialled() == 1);
    let SocketAddr::V4(address) = trap.address else { panic!("IPv4") };
    assert!(dialled_by(std::process::id(), 0).contains(&address), "a connection of ours is found");
    drop(stream);
}
