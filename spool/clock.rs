//! Time and chance, as arguments.
//!
//! Intervals come from a clock that never jumps. Age is observed uptime: the
//! seconds that daemons of this home have been running, kept in the file
//! `clock`; the wall clock decides nothing (doc/SPOOL.md#clock).

use crate::facts::Facts;
use crate::fs::{Fs, Result};
use crate::layout::{Owner, Place};
use crate::log::{hint, hinted};
use crate::name::decimal;
use crate::phase::Mark;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where the observed uptime in seconds is kept.
pub const CLOCK: &str = "clock";
/// The directory in which that lies.
const ROOT: &str = "";

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

/// The observed uptime in seconds, as last noted. Where the note is lost, the
/// latest time that is noted anywhere else: were that in the future, its
/// directory would not age until the uptime has come there, perhaps in years.
/// One that cannot be read at the moment is not lost.
pub fn uptime(fs: &dyn Fs) -> Result<u64> {
    match fs.read_if_sound(CLOCK, 32)?.and_then(|text| decimal(std::str::from_utf8(&text).ok()?.trim_end())) {
        Some(noted) => Ok(noted),
        None => latest(fs),
    }
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

/// Notes that the daemon has been running for another while. Durable afterwards;
/// a power cut meanwhile may leave an empty note, which is lost.
pub fn tick(fs: &dyn Fs, seconds: u64) -> Result<()> {
    hint(fs, CLOCK, uptime(fs)?.saturating_add(seconds))?;
    fs.sync_all(&[CLOCK, ROOT])
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

    /// A note that was lost began again at 0: what had a time already did not
    /// age until the uptime came there, and nothing of it was ever too old.
    #[test]
    fn a_lost_note_begins_at_the_latest_time_that_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        assert_eq!(uptime(&disk).unwrap(), 0);
        let (msgid, dir) = (MsgId([1; 20]), Place::Jobs.dir(MsgId([1; 20])));
        crate::layout::make_dirs(&disk, &dir).unwrap();
        tick(&disk, YEAR).unwrap();
        let owner = Owner::new(&disk, Username::of_ca(b"a"), Role::Recipient, None).unwrap();
        owner.facts().hint(&disk, &Place::Jobs.file(msgid, crate::layout::PEER)).unwrap();
        tick(&disk, 60).unwrap();
        assert_eq!(uptime(&disk).unwrap(), YEAR + 60);
        for lost in [&b""[..], b"\0\0\0", b"x\n"] {
            disk.hint(CLOCK, lost).unwrap();
            assert_eq!(uptime(&disk).unwrap(), YEAR);
        }
        Facts::new().with("at", YEAR + 30).hint(&disk, &format!("{dir}/{}", Mark::RunExit.name())).unwrap();
        disk.remove(CLOCK).unwrap();
        assert_eq!(uptime(&disk).unwrap(), YEAR + 30);
        hint(&disk, &format!("{dir}/alive"), YEAR + 40).unwrap();
        tick(&disk, 60).unwrap();
        assert_eq!(hinted(&disk, CLOCK).unwrap(), YEAR + 100);
    }

    #[test]
    fn an_uptime_at_its_end_stands_still() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        hint(&disk, CLOCK, u64::MAX).unwrap();
        tick(&disk, 60).unwrap();
        assert_eq!(uptime(&disk).unwrap(), u64::MAX);
    }
}
