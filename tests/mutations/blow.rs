//! The blow: daemons are stopped or killed, files are struck, and what that may do is noted.

use super::choose;
use super::fault::{Blow, Fault, Mode, SIDES, Verb};
use super::ground;
use super::judge::Promise;
use super::round::{Round, stop};
use crate::homes::kill_9;
use std::collections::BTreeSet;
use std::fs;

impl Round {
    /// Notes where each job is.
    fn note_phases(&mut self) {
        for side in [0, 1] {
            for place in ["queue", "rqueue", "jobs"] {
                let spool = &self.ground.spools[side];
                for (name, id) in &self.ground.ids {
                    let directory = spool.join(place).join(id);
                    if !directory.exists() {
                        continue;
                    }
                    let mut files = ground::names(&directory);
                    files.retain(|name| !["peer", "message", "in", "out", "why", "priority"].contains(&name.as_str()));
                    files.sort();
                    let text = format!("{} {place}[{}] ", SIDES[side], files.join(" "));
                    self.phases.entry(name.clone()).or_default().push_str(&text);
                }
            }
        }
        let text: String = self.phases.iter().map(|(name, phase)| format!("{name}: {phase}\n")).collect();
        let _ = fs::write(self.directory.join("phases"), text);
    }

    /// Strikes, and opens the links again.
    pub fn strike(&mut self, wished: Option<&Blow>) -> Blow {
        let blow = wished.cloned().unwrap_or_else(|| choose::blow(&mut self.chance, &self.ground, self.moments));
        let sides: BTreeSet<usize> = blow.faults.iter().map(|fault| fault.side).collect();
        for side in &sides {
            match blow.mode {
                Mode::Live => {}
                Mode::Stopped => stop(&mut self.peers[*side]),
                Mode::Killed | Mode::Crashed => {
                    let peer = &mut self.peers[*side];
                    let verbs = ["service", "loop", "keeper"];
                    let last = if blow.mode == Mode::Crashed { 3 } else { 2 };
                    for pid in verbs[..last].iter().flat_map(|verb| peer.children(verb)) {
                        kill_9(pid);
                    }
                    peer.kill();
                }
            }
        }
        self.note_phases();
        if blow.mode == Mode::Crashed {
            self.shaken(&sides);
        }
        for fault in &blow.faults {
            self.expect_of(fault);
            let struck = self.ground.strike(fault);
            if let (Err(error), Some(_)) = (&struck, wished) {
                self.note(Promise::Prepared, "blow", format!("{fault} cannot be done: {error}"));
            }
            let result =
                struck.map_or_else(|error| format!("{fault}: missed: {error}"), |()| format!("{fault}: struck"));
            self.notes.push(result);
        }
        if blow.mode != Mode::Live {
            sides.iter().for_each(|side| self.peers[*side].up_without_waiting());
        }
        std::thread::sleep(self.chance.below_millis(1500));
        self.links.iter().for_each(|link| link.swallow(false));
        blow
    }

    /// Notes the jobs whose commands are killed with their keepers: their outcome may be "interrupted".
    fn shaken(&mut self, sides: &BTreeSet<usize>) {
        for job in self.jobs.iter().filter(|job| sides.contains(&(1 - job.plan.from))) {
            let at = |mark: &str| job.at(&self.peers, "jobs", mark)[0].exists();
            if at("/run.started") && !at("/over") {
                self.touched.extend(job.id.clone());
            }
        }
    }

    /// Notes what a fault may do before it does so.
    fn expect_of(&mut self, fault: &Fault) {
        let ids = self.ground.touched(fault);
        let parts = self.ground.below(fault.side, &fault.path).iter().count();
        self.home_wide |= ids.is_empty() || parts < 2;
        for id in ids {
            let job = self.jobs.iter().find(|job| job.id.as_deref() == Some(&id));
            let takes_all = parts <= 2
                && matches!(
                    fault.verb,
                    Verb::Delete | Verb::Empty | Verb::Swap(_) | Verb::Become(_) | Verb::Old(_) | Verb::Mode
                );
            let in_jobs = self.ground.below(fault.side, &fault.path).starts_with("jobs");
            if fault.path.ends_with("/detached") && fault.verb == Verb::Delete {
                // Documented: the job is as one whose `plumb` was killed, of which nobody is to hear.
                self.removed.insert(id.clone());
            }
            if let Some(job) = job.filter(|_| takes_all) {
                let is_sender = job.plan.from == fault.side;
                if is_sender && in_jobs {
                    self.removed.insert(id.clone());
                }
                let acked = job.at(&self.peers, "jobs", "/acked")[0].exists();
                // Documented in doc/SPOOL.md#by-hand: a recipient that lost a job before `acked`
                // receives it again, and an old copy knows of no run that came later.
                if in_jobs && (!is_sender && !acked || matches!(fault.verb, Verb::Old(_))) {
                    self.may_rerun.insert(id.clone());
                }
            }
            self.touched.insert(id);
        }
    }
}
