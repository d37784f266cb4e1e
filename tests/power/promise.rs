//! The ends that a job may have, depending on which machines lost their power since it began.

use crate::homes::Peer;
use crate::tracked::{Class, Job, Told};
use std::ops::{Deref, DerefMut};

/// A job, and the power cuts of its machines.
pub struct Struck {
    pub job: Job,
    /// Its sender has lost its power since it began.
    sender: bool,
    /// Its recipient has.
    recipient: bool,
    /// The end that `netplumb wait` has told.
    waited: Option<Told>,
    /// A `plumb -attach` was killed by a power cut while it took the output; it may have taken all of it.
    taken: bool,
    /// `netplumb cancel` was told to end it.
    pub cancelled: bool,
    missed: bool,
    wrong: Vec<String>,
}

impl Struck {
    pub fn new(job: Job) -> Struck {
        Struck {
            job,
            sender: false,
            recipient: false,
            waited: None,
            taken: false,
            cancelled: false,
            missed: false,
            wrong: Vec::new(),
        }
    }

    /// Says, once, that a job whose id was printed is gone although nobody can have taken all of it.
    pub fn is_missed(&mut self, a: &Peer) -> bool {
        let Some(id) = &self.job.id else { return false };
        let gone = self.is_wanted() && !self.may_be_gone() && !a.spool(&format!("jobs/{id}/detached")).exists();
        gone && !std::mem::replace(&mut self.missed, true)
    }

    /// Asks `netplumb wait` for the end; an end that was told must stay.
    pub fn ask(&mut self, a: &Peer) {
        let id = self.job.id.clone().expect("an id");
        let ran = a.netplumb(&["wait", &id, "--timeout=0", "--json"]);
        let line: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
        let told = (line["type"] == "end").then(|| Told::of_outcome(line["outcome"].as_str().unwrap_or_default()));
        self.job.note(format!("wait: status {}, {told:?}, {}", ran.status, ran.stderr.trim_end()));
        if told.as_ref().is_some_and(|told| told.is("outcome-unknown")) {
            let files = std::fs::read_dir(a.spool(&format!("jobs/{id}"))).into_iter().flatten().flatten();
            let sizes = files.filter_map(|file| Some((file.file_name(), file.metadata().ok()?.len())));
            self.job.note(format!("there are {:?}", sizes.collect::<Vec<_>>()));
        }
        let stays = self.waited.is_none() || self.waited == told;
        let gone = ran.status == 66;
        if gone && !self.may_be_gone() || !gone && !stays {
            self.wrong.push(format!(
                "wait said {:?}, and later {told:?}: status {}, {}",
                self.waited, ran.status, ran.stderr
            ));
        }
        self.waited = told.or(self.waited.take());
    }

    /// Cancels the job, unless it is over.
    pub fn cancel(&mut self, a: &Peer) {
        let id = self.job.id.clone().expect("an id");
        let ran = a.netplumb(&["cancel", &id]);
        self.job.note(format!("cancel: status {}, {}{}", ran.status, ran.text(), ran.stderr.trim_end()));
        self.cancelled = true;
    }

    /// Notes a power cut.
    pub fn strike(&mut self, sender: bool, recipient: bool) {
        self.taken |= sender && self.job.left && self.job.plumb().is_some();
        self.sender |= sender;
        self.recipient |= recipient;
    }

    /// May the sender have forgotten a job that was left? Only if it was cancelled, or an attach may have taken
    /// all output; an interrupted command has written less than a whole run.
    pub fn may_be_gone(&self) -> bool {
        self.cancelled || self.taken && (self.recipient || self.job.is_whole())
    }

    /// Does the job wait for somebody who attaches?
    pub fn is_wanted(&self) -> bool {
        self.job.left && self.job.told.is_none() && self.job.plumb().is_none()
    }

    /// The promises that are broken at the end of the job.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = self.job.broken();
        broken.extend(self.wrong.iter().cloned());
        broken.extend(self.broken_end());
        if let (Some(waited), Some(told)) = (&self.waited, &self.job.told)
            && waited != told
            && !told.is("no-such-job")
            // The output of a cancelled job is pulled no more, though it is known how it ended.
            && !(self.cancelled && told.is("output-incomplete"))
        {
            broken.push(format!("told {waited}, and later {told}"));
        }
        broken
    }

    /// Compares the outcome that the recipient keeps of a job that ran with the end that was told.
    pub fn contradiction(&self, kept: Option<&str>) -> Option<String> {
        let Some(kept) = kept else { return Some("it ran, and its recipient has forgotten it".into()) };
        let (told, kept) = (self.job.told.as_ref()?, Told::of_outcome(kept));
        match told {
            Told::Reason(reason) if reason == "no-such-job" => {
                let lost = self.job.left && !self.cancelled && !self.job.is_whole() && matches!(kept, Told::Status(_));
                lost.then(|| format!("it is gone, its output was not taken, and its recipient keeps {kept}"))
            }
            Told::Reason(reason) if reason != "interrupted" => None,
            _ => (*told != kept).then(|| format!("told {told}, and its recipient keeps {kept}")),
        }
    }

    fn broken_end(&self) -> Option<String> {
        let repeat = self.job.plan.class == Class::Repeat;
        let Some(told) = &self.job.told else {
            // A foreground job whose `plumb` was killed by a power cut is promised no report.
            return (self.job.left || !self.sender).then(|| "its end was never told".into());
        };
        let fine = match told {
            Told::Status(_) => true,
            Told::Reason(reason) => match reason.as_str() {
                // The command was running, or about to run.
                "interrupted" => self.recipient && (!repeat || self.cancelled),
                "no-such-job" if self.job.left => self.may_be_gone(),
                "no-such-job" | "cancelled" | "input-incomplete" | "not-started" => {
                    self.cancelled || self.sender && !self.job.left
                }
                // A cancelled job may be removed while somebody attaches to it, and is pulled no more.
                "disk" | "output-incomplete" => self.cancelled,
                _ => false,
            },
        };
        let whose = match (self.sender, self.recipient) {
            (true, true) => "only both sides lost their power",
            (true, false) => "only the sender lost its power",
            (false, true) => "only the recipient lost its power",
            (false, false) => "no side lost its power",
        };
        (!fine).then(|| format!("it ended with {told}, although {whose} (left: {})", self.job.left))
    }
}

impl Deref for Struck {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

impl DerefMut for Struck {
    fn deref_mut(&mut self) -> &mut Job {
        &mut self.job
    }
}
