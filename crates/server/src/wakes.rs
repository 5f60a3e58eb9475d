//! Wakes held polls when there may be work for their host.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use model::HostId;
use tokio::sync::watch;

/// A number per host that grows whenever something about its jobs has changed.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    hosts: Mutex<HashMap<HostId, watch::Sender<u64>>>,
}

/// Waits for the next wake of one host.
#[derive(Debug)]
pub(crate) struct Woken(Option<watch::Receiver<u64>>);

impl Wakes {
    /// Wakes from now on are seen by [`Woken::changed`]; without a host there are none.
    pub(crate) fn subscribe(&self, host: Option<HostId>) -> Woken {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        Woken(host.map(|host| {
            hosts
                .entry(host)
                .or_insert_with(|| watch::channel(0).0)
                .subscribe()
        }))
    }

    /// Wakes the polls of a host.
    pub(crate) fn wake(&self, host: HostId) {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = hosts.get(&host) {
            sender.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// Wakes all polls.
    pub(crate) fn wake_all(&self) {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in hosts.values() {
            sender.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
}

impl Woken {
    /// Returns once the host was woken since the last call.
    pub(crate) async fn changed(&mut self) {
        if let Some(receiver) = &mut self.0
            && receiver.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
