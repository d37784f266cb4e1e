//! What a request leaves behind: at most one change of the spool.
//!
//! No lock is taken: a directory is prepared under a hidden name and appears by
//! one rename that never replaces, a mark by another. Whoever comes second
//! looks again. What each leaves after a crash stands beside it.

use crate::answer::Write;
use crate::observe::stock;
use spool::atomic::temporary;
use spool::clock::uptime;
use spool::facts::Facts;
use spool::fs::{Error, Fs};
use spool::layout::{self, ONETIME, Owner, PEER, Place, log_out, onetime, touch};
use spool::log::{hint, hinted, segments};
use spool::look::{key_facts, mark, sealed_facts};
use spool::name::{Chan, Digest, KeyId, MsgId, Role, Username};
use spool::phase::Mark;
use spool::segment::{HEADER, Header};
use spool::url::Sealed;

/// Why nothing was noted.
#[derive(Debug)]
pub enum Unnoted {
    /// Something else happened in between: look again.
    Moved,
    /// No one-time key is left.
    NoKey,
    /// The disk.
    Disk(Error),
}

impl From<Error> for Unnoted {
    fn from(error: Error) -> Unnoted {
        if error.is_absent() || error.is_taken() { Unnoted::Moved } else { Unnoted::Disk(error) }
    }
}

/// Whose message it is, and in which run of the machine.
#[derive(Clone, Copy)]
pub struct For<'a> {
    /// The peer.
    pub from: &'a Username,
    /// The message.
    pub msgid: MsgId,
    /// The machine's boot id.
    pub boot: &'a str,
}

/// Carries out a write, and wakes the daemon.
pub fn note(fs: &dyn Fs, whose: For, write: &Write) -> Result<(), Unnoted> {
    let msgid = whose.msgid;
    let place = match write {
        Write::Claim => return claim(fs, whose),
        Write::Expect => return expect(fs, whose),
        Write::Bury => return bury(fs, whose),
        Write::Got(chan, offset) => return Ok(got(fs, &log_out(msgid, *chan), *chan, *offset)?),
        Write::Notice(sealed) => {
            notice(fs, msgid, sealed)?;
            Place::Rqueue
        }
        Write::Offer(receipt) => {
            offer(fs, msgid, *receipt)?;
            Place::Queue
        }
        Write::Acked => {
            marked(fs, &Place::Jobs.dir(msgid), Mark::Acked)?;
            Place::Jobs
        }
        Write::CancelIncoming => {
            marked(fs, &Place::Rqueue.dir(msgid), Mark::Cancel)?;
            Place::Rqueue
        }
        Write::CancelJob => {
            marked(fs, &Place::Jobs.dir(msgid), Mark::Cancel)?;
            Place::Jobs
        }
        Write::Tip(chan, offset) => {
            let dir = log_out(msgid, *chan);
            if log_end(fs, &dir, *chan)?.is_some() {
                hint(fs, &format!("{dir}/tip"), *offset)?;
            }
            Place::Jobs
        }
    };
    touch(fs, place, msgid);
    Ok(())
}

fn at(fs: &dyn Fs) -> Result<Facts, Error> {
    Ok(Facts::new().with("at", uptime(fs)?))
}

fn marked(fs: &dyn Fs, dir: &str, mark: Mark) -> Result<(), Error> {
    at(fs)?.hint(fs, &format!("{dir}/{}", mark.name()))
}

/// Makes `recv.req`, first; a fetched message that is not this one goes after it.
fn notice(fs: &dyn Fs, msgid: MsgId, sealed: &Sealed) -> Result<(), Error> {
    let dir = Place::Rqueue.dir(msgid);
    let facts = sealed_facts(sealed);
    facts.hint(fs, &format!("{dir}/{}", Mark::RecvReq.name()))?;
    match mark(fs, &dir, Mark::RecvRdy)? {
        Some(fetched) if fetched != facts => fs.remove(&format!("{dir}/{}", Mark::RecvRdy.name())),
        _ => Ok(()),
    }
}

fn offer(fs: &dyn Fs, msgid: MsgId, receipt: Digest) -> Result<(), Error> {
    Facts::new().with("receipt", receipt).hint(fs, &Place::Queue.file(msgid, Mark::AckReq.name()))
}

