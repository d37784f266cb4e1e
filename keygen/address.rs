//! `HOST:PORT`, as it stands in settings, cards and on command lines.

use crate::{Error, Result};
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Where a service listens, or can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The host is every address of the machine: good to listen on, not to dial.
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    /// The host is the machine itself.
    pub fn is_loopback(&self) -> bool {
        self.ip().map_or(self.host == "localhost", |ip| ip.is_loopback())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Takes a name, an IPv4 address or an IPv6 address in brackets, and a port from 1 on.
    fn from_str(text: &str) -> Result<Address> {
        parse(text).ok_or_else(|| {
            Error::Ours(format!(
                "{text:?} is not HOST:PORT, as in nas.example.org:4117, 192.0.2.7:4117 or [2001:db8::7]:4117"
            ))
        })
    }
}

fn parse(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let port = spool::name::decimal(port).and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string(),
        None => Some(host).filter(|host| is_name(host))?.to_string(),
    };
    Some(Address { host, port })
}

/// Is this a host name or an IPv4 address? Four numbers must be an address.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.len() <= 253 && name.split('.').all(label) && (!numeric || host.parse::<std::net::Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_parse() {
        for text in ["nas:4117", "nas.example.org:1", "192.0.2.7:65535", "[::1]:4117", "[2001:db8::7]:80", "a_b.c-d.:9"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nothing_else_parses() {
        let long = format!("{}:1", "a".repeat(64));
        for bad in [
            "",
            ":",
            "nas",
            "nas:",
            ":4117",
            "nas:0",
            "nas:65536",
            "nas:04117",
            "nas:+1",
            "::1:4117",
            "[nas]:1",
            "[::1:1",
            "1.2.3:1",
            "256.1.1.1:1",
            "a b:1",
            "-a:1",
            "a..b:1",
            "http://nas:1",
            "nas/x:1",
            "n\u{e4}s:1",
            "nas:1\n",
            &long,
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn wildcard_and_loopback_are_told_apart() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        assert!(address("0.0.0.0:1").is_wildcard() && address("[::]:1").is_wildcard());
        assert!(address("127.0.0.1:1").is_loopback() && address("localhost:1").is_loopback());
        assert!(!address("nas:1").is_loopback() && !address("192.0.2.7:1").is_wildcard());
    }
}
