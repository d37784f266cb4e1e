//! What a file of a home says by its bytes alone, in parts that print as text and as JSON.
//!
//! No file is opened here and no key is asked for. Secrets are named, never shown.

use crate::certs;
use crate::listing::{clean, field, quoted};
use serde_json::{Map, Value, json};
use spool::facts::Facts;
use spool::name::{MsgId, decimal};
use spool::tap1::{self, Kind};
use std::io::Write;

/// One thing in a file: a heading with its fields, or one of many records.
pub struct Part {
    kind: &'static str,
    /// Printed on one line.
    small: bool,
    fields: Vec<(String, Value)>,
    /// What is damaged.
    pub wrong: Option<String>,
}

impl Part {
    /// A thing with this heading.
    pub fn new(kind: &'static str) -> Part {
        Part { kind, small: false, fields: Vec::new(), wrong: None }
    }

    /// One of many, printed on one line.
    pub fn small(kind: &'static str) -> Part {
        Part { small: true, ..Part::new(kind) }
    }

    /// Adds a field.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Part {
        self.fields.push((name.to_string(), value.into()));
        self
    }

    /// Says what is damaged.
    pub fn wrong(mut self, what: impl std::fmt::Display) -> Part {
        self.wrong = Some(what.to_string());
        self
    }

    /// The thing as a JSON object; its heading is `type`.
    pub fn json(&self) -> Value {
        let mut map: Map<String, Value> = self.fields.iter().cloned().collect();
        map.insert("type".into(), self.kind.into());
        if let Some(wrong) = &self.wrong {
            map.insert("damaged".into(), wrong.clone().into());
        }
        Value::Object(map)
    }

    /// Writes it for a person.
    pub fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            other => other.to_string(),
        };
        if self.small {
            let fields: Vec<String> =
                self.fields.iter().map(|(name, value)| format!("{name} {}", text(value))).collect();
            writeln!(out, "  {} {}", self.kind, clean(&fields.join(", ")))?;
        } else {
            writeln!(out, "{}", self.kind)?;
            self.fields.iter().try_for_each(|(name, value)| field(out, &format!("  {}", clean(name)), text(value)))?;
        }
        match &self.wrong {
            Some(wrong) => Ok(field(out, "  damaged", wrong)?),
            None => Ok(()),
        }
    }
}

/// TAP1 packets; a key's payload is never shown, of START what it asks for.
pub fn packets(mut bytes: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    loop {
        let bad = match tap1::read(&mut bytes) {
            Ok(Some(packet)) => {
                parts.push(packet_part(&packet));
                continue;
            }
            Ok(None) if bytes.is_empty() => return parts,
            Ok(None) => format!("{} bytes of an unfinished packet", bytes.len()),
            Err(bad) => bad.to_string(),
        };
        parts.push(Part::new("TAP1").wrong(bad));
        return parts;
    }
}

fn packet_part(packet: &tap1::Packet) -> Part {
    let part = Part::new("TAP1")
        .with("packet", format!("{:?}", packet.kind).to_ascii_uppercase())
        .with("sequence", packet.sequence)
        .with("bytes", packet.payload.len());
    match packet.kind {
        Kind::Key => part.with("payload", "secret, not shown"),
        Kind::Start | Kind::Winsize | Kind::Open => listed(part, &packet.payload),
        Kind::Signal | Kind::Exit | Kind::Close => {
            part.with("says", String::from_utf8_lossy(&packet.payload).into_owned())
        }
    }
}

/// A list payload: the command's words together, of variables only the names.
fn listed(part: Part, payload: &[u8]) -> Part {
    let list = match tap1::read_list(payload) {
        Ok(list) => list,
        Err(bad) => return part.wrong(bad),
    };
    let (mut argv, mut env, mut part) = (Vec::new(), Vec::new(), part);
    while let Some(word) = list.get(&format!("argv.{}", argv.len())) {
        argv.push(word.clone());
    }
    if !argv.is_empty() {
        part = part.with("command", quoted(&argv));
    }
    for (name, value) in list.iter().filter(|(name, _)| !name.starts_with("argv.")) {
        match name.strip_prefix("env.") {
            Some(name) => env.push(json!(name)),
            None => part = part.with(name, String::from_utf8_lossy(value).into_owned()),
        }
    }
    if env.is_empty() { part } else { part.with("env", Value::Array(env)) }
}

