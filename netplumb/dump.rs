//! `netplumb dump FILE`: prints any file of a home, by what it contains, not by its name.
//!
//! Works with and without the keys: without them sizes, headers and flags are
//! shown; with them each record is verified and START is read. Secrets are
//! never printed; `--plain` writes the data of a segment, and nothing else.

use crate::certs;
use crate::fail::{DATA, IO, NO_ID, fail};
use crate::listing::{answer, bytes, line};
use crate::logs::{self, end_word};
use crate::parts::{Part, packets, sealed_message, text};
use crate::view::View;
use spool::home::Home;
use spool::layout::{ONETIME, rest_label};
use spool::look::SEALED_MAX;
use spool::name::{Chan, MsgId};
use spool::segment::{HEADER, Header, OVERHEAD, SEGMENT, is_end, record_size};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// The words after the verb.
#[derive(clap::Args)]
pub struct Args {
    /// The file.
    file: PathBuf,
    /// Lines of JSON; later versions may add members.
    #[arg(long, conflicts_with = "plain")]
    json: bool,
    /// Writes the data of a segment to standard output, as far as it verifies.
    #[arg(long)]
    plain: bool,
}

/// No file of a spool is larger, in bytes.
const FILE_MAX: u64 = if SEGMENT > SEALED_MAX as u64 { SEGMENT } else { SEALED_MAX as u64 };

/// Does it.
pub fn run(args: Args) -> anyhow::Result<()> {
    answer(args.json, |out| {
        let file = Dumped::read(&args.file, Home::find().ok())?;
        if args.plain {
            return file.plain(out);
        }
        let parts = file.parts();
        for part in &parts {
            if args.json { line(out, &part.json())? } else { part.print(out)? }
        }
        match parts.iter().find_map(|part| part.wrong.as_ref()) {
            Some(wrong) => Err(fail(DATA, format!("{}: {wrong}", args.file.display()))),
            None => Ok(()),
        }
    })
}

/// A file with its content, and the home in which it lies.
struct Dumped {
    bytes: Vec<u8>,
    /// Where it lies in the spool, if it does.
    inside: Vec<String>,
    path: PathBuf,
    view: Option<View>,
}

