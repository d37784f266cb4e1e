//! Two homes with clients that know nothing of us, and what goes wrong while these are at work.

use crate::homes::{PATIENCE, PLUMB, Peer, Ran, Sampler, pair_behind_links, pair_turned, processes_with, run};
use crate::link::Link;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Makes two homes that are up and reach each other only through links of this rate.
pub type Pair = fn(u64) -> (Peer, Peer, Vec<Link>);

/// Each dials the other.
pub fn both_dial(rate: u64) -> (Peer, Peer, Vec<Link>) {
    let (a, b, links) = pair_behind_links(rate);
    (a, b, links.into())
}

/// Two homes of which only `b` can be dialled: `a` keeps connections open to it, through the link.
pub fn turned(rate: u64) -> (Peer, Peer, Vec<Link>) {
    let (a, b, link) = pair_turned(rate);
    (a, b, vec![link])
}

/// When something goes wrong the next time: at a steady pace until it has so often, then rarer and
/// rarer. Where a disk is slow, whatever is killed at a steady pace would never get anywhere.
pub struct Pace {
    at: Instant,
    every: Duration,
    steady: u32,
}

impl Pace {
    /// The first time is after one interval.
    pub fn new(every: Duration, steady: u32) -> Pace {
        Pace { at: Instant::now() + every, every, steady }
    }

    /// Is it time?
    pub fn is_due(&self) -> bool {
        Instant::now() >= self.at
    }

    /// It was done: the next time is after one more interval.
    pub fn step(&mut self) {
        match self.steady.checked_sub(1) {
            Some(left) => self.steady = left,
            None => self.every = self.every * 5 / 4,
        }
        self.at = Instant::now() + self.every;
    }
}

/// What goes wrong while a client is at work.
#[derive(Clone, Copy)]
pub struct Torment {
    /// What the links carry, in bytes per second.
    pub rate: u64,
    /// Every connection is closed this often.
    pub cut_every: Duration,
    /// All six daemon processes are killed this often, at first; those that a supervisor restarts are.
    pub kill_every: Duration,
    /// Of each client's time: when the links swallow everything, and for how long.
    pub silence: (Duration, Duration),
}

impl Torment {
    /// Some cuts and kills within a few seconds.
    pub const SHORT: Torment = Torment {
        rate: 4_000_000,
        cut_every: Duration::from_millis(450),
        kill_every: Duration::from_millis(1100),
        silence: (Duration::from_millis(700), Duration::from_millis(500)),
    };
    /// What the issue asks for.
    pub const LONG: Torment = Torment {
        rate: 20_000_000,
        cut_every: Duration::from_secs(3600),
        kill_every: Duration::from_secs(5),
        silence: (Duration::from_secs(8), Duration::from_secs(60)),
    };
    /// Nothing.
    pub const NONE: Torment = Torment {
        rate: 0,
        cut_every: Duration::from_secs(3600),
        kill_every: Duration::from_secs(3600),
        silence: (Duration::from_secs(3600), Duration::ZERO),
    };
}

/// Two homes, a place for the clients' files, and what went wrong so far.
pub struct Stage {
    /// a, whose clients these are, and b.
    pub peers: [Peer; 2],
    pub links: Vec<Link>,
    work: TempDir,
    torment: Torment,
    sampler: Option<Sampler>,
    cut: Pace,
    kill: Pace,
    cuts: u64,
    kills: u64,
    silences: u64,
}

/// A client after so long hangs: it has much to do.
const CLIENT_PATIENCE: Duration = Duration::from_secs(900);
/// So often at a steady pace.
const CUTS_STEADY: u32 = 40;
const KILLS_STEADY: u32 = 6;

impl Stage {
    pub fn set(pair: Pair, torment: Torment) -> Stage {
        let (a, b, links) = pair(torment.rate);
        let sampler = Some(Sampler::begin(&[&a, &b]));
        let (cut, kill) = (Pace::new(torment.cut_every, CUTS_STEADY), Pace::new(torment.kill_every, KILLS_STEADY));
        let work = tempfile::tempdir().expect("a directory");
        fs::create_dir(work.path().join("home")).expect("a directory");
        let (cuts, kills, silences) = (0, 0, 0);
        Stage { peers: [a, b], links, work, torment, sampler, cut, kill, cuts, kills, silences }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// A path as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path in UTF-8").to_string()
    }

