//! What happens to the recipient: the turns of its actors, and the changes they make.
//!
//! Steps and changes are the product's tables; what a change does to the files
//! is what `loop/incoming.rs` and `loop/jobs.rs` do with it.

use super::keeper::{Deed, Keeper};
use super::recipient::{Exit, Fetched, Job, Named, Recipient, Rqueue, Supply};
use super::rules::{CHECK, NAMELESS_IN, ONE_RENAME};
use super::sender::{Input, Log, Slip};
use super::words::{Actor, Effect, Heard, Said, Side, Trail, Turn, World};
use r#loop::state::{self, Came, Change, File, RecipientStep, RqueueStep};
use spool::phase::{Belief, Mark, RecipientPhase, RqueueSeen};

/// A step of one of the recipient's actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Rqueue(RqueueStep),
    Job(RecipientStep),
    Keeper(Deed),
    /// A consumer asked for a look at our logs: they are damaged, so the job is cancelled.
    Check,
    Supply,
}

impl Rqueue {
    fn opens(&self) -> bool {
        matches!(self.ready, Fetched::Current | Fetched::Other)
    }

    fn turn(world: &World, seen: &RqueueSeen, req: Named) -> Turn<Step> {
        let step = world.rules.rqueue(seen);
        let said = match step {
            RqueueStep::Fetch if req == Named::Current => Some(Said::FetchCurrent),
            RqueueStep::Fetch => Some(Said::FetchOther),
            RqueueStep::Ask => Some(Said::Sta),
            RqueueStep::Drop
            | RqueueStep::Bury
            | RqueueStep::Open
            | RqueueStep::Promise
            | RqueueStep::Key
            | RqueueStep::TakeBack(_) => None,
        };
        Turn { actor: Actor::Rqueue, step: Step::Rqueue(step), said }
    }

    /// The directory under its new name.
    fn delivered(self) -> Job {
        Job {
            owner: true,
            message: self.message,
            unclean: true,
            receipt: self.receipt,
            acked: false,
            cancel: self.cancel,
            started: false,
            exit: Exit::Absent,
            outputs: false,
            control: false,
            log: Log::Sound,
            input: Input::Open,
            drained: false,
            over: self.over,
            remains: self.message || self.key || self.ready != Fetched::Absent,
            keeper: Keeper::Dead,
        }
    }

    /// Its facts are those of `recv.req` at this moment: they may be of another file.
    fn fetched(&self, heard: Heard) -> Fetched {
        match (heard, self.req) {
            (Heard::Opens, Named::Current) => Fetched::Current,
            (Heard::Poison, Named::Current) => Fetched::Poison,
            (Heard::OpensStale, Named::Other) => Fetched::Other,
            (Heard::PoisonStale, Named::Other) => Fetched::OtherPoison,
            _ => Fetched::Doubted,
        }
    }
}

impl Job {
    fn turns(&self, world: &World, turns: &mut Vec<Turn<Step>>) {
        let seen = self.seen(world);
        if self.log == Log::Tipped && self.owner {
            turns.push(Turn { actor: Actor::Job, step: Step::Check, said: None });
        }
        let step = world.rules.recipient(&seen, self.receipt);
        let mut push = |step, said| turns.push(Turn { actor: Actor::Job, step: Step::Job(step), said });
        match step {
            RecipientStep::Rest => {}
            // Whom to ask is not known.
            RecipientStep::Rcp | RecipientStep::Ask | RecipientStep::Stream if !self.owner => {}
            // A receipt that is none is worth nothing to the sender.
            RecipientStep::Rcp if self.receipt != Slip::Valid => {}
            RecipientStep::Rcp => push(step, Some(Said::Rcp)),
            RecipientStep::Ask | RecipientStep::Stream | RecipientStep::Release => push(step, Some(Said::Sta)),
            RecipientStep::Forget
            | RecipientStep::Destroy
            | RecipientStep::Clean
            | RecipientStep::Finish
            | RecipientStep::Cancel
            | RecipientStep::Vouch => push(step, None),
        }
        // Logs flow beside the steps.
        if seen.phase() == RecipientPhase::Live && self.owner {
            push(RecipientStep::Stream, Some(Said::Pull));
            if self.input == Input::Open {
                push(RecipientStep::Stream, Some(Said::Tip));
            }
        }
        for &deed in self.keeper_deeds(world) {
            turns.push(Turn { actor: Actor::Keeper, step: Step::Keeper(deed), said: None });
        }
    }
}

