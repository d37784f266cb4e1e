//! What the `openssl` command, which shares no code of ours, says of our
//! certificates and keys.

use crate::cert::{Cert, Purpose};
use crate::{Identity, OneTime, Pair, agree, create};
use spool::home::Home;
use spool::name::MsgId;
use std::path::Path;
use std::process::Command;

fn openssl(directory: &Path, words: &str) -> (bool, String) {
    let ran = Command::new("openssl").args(words.split(' ')).current_dir(directory).output();
    let output = ran.expect("these tests need the openssl command");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

fn accepted(directory: &Path, words: &str) -> String {
    let (success, text) = openssl(directory, words);
    assert!(success, "openssl {words}\n{text}");
    text
}

fn home(directory: &Path) -> (Home, Identity) {
    let home = Home { config: directory.join("config"), spool: directory.join("spool") };
    create(&home, &"a".parse().unwrap(), &[], &[]).unwrap();
    let identity = Identity::load(&home).unwrap();
    (home, identity)
}

#[test]
fn openssl_verify_accepts_every_chain_also_strictly() {
    let directory = tempfile::tempdir().unwrap();
    let (home, identity) = home(directory.path());
    let certs = home.config.join("certs");
    let (peer, _) = Identity::generate().unwrap();
    let pair = Pair::new(&identity, peer.chain()).unwrap();
    let theirs = OneTime::make(&peer).unwrap();
    let (_, ephemeral) = agree::to_recipient(&identity, &pair, MsgId([1; 20]), &theirs.cert_pem).unwrap();
    std::fs::write(certs.join("message.pem"), Cert::of_der(&ephemeral).unwrap().pem().unwrap()).unwrap();
    std::fs::write(certs.join("onetime.pem"), OneTime::make(&identity).unwrap().cert_pem).unwrap();
    for strict in ["", " -x509_strict -check_ss_sig"] {
        accepted(&certs, &format!("verify{strict} -CAfile ca.pem ca.pem"));
        accepted(&certs, &format!("verify{strict} -CAfile ca.pem verify.pem"));
        for leaf in ["peer.pem", "onetime.pem", "message.pem"] {
            accepted(&certs, &format!("verify{strict} -CAfile ca.pem -untrusted verify.pem {leaf}"));
        }
    }
    let text = accepted(&certs, "x509 -in message.pem -noout -subject -issuer -dates -ext keyUsage -nameopt RFC2253");
    let recipient = peer.username();
    for part in [
        format!("CN=message {}", MsgId([1; 20])),
        format!("OU={recipient}"),
        "CN=verify".into(),
        "notBefore=Jan  1 00:00:00 2000".into(),
        "notAfter=Dec 31 23:59:59 9999".into(),
        "Key Agreement".into(),
    ] {
        assert!(text.contains(&part), "{part}\n{text}");
    }
    // The controls: a foreign CA, and a leaf without what stands between.
    std::fs::write(certs.join("other.pem"), peer.chain().cert(spool::url::Cert::Ca).pem().unwrap()).unwrap();
    assert!(!openssl(&certs, "verify -CAfile other.pem -untrusted verify.pem peer.pem").0);
    assert!(!openssl(&certs, "verify -CAfile ca.pem peer.pem").0);
}

#[test]
fn openssl_reads_our_keys_and_agrees_with_us() {
    let directory = tempfile::tempdir().unwrap();
    let (home, identity) = home(directory.path());
    let private = home.config.join("private");
    for (file, kind) in [("root.pem", "ED25519"), ("sign.pem", "ED25519"), ("derive.pem", "X25519")] {
        assert!(accepted(&private, &format!("pkey -in {file} -noout -text")).contains(kind), "{file}");
    }
    let (peer, _) = Identity::generate().unwrap();
    let static_key = peer.chain().static_key().public_key_to_pem().unwrap();
    std::fs::write(private.join("their.pub"), static_key).unwrap();
    accepted(&private, "pkeyutl -derive -inkey derive.pem -peerkey their.pub -out secret");
    let pair = Pair::new(&identity, peer.chain()).unwrap();
    assert_eq!(std::fs::read(private.join("secret")).unwrap(), pair.secret.0);
}

#[test]
fn a_username_is_the_base32_sha256_of_the_ca() {
    let directory = tempfile::tempdir().unwrap();
    let (home, identity) = home(directory.path());
    let certs = home.config.join("certs");
    let printed = accepted(&certs, "x509 -in ca.pem -noout -fingerprint -sha256");
    let hex: String = printed.split_once('=').unwrap().1.trim().replace(':', "");
    let digest = data_encoding::HEXUPPER.decode(hex.as_bytes()).unwrap();
    let username = data_encoding::BASE32_NOPAD.encode(&digest).to_lowercase();
    assert_eq!(username, identity.username().as_str());
    assert_eq!(*identity.chain().cert(spool::url::Cert::Ca).purpose(), Purpose::Ca);
}
