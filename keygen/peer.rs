//! Whom we know: `peers/<name>/`, made whole from a card, removed whole.
//!
//! A name has one identity and an identity has one name. Pairing lets a peer
//! deliver messages; what it may run stands in its `peer.toml`, and is nothing
//! unless somebody says so (doc/SPOOL.md#config).

use crate::address::Address;
use crate::create::{key_line, list};
use crate::{Card, Error, Identity, Pair, Result};
use spool::atomic::{self, Disk};
use spool::fs::{Fs, Lock, is_hidden};
use spool::home::{Dial, Home, Policy, Quota};
use spool::name::{PeerName, Username};
use spool::timetable::Timetable;
use spool::url;
use std::time::Duration;

const PEERS: &str = "peers";
/// No `peer.toml` is longer, in bytes.
const POLICY_MAX: usize = 1 << 20;

/// How a peer and we come together.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    /// Where it is dialled.
    pub addresses: &'a [Address],
    /// Whether it is.
    pub dial: Dial,
    /// Whether we keep connections open to it, because it cannot dial us.
    pub turn: bool,
}

impl Reach<'_> {
    /// Each dials the other, if there is an address.
    pub fn at(addresses: &[Address]) -> Reach<'_> {
        let dial = if addresses.is_empty() { Dial::Never } else { Dial::Always };
        Reach { addresses, dial, turn: false }
    }
}

/// Makes a peer of a card, under the name that we call it. With `shell` it may
/// run any command, as us.
///
/// Durable afterwards; after a crash the peer is there whole, or not.
/// `Ours`: the name is taken, the identity has a name already, or is our own.
pub fn add_peer(home: &Home, name: &PeerName, card: &Card, reach: Reach, shell: bool) -> Result<()> {
    let pair = Pair::new(&Identity::load(home)?, &card.chain)?;
    add(&Disk::open(&home.config)?, &pair, name, reach, shell)
}

/// Sets how fast a peer may be talked to: one line of its `peer.toml`, in which
/// everything else stays. False if there is no such peer. Durable afterwards;
/// after a crash the file is the old one or the new one.
pub fn set_bwlimit(home: &Home, name: &PeerName, limit: &Timetable) -> Result<bool> {
    let config = Disk::open(&home.config)?;
    let _lock = lock(&config)?;
    let (dir, path) = (format!("{PEERS}/{name}"), format!("{PEERS}/{name}/peer.toml"));
    if !config.is_there(&format!("{dir}/username"))? {
        return Ok(false);
    }
    let text = config.read_if_sound(&path, POLICY_MAX)?.unwrap_or_default();
    let text = with_line(&String::from_utf8_lossy(&text), "bwlimit", &format!("{:?}", limit.text()));
    match Policy::read(&text) {
        Ok(policy) if policy.bwlimit == *limit => {}
        Ok(_) => return Err(Error::Ours(format!("{path} says bwlimit in a way that has to be changed by hand"))),
        Err(error) => return Err(Error::Ours(format!("{path}: {error}"))),
    }
    config.hint(&path, text.as_bytes())?;
    config.sync_all(&[&path, &dir])?;
    Ok(true)
}

/// The text with this line for `name`, in place of the one that says it, or is
/// commented out, before the first table.
fn with_line(text: &str, name: &str, value: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let tables = lines.iter().position(|line| line.starts_with('[')).unwrap_or(lines.len());
    let says = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='));
    let top = || lines[..tables].iter();
    let there = top().position(|line| says(line.trim_start()));
    let there = there.or_else(|| top().position(|line| line.strip_prefix('#').is_some_and(says)));
    let line = format!("{name} = {value}");
    match there {
        Some(at) => lines[at] = &line,
        None => lines.insert(tables, &line),
    }
    lines.join("\n") + "\n"
}

/// Removes a peer; false if there is none of this name, not even half of one.
/// After a crash it is there whole, or not.
pub fn remove_peer(home: &Home, name: &PeerName) -> Result<bool> {
    let config = Disk::open(&home.config)?;
    let _lock = lock(&config)?;
    let path = format!("{PEERS}/{name}");
    if !config.is_there(&path)? {
        return Ok(false);
    }
    config.remove(&path)?;
    config.sync_dir(PEERS)?;
    Ok(true)
}

