//! TAP1: the record format of messages and of a job's control channel.
//!
//! A packet is `TAP1`, then big-endian: u32 size of the whole, u32 CRC-32 of
//! everything after it, u32 sequence (0…32767, then 0 again), u8 type, payload.
//! List payloads are `name=value` NUL …, ended by a lone NUL
//! (doc/PROTOCOL.md#tap1). What a list means is its reader's matter.

use std::collections::BTreeMap;

/// A packet that cannot be read; says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TAP1: {0}")]
pub struct BadPacket(pub &'static str);

/// What a packet is. Below 10: plain; 10–19: in the sealed message; from 20 on: in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The job secret, 32 bytes.
    Key = 10,
    /// What is to run: a list.
    Start = 11,
    /// A signal for the command: its number in decimal.
    Signal = 23,
    /// The size of the terminal: a list of `rows` and `cols`.
    Winsize = 24,
    /// How the job ended: an outcome's text.
    Exit = 25,
    /// A new connection: a list.
    Open = 26,
    /// The reader of a channel is gone: its number in decimal.
    Close = 27,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Key, Start, Signal, Winsize, Exit, Open, Close].into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// One packet, read or to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Its place in the sequence.
    pub sequence: u32,
    /// What it is; packets of a kind that we do not know are skipped by the reader.
    pub kind: Kind,
    /// Depends on the kind.
    pub payload: Vec<u8>,
}

const MAGIC: &[u8; 4] = b"TAP1";
const HEAD: usize = 17;
/// The largest packet: a message with its recipe.
pub const PACKET_MAX: usize = (1 << 20) + (64 << 10);
const SEQUENCES: u32 = 32768;

/// The sequence number after this one.
pub fn next(sequence: u32) -> u32 {
    (sequence + 1) % SEQUENCES
}

/// Writes a packet.
pub fn write(sequence: u32, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    let mut covered = Vec::with_capacity(5 + payload.len());
    covered.extend_from_slice(&sequence.to_be_bytes());
    covered.push(kind as u8);
    covered.extend_from_slice(payload);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&((HEAD + payload.len()) as u32).to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&covered).to_be_bytes());
    out.extend_from_slice(&covered);
}

/// Takes the first packet of a known kind off the front of `bytes`; `None` if it is not all there.
pub fn read(bytes: &mut &[u8]) -> Result<Option<Packet>, BadPacket> {
    loop {
        let Some(head) = bytes.get(..HEAD) else { return Ok(None) };
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if &head[..4] != MAGIC {
            return Err(BadPacket("does not begin with TAP1"));
        }
        let size = word(4) as usize;
        if !(HEAD..=PACKET_MAX).contains(&size) {
            return Err(BadPacket("impossible size"));
        }
        let Some(whole) = bytes.get(..size) else { return Ok(None) };
        if crc32fast::hash(&whole[12..]) != word(8) {
            return Err(BadPacket("wrong CRC"));
        }
        if word(12) >= SEQUENCES {
            return Err(BadPacket("impossible sequence number"));
        }
        *bytes = &bytes[size..];
        if let Some(kind) = Kind::of(head[16]) {
            return Ok(Some(Packet { sequence: word(12), kind, payload: whole[HEAD..].to_vec() }));
        }
    }
}

/// A list payload: names with values; neither holds a NUL, names hold no `=`.
pub type List = BTreeMap<String, Vec<u8>>;

/// Writes a list payload. Entries that could not be read again are an error.
pub fn write_list(list: &List) -> Result<Vec<u8>, BadPacket> {
    let mut out = Vec::new();
    for (name, value) in list {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains(&0) {
            return Err(BadPacket("a list entry holds a NUL byte, or its name '='"));
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        out.extend_from_slice(value);
        out.push(0);
    }
    out.push(0);
    Ok(out)
}

/// Reads a list payload; a name that comes twice is an error.
pub fn read_list(mut payload: &[u8]) -> Result<List, BadPacket> {
    let mut list = List::new();
    loop {
        let end = payload.iter().position(|&b| b == 0).ok_or(BadPacket("a list without its end"))?;
        let (entry, rest) = (&payload[..end], &payload[end + 1..]);
        if entry.is_empty() {
            return if rest.is_empty() { Ok(list) } else { Err(BadPacket("bytes after a list's end")) };
        }
        let equals = entry.iter().position(|&b| b == b'=').ok_or(BadPacket("a list entry without '='"))?;
        let name = std::str::from_utf8(&entry[..equals]).map_err(|_| BadPacket("a list name that is not text"))?;
        if name.is_empty() || list.insert(name.to_string(), entry[equals + 1..].to_vec()).is_some() {
            return Err(BadPacket("an empty or doubled list name"));
        }
        payload = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_read_as_they_were_written_and_in_pieces() {
        let mut bytes = Vec::new();
        write(7, Kind::Exit, b"exited 0", &mut bytes);
        write(next(32767), Kind::Signal, b"15", &mut bytes);
        for cut in 0..bytes.len() - 19 {
            assert_eq!(read(&mut &bytes[..cut.min(24)]), Ok(None));
        }
        let mut rest = bytes.as_slice();
        assert_eq!(read(&mut rest).unwrap().unwrap().payload, b"exited 0");
        let second = read(&mut rest).unwrap().unwrap();
        assert_eq!((second.sequence, second.kind), (0, Kind::Signal));
        assert!(rest.is_empty());
    }

    #[test]
    fn the_crc_finds_every_flipped_bit_after_it() {
        let mut bytes = Vec::new();
        write(1, Kind::Start, b"argv.0=true\0\0", &mut bytes);
        for bit in 12 * 8..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&mut bad.as_slice()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn unknown_kinds_are_skipped() {
        let mut bytes = Vec::new();
        write(1, Kind::Start, b"x", &mut bytes);
        let covered = [0u8, 0, 0, 2, 99];
        bytes.splice(
            0..0,
            [b"TAP1".as_slice(), &17u32.to_be_bytes(), &crc32fast::hash(&covered).to_be_bytes(), &covered].concat(),
        );
        assert_eq!(read(&mut bytes.as_slice()).unwrap().unwrap().kind, Kind::Start);
    }

    #[test]
    fn lists_refuse_what_they_could_not_give_back() {
        let list = List::from([("argv.0".to_string(), b"a=b".to_vec()), ("job".to_string(), vec![0xff])]);
        assert_eq!(read_list(&write_list(&list).unwrap()).unwrap(), list);
        assert!(write_list(&List::from([("a".to_string(), vec![0])])).is_err());
        for bad in [b"".as_slice(), b"a=1\0", b"a\0\0", b"a=1\0a=2\0\0", b"=1\0\0", b"\0x"] {
            assert!(read_list(bad).is_err(), "{bad:?}");
        }
    }
}
