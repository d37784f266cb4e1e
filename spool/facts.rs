//! The small files of the spool: one fact a line, `name=value`, made to be read with `cat`.
//!
//! `peer`, every mark and every outcome have this form. The last line is a
//! checksum over the facts and the file's place, so a flipped bit, a torn write
//! and a file that was copied from another job are all damage. A damaged file is
//! as good as none; a file that cannot be read is trouble, and says nothing
//! about its facts (doc/SPOOL.md#forms).

use crate::fs::{Fs, Result};
use crate::name::MsgId;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The largest such file in bytes.
pub const FACTS_MAX: usize = 16 << 10;

/// The name in the last line.
const CHECK: &str = "check";

/// Names with values; no newline in either.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// No facts.
    pub fn new() -> Facts {
        Facts::default()
    }

    /// Adds a fact; newlines in it become blanks.
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Facts {
        self.0.insert(name.to_string(), value.to_string().replace(['\n', '\r', '\0'], " "));
        self
    }

    /// Adds a fact if there is one.
    pub fn with_some(self, name: &str, value: Option<impl fmt::Display>) -> Facts {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The value of a fact as it stands.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of a fact, parsed.
    pub fn value<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// All facts in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Parses the text of a file for a person, wherever it comes from: lines that
    /// are no facts are left out, and the checksum.
    pub fn parse(text: &[u8]) -> Facts {
        let lines = text.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        let facts = lines.filter_map(|line| line.split_once('=')).filter(|(name, _)| *name != CHECK);
        Facts(facts.map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    /// Parses what lies at `path`; `None` if the checksum is not that of these facts in this place.
    pub fn believed(path: &str, text: &[u8]) -> Option<Facts> {
        let (facts, check) = text.split_at_checked(text.len().checked_sub(CHECK.len() + 10)?)?;
        (check == check_line(path, facts).as_bytes()).then(|| Facts::parse(facts))
    }

    /// The file's content at `path`.
    pub fn content(&self, path: &str) -> Vec<u8> {
        let facts = self.to_string();
        let check = check_line(path, facts.as_bytes());
        (facts + &check).into_bytes()
    }

    /// Reads a file of facts; `None` if it is not there, or damaged.
    pub fn read(fs: &dyn Fs, path: &str) -> Result<Option<Facts>> {
        Ok(fs.read_if_sound(path, FACTS_MAX)?.and_then(|text| Facts::believed(path, &text)))
    }

    /// Makes or replaces the file without a sync.
    pub fn hint(&self, fs: &dyn Fs, path: &str) -> Result<()> {
        fs.hint(path, &self.content(path))
    }

    /// Makes the file durably, never replacing.
    pub fn commit(&self, fs: &dyn Fs, path: &str) -> Result<()> {
        fs.commit(path, &self.content(path))
    }
}

fn check_line(path: &str, facts: &[u8]) -> String {
    format!("{CHECK}={:08x}\n", checksum(path, facts))
}

/// The checksum of what is to lie at `path`: CRC-32 (as in zlib) over the
/// file's place and the content. A message's place does not depend on which
/// directory its own stands in, for that moves as a whole.
pub(crate) fn checksum(path: &str, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(place(path).as_bytes());
    crc.update(b"\n");
    crc.update(content);
    crc.finalize()
}

/// `jobs/<msgid>/out/1/got` and `rqueue/.<msgid>.01234567/out/1/got` are both `<msgid>/out/1/got`.
fn place(path: &str) -> String {
    let mut parts = path.split('/');
    while let Some(part) = parts.next() {
        let part = part.trim_start_matches('.');
        let id = part.split('.').next().unwrap_or_default();
        if id.parse::<MsgId>().is_ok() {
            return parts.fold(id.to_string(), |place, part| place + "/" + part);
        }
    }
    path.to_string()
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|(name, value)| writeln!(f, "{name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Disk;
    use crate::layout::{Place, make_dirs};

    #[test]
    fn facts_read_as_they_were_written() {
        let facts = Facts::new().with("length", 12).with("error", "two\nlines").with_some("none", None::<u8>);
        let read = Facts::parse(facts.to_string().as_bytes());
        assert_eq!(read, facts);
        assert_eq!(read.value::<u64>("length"), Some(12));
        assert_eq!(read.text("error"), Some("two lines"));
        assert_eq!(Facts::parse(b"\xff\xfe\nnonsense\n=\n").value::<u64>("length"), None);
    }

    #[test]
    fn a_flipped_bit_a_cut_or_another_place_is_damage() {
        let path = Place::Jobs.file(MsgId([7; 20]), "peer");
        let content = Facts::new().with("username", "a").with("born", 17).content(&path);
        assert_eq!(Facts::believed(&path, &content).unwrap().value::<u64>("born"), Some(17));
        for at in 0..content.len() {
            let mut flipped = content.clone();
            flipped[at] ^= 4;
            assert_eq!(Facts::believed(&path, &flipped), None, "bit flipped at {at}");
            assert_eq!(Facts::believed(&path, &content[..at]), None, "cut at {at}");
        }
        for other in [Place::Jobs.file(MsgId([8; 20]), "peer"), Place::Jobs.file(MsgId([7; 20]), "over")] {
            assert_eq!(Facts::believed(&other, &content), None, "{other}");
        }
    }

    #[test]
    fn a_message_keeps_its_facts_as_its_directory_gets_other_names() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path()).unwrap();
        let msgid = MsgId([7; 20]);
        let names = [format!("rqueue/.{msgid}.01234567"), Place::Rqueue.dir(msgid), Place::Jobs.dir(msgid)];
        make_dirs(&disk, &names[0]).unwrap();
        make_dirs(&disk, "jobs").unwrap();
        Facts::new().with("born", 17).hint(&disk, &format!("{}/peer", names[0])).unwrap();
        for pair in names.windows(2) {
            disk.rename(&pair[0], &pair[1]).unwrap();
            let facts = Facts::read(&disk, &format!("{}/peer", pair[1])).unwrap();
            assert_eq!(facts.and_then(|facts| facts.value::<u64>("born")), Some(17), "{}", pair[1]);
        }
    }
}
