//! What waits on the disk is bounded by what somebody said, and nothing fails for it.

use crate::homes::{NETPLUMB, PLUMB, Peer, noise, pair, wait_until, wait_until_grown};
use spool::log::WINDOW;
use spool::segment::SEGMENT;
use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// A job that sums its input, and a thread that writes so many bytes to it.
struct Fed {
    child: Child,
    /// Bytes that were taken from us.
    written: Arc<AtomicU64>,
    writer: std::thread::JoinHandle<()>,
    /// What the other side is to say.
    sum: String,
}

impl Fed {
    fn begin(a: &Peer, size: u64) -> Fed {
        let mut command = a.command(PLUMB);
        command.args(["b", "sha256sum"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("plumb starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // The same piece again and again, with its number: the order matters.
        let piece = noise(MIB as usize, 9);
        let numbered = move |n: u64| [&n.to_be_bytes()[..], &piece[8..]].concat();
        let sum = (0..size / MIB).fold(spool_sum::new(), |sum, n| sum.with(&numbered(n))).text();
        let written = Arc::new(AtomicU64::new(0));
        let count = written.clone();
        let writer = std::thread::spawn(move || {
            for n in 0..size / MIB {
                stdin.write_all(&numbered(n)).expect("plumb reads on");
                count.fetch_add(MIB, Ordering::Relaxed);
            }
        });
        Fed { child, written, writer, sum }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn end_well(self) -> String {
        self.writer.join().expect("everything is taken in the end");
        let output = self.child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).split(' ').next(), Some(self.sum.as_str()));
        said
    }
}

/// SHA-256 as OpenSSL does it.
mod spool_sum {
    pub struct Sum(openssl::hash::Hasher);

    pub fn new() -> Sum {
        Sum(openssl::hash::Hasher::new(openssl::hash::MessageDigest::sha256()).expect("SHA-256"))
    }

    impl Sum {
        pub fn with(mut self, bytes: &[u8]) -> Sum {
            self.0.update(bytes).expect("SHA-256");
            self
        }

        pub fn text(mut self) -> String {
            self.0.finish().expect("SHA-256").iter().map(|byte| format!("{byte:02x}")).collect()
        }
    }
}

/// The largest size of two spools while something goes on.
struct Watched {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<[u64; 2]>,
}

impl Watched {
    fn begin(a: &Peer, b: &Peer) -> Watched {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, spools) = (stop.clone(), [a, b].map(|peer| peer.spool("jobs")));
        let thread = std::thread::spawn(move || {
            let mut most = [0; 2];
            while !stopped.load(Ordering::Relaxed) {
                for (most, spool) in most.iter_mut().zip(&spools) {
                    let files = walkdir::WalkDir::new(spool).into_iter().flatten();
                    let sizes = files.filter_map(|it| it.metadata().ok()).filter(|it| it.is_file());
                    *most = sizes.map(|it| it.len()).sum::<u64>().max(*most);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        Watched { stop, thread }
    }

    fn end(self) -> [u64; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends")
    }
}

/// A producer of so many bytes, a quota, and a receiver that is off for so long.
fn producer_blocks_at_the_quota(quota: u64, size: u64, off: Duration) {
    let (mut a, mut b) = pair();
    a.quota(&b, &format!("job_bytes = \"{}M\"", quota / MIB));
    a.up();
    let watched = Watched::begin(&a, &b);
    let fed = Fed::begin(&a, size);
    wait_until_grown("about a quota is taken", quota - 32 * MIB, || fed.written());
    let id = a.ids("jobs").remove(0);
    wait_until("why says it", || a.netplumb(&["why", &id]).good().text().contains("quota"));
    std::thread::sleep(off);
    // What is not in the log is in pipes.
    let blocked_at = fed.written();
    assert!(blocked_at < (quota + 4 * MIB).min(size), "the producer does not block: {blocked_at}");
    b.up();
    let said = fed.end_well();
    let most = watched.end();
    println!(
        "quota {} MiB, {} MiB: blocks at {} MiB; spools at most {:.2} and {:.2} MiB\n{said}",
        quota / MIB,
        size / MIB,
        blocked_at / MIB,
        most[0] as f64 / MIB as f64,
        most[1] as f64 / MIB as f64
    );
    assert!(most.iter().all(|most| *most <= quota + SEGMENT), "{most:?}");
}

#[test]
fn a_producer_blocks_at_the_quota_and_nothing_fails() {
    producer_blocks_at_the_quota(64 * MIB, 160 * MIB, Duration::from_secs(2));
}

#[test]
#[ignore = "the same with 256 MiB of 4 GiB, and a receiver that is off for a minute"]
fn a_producer_of_4_gib_blocks_at_a_quota_of_256_mib() {
    producer_blocks_at_the_quota(256 * MIB, 4096 * MIB, Duration::from_secs(60));
}

#[test]
fn a_producer_within_the_quota_ends_while_the_receiver_is_off() {
    let (mut a, mut b) = pair();
    a.quota(&b, "job_bytes = \"128M\"");
    a.up();
    let fed = Fed::begin(&a, 2 * WINDOW);
    wait_until_grown("all of it is taken", 2 * WINDOW, || fed.written());
    b.up();
    fed.end_well();
}

#[test]
fn without_a_quota_a_producer_blocks_at_its_window() {
    let (mut a, mut b) = pair();
    a.up();
    let fed = Fed::begin(&a, 2 * WINDOW);
    wait_until_grown("about a window is taken", WINDOW - MIB, || fed.written());
    std::thread::sleep(Duration::from_secs(2));
    // What is not in the log is in pipes.
    assert!(fed.written() < WINDOW + 4 * MIB, "the producer does not block: {}", fed.written());
    b.up();
    fed.end_well();
}

/// A job whose input and output both stand still at the quota, on both sides, goes on in both directions.
#[test]
fn both_directions_at_the_quota_go_on() {
    let (mut a, mut b) = pair();
    for (one, other) in [(&a, &b), (&b, &a)] {
        one.quota(other, "job_bytes = \"32M\"");
    }
    a.up();
    b.up();
    let mut command = a.command(PLUMB);
    command.args(["b", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("plumb starts");
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let input = noise(160 * MIB as usize, 3);
    let (sent, watched) = (input.clone(), Watched::begin(&a, &b));
    let writer = std::thread::spawn(move || stdin.write_all(&sent).expect("plumb reads on"));
    // Nobody reads what comes back: everything fills up.
    wait_until("both sides stand still", || {
        let now = [a.spool_size(), b.spool_size()];
        std::thread::sleep(Duration::from_millis(1500));
        now[0] > 16 * MIB && now[1] > 16 * MIB && now == [a.spool_size(), b.spool_size()]
    });
    let output = crate::homes::read_up_to(stdout, input.len() + 1);
    assert!(output == input, "{} of {} bytes", output.len(), input.len());
    writer.join().expect("everything is taken in the end");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let most = watched.end();
    println!("both directions at 32 MiB: spools at most {} and {} MiB", most[0] / MIB, most[1] / MIB);
    assert!(most.iter().all(|most| *most <= 40 * MIB), "{most:?}");
}

#[test]
fn a_size_that_cannot_be_read_is_named() {
    let (a, b) = pair();
    a.quota(&b, "job_bytes = \"much\"");
    let ran = a.plumb(&["b", "true"], b"");
    assert_eq!(ran.status, 255);
    assert!(ran.stderr.contains("job_bytes") && ran.stderr.contains("\"much\" is no size"), "{}", ran.stderr);
    let mut list = a.command(NETPLUMB);
    list.args(["peer", "list"]);
    assert_eq!(crate::homes::run(list, b"").status, 78);
}
