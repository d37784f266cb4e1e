//! Keys, and what is done with them: HKDF, HMAC, AES-256-GCM, sealing at rest.
//!
//! Each derived key has a label of its own, and every part of the information
//! is written with its length, so that no two derivations can meet
//! (doc/PROTOCOL.md#keys). The primitives are OpenSSL's.

use crate::name::Digest;
use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use openssl::md::Md;
use openssl::pkey::{Id, PKey};
use openssl::pkey_ctx::PkeyCtx;
use openssl::sign::Signer;
use zeroize::Zeroize;

/// Something did not open, or OpenSSL refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tag does not fit: damaged, or another key.
    #[error("does not open: it is damaged, or sealed under another key")]
    Forged,
    /// OpenSSL itself failed; says why.
    #[error("openssl: {0}")]
    OpenSsl(#[from] openssl::error::ErrorStack),
}

/// 32 secret bytes; erased when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// A fresh random key.
    pub fn random() -> Key {
        Key(rand::random())
    }

    /// Derives a key: HKDF-SHA-256 (RFC 5869) of this one, with a salt, a label
    /// and the information, each part with its length.
    pub fn derive(&self, salt: &[u8], label: &str, info: &[&[u8]]) -> Key {
        hkdf(&self.0, salt, label, info)
    }

    /// HMAC-SHA-256 (RFC 2104) over a label and the parts, each with its length.
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> Digest {
        let key = PKey::hmac(&self.0).expect("an HMAC key may be any 32 bytes");
        let mut signer = Signer::new(openssl::hash::MessageDigest::sha256(), &key).expect("SHA-256 is there");
        for part in std::iter::once(&label.as_bytes()).chain(parts) {
            signer.update(&(part.len() as u32).to_be_bytes()).expect("an HMAC takes any bytes");
            signer.update(part).expect("an HMAC takes any bytes");
        }
        let mut mac = [0; 32];
        signer.sign(&mut mac).expect("32 bytes are what SHA-256 gives");
        Digest(mac)
    }
}

/// HKDF-SHA-256 of any secret; see [`Key::derive`].
pub fn hkdf(secret: &[u8], salt: &[u8], label: &str, info: &[&[u8]]) -> Key {
    let mut all = Vec::with_capacity(256);
    for part in std::iter::once(&label.as_bytes()).chain(info) {
        all.extend_from_slice(&(part.len() as u32).to_be_bytes());
        all.extend_from_slice(part);
    }
    let mut key = Key([0; 32]);
    let derived = (|| {
        let mut context = PkeyCtx::new_id(Id::HKDF)?;
        context.derive_init()?;
        context.set_hkdf_md(Md::sha256())?;
        context.set_hkdf_key(secret)?;
        context.set_hkdf_salt(salt)?;
        context.add_hkdf_info(&all)?;
        context.derive(Some(&mut key.0))
    })();
    derived.expect("HKDF-SHA-256 gives 32 bytes of any secret");
    key
}

/// Are these the same, without telling by time how much of them is?
pub fn same(a: &Digest, b: &Digest) -> bool {
    openssl::memcmp::eq(&a.0, &b.0)
}

/// The number of bytes that sealing adds.
pub const TAG: usize = 16;

/// AES-256-GCM under one key with counter nonces; whoever counts must never repeat.
pub struct Aead {
    seal: CipherCtx,
    open: CipherCtx,
}

impl Aead {
    /// Prepares a key for both directions.
    pub fn new(key: &Key) -> Aead {
        let prepared = (|| {
            let (mut seal, mut open) = (CipherCtx::new()?, CipherCtx::new()?);
            seal.encrypt_init(Some(Cipher::aes_256_gcm()), Some(&key.0), None)?;
            open.decrypt_init(Some(Cipher::aes_256_gcm()), Some(&key.0), None)?;
            Ok::<_, openssl::error::ErrorStack>(Aead { seal, open })
        })();
        prepared.expect("AES-256-GCM takes a key of 32 bytes")
    }

    /// Appends the sealed form of `plain` to `out`: as many bytes and a tag.
    pub fn seal(&mut self, counter: u64, associated: &[&[u8]], plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.seal.encrypt_init(None, None, Some(&nonce(counter)))?;
        for part in associated {
            self.seal.cipher_update(part, None)?;
        }
        let start = out.len();
        out.resize(start + plain.len() + TAG, 0);
        let (body, tag) = out[start..].split_at_mut(plain.len());
        self.seal.cipher_update(plain, Some(body))?;
        self.seal.cipher_final(&mut [])?;
        self.seal.tag(tag)?;
        Ok(())
    }

