//! How `plumb` ends: its exit status, its stable last line on stderr, and the
//! same as JSON for `-status-fd`.
//!
//! A command that was run to its end gives its own status. Everything else is
//! 255, as with ssh, and 255 alone says too little: so the last line names one
//! of a fixed list of reasons and a status of sysexits(3) for each. Words and
//! numbers here are an interface: scripts match them, and `help.rs` lists them.

use crate::output::Delivered;
use crate::screen::one_line;
use spool::name::{Chan, MsgId};
use spool::outcome::Outcome;
use std::fmt;

/// Why there is no exit status of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Wrong words on the command line.
    Usage,
    /// No peer of that name is known here.
    NoSuchPeer,
    /// Identity, keys or settings are not as they must be.
    Config,
    /// Nothing ran and nothing will.
    NotStarted,
    /// The peer does not allow the command, or does not have it; it never ran.
    Refused,
    /// It was sent; what became of it is not known.
    OutcomeUnknown,
    /// It was started; the machine or the keeper died under it.
    Interrupted,
    /// It was ended on request while it ran.
    Cancelled,
    /// It goes on, and we do not wait for it.
    Detached,
    /// There is no such job here, or its output was given up.
    NoSuchJob,
    /// Our input broke off, and the command was killed for it.
    InputIncomplete,
    /// Part of the command's output cannot be had any more.
    OutputIncomplete,
    /// The output came, and our own stdout or stderr would not take it.
    OutputFailed,
    /// Our own disk failed.
    Disk,
}

impl Reason {
    /// All of them, in the order in which the help lists them.
    #[cfg(test)]
    pub const ALL: [Reason; 14] = [
        Reason::Usage,
        Reason::NoSuchJob,
        Reason::NoSuchPeer,
        Reason::InputIncomplete,
        Reason::OutputFailed,
        Reason::Disk,
        Reason::NotStarted,
        Reason::OutcomeUnknown,
        Reason::Interrupted,
        Reason::Cancelled,
        Reason::Detached,
        Reason::OutputIncomplete,
        Reason::Refused,
        Reason::Config,
    ];

    /// The word in the last line.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Usage => "usage",
            Reason::NoSuchPeer => "no-such-peer",
            Reason::Config => "config",
            Reason::NotStarted => "not-started",
            Reason::Refused => "refused",
            Reason::OutcomeUnknown => "outcome-unknown",
            Reason::Interrupted => "interrupted",
            Reason::Cancelled => "cancelled",
            Reason::Detached => "detached",
            Reason::NoSuchJob => "no-such-job",
            Reason::InputIncomplete => "input-incomplete",
            Reason::OutputIncomplete => "output-incomplete",
            Reason::OutputFailed => "output-failed",
            Reason::Disk => "disk",
        }
    }

    /// The status in the last line. 75 means that trying again is safe, 76 that
    /// something ran, or may have.
    pub fn status(self) -> u8 {
        match self {
            Reason::Usage => 64,
            Reason::NoSuchJob => 66,
            Reason::NoSuchPeer => 67,
            Reason::InputIncomplete | Reason::OutputFailed | Reason::Disk => 74,
            Reason::NotStarted => 75,
            Reason::OutcomeUnknown
            | Reason::Interrupted
            | Reason::Cancelled
            | Reason::Detached
            | Reason::OutputIncomplete => 76,
            Reason::Refused => 77,
            Reason::Config => 78,
        }
    }
}

/// The end of a `plumb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// What the process exits with.
    pub exit: u8,
    /// Why it is not the command's status; `None`: it is.
    pub reason: Option<Reason>,
    /// One sentence for a person, if there is more to say than the reason.
    pub what: String,
    /// How the command ended, as far as that is known.
    pub outcome: Option<Outcome>,
    /// The job, once there is one.
    pub job: Option<MsgId>,
}

/// What a failed transport exits with; ssh's number.
const TRANSPORT: u8 = 255;

