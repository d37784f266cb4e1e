//! Where everything lies in the spool: the one place that joins names to paths.
//!
//! The table of files, who writes each and which mark promises it, is
//! doc/SPOOL.md; the names here are its names.

use crate::clock;
use crate::facts::Facts;
use crate::fs::{Error, Fs, Kind, ODD, Result};
use crate::name::{Chan, Digest, KeyId, MsgId, Role, Username, decimal};

/// The fixed parents, which the daemon watches (`onetime` and the rest it does not need to).
pub const PARENTS: [&str; 4] = ["queue", "rqueue", "jobs", "running"];
/// All directories that a spool has.
pub const DIRECTORIES: [&str; 8] = ["onetime", "queue", "rqueue", "jobs", "running", "hold", "notices", ODD];

/// The spool's own directory: whoever holds its lock is the daemon. No name below it can lose that.
pub const SPOOL: &str = "";

/// Does a daemon look after this spool?
pub fn has_daemon(fs: &dyn Fs) -> Result<bool> {
    fs.is_locked(SPOOL)
}

/// One of the three directories that a message or job can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Messages on their way out.
    Queue,
    /// Messages on their way in.
    Rqueue,
    /// Jobs, in both directions; also the tombstones.
    Jobs,
}

impl Place {
    /// All of them.
    pub const ALL: [Place; 3] = [Place::Queue, Place::Rqueue, Place::Jobs];

    /// The directory's name, and the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Place::Queue => "queue",
            Place::Rqueue => "rqueue",
            Place::Jobs => "jobs",
        }
    }

    /// The place with this name.
    pub fn of(word: &str) -> Option<Place> {
        Place::ALL.into_iter().find(|place| place.word() == word)
    }

    /// `queue/<msgid>`
    pub fn dir(self, msgid: MsgId) -> String {
        format!("{}/{msgid}", self.word())
    }

    /// `queue/<msgid>/<name>`
    pub fn file(self, msgid: MsgId, name: &str) -> String {
        format!("{}/{msgid}/{name}", self.word())
    }

    /// The messages that lie here.
    pub fn ids(self, fs: &dyn Fs) -> Result<Vec<MsgId>> {
        let entries = fs.list(self.word())?;
        Ok(entries.into_iter().filter(|entry| entry.is_dir).filter_map(|entry| entry.name.parse().ok()).collect())
    }
}

/// A message's content, sealed under the spool key.
pub const MESSAGE: &str = "message";
/// Whose it is: [`Owner`].
pub const PEER: &str = "peer";
/// A message that is sealed to its recipient.
pub const SEALED: &str = "sealed";
/// The recipient's one-time certificate, at the sender.
pub const ONETIME_PEM: &str = "onetime.pem";
/// The one-time key that was set aside, at its maker: a directory.
pub const ONETIME: &str = "onetime";
/// A job's secret, sealed under the spool key, at the sender.
pub const KEY: &str = "key";
/// The lock that `plumb` holds for its life.
pub const PLUMB: &str = "plumb";
/// Locks of those who read a job's output along begin so: it is not forgotten under them.
pub const ALONG: &str = "along.";
/// Nobody need wait for the job; `input` says whether its input has `ended` or is still `open`.
pub const DETACHED: &str = "detached";
/// A job's priority, where it is not the normal one.
pub const PRIORITY: &str = "priority";
/// Why it waits; written by the daemon.
pub const WHY: &str = "why";

/// `onetime/<keyid>`
pub fn onetime(keyid: KeyId) -> String {
    format!("onetime/{keyid}")
}

/// `running/<msgid>`: whoever holds its lock is the job's keeper.
pub fn running(msgid: MsgId) -> String {
    format!("running/{msgid}")
}

/// `hold/<msgid>`: a message that somebody put aside.
pub fn hold(msgid: MsgId) -> String {
    format!("hold/{msgid}")
}

/// `jobs/<msgid>/in`: all logs that we consume; its lock is held by whoever pulls them.
pub fn log_in_all(msgid: MsgId) -> String {
    format!("jobs/{msgid}/in")
}

/// `jobs/<msgid>/in/<chan>`: the log that we consume.
pub fn log_in(msgid: MsgId, chan: Chan) -> String {
    format!("jobs/{msgid}/in/{chan}")
}

/// `jobs/<msgid>/out/<chan>`: the log that we produce.
pub fn log_out(msgid: MsgId, chan: Chan) -> String {
    format!("jobs/{msgid}/out/{chan}")
}

/// The outputs of a job that may be run again, until it has ended: the service does not look there.
pub const HELD: &str = "held";

