//! A channel's log: who appends, who copies, who reads.
//!
//! The same log lies in two places: `out/<chan>/<n>` at its producer and, byte
//! for byte, `in/<chan>/<n>` at its consumer. [`Writer`] seals into the first
//! (`plumb`, the keeper), [`Copy`] takes over what was pulled into the second
//! (the loop), [`Reader`] opens the second (`plumb`, the keeper). None of them
//! does any waiting. Offsets count sealed record bytes over the whole log.
//! This file has what the three share.
//!
//! After a crash each of them finds its place again from the files alone: the
//! last segment is cut back to its last whole valid record; a writer then goes
//! on in a new segment, for a salt is used once (doc/PROTOCOL.md#streams).
//! A producer uses no number twice either: a segment in which no record is
//! valid is cut to nothing and stays, and the consumer goes past it.

pub use crate::copy::{Copy, CopyError};
pub use crate::reader::{Item, Reader};
pub use crate::writer::{Tail, Writer, sync_all};

use crate::facts::checksum;
use crate::fs::{Error, Fs, LogFile, Result};
use crate::name::decimal;
use crate::segment::{BadSegment, End, HEADER, Header, JobKeys, OVERHEAD, RECORD, Record, Records};
use crate::segment::{Stream, is_end, record_size};
use std::time::Duration;

/// Bytes that a producer holds at most beyond `got`, and a consumer beyond `read`.
pub const WINDOW: u64 = 32 << 20;
/// Hints of progress are left at most this often.
pub const HINTS_APART: Duration = Duration::from_millis(20);
/// The largest hint in bytes: 20 digits, a blank, 8 digits of the checksum, a newline.
const HINT_MAX: usize = 30;
/// What a reader and a copy take in one go, in bytes.
pub(crate) const CHUNK: usize = 256 << 10;

