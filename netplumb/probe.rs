//! The single looks of `netplumb check`: certificates and keys, file systems, who lives, and what the kernel has.
//!
//! Each gives findings and changes nothing; asking for Landlock restricts nobody.

use crate::check::Finding;
use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;
use spool::alive::{self, Child};
use spool::atomic::Disk;
use spool::home::Home;
use spool::layout::DIRECTORIES;
use spool::name::{PeerName, Username};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Certificates, private keys, username: all there, and of one identity.
pub fn identity(home: &Home) -> Vec<Finding> {
    let (certs, private) = (home.config.join("certs"), home.config.join("private"));
    let missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    if missing(&certs) && missing(&private) {
        let text = format!("there is none in {}", home.config.display());
        return vec![Finding::bad("identity", text).hint("netplumb keygen")];
    }
    let mut findings = Vec::new();
    let username = home.username().map_err(|error| findings.push(Finding::bad("identity", error))).ok();
    let chain = chain(&certs).map_err(|what| findings.push(Finding::bad("identity", format!("certs/{what}")))).ok();
    if let Err(error) = home.spool_key() {
        findings.push(Finding::bad("identity", error));
    }
    if let (Some(chain), Some(username)) = (&chain, &username)
        && chain.username.as_ref() != Some(username)
    {
        findings.push(Finding::bad("identity", "certs/username is not that of certs/ca.pem"));
    }
    for (n, name) in ["root.pem", "sign.pem", "derive.pem"].into_iter().enumerate() {
        let key = match private_key(&private.join(name)) {
            Ok(key) => key,
            // The CA's key is wanted for a new verify certificate only; some keep it elsewhere.
            Err(what) if n == 0 => {
                findings
                    .push(Finding::warn("identity", format!("private/{name} {what}: fine if it is kept elsewhere")));
                continue;
            }
            Err(what) => {
                findings.push(Finding::bad("identity", format!("private/{name} {what}")));
                continue;
            }
        };
        let cert = chain.as_ref().map(|chain| &chain.certs[n]);
        if cert.is_some_and(|cert| !cert.public_key().is_ok_and(|public| public.public_eq(&key))) {
            findings.push(Finding::bad("identity", format!("private/{name} is not the key of certs/{}", CERTS[n])));
        }
    }
    if findings.is_empty() {
        let name = username.map(|username| username.grouped()).unwrap_or_default();
        findings.push(Finding::ok("identity", name));
    }
    findings
}

/// A peer's certificates: there, one chain, and of the username.
pub fn peer_chain(dir: &Path, name: &PeerName, username: &Username) -> Option<Finding> {
    match chain(dir) {
        Err(what) => Some(Finding::bad("peers", format!("{name}: {what}"))),
        Ok(chain) if chain.username.as_ref() != Some(username) => {
            Some(Finding::bad("peers", format!("{name}: username is not that of its ca.pem")))
        }
        Ok(_) => None,
    }
}

/// How long the daemon may take for its answer; a slow disk may keep it for a while.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A daemon that runs: does it answer, and do its children give signs of life?
pub fn alive(disk: &Disk) -> Vec<Finding> {
    let life = match alive::ask(disk, ANSWER_WAIT) {
        Ok(life) => life,
        Err(trouble) => return vec![Finding::silent("daemon", trouble.what()).hint(trouble.hint())],
    };
    let child = |(who, child): (&'static str, &Child)| match (child.trouble(who), child.pid, child.restarts) {
        (Some(trouble), _, _) => Finding::warn(who, trouble.what()).hint(trouble.hint()),
        (None, pid, 0) => Finding::ok(who, format!("lives (pid {})", pid.unwrap_or(0))),
        (None, pid, count) => {
            Finding::ok(who, format!("lives (pid {}; started again {count} times)", pid.unwrap_or(0)))
        }
    };
    let daemon = Finding::ok("daemon", format!("answers (pid {})", life.pid));
    std::iter::once(daemon).chain(life.children().map(child)).collect()
}

/// In the order of their issuing.
const CERTS: [&str; 3] = ["ca.pem", "verify.pem", "peer.pem"];

struct Chain {
    certs: [X509; 3],
    username: Option<Username>,
}

/// Reads the three certificates in a directory and checks who signed whom.
fn chain(dir: &Path) -> Result<Chain, String> {
    let read = |name: &str| {
        let pem = std::fs::read(dir.join(name)).map_err(|error| format!("{name}: {error}"))?;
        X509::from_pem(&pem).map_err(|_| format!("{name} is no certificate"))
    };
    let certs = [read(CERTS[0])?, read(CERTS[1])?, read(CERTS[2])?];
    for (n, issuer) in [(0, 0), (1, 0), (2, 1)] {
        let key = certs[issuer].public_key().map_err(|_| format!("{} has no key", CERTS[issuer]))?;
        if !certs[n].verify(&key).unwrap_or(false) {
            return Err(format!("{} was not signed by {}", CERTS[n], CERTS[issuer]));
        }
    }
    let username = certs[0].to_der().ok().map(|der| Username::of_ca(&der));
    Ok(Chain { certs, username })
}

