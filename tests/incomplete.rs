//! End of file is a promise: it is given when the producer has exited 0, and
//! when all of its log is sound on the disk. In every other case the command
//! is killed, reads no end, and both sides say so.

use crate::homes::{
    Chance, PLUMB, Peer, as_file, kill_9, noise, pair_behind_links, pair_up, processes_with, read_up_to, seed, send,
    wait_for, wait_until, wait_until_grown,
};
use crate::link::Link;
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// A command that reads its input, and leaves a trace when that ends.
struct Trial<'a> {
    b: &'a Peer,
    traces: PathBuf,
    plumb: Child,
}

impl<'a> Trial<'a> {
    fn traces(b: &Peer, name: &str) -> PathBuf {
        b.home.join(format!("traces-{name}"))
    }

    fn begin(a: &Peer, b: &'a Peer, name: &str, options: &[&str], stdin: Stdio) -> Trial<'a> {
        let traces = Trial::traces(b, name);
        std::fs::create_dir(&traces).expect("a directory");
        let dir = traces.display();
        let text = format!("echo $$ >{dir}/started; cat >{dir}/copy; touch {dir}/saw-eof");
        let mut command = a.command(PLUMB);
        command.arg("-q").args(options).args(["b", &text]).stdin(stdin).stderr(Stdio::piped());
        Trial { b, traces, plumb: command.spawn().expect("plumb starts") }
    }

    fn has(&self, trace: &str) -> bool {
        self.traces.join(trace).exists()
    }

    /// Waits for the end; what `plumb` said.
    fn end(&mut self) -> (Option<i32>, String) {
        let status = wait_for("plumb ends", || self.plumb.try_wait().unwrap());
        let said = read_up_to(self.plumb.stderr.take().unwrap(), 64 << 10);
        (status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Nothing of it runs at the recipient any more.
    fn wait_until_quiet(&self) {
        let ours = self.plumb.id();
        let quiet = || {
            self.b.children("keeper").is_empty()
                && processes_with(&self.traces.display().to_string()).iter().all(|pid| *pid == ours)
        };
        wait_until("nothing is left of the command", quiet);
    }

    /// It must end as one whose input broke off, and its command must have seen no end.
    fn ends_incomplete(&mut self) -> String {
        let (status, said) = self.end();
        self.wait_until_quiet();
        assert!(!self.has("saw-eof"), "the command read an end of file that was never given: {said}");
        assert_eq!(status, Some(255), "{said}");
        assert_eq!(said.lines().last(), Some("plumb: origin=transport status=74 reason=input-incomplete"), "{said}");
        said
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let _ = self.plumb.kill();
        let _ = self.plumb.wait();
    }
}

fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn a_producer_that_exits_0_gives_an_end_of_file() {
    let (a, b) = pair_up();
    let input = noise(3 * MIB, 4);
    std::fs::write(a.home.join("input"), &input).unwrap();
    let from = format!("-from=cat {}; echo done >&2", a.home.join("input").display());
    let mut trial = Trial::begin(&a, &b, "good", &[&from], Stdio::null());
    assert_eq!(trial.end(), (Some(0), "done\n".into()));
    assert!(trial.has("saw-eof") && std::fs::read(trial.traces.join("copy")).unwrap() == input);

    // It reads our stdin, and may close its output long before it exits.
    let mut trial =
        Trial::begin(&a, &b, "filter", &["-z", "-from=tr a b; exec >&-; sleep 0.3"], as_file(b"aaa").into());
    assert_eq!(trial.end(), (Some(0), String::new()));
    assert_eq!(std::fs::read(trial.traces.join("copy")).unwrap(), b"bbb");
    assert!(trial.has("saw-eof"));
}

#[test]
fn a_producer_that_fails_gives_none() {
    let (a, b) = pair_up();
    // COPIED: until what was written is there.
    for (name, from, how) in [
        ("status", "printf 12345; COPIED; exit 3", "the producer exited 3 after 5 bytes, so the command was killed"),
        ("at-once", "printf 12345; exit 3", "the producer exited 3 after "),
        ("late", "printf 12345; exec >&-; COPIED; exit 4", "the producer exited 4 after 5 bytes"),
        ("signal", "printf 12345; COPIED; kill -9 $$", "the producer was killed by signal 9 after 5 bytes"),
        ("nothing", "no-such-program-anywhere", "the producer exited 127 after 0 bytes"),
    ] {
        let copy = Trial::traces(&b, name).join("copy");
        let from = from.replace("COPIED", &format!("until test -s {}; do sleep 0.05; done", copy.display()));
        let mut trial = Trial::begin(&a, &b, name, &["-from", &from], Stdio::null());
        let said = trial.ends_incomplete();
        assert!(said.contains(how), "{name}: {said}");
    }
}

#[test]
fn a_command_that_did_not_wait_for_a_producer_that_failed_has_no_success() {
    let (a, b, links) = pair_behind_links(0);
    let [made, go, gone] = ["made", "go", "gone"].map(|name| a.home.join(name));
    let from =
        format!("-from=echo x; touch {}; until test -e {}; do sleep 0.05; done; exit 3", made.display(), go.display());
    // The command ends by itself while nothing passes: it cannot have heard of the failure.
    let text = format!("until test -e {}; do sleep 0.05; done; exit 0", gone.display());
    let mut command = a.command(PLUMB);
    let mut plumb = command.args([&from, "b", &text]).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let id = || b.ids("jobs").into_iter().next();
    let has = |mark: &str| id().is_some_and(|id| b.spool(&format!("jobs/{id}/{mark}")).exists());
    wait_until("it runs", || made.exists() && has("run.started"));
    links.iter().for_each(|link| link.swallow(true));
    std::fs::write(&gone, "").unwrap();
    wait_until("the command has ended", || has("run.exit"));
    std::fs::write(&go, "").unwrap();
    let log = a.spool(&format!("jobs/{}/out/1", id().unwrap()));
    wait_until("the producer has failed", || spool_end(&log));
    links.iter().for_each(|link| link.swallow(false));
    let status = plumb.wait().unwrap();
    let said = read_up_to(plumb.stderr.take().unwrap(), 64 << 10);
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(status.code(), Some(255), "{said}");
    assert!(said.contains("the producer exited 3 after 2 bytes; the command had ended by itself (exited 0)"), "{said}");
    assert_eq!(said.lines().last(), Some("plumb: origin=transport status=74 reason=input-incomplete"), "{said}");
}

#[test]
fn a_producer_that_nobody_wants_ends_with_the_command() {
    let (a, _b) = pair_up();
    let pid = a.home.join("producer");
    let from = format!("-from=trap '' TERM; echo $$ >{}; while :; do echo x; done", pid.display());
    for (text, status) in [("head -c 100000 >/dev/null; exit 5", 5), ("exec <&-; sleep 0.5; exit 6", 6), ("exit 0", 0)]
    {
        let ran = a.plumb(&["-q", &from, "b", text], b"");
        assert_eq!((ran.status, ran.stderr.as_str()), (status, ""), "{text}");
        let producer = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        wait_until("the producer is gone", || has_ended(producer));
    }
}

#[test]
fn signals_that_end_the_job_end_the_producer() {
    let (a, b) = pair_up();
    for (name, signal) in [("int", Signal::INT), ("term", Signal::TERM)] {
        let pid = a.home.join(name);
        let from = format!("-from=echo $$ >{}; while :; do echo x; sleep 0.01; done", pid.display());
        let mut trial = Trial::begin(&a, &b, name, &[&from], Stdio::null());
        wait_until("it runs", || trial.has("started") && trial.has("copy"));
        send(trial.plumb.id(), signal);
        let (status, said) = trial.end();
        assert_eq!(status, Some(128 + signal.as_raw()), "{said}");
        trial.wait_until_quiet();
        assert!(!trial.has("saw-eof"));
        let producer = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        wait_until("the producer is gone", || has_ended(producer));
    }
}

/// Kills the producer, or `plumb`, when about so many bytes have been made.
fn killed_on_the_way(producer_dies: bool, points: usize, name: &str) {
    let (a, b) = pair_up();
    let mut chance = Chance(seed(name));
    for number in 0..points {
        let at = chance.below(if number % 3 == 0 { 100_000 } else { 40_000_000 });
        let (pid, made) = (a.home.join(format!("pid-{number}")), a.home.join(format!("made-{number}")));
        // It stops there, so that it is killed in the middle and not at its end.
        let from = format!(
            "-from=echo $$ >{}; head -c {at} /dev/urandom; touch {}; while :; do sleep 0.05; done",
            pid.display(),
            made.display()
        );
        let options = if number % 2 == 0 { vec![from.as_str()] } else { vec!["-z", from.as_str()] };
        let mut trial = Trial::begin(&a, &b, &number.to_string(), &options, Stdio::null());
        match number % 4 {
            // As soon as it is there, or somewhere before or after the offset.
            0 => wait_until("the producer runs", || std::fs::metadata(&pid).is_ok_and(|it| it.len() > 1)),
            1 => {
                wait_until("the producer runs", || std::fs::metadata(&pid).is_ok_and(|it| it.len() > 1));
                std::thread::sleep(chance.below_millis(150));
            }
            _ => wait_until("it is made", || made.exists()),
        }
        let producer: u32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        if producer_dies {
            assert!(kill_9(producer));
            let said = trial.ends_incomplete();
            assert!(said.contains("the producer was killed by signal 9 after "), "{said}");
        } else {
            assert!(kill_9(trial.plumb.id()));
            trial.plumb.wait().unwrap();
            wait_until("the producer dies with it", || has_ended(producer));
            wait_until("both sides are done with it", || {
                a.ids("jobs").is_empty() && a.ids("queue").is_empty() && b.ids("rqueue").is_empty()
            });
            trial.wait_until_quiet();
            assert!(!trial.has("saw-eof"), "the command read an end of file that was never given");
        }
        println!("{number}: at {at}, started: {}", trial.has("started"));
    }
}

#[test]
fn a_killed_producer_is_no_end_of_file() {
    killed_on_the_way(true, 10, "a_killed_producer_is_no_end_of_file");
}

#[test]
#[ignore = "fifty points"]
fn a_producer_killed_at_fifty_points_is_no_end_of_file() {
    killed_on_the_way(true, 50, "a_producer_killed_at_fifty_points_is_no_end_of_file");
}

#[test]
fn a_plumb_killed_with_its_producer_is_no_end_of_file() {
    killed_on_the_way(false, 10, "a_plumb_killed_with_its_producer_is_no_end_of_file");
}

#[test]
#[ignore = "fifty points"]
fn a_plumb_killed_at_fifty_points_with_its_producer_is_no_end_of_file() {
    killed_on_the_way(false, 50, "a_plumb_killed_at_fifty_points_with_its_producer_is_no_end_of_file");
}

/// What the disk does to a log.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Nothing,
    /// This many bytes before the end of the file.
    Flip(usize),
    Cut(usize),
    /// One in an earlier segment.
    FlipFirst,
    Remove,
}

/// The last segment of the log in `dir`, and the first one.
fn ends(dir: &Path) -> (PathBuf, PathBuf) {
    let names =
        std::fs::read_dir(dir).unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let numbers: Vec<u64> = names.collect();
    let path = |n: Option<&u64>| dir.join(n.expect("a segment").to_string());
    (path(numbers.iter().max()), path(numbers.iter().min()))
}

fn harm(dir: &Path, harm: Harm) {
    let (last, first) = ends(dir);
    let change = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        use std::os::unix::fs::FileExt;
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes);
        // In its place: who has it open sees it.
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    };
    match harm {
        Harm::Nothing => {}
        Harm::Flip(back) => change(&last, &|bytes| {
            let at = bytes.len() - back;
            bytes[at] ^= 0x10;
        }),
        Harm::Cut(back) => change(&last, &|bytes| bytes.truncate(bytes.len() - back)),
        // Far enough in it: what is in the sockets' buffers is out of reach.
        Harm::FlipFirst => change(&first, &|bytes| bytes[8_000_000] ^= 1),
        Harm::Remove => std::fs::remove_file(&last).unwrap(),
    }
}

