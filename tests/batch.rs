//! Jobs that start with their whole input, between two homes.

use crate::homes::{PLUMB, Peer, arrived, noise, pair, pair_up, read_up_to, wait_until, wait_until_grown};
use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};

/// A job whose input stays open, with this much in it.
fn begin(a: &Peer, options: &[&str], command: &str, input: usize) -> (Child, ChildStdin) {
    let mut plumb = a.command(PLUMB);
    plumb.args(options).args(["b", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut plumb = plumb.spawn().expect("plumb starts");
    let mut stdin = plumb.stdin.take().expect("a pipe");
    stdin.write_all(&noise(input, 7)).expect("plumb reads");
    (plumb, stdin)
}

fn end(mut plumb: Child, stdin: ChildStdin) -> (Option<i32>, String) {
    drop(stdin);
    let out = read_up_to(plumb.stdout.take().expect("a pipe"), 64 << 10);
    (plumb.wait().expect("it ends").code(), String::from_utf8_lossy(&out).into_owned())
}

#[test]
fn a_batch_command_does_not_start_before_its_input_has_ended_however_large_it_is() {
    let (a, b) = pair_up();
    let size = 80 << 20;
    let traces = b.home.join("ran");
    let (plumb, stdin) = begin(&a, &["-batch"], &format!("touch {}; wc -c", traces.display()), size);
    wait_until_grown("more than a window is there", size as u64 + 1, || {
        b.ids("jobs").first().map_or(0, |id| arrived(&b, id))
    });
    assert!(!traces.exists(), "it started on an incomplete input");
    assert_eq!(end(plumb, stdin), (Some(0), format!("{size}\n")));
    assert!(traces.exists());
}

#[test]
fn a_batch_command_whose_plumb_dies_never_starts_and_a_plain_one_does() {
    let (a, b) = pair_up();
    for (options, class) in [(&["-batch"][..], "batch"), (&[][..], "plain")] {
        let traces = b.home.join(class);
        let known = b.ids("jobs");
        let (mut plumb, stdin) = begin(&a, options, &format!("touch {}; cat >/dev/null", traces.display()), 1 << 20);
        let job = || b.ids("jobs").into_iter().find(|id| !known.contains(id));
        wait_until("the input is there", || job().is_some_and(|id| arrived(&b, &id) > 1 << 20));
        if class == "plain" {
            wait_until("the control runs", || traces.exists());
        }
        plumb.kill().expect("it lives");
        plumb.wait().expect("it ends");
        let id = job().expect("it is there");
        wait_until("the job ends", || b.spool(&format!("jobs/{id}/over")).exists());
        drop(stdin);
        let outcome = b.job(&id)["outcome"].as_str().unwrap_or("none").to_string();
        match class {
            "batch" => assert!(outcome == "not started" && !traces.exists(), "{outcome}"),
            _ => assert!(outcome.starts_with("input incomplete at "), "{outcome}"),
        }
    }
}

#[test]
fn a_batch_job_that_is_interrupted_by_its_user_while_it_waits_was_not_started() {
    let (a, b) = pair_up();
    let traces = b.home.join("ran");
    let (mut plumb, stdin) = begin(&a, &["-batch"], &format!("touch {}", traces.display()), 1000);
    let receipted = || a.ids("jobs").first().is_some_and(|id| a.spool(&format!("jobs/{id}/receipt")).exists());
    wait_until("a keeper waits", || receipted() && !b.children("keeper").is_empty());
    crate::homes::send(plumb.id(), rustix::process::Signal::INT);
    let said = String::from_utf8_lossy(&read_up_to(plumb.stderr.take().expect("a pipe"), 64 << 10)).into_owned();
    drop(stdin);
    plumb.wait().expect("it ends");
    assert_eq!(said.lines().last(), Some("plumb: origin=transport status=75 reason=not-started"), "{said}");
    assert!(!traces.exists());
}

/// Each that waits has a keeper, and counts as one that runs.
#[test]
fn more_batch_jobs_than_may_run_end_one_after_the_other() {
    let (mut a, mut b) = pair();
    let policy = b.home.join("config/peers/a/peer.toml");
    let text = std::fs::read_to_string(&policy).expect("a policy").replace("#jobs = 16", "jobs = 2");
    assert!(text.contains("\njobs = 2"), "{text}");
    std::fs::write(&policy, text).expect("a policy");
    a.up();
    b.up();
    // More than the windows of both sides: what has no keeper stops there, and no other waits for it.
    let size = 80 << 20;
    let job = || {
        let (plumb, stdin) = begin(&a, &["-batch"], "wc -c", size);
        end(plumb, stdin)
    };
    let ended: Vec<_> = std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..5).map(|_| scope.spawn(job)).collect();
        jobs.into_iter().map(|job| job.join().expect("it ends")).collect()
    });
    assert_eq!(ended, vec![(Some(0), format!("{size}\n")); 5]);
}

/// Peers that let each other run commands; `b` lets `a` have so much of its disk.
fn pair_within(bytes: &str) -> (Peer, Peer) {
    let (mut a, mut b) = pair();
    let policy = b.home.join("config/peers/a/peer.toml");
    let text = std::fs::read_to_string(&policy).expect("a policy");
    std::fs::write(&policy, text.replace("#bytes = 0", &format!("bytes = \"{bytes}\""))).expect("it is ours");
    a.up();
    b.up();
    (a, b)
}

/// It waited for ever for input that had no room.
#[test]
fn a_batch_input_larger_than_all_jobs_may_have_is_refused() {
    let (a, _b) = pair_within("48M");
    let ran = a.plumb(&["-batch", "b", "wc -c"], &noise(60 << 20, 1));
    assert_eq!(ran.status, 255);
    assert!(ran.stderr.contains("input larger than the quota of"), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("status=77 reason=refused\n"), "{}", ran.stderr);
    assert_eq!(a.plumb(&["-batch", "b", "wc -c"], &noise(8 << 20, 1)).good().text(), format!("{}\n", 8 << 20));
}

/// Each held what the other waited for.
#[test]
fn batch_jobs_that_have_no_room_beside_each_other_do_not_wait_for_ever() {
    let (a, _b) = pair_within("64M");
    let size = 36 << 20;
    let both = std::thread::scope(|scope| {
        let run = || a.plumb(&["-batch", "b", "wc -c"], &noise(size, 1));
        [scope.spawn(run), scope.spawn(run)].map(|one| one.join().expect("it ends"))
    });
    let good = both.iter().filter(|ran| ran.status == 0 && ran.text() == format!("{size}\n")).count();
    let refused = both.iter().filter(|ran| ran.stderr.contains("batch jobs that came before")).count();
    let said: Vec<&str> = both.iter().map(|ran| ran.stderr.as_str()).collect();
    assert_eq!((good >= 1, good + refused), (true, 2), "{said:?}");
}