fn private_key(path: &Path) -> Result<PKey<Private>, String> {
    let pem = zeroize::Zeroizing::new(std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?);
    PKey::private_key_from_pem(&pem).map_err(|_| "is no private key".to_string())
}

/// Renames must be atomic among all directories of the spool.
pub fn one_file_system(spool: &Path) -> Finding {
    let device = |path: &Path| std::fs::symlink_metadata(path).ok().map(|metadata| metadata.dev());
    let root = std::fs::metadata(spool).ok().map(|metadata| metadata.dev());
    let other = DIRECTORIES.iter().find(|name| device(&spool.join(name)).is_some_and(|dev| Some(dev) != root));
    match other {
        Some(name) => Finding::bad("filesystem", format!("{name}/ is on another file system than the spool"))
            .hint("nothing in the spool may be a mount point"),
        None => Finding::ok("filesystem", "all of the spool is on one"),
    }
}

/// Does this file system keep what is synced, and know locks and changes?
pub fn file_system(spool: &Path) -> Finding {
    let kind = match rustix::fs::statfs(spool) {
        Ok(stat) => stat.f_type as u64 & 0xffff_ffff,
        Err(errno) => return Finding::disk("filesystem", format!("cannot look at {}: {errno}", spool.display())),
    };
    let volatile = |name: &str| Finding::warn("filesystem", format!("{name} is volatile: a reboot empties this spool"));
    let remote = |name: &str| {
        let text = format!("{name}: locks, renames and syncs may not be what they are on a local disk");
        Finding::warn("filesystem", text).hint("put the spool on a local disk")
    };
    // The numbers of statfs(2).
    match kind {
        0x0102_1994 => volatile("tmpfs"),
        0x8584_58f6 => volatile("ramfs"),
        0x6969 => remote("nfs"),
        0x6573_5546 => remote("fuse"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => remote("a Windows share"),
        0x0102_1997 => remote("9p"),
        0x794c_7630 => {
            Finding::warn("filesystem", "overlay: gone with its container, unless the upper directory is kept")
        }
        0x4d44 | 0x2011_bab0 => Finding::bad("filesystem", "FAT knows neither modes nor owners"),
        0xef53 => Finding::ok("filesystem", "ext4"),
        0x5846_5342 => Finding::ok("filesystem", "xfs"),
        0x9123_683e => Finding::ok("filesystem", "btrfs"),
        0x2fc1_2fc1 => Finding::ok("filesystem", "zfs"),
        0xf2f5_2010 => Finding::ok("filesystem", "f2fs"),
        other => Finding::ok("filesystem", format!("of a kind that we have no word about ({other:#x})")),
    }
}

/// Changes are noticed at once with inotify, else by looking again and again.
pub fn inotify(spool: &Path) -> Finding {
    let watch = spool::wait::Watch::new();
    let told = "changes are found by looking every few milliseconds";
    match (watch.fd().is_some(), !spool.exists() || watch.add(spool).is_some()) {
        (true, true) => Finding::ok("inotify", "changes are noticed at once"),
        (false, _) => {
            Finding::warn("inotify", format!("no instance is left: {told}")).hint("raise fs.inotify.max_user_instances")
        }
        (true, false) => {
            Finding::warn("inotify", format!("no watch is left: {told}")).hint("raise fs.inotify.max_user_watches")
        }
    }
}

/// Has this kernel Landlock, and how much of it? Makes a rule set and drops it.
pub fn landlock() -> Finding {
    let versions = [(6, ABI::V6), (5, ABI::V5), (4, ABI::V4), (3, ABI::V3), (2, ABI::V2), (1, ABI::V1)];
    let has = |abi: ABI| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let rules = rules.handle_access(AccessFs::from_all(abi));
        rules.and_then(|rules| rules.create()).is_ok()
    };
    match versions.into_iter().find(|(_, abi)| has(*abi)) {
        Some((5.., _)) => Finding::ok("landlock", "the service is kept out of private/ and from executing"),
        Some((number, _)) => {
            let text = format!("version {number}: the service is kept out of private/ and from executing");
            Finding::ok("landlock", text)
        }
        None => {
            Finding::warn("landlock", "not in this kernel: only the process boundary keeps the service from private/")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::hand_made;

    #[test]
    fn a_half_identity_is_told_file_by_file() {
        let hand = hand_made();
        let home = &hand.view.home;
        let sign = PKey::generate_ed25519().unwrap();
        std::fs::write(home.config.join("private/sign.pem"), sign.private_key_to_pem_pkcs8().unwrap()).unwrap();
        std::fs::write(home.config.join("private/derive.pem"), "garbage").unwrap();
        std::fs::write(home.config.join("private/spool.key"), "short").unwrap();
        let text = format!("{:?}", identity(home));
        for part in ["certs/ca.pem", "private/root.pem", "private/derive.pem is no private key", "spool.key"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("sign.pem"), "{text}");
    }

    #[test]
    fn the_kernel_is_asked_and_nobody_restricted() {
        let finding = landlock();
        // Whatever it says: this process may still open what it could.
        assert!(std::fs::read("/proc/self/status").is_ok(), "{finding:?}");
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("x"), "y").unwrap();
    }
}
