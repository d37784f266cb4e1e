//! Programs that know nothing of us, as their users call them: rsync, borg, git,
//! scp and plain pipes, while links are cut and go silent and every daemon of
//! both sides is killed, over and over.

use crate::homes::{PLUMB, free_address, noise, run, wait_until};
use crate::link::Link;
use crate::torment::{Form, Pair, Stage, Torment, both_dial, only_ours, turned, wait_until_empty};
use crate::tree::{Tree, difference};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn rsync(pair: Pair, torment: Torment, tree: Tree) {
    let mut stage = Stage::set(pair, torment);
    let bytes = tree.make(&stage.path("here"));
    let there = stage.far(Form::User, "there/");
    only_ours(&stage.good("rsync", &["-a", "-e", PLUMB, "here/", &there]));
    assert_eq!(difference(&stage.path("here"), &stage.path("there")), "", "pushed");
    // From the environment, and the other way.
    only_ours(&stage.good("rsync", &["-a", &stage.far(Form::Short, "there/"), "back"]));
    assert_eq!(difference(&stage.path("here"), &stage.path("back")), "", "pulled");
    // Only what is new goes over.
    fs::write(stage.path("here/with blanks/0/file 1"), noise(100, 3)).expect("a file");
    let ran = stage.good("rsync", &["-a", "--stats", "here/", &there]);
    assert!(ran.text().contains("files transferred: 1\n"), "{}", ran.text());
    assert_eq!(difference(&stage.path("here"), &stage.path("there")), "", "renewed");
    stage.end(&format!("rsync of {} files, {} MiB", tree.files, bytes >> 20));
}

fn borg(pair: Pair, torment: Torment, tree: Tree) {
    let mut stage = Stage::set(pair, torment);
    let bytes = tree.make(&stage.path("here"));
    let repository = stage.far(Form::Url, "repository");
    let archive = format!("{repository}::one");
    stage.good("borg", &["init", "-e", "repokey-blake2", &repository]);
    stage.good("borg", &["create", &archive, "here"]);
    stage.good("borg", &["check", &repository]);
    fs::create_dir(stage.path("out")).expect("a directory");
    let mut extract = stage.client("borg", &["extract", &archive]);
    extract.current_dir(stage.path("out"));
    stage.run(extract).good();
    assert_eq!(difference(&stage.path("here"), &stage.path("out/here")), "", "extracted");
    stage.end(&format!("borg with {} files, {} MiB", tree.files, bytes >> 20));
}

/// Appends commits to a branch, each with a file of so many bytes that are its own.
fn commits(stage: &Stage, repository: &str, numbers: std::ops::Range<u64>, size: usize) {
    let (mut stream, first) = (Vec::new(), numbers.start);
    for number in numbers {
        let head = "commit refs/heads/main\ncommitter x <x@x> 1700000000 +0000\ndata 1\nx";
        let from = if number == first && first > 0 { "from refs/heads/main^0\n" } else { "" };
        stream.extend_from_slice(format!("{head}\n{from}M 644 inline f{}\ndata {size}\n", number % 50).as_bytes());
        stream.extend_from_slice(&noise(size, 2 * number + 1));
        stream.push(b'\n');
    }
    run(stage.client("git", &["-C", repository, "fast-import", "--quiet"]), &stream).good();
}

