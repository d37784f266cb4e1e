//! A job whose input, runs, output and reported end are all recorded, so that a
//! test can check them against each other.
//!
//! The command leaves traces in a directory that no test harms: each start adds
//! the job's id to `runs`, run N copies its input to `copy.N`, and adds a line
//! to `eof` when it reads an end of file and to `done` as its last act. The
//! output of each run is known to the byte.

use crate::homes::{Chance, PLUMB, Peer, noise};
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The input is fed in this many pieces.
const PIECES: usize = 4;

/// Whether the command awaits its whole input, and may be run again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Plain,
    Batch,
    Repeat,
}

/// The work of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Text {
    /// Writes its input to its output.
    Echo,
    /// Keeps its input, and writes the size.
    Sink,
    /// Reads no input, and writes as many bytes.
    Source,
}

/// The producer of the input, and its pace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The test feeds it, with this pause before each piece but the first.
    Paced(Duration),
    /// The test feeds it, and stops before the second piece until it is released.
    Held,
    /// A `-from` producer makes it, after this pause.
    From(Duration),
}

/// The kind of a job, and how it must end.
#[derive(Clone, Debug)]
pub struct Plan {
    pub class: Class,
    pub text: Text,
    pub input: Input,
    /// Leave it with `-detach`.
    pub left: bool,
    /// Compress it with `-z`.
    pub zipped: bool,
    /// Bytes of the input; of the output, if the command reads none.
    pub size: usize,
    /// The command sleeps so long before it ends.
    pub pause: Duration,
    /// The exit status of the command.
    pub status: u8,
}

impl Plan {
    /// Draws a plan of any kind, without a held input.
    pub fn any(chance: &mut Chance) -> Plan {
        let class = [Class::Plain, Class::Plain, Class::Batch, Class::Repeat][chance.below(4) as usize];
        let text = [Text::Echo, Text::Sink, Text::Source][chance.below(3) as usize];
        let size = match chance.below(3) {
            0 => chance.below(5000),
            1 => chance.below(300_000),
            _ => (1 << 20) + chance.below(3 << 20),
        };
        let pace = if chance.below(3) == 0 { chance.below_millis(300) } else { Duration::ZERO };
        let input = if chance.below(4) == 0 { Input::From(pace) } else { Input::Paced(pace) };
        let pause = if chance.below(2) == 0 { chance.below_millis(1500) } else { Duration::ZERO };
        let status = [0, 0, 3, 42][chance.below(4) as usize];
        let (left, zipped) = (chance.below(2) == 0, chance.below(4) == 0);
        Plan { class, text, input, left, zipped, size: size as usize, pause, status }
    }

    fn options(&self, traces: &Path) -> Vec<String> {
        let mut options = Vec::new();
        let class: &[&str] = match self.class {
            Class::Plain => &[],
            Class::Batch => &["-batch"],
            Class::Repeat => &["-batch", "-repeat"],
        };
        options.extend(class.iter().map(|word| word.to_string()));
        options.extend(self.left.then(|| "-detach".into()));
        options.extend(self.zipped.then(|| "-z".into()));
        match self.input {
            _ if self.text == Text::Source => options.push("-n".into()),
            Input::From(pause) => {
                options.push(format!("-from=sleep {}; cat {}/input", pause.as_secs_f32(), traces.display()));
            }
            Input::Paced(_) | Input::Held => {}
        }
        options
    }

    /// The command line for the remote shell.
    fn command(&self, traces: &Path) -> String {
        let work = match self.text {
            Text::Echo => "tee copy.$run && echo $run >>eof",
            Text::Sink => "cat >copy.$run && echo $run >>eof; wc -c <copy.$run",
            Text::Source => "cat input",
        };
        format!(
            "cd {} || exit 98; echo $PLUMB_JOB >>runs; run=$(wc -l <runs); echo run $run; {work}; \
             sleep {}; echo end $run; echo $run >>done; exit {}",
            traces.display(),
            self.pause.as_secs_f32(),
            self.status
        )
    }
}

