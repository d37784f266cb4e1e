//! `netplumb check`: is this home fit to run, and what should its owner know?
//!
//! Looks only; every finding is one line, `ok`, `warn` or `bad`, with a hint
//! where something is to be done. A warning is something to know: only what is
//! bad makes the exit status 78 (configuration), 74 (disk) or 69 (the daemon does
//! not answer).

use crate::fail::{CONFIG, IO, UNAVAILABLE, fail};
use crate::listing::{answer, bytes, clean, line};
use crate::probe;
use serde::Serialize;
use spool::atomic::{Disk, SICK};
use spool::fs::{Fs, ODD, is_hidden};
use spool::home::{Dial, Error, Home, Policy, Settings};
use spool::layout::{DIRECTORIES, Place, has_daemon};
use spool::name::{MsgId, PeerName, Username};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// One line of JSON for each finding.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    answer(args.json, |out| tell(&findings(&Home::find()?), args.json, out))
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should know.
    Warn,
    /// Must be mended.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    level: Level,
    what: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// The exit status, if it is bad.
    #[serde(skip)]
    status: u8,
}

impl Finding {
    fn new(level: Level, what: &'static str, text: impl ToString, status: u8) -> Finding {
        // An error brings its own hint, on a second line.
        let text = text.to_string();
        let (text, hint) = match text.split_once("\n  hint: ") {
            Some((text, hint)) => (text.to_string(), Some(hint.to_string())),
            None => (text.replace('\n', " "), None),
        };
        Finding { level, what, text, hint, status }
    }

    /// As it should be.
    pub fn ok(what: &'static str, text: impl ToString) -> Finding {
        Finding::new(Level::Ok, what, text, 0)
    }

    /// Somebody should know.
    pub fn warn(what: &'static str, text: impl ToString) -> Finding {
        Finding::new(Level::Warn, what, text, 0)
    }

    /// The configuration is to be mended.
    pub fn bad(what: &'static str, text: impl ToString) -> Finding {
        Finding::new(Level::Bad, what, text, CONFIG)
    }

    /// The disk is to be looked after.
    pub fn disk(what: &'static str, text: impl ToString) -> Finding {
        Finding::new(Level::Bad, what, text, IO)
    }

    /// A process does not answer.
    pub fn silent(what: &'static str, text: impl ToString) -> Finding {
        Finding::new(Level::Bad, what, text, UNAVAILABLE)
    }

    /// Says what to do.
    pub fn hint(mut self, hint: impl ToString) -> Finding {
        self.hint = Some(hint.to_string());
        self
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    finding: &'a Finding,
}

fn tell(findings: &[Finding], json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    for finding in findings {
        if json {
            line(out, &Line { kind: "check", finding })?;
            continue;
        }
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Bad => "bad",
        };
        writeln!(out, "{level:<5} {:<10} {}", finding.what, clean(&finding.text))?;
        if let Some(hint) = &finding.hint {
            writeln!(out, "{:<16} hint: {}", "", clean(hint))?;
        }
    }
    let bad: Vec<&Finding> = findings.iter().filter(|finding| finding.level == Level::Bad).collect();
    // The disk comes after the configuration, and a daemon after both: mended in this order.
    match bad.iter().map(|finding| finding.status).max() {
        None => Ok(()),
        Some(status) => Err(fail(status, format!("{} of {} checks are bad", bad.len(), findings.len()))),
    }
}

/// Looks at everything.
fn findings(home: &Home) -> Vec<Finding> {
    let mut all = vec![Finding::ok("home", format!("{} and {}", home.config.display(), home.spool.display()))];
    all.extend(modes(home));
    all.extend(probe::identity(home));
    let settings = home.settings();
    all.push(match &settings {
        Ok(_) => Finding::ok("settings", "netplumb.toml can be read"),
        Err(error) => Finding::bad("settings", error),
    });
    all.extend(peers(home));
    all.extend(spool(home, &settings.unwrap_or_default()));
    all.push(probe::inotify(&home.spool));
    all.push(probe::landlock());
    all
}

