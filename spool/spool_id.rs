//! Which spool is a home's own, and in which format it is.
//!
//! Configuration and spool may lie on two disks, and the spool's may be away:
//! what lies at its place then is not the spool. So the two name each other by
//! an id that is made with the keys: `config/spool.id`, and `id` in the spool.
//! Where they differ nothing is made, and nobody is answered from what lies
//! there (doc/SPOOL.md#the-spools-id).

use crate::atomic::Disk;
use crate::clock;
use crate::convert;
use crate::facts::Facts;
use crate::fs::Fs;
use crate::home::{Error, Home, Result};
use crate::layout::{DIRECTORIES, MESSAGE, PARENTS, Place, SPOOL, make_dirs, rest_label};
use crate::look::MESSAGE_REST_MAX;
use crate::name::Nonce;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The format of the files in a spool. Version 1 had no checksums and no id.
pub const FORMAT: u32 = 2;
/// The file in the spool: `id`, `format`, and `made`, the wall clock in seconds at its making.
pub const ID: &str = "id";
/// The file in the configuration that names the spool.
pub const CONFIG_ID: &str = "spool.id";

/// A daemon looks at its spool's `id` each second; one that is stopped does not.
const KEPT_WITHIN: Duration = Duration::from_secs(10);

/// What stands against using a spool.
#[derive(Debug, thiserror::Error)]
pub enum Foreign {
    /// There is nothing at its place.
    #[error("the spool {0} is not there\n  hint: is its disk mounted? A new, empty one is made by: netplumb spool new")]
    Away(PathBuf),
    /// Something is at its place, and it is not this home's spool.
    #[error(
        "{0} is not the spool of this home: it has no id\n  hint: is its disk mounted? If it is the right \
         one all the same: netplumb spool adopt"
    )]
    Nameless(PathBuf),
    /// Another home's spool is at its place.
    #[error("{path} is the spool {found}, and this home's is {wanted}\n  hint: is the right disk mounted?")]
    Another {
        /// Where it lies.
        path: PathBuf,
        /// The id in it.
        found: String,
        /// The id in `config/spool.id`.
        wanted: String,
    },
    /// Its files are of another version of netplumb.
    #[error("the spool {path} is of format {found}, this netplumb uses {FORMAT}\n  hint: {hint}")]
    Format {
        /// Where it lies.
        path: PathBuf,
        /// The format that it is of.
        found: u32,
        /// What can be done.
        hint: &'static str,
    },
}

/// An id that has just been drawn.
fn draw() -> String {
    Nonce(rand::random()).to_string()
}

