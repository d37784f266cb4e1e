//! Damage of a log at its producer: what can be found of it, and how it is told.
//!
//! A consumer that cannot go on cannot know why: the link may have altered what
//! came. The producer can: it looks at its own disk. What is damaged below
//! `got` nobody needs any more (doc/PROTOCOL.md#streams).

use crate::facts::Facts;
use crate::fs::{Fs, Result};
use crate::log::{find, hinted, segments};
use crate::name::{Chan, decimal};
use crate::segment::{HEADER, Header, JobKeys, Stream};

/// A log of ours is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The log.
    pub chan: Chan,
    /// Where what is good of it ends.
    pub at: u64,
    /// Plaintext bytes up to there.
    pub plain: u64,
}

impl Damage {
    /// What the mark `cancel` says of it.
    pub fn facts(&self) -> Facts {
        let Damage { chan, at, plain } = self;
        let reason = format!("channel {chan} is damaged on our disk at {at}");
        Facts::new().with("reason", reason).with("damaged", format!("{chan} {plain}"))
    }

    /// The channel, and the plaintext bytes that are good, from the mark `cancel`.
    pub fn told(cancel: &Facts) -> Option<(Chan, u64)> {
        let (chan, plain) = cancel.text("damaged")?.split_once(' ')?;
        Some((chan.parse().ok()?, decimal(plain)?))
    }
}

/// What a look at a log found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// All that the consumer may still want is good.
    Good,
    /// So many bytes at the end are no whole record: they are being written, or were damaged.
    Torn(Damage, u64),
    /// It is damaged.
    Damaged(Damage),
}

/// Looks at the log in `dir` from the segment on that `got` lies in. Its
/// consumer holds `claimed` bytes of it. Its writer may be writing.
pub fn look(fs: &dyn Fs, dir: &str, keys: &JobKeys, stream: Stream, claimed: u64) -> Result<Found> {
    let mut numbers = segments(fs, dir)?;
    // Read after the names: what was forgotten before them lies below it.
    let got = hinted(fs, &format!("{dir}/got"))?;
    if let Some(first) = numbers.iter().rposition(|n| base(fs, dir, *n).is_some_and(|base| base <= got)) {
        numbers.drain(..first);
    }
    let mut good: Option<(u64, u64)> = None;
    let damage = |good: Option<(u64, u64)>| {
        let (at, plain) = good.unwrap_or((got, 0));
        Damage { chan: stream.chan, at, plain }
    };
    for (place, &n) in numbers.iter().enumerate() {
        let size = match fs.size(&format!("{dir}/{n}"))? {
            // The writer has just forgotten it: its consumer goes on.
            None => return Ok(Found::Good),
            // It was cut to nothing.
            Some(0) => continue,
            Some(size) => size,
        };
        let closed = place + 1 < numbers.len();
        let found = match find(fs, dir, keys, stream, n) {
            Err(error) if error.is_absent() => return Ok(Found::Good),
            other => other?,
        };
        let follows = |base: u64| good.map_or(base <= got, |(at, _)| at == base);
        let Some(found) = found.filter(|found| follows(found.header.base)) else {
            return Ok(Found::Damaged(damage(good)));
        };
        let at = found.header.base + found.valid - HEADER as u64;
        good = Some((at, found.header.plain + found.plain));
        match size.saturating_sub(found.valid) {
            0 => {}
            _ if closed || found.end.is_some() || at < claimed => return Ok(Found::Damaged(damage(good))),
            rest if at_least_a_record(fs, dir, n, found.valid, rest)? => return Ok(Found::Damaged(damage(good))),
            rest => return Ok(Found::Torn(damage(good), rest)),
        }
    }
    // The consumer holds verified records only: what it has was here.
    let lost = good.map_or(0, |(at, _)| at) < claimed;
    Ok(if lost { Found::Damaged(damage(good)) } else { Found::Good })
}

/// Where a segment says that it begins.
fn base(fs: &dyn Fs, dir: &str, n: u64) -> Option<u64> {
    let mut bytes = [0; HEADER];
    let filled = fs.open_log(&format!("{dir}/{n}")).ok()?.read_at(&mut bytes, 0).ok()?;
    Header::parse(&bytes[..filled]).ok().map(|header| header.base)
}

/// Is there a whole record behind what opened, by its own word? Then it is not being written.
fn at_least_a_record(fs: &dyn Fs, dir: &str, n: u64, at: u64, rest: u64) -> Result<bool> {
    let mut word = [0; 4];
    let filled = fs.open_log(&format!("{dir}/{n}"))?.read_at(&mut word, at)?;
    Ok(match crate::segment::record_size(&word[..filled]) {
        Ok(Some(size)) => size as u64 <= rest,
        Ok(None) => false,
        Err(_) => true,
    })
}

#[cfg(test)]
#[path = "damage_test.rs"]
mod tests;
