//! A home as somebody finds it who only looks: spool, names of peers, ids by
//! their first digits, and the keys as far as they can be read.
//!
//! Nothing is made and no lock is kept. Whatever lies there is taken as it is:
//! half, damaged, or gone between two looks.

use crate::fail::{NO_ID, NO_PEER, USAGE, fail};
use spool::alive::{self, Trouble};
use spool::atomic::Disk;
use spool::clock;
use spool::crypto::SpoolKey;
use spool::fs::{Fs, is_shortage};
use spool::home::{Error, Home, Policy, is_there};
use spool::layout::{self, Owner, Place};
use spool::name::{MsgId, PeerName, Role, Username};
use spool::segment::JobKeys;
use spool::standing::{self, ASIDE, Unfound, id_of};
use spool::usage::{self, Bounds};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Digits of an id that a table shows.
const SHORT: usize = 12;
/// How long a listing waits for the daemon's word.
const ANSWER_WAIT: Duration = Duration::from_millis(300);

/// A home, looked at.
pub struct View {
    /// Where it is.
    pub home: Home,
    /// Its spool.
    pub fs: Arc<Disk>,
    /// Observed uptime in seconds.
    pub uptime: u64,
    names: BTreeMap<Username, PeerName>,
}

/// An id, and where something of it lies.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The whole id.
    pub msgid: MsgId,
    /// The directories of the spool that have it.
    pub here: Vec<&'static str>,
}

impl Found {
    /// Has this place a directory of the id?
    pub fn is_in(&self, place: Place) -> bool {
        self.here.contains(&place.word())
    }

    /// The places that have one.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        Place::ALL.into_iter().filter(|place| self.is_in(*place))
    }
}

impl View {
    /// Looks at the home that the environment names.
    pub fn open() -> anyhow::Result<View> {
        View::of(Home::find()?)
    }

    /// Looks at this home.
    pub fn of(home: Home) -> anyhow::Result<View> {
        if !is_there(&home.spool)? && !is_there(&home.config.join("certs/username"))? {
            return Err(Error::NoIdentity(home.config).into());
        }
        let fs = home.look_at_spool()?;
        let (uptime, names) = (clock::uptime(&*fs)?, names(&home.config.join("peers"))?);
        Ok(View { home, fs, uptime, names })
    }

    /// What we call a peer.
    pub fn name(&self, username: &Username) -> Option<&str> {
        self.names.get(username).map(PeerName::as_str)
    }

    /// What a table calls a peer: its name, or the beginning of its username.
    pub fn short_name(&self, username: Option<&Username>) -> String {
        match username.map(|username| (username, self.name(username))) {
            None => "?".into(),
            Some((_, Some(name))) => name.into(),
            Some((username, None)) => username.as_str().chars().take(8).chain(['…']).collect(),
        }
    }

    /// The username of a peer that is named on the command line.
    pub fn peer(&self, text: &str) -> anyhow::Result<Username> {
        if let Ok(username) = text.parse() {
            return Ok(username);
        }
        let known = self.names.iter().find(|(_, name)| name.as_str() == text).map(|(username, _)| username.clone());
        known.ok_or_else(|| fail(NO_PEER, format!("no peer is called {text}\n  hint: netplumb peer list")))
    }

