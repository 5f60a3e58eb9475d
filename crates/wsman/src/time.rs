//! Times and durations: the DMTF 25-character forms, XML's `dateTime` and `duration`.
//!
//! A moment keeps the offset it was written with, for display; moments of different offsets may be the same instant.

mod calendar;
mod duration;

use calendar::{civil_from_days, days_from_civil, days_in_month};
use duration::fraction_micros;
pub use duration::{duration_text, parse_duration};

const SECOND: i64 = 1_000_000;
const DAY_SECS: i64 = 86_400;
// A day inside the years 1 and 9999, so that no offset leads out of the calendar.
const MIN_MICROS: i64 = -62_135_510_400 * SECOND;
const MAX_MICROS: i64 = 253_402_214_399 * SECOND;
const MAX_OFFSET_MINUTES: i16 = 14 * 60;
/// The longest interval the DMTF form can write.
const MAX_INTERVAL_MICROS: u64 = 100_000_000 * 86_400 * 1_000_000 - 1;

/// A text that should have been a time or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a CIM or XML time")]
pub struct ParseTimeError {
    text: String,
}

/// A moment, to the microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    unix_micros: i64,
    offset_minutes: i16,
}

/// A length of time, to the microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    /// Microseconds.
    pub micros: u64,
}

/// A value of CIM type datetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CimTime {
    /// A moment.
    Moment(Moment),
    /// A length of time.
    Interval(Interval),
}

impl Moment {
    /// Returns the moment so many microseconds after 1970 in UTC; what no calendar shows is clamped.
    #[must_use]
    pub fn from_unix_micros(micros: i64) -> Self {
        Self {
            unix_micros: micros.clamp(MIN_MICROS, MAX_MICROS),
            offset_minutes: 0,
        }
    }

    /// Returns the moment so many milliseconds after 1970 in UTC.
    #[must_use]
    pub fn from_unix_millis(millis: i64) -> Self {
        Self::from_unix_micros(millis.saturating_mul(1000))
    }

    /// Returns the same instant shown with an offset from UTC, clamped to 14 hours either way.
    #[must_use]
    pub fn at_offset(self, minutes: i16) -> Self {
        Self {
            offset_minutes: minutes.clamp(-MAX_OFFSET_MINUTES, MAX_OFFSET_MINUTES),
            ..self
        }
    }

    /// Returns microseconds since 1970.
    #[must_use]
    pub fn unix_micros(self) -> i64 {
        self.unix_micros
    }

    /// Returns milliseconds since 1970, rounded down.
    #[must_use]
    pub fn unix_millis(self) -> i64 {
        self.unix_micros.div_euclid(1000)
    }

    /// Year, month, day, hour, minute, second, microsecond as shown.
    fn fields(self) -> [i64; 7] {
        let local = self.unix_micros + i64::from(self.offset_minutes) * 60 * SECOND;
        let (secs, micros) = (local.div_euclid(SECOND), local.rem_euclid(SECOND));
        let (days, rest) = (secs.div_euclid(DAY_SECS), secs.rem_euclid(DAY_SECS));
        let (year, month, day) = civil_from_days(days);
        [
            year,
            month,
            day,
            rest / 3600,
            rest / 60 % 60,
            rest % 60,
            micros,
        ]
    }

    fn from_fields(fields: [i64; 7], offset_minutes: i64) -> Option<Self> {
        let [year, month, day, hour, minute, second, micros] = fields;
        let sane = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..=60).contains(&second)
            && (0..SECOND).contains(&micros)
            && offset_minutes.abs() <= 999;
        if !sane {
            return None;
        }
        let secs =
            days_from_civil(year, month, day) * DAY_SECS + hour * 3600 + minute * 60 + second;
        let utc = (secs - offset_minutes * 60) * SECOND + micros;
        Some(Self::from_unix_micros(utc).at_offset(i16::try_from(offset_minutes).ok()?))
    }

    fn to_xml(self) -> String {
        let [year, month, day, hour, minute, second, micros] = self.fields();
        let mut out = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        if micros > 0 {
            out.push_str(format!(".{micros:06}").trim_end_matches('0'));
        }
        match self.offset_minutes {
            0 => out.push('Z'),
            offset => {
                let sign = if offset < 0 { '-' } else { '+' };
                out.push_str(&format!(
                    "{sign}{:02}:{:02}",
                    offset.abs() / 60,
                    offset.abs() % 60
                ));
            }
        }
        out
    }
}

