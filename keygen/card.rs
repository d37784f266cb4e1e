//! The card: all that a peer needs to know us, as text that fits in a mail.
//!
//! ```text
//! -----BEGIN NETPLUMB CARD-----
//! name: nas
//! username: abcd efgh …
//! address: nas.example.org:4117
//!
//! -----BEGIN CERTIFICATE-----       (three: CA, verify, static)
//! …
//! -----END NETPLUMB CARD-----
//! ```
//! Nothing in it is secret. It must arrive unaltered: two people compare the
//! username by another way. Line ends, quoting at the beginnings of lines and
//! text around the card do not matter; anything else that we would not have
//! written is refused.

use crate::address::Address;
use crate::{Chain, Error, Result};
use spool::name::PeerName;
use spool::url;
use std::fmt;

/// The longest text that is looked at for a card, in bytes.
pub const TEXT_MAX: usize = 256 << 10;
const ADDRESSES_MAX: usize = 16;
const BEGIN: &str = "-----BEGIN NETPLUMB CARD-----";
const END: &str = "-----END NETPLUMB CARD-----";
const BEGIN_PEM: &str = "-----BEGIN CERTIFICATE-----";
const END_PEM: &str = "-----END CERTIFICATE-----";

/// What a card says; its chain is verified, and its username is the chain's.
#[derive(Debug, Clone)]
pub struct Card {
    /// What the peer calls itself.
    pub name: PeerName,
    /// Where it can be reached.
    pub addresses: Vec<Address>,
    /// Who it is.
    pub chain: Chain,
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{BEGIN}\nname: {}\nusername: {}", self.name, self.chain.username().grouped())?;
        for address in &self.addresses {
            writeln!(f, "address: {address}")?;
        }
        for cert in url::Cert::ALL {
            let pem = self.chain.cert(cert).pem().map_err(|_| fmt::Error)?;
            write!(f, "\n{}", String::from_utf8_lossy(&pem))?;
        }
        writeln!(f, "{END}")
    }
}

impl Card {
    /// Finds the card in a text, and checks it. Errors are the peer's, or its carrier's.
    pub fn parse(text: &str) -> Result<Card> {
        let bad = |what: &str| Error::Peer(format!("not a card: {what}"));
        if text.len() > TEXT_MAX {
            return Err(bad("the text is too long"));
        }
        let quoting = |c: char| c.is_whitespace() || c == '>' || c == '\u{feff}';
        let lines: Vec<&str> = text.lines().map(|line| line.trim_start_matches(quoting).trim_end()).collect();
        let places = |wanted: &str| {
            lines.iter().enumerate().filter(move |(_, line)| **line == wanted).map(|(n, _)| n).collect::<Vec<_>>()
        };
        let inside = match (places(BEGIN).as_slice(), places(END).as_slice()) {
            ([], _) => return Err(bad(&format!("there is no line {BEGIN}"))),
            ([begin], [end]) if begin < end => &lines[begin + 1..*end],
            ([_], _) => return Err(bad(&format!("it does not end with a line {END}"))),
            _ => return Err(bad("there is more than one")),
        };
        let mut facts = Facts::default();
        let mut rest = inside.iter();
        while let Some(&line) = rest.next() {
            match line {
                "" => {}
                BEGIN_PEM => facts.pems.push(pem(&mut rest).ok_or_else(|| bad("a certificate has no end"))?),
                line => facts.take(line).map_err(|what| bad(&what))?,
            }
        }
        let name = facts.name.ok_or_else(|| bad("it has no name"))?;
        let pems: [String; 3] =
            facts.pems.try_into().map_err(|pems: Vec<_>| bad(&format!("it has {} certificates, not 3", pems.len())))?;
        let chain = Chain::of_pems(&pems).map_err(|error| bad(&error.to_string()))?;
        match facts.username {
            Some(username) if username == chain.username().as_str() => {
                Ok(Card { name, addresses: facts.addresses, chain })
            }
            Some(_) => Err(bad("its username is not the one of its certificates")),
            None => Err(bad("it has no username")),
        }
    }
}

#[derive(Default)]
struct Facts {
    name: Option<PeerName>,
    username: Option<String>,
    addresses: Vec<Address>,
    pems: Vec<String>,
}

