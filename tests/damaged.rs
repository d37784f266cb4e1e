//! One damaged file of a live job: the job goes on or ends with a reported outcome, and never hangs.
//! Nothing is called "not started" that may have run.

use crate::harm::{Job, attach, empty, flip, leave, lines, overwrite, touch_job, verb};
use crate::homes::{Peer, noise, pair, pair_up, wait_until};

fn notices(peer: &Peer, id: &str) -> String {
    std::fs::read_to_string(peer.spool(&format!("notices/{id}"))).unwrap_or_default()
}

/// Its input was never pulled while its keeper lived, and `plumb` waited for ever.
#[test]
fn a_job_whose_message_is_damaged_while_its_keeper_lives_ends() {
    for (class, harm) in [("open", "flip"), ("open", "empty"), ("batch", "remove")] {
        let (a, mut b) = pair_up();
        let job = match class {
            "batch" => Job::start(&a, &b, &["-batch"], "cat"),
            _ => Job::start_running(&a, &b, &[]),
        };
        let message = b.spool(&format!("jobs/{}/message", job.id));
        wait_until("a keeper lives", || !b.children("keeper").is_empty() && message.exists());
        wait_until("it is confirmed", || a.ids("queue").is_empty());
        match harm {
            "flip" => flip(&message),
            "empty" => overwrite(&message, b""),
            _ => std::fs::remove_file(&message).expect("it is there"),
        }
        // The loop that delivered it has read it before.
        b.suffer("daemon");
        let id = job.id.clone();
        let ended = job.ends_by_itself();
        match class {
            "batch" => ended.says(75, "not-started"),
            _ => ended.says(76, "cancelled"),
        }
        wait_until("no keeper is left", || b.children("keeper").is_empty());
        wait_until("b is told", || notices(&b, &id).contains("message"));
        wait_until("nothing is left", || a.ids("jobs").is_empty());
    }
}

/// With a damaged `receipt` beside `acked` everything only rested.
#[test]
fn a_job_whose_receipt_is_damaged_goes_on() {
    for harmed in ["a", "b"] {
        let (mut a, mut b) = pair_up();
        let mut job = Job::start_running(&a, &b, &[]);
        let left = leave(&a, &b, "echo left");
        wait_until("it waits to be heard", || a.job(&left)["phase"] == "ended");
        for id in [&job.id, &left] {
            wait_until("it is confirmed", || b.spool(&format!("jobs/{id}/acked")).exists());
        }
        let peer = if harmed == "a" { &mut a } else { &mut b };
        [&job.id, &left].iter().for_each(|id| flip(&peer.spool(&format!("jobs/{id}/receipt"))));
        peer.suffer("daemon");
        job.write("rest");
        job.end().well("first rest");
        attach(&a, &left).well("left\n");
        wait_until("nothing is left", || a.ids("jobs").is_empty() && b.ids("running").is_empty());
    }
}

/// Half a job's files were read with another owner, or none, and nothing came of it.
#[test]
fn a_flipped_bit_in_peer_ends_the_job_with_an_unknown_outcome() {
    for harmed in ["a", "b"] {
        let (mut a, mut b) = pair_up();
        let runs = b.home.join("runs");
        let job = Job::start(&a, &b, &[], &format!("echo run >>{}; cat", runs.display()));
        wait_until("it runs", || lines(&runs) == 1);
        wait_until("it is confirmed", || a.ids("queue").is_empty());
        let peer = if harmed == "a" { &mut a } else { &mut b };
        flip(&peer.spool(&format!("jobs/{}/peer", job.id)));
        peer.suffer("daemon");
        let id = job.id.clone();
        job.ends_by_itself().says(76, "outcome-unknown");
        wait_until("no keeper is left", || b.children("keeper").is_empty());
        let peer = if harmed == "a" { &a } else { &b };
        wait_until("its owner is told", || notices(peer, &id).contains("peer"));
        assert_eq!(lines(&runs), 1);
    }
}

/// The loop pulled the log anew, and the reader stayed with the file that it had open.
#[test]
fn a_log_that_is_lost_or_damaged_under_its_reader_is_read_on() {
    for harm in ["remove", "flip", "replace"] {
        let (mut a, mut b) = pair_up();
        let mut job = Job::start_running(&a, &b, &[]);
        for log in [b.spool(&format!("jobs/{}/in/1/0", job.id)), a.spool(&format!("jobs/{}/in/2/0", job.id))] {
            match harm {
                "remove" => std::fs::remove_file(&log).expect("it is there"),
                "flip" => flip(&log),
                _ => {
                    std::fs::write(log.with_file_name(".x"), noise(3000, 5)).expect("a file");
                    std::fs::rename(log.with_file_name(".x"), &log).expect("it takes the place");
                }
            }
        }
        // Another loop finds the log as it lies there.
        [&mut a, &mut b].into_iter().for_each(|peer| assert!(peer.suffer("loop")));
        job.write("second ");
        job.write("rest");
        let ended = job.end();
        match ended.status {
            // Damage of what was given already need not be seen.
            Some(0) => ended.well("first second rest"),
            _ => assert!(ended.err.contains("reason=output-incomplete") || ended.err.contains("input-incomplete")),
        }
        wait_until("nothing is left", || a.ids("jobs").is_empty() && b.children("keeper").is_empty());
    }
}

