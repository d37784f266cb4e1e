//! How the looking verbs speak: aligned tables, lines of JSON, words for numbers.
//!
//! What comes from a peer or from a damaged spool may be anything; nothing of
//! it reaches a terminal unescaped. A reader that goes away (`| head`) ends a
//! verb silently.

use crate::fail;
use serde::Serialize;
use std::io::{self, BufWriter, Write};

/// Runs a verb's work with standard output. With `json` a failure is a line there too.
pub fn answer(json: bool, work: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut ran = work(&mut out);
    if let (true, Err(error)) = (json, &ran)
        && !is_pipe_gone(error)
    {
        let told = line(&mut out, &Failure { kind: "error", status: fail::status(error), error: format!("{error:#}") });
        drop(told);
    }
    let flushed = out.flush();
    if ran.is_ok() {
        ran = flushed.map_err(Into::into);
    }
    match ran {
        Err(error) if is_pipe_gone(&error) => Ok(()),
        other => other,
    }
}

fn is_pipe_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[derive(Serialize)]
struct Failure {
    #[serde(rename = "type")]
    kind: &'static str,
    status: u8,
    error: String,
}

/// Writes one line of JSON.
pub fn line(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    Ok(out.write_all(text.as_bytes())?)
}

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Writes rows under their heads, each column as wide as it needs; the last one is not padded.
pub fn table<const N: usize>(
    out: &mut dyn Write,
    heads: [(&str, Align); N],
    rows: impl Iterator<Item = [String; N]> + Clone,
) -> io::Result<()> {
    let mut widths = heads.map(|(head, _)| head.chars().count());
    for row in rows.clone() {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(clean(cell).chars().count());
        }
    }
    let names = heads.map(|(head, _)| head.to_string());
    for row in std::iter::once(names).chain(rows) {
        let mut text = String::new();
        for (n, (cell, (_, align))) in row.iter().zip(heads).enumerate() {
            let (cell, width) = (clean(cell), widths[n]);
            match align {
                Align::Right => text.push_str(&format!("{cell:>width$}  ")),
                Align::Left => text.push_str(&format!("{cell:<width$}  ")),
            }
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// Writes a name and what belongs to it, names in one column.
pub fn field(out: &mut dyn Write, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
    writeln!(out, "{name:<12} {}", clean(&value.to_string()))
}

/// Makes a text harmless for a terminal: control characters and those that turn the writing around are escaped.
pub fn clean(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(|c: char| c.is_control() || turns(c)) {
        return text.to_string();
    }
    let escaped =
        text.chars().map(|c| if c.is_control() || turns(c) { c.escape_default().to_string() } else { c.into() });
    escaped.collect()
}

/// A number of bytes for a person.
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64;
    let mut name = "B";
    for unit in units {
        // What would round up to 1024 is the next unit's.
        if value < 1023.95 {
            break;
        }
        (value, name) = (value / 1024.0, unit);
    }
    if name == "B" { format!("{count} B") } else { format!("{value:.1} {name}") }
}

/// A number of seconds for a person: its two largest units.
pub fn seconds(count: u64) -> String {
    let (minutes, hours, days) = (count / 60, count / 3600, count / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{count} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {:02}", minutes % 60),
        (_, _, _) => format!("{days} d {} h", hours % 24),
    }
}

/// Words as one would type them in a shell.
pub fn quoted(words: &[Vec<u8>]) -> String {
    let quote = |word: &Vec<u8>| {
        let text = String::from_utf8_lossy(word);
        let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text.into_owned()
        } else {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Does `work` for each id, on as many threads as there are processors; the answers keep the order.
pub fn each<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> Option<T> + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
    let share = items.len().div_ceil(threads).max(256);
    std::thread::scope(|scope| {
        let shares =
            items.chunks(share).map(|share| scope.spawn(|| share.iter().filter_map(&work).collect::<Vec<T>>()));
        let running: Vec<_> = shares.collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_words_of_two_units_at_most() {
        let sizes = [0, 1023, 1024, 1536, 1048575, 1 << 20, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "16.0 EiB"]);
        let ages = [0, 59, 60, 3599, 3600, 86399, 86400, 90000].map(seconds);
        assert_eq!(ages, ["0 s", "59 s", "1 min", "59 min", "1 h 00", "23 h 59", "1 d 0 h", "1 d 1 h"]);
    }

    #[test]
    fn a_peers_text_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\n\u{9b}\u{202e}c\u{e4}"), "a\\u{1b}[2Jb\\n\\u{9b}\\u{202e}c\u{e4}");
        let mut out = Vec::new();
        table(&mut out, [("A", Align::Left), ("B", Align::Right)], [["\u{7}".to_string(), "2".into()]].into_iter())
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A      B\n\\u{7}  2\n");
    }

    #[test]
    fn words_are_quoted_as_a_shell_would_read_them() {
        let words = [b"tar".to_vec(), b"a b".to_vec(), b"it's".to_vec(), Vec::new(), b"/x=1".to_vec()];
        assert_eq!(quoted(&words), "tar 'a b' 'it'\\''s' '' /x=1");
    }

    #[test]
    fn work_on_many_keeps_their_order() {
        let items: Vec<u32> = (0..5000).collect();
        let even = each(&items, |n| (n % 2 == 0).then_some(*n));
        assert_eq!(even, (0..5000).step_by(2).collect::<Vec<u32>>());
    }
}
