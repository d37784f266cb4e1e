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
mod attach;
mod attend;
mod begin;
mod bell;
mod blocked;
mod descriptor;
mod doubt;
mod ending;
mod health;
mod help;
mod input;
mod output;
mod presence;
mod producer;
mod progress;
mod screen;
mod signals;
mod why;

use args::{Line, Request, Wrong};
use attend::{Role, Stance};
use begin::Job;
use bell::{Bell, Events};
pub use ending::{Ending, Reason};
use output::Taking;
use screen::Screen;
use spool::name::Chan;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// Runs the program, and gives its exit status. The process must end at once with it
/// ([`job::run_and_exit`]): threads may still be in the middle of their work.
pub fn main() -> u8 {
    let words = std::env::args_os().skip(1).collect();
    match args::parse(words, &|name| std::env::var_os(name)) {
        Ok(Line::Help) => print(help::HELP),
        Ok(Line::Version) => print(&help::version()),
        Ok(Line::Config(request)) => print(&help::config(&request)),
        Ok(Line::Run(request)) => end(&request, |screen| attempt(&request, screen)),
        Ok(Line::Attach(request, wish)) => end(&request, |screen| attach::attach(&request, &wish, screen)),
        Err(Wrong { what, status_fd }) => {
            let screen = Screen::new(false, false, false);
            tell(&Ending::failed(Reason::Usage, what), &screen, status_file(status_fd).unwrap_or(None))
        }
    }
}

/// Does what is asked, and says how that ended.
fn end(request: &Request, act: impl FnOnce(&Arc<Screen>) -> Result<Ending, Ending>) -> u8 {
    let screen = Arc::new(Screen::new(request.quiet, request.verbose, !request.no_progress));
    for option in &request.ignored {
        screen.detail(format_args!("{option} does nothing here"));
    }
    match status_file(request.status_fd) {
        Ok(status) => tell(&act(&screen).unwrap_or_else(|ending| ending), &screen, status),
        Err(ending) => tell(&ending, &screen, None),
    }
}

fn attempt(request: &Request, screen: &Arc<Screen>) -> Result<Ending, Ending> {
    let ready = begin::ready(&request.host)?;
    let (bell, events) = listen()?;
    // The lock says that somebody waits for this job; it ends with the process.
    let (job, mut presence) = begin::queue(ready, request, screen, &bell, &events)?;
    let role = if request.detach { Role::Leaving } else { Role::First };
    if role == Role::First {
        deliver(&job, &bell, screen, role, None)?;
    }
    let stance = Stance { role, feeds: true, now: request.now };
    let ending = attend::attend(&job, presence.as_mut(), &request.host, stance, screen, &events);
    if let Some(producer) = &job.producer {
        // However it ends from here on, that changes nothing any more.
        job.unread.declare();
        producer.end();
    }
    std::mem::forget(presence);
    if ending == Ending::left().for_job(job.msgid()) && print(&format!("{}\n", job.msgid())) != 0 {
        screen.say(format_args!("job {}: cannot write its id to stdout", job.msgid()));
    }
    Ok(ending)
}

/// From here on signals are events.
fn listen() -> Result<(Bell, Events), Ending> {
    let (bell, events) = Events::new().map_err(threads_failed)?;
    signals::listen(bell.clone()).map_err(threads_failed)?;
    Ok((bell, events))
}

/// Begins to deliver both outputs, stdout from this byte on if one is named.
fn deliver(job: &Job, bell: &Bell, screen: &Arc<Screen>, role: Role, from: Option<u64>) -> Result<(), Ending> {
    output::start(job, bell, screen, Chan::STDOUT, Taking { role, from }).map_err(threads_failed)?;
    output::start(job, bell, screen, Chan::STDERR, Taking { role, from: None }).map_err(threads_failed)
}

fn threads_failed(error: std::io::Error) -> Ending {
    Ending::failed(Reason::Disk, format_args!("cannot begin: {error}"))
}

fn status_file(number: Option<i32>) -> Result<Option<File>, Ending> {
    let Some(number) = number else { return Ok(None) };
    let bad = |error| Ending::failed(Reason::Usage, format_args!("-status-fd={number}: {error}"));
    descriptor::inherited(number).map(Some).map_err(bad)
}

/// Says how it ended, in every way that was asked for, and gives the exit status.
fn tell(ending: &Ending, screen: &Screen, status: Option<File>) -> u8 {
    if let Some(mut file) = status
        && let Err(error) = file.write_all(ending.json().as_bytes())
    {
        screen.detail(format_args!("cannot write to -status-fd: {error}"));
    }
    let what = Some(&ending.what).filter(|what| !what.is_empty()).cloned();
    screen.close(what.into_iter().chain(ending.last_line()));
    ending.exit
}

/// Writes words of our own to stdout; 1 if it does not take them, else 0.
fn print(text: &str) -> u8 {
    let mut stdout = std::io::stdout();
    u8::from(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err())
}
