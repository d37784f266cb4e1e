//! Pulls over a real socket: ranges, waiting, closed segments, and who gives way.

mod common;

use common::patience::wait_until;
use common::{ALICE, Response, Running, Site, path, seg, site};
use spool::fs::Fs;
use spool::layout::{Place, log_out};
use spool::log::{WINDOW, hinted};
use spool::name::{Chan, MsgId, Role};
use spool::segment::{EndKind, HEADER, SEGMENT};
use spool::url::{Ask, Word};
use std::io::Read;
use std::time::{Duration, Instant};

const MSGID: MsgId = MsgId([5; 20]);
const OUT: Chan = Chan::STDOUT;

fn pull(running: &Running, n: u64, headers: &str) -> Response {
    running.pull(seg(MSGID, OUT, n, 0), headers)
}

fn ranges(response: &Response) -> (u16, Option<&str>) {
    (response.status, response.header("content-range"))
}

fn segment(site: &Site, n: u64) -> Vec<u8> {
    std::fs::read(site.home.spool.join(format!("{}/{n}", log_out(MSGID, OUT)))).unwrap()
}

#[test]
fn a_segment_is_resumed_where_it_broke_off() {
    let site = site(0);
    site.job(MSGID, OUT).append(&[7; 100_000]).unwrap();
    let running = site.serve();
    let file = segment(&site, 0);
    let last = file.len() - 1;
    let whole = pull(&running, 0, "");
    assert_eq!(ranges(&whole), (206, Some(format!("bytes 0-{last}/*").as_str())));
    assert_eq!((&whole.body, whole.cut), (&file, false));
    let part = pull(&running, 0, "Range: bytes=100-199\r\n");
    assert_eq!(ranges(&part), (206, Some("bytes 100-199/*")));
    assert_eq!(part.body, file[100..200]);
    let rest = pull(&running, 0, "Range: bytes=200-\r\n");
    assert_eq!(ranges(&rest), (206, Some(format!("bytes 200-{last}/*").as_str())));
    assert_eq!(rest.body, file[200..]);
    assert_eq!(pull(&running, 0, "Range: bytes=2-1\r\n").status, 400);
}

#[test]
fn an_open_segment_has_nothing_new_and_a_closed_one_says_where_it_ends() {
    let site = site(0);
    let mut log = site.job(MSGID, OUT);
    log.append(&[7; 1000]).unwrap();
    let running = site.serve();
    let size = segment(&site, 0).len();
    let at_end = format!("Range: bytes={size}-\r\n");
    assert_eq!(ranges(&pull(&running, 0, &at_end)), (204, None));
    assert_eq!(ranges(&pull(&running, 0, &format!("Range: bytes={}-\r\n", size + 1))), (416, Some("bytes */*")));
    // A writer that is started again goes on in a new segment.
    drop(log);
    let mut log = site.writer(MSGID, OUT);
    log.append(b"more").unwrap();
    log.end(EndKind::Eof).unwrap();
    let ended = format!("bytes */{size}");
    assert_eq!(ranges(&pull(&running, 0, &at_end)), (416, Some(ended.as_str())));
    assert_eq!(ranges(&pull(&running, 0, &format!("Range: bytes={}-\r\n", size + 1))), (416, Some(ended.as_str())));
    let total = format!("bytes 10-{}/{size}", size - 1);
    assert_eq!(ranges(&pull(&running, 0, "Range: bytes=10-\r\n")), (206, Some(total.as_str())));
    assert_eq!(pull(&running, 1, "").body, segment(&site, 1));
    assert_eq!(pull(&running, 2, "").status, 404);
}

/// A producer that died before its first whole record leaves an empty segment,
/// which was answered as one that is not there: what came after it was never pulled.
#[test]
fn a_segment_that_was_cut_to_nothing_is_gone_past() {
    let site = site(0);
    drop(site.job(MSGID, OUT));
    site.fs.hint(&format!("{}/0", log_out(MSGID, OUT)), b"").unwrap();
    let mut log = site.writer(MSGID, OUT);
    log.append(b"after it").unwrap();
    let running = site.serve();
    assert_eq!(segment(&site, 0), b"");
    assert_eq!(ranges(&pull(&running, 0, "")), (416, Some("bytes */0")));
    assert_eq!(pull(&running, 1, "").body, segment(&site, 1));
}

