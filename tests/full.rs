//! A file system that somebody else fills up: everything waits, says so, loses
//! nothing, and goes on by itself. On a small one of our own, so it needs root.

use crate::homes::{PLUMB, Peer, noise, wait_until};
use crate::image::{Image, Kind};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// Something else takes every byte that is left.
fn fill(image: &Image) -> Filler {
    let path = image.point().join("something-else");
    let mut file = std::fs::File::create(&path).expect("a file");
    // In one piece as far as possible: it need not be written.
    let stat = rustix::fs::statvfs(&path).expect("a file system");
    let most = (stat.f_bavail * stat.f_frsize).saturating_sub(MIB as u64);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, most).expect("room");
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(most)).expect("a file");
    for size in [64 << 10, 4096, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
    Filler { path }
}

/// What fills a file system, until it is dropped.
struct Filler {
    path: PathBuf,
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Which side's disk is full.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Sender,
    Receiver,
}

fn pair_on(mount: &Path, side: Side) -> (Peer, Peer) {
    let on = |this| (side == this).then_some(mount);
    let (mut a, mut b) = (Peer::new("a", on(Side::Sender)), Peer::new("b", on(Side::Receiver)));
    a.knows(&b, &b.address);
    b.knows(&a, &a.address);
    a.up();
    b.up();
    (a, b)
}

fn start(a: &Peer, text: &str) -> (Child, ChildStdin) {
    let mut command = a.command(PLUMB);
    command.args(["b", text]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("plumb starts");
    let stdin = child.stdin.take().expect("a pipe");
    (child, stdin)
}

/// Input and output of a running job stand still on a full disk, and go on.
fn a_running_job_waits(side: Side) {
    let Some(image) = Image::new(Kind::Ext4, 512) else { return };
    let (a, b) = pair_on(&image.point(), side);
    let full = if side == Side::Sender { &a } else { &b };
    // What is waited for until a first job runs is not what this is about.
    a.plumb(&["b", "true"], b"").good();
    wait_until("it is forgotten", || a.ids("jobs").is_empty());
    let (mut child, mut stdin) = start(&a, "echo ready; cat");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).expect("it runs");
    let filler = fill(&image);
    let input = noise(96 * MIB, 5);
    let sent = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).expect("plumb reads on"));
    let reader = std::thread::spawn(move || {
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).expect("a pipe");
        output
    });
    let id = a.ids("jobs").remove(0);
    let why = || full.netplumb(&["why", &id]).good().text();
    wait_until("why says it", || why().contains("disk_full"));
    assert!(full.netplumb(&["jobs"]).good().text().contains("disk_full"));
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    if side == Side::Sender {
        stderr.read_line(&mut said).expect("a pipe");
        assert!(said.contains("the disk is full"), "{said}");
    }
    std::thread::sleep(Duration::from_secs(3));
    assert!(!writer.is_finished() && !reader.is_finished(), "control: it waits");
    assert!(child.try_wait().expect("a child").is_none());
    drop(filler);
    let freed = Instant::now();
    writer.join().expect("all is taken");
    let output = reader.join().expect("all came");
    assert!(output == input, "{} of {} bytes", output.len(), input.len());
    println!("done {:.1} s after there was room", freed.elapsed().as_secs_f64());
    let ended = child.wait().expect("it ends");
    stderr.read_to_string(&mut said).expect("a pipe");
    assert_eq!(ended.code(), Some(0), "{said}");
    assert_eq!(said.contains("the disk is full"), side == Side::Sender, "{said}");
    assert!(!full.spool("sick").exists());
    wait_until("it is forgotten", || a.ids("jobs").is_empty() && a.ids("queue").is_empty());
}

#[test]
fn a_job_whose_senders_disk_is_full_waits_and_goes_on() {
    a_running_job_waits(Side::Sender);
}

#[test]
fn a_job_whose_receivers_disk_is_full_waits_and_goes_on() {
    a_running_job_waits(Side::Receiver);
}

/// A command ends while no mark can be put down: its status comes when there is room.
fn an_end_waits(side: Side) {
    let Some(image) = Image::new(Kind::Ext4, 512) else { return };
    let (a, b) = pair_on(&image.point(), side);
    let go = b.home.parent().expect("a directory").join("go");
    let (mut child, stdin) =
        start(&a, &format!("echo ready; while ! test -e {}; do sleep 0.1; done; exit 7", go.display()));
    let mut ready = [0; 6];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut ready).expect("it runs");
    // The name alone takes no room that the filler leaves.
    std::fs::create_dir(go.with_extension("d")).expect("a directory");
    let filler = fill(&image);
    std::fs::rename(go.with_extension("d"), &go).expect("a name");
    drop(stdin);
    std::thread::sleep(Duration::from_secs(3));
    let ended_early = child.try_wait().expect("a child").is_some();
    assert!(side == Side::Sender || !ended_early, "control: nothing could be said");
    drop(filler);
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(7), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(![&a, &b].iter().any(|peer| peer.spool("sick").exists()));
}

#[test]
fn an_exit_status_outlasts_a_full_disk_at_the_receiver() {
    an_end_waits(Side::Receiver);
}

#[test]
fn an_exit_status_outlasts_a_full_disk_at_the_sender() {
    an_end_waits(Side::Sender);
}

/// A job that is begun on a full disk, ours or theirs, begins when there is room.
fn a_new_job_waits(side: Side) {
    let Some(image) = Image::new(Kind::Ext4, 512) else { return };
    let (a, _b) = pair_on(&image.point(), side);
    a.plumb(&["b", "true"], b"").good();
    let filler = fill(&image);
    let (mut child, stdin) = start(&a, "echo done");
    drop(stdin);
    std::thread::sleep(Duration::from_secs(3));
    assert!(child.try_wait().expect("a child").is_none(), "control: it waits");
    drop(filler);
    let freed = Instant::now();
    let output = child.wait_with_output().expect("it ends");
    println!("done {:.1} s after there was room", freed.elapsed().as_secs_f64());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_new_job_begins_when_the_senders_disk_has_room() {
    a_new_job_waits(Side::Sender);
}

#[test]
fn a_new_job_begins_when_the_receivers_disk_has_room() {
    a_new_job_waits(Side::Receiver);
}
