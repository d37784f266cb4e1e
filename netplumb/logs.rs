//! What can be told of a channel's log from its files alone, and with the
//! job's keys what it says.
//!
//! Offsets and END flags are read from headers and size words: they need no key
//! and prove nothing. Damage is a finding, never an error.

use serde::Serialize;
use spool::fs::{Fs, Result};
use spool::layout::{self, channels};
use spool::log::segments;
use spool::name::{Chan, MsgId, Role};
use spool::outcome::Outcome;
use spool::segment::{End, EndKind, HEADER, Header, JobKeys, OVERHEAD, Record, Records, SEGMENT, is_end, record_size};
use spool::tap1::{self, Kind};

/// One side of one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// `in` or `out`.
    pub side: &'static str,
    /// The channel.
    pub chan: u16,
    /// The first and the last segment that are here.
    pub segments: Option<(u64, u64)>,
    /// Bytes of all segment files here.
    pub bytes: u64,
    /// Where the log ends: sealed record bytes since its beginning.
    pub offset: u64,
    /// Plaintext bytes since its beginning; those in a compressed last segment are not counted.
    pub plain: u64,
    /// The last segment is compressed.
    pub zipped: bool,
    /// The last record says that it is the END.
    pub end: bool,
    /// Bytes after the last whole record: a write that is under way, or was cut.
    pub torn: u64,
    /// The hint `got` (out) or `read` (in).
    pub hint: Option<u64>,
    /// The channel is interrupted for good.
    pub broken: bool,
    /// What cannot be read.
    pub damaged: Option<String>,
}

/// Looks at every log of a job, incoming ones first.
pub fn all(fs: &dyn Fs, msgid: MsgId) -> Vec<Seen> {
    let sides = ["in", "out"].into_iter();
    sides
        .flat_map(|side| channels(fs, msgid, side).unwrap_or_default().into_iter().map(move |chan| (side, chan)))
        .map(|(side, chan)| see(fs, msgid, side, chan))
        .collect()
}

/// Looks at one log.
fn see(fs: &dyn Fs, msgid: MsgId, side: &'static str, chan: Chan) -> Seen {
    let (dir, hint) = match side {
        "in" => (layout::log_in(msgid, chan), "read"),
        _ => (layout::log_out(msgid, chan), "got"),
    };
    let mut seen = Seen { side, chan: chan.0, broken: fs.exists(&format!("{dir}/broken")), ..Seen::default() };
    let path = format!("{dir}/{hint}");
    seen.hint = fs.exists(&path).then(|| spool::log::hinted(fs, &path).ok()).flatten();
    let numbers = segments(fs, &dir).unwrap_or_default();
    seen.segments = numbers.first().copied().zip(numbers.last().copied());
    seen.bytes = numbers.iter().filter_map(|n| fs.size(&format!("{dir}/{n}")).ok().flatten()).sum();
    for n in numbers.iter().rev() {
        // One that was cut to nothing keeps its number, and says nothing.
        if fs.size(&format!("{dir}/{n}")).ok().flatten() == Some(0) {
            continue;
        }
        match walk(fs, &format!("{dir}/{n}"), &mut seen) {
            Ok(()) => break,
            Err(error) => seen.damaged = Some(error.to_string()),
        }
    }
    seen
}