#[test]
fn a_pull_waits_for_growth_and_no_longer_than_it_said() {
    waits_for_growth();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn growth_is_told_within_a_moment() {
    let (empty, median) = waits_for_growth();
    assert!(empty < Duration::from_millis(1800) && median < Duration::from_millis(100), "{empty:?} {median:?}");
}

/// Gives the time of a pull for a second that brings nothing, and the median from an append to its answer.
fn waits_for_growth() -> (Duration, Duration) {
    let site = site(0);
    let mut log = site.job(MSGID, OUT);
    log.append(b"x").unwrap();
    let running = site.serve();
    let asked = Instant::now();
    let size = segment(&site, 0).len();
    let nothing = pull(&running, 0, &format!("Range: bytes={size}-\r\nPrefer: wait=1\r\n"));
    assert_eq!(nothing.status, 204);
    let empty = asked.elapsed();
    assert!(empty >= Duration::from_secs(1), "{empty:?}");

    let mut client = running.client();
    let (mut at, mut times) = (size, Vec::new());
    for _ in 0..50 {
        let headers = format!("Range: bytes={at}-\r\nPrefer: wait=5\r\n");
        client.send(&path(ALICE, seg(MSGID, OUT, 0, 0)), &headers);
        std::thread::sleep(Duration::from_millis(5));
        log.append(b"a line\n").unwrap();
        let appended = Instant::now();
        let mut response = client.receive().unwrap();
        // A sync took longer than the pull waits.
        while response.status == 204 {
            response = client.get(&path(ALICE, seg(MSGID, OUT, 0, 0)), &headers);
        }
        times.push(appended.elapsed());
        assert_eq!(response.status, 206);
        at += response.body.len();
    }
    assert_eq!(at, segment(&site, 0).len());
    times.sort_unstable();
    println!("from the append to the answer: median {:?}, p90 {:?}", times[25], times[45]);
    (empty, times[25])
}

#[test]
fn the_first_segment_is_waited_for_and_a_lost_one_is_not() {
    let site = site(0);
    site.directory(Place::Jobs, MSGID, ALICE, Role::Recipient);
    let running = site.serve();
    assert_eq!(pull(&running, 0, "").status, 404);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pull(&running, 0, "Prefer: wait=25\r\n"));
        std::thread::sleep(Duration::from_millis(100));
        site.job(MSGID, OUT).append(b"x").unwrap();
        waiting.join().unwrap()
    });
    assert_eq!((waiting.status, waiting.body), (206, segment(&site, 0)));
    site.writer(MSGID, OUT).append(b"y").unwrap();
    site.fs.remove(&format!("{}/0", log_out(MSGID, OUT))).unwrap();
    let asked = Instant::now();
    assert_eq!(pull(&running, 0, "Prefer: wait=25\r\n").status, 404);
    assert!(asked.elapsed() < Duration::from_secs(20), "it is not waited for");
}

/// Whoever had lost what it held waited for it for a minute, and was told nothing.
#[test]
fn no_segment_of_a_job_that_is_over_is_waited_for() {
    let site = site(0);
    site.directory(Place::Jobs, MSGID, ALICE, Role::Recipient);
    site.fs.hint(&Place::Jobs.file(MSGID, "over"), b"").unwrap();
    let running = site.serve();
    let asked = Instant::now();
    assert_eq!(pull(&running, 0, "Prefer: wait=25\r\n").status, 404);
    assert!(asked.elapsed() < Duration::from_secs(20), "it is not waited for");
}

