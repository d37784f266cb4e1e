//! The stock of one-time keys: `onetime/<keyid>/{cert.pem,key}`.
//!
//! The loop fills it; the service takes from it, by one rename, and never looks
//! inside. So whatever has a key's name must be whole and durable, and
//! everything else here is ours to remove (doc/SPOOL.md#onetime).

use crate::cert::Cert;
use crate::onetime::{CERT, KEY, OneTime, keyid, open_beside};
use crate::{Identity, Result};
use spool::atomic;
use spool::crypto::SpoolKey;
use spool::fs::{Fs, is_hidden};
use spool::look::CERT_MAX;
use spool::name::KeyId;
use std::time::Duration;

const STOCK: &str = "onetime";
/// A private half as it lies on disk: magic, salt, 32 bytes, tag.
const SEALED: u64 = 8 + 32 + 32 + 16;

/// Is less than half of `wanted` left? Then it is worth a refill: syncing many
/// keys together costs little more than syncing one.
pub fn is_low(fs: &dyn Fs, wanted: usize) -> Result<bool> {
    let present = fs.list(STOCK)?.iter().filter(|entry| !is_hidden(&entry.name)).count();
    Ok(present < wanted.div_ceil(2))
}

/// Fills the stock up to `wanted` keys and says how many were made; none if
/// another process is at it. Removes what a crash left, and entries that are
/// not whole.
///
/// Every key is made under a hidden name, and gets its own only when its files
/// are synced; the names of all are synced together. After a crash each is
/// there whole, or not.
pub fn refill(fs: &dyn Fs, identity: &Identity, spool_key: &SpoolKey, wanted: usize) -> Result<usize> {
    let Some(_lock) = fs.lock_dir(STOCK, Duration::ZERO)? else { return Ok(0) };
    let present = sweep(fs, is_whole)?;
    let mut prepared = Vec::new();
    let made = make(fs, identity, spool_key, wanted.saturating_sub(present), &mut prepared);
    if made.is_err() {
        // What has its own name already is no longer under the hidden one.
        prepared.iter().for_each(|(hidden, _)| drop(fs.remove(hidden)));
    }
    made.map(|()| prepared.len())
}

/// Opens every key in the stock, and removes those that cannot be used by this
/// identity; says how many are left. For a start, and after an error.
pub fn check(fs: &dyn Fs, identity: &Identity, spool_key: &SpoolKey) -> Result<usize> {
    let Some(_lock) = fs.lock_dir(STOCK, Duration::ZERO)? else { return Ok(0) };
    sweep(fs, |fs, dir| opens(fs, dir, identity, spool_key))
}

fn make(
    fs: &dyn Fs,
    identity: &Identity,
    spool_key: &SpoolKey,
    count: usize,
    prepared: &mut Vec<(String, String)>,
) -> Result<()> {
    for _ in 0..count {
        let onetime = OneTime::make(identity)?;
        let dir = spool::layout::onetime(onetime.keyid);
        let hidden = atomic::temporary(&dir);
        prepared.push((hidden.clone(), dir));
        fs.make_dir(&hidden)?;
        fs.hint(&format!("{hidden}/{CERT}"), &onetime.cert_pem)?;
        fs.hint(&format!("{hidden}/{KEY}"), &onetime.sealed(spool_key))?;
    }
    // Only when all are written: one flush of the journal then serves many.
    for (hidden, _) in &*prepared {
        for name in [CERT, KEY] {
            fs.open_log(&format!("{hidden}/{name}"))?.sync()?;
        }
        fs.sync_dir(hidden)?;
    }
    for (hidden, dir) in &*prepared {
        fs.rename(hidden, dir)?;
    }
    if !prepared.is_empty() {
        fs.sync_dir(STOCK)?;
    }
    Ok(())
}

/// Removes everything but keys that are `good`, and counts those.
fn sweep(fs: &dyn Fs, good: impl Fn(&dyn Fs, &str) -> Result<bool>) -> Result<usize> {
    let mut count = 0;
    for entry in fs.list(STOCK)? {
        let path = format!("{STOCK}/{}", entry.name);
        let is_key = !is_hidden(&entry.name) && entry.is_dir && entry.name.parse::<KeyId>().is_ok();
        if is_key && good(fs, &path)? {
            count += 1;
        } else {
            fs.remove(&path)?;
        }
    }
    Ok(count)
}

/// Are both files there, with a size that they can have?
fn is_whole(fs: &dyn Fs, dir: &str) -> Result<bool> {
    let size = |name: &str| fs.size(&format!("{dir}/{name}"));
    let cert = size(CERT)?.is_some_and(|size| (1..=CERT_MAX as u64).contains(&size));
    Ok(cert && size(KEY)? == Some(SEALED))
}

