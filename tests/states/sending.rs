//! What happens to the sender: the turns of its actors, and the changes they make.
//!
//! Steps and changes are the product's tables; what a change does to the files
//! is what `loop/outgoing.rs` and `loop/jobs.rs` do with it.

use super::code::Coded;
use super::rules::{CHECK, SPOT};
use super::sender::{Asked, Input, Jobs, Letter, Log, Nameless, Queue, Ready, Sealed, Sender, Slip, Told};
use super::words::{Actor, Effect, Heard, Said, Side, Trail, Turn, World};
use r#loop::state::{self, Came, Change, File, QueueStep, RecipientStep, SenderStep};
use spool::phase::{Belief, Mark, SenderPhase, SenderSeen};

/// What `plumb` and its user do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    /// The message is queued: the job is committed already.
    Enqueue,
    /// The message was removed from the queue by hand: that cancels.
    Miss,
    /// The input ends.
    Feed,
    /// The END of the input is gone from our disk: that cancels.
    Spot,
    /// The output is taken.
    Take,
    /// The job is done, and `plumb` ends.
    Leave,
}

/// A step of one of the sender's actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Queue(QueueStep),
    Asked(SenderStep),
    Nameless(RecipientStep),
    /// A consumer asked for a look at our log: it is damaged, so the job is cancelled.
    Check,
    Plumb(Deed),
}

impl Sender {
    fn queue_turn(self, world: &World) -> Option<Turn<Step>> {
        let step = world.rules.queue(&self.queue_seen(world)?);
        let said = match step {
            QueueStep::Rest => return None,
            QueueStep::Msg => Some(Said::Msg),
            QueueStep::Ack => Some(Said::Ack),
            // What `send.ok` says cannot be read.
            QueueStep::Snd if self.queue?.ok == Belief::Doubted => return None,
            QueueStep::Snd => match self.queue?.sealed {
                Sealed::Current | Sealed::Poison => Some(Said::SndCurrent),
                Sealed::Absent | Sealed::Stale => Some(Said::SndStale),
            },
            QueueStep::Drop | QueueStep::Accept | QueueStep::TakeBack(_) | QueueStep::GiveUp | QueueStep::Seal => None,
        };
        Some(Turn { actor: Actor::Queue, step: Step::Queue(step), said })
    }

    fn asked_turns(self, world: &World, turns: &mut Vec<Turn<Step>>) {
        let Some(seen) = self.asked_seen(world) else { return };
        if self.asked().is_some_and(|asked| asked.log == Log::Tipped && asked.key) {
            turns.push(Turn { actor: Actor::Asked, step: Step::Check, said: None });
        }
        let mut push = |step, said| turns.push(Turn { actor: Actor::Asked, step: Step::Asked(step), said });
        match world.rules.sender(&seen) {
            SenderStep::Rest => {}
            step @ (SenderStep::Tell | SenderStep::Cxl) => push(step, Some(Said::Cxl)),
            step @ SenderStep::Stream => {
                push(step, Some(Said::Pull));
                push(step, Some(Said::Sta));
                if !seen.ended {
                    push(step, Some(Said::Tip));
                }
            }
            step @ (SenderStep::Forget | SenderStep::Finish | SenderStep::Cancel | SenderStep::Abort) => {
                push(step, None);
            }
        }
        if seen.phase() == SenderPhase::Ending {
            push(state::sender(&SenderSeen { patience_over: true, ..seen }), None);
        }
    }

    fn plumb_turns(self, world: &World, turns: &mut Vec<Turn<Step>>) {
        let Some(seen) = self.asked_seen(world) else { return };
        let mut push = |deed| turns.push(Turn { actor: Actor::Plumb, step: Step::Plumb(deed), said: None });
        if seen.done && seen.wanted {
            push(Deed::Leave);
        }
        match seen.phase() {
            SenderPhase::Ended if !world.uncollected => push(Deed::Take),
            // It is queued once, before anything can have left.
            SenderPhase::Unqueued if !seen.sent => push(Deed::Enqueue),
            // The message is gone from the queue, and no receipt came.
            SenderPhase::Live if !seen.queue && self.asked().is_some_and(|asked| asked.receipt == Slip::Absent) => {
                push(Deed::Miss);
            }
            _ => {}
        }
        if seen.wanted && self.is_open() && !seen.done && !seen.cancel && seen.key {
            push(Deed::Feed);
        }
        if self.asked().is_some_and(|asked| asked.log == Log::Cut) && seen.wanted && !seen.done && !seen.cancel {
            push(Deed::Spot);
        }
    }

