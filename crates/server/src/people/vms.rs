//! VMs: what the hosts list, how they are protected.

use std::collections::{HashMap, HashSet};

use api::agent_v1::InventoryVm;
use api::codes;
use api::v1::{NamedRef, Page, ProtectRequest, Protection, Vm, VmDisk};
use axum::extract::State;
use axum::http::StatusCode;
use catalog::Target;
use model::{HostId, PointId, Timestamp, VmId};

use super::policies;
use crate::app::{App, Shared};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json, PathId};

/// Name of the policy of VMs for which none was named.
pub(crate) const DEFAULT_POLICY: &str = "default";
const MAX_EXCLUDED: usize = 1000;

/// Lists the VMs of all hosts.
#[utoipa::path(get, path = "/api/v1/vms", tag = "vms", responses((status = 200, body = Page<Vm>)))]
pub(super) async fn list(State(app): State<Shared>) -> ApiResult<Json<Page<Vm>>> {
    ask_hosts(&app);
    let view = View::load(&app).await?;
    let items = app
        .catalog
        .vms(None)
        .await?
        .iter()
        .map(|vm| view.describe(vm))
        .collect();
    Ok(Json(Page { items, next: None }))
}

/// Returns a VM.
#[utoipa::path(
    get, path = "/api/v1/vms/{vm}", tag = "vms", params(("vm" = String, Path, description = "Id or unique name")),
    responses((status = 200, body = Vm), (status = 404, body = api::Problem), (status = 409, body = api::Problem))
)]
pub(super) async fn show(
    State(app): State<Shared>,
    PathId(vm): PathId<String>,
) -> ApiResult<Json<Vm>> {
    describe_one(&app, &listed(&app, &vm).await?).await
}

/// Puts a VM under a policy, or changes how it is protected.
#[utoipa::path(
    put, path = "/api/v1/vms/{vm}/protection", tag = "vms", params(("vm" = String, Path, description = "Id or unique name")),
    request_body = ProtectRequest, responses((status = 200, body = Vm), (status = 404, body = api::Problem))
)]
pub(super) async fn protect(
    State(app): State<Shared>,
    PathId(vm): PathId<String>,
    caller: Caller,
    Json(request): Json<ProtectRequest>,
) -> ApiResult<Json<Vm>> {
    let vm = listed(&app, &vm).await?;
    let before = app.catalog.protection(vm.id).await?;
    let policy = match (&request.policy, &before) {
        (Some(policy), _) => policies::find(&app, policy).await?.id,
        (None, Some(before)) => before.policy,
        (None, None) => policies::find(&app, DEFAULT_POLICY).await?.id,
    };
    let kept = before.map(|before| before.excluded).unwrap_or_default();
    let excluded = match request.excluded {
        Some(excluded) => check_excluded(&vm, excluded, &kept)?,
        None => kept,
    };
    let target = Target {
        id: vm.id,
        name: vm.name.clone(),
    };
    app.catalog
        .protect(
            &target,
            vm.host,
            policy,
            &excluded,
            &caller.actor,
            clock::now(),
        )
        .await?;
    describe_one(&app, &vm).await
}

/// Ends the protection of a VM; its recovery points stay.
#[utoipa::path(
    delete, path = "/api/v1/vms/{vm}/protection", tag = "vms", params(("vm" = String, Path, description = "Id or unique name")),
    responses((status = 204), (status = 404, body = api::Problem))
)]
pub(super) async fn unprotect(
    State(app): State<Shared>,
    PathId(vm): PathId<String>,
    caller: Caller,
) -> ApiResult<StatusCode> {
    let vm = resolve(&app, &vm).await?;
    app.catalog
        .unprotect(vm.id, &caller.actor, clock::now())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_excluded(
    vm: &catalog::Vm,
    excluded: Vec<String>,
    kept: &[String],
) -> ApiResult<Vec<String>> {
    if excluded.len() > MAX_EXCLUDED {
        return Err(ApiError::bad_request(format!(
            "more than {MAX_EXCLUDED} disks to leave out"
        )));
    }
    let disks = summary(vm).map(|summary| summary.disks).unwrap_or_default();
    let mut checked: Vec<String> = Vec::new();
    for path in excluded {
        let same = |other: &str| other.eq_ignore_ascii_case(&path);
        let listed = disks
            .iter()
            .find(|disk| same(&disk.path))
            .map(|disk| disk.path.clone());
        let known = listed.or_else(|| kept.iter().find(|kept| same(kept)).cloned());
        let path = known.ok_or_else(|| {
            let have: Vec<&str> = disks.iter().map(|disk| disk.path.as_str()).collect();
            ApiError::bad_request(format!("{} has no disk {path:?}", vm.name))
                .hint(format!("its disks are: {}", have.join(", ")))
        })?;
        if !checked.contains(&path) {
            checked.push(path);
        }
    }
    Ok(checked)
}

/// A VM that was named, also one that only recovery points know.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) id: VmId,
    pub(super) name: String,
}