/// `plumbmsg`, version, 0, msgid 20, u16 size of a certificate (DER), that certificate, one sealed record.
pub fn sealed_message(bytes: &[u8]) -> Part {
    let part = Part::new("sealed message").with("size", bytes.len());
    let Some((head, rest)) = bytes.split_at_checked(32) else { return part.wrong("shorter than a header") };
    let msgid = MsgId(std::array::from_fn(|i| head[10 + i]));
    let size = usize::from(u16::from_be_bytes([head[30], head[31]]));
    let part = part.with("version", head[8]).with("id", msgid.to_string());
    let Some((der, record)) = rest.split_at_checked(size) else { return part.wrong("its certificate is cut off") };
    match certs::of_der(der) {
        Some(cert) => {
            part.with("ephemeral", cert.subject).with("key", cert.key).with("sealed", bytes_word(record.len()))
        }
        None => part.with("sealed", bytes_word(record.len())).wrong("its certificate cannot be read"),
    }
}

fn bytes_word(count: usize) -> String {
    format!("{count} bytes, for the recipient only")
}

/// What is text: certificates, facts, numbers, keys; else it is unknown. `path`
/// is where it lies in the spool, and empty elsewhere.
pub fn text(bytes: &[u8], path: &str) -> Vec<Part> {
    let unknown = || {
        vec![
            Part::new("unknown")
                .with("size", bytes.len())
                .with("note", "no file of a spool, or damaged at its beginning"),
        ]
    };
    let Ok(text) = std::str::from_utf8(bytes) else { return unknown() };
    let trimmed = text.trim_end();
    if text.contains("-----BEGIN") {
        let certs = certs::read(bytes);
        if certs.is_empty() {
            let kind = if text.contains("PRIVATE KEY") { "private key" } else { "PEM" };
            return vec![Part::new(kind).with("note", "not shown")];
        }
        return certs.into_iter().map(certificate).collect();
    }
    let word = |what: &str| vec![Part::new("word").with("is", what).with("text", trimmed)];
    let hex = trimmed.len() == 64 && trimmed.bytes().all(|b| b.is_ascii_hexdigit());
    if hex {
        return vec![Part::new("key").with("note", "64 hexadecimal digits: a secret, not shown")];
    }
    let offset = trimmed.split_once(' ').filter(|(offset, check)| decimal(offset).is_some() && check.len() == 8);
    if let Some((offset, _)) = offset {
        let word = Part::new("word").with("is", "an offset in sealed bytes, with its checksum").with("text", offset);
        return vec![word];
    }
    if trimmed.parse::<spool::name::Username>().is_ok() {
        return word("a username");
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_fact =
        |line: &str| line.split_once('=').is_some_and(|(name, _)| !name.is_empty() && name.chars().all(is_name));
    if trimmed.lines().all(is_fact) {
        let facts = Facts::parse(bytes);
        let part = facts.iter().fold(Part::new("facts"), |part, (name, value)| part.with(name, value));
        return vec![match (path, Facts::believed(path, bytes)) {
            ("", _) => part,
            (_, Some(_)) => part.with("check", "fits"),
            (_, None) => part.wrong("its check does not fit: damaged, or from another place"),
        }];
    }
    if text.contains(|c: char| c.is_control() && !"\n\r\t".contains(c)) {
        return unknown();
    }
    vec![
        Part::new("text")
            .with("size", bytes.len())
            .with("note", "settings, a notice, or foreign: no form of the spool's own"),
    ]
}

fn certificate(cert: certs::Seen) -> Part {
    let part = Part::new("certificate").with("subject", cert.subject).with("issuer", cert.issuer);
    let part = part.with("role", cert.role).with("key", cert.key).with("sha256", cert.digest.to_string());
    match cert.username {
        Some(username) => part.with("username", username.grouped()),
        None => part,
    }
}
