//! Time and chance, as arguments.
//!
//! Intervals come from a clock that never jumps. Age is observed uptime: the
//! seconds that daemons of this home have been running, kept in the file
//! `clock`; the wall clock decides nothing (doc/SPOOL.md#clock).

use crate::facts::Facts;
use crate::fs::{Fs, Result};
use crate::layout::{Owner, Place};
use crate::log::hinted;
use crate::phase::Mark;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the observed uptime in seconds is kept.
pub const CLOCK: &str = "clock";
/// The directory in which that lies.
const ROOT: &str = "";
/// By so much the observed uptime may go beyond the age of the spool before it is doubted.
const DAY: u64 = 24 * 60 * 60;

/// A clock that never jumps.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
}

/// A source of chance. Retries must be random: convergence needs it.
pub trait Rng: Send + Sync {
    /// Fills `bytes` with chance.
    fn fill(&self, bytes: &mut [u8]);

    /// A number below `end`, which is at least 1.
    fn below(&self, end: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_be_bytes(bytes) % end.max(1)
    }
}

/// The machine's own clock and chance.
#[derive(Clone, Copy)]
pub struct System {
    started: Instant,
}

impl Default for System {
    fn default() -> System {
        System { started: Instant::now() }
    }
}

impl Clock for System {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Rng for System {
    fn fill(&self, bytes: &mut [u8]) {
        rand::Rng::fill_bytes(&mut rand::rng(), bytes);
    }
}

/// The observed uptime in seconds, as last noted. Where the note is lost, damaged
/// or cannot be right, the latest time that is noted anywhere else: were that in
/// the future, its directory would not age until the uptime has come there,
/// perhaps in years. A note that cannot be read at the moment is not lost.
pub fn uptime(fs: &dyn Fs) -> Result<u64> {
    match noted(fs)? {
        Some(note) if note.is_possible(wall()) => Ok(note.uptime),
        Some(_) | None => latest(fs),
    }
}

/// What the file `clock` says.
struct Note {
    uptime: u64,
    /// The wall clock when the spool was made, if that is known.
    made: Option<u64>,
}

impl Note {
    /// A spool cannot have been in use for longer than since it was made. A wall
    /// clock that was set back proves nothing.
    fn is_possible(&self, wall: u64) -> bool {
        let age = self.made.and_then(|made| wall.checked_sub(made));
        age.is_none_or(|age| self.uptime <= age.saturating_add(DAY))
    }
}

fn noted(fs: &dyn Fs) -> Result<Option<Note>> {
    let facts = Facts::read(fs, CLOCK)?;
    Ok(facts.and_then(|facts| Some(Note { uptime: facts.value("uptime")?, made: facts.value("made") })))
}

/// Seconds since 1970 by the wall clock, which people set as they like.
pub fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The latest birth, mark or sign of life in any directory of a message or job.
fn latest(fs: &dyn Fs) -> Result<u64> {
    let mut latest = 0;
    for place in Place::ALL {
        for dir in place.ids(fs)?.into_iter().map(|msgid| place.dir(msgid)) {
            let born = Owner::read(fs, &dir)?.map_or(0, |owner| owner.born);
            latest = latest.max(born).max(hinted(fs, &format!("{dir}/alive"))?);
            for mark in Mark::ALL {
                let facts = Facts::read(fs, &format!("{dir}/{}", mark.name()))?;
                latest = latest.max(facts.and_then(|facts| facts.value("at")).unwrap_or(0));
            }
        }
    }
    Ok(latest)
}

/// The daemon's own hold on the clock.
#[derive(Default)]
pub struct Keeper {
    /// What it noted last. Nobody else notes anything.
    last: Option<u64>,
}

impl Keeper {
    /// Notes that the daemon has been running for another while: durable
    /// afterwards; a power cut meanwhile may leave a damaged note, which is lost.
    /// A note that leapt since the last one is doubted; gives the sentence for the log.
    pub fn tick(&mut self, fs: &dyn Fs, seconds: u64) -> Result<Option<String>> {
        let (noted, wall) = (noted(fs)?, wall());
        let before = match self.last {
            Some(last) => last,
            None => uptime(fs)?,
        };
        let doubt = noted.as_ref().filter(|note| note.uptime > before).map(|note| {
            let noted = note.uptime;
            format!("the clock says {noted} s of uptime, and {before} s are known: it is doubted, and set back")
        });
        let now = before.saturating_add(seconds);
        let id = Facts::read(fs, crate::spool_id::ID)?;
        let made = id.and_then(|facts| facts.value::<u64>("made")).or(noted.and_then(|note| note.made));
        Facts::new().with("uptime", now).with_some("made", made.filter(|made| *made <= wall)).hint(fs, CLOCK)?;
        fs.sync_all(&[CLOCK, ROOT])?;
        self.last = Some(now);
        Ok(doubt)
    }
}

/// Names this run of the machine: what a process left unsynced before another boot may be lost.
/// Read once: a process that later shuts itself in keeps it.
pub fn boot() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string();
    BOOT.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Disk;
    use crate::name::{MsgId, Role, Username};

