//! Makes a vault: its description, its keys wrapped by the master key and by the recovery kit.

use age::secrecy::ExposeSecret;
use anyhow::Context;
use model::{Timestamp, VaultId};
use store::format::keys::{KeysObject, Wrap, WrapKind, encode_material};
use store::format::vault::VaultDescription;
use store::{MasterKey, ObjectName, Objects, Salt, VaultKeys};
use zeroize::Zeroizing;

/// What opens the vault without the server.
pub(crate) struct RecoveryKit {
    /// The text to print: the only copy of the kit's key.
    pub(crate) text: Zeroizing<String>,
    /// The public half, to wrap later generations of the data key for the same kit.
    pub(crate) recipient: String,
}

/// Makes a new vault in an empty store.
pub(crate) async fn create(
    objects: &dyn Objects,
    master: &MasterKey,
    now: Timestamp,
) -> anyhow::Result<(VaultId, RecoveryKit)> {
    let vault = VaultId::random();
    let keys = VaultKeys::generate(vault).context("make the vault's keys")?;
    let material = keys
        .material(keys.current_generation())
        .context("make the vault's keys")?;
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public();
    let sealed = age::encrypt(&recipient, &*encode_material(&material))
        .context("wrap the vault's keys for the recovery kit")?;
    let mut object = KeysObject::new(&material);
    let salt = Salt::random().context("make the vault's keys")?;
    object
        .wrap_with_master(&material, master, salt)
        .context("wrap the vault's keys")?;
    object.wraps.push(Wrap {
        kind: WrapKind::RecoveryKit,
        label: recipient.to_string(),
        bytes: sealed,
    });
    let description = VaultDescription {
        vault,
        created: now,
    };
    let keys_name = ObjectName::keys(material.generation, 0);
    let encoded = object.encode().context("wrap the vault's keys")?;
    // The description goes last: a vault that has one is whole.
    objects
        .put_new(&keys_name, encoded.into())
        .await
        .context("store the vault's keys")?;
    objects
        .put_new(&ObjectName::vault(), description.encode().into())
        .await
        .context("store the vault's description")?;
    let secret = identity.to_string();
    let text = Zeroizing::new(kit_text(vault, now, secret.expose_secret()));
    Ok((
        vault,
        RecoveryKit {
            text,
            recipient: recipient.to_string(),
        },
    ))
}

fn kit_text(vault: VaultId, now: Timestamp, secret: &str) -> String {
    format!(
        "Reprise recovery kit\n\
         \n\
         vault    {vault}\n\
         made     {now}\n\
         key      {secret}\n\
         \n\
         With this key and the vault's files everything in it can be read without the server.\n\
         Print it and keep it away from the server. Whoever has both reads all backups.\n"
    )
}

/// Opens the keys of the newest generation with the master key, all older ones with it.
pub(crate) async fn open_keys(
    objects: &dyn Objects,
    master: &MasterKey,
) -> anyhow::Result<(VaultId, VaultKeys)> {
    let description = objects
        .get(&ObjectName::vault())
        .await
        .context("read the vault's description")?;
    let description = VaultDescription::decode(&description).context("read vault.json")?;
    let mut newest = std::collections::BTreeMap::new();
    for meta in objects
        .list("keys/")
        .await
        .context("list the vault's keys")?
    {
        if let Some((generation, revision)) = meta.name.as_keys() {
            let known = newest.entry(generation).or_insert(revision);
            *known = revision.max(*known);
        }
    }
    let mut keys: Option<VaultKeys> = None;
    for (generation, revision) in newest {
        let name = ObjectName::keys(generation, revision);
        let bytes = objects
            .get(&name)
            .await
            .with_context(|| format!("read {name}"))?;
        let object = KeysObject::decode(&bytes).with_context(|| format!("read {name}"))?;
        let material = object.unwrap_with_master(master).with_context(|| {
            format!("open {name} with the master key; is it the one this vault was made with?")
        })?;
        match &mut keys {
            Some(keys) => keys.add(&material).with_context(|| format!("use {name}"))?,
            None => keys = Some(VaultKeys::from_material(&material)),
        }
    }
    let keys = keys.context("the vault has no keys object")?;
    anyhow::ensure!(
        keys.vault() == description.vault,
        "the keys are those of vault {}, vault.json names {}",
        keys.vault(),
        description.vault
    );
    Ok((description.vault, keys))
}