/// END: u32, 9 bytes, tag.
const END: usize = 29;

fn held_up(links: &[Link; 2], silent: bool) {
    links[1].swallow(silent);
}

#[test]
fn damage_of_the_input_on_our_disk_is_no_end_of_file() {
    let (a, b, links) = pair_behind_links(0);
    for (number, damage) in [
        Harm::Flip(END / 2),
        Harm::Flip(END),
        Harm::Flip(END + 1000),
        Harm::Cut(END),
        Harm::Cut(1),
        Harm::Cut(500_000),
        Harm::FlipFirst,
        Harm::Remove,
    ]
    .into_iter()
    .enumerate()
    {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let options: &[&str] = if number % 2 == 0 { &[] } else { &["-z"] };
        let mut trial = Trial::begin(&a, &b, &format!("{number}"), options, reader.into());
        wait_until("it runs", || trial.has("copy"));
        held_up(&links, true);
        std::io::Write::write_all(&mut writer, &noise(12 * MIB, 8)).unwrap();
        drop(writer);
        let log = a.spool(&format!("jobs/{}/out/1", a.ids("jobs")[0]));
        wait_until("the END is there", || spool_end(&log));
        std::thread::sleep(Duration::from_millis(100));
        harm(&log, damage);
        let began = Instant::now();
        held_up(&links, false);
        let said = trial.ends_incomplete();
        println!("{damage:?}: {:.1} s: {}", began.elapsed().as_secs_f64(), said.trim());
        wait_until("it is over here", || a.ids("jobs").is_empty());
    }
}

