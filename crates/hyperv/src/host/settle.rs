//! Waiting until a host has done with a VM.

use model::VmId;
use tokio::time::Instant;

use super::Host;
use super::vm_objects::activity;
use crate::Error;

impl Host {
    /// Waits until the host is doing nothing with the VM, merging included, within [`super::Limits::settle`].
    pub async fn wait_settled(&self, vm: VmId) -> Result<(), Error> {
        self.wait_until_idle(vm, self.limits.settle).await
    }

    /// Waits until no disk of the VM is being merged, within [`super::Limits::merge`].
    pub async fn wait_merged(&self, vm: VmId) -> Result<(), Error> {
        self.wait_until_idle(vm, self.limits.merge).await
    }

    async fn wait_until_idle(&self, vm: VmId, limit: std::time::Duration) -> Result<(), Error> {
        let start = Instant::now();
        let mut pause = self.limits.first_poll;
        let mut idle_looks = 0;
        loop {
            let busy = match activity(&self.system(vm).await?) {
                None => {
                    idle_looks += 1;
                    // A merge begins a moment after the job that causes it has ended.
                    if idle_looks == 2 {
                        return Ok(());
                    }
                    None
                }
                Some(activity) => {
                    idle_looks = 0;
                    Some(activity)
                }
            };
            if let Some(activity) = busy.filter(|_| start.elapsed() > limit) {
                let what = format!("VM {vm} is still {activity}");
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
