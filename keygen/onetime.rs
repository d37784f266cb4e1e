//! One-time keys: made ahead by a recipient, each for one message.
//!
//! On disk a key is a directory with `cert.pem` and `key`, its private half
//! sealed under the spool key for the words `onetime <keyid>`. The keyid stands
//! in the certificate beside it, so the directory may be renamed, as it is when
//! the key is set aside for a message (doc/PROTOCOL.md#messages).

use crate::cert::{Cert, Purpose};
use crate::{Error, Identity, Result};
use openssl::pkey::{Id, PKey, Private};
use spool::crypto::SpoolKey;
use spool::name::KeyId;
use zeroize::Zeroizing;

/// The certificate's name in a one-time key's directory.
pub const CERT: &str = "cert.pem";
/// The sealed private half's name there.
pub const KEY: &str = "key";

/// A one-time key in memory.
pub struct OneTime {
    /// Its name.
    pub keyid: KeyId,
    /// What the sender gets.
    pub cert_pem: Vec<u8>,
    /// What only we have; erased when dropped.
    pub private: Zeroizing<[u8; 32]>,
}

impl OneTime {
    /// Makes a key and certifies it.
    pub fn make(identity: &Identity) -> Result<OneTime> {
        let (keyid, key) = (KeyId(rand::random()), PKey::generate_x25519()?);
        let cert_pem = identity.certify(&Purpose::OneTime(keyid), &key)?.pem()?;
        let raw = Zeroizing::new(key.raw_private_key()?);
        let private = raw.as_slice().try_into().map_err(|_| Error::Ours("a private key is not 32 bytes".into()))?;
        Ok(OneTime { keyid, cert_pem, private: Zeroizing::new(private) })
    }

    /// The private half as it lies on disk.
    pub fn sealed(&self, spool_key: &SpoolKey) -> Vec<u8> {
        spool_key.seal(&label(self.keyid), self.private.as_slice())
    }
}

/// Opens the private half that lies beside this certificate, and checks that
/// it is the certificate's. What is wrong is ours: it is our own disk.
pub fn open_private(spool_key: &SpoolKey, cert_pem: &[u8], sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let cert = Cert::of_pem(cert_pem).map_err(|error| error.ours("a one-time key"))?;
    open_beside(spool_key, &cert, sealed)
}

pub(crate) fn open_beside(spool_key: &SpoolKey, cert: &Cert, sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let label = label(keyid(cert).ok_or_else(|| Error::Ours(format!("`{}` is no one-time key", cert.purpose())))?);
    let opened = spool_key.open(&label, sealed).map_err(|error| Error::Ours(format!("{label}: {error}")))?;
    let private = opened.as_slice().try_into().map(Zeroizing::new);
    let private = private.map_err(|_| Error::Ours(format!("{label}: not 32 bytes")))?;
    private_key(cert, &private).map(|_| private)
}

/// The private key of this certificate from its 32 bytes; refused if it is not.
pub(crate) fn private_key(cert: &Cert, private: &[u8; 32]) -> Result<PKey<Private>> {
    let key = PKey::private_key_from_raw_bytes(private, Id::X25519)?;
    if !key.public_eq(cert.key()) {
        return Err(Error::Ours(format!("the private half is not the one of `{}`", cert.purpose())));
    }
    Ok(key)
}

/// The keyid of a one-time certificate; `None` if it is another kind.
pub(crate) fn keyid(cert: &Cert) -> Option<KeyId> {
    match cert.purpose() {
        Purpose::OneTime(keyid) => Some(*keyid),
        Purpose::Ca | Purpose::Verify | Purpose::Static | Purpose::Message(..) => None,
    }
}

/// What binds the sealed half to its certificate.
fn label(keyid: KeyId) -> String {
    format!("onetime {keyid}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::crypto::Key;

    #[test]
    fn the_private_half_opens_beside_its_own_certificate_only() {
        let (identity, _) = Identity::generate().unwrap();
        let spool_key = SpoolKey(Key::random());
        let (a, b) = (OneTime::make(&identity).unwrap(), OneTime::make(&identity).unwrap());
        let sealed = a.sealed(&spool_key);
        assert_eq!(open_private(&spool_key, &a.cert_pem, &sealed).unwrap(), a.private);
        let words = format!("onetime {}", a.keyid);
        assert_eq!(spool_key.open(&words, &sealed).unwrap().as_slice(), a.private.as_slice());
        assert!(open_private(&spool_key, &b.cert_pem, &sealed).is_err());
        assert!(open_private(&SpoolKey(Key::random()), &a.cert_pem, &sealed).is_err());
        assert!(open_private(&spool_key, &a.cert_pem, &sealed[1..]).is_err());
        let wrong = spool_key.seal(&label(a.keyid), b.private.as_slice());
        assert!(open_private(&spool_key, &a.cert_pem, &wrong).is_err(), "another key under the right name");
        let peer_pem = identity.chain().cert(spool::url::Cert::Peer).pem().unwrap();
        assert!(open_private(&spool_key, &peer_pem, &sealed).is_err());
    }
}
