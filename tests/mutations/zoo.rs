//! The jobs of a round: one for each state in which a blow can find a job.
//!
//! Each says what its command is to write and to exit with, so that whatever comes of it can be
//! judged. A command appends its name to a file of its own before it does anything else.

use crate::homes::{Chance, noise};
use std::path::Path;

/// A job, before anything of it is there.
pub struct Plan {
    /// By which faults and reports call it.
    pub name: &'static str,
    /// Whose `plumb` asks for it: an index into the peers.
    pub from: usize,
    /// When it is begun.
    pub stage: Stage,
    /// Options of `plumb`.
    pub options: Vec<String>,
    /// The command, which runs after the token was written.
    pub body: String,
    /// The input of `plumb`.
    pub input: Input,
    /// Does somebody take what `plumb` writes, from the beginning?
    pub taken: bool,
    /// When the job is as it is to be at the blow.
    pub ready: Ready,
    /// Something that happens to it just before the blow.
    pub before: Before,
    /// How it ends if nothing harms it.
    pub expect: Expect,
    /// The content of a file that its command prints.
    pub says: Vec<u8>,
}

/// When a job is begun.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// While everything passes.
    Open,
    /// While everything passes until the message is delivered.
    Delivering,
    /// While b cannot dial a.
    OneWay,
    /// While b cannot dial a, and a can dial b until something of the message is there.
    Asking,
    /// While nothing passes.
    Silent,
}

/// Standard input.
pub enum Input {
    /// Empty.
    None,
    /// All of it at once.
    Ended(Vec<u8>),
    /// Part of it, and the rest and its end after the blow.
    Open(Vec<u8>, Vec<u8>),
}

/// When a job is as it is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ready {
    /// `plumb` has ended.
    Ended,
    /// This many bytes have come out of `plumb`.
    Said(u64),
    /// The command runs.
    Ran,
    /// This many bytes of the input are at the recipient.
    Arrived(u64),
    /// This many bytes of the output are at the sender.
    Stored(u64),
    /// All output is at the sender.
    Finished,
    /// The recipient knows that there is a message.
    Noticed,
    /// The message is in the queue.
    Queued,
}

/// Something that happens to a job just before the blow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// No change.
    Nothing,
    /// Its command is let go on.
    Go,
    /// `netplumb cancel`.
    Cancel,
    /// Its message is moved to `hold/`, and back after the blow.
    Hold,
    /// Its `plumb` is killed.
    Kill,
    /// A second `plumb` attaches, and a third one reads along.
    Attach,
}

/// How a job ends if nothing harms it.
pub enum Expect {
    /// With this status, and these bytes on the outputs.
    Exit(i32, Vec<u8>, Vec<u8>),
    /// With this reason.
    Reason(&'static str),
    /// Without a word, for its `plumb` was killed.
    Nothing,
}

impl Plan {
    /// Was it left to itself with `-detach`?
    pub fn is_left(&self) -> bool {
        self.options.iter().any(|option| option == "-detach")
    }

    /// May its command run more than once?
    pub fn may_repeat(&self) -> bool {
        self.options.iter().any(|option| option == "-repeat")
    }
}

/// Makes plans with paths below one directory.
struct Zoo<'a> {
    work: &'a Path,
    plans: Vec<Plan>,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The jobs of a round. With `tight` there is more output than a small quota lets wait.
pub fn plans(work: &Path, chance: &mut Chance, tight: bool) -> Vec<Plan> {
    let mut zoo = Zoo { work, plans: Vec::new() };
    zoo.ended();
    zoo.fed();
    zoo.speaking(if tight { 80 * MIB } else { 12 * MIB });
    zoo.batch();
    zoo.left();
    zoo.on_the_way();
    zoo.of_b();
    // The order decides which ids are near each other, and which job has which one-time key.
    for n in (1..zoo.plans.len()).rev() {
        zoo.plans.swap(n, chance.below(n as u64 + 1) as usize);
    }
    zoo.plans
}

impl Zoo<'_> {
    /// A job of a that reads nothing, whose command writes `size` bytes and exits with a status of its own.
    fn add(&mut self, name: &'static str, options: &[&str], size: usize, body: &str) -> &mut Plan {
        let number = self.plans.len();
        let (says, status) = (noise(size, 77 + number as u64 * 1000), 3 + number as i32);
        let gate = format!("read go <{}", self.work.join(format!("{name}.gate")).display());
        let file = self.work.join(format!("{name}.says")).display().to_string();
        let body = body.replace("GATE", &gate).replace("SAYS", &file);
        self.plans.push(Plan {
            name,
            from: 0,
            stage: Stage::Open,
            options: options.iter().map(|option| option.replace("GATE", &gate).replace("SAYS", &file)).collect(),
            body: format!("{body}; exit {status}"),
            input: Input::None,
            taken: true,
            ready: Ready::Ran,
            before: Before::Nothing,
            expect: Expect::Exit(status, says.clone(), Vec::new()),
            says,
        });
        self.plans.last_mut().expect("it was just added")
    }

    /// A job whose command gives back what it reads: some now, and the rest after the blow.
    fn add_open(&mut self, name: &'static str, options: &[&str], size: usize, body: &str) -> &mut Plan {
        let plan = self.add(name, options, 0, body);
        let (first, rest) = (noise(size, 5 + size as u64), noise(size / 2, 6));
        let Expect::Exit(_, stdout, _) = &mut plan.expect else { unreachable!("just made") };
        *stdout = [first.as_slice(), &rest].concat();
        plan.ready = Ready::Said(size as u64);
        plan.input = Input::Open(first, rest);
        plan
    }

