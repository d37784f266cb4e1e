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
/// A daemon that has not answered for so long does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Knows which of them live.
pub struct Health {
    question: Option<Question>,
    /// When the next question is due.
    due: Instant,
    /// The trouble that the last answer told of.
    trouble: Option<Trouble>,
}

impl Default for Health {
    fn default() -> Health {
        Health { question: None, due: Instant::now() + AFTER, trouble: None }
    }
}

impl Health {
    /// Gives the trouble that is known at this moment, and asks anew when that is old.
    pub fn look(&mut self, disk: &Disk) -> Option<Trouble> {
        if !is_daemon_alive(disk) {
            *self = Health::default();
            return Some(Trouble::NoDaemon);
        }
        if self.question.is_none() && Instant::now() >= self.due {
            self.question = Some(Question::default());
        }
        if let Some(question) = &mut self.question {
            match question.answer(disk) {
                Some(life) => {
                    self.trouble = life.troubles().into_iter().next();
                    (self.question, self.due) = (None, Instant::now() + APART);
                }
                // The question waits at the door, and is answered when the daemon goes on.
                None if question.age() >= PATIENCE => self.trouble = Some(question.trouble()),
                None => {}
            }
        }
        self.trouble.clone()
    }
}