impl Recipient {
    fn apply(&mut self, world: &World, change: Change, heard: Heard) -> Effect {
        let mut effect = Effect::default();
        let (before, split) = (*self, world.rules.lacks(ONE_RENAME));
        let keyed = before.rqueue().is_some_and(|rqueue| rqueue.key);
        *self = match change {
            Change::Keep(File::Key) => self.in_rqueue(|rqueue| rqueue.key = true),
            Change::Lose(File::Key) => {
                effect.renewed = keyed;
                // In a job it counts as one of the remains.
                self.in_rqueue(Rqueue::lose_key)
            }
            Change::Keep(File::Message) => self.in_rqueue(|rqueue| rqueue.message = true),
            // The sealed file counts only with its mark, and `peer.req` not at all.
            Change::Keep(File::Sealed) | Change::Lose(File::Sealed) => before,
            Change::Put(Mark::PeerReq) | Change::Take(Mark::PeerReq) => before,
            Change::Put(Mark::PeerOk) => self.in_rqueue(|rqueue| {
                rqueue.peer_ok = if rqueue.key { Belief::Believed } else { Belief::Doubted };
            }),
            Change::Take(Mark::PeerOk) => self.in_rqueue(|rqueue| rqueue.peer_ok = Belief::Absent),
            Change::Take(Mark::RecvReq) => self.in_rqueue(|rqueue| rqueue.req = Named::Absent),
            Change::Put(Mark::RecvRdy) => self.in_rqueue(|rqueue| rqueue.ready = rqueue.fetched(heard)),
            Change::Take(Mark::RecvRdy) => self.in_rqueue(|rqueue| rqueue.ready = Fetched::Absent),
            Change::Put(Mark::Receipt) => {
                effect.delivered = split && before.job().is_none();
                self.in_rqueue(|rqueue| rqueue.receipt = Slip::Valid).in_job(|job| job.receipt = Slip::Valid)
            }
            Change::Take(Mark::Receipt) => self.in_rqueue(|rqueue| rqueue.receipt = Slip::Absent),
            Change::Put(Mark::Over) => self.in_rqueue(|rqueue| rqueue.over = true),
            Change::Take(Mark::Over) => self.in_rqueue(|rqueue| rqueue.over = false),
            Change::Deliver => match before {
                Recipient::Rqueue(Some(rqueue)) => {
                    effect.renewed = keyed;
                    effect.delivered = !split && rqueue.message && !rqueue.over;
                    Recipient::Job { beside: false, job: rqueue.delivered() }
                }
                Recipient::Nothing(_) | Recipient::Rqueue(None) | Recipient::Job { .. } => before,
            },
            Change::ForgetRqueue => {
                effect.renewed = keyed;
                match before {
                    Recipient::Job { job, .. } => Recipient::Job { beside: false, job },
                    Recipient::Nothing(_) | Recipient::Rqueue(_) => Recipient::Nothing(Supply::Full),
                }
            }
            Change::Put(Mark::RecvOk) => self.in_job(|job| job.unclean = false),
            Change::Put(Mark::Acked) => self.in_job(|job| job.acked = true),
            Change::PutInJob(Mark::Cancel) => self.in_job(|job| job.cancel = true),
            Change::PutInJob(Mark::Over) => self.in_job(|job| job.over = true),
            Change::Destroy => self.in_job(|job| {
                (job.message, job.remains, job.outputs, job.control) = (false, false, false, false);
                (job.input, job.log, job.drained, job.cancel) = (Input::Open, Log::Sound, false, false);
            }),
            Change::ForgetJob => match before {
                Recipient::Job { beside: true, .. } => Recipient::Rqueue(Some(Rqueue::BARE)),
                _ => Recipient::Nothing(Supply::Full),
            },
            other => panic!("{other:?} is no change of a recipient's step"),
        };
        effect
    }

