//! `plumb HOST COMMAND`: what one types instead of ssh.
//!
//! It only reads and writes the spool; the loop moves the bytes. `args.rs` is
//! the command line, `begin.rs` makes a queued job of it. Then four threads do
//! one thing each: `input.rs` seals stdin into `out/1`, `output.rs` (twice)
//! delivers `in/2` and `in/3`, `attend.rs` hears how it ended and decides when
//! it is over. `ending.rs` is the exit status and what is said about it,
//! `screen.rs` all that goes to stderr from us.
//!
//! stdout carries the command's bytes and nothing else.

mod args;
#[cfg(test)]
mod args_tests;
mod attend;
mod begin;
mod bell;
mod descriptor;
mod ending;
mod help;
mod input;
mod output;
mod producer;
mod progress;
mod screen;
mod signals;
mod why;

use args::{Line, Request, Wrong};
use bell::Events;
use ending::{Ending, Reason};
use screen::Screen;
use spool::name::Chan;
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

/// The program. Its end is the process's: threads may still be in the middle of a read.
pub fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).collect();
    match args::parse(words, &|name| std::env::var_os(name)) {
        Ok(Line::Help) => print(help::HELP),
        Ok(Line::Version) => print(&help::version()),
        Ok(Line::Config(request)) => print(&help::config(&request)),
        Ok(Line::Run(request)) => {
            let screen = Arc::new(Screen::new(request.quiet, request.verbose, !request.no_progress));
            match status_file(request.status_fd) {
                Ok(status) => tell(&run(&request, &screen), &screen, status),
                Err(ending) => tell(&ending, &screen, None),
            }
        }
        Err(Wrong { what, status_fd }) => {
            let screen = Screen::new(false, false, false);
            tell(&Ending::failed(Reason::Usage, what), &screen, status_file(status_fd).unwrap_or(None))
        }
    }
}

fn run(request: &Request, screen: &Arc<Screen>) -> Ending {
    for option in &request.ignored {
        screen.detail(format_args!("{option} does nothing here"));
    }
    attempt(request, screen).unwrap_or_else(|ending| ending)
}

fn attempt(request: &Request, screen: &Arc<Screen>) -> Result<Ending, Ending> {
    let ready = begin::ready(&request.host)?;
    let threads_failed = |error| Ending::failed(Reason::Disk, format_args!("cannot begin: {error}"));
    let (bell, events) = Events::new().map_err(threads_failed)?;
    signals::listen(bell.clone()).map_err(threads_failed)?;
    // The lock says that somebody waits for this job; it ends with the process.
    let (job, lock) = begin::queue(ready, request, screen, &bell, &events)?;
    output::start(&job, &bell, screen, Chan::STDOUT, rustix::stdio::stdout()).map_err(threads_failed)?;
    output::start(&job, &bell, screen, Chan::STDERR, rustix::stdio::stderr()).map_err(threads_failed)?;
    let ending = attend::attend(&job, &request.host, screen, &events);
    if let Some(producer) = &job.producer {
        // However it ends from here on, that changes nothing any more.
        job.unread.declare();
        producer.end();
    }
    std::mem::forget(lock);
    Ok(ending)
}

fn status_file(number: Option<i32>) -> Result<Option<File>, Ending> {
    let Some(number) = number else { return Ok(None) };
    let bad = |error| Ending::failed(Reason::Usage, format_args!("-status-fd={number}: {error}"));
    descriptor::inherited(number).map(Some).map_err(bad)
}

/// Says how it ended, in every way that was asked for, and gives the exit status.
fn tell(ending: &Ending, screen: &Screen, status: Option<File>) -> ExitCode {
    if !ending.what.is_empty() {
        screen.say(&ending.what);
    }
    if let Some(line) = ending.last_line() {
        screen.say(line);
    }
    if let Some(mut file) = status
        && let Err(error) = file.write_all(ending.json().as_bytes())
    {
        screen.detail(format_args!("cannot write to -status-fd: {error}"));
    }
    ExitCode::from(ending.exit)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
