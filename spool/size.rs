//! Sizes as people write them: `256M`, `4GiB`, `1.5k`, `4096`.
//!
//! One parser for quotas and bandwidth limits. B, K, M, G, T and P count in
//! steps of 1024, in either case, and `Ki` or `KiB` is another way to write `K`.

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use std::fmt;
use std::str::FromStr;

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size; one is written like 4096, 512K, 256M or 1.5G")]
pub struct BadSize(pub String);

/// Reads a size in bytes; a number without a suffix counts units of `unit` bytes.
pub fn parse(text: &str, unit: u64) -> Result<u64, BadSize> {
    let bad = || BadSize(text.to_string());
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let suffix = suffix.to_ascii_lowercase();
    let unit = match suffix.strip_suffix("ib").or(suffix.strip_suffix('i')).unwrap_or(&suffix) {
        "" if suffix.is_empty() => unit,
        "b" if suffix == "b" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1 << 50,
        _ => return Err(bad()),
    };
    // A whole number keeps all its digits; a broken one is rounded as its unit is.
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit).ok_or_else(bad),
        Err(_) => match number.parse::<f64>() {
            Ok(broken) if broken * (unit as f64) < u64::MAX as f64 => Ok((broken * unit as f64) as u64),
            Ok(_) | Err(_) => Err(bad()),
        },
    }
}

/// Bytes in a configuration file: an integer, or a text like `"256M"`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = BadSize;
    fn from_str(text: &str) -> Result<Size, BadSize> {
        parse(text, 1).map(Size)
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a size like 1048576 or \"256M\"")
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Size, E> {
                u64::try_from(number).map(Size).map_err(|_| E::custom("a size is not negative"))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1b", 1),
            ("512k", 512 << 10),
            ("512Ki", 512 << 10),
            ("512KiB", 512 << 10),
            ("256M", 256 << 20),
            ("1.5G", 3 << 29),
            (".5k", 512),
            ("2T", 2 << 40),
            ("1p", 1 << 50),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text, 1), Ok(bytes), "{text}");
        }
        assert_eq!(parse("10", 1024), Ok(10240), "the unit of one without a suffix is the caller's");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        let bad = ["", ".", "k", "-1", "1e3", "1X", "1kk", "1 k", "1ib", "1i", "1bib", "1.2.3", "inf", "nan", "20000p"];
        for text in bad {
            assert!(parse(text, 1).is_err(), "{text}");
        }
        assert!(parse("18446744073709551615", 2).is_err(), "more than can be counted");
    }
}
