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
    let header = Header { msgid: keys().msgid, stream: STREAM, n, base, plain, salt: [n as u8; 32] };
    let (mut records, mut sealed) = (Records::new(&keys(), &header), header.bytes().to_vec());
    (0..count).for_each(|_| records.seal(&vec![7; size], &mut sealed));
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
