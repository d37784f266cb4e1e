//! Clients that know nothing of us, with `plumb` and with `ssh` as their remote shell.

use crate::netplumb::{Netplumb, PLUMB};
use crate::ssh::Ssh;
use crate::stage::{Stage, command, timed};
use crate::{account, table};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SYSTEMS: [&str; 2] = ["plumb, spool on disk", "ssh, new connection"];
const TASKS: [&str; 2] = ["rsync -a", "borg create"];

/// Measures so many rounds of a tree of so many bytes in so many files, and prints them.
pub fn measure(stage: &Stage, size: u64, files: u64, rounds: usize) -> anyhow::Result<()> {
    let below = stage.on_disk("clients")?;
    let tree = below.join("tree");
    plant(&tree, size, files)?;
    let mut seconds: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 1..=rounds {
        for (system, name) in SYSTEMS.iter().enumerate() {
            let to = tempfile::tempdir_in(&below)?;
            let shell = Shell::up(stage, system, to.path())?;
            stage.quiet();
            let rsync = shell.rsync(&tree, to.path());
            stage.quiet();
            let took = [rsync, shell.borg(&tree, to.path())];
            account::end_all();
            for (task, took) in took.into_iter().enumerate() {
                let took = took?.as_secs_f64();
                println!("round {round}: {:<12} {name:<22} {took:7.2} s  load {}", TASKS[task], crate::load());
                seconds[task][system].push(took);
            }
        }
    }
    let rows = TASKS.iter().zip(&seconds).map(|(task, systems)| {
        let medians = systems.iter().map(|seconds| format!("{:.2}", table::median(seconds)));
        std::iter::once(task.to_string()).chain(medians).collect()
    });
    let title =
        format!("{files} files, {} MiB, to an empty directory or repository: median of {rounds}, s", size >> 20);
    table::print(&title, &["", SYSTEMS[0], SYSTEMS[1]], &rows.collect::<Vec<_>>());
    for (task, [ours, theirs]) in TASKS.iter().zip(&seconds) {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        table::ratio(&format!("{task}: plumb (disk) / ssh"), &ratios, "none");
    }
    Ok(())
}

/// Makes a tree of random bytes; each two-hundredth file has three quarters of it between them.
fn plant(tree: &Path, size: u64, files: u64) -> anyhow::Result<()> {
    let mut random = fs::File::open("/dev/urandom")?;
    for number in 0..files {
        let directory = tree.join((number / 500).to_string());
        fs::create_dir_all(&directory)?;
        let large = files.div_ceil(200);
        let bytes = if number % 200 == 0 { size * 3 / 4 / large } else { size / 4 / (files - large) };
        let mut file = fs::File::create(directory.join(number.to_string()))?;
        std::io::copy(&mut Read::by_ref(&mut random).take(bytes), &mut file)?;
    }
    Ok(())
}

/// A remote shell that is up, as clients are told of it.
struct Shell {
    words: String,
    host: &'static str,
    /// Where a's home is, if it is ours.
    home: Option<PathBuf>,
    system: &'static str,
}

impl Shell {
    fn up(stage: &Stage, system: usize, below: &Path) -> anyhow::Result<Shell> {
        let name = SYSTEMS[system];
        Ok(match system {
            0 => {
                let netplumb = Netplumb::up(name, below)?;
                Shell { words: PLUMB.into(), host: "b", home: Some(netplumb.here), system: name }
            }
            _ => {
                let directory = tempfile::tempdir_in(stage.short("clients")?)?.keep();
                let ssh = Ssh::up(name, &directory)?;
                Shell { words: ssh.as_remote_shell(), host: "root@127.0.0.1", home: None, system: name }
            }
        })
    }

    fn client(&self, program: &str, below: &Path) -> Command {
        let mut client = command(self.system, program);
        client.env("RSYNC_RSH", &self.words).env("BORG_RSH", &self.words).env("BORG_BASE_DIR", below.join("borg"));
        client.env("BORG_REMOTE_PATH", format!("env BORG_BASE_DIR={} borg", below.join("far").display()));
        client.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes").env("PLUMB_NO_PROGRESS", "1");
        client.envs(self.home.as_ref().map(|home| ("NETPLUMB_HOME", home)));
        client
    }

    fn rsync(&self, tree: &Path, below: &Path) -> anyhow::Result<Duration> {
        let mut rsync = self.client("rsync", below);
        let target = format!("{}:{}/", self.host, below.join("there").display());
        rsync.arg("-a").arg(format!("{}/", tree.display())).arg(target);
        timed(rsync)
    }

    fn borg(&self, tree: &Path, below: &Path) -> anyhow::Result<Duration> {
        let repository = format!("ssh://{}{}", self.host, below.join("repository").display());
        let mut init = self.client("borg", below);
        init.args(["init", "-e", "none", &repository]);
        timed(init)?;
        let mut create = self.client("borg", below);
        create.args(["create", &format!("{repository}::x")]).arg(tree);
        timed(create)
    }
}
