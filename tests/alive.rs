//! Processes that are stopped, hang or die unseen: it is said, they are replaced, and jobs go on.

use crate::homes::{PLUMB, Peer, Ran, kill_9, pair_up, wait_until};
use crate::patience::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).expect("a pid"), signal).expect("it is there");
}

/// A job that echoes each line that it gets.
struct Echo {
    plumb: Child,
    lines: Receiver<String>,
}

impl Echo {
    fn start(a: &Peer) -> Echo {
        let mut command = a.command(PLUMB);
        let command = command.args(["b", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut plumb = command.spawn().expect("plumb starts");
        let (stdout, (said, lines)) = (plumb.stdout.take().expect("a pipe"), channel());
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| said.send(line))
        });
        let mut echo = Echo { plumb, lines };
        echo.say("first");
        echo
    }

    /// Says a line, and waits until it is back.
    fn say(&mut self, text: &str) {
        let mut stdin = self.plumb.stdin.as_ref().expect("a pipe");
        writeln!(stdin, "{text}").expect("it reads");
        assert_eq!(self.lines.recv_timeout(PATIENCE).expect("it goes on"), text);
    }

    /// Ends its input; gives its status and what it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.plumb.stdin.take());
        let output = self.plumb.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The row of `netplumb check` for this process: `ok`, `warn` or `bad`, and the text.
fn check(peer: &Peer, what: &str) -> (String, String) {
    let said = peer.netplumb(&["check", "--json"]).text();
    let rows = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let row = rows.into_iter().find(|row| row["what"] == what).unwrap_or_else(|| panic!("no {what}: {said}"));
    let text = |name: &str| row[name].as_str().expect("text").to_string();
    (text("level"), text("text"))
}

/// The child of the daemon that runs this verb.
fn child(peer: &Peer, verb: &str) -> u32 {
    peer.children(verb).into_iter().next().expect("it runs")
}

/// A service or loop that was stopped stalled everything for ever, and `check` was all ok.
#[test]
fn a_loop_and_a_service_that_are_stopped_are_replaced_and_their_jobs_go_on() {
    let (a, b) = pair_up();
    let mut echo = Echo::start(&a);
    let ours = [(&a, "loop"), (&b, "service")].map(|(peer, verb)| (peer, verb, child(peer, verb)));
    for (peer, verb, pid) in ours {
        assert_eq!(check(peer, verb).0, "ok");
        signal(pid, Signal::STOP);
        let silent = format!("does not answer (pid {pid} is stopped)");
        assert_eq!(check(peer, verb), ("warn".into(), silent.clone()));
        for listing in [&["queue"][..], &["queue", "--json"], &["jobs"], &["jobs", "--json"]] {
            let Ran { stderr, .. } = peer.netplumb(listing).good();
            assert!(stderr.contains(&format!("the {verb} here {silent}")), "{listing:?}: {stderr}");
        }
    }
    let began = Instant::now();
    echo.say("second");
    println!("the job went on after {:.1} s", began.elapsed().as_secs_f64());
    let (status, stderr) = echo.end();
    assert_eq!(status, Some(0), "{stderr}");
    let said = format!("plumb: b: the loop here does not answer (pid {} is stopped)\n", ours[0].2);
    assert!(stderr.contains(&said), "{stderr}");
    for (peer, verb, pid) in ours {
        let log = peer.log();
        assert!(log.contains(&format!("{verb} (pid {pid} is stopped) gives no sign of life: killed")), "{log}");
        let again = check(peer, verb);
        assert!(again.0 == "ok" && again.1.contains("started again 1 times"), "{again:?}");
        assert_ne!(child(peer, verb), pid);
    }
}

