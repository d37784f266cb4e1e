//! The command lines that real clients were seen to write, and the ones that must fail.

use crate::args::{Line, Request, Wrong, parse};
use std::ffi::OsString;

fn read(words: &[&str]) -> Result<Line, Wrong> {
    let environment = |name: &str| match name {
        "GIT_PROTOCOL" => Some(OsString::from("version=2")),
        "EMPTY" => Some(OsString::new()),
        _ => None,
    };
    parse(words.iter().map(OsString::from).collect(), &environment)
}

fn run(words: &[&str]) -> Request {
    match read(words) {
        Ok(Line::Run(request)) => request,
        other => panic!("{words:?}: {other:?}"),
    }
}

/// Host, user and the command joined as the peer joins it.
fn asked(words: &[&str]) -> (String, String, String) {
    let request = run(words);
    let command = String::from_utf8(request.words.join(&b' ')).unwrap();
    (request.host, request.user, command)
}

fn wrong(words: &[&str]) -> String {
    read(words).expect_err(&format!("{words:?}")).what
}

#[test]
fn what_rsync_borg_restic_and_git_write_is_understood() {
    type Measured = (&'static [&'static str], (&'static str, &'static str, &'static str));
    let measured: &[Measured] = &[
        (
            &["-l", "bob", "peer", "rsync", "--server", "-logDtpre.iLsfxCIvu", ".", "/tmp/x/"],
            ("peer", "bob", "rsync --server -logDtpre.iLsfxCIvu . /tmp/x/"),
        ),
        (
            &["peer", "rsync", "--server", "--sender", "-logDtpre.iLsfxCIvu", ".", "/tmp/a\\ b"],
            ("peer", "", "rsync --server --sender -logDtpre.iLsfxCIvu . /tmp/a\\ b"),
        ),
        (&["-p", "2222", "bob@peer", "borg", "serve"], ("peer", "bob", "borg serve")),
        (
            &["-p", "2222", "bob@host", "borg", "serve", "--rest", "--backend", "FILE:/x"],
            ("host", "bob", "borg serve --rest --backend FILE:/x"),
        ),
        (
            &["-o", "SendEnv=GIT_PROTOCOL", "-p", "22", "bob@peer", "git-upload-pack '/srv/x.git'"],
            ("peer", "bob", "git-upload-pack '/srv/x.git'"),
        ),
        (&["bob@peer", "git-upload-pack 'x.git'"], ("peer", "bob", "git-upload-pack 'x.git'")),
        (
            &["bob@peer", "serve", "restic", "--stdio", "--b2-hard-delete", "x"],
            ("peer", "bob", "serve restic --stdio --b2-hard-delete x"),
        ),
    ];
    for (words, (host, user, command)) in measured {
        assert_eq!(asked(words), (host.to_string(), user.to_string(), command.to_string()));
    }
}

#[test]
fn what_scp_writes_is_understood_in_both_of_its_protocols() {
    let common = [
        "-x",
        "-oPermitLocalCommand=no",
        "-oClearAllForwardings=yes",
        "-oRemoteCommand=none",
        "-oRequestTTY=no",
        "-oForwardAgent=no",
        "-l",
        "bob",
    ];
    let old: Vec<&str> = common.iter().copied().chain(["--", "peer", "scp -t /tmp/x"]).collect();
    assert_eq!(asked(&old), ("peer".into(), "bob".into(), "scp -t /tmp/x".into()));
    let new: Vec<&str> = common.iter().copied().chain(["-s", "--", "peer", "sftp"]).collect();
    let (host, user, command) = asked(&new);
    assert_eq!((host.as_str(), user.as_str()), ("peer", "bob"));
    assert!(command.starts_with("sh -c '") && command.ends_with("exec sftp-server'"), "{command}");
    assert_eq!(wrong(&["-s", "peer", "netconf"]), "-s: sftp is the only subsystem");
}

#[test]
fn git_is_answered_what_it_asks_first() {
    let Ok(Line::Config(request)) = read(&["-G", "-o", "SendEnv=GIT_PROTOCOL", "-p", "2222", "bob@peer"]) else {
        panic!("not -G");
    };
    assert_eq!((request.host.as_str(), request.user.as_str()), ("peer", "bob"));
    assert_eq!(request.port.as_deref(), Some("2222"));
}

#[test]
fn an_option_may_stand_on_both_sides_of_the_host_and_nowhere_after_the_command() {
    for words in [
        &["-l", "bob", "-q", "nas", "ls", "-l"][..],
        &["nas", "-l", "bob", "-q", "ls", "-l"],
        &["-q", "nas", "-lbob", "ls", "-l"],
        &["-q", "nas", "-user=bob", "ls", "-l"],
        &["-q", "nas", "--user=bob", "ls", "-l"],
        &["-q", "nas", "-user", "bob", "--", "ls", "-l"],
        &["-q", "-l=bob", "--", "nas", "ls", "-l"],
    ] {
        assert_eq!(asked(words), ("nas".into(), "bob".into(), "ls -l".into()), "{words:?}");
        assert!(run(words).quiet);
    }
    assert_eq!(asked(&["--", "nas", "-x"]).2, "-x");
    assert_eq!(asked(&["nas", "--", "--", "x"]).2, "-- x");
    assert_eq!(asked(&["nas", "-", "x"]).2, "- x");
    assert_eq!(run(&["nas", "printf", "%s", ""]).words, [&b"printf"[..], b"%s", b""]);
}

#[test]
fn what_is_not_needed_is_taken_and_noted() {
    let request = run(&["-p", "22", "-T", "-x", "-4", "-6", "-e", "none", "-o", "K=V", "-oK2=V", "nas", "true"]);
    assert_eq!(request.ignored, ["-p 22", "-T", "-x", "-4", "-6", "-e none", "-o K=V", "-o K2=V"]);
    assert_eq!(run(&["-p22", "nas", "true"]).port.as_deref(), Some("22"));
    assert!(run(&["-vvv", "-n", "nas", "true"]).no_input);
}

#[test]
fn variables_travel_by_either_way_of_asking() {
    let git = ("GIT_PROTOCOL".to_string(), b"version=2".to_vec());
    let empty = ("EMPTY".to_string(), Vec::new());
    assert_eq!(run(&["-export=GIT_PROTOCOL,EMPTY", "nas", "env"]).env, [git.clone(), empty.clone()]);
    assert_eq!(run(&["-o", "SendEnv=EMPTY UNSET GIT_PROTOCOL", "nas", "env"]).env, [empty, git.clone()]);
    assert_eq!(run(&["-oSendEnv GIT_PROTOCOL", "-export=GIT_PROTOCOL", "nas", "env"]).env, [git]);
    assert_eq!(wrong(&["-export=GIT_PROTOCOL,UNSET", "nas", "env"]), "-export: UNSET is not set");
    assert_eq!(wrong(&["-export=", "nas", "env"]), "-export: \"\" is not the name of a variable");
}

#[test]
fn two_names_for_the_user_are_an_error_and_one_name_twice_is_not() {
    assert_eq!(asked(&["-l", "bob", "bob@nas", "-user=bob", "true"]).1, "bob");
    assert_eq!(wrong(&["-l", "bob", "eve@nas", "true"]), "two remote users, \"bob\" and \"eve\"");
    assert_eq!(wrong(&["bob@nas", "-o", "User=eve", "true"]), "two remote users, \"bob\" and \"eve\"");
    assert_eq!(wrong(&["@nas", "true"]), "an empty user name");
}

#[test]
fn what_is_not_built_is_named_and_never_left_out() {
    for option in ["recipe=x", "infifo=x", "outfifo=x", "socket=x", "t"] {
        let name = option.split('=').next().unwrap();
        assert_eq!(wrong(&[&format!("-{option}"), "nas", "true"]), format!("-{name} is not built yet"));
        assert_eq!(wrong(&["nas", &format!("--{option}"), "true"]), format!("-{name} is not built yet"));
    }
}

#[test]
fn what_may_be_run_again_starts_with_its_whole_input() {
    let kind = |words: &[&str]| (run(words).batch, run(words).repeat);
    assert_eq!(kind(&["nas", "true"]), (false, false));
    assert_eq!(kind(&["-batch", "nas", "true"]), (true, false));
    assert_eq!(kind(&["-repeat", "nas", "--batch", "true"]), (true, true));
    assert_eq!(kind(&["-batch", "nas", "cmd", "-repeat"]), (true, false));
    assert!(wrong(&["-repeat", "nas", "true"]).starts_with("-repeat goes with -batch only"));
}

#[test]
fn a_wrong_line_says_which_word_is_wrong() {
    assert_eq!(wrong(&[]), "no HOST; see plumb -h");
    assert_eq!(wrong(&["nas"]), "no COMMAND for nas; there is no interactive shell");
    assert_eq!(wrong(&["nas", ""]), "no COMMAND for nas; there is no interactive shell");
    assert_eq!(wrong(&["-Z", "nas", "true"]), "unknown option -Z; see plumb -h");
    assert!(wrong(&["-n", "-from=true", "nas", "cat"]).starts_with("-n and -from: "));
    assert_eq!(wrong(&["-from=", "nas", "cat"]), "-from: no command");
    assert_eq!(wrong(&["--oK=V", "nas", "true"]), "unknown option --oK=V; see plumb -h");
    assert_eq!(wrong(&["nas", "-p"]), "-p wants a value");
    assert_eq!(wrong(&["-q=yes", "nas", "true"]), "-q takes no value");
    assert_eq!(wrong(&["-e", "~", "nas", "true"]), "-e: only \"none\", there are no escape characters");
    assert_eq!(wrong(&["-status-fd=1", "nas", "true"]), "-status-fd: 0 and 1 belong to the command");
    assert_eq!(read(&["-status-fd=3", "nas"]).unwrap_err().status_fd, Some(3));
    assert_eq!(read(&["-h"]), Ok(Line::Help));
    assert_eq!(read(&["nas", "--version"]), Ok(Line::Version));
}
