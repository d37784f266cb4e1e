//! Configuration that cannot be read for a moment: somebody edits it, or its directory is away.
//! Jobs wait and go on; no peer is forgotten, and no file counts as missing.

use crate::harm::{Job, carries, verb};
use crate::homes::{NETPLUMB, PLUMB, Peer, pair, pair_up, run, wait_until};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than the service, which reads peers every second, needs to see a change.
const SEEN: Duration = Duration::from_millis(2500);

/// The ways in which what is said of a peer cannot be read.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// Half of a line of `peer.toml` is written.
    Half,
    /// `peer.toml` is an unreadable file.
    Directory,
    /// `username` cannot be read.
    Name,
    /// `peers/` cannot be read.
    All,
}

const EDITS: [Edit; 4] = [Edit::Half, Edit::Directory, Edit::Name, Edit::All];

impl Edit {
    /// The path that changes.
    fn path(self, of: &Peer, peer: &Peer) -> PathBuf {
        let peers = of.home.join("config/peers");
        match self {
            Edit::Half | Edit::Directory => peers.join(peer.name).join("peer.toml"),
            Edit::Name => peers.join(peer.name).join("username"),
            Edit::All => peers,
        }
    }

    /// Makes it unreadable in one step; gives where the good one lies meanwhile.
    fn begin(self, path: &Path) -> PathBuf {
        let aside = path.with_file_name("aside");
        match self {
            Edit::Half => std::fs::write(&aside, "address = [\"127.0.0.1:1\"]\nshell = tr").expect("a file"),
            Edit::Directory => std::fs::create_dir(&aside).expect("a directory"),
            // A link to itself cannot be followed, whoever asks.
            Edit::Name | Edit::All => std::os::unix::fs::symlink(path, &aside).expect("a link"),
        }
        swap(path, &aside);
        aside
    }

    fn end(self, path: &Path, aside: &Path) {
        swap(path, aside);
        match self {
            Edit::Directory => std::fs::remove_dir(aside),
            Edit::Half | Edit::Name | Edit::All => std::fs::remove_file(aside),
        }
        .expect("it goes");
    }
}

/// Lets two paths change places in one step.
fn swap(one: &Path, other: &Path) {
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, exchange).expect("they change places");
}

/// Such a job was refused for good (77), or ended as one of a stranger.
#[test]
fn a_job_that_arrives_while_its_peer_cannot_be_read_waits_and_runs() {
    let (a, b) = pair_up();
    carries(&a, &b, "control");
    for edit in EDITS {
        let path = edit.path(&b, &a);
        let known = b.ids("jobs");
        let aside = edit.begin(&path);
        let job = Job::start(&a, &b, &["-n"], &format!("echo {edit:?}"));
        wait_until("it is delivered", || b.ids("jobs").iter().any(|id| !known.contains(id)));
        wait_until("a keeper has seen it", || !b.children("keeper").is_empty());
        std::thread::sleep(SEEN);
        edit.end(&path, &aside);
        job.end().well(&format!("{edit:?}\n"));
    }
}

/// The service forgot the peer, and cut its job off; the loop said that it knows no such peer.
#[test]
fn a_job_that_runs_goes_on_while_its_peer_cannot_be_read() {
    let (a, b) = pair_up();
    for edit in EDITS {
        let mut job = Job::start_running(&a, &b, &[]);
        for (of, peer) in [(&b, &a), (&a, &b)] {
            let path = edit.path(of, peer);
            let aside = edit.begin(&path);
            std::thread::sleep(SEEN);
            let log = a.spool(&format!("jobs/{}/in/2/0", job.id));
            let before = crate::harm::size(&log);
            job.write(&format!("{edit:?} "));
            wait_until("its words come back", || crate::harm::size(&log) > before);
            edit.end(&path, &aside);
        }
        job.end().well(&format!("first {edit:?} {edit:?} "));
    }
}

/// The programs said that there is no identity, and how to make one.
#[test]
fn configuration_that_cannot_be_read_is_named_and_not_missing() {
    let (a, _b) = pair();
    for name in ["certs/username", "private/spool.key", "netplumb.toml", "spool.id", "peers/b/username"] {
        let path = a.home.join("config").join(name);
        let aside = Edit::Name.begin(&path);
        let mut plumb = a.command(PLUMB);
        plumb.args(["-detach", "-n", "b", "true"]);
        let mut daemon = a.command(NETPLUMB);
        daemon.arg("daemon");
        let is_of_a_peer = name.starts_with("peers/");
        for command in [Some(plumb), Some(daemon).filter(|_| !is_of_a_peer)].into_iter().flatten() {
            let said = run(command, b"");
            let words = said.stderr.clone();
            assert!(said.status != 0 && words.contains(&path.display().to_string()), "{name}: {words}");
            assert!(!words.contains("no identity") && !words.contains("keygen"), "{name}: {words}");
        }
        let (_, checked) = verb(&a, &["check"]);
        assert!(checked.contains("bad") && checked.contains(path.file_name().unwrap().to_str().unwrap()), "{checked}");
        assert!(!checked.contains("there is none in"), "{name}: {checked}");
        Edit::Name.end(&path, &aside);
    }
    assert!(a.ids("queue").is_empty(), "nothing was queued");
}
