//! One of the two children that are always there: started, told, replaced.
//!
//! Its stdin is a pipe that we hold: the end of it tells the child to go, also
//! when we are killed. A child that dies is replaced at once; one that dies
//! again and again, after growing pauses. A child that gives no sign of life
//! (doc/SPOOL.md#signs-of-life) is killed, and replaced. No call here ever waits
//! for a child.

use spool::alive::{self, ALIVE, State};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A child that lived this long did not die "again".
const SETTLED: Duration = Duration::from_secs(10);
/// The pauses before a start double from the first to the last.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A child that gives no sign of life for so many beats of ours is killed: it missed
/// eight of its own, see `BEAT` in `spool/alive.rs`. Time for which we were stopped, or
/// the machine slept, has no beats, and does not count.
const SILENCE: u64 = 25;
/// A child that was told to go is killed after this, and again.
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
    Alive,
    Line(String),
    End,
}

/// The service, or the worker.
pub(crate) struct Kept {
    verb: &'static str,
    process: Option<(Child, Option<ChildStdin>)>,
    /// The pipe from which its words are read.
    words: Option<OwnedFd>,
    /// Our own beats since its last sign of life.
    silent: u64,
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
            words: None,
            silent: 0,
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

    /// The answer to whoever asks about this child.
    pub(crate) fn life(&self, beat: Duration) -> alive::Child {
        alive::Child {
            pid: self.process.as_ref().map(|(child, _)| child.id()),
            silent_seconds: self.silent * beat.as_secs(),
            restarts: self.generation.saturating_sub(1),
        }
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
        (self.started, self.silent) = (now, 0);
        match spawn(program, self.verb) {
            Ok((child, stdin, stdout)) => {
                self.words = stdout.as_fd().try_clone_to_owned().ok();
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

    /// Takes in a sign of life.
    pub(crate) fn is_alive(&mut self) {
        self.silent = 0;
    }

    /// Counts a beat of ours; kills it when it has been silent for too many. Call it
    /// when all that was heard has been taken in.
    pub(crate) fn beat(&mut self, now: Duration) {
        let Some((child, _)) = self.process.as_ref().filter(|_| self.leaving.is_none()) else { return };
        self.silent += 1;
        if self.silent < SILENCE || self.words.as_ref().is_some_and(has_more) {
            return;
        }
        let (verb, pid, state) = (self.verb, child.id(), State::of(child.id()));
        // No signal reaches it there, and another one would wait for the same disk.
        if state == State::Disk {
            return;
        }
        tracing::error!("{verb} (pid {pid}{state}) gives no sign of life: killed");
        self.ended(now);
        self.leaving = Some(now);
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
            self.leaving = Some(now + PATIENCE);
        }
        let Ok(Some(status)) = child.try_wait() else { return false };
        (self.process, self.words, self.leaving) = (None, None, None);
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
            _ if pause.is_zero() => tracing::warn!("{verb} {how}, and {unsaid} times before: started again"),
            _ => tracing::warn!("{verb} {how}, and {unsaid} times before: started again after {pause:?}"),
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
            Ok(_) if line.trim_ascii_end() == ALIVE.as_bytes() => tell(Word::Alive),
            Ok(_) => tell(Word::Line(String::from_utf8_lossy(&line).trim_end().to_string())),
        }
    }
}

/// Does something lie in this pipe?
fn has_more(pipe: &OwnedFd) -> bool {
    rustix::io::ioctl_fionread(pipe).is_ok_and(|count| count > 0)
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

    const SECOND: Duration = Duration::from_secs(1);

    /// A child that was stopped, or hung, stalled everything for ever.
    #[test]
    fn a_child_that_gives_no_sign_of_life_is_killed_and_replaced() {
        let mut kept = Kept::new("60");
        assert!(kept.start(Path::new("sleep"), Duration::ZERO, |_, _| {}));
        for _ in 0..10 {
            (1..SILENCE).for_each(|_| kept.beat(Duration::ZERO));
            assert!(kept.is_running());
            kept.is_alive();
        }
        (1..SILENCE).for_each(|_| kept.beat(Duration::ZERO));
        let life = kept.life(SECOND);
        assert_eq!((life.silent_seconds, life.restarts), (SILENCE - 1, 0));
        // However long it took from one beat of ours to the next: we were not awake.
        kept.beat(3600 * SECOND);
        assert!(!kept.is_running() && !kept.tell("hello\n"));
        while !kept.check(3600 * SECOND) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(kept.start(Path::new("sleep"), 3600 * SECOND, |_, _| {}), "at once");
        assert_eq!((kept.life(SECOND).silent_seconds, kept.life(SECOND).restarts), (0, 1));
        kept.go(Duration::ZERO);
        while !kept.check(PATIENCE) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_child_is_not_judged_before_all_that_it_said_was_heard() {
        let (mut kept, listens) = (Kept::new(ALIVE), std::sync::Arc::new(std::sync::Mutex::new(())));
        let busy = listens.lock().unwrap();
        let (listener, (heard, hears)) = (listens.clone(), std::sync::mpsc::channel());
        assert!(kept.start(Path::new("yes"), Duration::ZERO, move |_, word| {
            assert!(matches!(word, Word::Alive | Word::End), "{word:?}");
            let _ = heard.send(());
            drop(listener.lock());
        }));
        let until = std::time::Instant::now() + 60 * SECOND;
        // From its first word on the listener is busy, and leaves the others in the pipe.
        hears.recv_timeout(60 * SECOND).expect("a first word");
        while !kept.words.as_ref().is_some_and(has_more) {
            assert!(std::time::Instant::now() < until, "it says so");
        }
        (0..10 * SILENCE).for_each(|_| kept.beat(Duration::ZERO));
        assert!(kept.is_running());
        drop(busy);
        kept.go(Duration::ZERO);
        while !kept.check(PATIENCE) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
