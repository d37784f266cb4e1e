//! One user's netplumb on one machine: where it is, what it is told, whom it knows.
//!
//! `NETPLUMB_HOME=DIR` puts all of it under one directory, `DIR/config` and
//! `DIR/spool`; otherwise the XDG directories are used. Modes are checked at
//! every start: nobody else may read keys or spool.

use crate::crypto::{Key, SpoolKey};
use crate::look::Ages;
use crate::name::{Digest, PeerName, Username};
use crate::roster::Roster;
use crate::size::Size;
use crate::spool_id::Foreign;
use crate::timetable::Timetable;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is wrong with a home; the hint says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no identity yet.
    #[error("no identity in {0}\n  hint: make one with: netplumb keygen")]
    NoIdentity(PathBuf),
    /// Others could read or write it.
    #[error("{path} has mode {mode:04o}, others must have no access\n  hint: chmod go= {path}")]
    Loose {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("{0} belongs to another user")]
    NotOurs(PathBuf),
    /// A configuration file says something that we do not understand.
    #[error("{path}: {what}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        what: String,
    },
    /// The system refused.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// The spool itself.
    #[error(transparent)]
    Spool(#[from] crate::fs::Error),
    /// What lies at the spool's place is not this home's spool, or cannot be used.
    #[error(transparent)]
    Foreign(#[from] crate::spool_id::Foreign),
    /// The environment does not say where.
    #[error("neither NETPLUMB_HOME, XDG_CONFIG_HOME nor HOME is set to an absolute path")]
    Nowhere,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Where configuration and spool are.
#[derive(Debug, Clone)]
pub struct Home {
    /// Configuration, certificates, private keys, peers.
    pub config: PathBuf,
    /// Everything else.
    pub spool: PathBuf,
}

impl Home {
    /// The home that the environment names.
    pub fn find() -> Result<Home> {
        let path = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(relative) = std::env::var_os("NETPLUMB_HOME").filter(|path| !path.is_empty()) {
            let home = std::path::absolute(relative).map_err(|_| Error::Nowhere)?;
            return Ok(Home { config: home.join("config"), spool: home.join("spool") });
        }
        let below_home = |tail: &str| path("HOME").map(|home| home.join(tail));
        let config = path("XDG_CONFIG_HOME").or_else(|| below_home(".config")).ok_or(Error::Nowhere)?;
        let state = path("XDG_STATE_HOME").or_else(|| below_home(".local/state")).ok_or(Error::Nowhere)?;
        Ok(Home { config: config.join("netplumb"), spool: state.join("netplumb/spool") })
    }

    /// Checks modes and owners of what must be private.
    pub fn check(&self) -> Result<()> {
        self.check_config()?;
        match check_private(&self.spool) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(Foreign::Away(self.spool.clone()).into())
            }
            checked => checked,
        }
    }

    /// The same without the spool.
    pub fn check_config(&self) -> Result<()> {
        self.username()?;
        let private = self.config.join("private");
        let inside = std::fs::read_dir(&private).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let inside = inside.map_err(|source| Error::Io { path: private.clone(), source })?;
        let files = inside.iter().map(std::fs::DirEntry::path);
        for path in [self.config.clone(), private.clone()].into_iter().chain(files) {
            check_private(&path)?;
        }
        Ok(())
    }

    /// Our own username.
    pub fn username(&self) -> Result<Username> {
        let path = self.config.join("certs/username");
        let text = self.read_if_there(&path)?.ok_or_else(|| Error::NoIdentity(self.config.clone()))?;
        text.trim().parse().map_err(|bad: crate::name::BadName| Error::Config { path, what: bad.to_string() })
    }

    /// The key of what waits on our own disk.
    pub fn spool_key(&self) -> Result<SpoolKey> {
        Ok(SpoolKey(self.read_key(&self.config.join("private/spool.key"))?))
    }

    fn read_key(&self, path: &Path) -> Result<Key> {
        let digest: crate::name::Digest = self
            .read(path)?
            .trim()
            .parse()
            .map_err(|bad: crate::name::BadName| Error::Config { path: path.to_path_buf(), what: bad.to_string() })?;
        Ok(Key(digest.0))
    }

    fn read(&self, path: &Path) -> Result<String> {
        std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })
    }

    /// The same; `None` if there is no such file. A file that cannot be read for another reason is there.
    fn read_if_there(&self, path: &Path) -> Result<Option<String>> {
        match self.read(path) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// What `netplumb.toml` says, with defaults for what it does not.
    pub fn settings(&self) -> Result<Settings> {
        let path = self.config.join("netplumb.toml");
        parse(&path, &self.read_if_there(&path)?.unwrap_or_default())
    }

    /// The peer of this name, if we know it.
    pub fn peer(&self, name: &PeerName) -> Result<Option<Peer>> {
        let dir = self.config.join("peers").join(name.as_str());
        let path = dir.join("username");
        let Some(text) = self.read_if_there(&path)? else { return Ok(None) };
        let username =
            text.trim().parse().map_err(|bad: crate::name::BadName| Error::Config { path, what: bad.to_string() })?;
        let path = dir.join("peer.toml");
        let text = self.read_if_there(&path)?.unwrap_or_default();
        let (policy, digest) = (parse(&path, &text)?, Digest::of(text.as_bytes()));
        let request_key = self.read_key(&dir.join("request.key"))?;
        Ok(Some(Peer { name: name.clone(), username, policy, digest, request_key }))
    }

    /// All peers, by username, as far as they can be read; the rest is told to `complain`.
    pub fn peers(&self, complain: impl Fn(&Error)) -> BTreeMap<Username, Peer> {
        let mut roster = Roster::default();
        roster.read(self).iter().for_each(complain);
        roster.into_peers()
    }
}

