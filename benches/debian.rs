//! The peers come from Debian packages; no service of theirs is started.

use crate::stage;
use anyhow::{Context, bail};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that each package brings.
const PACKAGES: [(&str, &str); 5] = [
    ("nncp", "/usr/bin/nncp-exec"),
    ("openssh-server", "/usr/sbin/sshd"),
    ("openssh-client", "/usr/bin/ssh"),
    ("rsync", "/usr/bin/rsync"),
    ("borgbackup", "/usr/bin/borg"),
];
/// What Debian's package scripts ask before they start a service; 101 forbids it (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing. Leaves the packages in place, and no service running.
pub fn install() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, program)| !Path::new(program).exists()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {} …", missing.join(", "));
    forbid_services()?;
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], &missing[..]].concat())?;
    stage::put_back();
    Ok(())
}

fn apt(words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("-qq").args(words).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().context("apt-get: the peers come from Debian packages")?;
    if !output.status.success() {
        bail!("apt-get {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Sees to it that installing a package starts nothing.
fn forbid_services() -> anyhow::Result<()> {
    if Path::new(POLICY).exists() {
        let answer = Command::new(POLICY).args(["ssh", "start"]).status().context(POLICY)?;
        if answer.code() != Some(101) {
            bail!("{POLICY} would let a new sshd start\n  hint: apt-get install nncp openssh-server, then again");
        }
        return Ok(());
    }
    stage::remove_later(POLICY);
    std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").context(POLICY)?;
    std::fs::set_permissions(POLICY, Permissions::from_mode(0o755)).context(POLICY)
}
