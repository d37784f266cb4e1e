//! Opens a channel's log at its consumer, for whoever the bytes are for.

use crate::fs::{Error, Fs, LogFile, Result};
use crate::log::{CHUNK, HINTS_APART, WINDOW, hint, hinted, segments};
use crate::segment::{End, HEADER, Header, JobKeys, OVERHEAD, RECORD, Record, Records, Stream};
use std::sync::Arc;
use std::time::Duration;

/// What the next look at a log gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// So many plaintext bytes are in [`Reader::data`].
    Data(usize),
    /// The log is over, and all of it was read.
    End(End),
    /// There is no more yet.
    Nothing,
    /// There will be no more, and this is not the end.
    Broken,
}

/// Opens a channel's log in `in/<chan>`, from its start or from where the last reader left off.
pub struct Reader {
    fs: Arc<dyn Fs>,
    dir: String,
    keys: JobKeys,
    stream: Stream,
    current: Option<(Records, Box<dyn LogFile>)>,
    n: u64,
    at: u64,
    /// Sealed bytes opened; plaintext bytes given.
    offset: u64,
    plain: u64,
    /// Sealed bytes opened by the last look.
    sealed: u64,
    told: u64,
    told_at: Duration,
    resume: u64,
    /// Plaintext bytes before this are opened and not given.
    skip: u64,
    end: Option<End>,
    data: Vec<u8>,
    buffer: Vec<u8>,
}

impl Reader {
    /// Opens the log in `dir`. With a `read` hint there, what is below it is skipped.
    pub fn open(fs: Arc<dyn Fs>, dir: &str, keys: JobKeys, stream: Stream) -> Result<Reader> {
        let read = hinted(&*fs, &format!("{dir}/read"))?;
        let reader = Reader::begin(fs, dir, keys, stream, |header| header.base <= read)?;
        Ok(Reader { resume: read, ..reader })
    }

    /// Opens the log at this plaintext offset, wherever the last reader left
    /// off. An error if what lies there was given up already.
    pub fn open_at(fs: Arc<dyn Fs>, dir: &str, keys: JobKeys, stream: Stream, offset: u64) -> Result<Reader> {
        let reader = Reader::begin(fs, dir, keys, stream, |header| header.plain <= offset)?;
        Ok(Reader { skip: offset, ..reader })
    }

    /// Begins with the last segment that lies `before` the wanted place.
    fn begin(
        fs: Arc<dyn Fs>,
        dir: &str,
        keys: JobKeys,
        stream: Stream,
        before: impl Fn(&Header) -> bool,
    ) -> Result<Reader> {
        let told = hinted(&*fs, &format!("{dir}/read"))?;
        let (mut first, mut lowest) = (None, None);
        for n in segments(&*fs, dir)? {
            let file = match fs.open_log(&format!("{dir}/{n}")) {
                // The copy has just removed it: it lies below what was read.
                Err(error) if error.is_absent() => continue,
                // The copy will pull it anew.
                Err(Error::Damaged { .. }) => continue,
                other => other?,
            };
            let mut bytes = [0; HEADER];
            let filled = file.read_at(&mut bytes, 0)?;
            let header = Header::parse(&bytes[..filled]);
            lowest = lowest.or(Some((n, header.as_ref().map_or(0, |header| header.plain))));
            if header.is_ok_and(|header| before(&header)) {
                first = Some(n);
            }
        }
        if let (None, Some((lowest, plain))) = (first, lowest) {
            let what = format!("what comes before segment {lowest}, at byte {plain}, is gone");
            return Err(Error::damaged(dir, what));
        }
        let first = first.unwrap_or(0);
        let (dir, buffer) = (dir.to_string(), vec![0; CHUNK + RECORD + OVERHEAD]);
        Ok(Reader {
            fs,
            dir,
            keys,
            stream,
            current: None,
            n: first,
            at: 0,
            offset: 0,
            plain: 0,
            sealed: 0,
            told,
            told_at: Duration::ZERO,
            resume: 0,
            skip: 0,
            end: None,
            data: Vec::new(),
            buffer,
        })
    }

    /// The error that says what is wrong with the content.
    pub(crate) fn damage(&self, what: impl std::fmt::Display) -> Error {
        Error::damaged(&self.dir, what.to_string())
    }

    /// Looks for more. Data replaces what [`Reader::data`] held.
    pub fn advance(&mut self) -> Result<Item> {
        loop {
            let item = self.look()?;
            match item {
                // What the last reader had taken is opened again, for its counters, and not given again.
                Item::Data(_) if self.offset <= self.resume || self.plain <= self.skip => continue,
                Item::Data(count) if self.plain - (count as u64) < self.skip => {
                    let given = (self.plain - self.skip) as usize;
                    self.data.drain(..count - given);
                    return Ok(Item::Data(given));
                }
                Item::Data(_) if self.offset - self.sealed < self.resume => {
                    let what = format!("was read up to {}, where no record ends", self.resume);
                    return Err(Error::damaged(&self.dir, what));
                }
                Item::Nothing if self.fs.exists(&format!("{}/broken", self.dir)) => return Ok(Item::Broken),
                Item::Nothing if self.is_replaced()? => self.reopen()?,
                // Nobody can have read beyond the end.
                Item::End(_) if self.offset < self.resume => {
                    let what = format!("was read up to {}, and ends at {}", self.resume, self.offset);
                    return Err(Error::damaged(&self.dir, what));
                }
                _ => return Ok(item),
            }
        }
    }

