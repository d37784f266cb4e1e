//! The end of a process is the last that it does: no thread of ours and no exit
//! handler of a library runs after the end was decided.
//!
//! `plumb` returned from `main` while its thread "stdin" sealed. exit(3) then had
//! OpenSSL give up its tables under that thread, which panicked behind the stable
//! last line, or died by SIGSEGV in place of the status.

use crate::homes::{Chance, NETPLUMB, PLUMB, Peer, noise, pair, pair_up, read_up_to, run, seed, send, wait_until};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// The dynamic linker notes each program that it starts, and each exit handler that exit(3) runs.
fn traced(traces: &Path) -> Vec<(&'static str, String)> {
    let output = traces.join("trace").display().to_string();
    vec![("LD_DEBUG", "files".into()), ("LD_DEBUG_OUTPUT", output)]
}

/// The programs that were started, each with whether an exit handler ran in it.
fn endings(traces: &Path) -> Vec<(String, bool)> {
    let files = std::fs::read_dir(traces).expect("traces").map(|entry| entry.expect("a trace").path());
    let texts = files.map(|path| String::from_utf8_lossy(&std::fs::read(path).expect("a trace")).into_owned());
    let started =
        |text: &str| text.lines().find_map(|line| Some(line.split_once("initialize program: ")?.1.to_string()));
    texts.filter_map(|text| Some((started(&text)?, text.contains("calling fini:")))).collect()
}

/// Ends with everything that this home runs, as its administrator would.
fn down(peer: &mut Peer) {
    send(peer.daemon_pid().expect("it is up"), Signal::TERM);
    wait_until("the daemon and its children have ended", || {
        ["daemon", "service", "loop"].iter().all(|verb| peer.children(verb).is_empty())
    });
    peer.kill();
}

#[test]
fn no_exit_handler_runs_in_any_of_our_processes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (control, ours) = (directory.path().join("control"), directory.path().join("ours"));
    [&control, &ours].iter().for_each(|traces| std::fs::create_dir(traces).expect("a directory"));
    let mut other = Command::new("true");
    other.envs(traced(&control));
    run(other, b"").good();
    if !endings(&control).iter().any(|(_, handled)| *handled) {
        println!("skipped: the dynamic linker of this machine does not note exit handlers");
        return;
    }
    let (mut a, mut b) = pair();
    (a.env, b.env) = (traced(&ours), traced(&ours));
    a.up();
    b.up();
    assert_eq!(a.plumb(&["b", "cat; exit 3"], &noise(1 << 20, 1)).status, 3);
    assert_eq!(a.plumb(&["nobody", "true"], b"").status, 255);
    a.plumb(&["-h"], b"").good();
    let id = a.plumb(&["-detach", "-n", "b", "exit 4"], b"").good().text().trim_end().to_string();
    for (words, status) in [
        (&["wait", &id][..], 4),
        (&["jobs"], 0),
        (&["queue"], 0),
        (&["why", &id], 0),
        (&["show", &id], 0),
        (&["peer", "test", "b"], 0),
        (&["loop", "jobs", &id], 0),
        (&["cancel", &id], 0),
        (&["card"], 0),
        (&["--help"], 0),
        (&["no-such-verb"], 64),
    ] {
        assert_eq!(a.netplumb(words).status, status, "{words:?}");
    }
    // Called by the name of the other, it is that.
    let alias = directory.path().join("plumb");
    std::os::unix::fs::symlink(NETPLUMB, &alias).expect("a link");
    let mut called = a.command(alias.to_str().expect("a path"));
    called.args(["b", "exit 5"]);
    assert_eq!(run(called, b"").status, 5);
    wait_until("no keeper is left", || b.children("keeper").is_empty());
    down(&mut a);
    down(&mut b);
    let endings = endings(&ours);
    // Both daemons with two children each, three keepers (which close their trace), and all that was run here.
    assert!(endings.len() >= 6 + 3 + 16, "control: all are seen: {endings:?}");
    let handled: Vec<_> = endings.iter().filter(|(_, handled)| *handled).collect();
    assert!(handled.is_empty(), "{} of {} ran exit handlers: {handled:?}", handled.len(), endings.len());
}

/// Has it ended, and nobody has waited for it?
fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z"))
}

/// A `plumb` whose input never ends.
fn endless(a: &Peer, command: &str) -> (Child, Child) {
    let mut yes = Command::new("yes").stdout(Stdio::piped()).spawn().expect("yes");
    let mut plumb = a.command(PLUMB);
    plumb.args(["-q", "b", command]).stdin(yes.stdout.take().expect("a pipe")).stdout(Stdio::null());
    (plumb.stderr(Stdio::piped()).spawn().expect("plumb starts"), yes)
}

/// How it ends, and what it says.
fn end((mut plumb, mut yes): (Child, Child)) -> (ExitStatus, String) {
    let said = read_up_to(plumb.stderr.take().expect("a pipe"), 64 << 10);
    let status = plumb.wait().expect("it ends");
    let _ = yes.kill();
    let _ = yes.wait();
    (status, String::from_utf8_lossy(&said).into_owned())
}

/// So many commands end by themselves, and as many are ended, while their input is sealed.
fn ends_while_its_input_is_sealed(count: usize, name: &str) {
    let (a, b) = pair_up();
    let seed = seed(name);
    // So much may lie here that the sealing does not rest.
    a.quota(&b, "job_bytes = \"4G\"");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (a, mut chance) = (&a, Chance(seed + thread));
            scope.spawn(move || {
                for _ in 0..count / 4 {
                    let (status, said) = end(endless(a, "exit 3"));
                    assert_eq!((status.code(), status.signal(), said.as_str()), (Some(3), None, ""));
                    let running = endless(a, "sleep 1000");
                    std::thread::sleep(chance.below_millis(200));
                    // A command that runs already is ended by the first one, or cancelled by the second.
                    while !is_zombie(running.0.id()) {
                        send(running.0.id(), Signal::TERM);
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    let (status, said) = end(running);
                    let last = said.lines().last().unwrap_or_default();
                    let well = last.is_empty() || last.starts_with("plumb: origin=transport status=7");
                    // One that has not set itself up yet dies of the signal.
                    let terminated = status.code() == Some(143) || status.signal() == Some(15);
                    assert!(terminated && well && !said.contains("panicked"), "{status}: {said}");
                }
            });
        }
    });
}

#[test]
fn a_plumb_that_ends_while_its_input_is_sealed_ends_well() {
    ends_while_its_input_is_sealed(40, "a_plumb_that_ends_while_its_input_is_sealed_ends_well");
}

#[test]
#[ignore = "four hundred of each"]
fn four_hundred_that_end_while_their_input_is_sealed_end_well() {
    ends_while_its_input_is_sealed(400, "four_hundred_that_end_while_their_input_is_sealed_end_well");
}

#[test]
fn a_daemon_that_is_ended_under_load_leaves_no_panic_and_neither_do_its_children() {
    let (mut a, mut b) = pair_up();
    let streams: Vec<_> = (0..4).map(|_| endless(&a, "cat >/dev/null")).collect();
    wait_until("all run", || b.children("keeper").len() >= 8);
    for _ in 0..3 {
        for peer in [&mut a, &mut b] {
            down(peer);
            peer.up();
        }
        let held = b.spool_size();
        wait_until("the streams flow again", || b.spool_size() != held);
    }
    for (mut plumb, yes) in streams {
        let _ = plumb.kill();
        end((plumb, yes));
    }
    for log in [a.log(), b.log()] {
        assert!(!log.contains("panicked") && !log.contains("was killed by"), "{log}");
    }
}