/// A daemon that was stopped stalled everything that was new, and `check` was all ok.
#[test]
fn a_daemon_that_is_stopped_is_named_and_nothing_is_killed_for_the_pause() {
    let (a, b) = pair_up();
    let mut echo = Echo::start(&a);
    let daemon = a.daemon_pid().expect("it is up");
    let children = [child(&a, "service"), child(&a, "loop")];
    signal(daemon, Signal::STOP);
    let silent = format!("does not answer (pid {daemon} is stopped)");
    assert_eq!(check(&a, "daemon"), ("bad".into(), silent.clone()));
    assert_eq!(a.netplumb(&["check"]).status, 69);
    let another = a.netplumb(&["daemon"]);
    assert_eq!(another.status, 69);
    assert!(another.stderr.contains(&format!("works on {}, and {silent}\n", a.home.join("spool").display())));
    let id = a.ids("jobs").remove(0);
    for words in [&["queue"][..], &["queue", "--json"], &["jobs"], &["jobs", "--json"], &["wait", &id, "--timeout=0"]] {
        let stderr = a.netplumb(words).stderr;
        assert!(stderr.contains(&format!("the daemon here {silent}, so nothing moves")), "{words:?}: {stderr}");
    }
    let why: serde_json::Value =
        serde_json::from_str(&a.netplumb(&["why", &id, "--json"]).good().text()).expect("JSON");
    assert_eq!(why["trouble"], format!("the daemon here {silent}"));
    // Longer than a silent child has; its children wait for nobody, and their signs of life wait in a pipe.
    std::thread::sleep(Duration::from_secs(30));
    // A job that runs needs no daemon.
    echo.say("second");
    let now = a.plumb(&["-now", "b", "true"], b"");
    assert!(now.stderr.contains(&format!("b: the daemon here {silent}; not queued (-now)")), "{}", now.stderr);
    assert!(now.stderr.ends_with("plumb: origin=transport status=75 reason=not-started\n"), "{}", now.stderr);
    signal(daemon, Signal::CONT);
    wait_until("it answers", || check(&a, "daemon").0 == "ok");
    a.plumb(&["b", "true"], b"").good();
    echo.say("third");
    let (status, stderr) = echo.end();
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains(&format!("plumb: b: the daemon here {silent}\n")), "{stderr}");
    assert_eq!([child(&a, "service"), child(&a, "loop")], children, "{}", a.log());
    assert!(!a.log().contains("no sign of life"), "{}", a.log());
    drop(b);
}

/// All of them stopped and let go together, as by a debugger, a freezer or a laptop's lid.
#[test]
fn a_home_that_was_stopped_as_a_whole_goes_on_as_it_was() {
    let (a, _b) = pair_up();
    let mut echo = Echo::start(&a);
    let all = [a.daemon_pid().expect("it is up"), child(&a, "service"), child(&a, "loop")];
    all.iter().for_each(|pid| signal(*pid, Signal::STOP));
    std::thread::sleep(Duration::from_secs(30));
    all.iter().for_each(|pid| signal(*pid, Signal::CONT));
    echo.say("second");
    wait_until("all live", || ["daemon", "service", "loop"].iter().all(|what| check(&a, what).0 == "ok"));
    assert_eq!(echo.end().0, Some(0));
    assert_eq!([child(&a, "service"), child(&a, "loop")], all[1..], "{}", a.log());
    assert!(!a.log().contains("no sign of life"), "{}", a.log());
}

/// Its keeper was nobody's concern, and its end was noticed an hour later.
#[test]
fn a_job_that_was_emptied_ends_when_its_keeper_dies_unseen() {
    let (a, mut b) = pair_up();
    let mut command = a.command(PLUMB);
    let command = command.args(["b", "echo runs; exec sleep 1000"]).stdin(Stdio::null());
    let mut plumb = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("plumb starts");
    let mut line = String::new();
    BufReader::new(plumb.stdout.take().expect("a pipe")).read_line(&mut line).expect("text");
    assert_eq!(line, "runs\n");
    let id = b.ids("jobs").remove(0);
    b.kill();
    let job = b.spool(&format!("jobs/{id}"));
    for entry in std::fs::read_dir(&job).expect("a job").flatten() {
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }.expect("it goes");
    }
    // A keeper that is stopped can do nothing about it, nor remove its lock when it dies.
    let keeper = child(&b, "keeper");
    signal(keeper, Signal::STOP);
    b.up();
    wait_until("the loop has seen it", || job.join("cancel").exists());
    // By then the loop has done what it can, and looks again in an hour.
    std::thread::sleep(Duration::from_secs(3));
    assert!(b.spool(&format!("running/{id}")).exists() && !job.join("over").exists());
    assert!(kill_9(keeper));
    wait_until("it is over", || job.join("over").exists());
    wait_until("its lock goes", || !b.spool(&format!("running/{id}")).exists());
    assert!(plumb.wait().expect("it ends").code().is_some_and(|status| status == 255));
}
