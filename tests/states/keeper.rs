//! The keeper of the abstract world: a process, which knows only how far it is.
//!
//! Where it begins is the product's `keeper_phase`; the order of the rest is
//! doc/SPOOL.md#jobs: `run.started`, the command, END of the outputs,
//! `run.exit`, EXIT and END on the control log. Each is a step, and it can die
//! between any two; the guard then kills the command. What may be run again
//! holds its outputs back: their END is seen (`outputs`) when they are offered,
//! after `run.exit`. What an interrupted run had held back is dropped, and no state.

use super::code::coded_enum;
use super::recipient::{Exit, Job};
use super::rules::{
    EXIT_AFTER_OUTPUTS, EXIT_FIRST, NEVER_AGAIN, OFFER_LAST, OFFERED_STAYS, STARTED_FIRST, STARTED_STAYS, WHOLE_FIRST,
};
use super::sender::Input;
use super::words::{Effect, World};
use spool::phase::KeeperPhase;

coded_enum!(
    /// How far a keeper is.
    Keeper {
        /// There is none.
        Dead,
        /// It has the lock, and looks.
        Looking,
        /// `run.started` is durable.
        Started,
        /// The command runs.
        Running,
        /// The command has ended: outputs are to be ended.
        EndingRan,
        /// The last keeper died: outputs are to be ended.
        EndingInterrupted,
        /// The gluepot says no: outputs are to be ended.
        EndingRefused,
        /// `run.exit` is to be made.
        LeavingRan,
        LeavingInterrupted,
        LeavingRefused,
        /// EXIT and END of the control log are to be made.
        Telling,
    }
);

coded_enum!(
    /// What a keeper does next.
    Deed {
        /// The daemon starts it.
        Begin,
        /// It looks, and the gluepot permits the command.
        Look,
        /// It looks, and the gluepot does not.
        Refuse,
        /// It starts the command.
        Run,
        /// The command ends, or is killed.
        End,
        /// It makes the next mark, or END.
        Write,
    }
);