/// `jobs/<msgid>/held/<chan>`: an output that is offered as `out/<chan>` from `run.exit` on.
pub fn log_held(msgid: MsgId, chan: Chan) -> String {
    format!("jobs/{msgid}/{HELD}/{chan}")
}

/// `jobs/<msgid>/run.again.<k>`: the command may have been started so many times after the first.
pub fn run_again(msgid: MsgId, k: u64) -> String {
    format!("jobs/{msgid}/{RUN_AGAIN}{k}")
}

/// How often a command may have been started after the first time.
pub fn runs_again(fs: &dyn Fs, msgid: MsgId) -> Result<u64> {
    let entries = fs.list(&Place::Jobs.dir(msgid))?;
    let counts = entries.iter().filter_map(|entry| decimal(entry.name.strip_prefix(RUN_AGAIN)?));
    Ok(counts.max().unwrap_or(0))
}

/// What those names begin with.
const RUN_AGAIN: &str = "run.again.";

/// The channels that have a log in `jobs/<msgid>/<side>`, in order.
pub fn channels(fs: &dyn Fs, msgid: MsgId, side: &str) -> Result<Vec<Chan>> {
    let entries = fs.list(&Place::Jobs.file(msgid, side))?;
    let mut channels: Vec<Chan> =
        entries.iter().filter_map(|entry| decimal(&entry.name).and_then(|n| n.try_into().ok()).map(Chan)).collect();
    channels.sort_unstable();
    Ok(channels)
}

/// Makes a directory with its parents below an existing one, unless it is there.
/// Anything else that has one of their names is moved aside.
pub fn make_dirs(fs: &dyn Fs, path: &str) -> Result<()> {
    match fs.make_dir(path) {
        Err(error) if error.is_taken() => match clear(fs, path)? {
            true => fs.make_dir(path),
            false => Ok(()),
        },
        Err(error) if error.is_absent() || matches!(error, Error::Damaged { .. }) => {
            let Some((parent, _)) = path.rsplit_once('/') else { return Err(error) };
            make_dirs(fs, parent)?;
            fs.make_dir(path).or_else(|error| if error.is_taken() { Ok(()) } else { Err(error) })
        }
        other => other,
    }
}

/// Moves aside whatever lies at the name of a directory and is none; says whether there was such a thing.
pub fn clear(fs: &dyn Fs, path: &str) -> Result<bool> {
    let odd = fs.stat(path)?.is_some_and(|stat| stat.kind != Kind::Dir);
    if odd {
        fs.aside(path)?;
    }
    Ok(odd)
}

/// Says that something in a directory changed; the daemon will look.
pub fn touch(fs: &dyn Fs, place: Place, msgid: MsgId) {
    // A lost touch costs a retry interval, no more.
    let _ = fs.touch(&place.dir(msgid));
}

/// The `peer` file of every directory: whose it is, which side we are on, since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The other side.
    pub username: Username,
    /// Our side.
    pub role: Role,
    /// Observed uptime in seconds when the directory was made.
    pub born: u64,
    /// The run of the machine in which it was made.
    pub boot: String,
    /// SHA-256 of the plaintext message, at the sender: what a receipt must be for.
    pub digest: Option<Digest>,
}

impl Owner {
    /// An owner as of this moment.
    pub fn new(fs: &dyn Fs, username: Username, role: Role, digest: Option<Digest>) -> Result<Owner> {
        Ok(Owner { username, role, born: clock::uptime(fs)?, boot: clock::boot(), digest })
    }

    /// The lines of the file.
    pub fn facts(&self) -> Facts {
        Facts::new()
            .with("username", &self.username)
            .with("role", self.role.word())
            .with("born", self.born)
            .with("boot", &self.boot)
            .with_some("digest", self.digest)
    }

    /// Reads the file in a directory; `None` if it is not there, or cannot be believed.
    pub fn read(fs: &dyn Fs, dir: &str) -> Result<Option<Owner>> {
        Ok(Facts::read(fs, &format!("{dir}/{PEER}"))?.and_then(|facts| Owner::of_facts(&facts)))
    }

    fn of_facts(facts: &Facts) -> Option<Owner> {
        let role = [Role::Sender, Role::Recipient].into_iter().find(|role| facts.text("role") == Some(role.word()))?;
        let username = facts.value("username")?;
        let born = facts.value("born").unwrap_or(0);
        let boot = facts.text("boot").unwrap_or_default().to_string();
        Some(Owner { username, role, born, boot, digest: facts.value("digest") })
    }
}

/// What binds a file that is sealed at rest to its place.
pub fn rest_label(file: &str, msgid: MsgId) -> String {
    format!("{file} {msgid}")
}
