//! Who the two peers are: made once, for all runs of a test program.

use super::disk::SimDisk;
use keygen::{Identity, Pair, stock};
use r#loop::net::Remote;
use r#loop::peers::Known;
use spool::crypto::{Key, SpoolKey};
use spool::home::{Peer, Policy, Settings};
use spool::name::{Digest, Username};
use std::sync::{Arc, OnceLock};

/// The sender in these stories.
pub const A: usize = 0;
/// The recipient.
pub const B: usize = 1;
/// Keys that a loop keeps in stock: few, so that a refill is part of every story.
pub const STOCK: usize = 2;

/// One of the two, with all that it knows of the other.
pub struct Person {
    /// Who it is.
    pub identity: Identity,
    /// The key of what waits on its disk.
    pub spool_key: SpoolKey,
    /// The other one, as the loop knows it.
    pub known: Arc<Known>,
    /// The other one, as the service knows it.
    pub peer: Peer,
    /// A spool with one key in stock.
    spool: SimDisk,
}

impl Person {
    /// Who it is.
    pub fn username(&self) -> &Username {
        self.identity.username()
    }

    /// A spool of its own, with one key in stock.
    pub fn spool(&self) -> SimDisk {
        self.spool.fork()
    }
}

/// What both have configured.
pub fn settings() -> Settings {
    Settings { onetime_keys: STOCK, ..Settings::default() }
}

/// The two.
pub fn people() -> &'static [Person; 2] {
    static PEOPLE: OnceLock<[Person; 2]> = OnceLock::new();
    PEOPLE.get_or_init(|| {
        let [a, b] = [0, 1].map(|_| Identity::generate().expect("an identity").0);
        [person(a.clone(), &b, "b"), person(b, &a, "a")]
    })
}

fn person(identity: Identity, other: &Identity, name: &str) -> Person {
    let pair = Pair::new(&identity, other.chain()).expect("two peers agree");
    let name: spool::name::PeerName = name.parse().expect("a peer's name");
    let username = other.username().clone();
    let policy = Policy { shell: true, ..Policy::default() };
    let (digest, request_key) = (Digest::of(b"policy"), pair.request_in.clone());
    let peer = Peer { name: name.clone(), username: username.clone(), policy, digest, request_key };
    let known =
        Arc::new(Known { name, remote: Remote { username, addresses: Vec::new() }, pair, policy: Default::default() });
    let (spool_key, spool) = (SpoolKey(Key::random()), SimDisk::new());
    stock::refill(&spool, &identity, &spool_key, 1).expect("a key");
    Person { identity, spool_key, known, peer, spool }
}