    /// Appends what `sealed` holds to `out`; nothing of it if it is forged.
    pub fn open(&mut self, counter: u64, associated: &[&[u8]], sealed: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(length) = sealed.len().checked_sub(TAG) else { return Err(Error::Forged) };
        let (body, tag) = sealed.split_at(length);
        self.open.decrypt_init(None, None, Some(&nonce(counter)))?;
        for part in associated {
            self.open.cipher_update(part, None)?;
        }
        let start = out.len();
        out.resize(start + length, 0);
        self.open.cipher_update(body, Some(&mut out[start..]))?;
        self.open.set_tag(tag)?;
        if self.open.cipher_final(&mut []).is_err() {
            out[start..].zeroize();
            out.truncate(start);
            return Err(Error::Forged);
        }
        Ok(())
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// The key of what waits on our own disk (`private/spool.key`).
#[derive(Clone)]
pub struct SpoolKey(pub Key);

const REST: &[u8; 8] = b"plumbkey";

/// What sealing at rest adds: magic, salt, tag.
pub const REST_OVERHEAD: usize = REST.len() + 32 + TAG;

impl SpoolKey {
    /// Seals small content for our own disk: magic, salt, ciphertext, tag.
    /// `what` binds it to its place: one file cannot stand in for another.
    pub fn seal(&self, what: &str, plain: &[u8]) -> Vec<u8> {
        let salt: [u8; 32] = rand::random();
        let mut sealed = [REST.as_slice(), &salt].concat();
        let mut aead = Aead::new(&self.0.derive(&salt, "netplumb rest", &[what.as_bytes()]));
        aead.seal(0, &[REST], plain, &mut sealed).expect("AES-256-GCM seals any bytes");
        sealed
    }

    /// Opens what `seal` made for the same `what`.
    pub fn open(&self, what: &str, sealed: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
        let rest = sealed.strip_prefix(REST).ok_or(Error::Forged)?;
        let (salt, body) = rest.split_at_checked(32).ok_or(Error::Forged)?;
        let mut aead = Aead::new(&self.0.derive(salt, "netplumb rest", &[what.as_bytes()]));
        let mut plain = Vec::new();
        aead.open(0, &[REST], body, &mut plain)?;
        Ok(zeroize::Zeroizing::new(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hkdf_is_the_one_of_rfc_5869_with_framed_information() {
        // Computed apart, with Python's hmac: HKDF-SHA-256(ikm=0b*22, salt=00..0c, info=len|"label"|len|"info").
        let key = hkdf(&[0x0b; 22], &(0..=12).collect::<Vec<u8>>(), "label", &[b"info"]);
        assert_eq!(Digest(key.0).to_string(), "2d3642c89a49068baa486336f048446c48e09cd36b04bfc6b1b1aa3b6a5f987f");
    }

    #[test]
    fn a_mac_depends_on_every_boundary() {
        let key = Key([7; 32]);
        assert_ne!(key.mac("a", &[b"bc", b"d"]), key.mac("a", &[b"b", b"cd"]));
        assert_ne!(key.mac("a", &[b"b"]), key.mac("ab", &[b""]));
    }

    #[test]
    fn sealed_opens_only_unaltered_and_in_its_place() {
        let key = SpoolKey(Key([1; 32]));
        let sealed = key.seal("here", b"secret");
        assert_eq!(&**key.open("here", &sealed).unwrap(), b"secret");
        assert!(key.open("there", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(key.open("here", &bad).is_err(), "byte {at}");
        }
        assert!(key.open("here", &sealed[..20]).is_err());
    }

    #[test]
    fn a_record_opens_at_its_counter_only() {
        let mut aead = Aead::new(&Key([2; 32]));
        let mut sealed = Vec::new();
        aead.seal(5, &[b"header"], b"text", &mut sealed).unwrap();
        let mut plain = Vec::new();
        assert!(aead.open(6, &[b"header"], &sealed, &mut plain).is_err());
        assert!(aead.open(5, &[b"heade", b"R"], &sealed, &mut plain).is_err());
        assert!(plain.is_empty());
        aead.open(5, &[b"head", b"er"], &sealed, &mut plain).unwrap();
        assert_eq!(plain, b"text");
    }
}