    /// What a job's logs have to wait for on our own disk, if anything.
    pub fn lack(&self, msgid: MsgId, owner: &Owner) -> Option<&'static str> {
        let policy = self.names.get(&owner.username).and_then(|name| self.home.peer(name).ok()??.policy.into());
        let (settings, policy): (_, Policy) = (self.home.settings().ok()?, policy.unwrap_or_default());
        usage::lack(&*self.fs, msgid, &owner.username, &Bounds::new(&settings, &policy.quota))
    }

    /// Seconds of observed uptime since a directory was made.
    pub fn age(&self, owner: &Owner) -> u64 {
        self.uptime.saturating_sub(owner.born)
    }

    /// Does a daemon run? Unknown counts as no.
    pub fn has_daemon(&self) -> bool {
        layout::has_daemon(&*self.fs).unwrap_or(false)
    }

    /// Names those of daemon, service and loop that do not live as they should.
    pub fn troubles(&self) -> Vec<Trouble> {
        if !self.has_daemon() {
            return vec![Trouble::NoDaemon];
        }
        alive::ask(&self.fs, ANSWER_WAIT).map_or_else(|trouble| vec![trouble], |life| life.troubles())
    }

    /// Tells whoever reads a listing that nothing in it moves, if that is so.
    pub fn mention_troubles(&self) {
        self.troubles().iter().for_each(|trouble| eprintln!("{}", told(trouble)));
    }

    /// Finds the one id that begins with `text`, which may also be a path such as `queue/ID`.
    pub fn find(&self, text: &str) -> anyhow::Result<Found> {
        let msgid = standing::find(&*self.fs, text).map_err(|unfound| match unfound {
            Unfound::Bad(_) => fail(USAGE, unfound),
            Unfound::Nothing(_) | Unfound::Several(..) => fail(NO_ID, unfound),
            Unfound::Disk(error) => error.into(),
        })?;
        Ok(self.found(msgid)?)
    }

    fn found(&self, msgid: MsgId) -> spool::fs::Result<Found> {
        let mut here: Vec<&'static str> =
            Place::ALL.into_iter().filter(|place| self.fs.exists(&place.dir(msgid))).map(Place::word).collect();
        for directory in ASIDE {
            if self.fs.list(directory)?.iter().any(|entry| id_of(&entry.name) == Some(msgid)) {
                here.push(directory);
            }
        }
        Ok(Found { msgid, here })
    }

    /// What lies in `hold` and `notices` of an id: paths, and whether they are directories.
    pub fn aside(&self, msgid: MsgId) -> Vec<(String, bool)> {
        let mut paths = Vec::new();
        for directory in ASIDE.into_iter().filter(|directory| *directory != "running") {
            let entries = self.fs.list(directory).unwrap_or_default().into_iter();
            let its = entries.filter(|entry| id_of(&entry.name) == Some(msgid));
            paths.extend(its.map(|entry| (format!("{directory}/{}", entry.name), entry.is_dir)));
        }
        paths.sort();
        paths
    }

    /// The key of what lies sealed on our own disk.
    pub fn spool_key(&self) -> anyhow::Result<SpoolKey> {
        Ok(self.home.spool_key()?)
    }

    /// The keys of a job's segments, if its secret is still here and opens.
    pub fn job_keys(&self, msgid: MsgId) -> anyhow::Result<JobKeys> {
        let (spool_key, ours) = (self.spool_key()?, self.home.username()?);
        let dir = Place::Jobs.dir(msgid);
        let owner = Owner::read(&*self.fs, &dir)?.ok_or_else(|| anyhow::anyhow!("{dir}/peer cannot be read"))?;
        match owner.role {
            Role::Sender => spool::look::sender_keys(&*self.fs, msgid, &spool_key, &ours)?
                .ok_or_else(|| anyhow::anyhow!("{dir}/key does not open")),
            Role::Recipient => {
                let (secret, _) = job::message::open(&*self.fs, Place::Jobs, msgid, &spool_key)?;
                Ok(JobKeys { secret, sender: owner.username, recipient: ours, msgid })
            }
        }
    }
}

/// Tells what is wrong, what comes of it, and what helps.
pub fn told(trouble: &Trouble) -> String {
    let so = if trouble.is_lasting() { ", so nothing moves" } else { "" };
    format!("{trouble}{so}\n  hint: {}", trouble.hint())
}

/// The beginning of an id, as tables show it.
pub fn short(msgid: MsgId) -> String {
    msgid.to_string().chars().take(SHORT).collect()
}

