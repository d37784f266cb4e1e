//! One of the two children that are always there: started, told, replaced.
//!
//! Its stdin is a pipe that we hold: the end of it tells the child to go, also
//! when we are killed. A child that dies is replaced at once; one that dies
//! again and again, after growing pauses. Nothing here ever waits for a child.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A child that lived this long did not die "again".
const SETTLED: Duration = Duration::from_secs(10);
/// The pauses before a start double from the first to the last.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A child that was told to go is killed after this.
const PATIENCE: Duration = Duration::from_secs(3);
/// Deaths are said at most this often.
const SAID_APART: Duration = Duration::from_secs(60);
/// The longest line of a child in bytes; the rest of a longer one is a bad line.
const LINE_MAX: u64 = 64 << 10;

/// Counts deaths in a row, and says how long to pause before the next start.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Deaths(u32);

impl Deaths {
    /// Another one, after a life of this length.
    pub(crate) fn another(&mut self, lived: Duration) -> Duration {
        if lived >= SETTLED {
            self.0 = 0;
        }
        self.0 = self.0.saturating_add(1);
        match self.0 {
            1 => Duration::ZERO,
            again => PAUSE_MIN.saturating_mul(1 << (again - 2).min(16)).min(PAUSE_MAX),
        }
    }
}

/// A line of a child, or its end.
#[derive(Debug)]
pub(crate) enum Word {
    Line(String),
    End,
}

/// The service, or the worker.
pub(crate) struct Kept {
    verb: &'static str,
    process: Option<(Child, Option<ChildStdin>)>,
    /// Tells the words of one process from those of the next.
    generation: u64,
    started: Duration,
    deaths: Deaths,
    /// When to start it.
    due: Duration,
    /// It was told to go: its death is none.
    asked: bool,
    /// It is about to end, and is killed then.
    leaving: Option<Duration>,
    said: Option<Duration>,
    unsaid: u32,
}

impl Kept {
    /// A child that will be started with this verb.
    pub(crate) fn new(verb: &'static str) -> Kept {
        Kept {
            verb,
            process: None,
            generation: 0,
            started: Duration::ZERO,
            deaths: Deaths::default(),
            due: Duration::ZERO,
            asked: false,
            leaving: None,
            said: None,
            unsaid: 0,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some() && self.leaving.is_none()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.process.is_none()
    }

    /// Is this the number of the present process?
    pub(crate) fn is_generation(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// Starts it if it is due; says whether it was started.
    pub(crate) fn start(&mut self, program: &Path, now: Duration, tell: impl Fn(u64, Word) + Send + 'static) -> bool {
        if self.process.is_some() || now < self.due {
            return false;
        }
        self.generation += 1;
        self.started = now;
        match spawn(program, self.verb) {
            Ok((child, stdin, stdout)) => {
                let generation = self.generation;
                let read = move || read_lines(stdout, |word| tell(generation, word));
                match std::thread::Builder::new().name(self.verb.into()).spawn(read) {
                    Ok(_) => {
                        self.process = Some((child, Some(stdin)));
                        return true;
                    }
                    Err(error) => self.fails(child, &error, now),
                }
            }
            Err(error) => {
                self.died(&format!("cannot be started: {error}"), now);
            }
        }
        false
    }

    fn fails(&mut self, mut child: Child, error: &std::io::Error, now: Duration) {
        let _ = child.kill();
        let _ = child.wait();
        self.died(&format!("cannot be listened to: {error}"), now);
    }

    /// Writes whole lines of at most 4096 bytes to it, all of them or (false) none.
    pub(crate) fn tell(&mut self, lines: &str) -> bool {
        match &mut self.process {
            Some((_, Some(stdin))) if self.leaving.is_none() => {
                // PIPE_BUF: a pipe that does not block takes all of it, or nothing.
                matches!(stdin.write(lines.as_bytes()), Ok(count) if count == lines.len())
            }
            _ => false,
        }
    }

    /// Tells it to go; it is killed if it does not.
    pub(crate) fn go(&mut self, now: Duration) {
        self.asked = true;
        self.ended(now);
    }

    /// It closed its stdout: it is of no use any more, whether it lives or not.
    pub(crate) fn ended(&mut self, now: Duration) {
        if let Some((_, stdin)) = &mut self.process {
            drop(stdin.take());
            self.leaving.get_or_insert(now + PATIENCE);
        }
    }

    /// Looks whether it has died, or must be killed. A death that was not
    /// asked for is said; says whether it has just died.
    pub(crate) fn check(&mut self, now: Duration) -> bool {
        let Some((child, _)) = &mut self.process else { return false };
        if self.leaving.is_some_and(|at| at <= now) {
            let _ = child.kill();
        }
        let Ok(Some(status)) = child.try_wait() else { return false };
        (self.process, self.leaving) = (None, None);
        match std::mem::take(&mut self.asked) {
            true => self.due = now,
            false => self.died(&how(status), now),
        }
        true
    }

    fn died(&mut self, how: &str, now: Duration) {
        let pause = self.deaths.another(now.saturating_sub(self.started));
        self.due = now + pause;
        if self.said.is_some_and(|at| now < at + SAID_APART) {
            self.unsaid += 1;
            return;
        }
        let (verb, unsaid) = (self.verb, std::mem::take(&mut self.unsaid));
        match unsaid {
            0 => tracing::warn!("{verb} {how}: started again"),
            _ => tracing::warn!("{verb} {how}, and {unsaid} times before: started again every {pause:?}"),
        }
        self.said = Some(now);
    }

    /// When something is to be done about it.
    pub(crate) fn wake(&self) -> Option<Duration> {
        match &self.process {
            None => Some(self.due),
            Some(_) => self.leaving,
        }
    }
}

fn spawn(program: &Path, verb: &str) -> std::io::Result<(Child, ChildStdin, ChildStdout)> {
    let mut command = Command::new(program);
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(stdin), Some(stdout)) = (stdin, stdout) else { return Err(std::io::Error::other("no pipes")) };
    rustix::fs::fcntl_setfl(&stdin, rustix::fs::OFlags::NONBLOCK)?;
    Ok((child, stdin, stdout))
}

fn read_lines(stdout: ChildStdout, tell: impl Fn(Word)) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stdout).take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return tell(Word::End),
            Ok(_) => tell(Word::Line(String::from_utf8_lossy(&line).trim_end().to_string())),
        }
    }
}

/// How a process ended, for a person.
pub(crate) fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_death_costs_nothing_and_many_cost_five_seconds_each() {
        let mut deaths = Deaths::default();
        let pauses: Vec<u128> = (0..9).map(|_| deaths.another(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(deaths.another(SETTLED), Duration::ZERO, "a settled child dies a first death");
    }

    #[test]
    fn a_child_that_does_not_read_blocks_nobody() {
        let mut kept = Kept::new("30");
        assert!(kept.start(Path::new("sleep"), Duration::ZERO, |_, _| {}));
        let line = "x".repeat(4095) + "\n";
        let taken = (0..1000).take_while(|_| kept.tell(&line)).count();
        assert!((1..1000).contains(&taken), "a full pipe refuses: {taken}");
        kept.go(Duration::ZERO);
        assert!(!kept.tell("more\n"));
        while !kept.check(PATIENCE) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(kept.is_gone());
    }
}