    fn ended(&mut self) {
        self.add("over", &["-n"], 5000, "cat SAYS").ready = Ready::Ended;
        let refused = self.add("refused", &["-n", "-l", "nobody-of-this-name"], 0, "true");
        (refused.ready, refused.expect) = (Ready::Ended, Expect::Reason("refused"));
        let along = self.add("cancelled", &["-n"], 0, "GATE");
        (along.before, along.expect) = (Before::Cancel, Expect::Reason("cancelled"));
        let orphan = self.add("orphan", &["-n"], 3000, "cat SAYS; GATE");
        (orphan.before, orphan.expect) = (Before::Kill, Expect::Nothing);
    }

    fn fed(&mut self) {
        self.add_open("open", &[], 100 * KIB, "cat");
        self.add_open("open-z", &["-z", "-priority=high"], 100 * KIB, "cat");
        let wide = self.add_open("open-large", &[], 9 * MIB, "cat");
        wide.options.push("-priority=low".into());
        let from = self.add("from", &["-from=cat SAYS; GATE; cat SAYS"], 60 * KIB, "cat");
        let Expect::Exit(_, stdout, _) = &mut from.expect else { unreachable!("just made") };
        *stdout = stdout.repeat(2);
        from.ready = Ready::Said(60 * KIB as u64);
    }

    fn speaking(&mut self, size: usize) {
        let untaken = self.add("untaken", &["-n"], size, "cat SAYS; GATE");
        (untaken.taken, untaken.ready) = (false, Ready::Stored(8 * MIB as u64));
        let ended = self.add("untaken-ended", &["-n"], 3 * MIB, "cat SAYS");
        (ended.taken, ended.ready) = (false, Ready::Finished);
        let exits = self.add("exits", &["-n"], 200 * KIB, "GATE; seq 1 4000 >&2; cat SAYS");
        exits.before = Before::Go;
        let Expect::Exit(_, _, stderr) = &mut exits.expect else { unreachable!("just made") };
        *stderr = (1..=4000).map(|n| format!("{n}\n")).collect::<String>().into_bytes();
        self.add("silent", &["-n", "-z"], 40 * KIB, "GATE; cat SAYS");
    }

    fn batch(&mut self) {
        let size = 200 * KIB;
        let waiting = self.add_open("batch", &["-batch"], size, "cat");
        waiting.ready = Ready::Arrived(size as u64);
        let waiting = self.add_open("repeat-waiting", &["-batch", "-repeat", "-z"], size, "cat; cat");
        waiting.ready = Ready::Arrived(size as u64);
        let repeat = self.add("repeat", &["-batch", "-repeat"], 50 * KIB, "cat; GATE; cat SAYS");
        let input = noise(60 * KIB, 8);
        let Expect::Exit(_, stdout, _) = &mut repeat.expect else { unreachable!("just made") };
        *stdout = [input.as_slice(), stdout].concat();
        repeat.input = Input::Ended(input);
    }

    fn left(&mut self) {
        self.add("left-done", &["-detach", "-n"], 300 * KIB, "cat SAYS").ready = Ready::Finished;
        let going = self.add("left-going", &["-detach"], 20 * KIB, "cat; GATE; cat SAYS");
        let input = noise(100 * KIB, 9);
        let Expect::Exit(_, stdout, _) = &mut going.expect else { unreachable!("just made") };
        *stdout = [input.as_slice(), stdout].concat();
        going.input = Input::Ended(input);
        let body = "head -c 50000 SAYS; GATE; tail -c +50001 SAYS";
        let attached = self.add("attached", &["-detach", "-n"], 150 * KIB, body);
        attached.before = Before::Attach;
    }

    fn on_the_way(&mut self) {
        for (name, stage, ready) in [
            ("delivered", Stage::Delivering, Ready::Noticed),
            ("noticed", Stage::OneWay, Ready::Noticed),
            ("asking", Stage::Asking, Ready::Queued),
            ("queued", Stage::Silent, Ready::Queued),
        ] {
            let plan = self.add(name, &["-n"], 30 * KIB, "cat SAYS");
            (plan.stage, plan.ready) = (stage, ready);
        }
        let held = self.add("held", &["-n", "-priority=low"], 30 * KIB, "cat SAYS");
        (held.stage, held.ready, held.before) = (Stage::Silent, Ready::Queued, Before::Hold);
        let open = self.add_open("queued-open", &["-z"], 70 * KIB, "cat");
        (open.stage, open.ready) = (Stage::Silent, Ready::Queued);
        for (name, stage, options) in
            [("noticed-left", Stage::OneWay, &["-detach"][..]), ("queued-left", Stage::Silent, &["-detach", "-batch"])]
        {
            let left = self.add_open(name, options, 60 * KIB, "cat");
            let Input::Open(first, rest) = std::mem::replace(&mut left.input, Input::None) else { continue };
            left.input = Input::Ended([first, rest].concat());
            (left.stage, left.ready) = (stage, Ready::Queued);
        }
    }

    fn of_b(&mut self) {
        self.add_open("b-open", &[], 100 * KIB, "cat").from = 1;
        let left = self.add("b-left-done", &["-detach", "-n"], 100 * KIB, "cat SAYS");
        (left.from, left.ready) = (1, Ready::Finished);
        let queued = self.add("b-queued", &["-n"], 30 * KIB, "cat SAYS");
        (queued.from, queued.stage, queued.ready) = (1, Stage::Silent, Ready::Queued);
    }
}
