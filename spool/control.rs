//! Channel 0: TAP1 packets, each a fact about the job, in both directions.

use crate::fs::Result;
use crate::log::{Item, Reader, Writer};
use crate::name::Chan;
use crate::outcome::Outcome;
use crate::segment::EndKind;
use crate::tap1::{self, Kind};

/// What a side says about the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// To the keeper: a signal for the command's process group.
    Signal(u8),
    /// To `plumb`: how it ended. END of the outputs is durable before this.
    Exit(Outcome),
    /// To either: nobody reads this channel any more.
    Close(Chan),
}

impl Control {
    fn packet(&self) -> (Kind, String) {
        match self {
            Control::Signal(number) => (Kind::Signal, number.to_string()),
            Control::Exit(outcome) => (Kind::Exit, outcome.to_string()),
            Control::Close(chan) => (Kind::Close, chan.to_string()),
        }
    }

    fn of(packet: &tap1::Packet) -> Option<Control> {
        let text = std::str::from_utf8(&packet.payload).ok()?;
        match packet.kind {
            Kind::Signal => Some(Control::Signal(text.parse().ok()?)),
            Kind::Exit => Some(Control::Exit(text.parse().ok()?)),
            Kind::Close => Some(Control::Close(text.parse().ok()?)),
            Kind::Key | Kind::Start => None,
            // Reserved (doc/PROTOCOL.md#tap1): skipped here, named by `netplumb dump`.
            Kind::Winsize | Kind::Open => None,
        }
    }
}

/// Says things on channel 0.
pub struct Speaker {
    /// The log; its END is the last thing said.
    pub log: Writer,
    sequence: u32,
}

impl Speaker {
    /// Speaks on this log.
    pub fn new(log: Writer) -> Speaker {
        Speaker { log, sequence: 0 }
    }

    /// Appends one fact.
    pub fn say(&mut self, control: &Control) -> Result<()> {
        let (kind, payload) = control.packet();
        let mut bytes = Vec::new();
        tap1::write(self.sequence, kind, payload.as_bytes(), &mut bytes);
        // A packet is smaller than a record: it is appended whole or not at all.
        self.log.append(&bytes)?;
        self.sequence = tap1::next(self.sequence);
        Ok(())
    }

    /// Nothing more will be said; durable afterwards.
    pub fn end(&mut self) -> Result<()> {
        self.log.end(EndKind::Eof)
    }
}

/// Hears what the other side says on channel 0. How far it has come is not
/// noted: a listener that starts anew hears everything again, every fact may be
/// heard twice, and all of them together are small.
pub struct Listener {
    log: Reader,
    pending: Vec<u8>,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A fact.
    Said(Control),
    /// Nothing more will come.
    End,
    /// Nothing yet.
    Nothing,
    /// The channel is interrupted.
    Broken,
}

impl Listener {
    /// Listens to this log.
    pub fn new(log: Reader) -> Listener {
        Listener { log, pending: Vec::new() }
    }

    /// The next thing that was said. What we do not understand is skipped.
    pub fn hear(&mut self) -> Result<Heard> {
        loop {
            let mut rest = self.pending.as_slice();
            let packet = tap1::read(&mut rest).map_err(|bad| self.log.damage(bad))?;
            let used = self.pending.len() - rest.len();
            self.pending.drain(..used);
            match packet.as_ref().map(Control::of) {
                Some(Some(control)) => return Ok(Heard::Said(control)),
                Some(None) => continue,
                None => {}
            }
            match self.log.advance()? {
                Item::Data(_) => self.pending.extend_from_slice(self.log.data()),
                Item::End(_) => return Ok(Heard::End),
                Item::Nothing => return Ok(Heard::Nothing),
                Item::Broken => return Ok(Heard::Broken),
            }
        }
    }

    /// How the job ended, if that is said by now.
    pub fn hear_exit(&mut self) -> Result<Option<Outcome>> {
        loop {
            match self.hear()? {
                Heard::Said(Control::Exit(outcome)) => return Ok(Some(outcome)),
                Heard::Said(Control::Signal(_) | Control::Close(_)) => {}
                Heard::End | Heard::Nothing | Heard::Broken => return Ok(None),
            }
        }
    }
}