/// Prepares `rqueue/<msgid>` under a hidden name, fills it, and makes it real.
/// What was prepared in vain is removed; after a crash it is hidden, and nobody's.
fn appear(
    fs: &dyn Fs,
    whose: For,
    fill: impl FnOnce(&str, &str) -> Result<(), Unnoted>,
    undo: impl FnOnce(&str),
) -> Result<(), Unnoted> {
    let dir = Place::Rqueue.dir(whose.msgid);
    let hidden = temporary(&dir);
    fs.make_dir(&hidden)?;
    let (username, boot) = (whose.from.clone(), whose.boot.to_string());
    let owner = Owner { username, role: Role::Recipient, born: uptime(fs)?, boot, digest: None };
    let made = owner.facts().hint(fs, &format!("{hidden}/{PEER}")).map_err(Unnoted::from);
    let made = made.and_then(|()| fill(&hidden, &dir));
    if made.is_err() {
        undo(&hidden);
        let _ = fs.remove(&hidden);
    }
    // A thing that is no directory was never a message, and must not stand in its way.
    if matches!(made, Err(Unnoted::Moved)) && layout::clear(fs, &dir).is_err() {
        // Confined as we are we can move neither a link nor a FIFO: the loop does, when it looks.
        touch(fs, Place::Rqueue, whose.msgid);
    }
    made
}

/// Makes `rqueue/<msgid>` with `peer.req`. Not durable: the sender asks again.
fn expect(fs: &dyn Fs, whose: For) -> Result<(), Unnoted> {
    let fill = |hidden: &str, dir: &str| {
        at(fs)?.hint(fs, &format!("{hidden}/{}", Mark::PeerReq.name()))?;
        Ok(fs.rename(hidden, dir)?)
    };
    appear(fs, whose, fill, |_| {})
}

/// Makes `rqueue/<msgid>` with `cancel`, durably.
fn bury(fs: &dyn Fs, whose: For) -> Result<(), Unnoted> {
    let fill = |hidden: &str, dir: &str| {
        marked(fs, hidden, Mark::Cancel)?;
        Ok(fs.commit_dir(hidden, dir, &[PEER, Mark::Cancel.name()])?)
    };
    appear(fs, whose, fill, |_| {})
}

/// Sets a one-time key aside: makes `rqueue/<msgid>` with the key and `peer.ok`, durably.
///
/// The key leaves the stock by one rename, and that it left is durable before
/// `rqueue/<msgid>` can be: no crash makes it lie in two places that count. A
/// crash in between leaves it in a hidden directory: one key is lost.
fn claim(fs: &dyn Fs, whose: For) -> Result<(), Unnoted> {
    let taken = std::cell::Cell::new(None);
    let fill = |hidden: &str, dir: &str| {
        let (keyid, facts) = take_key(fs, hidden)?;
        taken.set(Some(keyid));
        let (peer, promise) = (format!("{hidden}/{PEER}"), format!("{hidden}/{}", Mark::PeerOk.name()));
        facts.hint(fs, &promise)?;
        // The key's files were durable when they came into the stock.
        fs.sync_all(&[ONETIME, &peer, &promise])?;
        Ok(fs.commit_dir(hidden, dir, &[])?)
    };
    let put_back = |hidden: &str| {
        if let Some(keyid) = taken.get() {
            let _ = fs.rename(&format!("{hidden}/{ONETIME}"), &onetime(keyid));
        }
    };
    appear(fs, whose, fill, put_back)
}

/// Moves a key from the stock to `<hidden>/onetime`; one that is damaged is removed.
fn take_key(fs: &dyn Fs, hidden: &str) -> Result<(KeyId, Facts), Unnoted> {
    let here = format!("{hidden}/{ONETIME}");
    for keyid in stock(fs) {
        match fs.rename(&onetime(keyid), &here) {
            // Another claim was faster.
            Err(error) if error.is_absent() => continue,
            other => other?,
        }
        match key_facts(fs, hidden)? {
            Some(facts) => return Ok((keyid, facts)),
            None => fs.remove(&here)?,
        }
    }
    Err(Unnoted::NoKey)
}

