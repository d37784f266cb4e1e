//! Appends to a channel's log at its producer.

use crate::fs::{Error, Fs, LogFile, Result};
use crate::log::{begin, cut, hinted, last_valid, segments};
use crate::segment::{End, EndKind, HEADER, Header, JobKeys, Records, SEGMENT, Stream};
use std::collections::VecDeque;
use std::sync::Arc;

/// Makes several logs durable together: what their consumers do not yet hold for good.
pub fn sync_all(fs: &dyn Fs, logs: &[&Writer]) -> Result<()> {
    let paths: Vec<String> = logs.iter().flat_map(|log| log.unsynced()).collect();
    fs.sync_all(&paths.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The end of a log, as its writer left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The last segment.
    pub path: String,
    /// How large it is.
    pub size: u64,
    /// Where the log ends.
    pub offset: u64,
}

/// Seals a channel's bytes into `out/<chan>`.
pub struct Writer {
    fs: Arc<dyn Fs>,
    dir: String,
    keys: JobKeys,
    header: Header,
    records: Records,
    /// The present segment; it begins with its first record.
    file: Option<Box<dyn LogFile>>,
    size: u64,
    plain: u64,
    got: u64,
    /// Segments before the present one, and the offset at which each ends.
    closed: VecDeque<(u64, u64)>,
    end: Option<End>,
    /// Records were sealed that are not all in the file: nothing more is sealed under this segment's key.
    spoiled: bool,
    /// What is to be written next, and where its records end, there and in the plaintext.
    sealed: Vec<u8>,
    ends: Vec<(usize, usize)>,
}

impl Writer {
    /// Opens the log in `dir` (which exists) where it stopped. Nothing is made
    /// before there is something to append.
    pub fn open(fs: Arc<dyn Fs>, dir: &str, keys: JobKeys, stream: Stream) -> Result<Writer> {
        let numbers = segments(&*fs, dir)?;
        let found = last_valid(&*fs, dir, &keys, stream, |path| match fs.open_log(path) {
            // Its number is not used again, and its consumer learns that it is gone.
            Err(Error::Damaged { .. }) => fs.aside(path),
            other => cut(&mut *other?, 0),
        })?;
        let n = numbers.last().map_or(0, |last| last.saturating_add(1));
        let mut closed = VecDeque::new();
        for &n in numbers.iter().filter(|&&n| found.as_ref().is_some_and(|found| n < found.header.n)) {
            // The base of the one after it is where it ends; a gap ends nothing early.
            let next = fs.open_log(&format!("{dir}/{}", n.saturating_add(1))).ok();
            let mut bytes = [0; HEADER];
            let header =
                next.and_then(|file| file.read_at(&mut bytes, 0).ok()).and_then(|_| Header::parse(&bytes).ok());
            closed.push_back((n, header.map_or(u64::MAX, |header| header.base)));
        }
        let got = hinted(&*fs, &format!("{dir}/got"))?;
        let (header, plain, end) = match &found {
            None => {
                let (msgid, salt) = (keys.msgid, rand::random());
                (Header { msgid, stream, zipped: false, n, base: 0, plain: 0, salt }, 0, None)
            }
            Some(found) => {
                let offset = found.header.base + found.valid - HEADER as u64;
                let plain = found.header.plain + found.plain;
                let next = Header { zipped: false, n, base: offset, plain, salt: rand::random(), ..found.header };
                (next, plain, found.end)
            }
        };
        let (header, records, file, size) = match (found, end) {
            (Some(found), Some(_)) => (found.header, found.records, Some(found.file), found.valid),
            (found, _) => {
                if let Some(found) = found {
                    closed.push_back((found.header.n, header.base));
                }
                (header.clone(), Records::new(&keys, &header), None, HEADER as u64)
            }
        };
        let dir = dir.to_string();
        Ok(Writer {
            fs,
            dir,
            keys,
            header,
            records,
            file,
            size,
            plain,
            got,
            closed,
            end,
            spoiled: false,
            sealed: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// The same log, its segments from here on compressed, or not.
    pub fn zipped(mut self, zipped: bool) -> Writer {
        if self.file.is_none() {
            self.header.zipped = zipped;
            self.records = Records::new(&self.keys, &self.header);
        }
        self
    }

    /// Appends what it can of `plain` and says how many bytes: all of them
    /// unless the disk is filling up; an error if none, or if the log has its END.
    pub fn append(&mut self, plain: &[u8]) -> Result<usize> {
        if self.end.is_some() {
            return Err(Error::io("append to", &self.dir, std::io::Error::other("it has its END")));
        }
        let mut count = 0;
        while count < plain.len() {
            match self.append_here(&plain[count..]) {
                Ok(more) => count += more,
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Appends to one segment, whole records in one write.
    fn append_here(&mut self, plain: &[u8]) -> Result<usize> {
        self.make_room(self.records.size_max(plain.len()))?;
        let mut taken = 0;
        while taken < plain.len() && self.has_room(self.records.size_max(plain.len() - taken)) {
            taken += self.records.seal(&plain[taken..], &mut self.sealed);
            self.ends.push((self.sealed.len(), taken));
        }
        self.write()
    }

    /// Writes what was sealed, and says how many plaintext bytes are in the whole
    /// records that were written: an error if there is none. What is no whole
    /// record is cut off again, and the log goes on in a new segment under a new
    /// key. For what was sealed and not written may have been seen all the same,
    /// and a nonce must never seal a second plaintext.
    fn write(&mut self) -> Result<usize> {
        let appended = match &mut self.file {
            Some(file) => file.append(&self.sealed),
            None => begin(&*self.fs, &self.dir, &self.header, &self.sealed).map(|file| {
                self.file = Some(file);
                self.sealed.len()
            }),
        };
        let (size, ends) = (self.sealed.len(), std::mem::take(&mut self.ends));
        self.sealed.clear();
        let count = *appended.as_ref().unwrap_or(&0);
        // A short write keeps its whole records: somebody may have pulled them already.
        let (whole, plain) = ends.into_iter().rfind(|(end, _)| *end <= count).unwrap_or_default();
        self.size += whole as u64;
        self.plain += plain as u64;
        if whole == size {
            return Ok(plain);
        }
        self.spoiled = true;
        // `make_room` cuts again: nothing follows before that has succeeded.
        let cut = self.cut();
        match appended {
            Err(error) => Err(error),
            Ok(_) if whole > 0 => Ok(plain),
            Ok(_) => cut.and(Err(Error::io("append to", &self.dir, std::io::ErrorKind::StorageFull))),
        }
    }

    /// Ends the log, durably. A log that has an END keeps it.
    pub fn end(&mut self, kind: EndKind) -> Result<()> {
        self.append_end(kind)?;
        self.sync()
    }

    /// Appends the END, if there is none; `sync` makes it durable.
    pub fn append_end(&mut self, kind: EndKind) -> Result<()> {
        if self.end.is_none() {
            self.make_room(64)?;
            let end = End { kind, length: self.plain };
            self.records.seal_end(end, &mut self.sealed);
            self.ends.push((self.sealed.len(), 0));
            self.write()?;
            self.end = Some(end);
        }
        Ok(())
    }

    /// Makes durable what the consumer does not yet hold for good.
    pub fn sync(&self) -> Result<()> {
        sync_all(&*self.fs, &[self])
    }

    /// What is to be synced for that: an END is worth nothing without the
    /// segments before it, and none of them without its name.
    fn unsynced(&self) -> Vec<String> {
        let closed = self.closed.iter().filter(|(_, end)| *end > self.got).map(|(n, _)| *n);
        let segments = closed.chain(self.file.is_some().then_some(self.header.n));
        let paths = segments.map(|n| format!("{}/{n}", self.dir)).filter(|path| self.fs.exists(path));
        paths.chain([self.dir.clone()]).collect()
    }

    /// Would `size` bytes more, beside what was sealed already, fit into this segment?
    fn has_room(&self, size: usize) -> bool {
        self.size + (self.sealed.len() + size) as u64 <= SEGMENT
    }

    /// Goes on in a new segment if this one has no room for `size` bytes, or is
    /// spoiled. One that was never written has left no number behind.
    fn make_room(&mut self, size: usize) -> Result<()> {
        if self.has_room(size) && !self.spoiled {
            return Ok(());
        }
        if self.spoiled {
            self.cut()?;
        }
        let (base, plain, salt) = (self.offset(), self.plain, rand::random());
        let n = self.header.n + u64::from(self.file.is_some());
        if self.file.take().is_some() {
            self.closed.push_back((self.header.n, base));
        }
        self.header = Header { n, base, plain, salt, ..self.header.clone() };
        self.records = Records::new(&self.keys, &self.header);
        (self.size, self.spoiled) = (HEADER as u64, false);
        Ok(())
    }

    /// Cuts off what is no whole record.
    fn cut(&mut self) -> Result<()> {
        match &mut self.file {
            Some(file) => file.truncate(self.size),
            None => Ok(()),
        }
    }

    /// Where the next record goes.
    pub fn offset(&self) -> u64 {
        self.header.base + self.size - HEADER as u64
    }

    /// Where the log ends on the disk.
    pub fn tail(&self) -> Tail {
        Tail { path: format!("{}/{}", self.dir, self.header.n), size: self.size, offset: self.offset() }
    }

    /// Plaintext bytes appended so far.
    pub fn plain(&self) -> u64 {
        self.plain
    }

    /// The END, once it is there.
    pub fn ended(&self) -> Option<End> {
        self.end
    }

    /// The offset up to which the consumer holds everything for good.
    pub fn got(&self) -> u64 {
        self.got
    }

    /// Bytes that must still be held here.
    pub fn held(&self) -> u64 {
        self.offset().saturating_sub(self.got)
    }

    /// Reads the service's hint of what the consumer has, and removes the
    /// segments wholly below it. One whose successor was never offered stays:
    /// it is the only durable word of where the log goes on.
    pub fn forget(&mut self) -> Result<()> {
        self.got = self.got.max(hinted(&*self.fs, &format!("{}/got", self.dir))?).min(self.offset());
        while let Some(&(n, end)) = self.closed.front() {
            if end >= self.got {
                break;
            }
            self.fs.remove(&format!("{}/{n}", self.dir))?;
            self.closed.pop_front();
        }
        Ok(())
    }
}