    fn apply(&mut self, change: Change, step: Step, heard: Heard) -> Effect {
        let mut effect = Effect::default();
        let sealed_before = self.queue.is_some_and(|queue| queue.sealed != Sealed::Absent);
        *self = match change {
            Change::Keep(File::Sealed) => {
                effect.renewed = sealed_before;
                self.in_queue(|queue| {
                    queue.sealed = if queue.ready == Ready::Current { Sealed::Current } else { Sealed::Stale };
                })
            }
            Change::Lose(File::Message) => self.in_queue(|queue| queue.letter = Letter::Lost),
            // The certificate counts only with its mark, and `send.req` not at all.
            Change::Keep(File::Certificate) | Change::Put(Mark::SendReq) | Change::Take(Mark::SendReq) => *self,
            Change::Put(Mark::SendRdy) => self.in_queue(|queue| {
                queue.ready = if heard == Heard::OkStale { Ready::Stale } else { Ready::Current };
            }),
            Change::Take(Mark::SendRdy) => self.in_queue(|queue| queue.ready = Ready::Absent),
            Change::Put(Mark::SendOk) => self.in_queue(|queue| queue.ok = Belief::Believed),
            Change::Take(Mark::SendOk) => self.in_queue(|queue| queue.ok = Belief::Absent),
            Change::Put(Mark::AckReq) => self.in_queue(|queue| {
                queue.ack_req = if heard == Heard::ReceiptValid { Slip::Valid } else { Slip::Garbage };
            }),
            Change::Take(Mark::AckReq) => self.in_queue(|queue| queue.ack_req = Slip::Absent),
            Change::Put(Mark::AckOk) => self.in_queue(|queue| queue.ack_ok = true),
            Change::Take(Mark::AckOk) => self.in_queue(|queue| queue.ack_ok = false),
            Change::PutInJob(Mark::Sent) => self.with(|asked| asked.sent = true),
            Change::PutInJob(Mark::Receipt) => self.with(|asked| asked.receipt = Slip::Valid),
            Change::PutInJob(Mark::Cancel) => self.with(|asked| asked.cancel = true),
            Change::PutInJob(Mark::Done) => {
                let told = self.outcome(step, heard);
                self.with(|asked| asked.done = told)
            }
            Change::PutInJob(Mark::Over) => Sender { jobs: Jobs::Nameless(Nameless::Remains), ..*self },
            Change::Destroy => Sender { jobs: Jobs::Nameless(Nameless::Over), ..*self },
            Change::Abort => self.with(|asked| {
                if asked.input == Input::Open || asked.log == Log::Cut {
                    asked.input = Input::Aborted;
                }
                asked.log = if asked.log == Log::Cut { Log::Sound } else { asked.log };
            }),
            Change::ForgetQueue => {
                effect.renewed = sealed_before;
                Sender { queue: None, ..*self }
            }
            Change::ForgetJob => Sender { jobs: Jobs::Absent, ..*self },
            other => panic!("{other:?} is no change of a sender's step {step:?}"),
        };
        effect
    }

    /// The outcome that `done` gets.
    fn outcome(self, step: Step, heard: Heard) -> Told {
        let unsent = self.asked().is_some() && !self.may_have_left();
        match (step, heard) {
            (Step::Asked(SenderStep::Finish), _) if unsent => Told::Idle,
            (Step::Queue(_) | Step::Asked(SenderStep::Cxl | SenderStep::Stream), Heard::OutcomeIdle) => Told::Idle,
            _ => Told::Other,
        }
    }

    /// Has `plumb` more input to give?
    fn is_open(self) -> bool {
        self.asked().is_some_and(|asked| asked.input == Input::Open)
    }

    /// As `loop/job_check.rs`.
    fn checked(self, world: &World) -> Sender {
        self.with(|asked| {
            asked.log = Log::Spoilt;
            asked.cancel |= !world.rules.lacks(CHECK);
        })
    }

    fn pulled(self, heard: Heard) -> (Sender, Effect) {
        if !self.asked().is_some_and(|asked| asked.key) {
            return (self, Effect::default());
        }
        let here = self.with(|asked| {
            asked.outputs |= matches!(heard, Heard::Outputs | Heard::Ends);
            asked.control |= matches!(heard, Heard::Control | Heard::Ends);
        });
        let got = here.asked().is_some_and(|asked| asked.outputs && asked.control);
        (here, Effect { got, ..Effect::default() })
    }

    fn does(self, world: &World, deed: Deed) -> Sender {
        match deed {
            Deed::Enqueue => {
                let queue = Queue {
                    letter: Letter::Whole,
                    ready: Ready::Absent,
                    ok: Belief::Absent,
                    sealed: Sealed::Absent,
                    ack_req: Slip::Absent,
                    ack_ok: false,
                };
                Sender { queue: Some(queue), ..self }
            }
            Deed::Miss => self.with(|asked| asked.cancel = true),
            Deed::Feed => self.with(|asked| asked.input = Input::Eof),
            Deed::Spot => self.with(|asked| asked.cancel |= !world.rules.lacks(SPOT)),
            Deed::Take => self.with(|asked| asked.done = Told::Other),
            Deed::Leave => self.with(|asked| asked.wanted = false),
        }
    }
}

impl Side for Sender {
    type Step = Step;