    /// Is the present segment another file by now? The copy pulled it anew, for the old one was lost.
    fn is_replaced(&self) -> Result<bool> {
        let Some((_, file)) = &self.current else { return Ok(false) };
        let path = format!("{}/{}", self.dir, self.n);
        Ok(!file.is_at(&path)? && self.fs.is_there(&path)?)
    }

    /// Goes on in the files that are here now, after what was given already: what
    /// was damaged may have been pulled anew.
    pub fn reopen(&mut self) -> Result<()> {
        let (fs, given) = (self.fs.clone(), self.offset);
        let anew = Reader::begin(fs, &self.dir, self.keys.clone(), self.stream, |header| header.base <= given)?;
        let (told, told_at, skip) = (self.told, self.told_at, self.skip);
        *self = Reader { resume: given.max(self.resume), skip, told, told_at, ..anew };
        Ok(())
    }

    fn look(&mut self) -> Result<Item> {
        loop {
            if self.current.is_none() && !self.enter()? {
                return Ok(Item::Nothing);
            }
            let mut item = self.read()?;
            if item == Item::Nothing {
                if !self.fs.exists(&format!("{}/{}", self.dir, self.n.saturating_add(1))) {
                    return Ok(item);
                }
                // There is a next segment, so this one is complete: what it has got meanwhile is the rest.
                item = self.read()?;
            }
            if item != Item::Nothing {
                return Ok(item);
            }
            self.current = None;
            self.n += 1;
        }
    }

    fn enter(&mut self) -> Result<bool> {
        let mut bytes = [0; HEADER];
        let (path, file, filled) = loop {
            let path = format!("{}/{}", self.dir, self.n);
            let file = match self.fs.open_log(&path) {
                Err(error) if error.is_absent() => return Ok(false),
                other => other?,
            };
            let filled = file.read_at(&mut bytes, 0)?;
            if filled > 0 {
                break (path, file, filled);
            }
            // The copy passed over a segment in which nothing was valid.
            if !self.fs.exists(&format!("{}/{}", self.dir, self.n.saturating_add(1))) {
                return Ok(false);
            }
            self.n += 1;
        };
        let header = Header::parse(&bytes[..filled]).map_err(|bad| Error::damaged(&path, bad.0))?;
        if header.n != self.n || header.stream != self.stream || header.msgid != self.keys.msgid {
            return Err(Error::damaged(&path, "a segment from elsewhere"));
        }
        if self.offset == 0 && self.n > 0 {
            (self.offset, self.plain) = (header.base, header.plain);
        }
        if header.base != self.offset || header.plain != self.plain {
            return Err(Error::damaged(&path, "does not continue the segment before it"));
        }
        self.at = HEADER as u64;
        self.current = Some((Records::new(&self.keys, &header), file));
        Ok(true)
    }

    fn read(&mut self) -> Result<Item> {
        if let Some(end) = self.end {
            return Ok(Item::End(end));
        }
        let Some((records, file)) = &mut self.current else { return Ok(Item::Nothing) };
        let filled = file.read_at(&mut self.buffer, self.at)?;
        self.data.clear();
        let mut used = 0;
        while used < filled && self.data.len() < CHUNK && self.end.is_none() {
            let opened = records.read(&self.buffer[used..filled], &mut self.data);
            let opened = opened.map_err(|bad| Error::damaged(&format!("{}/{}", self.dir, self.n), bad.0))?;
            let Some((size, record)) = opened else { break };
            used += size;
            if let Record::End(end) = record {
                self.end = Some(end);
            }
            if self.offset + used as u64 == self.resume {
                break;
            }
        }
        self.sealed = used as u64;
        self.at += used as u64;
        let counted = self.offset.checked_add(used as u64).zip(self.plain.checked_add(self.data.len() as u64));
        let overflown = || Error::damaged(&format!("{}/{}", self.dir, self.n), "counts more bytes than there can be");
        (self.offset, self.plain) = counted.ok_or_else(overflown)?;
        match self.end {
            Some(end) if end.length != self.plain => {
                let what = format!("ends after {} bytes, not {}", self.plain, end.length);
                Err(Error::damaged(&format!("{}/{}", self.dir, self.n), what))
            }
            Some(end) if self.data.is_empty() => Ok(Item::End(end)),
            _ if used == 0 => Ok(Item::Nothing),
            _ => Ok(Item::Data(self.data.len())),
        }
    }

    /// The bytes of the last [`Item::Data`].
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Sealed bytes opened so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Plaintext bytes given, and skipped, so far: where the next one lies.
    pub fn plain(&self) -> u64 {
        self.plain
    }

    /// What was given has been taken by whoever it was for: leaves the `read`
    /// hint, at most every quarter of a window or 20 ms, or at once if `idle`.
    /// `now` is any clock that runs on.
    pub fn took(&mut self, now: Duration, idle: bool) -> Result<()> {
        let due = self.offset >= self.told.saturating_add(WINDOW / 4) || now >= self.told_at + HINTS_APART;
        if self.offset > self.told && (due || idle) {
            hint(&*self.fs, &format!("{}/read", self.dir), self.offset)?;
            (self.told, self.told_at) = (self.offset, now);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod tests;
