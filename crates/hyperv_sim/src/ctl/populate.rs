//! `vm populate`: many small VMs at once, to see how things go with a full host.

use std::fs::File;
use std::sync::Arc;

use uuid::Uuid;
use vhdx::{BulkWriter, Durability, Params};

use super::add::build_disks;
use super::execute::{conflict, failed};
use super::{CtlError, CtlErrorKind};
use crate::clock::now;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::methods::new_definition;
use crate::platform;
use crate::state::Vm;
use crate::winpath::WinPath;

/// Most VMs and most disks of each; bounds what one command makes.
const MAX_VMS: u32 = 5_000;
const MAX_DISKS: u32 = 64;
/// Virtual size of each disk.
const DISK_BYTES: u64 = 64 << 20;

/// Adds `count` VMs called `<prefix>0001` and on, off, with empty disks below `C:\<prefix>`.
pub(super) fn populate(
    engine: &Arc<Engine>,
    prefix: &str,
    count: u32,
    disks: u32,
) -> Result<(), CtlError> {
    if count > MAX_VMS || disks > MAX_DISKS {
        return Err(CtlError::new(
            CtlErrorKind::Usage,
            format!("at most {MAX_VMS} VMs with {MAX_DISKS} disks each"),
        ));
    }
    let root = WinPath::parse(&format!(r"C:\{prefix}"))
        .map_err(|err| CtlError::new(CtlErrorKind::Usage, err.to_string()))?;
    let folder = engine.local(&root);
    if prefix.is_empty() || folder.exists() {
        return Err(conflict(format!("'{root}' exists already")));
    }
    let io = |err: std::io::Error| failed(Failure::io("make the disks", &err));
    let broken = |err: vhdx::Error| failed(Failure::vhdx(&root, &err));
    std::fs::create_dir_all(&folder).map_err(io)?;
    // One disk is made; the others are copies of it with ids of their own.
    let open = |path: &std::path::Path| {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    };
    let first = folder.join("template.vhdx");
    BulkWriter::create(open(&first).map_err(io)?, &Params::dynamic(DISK_BYTES))
        .and_then(BulkWriter::finish)
        .map_err(broken)?;
    let template = File::open(&first).map_err(io)?;
    let server = engine.name();
    for number in 1..=count {
        let name = format!("{prefix}{number:04}");
        let id = Uuid::new_v4();
        let mut definition = new_definition(engine, id, &name, 2, None);
        let mut paths = Vec::new();
        for disk in 0..disks {
            let file = folder.join(format!("{name}-{disk}.vhdx"));
            let target = open(&file).map_err(io)?;
            platform::copy_sparse(&template, &target).map_err(io)?;
            vhdx::set_disk_id(target, Uuid::new_v4(), Durability::ProcessKill).map_err(broken)?;
            paths.push(format!(r"{root}\{name}-{disk}.vhdx"));
        }
        build_disks(&mut definition, 2, &paths, &server)?;
        definition.settle_boot_order(&server);
        engine
            .insert_vm(Vm::new(id, definition, now()))
            .map_err(failed)?;
    }
    std::fs::remove_file(first).map_err(io)
}
