//! How much may pass a second, and when: rclone's `--bwlimit`, word for word.
//!
//! `512k` holds always; `08:00,512k 23:00,off` from these times of each day on,
//! `Mon-00:00,512k Fri-23:59,10M` from those of the week; `10M:100k` is 10 MiB
//! up and 100 KiB down. A number without a suffix is KiB; `off` and `0` are no
//! limit. Before the first time of the week the entry written last holds.

use crate::size::{self, BadSize};
use serde::Deserialize;
use std::str::FromStr;

/// A text that is no timetable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTimetable {
    /// A rate that cannot be read.
    #[error("a rate: {0}, or off")]
    Rate(#[from] BadSize),
    /// An entry of another form.
    #[error("{0:?} is no entry of a timetable; one is like 08:00,512k or Mon-08:00,10M:1M")]
    Entry(String),
    /// A time that is none.
    #[error("{0:?} is no time; one is like 08:00 or Mon-08:00")]
    Time(String),
}

/// Bytes a second in each direction; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// From us to the peer.
    pub up: Option<u64>,
    /// From the peer to us.
    pub down: Option<u64>,
}

impl FromStr for Rates {
    type Err = BadSize;
    fn from_str(text: &str) -> Result<Rates, BadSize> {
        let rate = |text: &str| match text.eq_ignore_ascii_case("off") {
            true => Ok(None),
            false => size::parse(text, 1 << 10).map(|rate| Some(rate).filter(|rate| *rate > 0)),
        };
        let (up, down) = text.split_once(':').unwrap_or((text, text));
        Ok(Rates { up: rate(up)?, down: rate(down)? })
    }
}

/// A minute of the week; the week begins on Sunday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minute(pub u16);

const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// Which rates hold when. Without an entry there is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Timetable {
    entries: Vec<(Minute, Rates)>,
    text: String,
}

impl Timetable {
    /// Does it say anything?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The rates that hold at this minute: those of the latest time of the week
    /// that is not after it, the last written of equal ones.
    pub fn at(&self, now: Minute) -> Rates {
        let past = self.entries.iter().filter(|(from, _)| *from <= now);
        let latest = past.max_by_key(|(from, _)| *from).or(self.entries.last());
        latest.map_or(Rates::default(), |(_, rates)| *rates)
    }
}

impl TryFrom<String> for Timetable {
    type Error = BadTimetable;
    fn try_from(text: String) -> Result<Timetable, BadTimetable> {
        text.parse()
    }
}

impl FromStr for Timetable {
    type Err = BadTimetable;
    fn from_str(text: &str) -> Result<Timetable, BadTimetable> {
        let mut entries = Vec::new();
        if !text.contains([' ', ',', ';']) {
            entries.push((Minute(0), text.parse()?));
        } else {
            for entry in text.split([' ', ';']) {
                let bad = || BadTimetable::Entry(entry.to_string());
                let (when, rates) = entry.split_once(',').ok_or_else(bad)?;
                let rates: Rates = rates.parse()?;
                entries.extend(minutes(when)?.into_iter().map(|minute| (minute, rates)));
            }
        }
        Ok(Timetable { entries, text: text.to_string() })
    }
}

/// The minutes that `08:00` (of each day) or `Mon-08:00` stands for.
fn minutes(text: &str) -> Result<Vec<Minute>, BadTimetable> {
    let bad = || BadTimetable::Time(text.to_string());
    let (day, time) = text.split_once('-').map_or((None, text), |(day, time)| (Some(day), time));
    let two = |part: &str| -> Option<u16> {
        (part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_digit())).then(|| part.parse().ok())?
    };
    let (hour, minute) = time.split_once(':').ok_or_else(bad)?;
    let (hour, minute) = two(hour).zip(two(minute)).filter(|(h, m)| *h < 24 && *m < 60).ok_or_else(bad)?;
    let of_day = |day: usize| Minute(day as u16 * DAY + hour * 60 + minute);
    let Some(day) = day else { return Ok((0..DAYS.len()).map(of_day).collect()) };
    let is_day = |name: &&str| day.eq_ignore_ascii_case(name) || day.eq_ignore_ascii_case(&name[..3]);
    let day = DAYS.iter().position(is_day).ok_or_else(bad)?;
    Ok(vec![of_day(day)])
}

/// The time zone in which a timetable is read. Its data are read once, when it
/// is made: afterwards nothing needs to be opened.
#[derive(Clone)]
pub struct Zone(jiff::tz::TimeZone);

impl Zone {
    /// The machine's, or what `TZ` says; UTC where neither can be found.
    pub fn local() -> Zone {
        Zone(jiff::tz::TimeZone::system())
    }

