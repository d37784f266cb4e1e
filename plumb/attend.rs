//! Attends to a queued job until it has an end: hears how the command ended,
//! passes signals on, says what it waits for, decides when it is over.
//!
//! Every look reads the disk anew; an event only says "look". The command's
//! own status is passed on only when EXIT was heard (or the loop put it down)
//! *and* the END of both outputs was delivered. The mark `done` is left after
//! all that, never before (doc/PROTOCOL.md#states).

use crate::begin::Job;
use crate::bell::{Event, Events};
use crate::doubt::Doubt;
use crate::ending::{Ending, Reason, stream_name};
use crate::input::InputEnd;
use crate::output::Delivered;
use crate::presence::Presence;
use crate::progress::Progress;
use crate::screen::Screen;
use crate::signals;
use job::submit;
use spool::control::{Control, Listener, Speaker};
use spool::facts::Facts;
use spool::fs::{Error, Fs};
use spool::layout::{self, Owner, Place};
use spool::log::{Tail, Writer};
use spool::look;
use spool::name::Chan;
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::wait::Watch;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[path = "attend_input.rs"]
mod input;
#[path = "leave.rs"]
mod leave;
#[path = "attend_peer.rs"]
mod peer;
#[path = "attend_wait.rs"]
mod wait;
pub use leave::{Role, Stance};

/// How long a lost wake-up can keep us.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same signal again within this ends the wait.
const TWICE: Duration = Duration::from_secs(2);

/// Waits for the end of a job, or until it can be left. What is delivered and
/// fed has its own threads already.
pub fn attend(
    job: &Job,
    presence: Option<&mut Presence>,
    peer: &str,
    stance: Stance,
    screen: &Screen,
    events: &Events,
) -> Ending {
    let ending = Attendant::new(job, presence, peer, stance, screen, events).run();
    screen.show(None);
    ending.for_job(job.msgid())
}

struct Attendant<'a> {
    job: &'a Job,
    /// Our place at the job; none, if too many read along.
    presence: Option<&'a mut Presence>,
    peer: &'a str,
    stance: Stance,
    screen: &'a Screen,
    events: &'a Events,
    progress: Progress<'a>,
    watch: Watch,
    /// Made when there is something to say.
    speaker: Option<Speaker>,
    /// What is to be said on channel 0 and found no room on the disk.
    unsaid: VecDeque<Control>,
    /// Opened at the first look, and anew where it was damaged.
    listener: Option<Listener>,
    /// That of channel 0.
    doubt: Doubt,
    /// Channel 0 will say nothing more.
    deaf: bool,
    /// How the command ended, from the peer.
    exit: Option<Outcome>,
    /// How the job ended, from our own loop, or because its directory is gone.
    done: Option<Outcome>,
    /// The peer has the message.
    receipt: bool,
    /// The message was found gone from the queue at this moment.
    vanished: Option<Instant>,
    outputs: [Output; 2],
    /// A signal that would end a command was passed on, at this moment.
    asked: Option<(i32, Instant)>,
    /// What that may come to was said.
    reminded: bool,
    /// How the producer of our input failed.
    failed: Option<String>,
    /// Where our input's END was put.
    tail: Option<Tail>,
    /// So many logs had come to their end, at this moment or when the loop was last woken.
    ended: (usize, Instant),
}

struct Output {
    chan: Chan,
    /// What became of it; `None` as long as there may be more to write.
    delivered: Option<Delivered>,
}

impl Output {
    fn new(chan: Chan) -> Output {
        Output { chan, delivered: None }
    }

    fn is_settled(&self) -> bool {
        self.delivered.is_some()
    }
}

