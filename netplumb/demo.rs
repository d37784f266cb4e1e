//! `netplumb demo`: a backup through a link that is cut every second, with daemons killed on the way.
//!
//! Two real peers in a temporary directory, real `tar`, real kills. Everything
//! that it makes is below that directory, and is removed.

use crate::link::Link;
use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use keygen::{Card, Identity};
use spool::home::Home;
use spool::name::PeerName;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The words after the verb.
#[derive(clap::Args)]
#[command(
    long_about = "Makes two peers on this machine, `laptop` and `nas`, and a slow link between them that is cut \
    every second.\nBacks DIR up by tar through plumb, kills daemons, services and workers on the way, restores, and \
    compares every file.\nIt uses loopback only, takes under a minute, and removes what it made."
)]
pub struct Args {
    /// What to back up; left out: /usr/bin.
    dir: Option<PathBuf>,
}

/// The slow link makes either direction take about this long.
const DIRECTION: Duration = Duration::from_secs(14);
/// No link is slower or faster than this, in bytes per second.
const RATE: [u64; 2] = [2_000_000, 120_000_000];
/// A killing comes after so many cuts.
const CUTS_PER_KILL: u64 = 3;

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    let source = args.dir.unwrap_or_else(|| PathBuf::from("/usr/bin"));
    let source = source.canonicalize().with_context(|| source.display().to_string())?;
    let (files, size) = measure(&source)?;
    let rate = (size / DIRECTION.as_secs()).clamp(RATE[0], RATE[1]);
    let scratch = Scratch::new()?;
    let place = scratch.path();
    let story = Story::new(size);
    story.say(format!("{}: {files} files, {}", source.display(), bytes(size)));

    let stage = Arc::new(Stage::new(&place, rate)?);
    story.say(format!("two peers, and a link of {}/s between them that is cut every second", bytes(rate)));
    let backup = place.join("nas/home.tar");
    let restored = place.join("restored");
    std::fs::DirBuilder::new().create(&restored)?;

    let trouble = Trouble::begin(stage.clone(), story.clone());
    let started = Instant::now();
    story.phase("backing up", &stage);
    let put = format!("cat > {}", quoted(&backup));
    pipe(tar(["-cf", "-", "."], &source), stage.laptop.plumb(&["nas", &put]))
        .context("tar -cf - . | plumb nas 'cat > home.tar'")?;
    let forth = started.elapsed();
    story.say(format!("tar -cf - . | plumb nas 'cat > home.tar'   done in {:.1} s", forth.as_secs_f64()));

    story.phase("restoring", &stage);
    let get = format!("cat {}", quoted(&backup));
    pipe(stage.laptop.plumb(&["nas", &get]), tar(["-xpf", "-"], &restored))
        .context("plumb nas 'cat home.tar' | tar -xpf -")?;
    let back = started.elapsed() - forth;
    story.say(format!("plumb nas 'cat home.tar' | tar -xpf -      done in {:.1} s", back.as_secs_f64()));
    let (cuts, kills) = trouble.end();

    let payload = std::fs::metadata(&backup)?.len() * 2;
    let passed = stage.links.iter().map(Link::bytes).sum::<u64>();
    let compared = compare(&source, &restored)?;
    story.end();
    println!("  {:>14}  handed over, there and back", bytes(payload));
    let more = passed.saturating_sub(payload);
    println!("  {:>14}  passed the link: {} more, {:.2} %", bytes(passed), bytes(more), percent(more, payload));
    println!("  {cuts:>14}  times the link was cut");
    println!("  {kills:>14}  processes were killed");
    println!("  {:>12.1} s  in all", started.elapsed().as_secs_f64());
    println!("  {compared:>14}  files compared: identical");
    Ok(())
}

/// What happens, told as it happens: above a bar on a terminal, else line by line.
#[derive(Clone)]
struct Story {
    bar: ProgressBar,
    started: Instant,
    size: u64,
}

impl Story {
    fn new(size: u64) -> Story {
        let bar = ProgressBar::new(size);
        let style = "  {msg:>11} [{bar:36}] {bytes:>11} of {total_bytes} {bytes_per_sec:>13}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        Story { bar, started: Instant::now(), size }
    }

    fn say(&self, line: String) {
        let line = format!("{:6.1} s  {line}", self.started.elapsed().as_secs_f64());
        if self.bar.is_hidden() { println!("{line}") } else { self.bar.println(line) }
    }

