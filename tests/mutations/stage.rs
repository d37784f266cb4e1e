//! How a round begins: every job is brought where it is to be at the blow.

use super::fault::SIDES;
use super::ground;
use super::round::{OLD_MAX, Round};
use super::zoo::{Before, Ready, Stage};
use crate::homes::Peer;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a job may take to the state that it is to be in at the blow.
const READY: Duration = Duration::from_secs(90);

impl Round {
    /// Keeps a copy of both spools, from which old files can be put back.
    fn remember(&mut self) {
        let moment = self.directory.join("old").join(self.moments.to_string());
        for side in [0, 1] {
            let to = moment.join(SIDES[side]);
            fs::create_dir_all(&to).expect("a directory");
            for name in ["jobs", "queue", "rqueue", "running", "clock", "hold"] {
                let _ = ground::copy(&self.ground.spools[side].join(name), &to.join(name), OLD_MAX);
            }
        }
        self.moments += 1;
    }

    /// Brings every job where it is to be at the blow.
    pub fn set_the_stage(&mut self) -> Result<(), String> {
        self.peers.iter_mut().for_each(Peer::up);
        self.begin(Stage::Open);
        std::thread::sleep(Duration::from_millis(150));
        self.remember();
        self.await_ready(&[Stage::Open])?;
        self.remember();
        if self.flows {
            self.just_before()?;
            for stage in [Stage::Delivering, Stage::OneWay, Stage::Asking, Stage::Silent] {
                self.begin(stage);
            }
            std::thread::sleep(self.chance.below_millis(400));
            self.await_ids()?;
        } else {
            self.begin(Stage::Delivering);
            self.until_there("jobs", Stage::Delivering);
            self.links[1].swallow(true);
            self.begin(Stage::OneWay);
            self.await_ready(&[Stage::Delivering, Stage::OneWay])?;
            self.begin(Stage::Asking);
            self.until_there("rqueue", Stage::Asking);
            self.links[0].swallow(true);
            self.remember();
            self.begin(Stage::Silent);
            self.await_ready(&[Stage::Asking, Stage::Silent])?;
            self.just_before()?;
            std::thread::sleep(self.chance.below_millis(1500));
        }
        self.ground.ids = self.jobs.iter().filter_map(|job| Some((job.name().to_string(), job.id.clone()?))).collect();
        Ok(())
    }

    fn begin(&mut self, stage: Stage) {
        for job in self.jobs.iter_mut().filter(|job| job.plan.stage == stage) {
            job.begin(&self.peers);
        }
    }

    /// Waits until the recipient has something of the jobs of a stage, for a moment only: it may have come and gone.
    fn until_there(&mut self, place: &str, stage: Stage) {
        let until = Instant::now() + Duration::from_secs(3);
        for n in 0..self.jobs.len() {
            while self.jobs[n].plan.stage == stage && Instant::now() < until {
                if self.jobs[n].learn_id() && self.jobs[n].at(&self.peers, place, "")[0].exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn await_ids(&mut self) -> Result<(), String> {
        let until = Instant::now() + READY;
        while self.jobs.iter_mut().map(|job| usize::from(!job.learn_id())).sum::<usize>() > 0 {
            if Instant::now() > until {
                return Err("not all jobs have an id".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn await_ready(&mut self, stages: &[Stage]) -> Result<(), String> {
        let until = Instant::now() + READY;
        for n in 0..self.jobs.len() {
            if !stages.contains(&self.jobs[n].plan.stage) {
                continue;
            }
            while !(self.jobs[n].learn_id() && self.is_ready(n)) {
                if Instant::now() > until {
                    let job = &mut self.jobs[n];
                    let said = job.clients[0].said().stderr;
                    let said = String::from_utf8_lossy(&said).into_owned();
                    return Err(format!("{} is not {:?}; id {:?}; {said}", job.name(), job.plan.ready, job.id));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    fn is_ready(&mut self, n: usize) -> bool {
        let size = |dir: &Path| -> u64 {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
        };
        let job = &mut self.jobs[n];
        match job.plan.ready {
            Ready::Ended => job.clients[0].ended().is_some(),
            Ready::Said(count) => job.clients[0].written() >= count,
            Ready::Ran => job.runs() > 0,
            Ready::Arrived(count) => size(&job.at(&self.peers, "jobs", "/in/1")[0]) >= count,
            Ready::Stored(count) => size(&job.at(&self.peers, "jobs", "/in/2")[1]) >= count,
            Ready::Finished => {
                let logs = job.at(&self.peers, "jobs", "/in")[1].clone();
                let Ok(disk) = spool::atomic::Disk::open(&logs) else { return false };
                ["0", "2", "3"].iter().all(|chan| spool::log::ended_at(&disk, chan).is_ok_and(|end| end.is_some()))
            }
            Ready::Noticed => {
                job.at(&self.peers, "rqueue", "")[0].exists() || job.at(&self.peers, "jobs", "")[0].exists()
            }
            Ready::Queued => job.at(&self.peers, "queue", "")[1].exists(),
        }
    }

    /// Does to some jobs what their plans say for the moment before the blow.
    fn just_before(&mut self) -> Result<(), String> {
        for n in 0..self.jobs.len() {
            let job = &mut self.jobs[n];
            let Some(id) = job.id.clone() else { continue };
            match job.plan.before {
                Before::Nothing => {}
                Before::Go => job.go(),
                Before::Cancel => drop(self.peers[job.plan.from].netplumb(&["cancel", &id])),
                Before::Hold if self.flows => {}
                Before::Hold => {
                    let [_, from] = job.at(&self.peers, "queue", "");
                    let [_, to] = job.at(&self.peers, "hold", "");
                    fs::rename(from, to).map_err(|error| format!("{} cannot be held: {error}", job.name()))?;
                }
                Before::Kill => job.clients[0].kill(),
                Before::Attach => {
                    let until = Instant::now() + READY;
                    job.clients[0].end_by(until).ok_or("plumb does not leave its job")?;
                    job.attach(&self.peers);
                    std::thread::sleep(Duration::from_millis(100));
                    job.attach(&self.peers);
                }
            }
        }
        Ok(())
    }
}
