//! The sealed message: made at the sender, opened at the recipient.
//!
//! ```text
//! "plumbmsg", version 1, 0, msgid 20, size u16, the sender's one-message certificate (DER), ciphertext, tag
//! ```
//! Each sealing has a fresh one-message key and so a fresh AES key, which is
//! used once; everything before the ciphertext is associated data
//! (doc/PROTOCOL.md#message-keys).

use crate::peers::Known;
use keygen::{Identity, agree};
use spool::crypto::Aead;
use spool::name::MsgId;
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"plumbmsg";
const HEAD: usize = 8 + 2 + 20 + 2;

/// Seals a message to a peer's one-time certificate.
pub fn seal(
    identity: &Identity,
    peer: &Known,
    msgid: MsgId,
    onetime_pem: &[u8],
    message: &[u8],
) -> Result<Vec<u8>, keygen::Error> {
    let (key, certificate) = agree::to_recipient(identity, &peer.pair, msgid, onetime_pem)?;
    let mut sealed = Vec::with_capacity(HEAD + certificate.len() + message.len() + 32);
    sealed.extend_from_slice(MAGIC);
    sealed.extend_from_slice(&[1, 0]);
    sealed.extend_from_slice(&msgid.0);
    sealed.extend_from_slice(&(certificate.len() as u16).to_be_bytes());
    sealed.extend_from_slice(&certificate);
    let head = sealed.clone();
    Aead::new(&key).seal(0, &[&head], message, &mut sealed).expect("AES-256-GCM seals any bytes");
    Ok(sealed)
}

/// Opens a sealed message with the one-time key that was set aside for it.
pub fn open(
    peer: &Known,
    msgid: MsgId,
    onetime_pem: &[u8],
    onetime_private: &[u8; 32],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, String> {
    let (certificate, head) = certificate(sealed).ok_or("not a sealed message")?;
    if sealed[10..30] != msgid.0 {
        return Err("sealed for another message".into());
    }
    let key = agree::from_sender(&peer.pair, msgid, onetime_pem, onetime_private, certificate)
        .map_err(|error| error.to_string())?;
    let mut message = Zeroizing::new(Vec::new());
    let opened = Aead::new(&key).open(0, &[&sealed[..head]], &sealed[head..], &mut message);
    opened.map_err(|error| error.to_string())?;
    Ok(message)
}

/// The sender's one-message certificate in a sealed message, and the size of all before the ciphertext.
pub fn certificate(sealed: &[u8]) -> Option<(&[u8], usize)> {
    let head = sealed.get(..HEAD)?;
    if &head[..8] != MAGIC || head[8..10] != [1, 0] {
        return None;
    }
    let size = u16::from_be_bytes([head[30], head[31]]) as usize;
    Some((sealed.get(HEAD..HEAD + size)?, HEAD + size))
}