/// Goes through a segment by its size words.
fn walk(fs: &dyn Fs, path: &str, seen: &mut Seen) -> Result<()> {
    let file = fs.open_log(path)?;
    let (mut bytes, size) = ([0; HEADER], file.size()?);
    let filled = file.read_at(&mut bytes, 0)?;
    let damaged = |what: &str| spool::fs::Error::damaged(path, what);
    let header = Header::parse(&bytes[..filled]).map_err(|bad| damaged(bad.0))?;
    let (mut at, mut plain, mut end) = (HEADER as u64, header.plain, false);
    while !end {
        let mut word = [0; 4];
        let filled = file.read_at(&mut word, at)?;
        match record_size(&word[..filled]) {
            Ok(Some(record)) if at + record as u64 <= size => {
                at += record as u64;
                end = is_end(&word);
                plain = plain.saturating_add(if end || header.zipped { 0 } else { (record - OVERHEAD) as u64 });
            }
            Ok(_) => break,
            Err(bad) => {
                seen.damaged = Some(format!("{path}: {} at byte {at}", bad.0));
                break;
            }
        }
    }
    seen.offset = header.base.saturating_add(at - HEADER as u64);
    (seen.plain, seen.zipped, seen.end, seen.torn) = (plain, header.zipped, end, size.saturating_sub(at));
    Ok(())
}

/// What came of opening a segment's records in order.
pub struct Opened {
    /// Plaintext sizes of the data records that opened.
    pub sizes: Vec<usize>,
    /// The END, if it opened.
    pub end: Option<End>,
    /// Bytes of the file up to the last record that opened.
    pub valid: usize,
    /// Why the next one did not open; `None`: it is not all there, or there is none.
    pub bad: Option<&'static str>,
}

/// Opens a segment's records until one does not, and gives the plaintext of
/// each, which may be much more than the segment; no header, nothing opened.
pub fn open(bytes: &[u8], keys: &JobKeys, mut give: impl FnMut(&[u8])) -> std::result::Result<Opened, &'static str> {
    let header = Header::parse(bytes).map_err(|bad| bad.0)?;
    let mut records = Records::new(keys, &header);
    let mut opened = Opened { sizes: Vec::new(), end: None, valid: HEADER, bad: None };
    let mut plain = Vec::new();
    while opened.end.is_none() {
        plain.clear();
        match records.read(&bytes[opened.valid..], &mut plain) {
            Ok(Some((size, record))) => {
                opened.valid += size;
                give(&plain);
                match record {
                    Record::Data(count) => opened.sizes.push(count),
                    Record::End(end) => opened.end = Some(end),
                }
            }
            Ok(None) => break,
            Err(bad) => {
                opened.bad = Some(bad.0);
                break;
            }
        }
    }
    Ok(opened)
}

/// The word for a kind of END.
pub fn end_word(kind: EndKind) -> &'static str {
    match kind {
        EndKind::Eof => "eof",
        EndKind::Aborted => "aborted",
        EndKind::ReaderGone => "reader gone",
    }
}

/// How a job of ours ended whose logs are all here to their END: what its
/// recipient said, unless an output was broken off.
pub fn end_held(fs: &dyn Fs, keys: &JobKeys) -> Option<Outcome> {
    let outcome = exit_said(fs, keys, Role::Sender)?;
    let ended = |chan| {
        let dir = layout::log_in(keys.msgid, chan);
        let last = segments(fs, &dir).ok()?.pop()?;
        open(&fs.read(&format!("{dir}/{last}"), SEGMENT as usize).ok()?, keys, |_| {}).ok()?.end
    };
    let broken = [Chan::STDOUT, Chan::STDERR].into_iter().filter_map(|chan| match ended(chan) {
        Some(End { kind: EndKind::Aborted, length }) => Some(length),
        Some(_) => None,
        None => Some(0),
    });
    match (&outcome, broken.min()) {
        (Outcome::Exited(_) | Outcome::Signal(_), Some(length)) => Some(Outcome::OutputIncomplete(length)),
        _ => Some(outcome),
    }
}

/// More than this is not looked at for it.
const SAID_MAX: usize = 4 << 20;

