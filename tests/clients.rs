//! Programs that know nothing of us, as their users call them: rsync, borg, git,
//! scp and plain pipes, while links are cut and go silent and every daemon of
//! both sides is killed, over and over.

use crate::homes::{PLUMB, Peer, Ran, Sampler, kill_9, noise, pair_behind_links, processes_with, run, send, wait_until};
use crate::link::Link;
use crate::tree::{Tree, difference};
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Makes two homes that reach each other only through links of this rate.
type Pair = fn(u64) -> (Peer, Peer, [Link; 2]);

/// What goes wrong while a client is at work.
#[derive(Clone, Copy)]
struct Torment {
    /// What the links carry, in bytes per second.
    rate: u64,
    /// Every connection is closed this often.
    cut_every: Duration,
    /// All six daemon processes are killed this often; those that a supervisor restarts are.
    kill_every: Duration,
    /// Of each client's time: when the links swallow everything, and for how long.
    silence: (Duration, Duration),
}

impl Torment {
    /// Some cuts and kills within a few seconds.
    const SHORT: Torment = Torment {
        rate: 4_000_000,
        cut_every: Duration::from_millis(450),
        kill_every: Duration::from_millis(1100),
        silence: (Duration::from_millis(700), Duration::from_millis(500)),
    };
    /// What the issue asks for.
    const LONG: Torment = Torment {
        rate: 20_000_000,
        cut_every: Duration::from_secs(3600),
        kill_every: Duration::from_secs(5),
        silence: (Duration::from_secs(8), Duration::from_secs(60)),
    };
    /// Nothing.
    const NONE: Torment = Torment {
        rate: 0,
        cut_every: Duration::from_secs(3600),
        kill_every: Duration::from_secs(3600),
        silence: (Duration::from_secs(3600), Duration::ZERO),
    };
}

/// Two homes, a place for the clients' files, and what went wrong so far.
struct Stage {
    peers: [Peer; 2],
    links: [Link; 2],
    work: TempDir,
    torment: Torment,
    sampler: Option<Sampler>,
    cut_at: Instant,
    kill_at: Instant,
    cuts: u64,
    kills: u64,
    silences: u64,
}

/// A client after so long hangs.
const PATIENCE: Duration = Duration::from_secs(900);

impl Stage {
    fn set(pair: Pair, torment: Torment) -> Stage {
        let (a, b, links) = pair(torment.rate);
        let sampler = Some(Sampler::begin(&[&a, &b]));
        let now = Instant::now();
        let (cut_at, kill_at) = (now + torment.cut_every, now + torment.kill_every);
        let work = tempfile::tempdir().expect("a directory");
        fs::create_dir(work.path().join("home")).expect("a directory");
        let (cuts, kills, silences) = (0, 0, 0);
        Stage { peers: [a, b], links, work, torment, sampler, cut_at, kill_at, cuts, kills, silences }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// A path as text.
    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path in UTF-8").to_string()
    }