impl Ending {
    /// Ends without an exit status of the command.
    pub fn failed(reason: Reason, what: impl fmt::Display) -> Ending {
        Ending { exit: TRANSPORT, reason: Some(reason), what: what.to_string(), outcome: None, job: None }
    }

    /// Ends as the command did, all of its output delivered.
    pub fn of(outcome: Outcome) -> Ending {
        let (reason, what) = match &outcome {
            Outcome::Exited(status) => return Ending::remote(*status, outcome),
            Outcome::Signal(signal) => return Ending::remote(signal.saturating_add(128), outcome),
            Outcome::Refused(why) => (Reason::Refused, format!("the peer refused it: {}", one_line(why))),
            Outcome::NotStarted => (Reason::NotStarted, "it was not started".into()),
            Outcome::Cancelled => (Reason::Cancelled, "it was cancelled while it ran".into()),
            Outcome::Interrupted => {
                (Reason::Interrupted, "it was started and then interrupted; whether it finished is not known".into())
            }
            Outcome::InputIncomplete(at) => {
                (Reason::InputIncomplete, format!("its input broke off after {at} bytes, so it was killed"))
            }
            Outcome::OutputTooLarge(most) => {
                let what = format!("it wrote more than the peer's quota of {most} bytes, so it was killed");
                (Reason::OutputIncomplete, what)
            }
            Outcome::OutputIncomplete(at) => {
                let what = format!("outcome unknown: after {at} bytes its output was damaged on the peer's disk");
                (Reason::OutputIncomplete, what)
            }
            Outcome::Unknown => {
                (Reason::OutcomeUnknown, "outcome unknown: it was sent, what became of it is not known".into())
            }
        };
        Ending { outcome: Some(outcome), ..Ending::failed(reason, what) }
    }

    /// Ends because a job was lost, for this reason: its outcome cannot be known any more.
    pub fn lost(why: impl fmt::Display) -> Ending {
        let what = format!("outcome unknown: {why}");
        Ending { outcome: Some(Outcome::Unknown), ..Ending::failed(Reason::OutcomeUnknown, what) }
    }

    fn remote(exit: u8, outcome: Outcome) -> Ending {
        Ending { exit, reason: None, what: String::new(), outcome: Some(outcome), job: None }
    }

    /// Ends before the command has: nobody need wait for it.
    pub fn left() -> Ending {
        Ending { exit: 0, reason: None, what: String::new(), outcome: None, job: None }
    }

    /// Ends before the command has, at a user's wish.
    pub fn goes_on(msgid: MsgId) -> Ending {
        Ending::failed(Reason::Detached, format!("it goes on without us; come back with: plumb -attach={msgid}"))
    }

    /// Ends as the command did, as far as its outputs came; and what is known of
    /// the outcome now that they were delivered like this.
    pub fn delivered(outcome: Outcome, outputs: &[(Chan, Delivered)]) -> (Ending, Outcome) {
        let ran = matches!(outcome, Outcome::Exited(_) | Outcome::Signal(_));
        for (chan, delivered) in outputs {
            let (reason, what) = match delivered {
                Delivered::Whole | Delivered::Gone => continue,
                Delivered::Stopped { .. } | Delivered::Cut { .. } if !ran => continue,
                Delivered::Refused(errno) => {
                    (Reason::OutputFailed, format!("cannot write {}: {errno}", stream_name(*chan)))
                }
                Delivered::Stopped { at } => (Reason::OutputIncomplete, incomplete(*chan, *at, "its END is missing")),
                Delivered::Cut { at } => {
                    (Reason::OutputIncomplete, incomplete(*chan, *at, "the command was not let finish it"))
                }
                Delivered::Broken { at, why, .. } => (Reason::OutputIncomplete, incomplete(*chan, *at, why)),
            };
            // A command that did not run to its end says more by that than by its output.
            if ran || outcome == Outcome::Unknown {
                let known = if reason == Reason::OutputIncomplete { Outcome::Unknown } else { outcome.clone() };
                return (Ending { outcome: Some(outcome), ..Ending::failed(reason, what) }, known);
            }
        }
        (Ending::of(outcome.clone()), outcome)
    }

