//! The names everybody agrees on: parsed once at the edge, true ever after.
//!
//! A value of these types can always stand in a path or a URL. Anything that
//! does not parse never reaches the disk (doc/PROTOCOL.md#urls).

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// Says that a text is not what its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}")]
pub struct BadName {
    /// The name of the type.
    pub what: &'static str,
    /// What a good one looks like.
    pub expected: &'static str,
}

/// Defines a fixed number of bytes written as lower-case hexadecimal digits.
macro_rules! hex_name {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.pad(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                let bad = || BadName { what: stringify!($name), expected: $expected };
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| bad())?;
                Ok($name(bytes.try_into().map_err(|_| bad())?))
            }
        }
    };
}

hex_name!(
    /// Names a message, and the job that it asks for, on both sides (160 random bits).
    MsgId, 20, "40 hexadecimal digits"
);
hex_name!(
    /// Names a one-time key in the stock of its maker.
    KeyId, 16, "32 hexadecimal digits"
);
hex_name!(
    /// Makes each request's reply its own.
    Nonce, 16, "32 hexadecimal digits"
);
hex_name!(
    /// A SHA-256, or an HMAC under it.
    Digest, 32, "64 hexadecimal digits"
);

impl MsgId {
    /// The id in requests that speak of no message (`hlo`).
    pub const NONE: MsgId = MsgId([0; 20]);
}

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }
}

/// The hash of a peer's CA certificate: who it is, whatever we call it.
/// 52 characters of base32 in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Username(String);

impl Username {
    /// The username of the identity with this CA certificate (DER).
    pub fn of_ca(der: &[u8]) -> Username {
        Username(BASE32_NOPAD.encode(&Digest::of(der).0).to_ascii_lowercase())
    }

    /// The 52 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In groups of four, as people compare it.
    pub fn grouped(&self) -> String {
        let groups: Vec<&str> =
            self.0.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
        groups.join(" ")
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Username {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let good = text.len() == 52 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
        let bad = BadName { what: "Username", expected: "52 characters of a-z and 2-7" };
        if good { Ok(Username(text.to_string())) } else { Err(bad) }
    }
}

/// What a person calls a peer: a letter or digit, then letters, digits, `.`, `_`, `-`; at most 64.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerName(String);

impl PeerName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PeerName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let good = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let bad = BadName { what: "peer name", expected: "up to 64 letters, digits, '.', '_' or '-'" };
        if good { Ok(PeerName(text.to_string())) } else { Err(bad) }
    }
}

/// One byte stream of a job: 0 control, 1 stdin, 2 stdout, 3 stderr, from 4 on FIFOs and sockets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Chan(pub u16);

impl Chan {
    /// TAP1 packets: signals one way, the exit status the other.
    pub const CONTROL: Chan = Chan(0);
    /// The sender's standard input.
    pub const STDIN: Chan = Chan(1);
    /// The command's standard output.
    pub const STDOUT: Chan = Chan(2);
    /// The command's standard error.
    pub const STDERR: Chan = Chan(3);
}

impl fmt::Display for Chan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Chan {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = BadName { what: "channel", expected: "a decimal number below 65536" };
        Ok(Chan(
            decimal(text)
                .ok_or(bad)?
                .try_into()
                .map_err(|_| BadName { what: "channel", expected: "a decimal number below 65536" })?,
        ))
    }
}

/// Reads a decimal number written the one way it can be: no sign, no leading zero.
pub fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || text.starts_with(|c: char| matches!(c, '1'..='9'));
    if !canonical || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Which side of a job somebody is on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Asked for the job; has `plumb`.
    Sender,
    /// Runs the job; has the keeper.
    Recipient,
}

impl Role {
    /// The word in the `peer` file.
    pub fn word(self) -> &'static str {
        match self {
            Role::Sender => "sender",
            Role::Recipient => "recipient",
        }
    }

    /// The other side.
    pub fn other(self) -> Role {
        match self {
            Role::Sender => Role::Recipient,
            Role::Recipient => Role::Sender,
        }
    }

    /// The channels that this side produces: the other side pulls them.
    pub fn produces(self) -> &'static [Chan] {
        match self {
            Role::Sender => &[Chan::CONTROL, Chan::STDIN],
            Role::Recipient => &[Chan::CONTROL, Chan::STDOUT, Chan::STDERR],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_as_they_parse() {
        let msgid: MsgId = "00112233445566778899aabbccddeeff00112233".parse().unwrap();
        assert_eq!(msgid.to_string(), "00112233445566778899aabbccddeeff00112233");
        let username = Username::of_ca(b"certificate");
        assert_eq!(username.to_string().parse::<Username>().unwrap(), username);
        assert_eq!(username.grouped().len(), 52 + 12);
    }

    #[test]
    fn nothing_else_parses() {
        for bad in ["", "0011", "00112233445566778899AABBCCDDEEFF00112233", "../../../../etc/passwd/00000000000000000"]
        {
            assert!(bad.parse::<MsgId>().is_err(), "{bad}");
        }
        for bad in ["", ".hidden", "-x", "a/b", "a b", "\u{e4}"] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad}");
        }
        for bad in ["", "+1", "01", "1 ", "18446744073709551616"] {
            assert_eq!(decimal(bad), None, "{bad}");
        }
        assert!("65536".parse::<Chan>().is_err());
    }
}
