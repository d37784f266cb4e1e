//! `netplumb`: everything but `plumb` itself. One file per verb.

mod cancel;
mod card;
mod certs;
mod check;
mod daemon;
mod demo;
mod dump;
mod fail;
mod jobs;
mod keeper;
mod keygen;
mod link;
mod listing;
mod logs;
mod parts;
mod peer;
mod probe;
mod queue;
mod service;
mod show;
mod spool;
mod view;
mod wait;
mod why;
#[path = "loop.rs"]
mod worker;

use clap::{Parser, Subcommand};

/// Remote pipes that survive: sets up, runs and shows what `plumb HOST COMMAND` uses.
#[derive(Parser)]
#[command(name = "netplumb", version, max_term_width = 100)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Makes an identity: certificates, keys, settings.
    Keygen(keygen::Args),
    /// Prints our card: what a peer needs to know us.
    Card(card::Args),
    /// Adds, lists, removes and tests peers.
    Peer(peer::Args),
    /// Runs everything: service, loop and keepers.
    Daemon(daemon::Args),
    /// Answers peers over HTTP (started by the daemon).
    Service(service::Args),
    /// Works on one message by hand, or as the daemon's worker.
    Loop(worker::Args),
    /// Runs one job (started by the daemon).
    Keeper(keeper::Args),
    /// Lists the messages on their way.
    Queue(queue::Args),
    /// Lists the jobs.
    Jobs(jobs::Args),
    /// Shows everything about one message or job.
    Show(show::Args),
    /// Says why a message or job waits.
    Why(why::Args),
    /// Waits for the end of a job, and ends as its command did.
    Wait(wait::Args),
    /// Ends a job.
    Cancel(cancel::Args),
    /// Checks the home: modes, keys, spool, sandbox.
    Check(check::Args),
    /// Prints any file of the spool.
    Dump(dump::Args),
    /// Makes a new spool, or takes over one that was moved.
    Spool(spool::Args),
    /// Shows it: a backup through a link that is cut, with daemons killed.
    Demo(demo::Args),
}

fn main() {
    job::run_and_exit(run)
}

/// Runs what the command line asks for; gives the exit status.
fn run() -> u8 {
    // One file with two names: called `plumb`, it is `plumb`.
    let called = std::env::args_os().next().unwrap_or_default();
    if std::path::Path::new(&called).file_name().is_some_and(|name| name == "plumb") {
        return plumb::main();
    }
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(words) => {
            // Help and version are answers; everything else is sysexits' wrong usage.
            let status = if words.use_stderr() { fail::USAGE } else { 0 };
            let _ = words.print();
            return status;
        }
    };
    let ran = match line.verb {
        Verb::Keygen(args) => keygen::run(args),
        Verb::Card(args) => card::run(args),
        Verb::Peer(args) => peer::run(args),
        Verb::Daemon(args) => daemon::run(args),
        Verb::Service(args) => service::run(args),
        Verb::Loop(args) => worker::run(args),
        Verb::Keeper(args) => keeper::run(args),
        Verb::Queue(args) => queue::run(args),
        Verb::Jobs(args) => jobs::run(args),
        Verb::Show(args) => show::run(args),
        Verb::Why(args) => why::run(args),
        Verb::Wait(args) => return wait::run(args),
        Verb::Cancel(args) => cancel::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Dump(args) => dump::run(args),
        Verb::Spool(args) => spool::run(args),
        Verb::Demo(args) => demo::run(args),
    };
    fail::exit(ran)
}

/// Log lines on stderr, for the verbs that run for long; `PLUMB_LOG` chooses which.
fn logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PLUMB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // The journal has the time already.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().with_ansi(false).init();
    } else {
        lines.with_ansi(false).init();
    }
}
