//! Reference points: where the next incremental backup starts.

use model::{Consistency, VmId};
use wsman::{Instance, Properties, wql_literal};

use super::{Host, objects};
use crate::{Error, ErrorKind};

/// The RCT id of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RctId {
    /// InstanceID of the disk's attachment in the VM (not in a checkpoint).
    pub attachment: String,
    /// The id: opaque text.
    pub rct_id: String,
}

/// A reference point of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferencePoint {
    /// InstanceID.
    pub id: String,
    /// The VM.
    pub vm: VmId,
    /// Consistency of its moment, where the host says.
    pub consistency: Option<Consistency>,
    /// RCT ids by disk; `None` where the host's two lists differ in length, so that some disk has none: all disks are
    /// read whole then.
    pub disks: Option<Vec<RctId>>,
}

impl ReferencePoint {
    /// Returns the RCT id of an attachment; compared without case.
    #[must_use]
    pub fn rct_id(&self, attachment: &str) -> Option<&str> {
        let disks = self.disks.as_deref()?;
        let found = disks
            .iter()
            .find(|disk| disk.attachment.to_lowercase() == attachment.to_lowercase());
        found.map(|disk| disk.rct_id.as_str())
    }
}

impl Host {
    /// Returns the reference points of a VM, everybody's.
    pub async fn reference_points(&self, vm: VmId) -> Result<Vec<ReferencePoint>, Error> {
        let wql = format!(
            "SELECT * FROM {} WHERE VirtualSystemIdentifier = {}",
            objects::REFERENCE_POINT,
            wql_literal(&vm.to_string())
        );
        match self.query(&wql).await {
            Ok(found) => Ok(found
                .iter()
                .filter_map(|instance| read(instance, vm))
                .collect()),
            // Hosts before 2016 do not have the class.
            Err(error) if error.fault_class() == Some(wsman::FaultClass::UnknownClass) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Destroys a reference point; one that is gone is no error.
    pub async fn destroy_reference_point(&self, vm: VmId, id: &str) -> Result<(), Error> {
        let gone = async || -> Result<bool, Error> {
            let left = self.reference_points(vm).await?;
            Ok(!left.iter().any(|point| point.id.eq_ignore_ascii_case(id)))
        };
        if gone().await? {
            return Ok(());
        }
        match self.call_destroy_reference_point(vm, id).await {
            Err(error) if error.kind() == ErrorKind::NotFound && gone().await? => Ok(()),
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                while !gone().await? {
                    lost = self.keep_looking(lost).await?;
                }
                Ok(())
            }
            result => result,
        }
    }

    /// [U] The parameter's name stands in public documentation but was not seen on a real host.
    async fn call_destroy_reference_point(&self, vm: VmId, id: &str) -> Result<(), Error> {
        let parameters =
            Properties::new().with("AffectedReferencePoint", objects::reference_point(id, vm));
        self.call(
            objects::REFERENCE_POINTS,
            "DestroyReferencePoint",
            parameters,
        )
        .await
        .map(drop)
    }
}

/// Reads a reference point; `None` where it has no id.
pub(super) fn read(instance: &Instance, vm: VmId) -> Option<ReferencePoint> {
    let attachments = instance.texts("VirtualDiskIdentifiers");
    let ids = instance.texts("ResilientChangeTrackingIdentifiers");
    // 2 = resilient change tracking; a log based point (1) has no ids worth anything here.
    let tracked = instance.u16("ReferencePointType") != Some(1);
    let paired = tracked && attachments.len() == ids.len() && ids.iter().all(|id| !id.is_empty());
    Some(ReferencePoint {
        id: instance.text("InstanceID")?.to_owned(),
        vm,
        consistency: match instance.u16("ConsistencyLevel") {
            Some(1) => Some(Consistency::Application),
            Some(2) => Some(Consistency::Crash),
            _ => None,
        },
        disks: paired.then(|| {
            attachments
                .into_iter()
                .zip(ids)
                .map(|(attachment, rct_id)| RctId {
                    attachment: attachment.to_owned(),
                    rct_id: rct_id.to_owned(),
                })
                .collect()
        }),
    })
}

#[cfg(test)]
mod tests {
    use wsman::Value;

    use super::*;

    #[test]
    fn a_point_without_an_id_for_every_disk_gives_none() {
        let vm = VmId::random();
        let point = |disks: &[&str], ids: &[&str]| {
            let instance = Instance::new(objects::REFERENCE_POINT)
                .with("InstanceID", "Microsoft:X")
                .with(
                    "VirtualDiskIdentifiers",
                    Value::texts(disks.iter().copied()),
                )
                .with(
                    "ResilientChangeTrackingIdentifiers",
                    Value::texts(ids.iter().copied()),
                );
            read(&instance, vm).unwrap()
        };
        assert_eq!(point(&["A", "B"], &["1", "2"]).rct_id("b"), Some("2"));
        assert_eq!(point(&["A", "B"], &["1"]).disks, None);
        assert_eq!(point(&["A"], &[""]).disks, None);
        assert_eq!(point(&[], &[]).disks, Some(vec![]));
    }
}
