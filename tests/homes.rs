//! Two homes on one machine, each with its daemon, real sockets and a real disk.

use crate::link::Link;
pub use crate::patience::{PATIENCE, wait_for, wait_until, wait_until_grown};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program under test.
pub const NETPLUMB: &str = env!("CARGO_BIN_EXE_netplumb");
/// The program under test.
pub const PLUMB: &str = env!("CARGO_BIN_EXE_plumb");

/// One peer: a home, and a daemon while it is up.
pub struct Peer {
    /// What the other one calls it.
    pub name: &'static str,
    /// Its `NETPLUMB_HOME`.
    pub home: PathBuf,
    /// Where its service listens.
    pub address: String,
    /// Variables that all programs of this home find besides.
    pub env: Vec<(&'static str, String)>,
    daemon: Option<Child>,
    _directory: Option<TempDir>,
}

/// Two peers that know each other; `b` lets `a` run any command, and `a` lets `b`.
pub fn pair() -> (Peer, Peer) {
    pair_in(None)
}

/// The same with homes below a directory of the caller's choice.
pub fn pair_in(parent: Option<&Path>) -> (Peer, Peer) {
    let (a, b) = (Peer::new("a", parent), Peer::new("b", parent));
    a.knows(&b, &b.address);
    b.knows(&a, &a.address);
    (a, b)
}

/// Two peers that are up.
pub fn pair_up() -> (Peer, Peer) {
    let (mut a, mut b) = pair();
    a.up();
    b.up();
    (a, b)
}

/// Two peers that are up, and reach each other only through links of this rate:
/// the first is the one that `a` dials, the second the one that `b` dials.
pub fn pair_behind_links(bytes_per_second: u64) -> (Peer, Peer, [Link; 2]) {
    let (mut a, mut b, links) = pair_with_links(bytes_per_second);
    a.up();
    b.up();
    (a, b, links)
}

/// The same, and neither is up.
pub fn pair_with_links(bytes_per_second: u64) -> (Peer, Peer, [Link; 2]) {
    let (a, b) = (Peer::new("a", None), Peer::new("b", None));
    let links = [&b, &a].map(|target| Link::open(&target.address, bytes_per_second).expect("a link"));
    a.knows(&b, &links[0].address.to_string());
    b.knows(&a, &links[1].address.to_string());
    (a, b, links)
}

/// Two peers that are up, of which `b` can be dialled, through a link of this rate, and `a` cannot.
pub fn pair_turned(bytes_per_second: u64) -> (Peer, Peer, Link) {
    let (mut a, mut b) = (Peer::behind_nat("a"), Peer::new("b", None));
    let link = Link::open(&b.address, bytes_per_second).expect("a link");
    a.knows(&b, &link.address.to_string());
    b.knows_by_card(&a);
    b.up();
    a.up();
    (a, b, link)
}

/// What a test's environment may not decide: as many descriptors as we may have,
/// and an INT that reaches our children (a shell has its background jobs ignore
/// it; one that we catch is at its default after exec).
fn settle_ourselves() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, always).expect("a handler");
    });
}

impl Peer {
    /// A fresh identity in a directory of its own.
    pub fn new(name: &'static str, parent: Option<&Path>) -> Peer {
        let address = free_address();
        Peer::made(name, parent, &["--listen", &address], &address)
    }

    /// One that nobody can dial.
    pub fn behind_nat(name: &'static str) -> Peer {
        Peer::made(name, None, &["--behind-nat"], "")
    }

    fn made(name: &'static str, parent: Option<&Path>, words: &[&str], address: &str) -> Peer {
        settle_ourselves();
        let directory = match parent {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        };
        let directory = directory.expect("a directory for a home");
        let home = directory.path().join(name);
        let (address, env) = (address.into(), Vec::new());
        let peer = Peer { name, home, address, env, daemon: None, _directory: Some(directory) };
        peer.netplumb(&[&["keygen", "--name", name], words].concat()).good();
        peer
    }

