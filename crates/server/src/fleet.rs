//! What the server knows of the VMs of all hosts that a restore on one of them should know.

use std::collections::HashMap;

use api::agent_v1::{InventoryVm, KnownVm};
use model::{HostId, RecoveryPoint, RestoreWish};

use crate::app::App;
use crate::http::ApiResult;

/// Returns the VMs of other hosts that may share an id, a name or a MAC address with what is restored.
pub(crate) async fn known_elsewhere(
    app: &App,
    host: HostId,
    point: &RecoveryPoint,
    wish: &RestoreWish,
) -> ApiResult<Vec<KnownVm>> {
    let agents = app.catalog.agents().await?;
    // The newest enrolment comes first and counts.
    let hosts: HashMap<HostId, String> = agents
        .into_iter()
        .rev()
        .filter_map(|agent| Some((agent.host?, agent.host_name.unwrap_or(agent.machine))))
        .collect();
    let macs: Vec<String> = point
        .vm
        .nics
        .iter()
        .filter_map(|nic| nic.mac.as_deref().map(digits))
        .collect();
    let names = [Some(point.vm.name.as_str()), wish.name.as_deref()];
    let names: Vec<String> = names.into_iter().flatten().map(str::to_lowercase).collect();
    let mut known = Vec::new();
    for vm in app.catalog.vms(None).await? {
        if vm.host == host || vm.gone.is_some() {
            continue;
        }
        let listed: Option<InventoryVm> = serde_json::from_value(vm.summary).ok();
        let own = listed.map(|listed| listed.macs).unwrap_or_default();
        let same_mac = own.iter().any(|mac| macs.contains(&digits(mac)));
        if vm.id == point.vm.id || names.contains(&vm.name.to_lowercase()) || same_mac {
            known.push(KnownVm {
                id: vm.id,
                name: vm.name,
                host: hosts.get(&vm.host).cloned().unwrap_or_default(),
                macs: own,
            });
        }
    }
    Ok(known)
}

/// MAC addresses are written with and without separators.
fn digits(mac: &str) -> String {
    mac.chars()
        .filter(char::is_ascii_hexdigit)
        .map(|digit| digit.to_ascii_lowercase())
        .collect()
}
