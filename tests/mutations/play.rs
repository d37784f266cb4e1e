//! A job of a round as it is played: its `plumb`s, its input, its gate, and what it left behind.

use super::zoo::{Input, Plan};
use crate::homes::{NETPLUMB, PLUMB, Peer};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A `plumb` or a verb that runs, with its outputs in files.
pub struct Client {
    /// How reports call it.
    pub label: String,
    child: Child,
    files: PathBuf,
    pipe: Option<ChildStdout>,
    taker: Option<JoinHandle<()>>,
    started: Instant,
    ended: Option<Ended>,
    killed: bool,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Its exit status; 128 and the signal if one killed it.
    pub status: i32,
    /// How long it ran.
    pub took: Duration,
}

/// The output of a process.
pub struct Said {
    /// On its standard output.
    pub stdout: Vec<u8>,
    /// On its standard error.
    pub stderr: Vec<u8>,
}

impl Client {
    /// Starts a command whose outputs go to `FILES.out` and `FILES.err`; the first to a pipe that is not read, unless it is `taken`.
    pub fn start(label: &str, mut command: Command, files: PathBuf, taken: bool) -> Client {
        let [out, err] = ["out", "err"].map(|end| File::create(files.with_extension(end)).expect("a file"));
        command.stdout(if taken { out.into() } else { Stdio::piped() }).stderr(err);
        let mut child = command.spawn().expect("the program starts");
        let pipe = child.stdout.take();
        let (label, started) = (label.to_string(), Instant::now());
        Client { label, child, files, pipe, taker: None, started, ended: None, killed: false }
    }

    /// Its standard input, if that is a pipe.
    fn stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// From here on somebody takes what it writes.
    pub fn take(&mut self) {
        let Some(mut pipe) = self.pipe.take() else { return };
        let path = self.files.with_extension("out");
        self.taker = Some(std::thread::spawn(move || {
            let mut file = File::create(path).expect("a file");
            let _ = std::io::copy(&mut pipe, &mut file);
        }));
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Ended> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait().expect("it is ours")
        {
            let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            self.ended = Some(Ended { status, took: self.started.elapsed() });
        }
        self.ended
    }

