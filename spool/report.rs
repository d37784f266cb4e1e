//! What the worker tells the supervisor: one line of JSON for each step.
//!
//! The daemon schedules by `turn` and `ceiling` and writes the rest into the
//! directory's `why`. It reads `queue <msgid>`-like lines the other way
//! ([`Order`]). Losing a line costs a retry interval.

use crate::layout::Place;
use crate::name::{MsgId, Username};
use crate::retry::Ceiling;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// The directory is gone: forget it.
    Gone,
    /// Nothing to do until something changes here.
    Rest,
    /// The peer's: it was told, and is told again after a while.
    Peer,
    /// Ours, but not at the moment: try again after a while.
    Later,
    /// A stream task attends to it and reports again by itself.
    Live,
}

/// The outcome of one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `queue`, `rqueue` or `jobs`.
    pub place: String,
    /// The message.
    pub msgid: String,
    /// What was done, in order: `msg`, `seal`, `snd`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub did: Vec<String>,
    /// Whose move it is.
    pub turn: Turn,
    /// The peer, by name or username.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// A code: why it waits (`unreachable`, `receipt`, `disk_full`, `lock`, `reader`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The error, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// An authentic word of the peer came.
    #[serde(default)]
    pub heard: bool,
    /// How long a retry may wait at most: `live`, `foreground` or `background`.
    pub ceiling: String,
    /// When the next try comes, in milliseconds, if a stream task sees to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// A job of ours that was left, and waits to be heard of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Something was lost, expired or refused: a notice for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

impl Report {
    /// A report that says no more than whose turn it is.
    pub fn new(place: Place, msgid: MsgId, turn: Turn) -> Report {
        Report {
            place: place.word().to_string(),
            msgid: msgid.to_string(),
            did: Vec::new(),
            turn,
            peer: None,
            cause: None,
            error: None,
            heard: false,
            ceiling: "background".into(),
            next_ms: None,
            kept: false,
            notice: None,
        }
    }

    /// The directory that it is about.
    pub fn about(&self) -> Option<(Place, MsgId)> {
        Some((Place::of(&self.place)?, self.msgid.parse().ok()?))
    }

    /// The bound of the next retry.
    pub fn ceiling(&self) -> Ceiling {
        match self.ceiling.as_str() {
            "live" => Ceiling::Live,
            "foreground" => Ceiling::Foreground,
            _ => Ceiling::Background,
        }
    }

    /// Sets the bound of the next retry.
    pub fn bound(&mut self, ceiling: Ceiling) {
        self.ceiling = match ceiling {
            Ceiling::Live => "live",
            Ceiling::Foreground => "foreground",
            Ceiling::Background => "background",
        }
        .into();
    }

    /// The line, without its end.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("a report is plain text and numbers")
    }

    /// Reads a line.
    pub fn parse(line: &str) -> Option<Report> {
        serde_json::from_str(line).ok()
    }
}

/// What the supervisor tells the worker, and the service the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Look at this directory.
    Look(Place, MsgId),
    /// This peer has just spoken: what waits for it need wait no longer.
    Heard(Username),
    /// Say `hlo` to every peer.
    Hello,
    /// Peers or settings changed: read them again.
    Reload,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Order::Look(place, msgid) => write!(f, "{} {msgid}", place.word()),
            Order::Heard(username) => write!(f, "heard {username}"),
            Order::Hello => f.write_str("hello"),
            Order::Reload => f.write_str("reload"),
        }
    }
}

impl FromStr for Order {
    type Err = &'static str;
    fn from_str(line: &str) -> Result<Order, &'static str> {
        let bad = "not an order";
        match line.split_once(' ') {
            None if line == "hello" => Ok(Order::Hello),
            None if line == "reload" => Ok(Order::Reload),
            Some(("heard", username)) => Ok(Order::Heard(username.parse().map_err(|_| bad)?)),
            Some((place, msgid)) => Ok(Order::Look(Place::of(place).ok_or(bad)?, msgid.parse().map_err(|_| bad)?)),
            None => Err(bad),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_as_they_were_written() {
        let msgid = MsgId([7; 20]);
        let mut report = Report::new(Place::Jobs, msgid, Turn::Later);
        report.error = Some("connection refused\n\"quoted\"".into());
        report.bound(Ceiling::Live);
        assert!(!report.line().contains('\n'));
        assert_eq!(Report::parse(&report.line()), Some(report.clone()));
        assert_eq!((report.about(), report.ceiling()), (Some((Place::Jobs, msgid)), Ceiling::Live));
        for order in
            [Order::Look(Place::Queue, msgid), Order::Heard(Username::of_ca(b"x")), Order::Hello, Order::Reload]
        {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
    }
}
