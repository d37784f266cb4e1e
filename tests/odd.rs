//! Odd files in a live spool: directories, FIFOs, links and names that are no text at the places of our
//! files. They block nobody; those that stand in the way are moved to `odd/`, and jobs and homes go on.

use crate::harm::{Job, Odd, all_verbs_answer, attach, carries, leave, moved_aside, touch_job};
use crate::homes::{Peer, pair, pair_up, wait_until};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// The files of a job that runs, at its sender and at its recipient, that are hints, marks or locks.
const OF_A: [&str; 8] = [
    "jobs/ID/plumb",
    "jobs/ID/along.1",
    "jobs/ID/alive",
    "jobs/ID/why",
    "jobs/ID/out/1/got",
    "jobs/ID/in/2/read",
    "jobs/ID/in/2/window",
    "jobs/ID/priority",
];
const OF_B: [&str; 7] = [
    "running/ID",
    "jobs/ID/alive",
    "jobs/ID/why",
    "jobs/ID/priority",
    "jobs/ID/recv.ok",
    "jobs/ID/in/1/read",
    "jobs/ID/out/2/got",
];

fn at(peer: &Peer, path: &str, id: &str) -> std::path::PathBuf {
    peer.spool(&path.replace("ID", id))
}

/// A FIFO blocked the daemon, the loop or a verb for ever; a directory or a link froze the job.
#[test]
fn a_job_goes_on_though_its_hints_marks_and_locks_become_odd() {
    let (a, b) = pair_up();
    for odd in [Odd::Fifo, Odd::Directory, Odd::Link] {
        let mut job = Job::start_running(&a, &b, &[]);
        OF_A.iter().for_each(|path| odd.takes(&at(&a, path, &job.id)));
        OF_B.iter().for_each(|path| odd.takes(&at(&b, path, &job.id)));
        for peer in [&a, &b] {
            touch_job(peer, &job.id);
            all_verbs_answer(peer, &job.id);
        }
        carries(&a, &b, "another");
        job.write("rest");
        let (id, ended) = (job.id.clone(), job.end());
        ended.well("first rest");
        wait_until("nothing of it is left", || a.ids("jobs").is_empty() && b.children("keeper").is_empty());
        wait_until("it is over there", || b.spool(&format!("jobs/{id}/over")).exists());
    }
}

/// Any file with a second link froze its job.
#[test]
fn a_job_whose_files_all_have_second_links_goes_on() {
    let (a, b) = pair_up();
    let mut open = Job::start_running(&a, &b, &[]);
    let mut batch = Job::start(&a, &b, &["-batch"], "cat");
    batch.write("some ");
    let left = leave(&a, &b, "echo left");
    wait_until("it waits to be heard", || a.job(&left)["phase"] == "ended");
    for peer in [&a, &b] {
        let copied = Command::new("cp").arg("-al").arg(peer.spool("")).arg(peer.home.join("copy")).status();
        assert!(copied.is_ok_and(|copied| copied.success()));
        [&open.id, &batch.id, &left].iter().for_each(|id| touch_job(peer, id));
    }
    carries(&a, &b, "another");
    open.write("rest");
    batch.write("rest");
    open.end().well("first rest");
    batch.end().well("some rest");
    attach(&a, &left).well("left\n");
    wait_until("nothing is left", || a.ids("jobs").is_empty() && b.ids("running").is_empty());
}

/// A directory, a link or a second link as `clock` stopped the whole home.
#[test]
fn a_clock_that_is_no_file_of_ours_is_replaced() {
    let (mut a, mut b) = pair_up();
    carries(&a, &b, "control");
    for odd in [Odd::Directory, Odd::Dangling, Odd::Link, Odd::Fifo] {
        for peer in [&mut a, &mut b] {
            peer.kill();
            odd.takes(&peer.spool("clock"));
            peer.up();
        }
        carries(&a, &b, &format!("{odd:?}"));
        for peer in [&a, &b] {
            wait_until("there is a clock", || is_file(&peer.spool("clock")));
        }
    }
    for peer in [&mut a, &mut b] {
        peer.kill();
        std::fs::hard_link(peer.spool("clock"), peer.home.join("clock")).expect("a second link");
        peer.up();
    }
    carries(&a, &b, "linked");
    assert!(moved_aside(&a).iter().any(|name| name.starts_with("clock.")), "{:?}", moved_aside(&a));
    wait_until("it is told", || a.ids("notices").iter().any(|name| name.starts_with("odd.clock.")));
}

fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// The service was restarted for ever.
#[test]
fn a_directory_of_the_spool_that_is_none_is_made_again() {
    let (mut a, mut b) = pair_up();
    carries(&a, &b, "control");
    for place in ["jobs", "queue", "rqueue", "running", "onetime", "notices"] {
        for odd in [Odd::File, Odd::Dangling] {
            for peer in [&mut a, &mut b] {
                peer.kill();
                odd.takes(&peer.spool(place));
                peer.up();
            }
            carries(&a, &b, &format!("{place}-{odd:?}"));
            let named = |peer: &Peer| moved_aside(peer).iter().any(|name| name.starts_with(&format!("{place}.")));
            assert!(named(&a) && named(&b), "{place} {odd:?}: {:?}", moved_aside(&a));
        }
    }
}

/// Delivery is a rename that never replaces: it failed for ever.
#[test]
fn a_message_is_delivered_though_odd_things_lie_at_its_places() {
    for odd in [Odd::File, Odd::Fifo, Odd::Dangling] {
        let (mut a, mut b) = pair();
        a.up();
        let places = ["jobs", "rqueue", "running"];
        let jobs = places.map(|place| (place, Job::start(&a, &b, &["-n"], &format!("echo {place}"))));
        for (place, job) in &jobs {
            odd.takes(&b.spool(&format!("{place}/{}", job.id)));
        }
        b.up();
        for (place, job) in jobs {
            job.end().well(&format!("{place}\n"));
        }
        wait_until("nothing is left", || a.ids("jobs").is_empty() && b.children("keeper").is_empty());
    }
}

/// A directory whose names are no text could not be removed, and stayed as a hidden rest.
#[test]
fn names_that_are_no_text_harm_no_job_and_go_with_it() {
    let (a, b) = pair_up();
    let mut job = Job::start_running(&a, &b, &[]);
    let left = leave(&a, &b, "echo left");
    wait_until("it waits to be heard", || a.job(&left)["phase"] == "ended");
    let names: [&[u8]; 4] = [b"\xff\xfe", b".\xff", b"\xc3\x28\n", b"along.\xff"];
    let of_jobs = [&job.id, &left].map(|id| ["", "in", "in/2", "out", "out/1"].map(|dir| format!("jobs/{id}/{dir}")));
    let others = ["", "jobs", "queue", "rqueue", "running", "hold", "notices", "onetime"].map(String::from);
    for dir in of_jobs.iter().flatten().chain(&others) {
        for (n, name) in names.iter().enumerate() {
            let path = a.spool(dir).join(OsStr::from_bytes(name));
            // A file, and a directory with something in it.
            let made = if n % 2 == 0 { std::fs::write(&path, "x") } else { std::fs::create_dir_all(path.join("x")) };
            made.expect("it is made");
        }
    }
    touch_job(&a, &job.id);
    all_verbs_answer(&a, &job.id);
    carries(&a, &b, "another");
    job.write("rest");
    job.end().well("first rest");
    attach(&a, &left).well("left\n");
    wait_until("nothing of the jobs is left, hidden or not", || {
        let names = std::fs::read_dir(a.spool("jobs")).expect("a spool").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.len() >= 40).count() == 0
    });
}
