//! Jobs that are held open while something happens to their files, and the ways to harm a file.

use crate::homes::{NETPLUMB, PLUMB, Peer, kill_9, read_up_to, wait_for, wait_until};
use crate::patience::PATIENCE;
use spool::atomic::Disk;
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::SystemTime;

/// A `plumb` whose input stays open.
pub struct Job {
    /// The job's id.
    pub id: String,
    plumb: Child,
    stdin: Option<ChildStdin>,
}

/// How a `plumb` ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; none if it was killed, as it is when it does not end.
    pub status: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Job {
    /// Starts it; waits until it has made its job.
    pub fn start(from: &Peer, to: &Peer, options: &[&str], command: &str) -> Job {
        let before = from.ids("jobs");
        let mut plumb = from.command(PLUMB);
        plumb.args(options).args([to.name, command]);
        plumb.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut plumb = plumb.spawn().expect("plumb starts");
        let stdin = plumb.stdin.take();
        let made = || from.ids("jobs").into_iter().find(|id| !before.contains(id));
        let id = wait_for("its job", made);
        Job { id, plumb, stdin }
    }

    /// Starts it, and waits until its command runs and its first words are back here.
    pub fn start_running(from: &Peer, to: &Peer, options: &[&str]) -> Job {
        let mut job = Job::start(from, to, options, "cat");
        job.write("first ");
        wait_until("its first words are back", || size(&from.spool(&format!("jobs/{}/in/2/0", job.id))) > 100);
        wait_until("its message is confirmed", || from.ids("queue").is_empty());
        job
    }

    /// Writes to its input, if it still reads.
    pub fn write(&mut self, text: &str) {
        let _ = self.stdin.as_mut().expect("it is open").write_all(text.as_bytes());
    }

    /// Ends its input and waits for its end.
    pub fn end(mut self) -> Ended {
        drop(self.stdin.take());
        ended(self.plumb)
    }

    /// Waits for its end while its input stays open.
    pub fn ends_by_itself(mut self) -> Ended {
        let stdin = self.stdin.take();
        let ended = ended(self.plumb);
        drop(stdin);
        ended
    }

    /// Kills it.
    pub fn kill(mut self) {
        let _ = self.plumb.kill();
        let _ = self.plumb.wait();
    }
}

/// Waits for the end of a program; kills it if that does not come.
pub fn ended(mut plumb: Child) -> Ended {
    let (over, late) = channel::<()>();
    let pid = plumb.id();
    let watchdog = std::thread::spawn(move || {
        if late.recv_timeout(2 * PATIENCE) == Err(RecvTimeoutError::Timeout) {
            kill_9(pid);
        }
    });
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let err = plumb.stderr.take().expect("a pipe");
    let err = std::thread::spawn(move || read_up_to(err, 1 << 20));
    let out = text(read_up_to(plumb.stdout.take().expect("a pipe"), 64 << 20));
    let err = text(err.join().expect("it ends"));
    drop(over);
    watchdog.join().expect("it ends");
    Ended { status: plumb.wait().expect("it ends").code(), out, err }
}

impl Ended {
    /// It must have ended as its command did, with this output.
    pub fn well(&self, out: &str) {
        assert_eq!((self.status, self.out.as_str()), (Some(0), out), "{}", self.err);
    }

    /// It must have ended for this reason, with its status.
    pub fn says(&self, status: u8, reason: &str) {
        let last = format!("plumb: origin=transport status={status} reason={reason}");
        assert_eq!((self.status, self.err.lines().last()), (Some(255), Some(last.as_str())), "{}", self.err);
    }
}

/// Leaves a job; gives its id.
pub fn leave(from: &Peer, to: &Peer, command: &str) -> String {
    let ran = from.plumb(&["-detach", "-n", to.name, command], b"").good();
    ran.text().trim_end().to_string()
}

