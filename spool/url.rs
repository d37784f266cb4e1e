//! What travels: the path of every GET, and the body of every reply to a request.
//!
//! A path is at most 512 bytes of `[a-z0-9./-]`, matched byte by byte, ended by
//! a MAC over everything before it. A reply to a request is a word, its data
//! and a MAC of its own label over path and reply. One type prints and parses
//! each, so both sides agree (doc/PROTOCOL.md#urls, doc/PROTOCOL.md#requests).

use crate::crypto::{Key, same};
use crate::name::{Chan, Digest, MsgId, Nonce, Username, decimal};
use std::fmt;

/// The longest path in bytes.
pub const PATH_MAX: usize = 512;
/// The longest reply to a request in bytes: a certificate and a word.
pub const REPLY_MAX: usize = 8 << 10;

/// One of the three certificates that are public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cert {
    /// `ca.pem`
    Ca,
    /// `verify.pem`
    Verify,
    /// `peer.pem`
    Peer,
}

impl Cert {
    /// All of them, in the order of the chain.
    pub const ALL: [Cert; 3] = [Cert::Ca, Cert::Verify, Cert::Peer];

    /// The name of its file in `certs/`.
    pub fn file(self) -> &'static str {
        match self {
            Cert::Ca => "ca.pem",
            Cert::Verify => "verify.pem",
            Cert::Peer => "peer.pem",
        }
    }
}

/// The facts that one peer states to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A message with this id exists for you.
    Msg,
    /// It is sealed: its digest, its length in bytes, and the digest of the one-time certificate used.
    Snd(Sealed),
    /// I have the message: my receipt.
    Rcp(Digest),
    /// I have your receipt.
    Ack,
    /// Do you still have this message or job?
    Sta,
    /// This job is over.
    Cxl,
    /// My log of this channel reaches this offset.
    Tip(Chan, u64),
    /// I hold this channel up to this offset for good.
    Got(Chan, u64),
    /// I am here.
    Hlo,
}

/// What `snd` says of the sealed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// SHA-256 of the sealed file.
    pub digest: Digest,
    /// Its size in bytes.
    pub length: u64,
    /// SHA-256 of the one-time certificate (PEM) that it is sealed to.
    pub key: Digest,
}

impl Ask {
    /// The verb in the path and in logs.
    pub fn verb(&self) -> &'static str {
        match self {
            Ask::Msg => "msg",
            Ask::Snd(_) => "snd",
            Ask::Rcp(_) => "rcp",
            Ask::Ack => "ack",
            Ask::Sta => "sta",
            Ask::Cxl => "cxl",
            Ask::Tip(..) => "tip",
            Ask::Got(..) => "got",
            Ask::Hlo => "hlo",
        }
    }
}

/// What is asked for, without who asks whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A public certificate.
    Cert(Cert),
    /// The sealed message.
    Queue(MsgId),
    /// A segment, with what the puller of this channel holds for good.
    Seg {
        /// The job.
        msgid: MsgId,
        /// The channel.
        chan: Chan,
        /// The segment.
        n: u64,
        /// The puller holds everything below this offset.
        got: u64,
    },
    /// A request; the nonce makes the reply its own.
    Request(Ask, MsgId, Nonce),
    /// Whoever is asked shall ask over this connection from here on.
    Turn(Nonce),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            What::Cert(cert) => write!(f, "certs/{}", cert.file()),
            What::Queue(msgid) => write!(f, "queue/{msgid}"),
            What::Seg { msgid, chan, n, got } => write!(f, "seg/{msgid}/{chan}/{n}/{got}"),
            What::Turn(nonce) => write!(f, "turn/{nonce}"),
            What::Request(ask, msgid, nonce) => {
                write!(f, "request/{}/{msgid}", ask.verb())?;
                match ask {
                    Ask::Snd(Sealed { digest, length, key }) => write!(f, "/{digest}/{length}/{key}")?,
                    Ask::Rcp(receipt) => write!(f, "/{receipt}")?,
                    Ask::Tip(chan, offset) | Ask::Got(chan, offset) => write!(f, "/{chan}/{offset}")?,
                    Ask::Msg | Ask::Ack | Ask::Sta | Ask::Cxl | Ask::Hlo => {}
                }
                write!(f, "/{nonce}")
            }
        }
    }
}