fn add(config: &dyn Fs, pair: &Pair, name: &PeerName, reach: Reach, shell: bool) -> Result<()> {
    let username = pair.chain.username();
    spool::layout::make_dirs(config, PEERS)?;
    let _lock = lock(config)?;
    refuse_known(config, name, username)?;
    let pem = |cert| pair.chain.cert(cert).pem();
    let (key, username_line) = (key_line(&pair.request_in), format!("{username}\n"));
    let policy = policy(name, reach, shell);
    let files: [(&str, &[u8]); 6] = [
        ("username", username_line.as_bytes()),
        (url::Cert::Ca.file(), &pem(url::Cert::Ca)?),
        (url::Cert::Verify.file(), &pem(url::Cert::Verify)?),
        (url::Cert::Peer.file(), &pem(url::Cert::Peer)?),
        ("request.key", &key),
        ("peer.toml", policy.as_bytes()),
    ];
    let dir = format!("{PEERS}/{name}");
    let hidden = atomic::temporary(&dir);
    let written = (|| {
        config.make_dir(&hidden)?;
        for (file, content) in files {
            config.hint(&format!("{hidden}/{file}"), content)?;
        }
        config.commit_dir(&hidden, &dir, &files.map(|(file, _)| file))
    })();
    Ok(written.inspect_err(|_| drop(config.remove(&hidden)))?)
}

fn lock(config: &dyn Fs) -> Result<Lock> {
    let busy = || Error::Ours("another process is changing the peers".into());
    config.lock_dir(PEERS, Duration::from_secs(5))?.ok_or_else(busy)
}

/// Refuses a name or identity that is there; removes what a crash left, since we have the lock.
fn refuse_known(config: &dyn Fs, name: &PeerName, username: &Username) -> Result<()> {
    for entry in config.list(PEERS)? {
        let path = format!("{PEERS}/{}", entry.name);
        if is_hidden(&entry.name) {
            config.remove(&path)?;
            continue;
        }
        let text = config.read(&format!("{path}/username"), 256).unwrap_or_default();
        let theirs = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse::<Username>().ok());
        let what = match (entry.name == name.as_str(), theirs) {
            (true, Some(theirs)) if theirs == *username => format!(
                "{name} is there already, with this very identity\n  \
                 hint: where it is and what it may do stands in {path}/peer.toml"
            ),
            (true, Some(theirs)) => format!(
                "{name} is there already, and is somebody else: {}\n  \
                 hint: choose another name, or first: netplumb peer remove {name}",
                theirs.grouped()
            ),
            (true, None) => format!(
                "{path} is there already, but does not say who it is\n  \
                 hint: look at it, then: netplumb peer remove {name}"
            ),
            (false, Some(theirs)) if theirs == *username => {
                format!("this identity is known already, as {}", entry.name)
            }
            (false, _) => continue,
        };
        return Err(Error::Ours(what));
    }
    Ok(())
}

