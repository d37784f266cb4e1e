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