    /// Begins a direction: the bar follows what passes the links from here on.
    fn phase(&self, what: &'static str, stage: &Arc<Stage>) {
        self.bar.reset();
        self.bar.set_message(what);
        self.bar.set_length(self.size);
        stage.count_from.store(stage.passed(), Ordering::Relaxed);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// One peer of the demonstration.
struct Actor {
    name: &'static str,
    home: PathBuf,
    daemon: Mutex<Option<Child>>,
}

impl Actor {
    fn new(parent: &Path, name: &'static str, listen: &str) -> anyhow::Result<Actor> {
        let home = parent.join(name);
        std::fs::DirBuilder::new().create(&home)?;
        let actor = Actor { name, home, daemon: Mutex::new(None) };
        keygen::create(&actor.as_home(), &name.parse()?, &[listen.parse()?], &[])?;
        Ok(actor)
    }

    fn as_home(&self) -> Home {
        Home { config: self.home.join("config"), spool: self.home.join("spool") }
    }

    fn knows(&self, other: &Actor, address: &str) -> anyhow::Result<()> {
        let name: PeerName = other.name.parse()?;
        let chain = Identity::load(&other.as_home())?.chain().clone();
        let card = Card { name: other.name.parse()?, addresses: Vec::new(), chain };
        Ok(keygen::add_peer(&self.as_home(), &name, &card, keygen::Reach::at(&[address.parse()?]), true)?)
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env("NETPLUMB_HOME", &self.home).env("PLUMB_LOG", "error");
        Ok(command)
    }

    fn up(&self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.home.join("log"))?;
        let mut command = self.command()?;
        command.arg("daemon").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *lock(&self.daemon) = Some(command.spawn()?);
        Ok(())
    }

    /// `plumb` with these words, quiet.
    fn plumb(&self, words: &[&str]) -> Command {
        let mut command = self.command().unwrap_or_else(|_| Command::new("netplumb"));
        command.arg0("plumb").arg("-q").args(words);
        command
    }

    /// Kills the daemon and starts it again, or kills one of its children; says which.
    fn suffer(&self, verb: &str) -> anyhow::Result<bool> {
        let pid = lock(&self.daemon).as_ref().map_or(0, Child::id);
        if verb == "daemon" {
            self.down();
            self.up()?;
            return Ok(true);
        }
        Ok(children(pid).into_iter().filter(|child| runs(*child, verb)).any(kill_9))
    }

    fn down(&self) {
        if let Some(mut daemon) = lock(&self.daemon).take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The two peers and what is between them.
struct Stage {
    laptop: Actor,
    nas: Actor,
    links: [Link; 2],
    count_from: std::sync::atomic::AtomicU64,
}

impl Stage {
    fn new(parent: &Path, rate: u64) -> anyhow::Result<Stage> {
        let [one, two] = [free_address()?, free_address()?];
        let (laptop, nas) = (Actor::new(parent, "laptop", &one)?, Actor::new(parent, "nas", &two)?);
        let links = [Link::open(&one, rate)?, Link::open(&two, rate)?];
        laptop.knows(&nas, &links[1].address.to_string())?;
        nas.knows(&laptop, &links[0].address.to_string())?;
        laptop.up()?;
        nas.up()?;
        Ok(Stage { laptop, nas, links, count_from: 0.into() })
    }

    fn passed(&self) -> u64 {
        self.links.iter().map(Link::bytes).sum()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for actor in [&self.laptop, &self.nas] {
            actor.down();
        }
    }
}

/// Cuts and kills, until it is ended.
struct Trouble {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, u64)>,
}

impl Trouble {
    fn begin(stage: Arc<Stage>, story: Story) -> Trouble {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut cuts, mut kills, mut ticks) = (0, 0, 0u64);
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                let passed = stage.passed() - stage.count_from.load(Ordering::Relaxed);
                story.bar.set_position(passed.min(story.size));
                ticks += 1;
                if ticks % 10 != 0 {
                    continue;
                }
                let hit = stage.links.iter().map(Link::cut).sum::<usize>();
                cuts += u64::from(hit > 0);
                let mut line = format!("cut {hit} connections");
                if ticks / 10 % CUTS_PER_KILL == 0 {
                    let turn = (ticks / 10 / CUTS_PER_KILL) as usize;
                    let actor = [&stage.laptop, &stage.nas][turn % 2];
                    let verb = ["loop", "service", "daemon"][turn / 2 % 3];
                    if actor.suffer(verb).unwrap_or(false) {
                        kills += 1;
                        let again = if verb == "daemon" { ", and started it again" } else { "" };
                        line = format!("{line}, killed {}'s {verb}{again}", actor.name);
                    }
                }
                story.say(line);
            }
            (cuts, kills)
        });
        Trouble { stop, thread }
    }

    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or((0, 0))
    }
}