    /// Adds another peer under its name, at this address, with a shell.
    pub fn knows(&self, other: &Peer, address: &str) {
        self.adds(other, &["--address", address, "--allow-shell"]);
    }

    /// Adds another peer under its name, as its card says, with a shell.
    pub fn knows_by_card(&self, other: &Peer) {
        self.adds(other, &["--allow-shell"]);
    }

    fn adds(&self, other: &Peer, words: &[&str]) {
        let card = other.netplumb(&["card"]).good().stdout;
        let mut add = self.command(NETPLUMB);
        add.args(["peer", "add", other.name, "-"]).args(words);
        run(add, &card).good();
    }

    /// Says more of a peer in its `peer.toml`: lines of the table `[quota]`, which is its last.
    pub fn quota(&self, other: &Peer, lines: &str) {
        let path = self.home.join("config/peers").join(other.name).join("peer.toml");
        let text = std::fs::read_to_string(&path).expect("a peer");
        std::fs::write(&path, format!("{text}{lines}\n")).expect("a peer");
    }

    /// A program in this home.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("NETPLUMB_HOME", &self.home).env_remove("PLUMB_LOG").env("PLUMB_NO_PROGRESS", "1");
        command.envs(self.env.iter().cloned());
        command
    }

    /// A program in this home that may have so many descriptors, and give itself at most `limit`. It keeps its pid.
    pub fn command_with_descriptors(&self, program: &str, count: u64, limit: u64) -> Command {
        let mut command = self.command("prlimit");
        command.arg(format!("--nofile={count}:{limit}")).arg(program);
        command
    }

    /// Runs `netplumb` with these words.
    pub fn netplumb(&self, words: &[&str]) -> Ran {
        let mut command = self.command(NETPLUMB);
        command.args(words);
        run(command, b"")
    }

    /// Runs `plumb` with these words and this input.
    pub fn plumb(&self, words: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(PLUMB);
        command.args(words);
        run(command, input)
    }

    /// Starts the daemon and waits until its service answers, if it can be dialled.
    pub fn up(&mut self) {
        self.up_without_waiting();
        if self.address.is_empty() {
            return;
        }
        wait_until("the service listens", || std::net::TcpStream::connect(&self.address).is_ok());
    }

    /// Starts the daemon.
    pub fn up_without_waiting(&mut self) {
        self.up_as(self.command(NETPLUMB));
    }

    /// Starts the daemon by a command that runs `netplumb` with the words that are added.
    pub fn up_as(&mut self, mut command: Command) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.home.join("daemon.log"));
        command.arg("daemon").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log.expect("a log file"));
        self.daemon = Some(command.spawn().expect("the daemon starts"));
    }

    /// The daemon's pid, while it is up.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// A process of this home whose parent this is.
    pub fn child_of(&self, pid: u32) -> Option<u32> {
        self.processes().into_iter().find(|child| parent(*child) == Some(pid))
    }

    /// Kills the daemon, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Kills a child of the daemon that runs this verb; says whether there was one.
    pub fn kill_child(&self, verb: &str) -> bool {
        self.children(verb).into_iter().any(kill_9)
    }

    /// Kills the daemon and starts it again at once, or kills the child that
    /// runs this verb, which the daemon replaces; says whether something was killed.
    pub fn suffer(&mut self, verb: &str) -> bool {
        if verb != "daemon" {
            return self.kill_child(verb);
        }
        self.kill();
        self.up_without_waiting();
        true
    }

    /// Kills daemon, service and loop, none of which sees another go, and starts the
    /// daemon again at once as a supervisor would; says how many there were.
    pub fn lose_every_daemon(&mut self) -> u64 {
        let daemon = self.daemon_pid();
        let victims = daemon.into_iter().chain(self.children("service")).chain(self.children("loop"));
        let killed = victims.filter(|pid| kill_9(*pid)).count();
        self.kill();
        self.up_without_waiting();
        killed as u64
    }

    /// Processes of this home that run this verb of `netplumb`.
    pub fn children(&self, verb: &str) -> Vec<u32> {
        let marker = format!("NETPLUMB_HOME={}", self.home.display());
        processes(&marker, |words| words.get(1).is_some_and(|word| word == verb) && words[0].ends_with("netplumb"))
    }

    /// All processes that have this home in their environment, or the job variables of its keepers.
    pub fn processes(&self) -> Vec<u32> {
        processes(&format!("NETPLUMB_HOME={}", self.home.display()), |_| true)
    }

    /// A directory or file of the spool.
    pub fn spool(&self, path: &str) -> PathBuf {
        self.home.join("spool").join(path)
    }

    /// The spool's files with their sizes, small ones with their content, and the processes, for one who looks for a fault.
    fn contents(&self) -> String {
        let mut text = String::new();
        let walk = walkdir::WalkDir::new(self.home.join("spool")).sort_by_file_name().into_iter().flatten();
        for entry in walk.filter(|entry| !entry.path().components().any(|part| part.as_os_str() == "onetime")) {
            let Ok(metadata) = entry.metadata() else { continue };
            let path = entry.path().strip_prefix(&self.home).unwrap_or(entry.path()).display();
            // A FIFO would be waited for.
            let content = metadata.is_file().then(|| std::fs::read(entry.path()).ok()).flatten();
            let content = content.filter(|bytes| bytes.len() < 300);
            let content = content.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
            let content = content.trim_end().escape_debug();
            text += &format!("{path} {} {content}\n", metadata.len());
        }
        if let Some((end, _)) = text.match_indices('\n').nth(100) {
            text.replace_range(end + 1.., "…\n");
        }
        for pid in self.processes() {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            text +=
                &format!("{pid}, child of {:?}: {}\n", parent(pid), String::from_utf8_lossy(&words).replace('\0', " "));
        }
        text
    }

    /// The bytes of all files in the spool.
    pub fn spool_size(&self) -> u64 {
        let walk = walkdir::WalkDir::new(self.home.join("spool")).into_iter().flatten();
        walk.filter_map(|entry| entry.metadata().ok()).filter(|metadata| metadata.is_file()).map(|it| it.len()).sum()
    }

    /// `netplumb jobs --all --json`: what is known of one job; null if nothing is.
    pub fn job(&self, id: &str) -> serde_json::Value {
        let listing = self.netplumb(&["jobs", "--all", "--json"]).good().text();
        let rows = listing.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        rows.into_iter().find(|row| row["id"] == id).unwrap_or_default()
    }

    /// What the daemon and its children have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("daemon.log")).unwrap_or_default()
    }

    /// The ids in a directory of the spool.
    pub fn ids(&self, place: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.home.join("spool").join(place)).expect("a spool");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what {}'s daemon said ---\n{}", self.name, self.log());
            eprintln!("--- what lies in {}'s spool ---\n{}", self.name, self.contents());
        }
        self.kill();
        // Keepers outlive their daemon; nothing of a test may outlive the test.
        for _ in 0..3 {
            for pid in self.processes() {
                kill_9(pid);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Processes that have this text in their command line or environment.
pub fn processes_with(text: &str) -> Vec<u32> {
    let has = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    let found = all_pids().filter(|pid| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        has(&read("cmdline")) || has(&read("environ"))
    });
    found.collect()
}

/// The pids of all processes but ours.
pub fn all_pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
}

