//! What is sent: nothing, a few bytes, or a piece of a file as the socket takes it.
//!
//! A file is read from the page cache in pieces, one for each time that the
//! socket has taken the last, into buffers that are used again. A file that
//! turns out shorter than was promised ends the connection.

use crate::connection::Busy;
use crate::lock;
use crate::throttle::Throttle;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use spool::fs::LogFile;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// What is read and handed to the socket in one go, in bytes.
const PIECE: usize = 256 << 10;
/// Buffers that are kept for the next piece.
const KEPT: usize = 8;

/// Buffers of one size, used again.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        let kept = lock(&self.0).pop();
        kept.unwrap_or_else(|| vec![0; PIECE])
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut kept = lock(&self.0);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

/// A piece of a file in a buffer that goes back when the socket has it.
struct Piece {
    buffer: Vec<u8>,
    length: usize,
    buffers: Arc<Buffers>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.buffer));
    }
}

/// A part of an open file. The file may lose its name meanwhile.
pub(crate) struct Part {
    pub file: Arc<dyn LogFile>,
    pub from: u64,
    pub end: u64,
    pub buffers: Arc<Buffers>,
}

impl Part {
    fn left(&self) -> u64 {
        self.end.saturating_sub(self.from)
    }

    /// The next piece, of at most so many bytes.
    fn next(&mut self, most: u64) -> std::io::Result<Option<Bytes>> {
        if self.left() == 0 {
            return Ok(None);
        }
        let length = self.left().min(PIECE as u64).min(most) as usize;
        let mut piece = Piece { buffer: self.buffers.take(), length, buffers: self.buffers.clone() };
        let filled = self.file.read_at(&mut piece.buffer[..length], self.from).map_err(std::io::Error::other)?;
        if filled < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.from += length as u64;
        Ok(Some(Bytes::from_owner(piece)))
    }
}

enum Content {
    Bytes(Option<Bytes>),
    Part(Part, Throttle),
}

/// The body of a response. What is kept in it lives until it has been handed to the socket.
pub(crate) struct Body {
    content: Content,
    /// Marks the channel as being pulled.
    _pull: Option<Box<dyn Send>>,
    busy: Option<Busy>,
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::bytes(Bytes::new())
    }

    /// These bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Body {
        let bytes = Some(bytes.into()).filter(|bytes| !bytes.is_empty());
        Body { content: Content::Bytes(bytes), _pull: None, busy: None }
    }

    /// A part of a file, as the throttle lets it through, with what is to be
    /// dropped when it has been sent.
    pub fn part(part: Part, throttle: Throttle, pull: Option<Box<dyn Send>>) -> Body {
        Body { content: Content::Part(part, throttle), _pull: pull, busy: None }
    }

    /// Keeps the connection busy until it has been sent.
    pub fn with(mut self, busy: Busy) -> Body {
        self.busy = Some(busy);
        self
    }

    fn left(&self) -> u64 {
        match &self.content {
            Content::Bytes(bytes) => bytes.iter().map(|bytes| bytes.len() as u64).sum(),
            Content::Part(part, _) => part.left(),
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let next = match &mut self.get_mut().content {
            Content::Bytes(bytes) => Ok(bytes.take()),
            Content::Part(part, throttle) => match throttle.poll(context) {
                Poll::Pending if part.left() > 0 => return Poll::Pending,
                Poll::Pending => Ok(None),
                Poll::Ready(most) => {
                    part.next(most).inspect(|piece| throttle.moved(piece.as_ref().map_or(0, Bytes::len)))
                }
            },
        };
        Poll::Ready(next.transpose().map(|next| next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}