/// Takes up a job again.
pub fn attach(from: &Peer, id: &str) -> Ended {
    let mut plumb = from.command(PLUMB);
    plumb.args([&format!("-attach={id}"), "-n"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(plumb.spawn().expect("plumb starts"))
}

/// Starts a job that says `word`, and checks that it comes.
pub fn carries(from: &Peer, to: &Peer, word: &str) {
    Job::start(from, to, &["-n"], &format!("echo {word}")).end().well(&format!("{word}\n"));
}

/// Runs a verb of `netplumb`, which must answer; gives its status and what it said on both outputs.
pub fn verb(peer: &Peer, words: &[&str]) -> (Option<i32>, String) {
    let mut command = peer.command(NETPLUMB);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ended { status, out, err } = ended(command.spawn().expect("netplumb starts"));
    assert!(status.is_some(), "netplumb {words:?} does not answer: {out}{err}");
    assert!(!err.contains("panicked"), "{err}");
    (status, out + &err)
}

/// All verbs that look must answer.
pub fn all_verbs_answer(peer: &Peer, id: &str) {
    for words in [&["jobs", "--all"][..], &["queue"], &["check"], &["why", id], &["show", id]] {
        verb(peer, words);
    }
}

/// Has the daemon look at a directory.
pub fn touch(directory: &Path) {
    let now = std::fs::FileTimes::new().set_modified(SystemTime::now());
    let _ = std::fs::File::open(directory).and_then(|directory| directory.set_times(now));
}

/// Has the daemon look at everything of a job, on this side.
pub fn touch_job(peer: &Peer, id: &str) {
    ["queue", "rqueue", "jobs"].iter().for_each(|place| touch(&peer.spool(&format!("{place}/{id}"))));
}

/// The size of a file; 0 if it is not there.
pub fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The lines of a file.
pub fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// Changes one bit in the middle of a file, in its place.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(path, &bytes);
}

/// Gives a file this content, in its place.
pub fn overwrite(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).expect("a file");
    file.write_all_at(bytes, 0).expect("it is written");
    file.set_len(bytes.len() as u64).expect("it is cut");
}

/// Removes everything in a directory in which others still make files.
pub fn empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        wait_until("it goes", || {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            std::fs::symlink_metadata(&path).is_err()
        });
    }
}

/// Something that is no file of ours.
#[derive(Clone, Copy, Debug)]
pub enum Odd {
    /// A directory with a file in it.
    Directory,
    /// A FIFO that nobody writes to.
    Fifo,
    /// A symbolic link to a file that says nothing.
    Link,
    /// A symbolic link to nothing.
    Dangling,
    /// A regular file.
    File,
}

impl Odd {
    /// Puts it in the place of whatever has this name, as one step where that can be.
    pub fn takes(self, path: &Path) {
        let name = path.file_name().expect("a name").to_string_lossy();
        let made = path.with_file_name(format!(".{name}.made"));
        match self {
            Odd::Directory => {
                std::fs::create_dir(&made).expect("a directory");
                std::fs::write(made.join("x"), "x").expect("a file");
            }
            Odd::Fifo => {
                let fifo = Command::new("mkfifo").arg(&made).status();
                assert!(fifo.is_ok_and(|fifo| fifo.success()));
            }
            Odd::Link => std::os::unix::fs::symlink("/dev/null", &made).expect("a link"),
            Odd::Dangling => std::os::unix::fs::symlink("/nowhere", &made).expect("a link"),
            Odd::File => std::fs::write(&made, "x\n").expect("a file"),
        }
        if path.is_dir() || matches!(self, Odd::Directory) {
            wait_until("the old one goes", || {
                let _ = std::fs::remove_dir_all(path);
                let _ = std::fs::remove_file(path);
                std::fs::rename(&made, path).is_ok()
            });
            return;
        }
        std::fs::rename(&made, path).expect("it takes the place");
    }
}

/// What lies in a peer's `odd/`.
pub fn moved_aside(peer: &Peer) -> Vec<String> {
    if peer.spool("odd").is_dir() { peer.ids("odd") } else { Vec::new() }
}

/// Leaves an offset as a hint, whole and with its checksum.
pub fn hint(peer: &Peer, path: &str, offset: u64) {
    let disk = Disk::open(&peer.spool("")).expect("a spool");
    spool::log::hint(&disk, path, offset).expect("a hint");
}
