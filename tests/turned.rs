//! A peer that nobody can dial takes part like any other: it keeps connections
//! open, and is asked over them.

use crate::homes::{PATIENCE, PLUMB, Peer, Sampler, noise, pair_turned, send, wait_until, wait_until_grown};
use crate::link::Link;
use crate::strangers::dialled_by;
use crate::torment::Pace;
use keygen::{Chain, Identity, Pair};
use rustix::process::Signal;
use spool::home::Home;
use spool::log::WINDOW;
use spool::name::{MsgId, Nonce};
use spool::segment::SEGMENT;
use spool::url::{Ask, Reply, What, Word, sign};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

#[test]
fn jobs_go_both_ways_though_one_peer_cannot_be_dialled() {
    go_both_ways(20 * MIB);
}

#[test]
#[ignore = "the same with 100 MiB"]
fn a_hundred_mebibytes_go_both_ways_though_one_peer_cannot_be_dialled() {
    go_both_ways(100 * MIB);
}

fn go_both_ways(size: usize) {
    let (a, b, link) = pair_turned(0);
    let toml = |peer: &Peer, of: &str| std::fs::read_to_string(peer.home.join(format!("config/peers/{of}/peer.toml")));
    assert!(toml(&a, "b").unwrap().contains("\nturn = true\n"), "peer add knows that we cannot be dialled");
    assert!(toml(&b, "a").unwrap().contains("\ndial = \"never\"\n"), "and that there is no address");
    let input = noise(size, 1);
    for (from, to) in [(&a, "b"), (&b, "a")] {
        let ran = from.plumb(&[to, "cat; echo e >&2; exit 37"], &input);
        assert_eq!(ran.status, 37, "{}", ran.stderr);
        assert!(ran.stderr.ends_with("e\n"), "{}", ran.stderr);
        assert!(ran.stdout == input, "{} of {} bytes", ran.stdout.len(), input.len());
        println!("{} MiB there and back from {}: {:.2} s", size / MIB, from.name, ran.took.as_secs_f64());
    }
    let port = b.address.rsplit_once(':').expect("a port").1.parse().expect("a port");
    for pid in b.processes() {
        let program = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert_eq!(dialled_by(pid, port).into_iter().collect::<Vec<_>>(), [], "b dialled somebody: {program:?}");
    }
    let dialled = a.processes().into_iter().flat_map(|pid| dialled_by(pid, 0)).collect::<Vec<_>>();
    assert!(dialled.iter().all(|there| there.to_string() == link.address.to_string()), "{dialled:?}");
    assert!(!dialled.is_empty(), "control: what is dialled is seen");
}

/// Both peers stream into the other's `sha256sum`, all of it over one link that
/// is cut, while this one and that is killed.
struct Trial {
    payload: u64,
    rate: u64,
    cut_every: Duration,
    /// Zero: nobody is killed.
    kill_every: Duration,
    both: bool,
}

