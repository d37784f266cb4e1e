//! `netplumb service`.

use crate::fail::{IO, fail};
use spool::alive::ALIVE;
use spool::home::Home;
use std::fs::File;
use std::io::Write;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Answers peers until standard input ends. Standard output has one line for
/// each peer that is heard, and signs of life, for the daemon; everything else is on stderr.
pub fn run(_args: Args) -> anyhow::Result<()> {
    crate::logging();
    // A disk may be slow: from here on it lives.
    let _ = writeln!(std::io::stdout(), "{ALIVE}");
    let stdout = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
        .map_err(|errno| fail(IO, format!("cannot use stdout: {errno}")))?;
    let home = Home::find()?;
    home.check()?;
    let service = ::service::Service::bind(&home)?;
    for address in service.addresses() {
        tracing::info!("listening on {address}");
    }
    if service.addresses().is_empty() {
        tracing::info!("listening on nothing: peers ask over connections that we keep open to them");
    }
    service.confine();
    // Past the lock of `std::io::stdout`, which a thread that waits for the daemon would hold at our end.
    Ok(service.serve(std::io::stdin(), File::from(stdout))?)
}