/// The reported end of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// The command's own status.
    Status(u8),
    /// The reason in the stable last line: there is no status of the command.
    Reason(String),
}

impl Told {
    /// Reads it from the end of a `plumb` and its last line; `None` if a signal killed it.
    fn of(status: ExitStatus, said: &str) -> Option<Told> {
        let reason = said.lines().last().and_then(|line| line.strip_prefix("plumb: origin=transport status="));
        let reason = reason.and_then(|rest| rest.split("reason=").nth(1)).map(str::to_string);
        Some(reason.map_or(Told::Status(status.code()? as u8), Told::Reason))
    }

    /// Reads it from an outcome, as `netplumb wait` prints one.
    pub fn of_outcome(outcome: &str) -> Told {
        let number = |word| outcome.strip_prefix(word).and_then(|number: &str| number.parse::<u8>().ok());
        match (number("exited "), number("signal "), outcome) {
            (Some(status), _, _) => Told::Status(status),
            (_, Some(signal), _) => Told::Status(signal.saturating_add(128)),
            (_, _, "unknown") => Told::Reason("outcome-unknown".into()),
            (_, _, other) => Told::Reason(other.split(" at ").next().unwrap_or_default().replace(' ', "-")),
        }
    }

    /// Is this the reason?
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Told::Reason(reason) if reason == word)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Told::Status(status) => write!(f, "status {status}"),
            Told::Reason(reason) => f.write_str(reason),
        }
    }
}

/// A `plumb` that the test has started.
struct Running {
    child: Child,
    stdout: Heard,
    stderr: Heard,
    role: Role,
}

/// The bytes that have come out of a pipe so far.
struct Heard {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Heard {
    fn of(mut pipe: impl Read + Send + 'static) -> Heard {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let heard = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut piece = vec![0; 64 << 10];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                heard.lock().expect("bytes").extend_from_slice(&piece[..count]);
            }
        });
        Heard { bytes, reader }
    }

    /// Waits for the end of the pipe, and gives all bytes.
    fn whole(self) -> Vec<u8> {
        self.reader.join().expect("a reader");
        std::mem::take(&mut *self.bytes.lock().expect("bytes"))
    }
}

/// The content of a `plumb`'s standard output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The command's output from its first byte.
    Front,
    /// The job's id.
    Leaving,
    /// The command's output from this byte.
    Attached(usize),
    /// The command's output from where the spool notes that the last reader stopped.
    AttachedByNote,
}

/// A job from its plan to its end.
pub struct Job {
    pub plan: Plan,
    /// The id, once it is known.
    pub id: Option<String>,
    /// `plumb -detach` has printed the id and ended well.
    pub left: bool,
    /// The command's output, as far as the test has read it.
    pub got: Vec<u8>,
    /// The end, as a `plumb` reported it.
    pub told: Option<Told>,
    /// A diary of the job, for a person who looks for a fault.
    pub events: Vec<String>,
    /// The directory of the traces.
    pub traces: PathBuf,
    input: Vec<u8>,
    plumb: Option<Running>,
    release: Option<Sender<()>>,
    since: Instant,
    wrong: Vec<String>,
}

impl Job {
    /// Starts a job, whose traces come into a new directory of this name.
    pub fn begin(a: &Peer, plan: Plan, traces: PathBuf) -> Job {
        Job::begin_by(a.command(PLUMB), plan, traces)
    }

    /// Starts a job by this command, to which `plumb`'s words are added.
    pub fn begin_by(command: Command, plan: Plan, traces: PathBuf) -> Job {
        let input = noise(plan.size, plan.size as u64 + 11);
        std::fs::create_dir(&traces).and_then(|()| std::fs::write(traces.join("input"), &input)).expect("traces");
        let (events, since, wrong) = (vec![format!("{plan:?}")], Instant::now(), Vec::new());
        let (id, left, got, told, plumb, release) = (None, false, Vec::new(), None, None, None);
        let mut job = Job { plan, id, left, got, told, events, traces, input, plumb, release, since, wrong };
        job.start(command);
        job
    }

