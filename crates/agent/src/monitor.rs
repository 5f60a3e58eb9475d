//! Watches the host beside the poll: whether it is ready, and which VMs it has.
//!
//! The server learns of a change within seconds, though a poll may be held for half a minute: a change of readiness ends
//! the poll, a change of the VMs is sent as a new inventory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::agent_v1::{Inventory, InventoryVm, Readiness};
use api_client::Agent;
use hyperv::HostFacts;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::host;
use crate::worker::Shared;

/// Shortest pause between two looks; a host that answers slowly is asked less often.
const LOOK: Duration = Duration::from_secs(2);
/// A look takes at most this share of the time.
const SHARE: u32 = 20;

/// The host as last seen.
#[derive(Clone, Debug)]
pub(crate) struct HostState {
    /// Whether it can work.
    pub(crate) readiness: Readiness,
    /// What it is, where it was reached.
    pub(crate) facts: Option<Arc<HostFacts>>,
}

/// What the monitor and the poll tell each other.
#[derive(Debug)]
pub(crate) struct Monitor {
    /// The host as last seen; changes when its readiness does.
    pub(crate) state: watch::Sender<Option<HostState>>,
    /// The server wants the inventory, changed or not.
    pub(crate) inventory_wanted: Notify,
}

impl Monitor {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(None),
            inventory_wanted: Notify::new(),
        }
    }

    /// Watches until dropped.
    pub(crate) async fn run(&self, shared: &Shared, server: watch::Receiver<Agent>) {
        let mut sent: Option<Vec<InventoryVm>> = None;
        let mut seen = hyperv::Inventory::new();
        loop {
            let begun = Instant::now();
            let (readiness, facts) = host::readiness(&shared.host, &shared.files).await;
            let facts = facts.map(Arc::new);
            let new = HostState { readiness, facts };
            self.state.send_if_modified(|state| {
                let changed = state
                    .as_ref()
                    .is_none_or(|state| state.readiness != new.readiness);
                if changed {
                    log(&new.readiness);
                }
                *state = Some(new.clone());
                changed
            });
            if let (Readiness::Ready, Some(facts)) = (&new.readiness, &new.facts) {
                let _turn = shared.inventory_turn.acquire().await;
                match seen.refresh(&shared.host).await {
                    Ok(()) => {
                        let inventory = host::inventory(facts, seen.vms());
                        if sent.as_ref() != Some(&inventory.vms) && send(&server, &inventory).await
                        {
                            sent = Some(inventory.vms);
                        }
                    }
                    Err(error) => warn!(
                        "cannot list the VMs of the host: {}",
                        crate::errors::chain(&error)
                    ),
                }
            }
            let pause = LOOK.max(begun.elapsed() * SHARE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inventory_wanted.notified() => sent = None,
            }
        }
    }
}

fn log(readiness: &Readiness) {
    match readiness {
        Readiness::Ready => info!("the host is ready"),
        Readiness::NotReady { reason } => warn!("the host is not ready: {reason}"),
    }
}

async fn send(server: &watch::Receiver<Agent>, inventory: &Inventory) -> bool {
    let server = server.borrow().clone();
    match server.inventory(inventory).await {
        Ok(()) => true,
        Err(error) => {
            warn!("cannot send the inventory: {error}");
            false
        }
    }
}