#[test]
fn a_second_pull_ends_one_that_waits() {
    let site = site(0);
    site.job(MSGID, OUT).append(b"x").unwrap();
    let running = site.serve();
    let at_end = format!("Range: bytes={}-\r\n", segment(&site, 0).len());
    std::thread::scope(|scope| {
        let asked = Instant::now();
        let first = scope.spawn(|| pull(&running, 0, &format!("{at_end}Prefer: wait=25\r\n")));
        // It may not wait yet when the second one comes.
        wait_until("the first one has ended", || {
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(pull(&running, 0, &at_end).status, 204);
            first.is_finished()
        });
        assert_eq!(first.join().unwrap().status, 204);
        assert!(asked.elapsed() < Duration::from_secs(20), "it is ended");
    });
    let other = running.pull(seg(MSGID, Chan::STDERR, 0, 0), "");
    assert_eq!(other.status, 404);
}

/// Pulls that wait, three for each job, on a connection each, until there is something for them; how many
/// of them were answered, and how many connections were ended instead. Requests come through meanwhile.
fn wait_together(jobs: u8) -> (usize, usize) {
    let site = site(0);
    let channels = [Chan::CONTROL, Chan::STDOUT, Chan::STDERR];
    let ids: Vec<MsgId> = (0..jobs).map(|n| MsgId([n; 20])).collect();
    let logs = ids.iter().flat_map(|&msgid| channels.map(|chan| (msgid, chan)));
    let logs: Vec<(MsgId, Chan)> = logs.collect();
    logs.iter().for_each(|(msgid, chan)| drop(site.job(*msgid, *chan).append(b"x")));
    let running = site.serve();
    let headers = format!("Range: bytes={}-\r\nPrefer: wait=25\r\n", HEADER + 21);
    let begin = |&(msgid, chan)| {
        let mut client = running.client();
        client.send(&path(ALICE, seg(msgid, chan, 0, 0)), &headers);
        client
    };
    let mut pulls: Vec<_> = logs.iter().map(begin).collect();
    for &msgid in &ids {
        assert_eq!(running.ask(ALICE, Ask::Sta, msgid).unwrap().word, Word::Ok);
    }
    // Another writer goes on in a new segment, which ends the one that is pulled.
    logs.iter().for_each(|(msgid, chan)| drop(site.writer(*msgid, *chan).append(b"y")));
    let statuses: Vec<Option<u16>> = pulls.iter_mut().map(|pull| Some(pull.receive()?.status)).collect();
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    (count(Some(416)), count(None))
}

/// Three pulls wait for each live job. With more than 21 jobs every new
/// connection ended the oldest one, busy or not, and its owner dialled again.
#[test]
fn forty_jobs_of_a_peer_keep_all_their_connections_and_a_hundred_those_that_fit() {
    assert_eq!(wait_together(40), (120, 0));
    assert_eq!(wait_together(100), (240, 60));
}

#[test]
fn a_second_pull_cuts_one_that_sends() {
    let site = site(0);
    let mut log = site.job(MSGID, OUT);
    while log.offset() < 8_000_000 {
        log.append(&[7; 60_000]).unwrap();
    }
    let running = site.serve();
    let mut first = running.client();
    rustix::net::sockopt::set_socket_recv_buffer_size(&first.stream, 64 << 10).unwrap();
    first.send(&path(ALICE, seg(MSGID, OUT, 0, 0)), "");
    first.stream.peek(&mut [0; 1]).unwrap();
    let second = pull(&running, 0, "Range: bytes=0-99\r\n");
    assert_eq!((second.status, second.body.len()), (206, 100));
    let first = first.receive().unwrap();
    assert!(first.cut && first.body.len() < 8_000_000, "{} bytes", first.body.len());
    assert!(!pull(&running, 0, "").cut);
}

