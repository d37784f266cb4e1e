//! Where faults strike, and how: the only place that changes a spool behind the product's back.

use super::fault::{Fault, Odd, SIDES, Verb, Way, unescape};
use spool::atomic::Disk;
use spool::clock::CLOCK;
use spool::facts::Facts;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where faults strike: the spools, the ids of the jobs by name, and copies of earlier moments.
pub struct Ground {
    /// The two spools.
    pub spools: [PathBuf; 2],
    /// The ids of the jobs.
    pub ids: BTreeMap<String, String>,
    /// Takes whatever is moved out of a spool; on the same file system.
    pub away: PathBuf,
    /// Holds `MOMENT/SIDE/…`, copies of the spools.
    pub old: PathBuf,
}

impl Ground {
    /// The path below the spool that a fault's text means.
    pub fn below(&self, side: usize, path: &str) -> PathBuf {
        let mut path = path.to_string();
        for (name, id) in &self.ids {
            path = path.replace(&format!("{{{name}}}"), id);
        }
        if let Some(number) = path.strip_prefix("onetime/{").and_then(|rest| rest.split('}').next()?.parse().ok()) {
            let key = self.stock(side).into_iter().nth(number).unwrap_or_else(|| "gone".into());
            path = path.replace(&format!("{{{number}}}"), &key);
        }
        PathBuf::from(std::ffi::OsString::from_vec(unescape(&path)))
    }

    /// The one-time keys in stock, in order.
    pub fn stock(&self, side: usize) -> Vec<String> {
        let mut keys = names(&self.spools[side].join("onetime"));
        keys.sort();
        keys
    }

    fn full(&self, side: usize, path: &str) -> PathBuf {
        self.spools[side].join(self.below(side, path))
    }

    /// The ids of the jobs that a fault touches: those whose directories or files it changes.
    ///
    /// Of the places as a whole these are all that lie in them; the lock of a keeper as such, the
    /// stock of keys and notices are nobody's.
    pub fn touched(&self, fault: &Fault) -> Vec<String> {
        let mut paths = vec![self.below(fault.side, &fault.path)];
        if let Verb::Swap(other) | Verb::Copy(other) = &fault.verb {
            paths.push(self.below(fault.side, other));
        }
        let mut ids = Vec::new();
        for path in paths {
            let mut parts = path.iter().map(|part| part.to_string_lossy().into_owned());
            let place = parts.next().unwrap_or_default();
            match parts.next() {
                Some(id) => ids.push(id),
                None if ["jobs", "queue", "rqueue", "hold"].contains(&place.as_str()) => {
                    ids.extend(names(&self.spools[fault.side].join(&place)));
                }
                None => {}
            }
        }
        ids.retain(|id| id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        ids
    }

    /// Does it. Fails where nothing (any more) lies at the path, and then nothing was done.
    pub fn strike(&self, fault: &Fault) -> io::Result<()> {
        let path = self.full(fault.side, &fault.path);
        match &fault.verb {
            Verb::Make(_) | Verb::Old(_) | Verb::Number(_) => {}
            _ => {
                fs::symlink_metadata(&path)?;
            }
        }
        match &fault.verb {
            Verb::Delete => remove(&path),
            Verb::Empty => fs::read_dir(&path)?.flatten().try_for_each(|entry| remove(&entry.path())),
            Verb::Truncate(keeps, way) => {
                self.change(&path, *way, |bytes| bytes.truncate(bytes.len() * *keeps as usize / 1000))
            }
            Verb::Keep(count, way) => self.change(&path, *way, |bytes| bytes.truncate(*count as usize)),
            Verb::Flip(bit, way) => self.change(&path, *way, |bytes| {
                let bit = *bit as usize % (bytes.len() * 8).max(1);
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }),
            Verb::Zero(way) => self.change(&path, *way, |bytes| bytes.fill(0)),
            Verb::Junk(seed, way) => {
                self.change(&path, *way, |bytes| *bytes = crate::homes::noise(bytes.len().max(40), *seed))
            }
            Verb::Number(number) => self.say(fault, *number),
            Verb::Swap(other) => {
                let other = self.full(fault.side, other);
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                Ok(rustix::fs::renameat_with(rustix::fs::CWD, &path, rustix::fs::CWD, &other, flags)?)
            }
            Verb::Copy(to) => copy(&path, &self.full(fault.side, to), u64::MAX),
            Verb::Become(odd) => {
                let gone = self.put_away(&path)?;
                make(*odd, &path, &gone)
            }
            Verb::SecondLink => fs::hard_link(&path, self.fresh()),
            Verb::Mode => fs::set_permissions(&path, fs::Permissions::from_mode(0o000)),
            Verb::Old(moment) => {
                let below = self.below(fault.side, &fault.path);
                let old = self.old.join(moment.to_string()).join(SIDES[fault.side]).join(below);
                fs::symlink_metadata(&old)?;
                let _ = self.put_away(&path);
                copy(&old, &path, u64::MAX)
            }
            Verb::Make(odd) => make(*odd, &path, &self.away.join("nowhere")),
        }
    }

    /// Writes a number as the product would: with a checksum that fits.
    fn say(&self, fault: &Fault, number: u64) -> io::Result<()> {
        let disk = Disk::open(&self.spools[fault.side]).map_err(io::Error::other)?;
        let below = self.below(fault.side, &fault.path).to_string_lossy().into_owned();
        let written = if below == CLOCK {
            let facts = Facts::read(&disk, CLOCK).map(Option::unwrap_or_default);
            facts.and_then(|facts| facts.with("uptime", number).hint(&disk, CLOCK))
        } else {
            spool::log::hint(&disk, &below, number)
        };
        written.map_err(io::Error::other)
    }

    fn put_away(&self, path: &Path) -> io::Result<PathBuf> {
        let gone = self.fresh();
        fs::rename(path, &gone).map(|()| gone)
    }

    /// A path at which nothing lies.
    fn fresh(&self) -> PathBuf {
        let number = names(&self.away).len();
        self.away.join(number.to_string())
    }

    fn change(&self, path: &Path, way: Way, how: impl Fn(&mut Vec<u8>)) -> io::Result<()> {
        let mut bytes = fs::read(path)?;
        how(&mut bytes);
        if way == Way::Anew {
            let fresh = self.fresh();
            fs::write(&fresh, &bytes)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
            return fs::rename(fresh, path);
        }
        let file = File::options().write(true).open(path)?;
        file.write_all_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)
    }
}

