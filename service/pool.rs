//! Who is connected, and who has to leave when there are too many.
//!
//! Only accounting: connections are numbers here, in the order in which they
//! came, each with whatever is needed to end it. Strangers share a small pool
//! with a cap for each source; the first valid MAC moves a connection into its
//! peer's own pool. So no stranger can keep a peer out, and no peer another
//! (doc/PROTOCOL.md#bounds).

use spool::name::Username;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Connections that have not shown a valid MAC.
pub const STRANGERS_MAX: usize = 256;
/// Those of them that come from one source.
pub const SOURCE_MAX: usize = 8;
/// Connections of one peer.
pub const PEER_MAX: usize = 64;

/// A connection: the higher, the younger.
pub type Number = u64;

/// Where strangers are counted together: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(u64);

impl Source {
    /// The source that an address belongs to.
    pub fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source(u64::from(v4.to_bits())),
            // An IPv4 address is below every global IPv6 network.
            IpAddr::V6(v6) => Source((v6.to_bits() >> 64) as u64),
        }
    }
}

/// All connections; `H` is what ends one.
pub struct Pool<H> {
    next: Number,
    strangers: BTreeMap<Number, (Source, H)>,
    peers: HashMap<Username, BTreeMap<Number, H>>,
    whose: HashMap<Number, Username>,
}

impl<H> Default for Pool<H> {
    fn default() -> Pool<H> {
        Pool { next: 0, strangers: BTreeMap::new(), peers: HashMap::new(), whose: HashMap::new() }
    }
}

impl<H> Pool<H> {
    /// A number for a connection that has just been accepted.
    pub fn number(&mut self) -> Number {
        self.next += 1;
        self.next
    }

    /// Counts a new connection among the strangers; gives the one that has to leave for it.
    pub fn enter(&mut self, number: Number, source: Source, handle: H) -> Option<H> {
        let same: Vec<Number> =
            self.strangers.iter().filter(|(_, other)| other.0 == source).map(|(number, _)| *number).collect();
        let leaving = if same.len() >= SOURCE_MAX { Some(self.strangers.remove(&same[0])) } else { self.crowd_out() };
        self.strangers.insert(number, (source, handle));
        leaving.flatten().map(|(_, handle)| handle)
    }

    fn crowd_out(&mut self) -> Option<Option<(Source, H)>> {
        (self.strangers.len() >= STRANGERS_MAX).then(|| self.strangers.pop_first().map(|(_, stranger)| stranger))
    }

    /// Takes out the oldest stranger, for want of descriptors.
    pub fn oldest_stranger(&mut self) -> Option<H> {
        self.strangers.pop_first().map(|(_, (_, handle))| handle)
    }

    /// Counts a connection as this peer's, which has shown a valid MAC on it;
    /// gives the one that has to leave for it: the oldest idle one, or the oldest.
    pub fn admit(&mut self, number: Number, peer: &Username, idle: impl Fn(&H) -> bool) -> Option<H> {
        if self.whose.get(&number) == Some(peer) {
            return None;
        }
        let handle = self.take(number)?;
        let mine = self.peers.entry(peer.clone()).or_default();
        let full = mine.len() >= PEER_MAX;
        let oldest = || mine.iter().find(|(_, handle)| idle(handle)).or(mine.iter().next()).map(|(number, _)| *number);
        let leaving = if full { oldest() } else { None };
        mine.insert(number, handle);
        self.whose.insert(number, peer.clone());
        leaving.and_then(|leaving| self.take(leaving))
    }

    /// Forgets a connection, and gives what ends it.
    pub fn take(&mut self, number: Number) -> Option<H> {
        if let Some((_, handle)) = self.strangers.remove(&number) {
            return Some(handle);
        }
        let peer = self.whose.remove(&number)?;
        let mine = self.peers.get_mut(&peer)?;
        let handle = mine.remove(&number);
        if mine.is_empty() {
            self.peers.remove(&peer);
        }
        handle
    }

    /// Takes out the strangers for which this is true.
    pub fn take_strangers(&mut self, late: impl Fn(&H) -> bool) -> Vec<H> {
        let late = self.strangers.extract_if(.., |_, (_, handle)| late(handle));
        late.map(|(_, (_, handle))| handle).collect()
    }

    /// Takes out the peers' connections for which this is true.
    pub fn take_known(&mut self, late: impl Fn(&H) -> bool) -> Vec<H> {
        let known = self.peers.values().flatten().filter(|(_, handle)| late(handle));
        let numbers: Vec<Number> = known.map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.take(number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: usize) -> Source {
        Source(n as u64)
    }

    #[test]
    fn a_full_pool_drops_its_oldest_stranger() {
        let mut pool = Pool::default();
        for n in 0..STRANGERS_MAX {
            assert_eq!(pool.enter(n as Number, source(n), n), None);
        }
        assert_eq!(pool.enter(1000, source(1000), 1000), Some(0));
        assert_eq!(pool.enter(1001, source(1001), 1001), Some(1));
    }

    #[test]
    fn one_source_crowds_out_only_itself() {
        let mut pool = Pool::default();
        pool.enter(0, source(7), 0);
        for n in 1..=SOURCE_MAX {
            assert_eq!(pool.enter(n as Number, source(1), n), None);
        }
        assert_eq!(pool.enter(100, source(1), 100), Some(1));
        assert_eq!(pool.take(0), Some(0));
    }

    #[test]
    fn a_peer_is_out_of_reach_of_strangers_and_of_other_peers() {
        let (a, b) = (Username::of_ca(b"a"), Username::of_ca(b"b"));
        let mut pool = Pool::default();
        pool.enter(0, source(1), 0);
        assert_eq!(pool.admit(0, &a, |_| true), None);
        for n in 1..=1000 {
            pool.enter(n as Number, source(n), n);
            pool.admit(n as Number, &b, |_| true);
        }
        for n in 2000..3000 {
            pool.enter(n as Number, source(n), n);
        }
        assert_eq!(pool.take(0), Some(0));
    }

    #[test]
    fn a_peer_s_oldest_idle_connection_leaves_before_a_busy_one() {
        let a = Username::of_ca(b"a");
        let mut pool = Pool::default();
        for n in 0..PEER_MAX {
            pool.enter(n as Number, source(n), n);
            assert_eq!(pool.admit(n as Number, &a, |n| *n == 5), None);
        }
        pool.enter(100, source(100), 100);
        assert_eq!(pool.admit(100, &a, |n| *n == 5), Some(5));
        pool.enter(101, source(101), 101);
        assert_eq!(pool.admit(101, &a, |_| false), Some(0));
        assert_eq!(pool.admit(101, &a, |_| true), None, "it is counted already");
    }

    #[test]
    fn a_whole_ipv6_network_is_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