#[test]
fn what_a_puller_holds_is_left_as_a_hint_also_the_last_of_many() {
    let site = site(0);
    let mut log = site.job(MSGID, OUT);
    log.append(&[7; 50_000]).unwrap();
    let running = site.serve();
    let mut client = running.client();
    for got in (0..=50_000).step_by(1000) {
        client.get(&path(ALICE, seg(MSGID, OUT, 0, got)), "Range: bytes=0-9\r\n");
    }
    let got = || hinted(&*site.fs, &format!("{}/got", log_out(MSGID, OUT))).unwrap();
    wait_until("the last one is left", || got() == 50_000);
    client.get(&path(ALICE, seg(MSGID, OUT, 0, WINDOW)), "Range: bytes=0-9\r\n");
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(got(), 50_000);
}

#[test]
fn a_segment_that_is_removed_while_it_is_sent_arrives_whole() {
    let site = site(0);
    let mut log = site.job(MSGID, OUT);
    while log.offset() < 8_000_000 {
        log.append(&[7; 60_000]).unwrap();
    }
    let running = site.serve();
    let file = segment(&site, 0);
    let mut client = running.client();
    client.send(&path(ALICE, seg(MSGID, OUT, 0, 0)), "");
    let mut first = [0; 1];
    client.stream.read_exact(&mut first).unwrap();
    site.fs.remove(&format!("{}/0", log_out(MSGID, OUT))).unwrap();
    let mut rest = Vec::new();
    while rest.len() < file.len() {
        let mut buffer = vec![0; 1 << 16];
        let count = client.stream.read(&mut buffer).unwrap();
        assert!(count > 0, "cut after {} bytes", rest.len());
        rest.extend_from_slice(&buffer[..count]);
    }
    assert!(rest.ends_with(&file));
    drop(log);
}

#[test]
#[ignore = "takes up to twenty seconds"]
fn a_puller_that_takes_nothing_is_dropped() {
    let site = site(0);
    let mut log = site.job(MSGID, OUT);
    while log.offset() < 8_000_000 {
        log.append(&[7; 60_000]).unwrap();
    }
    let running = site.serve();
    let mut client = running.client();
    rustix::net::sockopt::set_socket_recv_buffer_size(&client.stream, 64 << 10).unwrap();
    client.send(&path(ALICE, seg(MSGID, OUT, 0, 0)), "");
    std::thread::sleep(Duration::from_secs(21));
    let response = client.receive().unwrap();
    assert!(response.cut && response.body.len() < 4_000_000, "{} bytes", response.body.len());
}

#[test]
fn a_sealed_message_is_sent_when_it_is_ready_and_in_parts() {
    let site = site(0);
    site.directory(Place::Queue, MSGID, ALICE, Role::Sender);
    site.file(Place::Queue, MSGID, "sealed", "0123456789");
    let running = site.serve();
    let get = |headers: &str| running.pull(spool::url::What::Queue(MSGID), headers);
    assert_eq!(get("").status, 404);
    site.file(Place::Queue, MSGID, "send.ok", "");
    assert_eq!((get("").status, get("").body), (200, b"0123456789".to_vec()));
    let part = get("Range: bytes=4-\r\n");
    assert_eq!((ranges(&part), part.body.as_slice()), ((206, Some("bytes 4-9/10")), b"456789".as_slice()));
    assert_eq!(ranges(&get("Range: bytes=10-\r\n")), (416, Some("bytes */10")));
}

