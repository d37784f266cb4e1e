//! What a message asks for, and the process that does it.
//!
//! `message.rs` says what travels, `submit.rs` makes a job at the sender. At the
//! recipient `gluepot.rs` decides what a peer may run, `keeper.rs` is a job's life
//! on the disk, `process.rs` the process that has the job, `hold.rs` how others
//! see that it has it, `batch.rs` its waiting for the whole input, `run.rs` the
//! loop around a running command with `eyes.rs` for events, `feed.rs` and
//! `drain.rs` for pipes, and `guard.rs` is the command's parent, so that no death
//! of ours can look like an end of file.
//! `account.rs` is what a command finds, `tree.rs` what it leaves, `sys.rs` the
//! system calls without a safe wrapper, and the end of every process of ours. The
//! loop carries the bytes; this crate never dials.

pub mod account;
pub mod batch;
mod drain;
mod eyes;
mod feed;
pub mod gluepot;
mod guard;
pub mod hold;
pub mod keeper;
pub mod message;
pub mod process;
mod run;
pub mod submit;
mod sys;
mod tree;

pub use sys::{exit_now, run_and_exit};

/// What stands against a job, and whose turn that makes it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk; `passes` says whether waiting helps.
    #[error(transparent)]
    Disk(#[from] spool::fs::Error),
    /// The peer sent what it should not have.
    #[error("{0}")]
    Peer(String),
    /// Ours to mend.
    #[error("{0}")]
    Ours(String),
}

impl Error {
    /// What has to pass before the same may succeed: [`spool::fs::Error::passes`].
    pub fn passes(&self) -> Option<&'static str> {
        match self {
            Error::Disk(error) => error.passes(),
            Error::Peer(_) | Error::Ours(_) => None,
        }
    }
}
