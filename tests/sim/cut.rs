//! What a power cut leaves of a simulated disk.
//!
//! Half of all cuts follow ext4 and xfs: names change in the order in which
//! they were changed, and what is synced takes all changes of names before its
//! own last one with it. The other half follows POSIX to the letter: only a
//! directory's own sync makes its names durable, and what was not synced
//! survives or not, name by name; but a rename is one change, and nothing
//! survives that rests on a lost change of the same name. In both, the bytes of
//! a file that were not synced are there, or not, or zeros, or (of a log) any
//! beginning of them: so a synced directory without a synced file is an empty
//! file, also in place of an old one, as it was measured on both.

use super::disk::{Id, Node};
use std::collections::{BTreeMap, BTreeSet};

/// Chance from a seed, the same everywhere.
#[derive(Clone)]
pub struct Chance(pub u64);

impl Chance {
    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: u64) -> u64 {
        // splitmix64: any seed is a good one.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    /// True in so many of a thousand cases.
    pub fn happens(&mut self, of_thousand: u64) -> bool {
        self.below(1000) < of_thousand
    }
}

/// The bytes of a file: as processes see them, and as they are sure to survive.
#[derive(Clone, Default)]
pub struct Media {
    pub new: Vec<u8>,
    pub durable: Vec<u8>,
    /// What lies below was never cut off since the last sync.
    kept: usize,
    /// Written piece by piece, so that any beginning may be all that survives.
    log: bool,
}

impl Media {
    /// A file that is durable as it stands.
    pub fn whole(bytes: Vec<u8>) -> Media {
        Media { durable: bytes.clone(), kept: bytes.len(), new: bytes, log: false }
    }

    /// An empty log.
    pub fn log() -> Media {
        Media { log: true, ..Media::default() }
    }

    pub fn sync(&mut self) {
        self.durable.clone_from(&self.new);
        self.kept = self.new.len();
    }