impl Trial {
    fn run(&self, name: &str) {
        let (mut a, mut b, link) = pair_turned(self.rate);
        let numbers = format!("seq 1 400000000 | head -c {}", self.payload);
        let sum = Command::new("sh").args(["-c", &format!("{numbers} | sha256sum")]).output().expect("a digest").stdout;
        let sampler = Sampler::begin(&[&a, &b]);
        let started = Instant::now();
        let start = |from: &Peer, to: &str| {
            let mut numbers = Command::new("sh").args(["-c", &numbers]).stdout(Stdio::piped()).spawn().expect("sh");
            let mut plumb = from.command(PLUMB);
            plumb.args([to, "sha256sum"]).stdin(numbers.stdout.take().expect("a pipe"));
            let plumb = plumb.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("plumb starts");
            (numbers, plumb)
        };
        let mut running = vec![start(&a, "b")];
        if self.both {
            running.push(start(&b, "a"));
        }
        let (cuts, kills) = self.torment(&mut running, &mut a, &mut b, &link);
        for (mut numbers, plumb) in running {
            let output = plumb.wait_with_output().expect("plumb ends");
            numbers.wait().expect("sh ends");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), output.stdout == sum), (Some(0), true), "{said}");
        }
        let (peak_kib, peak_of) = sampler.end();
        println!(
            "{name}: {} MiB in {:.1} s, {cuts} cuts, {kills} kills, {:.4} of the payload passed, peak {:.1} MiB ({})",
            self.payload >> 20,
            started.elapsed().as_secs_f64(),
            link.bytes() as f64 / (self.payload << u32::from(self.both)) as f64,
            peak_kib as f64 / 1024.0,
            peak_of.trim()
        );
        assert!(cuts >= 3, "{cuts} cuts");
        assert!(self.kill_every.is_zero() || kills >= 12, "{kills} kills");
        assert!(peak_kib <= 64 << 10, "{peak_kib} KiB: {peak_of}");
    }

    fn torment(&self, running: &mut [(Child, Child)], a: &mut Peer, b: &mut Peer, link: &Link) -> (u64, u64) {
        let (mut cuts, mut kills) = (0_u64, 0_u64);
        let (mut cut, mut kill) = (Pace::new(self.cut_every, 50), Pace::new(self.kill_every, 12));
        while running.iter_mut().any(|(_, plumb)| plumb.try_wait().expect("ours").is_none()) {
            std::thread::sleep(Duration::from_millis(10));
            if cut.is_due() {
                cut.step();
                cuts += u64::from(link.cut() > 0);
            }
            if !self.kill_every.is_zero() && kill.is_due() {
                let verb = ["loop", "service", "daemon"][kills as usize / 2 % 3];
                let peer = if kills.is_multiple_of(2) { &mut *a } else { &mut *b };
                // A child that is just being replaced is killed as soon as it is there.
                if peer.suffer(verb) {
                    kills += 1;
                    kill.step();
                }
            }
        }
        (cuts, kills)
    }
}

#[test]
fn turned_streams_survive_cuts_and_the_death_of_any_process() {
    let (cut_every, kill_every) = (Duration::from_secs(2), Duration::from_millis(700));
    Trial { payload: 32 << 20, rate: 6_000_000, cut_every, kill_every, both: true }.run("turned, cuts and kills");
}

#[test]
#[ignore = "2 GiB through a link that is cut every 2 s"]
fn two_gibibytes_through_a_turned_connection_survive_cuts() {
    let (cut_every, kill_every) = (Duration::from_secs(2), Duration::ZERO);
    Trial { payload: 2 << 30, rate: 0, cut_every, kill_every, both: false }.run("2 GiB, turned, a cut every 2 s");
}

#[test]
#[ignore = "half a minute of silence"]
fn turned_connections_come_again_after_a_link_that_swallowed_everything() {
    let (a, b, link) = pair_turned(0);
    b.plumb(&["a", "true"], b"").good();
    let echo = begin(&b, &["a", "cat"]);
    link.swallow(true);
    std::thread::sleep(Duration::from_secs(30));
    link.swallow(false);
    let mut echo = echo;
    echo.stdin.take().expect("a pipe").write_all(b"there again").expect("it reads");
    let output = echo.wait_with_output().expect("plumb ends");
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"there again".to_vec()));
    assert!(b.plumb(&["a", "true"], b"").status == 0 && a.plumb(&["b", "true"], b"").status == 0);
}

/// The service ends a connection that is idle for a minute, spare ones too.
#[test]
#[ignore = "70 s of idleness"]
fn spare_connections_are_replaced_without_a_word() {
    let (a, b, link) = pair_turned(0);
    b.plumb(&["a", "true"], b"").good();
    let (before, said) = (link.opened(), [a.log(), b.log()]);
    std::thread::sleep(Duration::from_secs(70));
    println!("{before} connections, {} after 70 s", link.opened());
    assert!(link.opened() > before, "they were replaced");
    assert_eq!([a.log(), b.log()], said);
    b.plumb(&["a", "true"], b"").good();
}

