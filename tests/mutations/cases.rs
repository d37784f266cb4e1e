//! Cases that a run has found, each as a small round with the jobs that it needs.

use super::round::Wish;

/// Plays a round of these jobs that this blow strikes; no promise may be broken.
fn case(jobs: &[&str], blow: &str) {
    let below = tempfile::tempdir().expect("a directory");
    let jobs = jobs.iter().map(|name| name.to_string()).collect();
    let blow = Some(blow.parse().expect("a blow"));
    let report = super::play(&Wish { seed: 1, blow, jobs, below: below.path().into(), timed: false });
    assert!(report.broken.is_empty(), "{:#?}\n{:#?}", report.broken, report.notes);
}

#[test]
fn without_a_fault_all_jobs_end_as_they_should() {
    case(&["open", "untaken-ended", "left-done", "queued", "batch", "b-open"], "live");
}

#[test]
fn names_that_are_no_text_beside_the_files_of_a_job_harm_nothing() {
    case(&["silent", "open"], "live; b jobs/{silent}/%FF%FE make file; a jobs/{open}/in/2/.%FF make directory");
}

#[test]
fn a_cancelled_job_that_its_recipient_lost_is_not_called_not_started() {
    case(&["cancelled", "b-left-done"], "live; b jobs/{cancelled} delete; a jobs/{b-left-done} become file");
}

#[test]
fn a_fifo_in_the_place_of_a_log_leaves_the_home_sound() {
    case(&["b-open", "open"], "stopped; a jobs/{b-open}/out/2 become fifo");
}

#[test]
fn a_left_job_whose_mark_of_that_is_damaged_is_not_forgotten() {
    case(&["queued-left", "noticed-left"], "live; a jobs/{queued-left}/detached swap jobs/{noticed-left}/detached");
}

#[test]
fn a_queued_job_that_lost_its_detached_is_cancelled() {
    case(&["queued-left"], "live; a jobs/{queued-left}/detached delete");
}

#[test]
fn a_living_job_whose_peer_file_is_damaged_ends() {
    case(&["open", "b-open"], "live; a jobs/{open}/peer junk 1; a jobs/{b-open}/peer zero");
}

#[test]
fn a_living_job_whose_directory_became_the_tombstone_of_another_ends() {
    case(&["open", "b-left-done"], "stopped; a jobs/{open} swap jobs/{b-left-done}");
}

#[test]
fn two_keepers_whose_locks_changed_names_go_on() {
    case(&["open", "untaken"], "live; b running/{untaken} swap running/{open}");
}

#[test]
fn a_left_job_that_lost_the_end_of_a_log_ends_when_it_is_waited_for() {
    case(&["left-done"], "live; a jobs/{left-done}/in/3/0 truncate 999");
}

#[test]
fn a_log_that_is_replaced_while_it_is_pulled_comes_to_its_end() {
    case(&["b-open"], "live; a jobs/{b-open}/in/1 old 1");
}

#[test]
fn a_left_job_whose_key_is_damaged_ends_when_somebody_asks_for_it() {
    case(&["b-left-done"], "live; b jobs/{b-left-done}/key zero");
}

#[test]
fn a_command_whose_job_is_called_over_ends_and_a_fifo_makes_way_for_a_log() {
    case(&["b-open", "silent"], "live; a jobs/{b-open}/over make fifo; a jobs/{silent}/in/2 become fifo");
}
