//! VMs as the hosts last listed them. A VM that vanished is kept and marked: its recovery points still name it.

use model::{HostId, Timestamp, VmId};
use serde_json::Value;

use crate::db::{Row, db};
use crate::row::{Columns, to_json};
use crate::{Catalog, CatalogError};

/// A VM on a host's list.
#[derive(Clone, Debug)]
pub struct VmSeen {
    /// Id.
    pub id: VmId,
    /// Display name.
    pub name: String,
    /// What the list says of it; the server's format.
    pub summary: Value,
}

/// A VM of a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Vm {
    /// Id.
    pub id: VmId,
    /// Its host.
    pub host: HostId,
    /// Display name.
    pub name: String,
    /// What the host's list said of it.
    pub summary: Value,
    /// When it was first on a list.
    pub first_seen: Timestamp,
    /// When it was last on a list.
    pub seen: Timestamp,
    /// When it was first missing from a list, where it still is.
    pub gone: Option<Timestamp>,
}

impl Catalog {
    /// Takes over a host's list: adds and updates what is on it, marks what is not.
    pub async fn update_inventory(
        &self,
        host: HostId,
        vms: &[VmSeen],
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let action = "store a host's list of VMs";
        let mut tx = self.write(action).await?;
        for vm in vms {
            sqlx::query(
                "INSERT INTO vms (host_id, vm_id, name, summary, first_seen, seen) VALUES ($1, $2, $3, $4, $5, $5)
                 ON CONFLICT (host_id, vm_id) DO UPDATE
                 SET name = excluded.name, summary = excluded.summary, seen = excluded.seen, gone = NULL",
            )
            .bind(host.to_string())
            .bind(vm.id.to_string())
            .bind(&vm.name)
            .bind(to_json(&vm.summary)?)
            .bind(now.as_millis())
            .execute(&mut *tx)
            .await
            .map_err(db(action))?;
        }
        let rows = sqlx::query("SELECT vm_id FROM vms WHERE host_id = $1 AND gone IS NULL")
            .bind(host.to_string())
            .fetch_all(&mut *tx)
            .await
            .map_err(db(action))?;
        let listed: std::collections::HashSet<VmId> = vms.iter().map(|vm| vm.id).collect();
        for row in rows {
            let id: VmId = row.parsed("vm_id")?;
            if !listed.contains(&id) {
                sqlx::query("UPDATE vms SET gone = $3 WHERE host_id = $1 AND vm_id = $2")
                    .bind(host.to_string())
                    .bind(id.to_string())
                    .bind(now.as_millis())
                    .execute(&mut *tx)
                    .await
                    .map_err(db(action))?;
            }
        }
        tx.commit().await
    }

    /// Lists VMs by name, of one host or of all.
    pub async fn vms(&self, host: Option<HostId>) -> Result<Vec<Vm>, CatalogError> {
        let rows = match host {
            Some(host) => sqlx::query("SELECT * FROM vms WHERE host_id = $1 ORDER BY name, vm_id")
                .bind(host.to_string()),
            None => sqlx::query("SELECT * FROM vms ORDER BY name, vm_id, host_id"),
        };
        let rows = rows
            .fetch_all(self.readers())
            .await
            .map_err(db("list VMs"))?;
        rows.iter().map(read).collect()
    }

    /// Returns the VM of that id on every host that lists or listed it; present ones first, then the newest sight.
    pub async fn vm_by_id(&self, id: VmId) -> Result<Vec<Vm>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM vms WHERE vm_id = $1 ORDER BY gone IS NOT NULL, seen DESC, host_id",
        )
        .bind(id.to_string())
        .fetch_all(self.readers())
        .await
        .map_err(db("look up a VM"))?;
        rows.iter().map(read).collect()
    }

    /// Returns the VMs of that name; present ones first.
    pub async fn vms_by_name(&self, name: &str) -> Result<Vec<Vm>, CatalogError> {
        let rows = sqlx::query(
            "SELECT * FROM vms WHERE name = $1 ORDER BY gone IS NOT NULL, seen DESC, vm_id",
        )
        .bind(name)
        .fetch_all(self.readers())
        .await
        .map_err(db("look up a VM by name"))?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &Row) -> Result<Vm, CatalogError> {
    Ok(Vm {
        id: row.parsed("vm_id")?,
        host: row.parsed("host_id")?,
        name: row.text("name")?,
        summary: row.json("summary")?,
        first_seen: row.time("first_seen")?,
        seen: row.time("seen")?,
        gone: row.opt_time("gone")?,
    })
}
