//! Judges a round: the only place that says what a fault may do.
//!
//! A job that no fault touched ends as if there had been none. A touched job ends too, with any
//! outcome that is true.

use super::zoo::Expect;
use std::time::Duration;

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// The job, or the side, or the program.
    pub of: String,
    /// The evidence.
    pub seen: String,
}

/// A promise to the user of a spool that is damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Promise {
    /// The round could be prepared.
    Prepared,
    /// A job that no fault touched is as if there had been none.
    Unharmed,
    /// A job ends on both sides within three minutes.
    Ends,
    /// A good status comes with all bytes, and no other status is the command's.
    TrueStatus,
    /// Bytes come in order and unaltered.
    TrueBytes,
    /// A command that ran is not said to be "not started" or "refused".
    TrueNotStarted,
    /// Every end is told: a status, or a last line with a reason.
    Told,
    /// Two verbs say the same of one job.
    Agree,
    /// A job is not forgotten before its end is known, unless it was removed.
    NotForgotten,
    /// A command runs once.
    Once,
    /// At rest our processes do next to nothing.
    Rest,
    /// A new job works, within ten seconds.
    NewJob,
    /// Every verb answers within ten seconds.
    Verbs,
    /// No process panics.
    NoPanic,
    /// In the end no process is left.
    NothingLeft,
}

/// The end of one `plumb`.
pub struct Seen<'a> {
    /// How it ended; `None`: it did not.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: &'a [u8],
    /// Its standard error, with that of the command.
    pub stderr: &'a [u8],
    /// How often the command was started.
    pub runs: usize,
    /// Did a fault touch the job?
    pub touched: bool,
    /// Did a fault remove all that the sender had of it?
    pub removed: bool,
}

/// The reasons that `plumb` may give for having no status.
const REASONS: [(&str, i32); 10] = [
    ("no-such-job", 66),
    ("input-incomplete", 74),
    ("disk", 74),
    ("not-started", 75),
    ("outcome-unknown", 76),
    ("interrupted", 76),
    ("cancelled", 76),
    ("detached", 76),
    ("output-incomplete", 76),
    ("refused", 77),
];

/// How long a job may take to its end once it is let go: three minutes.
/// `NETPLUMB_PATIENCE` says another number of seconds; a short one finds jobs that hang sooner.
pub fn patience() -> Duration {
    Duration::from_secs(super::number("NETPLUMB_PATIENCE").unwrap_or(180))
}

/// The reason in the stable last line, and its status.
pub fn reason(stderr: &[u8]) -> Option<(String, i32)> {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().rev().find_map(|line| line.split_once("plumb: origin=transport status="))?.1;
    let (status, reason) = line.split_once(" reason=")?;
    Some((reason.trim_end().to_string(), status.parse().ok()?))
}

/// Gives the promises that the end of one `plumb` breaks, with the evidence.
pub fn plumb(expect: &Expect, seen: &Seen) -> Vec<(Promise, String)> {
    let Some(status) = seen.status else { return vec![(Promise::Ends, "plumb has not ended".into())] };
    let mut broken = Vec::new();
    let whole = if let Expect::Exit(_, stdout, _) = expect { stdout.as_slice() } else { &[] };
    if !whole.starts_with(seen.stdout) && !matches!(expect, Expect::Nothing) {
        broken.push((Promise::TrueBytes, differs(whole, seen.stdout)));
    }
    match reason(seen.stderr) {
        Some((reason, number)) => broken.extend(without_status(expect, seen, &reason, number)),
        None if status == 255 || status == 101 => {
            broken.push((Promise::Told, format!("status {status} and no last line")));
        }
        None => broken.extend(with_status(expect, seen, status)),
    }
    broken
}

