//! How long a test waits before it says that something hangs. It is one time for all tests of all
//! crates, and generous: no test fails because a disk is slow. Tests that judge how long something
//! takes are ignored ones, for a machine that has nothing else to do.
#![allow(dead_code, reason = "each crate's tests use a part of it")]

use std::time::{Duration, Instant};

/// Nothing that a test waits for takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long between two questions.
const APART: Duration = Duration::from_millis(4);

/// Asks until there is an answer; panics with what it was when the time is up.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(APART);
    }
}

/// Waits until something is so; panics with what it was when the time is up.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    wait_for(what, || so().then_some(()));
}

/// Waits until something has grown to at least so much; panics with what it was if it has not grown for
/// `PATIENCE`. For what may take long because it is much.
pub fn wait_until_grown(what: &str, least: u64, mut measure: impl FnMut() -> u64) {
    let (mut most, mut grown) = (measure(), Instant::now());
    while most < least {
        std::thread::sleep(APART);
        let now = measure();
        if now > most {
            (most, grown) = (now, Instant::now());
        }
        assert!(grown.elapsed() < PATIENCE, "not more than {most} of {least} for {PATIENCE:?}: {what}");
    }
}