/// Sets `turn` for `b` at a peer, and has its daemon read it.
fn set_turn(peer: &Peer, on: bool) {
    let path = peer.home.join("config/peers/b/peer.toml");
    let text = std::fs::read_to_string(&path).expect("a policy");
    std::fs::write(&path, text.replace(&format!("turn = {}", !on), &format!("turn = {on}"))).expect("a policy");
    send(peer.daemon_pid().expect("it is up"), Signal::HUP);
}

#[test]
fn connections_are_kept_for_as_long_as_the_settings_say() {
    let (a, b, _link) = pair_turned(0);
    b.plumb(&["a", "true"], b"").good();
    set_turn(&a, false);
    let waits = || b.netplumb(&["queue", "--json"]).good().text().contains("it has not called in");
    // HUP is followed within a moment: what begins before that gets through.
    let mut waiting = begin(&b, &["a", "true"]);
    wait_until("it does not call in any more", || {
        if waiting.try_wait().expect("ours").is_some() {
            waiting = begin(&b, &["a", "true"]);
        }
        waits()
    });
    set_turn(&a, true);
    assert!(waiting.wait().expect("plumb ends").success());
}

/// A `plumb` that somebody began and looks after no more.
fn begin(peer: &Peer, words: &[&str]) -> Child {
    let mut command = peer.command(PLUMB);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("plumb")
}

fn write_for_ever(mut stdin: ChildStdin) {
    std::thread::spawn(move || while stdin.write_all(&[7; 64 << 10]).is_ok() {});
}

