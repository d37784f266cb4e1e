//! Requests over a real socket: what is answered, and what lies there afterwards.

mod common;

use common::patience::wait_until;
use common::{ALICE, BOB, Site, site, username};
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::Place;
use spool::look::{key_facts, sealed_facts};
use spool::name::{Chan, Digest, MsgId, Role};
use spool::url::{Ask, Reply, Sealed, Word};
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

const MSGID: MsgId = MsgId([5; 20]);
const RECEIPT: Digest = Digest([9; 32]);

fn sealed() -> Sealed {
    let key = Digest::of(b"one-time certificate\n");
    Sealed { digest: Digest([1; 32]), length: 100, key }
}

/// An incoming message with a key set aside.
fn keyed(site: &Site) {
    site.directory(Place::Rqueue, MSGID, ALICE, Role::Recipient);
    site.fs.make_dir(&Place::Rqueue.file(MSGID, "onetime")).unwrap();
    site.file(Place::Rqueue, MSGID, "onetime/cert.pem", "one-time certificate\n");
    site.file(Place::Rqueue, MSGID, "onetime/key", "sealed");
    let facts = key_facts(&*site.fs, &Place::Rqueue.dir(MSGID)).unwrap().unwrap();
    site.file(Place::Rqueue, MSGID, "peer.ok", &facts.to_string());
}

fn nothing(_: &Site) {}

fn keyless(site: &Site) {
    site.directory(Place::Rqueue, MSGID, ALICE, Role::Recipient);
}

fn fetched_otherwise(site: &Site) {
    keyed(site);
    let other = Sealed { length: 99, ..sealed() };
    site.file(Place::Rqueue, MSGID, "recv.rdy", &sealed_facts(&other).to_string());
}

fn cancelled(site: &Site) {
    keyed(site);
    site.file(Place::Rqueue, MSGID, "cancel", "at=0\n");
}

fn delivered(site: &Site) {
    site.directory(Place::Jobs, MSGID, ALICE, Role::Recipient);
    site.file(Place::Jobs, MSGID, "receipt", &format!("receipt={RECEIPT}\n"));
    site.file(Place::Jobs, MSGID, "recv.ok", "");
    site.job(MSGID, Chan::STDOUT).append(b"x").unwrap();
}

fn over(site: &Site) {
    delivered(site);
    site.file(Place::Jobs, MSGID, "over", "outcome=exited 3\n");
}

fn damaged(site: &Site) {
    site.fs.make_dir(&Place::Jobs.dir(MSGID)).unwrap();
    site.file(Place::Jobs, MSGID, "over", "\0");
}

fn waiting(site: &Site) {
    site.directory(Place::Queue, MSGID, ALICE, Role::Sender);
    site.directory(Place::Jobs, MSGID, ALICE, Role::Sender);
}

fn receipted(site: &Site) {
    site.directory(Place::Jobs, MSGID, ALICE, Role::Sender);
    site.file(Place::Jobs, MSGID, "receipt", &format!("receipt={RECEIPT}\n"));
}

fn foreign(site: &Site) {
    site.directory(Place::Jobs, MSGID, BOB, Role::Recipient);
}

/// A reply and the changed files, in one line.
fn told(reply: Option<Reply>, changed: BTreeSet<String>) -> String {
    let Some(reply) = reply else { return format!("404 {}", join(changed)).trim_end().to_string() };
    let word = match reply.word {
        Word::Ok => "OK",
        Word::Done => "DONE",
        Word::NeedKey => "NEEDKEY",
        Word::Gone => "GONE",
        Word::Later => "LATER",
    };
    let data = String::from_utf8(reply.data).unwrap().replace(&RECEIPT.to_string(), "R").trim().replace(' ', "_");
    [word, &data, &join(changed)].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn join(changed: BTreeSet<String>) -> String {
    changed.into_iter().collect::<Vec<_>>().join(" ")
}

/// Files that were added, taken away (`-`) or altered (`~`), without the message's id.
fn changes(site: &Site, before: &std::collections::BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let after = site.tree();
    let short = |name: &String| name.replace(&format!("{MSGID}/"), "");
    let added = after.keys().filter(|name| !before.contains_key(*name)).map(short);
    let removed = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("-{}", short(name)));
    let altered = after.iter().filter(|(name, text)| before.get(*name).is_some_and(|old| old != *text));
    let altered = altered.map(|(name, _)| format!("~{}", short(name)));
    added.chain(removed).chain(altered).filter(|name| !name.ends_with('/') && !name.contains("onetime/")).collect()
}

