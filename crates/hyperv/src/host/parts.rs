//! The parts of all VMs' settings, read in one pass and reduced to what is looked at.
//!
//! One object of a host takes some 4 KiB of memory, and a host with 500 VMs has ten thousand of them; what is kept here of
//! one takes a tenth. The objects themselves live for one batch.

use std::collections::{BTreeMap, HashMap};

use model::VmId;
use wsman::{FaultClass, Instance};

use super::Host;
use super::components::Components;
use super::objects::{self, owner_guid, resource_type};
use crate::Error;

/// Properties that are looked at, of any part.
const KEPT: [&str; 24] = [
    "InstanceID",
    "ElementName",
    "ResourceType",
    "ResourceSubType",
    "Parent",
    "HostResource",
    "Address",
    "AddressOnParent",
    "PersistentReservationsSupported",
    "StaticMacAddress",
    "EnabledState",
    "LastKnownSwitchName",
    "VirtualQuantity",
    "Reservation",
    "Limit",
    "DynamicMemoryEnabled",
    "TpmEnabled",
    "ShieldingRequested",
    "EncryptStateAndVmMigrationTraffic",
    "OperationMode",
    "AccessVlanId",
    "NativeVlanId",
    "TrunkVlanIdArray",
    "PvlanMode",
];

/// Types of resources that are looked at.
const TYPES: [u16; 11] = [
    resource_type::PROCESSOR,
    resource_type::MEMORY,
    resource_type::IDE,
    resource_type::SCSI,
    resource_type::FIBRE_CHANNEL,
    resource_type::NIC,
    resource_type::FLOPPY_DRIVE,
    resource_type::DVD_DRIVE,
    resource_type::DISK_DRIVE,
    resource_type::MEDIA,
    resource_type::NIC_CONNECTION,
];

/// Classes of resources, for hosts that are not asked for all at once.
const CLASSES: [&str; 8] = [
    objects::RESOURCE,
    objects::STORAGE,
    objects::NIC,
    objects::LEGACY_NIC,
    objects::NIC_CONNECTION,
    objects::MEMORY,
    objects::PROCESSOR,
    objects::FIBRE_CHANNEL,
];

/// Classes that are no resources.
const OTHER_CLASSES: [&str; 2] = [objects::SECURITY, objects::VLAN];

/// Reduces a part to what is looked at.
pub(super) fn slim(mut part: Instance) -> Instance {
    slim_to(&mut part, &KEPT);
    part
}

/// Drops all properties but these, and those that are NULL.
pub(super) fn slim_to(object: &mut Instance, kept: &[&str]) {
    let all: BTreeMap<_, _> = std::mem::take(&mut object.properties.0);
    object.properties.0 = all
        .into_iter()
        .filter(|(name, value)| !value.is_null() && kept.contains(&name.as_str()))
        .collect();
}

impl Host {
    /// Returns the parts of every VM and every checkpoint, by the GUID in their InstanceID.
    pub(super) async fn all_parts(&self) -> Result<HashMap<VmId, Components>, Error> {
        let mut all: HashMap<VmId, Components> = HashMap::new();
        let mut found = self.all_resources().await?;
        for class in OTHER_CLASSES {
            found.extend(self.parts_of_class(class).await?);
        }
        for (owner, part) in found {
            all.entry(owner).or_default().parts.push(part);
        }
        Ok(all)
    }

    /// [U] Asking for a base class gives the objects of all classes derived from it, which is how WMI works everywhere;
    /// that Hyper-V's provider does so with this condition was not seen. A host that refuses is asked class by class.
    async fn all_resources(&self) -> Result<Vec<(VmId, Instance)>, Error> {
        let types: Vec<String> = TYPES
            .iter()
            .map(|number| format!("ResourceType = {number}"))
            .collect();
        let wql = format!(
            "SELECT * FROM CIM_ResourceAllocationSettingData WHERE {}",
            types.join(" OR ")
        );
        match self.owned_parts(&wql).await {
            Err(error)
                if matches!(
                    error.fault_class(),
                    Some(FaultClass::UnknownClass | FaultClass::BadQuery | FaultClass::Unsupported)
                ) =>
            {
                tracing::debug!("asking for resources class by class: {error}");
            }
            result => return result,
        }
        let mut found = Vec::new();
        for class in CLASSES {
            found.extend(self.parts_of_class(class).await?);
        }
        Ok(found)
    }

    /// Old hosts have no class for what they cannot do.
    async fn parts_of_class(&self, class: &str) -> Result<Vec<(VmId, Instance)>, Error> {
        match self.owned_parts(&format!("SELECT * FROM {class}")).await {
            Err(error) if error.fault_class() == Some(FaultClass::UnknownClass) => Ok(Vec::new()),
            result => result,
        }
    }

    async fn owned_parts(&self, wql: &str) -> Result<Vec<(VmId, Instance)>, Error> {
        self.query_map(wql, |part| {
            // Templates (`Microsoft:Definition\...`) belong to nobody.
            let owner = part.text("InstanceID").and_then(owner_guid)?;
            Some((owner, slim(part)))
        })
        .await
    }

    /// Runs a WQL query in the Hyper-V namespace and keeps what `keep` makes of each object.
    pub(super) async fn query_map<T>(
        &self,
        wql: &str,
        keep: impl FnMut(Instance) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.session
            .query_map(wsman::uri::NS_VIRTUALIZATION, wql, keep)
            .await
    }
}