fn git(pair: Pair, torment: Torment, count: u64, size: usize) {
    let mut stage = Stage::set(pair, torment);
    stage.local("git", &["init", "-q", "--bare", "-b", "main", "far.git"]);
    commits(&stage, "far.git", 0..count, size);
    let objects = stage.local("git", &["-C", "far.git", "rev-list", "--all", "--objects", "--count"]);
    let (url, short) = (stage.far(Form::Url, "far.git"), stage.far(Form::Short, "far.git"));
    let mut clone = stage.client("git", &["clone", "-q", &url, "near"]);
    clone.env("GIT_TRACE_PACKET", stage.path("trace"));
    let ran = stage.run(clone).good();
    only_ours(&ran);
    let trace = fs::read_to_string(stage.path("trace")).expect("a trace");
    assert!(trace.contains("clone< version 2"), "GIT_PROTOCOL travels");
    only_ours(&stage.good("git", &["clone", "-q", &short, "other"]));
    commits(&stage, "near", count..count + count / 3, size);
    only_ours(&stage.good("git", &["-C", "near", "push", "-q", "origin", "main"]));
    only_ours(&stage.good("git", &["-C", "other", "fetch", "-q"]));
    let heads = [("far.git", "main"), ("near", "main"), ("other", "origin/main")];
    let heads = heads.map(|(repository, name)| stage.local("git", &["-C", repository, "rev-parse", name]));
    assert!(heads.iter().all(|head| *head == heads[0]), "{heads:?}");
    for repository in ["far.git", "near", "other"] {
        stage.local("git", &["-C", repository, "fsck", "--full", "--strict"]);
    }
    stage.end(&format!("git with {} objects at first", objects.trim()));
}

#[test]
fn rsync_pushes_and_pulls_through_cuts_and_kills() {
    rsync(both_dial, Torment::SHORT, Tree { files: 400, small: 8 << 10, large: 3 << 20 });
}

#[test]
fn borg_inits_creates_checks_and_extracts_through_cuts_and_kills() {
    let torment = Torment { silence: (Duration::from_millis(500), Duration::from_millis(300)), ..Torment::SHORT };
    borg(both_dial, torment, Tree { files: 200, small: 8 << 10, large: 1 << 20 });
}

#[test]
fn git_clones_pushes_and_fetches_through_cuts_and_kills() {
    git(both_dial, Torment::SHORT, 500, 12 << 10);
}

#[test]
#[ignore = "a gibibyte there and back, with a minute of silence each; five minutes"]
fn rsync_of_20000_files_survives_a_minute_of_silence_and_a_kill_of_everything_every_5_s() {
    rsync(both_dial, Torment::LONG, Tree { files: 20_000, small: 28 << 10, large: 8 << 20 });
}

#[test]
#[ignore = "a gibibyte there and back, with a minute of silence each; five minutes"]
fn borg_with_a_gibibyte_survives_a_minute_of_silence_and_a_kill_of_everything_every_5_s() {
    borg(both_dial, Torment::LONG, Tree { files: 20_000, small: 28 << 10, large: 8 << 20 });
}

#[test]
#[ignore = "four minutes of silence"]
fn git_with_6000_objects_survives_minutes_of_silence_and_a_kill_of_everything_every_5_s() {
    let silence = (Duration::from_millis(600), Torment::LONG.silence.1);
    git(both_dial, Torment { rate: 6_000_000, silence, ..Torment::LONG }, 2000, 12 << 10);
}

#[test]
fn rsync_through_cuts_and_kills_between_two_of_which_one_cannot_be_dialled() {
    rsync(turned, Torment::SHORT, Tree { files: 400, small: 8 << 10, large: 3 << 20 });
}

#[test]
#[ignore = "as both dial"]
fn rsync_of_20000_files_where_one_cannot_be_dialled() {
    rsync(turned, Torment::LONG, Tree { files: 20_000, small: 28 << 10, large: 8 << 20 });
}

#[test]
#[ignore = "as both dial"]
fn borg_with_a_gibibyte_where_one_cannot_be_dialled() {
    borg(turned, Torment::LONG, Tree { files: 20_000, small: 28 << 10, large: 8 << 20 });
}

#[test]
#[ignore = "as both dial"]
fn git_with_6000_objects_where_one_cannot_be_dialled() {
    let silence = (Duration::from_millis(600), Torment::LONG.silence.1);
    git(turned, Torment { rate: 6_000_000, silence, ..Torment::LONG }, 2000, 12 << 10);
}