/// Does this log end with an END, by its size words?
fn spool_end(dir: &Path) -> bool {
    let Ok(disk) = spool::atomic::Disk::open(dir.parent().unwrap()) else { return false };
    spool::log::ended_at(&disk, "1").is_ok_and(|end| end.is_some())
}

#[test]
fn input_that_is_damaged_while_it_grows_is_found_too() {
    let (a, b, links) = pair_behind_links(0);
    for (number, damage) in [Harm::Flip(1000), Harm::Cut(100_000), Harm::Nothing].into_iter().enumerate() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let before = a.ids("jobs");
        let mut trial = Trial::begin(&a, &b, &format!("{number}"), &[], reader.into());
        wait_until("it runs", || trial.has("copy"));
        held_up(&links, true);
        std::io::Write::write_all(&mut writer, &noise(12 * MIB, 8)).unwrap();
        // The job before it may not be forgotten yet.
        let id = a.ids("jobs").into_iter().find(|id| !before.contains(id)).expect("its job");
        let log = a.spool(&format!("jobs/{id}/out/1"));
        let size = |n: &str| std::fs::metadata(log.join(n)).map_or(0, |it| it.len());
        wait_until_grown("it is in the log", 12 << 20, || size("0") + size("1"));
        harm(&log, damage);
        held_up(&links, false);
        std::io::Write::write_all(&mut writer, &noise(MIB, 9)).unwrap();
        if matches!(damage, Harm::Nothing) {
            // The control of all of these.
            drop(writer);
            assert_eq!(trial.end(), (Some(0), String::new()));
            assert!(trial.has("saw-eof"));
            continue;
        }
        let said = trial.ends_incomplete();
        println!("{damage:?}: {}", said.trim());
    }
}

