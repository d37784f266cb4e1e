//! What may wait a moment for more of its kind, and what may not.
//!
//! A chatty job moves a few bytes at a time. Were each made durable, and told,
//! by itself, its next bytes would wait behind that for the disk and the link.
//! Waiting delays only when the producer may forget: nothing is told that is
//! not durable (doc/PROTOCOL.md#streams).

use std::time::Duration;
use tokio::time::Instant;

/// So many bytes wait for nothing: a window is soon full of them.
const ENOUGH: u64 = 1 << 20;

/// Bytes that gather, since a moment that this remembers.
pub struct Gather {
    patience: Duration,
    since: Option<Instant>,
}

impl Gather {
    /// Nothing waits yet; what does will not for longer than this.
    pub fn new(patience: Duration) -> Gather {
        Gather { patience, since: None }
    }

    /// So many bytes wait: have they gathered for long enough, or are they enough?
    pub fn is_due(&mut self, bytes: u64) -> bool {
        if bytes == 0 {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        bytes >= ENOUGH || since.elapsed() >= self.patience
    }

    /// Waits until they have; for ever if none wait.
    pub async fn due(&self) {
        match self.since {
            Some(since) => tokio::time::sleep_until(since + self.patience).await,
            None => std::future::pending().await,
        }
    }
}
