//! What nobody may read: the certificates are what openssl says they are, no
//! text of a job lies in a spool, a log or a process list, and a home that
//! others can read is refused.

use crate::homes::{
    NETPLUMB, PLUMB, Peer, Ran, pair_behind_links, pair_up, read_up_to, run, wait_until, wait_until_grown,
};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn openssl(words: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new("openssl");
    command.args(words);
    run(command, input)
}

/// Does Debian's openssl accept this certificate below these two?
fn verifies(ca: &Path, verify: &Path, certificate: &Path) -> bool {
    let [ca, verify, certificate] = [ca, verify, certificate].map(|path| path.to_str().expect("a path"));
    openssl(&["verify", "-x509_strict", "-CAfile", ca, "-untrusted", verify, certificate], b"").status == 0
}

/// The certificate in the header of a sealed message (doc/PROTOCOL.md#message-keys), as PEM.
fn message_certificate(sealed: &[u8]) -> Vec<u8> {
    assert_eq!((&sealed[..8], &sealed[8..10]), (b"plumbmsg".as_slice(), [1, 0].as_slice()));
    let size = usize::from(u16::from_be_bytes([sealed[30], sealed[31]]));
    openssl(&["x509", "-inform", "DER"], &sealed[32..32 + size]).good().stdout
}

#[test]
fn openssl_accepts_every_certificate() {
    let (a, b, links) = pair_behind_links(0);
    let certs = |peer: &Peer, name: &str| peer.home.join("config/certs").join(name);
    let (ca, verify) = (certs(&a, "ca.pem"), certs(&a, "verify.pem"));
    assert_eq!(openssl(&["verify", "-CAfile", ca.to_str().unwrap(), verify.to_str().unwrap()], b"").status, 0);
    assert!(verifies(&ca, &verify, &certs(&a, "peer.pem")));

    wait_until_grown("one-time keys are made", 64, || a.ids("onetime").len() as u64);
    let onetime: Vec<PathBuf> = a.ids("onetime").iter().map(|id| a.spool(&format!("onetime/{id}/cert.pem"))).collect();
    for certificate in &onetime {
        assert!(verifies(&ca, &verify, certificate), "{}", certificate.display());
    }

    // B may answer A, and not fetch from it: the sealed message stays.
    links[1].swallow(true);
    let mut command = a.command(PLUMB);
    let mut plumb = command.args(["b", "true"]).stdin(Stdio::null()).spawn().unwrap();
    let sealed = || a.ids("queue").first().map(|id| a.spool(&format!("queue/{id}/sealed")));
    wait_until("the message is sealed", || sealed().is_some_and(|path| path.exists()));
    let path = sealed().unwrap();
    let (message, dumped) = (a.home.join("message.pem"), a.netplumb(&["dump", path.to_str().unwrap()]).good().text());
    std::fs::write(&message, message_certificate(&std::fs::read(&path).unwrap())).unwrap();
    assert!(verifies(&ca, &verify, &message));
    let subject = openssl(&["x509", "-noout", "-subject", "-in", message.to_str().unwrap()], b"").good().text();
    let id = &a.ids("queue")[0];
    assert!(subject.contains(&format!("message {id}")), "{subject}");
    assert!(dumped.contains(id.as_str()), "{dumped}");
    println!("accepted: verify.pem, peer.pem, {} one-time certificates, {}", onetime.len(), subject.trim());

    // The controls: another CA, and a certificate with one byte changed.
    assert!(!verifies(&certs(&b, "ca.pem"), &verify, &certs(&a, "peer.pem")), "control: another CA");
    let der = openssl(&["x509", "-outform", "DER", "-in", certs(&a, "peer.pem").to_str().unwrap()], b"").good().stdout;
    let forged = a.home.join("forged.pem");
    let mut changed = der.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&forged, openssl(&["x509", "-inform", "DER"], &changed).good().stdout).unwrap();
    assert!(!verifies(&ca, &verify, &forged), "control: a changed signature");
    links[1].swallow(false);
    assert!(plumb.wait().unwrap().success());
}

/// Where a text was found: in files below a home, and in process lists.
fn found(peer: &Peer, text: &str, but: &[u32]) -> Vec<String> {
    let has = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let mut places = Vec::new();
    for entry in walkdir::WalkDir::new(&peer.home).into_iter().flatten() {
        let bytes = if entry.file_type().is_file() { std::fs::read(entry.path()) } else { Ok(Vec::new()) };
        // A file may go while it is looked at.
        if bytes.is_ok_and(|bytes| has(&bytes)) || has(entry.path().as_os_str().as_encoded_bytes()) {
            places.push(entry.path().display().to_string());
        }
    }
    for pid in peer.processes().into_iter().filter(|pid| !but.contains(pid)) {
        for list in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{list}");
            if std::fs::read(&path).is_ok_and(|bytes| has(&bytes)) {
                places.push(path);
            }
        }
    }
    places
}

/// Files and directories of a home with other modes than 0600 and 0700.
fn loose(peer: &Peer) -> BTreeMap<PathBuf, u32> {
    let mut loose = BTreeMap::new();
    for place in ["spool", "config"] {
        for entry in walkdir::WalkDir::new(peer.home.join(place)).into_iter().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let mode = metadata.permissions().mode() & 0o7777;
            if mode != if metadata.is_dir() { 0o700 } else { 0o600 } {
                loose.insert(entry.path().to_path_buf(), mode);
            }
        }
    }
    loose
}