/// Is there something of this name? An error if that cannot be said.
pub fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

pub(crate) fn check_private(path: &Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::NotOurs(path.to_path_buf()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(Error::Loose { path: path.to_path_buf(), mode: metadata.mode() & 0o7777 });
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text)
        .map_err(|error| Error::Config { path: path.to_path_buf(), what: error.to_string().trim_end().to_string() })
}

/// `netplumb.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What our card says our name is.
    pub name: String,
    /// Where the service listens.
    pub listen: Vec<String>,
    /// Where peers reach us, for our card; empty: where the service listens.
    pub address: Vec<String>,
    /// Days of observed uptime without progress after which a message or job ends.
    pub max_age_days: u64,
    /// Days that a confirmed tombstone stays.
    pub tombstone_days: u64,
    /// Below so many free bytes new work waits.
    pub free_bytes_min: u64,
    /// Below so many free inodes new work waits.
    pub free_inodes_min: u64,
    /// One-time keys that are made ahead.
    pub onetime_keys: usize,
    /// A shell command that is run for each notice, with its text on stdin.
    pub on_notice: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name: String::new(),
            listen: vec!["127.0.0.1:4117".into()],
            address: Vec::new(),
            max_age_days: 7,
            tombstone_days: 30,
            free_bytes_min: 64 << 20,
            free_inodes_min: 1000,
            onetime_keys: 64,
            on_notice: None,
        }
    }
}

impl Settings {
    /// How long things may lie.
    pub fn ages(&self) -> Ages {
        let day = 24 * 60 * 60;
        Ages { idle_max: self.max_age_days.saturating_mul(day), tombstone: self.tombstone_days.saturating_mul(day) }
    }

    /// Is there room for new work?
    pub fn has_room(&self, free: crate::fs::Free) -> bool {
        free.bytes >= self.free_bytes_min && free.inodes >= self.free_inodes_min
    }
}

/// `peer.toml`: where a peer is, and what it may do here. The default is nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Where we dial it, in the order of trying; empty: never.
    pub address: Vec<String>,
    /// Do we dial it?
    pub dial: Dial,
    /// It cannot dial us: we keep connections open to it, over which it asks us.
    pub turn: bool,
    /// May it run any command through the shell, as us?
    pub shell: bool,
    /// Are the channels of jobs that we ask it for compressed?
    pub compress: bool,
    /// Bytes a second to and from it, and when.
    pub bwlimit: Timetable,
    /// Quotas.
    pub quota: Quota,
}

