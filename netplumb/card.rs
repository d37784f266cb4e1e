//! `netplumb card`: prints what a peer needs to know us.

use crate::fail::{self, fail};
use crate::keygen::{machine_name, status};
use ::keygen::address::Address;
use ::keygen::{Card, Identity};
use spool::home::{Home, Settings};
use std::io::Write;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Prints the card on stdout, and on stderr what a peer could stumble over.
pub fn run(_args: Args) -> anyhow::Result<()> {
    let home = Home::find()?;
    let identity = Identity::load(&home).map_err(|error| status(error, fail::CONFIG))?;
    let settings = home.settings()?;
    let toml = home.config.join("netplumb.toml");
    let config = |what: String| fail(fail::CONFIG, format!("{}: {what}", toml.display()));
    let name = match settings.name.as_str() {
        "" => machine_name().ok_or_else(|| config("it has no name".into()))?,
        name => name.parse().map_err(|bad: spool::name::BadName| config(bad.to_string()))?,
    };
    let (addresses, warning) = reachable(&settings).map_err(config)?;
    let card = Card { name, addresses, chain: identity.chain().clone() };
    std::io::stdout().write_all(card.to_string().as_bytes())?;
    if let Some(warning) = warning {
        eprintln!("netplumb: {warning}\n  hint: say where peers reach us: `address` in {}", toml.display());
    }
    Ok(())
}

/// Where peers reach us: what the settings say, or else where we listen, as far
/// as that can be dialled. The loopback is told only if there is nothing else.
/// With them comes what a person should know.
pub fn reachable(settings: &Settings) -> Result<(Vec<Address>, Option<&'static str>), String> {
    let told = settings.address.iter().map(|text| text.parse::<Address>());
    let told: Vec<Address> = told.collect::<Result<_, _>>().map_err(|error| format!("address: {error}"))?;
    if let Some(wildcard) = told.iter().find(|address| address.is_wildcard()) {
        return Err(format!("address: nobody can dial {wildcard}"));
    }
    if !told.is_empty() {
        return Ok((told, None));
    }
    if settings.listen.is_empty() {
        return Ok((told, None));
    }
    let listens: Vec<Address> = settings.listen.iter().filter_map(|text| text.parse().ok()).collect();
    let dialled = listens.into_iter().filter(|address| !address.is_wildcard());
    let (loopback, others): (Vec<Address>, Vec<Address>) = dialled.partition(Address::is_loopback);
    Ok(match (others.is_empty(), loopback.is_empty()) {
        (false, _) => (others, None),
        (true, false) => (loopback, Some("this card leads to this machine only")),
        (true, true) => (Vec::new(), Some("this card does not say where we are")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(listen: &[&str], address: &[&str]) -> Result<(Vec<String>, bool), String> {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        let settings = Settings { listen: texts(listen), address: texts(address), ..Settings::default() };
        let (addresses, warning) = reachable(&settings)?;
        Ok((addresses.iter().map(Address::to_string).collect(), warning.is_some()))
    }

    #[test]
    fn a_card_leads_where_a_peer_can_go() {
        let one = |text: &str| vec![text.to_string()];
        assert_eq!(said(&["0.0.0.0:1"], &["nas:2"]).unwrap(), (one("nas:2"), false));
        assert_eq!(said(&["127.0.0.1:1", "192.0.2.7:1", "[::]:1"], &[]).unwrap(), (one("192.0.2.7:1"), false));
        assert_eq!(said(&["127.0.0.1:1"], &[]).unwrap(), (one("127.0.0.1:1"), true));
        assert_eq!(said(&["0.0.0.0:1"], &[]).unwrap(), (vec![], true));
        assert_eq!(said(&[], &[]).unwrap(), (vec![], false), "behind NAT");
        assert!(said(&[], &["0.0.0.0:1"]).is_err() && said(&[], &["nas"]).is_err());
    }
}
