//! What a job waits for on our own machine: a message that is on its way, and a
//! loop that may rest.

use super::{Attendant, Role};
use spool::fs::Fs;
use spool::layout::{self, Place};
use spool::outcome::Outcome;
use spool::phase::Mark;
use std::time::{Duration, Instant};

/// How long the loop has to say what became of a message that is gone.
const VANISHED_PATIENCE: Duration = Duration::from_secs(30);
/// How long one log may be at its end and another not go on before the loop is woken.
const REST: Duration = Duration::from_secs(10);

impl Attendant<'_> {
    /// Until there is a receipt: is the message still on its way?
    pub(super) fn look_at_message(&mut self) {
        if self.receipt || self.is_over() || self.stance.role == Role::Along {
            return;
        }
        let msgid = self.job.msgid();
        self.receipt = self.has(Mark::Receipt);
        let queued = || self.job.fs.is_dir(&Place::Queue.dir(msgid)).unwrap_or(true);
        let held = || self.job.fs.exists(&layout::hold(msgid));
        // Asked again at the end: it may just have been held, let go, or receipted.
        let gone = || !queued() && !held() && !queued() && !self.has(Mark::Receipt);
        if self.receipt {
            self.screen.detail(format_args!("{} has it", self.peer));
        } else if let Some(at) = self.vanished {
            if at.elapsed() > VANISHED_PATIENCE || !crate::why::is_daemon_alive(&*self.job.fs) {
                self.done = Some(Outcome::Unknown);
            }
        } else if gone() {
            // Our own loop removes it as well, and then says why.
            match self.mark(Mark::Cancel).ok().flatten().map(|facts| facts.text("reason").map(str::to_string)) {
                Some(Some(reason)) => self.screen.note(format_args!("the job is cancelled: {reason}")),
                Some(None) => self.screen.note("the job is cancelled"),
                None => self.screen.note("the message is gone from the queue"),
            }
            self.vanished = Some(Instant::now());
            self.cancel("gone from the queue");
        }
    }

    /// Has the loop look at the job where one of its logs is at its end and another
    /// does not go on: a loop that had all of them rests, and does not see that one
    /// was cut or removed since.
    pub(super) fn wake_loop(&mut self) {
        let ended = self.outputs.iter().filter(|output| output.is_settled()).count() + usize::from(self.exit.is_some());
        let (before, since) = self.ended;
        if ended == before && (ended == 0 || self.is_over() || since.elapsed() < REST) {
            return;
        }
        if ended == before {
            layout::touch(&*self.job.fs, Place::Jobs, self.job.msgid());
        }
        self.ended = (ended, Instant::now());
    }
}
