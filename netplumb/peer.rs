//! `netplumb peer`: whom we know, and what they may do here.

use crate::card::reachable;
use crate::fail::{self, fail};
use crate::keygen::status;
use ::keygen::address::Address;
use ::keygen::{Card, Identity, Reach, card};
use anyhow::Context;
use serde_json::json;
use spool::atomic::Disk;
use spool::home::{Dial, Home, Peer};
use spool::layout::{Owner, Place};
use spool::name::{PeerName, Username};
use spool::timetable::Timetable;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Makes a peer of a card. It may then deliver messages, and run nothing.
    Add(Add),
    /// Lists the peers.
    List(List),
    /// Changes what is known of a peer, while everything runs.
    Set(Set),
    /// Forgets a peer: it can deliver nothing more, and we do not dial it.
    Remove(Remove),
    /// Asks a peer for a sign of life, and says how long it took.
    Test(Test),
}

#[derive(clap::Args)]
struct Add {
    /// What we call it.
    name: PeerName,
    /// Its card (see netplumb card): a file, or - for standard input.
    card: PathBuf,
    /// Where we dial it, instead of where its card says; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<Address>,
    /// Lets it run any command through the shell, as you: this gives it your account.
    #[arg(long)]
    allow_shell: bool,
    /// Never dials it: it keeps connections open to us [default: if there is no address].
    #[arg(long)]
    never_dial: bool,
    /// Keeps connections open to it, since it cannot dial us [default: if our card has no address].
    #[arg(long)]
    turn: bool,
    /// Keeps none.
    #[arg(long, conflicts_with = "turn")]
    no_turn: bool,
    /// Bytes a second to and from it, and when: 512k, 10M:1M (up:down), "08:00,512k 23:00,off".
    #[arg(long, value_name = "TIMETABLE")]
    bwlimit: Option<Timetable>,
}

#[derive(clap::Args)]
struct Set {
    /// What we call it.
    name: PeerName,
    /// Bytes a second to and from it, and when: 512k, 10M:1M (up:down), "08:00,512k 23:00,off"; off ends it.
    #[arg(long, value_name = "TIMETABLE")]
    bwlimit: Timetable,
}

#[derive(clap::Args)]
struct List {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Test {
    /// What we call it.
    name: PeerName,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Remove {
    /// What we call it.
    name: PeerName,
    /// Says what would be removed, and removes nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Adds, lists, removes or tests.
pub fn run(args: Args) -> anyhow::Result<()> {
    let home = Home::find()?;
    match args.verb {
        Verb::Add(words) => add(&home, words),
        Verb::List(words) => list(&home, words.json),
        Verb::Set(words) => set(&home, &words.name, &words.bwlimit),
        Verb::Remove(words) => remove(&home, &words.name, words.dry_run),
        Verb::Test(words) => test(&home, &words),
    }
}

fn add(home: &Home, words: Add) -> anyhow::Result<()> {
    Identity::load(home).map_err(|error| status(error, fail::CONFIG))?;
    let card = Card::parse(&read_card(&words.card)?).map_err(|error| status(error, fail::DATA))?;
    let addresses = if words.address.is_empty() { &card.addresses } else { &words.address };
    if let Some(wildcard) = addresses.iter().find(|address| address.is_wildcard()) {
        return Err(fail(fail::DATA, format!("nobody can dial {wildcard}; say where the peer is with --address")));
    }
    let name = &words.name;
    let reach = reach(home, &words, addresses);
    ::keygen::add_peer(home, name, &card, reach, words.allow_shell)
        .map_err(|error| status(error, fail::CANNOT_CREATE))?;
    if let Some(bwlimit) = &words.bwlimit {
        set(home, name, bwlimit)?;
    }
    println!("{}", card.chain.username().grouped());
    eprintln!("that is the username of {name}; compare it with what its owner sees");
    let toml = home.config.join("peers").join(name.as_str()).join("peer.toml");
    let change = format!("to change that, edit {}", toml.display());
    match (reach.dial, reach.turn) {
        (Dial::Never, true) => eprintln!("  neither of us dials the other, so nothing will move; {change}"),
        (Dial::Never, false) => eprintln!("  we never dial it, and wait until it calls in; {change}"),
        (Dial::Always, true) => {
            let at = joined(addresses);
            eprintln!("  we dial it at {at}, and keep connections open over which it asks us; {change}");
        }
        (Dial::Always, false) => eprintln!("  we dial it at {}", joined(addresses)),
    }
    match words.allow_shell {
        true => eprintln!("  it may run any command here, as you: it has your account"),
        false => eprintln!("  it may run nothing here; to change that, edit {}", toml.display()),
    }
    Ok(())
}

/// How it and we come together, where the words leave that open.
fn reach<'a>(home: &Home, words: &Add, addresses: &'a [Address]) -> Reach<'a> {
    // Settings that cannot be read are told by every other verb.
    let settings = home.settings().unwrap_or_default();
    let unreachable = reachable(&settings).is_ok_and(|(ours, _)| ours.is_empty());
    let Reach { dial, .. } = Reach::at(addresses);
    let dial = if words.never_dial { Dial::Never } else { dial };
    let turn = words.turn || unreachable && !words.no_turn && dial == Dial::Always;
    Reach { addresses, dial, turn }
}

/// The service and the loop see it within some seconds.
fn set(home: &Home, name: &PeerName, bwlimit: &Timetable) -> anyhow::Result<()> {
    match ::keygen::set_bwlimit(home, name, bwlimit).map_err(|error| status(error, fail::CONFIG))? {
        true => Ok(()),
        false => Err(fail(fail::NO_PEER, format!("there is no peer {name}"))),
    }
}

fn read_card(path: &Path) -> anyhow::Result<String> {
    let max = card::TEXT_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().take(max).read_to_end(&mut bytes),
        _ => std::fs::File::open(path).and_then(|file| file.take(max).read_to_end(&mut bytes)),
    };
    read.map_err(|error| fail(fail::IO, format!("cannot read the card {}: {error}", path.display())))?;
    // Text around a card may have any encoding; what is not ASCII inside is refused there.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn list(home: &Home, json: bool) -> anyhow::Result<()> {
    home.username()?;
    let mut out = std::io::stdout().lock();
    let mut bad = 0;
    for name in names(home)? {
        let line = match (home.peer(&name), json) {
            (Ok(Some(peer)), true) => json_line(&peer),
            (Ok(Some(peer)), false) => text_line(&peer),
            (Ok(None), json) => {
                bad += 1;
                broken(&name, "it does not say who it is", json)
            }
            (Err(error), json) => {
                bad += 1;
                broken(&name, &error.to_string(), json)
            }
        };
        writeln!(out, "{line}")?;
    }
    match bad {
        0 => Ok(()),
        bad => Err(fail(fail::CONFIG, format!("{bad} of the peers cannot be used"))),
    }
}