/// Finds a VM by id or unique name, also one that no host lists any more.
pub(super) async fn resolve(app: &App, text: &str) -> ApiResult<Resolved> {
    let mut candidates = Vec::new();
    let id = text.parse::<VmId>().ok();
    let rows = match id {
        Some(id) => app.catalog.vm_by_id(id).await?,
        None => app.catalog.vms_by_name(text).await?,
    };
    // Those that are there come before those that are gone.
    let present: Vec<&catalog::Vm> = rows.iter().filter(|vm| vm.gone.is_none()).collect();
    let rows: Vec<&catalog::Vm> = if present.is_empty() {
        rows.iter().collect()
    } else {
        present
    };
    candidates.extend(rows.iter().map(|vm| Resolved {
        id: vm.id,
        name: vm.name.clone(),
    }));
    if candidates.is_empty() {
        for (vm, name, _, _) in app.catalog.latest_points().await? {
            if Some(vm) == id || name == text {
                candidates.push(Resolved { id: vm, name });
            }
        }
    }
    let mut seen = HashSet::new();
    candidates.retain(|vm| seen.insert(vm.id));
    match candidates.as_slice() {
        [] => {
            ask_hosts(app);
            Err(ApiError::not_found(format!("there is no VM {text:?}"))
                .hint("`reprise vm list` shows the VMs; a new one is listed within seconds"))
        }
        [vm] => Ok(vm.clone()),
        several => {
            let ids: Vec<String> = several.iter().map(|vm| vm.id.to_string()).collect();
            Err(ApiError::new(
                codes::AMBIGUOUS,
                format!("{} VMs are called {text:?}: {}", ids.len(), ids.join(", ")),
            )
            .hint("name the VM by its id"))
        }
    }
}

/// Asks the agents that wait for work what their hosts have now, unless they have just said.
fn ask_hosts(app: &App) {
    if app.polls.refresh_inventories(clock::now()) {
        app.wakes.wake_all();
    }
}

/// Finds a VM that a host lists or listed.
pub(super) async fn listed(app: &App, text: &str) -> ApiResult<catalog::Vm> {
    let vm = resolve(app, text).await?;
    let rows = app.catalog.vm_by_id(vm.id).await?;
    rows.into_iter().next().ok_or_else(|| {
        ApiError::not_found(format!(
            "no host lists {}; only recovery points of it are left",
            vm.name
        ))
        .hint("`reprise point list` shows them, `reprise restore start` brings it back")
    })
}

fn summary(vm: &catalog::Vm) -> Option<InventoryVm> {
    serde_json::from_value(vm.summary.clone()).ok()
}

async fn describe_one(app: &App, vm: &catalog::Vm) -> ApiResult<Json<Vm>> {
    Ok(Json(View::load(app).await?.describe(vm)))
}

/// What the descriptions of VMs are put together from.
struct View {
    hosts: HashMap<HostId, String>,
    policies: HashMap<String, String>,
    protections: HashMap<VmId, catalog::Protection>,
    latest: HashMap<VmId, (PointId, Timestamp)>,
}

impl View {
    async fn load(app: &App) -> ApiResult<Self> {
        let agents = app.catalog.agents().await?;
        let hosts = agents
            .into_iter()
            .rev()
            .filter_map(|agent| Some((agent.host?, agent.host_name.unwrap_or(agent.machine))))
            .collect();
        let policies = app.catalog.policies().await?;
        let protections = app.catalog.protections().await?;
        let latest = app.catalog.latest_points().await?;
        Ok(Self {
            hosts,
            policies: policies
                .into_iter()
                .map(|p| (p.id.to_string(), p.spec.name))
                .collect(),
            protections: protections.into_iter().map(|p| (p.vm.id, p)).collect(),
            latest: latest
                .into_iter()
                .map(|(vm, _, id, created)| (vm, (id, created)))
                .collect(),
        })
    }

    fn describe(&self, vm: &catalog::Vm) -> Vm {
        let summary = summary(vm);
        let protection = self.protections.get(&vm.id);
        let excluded = protection
            .map(|p| p.excluded.as_slice())
            .unwrap_or_default();
        let latest = self.latest.get(&vm.id);
        let state = match (&vm.gone, &summary) {
            (Some(_), _) => "gone".to_owned(),
            (None, Some(summary)) => summary.state.clone(),
            (None, None) => "unknown".to_owned(),
        };
        let disks = summary
            .as_ref()
            .map(|summary| summary.disks.as_slice())
            .unwrap_or_default();
        Vm {
            id: vm.id.to_string(),
            name: vm.name.clone(),
            host: NamedRef {
                id: vm.host.to_string(),
                name: self.hosts.get(&vm.host).cloned().unwrap_or_default(),
            },
            state,
            generation: summary.as_ref().map_or(0, |summary| summary.generation),
            version: summary
                .as_ref()
                .map(|summary| summary.version.clone())
                .unwrap_or_default(),
            disks: disks
                .iter()
                .map(|disk| VmDisk {
                    path: disk.path.clone(),
                    slot: disk.slot.clone(),
                    excluded: excluded
                        .iter()
                        .any(|path| path.eq_ignore_ascii_case(&disk.path)),
                })
                .collect(),
            checkpoints: summary.as_ref().map_or(0, |summary| summary.checkpoints),
            unsupported: summary
                .map(|summary| summary.unsupported)
                .unwrap_or_default(),
            protection: protection.map(|protection| {
                let id = protection.policy.to_string();
                let name = self.policies.get(&id).cloned().unwrap_or_default();
                Protection {
                    policy: NamedRef { id, name },
                    next: protection.next_due.map(|due| due.to_string()),
                    excluded: protection.excluded.clone(),
                }
            }),
            latest_point: latest.map(|(id, _)| id.to_string()),
            latest_point_created: latest.map(|(_, created)| created.to_string()),
        }
    }
}
