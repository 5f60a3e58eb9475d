//! What a host has, as its agent lists it.

use std::collections::HashSet;

use api::agent_v1::Inventory;
use axum::extract::State;
use axum::http::StatusCode;
use catalog::VmSeen;
use model::VmId;

use super::{Peer, enrol::printable};
use crate::app::Shared;
use crate::clock;
use crate::http::{ApiError, ApiResult, Json};

/// More VMs than any host has.
const MAX_VMS: usize = 10_000;

/// `POST /agent/v1/inventory`.
pub(super) async fn take(
    State(app): State<Shared>,
    peer: Peer,
    Json(inventory): Json<Inventory>,
) -> ApiResult<StatusCode> {
    let host = inventory.host.id;
    if peer.0.host != Some(host) {
        return Err(ApiError::conflict(format!(
            "this agent does not serve host {host}; poll with the host first"
        )));
    }
    if inventory.vms.len() > MAX_VMS {
        return Err(ApiError::bad_request(format!("more than {MAX_VMS} VMs")));
    }
    let mut seen = HashSet::new();
    let mut vms = Vec::with_capacity(inventory.vms.len());
    let running = inventory.vms.iter().filter(|vm| vm.state == "running");
    let running: Vec<VmId> = running.map(|vm| vm.id).collect();
    for vm in inventory.vms {
        if !seen.insert(vm.id) {
            return Err(ApiError::bad_request(format!(
                "VM {} is listed twice",
                vm.id
            )));
        }
        let summary = serde_json::to_value(&vm).map_err(ApiError::internal)?;
        vms.push(VmSeen {
            id: vm.id,
            name: printable(&vm.name, 512),
            summary,
        });
    }
    let now = clock::now();
    app.catalog.update_inventory(host, &vms, now).await?;
    app.catalog.note_running(host, &running, now).await?;
    app.polls.note_inventory(peer.0.id, now);
    Ok(StatusCode::NO_CONTENT)
}