#[test]
fn scp_copies_both_ways_and_in_both_of_its_protocols() {
    let mut stage = Stage::set(both_dial, Torment::SHORT);
    fs::create_dir_all(stage.path("here/below")).expect("a directory");
    fs::write(stage.path("here/a letter"), noise(5 << 20, 1)).expect("a file");
    fs::write(stage.path("here/below/note"), noise(1000, 2)).expect("a file");
    let old = ["-q", "-O", "-S", PLUMB, "-rp"];
    let new = ["-q", "-S", PLUMB, "-rp"];
    only_ours(&stage.good("scp", &[&old[..], &["here", &stage.far(Form::User, "old")]].concat()));
    only_ours(&stage.good("scp", &[&new[..], &[&stage.far(Form::Short, "old"), "new"]].concat()));
    for name in ["a letter", "below/note"] {
        let bytes = |root: &str| fs::read(stage.path(root).join(name)).expect("a file");
        assert!(bytes("here") == bytes("old") && bytes("here") == bytes("new"), "{name}");
    }
    stage.end("scp");
}

#[test]
fn pipes_of_tar_and_zstd_and_of_one_that_writes_by_fits_and_starts() {
    let mut stage = Stage::set(both_dial, Torment::SHORT);
    Tree { files: 300, small: 8 << 10, large: 1 << 20 }.make(&stage.path("here"));
    for name in ["there", "back"] {
        fs::create_dir(stage.path(name)).expect("a directory");
    }
    let (plumb, there) = (PLUMB, stage.text("there"));
    let tar = "tar --format=posix -cf - -C";
    let over = format!("{tar} here . | zstd -q1 | {plumb} b 'zstd -qd | tar -xpf - -C {there}'");
    let back = format!("{plumb} b '{tar} {there} . | zstd -q1' | zstd -qd | tar -xpf - -C back");
    for pipe in [&over, &back] {
        only_ours(&stage.good("bash", &["-o", "pipefail", "-c", pipe]));
    }
    assert_eq!(difference(&stage.path("here"), &stage.path("back")), "");
    // As a dump of a database comes: lines, pauses, lines.
    let dump = "echo BEGIN; for n in $(seq 60); do seq $n 900$n | head -20000; sleep 0.02; done; echo COMMIT";
    let there = stage.text("dump.sql");
    only_ours(&stage.good("bash", &["-o", "pipefail", "-c", &format!("({dump}) | {plumb} b 'cat >{there}'")]));
    assert_eq!(stage.local("bash", &["-c", dump]), fs::read_to_string(&there).expect("the dump"));
    stage.end("tar, zstd and a dump");
}

/// A remote shell that is none: the other side is here, and nothing goes wrong.
const BARE: &str = "#!/bin/sh
for word; do [ \"$word\" = -G ] && exit 0; done
while :; do case $1 in -[opl]) shift 2 ;; -*) shift ;; *) break ;; esac; done
shift; exec sh -c \"$*\"
";

#[test]
fn clients_fail_as_they_do_with_any_remote_shell() {
    let stage = Stage::set(both_dial, Torment::NONE);
    fs::write(stage.path("bare"), BARE).expect("a script");
    fs::set_permissions(stage.path("bare"), Permissions::from_mode(0o755)).expect("its mode");
    fs::create_dir(stage.path("here")).expect("a directory");
    let (bare, nothing) = (stage.text("bare"), stage.far(Form::Short, "nothing"));
    let url = stage.far(Form::Url, "nothing");
    let trials: [(&str, &[&str], i32); 5] = [
        ("rsync", &["-a", &nothing, "back"], 23),
        // (What rsync makes of a remote shell that fails depends on which end it sees first.)
        ("borg", &["list", &url], 2),
        ("borg", &["--remote-path=exit 5;", "list", &url], 2),
        ("git", &["clone", &url, "back"], 128),
        ("scp", &["-O", &nothing, "back"], 1),
    ];
    for (program, words, status) in trials {
        let statuses = [PLUMB, &bare].map(|shell| {
            let mut command = match program {
                "scp" => stage.client("scp", &[&["-S", shell], words].concat()),
                program => stage.client(program, words),
            };
            for name in ["RSYNC_RSH", "BORG_RSH", "GIT_SSH_COMMAND"] {
                command.env(name, shell);
            }
            let ran = run(command, b"");
            (ran.status, ran.stderr)
        });
        let same = statuses.each_ref().map(|(status, _)| *status);
        assert_eq!(same, [status; 2], "{program} {words:?}: {statuses:#?}");
    }
    stage.end("failures");
}