/// The directory that everything is in; gone at the end, however it comes.
#[derive(Clone)]
struct Scratch(Arc<Mutex<Option<tempfile::TempDir>>>);

impl Scratch {
    fn new() -> anyhow::Result<Scratch> {
        let directory = tempfile::Builder::new().prefix("netplumb-demo-").tempdir()?;
        let scratch = Scratch(Arc::new(Mutex::new(Some(directory))));
        let mut signals = signal_hook::iterator::Signals::new([2, 15])?;
        let interrupted = scratch.clone();
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                interrupted.clear();
                job::exit_now(130);
            }
        });
        Ok(scratch)
    }

    fn path(&self) -> PathBuf {
        lock(&self.0).as_ref().map(|directory| directory.path().to_path_buf()).unwrap_or_default()
    }

    /// Ends every process of the demonstration, and removes its directory.
    fn clear(&self) {
        let Some(directory) = lock(&self.0).take() else { return };
        let marker = format!("NETPLUMB_HOME={}/", directory.path().display());
        for pid in all_pids().filter(|pid| *pid != std::process::id()) {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environ.split(|&b| b == 0).any(|variable| variable.starts_with(marker.as_bytes())) {
                kill_9(pid);
            }
        }
        if let Err(error) = directory.close() {
            eprintln!("netplumb: cannot remove what the demonstration made: {error}");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The thread that waits for signals has another one; the first to clear does it.
        self.clear();
    }
}

/// Runs `from | to`; both must succeed.
fn pipe(mut from: Command, mut to: Command) -> anyhow::Result<()> {
    let mut from = from.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let between = from.stdout.take().context("a pipe")?;
    let mut to = to.stdin(between).stdout(Stdio::null()).spawn()?;
    let (from, to) = (from.wait()?, to.wait()?);
    ensure!(from.success() && to.success(), "ended with {from} and {to}");
    Ok(())
}

fn tar<const N: usize>(words: [&str; N], directory: &Path) -> Command {
    let mut command = Command::new("tar");
    command.arg("-C").arg(directory).args(words);
    command
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// Files and bytes below a directory.
fn measure(directory: &Path) -> anyhow::Result<(u64, u64)> {
    let (mut files, mut size) = (0, 0);
    for entry in walkdir::WalkDir::new(directory) {
        let metadata = entry?.metadata()?;
        files += u64::from(!metadata.is_dir());
        size += if metadata.is_file() { metadata.len().next_multiple_of(512) + 512 } else { 512 };
    }
    Ok((files, size))
}

/// Compares two trees: names, kinds, modes, contents, targets of links. Says how many files there were.
fn compare(one: &Path, two: &Path) -> anyhow::Result<u64> {
    let tree = |root: &Path| -> anyhow::Result<Vec<PathBuf>> {
        let walk = walkdir::WalkDir::new(root).sort_by_file_name().into_iter();
        walk.map(|entry| Ok(entry?.path().strip_prefix(root)?.to_path_buf())).collect()
    };
    let names = tree(one)?;
    ensure!(names == tree(two)?, "the restored tree has other names");
    let mut files = 0;
    for name in names {
        let (one, two) = (one.join(&name), two.join(&name));
        let (a, b) = (one.symlink_metadata()?, two.symlink_metadata()?);
        let kind = |metadata: &std::fs::Metadata| metadata.mode() & 0o170000;
        if kind(&a) != kind(&b) || (!a.is_symlink() && !name.as_os_str().is_empty() && a.mode() != b.mode()) {
            bail!("{}: another kind or mode", name.display());
        }
        let same = if a.is_symlink() {
            std::fs::read_link(&one)? == std::fs::read_link(&two)?
        } else if a.is_file() {
            a.len() == b.len() && std::fs::read(&one)? == std::fs::read(&two)?
        } else {
            true
        };
        ensure!(same, "{}: another content", name.display());
        files += u64::from(!a.is_dir());
    }
    Ok(files)
}

fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

fn free_address() -> std::io::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default().to_string();
        after_name.split(' ').nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent)
    };
    all_pids().filter(is_child).collect()
}

/// Does this process run this verb of `netplumb`?
fn runs(pid: u32, verb: &str) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|&b| b == 0).nth(1) == Some(verb.as_bytes())
}

fn kill_9(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid as i32);
    pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
