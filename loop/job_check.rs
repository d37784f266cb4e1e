//! A consumer that cannot go on asks us (`tip`) to look at our own log. If that
//! is damaged the job is cancelled: what the consumer has not got will never
//! come, and it must not take what it has for all (doc/PROTOCOL.md#streams). So
//! is one whose secret is lost, for nobody can say whether its log is good.

use super::Job;
use crate::comm::Trouble;
use crate::net::Net;
use crate::steps;
use spool::damage::{self, Damage, Found};
use spool::facts::Facts;
use spool::layout::log_out;
use spool::log;
use spool::name::Chan;
use spool::phase::Mark;
use spool::segment::Stream;
use std::collections::HashMap;
use std::time::Duration;

/// Our logs are looked at no more often than this. What is still no whole
/// record after so long is not being written.
const LOOKS_APART: Duration = Duration::from_secs(5);
/// Looking takes at most this part of the time, whoever asks for it.
const COST_PART: u32 = 20;

/// What is known of the logs that we produce.
#[derive(Default)]
pub(super) struct Checked {
    /// Not before this are they looked at again.
    not_before: Duration,
    /// When they are to be looked at again by ourselves.
    pub due: Option<Duration>,
    /// What was no whole record, when it was looked at last.
    torn: HashMap<Chan, (Damage, u64)>,
}

impl<N: Net> Job<N> {
    /// Looks at the logs that a consumer asked us to look at. The job's lock is held.
    pub(super) async fn check(&mut self) -> Result<(), Trouble> {
        let Some(owner) = &self.owner else { return Ok(()) };
        let (now, producer) = (self.world.clock.now(), owner.role);
        let tip = |chan: Chan| format!("{}/tip", log_out(self.msgid, chan));
        let asked: Vec<Chan> =
            producer.produces().iter().copied().filter(|chan| self.world.fs.exists(&tip(*chan))).collect();
        self.checked.due = None;
        if asked.is_empty() {
            return Ok(());
        }
        if now < self.checked.not_before {
            self.checked.due = Some(self.checked.not_before);
            return Ok(());
        }
        for chan in asked {
            let Some(keys) = &self.keys else {
                let reason = format!("the peer cannot go on with channel {chan}, and the job's secret is lost here");
                self.give_up(chan, Facts::new().with("reason", reason))?;
                continue;
            };
            let claimed = log::hinted(&*self.world.fs, &tip(chan))?;
            let (fs, dir, keys) = (self.world.fs.clone(), log_out(self.msgid, chan), keys.clone());
            let look = move || damage::look(&*fs, &dir, &keys, Stream { chan, producer }, claimed);
            let looked = tokio::task::spawn_blocking(look).await;
            let found = looked.map_err(|died| Trouble::new("later", died))??;
            let after = self.world.clock.now();
            self.checked.not_before = after + LOOKS_APART.max((after - now) * COST_PART);
            let torn = self.checked.torn.remove(&chan);
            let damage = match found {
                Found::Torn(damage, rest) if torn == Some((damage.clone(), rest)) => damage,
                Found::Torn(damage, rest) => {
                    self.checked.torn.insert(chan, (damage, rest));
                    self.checked.due = Some(self.checked.not_before);
                    continue;
                }
                Found::Damaged(damage) => damage,
                Found::Good => {
                    self.world.fs.remove(&tip(chan))?;
                    continue;
                }
            };
            self.give_up(chan, damage.facts())?;
        }
        Ok(())
    }

    /// Cancels the job for what became of one of its logs.
    fn give_up(&self, chan: Chan, facts: Facts) -> Result<(), Trouble> {
        tracing::error!("{}: {}; it is cancelled", self.msgid, facts.text("reason").unwrap_or_default());
        steps::put_in_job(&*self.world.fs, self.msgid, Mark::Cancel, facts)?;
        Ok(self.world.fs.remove(&format!("{}/tip", log_out(self.msgid, chan)))?)
    }
}
