//! The wrong directory at the spool's place, a clock that leaps, and a spool of an older version.

use crate::harm::{Job, attach, carries, leave, lines, touch_job, verb};
use crate::homes::{Peer, pair_up, wait_until};
use spool::facts::Facts;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Takes the spool away, as an unmount does; gives where it lies meanwhile.
fn take_away(peer: &Peer) -> PathBuf {
    let away = peer.home.join("away");
    std::fs::rename(peer.spool(""), &away).expect("it is there");
    away
}

/// Puts the spool back, in the place of an empty directory or of nothing.
fn put_back(peer: &Peer, away: &Path) {
    std::fs::rename(away, peer.home.join("spool")).expect("its place is empty");
}

fn make_directory(path: &Path) {
    std::fs::DirBuilder::new().mode(0o700).create(path).expect("a directory");
}

/// A `plumb` made a new spool in the mount point, the daemon took it, and both sides' live jobs ended.
#[test]
fn a_spool_that_is_away_is_not_made_anew_and_its_jobs_go_on_when_it_is_back() {
    for mount_point in [true, false] {
        let (a, b) = pair_up();
        let mut of_a = Job::start_running(&a, &b, &[]);
        let mut of_b = Job::start_running(&b, &a, &[]);
        let away = take_away(&a);
        if mount_point {
            make_directory(&a.home.join("spool"));
        }
        for words in [["-detach", "-n", "b", "true"], ["-now", "-n", "b", "true"]] {
            let ran = a.plumb(&words, b"");
            assert_eq!(ran.status, 255, "{}", ran.stderr);
            assert!(ran.stderr.contains("is its disk mounted?"), "{}", ran.stderr);
            assert!(ran.stderr.ends_with("plumb: origin=transport status=78 reason=config\n"), "{}", ran.stderr);
        }
        let (_, said) = verb(&a, &["check"]);
        assert!(said.contains("is its disk mounted?"), "{said}");
        for words in [&["jobs"][..], &["queue"], &["wait", &of_a.id, "--timeout=0"], &["daemon"]] {
            let (status, said) = verb(&a, words);
            assert!(status != Some(0) || words == ["jobs"] || words == ["queue"], "{words:?}: {said}");
        }
        // Long enough for the daemon to let the spool go, and to look for it again.
        wait_until("the daemon waits for its spool", || a.children("loop").is_empty());
        std::thread::sleep(Duration::from_secs(2));
        let made = std::fs::read_dir(a.home.join("spool")).map_or(0, |entries| entries.count());
        assert_eq!((made, a.home.join("spool").exists()), (0, mount_point), "something was made");
        put_back(&a, &away);
        of_a.write("rest");
        of_b.write("rest");
        of_a.end().well("first rest");
        of_b.end().well("first rest");
        wait_until("nothing is left", || a.ids("jobs").iter().all(|id| a.spool(&format!("jobs/{id}/over")).exists()));
        carries(&a, &b, "another");
    }
}

/// Peers were told that their jobs are gone.
#[test]
fn another_homes_spool_is_not_used_and_nobody_is_answered_from_it() {
    let (mut a, mut b) = pair_up();
    let third = Peer::new("c", None);
    let mut job = Job::start_running(&a, &b, &[]);
    let away = take_away(&b);
    b.kill();
    std::fs::rename(third.spool(""), b.home.join("spool")).expect("another spool");
    b.up_without_waiting();
    let (status, said) = verb(&b, &["daemon"]);
    assert!(status != Some(0) && said.contains("and this home's is"), "{said}");
    let (_, said) = verb(&b, &["check"]);
    assert!(said.contains("and this home's is"), "{said}");
    assert_eq!(b.plumb(&["-now", "-n", "a", "true"], b"").status, 255);
    // Whoever asks now would be told that nothing of the job is there.
    a.suffer("daemon");
    touch_job(&a, &job.id);
    std::thread::sleep(Duration::from_secs(3));
    assert!(b.ids("jobs").is_empty() && b.ids("queue").is_empty(), "something was made");
    b.kill();
    std::fs::rename(b.spool(""), third.spool("")).expect("it goes back");
    put_back(&b, &away);
    b.up();
    job.write("rest");
    job.end().well("first rest");
}

