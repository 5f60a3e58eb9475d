//! Who the VM was and who it will be: id, name, adapters; and who else is known by the same.

use std::fmt;

use model::{Nic, RecoveryPoint, RestoreScope, RestoreWish, VmId};

use super::{HostFacts, names, over, vm};

/// Who the VM was and who it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identities {
    /// In the recovery point.
    pub before: VmIdentity,
    /// Once restored.
    pub after: VmIdentity,
    /// VMs known by the same id, MAC address or name.
    pub collisions: Vec<Collision>,
}

/// What a VM is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmIdentity {
    /// Its id; `None`: the host makes one.
    pub id: Option<VmId>,
    /// Its display name.
    pub name: String,
    /// Its network adapters.
    pub adapters: Vec<Adapter>,
}

/// What a network adapter is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// Its MAC address; `None`: the host makes one.
    pub mac: Option<String>,
    /// The switch it is connected to; `None`: disconnected.
    pub switch: Option<String>,
}

/// A VM that shares something with the restored one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collision {
    /// What they share.
    pub shared: Shared,
    /// The other VM.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: String,
}

/// What two VMs share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    /// The id.
    Id,
    /// The display name.
    Name,
    /// A MAC address.
    Mac(String),
}

/// Tells who the VM will be; `None` for disks alone.
#[must_use]
pub fn plan_identities(
    point: &RecoveryPoint,
    wish: &RestoreWish,
    facts: &HostFacts,
) -> Option<Identities> {
    match &wish.scope {
        RestoreScope::Disks { .. } => return None,
        RestoreScope::Vm => {}
    }
    let adapters = |of: &dyn Fn(&Nic) -> Adapter| point.vm.nics.iter().map(of).collect();
    let before = VmIdentity {
        id: Some(point.vm.id),
        name: point.vm.name.clone(),
        adapters: adapters(&|nic| Adapter {
            name: nic.name.clone(),
            mac: nic.mac.clone(),
            switch: nic.switch.as_ref().map(|switch| switch.name.clone()),
        }),
    };
    let after = VmIdentity {
        id: vm::keeps_id(wish).then_some(point.vm.id),
        name: names::vm_name(point, wish, facts),
        adapters: adapters(&|nic| Adapter {
            name: nic.name.clone(),
            mac: nic.mac.clone().filter(|_| vm::keeps_mac(wish)),
            switch: vm::switch_of(nic, wish, facts),
        }),
    };
    let replaced = over::standing(point, wish, facts).map(|vm| vm.id);
    let collisions = collisions(&after, replaced, facts);
    Some(Identities {
        before,
        after,
        collisions,
    })
}

/// Looks for others by the same id, name or MAC address. A VM of the target host with the id or the name is refused by
/// the plan itself; on another host it may be meant. The VM that is replaced is nobody else.
fn collisions(after: &VmIdentity, replaced: Option<VmId>, facts: &HostFacts) -> Vec<Collision> {
    let mut found = Vec::new();
    let macs: Vec<&String> = after
        .adapters
        .iter()
        .filter_map(|adapter| adapter.mac.as_ref())
        .collect();
    let shared_macs = |others: &[String]| -> Vec<Shared> {
        macs.iter()
            .filter(|mac| others.iter().any(|other| same_mac(other, mac)))
            .map(|mac| Shared::Mac((*mac).clone()))
            .collect()
    };
    for other in &facts.elsewhere {
        let id = (after.id == Some(other.id)).then_some(Shared::Id);
        let name = vm::same(&after.name, &other.name).then_some(Shared::Name);
        for shared in id.into_iter().chain(name).chain(shared_macs(&other.macs)) {
            found.push(Collision {
                shared,
                vm: other.id,
                name: other.name.clone(),
                host: other.host.clone(),
            });
        }
    }
    for other in facts.vms.iter().filter(|vm| Some(vm.id) != replaced) {
        for shared in shared_macs(&other.macs) {
            found.push(Collision {
                shared,
                vm: other.id,
                name: other.name.clone(),
                host: facts.name.clone(),
            });
        }
    }
    found
}

/// MAC addresses are written with and without separators.
fn same_mac(a: &str, b: &str) -> bool {
    let digits = |text: &str| -> String {
        text.chars()
            .filter(char::is_ascii_hexdigit)
            .map(|digit| digit.to_ascii_lowercase())
            .collect()
    };
    digits(a) == digits(b)
}

impl Shared {
    /// Returns the stable name of what is shared.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Shared::Id => "id",
            Shared::Name => "name",
            Shared::Mac(_) => "mac",
        }
    }
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shared {
            Shared::Id => write!(f, "the id {}", self.vm)?,
            Shared::Name => write!(f, "the name {:?}", self.name)?,
            Shared::Mac(mac) => write!(f, "the MAC address {mac}")?,
        }
        write!(
            f,
            " is also that of VM {:?} ({}) on host {}",
            self.name, self.vm, self.host
        )
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "adapter {:?}: ", self.name)?;
        match &self.mac {
            Some(mac) => write!(f, "MAC address {mac}")?,
            None => f.write_str("a new MAC address")?,
        }
        match &self.switch {
            Some(switch) => write!(f, ", connected to {switch:?}"),
            None => f.write_str(", disconnected"),
        }
    }
}
