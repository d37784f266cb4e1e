use super::*;
use crate::view::tests::{Hand, hand_made, printed, status};
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::x509::{X509, X509Name};
use serde_json::Value;
use spool::fs::Fs;
use spool::layout::{self, Place};
use spool::name::Role;
use spool::segment::{EndKind, Stream};
use spool::tap1::{self, Kind};

fn dumped(hand: &Hand, path: &str) -> Dumped {
    Dumped::read(&hand.view.home.spool.join(path), Some(hand.view.home.clone())).unwrap()
}

fn shown(dumped: &Dumped) -> String {
    let text = printed(|out| dumped.parts().iter().try_for_each(|part| part.print(out)));
    let json = printed(|out| dumped.parts().iter().try_for_each(|part| line(out, &part.json())));
    assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["type"].is_string()));
    text
}

/// A job of ours whose input has two records and an END; its id, and the segment's path.
fn with_input(hand: &Hand) -> (MsgId, String) {
    let submitted = hand.submit(&["tar", "xf", "-"]);
    let msgid = submitted.keys.msgid;
    let dir = layout::log_out(msgid, Chan::STDIN);
    let stream = Stream { chan: Chan::STDIN, producer: Role::Sender };
    let mut writer = spool::log::Writer::open(hand.view.fs.clone(), &dir, submitted.keys, stream).unwrap();
    writer.append(&[b'x'; 70_000]).unwrap();
    writer.end(EndKind::Eof).unwrap();
    (msgid, format!("{dir}/0"))
}

