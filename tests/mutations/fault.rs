//! What strikes a spool: one change of one path, in words that can be kept.
//!
//! A fault is a text, `b jobs/{open}/message flip 17`: the side, a path below its spool, a verb and
//! its argument. `{open}` stands for the id of the job with this name, `{2}` below `onetime` for the
//! third key in stock; bytes that are no plain letters are written `%FF`. The same text strikes the
//! same file in every round that has such a job.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The two homes, by the letter that a fault's text begins with.
pub const SIDES: [&str; 2] = ["a", "b"];

/// How the daemon of a side that is struck is at that moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It runs.
    Live,
    /// It was told to end, and is started again after the blow.
    Stopped,
    /// It was killed with its service and loop, and is started again after the blow.
    Killed,
    /// The same with all keepers, and the commands that they had running.
    Crashed,
}

impl Mode {
    const WORDS: [(Mode, &str); 4] =
        [(Mode::Live, "live"), (Mode::Stopped, "stopped"), (Mode::Killed, "killed"), (Mode::Crashed, "crashed")];

    /// The word for it.
    pub fn word(self) -> &'static str {
        Mode::WORDS.iter().find(|(mode, _)| *mode == self).map_or("", |(_, word)| word)
    }
}

/// All that strikes in one round, at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blow {
    /// How the daemons of the struck sides are.
    pub mode: Mode,
    /// In this order.
    pub faults: Vec<Fault>,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Whose spool: an index into [`SIDES`].
    pub side: usize,
    /// Where in it, as in the fault's text.
    pub path: String,
    /// What is done to it.
    pub verb: Verb,
}

/// What is done to a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verb {
    /// It is removed, a directory with all below it.
    Delete,
    /// What is in a directory is removed.
    Empty,
    /// A file keeps so many thousandths of its bytes.
    Truncate(u64, Way),
    /// A file keeps so many bytes.
    Keep(u64, Way),
    /// The bit of this number changes, counted modulo the file's bits.
    Flip(u64, Way),
    /// All bytes become 0.
    Zero(Way),
    /// Bytes that mean nothing take the place of as many, drawn from this seed.
    Junk(u64, Way),
    /// A line with this text takes the place of the content, or appears in a file that was not there.
    Text(String, Way),
    /// It changes places with another path of the same spool.
    Swap(String),
    /// A copy of it gets this path.
    Copy(String),
    /// Something else takes its place, and it goes.
    Become(Odd),
    /// A second name, outside the spool.
    SecondLink,
    /// Nobody may do anything with it.
    Mode,
    /// A copy of it of this earlier moment is put back.
    Old(usize),
    /// Something that was not there appears.
    Make(Odd),
}

/// How the content of a file changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Whoever has it open sees it.
    InPlace,
    /// Another file with the new content takes its name.
    Anew,
}

/// What no file of a spool is, but for the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Odd {
    /// A file with some bytes.
    File,
    /// A directory with a file in it.
    Directory,
    /// A FIFO that nobody writes to.
    Fifo,
    /// A link to what was there, which lies outside the spool now; to nothing if nothing was.
    Link,
    /// A link to nothing.
    Dangling,
}

impl Odd {
    /// All of them.
    pub const ALL: [Odd; 5] = [Odd::File, Odd::Directory, Odd::Fifo, Odd::Link, Odd::Dangling];

    fn word(self) -> &'static str {
        match self {
            Odd::File => "file",
            Odd::Directory => "directory",
            Odd::Fifo => "fifo",
            Odd::Link => "link",
            Odd::Dangling => "dangling",
        }
    }

    fn of(word: &str) -> Option<Odd> {
        Odd::ALL.into_iter().find(|odd| odd.word() == word)
    }
}

impl std::fmt::Display for Blow {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}", self.mode.word())?;
        self.faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} {} {}", SIDES[self.side], self.path, self.verb.words())
    }
}