const REQUEST: &str = "netplumb request";
const REPLY: &str = "netplumb reply";

/// Writes the whole path, with its MAC under the direction's request key.
pub fn sign(to: &Username, what: &What, from: &Username, key: &Key) -> String {
    let unsigned = format!("/{to}/{what}/{from}");
    let mac = key.mac(REQUEST, &[unsigned.as_bytes()]);
    format!("{unsigned}/{mac}")
}

/// A path that is well-formed; nothing of it is believed before `verify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    /// Whose service this is for.
    pub to: Username,
    /// What is asked.
    pub what: What,
    /// Who says to be asking; `None` for certificates.
    pub from: Option<Username>,
    signed: &'a str,
    mac: Digest,
}

impl<'a> Path<'a> {
    /// Parses a path; `None` for whatever we would not have written.
    pub fn parse(path: &'a str) -> Option<Path<'a>> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'/' | b'-');
        if path.len() > PATH_MAX || !path.bytes().all(allowed) {
            return None;
        }
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let (to, rest) = parts.split_first()?;
        let to = to.parse().ok()?;
        if let ["certs", file] = rest {
            let cert = Cert::ALL.into_iter().find(|cert| cert.file() == *file)?;
            return Some(Path { to, what: What::Cert(cert), from: None, signed: path, mac: Digest([0; 32]) });
        }
        let [what @ .., from, mac] = rest else { return None };
        let what = match what {
            ["queue", msgid] => What::Queue(msgid.parse().ok()?),
            ["seg", msgid, chan, n, got] => {
                What::Seg { msgid: msgid.parse().ok()?, chan: chan.parse().ok()?, n: decimal(n)?, got: decimal(got)? }
            }
            ["turn", nonce] => What::Turn(nonce.parse().ok()?),
            ["request", verb, msgid, arguments @ .., nonce] => {
                What::Request(parse_ask(verb, arguments)?, msgid.parse().ok()?, nonce.parse().ok()?)
            }
            _ => return None,
        };
        let signed = &path[..path.len() - mac.len() - 1];
        Some(Path { to, what, from: Some(from.parse().ok()?), signed, mac: mac.parse().ok()? })
    }

    /// Does the MAC fit this key?
    pub fn verify(&self, key: &Key) -> bool {
        self.from.is_some() && same(&self.mac, &key.mac(REQUEST, &[self.signed.as_bytes()]))
    }
}

fn parse_ask(verb: &str, arguments: &[&str]) -> Option<Ask> {
    Some(match (verb, arguments) {
        ("msg", []) => Ask::Msg,
        ("snd", [digest, length, key]) => {
            Ask::Snd(Sealed { digest: digest.parse().ok()?, length: decimal(length)?, key: key.parse().ok()? })
        }
        ("rcp", [receipt]) => Ask::Rcp(receipt.parse().ok()?),
        ("ack", []) => Ask::Ack,
        ("sta", []) => Ask::Sta,
        ("cxl", []) => Ask::Cxl,
        ("tip", [chan, offset]) => Ask::Tip(chan.parse().ok()?, decimal(offset)?),
        ("got", [chan, offset]) => Ask::Got(chan.parse().ok()?, decimal(offset)?),
        ("hlo", []) => Ask::Hlo,
        _ => return None,
    })
}

/// The first word of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Noted, or it is so.
    Ok,
    /// It is over: the data is a receipt or an outcome.
    Done,
    /// Not sealed to the key that was set aside.
    NeedKey,
    /// Neither message nor job is here.
    Gone,
    /// Not at the moment.
    Later,
}

impl Word {
    const ALL: [(Word, &'static str); 5] = [
        (Word::Ok, "OK"),
        (Word::Done, "DONE"),
        (Word::NeedKey, "NEEDKEY"),
        (Word::Gone, "GONE"),
        (Word::Later, "LATER"),
    ];
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What kind of answer.
    pub word: Word,
    /// A certificate, a receipt, an outcome, or nothing.
    pub data: Vec<u8>,
}

impl Reply {
    /// A reply that is one word.
    pub fn word(word: Word) -> Reply {
        Reply { word, data: Vec::new() }
    }

