//! `netplumb service`.

use spool::home::Home;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Answers peers until standard input ends. Standard output has one line for
/// each peer that is heard, for the daemon; everything else is on stderr.
pub fn run(_args: Args) -> anyhow::Result<()> {
    crate::logging();
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
    Ok(service.serve(std::io::stdin(), std::io::stdout())?)
}
