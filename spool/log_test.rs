//! A log on its way: written, pulled in arbitrary pieces, read, with each of
//! the three started anew at any point, and a disk that fills up.

use super::*;
use crate::atomic::Disk;
use crate::fs::{Entry, Error, Free, Lock, Stat};
use crate::name::{Chan, MsgId, Role, Username};
use crate::segment::{EndKind, SEGMENT};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

const OUT: &str = "out";
const IN: &str = "in";
const STREAM: Stream = Stream { chan: Chan(1), producer: Role::Sender };

/// How an append goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The append says that it failed, and this share of the bytes was written.
    Fails(usize, usize),
    /// Half of the bytes are written, and it says so.
    Short,
}

/// The appends that are to go wrong, and all bytes that were ever handed to one.
#[derive(Default)]
struct Tape {
    faults: Mutex<VecDeque<Option<Fault>>>,
    /// The file's content before, and the bytes that were to be appended.
    handed: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
}

/// A disk with so many bytes of room for logs; what does not fit is written short.
struct Small {
    disk: Disk,
    room: Arc<AtomicI64>,
    tape: Arc<Tape>,
}

struct SmallLog {
    file: Box<dyn LogFile>,
    room: Arc<AtomicI64>,
    tape: Arc<Tape>,
}

impl SmallLog {
    fn content(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.file.size()? as usize];
        self.file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl LogFile for SmallLog {
    fn append(&mut self, bytes: &[u8]) -> Result<usize> {
        let fault = self.tape.faults.lock().unwrap().pop_front();
        if let Some(fault) = fault {
            self.tape.handed.lock().unwrap().push((self.content()?, bytes.to_vec()));
            match fault {
                None => {}
                Some(Fault::Short) => return self.file.append(&bytes[..bytes.len() / 2]),
                Some(Fault::Fails(part, of)) => {
                    self.file.append(&bytes[..bytes.len() * part / of])?;
                    return Err(Error::io("append to", "a bad disk", std::io::Error::other("scripted")));
                }
            }
        }
        let count = (self.room.load(Ordering::SeqCst).max(0) as usize).min(bytes.len());
        if count == 0 {
            return Err(Error::io("append to", "a full disk", std::io::ErrorKind::StorageFull));
        }
        self.room.fetch_sub(count as i64, Ordering::SeqCst);
        self.file.append(&bytes[..count])
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn size(&self) -> Result<u64> {
        self.file.size()
    }
    fn is_at(&self, path: &str) -> Result<bool> {
        self.file.is_at(path)
    }
    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
    fn truncate(&mut self, size: u64) -> Result<()> {
        self.room.fetch_add((self.file.size()? - size) as i64, Ordering::SeqCst);
        self.file.truncate(size)
    }
}

impl Small {
    fn log(&self, file: Box<dyn LogFile>) -> Box<dyn LogFile> {
        Box::new(SmallLog { file, room: self.room.clone(), tape: self.tape.clone() })
    }
}

impl Fs for Small {
    fn commit(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.disk.commit(path, bytes)
    }
    fn hint(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.disk.hint(path, bytes)
    }
    fn make_dir(&self, path: &str) -> Result<()> {
        self.disk.make_dir(path)
    }
    fn commit_dir(&self, from: &str, to: &str, files: &[&str]) -> Result<()> {
        self.disk.commit_dir(from, to, files)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, path: &str) -> Result<()> {
        self.disk.sync_dir(path)
    }
    fn read(&self, path: &str, max: usize) -> Result<Vec<u8>> {
        self.disk.read(path, max)
    }
    fn stat(&self, path: &str) -> Result<Option<Stat>> {
        self.disk.stat(path)
    }
    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        self.disk.list(path)
    }
    fn create_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        Ok(self.log(self.disk.create_log(path)?))
    }
    fn open_log(&self, path: &str) -> Result<Box<dyn LogFile>> {
        Ok(self.log(self.disk.open_log(path)?))
    }
    fn lock_dir(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        self.disk.lock_dir(path, wait)
    }
    fn lock_file(&self, path: &str, wait: Duration) -> Result<Option<Lock>> {
        self.disk.lock_file(path, wait)
    }
    fn is_locked(&self, path: &str) -> Result<bool> {
        self.disk.is_locked(path)
    }
    fn touch(&self, path: &str) -> Result<()> {
        self.disk.touch(path)
    }
    fn free(&self) -> Result<Free> {
        self.disk.free()
    }
}

