//! Locks that lose their names while everything runs: whoever holds one is seen
//! again, nobody else takes its place, and nobody is blocked by what has the name.

use crate::homes::{NETPLUMB, PLUMB, Peer, kill_9, pair, pair_up, read_up_to, send, wait_until};
use crate::patience::PATIENCE;
use rustix::process::Signal;
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

/// How often a name is removed, and how far apart.
const TIMES: usize = 40;
const APART: Duration = Duration::from_millis(50);

/// A `plumb` whose input stays open.
fn start(a: &Peer, options: &[&str], command: &str) -> (Child, ChildStdin) {
    let mut plumb = a.command(PLUMB);
    plumb.args(options).args(["b", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut plumb = plumb.spawn().expect("plumb starts");
    let stdin = plumb.stdin.take().expect("a pipe");
    (plumb, stdin)
}

/// Its status, and what it said; it is killed if it does not end.
fn end(mut plumb: Child) -> (Option<i32>, String, String) {
    let (ended, late) = channel::<()>();
    let pid = plumb.id();
    let watchdog = std::thread::spawn(move || {
        if late.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            kill_9(pid);
        }
    });
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let out = text(read_up_to(plumb.stdout.take().expect("a pipe"), 1 << 20));
    let err = text(read_up_to(plumb.stderr.take().expect("a pipe"), 1 << 20));
    drop(ended);
    watchdog.join().expect("it ends");
    (plumb.wait().expect("it ends").code(), out, err)
}

/// The only id in this place, once it is there.
fn only_id(peer: &Peer, place: &str) -> String {
    wait_until(&format!("one in {place}"), || peer.ids(place).len() == 1);
    peer.ids(place).remove(0)
}

fn lines(at: &Path) -> usize {
    std::fs::read_to_string(at).unwrap_or_default().lines().count()
}

/// Has the daemon look at a directory.
fn touch(directory: &Path) {
    let now = std::fs::FileTimes::new().set_modified(SystemTime::now());
    let _ = std::fs::File::open(directory).and_then(|directory| directory.set_times(now));
}

/// A program without input and output.
fn begin(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}

/// Waits for a program, and says whether it succeeded; panics if it does not end.
fn ends(mut child: Child, what: &str) -> bool {
    let late = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.success();
        }
        if Instant::now() > late {
            let _ = child.kill();
            panic!("{what} is blocked");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn verb(peer: &Peer, words: &[&str]) -> bool {
    ends(begin(peer.command(NETPLUMB).args(words)), &words.join(" "))
}

/// A second keeper was started, and killed the command; the first told that as
/// the command's own end, or both wrote one log.
#[test]
fn a_job_whose_keeper_loses_the_name_of_its_lock_runs_once_and_to_its_end() {
    for options in [&[][..], &["-batch"], &["-batch", "-repeat"]] {
        let (a, mut b) = pair_up();
        let runs = b.home.join("runs");
        let (plumb, mut stdin) = start(&a, options, &format!("echo run >>{}; cat", runs.display()));
        stdin.write_all(b"some, ").expect("plumb reads");
        let id = only_id(&b, "jobs");
        let is_there = || lines(&runs) == 1 || (!options.is_empty() && b.spool(&format!("running/{id}")).exists());
        wait_until("a keeper has it", is_there);
        // To the next daemon the keeper is none of its own.
        b.suffer("daemon");
        let mut others = Vec::new();
        for _ in 0..TIMES {
            let _ = std::fs::remove_file(b.spool(&format!("running/{id}")));
            touch(&b.spool(&format!("jobs/{id}")));
            // Another keeper beside those that the daemon starts.
            others.push(begin(b.command(NETPLUMB).args(["keeper", &id])));
            std::thread::sleep(APART);
        }
        stdin.write_all(b"more").expect("plumb reads");
        drop(stdin);
        let (status, out, err) = end(plumb);
        assert_eq!((status, out.as_str()), (Some(0), "some, more"), "{options:?}: {err}");
        assert_eq!(lines(&runs), 1, "{options:?}");
        for other in others {
            ends(other, "another keeper");
        }
        wait_until("no keeper is left", || b.children("keeper").is_empty());
    }
}

/// The `plumb` counted as dead: its job was cancelled, or the input aborted.
#[test]
fn a_job_whose_plumb_loses_the_name_of_its_lock_is_not_taken_for_unwanted() {
    let (mut a, mut b) = pair();
    a.up();
    let (plumb, mut stdin) = start(&a, &[], "cat");
    let id = only_id(&a, "queue");
    let lose = |names: &[&str]| {
        for _ in 0..TIMES / 2 {
            names.iter().for_each(|name| drop(std::fs::remove_file(a.spool(&format!("jobs/{id}/{name}")))));
            ["queue", "jobs"].iter().for_each(|place| touch(&a.spool(&format!("{place}/{id}"))));
            std::thread::sleep(APART);
        }
    };
    lose(&["plumb"]);
    b.up();
    if stdin.write_all(b"some, ").is_err() {
        panic!("plumb has ended: {:?}", end(plumb));
    }
    wait_until("it runs", || b.ids("jobs").iter().any(|id| b.spool(&format!("jobs/{id}/run.started")).exists()));
    let mut along = a.command(PLUMB);
    let along = along.arg(format!("-attach={id}")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let along = along.spawn().expect("plumb starts");
    wait_until("somebody reads along", || a.spool(&format!("jobs/{id}/along.0")).exists());
    lose(&["plumb", "along.0", "along.1"]);
    if stdin.write_all(b"more").is_err() {
        panic!("plumb has ended: {:?}", end(plumb));
    }
    drop(stdin);
    let (status, out, err) = end(plumb);
    assert_eq!((status, out.as_str()), (Some(0), "some, more"), "{err}");
    let (status, out, err) = end(along);
    assert!(status == Some(0) && out.ends_with("more"), "along: {out:?} {err}");
    wait_until("nothing is left", || a.ids("jobs").is_empty());
}

/// A `plumb` that had been stopped and had lost its lock went on beside the one that had attached meanwhile.
#[test]
fn a_plumb_whose_place_was_taken_leaves_the_job_to_the_other() {
    let (a, b) = pair_up();
    let go = b.home.join("go");
    let command = format!("echo some; while [ ! -e {} ]; do sleep 0.05; done; echo more", go.display());
    let (first, stdin) = start(&a, &[], &command);
    drop(stdin);
    let id = only_id(&a, "jobs");
    wait_until("some output is here", || a.spool(&format!("jobs/{id}/in/2/read")).exists());
    send(first.id(), Signal::STOP);
    std::fs::remove_file(a.spool(&format!("jobs/{id}/plumb"))).expect("it is there");
    let mut second = a.command(PLUMB);
    second.arg(format!("-attach={id}")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let second = second.spawn().expect("plumb starts");
    let is_seen = || a.netplumb(&["jobs", "--json"]).good().text().contains("\"plumb\":true");
    wait_until("the second one has the job", is_seen);
    send(first.id(), Signal::CONT);
    let (status, _, said) = end(first);
    assert_eq!(status, Some(255), "{said}");
    assert_eq!(said.lines().last(), Some("plumb: origin=transport status=76 reason=detached"), "{said}");
    std::fs::write(&go, b"").expect("a file");
    let (status, out, err) = end(second);
    assert_eq!((status, out.as_str()), (Some(0), "more\n"), "{err}");
}

/// A process that asked for the lock opened the FIFO, and waited for a writer for ever.
#[test]
fn a_fifo_in_the_place_of_a_lock_blocks_nobody() {
    let (a, b) = pair_up();
    let (plumb, mut stdin) = start(&a, &[], "cat");
    stdin.write_all(b"some, ").expect("plumb reads");
    let id = only_id(&b, "jobs");
    wait_until("it runs", || b.spool(&format!("jobs/{id}/run.started")).exists());
    let locks = [
        a.spool("daemon"),
        b.spool("daemon"),
        a.spool(&format!("jobs/{id}/plumb")),
        a.spool(&format!("jobs/{id}/along.7")),
        b.spool(&format!("running/{id}")),
    ];
    for lock in locks {
        let fifo = lock.with_file_name(".fifo");
        let made = Command::new("mkfifo").arg(&fifo).status();
        assert!(made.is_ok_and(|made| made.success()));
        std::fs::rename(&fifo, &lock).expect("the same directory");
    }
    for peer in [&a, &b] {
        for words in [&["jobs"][..], &["check"], &["why", &id], &["show", &id], &["queue"]] {
            verb(peer, words);
        }
        touch(&peer.spool(&format!("jobs/{id}")));
    }
    let (another, _) = start(&a, &[], "echo another");
    let (status, out, err) = end(another);
    assert_eq!((status, out.as_str()), (Some(0), "another\n"), "{err}");
    stdin.write_all(b"more").expect("plumb reads");
    drop(stdin);
    let (status, out, err) = end(plumb);
    assert_eq!((status, out.as_str()), (Some(0), "some, more"), "{err}");
    wait_until("no keeper is left", || b.children("keeper").is_empty());
}

/// Its lock was a file, which somebody had removed.
#[test]
fn a_second_daemon_does_not_begin_whatever_was_removed() {
    let (a, _b) = pair_up();
    for entry in std::fs::read_dir(a.spool("")).expect("a spool").flatten() {
        if entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    assert!(!verb(&a, &["daemon"]), "there is one");
}
