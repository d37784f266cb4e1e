//! Makes an identity on disk: all of it, or nothing.
//!
//! The whole `config` directory is written and synced under a hidden name
//! beside it, and appears by one rename that never replaces. After a crash
//! there is no identity, and perhaps a hidden directory, which the next run
//! removes; what is there already is never touched (doc/SPOOL.md#config).

use crate::address::Address;
use crate::identity::{Identity, private_pem};
use crate::{Error, Result};
use spool::atomic::{self, Disk};
use spool::crypto::Key;
use spool::fs::Fs;
use spool::home::{Home, Settings};
use spool::name::{Digest, PeerName, Username};
use spool::spool_id::CONFIG_ID;
use spool::url;
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// Makes certificates, keys, settings and the spool of a new home, durably,
/// and says who it is. `listen` empty: nowhere.
///
/// `Ours`: something is there already, however little.
pub fn create(home: &Home, name: &PeerName, listen: &[Address], address: &[Address]) -> Result<Username> {
    let nowhere = || Error::Ours(format!("{} is no place for a configuration", home.config.display()));
    let parent = home.config.parent().ok_or_else(nowhere)?;
    let dir = home.config.file_name().and_then(|name| name.to_str()).ok_or_else(nowhere)?;
    let disk = make_durably(parent)?;
    let made = make(&disk, home, dir, &settings(name, listen, address));
    // A failed sync leaves its word in a directory that is not the spool.
    if made.is_err() {
        let _ = disk.heal();
    }
    made
}

fn make(parent: &dyn Fs, home: &Home, dir: &str, settings: &str) -> Result<Username> {
    let busy = || Error::Ours("another netplumb keygen is at work".into());
    let _lock = parent.lock_dir(".", Duration::from_secs(5))?.ok_or_else(busy)?;
    refuse_existing(parent, &home.config, dir)?;
    sweep(parent, dir)?;
    let (identity, root) = Identity::generate()?;
    let spool_id = home.make_spool()?;
    let files = files(&identity, &private_pem(&root)?, settings, &spool_id)?;
    write(parent, dir, &files)?;
    Ok(identity.username().clone())
}

