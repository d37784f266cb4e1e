//! Jobs under the loop, one promise each.

use crate::jobs::Job;
use crate::rig_test::{MSGID, Rig, bare, bytes, soon};
use crate::{incoming, outgoing};
use spool::control::{Control, Speaker};
use spool::facts::Facts;
use spool::fs::Fs;
use spool::layout::{self, MESSAGE, Owner, PEER, Place};
use spool::log::Writer;
use spool::look;
use spool::name::{Chan, Digest, Role};
use spool::outcome::Outcome;
use spool::report::{Report, Turn};
use spool::segment::{EndKind, HEADER, Header, OVERHEAD, Records};
use spool::url::{Ask, Path, Sealed, What, Word};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// A peer that could not be read made its jobs look as if they had no receipt.
#[tokio::test]
async fn a_job_whose_peer_is_not_known_at_the_moment_is_not_cancelled() {
    let rig = Rig::new(Word::Gone, "", |_| bare(404, None));
    rig.submitted().receipted();
    let _plumb = rig.disk.lock_file(&Place::Jobs.file(MSGID, "plumb"), Duration::ZERO).unwrap();
    rig.world.know(Default::default());
    let before = rig.names();
    let mut job = Job::new(rig.world.clone(), MSGID);
    let report = job.step().await;
    assert_eq!(report.cause.as_deref(), Some("no_peer"), "{report:?}");
    assert_eq!(rig.names(), before);
}

/// The loop looked into `queue/ID` while it was moved to `hold/`, missed the message there, and
/// cancelled the job for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_put_aside_while_it_is_looked_at_is_not_lost() {
    let rig = Rig::new(Word::Later, "", |_| bare(404, None));
    rig.submitted();
    let _plumb = rig.disk.lock_file(&Place::Jobs.file(MSGID, "plumb"), Duration::ZERO).unwrap();
    let [queue, hold] = [Place::Queue.dir(MSGID), layout::hold(MSGID)];
    for _ in 0..200 {
        let moving = std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(200));
                rig.disk.rename(&queue, &hold)
            });
            while !mover.is_finished() {
                tokio::task::block_in_place(|| Handle::current().block_on(outgoing::work(&rig.world, MSGID)));
            }
            mover.join()
        });
        moving.expect("no panic").expect("it is moved");
        assert!(!rig.disk.exists(&Place::Jobs.file(MSGID, "cancel")));
        rig.disk.rename(&hold, &queue).unwrap();
    }
}

/// After `rm -r jobs/ID/*` the loop took the marks that were missing for ones that had never been
/// there: the sender of a command that had run was told "not started".
#[tokio::test]
async fn a_job_whose_directory_is_emptied_is_not_called_not_started() {
    let rig = Rig::new(Word::Ok, "", |_| bare(404, None));
    rig.submitted().receipted();
    let _plumb = rig.disk.lock_file(&Place::Jobs.file(MSGID, "plumb"), Duration::ZERO).unwrap();
    let mut job = Job::new(rig.world.clone(), MSGID);
    job.step().await;
    let dir = Place::Jobs.dir(MSGID);
    for entry in rig.disk.list(&dir).unwrap() {
        rig.disk.remove(&format!("{dir}/{}", entry.name)).unwrap();
    }
    Facts::new().with("at", 0).commit(&*rig.disk, &format!("{dir}/cancel")).unwrap();
    job.step().await;
    assert_eq!(spool::standing::outcome(&*rig.disk, MSGID).unwrap(), Some(Outcome::Unknown));
}

