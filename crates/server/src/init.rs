//! `reprise server init`: data folder, vault, keys, certificates, the first administrator.

use anyhow::{Context, ensure};
use catalog::{Actor, Catalog, NewPolicy, NewToken, Retention, Role, SecretHash};
use model::ConsistencyWish;
use object_storage::Folder;
use zeroize::Zeroizing;

use crate::auth::{Secret, hash_password, random_password};
use crate::data_dir::DataDir;
use crate::files::{self, Access};
use crate::options::{InitOptions, Initialised};
use crate::tls::Authority;
use crate::{clock, master_key, people, vault};

const TOKEN_SECS: u64 = 365 * 86_400;

/// Sets up a data folder: vault, keys, certificates, the first administrator.
///
/// # Errors
/// Refuses a folder that holds something else, or that was set up before.
pub async fn init(options: InitOptions) -> anyhow::Result<Initialised> {
    ensure!(
        !options.admin_name.trim().is_empty(),
        "the first administrator needs a name"
    );
    let now = clock::now();
    let dir = DataDir::create(&options.data_dir)?;
    let master = master_key::load_or_make(options.master_key.as_ref(), &dir)?;
    let objects = Folder::open(dir.vault())
        .await
        .context("open the vault's folder")?;
    object_storage::probe(&objects)
        .await
        .context("try the vault's folder")?;
    let (vault, kit) = vault::create(&objects, &master, now).await?;
    files::write_new(
        &dir.recovery_recipient_file(),
        kit.recipient.as_bytes(),
        Access::Public,
    )?;
    let authority = Authority::create(&dir.tls(), &options.names, now)?;
    let catalog = Catalog::open(&catalog::Options::new(dir.catalog()))
        .await
        .context("make the catalog")?;
    let password = random_password()?;
    let hash = hash_password(Zeroizing::new(password.clone())).await?;
    let admin = catalog
        .create_user(
            &options.admin_name,
            &hash,
            Role::Administrator,
            &Actor::Server,
            now,
        )
        .await
        .context("add the first administrator")?;
    let policy = NewPolicy {
        name: people::DEFAULT_POLICY.to_owned(),
        interval_secs: Some(86_400),
        enabled: true,
        method: None,
        consistency: ConsistencyWish::default(),
        retention: Retention {
            keep_last: Some(14),
            ..Retention::default()
        },
    };
    catalog
        .create_policy(policy, &Actor::Server, now)
        .await
        .context("make the default policy")?;
    let token = match options.token_name {
        Some(name) => {
            let secret = Secret::random("rpt_")?;
            let new = NewToken {
                user: admin.id,
                name,
                hash: SecretHash(secret.hash()),
                role: Role::Administrator,
                expires: now.plus_secs(TOKEN_SECS),
            };
            catalog
                .create_token(new, &Actor::Server, now)
                .await
                .context("make the first token")?;
            Some(secret.expose().to_owned())
        }
        None => None,
    };
    catalog.close().await;
    dir.complete()?;
    Ok(Initialised {
        vault: vault.to_string(),
        admin_name: admin.name.clone(),
        admin_password: password,
        token,
        recovery_kit: kit.text.to_string(),
        ca_fingerprint: authority.fingerprint(),
        ca_file: authority.ca_file(),
    })
}
