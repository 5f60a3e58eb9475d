//! The host as the agent was told to reach it: driver, files, readiness.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use api::agent_v1::{HostIdentity, Inventory, InventoryDisk, InventoryVm, Readiness};
use hyperv::{
    Authentication, Credentials, Endpoint, Host, HostFacts, HostFiles, PathMap, Recorder, VmSummary,
};
use model::{ControllerKind, Generation, PowerState, VmConfig};
use secrecy::SecretString;

use crate::options::{HostAuth, HostOptions};

/// Makes the driver and the file access of a host; nothing is sent yet.
pub(crate) fn connect(options: &HostOptions) -> anyhow::Result<(Host, Arc<HostFiles>)> {
    let credentials = match (&options.user, &options.password_file) {
        (None, None) => None,
        (Some(user), Some(file)) => {
            let text = fs::read_to_string(file)
                .with_context(|| format!("read the password file {}", file.display()))?;
            let password = text.lines().next().unwrap_or_default().to_owned();
            Some(Credentials {
                user: user.clone(),
                password: SecretString::from(password),
            })
        }
        (Some(_), None) => bail!("--host-user needs --host-password-file"),
        (None, Some(_)) => bail!("--host-password-file needs --host-user"),
    };
    let trust = match &options.ca {
        None => hyperv::Trust::System,
        Some(text) => match api_client::Trust::from_text(text)? {
            api_client::Trust::Fingerprint(fingerprint) => hyperv::Trust::Fingerprint(fingerprint),
            api_client::Trust::CaPem(pem) => hyperv::Trust::CaPem(pem),
            api_client::Trust::System => hyperv::Trust::System,
        },
    };
    let mut endpoint = Endpoint::new(wsman_url(&options.url));
    endpoint.credentials = credentials;
    endpoint.authentication = match options.auth {
        HostAuth::Auto => Authentication::Auto,
        HostAuth::Basic => Authentication::Basic,
        HostAuth::Ntlm => Authentication::Ntlm,
    };
    endpoint.trust = trust;
    let host = Host::new(&endpoint).context("set up the host's driver")?;
    if let Some(file) = &options.record {
        let recorder = Recorder::create(file);
        let recorder =
            recorder.with_context(|| format!("make the recording {}", file.display()))?;
        host.session().record(Arc::new(recorder));
    }
    let map = if options.path_map.is_empty() {
        PathMap::on_the_host()
    } else {
        let entries = options
            .path_map
            .iter()
            .map(|(host, local)| (host.as_str(), local.as_path()));
        PathMap::new(entries).context("read the path map")?
    };
    Ok((host, Arc::new(HostFiles::new(map))))
}

/// Adds the path of the service where the address has none.
fn wsman_url(url: &str) -> String {
    let bare = url.trim_end_matches('/');
    let authority = bare.split_once("://").map_or(bare, |(_, rest)| rest);
    if authority.contains('/') {
        bare.to_owned()
    } else {
        format!("{bare}/wsman")
    }
}

/// Says who a host is.
pub(crate) fn identity(facts: &HostFacts) -> HostIdentity {
    HostIdentity {
        id: facts.id,
        name: facts.name.clone(),
        os_version: facts.os_version.clone(),
    }
}

/// Looks whether the agent can back up and restore on the host now (S9, S11): service, rights, path map.
pub(crate) async fn readiness(
    host: &Host,
    files: &Arc<HostFiles>,
) -> (Readiness, Option<HostFacts>) {
    let facts = match host.facts().await {
        Ok(facts) => facts,
        Err(error) => {
            return (
                Readiness::NotReady {
                    reason: format!("{:#}", anyhow::Error::new(error)),
                },
                None,
            );
        }
    };
    if let hyperv::Readiness::NotReady { reason } = &facts.readiness {
        return (
            Readiness::NotReady {
                reason: reason.clone(),
            },
            Some(facts),
        );
    }
    let checked = Arc::clone(files);
    let volumes: Vec<String> = facts
        .volumes
        .iter()
        .map(|volume| volume.path.clone())
        .collect();
    // Every volume of the host must be reachable through the path map, or a backup would fail half-way.
    let missing = tokio::task::spawn_blocking(move || {
        volumes
            .into_iter()
            .find_map(|path| match checked.list(&path) {
                Ok(_) => None,
                Err(error) => Some((path, error)),
            })
    })
    .await;
    let readiness = match missing {
        Ok(None) => Readiness::Ready,
        Ok(Some((path, error))) => Readiness::NotReady {
            reason: format!(
                "the host's volume {path} cannot be reached through the path map: {:#}",
                anyhow::Error::new(error)
            ),
        },
        Err(error) => Readiness::NotReady {
            reason: format!("the path map could not be checked: {error}"),
        },
    };
    (readiness, Some(facts))
}

/// Returns the inventory of a host.
pub(crate) fn inventory<'v>(
    facts: &HostFacts,
    vms: impl IntoIterator<Item = &'v VmSummary>,
) -> Inventory {
    Inventory {
        host: identity(facts),
        vms: vms.into_iter().map(inventory_vm).collect(),
    }
}

fn inventory_vm(vm: &VmSummary) -> InventoryVm {
    let disks = vm
        .config
        .disks()
        .map(|(controller, drive, path)| InventoryDisk {
            path: path.to_owned(),
            slot: slot_text(controller.kind, controller.number, drive.slot),
        });
    InventoryVm {
        id: vm.config.id,
        name: vm.config.name.clone(),
        state: power_text(vm.power).to_owned(),
        generation: match vm.config.generation {
            Generation::Gen1 => 1,
            Generation::Gen2 => 2,
        },
        version: vm.config.version.clone(),
        disks: disks.collect(),
        checkpoints: u32::try_from(vm.checkpoints).unwrap_or(u32::MAX),
        unsupported: vm
            .unsupported
            .iter()
            .map(|item| item.what.clone())
            .collect(),
        macs: macs(&vm.config),
    }
}

/// Returns the MAC addresses of a VM's adapters.
pub(crate) fn macs(vm: &VmConfig) -> Vec<String> {
    vm.nics.iter().filter_map(|nic| nic.mac.clone()).collect()
}

/// Shows a slot: `scsi 0:1`.
pub(crate) fn slot_text(kind: ControllerKind, number: u32, slot: u32) -> String {
    let kind = match kind {
        ControllerKind::Ide => "ide",
        ControllerKind::Scsi => "scsi",
    };
    format!("{kind} {number}:{slot}")
}

fn power_text(power: PowerState) -> &'static str {
    match power {
        PowerState::Running => "running",
        PowerState::Off => "off",
        PowerState::Paused => "paused",
        PowerState::Saved => "saved",
        PowerState::Changing => "changing",
        PowerState::Unknown => "unknown",
    }
}