/// A file of the configuration: its path, and what is in it.
type File = (&'static str, Zeroizing<Vec<u8>>);

const DIRECTORIES: [&str; 4] = ["certs", "private", "peers", "recipes"];

fn files(identity: &Identity, root: &Zeroizing<Vec<u8>>, settings: &str, spool_id: &str) -> Result<Vec<File>> {
    let pem = |cert| Ok::<_, Error>(Zeroizing::new(identity.chain().cert(cert).pem()?));
    let line = |text: String| Zeroizing::new((text + "\n").into_bytes());
    let [sign, derive] = identity.private_pems()?;
    Ok(vec![
        ("certs/ca.pem", pem(url::Cert::Ca)?),
        ("certs/verify.pem", pem(url::Cert::Verify)?),
        ("certs/peer.pem", pem(url::Cert::Peer)?),
        ("certs/username", line(identity.username().to_string())),
        ("private/root.pem", root.clone()),
        ("private/sign.pem", sign),
        ("private/derive.pem", derive),
        ("private/spool.key", key_line(&Key::random())),
        ("netplumb.toml", Zeroizing::new(settings.as_bytes().to_vec())),
        (CONFIG_ID, line(spool_id.to_string())),
    ])
}

/// A key as it stands in a file: 64 hexadecimal digits.
pub(crate) fn key_line(key: &Key) -> Zeroizing<Vec<u8>> {
    let digits = Zeroizing::new(Digest(key.0).to_string());
    Zeroizing::new([digits.as_bytes(), b"\n"].concat())
}

/// Writes everything under a hidden name, and commits it with one rename.
fn write(parent: &dyn Fs, dir: &str, files: &[File]) -> Result<()> {
    let hidden = atomic::temporary(dir);
    let written = (|| {
        parent.make_dir(&hidden)?;
        for directory in DIRECTORIES {
            parent.make_dir(&format!("{hidden}/{directory}"))?;
        }
        for (path, content) in files {
            parent.hint(&format!("{hidden}/{path}"), content)?;
        }
        for directory in DIRECTORIES {
            parent.sync_dir(&format!("{hidden}/{directory}"))?;
        }
        let names: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
        parent.commit_dir(&hidden, dir, &names)
    })();
    Ok(written.inspect_err(|_| drop(parent.remove(&hidden)))?)
}

/// Removes what a crash left: the lock says that nobody is writing it.
fn sweep(parent: &dyn Fs, dir: &str) -> Result<()> {
    let prefix = format!(".{}.", dir.trim_start_matches('.'));
    for entry in parent.list(".")? {
        let random = entry.name.strip_prefix(&prefix).unwrap_or_default();
        if entry.is_dir && random.len() == 8 && random.bytes().all(|b| b.is_ascii_hexdigit()) {
            parent.remove(&entry.name)?;
        }
    }
    Ok(())
}

fn refuse_existing(parent: &dyn Fs, path: &Path, dir: &str) -> Result<()> {
    if !parent.is_there(dir)? {
        return Ok(());
    }
    let mut names: Vec<String> = parent.list(dir).unwrap_or_default().into_iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    let what = if names.is_empty() { "it is empty".to_string() } else { format!("it has {}", names.join(", ")) };
    let hint = match parent.is_there(&format!("{dir}/certs/username"))? {
        true => "it is an identity; show it with: netplumb card",
        false => "it is not a whole identity; move it away, then try again",
    };
    let path = path.display();
    Err(Error::Ours(format!("{path} is there already ({what}); nothing was changed\n  hint: {hint}")))
}

/// Makes a directory with its parents; the new names are durable.
fn make_durably(path: &Path) -> Result<Disk> {
    let mut fresh = path.ancestors().take_while(|ancestor| matches!(ancestor.try_exists(), Ok(false))).count();
    let disk = Disk::make(path)?;
    for ancestor in path.ancestors().skip(1) {
        if fresh == 0 {
            break;
        }
        // One that we may not read cannot be synced; it is made at the next sync of its file system.
        let _ = Disk::open(ancestor).and_then(|ancestor| ancestor.sync_dir("."));
        fresh -= 1;
    }
    Ok(disk)
}

/// The text of `netplumb.toml`.
fn settings(name: &PeerName, listen: &[Address], address: &[Address]) -> String {
    let (listen, address) = (list(listen), list(address));
    let Settings { max_age_days, tombstone_days, free_bytes_min, free_inodes_min, onetime_keys, .. } =
        Settings::default();
    format!(
        r#"# What this machine's netplumb is told. A name that is not known is an error,
# so a slip is found at once. Lines that begin with #name show the defaults.

# What our card says our name is. Each peer may call us something else.
name = "{name}"

# Where the service listens. 127.0.0.1 is this machine only; 0.0.0.0 and [::]
# are all its addresses. Who has no paired key gets nothing from this port.
# Empty: nowhere, as behind NAT; peers ask over connections that we keep open
# to them (`turn` in their peer.toml).
listen = {listen}

# Where peers reach us, for our card. Empty: where the service listens.
address = {address}

# Days of observed uptime (days on which this machine was off do not count)
# after which a message or job without any progress ends. Its end is told.
#max_age_days = {max_age_days}

# Days of observed uptime for which we remember that a job has been run,
# after the sender has confirmed its end.
#tombstone_days = {tombstone_days}

# Below so many free bytes, or files, on the spool's file system new work waits.
#free_bytes_min = {free_bytes_min}
#free_inodes_min = {free_inodes_min}

# Keys made ahead, one for each message that comes in.
#onetime_keys = {onetime_keys}

# A shell command that is run for each loss, expiry or refusal, with its text
# on standard input.
#on_notice = "mail -s netplumb root"
"#
    )
}

/// A list of texts that need no quoting, in TOML.
pub(crate) fn list(texts: &[impl ToString]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("\"{}\"", text.to_string())).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failing::Failing;
    use std::os::unix::fs::MetadataExt;

    fn home(directory: &tempfile::TempDir) -> Home {
        Home { config: directory.path().join("config"), spool: directory.path().join("spool") }
    }

    fn tree(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap()) {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let content = if metadata.is_dir() { Vec::new() } else { std::fs::read(&path).unwrap() };
            found.push((path.display().to_string(), metadata.mode() & 0o7777, content));
            if metadata.is_dir() {
                found.extend(tree(&path));
            }
        }
        found.sort();
        found
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_identity_is_whole_and_nobody_else_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let home = home(&directory);
        let listen = ["0.0.0.0:4117".parse().unwrap()];
        let address = ["nas.example.org:4117".parse().unwrap(), "[2001:db8::7]:1".parse().unwrap()];
        let username = create(&home, &"nas".parse().unwrap(), &listen, &address).unwrap();
        assert_eq!(home.username().unwrap(), username);
        home.check().unwrap();
        home.spool_key().unwrap();
        assert_eq!(Identity::load(&home).unwrap().username(), &username);
        let settings = home.settings().unwrap();
        assert_eq!(settings.name, "nas");
        assert_eq!(settings.listen, ["0.0.0.0:4117"]);
        assert_eq!(settings.address, ["nas.example.org:4117", "[2001:db8::7]:1"]);
        for (path, mode, content) in tree(directory.path()) {
            let file = path.contains(".pem")
                || path.ends_with("username")
                || path.ends_with("spool.id")
                || path.ends_with(".toml")
                || path.ends_with(".key")
                || path.ends_with("spool/id");
            assert_eq!(mode, if file { 0o600 } else { 0o700 }, "{path}");
            assert_eq!(file, !content.is_empty(), "{path}");
        }
        assert_eq!(names(directory.path()), ["config", "spool"]);
        assert_eq!(names(&home.config), ["certs", "netplumb.toml", "peers", "private", "recipes", "spool.id"]);
        assert_eq!(names(&home.spool).len(), spool::layout::DIRECTORIES.len() + 1, "and its id");
    }

    #[test]
    fn each_default_in_the_settings_is_the_default() {
        let listen = Settings::default().listen.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let text = settings(&"a".parse().unwrap(), &listen, &[]);
        let told: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|line| line.contains(" = ")).unwrap_or(line).to_string() + "\n")
            .collect();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("netplumb.toml"), &told).unwrap();
        let home = Home { config: directory.path().into(), spool: directory.path().into() };
        let settings = home.settings().unwrap_or_else(|error| panic!("{error}\n{told}"));
        let expected = Settings { name: "a".into(), on_notice: settings.on_notice.clone(), ..Settings::default() };
        assert_eq!(format!("{settings:?}"), format!("{expected:?}"));
        assert!(settings.on_notice.is_some());
    }

    #[test]
    fn what_is_there_is_never_touched() {
        for half in ["certs/ca.pem", "private/spool.key", "netplumb.toml", "certs/username", ""] {
            let directory = tempfile::tempdir().unwrap();
            let home = home(&directory);
            let path = home.config.join(half);
            std::fs::create_dir_all(if half.is_empty() { &path } else { path.parent().unwrap() }).unwrap();
            if !half.is_empty() {
                std::fs::write(&path, "precious").unwrap();
            }
            let before = tree(directory.path());
            let error = create(&home, &"a".parse().unwrap(), &[], &[]).unwrap_err();
            assert!(matches!(&error, Error::Ours(text) if text.contains("nothing was changed")), "{error}");
            assert_eq!(tree(directory.path()), before, "{half}");
        }
        let directory = tempfile::tempdir().unwrap();
        let home = home(&directory);
        create(&home, &"a".parse().unwrap(), &[], &[]).unwrap();
        let before = tree(directory.path());
        create(&home, &"a".parse().unwrap(), &[], &[]).unwrap_err();
        assert_eq!(tree(directory.path()), before);
    }

    #[test]
    fn a_crash_at_any_operation_leaves_all_or_nothing() {
        let (identity, root) = Identity::generate().unwrap();
        let text = settings(&"a".parse().unwrap(), &[], &[]);
        let files = files(&identity, &private_pem(&root).unwrap(), &text, "07").unwrap();
        for steps in 0.. {
            let directory = tempfile::tempdir().unwrap();
            let failing = Failing::after(Disk::open(directory.path()).unwrap(), steps);
            let whole_run = write(&failing, "config", &files).is_ok();
            let home = home(&directory);
            assert_eq!(home.config.exists(), whole_run, "after {steps} steps");
            if whole_run {
                assert!(steps > 15);
                assert_eq!(Identity::load(&home).unwrap().username(), identity.username());
                return;
            }
            let username = create(&home, &"a".parse().unwrap(), &[], &[]).unwrap();
            assert_eq!(Identity::load(&home).unwrap().username(), &username);
            assert_eq!(names(directory.path()), ["config", "spool"], "nothing hidden is left");
        }
    }

    #[test]
    fn a_spool_that_cannot_be_made_leaves_no_identity() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("spool"), "a file").unwrap();
        create(&home(&directory), &"a".parse().unwrap(), &[], &[]).unwrap_err();
        assert_eq!(names(directory.path()), ["spool"]);
    }

    #[test]
    fn many_at_once_make_one_identity() {
        let directory = tempfile::tempdir().unwrap();
        let home = home(&directory);
        let made: Vec<Result<Username>> = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| create(&home, &"a".parse().unwrap(), &[], &[]))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        let words = ["nothing was changed", "another netplumb keygen is at work"];
        let told = |error: &Error| words.iter().any(|words| error.to_string().contains(words));
        assert!(made.iter().filter_map(|made| made.as_ref().err()).all(told), "{made:?}");
        let winners: Vec<&Username> = made.iter().filter_map(|made| made.as_ref().ok()).collect();
        assert_eq!(winners, [Identity::load(&home).unwrap().username()]);
        assert_eq!(names(directory.path()), ["config", "spool"]);
    }

    #[test]
    #[ignore = "judges how long it takes, on a quiet machine"]
    fn it_takes_less_than_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let started = std::time::Instant::now();
        create(&home(&directory), &"a".parse().unwrap(), &[], &[]).unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
}
