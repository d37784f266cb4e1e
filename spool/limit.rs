//! How much of the system a process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many descriptors as we may have: connections and segments need them. For
/// processes that start no command, which would inherit it.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Without more, work waits for descriptors as it does for space.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
