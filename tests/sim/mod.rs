//! Two peers on simulated disks, run by the product's own steps.
//!
//! `disk.rs` and `cut.rs` are a disk that forgets what was not synced, `net.rs`
//! a network and the services at its ends, `machine.rs` loop, pulls and daemon
//! of one peer, `keeper.rs` and `plumb.rs` the other two processes; `two.rs`
//! puts them together; `real.rs` is a real directory in the place of a simulated disk.
//! The tests are `story.rs` (one fault at every operation), `chaos.rs` (everything
//! at once) and `damage.rs` (one damaged file, in all pairs of phases).
//! A test that fails says its seed; `NETPLUMB_SEED` takes it back.

mod chaos;
mod cut;
mod damage;
mod disk;
mod keeper;
mod machine;
mod net;
mod people;
mod plumb;
mod real;
mod story;
mod two;

/// Is one seed repeated, to look at it closely?
fn is_repeated() -> bool {
    std::env::var_os("NETPLUMB_SEED").is_some()
}

/// So many seeds; or the one that the environment names.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let one = std::env::var("NETPLUMB_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    one.map_or(0..count, |seed| seed..seed + 1)
}
