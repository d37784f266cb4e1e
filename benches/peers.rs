//! `cargo bench --bench peers`: netplumb beside ssh and NNCP, in one run, as root.
//!
//! Installs `nncp`, `openssh-server`, `openssh-client`, `rsync` and `borgbackup`
//! from Debian packages where they are missing, and leaves them installed; no
//! system service is started. Everything runs on loopback, with keys, settings and free ports of
//! its own, in temporary directories that vanish with every process at the end.
//!
//! ```text
//! cargo bench --bench peers                          five to ten minutes
//! cargo bench --bench peers -- --quick               64 MiB, 20 round trips, one round: to see it run
//! cargo bench --bench peers -- --only bulk           or small, chatty, clients
//! cargo bench --bench peers -- --dir /srv/scratch    the disk to use, instead of the build directory's
//! ```
//!
//! **Bulk**: 1 GiB of random bytes, made once in memory, from standard input to
//! a remote `cat >/dev/null`. Each round measures every system once, with
//! daemons that are up, one after the other; three rounds. The times contain
//! each system's set-up of the job or connection. What is compared is not the
//! same work: ssh writes nothing to disk, and what is in flight is lost with
//! the connection. plumb and NNCP keep every byte on disk at both ends until
//! the other side has it. NNCP works in stages on the whole packet (made,
//! carried, opened); they are started by hand back to back, without its usual
//! waiting, and their times added. Each system's spool is on the same disk.
//!
//! **Small**: `echo hi | … cat`, from starting the local program to its end: for
//! plumb with running daemons, ssh on a new connection (default key exchange)
//! and on a running master connection. `cat` alone says what starting a
//! program costs here.
//!
//! **Chatty**: one byte, and 1 KiB, to a remote `cat` that runs, and back, as
//! often as it goes; then `rsync -a` of 1,000 small files there and back, with
//! `-e plumb` beside `-e ssh`.
//!
//! **Clients**: 20,000 files with 1 GiB, by rsync into an empty directory and by
//! borg into a new repository, with `plumb` and with `ssh` as their remote shell,
//! in turn; three rounds. `borg init` is not counted.
//!
//! Processor time is summed over all processes of both sides, see [`account`].
//! Nothing is asserted: times drift with the machine's load, so what counts are
//! ratios within one run. A ratio of rounds is the median of the rounds' own
//! ratios, with the least and the greatest behind it; each stands beside the
//! bound that the project has set itself.

mod account;
mod bulk;
mod chatty;
mod clients;
mod debian;
mod netplumb;
mod nncp;
mod small;
mod ssh;
mod stage;
mod table;

use anyhow::{Context, bail};
use stage::Stage;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// How the command is used.
const USAGE: &str = "usage: cargo bench --bench peers [-- [--quick] [--only bulk|small|chatty|clients] [--dir DIR]]";

/// What to measure, and where.
struct Options {
    quick: bool,
    bulk: bool,
    small: bool,
    chatty: bool,
    clients: bool,
    disk: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says `--bench` when it is asked for a benchmark, and nothing when all targets are tested.
    if !words.iter().any(|word| word == "--bench") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match options(words).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(words: Vec<String>) -> anyhow::Result<Options> {
    let disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let mut options = Options { quick: false, bulk: true, small: true, chatty: true, clients: true, disk };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bench" => {}
            "--quick" => options.quick = true,
            "--dir" => options.disk = words.next().context(USAGE)?.into(),
            "--only" => match words.next().as_deref() {
                Some(part @ ("bulk" | "small" | "chatty" | "clients")) => {
                    (options.bulk, options.small) = (part == "bulk", part == "small");
                    (options.chatty, options.clients) = (part == "chatty", part == "clients");
                }
                _ => bail!(USAGE),
            },
            _ => bail!(USAGE),
        }
    }
    Ok(options)
}

fn run(options: Options) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("must be root: it installs Debian packages and runs a sshd of its own\n  hint: run it in a container");
    }
    let stage = Stage::new(&options.disk)?;
    debian::install()?;
    introduce(&options)?;
    let (size, rounds, trips) = if options.quick { (64 << 20, 1, 20) } else { (1 << 30, 3, 100) };
    if options.bulk {
        bulk::measure(&stage, size, rounds)?;
    }
    if options.small {
        small::measure(&stage, trips)?;
    }
    if options.chatty {
        chatty::measure(&stage, trips * 10, rounds)?;
    }
    if options.clients {
        clients::measure(&stage, size, if options.quick { 2_000 } else { 20_000 }, rounds)?;
    }
    println!("\nload at the end: {}", load());
    Ok(())
}

/// Says on what, with what, and how busy the machine is.
fn introduce(options: &Options) -> anyhow::Result<()> {
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output();
        let output = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or("").to_string()
    };
    let processors = std::thread::available_parallelism()?;
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |it| it.1);
    let disk = options.disk.display().to_string();
    let kind = said("stat", &["-f", "-c", "%T", &disk]);
    println!("machine  {processors} × {model}, Linux {}", said("uname", &["-r"]));
    println!("disk     {disk} ({kind}{})", if kind == "tmpfs" { ", NOT A DISK: use --dir" } else { "" });
    println!("peers    {}; {}", said("ssh", &["-V"]), said("nncp-exec", &["-version"]));
    println!("load     {} at the start\n", load());
    Ok(())
}

/// The machine's load averages.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