/// Running commands were killed, and nothing was logged.
#[test]
fn a_clock_that_leaps_ends_no_job_and_is_logged() {
    let (mut a, mut b) = pair_up();
    let runs = b.home.join("runs");
    let mut job = Job::start_running(&a, &b, &[]);
    let left = leave(&a, &b, &format!("echo run >>{}; sleep 1; echo left", runs.display()));
    for peer in [&mut a, &mut b] {
        let year = 365 * 24 * 3600;
        let path = peer.spool("clock");
        let facts = Facts::parse(&std::fs::read(&path).expect("a clock"));
        let leap = facts.with("uptime", 100_u64 * year);
        let set = || std::fs::write(&path, leap.content("clock")).expect("a file");
        set();
        [&job.id, &left].iter().for_each(|id| touch_job(peer, id));
        verb(peer, &["check"]);
        peer.kill();
        set();
        peer.up();
        wait_until("the leap is logged", || peer.log().contains(&(100 * year).to_string()));
        [&job.id, &left].iter().for_each(|id| touch_job(peer, id));
    }
    carries(&a, &b, "another");
    job.write("rest");
    job.end().well("first rest");
    attach(&a, &left).well("left\n");
    assert_eq!(lines(&runs), 1);
    assert!(b.ids("notices").is_empty() && a.ids("notices").is_empty());
}

/// Makes of a spool what netplumb 0.1.0 would have left: files without checksums, and no id.
fn make_old(peer: &Peer) {
    let walk = walkdir::WalkDir::new(peer.spool("")).into_iter().flatten();
    for entry in walk.filter(|entry| entry.file_type().is_file()) {
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let name = entry.file_name().to_string_lossy();
        let facts = text.rsplit_once("check=").map(|(facts, _)| facts.to_string());
        let hint = text.split_once(' ').filter(|(_, check)| check.len() == 9).map(|(number, _)| format!("{number}\n"));
        let old = match &*name {
            "clock" => {
                facts.map(|facts| Facts::parse(facts.as_bytes()).text("uptime").unwrap_or("0").to_string() + "\n")
            }
            "priority" => facts.map(|facts| facts.trim_start_matches("priority=").to_string()),
            "got" | "tip" | "read" | "window" | "alive" => hint,
            _ => facts,
        };
        old.into_iter().for_each(|old| std::fs::write(entry.path(), old).expect("a file"));
    }
    std::fs::remove_file(peer.spool("id")).expect("it is there");
    std::fs::remove_dir(peer.spool("odd")).expect("it is empty");
    let _ = std::fs::remove_file(peer.spool("daemon.socket"));
    std::fs::write(peer.spool("daemon"), "").expect("a file");
    std::fs::remove_file(peer.home.join("config/spool.id")).expect("it is there");
}

/// An older spool's jobs ended when the new version could not believe their files.
#[test]
fn the_jobs_of_an_older_spool_go_on_when_it_is_converted() {
    let (mut a, mut b) = pair_up();
    let left = leave(&a, &b, "echo left; exit 3");
    wait_until("it waits to be heard", || a.job(&left)["phase"] == "ended");
    b.kill();
    let input = a.plumb(&["-detach", "-batch", "-priority=low", "b", "cat"], b"some input").good();
    let queued = input.text().trim_end().to_string();
    wait_until("it is tried", || a.spool(&format!("queue/{queued}/why")).exists());
    a.kill();
    let rest = |peer: &Peer| ["service", "loop", "keeper"].iter().all(|verb| peer.children(verb).is_empty());
    wait_until("all processes are gone", || rest(&a) && rest(&b));
    make_old(&a);
    make_old(&b);
    let (status, said) = verb(&a, &["jobs"]);
    assert!(status != Some(0) && said.contains("netplumb daemon converts it"), "{said}");
    a.up();
    b.up();
    assert!(a.log().contains("was converted to format 2"), "{}", a.log());
    attach(&a, &queued).well("some input");
    let heard = attach(&a, &left);
    assert_eq!((heard.status, heard.out.as_str()), (Some(3), "left\n"), "{}", heard.err);
    wait_until("nothing is left", || a.ids("jobs").is_empty() && a.ids("queue").is_empty());
}
