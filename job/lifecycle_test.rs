//! The life of a job on the disk alone: no process is started here.

use crate::rig::{Rig, known, site};
use job::batch::Arrival;
use job::keeper::{Begin, begin};
use spool::control::Speaker;
use spool::fs::Fs;
use spool::layout::{MESSAGE, Place, log_out, rest_label};
use spool::log::{self, Writer};
use spool::name::{Chan, Role};
use spool::outcome::Outcome;
use spool::phase::Mark;
use spool::segment::{EndKind, Stream};

fn look(rig: &Rig, changes: i64) -> Result<Begin, job::Error> {
    begin(&site(&rig.root, changes), rig.msgid, &known(&rig.root), Arrival::Awaited)
}

/// All that a keeper does, without the command; says whether one was to be started.
fn live(rig: &Rig, changes: i64) -> (bool, Result<(), job::Error>) {
    let started = match look(rig, changes) {
        Ok(Begin::Start(started)) => started,
        other => return (false, other.map(drop)),
    };
    let ended = (|| {
        let mut logs = started.job.logs()?;
        logs.stdout.append(b"output")?;
        started.job.finish(&mut logs, Outcome::Exited(3), EndKind::Eof)
    })();
    (true, ended.map(drop))
}

fn heard(rig: &mut Rig) -> Outcome {
    rig.until("the end", |rig| rig.control_ended && rig.ends().iter().all(Option::is_some));
    let outcome = rig.exit().expect("EXIT was said");
    assert_eq!(rig.outcome_on_disk(), Some(outcome.clone()));
    outcome
}

pub fn a_crash_at_any_change_is_completed_and_never_started_twice() {
    for refuse in [false, true] {
        for changes in 0.. {
            let mut rig = Rig::new("true");
            if refuse {
                std::fs::write(rig.root.join("refuse"), "").unwrap();
            }
            let (started, first) = live(&rig, changes);
            let (marked, exited) = (rig.has(Mark::RunStarted), rig.outcome_on_disk());
            let (again, second) = live(&rig, i64::MAX);
            second.unwrap();
            assert!(!(again && (started || marked)), "started twice after {changes} changes");
            assert!(!(refuse && (started || again)));
            let outcome = heard(&mut rig);
            match (refuse, exited) {
                (_, Some(exited)) => assert_eq!(outcome, exited, "after {changes} changes"),
                (true, None) => assert!(matches!(outcome, Outcome::Refused(_))),
                (false, None) if marked => assert_eq!(outcome, Outcome::Interrupted),
                (false, None) => assert_eq!((again, outcome), (true, Outcome::Exited(3))),
            }
            assert!(matches!(look(&rig, i64::MAX), Ok(Begin::Nothing)), "it is over");
            if first.is_ok() {
                assert!(changes > 15, "{changes}");
                break;
            }
        }
    }
}

pub fn a_refusal_that_a_crash_cut_short_stays_one() {
    for changes in 0.. {
        let mut rig = Rig::new("true");
        std::fs::write(rig.root.join("refuse"), "").unwrap();
        let (_, first) = live(&rig, changes);
        let ended = log::ended_at(&*rig.disk, &log_out(rig.msgid, Chan::STDOUT)).unwrap().is_some();
        std::fs::remove_file(rig.root.join("refuse")).unwrap();
        let (started, second) = live(&rig, i64::MAX);
        second.unwrap();
        assert_eq!(started, !ended, "after {changes} changes");
        assert_eq!(matches!(heard(&mut rig), Outcome::Refused(_)), ended);
        if first.is_ok() {
            break;
        }
    }
}

pub fn a_message_that_cannot_be_understood_ends() {
    let put = |rig: &Rig, message: &[u8]| {
        let sealed = site(&rig.root, i64::MAX).spool_key.seal(&rest_label(MESSAGE, rig.msgid), message);
        rig.disk.hint(&Place::Jobs.file(rig.msgid, MESSAGE), &sealed).unwrap();
    };
    // KEY can be read: the sender is told that START cannot.
    let mut rig = Rig::new("true");
    let start = job::message::Start { argv: vec![b"true".to_vec()], ..Default::default() };
    let message = job::message::write(&rig.keys.secret, &start).unwrap();
    put(&rig, &message[..message.len() - 3]);
    assert!(matches!(look(&rig, i64::MAX), Ok(Begin::Ended(_))));
    assert!(matches!(heard(&mut rig), Outcome::Refused(_)));
    // Not even that: nobody can be told here, and the loop ends it.
    let rig = Rig::new("true");
    put(&rig, b"nonsense");
    assert!(matches!(look(&rig, i64::MAX), Ok(Begin::Nothing)));
    assert!(rig.has(Mark::Cancel) && !rig.has(Mark::RunStarted));
}

pub fn what_stands_of_exit_is_not_said_again() {
    let mut rig = Rig::new("true");
    let (_, ended) = live(&rig, i64::MAX);
    ended.unwrap();
    // As if a power cut had taken END and left EXIT.
    let dir = log_out(rig.msgid, Chan::CONTROL);
    let path = rig.root.join(&dir).join("0");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 29).unwrap();
    assert!(matches!(look(&rig, i64::MAX), Ok(Begin::Ended(Outcome::Exited(3)))));
    assert_eq!(heard(&mut rig), Outcome::Exited(3));
    assert_eq!(rig.said.len(), 1);
    let stream = Stream { chan: Chan::CONTROL, producer: Role::Recipient };
    let writer = Writer::open(rig.disk.clone(), &dir, rig.keys.clone(), stream).unwrap();
    assert!(Speaker::new(writer).log.ended().is_some());
}
