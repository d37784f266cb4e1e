//! Real callers of rsh's grammar, with a peer that really runs what they ask for.

use crate::fake::Here;
use crate::noise;

/// Runs a real client of rsh's grammar; `None` if this machine has none.
fn client(here: &Here, program: &str, words: &[&str]) -> Option<()> {
    let found = std::process::Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
    if !found.status.success() {
        eprintln!("no {program} here, so it was not tried");
        return None;
    }
    let mut command = std::process::Command::new(program);
    let output = here.serve(command.args(words));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

#[test]
fn git_clones_and_pushes_through_it() {
    let (here, work) = (Here::new(), tempfile::tempdir().unwrap());
    let (far, near) = (work.path().join("far.git"), work.path().join("near"));
    let (far, near) = (far.to_str().unwrap(), near.to_str().unwrap());
    if client(&here, "git", &["init", "-q", "--bare", "-b", "main", far]).is_none() {
        return;
    }
    client(&here, "git", &["clone", "-q", &format!("ssh://bob@nas:2222{far}"), near]);
    std::fs::write(work.path().join("near/file"), noise(3 << 20)).unwrap();
    let in_near = ["-C", near, "-c", "user.name=x", "-c", "user.email=x@x"];
    let git = |words: &[&str]| client(&here, "git", &[&in_near, words].concat());
    git(&["checkout", "-q", "-B", "main"]);
    git(&["add", "file"]);
    git(&["commit", "-q", "-m", "x"]);
    git(&["push", "-q", "origin", "main"]);
    let again = work.path().join("again");
    client(&here, "git", &["clone", "-q", &format!("nas:{far}"), again.to_str().unwrap()]);
    assert!(std::fs::read(again.join("file")).unwrap() == noise(3 << 20));
}

#[test]
fn rsync_and_scp_copy_through_it() {
    let (here, work) = (Here::new(), tempfile::tempdir().unwrap());
    let from = work.path().join("from file");
    std::fs::write(&from, noise(3 << 20)).unwrap();
    let from = from.to_str().unwrap();
    let plumb = env!("CARGO_BIN_EXE_plumb");
    for (program, before) in [("scp", &["-q", "-O", "-S", plumb][..]), ("rsync", &["-a"])] {
        let to = work.path().join(program);
        let target = format!("bob@nas:{}", to.display());
        let words = [before, &[from, &target]].concat();
        if client(&here, program, &words).is_some() {
            assert!(std::fs::read(&to).unwrap() == noise(3 << 20));
        }
    }
}