fn names(home: &Home) -> anyhow::Result<Vec<PeerName>> {
    let peers = home.config.join("peers");
    let entries = std::fs::read_dir(&peers).with_context(|| format!("cannot read {}", peers.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut names: Vec<PeerName> = names.collect();
    names.sort_unstable();
    Ok(names)
}

fn json_line(peer: &Peer) -> String {
    let Peer { name, username, policy, .. } = peer;
    json!({
        "name": name.as_str(), "username": username.as_str(), "address": policy.address, "shell": policy.shell,
        "dial": policy.dial, "turn": policy.turn,
        "bwlimit": policy.bwlimit.text(),
    })
    .to_string()
}

fn text_line(peer: &Peer) -> String {
    let policy = &peer.policy;
    let address = if policy.dialled().is_empty() { "dial=never".to_string() } else { joined(&policy.address) };
    let shell = if policy.shell { "shell" } else { "-" };
    let turn = if policy.turn { "turn" } else { "-" };
    let bwlimit = if policy.bwlimit.is_empty() { String::new() } else { format!("  {}", policy.bwlimit.text()) };
    format!("{:<15} {address:<25} {turn:<4} {shell:<5} {}{bwlimit}", peer.name, peer.username.grouped())
}

fn broken(name: &PeerName, error: &str, json: bool) -> String {
    match json {
        true => json!({ "name": name.as_str(), "error": error }).to_string(),
        false => format!("{name:<15} broken: {}", error.lines().next().unwrap_or_default()),
    }
}

/// One authentic word there and back: keys, addresses and the peer's daemon are in order.
fn test(home: &Home, words: &Test) -> anyhow::Result<()> {
    let name = &words.name;
    let none = || fail(fail::NO_PEER, format!("there is no peer {name}"));
    let policy = home.peer(name)?.ok_or_else(none)?.policy;
    match r#loop::worker::test(home, name)? {
        Ok(milliseconds) if words.json => {
            println!("{}", json!({ "peer": name.as_str(), "ok": true, "round_trip_ms": milliseconds }));
        }
        Ok(milliseconds) => println!("{name} answers within {milliseconds:.1} ms, and knows us"),
        Err(trouble) => {
            if words.json {
                println!("{}", json!({ "peer": name.as_str(), "ok": false, "error": trouble.error }));
            }
            let hint = match trouble.cause {
                _ if policy.dialled().is_empty() => "let it test us, or see whether this ends: plumb NAME true",
                "unauthentic" => "each side must have the other's card: netplumb peer add",
                _ => "is its daemon running, and is `address` in its peer.toml right?",
            };
            return Err(fail(fail::UNAVAILABLE, format!("{name}: {}\n  hint: {hint}", trouble.error)));
        }
    }
    Ok(())
}

fn remove(home: &Home, name: &PeerName, dry_run: bool) -> anyhow::Result<()> {
    home.username()?;
    let none = || fail(fail::NO_PEER, format!("there is no peer {name}"));
    let dir = home.config.join("peers").join(name.as_str());
    if dry_run && !spool::home::is_there(&dir)? {
        return Err(none());
    }
    let known = home.peer(name).ok().flatten().map(|peer| peer.username);
    let left = known.map_or(0, |username| in_spool(home, &username));
    if dry_run {
        eprintln!("would remove {}", dir.display());
    } else if ::keygen::remove_peer(home, name).map_err(|error| status(error, fail::CONFIG))? {
        eprintln!("removed {}", dir.display());
    } else {
        return Err(none());
    }
    if left > 0 {
        eprintln!("  the spool has {left} of its messages and jobs; they come no further without it");
    }
    Ok(())
}

/// How many messages and jobs this peer has here.
fn in_spool(home: &Home, username: &Username) -> usize {
    let Ok(disk) = Disk::open(&home.spool) else { return 0 };
    let ids = |place: Place| place.ids(&disk).unwrap_or_default().into_iter().map(move |msgid| place.dir(msgid));
    let owned = |dir: &String| Owner::read(&disk, dir).ok().flatten().is_some_and(|owner| owner.username == *username);
    Place::ALL.into_iter().flat_map(ids).filter(owned).count()
}

fn joined(texts: &[impl ToString]) -> String {
    texts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
