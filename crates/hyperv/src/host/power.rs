//! Power of VMs, and their end.

use model::{PowerState, VmId};
use tokio::time::Instant;
use wsman::{Epr, Properties, uri, wql_literal};

use super::vm_objects::power_state;
use super::{Host, objects};
use crate::{Error, ErrorKind};

/// Values of RequestStateChange.
mod request {
    pub(super) const START: u16 = 2;
    pub(super) const TURN_OFF: u16 = 3;
    pub(super) const SAVE: u16 = 6;
    pub(super) const PAUSE: u16 = 9;
}

impl Host {
    /// Starts a VM; one that runs is no error.
    pub async fn start(&self, vm: VmId) -> Result<(), Error> {
        self.bring_to(vm, PowerState::Running, request::START).await
    }

    /// Turns a VM off as pulling the plug does; one that is off is no error.
    pub async fn turn_off(&self, vm: VmId) -> Result<(), Error> {
        self.bring_to(vm, PowerState::Off, request::TURN_OFF).await
    }

    /// Saves a VM's memory and stops it; one that is off or saved is no error.
    pub async fn save(&self, vm: VmId) -> Result<(), Error> {
        if power_state(&self.system(vm).await?) == PowerState::Off {
            return Ok(());
        }
        self.bring_to(vm, PowerState::Saved, request::SAVE).await
    }

    /// Holds a running VM in memory; one that is paused is no error.
    pub async fn pause_vm(&self, vm: VmId) -> Result<(), Error> {
        self.bring_to(vm, PowerState::Paused, request::PAUSE).await
    }

    /// Asks the guest to shut down and waits until the VM is off, within [`super::Limits::settle`].
    pub async fn shut_down(&self, vm: VmId) -> Result<(), Error> {
        if power_state(&self.system(vm).await?) == PowerState::Off {
            return Ok(());
        }
        let wql = format!(
            "SELECT * FROM Msvm_ShutdownComponent WHERE SystemName = {}",
            wql_literal(&vm.to_string())
        );
        let components = self
            .session
            .query_eprs(uri::NS_VIRTUALIZATION, &wql)
            .await?;
        let component = components.first().ok_or_else(|| Error::Unsupported {
            what: format!(
                "the guest of VM {vm} has no shutdown service; shut it down inside, or turn it off"
            ),
        })?;
        let parameters = Properties::new()
            .with("Force", true)
            .with("Reason", "Reprise restores this VM");
        match self
            .call_on(component, "InitiateShutdown", parameters)
            .await
        {
            // The guest shows whether it heard.
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                tracing::warn!("waiting for VM {vm} to shut down all the same: {error}");
            }
            result => result.map(drop)?,
        }
        self.wait_for_power(vm, PowerState::Off).await
    }

    /// Destroys a VM that is off or saved; one that is gone is no error. Its disk files stay; checkpoints are merged by
    /// the host.
    pub async fn destroy_vm(&self, vm: VmId) -> Result<(), Error> {
        self.destroy_system(objects::vm(vm)).await
    }

    pub(super) async fn destroy_system(&self, system: Epr) -> Result<(), Error> {
        let gone = async || match self.session.get(&system).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        };
        if gone().await? {
            return Ok(());
        }
        let parameters = Properties::new().with("AffectedSystem", system.clone());
        match self
            .call(objects::MANAGEMENT, "DestroySystem", parameters)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound && gone().await? => Ok(()),
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                while !gone().await? {
                    lost = self.keep_looking(lost).await?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn bring_to(&self, vm: VmId, state: PowerState, request: u16) -> Result<(), Error> {
        if power_state(&self.system(vm).await?) == state {
            return Ok(());
        }
        let parameters = Properties::new().with("RequestedState", request);
        match self
            .call_on(&objects::vm(vm), "RequestStateChange", parameters)
            .await
        {
            Ok(_) => self.wait_for_power(vm, state).await,
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let mut lost = self.lost(error);
                while power_state(&self.system(vm).await?) != state {
                    lost = self.keep_looking(lost).await?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn wait_for_power(&self, vm: VmId, wanted: PowerState) -> Result<(), Error> {
        let start = Instant::now();
        let mut pause = self.limits.first_poll;
        loop {
            let state = power_state(&self.system(vm).await?);
            if state == wanted {
                return Ok(());
            }
            if start.elapsed() > self.limits.settle {
                let what = format!("VM {vm} is still {}", name(state));
                return Err(Error::StillBusy {
                    what,
                    waited: start.elapsed(),
                });
            }
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled {
                    method: format!("waiting for VM {vm}"),
                });
            }
            self.pause(&mut pause, true).await;
        }
    }
}

fn name(state: PowerState) -> &'static str {
    match state {
        PowerState::Running => "running",
        PowerState::Off => "off",
        PowerState::Paused => "paused",
        PowerState::Saved => "saved",
        PowerState::Changing => "changing its state",
        PowerState::Unknown => "in a state unknown to Reprise",
    }
}
