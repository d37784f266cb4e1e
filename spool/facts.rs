//! The small files of the spool: one fact a line, `name=value`, made to be read with `cat`.
//!
//! `peer`, every mark and every outcome have this form. A fact that is
//! missing or does not parse makes the file unbelievable, never the reader fail;
//! a file that cannot be read is trouble, and says nothing about its facts.

use crate::fs::{Fs, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The largest such file in bytes.
pub const FACTS_MAX: usize = 16 << 10;

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

    /// Parses the text of a file; lines that are no facts are left out.
    pub fn parse(text: &[u8]) -> Facts {
        let lines = text.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        let facts = lines.filter_map(|line| line.split_once('='));
        Facts(facts.map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    /// Reads a file of facts; `None` if it is not there, or damaged.
    pub fn read(fs: &dyn Fs, path: &str) -> Result<Option<Facts>> {
        Ok(fs.read_if_sound(path, FACTS_MAX)?.map(|text| Facts::parse(&text)))
    }

    /// Makes or replaces the file without a sync.
    pub fn hint(&self, fs: &dyn Fs, path: &str) -> Result<()> {
        fs.hint(path, self.to_string().as_bytes())
    }

    /// Makes the file durably, never replacing.
    pub fn commit(&self, fs: &dyn Fs, path: &str) -> Result<()> {
        fs.commit(path, self.to_string().as_bytes())
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|(name, value)| writeln!(f, "{name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_read_as_they_were_written() {
        let facts = Facts::new().with("length", 12).with("error", "two\nlines").with_some("none", None::<u8>);
        let read = Facts::parse(facts.to_string().as_bytes());
        assert_eq!(read, facts);
        assert_eq!(read.value::<u64>("length"), Some(12));
        assert_eq!(read.text("error"), Some("two lines"));
        assert_eq!(Facts::parse(b"\xff\xfe\nnonsense\n=\n").value::<u64>("length"), None);
    }
}