    pub fn write_at(&mut self, at: usize, bytes: &[u8]) {
        self.log = true;
        self.kept = self.kept.min(at);
        if self.new.len() < at + bytes.len() {
            self.new.resize(at + bytes.len(), 0);
        }
        self.new[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn truncate(&mut self, size: usize) {
        self.new.resize(size, 0);
        self.kept = self.kept.min(size);
    }

    fn cut(&mut self, chance: &mut Chance) {
        if self.new != self.durable {
            let base = self.kept.min(self.new.len());
            let fresh = self.new.len() - base;
            // A short file is written at once, a long one by pages, a log anyhow.
            let some = match (self.log, fresh / 4096) {
                (true, _) => chance.below(fresh as u64 + 1) as usize,
                (false, pages) => chance.below(pages as u64 + 1) as usize * 4096,
            };
            let survived = match chance.below(8) {
                0..=2 => self.new.clone(),
                3 | 4 => self.durable.clone(),
                5 | 6 => self.new[..base + some].to_vec(),
                _ => {
                    let mut zeros = self.new[..base + some].to_vec();
                    zeros.resize(self.new.len(), 0);
                    zeros
                }
            };
            self.new = survived;
        }
        self.sync();
    }
}

/// One change of names: what is where after it, in each directory that it touches.
#[derive(Clone)]
pub struct Change {
    pub slots: Vec<(Id, String, Option<Id>)>,
}

impl Change {
    fn touches(&self, id: Id) -> bool {
        self.slots.iter().any(|(dir, _, after)| *dir == id || *after == Some(id))
    }

    fn shares_a_name(&self, other: &Change) -> bool {
        let same = |a: &(Id, String, Option<Id>), b: &(Id, String, Option<Id>)| a.0 == b.0 && a.1 == b.1;
        self.slots.iter().any(|slot| other.slots.iter().any(|theirs| same(slot, theirs)))
    }
}

/// The changes of names that are not sure to survive, oldest first.
#[derive(Default)]
pub struct Journal {
    pending: Vec<Change>,
    /// So many of them are sure to survive where the journal keeps their order.
    ordered: usize,
}

impl Journal {
    pub fn note(&mut self, change: Change) {
        self.pending.push(change);
    }

    /// A file or directory is synced.
    pub fn sync(&mut self, id: Id, nodes: &mut [Node]) {
        if let Some(last) = self.pending.iter().rposition(|change| change.touches(id)) {
            self.ordered = self.ordered.max(last + 1);
        }
        let mut settled: Vec<bool> =
            self.pending.iter().map(|change| change.slots.iter().any(|(dir, _, _)| *dir == id)).collect();
        // A change takes with it what it rests on, and that, what it rests on in turn:
        // nothing rests on a later one, so once from the last to the first is enough.
        for later in (0..settled.len()).rev() {
            let rests = |(earlier, kept): (usize, &mut bool)| {
                *kept |= self.pending[later].shares_a_name(&self.pending[earlier])
            };
            if settled[later] {
                settled[..later].iter_mut().enumerate().for_each(rests);
            }
        }
        let mut rest = Vec::new();
        let mut ordered = self.ordered;
        for (place, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if settled[place] {
                apply(&change, nodes);
                ordered -= usize::from(place < self.ordered);
            } else {
                rest.push(change);
            }
        }
        (self.pending, self.ordered) = (rest, ordered);
    }

    /// Everything becomes durable as it is.
    pub fn settle(&mut self, nodes: &mut [Node]) {
        self.pending.clear();
        for node in nodes {
            match node {
                Node::File(media) => media.sync(),
                Node::Dir { new, durable } => durable.clone_from(new),
            }
        }
    }

    /// The power goes: decides by the seed what survives.
    pub fn cut(&mut self, nodes: &mut [Node], seed: u64) {
        let mut chance = Chance(seed);
        let pending = std::mem::take(&mut self.pending);
        if chance.below(2) == 0 {
            let more = chance.below((pending.len() - self.ordered) as u64 + 1) as usize;
            pending[..self.ordered + more].iter().for_each(|change| apply(change, nodes));
        } else {
            let mut lost: BTreeSet<(Id, &str)> = BTreeSet::new();
            for change in &pending {
                let rests_on_lost = change.slots.iter().any(|(dir, name, _)| lost.contains(&(*dir, name.as_str())));
                if rests_on_lost || chance.below(2) == 0 {
                    lost.extend(change.slots.iter().map(|(dir, name, _)| (*dir, name.as_str())));
                } else {
                    apply(change, nodes);
                }
            }
        }
        self.ordered = 0;
        for node in nodes {
            match node {
                Node::File(media) => media.cut(&mut chance),
                Node::Dir { new, durable } => new.clone_from(durable),
            }
        }
    }
}

fn apply(change: &Change, nodes: &mut [Node]) {
    for (dir, name, after) in &change.slots {
        let Node::Dir { durable, .. } = &mut nodes[*dir] else { continue };
        let durable: &mut BTreeMap<String, Id> = durable;
        match after {
            Some(id) => durable.insert(name.clone(), *id),
            None => durable.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::SimDisk;
    use spool::fs::Fs;
    use std::collections::BTreeSet;

    /// What `out` holds after power cuts of all kinds: "old", "new", "empty" or another thing; "gone" without it.
    fn outcomes(prepare: impl Fn(&SimDisk)) -> BTreeSet<&'static str> {
        let cut = |seed| {
            let disk = SimDisk::new();
            prepare(&disk.process());
            disk.restart(seed);
            match disk.read("queue/out", 100).as_deref() {
                Ok(b"old") => "old",
                Ok(b"new") => "new",
                Ok(b"") => "empty",
                Ok(b"\0\0\0") => "zeros",
                Ok(_) => "part",
                Err(_) => "gone",
            }
        };
        (0..400).map(cut).collect()
    }

    fn set(words: &[&'static str]) -> BTreeSet<&'static str> {
        words.iter().copied().collect()
    }

    #[test]
    fn power_cuts_are_those_that_were_measured_on_ext4_and_xfs() {
        let hint = |disk: &SimDisk| disk.hint("queue/out", b"new").unwrap();
        assert_eq!(outcomes(hint), set(&["gone", "empty", "zeros", "new"]), "nothing synced");
        let directory_only = |disk: &SimDisk| {
            hint(disk);
            disk.sync_dir("queue").unwrap();
        };
        assert_eq!(outcomes(directory_only), set(&["empty", "zeros", "new"]), "worse than nothing");
        let file_only = |disk: &SimDisk| {
            hint(disk);
            disk.open_log("queue/out").unwrap().sync().unwrap();
        };
        assert_eq!(outcomes(file_only), set(&["gone", "new"]), "the name may be lost");
        assert_eq!(outcomes(|disk| disk.commit("queue/out", b"new").unwrap()), set(&["new"]));
        let replaced = |disk: &SimDisk| {
            disk.commit("queue/out", b"old").unwrap();
            directory_only(disk);
        };
        assert_eq!(outcomes(replaced), set(&["empty", "zeros", "new"]), "the old content is destroyed");
        let removed = |disk: &SimDisk| {
            disk.commit("queue/out", b"old").unwrap();
            disk.remove("queue/out").unwrap();
        };
        assert_eq!(outcomes(removed), set(&["gone", "old"]), "an unlink may be lost");
    }

    #[test]
    fn a_directory_that_was_committed_is_there_whole() {
        for seed in 0..200 {
            let disk = SimDisk::new();
            disk.make_dir("queue/.new").unwrap();
            disk.hint("queue/.new/a", b"content").unwrap();
            disk.hint("queue/.new/b", b"content").unwrap();
            disk.commit_dir("queue/.new", "rqueue/real", &["a"]).unwrap();
            disk.restart(seed);
            assert_eq!(disk.read("rqueue/real/a", 100).unwrap(), b"content");
            assert!(!disk.exists("queue/.new"));
            assert!(disk.exists("rqueue/real/b"), "its name is durable, its bytes need not be");
        }
    }

    #[test]
    fn a_log_keeps_what_was_synced_and_any_beginning_of_the_rest() {
        let mut lengths = BTreeSet::new();
        for seed in 0..400 {
            let disk = SimDisk::new();
            let mut log = disk.create_log("queue/log").unwrap();
            log.append(b"0123").unwrap();
            log.sync().unwrap();
            disk.sync_dir("queue").unwrap();
            log.append(b"4567").unwrap();
            disk.restart(seed);
            let found = disk.read("queue/log", 100).unwrap();
            assert!(found.starts_with(b"0123"));
            lengths.insert(found.len());
        }
        assert_eq!(lengths, (4..=8).collect());
    }

    #[test]
    fn killing_a_process_frees_its_locks_and_loses_nothing() {
        let outside = SimDisk::new();
        let (one, other) = (outside.process(), outside.process());
        let _held = one.lock_dir("queue", std::time::Duration::ZERO).unwrap();
        one.hint("queue/out", b"new").unwrap();
        assert!(other.is_locked("queue").unwrap());
        one.kill();
        assert!(!other.is_locked("queue").unwrap() && one.hint("queue/out", b"x").is_err());
        assert_eq!(other.read("queue/out", 10).unwrap(), b"new");
    }
}