/// Modes and owners of what must be private; one line if all is well.
fn modes(home: &Home) -> Vec<Finding> {
    let below = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut paths = vec![home.config.clone(), home.config.join("private"), home.spool.clone()];
    paths.extend(below(&home.config.join("private")));
    paths.extend(DIRECTORIES.iter().map(|name| home.spool.join(name)));
    paths.extend(below(&home.config.join("peers")).iter().map(|peer| peer.join("request.key")));
    let ours = rustix::process::geteuid().as_raw();
    let mut findings = Vec::new();
    for path in paths {
        // What is not there is missed elsewhere.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.uid() != ours {
            findings.push(Finding::bad("modes", format!("{} belongs to user {}", path.display(), metadata.uid())));
        } else if metadata.is_symlink() && path != home.config && path != home.spool {
            findings.push(Finding::bad("modes", format!("{} is a symbolic link", path.display())));
        } else if !metadata.is_symlink() && metadata.mode() & 0o077 != 0 {
            let text = format!("{} has mode {:04o}: others have access", path.display(), metadata.mode() & 0o7777);
            findings.push(Finding::bad("modes", text).hint(format!("chmod go= {}", path.display())));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("modes", "config, private, spool: ours alone"));
    }
    findings
}

fn peers(home: &Home) -> Vec<Finding> {
    let dir = home.config.join("peers");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Finding::warn("peers", "there are none yet").hint("netplumb peer add")];
        }
        Err(error) => return vec![Finding::bad("peers", format!("cannot read {}: {error}", dir.display()))],
    };
    let (mut findings, mut known) = (Vec::new(), BTreeMap::<Username, PeerName>::new());
    let ours = home.username().ok();
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
    names.sort();
    for text in names.iter().filter(|name| !is_hidden(name)) {
        let Ok(name) = text.parse::<PeerName>() else {
            findings.push(Finding::warn("peers", format!("peers/{text} is no name of a peer: it is passed over")));
            continue;
        };
        match home.peer(&name) {
            Ok(None) => findings.push(Finding::bad("peers", format!("{name}: peers/{name}/username is missing"))),
            Err(error) => findings.push(Finding::bad("peers", format!("{name}: {error}"))),
            Ok(Some(peer)) if Some(&peer.username) == ours.as_ref() => {
                findings.push(Finding::bad("peers", format!("{name} is ourselves")));
            }
            Ok(Some(peer)) => {
                findings.extend(probe::peer_chain(&dir.join(text), &name, &peer.username));
                if let Some(other) = known.insert(peer.username, name.clone()) {
                    findings.push(Finding::bad("peers", format!("{other} and {name} are the same identity")));
                }
                findings.extend(meeting(&name, &peer.policy));
            }
        }
    }
    if findings.iter().all(|finding| finding.level != Level::Bad) {
        findings.insert(0, Finding::ok("peers", format!("{} known", known.len())));
    }
    findings
}

/// Does each of us come to the other?
fn meeting(name: &PeerName, policy: &Policy) -> Option<Finding> {
    let toml = format!("peers/{name}/peer.toml");
    match (policy.dial, policy.dialled().is_empty(), policy.turn) {
        (_, true, true) => {
            let text = format!("{name}: turn is set, and it is never dialled, so nothing moves");
            Some(Finding::bad("peers", text).hint(format!("set address and dial in {toml}, or turn = false")))
        }
        (Dial::Always, true, false) => {
            let text = format!("{name} has no address: only it can dial us");
            Some(Finding::warn("peers", text).hint(format!("if that is meant, say so: dial = \"never\" in {toml}")))
        }
        (Dial::Never, _, false) => {
            Some(Finding::ok("peers", format!("{name}: dial=never, it keeps connections open to us")))
        }
        (_, false, true) => Some(Finding::ok("peers", format!("{name}: turn, we keep connections open to it"))),
        (_, false, false) => None,
    }
}

