//! Cases that a run has found, each as a small round with the jobs that it needs.

use super::round::Wish;

/// A round of these jobs that this blow strikes. It must break nothing.
fn case(jobs: &[&str], blow: &str) {
    let below = tempfile::tempdir().expect("a directory");
    let jobs = jobs.iter().map(|name| name.to_string()).collect();
    let blow = Some(blow.parse().expect("a blow"));
    let report = super::play(&Wish { seed: 1, blow, jobs, below: below.path().into() });
    assert!(report.broken.is_empty(), "{:#?}\n{:#?}", report.broken, report.notes);
}

#[test]
fn without_a_fault_all_jobs_end_as_they_should() {
    case(&["open", "untaken-ended", "left-done", "queued", "batch", "b-open"], "live");
}