#[test]
fn no_text_of_a_job_lies_in_a_spool_a_log_or_a_process_list() {
    let (a, b) = pair_up();
    let secret = |kind: &str| format!("{kind}-{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>());
    let [argv, stdin, env, stdout, stderr] = ["argv", "stdin", "env", "stdout", "stderr"].map(secret);
    // What is written is put together there, so that it stands in no argument.
    let split = |text: &str| format!("'%s%s\\n' '{}' '{}'", &text[..9], &text[9..]);
    let text = format!(
        ": {argv}; printf {}; printf {} >&2; echo \"$SECRET\"; cat; echo end; sleep 1",
        split(&stdout),
        split(&stderr)
    );
    let mut command = a.command(PLUMB);
    command.env("SECRET", &env).args(["-export=SECRET", "b", &text]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut plumb = command.spawn().unwrap();
    let mut input = plumb.stdin.take().unwrap();
    // Enough that it lies in segments of its own, too.
    let line = format!("{stdin}\n");
    let lines = line.repeat(5000);
    let mut output = plumb.stdout.take().unwrap();
    let front = format!("{stdout}\n{env}\n");
    input.write_all(lines.as_bytes()).unwrap();
    assert_eq!(String::from_utf8_lossy(&read_up_to(&mut output, front.len())), front);
    assert_eq!(read_up_to(&mut output, lines.len()).len(), lines.len());

    let secrets = [&argv, &stdin, &env, &stdout, &stderr];
    let nothing = |when: &str| {
        for (peer, secret) in [&a, &b].into_iter().flat_map(|peer| secrets.map(|secret| (peer, secret))) {
            let places = found(peer, secret, &[plumb.id()]);
            assert!(places.is_empty(), "{when}: {secret} of {} in {places:?}", peer.name);
        }
    };
    assert!(!b.children("keeper").is_empty(), "it runs");
    assert!(b.spool(&format!("jobs/{}/in/1/0", b.ids("jobs")[0])).exists(), "its input lies there");
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        nothing("while it runs");
        assert_eq!((loose(&a), loose(&b)), Default::default(), "modes while it runs");
    }
    // The controls: `plumb` itself has them, and so would a file.
    let planted = b.spool("hold/planted");
    std::fs::write(&planted, format!("x{stdout}x")).unwrap();
    assert_eq!(found(&b, &stdout, &[]), [planted.display().to_string()], "control: a planted text is found");
    assert!(loose(&b).contains_key(&planted), "control: a file that others can read is found");
    std::fs::remove_file(&planted).unwrap();
    assert_eq!(found(&a, &argv, &[]), [format!("/proc/{}/cmdline", plumb.id())], "control: process lists are read");
    assert_eq!(found(&a, &env, &[]), [format!("/proc/{}/environ", plumb.id())]);

    drop(input);
    assert!(plumb.wait().unwrap().success());
    let mut said = String::new();
    std::io::Read::read_to_string(plumb.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert!(said.contains(&stderr));
    for place in ["while it is forgotten", "after it"] {
        for (peer, secret) in [&a, &b].into_iter().flat_map(|peer| secrets.map(|secret| (peer, secret))) {
            let places = found(peer, secret, &[]);
            assert!(places.is_empty(), "{place}: {secret} of {} in {places:?}", peer.name);
        }
        wait_until("it is over", || {
            a.ids("jobs").is_empty() && !b.spool(&format!("jobs/{}/in", b.ids("jobs")[0])).exists()
        });
    }
    assert_eq!((loose(&a), loose(&b)), Default::default(), "modes after it");
}

/// What each program says in this home, and its status.
fn all_programs(peer: &Peer) -> Vec<(&'static str, Ran)> {
    let id = "0123456789abcdef0123456789abcdef01234567";
    let netplumb = |words: &[&str]| {
        let mut command = peer.command(NETPLUMB);
        command.args(words);
        run(command, b"")
    };
    vec![
        ("daemon", netplumb(&["daemon"])),
        ("service", netplumb(&["service"])),
        ("loop", netplumb(&["loop"])),
        ("loop by hand", netplumb(&["loop", "queue", id])),
        ("keeper", netplumb(&["keeper", id])),
        ("plumb", peer.plumb(&["b", "true"], b"")),
    ]
}

#[test]
fn a_home_that_others_can_read_is_refused_by_every_program() {
    let (a, b) = crate::homes::pair();
    let places = [
        ("spool", 0o755, 0o700),
        ("spool", 0o710, 0o700),
        ("config", 0o750, 0o700),
        ("config/private", 0o711, 0o700),
        ("config/private/spool.key", 0o640, 0o600),
        ("config/private/derive.pem", 0o604, 0o600),
    ];
    for (place, loose, tight) in places {
        let path = a.home.join(place);
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        set(loose);
        for (program, ran) in all_programs(&a) {
            let what = format!("{program} with {place} {loose:o}: {} {}", ran.status, ran.stderr);
            assert_eq!(ran.status, if program == "plumb" { 255 } else { 78 }, "{what}");
            assert!(
                ran.stderr.contains(path.to_str().unwrap()) && ran.stderr.contains(&format!("{loose:o}")),
                "{what}"
            );
            if program == "plumb" {
                assert_eq!(ran.stderr.lines().last(), Some("plumb: origin=transport status=78 reason=config"));
            }
        }
        set(tight);
    }
    // The control: the same home works when it is tight again.
    let (mut a, mut b) = (a, b);
    a.up();
    b.up();
    a.plumb(&["b", "true"], b"").good();
}