#[test]
fn every_request_in_every_situation_is_answered_and_noted_so() {
    let asks = [
        Ask::Msg,
        Ask::Snd(sealed()),
        Ask::Rcp(RECEIPT),
        Ask::Ack,
        Ask::Sta,
        Ask::Cxl,
        Ask::Tip(Chan::STDOUT, 5),
        Ask::Got(Chan::STDOUT, u64::MAX),
        Ask::Hlo,
    ];
    type Row = (&'static str, fn(&Site), [&'static str; 9]);
    let table: [Row; 10] = [
        (
            "nothing",
            nothing,
            [
                "OK one-time_certificate_0 rqueue/peer rqueue/peer.ok",
                "NEEDKEY",
                "GONE",
                "OK",
                "GONE",
                "OK rqueue/cancel rqueue/peer",
                "GONE",
                "GONE",
                "OK",
            ],
        ),
        (
            "keyed",
            keyed,
            [
                "OK one-time_certificate",
                "OK rqueue/recv.req",
                "GONE",
                "OK",
                "GONE",
                "OK rqueue/cancel",
                "GONE",
                "GONE",
                "OK",
            ],
        ),
        ("keyless", keyless, ["LATER", "NEEDKEY", "GONE", "OK", "GONE", "OK rqueue/cancel", "GONE", "GONE", "OK"]),
        (
            "fetched otherwise",
            fetched_otherwise,
            [
                "OK one-time_certificate",
                "OK -rqueue/recv.rdy rqueue/recv.req",
                "GONE",
                "OK",
                "GONE",
                "OK rqueue/cancel",
                "GONE",
                "GONE",
                "OK",
            ],
        ),
        ("cancelled", cancelled, ["LATER", "LATER", "GONE", "OK", "GONE", "OK", "GONE", "GONE", "OK"]),
        (
            "delivered",
            delivered,
            [
                "DONE receipt_R",
                "DONE receipt_R",
                "GONE",
                "OK jobs/acked",
                "OK 2_0_0",
                "OK jobs/cancel",
                "OK jobs/out/2/tip",
                "OK",
                "OK",
            ],
        ),
        (
            "over",
            over,
            [
                "DONE outcome_exited_3",
                "DONE outcome_exited_3",
                "GONE",
                "OK jobs/acked",
                "DONE outcome_exited_3",
                "DONE outcome_exited_3",
                "OK jobs/out/2/tip",
                "OK",
                "OK",
            ],
        ),
        (
            "damaged",
            damaged,
            [
                "DONE outcome_unknown",
                "DONE outcome_unknown",
                "DONE",
                "OK",
                "DONE outcome_unknown",
                "DONE outcome_unknown",
                "OK",
                "OK",
                "OK",
            ],
        ),
        ("waiting", waiting, ["LATER", "LATER", "OK queue/ack.req", "OK", "OK", "OK", "OK", "OK", "OK"]),
        ("receipted", receipted, ["LATER", "LATER", "DONE", "OK", "OK", "OK", "OK", "OK", "OK"]),
    ];
    for (situation, make, expected) in table {
        for (ask, expected) in asks.iter().zip(expected) {
            let site = site(1);
            make(&site);
            let before = site.tree();
            let running = site.serve();
            let msgid = if *ask == Ask::Hlo { MsgId::NONE } else { MSGID };
            let reply = running.ask(ALICE, ask.clone(), msgid);
            assert_eq!(told(reply, changes(&site, &before)), expected, "{situation}, {}", ask.verb());
        }
    }
    for ask in asks {
        let site = site(1);
        foreign(&site);
        let before = site.tree();
        let msgid = if ask == Ask::Hlo { MsgId::NONE } else { MSGID };
        let told = told(site.serve().ask(ALICE, ask.clone(), msgid), changes(&site, &before));
        assert_eq!(told, if ask == Ask::Hlo { "OK" } else { "404" }, "another peer's, {}", ask.verb());
    }
}

#[test]
fn an_empty_stock_is_answered_later_and_leaves_a_wish() {
    let site = site(0);
    let before = site.tree();
    let reply = site.serve().ask(ALICE, Ask::Msg, MSGID);
    assert_eq!(told(reply, changes(&site, &before)), "LATER rqueue/peer rqueue/peer.req");
}