    /// The same, for this job.
    pub fn for_job(self, msgid: MsgId) -> Ending {
        Ending { job: Some(msgid), ..self }
    }

    /// The same, with the status that a shell expects after this signal.
    pub fn by_signal(self, signal: i32) -> Ending {
        Ending { exit: u8::try_from(128 + signal).unwrap_or(TRANSPORT), ..self }
    }

    /// The status of the command, or what the last line says of why there is none.
    pub fn status(&self) -> u8 {
        self.reason.map_or(self.exit, Reason::status)
    }

    /// The last line on stderr; there is none when the command's status is passed on.
    pub fn last_line(&self) -> Option<String> {
        self.reason.map(|reason| format!("origin=transport status={} reason={}", reason.status(), reason.word()))
    }

    /// The line for `-status-fd`.
    pub fn json(&self) -> String {
        let line = serde_json::json!({
            "origin": match (self.reason, &self.outcome) {
                (Some(_), _) => "transport",
                (None, Some(_)) => "remote",
                (None, None) => "detached",
            },
            "status": self.status(),
            "exit": self.exit,
            "reason": self.reason.map(Reason::word),
            "outcome": self.outcome.as_ref().map(Outcome::to_string),
            "job": self.job.map(|msgid| msgid.to_string()),
        });
        format!("{line}\n")
    }
}

/// What a person calls one of the outputs.
pub fn stream_name(chan: Chan) -> &'static str {
    if chan == Chan::STDOUT { "stdout" } else { "stderr" }
}

fn incomplete(chan: Chan, at: u64, why: &str) -> String {
    format!("outcome unknown, {} is incomplete at {at}: {why}", stream_name(chan))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_command_that_ended_gives_its_own_status() {
        assert_eq!(Ending::of(Outcome::Exited(7)).exit, 7);
        assert_eq!(Ending::of(Outcome::Signal(15)).exit, 143);
        assert_eq!(Ending::of(Outcome::Signal(200)).exit, 255);
        assert_eq!(Ending::of(Outcome::Exited(0)).last_line(), None);
        let others = [
            (Outcome::Refused("no".into()), "origin=transport status=77 reason=refused"),
            (Outcome::NotStarted, "origin=transport status=75 reason=not-started"),
            (Outcome::Cancelled, "origin=transport status=76 reason=cancelled"),
            (Outcome::Interrupted, "origin=transport status=76 reason=interrupted"),
            (Outcome::InputIncomplete(3), "origin=transport status=74 reason=input-incomplete"),
            (Outcome::OutputTooLarge(3), "origin=transport status=76 reason=output-incomplete"),
            (Outcome::OutputIncomplete(3), "origin=transport status=76 reason=output-incomplete"),
            (Outcome::Unknown, "origin=transport status=76 reason=outcome-unknown"),
        ];
        for (outcome, line) in others {
            let ending = Ending::of(outcome);
            assert_eq!((ending.exit, ending.last_line().as_deref()), (255, Some(line)));
        }
    }

    #[test]
    fn the_json_says_what_the_line_says() {
        let msgid = MsgId([1; 20]);
        let ending = Ending::of(Outcome::NotStarted).for_job(msgid).by_signal(2);
        let json: serde_json::Value = serde_json::from_str(&ending.json()).unwrap();
        assert_eq!(json["origin"], "transport");
        assert_eq!((json["status"].as_u64(), json["exit"].as_u64()), (Some(75), Some(130)));
        assert_eq!((json["reason"].as_str(), json["outcome"].as_str()), (Some("not-started"), Some("not started")));
        assert_eq!(json["job"], msgid.to_string());
        let json: serde_json::Value = serde_json::from_str(&Ending::of(Outcome::Signal(9)).json()).unwrap();
        assert_eq!((json["origin"].as_str(), json["status"].as_u64()), (Some("remote"), Some(137)));
    }
}
