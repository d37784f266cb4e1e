//! How far a segment may be offered: as far as it has been synced.
//!
//! Writers only append. Here one sync at a time runs for each segment, those
//! who need it share it, and the next one starts while what is durable is
//! being sent, so that disk and network work at once. A segment is known by
//! its header, whose salt is used once; what is remembered is in memory only,
//! and forgetting it costs a sync (doc/PROTOCOL.md#streams).

use spool::clock::uptime;
use spool::facts::Facts;
use spool::fs::{Fs, LogFile, Result};
use spool::phase::Mark;
use spool::segment::HEADER;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Semaphore, watch};
use tracing::{error, warn};

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Bytes of the file that are durable, names included.
    synced: u64,
    /// Its own name is durable.
    named: bool,
    running: bool,
    failed: bool,
    /// How often it was gone when it was to be synced.
    gone: u64,
    /// How often it could not be synced at that moment: no descriptor was left, say.
    delayed: u64,
}

/// It cannot be made durable: a sync has failed, or it is not there any more.
#[derive(Debug)]
pub(crate) struct Lost;

/// One segment, and how far it is durable.
pub(crate) struct Durable {
    /// What is in its place: another header is another segment.
    pub header: [u8; HEADER],
    dir: String,
    n: u64,
    log_named: Arc<AtomicBool>,
    progress: watch::Sender<Progress>,
}

impl Durable {
    /// Nothing is known of segment `n` of the log in `dir`, which has this
    /// header. `log_named` is true once the names of the log's parents are durable.
    pub fn new(dir: &str, n: u64, header: [u8; HEADER], log_named: Arc<AtomicBool>) -> Durable {
        Durable { header, dir: dir.to_string(), n, log_named, progress: watch::Sender::new(Progress::default()) }
    }

    /// Waits until more than `from` of the `size` bytes is durable; gives how many
    /// are. No more than before, if that cannot be done at the moment.
    pub async fn beyond(self: &Arc<Self>, from: u64, size: u64, disk: &Disk) -> std::result::Result<u64, Lost> {
        let mut progress = self.progress.subscribe();
        let before = *progress.borrow();
        loop {
            let Progress { synced, failed, gone, delayed, .. } = *progress.borrow_and_update();
            if failed || gone != before.gone {
                return Err(Lost);
            }
            if synced > from || size <= from || delayed != before.delayed {
                return Ok(synced.min(size));
            }
            self.start(size, disk);
            // The sender is ourselves: it cannot be gone.
            let _ = progress.changed().await;
        }
    }

    /// Starts a sync if there is something to be synced and none is running.
    pub fn start(self: &Arc<Self>, size: u64, disk: &Disk) {
        let started = self.progress.send_if_modified(|progress| {
            let starts = !progress.running && !progress.failed && progress.synced < size;
            progress.running |= starts;
            starts
        });
        if !started {
            return;
        }
        let (durable, disk) = (self.clone(), disk.clone());
        tokio::spawn(async move {
            // A peer's syncs wait for each other, not for those of others.
            let permit = disk.work.clone().acquire_owned().await;
            let named = durable.progress.borrow().named;
            let (work, place) = (disk.clone(), durable.clone());
            let synced = tokio::task::spawn_blocking(move || place.sync(&work, named)).await;
            drop(permit);
            durable.progress.send_modify(|progress| {
                progress.running = false;
                match synced {
                    Ok(Ok(size)) => (progress.synced, progress.named) = (progress.synced.max(size), true),
                    Ok(Err(error)) if error.is_unsynced() => progress.failed = true,
                    Ok(Err(error)) if error.is_loss() => progress.gone += 1,
                    Ok(Err(_)) | Err(_) => progress.delayed += 1,
                }
            });
        });
    }

    /// Syncs what is there at this moment; then, the first time, the names. A
    /// segment whose sync failed is removed: it is never offered, and nobody tries
    /// again. One that could not even be opened is sound, and tried again.
    fn sync(&self, disk: &Disk, named: bool) -> Result<u64> {
        let size = disk.file.size()?;
        let synced = match named {
            true => disk.file.sync(),
            false => self.sync_named(&*disk.fs),
        };
        match &synced {
            Err(error) if error.is_unsynced() => {
                error!("{error}; segment {} of {} is removed", self.n, self.dir);
                let _ = disk.fs.remove(&format!("{}/{}", self.dir, self.n));
                let _ = self.cancel(&*disk.fs);
            }
            Err(error) if !error.is_loss() => warn!("{error}; segment {} of {} waits", self.n, self.dir),
            Ok(()) | Err(_) => {}
        }
        synced.map(|()| size)
    }

    /// What the segment held is lost for good, and whoever waits for it cannot
    /// know: the job is to end.
    fn cancel(&self, fs: &dyn Fs) -> Result<()> {
        let (job, _) = self.dir.rsplit_once("/out/").unwrap_or_default();
        let path = format!("{job}/{}", Mark::Cancel.name());
        if !fs.exists(&path) {
            let facts = Facts::new().with("reason", "a sync of its log has failed").with("at", uptime(fs)?);
            facts.hint(fs, &path)?;
        }
        fs.touch(job)
    }