/// Chance that a seed decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| self.below(u64::MAX).to_be_bytes());
        words.take(count).collect()
    }

    /// Bytes that compress, in part.
    fn text(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = self.bytes(count);
        bytes.iter_mut().step_by(3).for_each(|byte| *byte = b'a');
        let half = count / 2;
        bytes[..half].iter_mut().for_each(|byte| *byte &= 7);
        bytes
    }
}

/// One log in two directories, with what happened to it.
struct Rig {
    root: tempfile::TempDir,
    fs: Arc<dyn Fs>,
    room: Arc<AtomicI64>,
    tape: Arc<Tape>,
    keys: JobKeys,
    /// Its writers compress.
    zipped: bool,
    written: Vec<u8>,
    read: Vec<u8>,
}

impl Rig {
    /// Both kinds, one after the other.
    fn both() -> [Rig; 2] {
        [false, true].map(|zipped| Rig { zipped, ..Rig::new() })
    }

    fn new() -> Rig {
        let root = tempfile::tempdir().unwrap();
        let room = Arc::new(AtomicI64::new(i64::MAX / 2));
        let tape = Arc::new(Tape::default());
        let fs = Arc::new(Small { disk: Disk::open(root.path()).unwrap(), room: room.clone(), tape: tape.clone() });
        fs.make_dir(OUT).unwrap();
        fs.make_dir(IN).unwrap();
        let (sender, recipient) = (Username::of_ca(b"a"), Username::of_ca(b"b"));
        let keys = JobKeys { secret: crate::crypto::Key([5; 32]), sender, recipient, msgid: MsgId([6; 20]) };
        Rig { root, fs, room, tape, keys, zipped: false, written: Vec::new(), read: Vec::new() }
    }

    fn writer(&self) -> Writer {
        Writer::open(self.fs.clone(), OUT, self.keys.clone(), STREAM).unwrap().zipped(self.zipped)
    }

    fn copy(&self) -> Copy {
        Copy::open(self.fs.clone(), IN, self.keys.clone(), STREAM).unwrap()
    }

    fn reader(&self) -> Reader {
        Reader::open(self.fs.clone(), IN, self.keys.clone(), STREAM).unwrap()
    }

    fn path(&self, dir: &str, n: u64) -> PathBuf {
        self.root.path().join(dir).join(n.to_string())
    }

    fn last(&self, dir: &str) -> PathBuf {
        self.path(dir, *segments(&*self.fs, dir).unwrap().last().unwrap())
    }

    fn write(&mut self, writer: &mut Writer, bytes: &[u8]) {
        let count = writer.append(bytes).unwrap();
        self.written.extend_from_slice(&bytes[..count]);
    }

    /// One pull as the loop does it: at most `most` bytes. Says whether there was anything to do.
    fn pull(&self, copy: &mut Copy, most: usize) -> std::result::Result<bool, CopyError> {
        let (n, at) = copy.wanted();
        let Ok(file) = std::fs::read(self.path(OUT, n)) else { return Ok(false) };
        let rest = file.get(at as usize..).unwrap_or_default();
        if !rest.is_empty() {
            copy.feed(&rest[..most.min(rest.len())])?;
            return Ok(true);
        }
        let closed = self.path(OUT, n + 1).exists();
        if closed {
            copy.close(file.len() as u64);
        }
        Ok(closed && copy.wanted() != (n, at))
    }