impl Dumped {
    fn read(path: &Path, home: Option<Home>) -> anyhow::Result<Dumped> {
        let cannot = |source: std::io::Error| {
            let status = if source.kind() == std::io::ErrorKind::NotFound { NO_ID } else { IO };
            fail(status, format!("cannot read {}: {source}", path.display()))
        };
        // Whatever lies there: a FIFO must not hold us up.
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = std::fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Err(fail(DATA, format!("{} is no regular file", path.display())));
        }
        if metadata.len() > FILE_MAX {
            return Err(fail(DATA, format!("{} is larger than any file of a spool", path.display())));
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes).map_err(cannot)?;
        let real = path.canonicalize().map_err(cannot)?;
        let spool = home.as_ref().and_then(|home| home.spool.canonicalize().ok());
        let below = spool.and_then(|spool| real.strip_prefix(spool).ok().map(Path::to_path_buf));
        let part = |component: Component| component.as_os_str().to_str().map(str::to_string);
        let inside = below.iter().flat_map(|below| below.components().filter_map(part)).collect();
        let view = home.and_then(|home| View::of(home).ok());
        Ok(Dumped { bytes, inside, path: real, view })
    }

    fn parts(&self) -> Vec<Part> {
        let bytes = self.bytes.as_slice();
        match bytes {
            [] => vec![
                Part::new("empty")
                    .with("note", "a mark that says all with its name, a hint that a power cut emptied, or a segment that was cut to nothing"),
            ],
            _ if bytes.starts_with(b"plumbseg") => self.segment(),
            _ if bytes.starts_with(b"plumbkey") => self.rest(),
            _ if bytes.starts_with(b"plumbmsg") => vec![sealed_message(bytes)],
            _ if bytes.starts_with(b"TAP1") => packets(bytes),
            _ => text(bytes, &self.inside.join("/")),
        }
    }

    /// A segment: its header, then each record, verified if the job's keys are here.
    fn segment(&self) -> Vec<Part> {
        let size = self.bytes.len() as u64;
        let header = match Header::parse(&self.bytes) {
            Ok(header) => header,
            Err(bad) => return vec![Part::new("segment").with("size", size).wrong(bad.0)],
        };
        let mut head = Part::new("segment")
            .with("id", header.msgid.to_string())
            .with("channel", header.stream.chan.0)
            .with("producer", header.stream.producer.word())
            .with("algorithm", if header.zipped { "zstd, AES-256-GCM" } else { "AES-256-GCM" })
            .with("n", header.n)
            .with("base", header.base)
            .with("plain_before", header.plain)
            .with("size", size);
        let mut control = Vec::new();
        let give = |plain: &[u8]| {
            if header.stream.chan == Chan::CONTROL && control.len() < SEGMENT as usize {
                control.extend_from_slice(plain);
            }
        };
        let keys = self.keys(header.msgid);
        let opened = keys.and_then(|keys| logs::open(&self.bytes, &keys, give).map_err(|bad| anyhow::anyhow!(bad)));
        let (mut at, mut records) = (HEADER, Vec::new());
        let mut wrong = None;
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            let size = match record_size(rest) {
                Ok(Some(size)) => size,
                Ok(None) => break,
                Err(bad) => {
                    wrong = Some(format!("{} at byte {at}", bad.0));
                    break;
                }
            };
            if size > rest.len() {
                break;
            }
            let end = rest.first_chunk().is_some_and(is_end);
            let kind = if end { "END" } else { "data" };
            let mut part = Part::small("record").with("number", records.len()).with("at", at).with("holds", kind);
            part = if end { part } else { part.with("bytes", size - OVERHEAD) };
            if let Ok(opened) = &opened {
                match opened.end.filter(|_| end && at + size == opened.valid) {
                    Some(end) => part = part.with("kind", end_word(end.kind)).with("length", end.length),
                    None if at < opened.valid => {
                        let count = opened.sizes.get(records.len()).filter(|_| header.zipped);
                        part = count.into_iter().fold(part, |part, count| part.with("plain", *count));
                        part = part.with("verified", true);
                    }
                    None => part = part.with("verified", false),
                }
            }
            records.push(part);
            at += size;
            if end {
                break;
            }
        }
        let torn = self.bytes.len() - at;
        head = head.with("records", records.len()).with("ends_at", header.base.saturating_add((at - HEADER) as u64));
        if torn > 0 {
            head = head.with("unfinished", format!("{} after the last whole record", bytes(torn as u64)));
        }
        head = match &opened {
            Ok(opened) => head.with(
                "verified",
                format!("{} of {}", opened.sizes.len() + usize::from(opened.end.is_some()), records.len()),
            ),
            Err(error) => head.with("verified", format!("not: {error}")),
        };
        let bad = opened.as_ref().ok().and_then(|opened| Some(format!("{} at byte {}", opened.bad?, opened.valid)));
        head.wrong = wrong.or(bad);
        let said = if control.is_empty() { Vec::new() } else { packets(&control) };
        std::iter::once(head).chain(records).chain(said).collect()
    }

    fn keys(&self, msgid: MsgId) -> anyhow::Result<spool::segment::JobKeys> {
        self.view.as_ref().ok_or_else(|| anyhow::anyhow!("no home with keys"))?.job_keys(msgid)
    }

    /// Writes the data of a segment's records, as far as they verify.
    fn plain(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let header = Header::parse(&self.bytes).map_err(|bad| fail(DATA, bad.0))?;
        let mut written = Ok(());
        let give = |plain: &[u8]| {
            if written.is_ok() {
                written = out.write_all(plain);
            }
        };
        let opened = logs::open(&self.bytes, &self.keys(header.msgid)?, give).map_err(|bad| fail(DATA, bad))?;
        written?;
        match opened.bad {
            Some(bad) => Err(fail(DATA, format!("{bad} at byte {}", opened.valid))),
            None => Ok(()),
        }
    }

    /// Something that is sealed under the spool key: opened if it lies in its place.
    fn rest(&self) -> Vec<Part> {
        let head = Part::new("sealed at rest").with("size", self.bytes.len());
        let (name, label) = match self.label() {
            Ok(found) => found,
            Err(error) => return vec![head.with("opened", format!("not: {error}"))],
        };
        let head = head.with("sealed_for", label.as_str());
        let key = match self.view.as_ref().map(View::spool_key) {
            Some(Ok(key)) => key,
            Some(Err(error)) => return vec![head.with("opened", format!("not: {error}"))],
            None => return vec![head.with("opened", "not: no home with keys")],
        };
        match key.open(&label, &self.bytes) {
            Err(error) => vec![head.wrong(error)],
            Ok(plain) if name == spool::layout::MESSAGE => {
                let head = head.with("opened", "a message");
                std::iter::once(head).chain(packets(&plain)).collect()
            }
            Ok(plain) => vec![head.with("opened", format!("{} secret bytes, not shown", plain.len()))],
        }
    }

    /// The file's name, and what its sealing is bound to: where it lies says so.
    fn label(&self) -> anyhow::Result<(&str, String)> {
        let [.., dir, name] = self.inside.as_slice() else { anyhow::bail!("it does not lie in the spool of a home") };
        if let Some(msgid) = dir.get(..40).and_then(|dir| dir.parse().ok()) {
            return Ok((name, rest_label(name, msgid)));
        }
        // A one-time key is bound to the id that its certificate beside it names.
        let pem = std::fs::read(self.path.with_file_name("cert.pem")).unwrap_or_default();
        let named = certs::read(&pem).into_iter().find_map(|cert| cert.common_name);
        match named.filter(|name| name.starts_with(ONETIME)) {
            Some(label) => Ok((name, label)),
            None => anyhow::bail!("what it is bound to cannot be told from its place"),
        }
    }
}

#[cfg(test)]
#[path = "dump_tests.rs"]
mod tests;