    /// The first time: the segment with its name, and for a new log the names above it.
    fn sync_named(&self, fs: &dyn Fs) -> Result<()> {
        let segment = format!("{}/{}", self.dir, self.n);
        let (out, _) = self.dir.rsplit_once('/').unwrap_or_default();
        let (job, _) = out.rsplit_once('/').unwrap_or_default();
        let log_named = self.log_named.load(Ordering::Relaxed);
        let paths = [segment.as_str(), self.dir.as_str(), out, job];
        fs.sync_all(if log_named { &paths[..2] } else { &paths })?;
        self.log_named.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// A segment's open file, and where the work on it is done.
#[derive(Clone)]
pub(crate) struct Disk {
    pub fs: Arc<dyn Fs>,
    pub file: Arc<dyn LogFile>,
    /// What this peer may have done at once.
    pub work: Arc<Semaphore>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Ends, Recording};
    use spool::fs::Error;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    /// A file whose syncs end when the test says so.
    struct Slow {
        size: Arc<AtomicU64>,
        ends: Ends,
    }

    impl LogFile for Slow {
        fn append(&mut self, _: &[u8]) -> Result<usize> {
            Ok(0)
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize> {
            Ok(0)
        }
        fn size(&self) -> Result<u64> {
            Ok(self.size.load(Ordering::Relaxed))
        }
        fn is_at(&self, _: &str) -> Result<bool> {
            Ok(true)
        }
        fn sync(&self) -> Result<()> {
            let good = self.ends.lock().unwrap().recv().unwrap();
            if good { Ok(()) } else { Err(Error::unsynced("slow", std::io::ErrorKind::Other)) }
        }
        fn truncate(&mut self, _: u64) -> Result<()> {
            Ok(())
        }
    }

    struct Bench {
        _directory: tempfile::TempDir,
        recording: Arc<Recording>,
        disk: Disk,
        size: Arc<AtomicU64>,
        end: Sender<bool>,
        durable: Arc<Durable>,
    }

    fn bench() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let recording = Arc::new(Recording::new(directory.path()));
        spool::layout::make_dirs(&*recording, "jobs/x/out/1").unwrap();
        recording.hint("jobs/x/out/1/0", b"").unwrap();
        recording.done();
        let size = Arc::new(AtomicU64::new(100));
        let (end, ends) = channel();
        let ends = Arc::new(Mutex::new(ends));
        // The first sync takes the names along, and goes through the disk; the others do not.
        recording.hold_syncs(ends.clone());
        let file = Arc::new(Slow { size: size.clone(), ends });
        let disk = Disk { fs: recording.clone(), file, work: Arc::new(Semaphore::new(8)) };
        let durable = Arc::new(Durable::new("jobs/x/out/1", 0, [0; HEADER], Arc::default()));
        Bench { _directory: directory, recording, disk, size, end, durable }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn nothing_is_offered_before_it_is_durable_and_all_share_one_sync() {
        run(async {
            let bench = bench();
            let offers: Vec<_> = (0..5)
                .map(|_| {
                    let (durable, disk) = (bench.durable.clone(), bench.disk.clone());
                    tokio::spawn(async move { durable.beyond(0, 100, &disk).await })
                })
                .collect();
            tokio::time::sleep(SOON).await;
            assert!(offers.iter().all(|offer| !offer.is_finished()));
            // What is appended while the sync runs is not part of it.
            bench.size.store(170, Ordering::Relaxed);
            bench.end.send(true).unwrap();
            for offer in offers {
                assert_eq!(offer.await.unwrap().unwrap(), 100);
            }
            let names = ["sync jobs/x/out/1/0", "sync jobs/x/out/1", "sync jobs/x/out", "sync jobs/x"];
            assert_eq!(bench.recording.done(), names);
            // What is durable is offered at once, while the next sync runs.
            bench.durable.start(170, &bench.disk);
            assert_eq!(bench.durable.beyond(0, 170, &bench.disk).await.unwrap(), 100);
            let more = bench.durable.beyond(100, 170, &bench.disk);
            assert!(tokio::time::timeout(SOON, more).await.is_err());
            bench.end.send(true).unwrap();
            assert_eq!(bench.durable.beyond(100, 170, &bench.disk).await.unwrap(), 170);
            assert!(bench.recording.done().is_empty(), "the names are durable already");
        });
    }

    #[test]
    fn a_segment_whose_sync_failed_is_removed_and_never_offered() {
        run(async {
            let bench = bench();
            bench.end.send(false).unwrap();
            assert!(bench.durable.beyond(0, 100, &bench.disk).await.is_err());
            assert!(bench.durable.beyond(0, 100, &bench.disk).await.is_err());
            let tried = bench.recording.done().into_iter().filter(|line| line == "sync jobs/x/out/1/0");
            assert_eq!(tried.count(), 1, "it is not tried again");
            assert!(!bench.recording.exists("jobs/x/out/1/0"));
            assert!(bench.recording.exists("jobs/x/cancel"), "nobody waits for it in vain");
        });
    }

    #[test]
    fn a_file_that_was_cut_back_offers_no_more_than_it_has() {
        run(async {
            let bench = bench();
            bench.end.send(true).unwrap();
            assert_eq!(bench.durable.beyond(0, 100, &bench.disk).await.unwrap(), 100);
            assert_eq!(bench.durable.beyond(0, 60, &bench.disk).await.unwrap(), 60);
        });
    }
}
