//! The other side of a job, without network: plays our loop and the peer's
//! keeper on the disk.
//!
//! Input is taken over as the real ones do it, by `log::Copy` into a second
//! spool and a `Reader` there; what the command "says" is sealed by `Writer`s
//! of the recipient's role into `in/<chan>`, where the loop's copies would lie
//! byte for byte.

pub use crate::patience::{wait_for, wait_until};
use job::message::{self, Start};
use spool::alive::{self, Door, Life};
use spool::atomic::Disk;
use spool::control::{Control, Heard, Listener, Speaker};
use spool::crypto::SpoolKey;
use spool::facts::Facts;
use spool::fs::{Fs, Lock};
use spool::home::Home;
use spool::layout::{self, Place, log_in, log_out};
use spool::log::{self, Item, Reader, Writer};
use spool::name::{Chan, MsgId, Role, Username};
use spool::outcome::Outcome;
use spool::segment::{EndKind, HEADER, Header, JobKeys, Stream};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A home that knows one peer, `nas`.
pub struct Here {
    directory: tempfile::TempDir,
    pub fs: Arc<Disk>,
    pub home: Home,
    daemon: Option<Daemon>,
}

/// Somebody who holds the daemon's lock, and says what it is to say.
struct Daemon {
    _lock: Lock,
    door: Arc<Door>,
    says: Arc<Mutex<Life>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start(fs: &Disk) -> Daemon {
        let lock = fs.lock_dir(layout::SPOOL, Duration::ZERO).unwrap().expect("nobody else holds it");
        let door = Arc::new(Door::open(fs).unwrap());
        let fine = alive::Child { pid: Some(std::process::id()), ..Default::default() };
        let life = Life { pid: std::process::id(), service: fine.clone(), r#loop: fine };
        let says = Arc::new(Mutex::new(life));
        let (inner, said) = (door.clone(), says.clone());
        let thread = std::thread::spawn(move || {
            while let Ok(caller) = inner.accept() {
                said.lock().unwrap().tell(&caller);
            }
        });
        Daemon { _lock: lock, door, says, thread: Some(thread) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.door.close();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A shell has its background jobs ignore INT, and nohup HUP, and so our children
/// would: what we catch is at its default after exec.
fn settle_ourselves() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
            let always = Arc::new(std::sync::atomic::AtomicBool::new(true));
            signal_hook::flag::register_conditional_shutdown(signal, 130, always).expect("a handler");
        }
    });
}

