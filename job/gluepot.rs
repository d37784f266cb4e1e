//! What a peer may run here: the decision alone, from its policy and START.
//!
//! Default: nothing. A refusal depends on the policy and on what was asked,
//! never on whether a command exists here, so it tells a stranger nothing of
//! this machine. Whoever calls logs the decision, and does what it says.

use crate::message::Start;
use spool::home::Policy;
use spool::name::Digest;
use std::collections::BTreeMap;
use std::time::Duration;

/// Variables that never come from a peer; a trailing `*` stands for any rest.
const ENV_DENIED: [&str; 7] = ["LD_*", "PATH", "IFS", "BASH_ENV", "ENV", "PERL5*", "PYTHON*"];

/// A peer as the gluepot sees it.
#[derive(Debug, Clone)]
pub struct Known {
    /// What we call it.
    pub name: String,
    /// What it may do.
    pub policy: Policy,
    /// SHA-256 of the file that says so.
    pub digest: Digest,
    /// What may wait here as a whole of one input, or one output, in sealed bytes.
    pub quota: u64,
    /// How long ago that file was changed.
    pub age: Duration,
}

/// What is decided about a START.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may run.
    Run(Permitted),
    /// Nothing runs; the peer is told this.
    Refused(String),
}

/// A command that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted {
    /// For the shell: the words, joined with single blanks.
    pub text: Vec<u8>,
    /// The peer's variables that are passed on.
    pub env: BTreeMap<String, Vec<u8>>,
    /// The names of those that are not.
    pub denied: Vec<String>,
}

/// Decides what becomes of `start`, which came from this peer (`None`: one that
/// we do not know any more), where commands run as `our_user`.
pub fn decide(known: Option<&Known>, our_user: &str, start: &Start) -> Verdict {
    let refused = |why: &str| Verdict::Refused(why.to_string());
    let Some(known) = known else { return refused("this peer is not known here") };
    if !known.policy.shell {
        return refused("this peer may run no shell command here");
    }
    if !start.user.is_empty() && start.user != our_user {
        return refused("this peer may not run commands as that user");
    }
    if start.argv.is_empty() {
        return refused("no command was given");
    }
    let (denied, env): (Vec<_>, BTreeMap<_, _>) = (
        start.env.keys().filter(|name| is_denied(name)).cloned().collect(),
        start
            .env
            .iter()
            .filter(|(name, _)| !is_denied(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    );
    Verdict::Run(Permitted { text: start.argv.join(&b' '), env, denied })
}

/// Is this no name for a variable, or one that never comes from a peer?
fn is_denied(name: &str) -> bool {
    let proper = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let listed = ENV_DENIED.iter().any(|denied| match denied.strip_suffix('*') {
        Some(front) => name.starts_with(front),
        None => name == *denied,
    });
    !proper || listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(shell: bool) -> Known {
        let policy = Policy { shell, ..Policy::default() };
        Known { name: "nas".into(), policy, digest: Digest::of(b""), quota: 0, age: Duration::MAX }
    }

    fn start(words: &[&str]) -> Start {
        Start { argv: words.iter().map(|word| word.as_bytes().to_vec()).collect(), ..Start::default() }
    }

    #[test]
    fn nothing_is_permitted_by_default_and_refusals_tell_nothing_of_the_command() {
        let verdicts =
            ["true", "no-such-command-anywhere"].map(|word| decide(Some(&known(false)), "me", &start(&[word])));
        assert!(matches!(verdicts[0], Verdict::Refused(_)));
        assert_eq!(verdicts[0], verdicts[1]);
        assert!(matches!(decide(None, "me", &start(&["true"])), Verdict::Refused(_)));
    }

    #[test]
    fn words_are_joined_with_single_blanks() {
        let Verdict::Run(permitted) = decide(Some(&known(true)), "me", &start(&["tar", "xf  -", ""])) else {
            panic!("it is permitted");
        };
        assert_eq!(permitted.text, b"tar xf  - ");
    }

    #[test]
    fn only_our_own_user_is_permitted() {
        for (user, runs) in [("", true), ("me", true), ("root", false)] {
            let verdict = decide(Some(&known(true)), "me", &Start { user: user.into(), ..start(&["id"]) });
            assert_eq!(matches!(verdict, Verdict::Run(_)), runs, "{user}");
        }
        assert!(matches!(decide(Some(&known(true)), "me", &start(&[])), Verdict::Refused(_)));
    }

    #[test]
    fn denied_variables_are_named_and_not_passed_on() {
        let names =
            ["GIT_PROTOCOL", "LD_PRELOAD", "PATH", "PATHS", "PERL5LIB", "PYTHONPATH", "BASH_FUNC_x%%", "ENV", "1"];
        let env = names.iter().map(|name| (name.to_string(), b"v".to_vec())).collect();
        let Verdict::Run(permitted) = decide(Some(&known(true)), "me", &Start { env, ..start(&["env"]) }) else {
            panic!("it is permitted");
        };
        assert_eq!(permitted.env.keys().collect::<Vec<_>>(), ["GIT_PROTOCOL", "PATHS"]);
        assert_eq!(permitted.denied.len(), 7);
    }
}
