//! `netplumb keygen`: makes an identity, settings and spool, all or nothing.

use crate::fail::{self, fail};
use ::keygen::Error;
use ::keygen::address::Address;
use spool::home::{Home, Settings};
use spool::name::PeerName;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// What our card says our name is [default: this machine's name].
    #[arg(long, value_name = "NAME")]
    name: Option<PeerName>,
    /// Where to listen; may be repeated [default: 127.0.0.1:4117, this machine only].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Vec<Address>,
    /// Where peers reach us, for our card; may be repeated [default: where we listen].
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<Address>,
    /// Nobody can dial us: listens nowhere, makes a card without an address, and
    /// has us keep connections open to the peers that are added.
    #[arg(long, conflicts_with_all = ["listen", "address"])]
    behind_nat: bool,
}

/// Makes the identity, and says what to do next.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(wildcard) = args.address.iter().find(|address| address.is_wildcard()) {
        return Err(fail(
            fail::USAGE,
            format!("nobody can dial {wildcard}; give --address a name, or the address of one interface"),
        ));
    }
    let no_name = || fail(fail::USAGE, "this machine's name cannot be used; give one with --name");
    let name = args.name.or_else(machine_name).ok_or_else(no_name)?;
    let home = Home::find()?;
    let listen = match (args.behind_nat, args.listen.is_empty()) {
        (false, true) => Settings::default().listen.iter().filter_map(|text| text.parse().ok()).collect(),
        _ => args.listen,
    };
    let username =
        ::keygen::create(&home, &name, &listen, &args.address).map_err(|error| status(error, fail::CANNOT_CREATE))?;
    println!("{}", username.grouped());
    let (config, spool) = (home.config.display(), home.spool.display());
    eprintln!("that is the username of {name}; people compare it when they pair");
    eprintln!("  settings, certificates, keys: {config} (keep a copy; who has private/ is you)");
    eprintln!("  spool: {spool}");
    if listen.is_empty() {
        eprintln!("  it listens nowhere: we keep connections open to our peers, over which they ask");
    } else if listen.iter().all(Address::is_loopback) {
        eprintln!("  it listens on this machine only; to change that, edit `listen` in {config}/netplumb.toml");
    }
    eprintln!("next: netplumb card > {name}.card, for your peer; then netplumb peer add NAME THEIR.card");
    Ok(())
}

/// The first part of this machine's name, if it can be a peer's.
pub fn machine_name() -> Option<PeerName> {
    let uname = rustix::system::uname();
    uname.nodename().to_str().ok()?.split('.').next()?.parse().ok()
}

/// Gives an error its exit status; `ours` is that of what is ours to mend.
pub fn status(error: Error, ours: u8) -> anyhow::Error {
    match error {
        Error::Peer(what) => fail(fail::DATA, what),
        Error::Ours(what) => fail(ours, what),
        Error::Disk(disk) => disk.into(),
    }
}
