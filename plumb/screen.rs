//! stderr, as `plumb` itself uses it: lines for a person, and on a terminal one
//! line of progress that is never in the way of the command's own output.
//!
//! The command's bytes go through here as well ([`Screen::deliver`]): before
//! they reach a terminal the progress line is wiped, and it stays away while
//! the cursor is in the middle of a line.

use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use spool::name::Chan;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where and how much is said.
pub struct Screen {
    quiet: bool,
    verbose: bool,
    progress: bool,
    line: Mutex<Line>,
    /// Held for each write of the command's bytes to stderr, and for good from our last line on.
    stderr: Mutex<()>,
}

#[derive(Default)]
struct Line {
    bar: Option<ProgressBar>,
    /// The command left the cursor in the middle of a line.
    unfinished: bool,
}

impl Line {
    fn wipe(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Writes a line of ours in place of the progress line.
    fn say(&mut self, text: impl Display) {
        self.wipe();
        let text: String = text.to_string().chars().map(printable).collect();
        // One write, so that lines of several programs do not mix. A stderr
        // that is gone has no reader to miss anything.
        let _ = std::io::stderr().write_all(format!("plumb: {text}\n").as_bytes());
        self.unfinished = false;
    }
}

impl Screen {
    /// With `progress`, a progress line is shown if stderr is a terminal that can.
    pub fn new(quiet: bool, verbose: bool, progress: bool) -> Screen {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let progress = progress && !quiet && !set("PLUMB_NO_PROGRESS") && !dumb && std::io::stderr().is_terminal();
        Screen { quiet, verbose, progress, line: Mutex::default(), stderr: Mutex::default() }
    }

    /// Says what must be known even with `-q`: why there is no result.
    pub fn say(&self, text: impl Display) {
        self.line().say(text);
    }

    /// Says our last lines. Nothing follows them on stderr: a thread that has more for it waits
    /// for ever, so the process must end now.
    pub fn close(&self, lines: impl Iterator<Item = String>) {
        let (mut line, stderr) = (self.line(), lock(&self.stderr));
        line.wipe();
        lines.for_each(|text| line.say(text));
        std::mem::forget((line, stderr));
    }

    /// Says what is worth knowing.
    pub fn note(&self, text: impl Display) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Says what only `-v` asks for.
    pub fn detail(&self, text: impl Display) {
        if self.verbose {
            self.say(text);
        }
    }

    /// Is there a progress line?
    pub fn has_progress(&self) -> bool {
        self.progress
    }

    /// Shows the progress line, or wipes it.
    pub fn show(&self, text: Option<String>) {
        // While a terminal takes its time with the command's output, nobody waits for this.
        let Ok(mut line) = self.line.try_lock() else { return };
        match text {
            None => line.wipe(),
            Some(_) if !self.progress || line.unfinished => {}
            Some(text) => {
                let bar = line.bar.get_or_insert_with(|| {
                    let style = ProgressStyle::with_template("{wide_msg}").expect("the template is a constant");
                    ProgressBar::new_spinner().with_style(style)
                });
                bar.set_message(text.chars().map(printable).collect::<String>());
                bar.tick();
            }
        }
    }

    /// Writes all bytes of one of the command's outputs to where they belong, as they are.
    pub fn deliver(&self, chan: Chan, target: BorrowedFd, bytes: &[u8]) -> rustix::io::Result<()> {
        if !self.progress || !target.is_terminal() {
            return write_all(target, bytes, (chan == Chan::STDERR).then_some(&self.stderr));
        }
        let mut line = self.line();
        line.wipe();
        line.unfinished = bytes.last() != Some(&b'\n');
        write_all(target, bytes, None)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A peer's text on one line: no part of it can be taken for a line of ours.
pub fn one_line(text: impl Display) -> String {
    let mut line = String::new();
    for c in text.to_string().chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Text must not steer a terminal; our own may have several lines.
fn printable(c: char) -> char {
    if c.is_control() && c != '\n' { '\u{fffd}' } else { c }
}

/// Writes all of it; each write has its turn, but no wait for a slow reader does.
fn write_all(target: BorrowedFd, mut bytes: &[u8], turn: Option<&Mutex<()>>) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let turn = turn.map(lock);
        let written = rustix::io::write(target, bytes);
        drop(turn);
        match written {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Somebody who shares the open file made it non-blocking.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(target, PollFlags::OUT)], None)),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn all_bytes_reach_a_slow_reader_of_a_nonblocking_pipe() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let expected = bytes.clone();
        let thread = std::thread::spawn(move || {
            Screen::new(true, false, false).deliver(Chan::STDOUT, writer.as_fd(), &bytes).unwrap();
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        thread.join().unwrap();
        assert!(read == expected);
    }

    /// The command's bytes could follow the line that scripts take for the last one.
    #[test]
    fn nothing_follows_our_last_line_on_stderr() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let screen = std::sync::Arc::new(Screen::new(true, false, false));
        screen.deliver(Chan::STDERR, writer.as_fd(), b"before").unwrap();
        screen.close(std::iter::empty());
        let (late, stderr) = (screen.clone(), writer.try_clone().unwrap());
        std::thread::spawn(move || late.deliver(Chan::STDERR, stderr.as_fd(), b"after"));
        // Our stdout is another's affair, who may read it later.
        screen.deliver(Chan::STDOUT, writer.as_fd(), b", and stdout").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let mut read = [0; 64];
        let count = reader.read(&mut read).unwrap();
        assert_eq!(&read[..count], b"before, and stdout");
    }

    #[test]
    fn a_peers_words_cannot_steer_the_terminal() {
        let text: String = "a\x1b[2Jb\rc".chars().map(printable).collect();
        assert_eq!(text, "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(one_line("a\nplumb: b\r\x1b[2J\tä"), "a\\nplumb: b\\r\\u{1b}[2J\\tä");
    }
}