#[test]
fn without_plumb_a_cut_is_the_end_of_an_rsync() {
    // The control: rsync's own daemon, through a link like ours and with the same cuts.
    let stage = Stage::set(both_dial, Torment::NONE);
    Tree { files: 400, small: 8 << 10, large: 3 << 20 }.make(&stage.path("here"));
    fs::create_dir(stage.path("there")).expect("a directory");
    let (address, settings) = (free_address(), stage.path("rsyncd.conf"));
    let (user, path) = (job::account::Account::ours().name, stage.text("there"));
    let text = format!("use chroot = no\nread only = no\nuid = {user}\ngid = *\n[x]\npath = {path}\n");
    fs::write(&settings, text).expect("a file");
    let (host, port) = address.rsplit_once(':').expect("an address");
    let config = format!("--config={}", settings.display());
    let words = ["--daemon", "--no-detach", &config, "--address", host, "--port", port, "--log-file=/dev/null"];
    let mut daemon = stage.client("rsync", &words).spawn().expect("rsync starts");
    let up = || std::net::TcpStream::connect(&address).is_ok();
    wait_until("rsync's daemon listens", up);
    let link = Link::open(&address, Torment::SHORT.rate).expect("a link");
    let mut rsync = stage.client("rsync", &["-a", "here/", &format!("rsync://{}/x/", link.address)]);
    let mut rsync = rsync.spawn().expect("rsync starts");
    wait_until("some has passed", || link.bytes() > 300_000);
    let cut = link.cut();
    let status = rsync.wait().expect("it is ours");
    let _ = daemon.kill();
    let _ = daemon.wait();
    assert!(cut > 0 && !status.success(), "{cut} cut, {status}");
    assert_ne!(difference(&stage.path("here"), &stage.path("there")), "");
}

/// How somebody ends a client in the middle.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// KILL for the client alone.
    Client,
    /// INT for all that a terminal would send it to.
    Interrupt,
    /// KILL for the client and `plumb`.
    Both,
}

/// Runs a client, and ends it when something has come over. What it had called
/// ends too, as soon as the other side can hear of it. Says what stays locked.
fn strike(stage: &Stage, program: &str, words: &[&str], blow: Blow, in_silence: bool) {
    let mut command = stage.client(program, words);
    command.current_dir(stage.path(if words[0] == "push" { "near" } else { "" }));
    let mut child = command.process_group(0).stdin(Stdio::null()).spawn().expect("the client starts");
    let some = stage.passed() + 300_000;
    wait_until("the client is at work", || stage.passed() > some);
    // It cannot end while it is looked at.
    stage.links.iter().for_each(|link| link.swallow(true));
    assert!(!stage.left_running().is_empty(), "a client at work is seen");
    stage.links.iter().for_each(|link| link.swallow(in_silence));
    let pid = Pid::from_raw(child.id() as i32).expect("a pid");
    let struck = match blow {
        Blow::Client => kill_process(pid, Signal::KILL),
        Blow::Interrupt => kill_process_group(pid, Signal::INT),
        Blow::Both => kill_process_group(pid, Signal::KILL),
    };
    struck.expect("it is there");
    let status = child.wait().expect("it is ours");
    std::thread::sleep(Duration::from_millis(if in_silence { 1000 } else { 0 }));
    stage.links.iter().for_each(|link| link.swallow(false));
    let back = Instant::now();
    wait_until_empty(|| stage.left_running());
    let after = back.elapsed().as_secs_f64();
    let program = format!("{program} {}", words.join(" "));
    println!("{program}: {blow:?}, {status}; nothing runs {after:.2} s later; locks: {:?}", stage.locks());
}

