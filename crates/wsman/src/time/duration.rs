//! XML durations.

use std::time::Duration;

use super::ParseTimeError;

/// Returns an XML duration for a header, such as `PT60S`.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let fraction = match duration.subsec_micros() {
        0 => String::new(),
        micros => format!(".{micros:06}"),
    };
    format!(
        "PT{}{}S",
        duration.as_secs(),
        fraction.trim_end_matches('0')
    )
}

/// Reads an XML duration. Years and months have no fixed length and are refused unless zero.
pub fn parse_duration(text: &str) -> Result<Duration, ParseTimeError> {
    let wrong = || ParseTimeError {
        text: text.chars().take(80).collect(),
    };
    duration_micros(text.trim())
        .map(Duration::from_micros)
        .ok_or_else(wrong)
}

fn duration_micros(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('P')?;
    let (mut total, mut in_time, mut parts) = (0_u64, false, 0);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            if in_time || time.is_empty() {
                return None;
            }
            (in_time, rest) = (true, time);
            continue;
        }
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let mut unit = &rest[digits..];
        let mut micros = 0;
        if let Some(fraction) = unit.strip_prefix('.') {
            let end = fraction.find(|c: char| !c.is_ascii_digit())?;
            micros = fraction_micros(&fraction[..end])?;
            unit = &fraction[end..];
            if !unit.starts_with('S') {
                return None;
            }
        }
        let secs = match (unit.chars().next()?, in_time) {
            ('Y' | 'M', false) => {
                if number != 0 {
                    return None;
                }
                0
            }
            ('D', false) => 86_400,
            ('H', true) => 3600,
            ('M', true) => 60,
            ('S', true) => 1,
            _ => return None,
        };
        total = total
            .checked_add(number.checked_mul(secs)?.checked_mul(1_000_000)?)?
            .checked_add(micros)?;
        rest = &unit[1..];
        parts += 1;
    }
    (parts > 0).then_some(total)
}

/// Digits after a decimal point as microseconds; finer ones are cut off.
pub(super) fn fraction_micros(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let six: String = digits.chars().chain("000000".chars()).take(6).collect();
    six.parse().ok()
}