impl Job {
    /// What the daemon and the keeper can do here.
    pub fn keeper_deeds(&self, world: &World) -> &'static [Deed] {
        match self.keeper {
            Keeper::Dead if self.seen(world).wants_keeper() => &[Deed::Begin],
            Keeper::Dead => &[],
            Keeper::Looking => match self.keeper_phase(world) {
                KeeperPhase::Start | KeeperPhase::Again if !self.owner || self.was_refused(world) => &[Deed::Look],
                KeeperPhase::Start | KeeperPhase::Again if self.awaits_input(world) => &[Deed::Refuse],
                KeeperPhase::Start | KeeperPhase::Again => &[Deed::Look, Deed::Refuse],
                KeeperPhase::Nothing | KeeperPhase::Interrupted | KeeperPhase::Unannounced => &[Deed::Look],
            },
            Keeper::Started => &[Deed::Run],
            // The worst command: it reads all its input before it ends.
            Keeper::Running if self.input == Input::Open && !self.cancel && !self.over => &[],
            Keeper::Running => &[Deed::End],
            Keeper::EndingRan | Keeper::EndingInterrupted | Keeper::EndingRefused => &[Deed::Write],
            Keeper::LeavingRan | Keeper::LeavingInterrupted | Keeper::LeavingRefused => &[Deed::Write],
            Keeper::Telling => &[Deed::Write],
        }
    }

    /// Did a crash cut a refusal short? What is held back keeps no trace of one.
    fn was_refused(&self, world: &World) -> bool {
        self.outputs && !world.repeat
    }

    /// Must the input come first, and has it not ended yet?
    fn awaits_input(&self, world: &World) -> bool {
        world.batch && self.input == Input::Open && !world.rules.lacks(WHOLE_FIRST)
    }

    fn keeper_phase(&self, world: &World) -> KeeperPhase {
        let mut seen = self.seen(world);
        seen.outputs_ended &= !world.rules.lacks(OFFERED_STAYS);
        match seen.keeper_phase(world.repeat) {
            KeeperPhase::Interrupted if world.rules.lacks(NEVER_AGAIN) => KeeperPhase::Start,
            phase => phase,
        }
    }

    /// Does it.
    pub fn keep(mut self, world: &World, deed: Deed) -> (Job, Effect) {
        let mut effect = Effect::default();
        self.keeper = match (self.keeper, deed) {
            (Keeper::Dead, Deed::Begin) => Keeper::Looking,
            (Keeper::Looking, Deed::Refuse) if self.started => Keeper::EndingInterrupted,
            (Keeper::Looking, Deed::Refuse) => Keeper::EndingRefused,
            // Without an owner there is no gluepot to ask, without the message no secret.
            (Keeper::Looking, _) if !self.owner || !self.message => Keeper::Dead,
            (Keeper::Looking, _) => match self.keeper_phase(world) {
                KeeperPhase::Nothing => Keeper::Dead,
                // A refusal that a crash cut short stays one.
                KeeperPhase::Start if self.was_refused(world) => Keeper::EndingRefused,
                // The input broke off before anything was started.
                KeeperPhase::Start if world.batch && self.input == Input::Aborted => Keeper::EndingRefused,
                KeeperPhase::Again if world.rules.lacks(STARTED_STAYS) => {
                    self.started = false;
                    Keeper::Looking
                }
                KeeperPhase::Again if world.batch && self.input != Input::Eof => Keeper::EndingInterrupted,
                KeeperPhase::Start | KeeperPhase::Again => {
                    effect.started = world.rules.lacks(STARTED_FIRST);
                    self.started |= !effect.started;
                    Keeper::Started
                }
                KeeperPhase::Interrupted => Keeper::EndingInterrupted,
                KeeperPhase::Unannounced => Keeper::Telling,
            },
            (Keeper::Started, _) => {
                effect.started = !world.rules.lacks(STARTED_FIRST);
                self.started = true;
                Keeper::Running
            }
            (Keeper::Running, _) => {
                self.outputs |= world.rules.lacks(OFFER_LAST);
                Keeper::EndingRan
            }
            (Keeper::EndingRan, _) => self.end_outputs(world, Keeper::LeavingRan, Exit::Ran),
            (Keeper::EndingInterrupted, _) => self.end_outputs(world, Keeper::LeavingInterrupted, Exit::Interrupted),
            (Keeper::EndingRefused, _) => self.end_outputs(world, Keeper::LeavingRefused, Exit::Idle),
            (Keeper::LeavingRan, _) => self.leave(world, Exit::Ran),
            (Keeper::LeavingInterrupted, _) => self.leave(world, Exit::Interrupted),
            (Keeper::LeavingRefused, _) => self.leave(world, Exit::Idle),
            // Whatever has no END gets one, the control log last.
            (Keeper::Telling, _) if !self.outputs => {
                (self.outputs, self.remains) = (true, true);
                Keeper::Telling
            }
            (Keeper::Telling | Keeper::Dead, _) => {
                (self.control, self.remains) = (true, true);
                Keeper::Dead
            }
        };
        (self, effect)
    }

    fn end_outputs(&mut self, world: &World, next: Keeper, exit: Exit) -> Keeper {
        if world.rules.lacks(EXIT_AFTER_OUTPUTS) {
            self.put_exit(exit);
        } else if !world.repeat {
            self.outputs = true;
            self.remains = true;
        }
        next
    }

    fn leave(&mut self, world: &World, exit: Exit) -> Keeper {
        if world.rules.lacks(EXIT_FIRST) {
            self.control = true;
            self.remains = true;
            return Keeper::Dead;
        }
        if world.rules.lacks(EXIT_AFTER_OUTPUTS) {
            self.outputs = true;
            self.remains = true;
        } else {
            self.put_exit(exit);
        }
        Keeper::Telling
    }

    /// Never replaced: the first exit stands.
    fn put_exit(&mut self, exit: Exit) {
        if self.exit == Exit::Absent {
            self.exit = exit;
        }
    }
}
