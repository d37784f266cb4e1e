//! What a running job has to look at.
//!
//! An event opens an eye, and the eye is closed by looking. Events may be lost
//! or be too many: everything is looked at every two seconds anyway.

use crate::keeper::Job;
use spool::layout::{Place, log_in, log_out, running};
use spool::name::Chan;
use spool::wait::Watch;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often everything is looked at, whether or not an event came.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same where inotify has no instance left.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What has to be looked at, as far as events say.
pub struct Eyes {
    pub watch: Watch,
    pub next_look: Instant,
    numbers: [Option<i32>; 3],
    /// The lock by which others see the keeper, and what it has for a number.
    lock: (PathBuf, Option<i32>),
    /// Our hold on the job is to be looked at.
    pub hold: bool,
    pub job: bool,
    pub control: bool,
    pub stdin: bool,
    pub guard: bool,
    pub outputs: [Eye; 2],
}

/// One output: its pipe, and the directory of its log while the window is full.
pub struct Eye {
    pub open: bool,
    pub dir: PathBuf,
    pub watched: Option<i32>,
}

impl Eyes {
    /// Watches what a running job waits for.
    pub fn new(root: &Path, job: &Job) -> Eyes {
        let (watch, msgid) = (Watch::new(), job.msgid());
        let dirs = [Place::Jobs.dir(msgid), log_in(msgid, Chan::CONTROL), log_in(msgid, Chan::STDIN)];
        let numbers = dirs.map(|dir| watch.add(&root.join(dir)));
        let outputs = [Chan::STDOUT, Chan::STDERR].map(|chan| Eye {
            open: true,
            dir: root.join(log_out(msgid, chan)),
            watched: None,
        });
        let (next_look, lock) = (Instant::now(), (root.join(running(msgid)), None));
        let mut eyes = Eyes {
            watch,
            next_look,
            numbers,
            lock,
            hold: true,
            job: true,
            control: true,
            stdin: true,
            guard: true,
            outputs,
        };
        eyes.watch_lock();
        eyes
    }

    /// Watches what has the name of the lock. To be called again when that has changed.
    pub fn watch_lock(&mut self) {
        self.lock.1 = self.watch.add(&self.lock.0);
    }

    /// Opens the eyes for what changed.
    pub fn look(&mut self) {
        for number in self.watch.changed() {
            if number.is_none() {
                return self.open_all();
            }
            let [job, control, stdin] = self.numbers.map(|watched| watched == number);
            self.hold |= self.lock.1 == number;
            self.job |= job;
            self.control |= control;
            self.stdin |= stdin;
            for eye in &mut self.outputs {
                eye.open |= eye.watched == number;
            }
        }
    }

    /// Opens all of them: an event may have been lost.
    pub fn open_all(&mut self) {
        (self.hold, self.job, self.control, self.stdin, self.guard) = (true, true, true, true, true);
        self.outputs.iter_mut().for_each(|eye| eye.open = true);
        let blind = self.watch.fd().is_none() || self.numbers.contains(&None) || self.lock.1.is_none();
        self.next_look = Instant::now() + if blind { POLL_EVERY } else { LOOK_EVERY };
    }
}
