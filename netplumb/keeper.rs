//! `netplumb keeper`: one running job; started by the daemon.

use job::keeper::{SETTLED, Site};
use job::{account::Account, gluepot::Known, process};
use spool::home::{Home, Settings};
use spool::name::{MsgId, Username};
use spool::roster::Roster;
use spool::usage::Bounds;
use std::path::Path;
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
    let (mut roster, peers) = (Roster::default(), home.config.join("peers"));
    let troubles = roster.read(home);
    let Some(peer) = roster.get(username) else {
        return match troubles.first() {
            // The peer may be one that cannot be read at the moment.
            Some(trouble) if !roster.is_complete() => Err(job::Error::Ours(trouble.to_string())),
            // Its directory may be about to be replaced.
            Some(_) | None if age(&peers).is_none_or(|age| age < SETTLED) => {
                Err(job::Error::Ours(format!("{} was changed a moment ago", peers.display())))
            }
            Some(_) | None => Ok(None),
        };
    };
    // An editor may take the file away before it puts the new one there, which changes the directory.
    let dir = peers.join(peer.name.as_str());
    let age = age(&dir.join("peer.toml")).or_else(|| age(&dir));
    let quota = Bounds::new(settings, &peer.policy.quota).whole_log();
    let (name, policy, digest) = (peer.name.to_string(), peer.policy.clone(), peer.digest);
    Ok(Some(Known { name, policy, digest, quota, age: age.unwrap_or_default() }))
}

/// How far from now a file or directory was changed: another machine's clock may be ahead of ours.
fn age(path: &Path) -> Option<Duration> {
    let changed = std::fs::metadata(path).and_then(|found| found.modified()).ok()?;
    Some(changed.elapsed().unwrap_or_else(|ahead| ahead.duration()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    /// Makes a directory or file as old as this.
    fn set_age(path: &Path, age: Duration) {
        let times = std::fs::FileTimes::new().set_modified(SystemTime::now() - age);
        std::fs::File::open(path).unwrap().set_times(times).unwrap();
    }

    /// Each of them was refused for good.
    #[test]
    fn a_peer_whose_file_or_directory_is_being_replaced_is_not_judged_by_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home { config: directory.path().join("config"), spool: directory.path().join("spool") };
        let (peers, username) = (home.config.join("peers"), Username::of_ca(b"a"));
        let (dir, long) = (peers.join("a"), Duration::from_secs(1000));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("username"), username.to_string()).unwrap();
        std::fs::write(dir.join("request.key"), "07".repeat(32)).unwrap();
        std::fs::write(dir.join("peer.toml"), "shell = true\n").unwrap();
        let look = || known(&home, &Settings::default(), &username);
        let age_of = || look().unwrap().unwrap().age;
        assert!(age_of() < long, "it was just written");
        set_age(&dir.join("peer.toml"), long);
        assert!(age_of() >= long);
        std::fs::remove_file(dir.join("peer.toml")).unwrap();
        assert!(age_of() < long && !look().unwrap().unwrap().policy.shell, "it was just removed");
        set_age(&dir, long);
        assert!(age_of() >= long, "it is missing for good");
        std::fs::rename(&dir, home.config.join("a")).unwrap();
        // A machine that is busy may take long between the two.
        let is_unsure = || {
            set_age(&peers, Duration::ZERO);
            look().is_err()
        };
        assert!((0..100).any(|_| is_unsure()));
        set_age(&peers, long);
        assert!(look().unwrap().is_none(), "it is gone for good");
    }
}