/// Leaves the hint of what the consumer of the log in `dir` holds: only forward,
/// and not beyond what is there. Nothing, if there is no such log.
pub fn got(fs: &dyn Fs, dir: &str, chan: Chan, offset: u64) -> Result<(), Error> {
    let path = format!("{dir}/got");
    if offset <= hinted(fs, &path)? || log_end(fs, dir, chan)?.is_none_or(|end| offset > end) {
        return Ok(());
    }
    hint(fs, &path, offset)
}

/// Where the log of this channel ends on disk, after its last segment whose header can be read.
fn log_end(fs: &dyn Fs, dir: &str, chan: Chan) -> Result<Option<u64>, Error> {
    for n in segments(fs, dir)?.into_iter().rev() {
        let Ok(file) = fs.open_log(&format!("{dir}/{n}")) else { continue };
        let mut bytes = [0; HEADER];
        let filled = file.read_at(&mut bytes, 0)?;
        match Header::parse(&bytes[..filled]) {
            Ok(header) if header.n == n && header.stream.chan == chan => {
                let records = file.size()?.saturating_sub(HEADER as u64);
                return Ok(header.base.checked_add(records));
            }
            _ => continue,
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Recording;

    const MSGID: MsgId = MsgId([5; 20]);
    const KEYID: KeyId = KeyId([7; 16]);

    fn disk() -> (tempfile::TempDir, Recording) {
        let directory = tempfile::tempdir().unwrap();
        let disk = Recording::new(directory.path());
        disk.make_dir(&onetime(KEYID)).unwrap();
        disk.hint(&format!("{}/cert.pem", onetime(KEYID)), b"certificate").unwrap();
        disk.hint(&format!("{}/key", onetime(KEYID)), b"key").unwrap();
        disk.done();
        (directory, disk)
    }

    fn noted(disk: &Recording, write: &Write) -> Result<(), Unnoted> {
        let from = Username::of_ca(b"a");
        note(disk, For { from: &from, msgid: MSGID, boot: "boot" }, write)
    }

    #[test]
    fn a_key_has_left_the_stock_for_good_before_its_claim_can_be_seen() {
        let (_directory, disk) = disk();
        noted(&disk, &Write::Claim).unwrap();
        let hidden = format!("rqueue/.{MSGID}");
        let expected = [
            format!("make {hidden}"),
            format!("hint {hidden}/peer"),
            format!("rename onetime/{KEYID} {hidden}/onetime"),
            format!("hint {hidden}/peer.ok"),
            // That the key left the stock, and both files: all before the name.
            "sync onetime".into(),
            format!("sync {hidden}/peer"),
            format!("sync {hidden}/peer.ok"),
            format!("commit_dir {hidden} rqueue/{MSGID} "),
        ];
        assert_eq!(disk.done(), expected);
    }

    #[test]
    fn a_claim_that_fails_puts_its_key_back() {
        for step in ["hint rqueue/", "sync onetime", "sync rqueue/", "commit_dir"] {
            let (_directory, disk) = disk();
            disk.fail(step);
            assert!(matches!(noted(&disk, &Write::Claim), Err(Unnoted::Disk(_))), "{step}");
            assert_eq!(stock(&disk), [KEYID], "{step}");
            assert!(disk.list("rqueue").unwrap().is_empty(), "{step}");
            noted(&disk, &Write::Claim).unwrap();
            assert!(stock(&disk).is_empty(), "{step}");
        }
    }

    #[test]
    fn a_claim_that_comes_second_puts_its_key_back_and_looks_again() {
        let (_directory, disk) = disk();
        disk.make_dir(&Place::Rqueue.dir(MSGID)).unwrap();
        assert!(matches!(noted(&disk, &Write::Claim), Err(Unnoted::Moved)));
        assert_eq!(stock(&disk), [KEYID]);
    }

    #[test]
    fn nothing_waits_for_a_lock() {
        let (_directory, disk) = disk();
        noted(&disk, &Write::Claim).unwrap();
        let sealed = Sealed { digest: Digest([1; 32]), length: 1, key: Digest([2; 32]) };
        for write in [Write::Notice(sealed), Write::CancelIncoming] {
            noted(&disk, &write).unwrap();
        }
        for write in [Write::Acked, Write::CancelJob, Write::Offer(Digest([3; 32]))] {
            assert!(matches!(noted(&disk, &write), Err(Unnoted::Moved)), "{write:?}: its directory is not there");
        }
        assert!(disk.done().iter().all(|line| !line.starts_with("lock")));
    }
}
