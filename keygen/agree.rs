//! The key of one sealing of one message (doc/PROTOCOL.md#keys).
//!
//! The sender makes a fresh X25519 key each time, whose private half never
//! leaves this function; its certificate travels in the sealed file's header.
//! Who has neither the recipient's one-time private half nor one of the two
//! static ones learns nothing, and the recipient knows that it was the sender.

use crate::cert::{Cert, Purpose};
use crate::onetime::{keyid, private_key};
use crate::pair::{Pair, message_key, x25519};
use crate::{Error, Identity, Result};
use openssl::pkey::PKey;
use spool::crypto::Key;
use spool::name::MsgId;

/// Agrees on a key with the recipient, to the one-time key that it set aside.
/// Also gives the ephemeral certificate (DER), which the recipient needs.
///
/// `Peer`: the one-time certificate is not that peer's.
pub fn to_recipient(identity: &Identity, pair: &Pair, msgid: MsgId, onetime_pem: &[u8]) -> Result<(Key, Vec<u8>)> {
    let recipient = pair.chain.username();
    let onetime = Cert::of_pem(onetime_pem)?;
    if keyid(&onetime).is_none() {
        return Err(Error::Peer(format!("`{}` stands where a one-time key should", onetime.purpose())));
    }
    pair.chain.check(&onetime)?;
    let ephemeral = PKey::generate_x25519()?;
    let cert = identity.certify(&Purpose::Message(msgid, recipient.clone()), &ephemeral)?;
    let once = x25519(&ephemeral, onetime.key())?;
    let publics = [cert.raw_key()?, onetime.raw_key()?];
    Ok((message_key(&once, pair, [&pair.ours, recipient], msgid, publics), cert.der()?))
}