impl Facts {
    fn take(&mut self, line: &str) -> std::result::Result<(), String> {
        let strange = || format!("the line {:?} does not belong in it", line.chars().take(60).collect::<String>());
        let (field, value) = line.split_once(':').filter(|_| self.pems.is_empty()).ok_or_else(strange)?;
        let value = value.trim();
        match field {
            "name" if self.name.is_none() => {
                self.name = Some(value.parse().map_err(|bad: spool::name::BadName| bad.to_string())?);
            }
            "username" if self.username.is_none() => {
                self.username = Some(value.split_whitespace().collect());
            }
            "address" if self.addresses.len() < ADDRESSES_MAX => {
                self.addresses.push(value.parse().map_err(|bad: Error| bad.to_string())?);
            }
            _ => return Err(strange()),
        }
        Ok(())
    }
}

fn pem<'a>(lines: &mut impl Iterator<Item = &'a &'a str>) -> Option<String> {
    let mut text = format!("{BEGIN_PEM}\n");
    for line in lines {
        text.extend([line, "\n"]);
        if *line == END_PEM {
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn card() -> Card {
        let addresses = vec!["nas.example.org:4117".parse().unwrap(), "[2001:db8::7]:80".parse().unwrap()];
        Card { name: "nas".parse().unwrap(), addresses, chain: Identity::generate().unwrap().0.chain().clone() }
    }

    fn same(a: &Card, b: &Card) -> bool {
        a.to_string() == b.to_string()
    }

    #[test]
    fn a_card_reads_as_it_was_written_and_fits_in_a_mail() {
        let card = card();
        let text = card.to_string();
        assert!(same(&Card::parse(&text).unwrap(), &card));
        assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 76));
        assert!(text.len() < 4096, "{}", text.len());
    }

    #[test]
    fn mail_does_not_harm_a_card() {
        let card = card();
        let text = card.to_string();
        let quoted = |mark: &str| text.lines().map(|line| format!("{mark}{line}")).collect::<Vec<_>>().join("\r\n");
        for carried in [
            text.replace('\n', "\r\n"),
            format!("Hello,\nhere it is: see below\n\n{text}\n-- \nBye\n"),
            quoted("    "),
            quoted("> "),
            quoted("> > "),
            quoted("\t"),
            text.replace('\n', "  \n"),
            text.trim_end().to_string(),
            format!("\u{feff}{text}"),
        ] {
            assert!(same(&Card::parse(&carried).unwrap_or_else(|error| panic!("{error}\n{carried}")), &card));
        }
    }

    #[test]
    fn any_altered_character_is_noticed() {
        let card = card();
        let text = card.to_string();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(bytes).unwrap();
            // Names and addresses may be what they like; who it is may not.
            let Ok(read) = Card::parse(&altered) else { continue };
            assert_eq!(read.chain.username(), card.chain.username());
            for cert in url::Cert::ALL {
                assert_eq!(read.chain.cert(cert).der().unwrap(), card.chain.cert(cert).der().unwrap(), "at {at}");
            }
        }
    }

    #[test]
    fn what_is_no_card_is_refused() {
        let (text, other) = (card().to_string(), card().to_string());
        let without =
            |prefix: &str| text.lines().filter(|line| !line.starts_with(prefix)).collect::<Vec<_>>().join("\n");
        let line = |prefix: &str| other.lines().find(|line| line.starts_with(prefix)).unwrap().to_string();
        let username = line("username");
        let blocks = |text: &str| text.split("\n\n").map(str::to_string).collect::<Vec<_>>();
        let (ours, theirs) = (blocks(&text), blocks(&other));
        for bad in [
            String::new(),
            without(BEGIN),
            without(END),
            without("name"),
            without("username"),
            without("-----END CERTIFICATE"),
            format!("{text}{text}"),
            format!("{END}\n{BEGIN}"),
            text.replace("name: nas", "name: ../nas"),
            text.replace("name: nas", "name: nas\nname: nas"),
            text.replace("name: nas", "name: nas\nshell: true"),
            text.replace("address: nas.example.org:4117", "address: nas"),
            text.replace("address: nas.example.org:4117", &"address: nas:1\n".repeat(ADDRESSES_MAX + 1)),
            without("username").replace("name: nas", &format!("name: nas\n{username}")),
            [&ours[0], &theirs[1], &ours[2], &ours[3]].map(String::as_str).join("\n\n"),
            [&ours[0], &ours[1], &theirs[2], &ours[3]].map(String::as_str).join("\n\n"),
            [&ours[0], &ours[1], &ours[2], &theirs[3]].map(String::as_str).join("\n\n"),
            [&ours[0], &ours[2], &ours[1], &ours[3]].map(String::as_str).join("\n\n"),
            [&ours[0], &ours[1], &ours[2]].map(String::as_str).join("\n\n"),
            "x".repeat(TEXT_MAX + 1),
        ] {
            let refused = Card::parse(&bad);
            assert!(matches!(refused, Err(Error::Peer(_))), "{bad}");
        }
    }
}
