//! One sealed file of a channel's log: a header, then records.
//!
//! ```text
//! header   "plumbseg", version 1, algorithm 1|2, msgid 20, producer 1|2, 0, chan u16,
//!          n u64, base u64, plain u64, salt 32                                  (90 bytes, big-endian)
//! record   u32: bit 31 = END, below it the size of what follows; ciphertext, tag
//! ```
//! Algorithm 1 is AES-256-GCM, 2 the same over pieces of a zstd stream (`zip.rs`).
//! `base` counts sealed record bytes before this segment, `plain` the plaintext
//! bytes. The key comes from the job secret and everything in the header, the
//! header, the counter and the size word are associated data, so a record
//! opens in its own place only. A segment without END is not over
//! (doc/PROTOCOL.md#streams).

use crate::crypto::{Aead, Key, TAG};
use crate::name::{Chan, MsgId, Role, Username};
use crate::zip::{self, Unzip, Zip};

/// The size of a header in bytes.
pub const HEADER: usize = 90;
/// The most that is sealed in one record, in bytes.
pub const RECORD: usize = 64 << 10;
/// What a record adds to that, in bytes.
pub const OVERHEAD: usize = 4 + TAG;
/// No segment file grows beyond this, in bytes.
pub const SEGMENT: u64 = 8 << 20;

const MAGIC: &[u8; 8] = b"plumbseg";
const END_FLAG: u32 = 1 << 31;
const END_PLAIN: usize = 9;

/// A segment or a record that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSegment(pub &'static str);

/// The secret of a job and what its keys are bound to.
#[derive(Clone, Debug)]
pub struct JobKeys {
    /// 32 bytes that `plumb` made, and sent inside the message.
    pub secret: Key,
    /// Who asked for the job.
    pub sender: Username,
    /// Who runs it.
    pub recipient: Username,
    /// The job.
    pub msgid: MsgId,
}

/// Which log of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream {
    /// The channel.
    pub chan: Chan,
    /// Who appends to it.
    pub producer: Role,
}

/// What the first bytes of a segment say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The job.
    pub msgid: MsgId,
    /// The log.
    pub stream: Stream,
    /// Its records are pieces of a zstd stream (algorithm 2).
    pub zipped: bool,
    /// The segment's place in the log, from 0.
    pub n: u64,
    /// Sealed record bytes in the log before it.
    pub base: u64,
    /// Plaintext bytes in the log before it.
    pub plain: u64,
    /// Makes the key unique, also when n is written twice.
    pub salt: [u8; 32],
}

impl Header {
    /// The header as it stands in the file.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[1, if self.zipped { 2 } else { 1 }]);
        out.extend_from_slice(&self.msgid.0);
        out.extend_from_slice(&[if self.stream.producer == Role::Sender { 1 } else { 2 }, 0]);
        out.extend_from_slice(&self.stream.chan.0.to_be_bytes());
        for number in [self.n, self.base, self.plain] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.salt);
        out.try_into().expect("the parts are 90 bytes")
    }

    /// Reads a header from the first [`HEADER`] bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Header, BadSegment> {
        let bytes: &[u8; HEADER] =
            bytes.get(..HEADER).and_then(|b| b.try_into().ok()).ok_or(BadSegment("shorter than a header"))?;
        let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        if &bytes[..8] != MAGIC {
            return Err(BadSegment("not a segment"));
        }
        let zipped = match bytes[8..10] {
            [1, 1] => false,
            [1, 2] => true,
            _ => return Err(BadSegment("a segment of another version")),
        };
        let producer = match bytes[30..32] {
            [1, 0] => Role::Sender,
            [2, 0] => Role::Recipient,
            _ => return Err(BadSegment("a segment of nobody")),
        };
        Ok(Header {
            msgid: MsgId(std::array::from_fn(|i| bytes[10 + i])),
            stream: Stream { chan: Chan(u16::from_be_bytes([bytes[32], bytes[33]])), producer },
            zipped,
            n: number(34),
            base: number(42),
            plain: number(50),
            salt: std::array::from_fn(|i| bytes[58 + i]),
        })
    }
}

/// Why a log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndKind {
    /// The producer reached its end of file.
    Eof,
    /// The producer died or was cancelled: this is no end of file.
    Aborted,
    /// The reader went away, so there was no use in going on.
    ReaderGone,
}

