//! Do those live who move a job: daemon, service and loop of this side?
//!
//! The daemon is asked every few seconds while a job is waited for, and its
//! answer is never waited for (doc/SPOOL.md#signs-of-life).

use crate::why::is_daemon_alive;
use spool::alive::{Question, Trouble};
use spool::atomic::Disk;
use std::time::{Duration, Instant};

/// A job that is done sooner asks nobody.
const AFTER: Duration = Duration::from_secs(1);
/// How long an answer holds.
const APART: Duration = Duration::from_secs(5);
/// A daemon whose process is stopped does not answer, and is given no more than this.
const STOPPED_PATIENCE: Duration = Duration::from_secs(2);
/// Any other may wait for a slow disk.
const PATIENCE: Duration = Duration::from_secs(20);

/// Knows which of them live.
pub struct Health {
    question: Option<Question>,
    /// When the next question is due.
    due: Instant,
    /// The trouble that the last answer told of.
    trouble: Option<Trouble>,
}

impl Health {
    /// All are well, as far as is known at `now`.
    pub fn new(now: Instant) -> Health {
        Health { question: None, due: now + AFTER, trouble: None }
    }

    /// Gives the trouble that is known at `now`, and asks anew when that is old.
    pub fn look(&mut self, disk: &Disk, now: Instant) -> Option<Trouble> {
        if !is_daemon_alive(disk) {
            *self = Health::new(now);
            return Some(Trouble::NoDaemon);
        }
        if self.question.is_none() && now >= self.due {
            self.question = Some(Question::new(now));
        }
        if let Some(question) = &mut self.question {
            if let Some(life) = question.answer(disk) {
                self.trouble = life.troubles().into_iter().next();
                (self.question, self.due) = (None, now + APART);
            } else {
                // The question waits at the door, and is answered when the daemon goes on.
                let trouble = question.trouble();
                let patience = if trouble.is_stopped() { STOPPED_PATIENCE } else { PATIENCE };
                if question.age(now) >= patience {
                    self.trouble = Some(trouble);
                }
            }
        }
        self.trouble.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::alive::{Child, Door, Life};
    use spool::fs::Fs;

    #[test]
    fn a_daemon_that_hangs_is_named_after_a_while_and_only_while_it_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut health = Health::new(start);
        assert_eq!(health.look(&disk, start), Some(Trouble::NoDaemon));
        let _lock = disk.lock_dir(spool::layout::SPOOL, Duration::ZERO).unwrap();
        let door = Door::open(&disk).unwrap();
        assert_eq!(health.look(&disk, start), None);
        assert_eq!(health.look(&disk, start + second), None, "it is asked");
        assert_eq!(health.look(&disk, start + 20 * second), None, "and may take its time");
        let said = health.look(&disk, start + 21 * second).expect("but not for ever").to_string();
        assert!(said.starts_with("the daemon here does not answer (pid "), "{said}");
        let fine = Child { pid: Some(std::process::id()), ..Child::default() };
        let mute = Child { silent_seconds: 20, ..fine.clone() };
        let mut life = Life { pid: 1, service: fine.clone(), r#loop: mute };
        life.tell(&door.accept().unwrap());
        let said = health.look(&disk, start + 30 * second).expect("its child does not").to_string();
        assert!(said.starts_with("the loop here does not answer (pid "), "{said}");
        assert!(health.look(&disk, start + 35 * second).is_some(), "it is asked again");
        life.r#loop = fine;
        life.tell(&door.accept().unwrap());
        assert_eq!(health.look(&disk, start + 36 * second), None);
    }
}
