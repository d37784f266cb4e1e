//! How a job ended: the text in `run.exit`, `over`, `done`, in EXIT packets and replies.

use std::fmt;
use std::str::FromStr;

/// The end of a job, as far as whoever says it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The command exited with this status.
    Exited(u8),
    /// A signal killed the command.
    Signal(u8),
    /// The gluepot, or a missing command, stood against it; the command was never started.
    Refused(String),
    /// Nothing ran, and nothing will.
    NotStarted,
    /// It was cancelled while it ran.
    Cancelled,
    /// It was started; whether it finished is not known.
    Interrupted,
    /// The input broke off at this plaintext offset, and the command was killed.
    InputIncomplete(u64),
    /// It wrote more than so many bytes, and was killed; what it had written is cut off there.
    OutputTooLarge(u64),
    /// An output was damaged behind this plaintext offset, and the command was ended.
    OutputIncomplete(u64),
    /// It was sent; what became of it is not known.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Outcome::Exited(status) => write!(f, "exited {status}"),
            Outcome::Signal(signal) => write!(f, "signal {signal}"),
            Outcome::Refused(why) => write!(f, "refused {why}"),
            Outcome::NotStarted => f.write_str("not started"),
            Outcome::Cancelled => f.write_str("cancelled"),
            Outcome::Interrupted => f.write_str("interrupted"),
            Outcome::InputIncomplete(at) => write!(f, "input incomplete at {at}"),
            Outcome::OutputTooLarge(most) => write!(f, "output larger than {most}"),
            Outcome::OutputIncomplete(at) => write!(f, "output incomplete at {at}"),
            Outcome::Unknown => f.write_str("unknown"),
        }
    }
}

impl FromStr for Outcome {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Outcome, &'static str> {
        let number = |prefix: &str| text.strip_prefix(prefix).map(str::parse);
        if let Some(Ok(status)) = number("exited ") {
            return Ok(Outcome::Exited(status));
        }
        if let Some(Ok(signal)) = number("signal ") {
            return Ok(Outcome::Signal(signal));
        }
        if let Some(why) = text.strip_prefix("refused ") {
            return Ok(Outcome::Refused(why.to_string()));
        }
        if let Some(Ok(at)) = text.strip_prefix("input incomplete at ").map(str::parse) {
            return Ok(Outcome::InputIncomplete(at));
        }
        if let Some(Ok(most)) = text.strip_prefix("output larger than ").map(str::parse) {
            return Ok(Outcome::OutputTooLarge(most));
        }
        if let Some(Ok(at)) = text.strip_prefix("output incomplete at ").map(str::parse) {
            return Ok(Outcome::OutputIncomplete(at));
        }
        let words = [Outcome::NotStarted, Outcome::Cancelled, Outcome::Interrupted, Outcome::Unknown];
        words.into_iter().find(|outcome| outcome.to_string() == text).ok_or("not an outcome")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_read_as_they_print() {
        let all = [
            Outcome::Exited(37),
            Outcome::Signal(15),
            Outcome::Refused("no shell for this peer".into()),
            Outcome::NotStarted,
            Outcome::Cancelled,
            Outcome::Interrupted,
            Outcome::InputIncomplete(4096),
            Outcome::OutputTooLarge(1 << 30),
            Outcome::OutputIncomplete(4097),
            Outcome::Unknown,
        ];
        for outcome in all {
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
        assert!("exited 256".parse::<Outcome>().is_err());
        assert!("".parse::<Outcome>().is_err());
    }
}