impl CimTime {
    /// Reads any of the forms: DMTF (25 characters), XML `dateTime`, XML `duration`.
    pub fn parse(text: &str) -> Result<Self, ParseTimeError> {
        let wrong = || ParseTimeError {
            text: text.chars().take(80).collect(),
        };
        let text = text.trim();
        if !text.is_ascii() {
            return Err(wrong());
        }
        let bytes = text.as_bytes();
        if bytes.len() == 25 && bytes[14] == b'.' {
            return parse_dmtf(text).ok_or_else(wrong);
        }
        if bytes.first() == Some(&b'P') {
            let micros = parse_duration(text)?.as_micros();
            let micros = u64::try_from(micros).map_err(|_| wrong())?;
            if micros > MAX_INTERVAL_MICROS {
                return Err(wrong());
            }
            return Ok(CimTime::Interval(Interval { micros }));
        }
        parse_xml_moment(text)
            .map(CimTime::Moment)
            .ok_or_else(wrong)
    }

    /// Returns the DMTF form, as used in CIM-XML and WQL.
    #[must_use]
    pub fn to_dmtf(self) -> String {
        match self {
            CimTime::Moment(moment) => {
                let [year, month, day, hour, minute, second, micros] = moment.fields();
                let sign = if moment.offset_minutes < 0 { '-' } else { '+' };
                let offset = moment.offset_minutes.abs();
                format!(
                    "{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}.{micros:06}{sign}{offset:03}"
                )
            }
            CimTime::Interval(interval) => {
                let [days, hours, minutes, seconds, micros] = interval.fields();
                format!("{days:08}{hours:02}{minutes:02}{seconds:02}.{micros:06}:000")
            }
        }
    }

    /// Returns the XML form.
    #[must_use]
    pub fn to_xml(self) -> String {
        match self {
            CimTime::Moment(moment) => moment.to_xml(),
            CimTime::Interval(interval) => {
                let [days, hours, minutes, seconds, micros] = interval.fields();
                let fraction = if micros > 0 {
                    format!(".{micros:06}")
                } else {
                    String::new()
                };
                format!(
                    "P{days}DT{hours}H{minutes}M{seconds}{}S",
                    fraction.trim_end_matches('0')
                )
            }
        }
    }

    /// Returns the moment, where it is one.
    #[must_use]
    pub fn moment(self) -> Option<Moment> {
        match self {
            CimTime::Moment(moment) => Some(moment),
            CimTime::Interval(_) => None,
        }
    }
}

impl Interval {
    fn fields(self) -> [u64; 5] {
        let secs = self.micros / 1_000_000;
        let days = (secs / 86_400).min(99_999_999);
        [
            days,
            secs / 3600 % 24,
            secs / 60 % 60,
            secs % 60,
            self.micros % 1_000_000,
        ]
    }
}

fn parse_dmtf(text: &str) -> Option<CimTime> {
    // Fields a host does not know are asterisks; as zero they read as the start of what is known.
    let number = |from: usize, to: usize| -> Option<i64> {
        let field = &text[from..to];
        if field.bytes().all(|b| b == b'*') {
            return Some(0);
        }
        if !field.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        field.parse().ok()
    };
    let micros = number(15, 21)?;
    let [hour, minute, second] = [number(8, 10)?, number(10, 12)?, number(12, 14)?];
    match &text[21..22] {
        ":" => {
            let days = number(0, 8)?;
            if hour > 23 || minute > 59 || second > 59 || number(22, 25)? != 0 {
                return None;
            }
            let secs = days * DAY_SECS + hour * 3600 + minute * 60 + second;
            let micros = secs.checked_mul(SECOND)?.checked_add(micros)?;
            Some(CimTime::Interval(Interval {
                micros: u64::try_from(micros).ok()?,
            }))
        }
        sign @ ("+" | "-") => {
            let offset = number(22, 25)? * if sign == "-" { -1 } else { 1 };
            let [year, month, day] = [number(0, 4)?, number(4, 6)?.max(1), number(6, 8)?.max(1)];
            Moment::from_fields([year, month, day, hour, minute, second, micros], offset)
                .map(CimTime::Moment)
        }
        _ => None,
    }
}

