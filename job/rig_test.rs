//! A delivered job on a disk of its own, and its sender on another: the test
//! carries the bytes between them as the loop would.

use crate::limp::Limp;
use crate::patience::PATIENCE;
use job::account::Account;
use job::gluepot::Known;
use job::keeper::Site;
use job::message::{self, Start};
use spool::atomic::Disk;
use spool::control::{Control, Heard, Listener, Speaker};
use spool::crypto::{Key, SpoolKey};
use spool::facts::Facts;
use spool::fs::Fs;
use spool::home::Policy;
use spool::layout::{DIRECTORIES, MESSAGE, Owner, PEER, Place, log_in, log_out, make_dirs, rest_label};
use spool::log::{Copy, Item, Reader, Writer, hint};
use spool::look::Ages;
use spool::name::{Chan, Digest, MsgId, Role, Username};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::{EndKind, JobKeys, Stream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn spool_key() -> SpoolKey {
    SpoolKey(Key([1; 32]))
}

fn sender() -> Username {
    Username::of_ca(b"sender")
}

pub fn ours() -> Username {
    Username::of_ca(b"ours")
}

/// The site at a root; `refuse` exists there if its gluepot is empty.
pub fn site(root: &Path, changes: i64) -> Site {
    Site {
        fs: Arc::new(Limp::open(root, changes)),
        spool_key: spool_key(),
        ours: ours(),
        ages: Ages { idle_max: 1000, tombstone: 1000 },
        user: "somebody".into(),
        settings: spool::home::Settings { free_bytes_min: 0, ..Default::default() },
        processes: job::process::PROCESSES,
    }
}

pub fn known(root: &Path) -> impl Fn(&Username) -> Result<Option<Known>, job::Error> {
    let quota = root.join("quota");
    let policy = Policy { shell: !root.join("refuse").exists(), ..Policy::default() };
    move |username: &Username| {
        let quota =
            std::fs::read_to_string(&quota).ok().and_then(|text| text.parse().ok()).unwrap_or(spool::usage::WHOLE_LOG);
        let digest = Digest::of(b"");
        let age = Duration::MAX;
        Ok((*username == sender()).then(|| Known { name: "nas".into(), policy: policy.clone(), digest, quota, age }))
    }
}

/// What this program does when it is started as a keeper.
pub fn keeper_main(root: &Path, msgid: MsgId) {
    job::process::detach();
    let account = Account { name: "somebody".into(), home: root.join("home"), shell: "/bin/sh".into() };
    let began = Instant::now();
    if let Err(error) = job::process::keep(&site(root, i64::MAX), root, &account, msgid, &known(root)) {
        eprintln!("keeper: {error}");
        std::process::exit(1);
    }
    let _ = std::fs::write(root.join("kept"), began.elapsed().as_micros().to_string());
}

/// One incoming log as its consumer sees it.
struct Pulled {
    copy: Copy,
    reader: Reader,
    bytes: Vec<u8>,
    end: Option<EndKind>,
}

pub struct Rig {
    pub keys: JobKeys,
    pub msgid: MsgId,
    _directory: tempfile::TempDir,
    pub root: PathBuf,
    pub disk: Arc<Disk>,
    far_root: PathBuf,
    pub stdin: Writer,
    pub control: Speaker,
    sent: [Copy; 2],
    outputs: [Pulled; 2],
    heard: Copy,
    listener: Listener,
    pub said: Vec<Control>,
    pub control_ended: bool,
    /// Takes over the command's output.
    pub pulls: bool,
}

impl Rig {
    pub fn new(command: &str) -> Rig {
        Rig::with(Start { argv: vec![command.as_bytes().to_vec()], ..Start::default() })
    }

    pub fn with(start: Start) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let (root, far_root) = (directory.path().join("here"), directory.path().join("far"));
        let (disk, far) = (Arc::new(Disk::make(&root).unwrap()), Arc::new(Disk::make(&far_root).unwrap()));
        DIRECTORIES.iter().for_each(|name| make_dirs(&*disk, name).unwrap());
        std::fs::create_dir(root.join("home")).unwrap();
        let msgid = MsgId(rand::random());
        let dir = Place::Jobs.dir(msgid);
        make_dirs(&*disk, &dir).unwrap();
        let keys = JobKeys { secret: Key([9; 32]), sender: sender(), recipient: ours(), msgid };
        let message = message::write(&keys.secret, &start).unwrap();
        let owner = Owner::new(&*disk, sender(), Role::Recipient, None).unwrap();
        owner.facts().hint(&*disk, &format!("{dir}/{PEER}")).unwrap();
        disk.hint(&format!("{dir}/{MESSAGE}"), &spool_key().seal(&rest_label(MESSAGE, msgid), &message)).unwrap();
        disk.hint(&format!("{dir}/{}", Mark::RecvOk.name()), b"").unwrap();

        let to_us = |chan| Stream { chan, producer: Role::Sender };
        let to_them = |chan| Stream { chan, producer: Role::Recipient };
        let writer = |chan| {
            make_dirs(&*far, &log_out(msgid, chan)).unwrap();
            Writer::open(far.clone(), &log_out(msgid, chan), keys.clone(), to_us(chan)).unwrap()
        };
        let sent = [Chan::CONTROL, Chan::STDIN].map(|chan| {
            make_dirs(&*disk, &log_in(msgid, chan)).unwrap();
            Copy::open(disk.clone(), &log_in(msgid, chan), keys.clone(), to_us(chan)).unwrap()
        });
        let copy = |chan| {
            make_dirs(&*far, &log_in(msgid, chan)).unwrap();
            Copy::open(far.clone(), &log_in(msgid, chan), keys.clone(), to_them(chan)).unwrap()
        };
        let reader = |chan| Reader::open(far.clone(), &log_in(msgid, chan), keys.clone(), to_them(chan)).unwrap();
        let outputs = [Chan::STDOUT, Chan::STDERR].map(|chan| Pulled {
            copy: copy(chan),
            reader: reader(chan),
            bytes: Vec::new(),
            end: None,
        });
        Rig {
            msgid,
            stdin: writer(Chan::STDIN),
            control: Speaker::new(writer(Chan::CONTROL)),
            sent,
            outputs,
            heard: copy(Chan::CONTROL),
            listener: Listener::new(reader(Chan::CONTROL)),
            said: Vec::new(),
            control_ended: false,
            pulls: true,
            keys,
            _directory: directory,
            root,
            disk,
            far_root,
        }
    }

    /// Starts a keeper.
    pub fn keeper(&self) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("keep").arg(&self.root).arg(self.msgid.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("SECRET_OF_THE_KEEPER", "x").spawn().unwrap()
    }

    pub fn has(&self, mark: Mark) -> bool {
        self.disk.exists(&Place::Jobs.file(self.msgid, mark.name()))
    }

    pub fn home(&self, name: &str) -> PathBuf {
        self.root.join("home").join(name)
    }

    pub fn outcome_on_disk(&self) -> Option<Outcome> {
        Facts::read(&*self.disk, &Place::Jobs.file(self.msgid, Mark::RunExit.name())).unwrap()?.value("outcome")
    }

    /// Carries what there is, both ways. Says whether anything moved.
    pub fn carry(&mut self) -> bool {
        let mut moved = false;
        for (chan, copy) in [Chan::CONTROL, Chan::STDIN].into_iter().zip(&mut self.sent) {
            moved |= pull(&self.far_root.join(log_out(self.msgid, chan)), copy);
        }
        let here = |chan| self.root.join(log_out(self.msgid, chan));
        if self.pulls {
            for (chan, pulled) in [Chan::STDOUT, Chan::STDERR].into_iter().zip(&mut self.outputs) {
                if pull(&here(chan), &mut pulled.copy) {
                    moved = true;
                    hint(&*self.disk, &format!("{}/got", log_out(self.msgid, chan)), pulled.copy.offset()).unwrap();
                }
                loop {
                    match pulled.reader.advance().unwrap() {
                        Item::Data(_) => pulled.bytes.extend_from_slice(pulled.reader.data()),
                        Item::End(end) => break pulled.end = Some(end.kind),
                        Item::Nothing => break,
                        Item::Broken => panic!("broken"),
                    }
                }
                pulled.copy.forget(u64::MAX, pulled.copy.offset()).unwrap();
            }
        }
        moved |= pull(&here(Chan::CONTROL), &mut self.heard);
        loop {
            match self.listener.hear().unwrap() {
                Heard::Said(control) => self.said.push(control),
                Heard::End => break self.control_ended = true,
                Heard::Nothing => break,
                Heard::Broken => panic!("broken"),
            }
        }
        moved
    }

    /// Carries until something is so.
    pub fn until(&mut self, what: &str, mut so: impl FnMut(&Rig) -> bool) {
        let late = Instant::now() + PATIENCE;
        while !so(self) {
            if !self.carry() {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(Instant::now() < late, "in vain: {what}; said {:?}, stderr {:?}", self.said, self.stderr());
        }
    }

    /// Carries until everything has ended, and waits for the keeper.
    pub fn wait_for(&mut self, mut keeper: Child) -> Outcome {
        self.pulls = true;
        self.until("the end", |rig| rig.control_ended && rig.ends().iter().all(Option::is_some));
        assert!(keeper.wait().unwrap().success());
        assert!(!self.root.join("running").join(self.msgid.to_string()).exists(), "the lock's file is left");
        self.exit().expect("EXIT was said")
    }

    pub fn run(&mut self) -> Outcome {
        let keeper = self.keeper();
        self.wait_for(keeper)
    }

    /// The outcome that was said; the same if it was said twice.
    pub fn exit(&self) -> Option<Outcome> {
        let mut exits = self.said.iter().filter_map(|control| match control {
            Control::Exit(outcome) => Some(outcome.clone()),
            _ => None,
        });
        let exit = exits.next();
        assert!(exits.all(|other| Some(other) == exit));
        exit
    }

    pub fn ends(&self) -> [Option<EndKind>; 2] {
        [self.outputs[0].end, self.outputs[1].end]
    }

    pub fn stdout(&self) -> &[u8] {
        &self.outputs[0].bytes
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.outputs[1].bytes).into_owned()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        assert_eq!(self.stdin.append(bytes).unwrap(), bytes.len());
    }

    /// How far our command's output log reaches, in sealed bytes.
    pub fn out_size(&self, chan: Chan) -> u64 {
        let entries = std::fs::read_dir(self.root.join(log_out(self.msgid, chan))).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// The processes that belong to this job: those that have its name in their environment.
    pub fn processes(&self) -> Vec<i32> {
        let marker = format!("PLUMB_JOB={}", self.msgid);
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&b| b == 0).any(|entry| entry == marker.as_bytes())
        })
        .collect()
    }
}

/// One pull as the loop does it.
fn pull(dir: &Path, copy: &mut Copy) -> bool {
    use std::os::unix::fs::FileExt;
    let (n, at) = copy.wanted();
    let Ok(file) = std::fs::File::open(dir.join(n.to_string())) else { return false };
    let closed = dir.join((n + 1).to_string()).exists();
    let size = file.metadata().unwrap().len();
    if size > at {
        let mut bytes = vec![0; (size - at) as usize];
        file.read_exact_at(&mut bytes, at).unwrap();
        copy.feed(&bytes).unwrap();
        return true;
    }
    if closed {
        copy.close(size);
    }
    copy.wanted() != (n, at)
}
