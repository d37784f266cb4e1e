//! When to look: watch, schedule, supervise.
//!
//! `watch.rs` and `scan.rs` notice that something happened in the spool,
//! `schedule.rs` (with `ready.rs`) decides what is looked at next, the worker
//! looks. `supervisor.rs` keeps service and worker alive, `door.rs` answers whoever
//! asks whether they are, `keepers.rs` starts a keeper for each job, `waited.rs` notices a `plumb` that died, `left.rs` a job that
//! was removed while it waited to be heard of, `why.rs` and
//! `clerk.rs` write what people read.
//! Invariants: no keys, no network, nothing of its own on the disk that anyone
//! decides by; killed at any point, it is replaced by one that looks at everything.

mod child;
mod clerk;
mod door;
mod hopes;
mod keepers;
mod left;
mod ready;
mod scan;
pub mod schedule;
mod session;
mod steps;
mod supervisor;
mod waited;
pub mod watch;
mod why;

pub use supervisor::{Remote, Supervisor};

use std::path::PathBuf;

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one is there.
    #[error("another daemon works on {0}")]
    Busy(PathBuf),
    /// The home is not as it should be.
    #[error(transparent)]
    Home(#[from] spool::home::Error),
    /// The spool cannot be opened.
    #[error(transparent)]
    Spool(#[from] spool::fs::Error),
    /// The system refused signals or a thread.
    #[error("cannot watch signals: {0}")]
    System(std::io::Error),
}

#[cfg(test)]
#[path = "../tests/patience.rs"]
mod patience;
#[cfg(test)]
mod tests;
