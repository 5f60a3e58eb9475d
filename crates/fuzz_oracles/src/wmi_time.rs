//! Times: refused, or the same in both forms; an instant is that of counting days one by one.

use wsman::{CimTime, Interval, duration_text, parse_duration};

pub(crate) fn run(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    if let Ok(duration) = parse_duration(&text) {
        assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
    }
    let Ok(time) = CimTime::parse(&text) else {
        return input.len() as u64;
    };
    for form in [time.to_dmtf(), time.to_xml()] {
        assert_eq!(CimTime::parse(&form), Ok(time), "{form}");
    }
    assert_eq!(time.to_dmtf().len(), 25);
    if let Some(plain) = plain(text.trim()) {
        match time {
            CimTime::Moment(moment) => assert_eq!(moment.unix_micros(), plain),
            CimTime::Interval(Interval { micros }) => assert_eq!(i64::try_from(micros), Ok(plain)),
        }
    }
    input.len() as u64
}

/// Microseconds of a DMTF text that knows all its fields, counted plainly. The first and the last years of the calendar
/// are left out: what an offset leads out of it is clamped.
fn plain(text: &str) -> Option<i64> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        let field = text.get(from..to)?;
        field
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| field.parse().ok())?
    };
    if text.len() != 25 || text.get(14..15) != Some(".") {
        return None;
    }
    let clock = digits(8, 10)? * 3600 + digits(10, 12)? * 60 + digits(12, 14)?;
    let (micros, last) = (digits(15, 21)?, digits(22, 25)?);
    let (days, offset) = match text.get(21..22)? {
        ":" => (digits(0, 8)?, 0),
        sign => {
            let [year, month, day] = [digits(0, 4)?, digits(4, 6)?, digits(6, 8)?];
            if !(2..=9998).contains(&year) || month == 0 || day == 0 {
                return None;
            }
            let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let of_year = |year: i64| if leap(year) { 366 } else { 365 };
            let years: i64 = if year >= 1970 {
                (1970..year).map(of_year).sum()
            } else {
                -(year..1970).map(of_year).sum::<i64>()
            };
            let february = if leap(year) { 29 } else { 28 };
            let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30];
            let before = usize::try_from(month - 1).ok()?;
            let days: i64 = months.iter().take(before).sum();
            let minutes = if sign == "-" { -last } else { last };
            (years + days + day - 1, minutes)
        }
    };
    Some((days * 86_400 + clock - offset * 60) * 1_000_000 + micros)
}
