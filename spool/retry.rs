//! When to try again: the one schedule of retries (doc/PROTOCOL.md#retries).
//!
//! 100 ms doubling to a ceiling, each delay drawn anew from zero up to its
//! bound (full jitter), independently for every message: from any state some
//! order of tries leads out, so random ones find it.

use crate::clock::Rng;
use std::time::Duration;

/// How long a try may wait at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ceiling {
    /// A job is live and its peer spoke within ten minutes.
    Live,
    /// A `plumb` waits in the foreground.
    Foreground,
    /// Nobody is watching.
    Background,
}

impl Ceiling {
    /// The longest delay.
    pub fn delay_max(self) -> Duration {
        match self {
            Ceiling::Live => Duration::from_secs(1),
            Ceiling::Foreground => Duration::from_secs(15),
            Ceiling::Background => Duration::from_secs(60),
        }
    }
}

/// The first bound.
const FIRST: Duration = Duration::from_millis(100);
/// After one authentic word the next try comes within this.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Counts failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// An authentic word came: the next delay is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Draws the delay before the next try.
    pub fn delay(&mut self, ceiling: Ceiling, rng: &dyn Rng) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(ceiling.delay_max());
        self.failures = self.failures.saturating_add(1);
        Duration::from_micros(rng.below(bound.as_micros() as u64 + 1))
    }

    /// Draws the delay after a try that brought an authentic word and no end.
    pub fn soon(rng: &dyn Rng) -> Duration {
        Duration::from_micros(rng.below(AT_ONCE.as_micros() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::System;

    #[test]
    fn delays_grow_to_their_ceiling_and_differ() {
        let mut backoff = Backoff::default();
        let delays: Vec<Duration> = (0..200).map(|_| backoff.delay(Ceiling::Foreground, &System::default())).collect();
        assert!(delays[0] <= FIRST);
        assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(15)));
        assert!(delays[20..].iter().any(|delay| *delay > Duration::from_secs(7)));
        assert!(delays[20..].windows(2).any(|pair| pair[0] != pair[1]));
    }
}