    fn legal(self) -> bool {
        let cut = self.asked().is_some_and(|asked| asked.log == Log::Cut && asked.input == Input::Open);
        !cut && self.queue.is_none_or(|queue| queue.ok != Belief::Believed || queue.sealed != Sealed::Absent)
    }

    fn clean(self, world: &World) -> bool {
        let jobs = match self.jobs {
            Jobs::Absent => true,
            Jobs::Nameless(Nameless::Over) => !world.tombstone_old,
            Jobs::Nameless(_) | Jobs::Asked(_) => false,
        };
        jobs && self.queue.is_none()
    }

    fn settled(self) -> bool {
        self.queue.is_none()
    }

    fn bond(self) -> u8 {
        let Some(queue) = self.queue else { return 0 };
        let keyed = queue.ready == Ready::Current || matches!(queue.sealed, Sealed::Current | Sealed::Poison);
        u8::from(keyed) | (queue.sealed.code() as u8) << 1
    }

    fn turns(self, world: &World) -> Vec<Turn<Step>> {
        let mut turns = Vec::with_capacity(6);
        turns.extend(self.queue_turn(world));
        self.asked_turns(world, &mut turns);
        self.plumb_turns(world, &mut turns);
        let nameless = self.nameless_seen(world).map(|seen| world.rules.recipient(&seen, Slip::Absent));
        if let Some(step) = nameless.filter(|&step| step != RecipientStep::Rest) {
            turns.push(Turn { actor: Actor::Asked, step: Step::Nameless(step), said: None });
        }
        turns
    }

    fn asking(mut self, world: &World, turn: Turn<Step>) -> Sender {
        if let Step::Queue(step) = turn.step {
            for &change in world.rules.queue_before(step) {
                self.apply(change, turn.step, Heard::Silence);
            }
        }
        self
    }

    fn follow(self, world: &World, turn: Turn<Step>, heard: Heard) -> Trail<Sender> {
        let came = if turn.said.is_none() { Came::Worked } else { world.rules.came(heard) };
        let changes = match turn.step {
            // The message does not open.
            Step::Queue(QueueStep::Seal) if self.queue.is_some_and(|queue| queue.letter == Letter::Lost) => &[],
            Step::Queue(step) => world.rules.queue_after(step, came),
            Step::Asked(SenderStep::Stream) if turn.said == Some(Said::Pull) => return vec![self.pulled(heard)],
            Step::Asked(SenderStep::Stream) if turn.said == Some(Said::Tip) => &[],
            Step::Check => return vec![(self.checked(world), Effect::default())],
            Step::Asked(step) => state::sender_after(step, came),
            Step::Nameless(step) => state::recipient_after(step, came, true),
            Step::Plumb(deed) => return vec![(self.does(world, deed), Effect::default())],
        };
        let read_by_plumb = matches!(self.jobs, Jobs::Asked(Asked { wanted: true, .. }));
        if changes.contains(&Change::ForgetJob) && read_by_plumb {
            return vec![(self, Effect::default())];
        }
        // Made for this answer: the key before it is gone.
        let mut here = if heard == Heard::OkFresh { self.renewed() } else { self };
        let mut effect = Effect::default();
        let mut trail = Vec::with_capacity(changes.len().max(1));
        for &change in changes {
            effect = effect.and(here.apply(change, turn.step, heard));
            trail.push((here, effect));
        }
        if trail.is_empty() {
            trail.push((here, effect));
        }
        trail
    }

    fn answer(self, world: &World, said: Said) -> (Sender, Heard) {
        self.answered(world, said)
    }

    fn renewed(self) -> Sender {
        self.in_queue(|queue| {
            if queue.ready == Ready::Current {
                queue.ready = Ready::Stale;
            }
            if matches!(queue.sealed, Sealed::Current | Sealed::Poison) {
                queue.sealed = Sealed::Stale;
            }
        })
    }

    fn hears() -> &'static [Said] {
        use Said::*;
        &[Rcp, Sta, FetchCurrent, FetchOther, Pull, Tip]
    }

    fn may_hear(said: Said) -> &'static [Heard] {
        use Heard::*;
        match said {
            Said::Msg => &[Silence, Ok, OkFresh, ReceiptValid, ReceiptGarbage, OutcomeIdle, OutcomeRan, Later],
            Said::SndCurrent | Said::SndStale => {
                &[Silence, Ok, ReceiptValid, ReceiptGarbage, OutcomeIdle, OutcomeRan, NeedKey, Later]
            }
            Said::Ack => &[Ok, Silence],
            Said::Cxl => &[Silence, Ok, OutcomeIdle, OutcomeRan, Later],
            Said::Sta => &[Silence, Ok, Gone, OutcomeIdle, OutcomeRan, Later],
            Said::Pull => &[Silence, Bytes, Outputs, Control, Ends],
            Said::Tip => &[Silence, Ok, Gone],
            other => panic!("a sender never says {other:?}"),
        }
    }
}