impl Home {
    /// The id in the configuration; `None` in a home that an older version made.
    fn spool_id(&self) -> Result<Option<String>> {
        let path = self.config.join(CONFIG_ID);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    /// Opens this home's spool, making what is missing in it. Errors: [`Foreign`]
    /// where another spool lies at its place, or none; nothing is made then.
    pub fn open_spool(&self) -> Result<Arc<Disk>> {
        let disk = self.look_at_spool()?;
        for directory in DIRECTORIES {
            make_dirs(&*disk, directory)?;
        }
        Ok(disk)
    }

    /// Like `open_spool`, for whoever only reads: nothing is made.
    pub fn look_at_spool(&self) -> Result<Arc<Disk>> {
        let path = || self.spool.clone();
        let disk = match Disk::open(&self.spool) {
            Err(error) if error.is_absent() => return Err(Foreign::Away(path()).into()),
            other => other?,
        };
        crate::home::check_private(&self.spool)?;
        let Some(wanted) = self.spool_id()? else {
            let hint = "netplumb daemon converts it when it starts";
            return Err(Foreign::Format { path: path(), found: 1, hint }.into());
        };
        let Some(found) = facts(&disk)? else { return Err(Foreign::Nameless(path()).into()) };
        let id = found.text("id").unwrap_or_default();
        if id != wanted {
            return Err(Foreign::Another { path: path(), found: id.to_string(), wanted }.into());
        }
        match found.value("format").unwrap_or(0) {
            FORMAT => Ok(Arc::new(disk)),
            found => {
                let hint = "it was made by a newer one: install that again";
                Err(Foreign::Format { path: path(), found, hint }.into())
            }
        }
    }

    /// Makes an empty spool, durably, and says its id, which the configuration
    /// is to name. One that is there already serves if no job lies in it: an
    /// earlier try was cut short.
    pub fn make_spool(&self) -> Result<String> {
        let disk = Disk::make(&self.spool)?;
        crate::home::check_private(&self.spool)?;
        for place in Place::ALL {
            if !place.ids(&disk)?.is_empty() {
                let what = format!("has messages or jobs in {}; move it away first", place.word());
                return Err(Error::Config { path: self.spool.clone(), what });
            }
        }
        for directory in DIRECTORIES {
            make_dirs(&disk, directory)?;
        }
        if let Some(id) = Facts::read(&disk, ID)?.and_then(|facts| facts.text("id").map(str::to_string)) {
            return Ok(id);
        }
        let id = draw();
        write(&disk, &id, 0)?;
        Ok(id)
    }

    /// Names this spool in the configuration, durably.
    pub fn name_spool(&self, id: &str) -> Result<()> {
        let config = Disk::open(&self.config)?;
        config.hint(CONFIG_ID, format!("{id}\n").as_bytes())?;
        Ok(config.sync_all(&[CONFIG_ID, ""])?)
    }

    /// Takes what lies at the spool's place for this home's spool, whatever its id says.
    pub fn adopt_spool(&self) -> Result<()> {
        let disk = Disk::open(&self.spool)?;
        let id = match self.spool_id()? {
            Some(id) => id,
            None => draw(),
        };
        write(&disk, &id, clock::uptime(&disk)?)?;
        self.name_spool(&id)
    }

    /// Gets the spool ready for being opened, for a starting daemon: one of format
    /// 1 is converted, and one whose `id` was lost gets it back if this home's spool
    /// key opens something in it. Says in a sentence what was done, if anything.
    pub fn prepare_spool(&self) -> Result<Option<&'static str>> {
        let path = || self.spool.clone();
        let disk = match Disk::open(&self.spool) {
            Err(error) if error.is_absent() => return Err(Foreign::Away(path()).into()),
            other => other?,
        };
        if !PARENTS.iter().all(|parent| disk.exists(parent)) {
            return Err(Foreign::Nameless(path()).into());
        }
        let (wanted, found) = (self.spool_id()?, Facts::read(&disk, ID)?);
        match (wanted, found) {
            (Some(_), Some(_)) => Ok(None),
            (Some(wanted), None) if self.has_sealed(&disk)? => {
                write(&disk, &wanted, clock::uptime(&disk)?)?;
                Ok(Some("the spool had lost its id, and has it again: our key opens what lies in it"))
            }
            (Some(_), None) => Ok(None),
            (None, found) => {
                if convert::is_in_use(&disk)? {
                    let hint = "an older netplumb works on it: end its daemon, its plumbs and its jobs first";
                    return Err(Foreign::Format { path: path(), found: 1, hint }.into());
                }
                let uptime = convert::convert(&disk)?;
                // A crash may have come between the two names.
                let id = found.and_then(|facts| facts.text("id").map(str::to_string)).unwrap_or_else(draw);
                write(&disk, &id, uptime)?;
                self.name_spool(&id)?;
                Ok(Some("the spool was of format 1, and was converted to format 2"))
            }
        }
    }

    /// Does something lie there that was sealed with this home's spool key?
    fn has_sealed(&self, fs: &dyn Fs) -> Result<bool> {
        let key = self.spool_key()?;
        for entry in fs.list("onetime")? {
            let sealed = fs.read_if_sound(&format!("onetime/{}/key", entry.name), 256)?;
            if sealed.is_some_and(|sealed| key.open(&format!("onetime {}", entry.name), &sealed).is_ok()) {
                return Ok(true);
            }
        }
        for place in Place::ALL {
            for msgid in place.ids(fs)? {
                let message = fs.read_if_sound(&place.file(msgid, MESSAGE), MESSAGE_REST_MAX)?;
                if message.is_some_and(|message| key.open(&rest_label(MESSAGE, msgid), &message).is_ok()) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Reads `id`. Where it is lost and a living daemon has the spool, that writes it again soon.
fn facts(disk: &Disk) -> Result<Option<Facts>> {
    let begun = Instant::now();
    loop {
        let found = Facts::read(disk, ID)?;
        if found.is_some() || begun.elapsed() >= KEPT_WITHIN || !disk.is_locked(SPOOL)? {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes `id`, in place of whatever is there; durable afterwards. A spool that
/// has this observed uptime was made so long ago at least.
fn write(fs: &dyn Fs, id: &str, uptime: u64) -> Result<()> {
    let made = clock::wall().saturating_sub(uptime);
    Facts::new().with("id", id).with("format", FORMAT).with("made", made).hint(fs, ID)?;
    Ok(fs.sync_all(&[ID, ""])?)
}

/// Writes `id` again where it was lost while the spool was in use: `facts` are those that were read from it.
pub fn keep(fs: &dyn Fs, facts: &Facts) -> crate::fs::Result<bool> {
    let lost = Facts::read(fs, ID)?.as_ref() != Some(facts);
    if lost {
        facts.hint(fs, ID)?;
    }
    Ok(lost)
}