    /// A client of home a, that finds `plumb` where it looks for a remote shell.
    pub fn client(&self, program: &str, words: &[&str]) -> Command {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|directory| directory.join(program).exists())
        });
        assert!(found, "there is no {program} on this machine; Debian has it in the package {}", package(program));
        let mut command = self.peers[0].command(program);
        command.args(words).current_dir(self.work.path()).env("HOME", self.path("home"));
        for name in ["RSYNC_RSH", "BORG_RSH", "GIT_SSH_COMMAND"] {
            command.env(name, PLUMB);
        }
        command.env("BORG_BASE_DIR", self.path("home")).env("BORG_PASSPHRASE", "secret");
        command.env("BORG_REMOTE_PATH", format!("env BORG_BASE_DIR={} borg", self.text("home")));
        // Whoever packs behind our back still holds its lock when the client has ended.
        let settings = [("gc.auto", "0"), ("receive.autogc", "false"), ("user.name", "x"), ("user.email", "x@x")];
        for (number, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
    }

    /// Runs a client to its end while everything goes wrong.
    pub fn run(&mut self, mut command: Command) -> Ran {
        let files = ["stdout", "stderr"].map(|name| self.path(name));
        let [stdout, stderr] = files.each_ref().map(|path| File::create(path).expect("a file"));
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let started = Instant::now();
        let mut child = command.spawn().expect("the client starts");
        let status = self.torture(&mut child, started, &command);
        let took = started.elapsed();
        let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let [stdout, stderr] = files.map(|path| fs::read(path).expect("a file"));
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        println!("{:6.2} s  {:?} {}", took.as_secs_f64(), command.get_program(), words(&command));
        print!("{}", stderr.lines().map(|line| format!("          {line}\n")).collect::<String>());
        Ran { status, stdout, stderr, took }
    }

    fn torture(&mut self, child: &mut Child, started: Instant, command: &Command) -> std::process::ExitStatus {
        let (begin, length) = self.torment.silence;
        let mut silent_until = None;
        let mut silenced = false;
        loop {
            if let Some(status) = child.try_wait().expect("it is ours") {
                self.links.iter().for_each(|link| link.swallow(false));
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
            let now = Instant::now();
            if now > started + CLIENT_PATIENCE {
                let _ = child.kill();
                panic!("{:?} {} hangs", command.get_program(), words(command));
            }
            if !silenced && now >= started + begin {
                (silenced, silent_until) = (true, Some(now + length));
                self.silences += 1;
                self.links.iter().for_each(|link| link.swallow(true));
            }
            if silent_until.is_some_and(|until| now >= until) {
                silent_until = None;
                self.links.iter().for_each(|link| link.swallow(false));
            }
            if self.cut.is_due() {
                self.cut.step();
                self.cuts += u64::from(self.links.iter().map(Link::cut).sum::<usize>() > 0);
            }
            if self.kill.is_due() {
                self.kill.step();
                self.kills += self.peers.iter_mut().map(Peer::lose_every_daemon).sum::<u64>();
            }
        }
    }

    /// The client must succeed.
    pub fn good(&mut self, program: &str, words: &[&str]) -> Ran {
        self.run(self.client(program, words)).good()
    }

    /// A program on this machine, without anything that goes wrong.
    pub fn local(&self, program: &str, words: &[&str]) -> String {
        run(self.client(program, words), b"").good().text()
    }

    /// `name` as it is on the other side; with a user, and for URLs with a port that says nothing.
    pub fn far(&self, form: Form, name: &str) -> String {
        let (user, path) = (job::account::Account::ours().name, self.text(name));
        match form {
            Form::Short => format!("b:{path}"),
            Form::User => format!("{user}@b:{path}"),
            Form::Url => format!("ssh://{user}@b:2222{path}"),
        }
    }

    /// Bytes that have passed the links.
    pub fn passed(&self) -> u64 {
        self.links.iter().map(Link::bytes).sum()
    }

    /// Locks of any kind among the clients' files.
    pub fn locks(&self) -> Vec<String> {
        let walk = walkdir::WalkDir::new(self.work.path()).into_iter().flatten();
        let paths = walk.filter(|entry| {
            let name = entry.file_name().to_string_lossy();
            name.ends_with(".lock") || name.starts_with("lock.") || name == "gc.pid"
        });
        paths.map(|entry| entry.path().display().to_string()).collect()
    }

    /// What clients have left running: processes here and there, and open jobs.
    pub fn left_running(&self) -> Vec<String> {
        let mut left = Vec::new();
        let [a, b] = &self.peers;
        let ids = b.ids("jobs");
        for pid in processes_with("PLUMB_JOB=") {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let environ = String::from_utf8_lossy(&environ);
            left.extend(ids.iter().filter(|id| environ.contains(*id)).map(|id| format!("{pid} of job {id}")));
        }
        for pid in a.processes().into_iter().chain(b.processes()) {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let ours = ["daemon", "service", "loop"].map(|verb| format!("netplumb {verb}"));
            // One that has just ended has no words.
            if !command.is_empty() && !ours.iter().any(|verb| command.trim_end().ends_with(verb)) {
                left.push(format!("process {pid}: {command}"));
            }
        }
        for peer in [a, b] {
            left.extend(["queue", "rqueue", "running"].iter().flat_map(|place| peer.ids(place)));
        }
        left
    }

    /// Waits until nothing is left behind, and looks back.
    pub fn end(mut self, name: &str) {
        wait_until_empty(|| [self.left_running(), self.locks()].concat());
        let (peak_kib, peak_of) = self.sampler.take().expect("it is running").end();
        println!(
            "{name}: {} cuts, {} kills, {} silences; peak {:.1} MiB ({})",
            self.cuts,
            self.kills,
            self.silences,
            peak_kib as f64 / 1024.0,
            peak_of.rsplit('/').next().unwrap_or_default().trim()
        );
        assert!(peak_kib <= 64 << 10, "{peak_kib} KiB: {peak_of}");
        if self.torment.kill_every < Duration::from_secs(60) {
            assert!(self.kills >= 6 && self.silences >= 1, "{} kills, {} silences", self.kills, self.silences);
        }
    }
}

/// How a client names a file of the other side.
#[derive(Clone, Copy)]
pub enum Form {
    Short,
    User,
    Url,
}

/// Waits until nothing is left.
pub fn wait_until_empty(what: impl Fn() -> Vec<String>) {
    let started = Instant::now();
    loop {
        let left = what();
        if left.is_empty() {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "left behind: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn words(command: &Command) -> String {
    command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn package(program: &str) -> &str {
    match program {
        "borg" => "borgbackup",
        "scp" => "openssh-client, and openssh-sftp-server for the other side",
        other => other,
    }
}

/// All that somebody else said on stderr is something that went wrong.
pub fn only_ours(ran: &Ran) {
    let others: Vec<&str> = ran.stderr.lines().filter(|line| !line.starts_with("plumb: b: ")).collect();
    assert!(others.is_empty(), "{others:#?}");
}