/// A job that had ended, and was then cancelled, got the outcome "unknown" although its EXIT lay here.
#[tokio::test]
async fn a_job_that_is_cancelled_after_its_end_has_the_outcome_that_it_was_told() {
    let cases = [
        (2, EndKind::Eof, Some(Outcome::Exited(42))),
        (2, EndKind::Aborted, Some(Outcome::OutputIncomplete(0))),
        (1, EndKind::Eof, None),
    ];
    for (outputs, kind, outcome) in cases {
        let rig = Rig::new(Word::Later, "", |_| bare(404, None));
        rig.submitted().receipted();
        Facts::new().commit(&*rig.disk, &Place::Jobs.file(MSGID, "cancel")).unwrap();
        let writer = |chan: Chan| {
            let dir = layout::log_in(MSGID, chan);
            layout::make_dirs(&*rig.disk, &dir).unwrap();
            Writer::open(rig.disk.clone(), &dir, rig.keys.clone(), rig.stream(chan)).unwrap()
        };
        for chan in [Chan::STDOUT, Chan::STDERR].into_iter().take(outputs) {
            writer(chan).end(kind).unwrap();
        }
        let mut speaker = Speaker::new(writer(Chan::CONTROL));
        speaker.say(&Control::Close(Chan::STDIN)).unwrap();
        speaker.say(&Control::Exit(Outcome::Exited(42))).unwrap();
        speaker.end().unwrap();
        Job::new(rig.world.clone(), MSGID).step().await;
        let told = look::done(&*rig.disk, MSGID).unwrap();
        // With an output that is not here as a whole the recipient is asked.
        assert_eq!(told, outcome);
    }
}

/// A stream that panicked left its channel noted as running: nothing pulled it
/// any more, and nobody said so.
#[tokio::test]
async fn a_stream_that_panics_is_named_and_opened_anew() {
    let count = Arc::new(AtomicUsize::new(0));
    let counts = count.clone();
    let rig = Rig::new(Word::Ok, "", move |_| {
        counts.fetch_add(1, Ordering::Relaxed);
        panic!("a bug")
    });
    rig.submitted().receipted();
    let _plumb = rig.disk.lock_file(&Place::Jobs.file(MSGID, "plumb"), Duration::ZERO).unwrap();
    let (wake, reports) = (Notify::new(), Mutex::new(Vec::new()));
    let tell = |report| reports.lock().unwrap().push(report);
    let attended = Job::new(rig.world.clone(), MSGID).attend(&wake, tell);
    let is_named = |report: &Report| report.error.as_deref().is_some_and(|error| error.contains("a bug"));
    tokio::select! {
        report = attended => panic!("it goes on: {report:?}"),
        () = soon("each channel is pulled again", || count.load(Ordering::Relaxed) > 3) => {}
    }
    assert!(reports.into_inner().unwrap().iter().any(is_named));
}

/// The lock was let go before the changes were made that were decided under it.
#[tokio::test]
async fn a_job_is_changed_under_its_lock() {
    let rig = Rig::new(Word::Gone, "", |_| bare(404, None));
    // Nobody waits for it: it is cancelled, the peer asked, done, and forgotten.
    rig.submitted();
    rig.disk.hint(&Place::Jobs.file(MSGID, "sent"), b"").unwrap();
    rig.disk.unlocked();
    let report = Job::new(rig.world.clone(), MSGID).once().await;
    assert_eq!(report.turn, Turn::Gone, "{report:?}");
    assert_eq!(rig.disk.unlocked(), Vec::<String>::new());
}

/// `netplumb loop jobs ID` beside the daemon, or a loop that outlived its daemon,
/// pulled the same logs: each cut off what the other had just appended.
#[tokio::test]
async fn one_process_pulls_the_logs_of_a_job() {
    let pulls = Arc::new(AtomicUsize::new(0));
    let counts = pulls.clone();
    let rig = Rig::new(Word::Ok, "", move |_| {
        counts.fetch_add(1, Ordering::Relaxed);
        bare(404, None)
    });
    rig.submitted().receipted();
    let _plumb = rig.disk.lock_file(&Place::Jobs.file(MSGID, "plumb"), Duration::ZERO).unwrap();
    let attend = || async {
        let wake = Notify::new();
        Job::new(rig.world.clone(), MSGID).attend(&wake, |_| {}).await
    };
    let pulled = || pulls.load(Ordering::Relaxed);
    {
        let mut first = Box::pin(attend());
        tokio::select! {
            report = &mut first => panic!("it goes on: {report:?}"),
            () = soon("the first one pulls", || pulled() > 0) => {}
        }
        let report = tokio::select! {
            report = &mut first => panic!("it goes on: {report:?}"),
            report = attend() => report,
        };
        assert_eq!((report.turn, report.cause.as_deref()), (Turn::Later, Some("lock")), "{report:?}");
    }
    // Its streams may be ending still.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = pulled();
    tokio::select! {
        report = attend() => panic!("the first has let go: {report:?}"),
        () = soon("another one pulls", || pulled() > before) => {}
    }
}

