//! Readers that begin in the middle.

use super::*;
use crate::atomic::Disk;
use crate::crypto::Key;
use crate::log::Writer;
use crate::name::{Chan, MsgId, Role, Username};
use crate::segment::{EndKind, SEGMENT};

const STREAM: Stream = Stream { chan: Chan(2), producer: Role::Recipient };

struct Rig {
    _directory: tempfile::TempDir,
    disk: Arc<Disk>,
    keys: JobKeys,
}

impl Rig {
    fn new() -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::open(directory.path()).unwrap());
        disk.make_dir("log").unwrap();
        let (sender, recipient) = (Username::of_ca(b"a"), Username::of_ca(b"b"));
        let keys = JobKeys { secret: Key([3; 32]), sender, recipient, msgid: MsgId([4; 20]) };
        Rig { _directory: directory, disk, keys }
    }

    fn holds(&self, plain: &[u8]) {
        let mut writer = Writer::open(self.disk.clone(), "log", self.keys.clone(), STREAM).unwrap();
        assert_eq!(writer.append(plain).unwrap(), plain.len());
        writer.end(EndKind::Eof).unwrap();
    }

    fn at(&self, offset: u64) -> Result<Reader> {
        Reader::open_at(self.disk.clone(), "log", self.keys.clone(), STREAM, offset)
    }
}

fn rest(reader: &mut Reader) -> Vec<u8> {
    let mut given = Vec::new();
    loop {
        match reader.advance().unwrap() {
            Item::Data(count) => {
                assert_eq!(count, reader.data().len());
                given.extend_from_slice(reader.data());
            }
            Item::End(_) => return given,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_reader_begins_at_any_byte_that_is_still_here() {
    let rig = Rig::new();
    let plain: Vec<u8> = (0..3 * SEGMENT as u32).map(|n| (n / 7) as u8).collect();
    rig.holds(&plain);
    for at in [0, 1, 65_535, 65_536, 65_537, SEGMENT as usize + 5, plain.len() - 1, plain.len()] {
        let mut reader = rig.at(at as u64).unwrap();
        assert!(rest(&mut reader) == plain[at..], "from {at}");
        assert_eq!(reader.plain(), plain.len() as u64);
    }
}

#[test]
fn what_was_given_up_is_an_error_that_says_where_it_begins() {
    let rig = Rig::new();
    rig.holds(&vec![1; 2 * SEGMENT as usize]);
    rig.disk.remove("log/0").unwrap();
    let error = rig.at(5).err().unwrap().to_string();
    let mut later = rig.at(SEGMENT + 5).unwrap();
    let begin = 2 * SEGMENT - rest(&mut rig.at(SEGMENT).unwrap()).len() as u64;
    assert_eq!(begin, SEGMENT);
    assert_eq!(rest(&mut later).len() as u64, SEGMENT - 5);
    assert!(error.contains("at byte 8323072, is gone"), "{error}");
}

#[test]
fn a_place_in_the_middle_moves_the_hint_only_forward() {
    let rig = Rig::new();
    rig.holds(&vec![1; 300_000]);
    let mut reader = Reader::open(rig.disk.clone(), "log", rig.keys.clone(), STREAM).unwrap();
    rest(&mut reader);
    reader.took(Duration::from_secs(1), true).unwrap();
    let read = hinted(&*rig.disk, "log/read").unwrap();
    let mut again = rig.at(7).unwrap();
    assert!(matches!(again.advance().unwrap(), Item::Data(_)));
    again.took(Duration::from_secs(1), true).unwrap();
    assert_eq!(hinted(&*rig.disk, "log/read").unwrap(), read);
    assert_eq!(rest(&mut again).len() as u64, 300_000 - 7 - (262_144 - 7));
}