/// The numbers of the segments in a log's directory, in order.
pub fn segments(fs: &dyn Fs, dir: &str) -> Result<Vec<u64>> {
    let mut numbers: Vec<u64> = fs.list(dir)?.iter().filter_map(|entry| decimal(&entry.name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads an offset that was left as a hint (`got`, `read`); 0 if there is none, or it is damaged.
pub fn hinted(fs: &dyn Fs, path: &str) -> Result<u64> {
    let text = fs.read_if_sound(path, HINT_MAX)?.unwrap_or_default();
    Ok(offset_of(path, &text).unwrap_or(0))
}

/// The offset in a hint that lies at `path`, if its checksum fits.
fn offset_of(path: &str, text: &[u8]) -> Option<u64> {
    let (offset, check) = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split_once(' ')?;
    (check == format!("{:08x}", checksum(path, offset.as_bytes()))).then(|| decimal(offset))?
}

/// How much may lie in a consumer's copy beyond what its reader took: [`WINDOW`],
/// or the hint `window`, which whoever the bytes are for leaves where they are
/// to wait here as a whole.
pub fn window(fs: &dyn Fs, dir: &str) -> u64 {
    hinted(fs, &format!("{dir}/window")).unwrap_or(0).max(WINDOW)
}

/// Lets as much lie in a consumer's copy.
pub fn widen(fs: &dyn Fs, dir: &str, bytes: u64) -> Result<()> {
    let path = format!("{dir}/window");
    if hinted(fs, &path)? == bytes { Ok(()) } else { hint(fs, &path, bytes) }
}

/// Leaves an offset as a hint: the number, and a checksum of it in this place.
pub fn hint(fs: &dyn Fs, path: &str, offset: u64) -> Result<()> {
    let offset = offset.to_string();
    let check = checksum(path, offset.as_bytes());
    fs.hint(path, format!("{offset} {check:08x}\n").as_bytes())
}

/// Where a log ends, if its END is there: asked of the record sizes alone, so
/// it needs no key and proves nothing to a reader.
pub fn ended_at(fs: &dyn Fs, dir: &str) -> Result<Option<u64>> {
    let Some(n) = segments(fs, dir)?.pop() else { return Ok(None) };
    let file = match fs.open_log(&format!("{dir}/{n}")) {
        Err(error) if error.is_loss() => return Ok(None),
        other => other?,
    };
    let mut bytes = vec![0; CHUNK];
    let filled = file.read_at(&mut bytes, 0)?;
    let Ok(header) = Header::parse(&bytes[..filled]) else { return Ok(None) };
    // `start` is where `bytes` lies in the file, `at` the record that is looked at.
    let (mut start, mut filled, mut at) = (0, filled, HEADER as u64);
    loop {
        if at + 4 > start + filled as u64 {
            start = at;
            filled = file.read_at(&mut bytes, start)?;
        }
        let word: &[u8] = &bytes[((at - start) as usize).min(filled)..filled];
        let Ok(Some(size)) = record_size(word) else { return Ok(None) };
        at += size as u64;
        if is_end(&[word[0], word[1], word[2], word[3]]) {
            let whole = at <= start + filled as u64 || at <= file.size()?;
            return Ok(header.base.checked_add(at - HEADER as u64).filter(|_| whole));
        }
    }
}

/// Is there a record in a log that is not its END? Asked of the sizes alone, as `ended_at`.
pub fn has_data(fs: &dyn Fs, dir: &str) -> Result<bool> {
    for n in segments(fs, dir)? {
        let file = match fs.open_log(&format!("{dir}/{n}")) {
            Err(error) if error.is_loss() => continue,
            other => other?,
        };
        let mut word = [0; 4];
        if file.read_at(&mut word, HEADER as u64)? == word.len() && !is_end(&word) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A segment file as it was found, checked from its first byte to its last valid record.
pub(crate) struct Found {
    pub(crate) header: Header,
    pub(crate) records: Records,
    pub(crate) file: Box<dyn LogFile>,
    /// The size in bytes of header and valid records.
    pub(crate) valid: u64,
    /// Plaintext bytes in those records.
    pub(crate) plain: u64,
    pub(crate) end: Option<End>,
}

/// Opens segment `n` and checks every record; `None` if its header is not of
/// this place, or has no record behind it that proves it.
pub(crate) fn find(fs: &dyn Fs, dir: &str, keys: &JobKeys, stream: Stream, n: u64) -> Result<Option<Found>> {
    let file = match fs.open_log(&format!("{dir}/{n}")) {
        Err(Error::Damaged { .. }) => return Ok(None),
        other => other?,
    };
    let mut buffer = vec![0; CHUNK + RECORD + OVERHEAD];
    let mut filled = file.read_at(&mut buffer, 0)?;
    let header = match Header::parse(&buffer[..filled]) {
        Ok(header) if header.n == n && header.stream == stream && header.msgid == keys.msgid => header,
        _ => return Ok(None),
    };
    let records = Records::new(keys, &header);
    let mut found = Found { header, records, file, valid: HEADER as u64, plain: 0, end: None };
    let (mut at, mut plain) = (HEADER, Vec::new());
    while found.end.is_none() {
        plain.clear();
        match found.records.open(&buffer[at..filled], &mut plain) {
            Ok(Some((size, record))) => {
                at += size;
                found.valid += size as u64;
                match record {
                    Record::Data(count) => found.plain += count as u64,
                    Record::End(end) => found.end = Some(end),
                }
            }
            Ok(None) => {
                filled = found.file.read_at(&mut buffer, found.valid)?;
                at = 0;
                if !matches!(record_size(&buffer[..filled]), Ok(Some(size)) if size <= filled) {
                    break;
                }
            }
            Err(BadSegment(_)) => break,
        }
    }
    Ok(Some(found).filter(|found| found.valid > HEADER as u64))
}

/// The last segment that has a valid record, cut back to what is valid. Later
/// ones were never offered, or damage took what they held; `drop_empty` says
/// what becomes of them.
pub(crate) fn last_valid(
    fs: &dyn Fs,
    dir: &str,
    keys: &JobKeys,
    stream: Stream,
    drop_empty: impl Fn(&str) -> Result<()>,
) -> Result<Option<Found>> {
    for n in segments(fs, dir)?.into_iter().rev() {
        match find(fs, dir, keys, stream, n)? {
            Some(mut found) => {
                cut(&mut *found.file, found.valid)?;
                return Ok(Some(found));
            }
            None => drop_empty(&format!("{dir}/{n}"))?,
        }
    }
    Ok(None)
}

/// Cuts a file back to `size` bytes, durably.
pub(crate) fn cut(file: &mut dyn LogFile, size: u64) -> Result<()> {
    if file.size()? > size {
        file.truncate(size)?;
        file.sync()?;
    }
    Ok(())
}

/// Appends all, or leaves the file as it was.
pub(crate) fn append_all(file: &mut dyn LogFile, bytes: &[u8]) -> Result<()> {
    let before = file.size()?;
    let mut count = 0;
    while count < bytes.len() {
        match file.append(&bytes[count..]) {
            Ok(more) => count += more,
            Err(error) => {
                file.truncate(before)?;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Makes segment `header.n` with this much in it, under its name at once.
pub(crate) fn begin(fs: &dyn Fs, dir: &str, header: &Header, records: &[u8]) -> Result<Box<dyn LogFile>> {
    let next = format!("{dir}/.next");
    fs.remove(&next)?;
    let mut file = fs.create_log(&next)?;
    append_all(&mut *file, &[header.bytes().as_slice(), records].concat())?;
    fs.rename(&next, &format!("{dir}/{}", header.n))?;
    Ok(file)
}

#[cfg(test)]
#[path = "log_test.rs"]
mod tests;