    /// A pull that opens the copy anew where that is asked for. Bytes of a
    /// segment that its writer replaced do not verify, once.
    fn pull_on(&self, copy: &mut Copy, most: usize) -> bool {
        match self.pull(copy, most) {
            Ok(more) => return more,
            Err(CopyError::Bad(_)) => *copy = self.copy(),
            Err(CopyError::Disk(error)) if error.is_full() => {
                self.room.fetch_add(most as i64, Ordering::SeqCst);
                *copy = self.copy();
            }
            Err(error) => panic!("{error}"),
        }
        let again = self.pull(copy, most);
        matches!(again, Err(CopyError::Disk(_))) || again.unwrap()
    }

    fn pull_all(&self, copy: &mut Copy) {
        while self.pull(copy, usize::MAX).unwrap() {}
    }

    /// Reads what there is; the END, if it was met.
    fn take(&mut self, reader: &mut Reader) -> Option<End> {
        loop {
            match reader.advance().unwrap() {
                Item::Data(_) => self.read.extend_from_slice(reader.data()),
                Item::End(end) => return Some(end),
                Item::Nothing => return None,
                Item::Broken => panic!("nothing broke this log"),
            }
        }
    }
}

#[test]
fn several_segments_arrive_whole_in_pieces_of_any_size() {
    for mut rig in Rig::both() {
        let mut dice = Dice(11);
        let (mut writer, mut copy, mut reader) = (rig.writer(), rig.copy(), rig.reader());
        let bytes = dice.bytes(2 * SEGMENT as usize + 12345);
        for piece in bytes.chunks(300_000) {
            rig.write(&mut writer, piece);
            while rig.pull(&mut copy, 1 + dice.below(200_000) as usize).unwrap() {}
            assert_eq!(copy.offset(), writer.offset());
            assert_eq!(rig.take(&mut reader), None);
        }
        writer.end(EndKind::Eof).unwrap();
        rig.pull_all(&mut copy);
        let end = End { kind: EndKind::Eof, length: bytes.len() as u64 };
        assert_eq!((copy.end(), rig.take(&mut reader)), (Some(end), Some(end)));
        assert!(rig.read == bytes);
        for n in segments(&*rig.fs, OUT).unwrap() {
            assert!(std::fs::read(rig.path(OUT, n)).unwrap() == std::fs::read(rig.path(IN, n)).unwrap(), "segment {n}");
        }
        assert_eq!(ended_at(&*rig.fs, OUT).unwrap(), Some(writer.offset()));
        assert_eq!(ended_at(&*rig.fs, IN).unwrap(), Some(copy.offset()));
    }
}

