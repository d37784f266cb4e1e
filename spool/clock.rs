//! Time and chance, as arguments.
//!
//! Intervals come from a clock that never jumps. Age is observed uptime: the
//! seconds that daemons of this home have been running, kept in the file
//! `clock`; the wall clock decides nothing (doc/SPOOL.md#clock).

use crate::fs::{Fs, Result};
use crate::log::hinted;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where the observed uptime in seconds is kept.
pub const CLOCK: &str = "clock";

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

/// The observed uptime in seconds, as last noted. One that cannot be read is
/// no zero: what is born at zero is old as soon as it can.
pub fn uptime(fs: &dyn Fs) -> Result<u64> {
    hinted(fs, CLOCK)
}

/// Notes that the daemon has been running for another while.
pub fn tick(fs: &dyn Fs, seconds: u64) -> Result<()> {
    crate::log::hint(fs, CLOCK, uptime(fs)?.saturating_add(seconds))
}

/// Names this run of the machine: what a process left unsynced before another boot may be lost.
/// Read once: a process that later shuts itself in keeps it.
pub fn boot() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string();
    BOOT.get_or_init(read).clone()
}
