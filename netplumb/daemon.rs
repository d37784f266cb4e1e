//! `netplumb daemon`.

use crate::fail::{IO, UNAVAILABLE, fail};
use daemon::{Error, Supervisor};
use spool::alive;
use spool::atomic::Disk;
use spool::home::Home;
use std::path::Path;
use std::time::Duration;

/// How long another daemon may take for its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

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
    let spool = home.spool.clone();
    let (mut supervisor, remote) = Supervisor::new(program, home);
    supervisor.inotify = std::env::var_os("PLUMB_NO_INOTIFY").is_none_or(|value| value.is_empty() || value == "0");
    let failed = |error| as_failure(error, &spool);
    remote.obey_signals().map_err(failed)?;
    supervisor.run().map_err(failed)
}

/// Says that the other daemon does not answer, if that is so.
fn other(spool: &Path) -> String {
    let asked = Disk::open(spool).map(|disk| alive::ask(&disk, ANSWER_WAIT));
    let Ok(Err(trouble)) = asked else { return String::new() };
    format!(", and {}\n  hint: {}", trouble.what(), trouble.hint())
}

fn as_failure(error: Error, spool: &Path) -> anyhow::Error {
    match error {
        Error::Busy(_) => fail(UNAVAILABLE, format!("{error}{}", other(spool))),
        Error::Home(error) => error.into(),
        Error::Spool(error) => error.into(),
        Error::System(_) => fail(IO, error),
    }
}