    fn start(&mut self, mut command: Command) {
        command.args(self.plan.options(&self.traces)).args(["b", &self.plan.command(&self.traces)]);
        let pace = match self.plan.input {
            _ if self.plan.text == Text::Source => None,
            Input::From(_) => None,
            Input::Paced(pace) => Some(pace),
            Input::Held => Some(Duration::from_secs(3600)),
        };
        command.stdin(if pace.is_some() { Stdio::piped() } else { Stdio::null() });
        self.run(command, if self.plan.left { Role::Leaving } else { Role::Front });
        let stdin = self.plumb.as_mut().and_then(|plumb| plumb.child.stdin.take());
        if let (Some(pace), Some(stdin)) = (pace, stdin) {
            let (release, released) = channel();
            self.release = Some(release);
            let input = self.input.clone();
            std::thread::spawn(move || feed(stdin, &input, pace, &released));
        }
    }

    fn run(&mut self, mut command: Command, role: Role) {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("plumb starts");
        let (stdout, stderr) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        let (stdout, stderr) = (Heard::of(stdout), Heard::of(stderr));
        self.note(format!("plumb {}: {role:?}", child.id()));
        self.plumb = Some(Running { child, stdout, stderr, role });
    }

    /// Attaches to the job again: from the first byte that the test has not read, or from the spool's note.
    pub fn attach(&mut self, a: &Peer, by_note: bool) {
        let id = self.id.clone().expect("an id");
        let mut command = a.command(PLUMB);
        command.args(["-n", &format!("-attach={id}")]).stdin(Stdio::null());
        if !by_note {
            command.arg(format!("-offset={}", self.got.len()));
        }
        self.run(command, if by_note { Role::AttachedByNote } else { Role::Attached(self.got.len()) });
    }

    /// Lets a held input go on.
    pub fn release(&mut self) {
        self.release = None;
    }

    /// The pid of the running `plumb`, if `collect` has not seen it end.
    pub fn plumb(&self) -> Option<u32> {
        self.plumb.as_ref().map(|plumb| plumb.child.id())
    }

    /// The standard error of the running `plumb` so far.
    pub fn said(&self) -> String {
        let said = self.plumb.as_ref().map(|plumb| plumb.stderr.bytes.lock().expect("bytes").clone());
        String::from_utf8_lossy(&said.unwrap_or_default()).into_owned()
    }

    /// The bytes of output that the running `plumb` has written so far.
    pub fn heard(&self) -> usize {
        self.plumb.as_ref().map_or(0, |plumb| plumb.stdout.bytes.lock().expect("bytes").len())
    }

    /// Adds a line with the time to the diary.
    pub fn note(&mut self, what: String) {
        self.events.push(format!("{:.3} s: {what}", self.since.elapsed().as_secs_f64()));
    }

    /// Takes output and end of a `plumb` that has ended; says whether none runs any more.
    pub fn collect(&mut self) -> bool {
        let Some(plumb) = &mut self.plumb else { return true };
        let Some(status) = plumb.child.try_wait().expect("it is ours") else { return false };
        let plumb = self.plumb.take().expect("it is there");
        let stdout = plumb.stdout.whole();
        let said = String::from_utf8_lossy(&plumb.stderr.whole()).into_owned();
        let told = Told::of(status, &said);
        self.note(format!("{:?}: {status}, {} bytes, said {:?}", plumb.role, stdout.len(), said.trim_end()));
        if said.contains("panicked") {
            self.wrong.push(format!("plumb panicked: {said}"));
        }
        match plumb.role {
            Role::Front => self.place(Some(0), &stdout),
            Role::Attached(offset) => self.place(Some(offset), &stdout),
            Role::AttachedByNote => self.place(None, &stdout),
            Role::Leaving => {
                let id = String::from_utf8_lossy(&stdout).strip_suffix('\n').map(str::to_string);
                self.id = id.filter(|id| id.len() == 40).or(self.id.take());
            }
        }
        match plumb.role {
            // The job goes on: its end is not known.
            Role::Leaving if told == Some(Told::Status(0)) => self.left = true,
            _ => self.told = told,
        }
        true
    }

