use super::*;
use crate::view::tests::{hand_made, printed};
use spool::layout::{DETACHED, SEALED};

#[test]
fn a_submitted_job_shows_its_words_and_no_secret() {
    let hand = hand_made();
    let submitted = hand.submit(&["tar", "xf", "a b"]);
    let msgid = submitted.keys.msgid;
    let found = hand.view.find(&msgid.to_string()).unwrap();
    let text = printed(|out| print(&see(&hand.view, &found), 0, out));
    for part in ["tar xf 'a b'", "backup", "TOKEN", "nas (", "send.req", "wanted", "waiting", "out/1", "we asked"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let json = printed(|out| line(out, &see(&hand.view, &found)));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["start"]["argv"][2], "a b");
    assert_eq!(value["start"]["env"], serde_json::json!(["TOKEN"]));
    assert_eq!((value["start"]["batch"].as_bool(), value["start"]["repeat"].as_bool()), (Some(false), Some(false)));
    let secret = data_hex(&submitted.keys.secret.0);
    for said in [text, json] {
        assert!(!said.contains("hush") && !said.contains(&secret));
    }
}

fn data_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_mark_whose_file_differs_is_doubted() {
    let hand = hand_made();
    let msgid = hand.submit(&["cat"]).keys.msgid;
    hand.facts(&Place::Jobs.file(msgid, DETACHED), "input=open\n");
    let sealed = spool::url::Sealed { digest: Digest::of(b"sealed"), length: 6, key: Digest([0; 32]) };
    hand.facts(&Place::Queue.file(msgid, Mark::SendOk.name()), &look::sealed_facts(&sealed).to_string());
    hand.put(&Place::Queue.file(msgid, SEALED), "sealed");
    let words = || {
        let shown = see(&hand.view, &hand.view.find(&msgid.to_string()).unwrap());
        let file = shown.places[0].files.iter().find(|file| file.name == "send.ok").unwrap().belief;
        (shown.places[0].phase.clone(), file)
    };
    assert_eq!(words(), ("sealed".into(), Some("believed")));
    hand.put(&Place::Queue.file(msgid, SEALED), "other");
    assert_eq!(words(), ("doubted send.ok".into(), Some("doubted")));
}

#[test]
fn without_keys_and_with_anything_in_it_a_directory_is_still_shown() {
    let hand = hand_made();
    let msgid = hand.submit(&["cat"]).keys.msgid;
    std::fs::remove_file(hand.view.home.config.join("private/spool.key")).unwrap();
    let root = hand.directory.path().join("spool");
    std::fs::create_dir_all(root.join(Place::Jobs.file(msgid, "out/1/0"))).unwrap();
    hand.put(&Place::Jobs.file(msgid, PEER), [0xff; 20_000]);
    hand.put(&Place::Queue.file(msgid, "e\u{1b}vil"), "");
    let text = printed(|out| print(&see(&hand.view, &hand.view.find(&msgid.to_string()).unwrap()), 0, out));
    assert!(text.contains("spool.key") && text.contains("damaged"), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn what_is_held_or_noticed_is_shown_too() {
    let hand = hand_made();
    let msgid = MsgId([0xab; 20]);
    hand.put(&format!("hold/{msgid}/send.req"), "");
    hand.put(&format!("notices/{msgid}"), "cause=expired\n");
    let text = printed(|out| print(&see(&hand.view, &hand.view.find("ab").unwrap()), 0, out));
    assert!(text.contains("hold notices") && text.contains("send.req") && text.contains("  cause=expired"), "{text}");
}

#[test]
fn the_document_names_every_mark_and_has_every_section_that_is_cited() {
    let document = include_str!("../doc/SPOOL.md");
    for mark in Mark::ALL {
        assert!(document.contains(&format!("`{}`", mark.name())), "{}", mark.name());
    }
    let anchors: Vec<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    let cited = ["config", "verbs", "clock", "phases", "queue", "rqueue", "jobs", "logs", "onetime", "why"];
    for section in cited {
        assert_eq!(anchors.iter().filter(|anchor| *anchor == section).count(), 1, "{section}");
    }
    for cause in ["unreachable", "collect", "over", "disk_full"] {
        assert!(crate::why::explain(cause).is_some() && document.contains(&format!("| `{cause}` |")), "{cause}");
    }
}

#[test]
fn every_word_for_a_phase_stands_in_the_document() {
    let document = include_str!("../doc/SPOOL.md");
    let beliefs = [Belief::Absent, Belief::Doubted, Belief::Believed];
    let is_told = |words: &str| {
        let row = match words.split_once(' ') {
            Some((doubted, mark)) => format!("| {doubted} `{mark}` |"),
            None => format!("| {words} |"),
        };
        assert!(document.contains(&row), "{row}");
    };
    for bits in 0..1 << 9 {
        let bit = |n: u32| bits >> n & 1 == 1;
        for (a, b, c) in (0..27).map(|n| (beliefs[n % 3], beliefs[n / 3 % 3], beliefs[n / 9])) {
            is_told(&queue_words(&QueueSeen {
                message: bit(0),
                send_rdy: a,
                send_ok: b,
                ack_req: c,
                ack_ok: bit(1),
                job: bit(2),
                receipt: bit(3),
                cancel: bit(4),
                too_old: bit(5),
                wanted: bit(8),
            }));
            is_told(&rqueue_words(&RqueueSeen {
                job: bit(0),
                owner: bit(1),
                cancel: bit(2),
                too_old: bit(3),
                key: bit(4),
                peer_ok: a,
                recv_req: b,
                recv_rdy: c,
            }));
        }
    }
}