#[test]
fn each_of_the_three_may_start_anew_at_any_point() {
    let seeds = std::env::var("SEED").map_or(0..25, |seed| seed.parse().map(|seed: u64| seed..seed + 1).unwrap());
    for seed in seeds {
        println!("SEED={seed}");
        let (mut rig, mut dice) = (Rig { zipped: seed % 2 == 1, ..Rig::new() }, Dice(seed));
        let (mut writer, mut copy, mut reader) = (rig.writer(), rig.copy(), rig.reader());
        let mut now = Duration::ZERO;
        for _ in 0..60 {
            match dice.below(12) {
                0..=2 => {
                    let size = (1 << dice.below(21)) + dice.below(99) as usize;
                    let bytes = if dice.below(2) == 0 { dice.bytes(size) } else { dice.text(size) };
                    rig.write(&mut writer, &bytes);
                }
                3..=5 => drop(rig.pull_on(&mut copy, 1 + dice.below(1 << 20) as usize)),
                6 => drop(rig.take(&mut reader)),
                7 => {
                    now += Duration::from_secs(1);
                    reader.took(now, true).unwrap();
                    let read = hinted(&*rig.fs, "in/read").unwrap();
                    copy.forget(read, copy.offset()).unwrap();
                    hint(&*rig.fs, "out/got", copy.offset()).unwrap();
                    writer.forget().unwrap();
                }
                8 => writer = rig.writer(),
                9 => {
                    // A record that was cut short, or not written at all, belongs to nobody.
                    let before = writer.offset();
                    let size = 1 + dice.below(5000) as usize;
                    let bytes = dice.bytes(size);
                    writer.append(&bytes).unwrap();
                    let cut = 1 + dice.below(writer.offset() - before);
                    let file = std::fs::File::options().write(true).open(rig.last(OUT)).unwrap();
                    file.set_len(file.metadata().unwrap().len() - cut).unwrap();
                    rig.pull_on(&mut copy, usize::MAX);
                    writer = rig.writer();
                }
                10 => copy = rig.copy(),
                _ => {
                    reader.took(now + Duration::from_secs(1), true).unwrap();
                    reader = rig.reader();
                    rig.take(&mut reader);
                }
            }
        }
        drop(writer);
        let mut writer = rig.writer();
        writer.end(EndKind::Aborted).unwrap();
        assert_eq!(rig.writer().ended(), writer.ended(), "an END stays");
        while copy.end().is_none() {
            assert!(rig.pull_on(&mut copy, 1 + dice.below(1 << 20) as usize), "the copy is stuck");
        }
        let end = rig.take(&mut reader).expect("the END is there");
        assert_eq!((end.kind, end.length), (EndKind::Aborted, rig.written.len() as u64));
        assert!(rig.read == rig.written);
    }
}

#[test]
fn a_writer_cuts_back_half_a_record_and_goes_on_in_a_new_segment() {
    for mut rig in Rig::both() {
        let (mut writer, mut copy, mut reader) = (rig.writer(), rig.copy(), rig.reader());
        rig.write(&mut writer, b"whole");
        writer.append(b"this was being written").unwrap();
        let path = rig.last(OUT);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 3).unwrap();
        // Somebody pulls it before the writer is back.
        rig.pull_all(&mut copy);
        let mut writer = rig.writer();
        rig.write(&mut writer, b", and what follows");
        writer.end(EndKind::Eof).unwrap();
        rig.pull_all(&mut copy);
        assert!(rig.take(&mut reader).is_some());
        assert_eq!(rig.read, b"whole, and what follows");
        assert_eq!(segments(&*rig.fs, OUT).unwrap(), [0, 1]);
    }
}

#[test]
fn a_writer_that_is_killed_again_and_again_is_followed() {
    // A header without a record cannot be verified: it was pulled for ever, and its segment never left.
    let mut rig = Rig::new();
    for _ in 0..3 {
        drop(rig.writer());
    }
    let mut writer = rig.writer();
    rig.write(&mut writer, b"x");
    for _ in 0..3 {
        drop(rig.writer());
    }
    let (mut copy, mut reader) = (rig.copy(), rig.reader());
    rig.pull_all(&mut copy);
    rig.take(&mut reader);
    rig.writer().end(EndKind::Eof).unwrap();
    rig.pull_all(&mut copy);
    assert!(rig.copy().end().is_some());
    assert!(rig.take(&mut reader).is_some());
    assert_eq!(rig.read, b"x");
}

#[test]
fn a_reader_goes_on_where_the_last_one_was_done() {
    for mut rig in Rig::both() {
        let (mut writer, mut copy, mut reader) = (rig.writer(), rig.copy(), rig.reader());
        for piece in [b"first ".as_slice(), b"second "] {
            rig.write(&mut writer, piece);
            rig.pull_all(&mut copy);
            rig.take(&mut reader);
        }
        reader.took(Duration::ZERO, true).unwrap();
        rig.write(&mut writer, b"third");
        writer.end(EndKind::Eof).unwrap();
        rig.pull_all(&mut copy);
        let mut reader = rig.reader();
        assert!(rig.take(&mut reader).is_some());
        assert_eq!(rig.read, b"first second third");
        assert_eq!(reader.plain(), 18);

        // Nothing is given twice because of a place where no record ends.
        hint(&*rig.fs, "in/read", hinted(&*rig.fs, "in/read").unwrap() - 1).unwrap();
        let mut reader = rig.reader();
        assert!(std::iter::from_fn(|| Some(reader.advance())).take(3).any(|item| item.is_err()));
    }
}

