//! The peers of a home, as they could last be read.
//!
//! People edit `peer.toml` while everything runs, and a system can be short of
//! descriptors: a peer that cannot be read at the moment stays as it was, and
//! only one whose directory is gone is forgotten (doc/SPOOL.md#config).

use crate::home::{Error, Home, Peer};
use crate::name::{PeerName, Username};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The peers of a home.
#[derive(Default, Clone)]
pub struct Roster {
    known: BTreeMap<PeerName, Arc<Peer>>,
    /// Peers that are there and could never be read.
    unread: BTreeSet<PeerName>,
    /// The names in `peers/` could be read once.
    listed: bool,
    complaints: BTreeSet<String>,
}

impl Roster {
    /// Reads all peers again; gives what cannot be read, each trouble once until it is another one.
    pub fn read(&mut self, home: &Home) -> Vec<Error> {
        let mut troubles = Vec::new();
        match names(home) {
            Err(error) => troubles.push(error),
            Ok(names) => {
                self.listed = true;
                self.known.retain(|name, _| names.contains(name));
                self.unread.clear();
                for name in names {
                    match home.peer(&name) {
                        Ok(Some(peer)) => drop(self.known.insert(name, Arc::new(peer))),
                        // A directory without `username` is half made, half removed, or damaged.
                        Ok(None) => {}
                        Err(error) => {
                            troubles.push(error);
                            self.unread.extend((!self.known.contains_key(&name)).then_some(name));
                        }
                    }
                }
            }
        }
        let before = std::mem::take(&mut self.complaints);
        self.complaints = troubles.iter().map(Error::to_string).collect();
        troubles.retain(|trouble| !before.contains(&trouble.to_string()));
        troubles
    }

    /// The peer with this username.
    pub fn get(&self, username: &Username) -> Option<&Arc<Peer>> {
        self.known.values().find(|peer| peer.username == *username)
    }

    /// All peers that were read, now or earlier.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.known.values()
    }

    /// Is it sure that nobody else is known? Not while a peer is there that could never be read.
    pub fn is_complete(&self) -> bool {
        self.listed && self.unread.is_empty()
    }

    /// The peers by username.
    pub fn into_peers(self) -> BTreeMap<Username, Peer> {
        let peers = self.known.into_values().map(Arc::unwrap_or_clone);
        peers.map(|peer| (peer.username.clone(), peer)).collect()
    }
}

/// The names in `peers/`.
fn names(home: &Home) -> Result<BTreeSet<PeerName>, Error> {
    let path = home.config.join("peers");
    let io = |source| Error::Io { path: path.clone(), source };
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&path).map_err(io)? {
        names.extend(entry.map_err(io)?.file_name().to_str().and_then(|name| name.parse().ok()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn add(config: &Path, name: &str) -> Username {
        let (dir, username) = (config.join("peers").join(name), Username::of_ca(name.as_bytes()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("username"), username.to_string()).unwrap();
        std::fs::write(dir.join("request.key"), "07".repeat(32)).unwrap();
        std::fs::write(dir.join("peer.toml"), "shell = true\n").unwrap();
        username
    }

    /// Every peer was forgotten when a descriptor was missing, and one whose
    /// `peer.toml` was being edited: their jobs were refused for good.
    #[test]
    fn a_peer_that_cannot_be_read_at_the_moment_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config");
        let (a, b) = (add(&config, "a"), add(&config, "b"));
        let home = Home { config: config.clone(), spool: directory.path().join("spool") };
        let mut roster = Roster::default();
        assert!(roster.read(&home).is_empty() && roster.is_complete());
        std::fs::write(config.join("peers/a/peer.toml"), "shell = tr").unwrap();
        assert_eq!(roster.read(&home).len(), 1);
        assert!(roster.get(&a).unwrap().policy.shell && roster.get(&b).is_some());
        assert!(roster.read(&home).is_empty(), "the same trouble is told once");
        let mut new = Roster::default();
        new.read(&home);
        assert!(!new.is_complete() && new.get(&a).is_none(), "nobody can say that `a` is unknown");
        std::fs::rename(config.join("peers"), config.join("away")).unwrap();
        assert_eq!(roster.read(&home).len(), 1);
        assert!(roster.get(&a).is_some(), "a directory that cannot be read removes nobody");
        std::fs::rename(config.join("away"), config.join("peers")).unwrap();
        std::fs::remove_dir_all(config.join("peers/a")).unwrap();
        roster.read(&home);
        assert!(roster.get(&a).is_none() && roster.get(&b).is_some(), "a peer that is removed is forgotten");
    }
}
