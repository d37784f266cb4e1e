//! Two homes of ours, with their daemons.

use crate::stage::{command, free_port, listening, start, told};
use std::path::{Path, PathBuf};
use std::process::Command;

const NETPLUMB: &str = env!("CARGO_BIN_EXE_netplumb");
/// The program that is measured.
pub const PLUMB: &str = env!("CARGO_BIN_EXE_plumb");

/// Two peers that know each other and are up.
pub struct Netplumb {
    system: String,
    /// The home of a, which knows b.
    pub here: PathBuf,
}

impl Netplumb {
    /// Makes them below a directory. They end with the stage.
    pub fn up(system: &str, below: &Path) -> anyhow::Result<Netplumb> {
        let homes = ["a", "b"].map(|name| below.join(name));
        let ports = [free_port()?, free_port()?];
        let netplumb = |home: &Path, words: &[&str]| {
            let mut netplumb = command(system, NETPLUMB);
            netplumb.env("NETPLUMB_HOME", home).env("PLUMB_LOG", "error").args(words);
            netplumb
        };
        for (home, (name, port)) in homes.iter().zip(["a", "b"].into_iter().zip(ports)) {
            told(netplumb(home, &["keygen", "--name", name, "--listen", &format!("127.0.0.1:{port}")]))?;
        }
        let card = below.join("card");
        for (one, two) in [(0, 1), (1, 0)] {
            std::fs::write(&card, told(netplumb(&homes[two], &["card"]))?)?;
            let (name, address) = (["a", "b"][two], format!("127.0.0.1:{}", ports[two]));
            let mut add = netplumb(&homes[one], &["peer", "add", name]);
            add.arg(&card).args(["--address", &address, "--allow-shell"]);
            told(add)?;
        }
        for (home, port) in homes.iter().zip(ports) {
            start(system, netplumb(home, &["daemon"]), &below.join("log"))?;
            listening(port)?;
        }
        Ok(Netplumb { system: system.into(), here: homes[0].clone() })
    }

    /// `plumb b` with this command.
    pub fn plumb(&self, remote: &str) -> Command {
        let mut plumb = command(&self.system, PLUMB);
        plumb.env("NETPLUMB_HOME", &self.here).env("PLUMB_NO_PROGRESS", "1").args(["b", remote]);
        plumb
    }
}
