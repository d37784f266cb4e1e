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
/// Those of them that come from one source. A peer that has many jobs dials as
/// many times at once, and is a stranger until its first request is read.
pub const SOURCE_MAX: usize = 64;
/// Connections of one peer, whatever they are for.
pub const PEER_MAX: usize = 256;
/// With more than this, a peer's pulls are refused: the rest is for requests,
/// which are short. A job has three pulls at its sender, two at its recipient.
pub const PULLING_MAX: usize = 240;

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

/// The peer has as many busy connections as it may: this one has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many busy connections")]
pub struct Crowded;

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

    /// Takes out a connection for want of descriptors: the oldest stranger, or
    /// else the oldest of the peers' that is idle.
    pub fn spare(&mut self, idle: impl Fn(&H) -> bool) -> Option<H> {
        if let Some((_, (_, stranger))) = self.strangers.pop_first() {
            return Some(stranger);
        }
        let known = self.peers.values().flatten().filter(|(_, handle)| idle(handle));
        let oldest = known.map(|(number, _)| *number).min()?;
        self.take(oldest)
    }

    /// Counts a connection as this peer's, which has shown a valid MAC on it and
    /// is busy with that. Beyond `max` the oldest idle one has to leave, or else
    /// the newcomer: a busy connection is never ended for another.
    pub fn admit(
        &mut self,
        number: Number,
        peer: &Username,
        max: usize,
        idle: impl Fn(&H) -> bool,
    ) -> Result<Option<H>, Crowded> {
        if self.whose.get(&number) != Some(peer) {
            let Some(handle) = self.take(number) else { return Err(Crowded) };
            self.peers.entry(peer.clone()).or_default().insert(number, handle);
            self.whose.insert(number, peer.clone());
        }
        let mine = self.peers.get(peer).filter(|mine| mine.len() > max);
        let Some(mine) = mine else { return Ok(None) };
        match mine.iter().find(|(_, handle)| idle(handle)).map(|(number, _)| *number) {
            Some(oldest) => Ok(self.take(oldest)),
            None => Err(Crowded),
        }
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
        assert_eq!(pool.admit(0, &a, PEER_MAX, |_| true), Ok(None));
        for n in 1..=1000 {
            pool.enter(n as Number, source(n), n);
            let _ = pool.admit(n as Number, &b, PEER_MAX, |_| true);
        }
        for n in 2000..3000 {
            pool.enter(n as Number, source(n), n);
        }
        assert_eq!(pool.take(0), Some(0));
    }

    #[test]
    fn a_busy_connection_is_never_ended_for_a_newer_one() {
        // Each job has three pulls that wait. With 22 of them the next connection
        // ended the oldest, whose owner dialled again and ended the next.
        let a = Username::of_ca(b"a");
        let mut pool = Pool::default();
        for n in 0..PEER_MAX {
            pool.enter(n as Number, source(n), n);
            assert_eq!(pool.admit(n as Number, &a, PEER_MAX, |n| *n == 5), Ok(None));
        }
        pool.enter(1000, source(1000), 1000);
        assert_eq!(pool.admit(1000, &a, PEER_MAX, |n| *n == 5), Ok(Some(5)), "an idle one leaves");
        pool.enter(1001, source(1001), 1001);
        assert_eq!(pool.admit(1001, &a, PEER_MAX, |_| false), Err(Crowded));
        assert_eq!(pool.take(1001), Some(1001), "its own end takes it out");
        assert_eq!(pool.admit(1000, &a, PEER_MAX, |_| false), Ok(None), "it is counted already");
        assert_eq!(pool.admit(1000, &a, PULLING_MAX, |_| false), Err(Crowded), "and may not begin a pull");
        assert_eq!(pool.take(0), Some(0), "the oldest is still here");
    }

    #[test]
    fn without_descriptors_a_stranger_leaves_first_and_a_busy_peer_never() {
        let a = Username::of_ca(b"a");
        let mut pool = Pool::default();
        for n in 0..4 {
            pool.enter(n, source(1), n);
        }
        for n in 0..3 {
            assert_eq!(pool.admit(n, &a, PEER_MAX, |_| false), Ok(None));
        }
        let idle = |n: &Number| *n != 0;
        assert_eq!(
            [pool.spare(idle), pool.spare(idle), pool.spare(idle), pool.spare(idle)],
            [Some(3), Some(1), Some(2), None]
        );
    }

    #[test]
    fn a_whole_ipv6_network_is_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
