//! Makes a spool of format 1 one of format 2: its small files get their
//! checksums, and it gets an id.
//!
//! Run by a starting daemon, before anybody else opens the spool. Each file is
//! replaced by one rename and the configuration names the spool last, so a crash
//! in between leaves what the next start converts (doc/SPOOL.md#the-spools-id).

use crate::facts::{FACTS_MAX, Facts};
use crate::fs::{Fs, Result, is_hidden};
use crate::layout::{DETACHED, HELD, PEER, PLUMB, PRIORITY, Place, WHY, channels, running};
use crate::log::hint;
use crate::name::{MsgId, decimal};
use crate::phase::Mark;

/// The file whose lock the daemon of format 1 holds.
const DAEMON: &str = "daemon";

/// Does a process of an older netplumb work on it?
pub(crate) fn is_in_use(fs: &dyn Fs) -> Result<bool> {
    if fs.is_locked(DAEMON)? {
        return Ok(true);
    }
    for msgid in Place::Jobs.ids(fs)? {
        if fs.is_locked(&running(msgid))? || fs.is_locked(&Place::Jobs.file(msgid, PLUMB))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Converts all small files; gives the observed uptime.
pub(crate) fn convert(fs: &dyn Fs) -> Result<u64> {
    for place in Place::ALL {
        for msgid in place.ids(fs)? {
            directory(fs, place, msgid)?;
        }
    }
    for entry in fs.list("notices")?.iter().filter(|entry| !is_hidden(&entry.name)) {
        facts(fs, &format!("notices/{}", entry.name))?;
    }
    fs.remove(DAEMON)?;
    match old_number(fs, crate::clock::CLOCK)? {
        Some(uptime) => {
            Facts::new().with("uptime", uptime).hint(fs, crate::clock::CLOCK)?;
            Ok(uptime)
        }
        None => crate::clock::uptime(fs),
    }
}

fn directory(fs: &dyn Fs, place: Place, msgid: MsgId) -> Result<()> {
    let marks = Mark::ALL.map(Mark::name);
    for entry in fs.list(&place.dir(msgid))?.iter().filter(|entry| !entry.is_dir) {
        let (name, path) = (entry.name.as_str(), place.file(msgid, &entry.name));
        match name {
            PRIORITY => priority(fs, &path)?,
            "alive" => number(fs, &path)?,
            PEER | DETACHED | WHY => facts(fs, &path)?,
            _ if marks.contains(&name) || name.starts_with("run.again.") => facts(fs, &path)?,
            _ => {}
        }
    }
    for side in ["in", "out", HELD] {
        for chan in channels(fs, msgid, side)? {
            for name in ["got", "tip", "read", "window"] {
                number(fs, &place.file(msgid, &format!("{side}/{chan}/{name}")))?;
            }
        }
    }
    Ok(())
}

/// A file of facts. One that is damaged stays so.
fn facts(fs: &dyn Fs, path: &str) -> Result<()> {
    let Some(text) = fs.read_if_sound(path, FACTS_MAX)? else { return Ok(()) };
    match Facts::believed(path, &text) {
        Some(_) => Ok(()),
        None => Facts::parse(&text).hint(fs, path),
    }
}

/// A hint of an offset.
fn number(fs: &dyn Fs, path: &str) -> Result<()> {
    match old_number(fs, path)? {
        Some(offset) => hint(fs, path, offset),
        None => Ok(()),
    }
}

fn priority(fs: &dyn Fs, path: &str) -> Result<()> {
    let text = fs.read_if_sound(path, 32)?.unwrap_or_default();
    match std::str::from_utf8(&text) {
        Ok(word) if matches!(word, "high\n" | "low\n") => Facts::new().with(PRIORITY, word.trim_end()).hint(fs, path),
        _ => Ok(()),
    }
}

/// A number and a newline, as format 1 had them.
fn old_number(fs: &dyn Fs, path: &str) -> Result<Option<u64>> {
    let text = fs.read_if_sound(path, 32)?.unwrap_or_default();
    Ok(std::str::from_utf8(&text).ok().and_then(|text| decimal(text.strip_suffix('\n')?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Priority;
    use crate::crypto::Key;
    use crate::home::{Error, Home};
    use crate::layout::{DIRECTORIES, Owner};
    use crate::log::hinted;
    use crate::name::{Role, Username};
    use crate::spool_id::Foreign;
    use std::os::unix::fs::DirBuilderExt;
    use std::path::Path;
    use std::time::Duration;

    const MSGID: MsgId = MsgId([7; 20]);

    /// A home as netplumb 0.1.0 left it, with a job in its spool.
    fn old_home(directory: &Path) -> Home {
        let home = Home { config: directory.join("config"), spool: directory.join("spool") };
        let make = |path: &Path| std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path).unwrap();
        make(&home.config.join("private"));
        std::fs::write(home.config.join("private/spool.key"), "07".repeat(32)).unwrap();
        DIRECTORIES.iter().filter(|name| **name != "odd").for_each(|name| make(&home.spool.join(name)));
        let job = home.spool.join(Place::Jobs.dir(MSGID));
        make(&job.join("out/1"));
        let peer = format!("username={}\nrole=sender\nborn=17\nboot=x\n", Username::of_ca(b"b"));
        std::fs::write(job.join(PEER), peer).unwrap();
        std::fs::write(job.join("cancel"), "at=99\n").unwrap();
        std::fs::write(job.join("priority"), "low\n").unwrap();
        std::fs::write(job.join("out/1/got"), "4711\n").unwrap();
        std::fs::write(home.spool.join("clock"), "31536000\n").unwrap();
        home
    }

    #[test]
    fn an_older_spool_is_converted_and_stays_what_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let home = old_home(directory.path());
        assert!(matches!(home.open_spool(), Err(Error::Foreign(Foreign::Format { found: 1, .. }))));
        assert!(home.prepare_spool().unwrap().is_some(), "it says what it did");
        let disk = home.open_spool().unwrap();
        let owner = Owner::read(&*disk, &Place::Jobs.dir(MSGID)).unwrap().unwrap();
        assert_eq!((owner.role, owner.born), (Role::Sender, 17));
        assert_eq!(hinted(&*disk, &Place::Jobs.file(MSGID, "out/1/got")).unwrap(), 4711);
        assert_eq!(Priority::of(&*disk, MSGID), Priority::Low);
        assert_eq!(crate::clock::uptime(&*disk).unwrap(), 31_536_000);
        assert!(home.prepare_spool().unwrap().is_none(), "once is enough");
    }

    #[test]
    fn a_spool_that_an_older_netplumb_uses_is_left_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let home = old_home(directory.path());
        let disk = crate::atomic::Disk::open(&home.spool).unwrap();
        let _lock = disk.lock_file(DAEMON, Duration::ZERO).unwrap();
        assert!(matches!(home.prepare_spool(), Err(Error::Foreign(Foreign::Format { found: 1, .. }))));
        assert_eq!(std::fs::read(home.spool.join("clock")).unwrap(), b"31536000\n");
    }

    #[test]
    fn a_spool_that_lost_its_id_is_known_by_what_our_key_opens() {
        let directory = tempfile::tempdir().unwrap();
        let home = old_home(directory.path());
        home.prepare_spool().unwrap();
        std::fs::write(home.spool.join("id"), "junk").unwrap();
        assert!(home.prepare_spool().unwrap().is_none(), "nothing proves that it is ours");
        assert!(matches!(home.open_spool(), Err(Error::Foreign(Foreign::Nameless(_)))));
        let disk = crate::atomic::Disk::open(&home.spool).unwrap();
        let key = crate::crypto::SpoolKey(Key([7; 32]));
        crate::layout::make_dirs(&disk, "onetime/k").unwrap();
        disk.hint("onetime/k/key", &key.seal("onetime k", b"a key")).unwrap();
        assert!(home.prepare_spool().unwrap().is_some());
        home.open_spool().unwrap();
    }

    /// A `plumb` that began just then said "not the spool of this home", status 78.
    #[test]
    fn an_id_that_is_lost_under_a_living_daemon_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let home = old_home(directory.path());
        home.prepare_spool().unwrap();
        let (disk, path) = (home.open_spool().unwrap(), home.spool.join("id"));
        let _daemon = disk.lock_dir("", Duration::ZERO).unwrap().unwrap();
        let id = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::thread::scope(|scope| {
            let opens = scope.spawn(|| home.open_spool().map(drop));
            std::thread::sleep(Duration::from_millis(200));
            std::fs::write(&path, &id).unwrap();
            opens.join().unwrap().unwrap();
        });
    }

    #[test]
    fn another_spool_an_empty_mount_point_and_none_are_no_spool_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (old_home(&directory.path().join("a")), old_home(&directory.path().join("b")));
        ours.prepare_spool().unwrap();
        theirs.prepare_spool().unwrap();
        let swapped = Home { config: ours.config.clone(), spool: theirs.spool.clone() };
        assert!(matches!(swapped.open_spool(), Err(Error::Foreign(Foreign::Another { .. }))));
        std::fs::rename(&ours.spool, directory.path().join("away")).unwrap();
        assert!(matches!(ours.open_spool(), Err(Error::Foreign(Foreign::Away(_)))));
        std::fs::DirBuilder::new().mode(0o700).create(&ours.spool).unwrap();
        assert!(matches!(ours.open_spool(), Err(Error::Foreign(Foreign::Nameless(_)))));
        assert_eq!(std::fs::read_dir(&ours.spool).unwrap().count(), 0, "nothing is made in it");
    }
}