/// The last record of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub kind: EndKind,
    /// Plaintext bytes in the whole log.
    pub length: u64,
}

impl End {
    fn bytes(self) -> [u8; END_PLAIN] {
        let mut out = [0; END_PLAIN];
        out[0] = match self.kind {
            EndKind::Eof => 0,
            EndKind::Aborted => 1,
            EndKind::ReaderGone => 2,
        };
        out[1..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Result<End, BadSegment> {
        let bytes: &[u8; END_PLAIN] = bytes.try_into().map_err(|_| BadSegment("an END of impossible size"))?;
        let kind = match bytes[0] {
            0 => EndKind::Eof,
            1 => EndKind::Aborted,
            2 => EndKind::ReaderGone,
            _ => return Err(BadSegment("an END of unknown kind")),
        };
        Ok(End { kind, length: u64::from_be_bytes(std::array::from_fn(|i| bytes[1 + i])) })
    }
}

/// What one record held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// So many plaintext bytes.
    Data(usize),
    /// The end of the log; nothing follows.
    End(End),
}

/// The records of one segment, sealed or opened in their order.
pub struct Records {
    header: [u8; HEADER],
    aead: Aead,
    counter: u64,
    zipped: bool,
    /// Made when the first record is sealed, or read.
    zip: Option<Zip>,
    unzip: Option<Unzip>,
    piece: Vec<u8>,
}

impl Records {
    /// Begins at the first record of the segment with this header.
    pub fn new(keys: &JobKeys, header: &Header) -> Records {
        let bytes = header.bytes();
        let names = [keys.sender.as_str().as_bytes(), keys.recipient.as_str().as_bytes()];
        let key = keys.secret.derive(&header.salt, "netplumb segment", &[names[0], names[1], &bytes[8..58]]);
        let (aead, zipped) = (Aead::new(&key), header.zipped);
        Records { header: bytes, aead, counter: 0, zipped, zip: None, unzip: None, piece: Vec::new() }
    }

    /// As it is before this record, counted from 0.
    #[cfg(test)]
    pub(crate) fn at(self, counter: u64) -> Records {
        Records { counter, ..self }
    }

    /// The largest record that `plain` bytes, or the first of them, may come to.
    pub(crate) fn size_max(&self, plain: usize) -> usize {
        let content = if self.zipped { plain.saturating_add(zip::MARGIN) } else { plain };
        content.min(RECORD) + OVERHEAD
    }

    /// Appends one sealed record to `out`, with as many of these bytes as it
    /// holds, at least one, and says how many.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> usize {
        if !self.zipped {
            let count = plain.len().min(RECORD);
            self.seal_word(0, &plain[..count], out);
            return count;
        }
        let mut piece = std::mem::take(&mut self.piece);
        piece.clear();
        let count = self.zip.get_or_insert_with(Zip::new).piece(plain, &mut piece);
        self.seal_word(0, &piece, out);
        self.piece = piece;
        count
    }

    /// Appends the sealed END to `out`.
    pub fn seal_end(&mut self, end: End, out: &mut Vec<u8>) {
        self.seal_word(END_FLAG, &end.bytes(), out);
    }

    fn seal_word(&mut self, flag: u32, plain: &[u8], out: &mut Vec<u8>) {
        assert!(plain.len() <= RECORD, "a record holds at most 64 KiB");
        let word = ((plain.len() + TAG) as u32 | flag).to_be_bytes();
        out.extend_from_slice(&word);
        let associated = [self.header.as_slice(), &word];
        self.aead.seal(self.counter, &associated, plain, out).expect("AES-256-GCM seals any bytes");
        self.counter += 1;
    }

    /// Opens the record at the front of `bytes`: its size there, and what it
    /// holds, the plaintext appended to `out`. `None`: it is not all there.
    /// A compressed record can be read only after all those before it.
    pub fn read(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Record)>, BadSegment> {
        if !self.zipped {
            return self.open(bytes, out);
        }
        let mut piece = std::mem::take(&mut self.piece);
        piece.clear();
        let opened = self.open(bytes, &mut piece);
        let unzipped = match opened {
            Ok(Some((_, Record::Data(_)))) => self.unzip.get_or_insert_with(Unzip::new).piece(&piece, out),
            _ => Ok(()),
        };
        self.piece = piece;
        unzipped.and(opened)
    }