/// `plumb` passed a status on.
fn with_status(expect: &Expect, seen: &Seen, status: i32) -> Vec<(Promise, String)> {
    match expect {
        Expect::Exit(right, stdout, stderr) if status == *right => {
            let mut broken = Vec::new();
            if seen.stdout != stdout {
                let what = format!("status {status}: {}", differs(stdout, seen.stdout));
                broken.push((Promise::TrueStatus, what));
            }
            if of_command(seen.stderr) != *stderr {
                let what = format!("status {status}, stderr: {}", differs(stderr, &of_command(seen.stderr)));
                broken.push((Promise::TrueStatus, what));
            }
            broken
        }
        Expect::Exit(right, ..) => {
            vec![(Promise::TrueStatus, format!("status {status} for {right}; {}", end_of(seen.stderr)))]
        }
        // A fault may have taken the wish to cancel it; no command of a round is killed otherwise.
        Expect::Reason(_) if seen.touched && seen.runs > 0 && status < 128 => Vec::new(),
        Expect::Reason(right) => vec![(Promise::TrueStatus, format!("status {status} for {right}"))],
        Expect::Nothing => Vec::new(),
    }
}

/// `plumb` said why there is no status.
fn without_status(expect: &Expect, seen: &Seen, reason: &str, number: i32) -> Vec<(Promise, String)> {
    let mut broken = Vec::new();
    let told = format!("status={number} reason={reason}");
    if !REASONS.contains(&(reason, number)) {
        broken.push((Promise::Told, told.clone()));
    }
    if matches!(reason, "not-started" | "refused") && seen.runs > 0 {
        broken.push((Promise::TrueNotStarted, format!("{told}, and it ran {} times", seen.runs)));
    }
    if matches!(expect, Expect::Reason(right) if *right == reason) {
        return broken;
    }
    if !seen.touched {
        broken.push((Promise::Unharmed, format!("{told}: {}", last_words(seen.stderr))));
    } else if reason == "no-such-job" && !seen.removed {
        broken.push((Promise::NotForgotten, format!("{told}: {}", last_words(seen.stderr))));
    }
    broken
}

/// The last lines of a text, for the report.
fn end_of(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().collect();
    format!("{:?}", &lines[lines.len().saturating_sub(2)..])
}

/// The sentences before the stable last line.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> =
        text.lines().filter(|line| line.starts_with("plumb: ") && !line.contains("origin=")).collect();
    lines[lines.len().saturating_sub(2)..].join(" | ")
}

/// Gives the standard error of the command: all but the lines of `plumb`.
fn of_command(stderr: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("plumb: ") && !line.starts_with('{'));
    lines.collect::<String>().into_bytes()
}

fn differs(whole: &[u8], seen: &[u8]) -> String {
    let at = whole.iter().zip(seen).take_while(|(right, got)| right == got).count();
    format!("{} bytes of {}, which differ from {at} on", seen.len(), whole.len())
}

/// Gives the lie in a row of `netplumb jobs --all --json`, if the command was started so often.
pub fn lies(row: &serde_json::Value, runs: usize) -> Option<(Promise, String)> {
    let outcome = row["outcome"].as_str();
    let said = format!("phase {}, outcome {outcome:?}", row["phase"]);
    match outcome {
        Some(outcome) if runs > 0 && (outcome == "not started" || outcome.starts_with("refused")) => {
            Some((Promise::TrueNotStarted, format!("{said}, and it ran {runs} times")))
        }
        None if row["phase"] == "over" => Some((Promise::Told, said)),
        _ => None,
    }
}

/// Do `netplumb wait` and the `plumb` that attached say the same of whether something ran, and is here?
pub fn agree(waited: i32, attached: i32) -> bool {
    let safe = |status: i32| [66, 75, 77].contains(&status);
    waited == attached || !(safe(waited) || safe(attached))
}

/// Says why a row of `netplumb jobs --all --json` is no end. With `kept`, the sender may keep output and
/// outcome for a later `plumb`: the job was left, or its `plumb` was killed, or a fault hides that they were taken.
pub fn row(row: &serde_json::Value, kept: bool) -> Option<String> {
    let (phase, role) = (row["phase"].as_str().unwrap_or("none"), row["role"].as_str());
    let outcome = row["outcome"].as_str();
    let rests = match phase {
        "over" => true,
        "done" | "ended" => kept && role == Some("sender") && outcome.is_some(),
        _ => false,
    };
    (!rests).then(|| format!("phase {phase}, role {role:?}, outcome {outcome:?}, cause {}", row["cause"]))
}