fn parse_xml_moment(text: &str) -> Option<Moment> {
    if text.len() < 19 || text.len() > 64 {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let field = &text[from..to];
        field
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| field.parse().ok())?
    };
    let bytes = text.as_bytes();
    if [bytes[4], bytes[7], bytes[10], bytes[13], bytes[16]] != *b"--T::" {
        return None;
    }
    let mut rest = &text[19..];
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(fraction.len());
        micros = i64::try_from(fraction_micros(&fraction[..end])?).ok()?;
        rest = &fraction[end..];
    }
    let offset = match rest.as_bytes() {
        [] | b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let digit = |b: &u8| b.is_ascii_digit().then(|| i64::from(b - b'0'));
            let (hours, minutes) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
            if hours > 14 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let fields = [
        number(0, 4)?,
        number(5, 7)?,
        number(8, 10)?,
        number(11, 13)?,
        number(14, 16)?,
        number(17, 19)?,
        micros,
    ];
    Moment::from_fields(fields, offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(text: &str, xml: &str, dmtf: &str) {
        let time = CimTime::parse(text).unwrap();
        assert_eq!(
            (time.to_xml().as_str(), time.to_dmtf().as_str()),
            (xml, dmtf)
        );
    }

    #[test]
    fn every_form_is_read() {
        check(
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05Z",
            "20260102030405.000000+000",
        );
        check(
            "20260102030405.500000+060",
            "2026-01-02T03:04:05.5+01:00",
            "20260102030405.500000+060",
        );
        check(
            "2026-01-02T03:04:05.25-05:30",
            "2026-01-02T03:04:05.25-05:30",
            "20260102030405.250000-330",
        );
        check("P0DT0H0M3S", "P0DT0H0M3S", "00000000000003.000000:000");
        check(
            "00000001020304.500000:000",
            "P1DT2H3M4.5S",
            "00000001020304.500000:000",
        );
        check(
            "20240229******.******+000",
            "2024-02-29T00:00:00Z",
            "20240229000000.000000+000",
        );
        check("PT90M", "P0DT1H30M0S", "00000000013000.000000:000");
    }

    #[test]
    fn refuses_what_is_no_time() {
        for wrong in [
            "",
            "P",
            "PT",
            "P1Y",
            "-P1D",
            "2026-02-30T00:00:00Z",
            "2026-01-02",
            "20260102030405.000000?000",
            "P1S",
            "P100000000D",
            "PT1.S",
            "2026-01-02T03:04:05+99:00",
            "é026-01-02T03:04:05Z",
        ] {
            assert!(CimTime::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_known_instant() {
        let time = CimTime::parse("2026-01-02T03:04:05.678Z")
            .unwrap()
            .moment()
            .unwrap();
        assert_eq!(time.unix_millis(), 1_767_323_045_678);
    }

    #[test]
    fn header_durations_are_short() {
        assert_eq!(duration_text(Duration::from_secs(60)), "PT60S");
        assert_eq!(duration_text(Duration::from_millis(1500)), "PT1.5S");
        assert_eq!(duration_text(Duration::from_micros(1)), "PT0.000001S");
        assert_eq!(parse_duration("PT60S").unwrap(), Duration::from_secs(60));
        assert_eq!(
            parse_duration("PT0.500S").unwrap(),
            Duration::from_millis(500)
        );
    }

    proptest! {
        #[test]
        fn moments_survive_both_forms(micros in MIN_MICROS..=MAX_MICROS, offset in -840_i16..=840) {
            let time = CimTime::Moment(Moment::from_unix_micros(micros).at_offset(offset));
            prop_assert_eq!(CimTime::parse(&time.to_dmtf()).unwrap(), time);
            prop_assert_eq!(CimTime::parse(&time.to_xml()).unwrap(), time);
        }

        #[test]
        fn intervals_survive_both_forms(micros in 0..=MAX_INTERVAL_MICROS) {
            let time = CimTime::Interval(Interval { micros });
            prop_assert_eq!(CimTime::parse(&time.to_dmtf()).unwrap(), time);
            prop_assert_eq!(CimTime::parse(&time.to_xml()).unwrap(), time);
        }

        #[test]
        fn any_text_is_a_time_or_an_error(text in "\\PC{0,40}|[0-9PTDHMS.:*+-]{0,30}") {
            let _ = CimTime::parse(&text);
        }
    }
}
