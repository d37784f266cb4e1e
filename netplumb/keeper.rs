//! `netplumb keeper`: one running job; started by the daemon.

use job::{account::Account, gluepot::Known, keeper::Site, process};
use spool::home::{Home, Settings};
use spool::name::{MsgId, Username};
use spool::roster::Roster;
use spool::usage::Bounds;
use std::time::Duration;

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
fn known(home: &Home, settings: &Settings, username: &Username) -> Result<Option<Known>, job::Error> {
    let mut roster = Roster::default();
    let troubles = roster.read(home);
    let Some(peer) = roster.get(username) else {
        return match troubles.first() {
            // The peer may be one that cannot be read at the moment.
            Some(trouble) if !roster.is_complete() => Err(job::Error::Ours(trouble.to_string())),
            Some(_) | None => Ok(None),
        };
    };
    let path = home.config.join("peers").join(peer.name.as_str()).join("peer.toml");
    let age = std::fs::metadata(path).and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
    let quota = Bounds::new(settings, &peer.policy.quota).whole_log();
    let (name, policy, digest) = (peer.name.to_string(), peer.policy.clone(), peer.digest);
    Ok(Some(Known { name, policy, digest, quota, age: age.unwrap_or(Duration::MAX) }))
}