#[test]
fn a_damaged_key_leaves_the_stock_and_is_never_given_away() {
    let site = site(2);
    for entry in site.fs.list("onetime").unwrap() {
        if site.fs.read(&format!("onetime/{}/cert.pem", entry.name), 100).unwrap() == b"one-time certificate 0\n" {
            site.fs.remove(&format!("onetime/{}/key", entry.name)).unwrap();
        }
    }
    let running = site.serve();
    assert_eq!(running.ask(ALICE, Ask::Msg, MSGID).unwrap().data, b"one-time certificate 1\n");
    assert_eq!(running.ask(ALICE, Ask::Msg, MsgId([6; 20])).unwrap().word, Word::Later);
    assert!(site.fs.list("onetime").unwrap().is_empty());
}

#[test]
fn a_quota_counts_whatever_is_not_both_over_and_confirmed() {
    // Delivered jobs counted nowhere: a peer that pulled nothing could fill the
    // disk with them, and everybody else waited below its floor. Each counts
    // until it is over and its end is confirmed.
    let counts = |marks: &[&str]| {
        let site = site(9);
        std::fs::write(site.home.config.join("peers/alice/peer.toml"), "[quota]\nmessages = 1\n").unwrap();
        site.directory(Place::Jobs, MSGID, ALICE, Role::Recipient);
        marks.iter().for_each(|mark| site.file(Place::Jobs, MSGID, mark, ""));
        let running = site.serve();
        let word = |peer: &str| running.ask(peer, Ask::Msg, MsgId([1; 20])).unwrap().word;
        assert_eq!(word(BOB), Word::Ok, "another peer has its own");
        running.ask(ALICE, Ask::Msg, MsgId([2; 20])).unwrap().word == Word::Later
    };
    let delivered: [&[&str]; 5] =
        [&[], &["recv.ok"], &["recv.ok", "acked"], &["acked", "run.started", "run.exit"], &["recv.ok", "over"]];
    for marks in delivered {
        assert!(counts(marks), "{marks:?}");
    }
    assert!(!counts(&["acked", "over"]));
}

#[test]
fn a_peer_at_its_quota_is_told_later_and_goes_on_when_there_is_room() {
    let site = site(9);
    std::fs::write(site.home.config.join("peers/alice/peer.toml"), "[quota]\nmessages = 3\n").unwrap();
    let running = site.serve();
    let word = |peer: &str, n: u8| running.ask(peer, Ask::Msg, MsgId([n; 20])).unwrap().word;
    delivered(&site);
    assert_eq!([word(ALICE, 1), word(ALICE, 2), word(ALICE, 3)], [Word::Ok, Word::Ok, Word::Later]);
    assert_eq!(word(ALICE, 1), Word::Ok, "what is here is answered");
    assert_eq!(word(BOB, 4), Word::Ok, "another peer has its own");
    site.file(Place::Jobs, MSGID, "over", "outcome=exited 0\n");
    site.file(Place::Jobs, MSGID, "acked", "");
    wait_until("there is room", || word(ALICE, 3) == Word::Ok);
}

#[test]
fn a_sick_spool_takes_no_new_work_and_answers_for_the_old() {
    let site = site(1);
    keyed(&site);
    let running = site.serve();
    site.fs.hint("sick", b"sync failed").unwrap();
    assert_eq!(running.ask(ALICE, Ask::Msg, MsgId([6; 20])).unwrap().word, Word::Later);
    assert_eq!(running.ask(ALICE, Ask::Msg, MSGID).unwrap().word, Word::Ok);
}

#[test]
fn got_goes_forward_only_and_never_beyond_what_is_there() {
    let site = site(0);
    let mut log = site.job(MSGID, Chan::STDOUT);
    log.append(&[1; 1000]).unwrap();
    let end = log.offset();
    let running = site.serve();
    let hinted = |offset| {
        running.ask(ALICE, Ask::Got(Chan::STDOUT, offset), MSGID).unwrap();
        spool::log::hinted(&*site.fs, &format!("{}/got", spool::layout::log_out(MSGID, Chan::STDOUT))).unwrap()
    };
    assert_eq!([hinted(500), hinted(400), hinted(end + 1), hinted(end)], [500, 500, 500, end]);
    running.ask(ALICE, Ask::Got(Chan(77), 5), MSGID).unwrap();
    assert!(!site.fs.exists(&spool::layout::log_out(MSGID, Chan(77))));
}

