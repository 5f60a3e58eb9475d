//! Files and folders of the host as `root/cimv2` shows them.
//!
//! Asked for by exact path, as a client should: a host has many files.

use crate::cim::{Class, Object, cimv2};
use crate::engine::Engine;
use crate::volume;
use crate::winpath::WinPath;

/// Adds the files and folders that are objects of a class.
pub(super) fn of_class(engine: &Engine, class: &Class, objects: &mut Vec<Object>) {
    // Bases that everything has would list the whole disk.
    if !class.is_a("CIM_LogicalFile") {
        return;
    }
    let server = engine.name();
    if cimv2("CIM_DataFile").is_a(class.name) {
        let files = volume::files(engine).into_iter();
        objects.extend(files.filter_map(|file| {
            let object = entry("CIM_DataFile", &file.path, &server)?;
            Some(object.with("FileSize", file.size_bytes))
        }));
    }
    if cimv2("Win32_Directory").is_a(class.name) {
        let folders = volume::folders(engine);
        objects.extend(
            folders
                .iter()
                .filter_map(|path| entry("Win32_Directory", &path.to_string(), &server)),
        );
    }
}

fn entry(class: &str, path: &str, server: &str) -> Option<Object> {
    let parsed = WinPath::parse(path).ok()?;
    let drive = format!("{}:", parsed.letter()?);
    // WMI shows paths in small letters.
    let name = path.to_lowercase();
    let file_name = parsed.file_name().to_lowercase();
    let (stem, extension) = file_name.rsplit_once('.').unwrap_or((&file_name, ""));
    let folder = parsed.parent().below_root().to_lowercase();
    let folder = if folder.is_empty() {
        r"\".to_owned()
    } else {
        format!(r"\{folder}\")
    };
    Some(
        Object::new(cimv2(class))
            .with("Name", name.as_str())
            .with("Caption", name.as_str())
            .with("Description", name.as_str())
            .with("CreationClassName", class)
            .with("CSCreationClassName", "Win32_ComputerSystem")
            .with("CSName", server)
            .with("FSCreationClassName", "Win32_FileSystem")
            .with("FSName", "NTFS")
            .with("Drive", drive.to_lowercase())
            .with("Path", folder)
            .with("FileName", stem)
            .with("Extension", extension)
            .with("Readable", true)
            .with("Writeable", true)
            .with("Hidden", false)
            .with("System", false)
            .with("Status", "OK"),
    )
}
