//! `netplumb spool`: which directory is this home's spool.

use crate::fail::{CANNOT_CREATE, fail};
use spool::home::Home;

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Makes a new, empty spool for this identity, where the old one is lost for
    /// good. Peers learn that their jobs here are gone.
    New,
    /// Takes the directory that lies at the spool's place for this home's spool,
    /// though its id is lost or another one: after a move or a restored copy.
    Adopt,
}

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let home = Home::find()?;
    home.check_config()?;
    match args.what {
        What::New => {
            let id = home.make_spool().map_err(|error| fail(CANNOT_CREATE, error))?;
            home.name_spool(&id)?;
            println!("{}: a new spool, {id}", home.spool.display());
        }
        What::Adopt => {
            home.adopt_spool()?;
            home.open_spool()?;
            println!("{}: this home's spool from here on", home.spool.display());
        }
    }
    Ok(())
}