/// Pulls a log from its beginning until `done` has what it needs; gives it each
/// segment's number and its next bytes.
fn follow(running: &Running, mut done: impl FnMut(u64, &[u8]) -> bool) {
    let mut client = running.client();
    let (mut n, mut at, mut before) = (0, 0, 0);
    loop {
        let got = before + u64::saturating_sub(at, HEADER as u64);
        let headers = format!("Range: bytes={at}-\r\nPrefer: wait=5\r\n");
        let response = client.get(&path(ALICE, seg(MSGID, OUT, n, got)), &headers);
        match response.status {
            206 => {
                assert!(!response.cut);
                at += response.body.len() as u64;
                if done(n, &response.body) {
                    return;
                }
            }
            416 => (n, at, before) = (n + 1, 0, got),
            204 => {}
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_log_that_grows_under_its_window_arrives_byte_for_byte() {
    const TOTAL: usize = 30 << 20;
    let site = site(0);
    let mut log = site.job(MSGID, OUT);
    let running = site.serve();
    let byte = |at: usize| (at % 251) as u8;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let text: Vec<u8> = (0..TOTAL + 251 * 1024).map(byte).collect();
            let (mut at, mut sizes) = (0, [100, 70_001, 5, 300_003].into_iter().cycle());
            while at < TOTAL {
                let size = sizes.next().unwrap_or(TOTAL).min(TOTAL - at);
                log.append(&text[at..at + size]).unwrap();
                at += size;
                log.forget().unwrap();
                while log.held() > WINDOW {
                    std::thread::sleep(Duration::from_millis(1));
                    log.forget().unwrap();
                }
            }
            log.end(EndKind::Eof).unwrap();
        });
        let (mut segments, mut plain) = (Vec::<Vec<u8>>::new(), 0);
        follow(&running, |n, bytes| {
            segments.resize(n as usize + 1, Vec::new());
            segments[n as usize].extend_from_slice(bytes);
            // A log is over when its END is there.
            opened(&site, &segments[n as usize]).1
        });
        for segment in &segments {
            let (text, _) = opened(&site, segment);
            assert!(text.iter().enumerate().all(|(at, found)| *found == byte(plain + at)), "from {plain}");
            plain += text.len();
        }
        assert_eq!(plain, TOTAL);
    });
}

/// What a segment's bytes hold, and whether its END is among them.
fn opened(site: &Site, bytes: &[u8]) -> (Vec<u8>, bool) {
    let header = spool::segment::Header::parse(bytes).unwrap();
    let mut records = spool::segment::Records::new(&site.keys(MSGID), &header);
    let (mut at, mut plain) = (HEADER, Vec::new());
    while let Some((size, record)) = records.open(&bytes[at..], &mut plain).unwrap() {
        at += size;
        if matches!(record, spool::segment::Record::End(_)) {
            return (plain, true);
        }
    }
    (plain, false)
}

/// Nanoseconds of processor time of this process, or of this thread.
fn processor(tasks: &str) -> u64 {
    let of = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0)
    };
    if tasks == "thread-self" {
        return of("/proc/thread-self".into());
    }
    std::fs::read_dir("/proc/self/task").unwrap().map(|entry| of(entry.unwrap().path())).sum()
}

/// A figure, not a promise: run it with --release.
#[test]
#[ignore = "prints a figure"]
fn throughput_from_the_page_cache() {
    let site = site(0);
    let mut log = site.job(MSGID, OUT);
    while log.offset() < 16 * SEGMENT {
        log.append(&[7; 256 << 10]).unwrap();
    }
    let running = site.serve();
    let mut client = running.client();
    let mut buffer = vec![0; 1 << 20];
    for round in ["cold", "warm", "warm", "warm"] {
        let (began, all, mine) = (Instant::now(), processor("all"), processor("thread-self"));
        let mut total = 0;
        for n in 0..16 {
            client.send(&path(ALICE, seg(MSGID, OUT, n, 0)), "");
            let mut left = usize::MAX;
            let mut head = Vec::new();
            while left > 0 {
                let count = client.stream.read(&mut buffer).unwrap();
                if left != usize::MAX {
                    left -= count;
                    continue;
                }
                head.extend_from_slice(&buffer[..count]);
                let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
                let text = String::from_utf8_lossy(&head[..end]).into_owned();
                let length = text.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
                let length: usize = length.parse().unwrap();
                total += length;
                left = length - (head.len() - end - 4);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let (all, mine) = (processor("all") - all, processor("thread-self") - mine);
        let gib = total as f64 / (1u64 << 30) as f64;
        println!(
            "{round}: {:.2} GB/s; service {:.3} s/GiB, client {:.3} s/GiB",
            total as f64 / seconds / 1e9,
            (all - mine) as f64 / 1e9 / gib,
            mine as f64 / 1e9 / gib
        );
    }
}