    /// The body as it travels: word, newline, data, MAC over path, word and data.
    pub fn seal(&self, path: &str, key: &Key) -> Vec<u8> {
        let word = Word::ALL.iter().find(|(word, _)| *word == self.word).map_or("", |(_, text)| text);
        let mut body = [word.as_bytes(), b"\n", &self.data].concat();
        let mac = key.mac(REPLY, &[path.as_bytes(), &body]);
        body.extend_from_slice(mac.to_string().as_bytes());
        body
    }

    /// Reads a body; `None` if it is not the peer's answer to this very path.
    pub fn open(body: &[u8], path: &str, key: &Key) -> Option<Reply> {
        let (body, mac) = body.split_at_checked(body.len().checked_sub(64)?)?;
        let mac: Digest = std::str::from_utf8(mac).ok()?.parse().ok()?;
        if !same(&mac, &key.mac(REPLY, &[path.as_bytes(), body])) {
            return None;
        }
        let newline = body.iter().position(|&b| b == b'\n')?;
        let (word, _) = Word::ALL.iter().find(|(_, text)| text.as_bytes() == &body[..newline])?;
        Some(Reply { word: *word, data: body[newline + 1..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<What> {
        let (msgid, nonce, digest) = (MsgId([3; 20]), Nonce([4; 16]), Digest([5; 32]));
        let sealed = Sealed { digest, length: 4711, key: digest };
        let asks = [
            Ask::Msg,
            Ask::Snd(sealed),
            Ask::Rcp(digest),
            Ask::Ack,
            Ask::Sta,
            Ask::Cxl,
            Ask::Tip(Chan(2), 77),
            Ask::Got(Chan(65535), u64::MAX),
            Ask::Hlo,
        ];
        let mut all: Vec<What> = asks.into_iter().map(|ask| What::Request(ask, msgid, nonce)).collect();
        all.push(What::Queue(msgid));
        all.push(What::Turn(nonce));
        all.push(What::Seg { msgid, chan: Chan::STDIN, n: 12, got: 99 });
        all
    }

    #[test]
    fn every_path_parses_as_it_was_signed_and_verifies_only_so() {
        let (a, b, key) = (Username::of_ca(b"a"), Username::of_ca(b"b"), Key([6; 32]));
        for what in all() {
            let path = sign(&b, &what, &a, &key);
            assert!(path.len() <= PATH_MAX, "{path}");
            let parsed = Path::parse(&path).unwrap();
            assert_eq!((&parsed.to, &parsed.what, parsed.from.as_ref()), (&b, &what, Some(&a)));
            assert!(parsed.verify(&key));
            assert!(!parsed.verify(&Key([7; 32])));
            for at in 1..path.len() {
                let mut other = path.clone().into_bytes();
                other[at] = if other[at] == b'a' { b'b' } else { b'a' };
                let other = String::from_utf8(other).unwrap();
                let believed = other != path && Path::parse(&other).is_some_and(|path| path.verify(&key));
                assert!(!believed, "{other}");
            }
        }
    }

    #[test]
    fn what_we_would_not_write_does_not_parse() {
        let user = Username::of_ca(b"a");
        for bad in [
            String::new(),
            "/".into(),
            format!("/{user}/certs/../private/sign.pem"),
            format!("/{user}/certs/ca.pem/"),
            format!("//{user}/certs/ca.pem"),
            format!("/{user}/certs/ca.pem?x"),
            format!("/{user}/certs/%63a.pem"),
            format!("/{user}/queue/{}/{user}/00", MsgId([1; 20])),
            format!("/{user}/certs/{}", "a".repeat(512)),
        ] {
            assert_eq!(Path::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_reply_answers_one_path_only() {
        let key = Key([8; 32]);
        let reply = Reply { word: Word::Done, data: b"receipt\n\nwith lines".to_vec() };
        let body = reply.seal("/path", &key);
        assert_eq!(Reply::open(&body, "/path", &key), Some(reply));
        assert_eq!(Reply::open(&body, "/other", &key), None);
        assert_eq!(Reply::open(&body[1..], "/path", &key), None);
        assert_eq!(Reply::open(b"OK\n", "/path", &key), None);
    }
}