    /// A client of home a, that finds `plumb` where it looks for a remote shell.
    fn client(&self, program: &str, words: &[&str]) -> Command {
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
    fn run(&mut self, mut command: Command) -> Ran {
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
            if now > started + PATIENCE {
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
            if now >= self.cut_at {
                self.cut_at = now + self.torment.cut_every;
                self.cuts += u64::from(self.links.iter().map(Link::cut).sum::<usize>() > 0);
            }
            if now >= self.kill_at {
                self.kill_at = now + self.torment.kill_every;
                self.kills += self.peers.iter_mut().map(Peer::lose_every_daemon).sum::<u64>();
            }
        }
    }

    /// The client must succeed.
    fn good(&mut self, program: &str, words: &[&str]) -> Ran {
        self.run(self.client(program, words)).good()
    }

    /// A program on this machine, without anything that goes wrong.
    fn local(&self, program: &str, words: &[&str]) -> String {
        run(self.client(program, words), b"").good().text()
    }

    /// `name` as it is on the other side; with a user, and for URLs with a port that says nothing.
    fn far(&self, form: Form, name: &str) -> String {
        let (user, path) = (job::account::Account::ours().name, self.text(name));
        match form {
            Form::Short => format!("b:{path}"),
            Form::User => format!("{user}@b:{path}"),
            Form::Url => format!("ssh://{user}@b:2222{path}"),
        }
    }

    /// What clients have left behind: processes here and there, locks, and open jobs.
    fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        for entry in walkdir::WalkDir::new(self.work.path()).into_iter().flatten() {
            let name = entry.file_name().to_string_lossy();
            if name.ends_with(".lock") || name.starts_with("lock.") || name == "gc.pid" {
                left.push(entry.path().display().to_string());
            }
        }
        let [a, b] = &self.peers;
        for id in b.ids("jobs") {
            let processes = processes_with(&format!("PLUMB_JOB={id}"));
            left.extend(processes.iter().map(|pid| format!("process {pid} of {id}")));
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
    fn end(mut self, name: &str) {
        wait_until_empty(|| self.left_behind());
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
enum Form {
    Short,
    User,
    Url,
}

fn wait_until_empty(what: impl Fn() -> Vec<String>) {
    let started = Instant::now();
    loop {
        let left = what();
        if left.is_empty() {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "left behind: {left:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn words(command: &Command) -> String {
    command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn package(program: &str) -> &str {
    match program {
        "borg" => "borgbackup",
        "scp" => "openssh-client",
        other => other,
    }
}

/// All that somebody else said on stderr is something that went wrong.
fn only_ours(ran: &Ran) {
    let others: Vec<&str> = ran.stderr.lines().filter(|line| !line.starts_with("plumb: b: ")).collect();
    assert!(others.is_empty(), "{others:#?}");
}

fn rsync(pair: Pair, torment: Torment, tree: Tree) {
    let mut stage = Stage::set(pair, torment);
    let bytes = tree.make(&stage.path("here"));
    let there = stage.far(Form::User, "there/");
    only_ours(&stage.good("rsync", &["-a", "-e", PLUMB, "here/", &there]));
    assert_eq!(difference(&stage.path("here"), &stage.path("there")), "", "pushed");
    // From the environment, and the other way.
    only_ours(&stage.good("rsync", &["-a", &stage.far(Form::Short, "there/"), "back"]));
    assert_eq!(difference(&stage.path("here"), &stage.path("back")), "", "pulled");
    // Only what is new goes over.
    fs::write(stage.path("here/with blanks/0/file 1"), noise(100, 3)).expect("a file");
    let ran = stage.good("rsync", &["-a", "--stats", "here/", &there]);
    assert!(ran.text().contains("files transferred: 1\n"), "{}", ran.text());
    assert_eq!(difference(&stage.path("here"), &stage.path("there")), "", "renewed");
    stage.end(&format!("rsync of {} files, {} MiB", tree.files, bytes >> 20));
}

fn borg(pair: Pair, torment: Torment, tree: Tree) {
    let mut stage = Stage::set(pair, torment);
    let bytes = tree.make(&stage.path("here"));
    let repository = stage.far(Form::Url, "repository");
    let archive = format!("{repository}::one");
    stage.good("borg", &["init", "-e", "repokey-blake2", &repository]);
    stage.good("borg", &["create", &archive, "here"]);
    stage.good("borg", &["check", &repository]);
    fs::create_dir(stage.path("out")).expect("a directory");
    let mut extract = stage.client("borg", &["extract", &archive]);
    extract.current_dir(stage.path("out"));
    stage.run(extract).good();
    assert_eq!(difference(&stage.path("here"), &stage.path("out/here")), "", "extracted");
    stage.end(&format!("borg with {} files, {} MiB", tree.files, bytes >> 20));
}

/// Appends commits to a branch, each with a file of so many bytes that are its own.
fn commits(stage: &Stage, repository: &str, numbers: std::ops::Range<u64>, size: usize) {
    let (mut stream, first) = (Vec::new(), numbers.start);
    for number in numbers {
        let head = "commit refs/heads/main\ncommitter x <x@x> 1700000000 +0000\ndata 1\nx";
        let from = if number == first && first > 0 { "from refs/heads/main^0\n" } else { "" };
        stream.extend_from_slice(format!("{head}\n{from}M 644 inline f{}\ndata {size}\n", number % 50).as_bytes());
        stream.extend_from_slice(&noise(size, number + 1));
        stream.push(b'\n');
    }
    run(stage.client("git", &["-C", repository, "fast-import", "--quiet"]), &stream).good();
}

fn git(pair: Pair, torment: Torment, count: u64, size: usize) {
    let mut stage = Stage::set(pair, torment);
    stage.local("git", &["init", "-q", "--bare", "-b", "main", "far.git"]);
    commits(&stage, "far.git", 0..count, size);
    let objects = stage.local("git", &["-C", "far.git", "rev-list", "--all", "--objects", "--count"]);
    let (url, short) = (stage.far(Form::Url, "far.git"), stage.far(Form::Short, "far.git"));
    let mut clone = stage.client("git", &["clone", "-q", &url, "near"]);
    clone.env("GIT_TRACE_PACKET", stage.path("trace"));
    let ran = stage.run(clone).good();
    only_ours(&ran);
    let trace = fs::read_to_string(stage.path("trace")).expect("a trace");
    assert!(trace.contains("clone< version 2"), "GIT_PROTOCOL travels");
    only_ours(&stage.good("git", &["clone", "-q", &short, "other"]));
    commits(&stage, "near", count..count + count / 3, size);
    only_ours(&stage.good("git", &["-C", "near", "push", "-q", "origin", "main"]));
    only_ours(&stage.good("git", &["-C", "other", "fetch", "-q"]));
    let heads = [("far.git", "main"), ("near", "main"), ("other", "origin/main")];
    let heads = heads.map(|(repository, name)| stage.local("git", &["-C", repository, "rev-parse", name]));
    assert!(heads.iter().all(|head| *head == heads[0]), "{heads:?}");
    for repository in ["far.git", "near", "other"] {
        stage.local("git", &["-C", repository, "fsck", "--full", "--strict"]);
    }
    stage.end(&format!("git with {} objects at first", objects.trim()));
}

#[test]
fn rsync_pushes_and_pulls_through_cuts_and_kills() {
    rsync(pair_behind_links, Torment::SHORT, Tree { files: 400, small: 8 << 10, large: 3 << 20 });
}

#[test]
fn borg_inits_creates_checks_and_extracts_through_cuts_and_kills() {
    let torment = Torment { silence: (Duration::from_millis(500), Duration::from_millis(300)), ..Torment::SHORT };
    borg(pair_behind_links, torment, Tree { files: 200, small: 8 << 10, large: 1 << 20 });
}

#[test]
fn git_clones_pushes_and_fetches_through_cuts_and_kills() {
    git(pair_behind_links, Torment::SHORT, 500, 12 << 10);
}

#[test]
#[ignore = "a gibibyte there and back, with a minute of silence each; five minutes"]
fn rsync_of_20000_files_survives_a_minute_of_silence_and_a_kill_of_everything_every_5_s() {
    rsync(pair_behind_links, Torment::LONG, Tree { files: 20_000, small: 28 << 10, large: 8 << 20 });
}

#[test]
#[ignore = "a gibibyte there and back, with a minute of silence each; five minutes"]
fn borg_with_a_gibibyte_survives_a_minute_of_silence_and_a_kill_of_everything_every_5_s() {
    borg(pair_behind_links, Torment::LONG, Tree { files: 20_000, small: 28 << 10, large: 8 << 20 });
}

#[test]
#[ignore = "four minutes of silence"]
fn git_with_6000_objects_survives_minutes_of_silence_and_a_kill_of_everything_every_5_s() {
    let silence = (Duration::from_millis(600), Torment::LONG.silence.1);
    git(pair_behind_links, Torment { rate: 6_000_000, silence, ..Torment::LONG }, 2000, 12 << 10);
}
