//! What control commands show of a VM.

use uuid::Uuid;
use wsman::ObjectPath;

use super::{CheckpointInfo, DiskInfo, VmInfo};
use crate::definition::kind;
use crate::disks::{Hold, open_chain, parse_path};
use crate::engine::Engine;
use crate::methods::reference_point_id;
use crate::objects::operational_status;
use crate::state::{CheckpointKind, Vm, guid};

pub(super) fn checkpoint_info(vm: &Vm, id: Uuid) -> CheckpointInfo {
    let checkpoint = vm.checkpoint(id);
    CheckpointInfo {
        id: format!("Microsoft:{}", guid(id)),
        name: checkpoint
            .map(|c| c.definition.vssd.text("ElementName").to_owned())
            .unwrap_or_default(),
        kind: match checkpoint.map(|c| c.kind) {
            Some(CheckpointKind::Recovery) => "recovery",
            Some(CheckpointKind::Missing) => "missing",
            Some(CheckpointKind::User) | None => "user",
        }
        .to_owned(),
        parent: checkpoint
            .and_then(|c| c.parent)
            .map(|parent| format!("Microsoft:{}", guid(parent))),
        created: checkpoint
            .map(|c| c.created.to_string())
            .unwrap_or_default(),
        current: vm.current == Some(id),
    }
}

pub(super) fn vm_info(engine: &Engine, vm: &Vm) -> VmInfo {
    let definition = &vm.definition;
    let busy = operational_status(engine, vm)
        .into_iter()
        .skip(1)
        .map(|status| {
            match status {
                32768 => "creating-checkpoint",
                32769 => "applying-checkpoint",
                32770 => "deleting-checkpoint",
                32772 => "merging",
                32773 => "exporting",
                _ => "busy",
            }
            .to_owned()
        });
    let disks = definition.disk_slots().into_iter().map(|slot| {
        let chain = parse_path(&slot.path)
            .and_then(|leaf| open_chain(engine, &leaf, Hold::None))
            .unwrap_or_default();
        DiskInfo {
            parents: chain
                .iter()
                .skip(1)
                .map(|link| link.path.to_string())
                .collect(),
            size_bytes: chain.first().map_or(0, |link| link.info.size),
            disk_id: chain
                .first()
                .map(|link| link.info.disk_id.to_string())
                .unwrap_or_default(),
            path: slot.path,
            slot: slot.slot,
        }
    });
    let nics = definition.of_kind(kind::NIC).map(|nic| {
        let connection = definition.of_kind(kind::CONNECTION).find(|connection| {
            definition
                .parent_of(connection)
                .is_some_and(|parent| parent.instance_id() == nic.instance_id())
        });
        let switch =
            connection.and_then(|bag| bag.first("HostResource").parse::<ObjectPath>().ok());
        let id = switch.and_then(|path| path.get("Name").and_then(|id| Uuid::try_parse(id).ok()));
        engine.read(|state| {
            let switch = state
                .host
                .switches
                .iter()
                .find(|switch| Some(switch.id) == id);
            switch.map(|switch| switch.name.clone()).unwrap_or_default()
        })
    });
    VmInfo {
        id: guid(vm.id),
        name: vm.name().to_owned(),
        state: vm.power.name().to_owned(),
        generation: definition.generation(),
        version: definition.vssd.text("Version").to_owned(),
        busy: busy.collect(),
        disks: disks.collect(),
        nics: nics.collect(),
        checkpoints: vm.checkpoints.len(),
        reference_points: vm
            .reference_points
            .iter()
            .map(|point| reference_point_id(point.id))
            .collect(),
    }
}