/// What we call whom, from the `username` files alone, so that one damaged peer hides no
/// other. An error if the system is short of something: then a peer may only seem not to be there.
fn names(peers: &Path) -> Result<BTreeMap<Username, PeerName>, Error> {
    let read = |path: &Path, read: std::io::Result<String>| match read {
        Err(source) if is_shortage(&source) => Err(Error::Io { path: path.into(), source }),
        other => Ok(other.ok()),
    };
    let entries = match std::fs::read_dir(peers) {
        Err(source) if is_shortage(&source) => return Err(Error::Io { path: peers.into(), source }),
        entries => entries.into_iter().flatten().flatten(),
    };
    let mut names = BTreeMap::new();
    for entry in entries {
        let path = entry.path().join("username");
        let username = read(&path, std::fs::read_to_string(&path))?.and_then(|text| text.trim().parse().ok());
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        names.extend(username.zip(name));
    }
    Ok(names)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::fail::Fail;
    use spool::facts::Facts;
    use spool::phase::Mark;

    /// A home in a directory that vanishes, with one peer `nas` and an empty spool.
    pub struct Hand {
        pub directory: tempfile::TempDir,
        pub view: View,
    }

    /// The peer of every hand-made home.
    pub fn nas() -> Username {
        Username::of_ca(b"nas")
    }

    pub fn hand_made() -> Hand {
        let directory = tempfile::tempdir().unwrap();
        let home = Home { config: directory.path().join("config"), spool: directory.path().join("spool") };
        for dir in ["certs", "private", "peers/nas"] {
            std::fs::create_dir_all(home.config.join(dir)).unwrap();
        }
        std::fs::write(home.config.join("certs/username"), format!("{}\n", Username::of_ca(b"us"))).unwrap();
        std::fs::write(home.config.join("private/spool.key"), format!("{}\n", "07".repeat(32))).unwrap();
        std::fs::write(home.config.join("peers/nas/username"), nas().to_string()).unwrap();
        home.name_spool(&home.make_spool().unwrap()).unwrap();
        let disk = Disk::open(&home.spool).unwrap();
        clock::Keeper::default().tick(&disk, 1000).unwrap();
        let view = View::of(home).unwrap();
        Hand { directory, view }
    }

    impl Hand {
        /// Makes a file of the spool, with its directories.
        pub fn put(&self, path: &str, content: impl AsRef<[u8]>) {
            let parent = path.rsplit_once('/').unwrap().0;
            spool::layout::make_dirs(&*self.view.fs, parent).unwrap();
            self.view.fs.hint(path, content.as_ref()).unwrap();
        }

        /// A directory with its owner, made 940 seconds ago.
        pub fn own(&self, place: Place, msgid: MsgId, role: Role) {
            let owner = Owner { username: nas(), role, born: 60, boot: clock::boot(), digest: None };
            self.facts(&place.file(msgid, spool::layout::PEER), &owner.facts().to_string());
        }

        /// A file of facts, from its lines.
        pub fn facts(&self, path: &str, lines: &str) {
            self.put(path, Facts::parse(lines.as_bytes()).content(path));
        }

        /// A mark without facts.
        pub fn mark(&self, place: Place, msgid: MsgId, mark: Mark) {
            self.put(&place.file(msgid, mark.name()), "");
        }

        /// A job that was submitted for real: its id, its lock and its keys.
        pub fn submit(&self, words: &[&str]) -> job::submit::Submitted {
            let start = job::message::Start {
                argv: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
                user: "backup".into(),
                env: BTreeMap::from([("TOKEN".to_string(), b"hush".to_vec())]),
                ..Default::default()
            };
            let (key, ours) = (self.view.spool_key().unwrap(), self.view.home.username().unwrap());
            let (submitted, prepared) = job::submit::prepare(&*self.view.fs, &key, &ours, &nas(), &start).unwrap();
            prepared.queue(&*self.view.fs).unwrap();
            submitted
        }
    }

    /// What a verb printed.
    pub fn printed(work: impl FnOnce(&mut dyn std::io::Write) -> anyhow::Result<()>) -> String {
        let mut out = Vec::new();
        work(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The status that an error ends the program with.
    pub fn status(error: anyhow::Error) -> u8 {
        error.downcast_ref::<Fail>().unwrap().0
    }

    fn id(text: &str) -> MsgId {
        format!("{text:0<40}").parse().unwrap()
    }

    #[test]
    fn a_unique_beginning_names_an_id_in_all_places() {
        let hand = hand_made();
        hand.own(Place::Queue, id("ab1"), Role::Sender);
        hand.own(Place::Jobs, id("ab1"), Role::Sender);
        hand.own(Place::Rqueue, id("ab2"), Role::Recipient);
        hand.put(&format!("hold/{}/peer", id("cd")), "");
        let find = |text: &str| hand.view.find(text);
        assert_eq!(find("ab1").unwrap(), Found { msgid: id("ab1"), here: vec!["queue", "jobs"] });
        assert_eq!(find("AB2").unwrap().here, ["rqueue"]);
        assert_eq!(find(&format!("queue/{}/", id("ab1"))).unwrap().msgid, id("ab1"));
        assert_eq!(find("c").unwrap().here, ["hold"]);
        assert_eq!(status(find("ab").unwrap_err()), NO_ID);
        assert!(find("ab").unwrap_err().to_string().contains("ambiguous: 2 ids"));
        assert_eq!(status(find("ab3").unwrap_err()), NO_ID);
        assert_eq!(status(find(&id("ff").to_string()).unwrap_err()), NO_ID);
        for bad in ["", "queue/", "xyz", &"a".repeat(41)] {
            assert_eq!(status(find(bad).unwrap_err()), USAGE, "{bad:?}");
        }
    }

    #[test]
    fn a_home_without_spool_or_identity_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home { config: directory.path().join("config"), spool: directory.path().join("spool") };
        let refused = |home| View::of(home).err().expect("it cannot be looked at").to_string();
        assert!(refused(home.clone()).contains("netplumb keygen"));
        std::fs::create_dir_all(home.config.join("certs")).unwrap();
        std::fs::write(home.config.join("certs/username"), "x").unwrap();
        let away = refused(home.clone());
        assert!(away.contains("/spool") && !away.contains("keygen"), "{away}");
        assert!(!directory.path().join("spool").exists(), "looking makes nothing");
        std::fs::remove_file(home.config.join("certs/username")).unwrap();
        // A link to itself is there, and cannot be read.
        std::os::unix::fs::symlink(&home.spool, &home.spool).unwrap();
        let error = refused(home);
        assert!(error.contains("/spool: "), "no word of keygen: {error}");
    }

    #[test]
    fn peers_go_by_name_or_username() {
        let hand = hand_made();
        assert_eq!(hand.view.peer("nas").unwrap(), nas());
        assert_eq!(hand.view.peer(nas().as_str()).unwrap(), nas());
        assert_eq!(status(hand.view.peer("moon").unwrap_err()), NO_PEER);
        assert_eq!(hand.view.short_name(Some(&Username::of_ca(b"else"))).chars().count(), 9);
    }
}