/// The spool: that it can be used, is one file system, has room, is healthy, and who looks after it.
fn spool(home: &Home, settings: &Settings) -> Vec<Finding> {
    let foreign = match home.look_at_spool() {
        Err(error @ Error::Foreign(_)) => Some(Finding::bad("spool", error)),
        Err(error @ Error::Io { .. }) => Some(Finding::disk("spool", error)),
        // Whatever else stands against it is told below, or as its mode.
        Err(_) | Ok(_) => None,
    };
    let disk = match Disk::open(&home.spool).and_then(|disk| disk.list("").map(|_| disk)) {
        Ok(disk) => disk,
        Err(error) if error.is_absent() => return foreign.into_iter().collect(),
        // The first thing that opens by openat2.
        Err(error) => return vec![Finding::disk("openat2", format!("the spool cannot be opened: {error}"))],
    };
    let mut findings = vec![Finding::ok("openat2", "files are opened beneath the spool only")];
    if foreign.is_some() {
        // Nothing that lies there is ours.
        findings.extend(foreign);
        return findings;
    }
    let missing: Vec<&str> = DIRECTORIES.into_iter().filter(|name| !disk.exists(name)).collect();
    if !missing.is_empty() {
        findings.push(Finding::warn("spool", format!("without {}: the daemon makes them", missing.join(", "))));
    }
    findings.push(probe::one_file_system(&home.spool));
    findings.push(probe::file_system(&home.spool));
    findings.push(match disk.free() {
        Err(error) => Finding::disk("space", error),
        Ok(free) => {
            let files = if free.inodes == u64::MAX { "any number of".into() } else { free.inodes.to_string() };
            let text = format!("{} and {files} files free", bytes(free.bytes));
            let floor =
                format!("the floor is {} and {} files", bytes(settings.free_bytes_min), settings.free_inodes_min);
            match settings.has_room(free) {
                true => Finding::ok("space", format!("{text}; {floor}")),
                false => Finding::disk("space", format!("{text}: new work waits; {floor}")).hint("make room"),
            }
        }
    });
    findings.push(match disk.read(SICK, 4096) {
        Err(error) if error.is_absent() => Finding::ok("sync", "no sync has failed"),
        Err(error) => Finding::disk("sync", error),
        Ok(text) => Finding::disk("sync", String::from_utf8_lossy(&text).trim_end())
            .hint("the disk lost writes: check it, then start the daemon anew"),
    });
    match has_daemon(&disk) {
        Ok(true) => findings.extend(probe::alive(&disk)),
        Ok(false) => {
            findings.push(Finding::warn("daemon", "does not run, so nothing moves").hint("netplumb daemon"));
        }
        Err(error) => findings.push(Finding::disk("daemon", error)),
    }
    findings.extend(lying_about(&disk));
    findings
}

