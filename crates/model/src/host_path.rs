//! Paths on a Hyper-V host: Windows paths as text, compared without case.
//!
//! They are never handed to this machine's file system as they are; `hyperv` maps them. [`check`] is the gate for every
//! path that comes from a recovery point, a person or the network and is going to be written to.

/// A path that is not used, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not used as a path on the host: {reason}")]
pub struct BadPath {
    /// The path.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Longest path accepted, in UTF-16 units.
const MAX_UNITS: usize = 1024;
/// Longest name of one component, in UTF-16 units.
const MAX_NAME_UNITS: usize = 255;

/// Accepts an absolute drive path (`C:\folder\file`) whose every component is a plain name, and returns it with
/// backslashes and without a trailing one.
///
/// Refused: relative and UNC paths, device paths, `.` and `..`, alternate data streams, reserved device names, characters
/// Windows forbids, trailing dots and blanks.
pub fn check(path: &str) -> Result<String, BadPath> {
    let bad = |reason| BadPath {
        path: path.chars().take(300).collect(),
        reason,
    };
    let path = path.replace('/', "\\");
    let mut chars = path.chars();
    let (Some(drive), Some(':')) = (chars.next(), chars.next()) else {
        return Err(bad("it must begin with a drive, such as C:\\"));
    };
    if !drive.is_ascii_alphabetic() {
        return Err(bad("it must begin with a drive letter"));
    }
    let Some(rest) = chars.as_str().strip_prefix('\\') else {
        return Err(bad("it must be absolute, such as C:\\folder"));
    };
    if path.encode_utf16().count() > MAX_UNITS {
        return Err(bad("it is longer than 1024 characters"));
    }
    let rest = rest.strip_suffix('\\').unwrap_or(rest);
    let mut out = format!("{}:", drive.to_ascii_uppercase());
    if rest.is_empty() {
        out.push('\\');
        return Ok(out);
    }
    for name in rest.split('\\') {
        check_name(name).map_err(bad)?;
        out.push('\\');
        out.push_str(name);
    }
    Ok(out)
}

/// Accepts one plain component of a path, or says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name == "." || name == ".." {
        return Err("a part of it is empty, `.` or `..`");
    }
    if name.encode_utf16().count() > MAX_NAME_UNITS {
        return Err("a part of it is longer than 255 characters");
    }
    if name.ends_with('.') || name.ends_with(' ') {
        return Err("a part of it ends with a dot or a blank");
    }
    if name
        .chars()
        .any(|c| c < ' ' || matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*' | '/' | '\\'))
    {
        return Err("it holds a character that Windows forbids in names");
    }
    let stem = name
        .split('.')
        .next()
        .unwrap_or(name)
        .trim_end()
        .to_ascii_uppercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|digit| {
            matches!(
                digit,
                "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9"
            )
        })
    };
    if matches!(
        stem.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) || numbered("COM")
        || numbered("LPT")
    {
        return Err("a part of it is a reserved device name");
    }
    Ok(())
}

/// Makes a file or folder name of free text, such as a VM's display name.
#[must_use]
pub fn name_from(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| {
            let forbidden =
                c < ' ' || matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*' | '/' | '\\');
            if forbidden { '_' } else { c }
        })
        .take(100)
        .collect();
    while name.ends_with('.') || name.ends_with(' ') {
        name.pop();
    }
    if check_name(&name).is_err() {
        name.insert(0, '_');
    }
    name
}

/// Returns the folder of a path: `C:\a\b.vhdx` gives `C:\a`, `C:\b` gives `C:\`.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    let cut = path.trim_end_matches('\\').rfind('\\')?;
    let folder = &path[..cut];
    Some(if folder.ends_with(':') {
        &path[..=cut]
    } else {
        folder
    })
}

/// Returns the last component.
#[must_use]
pub fn file_name(path: &str) -> &str {
    let path = path.trim_end_matches('\\');
    path.rfind('\\').map_or(path, |cut| &path[cut + 1..])
}

/// Splits a file name into stem and extension (with its dot, empty where there is none).
#[must_use]
pub fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    }
}

/// Joins a folder and a name.
#[must_use]
pub fn join(folder: &str, name: &str) -> String {
    format!("{}\\{name}", folder.trim_end_matches('\\'))
}

/// Compares two paths as Windows does: without case, either slash.
#[must_use]
pub fn same(a: &str, b: &str) -> bool {
    key(a) == key(b)
}

/// Whether `path` is `folder` or lies below it.
#[must_use]
pub fn is_below(path: &str, folder: &str) -> bool {
    let (path, folder) = (key(path), key(folder));
    path.strip_prefix(folder.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('\\'))
}

/// Returns a text that is equal for paths Windows takes for the same.
#[must_use]
pub fn key(path: &str) -> String {
    path.replace('/', "\\")
        .trim_end_matches('\\')
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_drive_paths_are_used() {
        assert_eq!(
            check("c:/VMs\\web 01\\disk.vhdx").unwrap(),
            "C:\\VMs\\web 01\\disk.vhdx"
        );
        assert_eq!(check("D:\\").unwrap(), "D:\\");
        assert_eq!(check("D:\\größe\\").unwrap(), "D:\\größe");
        for wrong in [
            "",
            "C:",
            "C:x",
            "VMs\\a",
            "\\\\srv\\share\\a",
            "\\\\?\\C:\\a",
            "C:\\a\\..\\b",
            "C:\\a\\.\\b",
            "C:\\a\\\\b",
            "C:\\a:stream",
            "C:\\NUL",
            "C:\\com1.txt",
            "C:\\a.",
            "C:\\a \\b",
            "C:\\a?",
            "C:\\a\"b",
            "1:\\a",
            "C:\\a\u{0}b",
        ] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        assert!(check(&format!("C:\\{}", "x".repeat(256))).is_err());
    }

    #[test]
    fn any_display_name_becomes_a_file_name() {
        for text in [
            "web01",
            "../../etc",
            "a\"b'c",
            "",
            "...",
            "NUL",
            "\u{1}",
            &"ü".repeat(255),
            "C:\\x",
            " ",
        ] {
            let name = name_from(text);
            assert_eq!(check_name(&name), Ok(()), "{text:?} -> {name:?}");
        }
    }

    #[test]
    fn parts_are_found() {
        assert_eq!(parent("C:\\a\\b.vhdx"), Some("C:\\a"));
        assert_eq!(parent("C:\\b.vhdx"), Some("C:\\"));
        assert_eq!(file_name("C:\\a\\b.vhdx"), "b.vhdx");
        assert_eq!(split_extension("b.tar.vhdx"), ("b.tar", ".vhdx"));
        assert!(same("C:\\A\\b", "c:/a/B\\"));
        assert!(is_below("C:\\VMs\\a", "c:\\vms\\") && !is_below("C:\\VMs2\\a", "C:\\VMs"));
        assert!(is_below("C:\\VMs\\a", "C:\\"));
    }
}
