//! Producers that lie: what they seal with the job's own secret is still refused.

use super::*;
use crate::atomic::Disk;
use crate::crypto::Key;
use crate::name::{Chan, MsgId, Role, Username};
use crate::segment::{OVERHEAD, RECORD};

const STREAM: Stream = Stream { chan: Chan(2), producer: Role::Recipient };

fn keys() -> JobKeys {
    let (sender, recipient) = (Username::of_ca(b"a"), Username::of_ca(b"b"));
    JobKeys { secret: Key([9; 32]), sender, recipient, msgid: MsgId([1; 20]) }
}

fn copy() -> (tempfile::TempDir, Arc<dyn Fs>, Copy) {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Fs> = Arc::new(Disk::open(directory.path()).unwrap());
    disk.make_dir("in").unwrap();
    let copy = Copy::open(disk.clone(), "in", keys(), STREAM).unwrap();
    (directory, disk, copy)
}

/// A segment of so many records of this size.
fn segment(n: u64, base: u64, plain: u64, [count, size]: [usize; 2]) -> Vec<u8> {
    let header = Header { msgid: keys().msgid, stream: STREAM, zipped: false, n, base, plain, salt: [n as u8; 32] };
    let (mut records, mut sealed) = (Records::new(&keys(), &header), header.bytes().to_vec());
    let _ = (0..count).map(|_| records.seal(&vec![7; size], &mut sealed)).sum::<usize>();
    sealed
}

/// A segment had no end: one file took whatever a peer sealed.
#[test]
fn a_segment_is_no_longer_than_it_may_be() {
    let (_directory, disk, mut copy) = copy();
    let count = SEGMENT as usize / (RECORD + OVERHEAD) + 2;
    let bytes = segment(0, 0, 0, [count, RECORD]);
    let refused = bytes.chunks(100_000).find_map(|piece| copy.feed(piece).err());
    assert!(matches!(refused, Some(CopyError::Bad(_))), "{refused:?}");
    assert!(disk.size("in/0").unwrap().unwrap() <= SEGMENT);
}

/// Segment 0 was said to be empty, and the header of segment 1 to follow any
/// number of bytes: the reader took the number over, and its sum overflowed.
#[test]
fn a_segment_counts_the_bytes_before_it_rightly() {
    let (_directory, disk, mut copy) = copy();
    copy.close(0);
    let refused = copy.feed(&segment(1, 0, u64::MAX, [1, 1]));
    assert!(matches!(refused, Err(CopyError::Bad(_))), "{refused:?}");
    let mut copy = Copy::open(disk.clone(), "in", keys(), STREAM).unwrap();
    let sealed = (OVERHEAD + 5) as u64;
    copy.feed(&segment(0, 0, 0, [1, 5])).unwrap();
    // The same after a restart, from what lies here.
    let mut copy = Copy::open(disk.clone(), "in", keys(), STREAM).unwrap();
    copy.close(HEADER as u64 + sealed);
    assert!(matches!(copy.feed(&segment(1, sealed, 6, [1, 5])), Err(CopyError::Bad(_))));
    let mut copy = Copy::open(disk.clone(), "in", keys(), STREAM).unwrap();
    copy.close(HEADER as u64 + sealed);
    assert_eq!(copy.feed(&segment(1, sealed, 5, [1, 5])).unwrap(), 5);
}

/// The same, planted on our own disk: damage, and no panic.
#[test]
fn a_reader_does_not_count_beyond_what_can_be() {
    let (_directory, disk, _) = copy();
    disk.create_log("in/0").unwrap();
    let mut file = disk.create_log("in/1").unwrap();
    file.append(&segment(1, 0, u64::MAX, [1, 1])).unwrap();
    let mut reader = crate::log::Reader::open(disk.clone(), "in", keys(), STREAM).unwrap();
    assert!(matches!(reader.advance(), Err(Error::Damaged { .. })));
}

/// Numbers in files that damage took are no reason to panic.
#[test]
fn a_number_that_no_file_should_have_is_harmless() {
    let (_directory, disk, _) = copy();
    let largest = u64::MAX;
    let header =
        Header { msgid: keys().msgid, stream: STREAM, zipped: false, n: 0, base: largest, plain: 0, salt: [0; 32] };
    let mut sealed = header.bytes().to_vec();
    let end = End { kind: crate::segment::EndKind::Eof, length: 0 };
    Records::new(&keys(), &header).seal_end(end, &mut sealed);
    disk.create_log("in/0").unwrap().append(&sealed).unwrap();
    assert_eq!(crate::log::ended_at(&*disk, "in").unwrap(), None);
    disk.remove("in/0").unwrap();
    crate::log::hint(&*disk, "in/read", largest).unwrap();
    let mut reader = crate::log::Reader::open(disk.clone(), "in", keys(), STREAM).unwrap();
    reader.took(std::time::Duration::ZERO, true).unwrap();
    disk.create_log(&format!("in/{largest}")).unwrap();
    crate::log::Writer::open(disk.clone(), "in", keys(), STREAM).unwrap();
}

/// Each segment that is said to be empty was passed over, and left a file.
#[test]
fn only_so_many_segments_are_passed_over() {
    let (_directory, disk, mut copy) = copy();
    (0..1000).for_each(|_| copy.close(0));
    assert_eq!(copy.wanted(), (GAP, 0));
    copy.feed(&segment(GAP, 0, 0, [1, 5])).unwrap();
    assert_eq!(disk.list("in").unwrap().len() as u64, GAP + 1);
}