/// It counted as an end of which nobody could say anything.
#[test]
fn an_empty_done_is_no_end() {
    let (mut a, b) = pair_up();
    let mut job = Job::start_running(&a, &b, &[]);
    let left = leave(&a, &b, "echo left");
    wait_until("it waits to be heard", || a.job(&left)["phase"] == "ended");
    for (id, text) in [(&job.id, &b""[..]), (&left, b"outcome=\n")] {
        std::fs::write(a.spool(&format!("jobs/{id}/done")), text).expect("a file");
        touch_job(&a, id);
    }
    a.suffer("daemon");
    job.write("rest");
    job.end().well("first rest");
    attach(&a, &left).well("left\n");
    wait_until("nothing is left", || a.ids("jobs").is_empty() && b.ids("running").is_empty());
}

/// `-attach` printed the output and then 75, which means that repeating is safe.
#[test]
fn a_job_that_ran_and_whose_files_there_are_gone_is_never_called_not_started() {
    for harm in ["all", "peer and run.started", "message and run.started"] {
        let (a, mut b) = pair_up();
        let (runs, go) = (b.home.join("runs"), b.home.join("go"));
        let until = format!("until test -e {}; do sleep 0.05; done", go.display());
        let id = leave(&a, &b, &format!("echo run | tee -a {}; {until}", runs.display()));
        wait_until("it runs, and is confirmed", || lines(&runs) == 1 && a.ids("queue").is_empty());
        wait_until("its output is here", || a.spool(&format!("jobs/{id}/in/2/0")).exists());
        let dir = b.spool(&format!("jobs/{id}"));
        match harm {
            "all" => empty(&dir),
            _ => harm.split(" and ").for_each(|name| std::fs::remove_file(dir.join(name)).expect("it is there")),
        }
        b.suffer("daemon");
        wait_until("the command is ended", || b.children("keeper").is_empty());
        let (status, waited) = verb(&a, &["wait", &id]);
        assert_eq!(status, Some(76), "{harm}: {waited}");
        let ended = attach(&a, &id);
        assert!(ended.err.contains("status=76"), "{harm}: {}", ended.err);
        let there = b.job(&id)["outcome"].as_str().unwrap_or("none").to_string();
        assert!(there != "not started", "{harm}: {there}");
        let (_, shown) = verb(&b, &["show", &id]);
        assert!(!shown.contains("not started"), "{harm}: {shown}");
        assert_eq!(lines(&runs), 1, "{harm}");
    }
}

/// At its sender a job without `peer` counted as one that was never sent.
#[test]
fn a_job_that_ran_and_whose_files_here_are_gone_is_never_called_not_started() {
    for harm in ["peer", "peer and receipt", "sent and receipt"] {
        let (mut a, b) = pair_up();
        let runs = b.home.join("runs");
        let id = leave(&a, &b, &format!("echo run | tee -a {}; exec sleep 1000", runs.display()));
        wait_until("it runs, and is confirmed", || lines(&runs) == 1 && a.ids("queue").is_empty());
        wait_until("its output is here", || a.spool(&format!("jobs/{id}/in/2/0")).exists());
        harm.split(" and ").for_each(|name| {
            std::fs::remove_file(a.spool(&format!("jobs/{id}/{name}"))).expect("it is there");
        });
        a.suffer("daemon");
        verb(&a, &["cancel", &id]);
        let (status, waited) = verb(&a, &["wait", &id]);
        assert_eq!(status, Some(76), "{harm}: {waited}");
        let ended = attach(&a, &id);
        assert!(ended.err.contains("status=76"), "{harm}: {}", ended.err);
        wait_until("the command is ended", || b.children("keeper").is_empty());
        assert_eq!(lines(&runs), 1, "{harm}");
    }
}

/// A message was sent though the job was about to be cancelled.
#[test]
fn a_queued_message_whose_job_nobody_wants_sends_nothing() {
    let (mut a, mut b) = pair();
    let (runs, mut ids) = (b.home.join("runs"), Vec::new());
    for n in 0..12 {
        let job = Job::start(&a, &b, &["-n"], &format!("echo run >>{}", runs.display()));
        wait_until("it is queued", || a.ids("queue").len() == n + 1);
        ids.push(job.id.clone());
        job.kill();
    }
    b.up();
    a.up();
    wait_until("they are cancelled", || a.ids("jobs").is_empty() && a.ids("queue").is_empty());
    let known = [b.ids("rqueue"), b.ids("jobs")].concat();
    assert!(known.is_empty() && lines(&runs) == 0, "{} of {} were sent", known.len(), ids.len());
    crate::harm::carries(&a, &b, "control");
}
