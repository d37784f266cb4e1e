//! Looks at everything: the names in the fixed parents with the times of their last change.
//!
//! Reads only. A time says no more than "something happened since the last
//! look", never when, so a clock that jumps costs a look. Names that are
//! hidden or are no message ids are not seen.

use crate::watch::place_of;
use spool::layout::{PARENTS, Place};
use spool::name::MsgId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A directory in which something happened.
pub type Change = (Place, MsgId);

/// A time that is younger than this may cover another change in the same clock tick.
const TICK: Duration = Duration::from_millis(20);

/// What was there at the last scan.
pub(crate) struct Scan {
    spool: PathBuf,
    /// By parent and id: the time of the last change in nanoseconds, and the scan that saw it last.
    known: HashMap<(u8, MsgId), (i64, u32)>,
    round: u32,
}

impl Scan {
    pub(crate) fn new(spool: &Path) -> Scan {
        Scan { spool: spool.to_path_buf(), known: HashMap::new(), round: 0 }
    }

    /// Scans, and says what is new, changed or gone since the last scan; the
    /// latest changed first. A parent that cannot be read is left out.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        self.round = self.round.wrapping_add(1);
        let mut changes: Vec<(i64, Change)> = Vec::new();
        let mut read = [false; PARENTS.len()];
        for (number, parent) in PARENTS.iter().enumerate() {
            let Ok(entries) = std::fs::read_dir(self.spool.join(parent)) else { continue };
            let Some(place) = place_of(parent) else { continue };
            let is_running = *parent == "running";
            // The clock of the files, and its ticks, are not ours: be generous.
            let fresh = nanos(SystemTime::now().checked_sub(TICK).unwrap_or(UNIX_EPOCH));
            for entry in entries.flatten() {
                let Some(msgid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                // Anything but a directory is looked at as well: the loop moves it aside.
                let changed = if is_running { 0 } else { changed(&entry).unwrap_or(0) };
                // Seen as changed once more: another change may have the same time.
                let noted = if changed >= fresh { changed - 1 } else { changed };
                match self.known.entry((number as u8, msgid)) {
                    Entry::Occupied(mut old) => {
                        let is_news = old.get().0 != changed;
                        old.insert((if is_news { noted } else { changed }, self.round));
                        if is_news {
                            changes.push((changed, (place, msgid)));
                        }
                    }
                    Entry::Vacant(new) => {
                        new.insert((noted, self.round));
                        changes.push((changed, (place, msgid)));
                    }
                }
            }
            read[number] = true;
        }
        let round = self.round;
        self.known.retain(|&(number, msgid), (changed, seen)| {
            let gone = *seen != round && read[usize::from(number)];
            if gone && let Some(place) = place_of(PARENTS[usize::from(number)]) {
                changes.push((*changed, (place, msgid)));
            }
            !gone
        });
        changes.sort_unstable_by_key(|&(changed, _)| std::cmp::Reverse(changed));
        changes.into_iter().map(|(_, change)| change).collect()
    }

    /// Does something that changes a directory's time without meaning "look",
    /// unless something else happened there too.
    pub(crate) fn unseen<T>(&mut self, place: Place, msgid: MsgId, change: impl FnOnce() -> T) -> T {
        let time = || std::fs::symlink_metadata(self.spool.join(place.dir(msgid))).ok().map(|found| mtime(&found));
        let before = time();
        let done = change();
        let after = time();
        let number = PARENTS.iter().position(|parent| *parent == place.word()).unwrap_or(0) as u8;
        if let (Some(known), Some(after)) = (self.known.get_mut(&(number, msgid)), after)
            && Some(known.0) == before
        {
            known.0 = after;
        }
        done
    }
}

/// When the entry changed last.
fn changed(entry: &std::fs::DirEntry) -> Option<i64> {
    Some(mtime(&entry.metadata().ok()?).max(0))
}

fn mtime(metadata: &std::fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn nanos(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
