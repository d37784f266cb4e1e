//! What two peers share for as long as they know each other.
//!
//! Everything comes from one static × static X25519 through HKDF, with a label
//! and both usernames in the order of the direction, so that each side derives
//! the other's keys mirrored (doc/PROTOCOL.md#keys).

use crate::{Chain, Error, Identity, Result};
use openssl::derive::Deriver;
use openssl::pkey::{PKeyRef, Private, Public};
use spool::crypto::{Key, hkdf};
use spool::name::{Digest, MsgId, Username};

/// The version of the protocol, part of every key that peers agree on.
pub(crate) const VERSION: &[u8] = b"netplumb 1";

/// Us and a peer, with the keys that only we two have.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Who we are.
    pub ours: Username,
    /// Who the peer is.
    pub chain: Chain,
    /// Signs our requests, and checks the replies to them.
    pub request_out: Key,
    /// Checks the peer's requests, and signs our replies: all that the service
    /// needs, as `peers/<name>/request.key`.
    pub request_in: Key,
    /// Makes our receipts for the peer's messages.
    pub receipt_given: Key,
    /// Checks the peer's receipts for our messages.
    pub receipt_expected: Key,
    /// The shared secret itself, for the keys of messages.
    pub(crate) secret: Key,
}

impl Pair {
    /// Derives what we share with the peer of this chain. Our own chain is refused.
    pub fn new(identity: &Identity, chain: &Chain) -> Result<Pair> {
        let (ours, theirs) = (identity.username(), chain.username());
        if ours == theirs {
            return Err(Error::Ours("this is our own identity, not a peer's".into()));
        }
        let secret = x25519(identity.derive(), chain.static_key())?;
        let key = |label: &str, first: &Username, second: &Username| {
            secret.derive(VERSION, label, &[first.as_str().as_bytes(), second.as_str().as_bytes()])
        };
        Ok(Pair {
            ours: ours.clone(),
            chain: chain.clone(),
            request_out: key("netplumb request key", ours, theirs),
            request_in: key("netplumb request key", theirs, ours),
            receipt_given: key("netplumb receipt key", theirs, ours),
            receipt_expected: key("netplumb receipt key", ours, theirs),
            secret,
        })
    }

    /// Our receipt for the peer's message with this plaintext digest.
    pub fn give_receipt(&self, msgid: MsgId, digest: Digest) -> Digest {
        receipt(&self.receipt_given, self.chain.username(), &self.ours, msgid, digest)
    }

    /// Is this the peer's receipt for our message with this plaintext digest?
    pub fn is_receipt(&self, shown: Digest, msgid: MsgId, digest: Digest) -> bool {
        let expected = receipt(&self.receipt_expected, &self.ours, self.chain.username(), msgid, digest);
        spool::crypto::same(&shown, &expected)
    }
}

/// The receipt for a message: who sent what to whom, under the pair's receipt
/// key. It outlives sealings and sessions.
pub fn receipt(key: &Key, sender: &Username, recipient: &Username, msgid: MsgId, digest: Digest) -> Digest {
    key.mac("netplumb receipt", &[sender.as_str().as_bytes(), recipient.as_str().as_bytes(), &msgid.0, &digest.0])
}

/// The key of a message: what only ephemeral and one-time, and static and
/// static, can agree on, bound to everything that names it.
pub(crate) fn message_key(
    once: &Key,
    pair: &Pair,
    [sender, recipient]: [&Username; 2],
    msgid: MsgId,
    [ephemeral, onetime]: [[u8; 32]; 2],
) -> Key {
    let secret = zeroize::Zeroizing::new([once.0, pair.secret.0].concat());
    let names = [sender.as_str().as_bytes(), recipient.as_str().as_bytes()];
    hkdf(&secret, VERSION, "netplumb message key", &[names[0], names[1], &msgid.0, &ephemeral, &onetime])
}

/// X25519 (RFC 7748). A result of zeros is refused: the peer's key is no key.
pub(crate) fn x25519(private: &PKeyRef<Private>, public: &PKeyRef<Public>) -> Result<Key> {
    let mut shared = Key([0; 32]);
    let derived = Deriver::new(private).and_then(|mut deriver| {
        deriver.set_peer(public)?;
        deriver.derive(&mut shared.0)
    });
    let agreed = matches!(derived, Ok(32)) && !openssl::memcmp::eq(&shared.0, &[0; 32]);
    if agreed { Ok(shared) } else { Err(Error::Peer("the keys do not agree on anything".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::pkey::{Id, PKey};

    fn pairs() -> (Pair, Pair) {
        let (a, b) = (Identity::generate().unwrap().0, Identity::generate().unwrap().0);
        (Pair::new(&a, b.chain()).unwrap(), Pair::new(&b, a.chain()).unwrap())
    }

    #[test]
    fn each_side_derives_the_other_mirrored_and_no_key_twice() {
        let (a, b) = pairs();
        assert_eq!((&a.request_out, &a.request_in), (&b.request_in, &b.request_out));
        assert_eq!((&a.receipt_given, &a.receipt_expected), (&b.receipt_expected, &b.receipt_given));
        let keys = [&a.request_out, &a.request_in, &a.receipt_given, &a.receipt_expected, &a.secret];
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "key {n}");
        }
    }

    #[test]
    fn another_peer_shares_nothing() {
        let (a, _) = pairs();
        let (c, d) = pairs();
        for key in [&c.request_out, &c.request_in, &d.receipt_given, &d.secret] {
            assert!(![&a.request_out, &a.request_in, &a.receipt_given, &a.secret].contains(&key));
        }
    }

    #[test]
    fn a_receipt_is_for_one_message_from_one_sender() {
        let (a, b) = pairs();
        let (msgid, digest) = (MsgId([1; 20]), Digest([2; 32]));
        let given = b.give_receipt(msgid, digest);
        assert!(a.is_receipt(given, msgid, digest));
        assert!(!a.is_receipt(given, MsgId([3; 20]), digest));
        assert!(!a.is_receipt(given, msgid, Digest([3; 32])));
        assert!(!b.is_receipt(given, msgid, digest), "our own receipt, sent back to us");
        assert!(!a.is_receipt(a.give_receipt(msgid, digest), msgid, digest));
    }

    #[test]
    fn our_own_identity_is_no_peer() {
        let (a, _) = Identity::generate().unwrap();
        assert!(matches!(Pair::new(&a, a.chain()), Err(Error::Ours(_))));
    }

    #[test]
    fn agreement_is_the_one_of_rfc_7748_and_zeros_are_refused() {
        let bytes = |text: &str| text.parse::<Digest>().unwrap().0;
        // RFC 7748, section 6.1: Bob's private key, Alice's public key, their secret.
        let bob = bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let alice = bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        let secret = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        let bob = PKey::private_key_from_raw_bytes(&bob, Id::X25519).unwrap();
        let public = |raw: &[u8]| PKey::public_key_from_raw_bytes(raw, Id::X25519).unwrap();
        assert_eq!(x25519(&bob, &public(&alice)).unwrap().0, secret);
        assert!(matches!(x25519(&bob, &public(&[0; 32])), Err(Error::Peer(_))));
    }
}