/// A `plumb` whose lock had lost its name counted as dead: the job's input was aborted at once.
#[tokio::test]
async fn a_job_whose_plumb_is_not_seen_for_a_moment_goes_on_and_one_whose_plumb_died_ends() {
    for name in ["removed", "a directory", "a link"] {
        let rig = Rig::new(Word::Ok, "", |_| bare(404, None));
        rig.submitted().receipted();
        let path = rig.directory.path().join(Place::Jobs.file(MSGID, "plumb"));
        std::fs::remove_file(&path).unwrap();
        match name {
            "a directory" => std::fs::create_dir(&path).unwrap(),
            "a link" => std::os::unix::fs::symlink(&path, &path).unwrap(),
            _ => {}
        }
        let before = rig.names();
        for _ in 0..3 {
            let report = Job::new(rig.world.clone(), MSGID).once().await;
            assert_eq!((report.turn, report.cause.as_deref()), (Turn::Later, Some("lock")), "{name}: {report:?}");
            assert_eq!(rig.names(), before, "{name}: nothing is decided");
        }
        // Seen again, and dead: its lock is free.
        let plumb = rig.disk.lock_file(&Place::Jobs.file(MSGID, "plumb"), Duration::ZERO).unwrap().unwrap();
        let report = Job::new(rig.world.clone(), MSGID).once().await;
        assert_eq!(report.turn, Turn::Live, "{name}: {report:?}");
        drop(plumb);
        Job::new(rig.world.clone(), MSGID).once().await;
        assert!(rig.names() != before, "{name}: its input is ended for it");
    }
}

/// Bytes were written to the directory that had been `in`, synced in the one that
/// is, and told to be held: their producer gave them up, and nobody had them.
#[tokio::test]
async fn what_is_written_to_a_directory_that_was_replaced_is_not_told_to_be_held() {
    what_is_written_is_not_told_to_be_held("in").await;
}

/// The same for the directory of one log: a command waited for ever for the rest of its input.
#[tokio::test]
async fn what_is_written_to_a_log_that_was_replaced_is_not_told_to_be_held() {
    what_is_written_is_not_told_to_be_held("in/2").await;
}