#[test]
fn a_lost_place_is_an_error_and_not_silence() {
    let mut rig = Rig::new();
    let (mut writer, mut copy, mut reader) = (rig.writer(), rig.copy(), rig.reader());
    let bytes = Dice(2).bytes(SEGMENT as usize + 100_000);
    rig.write(&mut writer, &bytes);
    rig.pull_all(&mut copy);
    rig.take(&mut reader);
    reader.took(Duration::ZERO, true).unwrap();
    copy.forget(reader_offset(&rig), copy.offset()).unwrap();
    assert_eq!(segments(&*rig.fs, IN).unwrap(), [1]);
    rig.fs.remove("in/read").unwrap();
    assert!(Reader::open(rig.fs.clone(), IN, rig.keys.clone(), STREAM).is_err());
}

fn reader_offset(rig: &Rig) -> u64 {
    hinted(&*rig.fs, "in/read").unwrap()
}

#[test]
fn a_full_disk_costs_time_and_no_byte() {
    let firsts = (0..130).step_by(3).chain((0..20).map(|n| n * 7017));
    for (first, zipped) in firsts.flat_map(|first| [(first, false), (first, true)]) {
        let (mut rig, mut dice) = (Rig { zipped, ..Rig::new() }, Dice(first));
        let mut writer = rig.writer();
        let bytes = if first % 2 == 0 { dice.bytes(150_000) } else { dice.text(150_000) };
        rig.write(&mut writer, &bytes[..10]);
        let (mut copy, mut reader) = (rig.copy(), rig.reader());
        rig.room.store(first as i64, Ordering::SeqCst);
        let mut given = 10;
        while given < bytes.len() {
            let piece = &bytes[given..bytes.len().min(given + 70_000)];
            match writer.append(piece) {
                Ok(count) => given += count,
                Err(error) => {
                    assert!(error.is_full(), "{error}");
                    rig.room.fetch_add(dice.below(80_000) as i64, Ordering::SeqCst);
                }
            }
            while rig.pull_on(&mut copy, 1 + dice.below(90_000) as usize) {}
        }
        while let Err(error) = writer.end(EndKind::Eof) {
            assert!(error.is_full(), "{error}");
            rig.room.fetch_add(dice.below(60) as i64, Ordering::SeqCst);
        }
        rig.room.store(i64::MAX / 2, Ordering::SeqCst);
        copy = rig.copy();
        rig.pull_all(&mut copy);
        let end = rig.take(&mut reader).expect("the END arrives");
        assert_eq!(end.length, bytes.len() as u64, "first {first}");
        assert!(rig.read == bytes, "first {first}");
    }
}

