//! Each kind of damage is found, and nothing that is merely being written.

use super::*;
use crate::atomic::Disk;
use crate::crypto::Key;
use crate::log::{Writer, hint};
use crate::name::{MsgId, Role, Username};
use crate::segment::{EndKind, OVERHEAD, SEGMENT};
use std::sync::Arc;

const STREAM: Stream = Stream { chan: Chan::STDIN, producer: Role::Sender };

struct Rig {
    root: tempfile::TempDir,
    fs: Arc<Disk>,
    keys: JobKeys,
    /// Where the log ends.
    end: u64,
}

impl Rig {
    /// A log of three segments, of which the last is half full.
    fn new(zipped: bool, ends: bool) -> Rig {
        let root = tempfile::tempdir().unwrap();
        let fs = Arc::new(Disk::open(root.path()).unwrap());
        fs.make_dir("out").unwrap();
        let (sender, recipient) = (Username::of_ca(b"a"), Username::of_ca(b"b"));
        let keys = JobKeys { secret: Key([5; 32]), sender, recipient, msgid: MsgId([6; 20]) };
        let mut writer = Writer::open(fs.clone(), "out", keys.clone(), STREAM).unwrap().zipped(zipped);
        let mut state = 1u64;
        let mut piece = || {
            let next = |_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            };
            (0..100_000).map(next).collect::<Vec<u8>>()
        };
        while writer.offset() < 2 * SEGMENT + SEGMENT / 2 {
            writer.append(&piece()).unwrap();
        }
        if ends {
            writer.end(EndKind::Eof).unwrap();
        }
        Rig { root, fs, keys, end: writer.offset() }
    }

    fn look(&self, claimed: u64) -> Found {
        look(&*self.fs, "out", &self.keys, STREAM, claimed).unwrap()
    }

    fn path(&self, n: u64) -> std::path::PathBuf {
        self.root.path().join("out").join(n.to_string())
    }

    fn with(&self, n: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(n)).unwrap();
        change(&mut bytes);
        std::fs::write(self.path(n), bytes).unwrap();
    }

    fn is_damaged(&self, claimed: u64) -> bool {
        matches!(self.look(claimed), Found::Damaged(_))
    }
}

#[test]
fn a_whole_log_is_good_however_much_of_it_is_held() {
    for (zipped, ends) in [(false, false), (true, false), (false, true), (true, true)] {
        let rig = Rig::new(zipped, ends);
        for got in [0, 5, SEGMENT, 2 * SEGMENT, rig.end] {
            hint(&*rig.fs, "out/got", got).unwrap();
            assert_eq!(rig.look(got), Found::Good);
            assert_eq!(rig.look(rig.end), Found::Good);
        }
        assert!(rig.is_damaged(rig.end + 1), "the consumer holds more than there is");
    }
}

#[test]
fn a_flipped_bit_is_found_in_every_segment_wherever_it_is() {
    let rig = Rig::new(true, true);
    for n in 0..3 {
        let size = std::fs::metadata(rig.path(n)).unwrap().len() as usize;
        for at in [0, 9, 12, 40, 60, HEADER, HEADER + 3, HEADER + 4, HEADER + 30, size / 2, size - 30, size - 1] {
            rig.with(n, |bytes| bytes[at] ^= 1);
            let found = rig.look(0);
            // A size word that grew at the very end might be of a record that is being written.
            let torn = matches!(found, Found::Torn(..)) && n == 2;
            assert!(torn || matches!(found, Found::Damaged(_)), "segment {n}, byte {at}: {found:?}");
            assert!(rig.is_damaged(rig.end), "segment {n}, byte {at}");
            rig.with(n, |bytes| bytes[at] ^= 1);
        }
    }
    assert_eq!(rig.look(rig.end), Found::Good, "control");
}

#[test]
fn what_is_missing_is_found() {
    let rig = Rig::new(false, true);
    for n in 0..3 {
        let whole = std::fs::read(rig.path(n)).unwrap();
        let end = 9 + OVERHEAD;
        for left in [0, 50, HEADER, HEADER + 10, whole.len() / 2, whole.len() - end, whole.len() - 1] {
            rig.with(n, |bytes| bytes.truncate(left));
            assert!(rig.is_damaged(rig.end), "segment {n}, {left} left");
            std::fs::write(rig.path(n), &whole).unwrap();
        }
        std::fs::remove_file(rig.path(n)).unwrap();
        assert!(rig.is_damaged(rig.end), "segment {n} is gone");
        std::fs::write(rig.path(n), &whole).unwrap();
    }
    assert_eq!(rig.look(rig.end), Found::Good, "control");
}

#[test]
fn what_is_being_written_is_torn_and_what_is_held_for_good_does_not_matter() {
    let rig = Rig::new(false, false);
    let size = std::fs::metadata(rig.path(2)).unwrap().len();
    rig.with(2, |bytes| bytes.truncate(bytes.len() - 1));
    let Found::Torn(damage, rest) = rig.look(0) else { panic!("half a record") };
    assert!(rest > 0 && rest < size && damage.at < rig.end);
    assert!(rig.is_damaged(rig.end), "its consumer has had more");

    let rig = Rig::new(false, true);
    rig.with(0, |bytes| bytes[5000] ^= 1);
    assert!(rig.is_damaged(0), "control");
    hint(&*rig.fs, "out/got", SEGMENT + 1000).unwrap();
    assert_eq!(rig.look(SEGMENT + 1000), Found::Good);
}

#[test]
fn the_mark_says_what_was_found() {
    let damage = Damage { chan: Chan::STDIN, at: 70, plain: 50 };
    let facts = Facts::parse(damage.facts().to_string().as_bytes());
    assert_eq!(facts.text("reason"), Some("channel 1 is damaged on our disk at 70"));
    assert_eq!(Damage::told(&facts), Some((Chan::STDIN, 50)));
    assert_eq!(Damage::told(&Facts::new().with("reason", "x")), None);
}
