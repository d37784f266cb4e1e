//! What a message says: the job's secret, and START, what is to run.
//!
//! Two TAP1 packets, KEY and START; START is a list that only this crate reads
//! (doc/PROTOCOL.md#tap1). Unknown names in it are ignored, so that an older
//! recipient understands what it can; a doubled one is refused.

use crate::Error;
use spool::bucket::Priority;
use spool::crypto::Key;
use spool::layout::{MESSAGE, Place, rest_label};
use spool::look::{MESSAGE_MAX, MESSAGE_REST_MAX};
use spool::name::MsgId;
use spool::tap1::{self, Kind, List};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// What the sender asks to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The command's words; several are joined with single blanks for the shell.
    pub argv: Vec<Vec<u8>>,
    /// Run as this remote user; empty: as whoever the recipient is.
    pub user: String,
    /// Variables for the command's environment.
    pub env: BTreeMap<String, Vec<u8>>,
    /// It starts when the whole input is there and verified, and not before.
    pub batch: bool,
    /// It may be run again after a crash; only with `batch`.
    pub repeat: bool,
    /// The command's outputs are to be compressed.
    pub compress: bool,
    /// Beside other jobs with the same peer, where a limit holds.
    pub priority: Priority,
}

impl Start {
    fn list(&self) -> List {
        let mut list = List::new();
        for (n, word) in self.argv.iter().enumerate() {
            list.insert(format!("argv.{n}"), word.clone());
        }
        for (name, value) in &self.env {
            list.insert(format!("env.{name}"), value.clone());
        }
        if !self.user.is_empty() {
            list.insert("user".into(), self.user.clone().into_bytes());
        }
        let flags = [("batch", self.batch), ("repeat", self.repeat), ("compress", self.compress)];
        for (name, _) in flags.into_iter().filter(|(_, set)| *set) {
            list.insert(name.into(), b"1".to_vec());
        }
        if self.priority != Priority::Normal {
            list.insert("priority".into(), self.priority.word().into());
        }
        list
    }

    fn of_list(list: &List) -> Result<Start, Error> {
        let mut start = Start::default();
        while let Some(word) = list.get(&format!("argv.{}", start.argv.len())) {
            start.argv.push(word.clone());
        }
        for (name, value) in list {
            if let Some(name) = name.strip_prefix("env.") {
                start.env.insert(name.to_string(), value.clone());
            }
        }
        let priority = list.get("priority").and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
        start.priority = priority.unwrap_or_default();
        let user = list.get("user").cloned().unwrap_or_default();
        start.user = String::from_utf8(user).map_err(|_| Error::Peer("START: the user is not text".into()))?;
        (start.batch, start.repeat) = (flag(list, "batch")?, flag(list, "repeat")?);
        start.compress = flag(list, "compress")?;
        if start.repeat && !start.batch {
            return Err(Error::Peer("START: repeat without batch".into()));
        }
        Ok(start)
    }
}

/// Is this set? What is neither missing nor 1 is not understood, so nothing runs.
fn flag(list: &List, name: &str) -> Result<bool, Error> {
    match list.get(name).map(Vec::as_slice) {
        None => Ok(false),
        Some(b"1") => Ok(true),
        Some(_) => Err(Error::Peer(format!("START: {name} is not 1"))),
    }
}

/// Writes a message: KEY and START. At most [`MESSAGE_MAX`] bytes, or it is refused.
pub fn write(secret: &Key, start: &Start) -> Result<Zeroizing<Vec<u8>>, Error> {
    let list =
        tap1::write_list(&start.list()).map_err(|bad| Error::Ours(format!("cannot send this command: {bad}")))?;
    let mut message = Zeroizing::new(Vec::with_capacity(list.len() + 128));
    tap1::write(0, Kind::Key, &secret.0, &mut message);
    tap1::write(1, Kind::Start, &list, &mut message);
    if message.len() > MESSAGE_MAX {
        return Err(Error::Ours(format!("the command is {} bytes, more than {MESSAGE_MAX}", message.len())));
    }
    Ok(message)
}

/// Reads a message that was delivered.
pub fn read(bytes: &[u8]) -> Result<(Key, Start), Error> {
    let (secret, start) = read_parts(bytes)?;
    Ok((secret, start?))
}

/// Reads a message part by part: without KEY nobody can be answered; a bad
/// START can, and is refused.
pub fn read_parts(mut bytes: &[u8]) -> Result<(Key, Result<Start, Error>), Error> {
    let mut packet = |kind: Kind, what: &str| match tap1::read(&mut bytes) {
        Ok(Some(packet)) if packet.kind == kind => Ok(packet.payload),
        Ok(_) => Err(Error::Peer(format!("the message has no {what} where it should be"))),
        Err(bad) => Err(Error::Peer(format!("the message cannot be read: {bad}"))),
    };
    let secret = Zeroizing::new(packet(Kind::Key, "KEY")?);
    let secret = Key(secret.as_slice().try_into().map_err(|_| Error::Peer("KEY is not 32 bytes".into()))?);
    let list = packet(Kind::Start, "START")
        .and_then(|list| tap1::read_list(&list).map_err(|bad| Error::Peer(format!("START cannot be read: {bad}"))));
    Ok((secret, list.and_then(|list| Start::of_list(&list))))
}

/// Opens the message that lies in a directory, sealed under the spool key.
pub fn open(
    fs: &dyn spool::fs::Fs,
    place: Place,
    msgid: MsgId,
    spool_key: &spool::crypto::SpoolKey,
) -> Result<(Key, Start), Error> {
    read(&unseal(fs, place, msgid, spool_key)?)
}

/// The plaintext of the message that lies in a directory.
pub fn unseal(
    fs: &dyn spool::fs::Fs,
    place: Place,
    msgid: MsgId,
    spool_key: &spool::crypto::SpoolKey,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let path = place.file(msgid, MESSAGE);
    let sealed = fs.read(&path, MESSAGE_REST_MAX)?;
    let message = spool_key.open(&rest_label(MESSAGE, msgid), &sealed);
    message.map_err(|error| Error::Ours(format!("{path} {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_as_it_was_written() {
        let start = Start {
            argv: vec![b"cat".to_vec(), vec![0xff, b' ']],
            user: "backup".into(),
            env: BTreeMap::from([("GIT_PROTOCOL".into(), b"version=2".to_vec())]),
            batch: true,
            repeat: true,
            compress: true,
            priority: Priority::Low,
        };
        let secret = Key([3; 32]);
        let message = write(&secret, &start).unwrap();
        let (key, read_start) = read(&message).unwrap();
        assert_eq!((key.0, read_start), (secret.0, start));
        for cut in 0..message.len() {
            assert!(read(&message[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_a_job_is_must_be_understood() {
        let start = |pairs: &[(&str, &str)]| {
            Start::of_list(&pairs.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect())
        };
        assert!(start(&[("batch", "1")]).is_ok_and(|start| start.batch && !start.repeat));
        assert!(start(&[]).is_ok_and(|start| !start.batch && !start.repeat));
        for bad in [&[("repeat", "1")][..], &[("batch", "yes")], &[("batch", "1"), ("repeat", "0")]] {
            assert!(start(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_nul_in_the_command_is_refused_before_it_is_sent() {
        let start = Start { argv: vec![vec![0]], ..Start::default() };
        assert!(write(&Key([0; 32]), &start).is_err());
    }
}
