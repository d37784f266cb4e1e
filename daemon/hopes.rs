//! What waits for a word of one peer, and when a word lets it go.
//!
//! A step that got no answer hopes for any word. One that was answered without
//! progress is told more by time than by words: only news (the peer is back, or
//! spoke after a long silence) make it ask again early, so two living peers do
//! not spin. Words let go at most every two seconds; the last one is never
//! forgotten. Pure; times are microseconds.

use std::collections::BTreeSet;

/// What waits is let go at most this often.
const RELEASES_APART: u64 = 2_000_000;

/// What waits for one peer.
#[derive(Default)]
pub(crate) struct Hopes {
    /// Steps that got no word.
    unheard: BTreeSet<u32>,
    /// Steps that got a word and no progress.
    told: BTreeSet<u32>,
    /// What is being let go.
    releasing: BTreeSet<u32>,
    released_at: Option<u64>,
    /// A word came too early after the last one: let go then (and what was told, too?).
    owed: Option<(u64, bool)>,
}

impl Hopes {
    /// A step waits for a word.
    pub(crate) fn wait(&mut self, id: u32, told: bool) {
        if told {
            self.told.insert(id)
        } else {
            self.unheard.insert(id)
        };
    }

    /// A step waits no longer.
    pub(crate) fn leave(&mut self, id: u32) {
        for set in [&mut self.unheard, &mut self.told, &mut self.releasing] {
            set.remove(&id);
        }
    }

    /// A word came: lets go of what waits, with what was told if it is `news`,
    /// or remembers to. Says whether it let go. `eager`: steps that are not
    /// here, but due or under way, would like to know, too.
    pub(crate) fn release(&mut self, news: bool, eager: bool, now: u64) -> bool {
        let owed = self.owed.take();
        let news = news || owed.is_some_and(|(_, news)| news);
        let any = !self.unheard.is_empty() || (news && !self.told.is_empty());
        if !any && !eager {
            return false;
        }
        if let Some(at) = self.released_at.map(|at| at + RELEASES_APART).filter(|at| *at > now) {
            self.owed = Some((at, news));
            return false;
        }
        self.released_at = Some(now);
        self.releasing.append(&mut self.unheard);
        if news {
            self.releasing.append(&mut self.told);
        }
        true
    }

    /// Is it time for what an early word left to be done; and was that word news?
    pub(crate) fn overdue(&self, now: u64) -> Option<bool> {
        self.owed.filter(|(at, _)| *at <= now).map(|(_, news)| news)
    }

    /// The next step that was let go.
    pub(crate) fn released(&mut self) -> Option<u32> {
        self.releasing.pop_first()
    }

    pub(crate) fn released_since(&self, since: u64) -> bool {
        self.released_at.is_some_and(|at| at > since)
    }

    /// When there is something to do here.
    pub(crate) fn wake(&self, now: u64) -> Option<u64> {
        if self.releasing.is_empty() { self.owed.map(|(at, _)| at) } else { Some(now) }
    }
}
