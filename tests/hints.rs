//! Offsets that are left as hints: they say where to look, and never what there is.
//! What they would hide is read, or missed aloud.

use crate::harm::{Job, attach, ended, hint, leave, overwrite};
use crate::homes::{PLUMB, Peer, noise, pair_up, wait_for, wait_until};
use spool::segment::{HEADER, record_size};
use std::process::Stdio;

/// The offsets in a log at which the records of this segment end, by their sizes.
fn record_ends(peer: &Peer, segment: &str) -> Vec<u64> {
    let bytes = std::fs::read(peer.spool(segment)).expect("a segment");
    let (mut at, mut ends) = (HEADER, Vec::new());
    while let Some(Ok(Some(size))) = bytes.get(at..at + 4).map(record_size) {
        at += size;
        ends.push((at - HEADER) as u64);
    }
    ends
}

/// `wc -c` counted 139,264 of 204,800 bytes, or none, and all said that this was good.
#[test]
fn a_batch_command_gets_its_whole_input_whatever_read_says() {
    let (a, mut b) = pair_up();
    for (n, beyond) in [(0, false), (1, true), (2, false)] {
        let known = b.ids("jobs");
        let mut job = Job::start(&a, &b, &["-batch"], "wc -c");
        let text = String::from_utf8(noise(200_000, n).into_iter().map(|byte| byte & 0x7f).collect()).expect("ASCII");
        job.write(&text);
        let log = format!("jobs/{}/in/1/0", job.id);
        wait_until("the input is there", || crate::harm::size(&b.spool(&log)) > 200_000);
        wait_until("a keeper waits for the rest", || !b.children("keeper").is_empty());
        let ends = record_ends(&b, &log);
        let offset = if beyond { 1 << 40 } else { ends[ends.len() / 2] };
        hint(&b, &format!("jobs/{}/in/1/read", job.id), offset);
        if n == 2 {
            // The next keeper finds the hint when it begins.
            assert!(b.kill_child("keeper"));
            b.suffer("daemon");
        }
        job.write("more");
        job.end().well("200004\n");
        assert_eq!(b.ids("jobs").len(), known.len() + 1);
    }
}

/// Whatever the hint skipped was missing from the output, and the status was good.
#[test]
fn who_attaches_gets_all_that_was_not_read_or_is_told() {
    let (a, b) = pair_up();
    for (offset, good) in [("none", true), ("beyond", false), ("inside", false)] {
        let id = leave(&a, &b, "seq 1 20000");
        wait_until("it waits to be heard", || a.job(&id)["phase"] == "ended");
        let whole: String = (1..=20000).map(|n| format!("{n}\n")).collect();
        let ends = record_ends(&a, &format!("jobs/{id}/in/2/0"));
        match offset {
            "beyond" => hint(&a, &format!("jobs/{id}/in/2/read"), 1 << 40),
            // No record ends there.
            "inside" => hint(&a, &format!("jobs/{id}/in/2/read"), ends[0] + 3),
            _ => {}
        }
        let ended = attach(&a, &id);
        match good {
            true => ended.well(&whole),
            false => {
                assert!(ended.out.is_empty() || whole.ends_with(&ended.out), "{offset}");
                ended.says(76, "output-incomplete");
            }
        }
    }
}

/// What was left of the output counted as all of it.
#[test]
fn output_that_was_cut_before_it_was_heard_is_pulled_again_or_missed() {
    let (mut a, b) = pair_up();
    let whole: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    for (cut, over, restart) in [
        ("record", true, false),
        ("record", false, false),
        ("inside", true, true),
        ("header", true, false),
        ("nothing", true, true),
    ] {
        let id = leave(&a, &b, "seq 1 20000");
        wait_until("it waits to be heard", || a.job(&id)["phase"] == "ended");
        let has_logs = || b.spool(&format!("jobs/{id}/out")).exists();
        wait_until("nothing of it is left there", || !over || !has_logs());
        let log = format!("jobs/{id}/in/2/0");
        let (ends, bytes) = (record_ends(&a, &log), std::fs::read(a.spool(&log)).expect("a segment"));
        let keep = match cut {
            "record" => HEADER + ends[0] as usize,
            "inside" => bytes.len() - 500,
            "header" => HEADER,
            _ => 0,
        };
        overwrite(&a.spool(&log), &bytes[..keep]);
        if restart {
            // The loop that starts looks at it before anybody attaches.
            a.suffer("daemon");
        }
        let ended = attach(&a, &id);
        match ended.status {
            Some(0) => ended.well(&whole),
            _ => {
                assert!(whole.starts_with(&ended.out), "{cut}");
                ended.says(76, "output-incomplete");
            }
        }
    }
}

/// A loop that has all of an output rests, and did not see that it was cut under its slow reader.
#[test]
fn output_that_is_cut_under_a_slow_reader_is_pulled_again_or_missed() {
    let (a, b) = pair_up();
    let size = 4 << 20;
    let mut plumb = a.command(PLUMB);
    plumb.args(["-n", "b", &format!("head -c {size} /dev/zero")]).stdin(Stdio::null());
    let plumb = plumb.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("plumb starts");
    let job = || Some(a.ids("jobs").first()?.clone()).filter(|id| a.job(id)["phase"] == "ended");
    let id = wait_for("all of it is here", job);
    wait_until("nothing of it is left there", || !b.spool(&format!("jobs/{id}/out")).exists());
    let log = a.spool(&format!("jobs/{id}/in/2/0"));
    let ends = record_ends(&a, &format!("jobs/{id}/in/2/0"));
    let file = std::fs::File::options().write(true).open(&log).expect("a segment");
    file.set_len(HEADER as u64 + ends[ends.len() - 3]).expect("it is cut");
    let ended = ended(plumb);
    ended.says(76, "output-incomplete");
    assert!(ended.out.len() < size, "{} bytes", ended.out.len());
}
