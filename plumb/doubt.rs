//! Damage in a log that the loop fills for us.
//!
//! A power cut may leave rubbish behind what was synced. The loop cuts that off
//! when it opens the log, and pulls it anew; so what is damaged is for good only
//! when nobody pulls the job's logs any more, or the loop has had them open for a while.

use crate::begin::Job;
use spool::fs::{Fs, Result};
use spool::layout::{log_in, log_in_all};
use spool::log::ended_at;
use spool::look;
use spool::name::{Chan, Role};
use std::time::{Duration, Instant};

/// How long after it has begun to pull the loop may need to mend a log.
const MEND_PATIENCE: Duration = Duration::from_secs(10);

/// One log whose content is doubted, from the first damage that was met until it can be read again.
#[derive(Default)]
pub struct Doubt {
    /// Since when the log is pulled and damaged all the same.
    pulled: Option<Instant>,
}

impl Doubt {
    /// Is damage that was met just now there for good? A disk that does not say is asked again.
    pub fn is_settled(&mut self, job: &Job) -> bool {
        if job.over.is_declared() || is_pulled_no_more(job).unwrap_or(false) {
            return true;
        }
        if !job.fs.is_locked(&log_in_all(job.msgid())).unwrap_or(false) {
            self.pulled = None;
            return false;
        }
        self.pulled.get_or_insert_with(Instant::now).elapsed() >= MEND_PATIENCE
    }
}

/// Is the job done, or does every log have its END?
fn is_pulled_no_more(job: &Job) -> Result<bool> {
    let (fs, msgid) = (&*job.fs, job.msgid());
    let ended = |chan: &Chan| Ok(ended_at(fs, &log_in(msgid, *chan))?.is_some());
    if look::done(fs, msgid)?.is_some() {
        return Ok(true);
    }
    Role::Recipient.produces().iter().map(ended).try_fold(true, |all, ended| Ok(all && ended?))
}