/// Is this a key that this identity certified, under its own name, and does its private half open?
fn opens(fs: &dyn Fs, dir: &str, identity: &Identity, spool_key: &SpoolKey) -> Result<bool> {
    let read = |name: &str| fs.read_if_sound(&format!("{dir}/{name}"), CERT_MAX);
    let (Some(pem), Some(sealed)) = (read(CERT)?, read(KEY)?) else { return Ok(false) };
    let Ok(cert) = Cert::of_pem(&pem) else { return Ok(false) };
    let named = keyid(&cert).map(spool::layout::onetime).as_deref() == Some(dir);
    Ok(named && identity.chain().check(&cert).is_ok() && open_beside(spool_key, &cert, &sealed).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failing::Failing;
    use spool::atomic::Disk;
    use spool::crypto::Key;

    fn stock() -> (tempfile::TempDir, Disk, Identity, SpoolKey) {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        disk.make_dir(STOCK).unwrap();
        (directory, disk, Identity::generate().unwrap().0, SpoolKey(Key::random()))
    }

    #[test]
    fn the_stock_is_filled_once_and_every_key_opens() {
        let (_directory, disk, identity, spool_key) = stock();
        assert_eq!(refill(&disk, &identity, &spool_key, 5).unwrap(), 5);
        assert_eq!(refill(&disk, &identity, &spool_key, 5).unwrap(), 0);
        assert_eq!(refill(&disk, &identity, &spool_key, 7).unwrap(), 2);
        assert!(!is_low(&disk, 14).unwrap() && is_low(&disk, 15).unwrap());
        assert_eq!(check(&disk, &identity, &spool_key).unwrap(), 7);
        assert_eq!(disk.list(STOCK).unwrap().len(), 7);
    }

    #[test]
    fn what_is_no_whole_key_is_removed() {
        let (directory, disk, identity, spool_key) = stock();
        refill(&disk, &identity, &spool_key, 3).unwrap();
        let names: Vec<String> = disk.list(STOCK).unwrap().into_iter().map(|entry| entry.name).collect();
        let path = |tail: String| directory.path().join(STOCK).join(tail);
        std::fs::write(path(format!("{}/key", names[0])), b"").unwrap();
        std::fs::remove_file(path(format!("{}/cert.pem", names[1]))).unwrap();
        std::fs::create_dir(path(".leftover.00000000".into())).unwrap();
        std::fs::write(path("stray".into()), b"").unwrap();
        assert_eq!(refill(&disk, &identity, &spool_key, 3).unwrap(), 2);
        assert_eq!(check(&disk, &identity, &spool_key).unwrap(), 3);
        assert_eq!(disk.list(STOCK).unwrap().len(), 3);
    }

    #[test]
    fn a_key_that_does_not_open_is_found_by_the_check() {
        let (directory, disk, identity, spool_key) = stock();
        refill(&disk, &identity, &spool_key, 4).unwrap();
        let names: Vec<String> = disk.list(STOCK).unwrap().into_iter().map(|entry| entry.name).collect();
        let path = |tail: String| directory.path().join(STOCK).join(tail);
        let mut sealed = std::fs::read(path(format!("{}/key", names[0]))).unwrap();
        sealed[50] ^= 1;
        std::fs::write(path(format!("{}/key", names[0])), sealed).unwrap();
        std::fs::rename(path(names[1].clone()), path(KeyId([9; 16]).to_string())).unwrap();
        let (other, _) = Identity::generate().unwrap();
        assert_eq!(check(&disk, &identity, &spool_key).unwrap(), 2);
        assert_eq!(check(&disk, &other, &spool_key).unwrap(), 0, "an earlier identity's keys are of no use");
    }

    #[test]
    fn a_crash_at_any_operation_leaves_whole_keys_only() {
        for steps in 0.. {
            let (_directory, disk, identity, spool_key) = stock();
            let failing = Failing::after(disk, steps);
            let whole_run = refill(&failing, &identity, &spool_key, 2).is_ok();
            let disk = failing.recover();
            for entry in disk.list(STOCK).unwrap().iter().filter(|entry| !is_hidden(&entry.name)) {
                assert!(opens(&disk, &format!("{STOCK}/{}", entry.name), &identity, &spool_key).unwrap());
            }
            refill(&disk, &identity, &spool_key, 2).unwrap();
            assert_eq!(check(&disk, &identity, &spool_key).unwrap(), 2);
            assert_eq!(disk.list(STOCK).unwrap().len(), 2, "nothing hidden is left");
            if whole_run {
                assert!(steps > 10);
                return;
            }
        }
    }

    #[test]
    #[ignore = "a measurement: cargo test --release -p keygen -- --ignored --nocapture stock"]
    fn a_full_stock_takes_so_long() {
        let (_directory, disk, identity, spool_key) = stock();
        let time = |what: &str, step: &dyn Fn() -> usize| {
            let started = std::time::Instant::now();
            println!("{what}: {} keys in {:?}", step(), started.elapsed());
        };
        time("refill an empty stock", &|| refill(&disk, &identity, &spool_key, 64).unwrap());
        time("refill a full one", &|| refill(&disk, &identity, &spool_key, 64).unwrap());
        time("one more", &|| refill(&disk, &identity, &spool_key, 65).unwrap());
        time("check", &|| check(&disk, &identity, &spool_key).unwrap());
    }
}
