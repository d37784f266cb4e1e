//! Jobs that outlive their `plumb`: left, killed, taken up again, waited for.

use crate::homes::{NETPLUMB, PLUMB, Peer, Ran, pair, pair_up, run, until_there, wait_until};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Says some megabytes of different lines, for a second or two.
const TALK: &str = "for i in $(seq 1 60); do seq ${i}00000 ${i}20000; sleep 0.02; done";

fn said() -> Vec<u8> {
    let output = Command::new("sh").args(["-c", &TALK.replace("sleep 0.02", ":")]).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Leaves a job; gives its id.
fn leave(a: &Peer, words: &[&str], input: &[u8]) -> String {
    let ran = a.plumb(&[&["-detach"], words].concat(), input).good();
    let id = ran.text().trim_end().to_string();
    assert_eq!(id.len(), 40, "{id:?}");
    id
}

fn start(a: &Peer, words: &[&str]) -> Child {
    let mut command = a.command(PLUMB);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn attach(a: &Peer, id: &str, offset: usize) -> Ran {
    a.plumb(&["-q", &format!("-attach={id}"), &format!("-offset={offset}"), "-n"], b"")
}

/// Reads at most so many bytes of what it says, kills it, and gives what it had written.
fn killed_after(mut plumb: Child, bytes: usize) -> Vec<u8> {
    let mut read = Vec::new();
    let mut stdout = plumb.stdout.take().unwrap();
    stdout.by_ref().take(bytes as u64).read_to_end(&mut read).unwrap();
    plumb.kill().unwrap();
    plumb.wait().unwrap();
    // What it wrote before it died counts as written.
    stdout.read_to_end(&mut read).unwrap();
    read
}

#[test]
fn killed_at_five_points_the_rest_comes_exactly() {
    killed_at_points(5);
}

#[test]
#[ignore = "the same at 20 points"]
fn killed_at_twenty_points_the_rest_comes_exactly() {
    killed_at_points(20);
}

/// Half of them were left with `-detach`, half are killed as they run.
fn killed_at_points(points: usize) {
    let (a, b) = pair_up();
    let whole = said();
    for n in 0..points {
        let at = whole.len() * (2 * n + 1) / (2 * points) + n * 977;
        let (id, mut read) = if n % 2 == 0 {
            let id = leave(&a, &["-n", "b", TALK], b"");
            let first = start(&a, &[&format!("-attach={id}"), "-n"]);
            (id, killed_after(first, at))
        } else {
            let first = start(&a, &["b", TALK]);
            wait_until("a job", || !a.ids("jobs").is_empty());
            (a.ids("jobs").pop().unwrap(), killed_after(first, at))
        };
        let rest = attach(&a, &id, read.len());
        read.extend(&rest.stdout);
        assert_eq!((rest.status, rest.stderr.as_str()), (0, ""), "point {n}");
        assert!(read == whole, "point {n}: {} of {} bytes", read.len(), whole.len());
        wait_until("it is forgotten", || a.ids("jobs").is_empty());
    }
    wait_until("no keeper is left", || b.children("keeper").is_empty());
}

#[test]
fn two_at_once_get_the_same_and_never_mix() {
    let (a, b) = pair_up();
    let (whole, go) = (said(), b.home.join("go"));
    let id = leave(&a, &["-n", "b", &format!("{}; {TALK}", until_there(&go))], b"");
    let attach = format!("-attach={id}");
    let both = [(); 2].map(|()| start(&a, &[&attach, "-offset=0", "-n"]));
    wait_until("one of them reads along", || a.spool(&format!("jobs/{id}/along.0")).exists());
    std::fs::write(&go, "").unwrap();
    let mut alone = 0;
    for plumb in both {
        let output = plumb.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.stdout == whole, "{} of {} bytes; {stderr}", output.stdout.len(), whole.len());
        assert_eq!(output.status.code(), Some(0));
        alone += usize::from(!stderr.contains("another plumb has this job"));
    }
    assert_eq!(alone, 1, "one of them had the job");
}

/// With input, and with both daemons killed and started again while nobody waits.
#[test]
fn a_job_that_was_left_goes_on_through_restarts_and_waits_to_be_read() {
    let (mut a, mut b) = pair_up();
    let go = b.home.join("go");
    let command = format!("cat; {}; echo end; exit 3", until_there(&go));
    let id = leave(&a, &["b", &command], b"all of the input\n");
    a.suffer("daemon");
    b.suffer("daemon");
    let early = a.netplumb(&["wait", &id, "--timeout=0"]);
    assert_eq!(early.status, 75, "{}", early.stderr);
    std::fs::write(&go, "").unwrap();
    let waited = a.netplumb(&["wait", &id[..10]]);
    assert_eq!((waited.status, waited.text()), (3, format!("{id}: exited 3\n")));
    a.suffer("daemon");
    let listed = a.job(&id);
    assert_eq!((&listed["phase"], &listed["detached"]), (&"ended".into(), &true.into()));
    let ran = a.plumb(&[&format!("-attach={id}")], b"");
    assert_eq!((ran.status, ran.text()), (3, "all of the input\nend\n".into()));
    wait_until("it is forgotten", || a.ids("jobs").is_empty());
    assert_eq!(a.netplumb(&["wait", &id]).status, 66);
}

/// More output than a window must not keep a command that nobody waits for.
#[test]
fn its_output_waits_here_beyond_a_window() {
    let (a, b) = pair_up();
    let size = 3 * spool::log::WINDOW as usize;
    let id = leave(&a, &["-n", "b", &format!("head -c {size} /dev/zero")], b"");
    assert_eq!(a.netplumb(&["wait", &id]).status, 0);
    wait_until("no keeper is left", || b.children("keeper").is_empty());
    assert_eq!(a.plumb(&[&format!("-attach={id}")], b"").good().stdout.len(), size);
}

#[test]
fn the_end_of_a_job_that_was_cancelled_is_kept_until_it_is_heard() {
    let (a, b) = pair_up();
    let id = leave(&a, &["-n", "b", "sleep 1000"], b"");
    let started = b.spool(&format!("jobs/{id}/run.started"));
    wait_until("it runs", || started.exists());
    a.netplumb(&["cancel", &id]).good();
    let waited = a.netplumb(&["wait", &id, "--json"]);
    assert_eq!(waited.status, 76, "{}", waited.stderr);
    assert!(waited.text().contains(r#""outcome":"cancelled","status":76"#), "{}", waited.text());
    // It is told, and still here.
    wait_until("no keeper is left", || b.children("keeper").is_empty());
    std::thread::sleep(Duration::from_millis(500));
    let ran = a.plumb(&[&format!("-attach={id}")], b"");
    assert_eq!(ran.status, 255);
    assert!(ran.stderr.ends_with("plumb: origin=transport status=76 reason=cancelled\n"), "{}", ran.stderr);
    wait_until("it is forgotten", || a.ids("jobs").is_empty());

    let id = leave(&a, &["-n", "b", "sleep 1000"], b"");
    a.netplumb(&["cancel", &id]).good();
    // It may not have been started yet.
    assert!(matches!(a.netplumb(&["wait", &id]).status, 75 | 76));
    assert!(a.netplumb(&["cancel", &id]).good().text().contains("is forgotten now"));
    wait_until("it is forgotten", || a.ids("jobs").is_empty());
}

/// Nobody takes its output while its input is handed over: four full windows, and all stood.
#[test]
fn one_that_answers_while_it_is_handed_over_is_left_all_the_same() {
    let (a, _b) = pair_up();
    let input = crate::homes::noise(150 << 20, 5);
    let id = leave(&a, &["b", "cat"], &input);
    assert_eq!(a.netplumb(&["wait", &id]).status, 0);
    assert!(a.plumb(&[&format!("-attach={id}")], b"").good().stdout == input);
}

#[test]
fn one_that_has_ended_is_forgotten_by_one_word_and_its_status_is_told() {
    let (a, _b) = pair_up();
    let id = leave(&a, &["-n", "b", "echo x; exit 3"], b"");
    assert_eq!(a.netplumb(&["wait", &id]).status, 3);
    let said = a.netplumb(&["cancel", &id]).good().text();
    assert!(said.contains("it had ended: exited 3; its output is forgotten now"), "{said}");
    wait_until("it is forgotten", || a.ids("jobs").is_empty());
}

/// Of one job `wait` said 66, 75 or nothing, `-attach` 66, and nothing told its owner.
#[test]
fn a_job_that_was_left_and_is_lost_is_unknown_to_every_verb() {
    let (a, b) = pair_up();
    let is_kept = |id: &str| {
        let ended = a.job(id)["phase"] == "ended";
        // The loop has looked at it since.
        ended && a.ids("queue").is_empty()
    };
    for damaged in [true, false] {
        let id = leave(&a, &["-n", "b", "echo x; exit 3"], b"");
        wait_until("it waits to be heard of", || is_kept(&id));
        assert_eq!(a.netplumb(&["wait", &id]).status, 3, "control: it is known");
        let dir = a.spool(&format!("jobs/{id}"));
        match damaged {
            true => std::fs::write(dir.join("peer"), "role=sender\n").unwrap(),
            false => {
                wait_until("all of it goes", || std::fs::remove_dir_all(&dir).is_ok());
                let notice = a.spool(&format!("notices/{id}"));
                wait_until("a notice", || notice.exists());
                assert!(std::fs::read_to_string(notice).unwrap().contains("was removed from the spool"));
            }
        }
        let waited = a.netplumb(&["wait", &id]);
        assert_eq!(waited.status, 76, "{}{}", waited.text(), waited.stderr);
        assert!(waited.text().starts_with(&format!("{id}: unknown: its ")), "{}", waited.text());
        let attached = a.plumb(&[&format!("-attach={id}")], b"");
        assert_eq!((attached.status, attached.text()), (255, String::new()));
        let last = "plumb: origin=transport status=76 reason=outcome-unknown\n";
        assert!(attached.stderr.ends_with(last), "{}", attached.stderr);
        for verb in ["show", "why", "cancel"] {
            let said = a.netplumb(&[verb, &id]).good().text();
            let why = waited.text().trim_end().split_once(": unknown: ").unwrap().1.to_string();
            assert!(said.contains(&why), "{verb}: {said}");
        }
    }
    // Whatever was never here is no job, for each of them.
    let never = "00".repeat(20);
    for verb in ["wait", "show", "why", "cancel"] {
        assert_eq!(a.netplumb(&[verb, &never]).status, 66, "{verb}");
    }
    assert!(a.plumb(&[&format!("-attach={never}")], b"").stderr.contains("status=66 reason=no-such-job"));
    drop(b);
}

/// It said that the disk fails: `cannot lock jobs/ID/plumb`.
#[test]
fn an_attach_whose_job_is_forgotten_meanwhile_finds_no_such_job() {
    let (a, _b) = pair_up();
    let id = leave(&a, &["-n", "b", "true"], b"");
    assert_eq!(a.netplumb(&["wait", &id]).status, 0);
    // It reads the settings after it has found the job: there it waits for us.
    let (settings, aside) = (a.home.join("config/netplumb.toml"), a.home.join("config/aside"));
    assert!(Command::new("mkfifo").arg(&aside).status().unwrap().success());
    std::fs::rename(&settings, a.home.join("config/text")).unwrap();
    std::fs::rename(&aside, &settings).unwrap();
    let plumb = start(&a, &[&format!("-attach={id}"), "-n"]);
    let fifo = std::fs::File::options().write(true).open(&settings).unwrap();
    std::fs::rename(a.home.join("config/text"), &settings).unwrap();
    a.netplumb(&["cancel", &id]).good();
    wait_until("it is forgotten", || a.ids("jobs").is_empty());
    drop(fifo);
    let output = plumb.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(255));
    assert!(said.ends_with("plumb: origin=transport status=66 reason=no-such-job\n"), "{said}");
    assert!(said.contains("it is not here: never made, or its end was taken"), "{said}");
}

/// The negative control: a job that was not left ends with its `plumb`.
#[test]
fn a_job_that_was_not_left_ends_with_its_plumb() {
    let (a, b) = pair_up();
    let mut command = a.command(PLUMB);
    let mut plumb = command.args(["b", "cat; sleep 1000"]).stdin(Stdio::piped()).spawn().unwrap();
    wait_until("it runs", || !b.children("keeper").is_empty());
    plumb.kill().unwrap();
    plumb.wait().unwrap();
    wait_until("no keeper is left", || b.children("keeper").is_empty());
    wait_until("it is forgotten", || a.ids("jobs").is_empty());
}

#[test]
fn now_fails_when_the_peer_is_down_and_leaves_nothing() {
    let (mut a, mut b) = pair();
    a.up();
    let ran = a.plumb(&["-now", "b", "true"], b"");
    assert_eq!(ran.status, 255);
    assert!(ran.stderr.ends_with("plumb: origin=transport status=75 reason=not-started\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("connection refused; not queued (-now)"), "{}", ran.stderr);
    wait_until("it is forgotten", || a.ids("jobs").is_empty() && a.ids("queue").is_empty());
    b.up();
    wait_until("it is in reach again", || a.plumb(&["-now", "b", "true"], b"").status == 0);
    let mut id = a.command(NETPLUMB);
    id.args(["wait", "00"]);
    assert_eq!(run(id, b"").status, 66);
}