#[test]
fn a_log_that_lost_what_was_taken_over_is_broken() {
    let mut rig = Rig::new();
    let (mut writer, mut copy) = (rig.writer(), rig.copy());
    rig.write(&mut writer, b"one");
    rig.write(&mut writer, b"two");
    rig.pull_all(&mut copy);
    let file = std::fs::File::options().write(true).open(rig.last(OUT)).unwrap();
    file.set_len(HEADER as u64 + 23).unwrap();
    let mut writer = rig.writer();
    writer.end(EndKind::Aborted).unwrap();
    let broken = loop {
        match rig.pull(&mut copy, usize::MAX) {
            Ok(more) => assert!(more, "the loss was not noticed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(broken, CopyError::Broken { .. }), "{broken}");
}

#[test]
fn a_segment_with_a_lower_base_is_broken_and_one_with_a_higher_is_asked_again() {
    let mut rig = Rig::new();
    let (mut writer, mut copy) = (rig.writer(), rig.copy());
    rig.write(&mut writer, b"one");
    rig.pull_all(&mut copy);
    rig.write(&mut writer, b"two");
    let mut writer = rig.writer();
    rig.write(&mut writer, b"three");
    let next = std::fs::read(rig.path(OUT, 1)).unwrap();

    // Somebody lied: segment 0 was not over where the copy stands.
    copy.close(copy.wanted().1);
    assert!(matches!(copy.feed(&next), Err(CopyError::Bad(_))));
    let mut copy = rig.copy();
    assert_eq!(copy.wanted().0, 0);
    rig.pull_all(&mut copy);
    assert_eq!(copy.offset(), writer.offset());

    let mut records = Vec::new();
    let header = Header { base: 5, plain: 1, n: 2, ..Header::parse(&next).unwrap() };
    Records::new(&rig.keys, &header).seal(b"x", &mut records);
    copy.close(copy.wanted().1);
    let forged = [header.bytes().as_slice(), &records].concat();
    assert!(matches!(copy.feed(&forged), Err(CopyError::Broken { theirs: 5, .. })));
}

#[test]
fn altered_bytes_are_dropped_and_pulled_again() {
    for mut rig in Rig::both() {
        let (mut writer, mut copy, mut reader) = (rig.writer(), rig.copy(), rig.reader());
        let bytes = Dice(3).bytes(200_000);
        rig.write(&mut writer, &bytes);
        writer.end(EndKind::Eof).unwrap();
        let mut altered = std::fs::read(rig.last(OUT)).unwrap();
        altered[100_000] ^= 1;
        // What is good before the altered record is kept.
        copy.feed(&altered).unwrap();
        assert!(matches!(copy.feed(b"more"), Err(CopyError::Bad(_))));
        let mut copy = rig.copy();
        rig.pull_all(&mut copy);
        assert!(rig.take(&mut reader).is_some());
        assert!(rig.read == bytes);
    }
}

/// A size that was altered on the way to a larger one made the copy wait for
/// bytes that nobody has: the log stood still although it had its END.
#[test]
fn an_altered_size_is_not_waited_for() {
    let mut rig = Rig::new();
    let (mut writer, mut copy, mut reader) = (rig.writer(), rig.copy(), rig.reader());
    rig.write(&mut writer, b"short");
    writer.end(EndKind::Eof).unwrap();
    let mut altered = std::fs::read(rig.last(OUT)).unwrap();
    copy.feed(&altered[..HEADER]).unwrap();
    assert!(!copy.doubt(), "a header alone waits for its first record");
    altered[HEADER + 2] ^= 0x80;
    copy.feed(&altered[HEADER..]).unwrap();
    assert!(!rig.pull(&mut copy, usize::MAX).unwrap(), "there is no more");
    assert!(copy.doubt());
    rig.pull_all(&mut copy);
    assert!(rig.take(&mut reader).is_some());
    assert_eq!(rig.read, b"short");
}

#[test]
fn what_the_consumer_holds_is_forgotten_and_a_broken_channel_is_told() {
    let mut rig = Rig::new();
    let (mut writer, mut copy, mut reader) = (rig.writer(), rig.copy(), rig.reader());
    let bytes = Dice(4).bytes(2 * SEGMENT as usize);
    rig.write(&mut writer, &bytes);
    rig.pull_all(&mut copy);
    assert_eq!(writer.held(), writer.offset());
    hint(&*rig.fs, "out/got", copy.offset()).unwrap();
    writer.forget().unwrap();
    assert_eq!((writer.held(), segments(&*rig.fs, OUT).unwrap()), (0, vec![2]));
    // Nobody can make a writer believe more than it wrote.
    hint(&*rig.fs, "out/got", u64::MAX).unwrap();
    writer.forget().unwrap();
    assert_eq!(writer.held(), 0);

    rig.fs.hint("in/broken", b"").unwrap();
    let mut given = 0;
    loop {
        match reader.advance().unwrap() {
            Item::Data(count) => given += count,
            item => break assert_eq!(item, Item::Broken),
        }
    }
    assert_eq!(given, bytes.len(), "what is there is given first");
}

impl Tape {
    /// All records that were ever handed to an append, by what sealed them: the
    /// segment's salt and the record's number, which are the key and the nonce.
    /// Panics where two that differ have both in common.
    fn by_nonce(&self, keys: &JobKeys) -> BTreeMap<([u8; 32], u64), Vec<u8>> {
        let mut sealed: BTreeMap<([u8; 32], u64), Vec<u8>> = BTreeMap::new();
        for (before, bytes) in self.handed.lock().unwrap().iter() {
            let all = [before.as_slice(), bytes].concat();
            let header = Header::parse(&all).expect("a file begins with its header");
            let mut rest = &all[HEADER.max(before.len())..];
            while let Ok(Some(size)) = record_size(rest) {
                let (record, later) = rest.split_at(size);
                let opens = |counter: &u64| {
                    let mut records = Records::new(keys, &header).at(*counter);
                    matches!(records.open(record, &mut Vec::new()), Ok(Some(_)))
                };
                let counter = (0..1000).find(opens).expect("each record opens with one nonce");
                let other = sealed.insert((header.salt, counter), record.to_vec());
                assert!(other.is_none_or(|other| other == record), "nonce {counter} sealed two plaintexts");
                rest = later;
            }
        }
        sealed
    }
}

/// A writer whose append failed sealed something else under the same key and
/// nonce, and what had been written of the first may have been seen.
#[test]
fn no_nonce_ever_seals_two_plaintexts_however_appends_fail() {
    let faults = [Fault::Fails(0, 1), Fault::Fails(1, 2), Fault::Fails(1, 1), Fault::Short];
    for (seed, mut rig) in (0..60).zip(std::iter::repeat_with(|| Rig::both()).flatten()) {
        let mut dice = Dice(seed);
        let mut writer = rig.writer();
        let script = (0..400).map(|_| (dice.below(3) == 0).then(|| faults[dice.below(4) as usize]));
        *rig.tape.faults.lock().unwrap() = script.collect();
        while rig.written.len() < 300_000 {
            let size = 1 + dice.below(90_000) as usize;
            let bytes = dice.text(size);
            // A caller that failed may well have something else to say.
            if let Ok(count) = writer.append(&bytes) {
                rig.written.extend_from_slice(&bytes[..count]);
            }
        }
        while writer.end(EndKind::Eof).is_err() {}
        rig.tape.faults.lock().unwrap().clear();
        assert!(rig.tape.by_nonce(&rig.keys).len() > 5, "control: records are found");
        let (mut copy, mut reader) = (rig.copy(), rig.reader());
        rig.pull_all(&mut copy);
        assert!(rig.take(&mut reader).is_some(), "seed {seed}: the END arrives");
        assert!(rig.read == rig.written, "seed {seed}: the log holds what was said to be appended");
    }
}

/// A second writer of a log, or one that did not know of its END, ended its process.
#[test]
fn what_is_appended_after_an_end_is_an_error_and_no_panic() {
    let mut rig = Rig::new();
    let mut writer = rig.writer();
    rig.write(&mut writer, b"all");
    writer.end(EndKind::Eof).unwrap();
    let error = writer.append(b"more").unwrap_err();
    assert_eq!(error.to_string(), "cannot append to out: it has its END");
    assert!(rig.writer().append(b"more").is_err());
    let (mut copy, mut reader) = (rig.copy(), rig.reader());
    rig.pull_all(&mut copy);
    assert!(rig.take(&mut reader).is_some());
    assert_eq!(rig.read, b"all");
}
