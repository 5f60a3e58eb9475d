//! Windows paths and the local files behind them: the one place that maps the two.
//!
//! `C:\VMs\web01\disk.vhdx` lies at `volumes/C/VMs/web01/disk.vhdx`. Names are found in any case and made as written.
//! Invariant: a [`WinPath`] never leads out of its volume.

use std::fmt;
use std::path::{Path, PathBuf};

/// Longest path Windows takes with the `\\?\` prefix.
const MAX_CHARS: usize = 32_767;
/// Longest file name.
const MAX_NAME_CHARS: usize = 255;

/// An absolute Windows path on a volume with a drive letter, taken apart. Equal in any case.
#[derive(Clone, Debug)]
pub(crate) struct WinPath {
    letter: char,
    names: Vec<String>,
}

impl PartialEq for WinPath {
    fn eq(&self, other: &Self) -> bool {
        path_key(self) == path_key(other)
    }
}

impl Eq for WinPath {}

/// A text that is no path this host can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(r"{text:?} is no path on this host: {why}; write one such as C:\VMs\disk.vhdx")]
pub(crate) struct ParsePathError {
    text: String,
    why: &'static str,
}

impl WinPath {
    pub(crate) fn parse(text: &str) -> Result<Self, ParsePathError> {
        let wrong = |why| ParsePathError {
            text: text.chars().take(200).collect(),
            why,
        };
        if text.len() > MAX_CHARS {
            return Err(wrong("it is too long"));
        }
        let bare = text.strip_prefix(r"\\?\").unwrap_or(text);
        let mut chars = bare.chars();
        let letter = chars
            .next()
            .filter(char::is_ascii_alphabetic)
            .ok_or_else(|| wrong("it has no drive letter"))?;
        if chars.next() != Some(':') {
            return Err(wrong("it has no drive letter"));
        }
        let rest = chars.as_str();
        if !rest.is_empty() && !rest.starts_with(['\\', '/']) {
            return Err(wrong("it is relative"));
        }
        let mut names = Vec::new();
        for name in rest.split(['\\', '/']).filter(|name| !name.is_empty()) {
            if name == "." || name == ".." {
                return Err(wrong("it has . or .. in it"));
            }
            if name
                .chars()
                .any(|c| c.is_control() || r#"<>:"|?*"#.contains(c))
            {
                return Err(wrong("a name has a character Windows does not allow"));
            }
            if name.ends_with(['.', ' ']) || name.chars().count() > MAX_NAME_CHARS {
                return Err(wrong("a name is too long or ends in a dot or space"));
            }
            names.push(name.to_owned());
        }
        Ok(Self {
            letter: letter.to_ascii_uppercase(),
            names,
        })
    }

    pub(crate) fn letter(&self) -> char {
        self.letter
    }

    pub(crate) fn file_name(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    /// Returns the folder; a volume's root is its own.
    pub(crate) fn parent(&self) -> Self {
        let mut parent = self.clone();
        parent.names.pop();
        parent
    }

    /// Returns the path of a name (or several, with `\`) below this one.
    pub(crate) fn join(&self, names: &str) -> Result<Self, ParsePathError> {
        Self::parse(&format!(r"{self}\{names}"))
    }

    /// Returns the path below the volume's root: `VMs\disk.vhdx`.
    pub(crate) fn below_root(&self) -> String {
        self.names.join(r"\")
    }

    /// Returns the local file behind the path: each name as it is there, in any case, else as written.
    pub(crate) fn local(&self, volumes: &Path) -> PathBuf {
        let mut local = volumes.join(self.letter.to_string());
        for name in &self.names {
            let exact = local.join(name);
            local = if exact.symlink_metadata().is_ok() {
                exact
            } else {
                name_in_any_case(&local, name).map_or(exact, |found| local.join(found))
            };
        }
        local
    }
}

fn name_in_any_case(folder: &Path, name: &str) -> Option<std::ffi::OsString> {
    let wanted = name.to_lowercase();
    std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name())
        .find(|found| {
            found
                .to_str()
                .is_some_and(|found| found.to_lowercase() == wanted)
        })
}

impl fmt::Display for WinPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.letter)?;
        if self.names.is_empty() {
            f.write_str(r"\")?;
        }
        for name in &self.names {
            write!(f, r"\{name}")?;
        }
        Ok(())
    }
}

/// Whether two texts name the same file: separators and case do not count.
pub(crate) fn same_path(one: &str, two: &str) -> bool {
    match (WinPath::parse(one), WinPath::parse(two)) {
        (Ok(one), Ok(two)) => one == two,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => one.to_lowercase() == two.to_lowercase(),
    }
}

/// Returns the path in the form in which equal paths are equal texts.
fn path_key(path: &WinPath) -> String {
    path.to_string().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_as_windows_shows_them() {
        for (text, shown) in [
            (r"c:\VMs\Web 01\disk.vhdx", r"C:\VMs\Web 01\disk.vhdx"),
            (r"\\?\C:\a//b\", r"C:\a\b"),
            ("D:", r"D:\"),
            (r"C:\Ünïcode\文.vhdx", r"C:\Ünïcode\文.vhdx"),
        ] {
            assert_eq!(WinPath::parse(text).unwrap().to_string(), shown);
        }
        assert!(same_path("c:/vms/A.vhdx", r"C:\VMs\a.VHDX"));
    }

    #[test]
    fn refuses_what_leads_out_or_cannot_be_a_name() {
        for text in [
            "",
            "disk.vhdx",
            r"C:..\x",
            r"C:\a\..\..\etc",
            r"\\server\share",
            "C:\\a\0b",
            r"C:\a|b",
            r"C:\a. \b",
        ] {
            assert!(WinPath::parse(text).is_err(), "{text:?}");
        }
        assert!(WinPath::parse(&format!(r"C:\{}", "x".repeat(256))).is_err());
    }

    #[test]
    fn local_files_are_found_in_any_case() {
        let volumes = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(volumes.path().join("C/VMs")).unwrap();
        std::fs::write(volumes.path().join("C/VMs/Disk.vhdx"), b"x").unwrap();
        let path = WinPath::parse(r"C:\vms\disk.VHDX").unwrap();
        assert_eq!(
            path.local(volumes.path()),
            volumes.path().join("C/VMs/Disk.vhdx")
        );
        let new = WinPath::parse(r"C:\vms\New.vhdx").unwrap();
        assert_eq!(
            new.local(volumes.path()),
            volumes.path().join("C/VMs/New.vhdx")
        );
    }
}
