//! What a place must be able to do, tried out at first use.

use bytes::Bytes;
use futures::future::join_all;
use store::{ObjectError, ObjectErrorKind, ObjectName, Objects};

/// A place that is not fit to keep a vault.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It does not do what it must.
    #[error(
        "this place cannot keep a vault: {what}; use a local disk with a POSIX or NTFS file system"
    )]
    Unfit {
        /// What it does instead.
        what: String,
    },
    /// It could not be tried out.
    #[error("failed to try out the place for the vault")]
    Failed(#[source] ObjectError),
}

const RACERS: u8 = 8;

fn unfit(what: &str) -> ProbeError {
    ProbeError::Unfit {
        what: what.to_owned(),
    }
}

/// Writes, reads back, lists and deletes objects under `probe/`, and lets several writers fight for one name.
pub async fn probe(objects: &dyn Objects) -> Result<(), ProbeError> {
    let text = format!("probe/{}", uuid::Uuid::new_v4());
    let name = ObjectName::parse(&text).ok_or_else(|| unfit("it has no room for names"))?;
    let result = run(objects, &name).await;
    // Nothing is left behind, whatever came out.
    let removed = objects.delete(&name).await;
    result?;
    removed.map_err(ProbeError::Failed)?;
    match objects.get(&name).await {
        Err(error) if error.kind == ObjectErrorKind::NotFound => Ok(()),
        Err(error) => Err(ProbeError::Failed(error)),
        Ok(_) => Err(unfit("a deleted object is still there")),
    }
}

async fn run(objects: &dyn Objects, name: &ObjectName) -> Result<(), ProbeError> {
    match objects.get(name).await {
        Err(error) if error.kind == ObjectErrorKind::NotFound => {}
        Err(error) => return Err(ProbeError::Failed(error)),
        Ok(_) => return Err(unfit("it has an object of a name that was never used")),
    }
    let content = |writer: u8| Bytes::from(vec![writer; 64 * 1024 + usize::from(writer)]);
    let puts = (0..RACERS).map(|writer| objects.put_new(name, content(writer)));
    let mut winner = None;
    for (writer, put) in (0..RACERS).zip(join_all(puts).await) {
        match put {
            Ok(()) if winner.is_none() => winner = Some(writer),
            Ok(()) => return Err(unfit("two writers of one name both succeeded")),
            Err(error) if error.kind == ObjectErrorKind::AlreadyExists => {}
            Err(error) => return Err(ProbeError::Failed(error)),
        }
    }
    let Some(winner) = winner else {
        return Err(unfit("of several writers of a name none succeeded"));
    };
    let expected = content(winner);
    let whole = objects.get(name).await.map_err(ProbeError::Failed)?;
    if whole != expected {
        return Err(unfit(
            "what is read is not what the writer wrote that succeeded",
        ));
    }
    let part = objects
        .get_range(name, 1000..3000)
        .await
        .map_err(ProbeError::Failed)?;
    if part != expected.slice(1000..3000) {
        return Err(unfit("a range that is read is not what was written"));
    }
    let len = objects.head(name).await.map_err(ProbeError::Failed)?.len;
    let listed = objects.list("probe/").await.map_err(ProbeError::Failed)?;
    let full = u64::try_from(expected.len()).unwrap_or(u64::MAX);
    if len != full
        || !listed
            .iter()
            .any(|meta| meta.name == *name && meta.len == full)
    {
        return Err(unfit(
            "an object that was just written is not listed with its length",
        ));
    }
    Ok(())
}