    const YEAR: u64 = 365 * 24 * 3600;

    fn disk() -> (tempfile::TempDir, Disk) {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        (directory, disk)
    }

    fn set(disk: &Disk, uptime: u64) {
        Facts::new().with("uptime", uptime).hint(disk, CLOCK).unwrap();
    }

    /// A note that was lost began again at 0: what had a time already did not
    /// age until the uptime came there, and nothing of it was ever too old.
    #[test]
    fn a_lost_note_begins_at_the_latest_time_that_is_known() {
        let (_directory, disk) = disk();
        assert_eq!(uptime(&disk).unwrap(), 0);
        let (msgid, dir) = (MsgId([1; 20]), Place::Jobs.dir(MsgId([1; 20])));
        crate::layout::make_dirs(&disk, &dir).unwrap();
        Keeper::default().tick(&disk, YEAR).unwrap();
        let owner = Owner::new(&disk, Username::of_ca(b"a"), Role::Recipient, None).unwrap();
        owner.facts().hint(&disk, &Place::Jobs.file(msgid, crate::layout::PEER)).unwrap();
        Keeper::default().tick(&disk, 60).unwrap();
        assert_eq!(uptime(&disk).unwrap(), YEAR + 60);
        for lost in [&b""[..], b"\0\0\0", b"x\n", b"999999999999\n"] {
            disk.hint(CLOCK, lost).unwrap();
            assert_eq!(uptime(&disk).unwrap(), YEAR);
        }
        let exit = format!("{dir}/{}", Mark::RunExit.name());
        Facts::new().with("at", YEAR + 30).hint(&disk, &exit).unwrap();
        disk.remove(CLOCK).unwrap();
        assert_eq!(uptime(&disk).unwrap(), YEAR + 30);
        crate::log::hint(&disk, &format!("{dir}/alive"), YEAR + 40).unwrap();
        Keeper::default().tick(&disk, 60).unwrap();
        assert_eq!(uptime(&disk).unwrap(), YEAR + 100);
    }

    /// Running commands were killed when somebody wrote a large number there.
    #[test]
    fn a_note_that_leaps_is_doubted_and_said() {
        let (_directory, disk) = disk();
        let mut keeper = Keeper::default();
        assert_eq!(keeper.tick(&disk, 60).unwrap(), None);
        set(&disk, YEAR);
        let doubt = keeper.tick(&disk, 60).unwrap().expect("it is said");
        assert!(doubt.contains("31536000") && uptime(&disk).unwrap() == 120, "{doubt}");
        // Another daemon does not know what the last one noted, but how old the spool is.
        let made = wall() - 3600;
        Facts::new().with("made", made).hint(&disk, crate::spool_id::ID).unwrap();
        keeper.tick(&disk, 0).unwrap();
        Facts::new().with("uptime", YEAR).with("made", made).hint(&disk, CLOCK).unwrap();
        assert_eq!(uptime(&disk).unwrap(), 0, "nobody else believes it either");
        assert!(Keeper::default().tick(&disk, 0).unwrap().is_some());
    }

    #[test]
    fn an_uptime_at_its_end_stands_still() {
        let (_directory, disk) = disk();
        set(&disk, u64::MAX);
        assert_eq!(Keeper::default().tick(&disk, 60).unwrap(), None);
        assert_eq!(uptime(&disk).unwrap(), u64::MAX);
    }
}