impl Here {
    /// Makes it; something is there in the daemon's place.
    pub fn new() -> Here {
        settle_ourselves();
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config");
        let name = |text: &str| Username::of_ca(text.as_bytes()).to_string();
        put(&config.join("certs/username"), &name("here"));
        put(&config.join("private/spool.key"), &"07".repeat(32));
        put(&config.join("peers/nas/username"), &name("nas"));
        put(&config.join("peers/nas/request.key"), &"08".repeat(32));
        put(&config.join("peers/nas/peer.toml"), "");
        for private in [&config, &config.join("private")] {
            std::fs::set_permissions(private, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        let home = Home { config, spool: directory.path().join("spool") };
        home.name_spool(&home.make_spool().unwrap()).unwrap();
        let fs = home.open_spool().unwrap();
        let daemon = Some(Daemon::start(&fs));
        Here { directory, fs, home, daemon }
    }

    /// The daemon ends.
    pub fn stop_daemon(&mut self) {
        self.daemon = None;
    }

    /// Changes what the daemon says of itself and its children from here on.
    pub fn daemon_says(&self, change: impl FnOnce(&mut Life)) {
        change(&mut self.daemon.as_ref().unwrap().says.lock().unwrap());
    }

    /// `plumb` with these words, in this home; nothing connected yet.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumb"));
        command.args(words).env("NETPLUMB_HOME", self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts `plumb` with pipes on all three.
    pub fn plumb(&self, words: &[&str]) -> Running {
        Running::new(self.command(words).stdin(Stdio::piped()))
    }

    /// Runs `plumb` to its end, with no input.
    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Waits for the message that `plumb` queued.
    pub fn meet(&self) -> Peer {
        let msgid = wait_for("a message", || Place::Queue.ids(&*self.fs).unwrap().pop());
        Peer::new(self, msgid)
    }

    /// Runs every command that comes while `client`, which starts `plumb`, runs.
    pub fn serve(&self, client: &mut Command) -> Output {
        let plumb = env!("CARGO_BIN_EXE_plumb");
        client.env("NETPLUMB_HOME", self.directory.path());
        client.envs([("GIT_SSH_COMMAND", plumb), ("RSYNC_RSH", plumb), ("BORG_RSH", plumb)]);
        let client = client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| client.wait_with_output().unwrap());
            while !ended.is_finished() {
                match Place::Queue.ids(&*self.fs).unwrap().pop() {
                    Some(msgid) => Peer::new(self, msgid).runs(),
                    None => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            ended.join().unwrap()
        })
    }
}

/// A `plumb` that runs; killed if a test gives up.
pub struct Running {
    pub child: Child,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
}

impl Running {
    pub fn new(command: &mut Command) -> Running {
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Running { child, stdout, stderr }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has said this on stderr; gives all that it said before and with it.
    pub fn says(&mut self, what: &str) -> String {
        let (mut said, stderr) = (Vec::new(), self.stderr.as_mut().unwrap());
        while !said.ends_with(what.as_bytes()) {
            let mut byte = [0];
            stderr.read_exact(&mut byte).expect("it says it before its end");
            said.extend(byte);
        }
        String::from_utf8(said).unwrap()
    }

    /// The same signal again and again: twice is enough, if both are within two seconds.
    pub fn signal_until_it_ends(&mut self, signal: rustix::process::Signal) {
        wait_until("plumb to end", || {
            self.signal(signal);
            std::thread::sleep(Duration::from_millis(200));
            self.child.try_wait().unwrap().is_some()
        });
    }

    /// Waits for its end: exit status, stdout, stderr.
    pub fn finish(mut self) -> (i32, Vec<u8>, String) {
        let status = wait_for("plumb to end", || self.child.try_wait().unwrap());
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        self.stdout.take().map(|mut pipe| pipe.read_to_end(&mut stdout).unwrap());
        self.stderr.take().map(|mut pipe| pipe.read_to_string(&mut stderr).unwrap());
        (status.code().expect("it exits by itself"), stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pump(from: &mut impl Read, to: &mut Writer) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => return to.end(EndKind::Eof).unwrap(),
            count => assert_eq!(to.append(&buffer[..count]).unwrap(), count),
        }
    }
}

/// Our loop, the peer's loop and its keeper, for one job.
pub struct Peer {
    here: Arc<Disk>,
    _there_directory: tempfile::TempDir,
    there: Arc<Disk>,
    pub msgid: MsgId,
    keys: JobKeys,
    pub start: Start,
    outputs: BTreeMap<u16, Writer>,
    control: Option<Listener>,
    heard: Option<log::Copy>,
}

impl Peer {
    fn new(here: &Here, msgid: MsgId) -> Peer {
        let spool_key: SpoolKey = here.home.spool_key().unwrap();
        let keys =
            spool::look::sender_keys(&*here.fs, msgid, &spool_key, &here.home.username().unwrap()).unwrap().unwrap();
        let (_, start) = message::open(&*here.fs, Place::Queue, msgid, &spool_key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let there = Arc::new(Disk::open(directory.path()).unwrap());
        layout::make_dirs(&*there, &log_in(msgid, Chan::CONTROL)).unwrap();
        layout::make_dirs(&*there, &log_in(msgid, Chan::STDIN)).unwrap();
        let (outputs, control, heard) = (BTreeMap::new(), None, None);
        Peer { here: here.fs.clone(), _there_directory: directory, there, msgid, keys, start, outputs, control, heard }
    }

    /// `jobs/<msgid>/<name>`
    pub fn file(&self, name: &str) -> String {
        Place::Jobs.file(self.msgid, name)
    }

    /// The facts of a mark of the job.
    pub fn mark(&self, name: &str) -> Option<Facts> {
        Facts::read(&*self.here, &self.file(name)).unwrap()
    }

    fn touch(&self) {
        layout::touch(&*self.here, Place::Jobs, self.msgid);
    }

    /// The peer has the message: the receipt is durable, the message forgotten.
    pub fn receipt(&self) {
        Facts::new().with("receipt", "00").commit(&*self.here, &self.file("receipt")).unwrap();
        self.touch();
        self.here.remove(&Place::Queue.dir(self.msgid)).unwrap();
    }

    /// A `snd` is about to leave.
    pub fn sent(&self) {
        self.here.hint(&self.file("sent"), b"").unwrap();
    }

    fn output(&mut self, chan: Chan) -> &mut Writer {
        let (here, msgid, keys) = (self.here.clone(), self.msgid, self.keys.clone());
        self.outputs.entry(chan.0).or_insert_with(|| {
            Writer::open(here, &log_in(msgid, chan), keys, Stream { chan, producer: Role::Recipient }).unwrap()
        })
    }

    /// The command writes.
    pub fn says(&mut self, chan: Chan, bytes: &[u8]) {
        assert_eq!(self.output(chan).append(bytes).unwrap(), bytes.len());
    }

    /// An output ends.
    pub fn ends(&mut self, chan: Chan, kind: EndKind) {
        self.output(chan).end(kind).unwrap();
    }

    /// Both outputs end, and then the command's outcome is said on channel 0.
    pub fn exits(&mut self, outcome: Outcome) {
        for chan in [Chan::STDOUT, Chan::STDERR] {
            self.ends(chan, EndKind::Eof);
        }
        self.announces(outcome);
    }

    /// The outcome is said on channel 0, and nothing after it.
    pub fn announces(&mut self, outcome: Outcome) {
        self.says_on_control(&Control::Exit(outcome));
        self.ends(Chan::CONTROL, EndKind::Eof);
    }

    /// This is said on channel 0.
    pub fn says_on_control(&mut self, control: &Control) {
        self.output(Chan::CONTROL);
        let mut speaker = Speaker::new(self.outputs.remove(&Chan::CONTROL.0).unwrap());
        speaker.say(control).unwrap();
        self.outputs.insert(Chan::CONTROL.0, speaker.log);
    }

    /// The loop puts down that the job is over.
    pub fn done(&self, outcome: Outcome) {
        Facts::new().with("outcome", outcome).commit(&*self.here, &self.file("done")).unwrap();
        self.touch();
    }

    /// The loop found that an incoming log can never be completed.
    pub fn broken(&self, chan: Chan) {
        self.here.commit(&format!("{}/broken", log_in(self.msgid, chan)), b"").unwrap();
    }

    /// Why it waits, as the daemon writes it.
    pub fn why(&self, place: Place, facts: Facts) {
        facts.hint(&*self.here, &place.file(self.msgid, "why")).unwrap();
    }

    /// Pulls what is there of a log of the sender's.
    fn pull(&self, copy: &mut log::Copy, chan: Chan) {
        loop {
            let (n, at) = copy.wanted();
            let dir = log_out(self.msgid, chan);
            let Ok(file) = self.here.open_log(&format!("{dir}/{n}")) else { return };
            let closed = self.here.exists(&format!("{dir}/{}", n + 1));
            let mut bytes = vec![0; 1 << 20];
            let filled = file.read_at(&mut bytes, at).unwrap();
            if filled > 0 {
                copy.feed(&bytes[..filled]).unwrap();
            } else if closed {
                copy.close(file.size().unwrap());
            } else {
                return;
            }
        }
    }

    fn copy(&self, chan: Chan) -> (log::Copy, Reader) {
        let stream = Stream { chan, producer: Role::Sender };
        let dir = log_in(self.msgid, chan);
        let copy = log::Copy::open(self.there.clone(), &dir, self.keys.clone(), stream).unwrap();
        (copy, Reader::open(self.there.clone(), &dir, self.keys.clone(), stream).unwrap())
    }

    /// Really runs the command, through a shell, with everything connected.
    pub fn runs(mut self) {
        self.receipt();
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(std::ffi::OsString::from_vec(self.start.argv.join(&b' ')))
            .envs(self.start.env.iter().map(|(name, value)| (name, std::ffi::OsString::from_vec(value.clone()))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take();
        let (mut copy, mut reader) = self.copy(Chan::STDIN);
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut writers = [Chan::STDOUT, Chan::STDERR].map(|chan| {
            self.output(chan);
            self.outputs.remove(&chan.0).unwrap()
        });
        std::thread::scope(|scope| {
            let [out, err] = &mut writers;
            let pumps = [scope.spawn(|| pump(&mut stdout, out)), scope.spawn(|| pump(&mut stderr, err))];
            while !pumps.iter().all(|pump| pump.is_finished()) {
                self.pull(&mut copy, Chan::STDIN);
                log::hint(&*self.here, &format!("{}/got", log_out(self.msgid, Chan::STDIN)), copy.offset()).unwrap();
                match reader.advance().unwrap() {
                    Item::Data(_) => stdin.iter_mut().for_each(|stdin| drop(stdin.write_all(reader.data()))),
                    Item::End(_) => stdin = None,
                    Item::Nothing | Item::Broken => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        let status = child.wait().unwrap().code().unwrap_or(255);
        self.announces(Outcome::Exited(status as u8));
    }

    /// Takes all of the input to its END, keeping the sender informed.
    pub fn input(&self) -> (Vec<u8>, EndKind) {
        let (mut copy, mut reader) = self.copy(Chan::STDIN);
        let mut input = Vec::new();
        let end = wait_for("the end of the input", || {
            self.pull(&mut copy, Chan::STDIN);
            log::hint(&*self.here, &format!("{}/got", log_out(self.msgid, Chan::STDIN)), copy.offset()).unwrap();
            loop {
                match reader.advance().unwrap() {
                    Item::Data(_) => input.extend_from_slice(reader.data()),
                    Item::End(end) => return Some(end),
                    Item::Nothing | Item::Broken => return None,
                }
            }
        });
        assert_eq!(end.length, input.len() as u64);
        (input, end.kind)
    }

    /// Says that everything is held, as fast as it comes, until the input ends.
    pub fn pretends_to_take_the_input(&self) {
        let dir = log_out(self.msgid, Chan::STDIN);
        while log::ended_at(&*self.here, &dir).unwrap_or(None).is_none() {
            if let Some(last) = log::segments(&*self.here, &dir).unwrap().pop() {
                // A segment with a successor that was removed meanwhile is below it.
                let Ok(file) = self.here.open_log(&format!("{dir}/{last}")) else { continue };
                let mut bytes = [0; HEADER];
                let filled = file.read_at(&mut bytes, 0).unwrap();
                let header = Header::parse(&bytes[..filled]).unwrap();
                let end = header.base + file.size().unwrap() - HEADER as u64;
                log::hint(&*self.here, &format!("{dir}/got"), end).unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where the input's log ends at the moment, in sealed bytes.
    pub fn input_offset(&self) -> u64 {
        let (mut copy, _) = self.copy(Chan::STDIN);
        self.pull(&mut copy, Chan::STDIN);
        copy.offset()
    }

    /// The next thing that `plumb` says on channel 0.
    pub fn hears(&mut self) -> Control {
        let mut control = self.control.take();
        let mut heard = self.heard.take();
        if control.is_none() {
            let (copy, reader) = self.copy(Chan::CONTROL);
            (heard, control) = (Some(copy), Some(Listener::new(reader)));
        }
        let said = wait_for("a word on channel 0", || {
            self.pull(heard.as_mut().unwrap(), Chan::CONTROL);
            match control.as_mut().unwrap().hear().unwrap() {
                Heard::Said(control) => Some(control),
                Heard::Nothing => None,
                Heard::End | Heard::Broken => panic!("channel 0 ended"),
            }
        });
        (self.control, self.heard) = (control, heard);
        said
    }
}