/// Says what is wrong with how often a command was started.
pub fn runs(runs: usize, may_repeat: bool) -> Option<String> {
    (runs > 1 && !may_repeat).then(|| format!("it was started {runs} times"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: &str = "plumb: b: said before\nplumb: origin=transport status=";

    fn judged(expect: &Expect, status: i32, stdout: &str, stderr: &str, runs: usize, touched: bool) -> Vec<Promise> {
        let (stdout, stderr) = (stdout.as_bytes(), stderr.as_bytes());
        let seen = Seen { status: Some(status), stdout, stderr, runs, touched, removed: false };
        plumb(expect, &seen).into_iter().map(|(promise, _)| promise).collect()
    }

    #[test]
    fn each_lie_is_seen() {
        let expect = Expect::Exit(3, b"all of it".to_vec(), b"x\n".to_vec());
        let right = "plumb: b: waits\nx\n";
        assert!(judged(&expect, 3, "all of it", right, 1, false).is_empty());
        assert_eq!(judged(&expect, 3, "all of", right, 1, true), [Promise::TrueStatus]);
        assert_eq!(judged(&expect, 3, "all of it", "", 1, true), [Promise::TrueStatus]);
        assert_eq!(judged(&expect, 137, "all of", "", 1, true), [Promise::TrueStatus]);
        assert_eq!(judged(&expect, 3, "all of IT", right, 1, true), [Promise::TrueBytes, Promise::TrueStatus]);
        let unknown = format!("{LAST}76 reason=outcome-unknown\n");
        assert!(judged(&expect, 255, "all", &unknown, 1, true).is_empty());
        assert_eq!(judged(&expect, 255, "all", &unknown, 1, false), [Promise::Unharmed]);
        assert_eq!(judged(&expect, 255, "al-", &unknown, 1, true), [Promise::TrueBytes]);
        let idle = format!("{LAST}75 reason=not-started\n");
        assert!(judged(&expect, 255, "", &idle, 0, true).is_empty());
        assert_eq!(judged(&expect, 255, "", &idle, 1, true), [Promise::TrueNotStarted]);
        let gone = format!("{LAST}66 reason=no-such-job\n");
        assert_eq!(judged(&expect, 255, "", &gone, 1, true), [Promise::NotForgotten]);
        assert_eq!(judged(&expect, 255, "", "plumb: something\n", 1, true), [Promise::Told]);
        assert_eq!(judged(&expect, 101, "", "panicked", 1, true), [Promise::Told]);
    }

    #[test]
    fn what_does_not_end_is_seen() {
        let seen = Seen { status: None, stdout: b"", stderr: b"", runs: 1, touched: true, removed: false };
        assert_eq!(plumb(&Expect::Nothing, &seen)[0].0, Promise::Ends);
        let job = |phase: &str, role: &str| serde_json::json!({ "phase": phase, "role": role, "outcome": "exited 0" });
        assert_eq!(row(&job("over", "recipient"), false), None);
        assert_eq!(row(&job("ended", "sender"), true), None);
        assert!(row(&job("ended", "sender"), false).is_some());
        assert!(row(&job("running", "recipient"), true).is_some());
        assert!(row(&serde_json::json!({ "phase": "unreadable" }), true).is_some());
        let over = |outcome: Option<&str>| serde_json::json!({ "phase": "over", "outcome": outcome });
        assert_eq!(lies(&over(Some("not started")), 0), None);
        assert_eq!(lies(&over(Some("not started")), 1).map(|lie| lie.0), Some(Promise::TrueNotStarted));
        assert_eq!(lies(&over(None), 1).map(|lie| lie.0), Some(Promise::Told));
        assert!(agree(3, 3) && agree(3, 76) && !agree(66, 75) && !agree(3, 75));
        assert!(runs(2, false).is_some() && runs(1, false).is_none() && runs(2, true).is_none());
    }
}
