//! What goes in comes out, in pieces of any size; what a peer makes up is
//! refused, and never takes more memory than it may.

use super::*;
use zstd::zstd_safe::CParameter;

/// Text that compresses about as logs do.
fn text(count: usize) -> Vec<u8> {
    let lines = (0..).map(|n: u64| format!("{} GET /item/{} 200 {}\n", n, n * 7919 % 1000, n * n % 65537));
    let mut bytes: Vec<u8> = lines.take(count / 10).flat_map(String::into_bytes).collect();
    bytes.truncate(count);
    bytes
}

/// Bytes that do not compress.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// All pieces of these bytes, appended in lots of such a size.
fn pieces(plain: &[u8], lot: usize) -> Vec<Vec<u8>> {
    let (mut zip, mut pieces) = (Zip::new(), Vec::new());
    for mut lot in plain.chunks(lot) {
        while !lot.is_empty() {
            let mut piece = Vec::new();
            let count = zip.piece(lot, &mut piece);
            assert!((1..=PIECE).contains(&count) && piece.len() <= RECORD, "{count} in {}", piece.len());
            assert!(piece.len() <= count + MARGIN && said(&piece) == count);
            lot = &lot[count..];
            pieces.push(piece);
        }
    }
    pieces
}

fn opened(pieces: &[Vec<u8>]) -> Result<Vec<u8>, BadSegment> {
    let (mut unzip, mut plain) = (Unzip::new(), Vec::new());
    pieces.iter().try_for_each(|piece| unzip.piece(piece, &mut plain))?;
    Ok(plain)
}

#[test]
fn each_piece_opens_by_itself_after_those_before_it() {
    let mixed = [text(300_000), noise(300_000), vec![0; 3_000_000], text(700_000)].concat();
    for lot in [1 << 20, 256 << 10, 65_537, 1000, 7] {
        let plain = &mixed[..mixed.len().min(lot * 20_000)];
        let (mut unzip, mut at) = (Unzip::new(), 0);
        for piece in pieces(plain, lot) {
            let mut out = b"before".to_vec();
            unzip.piece(&piece, &mut out).unwrap();
            assert!(out[6..] == plain[at..at + said(&piece)]);
            at += said(&piece);
        }
        assert_eq!(at, plain.len());
    }
}

#[test]
fn what_compresses_becomes_small_and_what_does_not_hardly_larger() {
    let size = |plain: &[u8]| pieces(plain, 256 << 10).iter().map(Vec::len).sum::<usize>();
    assert!(size(&text(2 << 20)) < (2 << 20) / 3);
    assert!(size(&noise(2 << 20)) < (2 << 20) + (2 << 20) / 500);
    assert!(size(&vec![0; 8 << 20]) < 4 << 10);
}

#[test]
fn a_piece_out_of_its_place_is_refused() {
    let pieces = pieces(&text(900_000), 64 << 10);
    assert!(opened(&pieces).is_ok(), "control");
    assert!(opened(&pieces[1..]).is_err(), "the stream begins with the first");
    assert!(opened(&[&pieces[..3], &pieces[5..]].concat()).is_err() || opened(&pieces[3..]).is_err());
}

/// A frame of its own that holds so many zeros, with this window.
fn bomb(size: usize, window_log: u32, checked: bool) -> Vec<u8> {
    let mut encoder = Encoder::new(LEVEL).unwrap();
    encoder.set_parameter(CParameter::WindowLog(window_log)).unwrap();
    encoder.set_parameter(CParameter::ChecksumFlag(checked)).unwrap();
    let (zeros, mut out) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut output = OutBuffer::around(&mut out[..]);
    for at in (0..size).step_by(zeros.len()) {
        let mut input = InBuffer::around(&zeros[..zeros.len().min(size - at)]);
        while input.pos() < input.src.len() {
            encoder.run(&mut input, &mut output).unwrap();
        }
    }
    while encoder.flush(&mut output).unwrap() > 0 {}
    let count = output.pos();
    out.truncate(count);
    out
}

/// A piece that says that it holds so much.
fn piece(said: u32, stream: &[u8]) -> Vec<u8> {
    [said.to_be_bytes().as_slice(), stream].concat()
}

#[test]
fn a_bomb_is_refused_with_bounded_memory() {
    let gigabyte = bomb(1 << 30, 19, false);
    assert!(gigabyte.len() < RECORD, "it fits into one record: {}", gigabyte.len());
    for said in [100, PIECE as u32] {
        let mut out = Vec::new();
        assert!(Unzip::new().piece(&piece(said, &gigabyte), &mut out).is_err());
        assert!(out.len() <= said as usize && out.capacity() <= 2 * PIECE, "{}", out.capacity());
    }
    let honest = bomb(PIECE, 19, false);
    assert!(opened(&[piece(PIECE as u32, &honest)]).is_ok(), "control");
    assert!(opened(&[piece(PIECE as u32 - 1, &honest)]).is_err(), "one too few said");
    let larger = bomb(PIECE + 1, 19, false);
    assert!(opened(&[piece(PIECE as u32 + 1, &larger)]).is_err(), "more than a record may hold");
    assert!(opened(&[piece(PIECE as u32, &larger)]).is_err());
    for said in [0, 101, u32::MAX] {
        assert!(opened(&[piece(said, &bomb(100, 19, false))]).is_err(), "{said}");
    }
    assert!(opened(&[Vec::new()]).is_err() && opened(&[vec![0; 3]]).is_err() && opened(&[piece(1, b"")]).is_err());
}

#[test]
fn a_huge_window_is_refused() {
    assert!(opened(&[piece(1000, &bomb(1000, 23, false))]).is_ok(), "control");
    for log in [24, 27, 30] {
        assert!(opened(&[piece(1000, &bomb(1000, log, false))]).is_err(), "{log}");
    }
}

#[test]
fn a_stream_that_ends_is_refused() {
    let mut encoder = Encoder::new(LEVEL).unwrap();
    let mut out = vec![0; 1000];
    let mut output = OutBuffer::around(&mut out[..]);
    encoder.run(&mut InBuffer::around(b"text"), &mut output).unwrap();
    encoder.flush(&mut output).unwrap();
    let flushed = output.pos();
    encoder.finish(&mut output, true).unwrap();
    let finished = output.pos();
    assert!(opened(&[piece(4, &out[..flushed])]).is_ok(), "control");
    assert!(opened(&[piece(4, &out[..finished])]).is_err());
}

#[test]
fn damage_is_an_error_or_other_bytes_and_never_a_panic() {
    let good = pieces(&[text(200_000), noise(20_000)].concat(), 50_000);
    let mut state = 99u64;
    let mut chance = |end: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % end
    };
    let mut refused = 0;
    for _ in 0..2000 {
        let mut bad = good.clone();
        let which = chance(bad.len());
        match chance(3) {
            0 => {
                let at = chance(bad[which].len());
                bad[which][at] ^= 1 << chance(8);
            }
            1 => {
                let size = chance(bad[which].len());
                bad[which].truncate(size);
            }
            _ => bad[which].extend((0..chance(100)).map(|n| n as u8)),
        }
        let (mut unzip, mut out) = (Unzip::new(), Vec::new());
        refused += u32::from(bad.iter().try_for_each(|piece| unzip.piece(piece, &mut out)).is_err());
        assert!(out.len() <= bad.iter().map(|piece| said(piece).min(PIECE)).sum());
    }
    assert!(refused > 1000, "{refused}");
}