#[test]
fn a_segment_is_verified_with_the_keys_and_measured_without() {
    let hand = hand_made();
    let (_, path) = with_input(&hand);
    let text = shown(&dumped(&hand, &path));
    for part in ["3 of 3", "bytes 65536, verified true", "holds END, kind eof, length 70000", "sender"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let plain = printed(|out| dumped(&hand, &path).plain(out));
    assert_eq!(plain, "x".repeat(70_000));
    std::fs::remove_file(hand.view.home.config.join("private/spool.key")).unwrap();
    let text = shown(&dumped(&hand, &path));
    assert!(text.contains("bytes 65536") && text.contains("spool.key") && !text.contains("verified true"), "{text}");
}

#[test]
fn a_compressed_segment_is_verified_and_its_data_given() {
    let hand = hand_made();
    let submitted = hand.submit(&["cat"]);
    let (keys, dir) = (submitted.keys.clone(), layout::log_out(submitted.keys.msgid, Chan::STDIN));
    let stream = Stream { chan: Chan::STDIN, producer: Role::Sender };
    let mut writer = spool::log::Writer::open(hand.view.fs.clone(), &dir, keys, stream).unwrap().zipped(true);
    writer.append(&[b'x'; 300_000]).unwrap();
    writer.end(EndKind::Eof).unwrap();
    let file = dumped(&hand, &format!("{dir}/0"));
    let text = shown(&file);
    for part in ["zstd, AES-256-GCM", "3 of 3", "plain 2", "verified true", "holds END, kind eof, length 300000"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert_eq!(printed(|out| file.plain(out)), "x".repeat(300_000));
}

#[test]
fn a_damaged_segment_says_where_and_gives_what_verifies() {
    let hand = hand_made();
    let (_, path) = with_input(&hand);
    let mut bytes = hand.view.fs.read(&path, 1 << 20).unwrap();
    let second = HEADER + 65536 + OVERHEAD;
    bytes[second + 100] ^= 1;
    hand.put(&path, &bytes);
    let file = dumped(&hand, &path);
    let text = shown(&file);
    assert!(text.contains(&format!("a record does not open at byte {second}")) && text.contains("1 of 3"), "{text}");
    let mut out = Vec::new();
    assert_eq!(status(file.plain(&mut out).unwrap_err()), DATA);
    assert_eq!(out.len(), 65536);
    hand.put(&path, &bytes[..50]);
    assert!(shown(&dumped(&hand, &path)).contains("shorter than a header"));
    hand.put(&path, &bytes[..second + 10]);
    assert!(shown(&dumped(&hand, &path)).contains("10 B after the last whole record"));
}

#[test]
fn a_message_at_rest_shows_start_and_never_a_secret() {
    let hand = hand_made();
    let (msgid, _) = with_input(&hand);
    let text = shown(&dumped(&hand, &Place::Queue.file(msgid, "message")));
    for part in ["START", "tar xf -", "backup", "TOKEN", "secret, not shown"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(!text.contains("hush"));
    let key = shown(&dumped(&hand, &Place::Jobs.file(msgid, "key")));
    assert!(key.contains("32 secret bytes, not shown"), "{key}");
    // In another place it does not open.
    let message = hand.view.fs.read(&Place::Queue.file(msgid, "message"), 4096).unwrap();
    hand.put("hold/message", message);
    assert!(shown(&dumped(&hand, "hold/message")).contains("cannot be told"));
}

#[test]
fn text_files_are_known_by_their_content() {
    let hand = hand_made();
    let (msgid, _) = with_input(&hand);
    assert!(shown(&dumped(&hand, &Place::Queue.file(msgid, "peer"))).contains("sender"));
    assert!(shown(&dumped(&hand, &Place::Queue.file(msgid, "send.req"))).starts_with("empty"));
    assert!(shown(&dumped(&hand, "clock")).contains("1000"));
    let home = &hand.view.home;
    let config = |name: &str| shown(&Dumped::read(&home.config.join(name), Some(home.clone())).unwrap());
    assert!(config("certs/username").contains("a username"));
    assert!(!config("private/spool.key").contains("0707"));
    hand.put("notices/x", [0xff, 0, 1]);
    assert!(shown(&dumped(&hand, "notices/x")).starts_with("unknown"));
    let missing = Dumped::read(&home.spool.join("absent"), None).err().unwrap();
    assert_eq!(status(missing), NO_ID);
    assert_eq!(status(Dumped::read(&home.spool, None).err().unwrap()), DATA);
}

/// A certificate that says what ours say; the dump does not check it.
fn certificate_of(name: &str) -> X509 {
    let (signer, key) = (PKey::generate_ed25519().unwrap(), PKey::generate_x25519().unwrap());
    let named = |text: &str| {
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_text("CN", text).unwrap();
        name.build()
    };
    let mut builder = X509::builder().unwrap();
    builder.set_subject_name(&named(name)).unwrap();
    builder.set_issuer_name(&named("verify")).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(1).unwrap()).unwrap();
    builder.sign(&signer, MessageDigest::null()).unwrap();
    builder.build()
}

#[test]
fn certificates_show_role_and_key_and_private_keys_nothing() {
    let hand = hand_made();
    hand.put("onetime/aa/cert.pem", certificate_of("onetime aa").to_pem().unwrap());
    let text = shown(&dumped(&hand, "onetime/aa/cert.pem"));
    assert!(text.contains("CN=onetime aa") && text.contains("X25519") && text.contains("CN=verify"), "{text}");
    // The sealed half is bound to the id that stands in the certificate beside it.
    hand.put("onetime/aa/key", hand.view.spool_key().unwrap().seal("onetime aa", &[7; 32]));
    assert!(shown(&dumped(&hand, "onetime/aa/key")).contains("32 secret bytes, not shown"));
    let private = PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap();
    hand.put("hold/stolen.pem", &private);
    assert_eq!(shown(&dumped(&hand, "hold/stolen.pem")).lines().count(), 2);
}

#[test]
fn a_sealed_message_shows_its_header() {
    let hand = hand_made();
    let der = certificate_of("message 07").to_der().unwrap();
    let size = (der.len() as u16).to_be_bytes();
    let whole = [b"plumbmsg\x01\x00".as_slice(), &[7; 20], &size, &der, &[0; 100]].concat();
    for cut in [9, 31, 40, whole.len()] {
        hand.put("queue/x", &whole[..cut]);
        let text = shown(&dumped(&hand, "queue/x"));
        assert_eq!(text.contains("damaged"), cut < whole.len(), "{text}");
    }
    let text = shown(&dumped(&hand, "queue/x"));
    assert!(text.contains("CN=message 07") && text.contains(&"07".repeat(20)) && text.contains("100 bytes"), "{text}");
}

#[test]
fn no_content_makes_the_dump_panic() {
    let hand = hand_made();
    let (msgid, path) = with_input(&hand);
    let mut seeds = vec![hand.view.fs.read(&path, 1 << 20).unwrap()];
    seeds[0].truncate(400);
    seeds.push(hand.view.fs.read(&Place::Queue.file(msgid, "message"), 4096).unwrap());
    let mut tap1 = Vec::new();
    tap1::write(0, Kind::Start, b"argv.0=a\0env.B=c\0\0", &mut tap1);
    seeds.push(tap1);
    for seed in seeds {
        for at in 0..seed.len() {
            let mut bytes = seed.clone();
            bytes[at] ^= 0xff;
            hand.put(&path, &bytes);
            shown(&dumped(&hand, &path));
            hand.put(&path, &seed[..at]);
            shown(&dumped(&hand, &path));
        }
    }
}