#[test]
fn damage_of_the_output_on_the_other_disk_is_told() {
    let (a, b, links) = pair_behind_links(0);
    // While the command runs, and after it has ended.
    for (number, (damage, ends)) in [
        (Harm::Flip(1000), false),
        (Harm::Flip(1000), true),
        (Harm::Cut(END), true),
        (Harm::Cut(300_000), true),
        (Harm::FlipFirst, true),
        (Harm::Nothing, true),
    ]
    .into_iter()
    .enumerate()
    {
        let (go, data) = (b.home.join(format!("go-{number}")), b.home.join("data"));
        std::fs::write(&data, noise(10 * MIB, 3)).unwrap();
        let last = if ends { "exit 0" } else { "sleep 1000" };
        let wait = format!("until test -e {}; do sleep 0.05; done", go.display());
        let mut command = a.command(PLUMB);
        command.args(["b", &format!("{wait}; cat {}; {last}", data.display())]).stdin(Stdio::null());
        let mut plumb = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = plumb.stdout.take().unwrap();
        let reader = std::thread::spawn(move || read_up_to(stdout, 11 * MIB).len());
        let job = || b.ids("jobs").into_iter().find(|id| !b.spool(&format!("jobs/{id}/over")).exists());
        wait_until("it runs", || job().is_some_and(|id| b.spool(&format!("jobs/{id}/run.started")).exists()));
        links[0].swallow(true);
        std::fs::write(&go, "").unwrap();
        let dir = b.spool(&format!("jobs/{}", job().unwrap()));
        let size = |n: &str| dir.join("out/2").join(n).metadata().map_or(0, |it| it.len());
        wait_until_grown("the output is there", 10 << 20, || size("0") + size("1"));
        wait_until("the command has ended", || !ends || dir.join("run.exit").exists());
        wait_until("the keeper is gone", || !ends || b.children("keeper").is_empty());
        harm(&dir.join("out/2"), damage);
        let began = Instant::now();
        links[0].swallow(false);
        let status = wait_for(&format!("{damage:?}: plumb ends"), || plumb.try_wait().unwrap()).code();
        let said = read_up_to(plumb.stderr.take().unwrap(), 64 << 10);
        let said = String::from_utf8_lossy(&said).into_owned();
        println!("{damage:?}, ends {ends}: {:.1} s: {}", began.elapsed().as_secs_f64(), said.trim());
        if matches!(damage, Harm::Nothing) {
            assert_eq!((status, reader.join().unwrap()), (Some(0), 10 * MIB), "control: {said}");
            continue;
        }
        assert_eq!(status, Some(255), "{damage:?}: {said}");
        assert_eq!(said.lines().last(), Some("plumb: origin=transport status=76 reason=output-incomplete"), "{said}");
        assert!(said.contains("outcome unknown"), "{said}");
        wait_until("nothing is left", || b.children("keeper").is_empty());
    }
}