/// What lies in the spool and waits for a person.
fn lying_about(disk: &Disk) -> Vec<Finding> {
    let count = |directory: &str| disk.list(directory).map_or(0, |entries| entries.len());
    let mut findings = Vec::new();
    let odd = "moved aside: no files of ours; notices/ says where they lay";
    for (directory, what) in [("hold", "held"), ("notices", "unread notices"), (ODD, odd)] {
        match count(directory) {
            0 => {}
            count => findings.push(Finding::warn("spool", format!("{directory}/: {count} {what}"))),
        }
    }
    for place in Place::ALL {
        let entries = disk.list(place.word()).unwrap_or_default();
        let is_foreign = |name: &str| !is_hidden(name) && name.parse::<MsgId>().is_err();
        let foreign: Vec<&str> =
            entries.iter().map(|entry| entry.name.as_str()).filter(|name| is_foreign(name)).collect();
        if let Some(first) = foreign.first() {
            let text = format!("{}/{first} is no id: {} such are passed over", place.word(), foreign.len());
            findings.push(Finding::warn("spool", text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{Hand, hand_made, printed, status};
    use spool::alive;
    use std::os::unix::fs::PermissionsExt;

    fn level(hand: &Hand, what: &str) -> Vec<(Level, String)> {
        let all = findings(&hand.view.home);
        all.into_iter().filter(|finding| finding.what == what).map(|finding| (finding.level, finding.text)).collect()
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn tidy() -> Hand {
        let hand = hand_made();
        let home = &hand.view.home;
        for path in [home.config.clone(), home.config.join("private"), home.config.join("private/spool.key")] {
            let mode = if path.is_dir() { 0o700 } else { 0o600 };
            chmod(&path, mode);
        }
        hand
    }

    #[test]
    fn a_loose_mode_and_a_planted_link_are_bad() {
        let hand = tidy();
        assert_eq!(level(&hand, "modes")[0].0, Level::Ok);
        chmod(&hand.view.home.config.join("private/spool.key"), 0o640);
        chmod(&hand.view.home.spool.join("queue"), 0o755);
        std::os::unix::fs::symlink("/etc/passwd", hand.view.home.config.join("private/x")).unwrap();
        let modes = level(&hand, "modes");
        assert_eq!(modes.len(), 3, "{modes:?}");
        assert!(modes.iter().all(|(level, _)| *level == Level::Bad));
    }

    #[test]
    fn settings_and_peers_that_do_not_parse_are_told_with_their_place() {
        let hand = tidy();
        let config = &hand.view.home.config;
        assert_eq!(level(&hand, "settings")[0].0, Level::Ok);
        std::fs::write(config.join("netplumb.toml"), "moon = 1\n").unwrap();
        assert!(matches!(&level(&hand, "settings")[0], (Level::Bad, text) if text.contains("moon")));
        // The hand-made peer has no request key.
        assert!(matches!(&level(&hand, "peers")[0], (Level::Bad, text) if text.contains("request.key")));
        std::fs::write(config.join("peers/nas/request.key"), "11".repeat(32)).unwrap();
        std::fs::create_dir(config.join("peers/-x")).unwrap();
        std::fs::create_dir(config.join("peers/us")).unwrap();
        std::fs::copy(config.join("certs/username"), config.join("peers/us/username")).unwrap();
        std::fs::write(config.join("peers/us/request.key"), "11".repeat(32)).unwrap();
        let peers: String = level(&hand, "peers").into_iter().map(|(_, text)| text + "\n").collect();
        for part in ["peers/-x is no name", "us is ourselves", "nas has no address", "ca.pem"] {
            assert!(peers.contains(part), "{part}:\n{peers}");
        }
    }

    #[test]
    fn a_sick_spool_and_a_full_disk_are_bad_and_end_with_74() {
        let hand = tidy();
        assert_eq!(level(&hand, "sync")[0].0, Level::Ok);
        assert_eq!(level(&hand, "space")[0].0, Level::Ok);
        assert_eq!(level(&hand, "filesystem")[0].0, Level::Ok);
        hand.view.fs.hint(SICK, b"sync of queue failed\n").unwrap();
        std::fs::write(hand.view.home.config.join("netplumb.toml"), format!("free_bytes_min = {}\n", i64::MAX))
            .unwrap();
        assert_eq!((level(&hand, "sync")[0].0, level(&hand, "space")[0].0), (Level::Bad, Level::Bad));
        let only: Vec<Finding> =
            findings(&hand.view.home).into_iter().filter(|finding| finding.what == "sync").collect();
        assert_eq!(status(tell(&only, false, &mut Vec::new()).unwrap_err()), IO);
        let all = findings(&hand.view.home);
        let mut json = Vec::new();
        assert_eq!(status(tell(&all, true, &mut json).unwrap_err()), CONFIG, "no certificates either");
        for line in String::from_utf8(json).unwrap().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["level"].is_string() && value["what"].is_string());
        }
    }

    #[test]
    fn who_looks_after_the_spool_and_what_waits_for_a_person_is_told() {
        let hand = tidy();
        assert_eq!(level(&hand, "daemon")[0].0, Level::Warn);
        // A FIFO with the name of an earlier lock says nothing, and is not waited for.
        let fifo = hand.view.home.spool.join("daemon");
        rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(level(&hand, "daemon")[0].0, Level::Warn);
        let lock = hand.view.fs.lock_dir(spool::layout::SPOOL, std::time::Duration::ZERO).unwrap();
        let door = alive::Door::open(&hand.view.fs).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let fine = alive::Child { pid: Some(std::process::id()), ..Default::default() };
                let mute = alive::Child { silent_seconds: 20, restarts: 2, ..fine.clone() };
                alive::Life { pid: 7, service: fine, r#loop: mute }.tell(&door.accept().unwrap());
            });
            let all = findings(&hand.view.home);
            let of = |what: &str| all.iter().find(|finding| finding.what == what).unwrap();
            assert_eq!((of("daemon").level, of("daemon").text.as_str()), (Level::Ok, "answers (pid 7)"));
            assert_eq!((of("service").level, of("loop").level), (Level::Ok, Level::Warn));
            assert!(of("loop").text.starts_with("does not answer (pid "), "{}", of("loop").text);
        });
        drop(lock);
        hand.put("hold/x", "");
        hand.put("queue/no-id/x", "");
        hand.put("odd/clock.01234567", "");
        let spool = level(&hand, "spool");
        assert!(spool.iter().all(|(level, _)| *level == Level::Warn) && spool.len() == 3, "{spool:?}");
        assert!(spool.iter().any(|(_, text)| text.starts_with("odd/: 1 moved aside")), "{spool:?}");
    }

    /// It said that the daemon makes one, or nothing.
    #[test]
    fn another_spool_or_none_is_bad_and_what_to_do_is_said() {
        let hand = tidy();
        let spool = &hand.view.home.spool;
        let said = |part: &str, hint: &str| {
            let all = findings(&hand.view.home);
            let found: Vec<&Finding> = all.iter().filter(|finding| finding.what == "spool").collect();
            let [one] = found[..] else { panic!("{found:?}") };
            let told = one.hint.as_deref().unwrap_or_default();
            assert!(one.level == Level::Bad && one.text.contains(part) && told.contains(hint), "{one:?}");
        };
        assert_eq!(level(&hand, "spool"), [], "control");
        hand.view.home.name_spool(&"77".repeat(16)).unwrap();
        said("and this home's is 7777", "is the right disk mounted?");
        std::fs::remove_file(spool.join("id")).unwrap();
        said("it has no id", "netplumb spool adopt");
        std::fs::remove_file(hand.view.home.config.join("spool.id")).unwrap();
        said("is of format 1", "netplumb daemon converts it");
        std::fs::rename(spool, hand.view.home.config.join("away")).unwrap();
        said("is not there", "netplumb spool new");
    }

    #[test]
    fn a_warning_alone_exits_with_0() {
        let findings = [Finding::ok("a", "b"), Finding::warn("c", "d\n  hint: e")];
        assert_eq!(
            printed(|out| tell(&findings, false, out)),
            "ok    a          b\nwarn  c          d\n                 hint: e\n"
        );
    }

    #[test]
    fn without_spool_or_identity_it_still_tells_all_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home { config: directory.path().join("config"), spool: directory.path().join("spool") };
        let all = findings(&home);
        assert!(all.iter().any(|finding| finding.what == "identity" && finding.level == Level::Bad));
        assert!(all.iter().any(|finding| finding.what == "landlock"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "looking makes nothing");
    }
}
