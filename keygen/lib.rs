//! Who you are: certificates, and keys agreed with a peer.
//!
//! `cert.rs` is one certificate and what its key is for, `chain.rs` the three
//! that make a peer, `identity.rs` the same with our private halves. `create.rs`
//! makes an identity on disk, `peer.rs` adds and removes peers, `card.rs` is the
//! text by which two people introduce their machines. `pair.rs` and `agree.rs`
//! derive keys, `stock.rs` keeps one-time keys ahead. Nothing here dials or
//! decides when; the loop calls (doc/PROTOCOL.md#identity).
//!
//! A certificate is believed for one purpose, from one issuer, in the exact
//! form that this crate writes.

pub mod address;
pub mod agree;
pub mod card;
pub mod cert;
pub mod chain;
pub mod create;
#[cfg(test)]
mod failing;
#[cfg(test)]
mod foreign;
pub mod identity;
pub mod onetime;
pub mod pair;
pub mod peer;
pub mod stock;

pub use card::Card;
pub use chain::Chain;
pub use create::create;
pub use identity::Identity;
pub use onetime::OneTime;
pub use pair::{Pair, receipt};
pub use peer::{Reach, add_peer, remove_peer, set_bwlimit};

/// What stands in the way, and whose turn that makes it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer, or whoever wrote its card, gave us what is not right.
    #[error("{0}")]
    Peer(String),
    /// Ours to mend: files that do not belong together, names that are taken.
    #[error("{0}")]
    Ours(String),
    /// The disk; `is_full` says whether waiting helps.
    #[error(transparent)]
    Disk(#[from] spool::fs::Error),
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Says of what a text is about, and that mending it is up to us: a file on
    /// our own disk is ours even if its content came from a peer.
    fn ours(self, about: &str) -> Error {
        match self {
            Error::Peer(what) | Error::Ours(what) => Error::Ours(format!("{about}: {what}")),
            disk @ Error::Disk(_) => disk,
        }
    }
}

impl From<openssl::error::ErrorStack> for Error {
    fn from(stack: openssl::error::ErrorStack) -> Error {
        Error::Ours(format!("openssl: {stack}"))
    }
}

impl From<spool::home::Error> for Error {
    fn from(error: spool::home::Error) -> Error {
        match error {
            spool::home::Error::Spool(disk) => Error::Disk(disk),
            other => Error::Ours(other.to_string()),
        }
    }
}