/// Makes what no file of a spool is; a link leads to `target`.
fn make(odd: Odd, path: &Path, target: &Path) -> io::Result<()> {
    match odd {
        Odd::File => fs::write(path, "what does this do here?\n"),
        Odd::Directory => fs::create_dir(path).and_then(|()| fs::write(path.join("something"), "x")),
        Odd::Fifo => make_fifo(path),
        Odd::Link => symlink(target, path),
        Odd::Dangling => symlink("/nowhere/at/all", path),
    }
}

/// Makes a FIFO.
pub fn make_fifo(path: &Path) -> io::Result<()> {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
    Ok(rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0)?)
}

/// The names in a directory; none if it cannot be read.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    let is_dir = fs::symlink_metadata(path)?.is_dir();
    if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Copies a file of at most so many bytes, or a whole directory with such files; of anything else nothing.
pub fn copy(from: &Path, to: &Path, most: u64) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        fs::create_dir(to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
        for name in fs::read_dir(from)?.flatten().map(|entry| entry.file_name()) {
            // Files that are being worked on may vanish between two looks.
            let _ = copy(&from.join(&name), &to.join(OsStr::from_bytes(name.as_bytes())), most);
        }
    } else if kind.is_file() && metadata.len() <= most {
        fs::copy(from, to)?;
    }
    Ok(())
}

#[test]
fn every_verb_does_what_its_name_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    ["a", "b", "away", "old/0/a"].iter().for_each(|name| fs::create_dir_all(at(name)).expect("a directory"));
    let (spools, away, old) = ([at("a"), at("b")], at("away"), at("old"));
    let ground = Ground { spools, ids: BTreeMap::new(), away, old };
    fs::write(at("old/0/a/x"), "before").expect("a file");
    let after = |text: &str| {
        let _ = remove(&at("a/x"));
        fs::write(at("a/x"), "12345678").expect("a file");
        fs::write(at("a/y"), "other").expect("a file");
        ground.strike(&text.parse().expect("a fault")).expect("it can be done");
        fs::read(at("a/x"))
    };
    assert!(after("a x delete").is_err());
    assert_eq!(after("a x truncate 500").expect("a file"), b"1234");
    assert_eq!(after("a x keep 3").expect("a file"), b"123");
    assert_eq!(after("a x flip-anew 65").expect("a file"), b"32345678");
    assert_eq!(after("a x zero").expect("a file"), [0; 8]);
    assert_eq!(after("a x swap y").expect("a file"), b"other");
    assert_eq!(after("a x old 0").expect("a file"), b"before");
    assert_eq!(after("a x become link").expect("a file"), b"12345678");
    assert!(after("a x become dangling").is_err());
    after("a x copy z").expect("a file");
    assert_eq!(fs::read(at("a/z")).expect("a copy"), b"12345678");
    after("a v number 12").expect("a file");
    let disk = Disk::open(&at("a")).expect("a spool");
    assert_eq!(spool::log::hinted(&disk, "v").expect("a hint"), 12);
    after("a clock number 12").expect("a file");
    let facts = Facts::read(&disk, CLOCK).expect("a file").expect("facts");
    assert_eq!(facts.value::<u64>("uptime"), Some(12));
    after("a w make directory").expect("a file");
    assert!(at("a/w").is_dir());
    assert!(ground.strike(&"a none flip 1".parse().expect("a fault")).is_err());
}
