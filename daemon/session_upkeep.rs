//! The upkeep of a spool by the clock: its directories and id, notices of what
//! was moved aside, the observed uptime, the settings.

use super::Session;
use crate::clerk::{Errand, Notice};
use spool::clock;
use spool::fs::{Fs, ODD};
use spool::layout::{DIRECTORIES, make_dirs};
use spool::spool_id::{self, ID};
use std::time::Duration;

impl Session {
    /// Makes again what a spool must have, and moves aside what stands in its place.
    pub(super) fn keep_spool(&self) {
        for directory in DIRECTORIES {
            match self.disk.is_dir(directory) {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!("{directory} was gone from the spool: made again");
                    if let Err(error) = make_dirs(&*self.disk, directory) {
                        tracing::warn!("{error}");
                    }
                }
                Err(error) => tracing::warn!("{error}"),
            }
        }
        match spool_id::keep(&*self.disk, &self.id) {
            Ok(true) => tracing::warn!("{ID} was lost from the spool: written again"),
            Ok(false) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Leaves a notice of each thing that was moved aside.
    pub(super) fn tell_odd(&mut self) {
        // A list that cannot be read is read at the next beat.
        let names = self.disk.list(ODD).unwrap_or_default().into_iter().map(|entry| entry.name);
        for name in names.filter(|name| self.odd.insert(name.clone())).collect::<Vec<_>>() {
            let what = format!("{name} could not be a file of ours, and was moved to {ODD}/");
            let notice = Notice { about: format!("{ODD}.{name}"), what, peer: None, at: clock::wall() };
            let _ = self.clerk.send(Errand::Notice(notice));
        }
    }

    pub(super) fn tick_clock(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.ticked_at).as_secs();
        match self.uptime.tick(&*self.disk, seconds) {
            Ok(doubt) => {
                self.ticked_at += Duration::from_secs(seconds);
                doubt.iter().for_each(|doubt| tracing::warn!("{doubt}"));
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Reads settings and peers; what cannot be read stays as it was.
    pub(super) fn configure(&mut self) {
        for trouble in self.roster.read(&self.home) {
            tracing::warn!("a peer stays as it was: {trouble}");
        }
        let peers = self.roster.peers();
        let quotas = peers.map(|peer| (peer.username.clone(), peer.policy.quota.jobs)).collect();
        match self.home.settings() {
            Ok(settings) => {
                self.keepers.set_bounds(settings.ages(), quotas);
                let _ = self.clerk.send(Errand::Command(settings.on_notice));
            }
            Err(error) => tracing::error!("{error}"),
        }
    }
}
