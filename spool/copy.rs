//! Takes over a channel's log at its consumer, as it is pulled.

use crate::fs::{Error, Fs, Result};
use crate::log::{Found, append_all, begin, last_valid, segments};
use crate::segment::{BadSegment, End, HEADER, Header, JobKeys, Record, Records, SEGMENT, Stream};
use std::collections::VecDeque;
use std::sync::Arc;

/// So many segments at most are passed over in a row: each is a name in our directory.
const GAP: u64 = 64;

/// What keeps a copy from taking over pulled bytes.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Our own disk.
    #[error(transparent)]
    Disk(#[from] Error),
    /// The bytes do not verify; they were dropped. Pull again.
    #[error("pulled bytes do not verify: {0}")]
    Bad(#[from] BadSegment),
    /// They verify and cannot continue what is held here: the channel is interrupted.
    #[error("the log goes on at {theirs}, the copy ends at {ours}")]
    Broken {
        /// The offset at which the producer's next segment begins.
        theirs: u64,
        /// The end of what is held.
        ours: u64,
    },
}

/// Takes over a channel's pulled bytes into `in/<chan>`, whole verified records only.
pub struct Copy {
    fs: Arc<dyn Fs>,
    dir: String,
    keys: JobKeys,
    stream: Stream,
    current: Option<Found>,
    /// The segment that is being pulled: the current one, or the one after it.
    n: u64,
    /// Bytes that were pulled and are not yet a whole record (or a header and one).
    pending: Vec<u8>,
    /// Segments before the current one, and the offset at which each ends.
    closed: VecDeque<(u64, u64)>,
    scratch: Vec<u8>,
}

impl Copy {
    /// Opens the copy in `dir` (which exists) where it stopped.
    pub fn open(fs: Arc<dyn Fs>, dir: &str, keys: JobKeys, stream: Stream) -> Result<Copy> {
        let current = last_valid(&*fs, dir, &keys, stream, |path| fs.remove(path))?;
        let n = current.as_ref().map_or(0, |found| found.header.n);
        let base = current.as_ref().map_or(0, |found| found.header.base);
        // Where older ones end matters only for their removal: at the latest, where the last begins.
        let closed = segments(&*fs, dir)?.into_iter().filter(|&older| older < n).map(|older| (older, base)).collect();
        let dir = dir.to_string();
        Ok(Copy { fs, dir, keys, stream, current, n, pending: Vec::new(), closed, scratch: Vec::new() })
    }

    /// What to pull next: a segment, and the offset in its file.
    pub fn wanted(&self) -> (u64, u64) {
        let held = match &self.current {
            Some(found) if found.header.n == self.n => found.valid,
            _ => 0,
        };
        (self.n, held + self.pending.len() as u64)
    }

    /// The end of what is held here, verified.
    pub fn offset(&self) -> u64 {
        self.current.as_ref().map_or(0, |found| found.header.base + found.valid - HEADER as u64)
    }

    /// Plaintext bytes in what is held here: what the next header must say.
    fn plain(&self) -> u64 {
        self.current.as_ref().map_or(0, |found| found.header.plain + found.plain)
    }

    /// The END, once it is held.
    pub fn end(&self) -> Option<End> {
        self.current.as_ref().and_then(|found| found.end)
    }

    /// The wanted segment is said to be closed with `size` bytes. If all of it
    /// is held, or it has no record, the next one is wanted; only that one's
    /// verified header proves anything, so `back` undoes this. Empty ones are
    /// left by a producer that was killed in them: never more than [`GAP`] in a row.
    pub fn close(&mut self, size: u64) {
        let held = self.current.as_ref().filter(|found| found.header.n == self.n).map(|found| found.valid);
        let first = self.current.as_ref().map_or(0, |found| found.header.n);
        if size <= held.unwrap_or(HEADER as u64) && self.n - first < GAP {
            self.pending.clear();
            self.n += 1;
        }
    }

    /// The wanted segment is not there: wants the present one again.
    pub fn back(&mut self) {
        self.pending.clear();
        self.n = self.current.as_ref().map_or(0, |found| found.header.n);
    }

    /// Nothing more comes at the moment. What waits for the rest of its record
    /// was never verified, and its size may not be the producer's: it is
    /// dropped, and wanted again. Says whether there was any.
    pub fn doubt(&mut self) -> bool {
        let is_new = self.current.as_ref().is_none_or(|found| found.header.n != self.n);
        let partial = self.pending.len() > if is_new { HEADER } else { 0 };
        if partial {
            self.pending.clear();
        }
        partial
    }

    /// Takes over pulled bytes; says how many plaintext bytes became readable.
    /// With an error nothing but whole valid records has been kept; open the
    /// copy anew, for counters are spent.
    pub fn feed(&mut self, bytes: &[u8]) -> std::result::Result<usize, CopyError> {
        let mut pending = std::mem::take(&mut self.pending);
        let all = if pending.is_empty() {
            bytes
        } else {
            pending.extend_from_slice(bytes);
            &pending
        };
        let (used, fresh) = self.take(all)?;
        if used < all.len() {
            self.pending = all[used..].to_vec();
        }
        Ok(fresh)
    }

    fn take(&mut self, bytes: &[u8]) -> std::result::Result<(usize, usize), CopyError> {
        if self.current.as_ref().is_some_and(|found| found.header.n == self.n) {
            let found = self.current.as_mut().expect("just looked");
            let (used, end) = open_all(&mut found.records, bytes, &mut self.scratch)?;
            bounded(found.valid + used.valid as u64)?;
            if used.valid > 0 {
                append_all(&mut *found.file, &bytes[..used.valid])?;
                found.valid += used.valid as u64;
                found.plain += used.plain as u64;
                found.end = end;
            }
            return used.result();
        }
        if bytes.len() < HEADER {
            return Ok((0, 0));
        }
        let header = Header::parse(bytes)?;
        if header.n != self.n || header.stream != self.stream || header.msgid != self.keys.msgid {
            return Err(BadSegment("a segment from elsewhere").into());
        }
        let mut records = Records::new(&self.keys, &header);
        let (used, end) = open_all(&mut records, &bytes[HEADER..], &mut self.scratch)?;
        bounded((HEADER + used.valid) as u64)?;
        if used.valid == 0 {
            used.result()?;
            return Ok((0, 0));
        }
        // The header is verified by its first record. That the segment before
        // it is closed was an unsigned word: if some of that is missing here, the
        // copy is opened anew and asks again.
        if header.base > self.offset() {
            return Err(BadSegment("a segment that does not follow what is held").into());
        }
        if header.base < self.offset() {
            return Err(CopyError::Broken { theirs: header.base, ours: self.offset() });
        }
        if header.plain != self.plain() {
            return Err(BadSegment("a segment that miscounts the bytes before it").into());
        }
        let first = self.current.as_ref().map_or(0, |before| before.header.n + 1);
        for empty in first..header.n {
            let path = format!("{}/{empty}", self.dir);
            if !self.fs.exists(&path) {
                self.fs.create_log(&path)?;
            }
            self.closed.push_back((empty, header.base));
        }
        let file = begin(&*self.fs, &self.dir, &header, &bytes[HEADER..HEADER + used.valid])?;
        if let Some(before) = &self.current {
            self.closed.push_back((before.header.n, header.base));
        }
        let (valid, plain) = ((HEADER + used.valid) as u64, used.plain as u64);
        self.current = Some(Found { header, records, file, valid, plain, end });
        used.result().map(|(size, fresh)| (HEADER + size, fresh))
    }

    /// The number of the present segment, if there is one.
    pub fn segment(&self) -> Option<u64> {
        self.current.as_ref().map(|found| found.header.n)
    }

    /// Has the present segment still its name? If not, it was removed or moved, or its directory
    /// was: nobody reads what is added to it.
    pub fn is_in_place(&self) -> Result<bool> {
        self.current.as_ref().map_or(Ok(true), |found| found.file.is_at(&format!("{}/{}", self.dir, found.header.n)))
    }

    /// Removes the segments that the reader has left and whose successor is durable.
    pub fn forget(&mut self, read: u64, synced: u64) -> Result<()> {
        while let Some(&(n, end)) = self.closed.front() {
            if end >= read || end >= synced {
                break;
            }
            self.fs.remove(&format!("{}/{n}", self.dir))?;
            self.closed.pop_front();
        }
        Ok(())
    }
}

/// A producer closes a segment before it is longer than this, so nothing beyond is a log.
fn bounded(size: u64) -> std::result::Result<(), BadSegment> {
    if size > SEGMENT { Err(BadSegment("a segment longer than it may be")) } else { Ok(()) }
}

/// How far a run of records was good.
struct Used {
    valid: usize,
    /// The plaintext bytes in them: what they say, for nothing is decompressed here.
    plain: usize,
    bad: Option<BadSegment>,
}

impl Used {
    fn result(self) -> std::result::Result<(usize, usize), CopyError> {
        match self.bad {
            Some(bad) if self.valid == 0 => Err(bad.into()),
            // What is good is kept; the rest fails when it is pulled again.
            _ => Ok((self.valid, self.plain)),
        }
    }
}

fn open_all(
    records: &mut Records,
    bytes: &[u8],
    scratch: &mut Vec<u8>,
) -> std::result::Result<(Used, Option<End>), CopyError> {
    let mut used = Used { valid: 0, plain: 0, bad: None };
    loop {
        scratch.clear();
        match records.open(&bytes[used.valid..], scratch) {
            Ok(None) => return Ok((used, None)),
            Ok(Some((size, Record::Data(count)))) => {
                used.valid += size;
                used.plain += count;
            }
            Ok(Some((size, Record::End(end)))) => {
                used.valid += size;
                return Ok((used, Some(end)));
            }
            Err(bad) => {
                used.bad = Some(bad);
                return Ok((used, None));
            }
        }
    }
}

#[cfg(test)]
#[path = "copy_test.rs"]
mod tests;
