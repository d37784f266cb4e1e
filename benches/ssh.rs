//! An sshd on a port of its own, with keys of its own.
//!
//! Its sessions have an empty home directory: below sshd, bash reads the
//! account's `.bashrc`, whose cost is not ssh's, and which netplumb's commands
//! do not read.

use crate::stage::{command, free_port, listening, remove_later, start, told, until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a sshd that starts as root wants to lock itself in.
const PRISON: &str = "/run/sshd";

/// A running sshd, and how to reach it.
pub struct Ssh {
    system: String,
    directory: PathBuf,
    port: u16,
}

impl Ssh {
    /// Starts it. It ends with the stage.
    pub fn up(system: &str, directory: &Path) -> anyhow::Result<Ssh> {
        let port = free_port()?;
        for name in ["host", "user"] {
            let mut keygen = command(system, "ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(directory.join(name));
            told(keygen)?;
        }
        let host_key = std::fs::read_to_string(directory.join("host.pub"))?;
        std::fs::write(directory.join("known"), format!("[127.0.0.1]:{port} {host_key}"))?;
        // Without PAM a connection is cheaper, but sshd then refuses an account with a locked password.
        let shadow = std::fs::read_to_string("/etc/shadow").unwrap_or_default();
        let pam = if shadow.lines().any(|line| line.starts_with("root:!")) { "yes" } else { "no" };
        let here = directory.display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {here}/host\nAuthorizedKeysFile {here}/user.pub\nPidFile none\n\
             StrictModes no\nUsePAM {pam}\nPermitRootLogin yes\nPasswordAuthentication no\nUseDNS no\n\
             SetEnv HOME={here}\n"
        );
        std::fs::write(directory.join("config"), config)?;
        if !Path::new(PRISON).exists() {
            remove_later(PRISON);
            std::fs::create_dir(PRISON)?;
        }
        let ssh = Ssh { system: system.into(), directory: directory.into(), port };
        let mut sshd = command(system, "/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(directory.join("config"));
        start(system, sshd, &directory.join("log"))?;
        listening(port)?;
        Ok(ssh)
    }

    /// `ssh` on a connection of its own.
    pub fn new_connection(&self, options: &[&str], remote: &str) -> Command {
        let mut ssh = self.client();
        ssh.args(options).args(["root@127.0.0.1", remote]);
        ssh
    }

    /// Starts a connection that others share.
    pub fn master(&self) -> anyhow::Result<()> {
        let mut master = self.client();
        master.args(["-M", "-N", "-S"]).arg(self.socket()).arg("root@127.0.0.1");
        start(&self.system, master, &self.directory.join("log"))?;
        until("the shared connection is there", || self.socket().exists())
    }

    /// `ssh` on the shared connection.
    pub fn shared_connection(&self, remote: &str) -> Command {
        let mut ssh = self.client();
        ssh.arg("-S").arg(self.socket()).args(["root@127.0.0.1", remote]);
        ssh
    }

    /// What a program is told that calls `ssh` by itself, with the host `root@127.0.0.1`.
    pub fn as_remote_shell(&self) -> String {
        let client = self.client();
        let words = std::iter::once(client.get_program()).chain(client.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("master")
    }

    fn client(&self) -> Command {
        let mut ssh = command(&self.system, "ssh");
        ssh.args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i"]);
        ssh.arg(self.directory.join("user")).args(["-p", &self.port.to_string()]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", self.directory.join("known").display()));
        ssh
    }
}
