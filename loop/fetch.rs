//! Fetching the sealed message: with resume, and never more than was announced.

use crate::World;
use crate::comm::Trouble;
use crate::net::{Get, Net};
use crate::peers::Known;
use spool::bucket::{Mover, Priority};
use spool::fs::{Error, Fs, LogFile, Result};
use spool::layout::{Place, SEALED};
use spool::look::SEALED_MAX;
use spool::name::{Chan, Digest, MsgId};
use spool::url::{self, Sealed, What};
use std::time::Duration;

/// What a fetch gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// The file is here as `sealed`, and is what `snd` named.
    Here,
    /// All of it came, and it is another file.
    Another,
}

/// Pulls the sealed message that `snd` named into `rqueue/<msgid>/sealed`. What
/// came before a cut lies in `.part` and is continued.
pub async fn sealed<N: Net>(
    world: &World<N>,
    peer: &Known,
    msgid: MsgId,
    said: Sealed,
) -> std::result::Result<Fetched, Trouble> {
    let fs = &*world.fs;
    if said.length > SEALED_MAX as u64 {
        return Ok(Fetched::Another);
    }
    let part = Place::Rqueue.file(msgid, ".part");
    let mut file = part_file(fs, &part)?;
    let mut size = file.size()?;
    if size < said.length {
        let what = What::Queue(msgid);
        let path = url::sign(&peer.remote.username, &what, world.ours(), &peer.pair.request_out);
        let get = Get { path, from: size, until: None, wait: Duration::ZERO };
        let mut answer = world.net.get(&peer.remote, get).await?;
        if !matches!(answer.status, 200 | 206) || answer.start != size {
            return Err(Trouble::new(
                "unreachable",
                format!("the message cannot be fetched (status {})", answer.status),
            ));
        }
        // Counted with what jobs pull; a message waits for nobody.
        let who = Mover { peer: peer.remote.username.clone(), msgid, chan: Chan::CONTROL, priority: Priority::Normal };
        while let Some(bytes) = answer.body.next().await? {
            world.gate.moved(world.clock.now(), &peer.policy.bwlimit, &who, bytes.len() as u64);
            if size + bytes.len() as u64 > said.length {
                fs.remove(&part)?;
                return Ok(Fetched::Another);
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                rest = &rest[file.append(rest)?..];
            }
            size += bytes.len() as u64;
        }
    }
    if size < said.length {
        return Err(Trouble::new("unreachable", format!("the message broke off at {size} of {} bytes", said.length)));
    }
    let matches = Digest::of(&fs.read(&part, SEALED_MAX)?) == said.digest;
    let to = Place::Rqueue.file(msgid, SEALED);
    fs.remove(&to)?;
    if !matches {
        fs.remove(&part)?;
        return Ok(Fetched::Another);
    }
    fs.rename(&part, &to)?;
    Ok(Fetched::Here)
}

fn part_file(fs: &dyn Fs, path: &str) -> Result<Box<dyn LogFile>> {
    match fs.open_log(path) {
        Err(error) if error.is_absent() => fs.create_log(path),
        // Something else lies at its name.
        Err(Error::Damaged { .. }) => {
            fs.aside(path)?;
            fs.create_log(path)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spool::atomic::Disk;

    /// A link or FIFO in the place of `.part` kept a message from being fetched for ever.
    #[test]
    fn what_lies_at_the_name_of_a_part_makes_way_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        let path = directory.path().join(".part");
        let ways: [fn(&std::path::Path); 3] = [
            |path| std::os::unix::fs::symlink("elsewhere", path).unwrap(),
            |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
            |path| std::fs::create_dir(path).unwrap(),
        ];
        for make in ways {
            make(&path);
            assert_eq!(part_file(&disk, ".part").unwrap().append(b"some").unwrap(), 4);
            assert_eq!(part_file(&disk, ".part").unwrap().size().unwrap(), 4, "and it is continued");
            std::fs::remove_file(&path).unwrap();
        }
    }
}
