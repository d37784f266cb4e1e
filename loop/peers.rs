//! The peers as the loop knows them: certificates, pair keys, addresses.

use crate::net::Remote;
use keygen::{Chain, Identity, Pair};
use spool::home::{Home, Policy};
use spool::name::{PeerName, Username};
use spool::roster::Roster;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// A peer with all that is needed to talk to it.
pub struct Known {
    /// What we call it.
    pub name: PeerName,
    /// Where it is.
    pub remote: Remote,
    /// Its certificates, verified, and the keys that only the two of us have.
    pub pair: Pair,
    /// What we let it have.
    pub policy: Policy,
}

/// All peers, by username.
pub type Peers = HashMap<Username, Arc<Known>>;

/// Reads all peers of a home again. A peer that cannot be read or used at the
/// moment stays as it is `before`, and the log says so.
pub fn load(home: &Home, identity: &Identity, roster: &mut Roster, before: &Peers) -> Peers {
    for trouble in roster.read(home) {
        tracing::warn!("a peer stays as it was: {trouble}");
    }
    let known = roster.peers().filter_map(|peer| {
        let pair = Chain::load(home, &peer.name).and_then(|chain| Pair::new(identity, &chain));
        match pair {
            Ok(pair) => {
                let remote = Remote { addresses: peer.policy.dialled().to_vec(), username: peer.username.clone() };
                Some(Arc::new(Known { name: peer.name.clone(), remote, pair, policy: peer.policy.clone() }))
            }
            Err(error) => {
                tracing::warn!("peer {}: {error}", peer.name);
                before.get(&peer.username).cloned()
            }
        }
    });
    known.map(|known| (known.remote.username.clone(), known)).collect()
}

/// A peer's directory, and when its `peer.toml` was made and changed.
pub type Stamp = (std::ffi::OsString, Option<(u64, i64, i64)>);

/// What of the peers can be seen without reading them: another value, another peer or policy.
pub fn stamps(home: &Home) -> Vec<Stamp> {
    let entries = std::fs::read_dir(home.config.join("peers")).into_iter().flatten().flatten();
    let stamp = |entry: std::fs::DirEntry| {
        let changed = std::fs::metadata(entry.path().join("peer.toml"));
        (entry.file_name(), changed.ok().map(|file| (file.ino(), file.mtime(), file.mtime_nsec())))
    };
    let mut stamps: Vec<Stamp> = entries.map(stamp).collect();
    stamps.sort_unstable();
    stamps
}