/// Replaces a directory of the job while a log below it is pulled.
async fn what_is_written_is_not_told_to_be_held(replaced: &str) {
    const RECORD: usize = 3 + OVERHEAD;
    let (file, more) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(HEADER + RECORD)));
    let got = Arc::new(AtomicUsize::new(0));
    let (sealed, most, held) = (file.clone(), more.clone(), got.clone());
    let rig = Rig::new(Word::Ok, "2 0 0\n", move |get| match Path::parse(&get.path).map(|path| path.what) {
        Some(What::Seg { chan: Chan::STDOUT, n: 0, got, .. }) => {
            held.fetch_max(got as usize, Ordering::Relaxed);
            let (file, from, most) = (sealed.lock().unwrap(), get.from as usize, most.load(Ordering::Relaxed));
            if from < most { bytes(Vec::clone(&file)[from..most].to_vec()) } else { bare(204, None) }
        }
        _ => bare(404, None),
    });
    let (msgid, stream) = (MSGID, rig.stream(Chan::STDOUT));
    let header = Header { msgid, stream, n: 0, base: 0, plain: 0, salt: [1; 32], zipped: false };
    let (mut records, mut whole) = (Records::new(&rig.keys, &header), header.bytes().to_vec());
    (0..2).for_each(|_| assert_eq!(records.seal(b"abc", &mut whole), 3));
    *file.lock().unwrap() = whole.clone();
    rig.submitted().receipted();
    let _plumb = rig.disk.lock_file(&Place::Jobs.file(MSGID, "plumb"), Duration::ZERO).unwrap();

    let told = |records: usize| {
        let (asks, got) = (rig.asks.clone(), got.clone());
        async move {
            let all = records * RECORD;
            while got.load(Ordering::Relaxed) < all
                && !asks.lock().unwrap().contains(&Ask::Got(Chan::STDOUT, all as u64))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let wake = Notify::new();
    let story = async {
        told(1).await;
        let [here, away] = [replaced, "away"].map(|name| rig.directory.path().join(Place::Jobs.file(MSGID, name)));
        std::fs::rename(&here, &away).unwrap();
        let copied =
            std::process::Command::new("cp").args(["-a".as_ref(), away.as_os_str(), here.as_os_str()]).status();
        assert!(copied.unwrap().success());
        more.store(whole.len(), Ordering::Relaxed);
        told(2).await;
        assert_eq!(
            std::fs::read(rig.directory.path().join(Place::Jobs.file(MSGID, "in/2/0"))).unwrap(),
            whole,
            "all that is told to be held is there"
        );
        assert!(rig.disk.is_locked(&layout::log_in_all(MSGID)).unwrap(), "and nobody else pulls it");
    };
    let attended = Job::new(rig.world.clone(), MSGID).attend(&wake, |_| {});
    tokio::select! {
        report = attended => panic!("it goes on: {report:?}"),
        ended = tokio::time::timeout(Duration::from_secs(60), story) => ended.expect("all of it is told in the end"),
    }
}

/// The sender's job is over, and its message gone with the queue: `sta` says the
/// outcome. That was taken for trouble, and the fetch was tried for a week.
#[tokio::test]
async fn a_message_whose_job_has_an_outcome_is_not_fetched_for_ever() {
    let rig = Rig::new(Word::Done, "outcome cancelled", |_| bare(404, None));
    let (fs, file) = (&*rig.disk, |name: &str| Place::Rqueue.file(MSGID, name));
    layout::make_dirs(fs, &file("onetime")).unwrap();
    let owner = Owner::new(fs, rig.known.remote.username.clone(), Role::Recipient, None).unwrap();
    owner.facts().hint(fs, &file(PEER)).unwrap();
    ["onetime/cert.pem", "onetime/key"].iter().for_each(|name| fs.hint(&file(name), b"half a key").unwrap());
    look::key_facts(fs, &Place::Rqueue.dir(MSGID)).unwrap().unwrap().hint(fs, &file("peer.ok")).unwrap();
    let said = Sealed { digest: Digest([1; 32]), length: 100, key: Digest::of(b"half a key") };
    look::sealed_facts(&said).hint(fs, &file("recv.req")).unwrap();
    let report = incoming::work(&rig.world, MSGID).await;
    assert_eq!(report.turn, Turn::Gone, "{report:?}");
    assert!(!fs.exists(&Place::Rqueue.dir(MSGID)));
}

/// The largest message is larger by its sealing: read with the bound of the plain
/// one it was lost, and its job cancelled.
/// The lock's file of a keeper whose job had been removed lay there for ever.
#[tokio::test]
async fn what_a_keeper_of_a_removed_job_has_left_goes_when_nobody_holds_it() {
    let rig = Rig::new(Word::Gone, "", |_| bare(404, None));
    let running = layout::running(MSGID);
    let mut lock = rig.disk.lock_file(&running, Duration::ZERO).unwrap();
    assert!(lock.is_some());
    for held in [true, false] {
        let report = Job::new(rig.world.clone(), MSGID).once().await;
        assert_eq!((report.turn, rig.disk.exists(&running)), (Turn::Gone, held));
        lock = None;
    }
    drop(lock);
}

#[test]
fn the_largest_message_is_not_lost() {
    let rig = Rig::new(Word::Ok, "", |_| bare(404, None));
    rig.submitted();
    let message = vec![7; look::MESSAGE_MAX];
    let sealed = rig.world.spool_key.seal("message", &message);
    assert_eq!(sealed.len(), look::MESSAGE_REST_MAX);
    rig.disk.hint(&Place::Queue.file(MSGID, MESSAGE), &sealed).unwrap();
    let ages = rig.world.settings.ages();
    let seen = look::queue(&*rig.disk, MSGID, &ages, |bytes, _| bytes == sealed, |_, _| true).unwrap();
    assert!(seen.message);
}
