//! `netplumb daemon`.

use crate::fail::{IO, UNAVAILABLE, fail};
use daemon::{Error, Supervisor};
use spool::home::Home;

/// The words after the verb.
#[derive(clap::Args)]
#[command(after_help = "TERM ends it (running jobs go on), HUP reads the configuration again, USR1 tries \
everything now.\nPLUMB_LOG=debug says more; PLUMB_NO_INOTIFY=1 polls.")]
pub struct Args {}

/// Does it.
pub fn run(_args: Args) -> anyhow::Result<()> {
    crate::logging();
    let home = Home::find()?;
    home.check()?;
    if let Some(done) = home.prepare_spool()? {
        tracing::warn!("{done}");
    }
    let program = std::env::current_exe().map_err(|error| fail(IO, format!("cannot find ourselves: {error}")))?;
    let (mut supervisor, remote) = Supervisor::new(program, home);
    supervisor.inotify = std::env::var_os("PLUMB_NO_INOTIFY").is_none_or(|value| value.is_empty() || value == "0");
    remote.obey_signals().map_err(as_failure)?;
    supervisor.run().map_err(as_failure)
}

fn as_failure(error: Error) -> anyhow::Error {
    match error {
        Error::Busy(_) => fail(UNAVAILABLE, error),
        Error::Home(error) => error.into(),
        Error::Spool(error) => error.into(),
        Error::System(_) => fail(IO, error),
    }
}