/// Whether a peer is dialled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dial {
    /// Whenever there is something to ask.
    #[default]
    Always,
    /// It keeps connections open to us, over which we ask.
    Never,
}

impl Policy {
    /// The addresses that are dialled: none, if the peer has to call in.
    pub fn dialled(&self) -> &[String] {
        match self.dial {
            Dial::Always => &self.address,
            Dial::Never => &[],
        }
    }

    /// Reads the text of a `peer.toml`.
    pub fn read(text: &str) -> std::result::Result<Policy, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.to_string().trim_end().to_string())
    }
}

/// What a peer may have here at once.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Messages and jobs until they are over and confirmed; beyond it the peer's queue waits.
    pub messages: usize,
    /// Jobs that run.
    pub jobs: usize,
    /// Bytes of a job's logs on our disk, whichever side we are; 0: each log has its window.
    pub job_bytes: Size,
    /// Bytes of the logs of all its jobs on our disk; 0: no bound.
    pub bytes: Size,
}

impl Default for Quota {
    fn default() -> Quota {
        Quota { messages: 1000, jobs: 16, job_bytes: Size(0), bytes: Size(0) }
    }
}

/// A peer that we know.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What we call it.
    pub name: PeerName,
    /// Who it is.
    pub username: Username,
    /// Where it is and what it may do.
    pub policy: Policy,
    /// SHA-256 of the file that says so.
    pub digest: Digest,
    /// Checks its requests, and seals our replies to them.
    pub request_key: Key,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn home() -> (tempfile::TempDir, Home) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["config/certs", "config/private", "config/peers/nas", "spool"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["config", "config/private", "spool"] {
            std::fs::set_permissions(at(name), PermissionsExt::from_mode(0o700)).unwrap();
        }
        std::fs::write(at("config/certs/username"), Username::of_ca(b"us").as_str()).unwrap();
        std::fs::write(at("config/peers/nas/username"), Username::of_ca(b"nas").as_str()).unwrap();
        std::fs::write(at("config/peers/nas/request.key"), "00".repeat(32)).unwrap();
        let home = Home { config: at("config"), spool: at("spool") };
        (directory, home)
    }

    /// Replaces a file by a link to itself: it is there, and no read of it succeeds.
    fn make_unreadable(home: &Home, file: &str) {
        let path = home.config.join(file);
        let _ = std::fs::remove_file(&path);
        symlink(&path, &path).unwrap();
    }

    /// A disk that could not be read made its owner be told to make a new identity.
    #[test]
    fn an_identity_that_cannot_be_read_is_not_missing() {
        let (_directory, home) = home();
        home.check().unwrap();
        make_unreadable(&home, "certs/username");
        let path = home.config.join("certs/username");
        for error in [home.check().unwrap_err(), home.username().unwrap_err()] {
            assert!(matches!(&error, Error::Io { path: told, .. } if *told == path), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        for error in [home.check().unwrap_err(), home.username().unwrap_err()] {
            assert!(matches!(error, Error::NoIdentity(_)), "{error}");
        }
    }

    /// Settings and policies that could not be read counted as the defaults, by
    /// which a peer is allowed nothing.
    #[test]
    fn settings_and_peers_that_cannot_be_read_are_not_the_defaults() {
        let (_directory, home) = home();
        let nas = "nas".parse().unwrap();
        assert!(home.settings().is_ok() && home.peer(&nas).unwrap().is_some(), "they may be missing");
        make_unreadable(&home, "netplumb.toml");
        assert!(matches!(home.settings(), Err(Error::Io { .. })));
        make_unreadable(&home, "peers/nas/peer.toml");
        assert!(matches!(home.peer(&nas), Err(Error::Io { .. })));
        std::fs::remove_file(home.config.join("peers/nas/peer.toml")).unwrap();
        make_unreadable(&home, "peers/nas/username");
        assert!(matches!(home.peer(&nas), Err(Error::Io { .. })));
    }
}