    /// As `loop/job_check.rs`.
    fn checked(self, world: &World) -> Recipient {
        self.in_job(|job| {
            job.log = Log::Spoilt;
            job.cancel |= !world.rules.lacks(CHECK);
        })
    }

    fn pulled(self, heard: Heard) -> Recipient {
        let input = match heard {
            Heard::Eof => Input::Eof,
            Heard::Aborted => Input::Aborted,
            _ => Input::Open,
        };
        self.in_job(|job| {
            if job.input == Input::Open {
                job.input = input;
                job.remains |= input != Input::Open;
            }
        })
    }
}

impl Side for Recipient {
    type Step = Step;

    fn legal(self) -> bool {
        match self {
            Recipient::Nothing(_) | Recipient::Rqueue(None) => true,
            Recipient::Rqueue(Some(rqueue)) => {
                let promised = rqueue.peer_ok == Belief::Believed;
                let noticed = matches!(rqueue.req, Named::Current | Named::Other);
                let fetched = !matches!(rqueue.ready, Fetched::Absent | Fetched::Doubted);
                (rqueue.key || !promised) && (promised || !(noticed || fetched))
            }
            Recipient::Job { job, .. } => {
                let logs = job.outputs || job.control || job.input != Input::Open || job.log != Log::Sound;
                let files = job.message || logs;
                (job.remains || !files) && (!job.drained || (job.outputs && job.control)) && job.log != Log::Cut
            }
        }
    }

    fn clean(self, world: &World) -> bool {
        match self {
            Recipient::Nothing(_) => true,
            Recipient::Rqueue(_) | Recipient::Job { beside: true, .. } => false,
            Recipient::Job { beside: false, job } => {
                job.keeper == Keeper::Dead && job.seen(world).phase() == RecipientPhase::Over
            }
        }
    }

    fn settled(self) -> bool {
        matches!(self, Recipient::Nothing(_) | Recipient::Job { beside: false, .. })
    }

    fn bond(self) -> u8 {
        let Some(rqueue) = self.rqueue() else { return 0 };
        let file = match (rqueue.ready, rqueue.req) {
            (Fetched::Current, _) => 2,
            (Fetched::Poison, _) => 3,
            (_, Named::Current) => 1,
            _ => 0,
        };
        u8::from(rqueue.key) | file << 1
    }

    fn turns(self, world: &World) -> Vec<Turn<Step>> {
        let mut turns = Vec::with_capacity(4);
        match self {
            Recipient::Nothing(Supply::Full) => {}
            Recipient::Nothing(Supply::NoStock | Supply::NoRoom) => {
                turns.push(Turn { actor: Actor::Supply, step: Step::Supply, said: None });
            }
            Recipient::Rqueue(None) if world.rules.lacks(NAMELESS_IN) => {}
            Recipient::Rqueue(None) => turns.push(Rqueue::turn(world, &RqueueSeen::default(), Named::Absent)),
            Recipient::Rqueue(Some(rqueue)) => turns.push(Rqueue::turn(world, &rqueue.seen(false), rqueue.req)),
            Recipient::Job { beside, job } => {
                if beside {
                    turns.push(Rqueue::turn(world, &Rqueue::BARE.seen(true), Named::Absent));
                }
                job.turns(world, &mut turns);
            }
        }
        turns
    }

    fn asking(self, _: &World, _: Turn<Step>) -> Recipient {
        self
    }

