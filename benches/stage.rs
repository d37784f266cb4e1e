//! Where the systems play: directories of their own, ports of their own, and an end to everything that was started.

use crate::account::{self, MARK};
use anyhow::{Context, ensure};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Memory that looks like a disk.
const MEMORY: &str = "/dev/shm";
/// What was added to the system outside of our directories, to be removed.
static ADDED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// Whoever starts a process holds it meanwhile; an interrupted bench holds it for good.
static GATE: Mutex<()> = Mutex::new(());

/// The directories of one run, gone at its end.
pub struct Stage {
    disk: TempDir,
    memory: TempDir,
    short: TempDir,
}

impl Stage {
    /// Makes them: below `disk`, in memory, and one with a short name for Unix sockets.
    pub fn new(disk: &Path) -> anyhow::Result<Stage> {
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).context("to reap orphans")?;
        std::fs::create_dir_all(disk).with_context(|| disk.display().to_string())?;
        let below = |parent: &Path| {
            let made = tempfile::Builder::new().prefix("netplumb-bench-").tempdir_in(parent);
            made.with_context(|| parent.display().to_string())
        };
        let stage = Stage { disk: below(disk)?, memory: below(MEMORY.as_ref())?, short: below("/tmp".as_ref())? };
        stage.clear_when_interrupted()?;
        Ok(stage)
    }

    /// A new directory on the disk.
    pub fn on_disk(&self, name: &str) -> anyhow::Result<PathBuf> {
        make(self.disk.path(), name)
    }

    /// A new directory in memory.
    pub fn in_memory(&self, name: &str) -> anyhow::Result<PathBuf> {
        make(self.memory.path(), name)
    }

    /// A new directory with a short name.
    pub fn short(&self, name: &str) -> anyhow::Result<PathBuf> {
        make(self.short.path(), name)
    }

    /// A file of so many random bytes, in memory: reading it costs every system the same, and no disk.
    pub fn payload(&self, size: u64) -> anyhow::Result<PathBuf> {
        let path = self.memory.path().join("payload");
        let mut file = File::create(&path)?;
        let mut chance = std::io::Read::take(File::open("/dev/urandom")?, size);
        std::io::copy(&mut chance, &mut file).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Writes out what earlier measurements left in the page cache, so that nobody pays for others.
    pub fn quiet(&self) {
        if let Ok(disk) = File::open(self.disk.path()) {
            let _ = rustix::fs::syncfs(disk);
        }
    }

    fn clear_when_interrupted(&self) -> anyhow::Result<()> {
        let mut signals = signal_hook::iterator::Signals::new([1, 2, 15])?;
        let directories = [&self.disk, &self.memory, &self.short].map(|made| made.path().to_path_buf());
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _shut = GATE.lock();
                account::end_all();
                put_back();
                directories.iter().for_each(|directory| drop(std::fs::remove_dir_all(directory)));
                std::process::exit(130);
            }
        });
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        account::end_all();
        put_back();
    }
}

/// Notes a path of the system's that is there because of us, before it is made.
pub fn remove_later(path: &str) {
    ADDED.lock().unwrap_or_else(PoisonError::into_inner).push(path.into());
}

/// Removes what was added to the system.
pub fn put_back() {
    for path in ADDED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
    }
}

fn make(parent: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = parent.join(name);
    std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// A command that belongs to a system.
pub fn command(system: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env(MARK, system).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// Starts a command.
pub fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    let _open = GATE.lock();
    command.spawn().with_context(|| format!("{command:?}"))
}

/// Runs a command to its successful end; says how long it took.
pub fn timed(mut command: Command) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let status = spawn(&mut command)?.wait()?;
    let took = started.elapsed();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(took)
}

/// Runs a command to its successful end; gives what it wrote.
pub fn told(mut command: Command) -> anyhow::Result<String> {
    let output = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts what stays, for a system, with its messages in a file. It ends with the stage.
pub fn start(system: &str, mut command: Command, log: &Path) -> anyhow::Result<()> {
    let log = File::options().create(true).append(true).open(log)?;
    let child = spawn(command.stdout(log.try_clone()?).stderr(log))?;
    account::belongs(child.id(), system);
    Ok(())
}

/// Waits until something is so.
pub fn until(what: &str, so: impl Fn() -> bool) -> anyhow::Result<()> {
    let started = Instant::now();
    while !so() {
        ensure!(started.elapsed() < Duration::from_secs(300), "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A port of loopback that nobody listens on.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until somebody listens there.
pub fn listening(port: u16) -> anyhow::Result<()> {
    until("a service listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
}
