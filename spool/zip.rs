//! The zstd stream of a compressed segment, cut into pieces: one in each record.
//!
//! A piece is a u32, how many plaintext bytes it holds, and the next bytes of
//! the segment's one zstd stream, flushed, so that it opens as soon as it is
//! here. It is at most [`RECORD`] bytes and holds at most [`PIECE`]; opening it
//! takes no more memory than that and a window of 8 MiB, whatever a peer sends
//! (doc/PROTOCOL.md#streams).

use crate::segment::{BadSegment, RECORD};
use zstd::stream::raw::{Decoder, Encoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

/// The most plaintext in one piece, in bytes.
pub const PIECE: usize = 256 << 10;
/// A piece is at most so many bytes larger than its plaintext: its u32, the
/// stream's header, and what zstd adds to that which it cannot compress.
pub(crate) const MARGIN: usize = 512;
/// zstd's fastest level: the link and the disk are to be the bottleneck.
const LEVEL: i32 = 1;
/// A window of 8 MiB, which RFC 8878 wants every decoder to support.
const WINDOW_LOG_MAX: u32 = 23;
/// Less than this is not added to a piece when more has to follow: small blocks compress badly.
const BLOCK_MIN: usize = 8 << 10;

/// How many plaintext bytes a piece says that it holds.
pub(crate) fn said(piece: &[u8]) -> usize {
    piece.first_chunk().map_or(0, |size| u32::from_be_bytes(*size) as usize)
}

/// Compresses a segment's plaintext.
pub(crate) struct Zip(Encoder<'static>);

impl Zip {
    pub fn new() -> Zip {
        Zip(Encoder::new(LEVEL).expect("zstd has this level, and memory is not refused"))
    }

    /// Appends a piece to `out`, with as many of these bytes as go into one, and says how many.
    pub fn piece(&mut self, plain: &[u8], out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut taken = 0;
        loop {
            // What does not compress must still fit.
            let room = RECORD.saturating_sub(out.len() - start + MARGIN);
            let rest = plain.len() - taken;
            let count = rest.min(room).min(PIECE - taken);
            if count == 0 || (taken > 0 && count < rest.min(BLOCK_MIN)) {
                break;
            }
            self.flush(&plain[taken..taken + count], out);
            taken += count;
        }
        out[start..start + 4].copy_from_slice(&(taken as u32).to_be_bytes());
        taken
    }

    /// Appends what these bytes come to, all of it.
    fn flush(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + plain.len() + MARGIN, 0);
        let mut input = InBuffer::around(plain);
        let mut output = OutBuffer::around(&mut out[start..]);
        while input.pos() < plain.len() {
            self.0.run(&mut input, &mut output).expect("zstd compresses any bytes");
        }
        let left = self.0.flush(&mut output).expect("zstd compresses any bytes");
        assert_eq!(left, 0, "zstd adds no more than its bound to what it cannot compress");
        let written = output.pos();
        out.truncate(start + written);
    }
}

/// Decompresses a segment's pieces, in their order.
pub(crate) struct Unzip(Decoder<'static>);

impl Unzip {
    pub fn new() -> Unzip {
        let mut decoder = Decoder::new().expect("memory is not refused");
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).expect("zstd has this parameter");
        Unzip(decoder)
    }

    /// Appends the plaintext of a piece to `out`: exactly as many bytes as it says.
    pub fn piece(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), BadSegment> {
        let (size, start) = (said(piece), out.len());
        if !(1..=PIECE).contains(&size) {
            return Err(BadSegment("a compressed record of impossible size"));
        }
        // Room for one byte more: there it is seen that there are too many.
        out.resize(start + size + 1, 0);
        let mut input = InBuffer::around(&piece[4..]);
        let mut output = OutBuffer::around(&mut out[start..]);
        let flows = loop {
            let before = (input.pos(), output.pos());
            match self.0.run(&mut input, &mut output) {
                // A stream ends with its segment, and nothing in it says so.
                Ok(0) | Err(_) => break false,
                Ok(_) if (input.pos(), output.pos()) == before => break true,
                Ok(_) => {}
            }
        };
        let good = flows && input.pos() == piece.len() - 4 && output.pos() == size;
        out.truncate(start + if good { size } else { 0 });
        if good { Ok(()) } else { Err(BadSegment("a compressed record does not hold what it says")) }
    }
}

#[cfg(test)]
#[path = "zip_test.rs"]
mod tests;
