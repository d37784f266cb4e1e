//! Whoever shows no valid MAC: one answer, no trace, no place to stay.

mod common;

use common::patience::PATIENCE;
use common::{ALICE, BOB, Client, Response, Running, Site, key, path, seg, site, username};
use rustix::net::{AddressFamily, SocketType};
use spool::crypto::Key;
use spool::layout::Place;
use spool::name::{Chan, MsgId, Nonce, Role};
use spool::url::{Ask, Cert, What, sign};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MSGID: MsgId = MsgId([5; 20]);

fn hello() -> What {
    What::Request(Ask::Hlo, MsgId::NONE, Nonce([1; 16]))
}

/// Everything that comes back until the other side closes.
fn raw(running: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(running.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

/// A site with a message and a job of Alice's.
fn inhabited() -> Site {
    let site = site(2);
    site.directory(Place::Queue, MSGID, ALICE, Role::Sender);
    site.file(Place::Queue, MSGID, "send.ok", "");
    site.file(Place::Queue, MSGID, "sealed", "sealed message");
    site.job(MSGID, Chan::STDOUT).append(b"output").unwrap();
    site
}

#[test]
fn every_kind_of_stranger_gets_the_same_bytes_and_leaves_no_trace() {
    let site = inhabited();
    let running = site.serve();
    let before = site.tree();
    let (ours, alice) = (username("ours"), username(ALICE));
    let good = path(ALICE, hello());
    let msg = What::Request(Ask::Msg, MsgId([8; 20]), Nonce([1; 16]));
    let expected = raw(&running, &get("/", ""));
    assert!(expected.starts_with("HTTP/1.1 404 Not Found\r\n"), "{expected}");
    assert!(!expected.to_lowercase().contains("date:") && !expected.to_lowercase().contains("server:"));
    let forged = |what: &What| sign(&ours, what, &alice, &Key([0; 32]));
    let kinds = [
        ("another's name", get(&sign(&username("else"), &hello(), &alice, &key(ALICE)), "")),
        ("another's certificate", get(&format!("/{}/certs/ca.pem", username("else")), "")),
        ("unknown", get(&path("carol", hello()), "")),
        ("unknown wants a key", get(&path("carol", msg.clone()), "")),
        ("wrong MAC", get(&forged(&hello()), "")),
        ("wrong MAC wants a key", get(&forged(&msg), "")),
        ("wrong MAC, message", get(&forged(&What::Queue(MSGID)), "")),
        ("wrong MAC, segment", get(&forged(&seg(MSGID, Chan::STDOUT, 0, 0)), "")),
        ("grammar", get(&format!("/{ours}/certs/../private/sign.pem"), "")),
        ("escape", get(&good.replace("request", "%72equest"), "")),
        ("too long", get(&format!("/{}", "a".repeat(600)), "")),
        ("query", get(&format!("{good}?x"), "")),
        ("absolute", get(&format!("http://x{good}"), "")),
        ("star", get("*", "")),
        ("POST", get(&good, "Content-Length: 0\r\n").replace("GET", "POST")),
        ("HEAD", get(&good, "").replace("GET", "HEAD")),
        ("body", get(&good, "Content-Length: 4\r\n") + "body"),
        ("chunked", get(&good, "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        ("both", get(&good, "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        ("another peer's message", get(&path(BOB, What::Queue(MSGID)), "")),
        ("another peer's segment", get(&path(BOB, seg(MSGID, Chan::STDOUT, 0, 0)), "")),
        ("another peer's job", get(&path(BOB, What::Request(Ask::Sta, MSGID, Nonce([1; 16]))), "")),
        ("pull of nothing", get(&path(ALICE, seg(MsgId([9; 20]), Chan::STDOUT, 0, 0)), "")),
    ];
    for (kind, request) in kinds {
        assert_eq!(raw(&running, &request), expected, "{kind}");
    }
    assert_eq!(site.tree(), before);
    let heard = running.heard.lock().unwrap().clone();
    assert!(heard.iter().all(|line| !line.contains(username("carol").as_str())), "{heard:?}");
}

#[test]
fn certificates_are_public() {
    let site = site(0);
    let running = site.serve();
    let mut client = running.client();
    for cert in Cert::ALL {
        let Response { status, body, .. } = client.get(&format!("/{}/certs/{}", username("ours"), cert.file()), "");
        let expected = std::fs::read(site.home.config.join("certs").join(cert.file())).unwrap();
        assert_eq!((status, body), (200, expected));
    }
}

#[test]
fn the_same_request_replayed_is_answered_and_a_reply_belongs_to_its_request() {
    let site = site(0);
    let running = site.serve();
    let mut client = running.client();
    let first = client.get(&path(ALICE, hello()), "");
    assert_eq!(client.get(&path(ALICE, hello()), ""), first);
    let other = path(ALICE, What::Request(Ask::Hlo, MsgId::NONE, Nonce([2; 16])));
    assert_eq!(spool::url::Reply::open(&first.body, &other, &key(ALICE)), None);
}

#[test]
fn whoever_does_not_finish_a_head_is_dropped() {
    unfinished_heads_are_dropped();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn whoever_does_not_finish_a_head_is_dropped_within_seconds() {
    let [large, unfinished] = unfinished_heads_are_dropped();
    assert!(large < Duration::from_secs(1) && unfinished < Duration::from_millis(7500), "{large:?} {unfinished:?}");
}

/// Gives the time until those whose head is too large were dropped, and the others.
fn unfinished_heads_are_dropped() -> [Duration; 2] {
    let site = site(0);
    let running = site.serve();
    let asked = Instant::now();
    let mut idle = running.client();
    let mut half = running.client();
    half.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    let mut long = running.client();
    let _ = long.stream.write_all(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(20_000)).as_bytes());
    let mut many = running.client();
    let _ = many.stream.write_all(get("/", &"X: y\r\n".repeat(17)).as_bytes());
    for client in [&mut long, &mut many] {
        assert!(client.is_closed(), "a head that is too large");
    }
    let large = asked.elapsed();
    let mut dripping = running.client();
    let drip = std::thread::spawn(move || {
        for byte in get("/", "").bytes().cycle() {
            if dripping.stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let mut peer = running.client();
    peer.ask(ALICE, Ask::Hlo, MsgId::NONE).unwrap();
    let mut half_peer = running.client();
    half_peer.ask(ALICE, Ask::Hlo, MsgId::NONE).unwrap();
    half_peer.stream.write_all(b"GET / HT").unwrap();
    for client in [&mut idle, &mut half, &mut half_peer] {
        assert!(client.is_closed());
    }
    assert!(asked.elapsed() >= Duration::from_millis(4500), "{:?}", asked.elapsed());
    drip.join().unwrap();
    let unfinished = asked.elapsed();
    assert!(peer.ask(ALICE, Ask::Hlo, MsgId::NONE).is_some(), "a peer may be idle");
    [large, unfinished]
}

/// Connects from this address of the loopback network.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).ok()?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).ok()?;
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0)).ok()?;
    rustix::net::connect(&socket, &to).ok()?;
    Some(socket.into())
}

/// The resident memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What the service, in this process as well, and the other tests need of its descriptors.
const OURS: usize = 800;

/// Ten thousand connections, or as many as this process may hold: idle ones, half a head, a long head.
fn flood(running: &Running, size: usize, source: impl Fn(usize) -> Ipv4Addr) -> (usize, usize) {
    let mut held = Vec::new();
    let mut peak = 0;
    let mut attempts = 0;
    for n in 0..size {
        let Some(mut stream) = connect_from(source(n), running.address) else { continue };
        attempts += 1;
        let _ = match n % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n"),
            _ => stream.write_all(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(7000)).as_bytes()),
        };
        held.push(stream);
        if n % 500 == 0 {
            peak = peak.max(resident());
        }
    }
    (attempts, peak.max(resident()))
}

/// The 99th percentile of the time that honest requests take during the flood, and how many there were for each
/// thousand of its connections.
fn honest_meanwhile(name: &str, source: impl Fn(usize) -> Ipv4Addr + Sync) -> (Duration, usize) {
    spool::limit::raise_descriptors();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let size = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(OURS).clamp(100, 10_000);
    let site = site(0);
    let running = site.serve();
    running.ask(ALICE, Ask::Hlo, MsgId::NONE).unwrap();
    let before = resident();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let (mut times, mut lost) = (Vec::new(), 0);
            while !done.load(Ordering::Relaxed) {
                let asked = Instant::now();
                // A connection of its own each time; one that is crowded out is tried again.
                while !asks_once(&running) {
                    lost += 1;
                }
                times.push(asked.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            times.sort_unstable();
            (times[times.len() * 99 / 100], times.len(), lost)
        });
        let (attempts, peak) = flood(&running, size, &source);
        done.store(true, Ordering::Relaxed);
        let (p99, count, lost) = honest.join().unwrap();
        let grown = peak.saturating_sub(before) >> 20;
        println!(
            "{name}: {attempts} connections, {grown} MiB more; {count} honest requests, p99 {p99:?}, {lost} tried again"
        );
        assert!(attempts > size * 9 / 10 && grown <= 64);
        (p99, count * 1000 / size)
    })
}

fn asks_once(running: &Running) -> bool {
    let Ok(stream) = TcpStream::connect(running.address) else { return false };
    let mut client = Client::of(stream);
    client.send(&path(ALICE, hello()), "");
    client.receive().is_some_and(|response| response.status == 200)
}

#[test]
fn ten_thousand_connections_keep_no_peer_out() {
    flooded();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn ten_thousand_connections_keep_no_peer_waiting() {
    for (p99, count) in flooded() {
        assert!(p99 < Duration::from_secs(1) && count > 2, "{p99:?}, {count}");
    }
}

fn flooded() -> [(Duration, usize); 2] {
    [
        honest_meanwhile("from forty sources", |n| Ipv4Addr::new(127, 0, 1, (n % 40) as u8 + 1)),
        honest_meanwhile("from the peer's own address", |_| Ipv4Addr::LOCALHOST),
    ]
}