impl Verb {
    /// The verb alone, by which results are counted.
    pub fn word(&self) -> String {
        let words = self.words();
        let mut parts = words.split(' ');
        match (self, parts.next(), parts.next()) {
            (Verb::Become(_) | Verb::Make(_), Some(verb), Some(odd)) => format!("{verb} {odd}"),
            (_, verb, _) => verb.unwrap_or_default().into(),
        }
    }

    fn words(&self) -> String {
        let anew = |way: &Way| if *way == Way::Anew { "-anew" } else { "" };
        match self {
            Verb::Delete => "delete".into(),
            Verb::Empty => "empty".into(),
            Verb::Truncate(keeps, way) => format!("truncate{} {keeps}", anew(way)),
            Verb::Keep(bytes, way) => format!("keep{} {bytes}", anew(way)),
            Verb::Flip(bit, way) => format!("flip{} {bit}", anew(way)),
            Verb::Zero(way) => format!("zero{}", anew(way)),
            Verb::Junk(seed, way) => format!("junk{} {seed}", anew(way)),
            Verb::Text(text, way) => format!("text{} {text}", anew(way)),
            Verb::Swap(with) => format!("swap {with}"),
            Verb::Copy(to) => format!("copy {to}"),
            Verb::Become(odd) => format!("become {}", odd.word()),
            Verb::SecondLink => "second-link".into(),
            Verb::Mode => "mode".into(),
            Verb::Old(moment) => format!("old {moment}"),
            Verb::Make(odd) => format!("make {}", odd.word()),
        }
    }

    fn parse(words: &str) -> Option<Verb> {
        let (verb, argument) = words.split_once(' ').unwrap_or((words, ""));
        let way = if verb.ends_with("-anew") { Way::Anew } else { Way::InPlace };
        let number = || argument.parse::<u64>().ok();
        Some(match verb.trim_end_matches("-anew") {
            "delete" => Verb::Delete,
            "empty" => Verb::Empty,
            "truncate" => Verb::Truncate(number()?, way),
            "keep" => Verb::Keep(number()?, way),
            "flip" => Verb::Flip(number()?, way),
            "zero" => Verb::Zero(way),
            "junk" => Verb::Junk(number()?, way),
            "text" => Verb::Text(argument.into(), way),
            "swap" => Verb::Swap(argument.into()),
            "copy" => Verb::Copy(argument.into()),
            "become" => Verb::Become(Odd::of(argument)?),
            "second-link" => Verb::SecondLink,
            "mode" => Verb::Mode,
            "old" => Verb::Old(argument.parse().ok()?),
            "make" => Verb::Make(Odd::of(argument)?),
            _ => return None,
        })
    }
}

impl std::str::FromStr for Blow {
    type Err = String;

    fn from_str(text: &str) -> Result<Blow, String> {
        let mut parts = text.split(';').map(str::trim);
        let word = parts.next().unwrap_or_default();
        let mode = Mode::WORDS.iter().find(|(_, known)| *known == word).map(|(mode, _)| *mode);
        let mode = mode.ok_or_else(|| format!("{word:?} is no mode"))?;
        let faults: Result<_, String> = parts.map(str::parse).collect();
        Ok(Blow { mode, faults: faults? })
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let wrong = || format!("{text:?} is no fault; one is: b jobs/{{open}}/message flip 17");
        let mut words = text.splitn(3, ' ');
        let (side, path, verb) = (words.next(), words.next(), words.next());
        let side = SIDES.iter().position(|letter| Some(*letter) == side).ok_or_else(wrong)?;
        let verb = verb.and_then(Verb::parse).ok_or_else(wrong)?;
        Ok(Fault { side, path: path.ok_or_else(wrong)?.into(), verb })
    }
}

/// The bytes of a path as a fault's text has them.
pub fn escape(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-~".contains(&byte);
    bytes.iter().map(|&byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match hex.filter(|_| first == b'%') {
            Some(byte) => (bytes.push(byte), rest = &after[2..]),
            None => (bytes.push(first), rest = after),
        };
    }
    bytes
}