impl<'a> Attendant<'a> {
    fn new(
        job: &'a Job,
        presence: Option<&'a mut Presence>,
        peer: &'a str,
        stance: Stance,
        screen: &'a Screen,
        events: &'a Events,
    ) -> Attendant<'a> {
        let (heard, _) = job.incoming(Chan::CONTROL);
        let watch = Watch::for_a_while();
        for directory in [Place::Jobs.dir(job.msgid()), Place::Queue.dir(job.msgid()), heard.clone()] {
            watch.add(&job.root.join(directory));
        }
        if let Some(presence) = &presence {
            watch.add(&job.root.join(presence.path()));
        }
        Attendant {
            job,
            presence,
            peer,
            stance,
            screen,
            events,
            progress: Progress::new(job, peer, screen),
            watch,
            speaker: None,
            unsaid: VecDeque::new(),
            listener: None,
            doubt: Doubt::default(),
            deaf: false,
            exit: None,
            done: None,
            receipt: false,
            vanished: None,
            outputs: [Output::new(Chan::STDOUT), Output::new(Chan::STDERR)],
            asked: None,
            reminded: false,
            failed: None,
            tail: None,
            ended: (0, Instant::now()),
        }
    }

    fn run(mut self) -> Ending {
        loop {
            // `done` is looked for first: then everything that came before it is heard.
            self.look_for_done();
            self.hear();
            while let Some(event) = self.events.take() {
                if let Some(ending) = self.follow(event) {
                    return ending;
                }
            }
            self.speak();
            self.look_at_message();
            self.wake_loop();
            if let Some(ending) = self.is_ousted().or_else(|| self.leaves()).or_else(|| self.fails_now()) {
                return ending;
            }
            self.remind();
            // What cannot be read is looked at again.
            let _ = self.look_at_input();
            if self.is_over() {
                self.job.over.declare();
                if self.outputs.iter().all(Output::is_settled) {
                    return self.end();
                }
            }
            self.progress.tick(self.receipt, self.is_over());
            let wait = self.progress.next_tick(if self.unsaid.is_empty() { LOOK_EVERY } else { LOOK_EVERY / 4 });
            self.watch.wait(&[self.events.fd()], wait);
        }
    }

    /// Will no more output come than what is here, or is on its way to an END?
    fn is_over(&self) -> bool {
        let broken = |output: &Output| matches!(output.delivered, Some(Delivered::Broken { .. }));
        let complete = self.exit.is_some() && self.outputs.iter().all(Output::is_settled);
        complete || self.done.is_some() || (self.deaf && self.exit.is_none()) || self.outputs.iter().any(broken)
    }

    fn follow(&mut self, event: Event) -> Option<Ending> {
        match event {
            Event::Signal(signal, at) => return self.signal(signal, at),
            Event::Unread(chan, why) => {
                if self.stance.role != Role::Along {
                    self.unsaid.push_back(Control::Close(chan));
                }
                self.output(chan).delivered = Some(why);
            }
            Event::Delivered(chan, Delivered::Refused(errno)) if self.stance.role == Role::Again => {
                let (name, id) = (stream_name(chan), self.job.msgid());
                let what = format!("cannot write {name}: {errno}; the rest is kept for: plumb -attach={id}");
                return Some(Ending::failed(Reason::OutputFailed, what));
            }
            Event::Delivered(chan, delivered) => drop(self.output(chan).delivered.get_or_insert(delivered)),
            Event::Input(InputEnd::Eof(tail)) => {
                self.tail = Some(tail);
                self.fed();
            }
            Event::Input(InputEnd::Unread) => self.fed(),
            Event::Input(InputEnd::Failed) => {}
            Event::Failed(how) => self.failed = Some(how),
            Event::Input(InputEnd::Unreadable(errno)) => {
                self.screen
                    .note(format_args!("cannot read stdin: {errno}; the command is killed for it, or not started"));
            }
            Event::Input(InputEnd::Disk(error)) => {
                // Input that nobody will read any more is no loss.
                if self.exit.is_none() && self.done.is_none() {
                    // Its log was damaged while it was written, so it has no end.
                    if matches!(error, Error::Damaged { .. }) && self.tell_damage(u64::MAX).is_ok() {
                        return None;
                    }
                    let outcome = Some(self.cancel("our disk failed"));
                    return Some(Ending { outcome, ..Ending::failed(Reason::Disk, error) });
                }
            }
        }
        None
    }

    /// All of the input is in the log, or nobody wants more of it.
    fn fed(&mut self) {
        self.progress.input_ended();
        self.stance.feeds = false;
        // From here on the death of one who came later costs nothing.
        if self.stance.role == Role::Again
            && let Err(error) = self.detach()
        {
            self.screen.detail(format_args!("the job cannot be left alone: {error}"));
        }
    }

    fn output(&mut self, chan: Chan) -> &mut Output {
        &mut self.outputs[usize::from(chan != Chan::STDOUT)]
    }

    fn signal(&mut self, signal: i32, at: Instant) -> Option<Ending> {
        self.receipt |= self.has(Mark::Receipt);
        let name = signals::name(signal);
        if self.stance.role == Role::Along {
            let what = format!("{name}; the job goes on, and another plumb has it");
            return signals::ends(signal).then(|| Ending::failed(Reason::Detached, what).by_signal(signal));
        }
        if signals::ends(signal) && (self.exit.is_some() || self.done.is_some()) {
            let what = format!("{name} before all output was written");
            self.leave_done(self.exit.clone().unwrap_or(Outcome::Unknown));
            let outcome = self.exit.clone().or(self.done.clone());
            return Some(Ending { outcome, ..Ending::failed(Reason::OutputIncomplete, what).by_signal(signal) });
        }
        if signals::ends(signal) && !self.receipt {
            return Some(Ending::of(self.cancel(name)).by_signal(signal));
        }
        if signals::ends(signal) {
            if self.asked.is_some_and(|(last, before)| last == signal && at.saturating_duration_since(before) < TWICE) {
                if self.may_leave(signal) {
                    match self.detach() {
                        Ok(()) => return Some(Ending::goes_on(self.job.msgid()).by_signal(signal)),
                        Err(error) => self.screen.say(format_args!("cannot leave the job: {error}")),
                    }
                    return None;
                }
                self.cancel(name);
                let what = format!("cancelled; {} ends the command when it hears of it", self.peer);
                return Some(Ending::failed(Reason::Cancelled, what).by_signal(signal));
            }
            (self.asked, self.reminded) = (Some((signal, at)), false);
        }
        self.unsaid.extend(u8::try_from(signal).map(Control::Signal));
        None
    }

    /// Says what became of a signal that did not end the job, and what would.
    fn remind(&mut self) {
        if self.is_over() {
            return;
        }
        let now = if self.screen.has_progress() { Duration::ZERO } else { TWICE };
        if let Some((signal, _)) = self.asked.filter(|(_, at)| !self.reminded && at.elapsed() >= now) {
            let name = signals::name(signal);
            let what = if self.may_leave(signal) { "leaves the job to itself" } else { "cancels the job" };
            let text = format!("{name} was passed on to {}; twice within 2 s it {what}", self.peer);
            self.screen.note(text);
            self.reminded = true;
        }
    }

    /// Ends the job from our side; says what is known of it. Nothing ran if no
    /// `snd` can have left: `cancel` was put down under the message's lock, and
    /// nothing here is of a message that left. (All of it is of this boot: we are.)
    fn cancel(&self, why: &str) -> Outcome {
        let (fs, msgid) = (&*self.job.fs, self.job.msgid());
        let alone = submit::cancel(fs, msgid, why);
        let owner = Owner::read(fs, &Place::Jobs.dir(msgid)).ok().flatten();
        let unsent = owner.is_some_and(|owner| matches!(look::may_have_left(fs, msgid, &owner), Ok(false)));
        if matches!(alone, Ok(true)) && unsent { Outcome::NotStarted } else { Outcome::Unknown }
    }

    fn mark(&self, mark: Mark) -> Result<Option<Facts>, Error> {
        Facts::read(&*self.job.fs, &self.job.file(mark.name()))
    }

    fn has(&self, mark: Mark) -> bool {
        self.job.fs.exists(&self.job.file(mark.name()))
    }

    /// All that will come has been delivered: how it ended, and the mark that says we took it.
    fn end(&self) -> Ending {
        let outcome = self.exit.clone().or(self.done.clone()).unwrap_or(Outcome::Unknown);
        let delivered = |output: &Output| output.delivered.clone().unwrap_or(Delivered::Stopped { at: 0 });
        let outputs = self.outputs.each_ref().map(|output| (output.chan, delivered(output)));
        let (ending, known) = Ending::delivered(outcome.clone(), &outputs);
        let kept = outputs.iter().any(|(_, delivered)| matches!(delivered, Delivered::Broken { again: true, .. }));
        match self.stance.role {
            Role::Along => {}
            Role::Again if kept => {}
            Role::First | Role::Again | Role::Leaving => {
                self.leave_done(known);
                // Left to itself once, it is not any more: all of it was taken.
                let _ = submit::reattach(&*self.job.fs, self.job.msgid());
            }
        }
        self.judge_input(ending, outcome)
    }

    /// Puts down that the job was taken. Lost, or with no room for it, the loop
    /// finds the job unwanted and finishes it all the same.
    fn leave_done(&self, outcome: Outcome) {
        if self.done.is_some() {
            return;
        }
        let fs: &dyn Fs = &*self.job.fs;
        let facts = Facts::new().with("outcome", outcome).with_some("at", spool::clock::uptime(fs).ok());
        let _ = facts.hint(fs, &self.job.file(Mark::Done.name()));
        layout::touch(fs, Place::Jobs, self.job.msgid());
    }
}

fn say(speaker: &mut Option<Speaker>, job: &Job, control: &Control) -> Result<(), job::Error> {
    let speaker = match speaker {
        Some(speaker) => speaker,
        None => {
            let (dir, stream) = job.outgoing(Chan::CONTROL);
            speaker.insert(Speaker::new(Writer::open(job.spool(), &dir, job.keys.clone(), stream)?))
        }
    };
    Ok(speaker.say(control)?)
}
