//! Windows paths and the local files behind them: the one place that maps the two.
//!
//! `C:\VMs\web01\disk.vhdx` lies at `volumes/C/VMs/web01/disk.vhdx`, the same file as a shadow copy of `C:` keeps it
//! (`\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1\VMs\web01\disk.vhdx`) in
//! `shadows/HarddiskVolumeShadowCopy1/VMs/web01/disk.vhdx`. Names are found in any case and made as written.
//! Invariant: a [`WinPath`] never leads out of its drive or shadow copy.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::state::Layout;

/// Longest path Windows takes with the `\\?\` prefix.
const MAX_CHARS: usize = 32_767;
/// Longest file name.
const MAX_NAME_CHARS: usize = 255;

/// How the path of a shadow copy's device begins.
const SHADOW_DEVICE: &str = r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy";
/// How the folder of a shadow copy is called, before its number.
const SHADOW_FOLDER: &str = "HarddiskVolumeShadowCopy";

/// Where a path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Drive(char),
    /// A shadow copy, by its number.
    Shadow(u32),
}

/// An absolute Windows path on a drive or a shadow copy, taken apart. Equal in any case.
#[derive(Clone, Debug)]
pub(crate) struct WinPath {
    root: Root,
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
        let (root, rest) = match shadow_root(text) {
            Some((number, rest)) => (Root::Shadow(number), rest),
            None => {
                let bare = text.strip_prefix(r"\\?\").unwrap_or(text);
                let mut chars = bare.chars();
                let letter = chars
                    .next()
                    .filter(char::is_ascii_alphabetic)
                    .ok_or_else(|| wrong("it has no drive letter"))?;
                if chars.next() != Some(':') {
                    return Err(wrong("it has no drive letter"));
                }
                (Root::Drive(letter.to_ascii_uppercase()), chars.as_str())
            }
        };
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
        Ok(Self { root, names })
    }

    /// Returns the root of a drive.
    pub(crate) fn drive(letter: char) -> Self {
        Self {
            root: Root::Drive(letter.to_ascii_uppercase()),
            names: Vec::new(),
        }
    }

    /// Returns the root of a shadow copy.
    pub(crate) fn shadow(number: u32) -> Self {
        Self {
            root: Root::Shadow(number),
            names: Vec::new(),
        }
    }

    /// Returns the number of the shadow copy the path is on.
    pub(crate) fn shadow_number(&self) -> Option<u32> {
        match self.root {
            Root::Drive(_) => None,
            Root::Shadow(number) => Some(number),
        }
    }

    pub(crate) fn letter(&self) -> Option<char> {
        match self.root {
            Root::Drive(letter) => Some(letter),
            Root::Shadow(_) => None,
        }
    }

    /// Returns the path below the drive's root: `VMs\disk.vhdx`.
    pub(crate) fn below_root(&self) -> String {
        self.names.join(r"\")
    }

    /// Returns the names below `folder`; nothing where the path is not within it.
    pub(crate) fn below(&self, folder: &Self) -> Option<&[String]> {
        if self.root != folder.root || self.names.len() < folder.names.len() {
            return None;
        }
        let (above, below) = self.names.split_at(folder.names.len());
        let same = above
            .iter()
            .zip(&folder.names)
            .all(|(one, two)| one.to_lowercase() == two.to_lowercase());
        same.then_some(below)
    }

    /// Whether the path is that of a drive or shadow copy itself.
    pub(crate) fn is_root(&self) -> bool {
        self.names.is_empty()
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

    /// Returns the local file behind the path: each name as it is there, in any case, else as written.
    pub(crate) fn local(&self, layout: &Layout) -> PathBuf {
        let mut local = match self.root {
            Root::Drive(letter) => layout.volumes().join(letter.to_string()),
            Root::Shadow(number) => layout.shadows().join(format!("{SHADOW_FOLDER}{number}")),
        };
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

/// Takes the device of a shadow copy off the front of a text.
fn shadow_root(text: &str) -> Option<(u32, &str)> {
    let begin = text.get(..SHADOW_DEVICE.len())?;
    if !begin.replace('/', r"\").eq_ignore_ascii_case(SHADOW_DEVICE) {
        return None;
    }
    let rest = &text[SHADOW_DEVICE.len()..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, rest) = rest.split_at(end);
    number.parse().ok().map(|number| (number, rest))
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
        match self.root {
            Root::Drive(letter) => write!(f, "{letter}:")?,
            Root::Shadow(number) => write!(f, "{SHADOW_DEVICE}{number}")?,
        }
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
            (
                r"\\?\globalroot\device\harddiskvolumeshadowcopy12\VMs\a.vhdx",
                r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy12\VMs\a.vhdx",
            ),
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
            r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy\a",
            r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1\..\a",
            r"\\?\GLOBALROOT\Device\Harddisk0",
        ] {
            assert!(WinPath::parse(text).is_err(), "{text:?}");
        }
        assert!(WinPath::parse(&format!(r"C:\{}", "x".repeat(256))).is_err());
    }

    #[test]
    fn local_files_are_found_in_any_case() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let volume = layout.volumes().join("C");
        std::fs::create_dir_all(volume.join("VMs")).unwrap();
        std::fs::write(volume.join("VMs/Disk.vhdx"), b"x").unwrap();
        let local = |path: &str| WinPath::parse(path).unwrap().local(&layout);
        assert_eq!(local(r"C:\vms\disk.VHDX"), volume.join("VMs/Disk.vhdx"));
        assert_eq!(local(r"C:\vms\New.vhdx"), volume.join("VMs/New.vhdx"));
        assert_eq!(
            local(r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy3\a"),
            layout.shadows().join("HarddiskVolumeShadowCopy3/a")
        );
    }

    #[test]
    fn a_path_is_below_the_folders_above_it_only() {
        let path = |text: &str| WinPath::parse(text).unwrap();
        let disk = path(r"C:\Mount\Data\a.vhdx");
        assert_eq!(disk.below(&path(r"c:\mount\data")).unwrap(), ["a.vhdx"]);
        assert_eq!(disk.below(&WinPath::drive('C')).unwrap().len(), 3);
        assert!(disk.below(&path(r"C:\Mount\Dat")).is_none());
        assert!(disk.below(&path(r"D:\Mount\Data")).is_none());
        assert!(WinPath::shadow(1).below(&WinPath::drive('C')).is_none());
    }
}