#[test]
fn two_claims_of_one_message_give_one_key_and_two_messages_never_the_same() {
    let site = site(40);
    let running = site.serve();
    let claims: Vec<(u8, Vec<u8>)> = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..60)
            .map(|n| {
                let running = &running;
                scope.spawn(move || {
                    let id = n / 3;
                    loop {
                        let reply = running.ask(ALICE, Ask::Msg, MsgId([id; 20])).unwrap();
                        if reply.word == Word::Ok {
                            return (id, reply.data);
                        }
                    }
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    let distinct: HashSet<&(u8, Vec<u8>)> = claims.iter().collect();
    let keys: HashSet<&Vec<u8>> = claims.iter().map(|(_, key)| key).collect();
    assert_eq!((distinct.len(), keys.len()), (20, 20));
    assert_eq!(site.fs.list("onetime").unwrap().len(), 20, "keys that lost a race are back in the stock");
    let hidden = site.fs.list("rqueue").unwrap().into_iter().filter(|entry| entry.name.starts_with('.'));
    assert_eq!(hidden.count(), 0);
    for id in 0..20 {
        let facts = Facts::read(&*site.fs, &Place::Rqueue.file(MsgId([id; 20]), "peer.ok")).unwrap().unwrap();
        assert_eq!(Some(facts), key_facts(&*site.fs, &Place::Rqueue.dir(MsgId([id; 20]))).unwrap());
    }
}

#[test]
fn who_is_heard_is_told_once_a_second_and_hlo_at_once() {
    let site = site(0);
    let running = site.serve();
    let mut client = running.client();
    let asked = Instant::now();
    for _ in 0..5 {
        client.ask(ALICE, Ask::Sta, MSGID).unwrap();
    }
    for _ in 0..2 {
        client.ask(ALICE, Ask::Hlo, MsgId::NONE).unwrap();
    }
    let seconds = asked.elapsed().as_secs() as usize;
    let heard = || running.heard.lock().unwrap().clone();
    wait_until("all is told", || heard().len() >= 3);
    std::thread::sleep(Duration::from_millis(50));
    let heard = heard();
    assert!(heard.iter().all(|line| *line == format!("heard {}", username(ALICE))), "{heard:?}");
    assert!(heard.len() <= 3 + seconds, "{heard:?} in {seconds} s");
}

#[test]
fn a_service_that_nobody_asks_says_that_it_lives() {
    let site = site(0);
    let (running, until) = (site.serve(), Instant::now() + Duration::from_secs(60));
    while running.beats.load(std::sync::atomic::Ordering::Relaxed) < 2 {
        assert!(Instant::now() < until, "no second beat");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(running.heard.lock().unwrap().len(), 0);
}

#[test]
fn a_peer_that_is_added_is_known_soon_and_one_that_is_removed_is_not() {
    peers_come_and_go();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn a_peer_that_is_added_is_known_within_a_second_and_one_that_is_removed_is_not() {
    let took = peers_come_and_go();
    assert!(took < Duration::from_millis(1100), "{took:?}");
}

/// Gives the longer of the times until it is known, and until it is not.
fn peers_come_and_go() -> Duration {
    let site = site(0);
    let running = site.serve();
    assert!(running.ask(BOB, Ask::Sta, MSGID).is_some());
    std::fs::rename(site.home.config.join("peers/bob"), site.directory.path().join("bob")).unwrap();
    let removed = Instant::now();
    wait_until("it is known no more", || running.ask(BOB, Ask::Sta, MSGID).is_none());
    let took = removed.elapsed();
    std::fs::rename(site.directory.path().join("bob"), site.home.config.join("peers/bob")).unwrap();
    let added = Instant::now();
    wait_until("it is known again", || running.ask(BOB, Ask::Sta, MSGID).is_some());
    took.max(added.elapsed())
}

#[test]
fn it_ends_when_its_input_ends() {
    ended();
}

#[test]
#[ignore = "judges how long it takes, on a quiet machine"]
fn it_ends_within_a_moment_when_its_input_ends() {
    let took = ended();
    assert!(took < Duration::from_millis(100), "{took:?}");
}

fn ended() -> Duration {
    let site = site(0);
    let mut running = site.serve();
    running.ask(ALICE, Ask::Sta, MSGID).unwrap();
    let asked = Instant::now();
    drop(running.stop.take());
    running.thread.take().unwrap().join().unwrap();
    asked.elapsed()
}

#[test]
fn an_address_in_use_is_waited_for() {
    let site = site(0);
    let running = site.serve();
    let settings = format!("listen = [\"{}\"]\n", running.address);
    std::fs::write(site.home.config.join("netplumb.toml"), settings).unwrap();
    let successor = std::thread::spawn({
        let home = site.home.clone();
        move || service::Service::bind(&home).map(|service| service.addresses())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!successor.is_finished());
    let address = running.address;
    drop(running);
    assert_eq!(successor.join().unwrap().unwrap(), [address]);
}
