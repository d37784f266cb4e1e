//! What a job waits for, in words: read from the `why` files that the daemon
//! writes, and from what can be seen without it.

use spool::alive::Trouble;
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{self, Place, WHY};
use spool::name::MsgId;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Why a job does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    cause: String,
    error: String,
    next_at: Option<u64>,
}

impl Why {
    /// A cause that nobody wrote down.
    pub fn because(cause: &str) -> Why {
        Why { cause: cause.into(), error: String::new(), next_at: None }
    }

    /// What this job waits for; `None`: it does not, as far as one can see. A
    /// job that is `live` waits only while its last try failed, or for whoever is in `trouble`.
    pub fn of(fs: &dyn Fs, msgid: MsgId, live: bool, trouble: Option<Trouble>) -> Option<Why> {
        if let Some(trouble) = trouble {
            return Some(Why::trouble(&trouble));
        }
        if !live && fs.exists(&spool::layout::hold(msgid)) {
            return Some(Why::because("hold"));
        }
        let read = |place: Place| Facts::read(fs, &place.file(msgid, WHY)).ok().flatten().as_ref().map(Why::of_facts);
        match live {
            true => read(Place::Jobs).filter(|why| !why.error.is_empty()),
            false => Some(read(Place::Queue).or_else(|| read(Place::Jobs)).unwrap_or(Why::because(""))),
        }
    }

    /// A wait for a process of this side that does not live.
    fn trouble(trouble: &Trouble) -> Why {
        match trouble {
            Trouble::NoDaemon => Why::because("no_daemon"),
            _ if trouble.is_lasting() => Why { error: trouble.to_string(), ..Why::because("daemon") },
            _ => Why { error: trouble.to_string(), ..Why::because("child") },
        }
    }

    fn of_facts(facts: &Facts) -> Why {
        let text = |name| facts.text(name).unwrap_or_default().to_string();
        Why { cause: text("cause"), error: text("last_error"), next_at: facts.value("next_at") }
    }

    /// Will nothing leave before something outside changes?
    pub fn is_out_of_reach(&self) -> bool {
        matches!(self.cause.as_str(), "no_daemon" | "daemon" | "unreachable" | "no_peer" | "unauthentic")
    }

    /// Does it wait for somebody of this side who does not live?
    fn is_trouble(&self) -> bool {
        matches!(self.cause.as_str(), "no_daemon" | "daemon" | "child")
    }

    /// How long this is waited for before it is worth a word.
    fn patience(&self) -> Duration {
        match self.cause.as_str() {
            // Steps on the way that end by themselves: a slow disk or a long link is no news.
            "" | "receipt" | "key" | "cancel" | "lock" if self.error.is_empty() => LONG_PATIENCE,
            _ => PATIENCE,
        }
    }

    /// Does it wait for the same thing, whatever the time of the next try?
    pub fn is_like(&self, other: &Why) -> bool {
        (&self.cause, &self.error) == (&other.cause, &other.error)
    }

    /// What it waits for, without when it is tried again.
    pub fn what(&self) -> &str {
        match self.cause.as_str() {
            "no_daemon" => "queued; no daemon runs here, start it with: netplumb daemon",
            "quota" => "as much waits here as may; more is read when the peer has taken some",
            "disk_full" => "the disk is full; goes on when there is room",
            "shortage" => {
                "this machine is short of file descriptors or memory; goes on when there are more (ulimit -n)"
            }
            "peer_later" => "the peer is short of something at the moment, and asks us to come again",
            "sick" => "a sync of the spool failed; restart the daemon when the disk is sound",
            "hold" => "held by hand: it goes on when hold/ID is moved back to queue/ID",
            _ if !self.error.is_empty() => &self.error,
            "unreachable" => "cannot be reached",
            "busy" => "all connections that it keeps to us are in use",
            "receipt" => "told, its receipt is awaited",
            "key" => "told, its key is awaited",
            "cancel" => "told that it is cancelled, its answer is awaited",
            "lock" => "another process works on it",
            "no_peer" => "the daemon does not know this peer; see: netplumb peer list",
            "" => "no answer yet",
            other => other,
        }
    }

    /// `nas: connection refused, next try in 12 s`, at `now` in seconds of the wall clock.
    pub fn text(&self, peer: &str, now: u64) -> String {
        let what = self.what();
        let ahead = self.next_at.map(|at| at.saturating_sub(now));
        match ahead {
            Some(0) => format!("{peer}: {what}, trying"),
            Some(seconds) => format!("{peer}: {what}, next try in {seconds} s"),
            None => format!("{peer}: {what}"),
        }
    }
}

/// Does a daemon look after this spool?
pub fn is_daemon_alive(fs: &dyn Fs) -> bool {
    // If one cannot tell, nothing is claimed.
    layout::has_daemon(fs).unwrap_or(true)
}

