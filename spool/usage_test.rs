//! Logs of one job and of several, growing and taken in a random order, as long
//! as their meters let them: files without blocks stand for segments.

use super::*;
use crate::atomic::Disk;
use crate::clock::{Rng, System};
use crate::layout::{PEER, make_dirs};
use crate::name::Role;

const PLAIN: u64 = 64 << 10;

/// A log as its files show it.
struct Log {
    dir: String,
    meter: Meter,
    /// First offsets of its segments, oldest first; the first of them begins at `removed`.
    begins: Vec<u64>,
    offset: u64,
    taken: u64,
}

impl Log {
    fn new(disk: &Disk, usage: &Arc<Usage>, msgid: MsgId, side: &str, chan: Chan, bounds: Bounds) -> Log {
        let dir = Place::Jobs.file(msgid, &format!("{side}/{chan}"));
        make_dirs(disk, &dir).unwrap();
        let meter = Meter::new(usage.clone(), peer(), msgid, chan, bounds);
        Log { dir, meter, begins: Vec::new(), offset: 0, taken: 0 }
    }

    fn held(&self) -> u64 {
        self.offset - self.taken
    }

    /// Grows by a record, if it may.
    fn grow(&mut self, disk: &Disk) -> Room {
        let room = self.meter.room(disk, self.offset, self.held());
        if room.bytes() > 0 {
            if self.begins.last().is_none_or(|begin| self.offset - begin + PLAIN > SEGMENT) {
                self.begins.push(self.offset);
            }
            let begin = *self.begins.last().unwrap();
            let path = format!("{}/{}", self.dir, begin / PLAIN);
            let mut file = if disk.exists(&path) { disk.open_log(&path) } else { disk.create_log(&path) }.unwrap();
            self.offset += PLAIN;
            file.truncate(self.offset - begin).unwrap();
        }
        room
    }

    /// Its consumer takes some, and what lies wholly below goes, but for the last segment.
    fn take(&mut self, disk: &Disk, bytes: u64) {
        self.taken = (self.taken + bytes).min(self.offset);
        while self.begins.len() > 1 && self.begins[1] < self.taken {
            disk.remove(&format!("{}/{}", self.dir, self.begins.remove(0) / PLAIN)).unwrap();
        }
    }
}

fn peer() -> Username {
    Username::of_ca(b"peer")
}

fn disk() -> (tempfile::TempDir, Disk) {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(directory.path()).unwrap();
    make_dirs(&disk, "jobs").unwrap();
    (directory, disk)
}

fn total(disk: &Disk, msgid: MsgId) -> u64 {
    of_job(disk, msgid).values().sum()
}

const MSGID: MsgId = MsgId([7; 20]);

fn bulk(disk: &Disk, usage: &Arc<Usage>, msgid: MsgId, bounds: Bounds) -> Vec<Log> {
    let sides = ["out", "in", "in"];
    sides.iter().zip(BULK).map(|(side, chan)| Log::new(disk, usage, msgid, side, chan, bounds)).collect()
}

#[test]
fn a_job_keeps_to_its_bound_and_none_of_its_logs_is_starved() {
    let (_directory, disk) = disk();
    let (rng, job) = (System::default(), 64 << 20);
    let mut logs = bulk(&disk, &Arc::default(), MSGID, Bounds { job, ..Bounds::default() });
    let mut most = 0;
    for step in 0..6000 {
        let log = &mut logs[rng.below(3) as usize];
        // One that is taken from rarely, one as it comes, one in bursts.
        match rng.below(8) {
            0 => log.take(&disk, PLAIN * rng.below(8)),
            1 if step % 500 == 0 => log.take(&disk, u64::MAX >> 1),
            _ => {
                let held = log.held();
                let room = log.grow(&disk);
                assert!(room.bytes() > 0 || held >= SHARE, "step {step}: starved with {held} bytes");
            }
        }
        most = most.max(total(&disk, MSGID));
    }
    assert!(most <= job + SEGMENT, "{most}");
    assert!(most > job - 3 * (SEGMENT + SHARE), "control: the bound is reached: {most}");
    // With all consumers gone each still comes to its share, and no further.
    for log in &mut logs {
        while log.grow(&disk).bytes() > 0 {}
    }
    assert!(logs.iter().all(|log| log.held() >= SHARE));
    assert!(total(&disk, MSGID) <= job + SEGMENT);
    assert!(logs.iter_mut().all(|log| log.grow(&disk) == Room::Quota));
    assert_eq!(lack(&disk, MSGID, &peer(), &logs[0].meter.bounds), Some("quota"));
    logs[0].take(&disk, u64::MAX >> 1);
    assert!(logs[0].grow(&disk).bytes() > 0, "it goes on when there is room");
}

#[test]
fn the_jobs_of_a_peer_keep_to_their_bound_together() {
    let (_directory, disk) = disk();
    let (usage, bound, jobs): (Arc<Usage>, u64, u8) = (Arc::default(), 64 << 20, 4);
    let bounds = Bounds { peer: bound, ..Bounds::default() };
    let mut logs = Vec::new();
    for n in 0..jobs {
        let msgid = MsgId([n; 20]);
        logs.push(Log::new(&disk, &usage, msgid, "out", Chan::STDIN, bounds));
        let owner = Owner::new(&disk, peer(), Role::Sender, None).unwrap();
        owner.facts().hint(&disk, &Place::Jobs.file(msgid, PEER)).unwrap();
    }
    while logs.iter_mut().map(|log| log.grow(&disk)).filter(|room| room.bytes() > 0).count() > 0 {}
    let total = of_peer(&disk, &peer());
    assert!(total <= bound + u64::from(jobs) * SEGMENT, "{total}");
    assert!(total + SEGMENT >= bound, "control: the bound is reached: {total}");
    assert!(logs.iter().all(|log| log.held() >= SHARE));
    assert_eq!(of_peer(&disk, &Username::of_ca(b"other")), 0, "what another peer has is not counted");
}

#[test]
fn below_the_floor_only_shares_grow_and_below_its_second_step_nothing() {
    let (_directory, disk) = disk();
    let free = disk.free().unwrap().bytes;
    let try_with = |free_bytes_min: u64| {
        let bounds = Bounds { free_bytes_min, ..Bounds::default() };
        let room = |chan, held| Meter::new(Arc::default(), peer(), MSGID, chan, bounds).room(&disk, 0, held);
        assert_eq!(room(Chan::CONTROL, 0), Room::Bytes(u64::MAX), "control is never held up");
        (room(Chan::STDIN, 0), room(Chan::STDIN, SHARE))
    };
    let (first, second) = try_with(1);
    assert!(first.bytes() > 0 && second.bytes() > 0, "{first:?} {second:?}");
    assert_eq!(try_with(free.saturating_mul(6)), (Room::Bytes(SHARE), Room::Disk));
    assert_eq!(try_with(free.saturating_mul(16)), (Room::Disk, Room::Disk));
}

#[test]
fn without_bounds_nothing_is_asked() {
    let (_directory, disk) = disk();
    let mut meter = Meter::new(Arc::default(), peer(), MSGID, Chan::STDIN, Bounds::default());
    assert_eq!(meter.room(&disk, 1 << 40, 1 << 40), Room::Bytes(u64::MAX));
}