/// Where faults strike: the spools, the ids of the jobs by name, and copies of earlier moments.
pub struct Ground {
    /// The two spools.
    pub spools: [PathBuf; 2],
    /// The ids of the jobs.
    pub ids: BTreeMap<String, String>,
    /// What goes lies here from then on, outside of all spools and on their file system.
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
            Verb::Make(_) | Verb::Old(_) => {}
            Verb::Text(..) if fs::symlink_metadata(&path).is_err() => fs::write(&path, "")?,
            _ => drop(fs::symlink_metadata(&path)?),
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
            Verb::Text(text, way) => self.change(&path, *way, |bytes| *bytes = format!("{text}\n").into_bytes()),
            Verb::Swap(other) => {
                let other = self.full(fault.side, other);
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                Ok(rustix::fs::renameat_with(rustix::fs::CWD, &path, rustix::fs::CWD, &other, flags)?)
            }
            Verb::Copy(to) => copy(&path, &self.full(fault.side, to), u64::MAX),
            Verb::Become(odd) => {
                let gone = self.put_away(&path)?;
                odd.make(&path, &gone)
            }
            Verb::SecondLink => fs::hard_link(&path, self.fresh()),
            Verb::Mode => fs::set_permissions(&path, fs::Permissions::from_mode(0)),
            Verb::Old(moment) => {
                let below = self.below(fault.side, &fault.path);
                let old = self.old.join(moment.to_string()).join(SIDES[fault.side]).join(below);
                fs::symlink_metadata(&old)?;
                let _ = self.put_away(&path);
                copy(&old, &path, u64::MAX)
            }
            Verb::Make(odd) => odd.make(&path, &self.away.join("nowhere")),
        }
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

impl Odd {
    fn make(self, path: &Path, target: &Path) -> io::Result<()> {
        match self {
            Odd::File => fs::write(path, "what does this do here?\n"),
            Odd::Directory => fs::create_dir(path).and_then(|()| fs::write(path.join("something"), "x")),
            Odd::Fifo => {
                let kind = rustix::fs::FileType::Fifo;
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                Ok(rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0)?)
            }
            Odd::Link => symlink(target, path),
            Odd::Dangling => symlink("/nowhere/at/all", path),
        }
    }
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
            // What is being worked on may vanish between two looks.
            let _ = copy(&from.join(&name), &to.join(OsStr::from_bytes(name.as_bytes())), most);
        }
    } else if kind.is_file() && metadata.len() <= most {
        fs::copy(from, to)?;
    }
    Ok(())
}

#[test]
fn a_fault_is_read_as_it_is_written() {
    let texts = [
        "live; b jobs/{open}/message flip 17",
        "stopped; a jobs/{open}/in/1/%FF%00 make fifo; b clock text-anew 999999999999",
        "killed; a queue/{queued} swap queue/{held}; b onetime/{3}/key become dangling; a daemon second-link",
        "live",
    ];
    for text in texts {
        let blow: Blow = text.parse().expect("a blow");
        assert_eq!(blow.to_string(), text);
    }
    assert_eq!(unescape(&escape(b"\xff\x00a%b/{}")), b"\xff\x00a%b/{}");
    for wrong in ["", "never", "live; c jobs flip 1", "live; a jobs", "live; a jobs flip x", "live; a jobs become egg"]
    {
        assert!(wrong.parse::<Blow>().is_err(), "{wrong}");
    }
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
    assert_eq!(after("a x text 7").expect("a file"), b"7\n");
    assert_eq!(after("a x swap y").expect("a file"), b"other");
    assert_eq!(after("a x old 0").expect("a file"), b"before");
    assert_eq!(after("a x become link").expect("a file"), b"12345678");
    assert!(after("a x become dangling").is_err());
    after("a x copy z").expect("a file");
    assert_eq!(fs::read(at("a/z")).expect("a copy"), b"12345678");
    after("a v text 12").expect("a file");
    assert_eq!(fs::read(at("a/v")).expect("a new file"), b"12\n");
    after("a w make directory").expect("a file");
    assert!(at("a/w").is_dir());
    assert!(ground.strike(&"a none flip 1".parse().expect("a fault")).is_err());
}
