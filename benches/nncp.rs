//! Two NNCP nodes with spools and keys of their own.
//!
//! A job passes three stages, each started here by hand when the one before is
//! done, so their sum is what NNCP needs without any of its waiting:
//! `nncp-exec` makes the encrypted packet, `nncp-call` carries it to the other
//! node's daemon until it lies there verified (the connection's idle end is not
//! counted), `nncp-toss` decrypts it into the command.

use crate::stage::{command, free_port, listening, spawn, start, timed, told, until};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the receiving node runs.
const HANDLE: &str = "sink";
/// The keys of a node that its neighbours know.
const PUBLIC: [&str; 4] = ["id", "exchpub", "signpub", "noisepub"];

/// Two nodes; the receiving one has its daemon up.
pub struct Nncp {
    system: String,
    directory: PathBuf,
    arrivals: PathBuf,
}

/// A node's own block of its configuration.
struct Keys(String);

impl Nncp {
    /// Makes both, and starts the daemon. It ends with the stage.
    pub fn up(system: &str, directory: &Path) -> anyhow::Result<Nncp> {
        let port = free_port()?;
        let (a, b) = (Keys::new(system)?, Keys::new(system)?);
        let here = directory.display();
        let node = |name: &str, keys: &Keys, other: &str, about_other: String| {
            let (own, myself) = (&keys.0, keys.public()?);
            let text = format!(
                "{{\n spool: {here}/{name}\n log: {here}/{name}/log\n self: {{\n{own} }}\n neigh: {{\n  \
                 self: {{ {myself} }}\n  {other}: {{ {about_other} }}\n }}\n}}\n"
            );
            std::fs::create_dir_all(directory.join(name))?;
            std::fs::write(directory.join(format!("{name}.hjson")), text)?;
            anyhow::Ok(())
        };
        node("a", &a, "b", format!("{}addrs: {{ lo: \"127.0.0.1:{port}\" }}\n", b.public()?))?;
        let command = "[\"/bin/sh\", \"-c\", \"cat >/dev/null\"]";
        node("b", &b, "a", format!("{}exec: {{ {HANDLE}: {command} }}\n", a.public()?))?;
        let arrivals = directory.join("b").join(a.value("id")?).join("rx");
        let nncp = Nncp { system: system.into(), directory: directory.into(), arrivals };
        let mut daemon = nncp.program("nncp-daemon", "b");
        daemon.args(["-bind", &format!("127.0.0.1:{port}")]);
        start(system, daemon, &directory.join("daemon.log"))?;
        listening(port)?;
        Ok(nncp)
    }

    /// Makes the packet, from this input.
    pub fn exec(&self, input: impl Into<Stdio>) -> anyhow::Result<Duration> {
        let mut exec = self.program("nncp-exec", "a");
        exec.args(["-nocompress", "b", HANDLE]).stdin(input);
        timed(exec)
    }

    /// Carries it over; says how long it took until it was there for good.
    pub fn call(&self) -> anyhow::Result<Duration> {
        let mut call = self.program("nncp-call", "a");
        call.args(["-onlinedeadline", "1", "b"]);
        let started = Instant::now();
        let mut call = spawn(&mut call)?;
        until("the packet has arrived", || !self.arrived().is_empty())?;
        let took = started.elapsed();
        ensure!(call.wait()?.success(), "nncp-call failed");
        Ok(took)
    }

    /// Decrypts it into the command.
    pub fn toss(&self) -> anyhow::Result<Duration> {
        let took = timed(self.program("nncp-toss", "b"))?;
        ensure!(self.arrived().is_empty(), "nncp-toss left a packet");
        Ok(took)
    }

    /// Whole, verified packets: others have a suffix.
    fn arrived(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.arrivals).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.is_file() && path.file_name().is_some_and(|name| name.len() == 52)).collect()
    }

    fn program(&self, program: &str, node: &str) -> Command {
        let mut command = command(&self.system, program);
        command.arg("-cfg").arg(self.directory.join(format!("{node}.hjson"))).args(["-quiet", "-noprogress"]);
        command
    }
}

impl Keys {
    fn new(system: &str) -> anyhow::Result<Keys> {
        let mut cfgnew = command(system, "nncp-cfgnew");
        cfgnew.arg("-nocomments");
        let text = told(cfgnew)?;
        let own = text.lines().skip_while(|line| line.trim() != "self: {").skip(1);
        Ok(Keys(own.take_while(|line| line.trim() != "}").map(|line| format!("{line}\n")).collect()))
    }

    fn value(&self, key: &str) -> anyhow::Result<String> {
        let value = self.0.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
        Ok(value.with_context(|| format!("nncp-cfgnew gave no {key}"))?.to_string())
    }

    fn public(&self) -> anyhow::Result<String> {
        PUBLIC.iter().map(|key| Ok(format!("\n   {key}: {}\n", self.value(key)?))).collect()
    }
}
