//! What of a VM cannot be kept, by stable codes: they stand in recovery points and in what people's scripts read.
//!
//! Each is named where a VM is shown and on every recovery point. A physical CD drive of the host is no part of a VM and is
//! passed over.

use model::{PowerState, Unsupported};
use wsman::Instance;

use super::components::{Components, disk_path, has_subtype, is_vhd_set, media_path};
use super::objects::{self, resource_type};
use super::vm::{Replication, ReplicationRole, Security};

/// A physical disk of the host given to the VM.
pub const PASS_THROUGH: &str = "pass-through";
/// A `.vhdx` shared between VMs (persistent reservations).
pub const SHARED_DISK: &str = "shared-disk";
/// A VHD set (`.vhds`), shared between VMs.
pub const VHD_SET: &str = "vhd-set";
/// A virtual TPM: its keys stay on the host.
pub const VTPM: &str = "vtpm";
/// A shielded VM: only its guardians can start a copy.
pub const SHIELDED: &str = "shielded";
/// Disks behind a virtual Fibre Channel adapter.
pub const FIBRE_CHANNEL: &str = "fibre-channel";
/// A floppy image.
pub const FLOPPY: &str = "floppy";
/// Saved memory.
pub const SAVED_STATE: &str = "saved-state";
/// The replica of a VM on another host.
pub const REPLICA: &str = "replica";
/// A VM that is replicated to another host.
pub const REPLICATED: &str = "replicated";
/// A VM that a failover cluster moves between hosts.
pub const CLUSTERED: &str = "clustered";
/// A network adapter whose VLAN is a trunk or private.
pub const VLAN_MODE: &str = "vlan-mode";

/// Returns whether a host refuses to take a recovery checkpoint of a single VM that has this.
#[must_use]
pub fn blocks_checkpoint(code: &str) -> bool {
    code == SHARED_DISK || code == VHD_SET
}

fn item(code: &str, what: impl Into<String>) -> Unsupported {
    Unsupported {
        code: code.to_owned(),
        what: what.into(),
    }
}

/// What the parts of a VM tell.
pub(super) fn of_parts(parts: &Components) -> Vec<Unsupported> {
    let mut found = Vec::new();
    for drive in parts.drives() {
        let slot = drive.slot;
        if has_subtype(drive.drive, objects::SUBTYPE_PASS_THROUGH) {
            let what =
                format!("the disk at {slot} is a physical disk of the host and is not backed up");
            found.push(item(PASS_THROUGH, what));
        }
        found.extend(
            drive
                .media
                .and_then(|media| shared(media, &slot.to_string())),
        );
    }
    // Floppy drives hang on no controller that is listed.
    for media in parts.of_type(resource_type::MEDIA) {
        if has_subtype(media, objects::SUBTYPE_FLOPPY)
            && let Some(path) = media_path(media)
        {
            found.push(item(
                FLOPPY,
                format!("the floppy image {path} is not backed up"),
            ));
        }
    }
    let security = security(parts);
    if security.tpm {
        let what =
            "the VM has a virtual TPM; its keys stay on the host and are not part of a backup";
        found.push(item(VTPM, what));
    }
    if security.shielded {
        let what = "the VM is shielded; a copy starts only on hosts that its guardians trust";
        found.push(item(SHIELDED, what));
    }
    let fibre_channel = parts.of_type(resource_type::FIBRE_CHANNEL).count();
    if fibre_channel > 0 {
        let what = format!(
            "the VM has {fibre_channel} virtual Fibre Channel adapter(s); disks behind them are not backed up"
        );
        found.push(item(FIBRE_CHANNEL, what));
    }
    for nic in parts.nics() {
        // 1 = access; anything else but 0 is a trunk, private or unknown.
        let mode = nic.vlan.and_then(|vlan| vlan.u32("OperationMode"));
        if mode.is_some_and(|mode| mode > 1) {
            let name = nic.nic.text("ElementName").unwrap_or_default();
            let what = format!(
                "the VLAN of network adapter {name:?} is a trunk or private; it comes back only with the VM's own \
                 configuration file"
            );
            found.push(item(VLAN_MODE, what));
        }
    }
    found
}

fn shared(media: &Instance, slot: &str) -> Option<Unsupported> {
    let path = disk_path(media)?;
    if is_vhd_set(path) {
        let what = format!("the disk {path} at {slot} is a VHD set, shared between VMs");
        return Some(item(VHD_SET, what));
    }
    let reserved = media.bool("PersistentReservationsSupported") == Some(true);
    reserved.then(|| {
        let what = format!("the disk {path} at {slot} is shared between VMs");
        item(SHARED_DISK, what)
    })
}

/// What the state of a VM tells.
pub(super) fn of_state(power: PowerState, replication: Replication) -> Vec<Unsupported> {
    let mut found = Vec::new();
    if power == PowerState::Saved {
        let what =
            "the VM's saved memory is not part of a backup; a restored VM starts from its disks";
        found.push(item(SAVED_STATE, what));
    }
    match replication.role {
        ReplicationRole::None => {}
        ReplicationRole::Primary => {
            let what = "the VM is replicated; after a restore replication must be set up again";
            found.push(item(REPLICATED, what));
        }
        ReplicationRole::Replica
        | ReplicationRole::TestReplica
        | ReplicationRole::ExtendedReplica
        | ReplicationRole::Other(_) => {
            let what =
                "the VM is a replica; better back up the VM it is a replica of, on its own host";
            found.push(item(REPLICA, what));
        }
    }
    found
}

/// That a cluster moves the VM.
pub(super) fn clustered() -> Unsupported {
    let what = "the VM belongs to a failover cluster; backups follow it only where every node has an agent, and this has \
                not been tested on a real cluster";
    item(CLUSTERED, what)
}

pub(super) fn security(parts: &Components) -> Security {
    let settings = parts.first_of_class(objects::SECURITY);
    let flag = |name: &str| settings.and_then(|security| security.bool(name)) == Some(true);
    Security {
        tpm: flag("TpmEnabled"),
        shielded: flag("ShieldingRequested"),
        encrypted_state: flag("EncryptStateAndVmMigrationTraffic"),
    }
}