/// Seconds of the wall clock: `next_at` is one, made to be shown and nothing else.
pub fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long one waits before something that stands in the way is worth a word …
const PATIENCE: Duration = Duration::from_secs(2);
/// … and before a step that only takes long is.
const LONG_PATIENCE: Duration = Duration::from_secs(20);
/// How long before another reason is worth another word, unless it is trouble of our own.
const APART: Duration = Duration::from_secs(60);

/// Decides when a wait is worth a line, for stderr that is no terminal.
#[derive(Default)]
pub struct Patience {
    since: Option<Instant>,
    told: Option<(Instant, Why)>,
}

impl Patience {
    /// This much has been told already.
    pub fn told(&mut self, now: Instant, why: Why) {
        self.told = Some((now, why));
    }

    /// Takes what is waited for at `now`; gives it back if it is to be said.
    pub fn ask(&mut self, now: Instant, why: Option<Why>) -> Option<Why> {
        let Some(why) = why else {
            self.since = None;
            return None;
        };
        let since = *self.since.get_or_insert(now);
        let is_known = |at: Instant, told: &Why| {
            told.is_like(&why) || (now < at + APART && (told.is_trouble() || !why.is_trouble()))
        };
        let known = self.told.as_ref().is_some_and(|(at, told)| is_known(*at, told));
        if known || now < since + why.patience() {
            return None;
        }
        self.told(now, why.clone());
        Some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_what_for_and_when_it_is_tried_next() {
        let facts = Facts::new().with("cause", "unreachable").with("last_error", "connection refused");
        let why = Why::of_facts(&facts.clone().with("next_at", 112));
        assert_eq!(why.text("nas", 100), "nas: connection refused, next try in 12 s");
        assert_eq!(why.text("nas", 200), "nas: connection refused, trying");
        assert_eq!(Why::because("unreachable").text("nas", 0), "nas: cannot be reached");
        assert_eq!(Why::because("").text("nas", 0), "nas: no answer yet");
        // A bare word of SPOOL.md says nothing to whoever waits.
        for cause in ["unreachable", "receipt", "key", "cancel", "lock", "no_peer", "sick", "disk_full", "shortage"] {
            assert!(
                Why::because(cause).text("nas", 0).contains(' ') && !Why::because(cause).text("x", 0).ends_with(cause)
            );
        }
        assert!(why.is_like(&Why::of_facts(&facts.with("next_at", 500))));
    }

    #[test]
    fn a_short_wait_is_not_worth_a_line_and_a_long_one_is_worth_one() {
        let mut patience = Patience::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let why = || Some(Why::because("unreachable"));
        assert_eq!(patience.ask(start, why()), None);
        assert_eq!(patience.ask(start + second, None), None);
        assert_eq!(patience.ask(start + 2 * second, why()), None);
        assert_eq!(patience.ask(start + 3 * second, why()), None, "the wait began anew");
        assert_eq!(patience.ask(start + 4 * second, why()), why());
        assert_eq!(patience.ask(start + 500 * second, why()), None, "it is known");
    }

    /// A disk on which many syncs stood in a queue had a line said for it, and then none
    /// for a minute of what really stood in the way.
    #[test]
    fn a_step_that_only_takes_long_is_worth_no_word_for_a_while() {
        let mut patience = Patience::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (slow, wrong) = (Why::because("key"), Why { error: "timed out".into(), ..Why::because("key") });
        assert_eq!(patience.ask(start, Some(slow.clone())), None);
        assert_eq!(patience.ask(start + 19 * second, Some(slow.clone())), None);
        assert_eq!(patience.ask(start + 19 * second, Some(wrong.clone())), Some(wrong));
        let mut patience = Patience::default();
        assert_eq!(patience.ask(start, Some(slow.clone())), None);
        assert_eq!(patience.ask(start + 20 * second, Some(slow.clone())), Some(slow));
    }

    #[test]
    fn another_reason_is_said_once_a_minute_at_most() {
        let mut patience = Patience::default();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let (one, two) = (Why::because("unreachable"), Why::because("receipt"));
        patience.told(start, one.clone());
        assert_eq!(patience.ask(start, Some(two.clone())), None);
        assert_eq!(patience.ask(start + 59 * second, Some(two.clone())), None);
        assert_eq!(patience.ask(start + 61 * second, Some(two.clone())), Some(two));
        assert_eq!(patience.ask(start + 100 * second, Some(one)), None);
        // A daemon that hangs or has ended is said at once, and once.
        let ours = ["daemon", "no_daemon"].map(Why::because);
        assert_eq!(patience.ask(start + 101 * second, Some(ours[0].clone())), Some(ours[0].clone()));
        assert_eq!(patience.ask(start + 102 * second, Some(ours[1].clone())), None);
        assert_eq!(patience.ask(start + 162 * second, Some(ours[1].clone())), Some(ours[1].clone()));
    }
}