    /// Waits for its end until then; without one it is killed, and that is no end.
    pub fn end_by(&mut self, deadline: Instant) -> Option<Ended> {
        while self.ended().is_none() {
            if Instant::now() >= deadline {
                self.kill();
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.join();
        self.ended
    }

    /// Kills it, if it lives.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.killed = true;
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.join();
    }

    fn join(&mut self) {
        // A pipe that is not read ends with the process.
        self.take();
        if let Some(taker) = self.taker.take() {
            let _ = taker.join();
        }
    }

    /// Bytes of its standard output so far.
    pub fn written(&self) -> u64 {
        fs::metadata(self.files.with_extension("out")).map_or(0, |metadata| metadata.len())
    }

    /// Its output so far.
    pub fn said(&self) -> Said {
        let [stdout, stderr] = ["out", "err"].map(|end| fs::read(self.files.with_extension(end)).unwrap_or_default());
        Said { stdout, stderr }
    }

    /// The id of the job whose lock it holds, as long as it lives.
    fn id_held(&self) -> Option<String> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).ok()?.flatten();
        let mut paths = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        paths.find_map(|path| {
            let (_, rest) = path.to_str()?.split_once("/jobs/")?;
            rest.strip_suffix("/plumb").filter(|id| id.len() == 40).map(str::to_string)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a verb of `netplumb` for at most so long; `None`, if it did not end.
pub fn verb(peer: &Peer, words: &[&str], files: PathBuf, limit: Duration) -> (Option<Ended>, Said) {
    let mut command = peer.command(NETPLUMB);
    command.args(words).stdin(Stdio::null());
    let mut client = Client::start("", command, files, true);
    let ended = client.end_by(Instant::now() + limit);
    (ended, client.said())
}

/// A job that is played.
pub struct Job {
    /// Its plan.
    pub plan: Plan,
    /// Its id, once that is known.
    pub id: Option<String>,
    /// Its `plumb`s, in the order of their start.
    pub clients: Vec<Client>,
    gate: Option<File>,
    rest: Option<Sender<()>>,
    work: PathBuf,
}

/// Words that go into a gate: each run of the command takes one, and there should be one run.
const WORDS: usize = 50;

impl Job {
    /// Prepares its files.
    pub fn new(plan: Plan, work: &Path) -> Job {
        fs::write(work.join(format!("{}.says", plan.name)), &plan.says).expect("a file");
        let gate = work.join(format!("{}.gate", plan.name));
        super::ground::make_fifo(&gate).expect("a FIFO");
        // With both ends open here nobody blocks in opening it, and a word waits for whoever comes.
        let gate = File::options().read(true).write(true).open(gate).expect("a FIFO");
        Job { plan, id: None, clients: Vec::new(), gate: Some(gate), rest: None, work: work.into() }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.plan.name
    }

    /// Starts its first `plumb`.
    pub fn begin(&mut self, peers: &[Peer; 2]) {
        let to = peers[1 - self.plan.from].name;
        let text = format!("echo {} >>{}; {}", self.name(), self.runs_file().display(), self.plan.body);
        let mut command = peers[self.plan.from].command(PLUMB);
        command.arg("-status-fd=2").args(&self.plan.options).args([to, &text]);
        command.stdin(if matches!(self.plan.input, Input::None) { Stdio::null() } else { Stdio::piped() });
        self.add(self.name().into(), command, self.plan.taken);
        self.feed();
    }

    /// Starts another `plumb` that attaches to it.
    pub fn attach(&mut self, peers: &[Peer; 2]) {
        let Some(id) = &self.id else { return };
        let mut command = peers[self.plan.from].command(PLUMB);
        command.args(["-status-fd=2", &format!("-attach={id}"), "-n"]).stdin(Stdio::null());
        if self.clients.len() > 1 {
            // Another one has the job, so this one reads along.
            command.arg("-offset=0");
        }
        let label = format!("{} (attached {})", self.name(), self.clients.len());
        self.add(label, command, true);
    }

    fn add(&mut self, label: String, command: Command, taken: bool) {
        let files = self.work.join(format!("{}-{}", self.name(), self.clients.len()));
        self.clients.push(Client::start(&label, command, files, taken));
    }

    fn feed(&mut self) {
        let Some(mut stdin) = self.clients.last_mut().and_then(Client::stdin) else { return };
        let (release, released) = channel();
        match std::mem::replace(&mut self.plan.input, Input::None) {
            Input::None => {}
            Input::Ended(bytes) => drop(std::thread::spawn(move || stdin.write_all(&bytes))),
            Input::Open(first, rest) => {
                self.rest = Some(release);
                std::thread::spawn(move || {
                    let _ = stdin.write_all(&first);
                    // A sender that is gone releases it too.
                    let _ = released.recv();
                    let _ = stdin.write_all(&rest);
                });
            }
        }
    }

    /// Looks for its id; says whether it is known.
    pub fn learn_id(&mut self) -> bool {
        if self.id.is_none()
            && let Some(client) = self.clients.first()
        {
            let told = || {
                let said = client.said();
                let stdout = String::from_utf8_lossy(&said.stdout).trim_end().to_string();
                let left = Some(stdout).filter(|text| self.plan.is_left() && text.len() == 40);
                left.or_else(|| told_at_the_end(&said.stderr)?["job"].as_str().map(str::to_string))
            };
            self.id = client.id_held().or_else(told);
        }
        self.id.is_some()
    }

    /// Lets its command go on.
    pub fn go(&mut self) {
        if let Some(gate) = &mut self.gate {
            let _ = gate.write_all("go\n".repeat(WORDS).as_bytes());
        }
    }

    /// Lets everything of it come to its end: command, input, output.
    pub fn release(&mut self) {
        self.go();
        self.rest = None;
        self.clients.iter_mut().for_each(Client::take);
    }

    fn runs_file(&self) -> PathBuf {
        self.work.join(format!("{}.runs", self.name()))
    }

    /// How often its command was started.
    pub fn runs(&self) -> usize {
        fs::read_to_string(self.runs_file()).unwrap_or_default().lines().count()
    }

    /// A path of it in the spool of the peer that runs it, and in that of the one that asked.
    pub fn at(&self, peers: &[Peer; 2], place: &str, below: &str) -> [PathBuf; 2] {
        let path = format!("{place}/{}{below}", self.id.as_deref().unwrap_or("unknown"));
        [peers[1 - self.plan.from].spool(&path), peers[self.plan.from].spool(&path)]
    }
}

/// The line of `-status-fd` in this text, if it was written.
pub fn told_at_the_end(stderr: &[u8]) -> Option<serde_json::Value> {
    let text = String::from_utf8_lossy(stderr);
    let start = text.rfind(r#"{"#)?;
    serde_json::from_str(text[start..].lines().next()?).ok()
}
