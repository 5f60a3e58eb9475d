//! Disk files mounted on the host itself: AttachVirtualHardDisk, and what is done with the mounted image.
//!
//! A mount holds the file as a running VM would, and does not survive the host's end.

use std::fs::File;
use std::sync::Arc;

use super::answers::reference;
use super::{Answer, Call};
use crate::cim::{Object, V2, Value, v2};
use crate::disks::{Hold, open_chain, parse_path};
use crate::engine::{Engine, State};
use crate::failure::Failure;
use crate::refusals::Refusal;
use crate::winpath::same_path;

const CLASS: &str = "Msvm_MountedStorageImage";

/// CriterionType of FindMountedStorageImageInstance: the path of the file.
const BY_PATH: u64 = 0;

/// A file that is mounted.
#[derive(Debug)]
pub(crate) struct Mounted {
    path: String,
    number: u64,
    /// Keeps the locks.
    _files: Vec<Arc<File>>,
}

/// Mounts a file.
pub(super) fn mount(engine: &Engine, path: &str, read_only: bool) -> Result<Vec<String>, Failure> {
    let leaf = parse_path(path)?;
    let hold = if read_only {
        Hold::Shared
    } else {
        Hold::Exclusive
    };
    let links = open_chain(engine, &leaf, hold)?;
    let path = leaf.to_string();
    engine.update_mounted(|mounted| {
        let number = mounted.iter().map(|image| image.number + 1).max();
        mounted.push(Mounted {
            path: path.clone(),
            number: number.unwrap_or(0),
            _files: links.into_iter().map(|link| link.file).collect(),
        });
    });
    Ok(vec![path_of(engine, &path)])
}

fn path_of(engine: &Engine, path: &str) -> String {
    wsman::ObjectPath::new(CLASS)
        .with("Name", path)
        .on(&engine.name(), V2)
        .to_string()
}

/// Returns the mounted images as objects.
pub(crate) fn objects(state: &State) -> Vec<Object> {
    let object = |image: &Mounted| {
        Object::new(v2(CLASS))
            .with("Name", image.path.as_str())
            .with("ElementName", "Mounted Storage Image")
            .with("PortNumber", 0_u64)
            .with("PathId", 0_u64)
            .with("TargetId", image.number % 256)
            .with("Lun", 0_u64)
    };
    state.mounted.iter().map(object).collect()
}

pub(super) fn find(call: &Call<'_>) -> Result<Answer, Failure> {
    let wanted = call.need_text("SelectionCriterion")?;
    let by = call.parameters.u64("CriterionType").unwrap_or(BY_PATH);
    if by != BY_PATH {
        return Err(Failure::invalid(
            "mounted images of this host are found by path (CriterionType 0)",
        ));
    }
    let found = call.engine.read(|state| {
        let image = state
            .mounted
            .iter()
            .find(|image| same_path(&image.path, wanted));
        image.map(|image| image.path.clone())
    });
    let path = found.ok_or_else(|| {
        Failure::refused(Refusal::NotMounted, format!("'{wanted}' is not mounted"))
    })?;
    Ok(Answer::done().with("Image", reference(&path_of(call.engine, &path))))
}

/// Methods of a mounted image.
pub(super) fn call(call: &Call<'_>, method: &str) -> Option<Result<Answer, Failure>> {
    if method != "DetachVirtualHardDisk" {
        return None;
    }
    let path = call
        .target
        .get("Name")
        .and_then(Value::as_text)
        .unwrap_or_default();
    call.engine
        .update_mounted(|mounted| mounted.retain(|image| !same_path(&image.path, path)));
    Some(Ok(Answer::done()))
}