    /// The same for whoever has no use for the plaintext: a piece that is
    /// compressed stays so, and what it is said to hold is not proven.
    pub fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, Record)>, BadSegment> {
        let Some(size) = record_size(bytes)? else { return Ok(None) };
        let Some(whole) = bytes.get(..size) else { return Ok(None) };
        let start = out.len();
        let associated = [self.header.as_slice(), &whole[..4]];
        let opened = self.aead.open(self.counter, &associated, &whole[4..], out);
        opened.map_err(|_| BadSegment("a record does not open"))?;
        self.counter += 1;
        if whole[0] & 0x80 == 0 {
            let content = &out[start..];
            let count = if self.zipped { zip::said(content) } else { content.len() };
            return Ok(Some((size, Record::Data(count))));
        }
        let end = End::parse(&out[start..])?;
        out.truncate(start);
        Ok(Some((size, Record::End(end))))
    }
}

/// The size of the record at the front of `bytes`, if its first four bytes are there.
pub fn record_size(bytes: &[u8]) -> Result<Option<usize>, BadSegment> {
    let Some(word) = bytes.get(..4) else { return Ok(None) };
    let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
    let size = (word & !END_FLAG) as usize;
    let possible = if word & END_FLAG == 0 { TAG + 1..=TAG + RECORD } else { TAG + END_PLAIN..=TAG + END_PLAIN };
    if possible.contains(&size) { Ok(Some(4 + size)) } else { Err(BadSegment("a record of impossible size")) }
}

/// Does the record that begins with this word say that it is an END? Only opening it proves so.
pub fn is_end(word: &[u8; 4]) -> bool {
    word[0] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> JobKeys {
        let (sender, recipient) = (Username::of_ca(b"a"), Username::of_ca(b"b"));
        JobKeys { secret: Key([9; 32]), sender, recipient, msgid: MsgId([1; 20]) }
    }

    fn header() -> Header {
        let stream = Stream { chan: Chan(2), producer: Role::Recipient };
        Header { msgid: MsgId([1; 20]), stream, zipped: false, n: 3, base: 4096, plain: 4000, salt: [5; 32] }
    }

    #[test]
    fn a_header_reads_as_it_was_written() {
        for zipped in [false, true] {
            let header = Header { zipped, ..header() };
            assert_eq!(Header::parse(&header.bytes()), Ok(header));
        }
        assert!(Header::parse(&header().bytes()[..HEADER - 1]).is_err());
    }

    #[test]
    fn records_open_in_their_order_and_place_only() {
        let mut sealed = Vec::new();
        let mut records = Records::new(&keys(), &header());
        records.seal(b"one", &mut sealed);
        records.seal(&[7; RECORD], &mut sealed);
        let end = End { kind: EndKind::Eof, length: 4003 + RECORD as u64 };
        records.seal_end(end, &mut sealed);

        let mut plain = Vec::new();
        let mut records = Records::new(&keys(), &header());
        let (first, record) = records.open(&sealed, &mut plain).unwrap().unwrap();
        assert_eq!((first, record), (3 + OVERHEAD, Record::Data(3)));
        assert_eq!(records.open(&sealed[first..first + 100], &mut plain), Ok(None));
        let (second, _) = records.open(&sealed[first..], &mut plain).unwrap().unwrap();
        let (_, record) = records.open(&sealed[first + second..], &mut plain).unwrap().unwrap();
        assert_eq!((record, plain.len()), (Record::End(end), 3 + RECORD));

        let mut skipping = Records::new(&keys(), &header());
        assert!(skipping.open(&sealed[first..], &mut plain).is_err());
        let mut elsewhere = Records::new(&keys(), &Header { base: 0, ..header() });
        assert!(elsewhere.open(&sealed, &mut plain).is_err());
    }

    #[test]
    fn an_end_cannot_be_made_of_data() {
        let mut sealed = Vec::new();
        Records::new(&keys(), &header()).seal(&[0; 9], &mut sealed);
        sealed[0] |= 0x80;
        assert!(Records::new(&keys(), &header()).open(&sealed, &mut Vec::new()).is_err());
    }
}