/// Slow enough for a client to be caught at work.
const SLOW: Torment = Torment { rate: 1_000_000, ..Torment::NONE };

#[test]
fn a_killed_rsync_leaves_nothing() {
    let mut stage = Stage::set(both_dial, SLOW);
    Tree { files: 220, small: 1 << 10, large: 1 << 20 }.make(&stage.path("here"));
    let there = stage.far(Form::Short, "there");
    let [push, pull] = [["-a", "--delete", "here/", &there], ["-a", "--delete", &format!("{there}/"), "back"]];
    // A receiver that was killed leaves an unfinished file, which --delete removes.
    for (words, blows) in [
        (&push, [(Blow::Interrupt, true), (Blow::Both, false)]),
        (&pull, [(Blow::Client, true), (Blow::Interrupt, false)]),
    ] {
        for (blow, silence) in blows {
            let _ = fs::remove_dir_all(stage.path(if words == &push { "there" } else { "back" }));
            strike(&stage, "rsync", words, blow, silence);
        }
        stage.good("rsync", words);
    }
    assert_eq!(difference(&stage.path("here"), &stage.path("back")), "");
    stage.end("rsync, killed");
}

#[test]
fn a_killed_borg_leaves_nothing_that_a_hand_must_remove() {
    let mut stage = Stage::set(both_dial, SLOW);
    Tree { files: 220, small: 1 << 10, large: 1 << 20 }.make(&stage.path("here"));
    let repository = stage.far(Form::Url, "repository");
    stage.good("borg", &["init", "-e", "none", &repository]);
    let blows = [(Blow::Interrupt, false), (Blow::Both, true)];
    for (nth, (blow, silence)) in blows.into_iter().enumerate() {
        // What came over once would not come again.
        fs::write(stage.path("here/more"), noise(1 << 20, 0xb0 + 2 * nth as u64)).expect("a file");
        // What a killed borg had locked, the next one on that machine sees to be nobody's.
        let create = ["--lock-wait", "10", "create", &format!("{repository}::{nth}"), "here"];
        strike(&stage, "borg", &create, blow, silence);
    }
    stage.good("borg", &["--lock-wait", "10", "create", &format!("{repository}::whole"), "here"]);
    stage.good("borg", &["check", &repository]);
    stage.end("borg, killed");
}

#[test]
fn a_killed_git_leaves_nothing_that_a_hand_must_remove() {
    let mut stage = Stage::set(both_dial, SLOW);
    stage.local("git", &["init", "-q", "--bare", "-b", "main", "far.git"]);
    commits(&stage, "far.git", 0..100, 12 << 10);
    let far = stage.far(Form::Url, "far.git");
    strike(&stage, "git", &["clone", "-q", &far, "near"], Blow::Both, true);
    let _ = fs::remove_dir_all(stage.path("near"));
    stage.good("git", &["clone", "-q", &far, "near"]);
    let push = ["push", "-q", "origin", "main"];
    for (blow, silence) in [(Blow::Client, true), (Blow::Interrupt, false)] {
        // git alone killed, its other half may still complete what it was told.
        let known = stage.local("git", &["-C", "near", "rev-list", "--count", "main"]);
        let known: u64 = known.trim().parse().expect("a number");
        commits(&stage, "near", known..known + 80, 12 << 10);
        strike(&stage, "git", &push, blow, silence);
    }
    stage.good("git", &[&["-C", "near"], &push[..]].concat());
    stage.local("git", &["-C", "far.git", "fsck", "--full", "--strict"]);
    stage.end("git, killed");
}