    /// Adds a piece of output. Without an offset it may begin anywhere up to the first unread byte.
    fn place(&mut self, offset: Option<usize>, piece: &[u8]) {
        let last = self.got.len();
        let first = offset.unwrap_or(0);
        let wholes = self.wholes();
        let fits = |at: usize| wholes.iter().any(|whole| whole.get(at..).is_some_and(|rest| rest.starts_with(piece)));
        match (first..=offset.unwrap_or(last)).rev().find(|at| fits(*at)) {
            Some(at) if at + piece.len() > last => {
                self.got.truncate(at);
                self.got.extend_from_slice(piece);
            }
            Some(_) => {}
            None => {
                self.wrong.push(format!("{} bytes of output do not belong anywhere up to byte {last}", piece.len()))
            }
        }
    }

    /// The ids under which the command was started, one for each start.
    pub fn runs(&self) -> Vec<String> {
        self.lines("runs")
    }

    /// Has the command done its last act?
    pub fn is_done(&self) -> bool {
        !self.lines("done").is_empty()
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.traces.join(name)).unwrap_or_default();
        text.lines().map(str::to_string).collect()
    }

    /// The whole output of each run that was begun.
    fn wholes(&self) -> Vec<Vec<u8>> {
        let body = match self.plan.text {
            Text::Echo | Text::Source => self.input.clone(),
            Text::Sink => format!("{}\n", self.plan.size).into_bytes(),
        };
        let whole = |run: usize| [format!("run {run}\n").as_bytes(), &body, format!("end {run}\n").as_bytes()].concat();
        (1..=self.runs().len().max(1)).map(whole).collect()
    }

    /// Has the test read the whole output of one run?
    pub fn is_whole(&self) -> bool {
        self.wholes().contains(&self.got)
    }

    /// The safety promises that are broken: no second run, no false end of file,
    /// no false success, no false "not started", no wrong byte.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = self.wrong.clone();
        let runs = self.runs();
        if runs.len() > 1 && self.plan.class != Class::Repeat {
            broken.push(format!("it ran {} times", runs.len()));
        }
        if let Some(id) = runs.iter().find(|id| Some(*id) != self.id.as_ref().or(runs.first())) {
            broken.push(format!("it ran under another id: {id}"));
        }
        for run in self.lines("eof") {
            if std::fs::read(self.traces.join(format!("copy.{run}"))).ok().as_ref() != Some(&self.input) {
                broken.push(format!("run {run} read an end of file, and its input was not whole"));
            }
        }
        match &self.told {
            Some(Told::Status(status)) => {
                if *status != self.plan.status {
                    broken.push(format!("status {status}, and not {}", self.plan.status));
                }
                if !self.is_done() {
                    broken.push("its status was told before the command's last act".into());
                }
                if !self.is_whole() {
                    broken.push(format!("{} bytes are not the output of one run", self.got.len()));
                }
            }
            Some(told) if told.is("not-started") && !runs.is_empty() => {
                broken.push("reported as not started, and it ran".into())
            }
            Some(Told::Reason(_)) | None => {}
        }
        broken
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(plumb) = &mut self.plumb {
            let _ = plumb.child.kill();
            let _ = plumb.child.wait();
        }
    }
}

/// Writes an input piece by piece, without pauses once it is released.
fn feed(mut stdin: ChildStdin, input: &[u8], pace: Duration, released: &Receiver<()>) {
    for (number, piece) in input.chunks(input.len().div_ceil(PIECES).max(1)).enumerate() {
        if number > 0 && !pace.is_zero() {
            let _ = released.recv_timeout(pace);
        }
        if stdin.write_all(piece).is_err() {
            return;
        }
    }
}
