//! Streams from peers that do not do what they should, one promise each.

use crate::net::{Answer, Get};
use crate::pull::{Pull, Want};
use crate::rig_test::{MSGID, Rig, SILENCE, bare, bytes, soon};
use crate::stream::{Event, Stream};
use crate::streams::Moved;
use spool::fs::Fs;
use spool::layout;
use spool::log::{HINTS_APART, WINDOW};
use spool::name::Chan;
use spool::segment::{HEADER, Header, OVERHEAD, RECORD, Records, SEGMENT};
use spool::url::{Ask, Word};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const LINES: &str = "0 0 9\n2 0 9\n3 0 9\n";

type Heard = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts the streams of these channels, and gives what they say.
fn start(rig: &Rig, channels: &[Chan]) -> UnboundedReceiver<Event> {
    let (events, said) = unbounded_channel();
    layout::make_dirs(&*rig.disk, &layout::Place::Jobs.dir(MSGID)).unwrap();
    for &chan in channels {
        let pull = Pull::open(rig.disk.clone(), rig.keys.clone(), rig.stream(chan)).unwrap();
        let stream = Stream::new(rig.world.clone(), rig.known.clone(), pull, events.clone(), Moved::default());
        tokio::spawn(stream.run());
    }
    said
}

/// Counts pulls, and answers each as `pulled` says.
fn counted(pulled: impl Fn(&Get) -> Answer + Send + Sync + 'static) -> (Rig, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counts = count.clone();
    let rig = Rig::new(Word::Ok, LINES, move |get| {
        counts.fetch_add(1, Ordering::Relaxed);
        pulled(get)
    });
    (rig, count)
}

/// Each stream asked after a bare status, and each reply ended the others'
/// waiting: as fast as the network carried it, for as long as pulls failed.
#[tokio::test]
async fn streams_that_fail_alike_do_not_wake_each_other() {
    let (rig, count) = counted(|_| bare(404, None));
    let _said = start(&rig, &[Chan::CONTROL, Chan::STDOUT, Chan::STDERR]);
    soon("each is pulled", || count.load(Ordering::Relaxed) >= 3).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pulls = count.load(Ordering::Relaxed);
    assert!(pulls < 150, "{pulls} pulls in a second");
}

/// What the waiting is for: the first word after an outage ends it.
#[tokio::test]
async fn a_peer_that_comes_into_reach_is_asked_at_once() {
    let rig = Rig::new(Word::Ok, "", |_| bare(404, None));
    let username = &rig.known.remote.username;
    let is_woken = |heard: &mut Heard| {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        heard.as_mut().poll(&mut context).is_ready()
    };
    let mut heard: Heard = Box::pin(rig.world.heard(username));
    assert!(!is_woken(&mut heard));
    rig.world.reach(username);
    assert!(!is_woken(&mut heard), "it was never away");
    rig.world.miss(username);
    rig.world.reach(username);
    assert!(is_woken(&mut heard));
    let mut heard: Heard = Box::pin(rig.world.heard(username));
    assert!(!is_woken(&mut heard));
    rig.world.hear(username);
    assert!(is_woken(&mut heard), "it spoke by itself");
}

/// A segment of so many full records, as its producer would have sealed it.
fn segment(rig: &Rig, n: u64, base: u64, plain: u64, count: usize) -> Vec<u8> {
    let header =
        Header { msgid: MSGID, stream: rig.stream(Chan::STDOUT), zipped: false, n, base, plain, salt: [1; 32] };
    let (mut records, mut sealed) = (Records::new(&rig.keys, &header), header.bytes().to_vec());
    let _ = (0..count).map(|_| records.seal(&[7; RECORD], &mut sealed)).sum::<usize>();
    sealed
}

/// The window was asked for and not kept: whatever a peer sent was written, to
/// the last free byte of the disk.
#[test]
fn a_peer_that_sends_more_than_was_asked_for_fills_no_disk() {
    let rig = Rig::new(Word::Ok, LINES, |_| bare(404, None));
    layout::make_dirs(&*rig.disk, &layout::Place::Jobs.dir(MSGID)).unwrap();
    let mut pull = Pull::open(rig.disk.clone(), rig.keys.clone(), rig.stream(Chan::STDOUT)).unwrap();
    let count = (SEGMENT as usize - HEADER) / (RECORD + OVERHEAD);
    let (sealed, plain) = ((count * (RECORD + OVERHEAD)) as u64, (count * RECORD) as u64);
    for _ in 0..20 {
        let Want::Get { n, from, .. } = pull.want() else { break };
        let bytes = segment(&rig, n, n * sealed, n * plain, count);
        if from < bytes.len() as u64 {
            let _ = pull.feed(&bytes[from as usize..]);
        } else {
            pull.close(from);
        }
    }
    let held = pull.offset();
    assert!((WINDOW - SEGMENT..=WINDOW).contains(&held), "{held} bytes are held");
}

