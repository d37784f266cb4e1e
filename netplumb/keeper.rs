//! `netplumb keeper`: one running job; started by the daemon.

use job::{account::Account, gluepot::Known, keeper::Site, process};
use spool::home::{Home, Settings};
use spool::name::{Digest, MsgId, Username};
use spool::usage::Bounds;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The job.
    msgid: MsgId,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    process::detach();
    crate::logging();
    let home = Home::find()?;
    home.check()?;
    let account = Account::ours();
    let settings = home.settings()?;
    let site = Site {
        fs: home.open_spool()?,
        spool_key: home.spool_key()?,
        ours: home.username()?,
        ages: settings.ages(),
        user: account.name.clone(),
        settings: settings.clone(),
        processes: process::PROCESSES,
    };
    process::keep(&site, &home.spool, &account, args.msgid, &|username| known(&home, &settings, username))?;
    Ok(())
}

/// A peer as the gluepot sees it: its policy, and the digest of the file that says so.
fn known(home: &Home, settings: &Settings, username: &Username) -> Option<Known> {
    let peer = home.peers(|error| tracing::warn!("{error}")).remove(username)?;
    let text = std::fs::read(home.config.join("peers").join(peer.name.as_str()).join("peer.toml"));
    let digest = Digest::of(&text.unwrap_or_default());
    let quota = Bounds::new(settings, &peer.policy.quota).whole_log();
    Some(Known { name: peer.name.to_string(), policy: peer.policy, digest, quota })
}
