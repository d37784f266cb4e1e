//! From one message, with everything that can go wrong: nothing is lost, done
//! twice, or told wrongly, and everything comes to rest.

use super::every_state::is_fast;
use super::faults::Faults;
use super::reach::{Reached, Search};
use super::words::World;
use std::time::Instant;

fn nothing_wrong(what: &str, faults: Faults) -> Reached {
    nothing_wrong_in(World::default(), what, faults)
}

fn nothing_wrong_in(world: World, what: &str, faults: Faults) -> Reached {
    let begun = Instant::now();
    let reached = Search { world, faults }.run();
    println!("{what}: {} states, {} pairs, in {:.1?}", reached.states, reached.pairs, begun.elapsed());
    println!("   cannot come to rest: {}; wrong: {:?}", reached.stuck, reached.names());
    reached.print();
    assert_eq!(reached.names(), [""; 0], "{what}: {faults:?}");
    reached
}

#[test]
fn crashes_lost_words_and_replays_cost_only_time() {
    let reached = nothing_wrong("lost words", Faults::default());
    assert!(reached.pairs > 100);
    nothing_wrong("6 crashes, replays", Faults::crashes(6));
}

#[test]
fn a_late_answer_or_decision_finds_nothing_it_could_spoil() {
    let crashes = if cfg!(debug_assertions) { 1 } else { 6 };
    nothing_wrong("late", Faults { late: true, cancel: true, ..Faults::crashes(crashes) });
}

#[test]
fn whoever_cancels_is_told_what_was_started() {
    let crashes = if cfg!(debug_assertions) { 1 } else { 6 };
    let faults = Faults { cancel: true, plumb_dies: true, refuse: true, forget: true, ..Faults::crashes(crashes) };
    nothing_wrong("cancel", faults);
    nothing_wrong("age", Faults { age: true, forget: true, ..Faults::crashes(crashes) });
}

#[test]
fn a_command_is_started_at_most_once_and_its_end_is_told_as_it_was() {
    let crashes = if cfg!(debug_assertions) { 1 } else { 6 };
    nothing_wrong("keeper", Faults { keeper_dies: true, refuse: true, ..Faults::crashes(crashes) });
    let faults = Faults { keeper_dies: true, plumb_dies: true, cancel: true, refuse: true, ..Faults::crashes(crashes) };
    nothing_wrong("keeper and plumb", Faults { crashes: crashes.min(2), ..faults });
}

#[test]
fn a_batch_job_is_started_with_its_whole_input_and_again_only_if_it_may() {
    let crashes = if cfg!(debug_assertions) { 1 } else { 3 };
    for (what, repeat) in [("batch", false), ("batch, repeat", true)] {
        let world = World { batch: true, repeat, ..World::default() };
        let faults = Faults { keeper_dies: true, refuse: true, cancel: true, ..Faults::crashes(crashes) };
        nothing_wrong_in(world, what, faults);
        nothing_wrong_in(world, what, Faults { plumb_dies: true, crashes: crashes.min(2), ..faults });
        nothing_wrong_in(world, what, Faults { keeper_dies: true, power: true, ..Faults::crashes(crashes.min(2)) });
    }
}

#[test]
fn a_power_cut_loses_no_more_than_marks_that_heal() {
    let crashes = if cfg!(debug_assertions) { 1 } else { 2 };
    nothing_wrong("power", Faults { power: true, cancel: true, forget: true, ..Faults::crashes(crashes) });
}

#[test]
fn a_lost_directory_of_an_undelivered_message_is_made_good() {
    nothing_wrong("amnesia", Faults { amnesia: true, cancel: true, ..Faults::crashes(6) });
}

/// One file of either side is damaged, at any time.
#[test]
fn any_file_may_be_damaged_at_any_time() {
    let crashes = if cfg!(debug_assertions) { 0 } else { 1 };
    let damaged = |crashes| Faults { damages: 1, crashes, ..Faults::default() };
    nothing_wrong("damaged", Faults { refuse: true, replays: true, ..damaged(0) });
    nothing_wrong("damaged, the keeper dies", Faults { keeper_dies: true, ..damaged(crashes) });
    nothing_wrong("damaged, cancelled", Faults { cancel: true, ..damaged(0) });
    nothing_wrong("damaged, plumb dies", Faults { plumb_dies: true, ..damaged(0) });
    for repeat in [false, true] {
        let world = World { batch: true, repeat, ..World::default() };
        nothing_wrong_in(world, "damaged, batch", Faults { keeper_dies: true, ..damaged(crashes) });
    }
}

/// One file or directory is removed, or replaced by what is no file of ours.
#[test]
fn any_file_may_be_missing_at_any_time() {
    let missing = Faults { missing: 1, ..Faults::crashes(0) };
    nothing_wrong("missing", Faults { refuse: true, ..missing });
    nothing_wrong("missing, cancelled", Faults { cancel: true, ..missing });
    nothing_wrong("missing, plumb dies", Faults { plumb_dies: true, ..missing });
    for repeat in [false, true] {
        nothing_wrong_in(World { batch: true, repeat, ..World::default() }, "missing, batch", missing);
    }
}

/// `cargo test --release --test main -- --ignored --nocapture whatever_else_goes_wrong`
#[test]
#[ignore = "minutes, and 4 GB"]
fn any_file_may_be_damaged_whatever_else_goes_wrong() {
    let faults =
        Faults { damages: 1, keeper_dies: true, plumb_dies: true, cancel: true, refuse: true, ..Faults::crashes(2) };
    for (what, batch, repeat) in [("damaged", false, false), ("batch", true, false), ("batch, repeat", true, true)] {
        let reached = nothing_wrong_in(World { batch, repeat, ..World::default() }, what, faults);
        assert!(reached.states >= 5_000_000, "{what}: {}", reached.states);
    }
    let late = Faults { late: true, forget: true, age: true, amnesia: true, keeper_dies: false, ..faults };
    nothing_wrong("damaged, late", Faults { crashes: 0, ..late });
    nothing_wrong("two damaged", Faults { damages: 2, crashes: 1, ..faults });
}

/// A file is removed, and another damaged. Nothing is promised beyond that: where two marks are
/// removed that prove the same, or `run.started` is and the keeper dies before any output, no
/// evidence is left.
///
/// `cargo test --release --test main -- --ignored --nocapture and_another_damaged`
#[test]
#[ignore = "minutes"]
fn one_file_may_be_missing_and_another_damaged() {
    let faults = Faults { damages: 2, missing: 1, plumb_dies: true, cancel: true, refuse: true, ..Faults::crashes(0) };
    for (what, batch, repeat) in [("missing", false, false), ("batch", true, false), ("batch, repeat", true, true)] {
        nothing_wrong_in(World { batch, repeat, ..World::default() }, what, faults);
    }
}

#[test]
#[ignore = "minutes"]
fn everything_at_once() {
    if is_fast("everything at once") {
        nothing_wrong("everything at once, 6 crashes", Faults { late: false, ..Faults::all(6) });
        nothing_wrong("everything at once, late as well", Faults::all(2));
    }
}