/// The text of `peer.toml`.
fn policy(name: &PeerName, reach: Reach, shell: bool) -> String {
    let Quota { messages, jobs, .. } = Quota::default();
    let Reach { addresses, dial, turn } = reach;
    let address = list(addresses);
    let dial = match dial {
        Dial::Always => "always",
        Dial::Never => "never",
    };
    format!(
        r#"# What we know of {name} beside its keys, and what it may do here.
# A name that is not known is an error. Lines that begin with #name show the defaults.

# Where we dial it, in the order of trying.
address = {address}

# Do we dial it: "always", or "never"? Then, and without an address, it keeps
# connections open to us (`turn` in its peer.toml for us), and we ask over those.
dial = "{dial}"

# Can it not dial us? Then we keep connections open to it, over which it asks us.
turn = {turn}

# Bytes a second to and from it, as rclone's --bwlimit says them: "512k" (KiB),
# "10M:1M" (up:down), "08:00,512k 23:00,off", "Mon-00:00,512k Sat-00:00,off".
#bwlimit = "off"

# May it run any command through the shell, as the user that netplumb runs as?
# true gives it your account.
shell = {shell}

# Are input and output of jobs that we ask it for compressed, as with plumb -z?
#compress = false

# What it may have here at once: messages and jobs, until they are over and it
# has confirmed that; and jobs that run. Then what may lie on our disk, whichever
# side we are: of one job, where 0 is a window of 32 MiB for each of its streams
# (with a size, up to that much of what we send waits here while the peer is
# off), and of all jobs together, where 0 is no bound. Sizes are bytes, or
# written like "256M" or "4G".
[quota]
#messages = {messages}
#jobs = {jobs}
#job_bytes = 0
#bytes = 0
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failing::Failing;
    use crate::{Chain, create};

    struct Somebody {
        home: Home,
        card: Card,
    }

    fn somebody(directory: &tempfile::TempDir, name: &str) -> Somebody {
        let base = directory.path().join(name);
        let home = Home { config: base.join("config"), spool: base.join("spool") };
        create(&home, &name.parse().unwrap(), &[], &[]).unwrap();
        let chain = Identity::load(&home).unwrap().chain().clone();
        let card = Card { name: name.parse().unwrap(), addresses: vec!["nas:4117".parse().unwrap()], chain };
        Somebody { home, card }
    }

    fn add_by_card(us: &Somebody, name: &str, them: &Somebody) -> Result<()> {
        let card = Card::parse(&them.card.to_string())?;
        add_peer(&us.home, &name.parse().unwrap(), &card, Reach::at(&card.addresses), false)
    }

    #[test]
    fn two_that_add_each_other_know_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (somebody(&directory, "a"), somebody(&directory, "b"));
        add_by_card(&a, "nas", &b).unwrap();
        add_by_card(&b, "laptop", &a).unwrap();
        let peer = a.home.peer(&"nas".parse().unwrap()).unwrap().unwrap();
        assert_eq!(&peer.username, b.card.chain.username());
        assert_eq!((peer.policy.address, peer.policy.shell), (vec!["nas:4117".to_string()], false));
        let chain = Chain::load(&b.home, &"laptop".parse().unwrap()).unwrap();
        let theirs = Pair::new(&Identity::load(&b.home).unwrap(), &chain).unwrap();
        assert_eq!(peer.request_key, theirs.request_out);
        assert_eq!(a.home.peers(|error| panic!("{error}")).len(), 1);
        a.home.check().unwrap();
    }

    #[test]
    fn a_peer_without_an_address_is_never_dialled() {
        let directory = tempfile::tempdir().unwrap();
        let (a, mut b) = (somebody(&directory, "a"), somebody(&directory, "b"));
        b.card.addresses.clear();
        add_by_card(&a, "nas", &b).unwrap();
        let policy = a.home.peer(&"nas".parse().unwrap()).unwrap().unwrap().policy;
        assert_eq!((policy.dial, policy.turn), (Dial::Never, false));
        let address = vec!["nas:4117".to_string()];
        assert!(spool::home::Policy { address: address.clone(), ..policy.clone() }.dialled().is_empty());
        assert_eq!(spool::home::Policy { address: address.clone(), dial: Dial::Always, ..policy }.dialled(), address);
    }

    #[test]
    fn a_name_has_one_identity_and_an_identity_one_name() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b, c) = (somebody(&directory, "a"), somebody(&directory, "b"), somebody(&directory, "c"));
        add_by_card(&a, "nas", &b).unwrap();
        let refused = |result: Result<()>, word: &str| {
            assert!(matches!(&result, Err(Error::Ours(text)) if text.contains(word)), "{word}: {result:?}");
        };
        let before = std::fs::read(a.home.config.join("peers/nas/ca.pem")).unwrap();
        refused(add_by_card(&a, "nas", &c), "somebody else");
        refused(add_by_card(&a, "nas", &b), "this very identity");
        refused(add_by_card(&a, "box", &b), "as nas");
        refused(add_by_card(&a, "me", &a), "our own");
        assert_eq!(std::fs::read(a.home.config.join("peers/nas/ca.pem")).unwrap(), before);
        std::fs::create_dir(a.home.config.join("peers/half")).unwrap();
        refused(add_by_card(&a, "half", &c), "does not say who it is");
        assert!(remove_peer(&a.home, &"half".parse().unwrap()).unwrap());
        add_by_card(&a, "half", &c).unwrap();
    }

    #[test]
    fn a_removed_peer_is_gone_and_may_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (somebody(&directory, "a"), somebody(&directory, "b"));
        let name: PeerName = "nas".parse().unwrap();
        assert!(!remove_peer(&a.home, &name).unwrap());
        add_by_card(&a, "nas", &b).unwrap();
        assert!(remove_peer(&a.home, &name).unwrap());
        assert!(a.home.peer(&name).unwrap().is_none());
        assert_eq!(std::fs::read_dir(a.home.config.join("peers")).unwrap().count(), 0);
        add_by_card(&a, "nas", &b).unwrap();
    }

    #[test]
    fn a_peer_whose_files_were_swapped_is_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b, c) = (somebody(&directory, "a"), somebody(&directory, "b"), somebody(&directory, "c"));
        add_by_card(&a, "b", &b).unwrap();
        add_by_card(&a, "c", &c).unwrap();
        let name: PeerName = "b".parse().unwrap();
        for file in ["ca.pem", "verify.pem", "peer.pem", "username"] {
            let path = |peer: &str| a.home.config.join("peers").join(peer).join(file);
            let ours = std::fs::read(path("b")).unwrap();
            std::fs::copy(path("c"), path("b")).unwrap();
            assert!(matches!(Chain::load(&a.home, &name), Err(Error::Ours(_))), "{file}");
            std::fs::write(path("b"), ours).unwrap();
            Chain::load(&a.home, &name).unwrap();
        }
    }

    #[test]
    fn a_crash_at_any_operation_leaves_a_whole_peer_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (somebody(&directory, "a"), somebody(&directory, "b"));
        let pair = Pair::new(&Identity::load(&a.home).unwrap(), &b.card.chain).unwrap();
        let name: PeerName = "nas".parse().unwrap();
        for steps in 0.. {
            let failing = Failing::after(Disk::open(&a.home.config).unwrap(), steps);
            let whole_run = add(&failing, &pair, &name, Reach::at(&b.card.addresses), true).is_ok();
            assert_eq!(a.home.peer(&name).unwrap().is_some(), whole_run);
            if whole_run {
                assert!(steps > 6);
                break;
            }
        }
        Chain::load(&a.home, &name).unwrap();
        assert_eq!(std::fs::read_dir(a.home.config.join("peers")).unwrap().count(), 1, "nothing hidden is left");
        assert!(a.home.peer(&name).unwrap().unwrap().policy.shell);
    }

    #[test]
    fn a_limit_is_one_line_and_all_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (somebody(&directory, "a"), somebody(&directory, "b"));
        add_by_card(&a, "nas", &b).unwrap();
        let (name, path): (PeerName, _) = ("nas".parse().unwrap(), a.home.config.join("peers/nas/peer.toml"));
        let read = || std::fs::read_to_string(&path).unwrap();
        let before = read();
        for limit in ["512k", "08:00,512k 23:00,off", "off"] {
            assert!(set_bwlimit(&a.home, &name, &limit.parse().unwrap()).unwrap());
            assert_eq!(read(), before.replace("#bwlimit = \"off\"", &format!("bwlimit = \"{limit}\"")));
            assert_eq!(a.home.peer(&name).unwrap().unwrap().policy.bwlimit.text(), limit);
        }
        // One that was never said goes before the tables; one that is said otherwise is left to its writer.
        std::fs::write(&path, "shell = true\n[quota]\njobs = 2\n").unwrap();
        assert!(set_bwlimit(&a.home, &name, &"1M".parse().unwrap()).unwrap());
        assert_eq!(read(), "shell = true\nbwlimit = \"1M\"\n[quota]\njobs = 2\n");
        std::fs::write(&path, "'bwlimit' = \"2M\"\n").unwrap();
        assert!(set_bwlimit(&a.home, &name, &"1M".parse().unwrap()).is_err());
        assert_eq!(read(), "'bwlimit' = \"2M\"\n");
        assert!(!set_bwlimit(&a.home, &"nobody".parse().unwrap(), &"1M".parse().unwrap()).unwrap());
    }

    #[test]
    fn each_default_in_the_policy_is_the_default() {
        let reach = Reach { dial: Dial::Always, ..Reach::at(&[]) };
        let text = policy(&"nas".parse().unwrap(), reach, false).replace("\n#m", "\nm").replace("\n#j", "\nj");
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (somebody(&directory, "a"), somebody(&directory, "b"));
        add_by_card(&a, "nas", &b).unwrap();
        std::fs::write(a.home.config.join("peers/nas/peer.toml"), text).unwrap();
        let read = a.home.peer(&"nas".parse().unwrap()).unwrap().unwrap().policy;
        let expected = spool::home::Policy::default();
        assert_eq!(format!("{read:?}"), format!("{expected:?}"));
    }
}
