//! Values on the command line that are more than a word: durations, pairs, secrets in files.

use std::io::Read;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use crate::failure::Failure;

/// Longest secret that is read from a file or standard input, in bytes.
const SECRET_BYTES: u64 = 4096;

/// Reads a duration such as `90s`, `15m`, `8h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write 90s, 15m, 8h or 1d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(factor)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// Shows a duration in its largest whole unit.
pub(crate) fn show_duration(secs: u64) -> String {
    for (factor, unit) in [(86_400, "d"), (3600, "h"), (60, "m")] {
        if secs >= factor && secs.is_multiple_of(factor) {
            return format!("{}{unit}", secs / factor);
        }
    }
    format!("{secs}s")
}

/// Reads a size such as `64MiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    model::parse_size(text).map_err(|error| error.to_string())
}

/// Reads bytes per second, such as `100MiB`.
pub(crate) fn rate(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(size(text)?).ok_or_else(|| "nothing would ever move".to_owned())
}

/// Reads `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        Some(_) | None => Err(format!("{text:?} is not of the form NAME=VALUE")),
    }
}

/// Reads a password or token from a file (`-` or nothing: standard input); one trailing line break is not part of it.
pub(crate) fn secret(file: Option<&Path>, what: &str) -> Result<String, Failure> {
    let from_stdin = file.is_none_or(|path| path == Path::new("-"));
    let mut text = String::new();
    let read = match file {
        Some(path) if !from_stdin => std::fs::File::open(path)
            .and_then(|file| file.take(SECRET_BYTES).read_to_string(&mut text)),
        Some(_) | None => std::io::stdin()
            .take(SECRET_BYTES)
            .read_to_string(&mut text),
    };
    let place = match file {
        Some(path) if !from_stdin => path.display().to_string(),
        Some(_) | None => "standard input".to_owned(),
    };
    read.map_err(|error| Failure::usage(format!("cannot read the {what} from {place}: {error}")))?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err(Failure::usage(format!("there is no {what} in {place}"))
            .hint(format!("write the {what} there, on one line")));
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        for (text, secs) in [("90s", 90), ("15m", 900), ("8h", 28_800), ("1d", 86_400)] {
            assert_eq!(duration(text).unwrap(), Duration::from_secs(secs));
            assert_eq!(show_duration(secs), text);
        }
        for wrong in ["", "15", "m", "-1m", "1.5h", "1w", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show_duration(0), "0s");
    }

    #[test]
    fn pairs_need_both_sides() {
        assert_eq!(pair("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        for wrong in ["", "a", "=b", "a="] {
            assert!(pair(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_loses_its_line_break_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, " pass word \r\n").unwrap();
        assert_eq!(secret(Some(&file), "password").unwrap(), " pass word ");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(
            secret(Some(&file), "password").unwrap_err().exit.number(),
            2
        );
        let missing = folder.path().join("missing");
        assert!(
            secret(Some(&missing), "password")
                .unwrap_err()
                .message
                .contains("missing")
        );
    }
}