/// Agrees on the same key as the sender did, with our one-time key's
/// certificate and private half.
///
/// `Peer`: the ephemeral certificate is not that peer's for this message to us;
/// `Ours`: the one-time key's halves do not fit.
pub fn from_sender(
    pair: &Pair,
    msgid: MsgId,
    onetime_pem: &[u8],
    onetime_private: &[u8; 32],
    ephemeral_der: &[u8],
) -> Result<Key> {
    let onetime = Cert::of_pem(onetime_pem).map_err(|error| error.ours("our one-time key"))?;
    if keyid(&onetime).is_none() {
        return Err(Error::Ours(format!("`{}` stands where a one-time key should", onetime.purpose())));
    }
    let private = private_key(&onetime, onetime_private)?;
    let ephemeral = Cert::of_der(ephemeral_der)?;
    let expected = Purpose::Message(msgid, pair.ours.clone());
    if *ephemeral.purpose() != expected {
        return Err(Error::Peer(format!("sealed with a key for `{}`, not for `{expected}`", ephemeral.purpose())));
    }
    pair.chain.check(&ephemeral)?;
    let once = x25519(&private, ephemeral.key())?;
    let publics = [ephemeral.raw_key()?, onetime.raw_key()?];
    Ok(message_key(&once, pair, [pair.chain.username(), &pair.ours], msgid, publics))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OneTime;

    struct Two {
        a: Identity,
        b: Identity,
        a_to_b: Pair,
        b_to_a: Pair,
        onetime: OneTime,
    }

    const MSGID: MsgId = MsgId([5; 20]);

    fn two() -> Two {
        let (a, b) = (Identity::generate().unwrap().0, Identity::generate().unwrap().0);
        let (a_to_b, b_to_a) = (Pair::new(&a, b.chain()).unwrap(), Pair::new(&b, a.chain()).unwrap());
        let onetime = OneTime::make(&b).unwrap();
        Two { a, b, a_to_b, b_to_a, onetime }
    }

    impl Two {
        fn send(&self) -> (Key, Vec<u8>) {
            to_recipient(&self.a, &self.a_to_b, MSGID, &self.onetime.cert_pem).unwrap()
        }

        fn receive(&self, msgid: MsgId, onetime: &OneTime, der: &[u8]) -> Result<Key> {
            from_sender(&self.b_to_a, msgid, &onetime.cert_pem, &onetime.private, der)
        }
    }

    #[test]
    fn both_sides_agree_and_every_sealing_has_its_own_key() {
        let two = two();
        let (key, der) = two.send();
        assert_eq!(two.receive(MSGID, &two.onetime, &der).unwrap(), key);
        let (again, other_der) = two.send();
        assert_ne!(again, key);
        assert_eq!(two.receive(MSGID, &two.onetime, &other_der).unwrap(), again);
    }

    #[test]
    fn an_ephemeral_key_is_for_one_message_to_one_recipient() {
        let two = two();
        let (key, der) = two.send();
        assert!(matches!(two.receive(MsgId([6; 20]), &two.onetime, &der), Err(Error::Peer(_))));
        let other = OneTime::make(&two.b).unwrap();
        assert_ne!(two.receive(MSGID, &other, &der).unwrap(), key, "another one-time key gives another key");

        let (c, _) = Identity::generate().unwrap();
        let c_from_a = Pair::new(&c, two.a.chain()).unwrap();
        let stolen = OneTime::make(&c).unwrap();
        let sealed_for_b = from_sender(&c_from_a, MSGID, &stolen.cert_pem, &stolen.private, &der);
        assert!(matches!(sealed_for_b, Err(Error::Peer(_))));
        let b_from_c = Pair::new(&two.b, c.chain()).unwrap();
        let claimed = from_sender(&b_from_c, MSGID, &two.onetime.cert_pem, &two.onetime.private, &der);
        assert!(matches!(claimed, Err(Error::Peer(_))), "another peer shows the sender's certificate");
    }

    #[test]
    fn a_key_of_another_purpose_or_peer_is_not_sealed_to() {
        let two = two();
        let peer_pem = two.b.chain().cert(spool::url::Cert::Peer).pem().unwrap();
        let (_, ephemeral) = two.send();
        let ephemeral_pem = Cert::of_der(&ephemeral).unwrap().pem().unwrap();
        let ours = OneTime::make(&two.a).unwrap().cert_pem;
        for pem in [peer_pem, ephemeral_pem, ours, b"".to_vec(), vec![b'-'; 9000]] {
            let sent = to_recipient(&two.a, &two.a_to_b, MSGID, &pem);
            assert!(matches!(sent, Err(Error::Peer(_))), "{}", String::from_utf8_lossy(&pem));
        }
    }

    #[test]
    fn a_sender_that_certifies_with_another_key_is_refused() {
        let two = two();
        let (mallory, _) = Identity::generate().unwrap();
        let key = PKey::generate_x25519().unwrap();
        let purpose = Purpose::Message(MSGID, two.b.username().clone());
        let forged = mallory.certify(&purpose, &key).unwrap().der().unwrap();
        assert!(matches!(two.receive(MSGID, &two.onetime, &forged), Err(Error::Peer(_))));
        let onetime_as_ephemeral = Cert::of_pem(&OneTime::make(&two.a).unwrap().cert_pem).unwrap().der().unwrap();
        assert!(matches!(two.receive(MSGID, &two.onetime, &onetime_as_ephemeral), Err(Error::Peer(_))));
    }

    #[test]
    fn the_wrong_private_half_is_refused() {
        let two = two();
        let (_, der) = two.send();
        let other = OneTime::make(&two.b).unwrap();
        let mixed = from_sender(&two.b_to_a, MSGID, &two.onetime.cert_pem, &other.private, &der);
        assert!(matches!(mixed, Err(Error::Ours(_))));
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p keygen -- --ignored --nocapture agreements"]
    fn agreements_a_second() {
        let two = two();
        let rounds = 2000;
        let time = |what: &str, step: &mut dyn FnMut()| {
            let started = std::time::Instant::now();
            (0..rounds).for_each(|_| step());
            println!("{what}: {:.3} ms", started.elapsed().as_secs_f64() * 1000.0 / f64::from(rounds));
        };
        let (_, der) = two.send();
        time("to_recipient", &mut || drop(two.send()));
        time("from_sender", &mut || drop(two.receive(MSGID, &two.onetime, &der).unwrap()));
        time("one-time key", &mut || drop(OneTime::make(&two.b).unwrap()));
        time("pair", &mut || drop(Pair::new(&two.a, two.b.chain()).unwrap()));
        time("identity", &mut || drop(Identity::generate().unwrap()));
    }
}