/// How the job ended, by what the recipient says on the control channel.
pub fn exit_said(fs: &dyn Fs, keys: &JobKeys, role: Role) -> Option<Outcome> {
    let dir = match role {
        Role::Sender => layout::log_in(keys.msgid, Chan::CONTROL),
        Role::Recipient => layout::log_out(keys.msgid, Chan::CONTROL),
    };
    let mut said = Vec::new();
    for n in segments(fs, &dir).ok()? {
        let bytes = fs.read(&format!("{dir}/{n}"), SEGMENT as usize).ok()?;
        if !bytes.is_empty() {
            let more = |plain: &[u8]| said.extend_from_slice(if said.len() < SAID_MAX { plain } else { &[] });
            open(&bytes, keys, more).ok()?;
        }
    }
    let mut rest = said.as_slice();
    while let Ok(Some(packet)) = tap1::read(&mut rest) {
        if packet.kind == Kind::Exit {
            return std::str::from_utf8(&packet.payload).ok()?.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::hand_made;
    use spool::segment::Stream;

    #[test]
    fn a_log_is_measured_without_keys_and_its_damage_told() {
        let hand = hand_made();
        let submitted = hand.submit(&["cat"]);
        let (msgid, fs) = (submitted.keys.msgid, hand.view.fs.clone());
        let stream = Stream { chan: Chan::STDIN, producer: Role::Sender };
        let dir = layout::log_out(msgid, Chan::STDIN);
        let mut writer = spool::log::Writer::open(fs.clone(), &dir, submitted.keys.clone(), stream).unwrap();
        writer.append(&[7; 100_000]).unwrap();
        let stdin = || all(&*fs, msgid).into_iter().find(|seen| (seen.side, seen.chan) == ("out", 1)).unwrap();
        let seen = stdin();
        assert_eq!((seen.plain, seen.offset, seen.end, seen.hint), (100_000, writer.offset(), false, None));
        writer.end(EndKind::Eof).unwrap();
        spool::log::hint(&*fs, &format!("{dir}/got"), 4711).unwrap();
        let seen = stdin();
        assert_eq!((seen.plain, seen.offset, seen.end, seen.hint), (100_000, writer.offset(), true, Some(4711)));
        assert_eq!((seen.segments, seen.damaged), (Some((0, 0)), None));

        let mut bytes = fs.read(&format!("{dir}/0"), 1 << 20).unwrap();
        bytes.truncate(bytes.len() - 3);
        hand.put(&format!("{dir}/0"), &bytes);
        assert_eq!((stdin().end, stdin().torn), (false, 26));
        let mut given = 0;
        let cut = open(&bytes, &submitted.keys, |plain| given += plain.len()).unwrap();
        assert_eq!((given, cut.end, cut.bad), (100_000, None, None));
        hand.put(&format!("{dir}/1"), "");
        assert_eq!((stdin().damaged, stdin().plain, stdin().segments), (None, 100_000, Some((0, 1))));
        hand.put(&format!("{dir}/1"), "not a segment");
        hand.put(&format!("{dir}/broken"), "");
        assert!(stdin().damaged.is_some() && stdin().broken && stdin().plain == 100_000);
        hand.put(&format!("{dir}/0"), [&bytes[..HEADER], &[0xff; 50]].concat());
        assert!(stdin().damaged.is_some());
    }

    #[test]
    fn the_exit_is_read_from_the_control_channel_without_leaving_a_hint() {
        let hand = hand_made();
        let submitted = hand.submit(&["cat"]);
        let keys = submitted.keys.clone();
        let dir = layout::log_in(keys.msgid, Chan::CONTROL);
        let stream = Stream { chan: Chan::CONTROL, producer: Role::Recipient };
        let writer = spool::log::Writer::open(hand.view.fs.clone(), &dir, keys.clone(), stream).unwrap();
        let mut speaker = spool::control::Speaker::new(writer);
        assert_eq!(exit_said(&*hand.view.fs, &keys, Role::Sender), None);
        speaker.say(&spool::control::Control::Exit(Outcome::Exited(37))).unwrap();
        assert_eq!(exit_said(&*hand.view.fs, &keys, Role::Sender), Some(Outcome::Exited(37)));
        assert!(!hand.view.fs.exists(&format!("{dir}/read")));
    }
}