    /// The minute of the week there, at this moment.
    pub fn now(&self) -> Minute {
        let now = jiff::Timestamp::now().to_zoned(self.0.clone());
        let day = now.weekday().to_sunday_zero_offset() as u16;
        Minute(day * DAY + now.hour() as u16 * 60 + now.minute() as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Timetable {
        text.parse().unwrap_or_else(|bad| panic!("{text}: {bad}"))
    }

    /// A minute of the week, from its day (Sunday is 0), hour and minute.
    fn minute(day: u16, hour: u16, minute: u16) -> Minute {
        Minute(day * DAY + hour * 60 + minute)
    }

    fn up(timetable: &Timetable, day: u16, hour: u16) -> Option<u64> {
        timetable.at(minute(day, hour, 30)).up
    }

    const K: u64 = 1 << 10;

    #[test]
    fn a_rate_alone_holds_always() {
        for (text, up, down) in [
            ("512k", Some(512 * K), Some(512 * K)),
            ("512", Some(512 * K), Some(512 * K)),
            ("1000B", Some(1000), Some(1000)),
            ("1.5M", Some(1536 * K), Some(1536 * K)),
            ("10M:100k", Some(10 << 20), Some(100 * K)),
            ("10M:off", Some(10 << 20), None),
            ("OFF:1G", None, Some(1 << 30)),
            ("off", None, None),
            ("0", None, None),
        ] {
            for hour in [0, 12, 23] {
                assert_eq!(read(text).at(minute(3, hour, 59)), Rates { up, down }, "{text}");
            }
        }
        assert_eq!(Timetable::default().at(minute(0, 0, 0)), Rates::default());
    }

    #[test]
    fn times_of_the_day_hold_from_each_to_the_next() {
        let table = read("08:00,512k 12:00,10M 13:00,512k 18:00,30M 23:00,off");
        for day in 0..7 {
            for (hour, rate) in [(0, None), (7, None), (8, Some(512 * K)), (12, Some(10 << 20)), (17, Some(512 * K))] {
                assert_eq!(up(&table, day, hour), rate, "day {day} at {hour}");
            }
            assert_eq!((up(&table, day, 22), up(&table, day, 23)), (Some(30 << 20), None));
        }
        assert_eq!(table.at(minute(2, 7, 59)).up, None);
        assert_eq!(table.at(minute(2, 8, 0)).up, Some(512 * K));
        assert_eq!(read("08:00,512k;23:00,off").at(minute(1, 9, 0)).up, Some(512 * K));
    }

    #[test]
    fn times_of_the_week_go_on_over_its_end() {
        let table = read("Mon-00:00,512 Fri-23:59,10M Sat-10:00,1M Sunday-20:00,off");
        for (day, hour, rate) in [
            (1, 0, Some(512 * K)),
            (5, 22, Some(512 * K)),
            (6, 0, Some(10 << 20)),
            (6, 11, Some(K << 10)),
            (0, 21, None),
        ] {
            assert_eq!(up(&table, day, hour), rate, "day {day} at {hour}");
        }
        // Nothing of this week is past: the entry that was written last holds.
        assert_eq!(up(&table, 0, 3), None);
        assert_eq!(up(&read("Wed-00:00,1M Mon-00:00,2M"), 0, 3), Some(2 << 20));
        // A day and every day mixed: the latest time counts, and of equal ones the last.
        let mixed = read("12:00,1M Sun-20:00,off Tue-12:00,3M");
        assert_eq!((up(&mixed, 1, 13), up(&mixed, 0, 21), up(&mixed, 2, 13)), (Some(1 << 20), None, Some(3 << 20)));
    }

    #[test]
    fn what_is_no_timetable_is_refused() {
        for bad in [
            "",
            " ",
            "bad",
            "1000X",
            "bad,bad",
            "bad bad",
            "8:00,1M",
            "08:0,1M",
            "24:00,1M",
            "08:60,1M",
            "0800,666",
            "08-00,1M",
            "+8:00,1M",
            "Moo-08:00,1M",
            "Mon-Tue-08:00,1M",
            "Mon-10:20,bad",
            "08:00,1M,2M",
            "08:00,1M  09:00,2M",
            "08:00 1M",
            "1M:",
            ":1M",
            "1M:2M:3M",
            "-1M",
        ] {
            assert!(bad.parse::<Timetable>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_zone_knows_the_minute_of_the_week() {
        let zone = Zone(jiff::tz::TimeZone::UTC);
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        // 1970 began on a Thursday.
        let expected = ((seconds / 60 + 4 * u64::from(DAY)) % (7 * u64::from(DAY))) as u16;
        assert!(zone.now().0.abs_diff(expected) <= 1, "{:?} {expected}", zone.now());
        assert!(Zone::local().now().0 < 7 * DAY);
    }
}