fn processes(marker: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let found = all_pids().filter(|pid| {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let environ = read("environ");
        let has_marker = environ.split(|&b| b == 0).any(|variable| variable == marker.as_bytes());
        let words: Vec<String> =
            read("cmdline").split(|&b| b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        has_marker && wanted(&words)
    });
    found.collect()
}

/// A process's parent.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Kills one process by its pid; says whether it was there.
pub fn kill_9(pid: u32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid as i32) else { return false };
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

/// The largest resident size that a process has had, in KiB.
pub fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Samples the peak sizes of all processes of some homes until it is stopped.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, String)>,
}

impl Sampler {
    /// Begins. What a process reaches in its last twenty milliseconds is not seen.
    pub fn begin(homes: &[&Peer]) -> Sampler {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, homes) = (stop.clone(), homes.iter().map(|peer| peer.home.clone()).collect::<Vec<_>>());
        let thread = std::thread::spawn(move || {
            let mut peak = (0, String::new());
            while !stopped.load(Ordering::Relaxed) {
                for home in &homes {
                    // Of our programs: what a client needs that calls them is its own affair.
                    let ours = |words: &[String]| words[0].ends_with("plumb");
                    for pid in processes(&format!("NETPLUMB_HOME={}", home.display()), ours) {
                        let kib = peak_kib(pid);
                        if kib > peak.0 {
                            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                            peak = (kib, String::from_utf8_lossy(&words).replace('\0', " "));
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        Sampler { stop, thread }
    }

    /// The largest peak in KiB, and whose it was.
    pub fn end(self) -> (u64, String) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampler ends")
    }
}

/// An address that nobody listens on, or dials from: connections to loopback come from 127.0.0.1,
/// and one of them may get any port that was free a moment ago.
pub fn free_address() -> String {
    let [b, c, d]: [u8; 3] = rand::random();
    let listener = TcpListener::bind((Ipv4Addr::new(127, b.max(1), c, d.clamp(1, 254)), 0)).expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

/// Sends a process a signal.
pub fn send(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it is there");
}

/// So much of a job's input is at its recipient, in bytes.
pub fn arrived(recipient: &Peer, id: &str) -> u64 {
    let entries = std::fs::read_dir(recipient.spool(&format!("jobs/{id}/in/1"))).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// What a `plumb` without `-q` told of that stood in its way. A step that took long is left out:
/// that is the disk's affair.
pub fn hindrances(stderr: &str) -> Vec<&str> {
    let steps = ["no answer yet", "its key is awaited", "its receipt is awaited", "another process works on it"];
    stderr.lines().filter(|line| !steps.iter().any(|step| line.contains(step))).collect()
}

/// The words of a shell that waits until this file is there.
pub fn until_there(file: &Path) -> String {
    format!("until test -e '{}'; do sleep 0.05; done", file.display())
}

/// What a program gave.
pub struct Ran {
    /// Its exit status; 128 + signal if it was killed.
    pub status: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// It must have succeeded.
    pub fn good(self) -> Ran {
        assert_eq!(self.status, 0, "status {}: {}", self.status, self.stderr);
        self
    }

    /// The standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a program with this input to its end.
pub fn run(mut command: Command, input: &[u8]) -> Ran {
    let started = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let output: Output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // The program may end before it has read everything.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("it ends")
    });
    use std::os::unix::process::ExitStatusExt;
    let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { status, stdout: output.stdout, stderr, took: started.elapsed() }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// A file in memory that holds these bytes, to be somebody's standard input.
pub fn as_file(bytes: &[u8]) -> std::fs::File {
    use std::io::Seek;
    let file = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let mut file = std::fs::File::from(file);
    file.write_all(bytes).and_then(|()| file.rewind()).expect("memory");
    file
}

/// The seed of a random test: `PLUMB_SEED`, or a new one; printed either way.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("PLUMB_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| rand::random::<u32>().into());
    println!("{test}: PLUMB_SEED={seed}");
    seed
}

/// A small random generator: the same numbers for the same seed.
pub struct Chance(pub u64);

impl Chance {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// A duration below this many milliseconds.
    pub fn below_millis(&mut self, bound: u64) -> Duration {
        Duration::from_micros(self.below(bound * 1000))
    }
}

/// Reads until the end, or until `max` bytes are there.
pub fn read_up_to(mut from: impl Read, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; max];
    let mut filled = 0;
    while filled < max {
        match from.read(&mut bytes[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(count) => filled += count,
        }
    }
    bytes.truncate(filled);
    bytes
}