/// Nobody reads what `a`'s endless command writes, and `b`'s command reads
/// nothing of what `a` has for it. Both logs are pulled over turned connections.
#[test]
fn stalled_readers_on_turned_connections_grow_no_memory_and_fill_no_spool() {
    let (a, b, _link) = pair_turned(0);
    let sampler = Sampler::begin(&[&a, &b]);
    let (mut unread, mut unheard) = (begin(&b, &["a", "cat /dev/zero"]), begin(&a, &["b", "sleep 1000"]));
    write_for_ever(unheard.stdin.take().expect("a pipe"));
    // A window at each end of each log, and the segment that is cut off when it is read.
    let most = 2 * (WINDOW + SEGMENT) + (1 << 20);
    let sizes = || (a.spool_size(), b.spool_size());
    for peer in [&a, &b] {
        wait_until_grown("all windows are full", 2 * WINDOW - SEGMENT, || peer.spool_size());
    }
    let ran = b.plumb(&["a", "cat"], b"others go on").good();
    assert_eq!(ran.text(), "others go on");
    assert!(sizes().0 <= most && sizes().1 <= most, "{:?} bytes", sizes());
    let (peak_kib, peak_of) = sampler.end();
    println!("stalled: spools of {:?} bytes, peak {:.1} MiB ({peak_of})", sizes(), peak_kib as f64 / 1024.0);
    assert!(peak_kib <= 64 << 10, "{peak_kib} KiB: {peak_of}");
    for child in [&mut unread, &mut unheard] {
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn forty_jobs_at_once_share_what_one_peer_has_turned() {
    let (a, b, link) = pair_turned(0);
    let running: Vec<Child> = (0..40).map(|n| begin(&b, &["a", &format!("sleep 1; echo {n}")])).collect();
    let started = Instant::now();
    for (n, mut child) in running.into_iter().enumerate() {
        drop(child.stdin.take());
        let output = child.wait_with_output().expect("plumb ends");
        assert_eq!((output.status.code(), output.stdout), (Some(0), format!("{n}\n").into_bytes()));
    }
    println!("forty jobs in {:.1} s, connections {}", started.elapsed().as_secs_f64(), link.opened());
    for log in [a.log(), b.log()] {
        assert!(!log.contains("cannot serve all its connections"), "{log}");
    }
}

/// Somebody who has heard a peer say `turn`, and a word of it to us.
struct Eavesdropper {
    turn: String,
    old_reply: Vec<u8>,
}

impl Eavesdropper {
    fn on(a: &Peer, b: &Peer) -> Eavesdropper {
        let home = |peer: &Peer| Home { config: peer.home.join("config"), spool: peer.home.join("spool") };
        let chain = Chain::load(&home(a), &"b".parse().expect("a name")).expect("b's certificates");
        let pair = Pair::new(&Identity::load(&home(a)).expect("a's keys"), &chain).expect("a pair");
        let (a, b) = (home(a).username().expect("a username"), home(b).username().expect("a username"));
        let hlo = What::Request(Ask::Hlo, MsgId::NONE, Nonce([9; 16]));
        Eavesdropper {
            turn: sign(&b, &What::Turn(Nonce([8; 16])), &a, &pair.request_out),
            old_reply: Reply::word(Word::Ok).seal(&sign(&a, &hlo, &b, &pair.request_in), &pair.request_in),
        }
    }

    /// Replays it; gives the connection and the path of what the peer then asks over it.
    fn replay(&self, target: &str) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(target).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let request = format!("GET {} HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: netplumb\r\n\r\n", self.turn);
        stream.write_all(request.as_bytes()).expect("it reads");
        let (answer, asked) = (head(&mut stream), head(&mut stream));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        (stream, asked)
    }
}

/// Reads up to an empty line, or the end; one of them must come.
fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("it is kept, and nothing comes"),
            Ok(_) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// If `take` of loop/turn.rs let connections be used without waiting for the
/// proof, the peer would say `msg` over the eavesdropper's, and wait for it.
#[test]
fn a_replayed_turn_is_asked_for_a_proof_and_for_nothing_else() {
    let (mut a, b, _link) = pair_turned(0);
    b.plumb(&["a", "true"], b"").good();
    a.kill();
    let eavesdropper = Eavesdropper::on(&a, &b);
    let (mut silent, asked) = eavesdropper.replay(&b.address);
    assert!(asked.contains("/request/hlo/"), "{asked}");
    let (mut lying, _) = eavesdropper.replay(&b.address);
    let length = eavesdropper.old_reply.len();
    let mut old = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    old.extend_from_slice(&eavesdropper.old_reply);
    lying.write_all(&old).expect("it reads");
    assert_eq!(head(&mut lying), "", "an old answer proves nothing: it is closed");

    let waiting = begin(&b, &["a", "cat"]);
    wait_until("it says why it waits", || {
        let ids = b.ids("queue");
        let told = ids.first().map(|id| b.netplumb(&["why", id]).text()).unwrap_or_default();
        told.contains("it has not called in, and is never dialled")
    });
    let tested = b.netplumb(&["peer", "test", "a"]);
    assert!(tested.status == 69 && tested.stderr.contains("never dialled"), "{}", tested.stderr);
    assert_eq!(head(&mut silent), "", "nothing but the proof was asked, and it is closed without one");

    a.up();
    let mut waiting = waiting;
    waiting.stdin.take().expect("a pipe").write_all(b"through").expect("it reads");
    let output = waiting.wait_with_output().expect("plumb ends");
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"through".to_vec()));
}

/// Many replays take nobody's place: until they are proved they are the first to go.
#[test]
fn replays_keep_no_peer_out() {
    let (a, b, _link) = pair_turned(0);
    b.plumb(&["a", "true"], b"").good();
    let eavesdropper = Eavesdropper::on(&a, &b);
    let replays: Vec<_> = (0..300).map(|_| eavesdropper.replay(&b.address)).collect();
    for (from, to) in [(&a, "b"), (&b, "a")] {
        assert_eq!(from.plumb(&[to, "cat"], b"still").good().text(), "still");
    }
    assert_eq!(replays.len(), 300);
    assert!(!b.log().contains("cannot serve all its connections"), "{}", b.log());
}
