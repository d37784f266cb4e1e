//! The signals that travel to the remote command, or end the wait for it.
//!
//! What was ignored when we were started stays ignored, as nohup(1) and a
//! shell's background jobs want it. A broken pipe is never a signal here: the
//! runtime ignores SIGPIPE, and writes say it.

use crate::bell::{Bell, Event};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::time::Instant;

/// All of them.
const TRAVELLING: [i32; 6] = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2];

/// Would this signal end a command that does not expect it, as a wish of its user?
pub fn ends(signal: i32) -> bool {
    matches!(signal, SIGINT | SIGQUIT | SIGTERM | SIGHUP)
}

/// The signal that leaves a job to itself, if it comes twice.
pub const INTERRUPT: i32 = SIGINT;

/// The name of a signal.
pub fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}

/// From here on signals are events.
pub fn listen(bell: Bell) -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored(&status);
    let mut signals = Signals::new(TRAVELLING.iter().filter(|&&signal| ignored & (1 << (signal - 1)) == 0))?;
    let listener = std::thread::Builder::new().name("signals".into());
    listener.spawn(move || signals.forever().for_each(|signal| bell.ring(Event::Signal(signal, Instant::now()))))?;
    Ok(())
}

/// The signals that are ignored, one bit for each, from proc(5).
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_found() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), 0x1001);
        assert_eq!(ignored("nothing of the kind"), 0);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(ignored(&status) & (1 << 12), 1 << 12, "the runtime ignores SIGPIPE");
    }
}