/// A FIFO that came in the place of a log's directory before the first byte did kept the log
/// from being written for ever.
#[test]
fn whatever_lies_in_the_place_of_a_log_makes_way_for_it() {
    let ways: [fn(&std::path::Path); 3] = [
        |_| {},
        |path| std::fs::write(path, b"a file").unwrap(),
        |path| std::os::unix::fs::symlink("elsewhere", path).unwrap(),
    ];
    for (n, replace) in ways.into_iter().enumerate() {
        let rig = Rig::new(Word::Ok, LINES, |_| bare(404, None));
        layout::make_dirs(&*rig.disk, &layout::Place::Jobs.dir(MSGID)).unwrap();
        let mut pull = Pull::open(rig.disk.clone(), rig.keys.clone(), rig.stream(Chan::STDOUT)).unwrap();
        let dir = layout::log_in(MSGID, Chan::STDOUT);
        rig.disk.remove(&dir).unwrap();
        replace(&rig.directory.path().join(&dir));
        let bytes = segment(&rig, 0, 0, 0, 2);
        let feed = |pull: &mut Pull| {
            assert!(matches!(pull.want(), Want::Get { n: 0, from: 0, .. }));
            pull.feed(&bytes).is_ok()
        };
        assert!(!feed(&mut pull), "way {n} is noticed");
        assert!(feed(&mut pull), "way {n} is healed");
        assert_eq!(pull.offset(), (bytes.len() - HEADER) as u64);
    }
}

/// A damaged hint of the reader ended the task that read it.
#[test]
fn a_damaged_hint_of_the_reader_opens_the_window_and_no_more() {
    let rig = Rig::new(Word::Ok, LINES, |_| bare(404, None));
    layout::make_dirs(&*rig.disk, &layout::log_in(MSGID, Chan::STDOUT)).unwrap();
    rig.disk.hint(&format!("{}/read", layout::log_in(MSGID, Chan::STDOUT)), b"18446744073709551615\n").unwrap();
    let mut pull = Pull::open(rig.disk.clone(), rig.keys.clone(), rig.stream(Chan::STDOUT)).unwrap();
    assert!(matches!(pull.want(), Want::Get { n: 0, from: 0, .. }));
}

/// A peer that said of each segment that it is empty (416) had us ask as fast as
/// it answered; the same with answers that are over before a byte came.
#[tokio::test]
async fn a_peer_that_brings_nothing_is_not_asked_in_a_tight_circle() {
    for answer in [|| bare(416, Some(0)), || bare(204, None), || bare(206, None)] {
        let (rig, count) = counted(move |_| answer());
        let _said = start(&rig, &[Chan::STDOUT]);
        soon("it is pulled again", || count.load(Ordering::Relaxed) >= 2).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let pulls = count.load(Ordering::Relaxed);
        assert!(pulls < 50, "{pulls} pulls in half a second");
    }
}

/// Each small piece was synced by itself, and each sync told by a request of its own.
#[tokio::test]
async fn small_pieces_are_told_together_and_to_the_last() {
    const PIECES: usize = 60;
    let sealed = Arc::new(Mutex::new(Vec::new()));
    let file = sealed.clone();
    let rig = Rig::new(Word::Ok, LINES, move |get| {
        let file = file.lock().unwrap();
        let from = get.from as usize;
        let until = if from == 0 { HEADER + 1 + OVERHEAD } else { from + 1 + OVERHEAD };
        if until <= file.len() { bytes(file[from..until].to_vec()) } else { bare(SILENCE, None) }
    });
    let header = Header {
        msgid: MSGID,
        stream: rig.stream(Chan::STDOUT),
        n: 0,
        base: 0,
        plain: 0,
        salt: [1; 32],
        zipped: false,
    };
    let (mut records, mut whole) = (Records::new(&rig.keys, &header), header.bytes().to_vec());
    (0..PIECES).for_each(|_| assert_eq!(records.seal(b"x", &mut whole), 1));
    *sealed.lock().unwrap() = whole;
    // The disk has time for each of them.
    rig.pace.store(5, Ordering::Relaxed);
    let began = Instant::now();
    let _said = start(&rig, &[Chan::STDOUT]);
    let all = Ask::Got(Chan::STDOUT, (PIECES * (1 + OVERHEAD)) as u64);
    let asked = || rig.asks.lock().unwrap().clone();
    soon("the last piece is told, though no pull tells it", || asked().last() == Some(&all)).await;
    // As often as hints may be, if it takes longer than on a quick disk.
    let most = (began.elapsed().as_millis() / HINTS_APART.as_millis()) as usize;
    assert!(asked().len() < most.max(PIECES / 4), "{:?}", asked());
}