    fn follow(self, world: &World, turn: Turn<Step>, heard: Heard) -> Trail<Recipient> {
        let came = if turn.said.is_none() { Came::Worked } else { world.rules.came(heard) };
        let changes = match (turn.step, self) {
            (Step::Supply, _) => return vec![(Recipient::Nothing(Supply::Full), Effect::default())],
            (Step::Keeper(deed), Recipient::Job { beside, job }) => {
                let (job, effect) = job.keep(world, deed);
                return vec![(Recipient::Job { beside, job }, effect)];
            }
            (Step::Keeper(_), _) => &[],
            (Step::Rqueue(RqueueStep::Open), _) if !self.rqueue().is_some_and(|rqueue| rqueue.opens()) => {
                world.rules.rqueue_after(RqueueStep::Open, Came::Failed)
            }
            (Step::Rqueue(step), _) => world.rules.rqueue_after(step, came),
            (Step::Check, _) => return vec![(self.checked(world), Effect::default())],
            (Step::Job(_), _) if turn.said == Some(Said::Tip) => &[],
            (Step::Job(_), _) if turn.said == Some(Said::Pull) => {
                return vec![(self.pulled(heard), Effect::default())];
            }
            (Step::Job(step), _) => state::recipient_after(step, came, self.job().is_some_and(|job| job.over)),
        };
        let (mut here, mut effect) = (self, Effect::default());
        let mut trail = Vec::with_capacity(changes.len().max(1));
        for &change in changes {
            effect = effect.and(here.apply(world, change, heard));
            trail.push((here, effect));
        }
        if trail.is_empty() {
            trail.push((here, effect));
        }
        trail
    }

    fn answer(self, world: &World, said: Said) -> (Recipient, Heard) {
        self.answered(world, said)
    }

    fn renewed(self) -> Recipient {
        self.in_rqueue(|rqueue| {
            rqueue.req = if rqueue.req == Named::Current { Named::Other } else { rqueue.req };
            rqueue.ready = match rqueue.ready {
                Fetched::Current => Fetched::Other,
                Fetched::Poison => Fetched::OtherPoison,
                same => same,
            };
        })
    }

    fn hears() -> &'static [Said] {
        use Said::*;
        &[Msg, SndCurrent, SndStale, Ack, Sta, Cxl, Pull, Got, Tip]
    }

    fn may_hear(said: Said) -> &'static [Heard] {
        use Heard::*;
        match said {
            Said::Rcp => &[Silence, Ok, Done, Gone],
            Said::Sta => &[Silence, Ok, Gone, OutcomeRan, Later],
            Said::FetchCurrent => &[Silence, Opens, Poison, Mismatch, Ok, Gone, OutcomeRan, Later],
            Said::FetchOther => &[Silence, Mismatch, Ok, Gone, OutcomeRan, Later],
            Said::Pull => &[Silence, Bytes, Eof, Aborted],
            Said::Tip => &[Silence, Ok, Gone],
            other => panic!("a recipient never says {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::Coded;
    use super::*;
    use service::answer::{Seen, answer};
    use spool::name::Digest;
    use spool::url::{Ask, Sealed};

    /// Why `Recipient::Job` has one bit for it.
    #[test]
    fn whatever_lies_in_rqueue_beside_a_job_is_dropped_and_answers_nothing() {
        let digest = Digest([9; 32]);
        let asks = [Ask::Msg, Ask::Snd(Sealed { digest, length: 1, key: digest }), Ask::Ack, Ask::Sta, Ask::Cxl];
        let jobs: Vec<Seen> = Recipient::all()
            .step_by(97)
            .filter(|state| state.job().is_some())
            .map(|state| state.service_seen())
            .collect();
        for rqueue in Rqueue::all() {
            assert_eq!(state::rqueue(&rqueue.seen(true)), RqueueStep::Drop);
            for job in jobs.iter().step_by(if cfg!(debug_assertions) { 999 } else { 37 }) {
                for ask in &asks {
                    let beside = Seen { incoming: Some(rqueue.incoming()), ..*job };
                    assert_eq!(answer(&beside, ask), answer(job, ask));
                }
            }
        }
    }

    #[test]
    fn an_old_message_is_dropped_or_buried_and_nothing_else() {
        for rqueue in Rqueue::all() {
            let old = RqueueSeen { too_old: true, ..rqueue.seen(false) };
            assert_eq!(state::rqueue(&old), if rqueue.cancel { RqueueStep::Bury } else { RqueueStep::Drop });
        }
    }
}
