//! Any place the crate `object_store` knows, as [`Objects`].

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use store::{BoxFuture, ObjectError, ObjectErrorKind, ObjectMeta, ObjectName, Objects};

/// A place of the crate `object_store`. It is as durable as that place is.
#[derive(Clone, Debug)]
pub struct Adapter {
    inner: Arc<dyn ObjectStore>,
}

/// Returns an empty place in memory.
#[must_use]
pub fn memory() -> Adapter {
    Adapter::new(Arc::new(object_store::memory::InMemory::new()))
}

impl Adapter {
    /// Wraps a place.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner }
    }
}

impl Objects for Adapter {
    fn put_new<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            let options = PutOptions::from(PutMode::Create);
            let put = self
                .inner
                .put_opts(&path(name), PutPayload::from(bytes), options)
                .await;
            put.map(drop)
                .map_err(|error| wrap("put", name.as_str(), error))
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Bytes, ObjectError>> {
        Box::pin(async move {
            let failed = |error| wrap("get", name.as_str(), error);
            let found = self.inner.get(&path(name)).await.map_err(failed)?;
            let len = found.meta.size;
            let bytes = found.bytes().await.map_err(failed)?;
            exact("get", name, bytes, len)
        })
    }

    fn get_range<'a>(
        &'a self,
        name: &'a ObjectName,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytes, ObjectError>> {
        Box::pin(async move {
            let len = range.end.checked_sub(range.start).ok_or_else(|| {
                error(
                    "get",
                    name.as_str(),
                    ObjectErrorKind::Other,
                    "the range ends before it begins",
                )
            })?;
            if len == 0 {
                return Ok(Bytes::new());
            }
            let bytes = self
                .inner
                .get_range(&path(name), range)
                .await
                .map_err(|error| {
                    let mut wrapped = wrap("get", name.as_str(), error);
                    // What is not a missing object is a range beyond the end.
                    if wrapped.kind == ObjectErrorKind::Other {
                        wrapped.kind = ObjectErrorKind::Corrupt;
                    }
                    wrapped
                })?;
            exact("get", name, bytes, len)
        })
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, ObjectError>> {
        Box::pin(async move {
            let found = self
                .inner
                .head(&path(name))
                .await
                .map_err(|error| wrap("head", name.as_str(), error))?;
            Ok(ObjectMeta {
                name: name.clone(),
                len: found.size,
            })
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectMeta>, ObjectError>> {
        Box::pin(async move {
            let folder = prefix.trim_end_matches('/');
            let folder = (!folder.is_empty()).then(|| Path::from(folder));
            let found: Vec<_> = self
                .inner
                .list(folder.as_ref())
                .try_collect()
                .await
                .map_err(|error| wrap("list", prefix, error))?;
            let metas = found.into_iter().filter_map(|meta| {
                let name = ObjectName::parse(meta.location.as_ref())?;
                name.as_str().starts_with(prefix).then_some(ObjectMeta {
                    name,
                    len: meta.size,
                })
            });
            Ok(metas.collect())
        })
    }

    fn delete<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            match self.inner.delete(&path(name)).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(wrap("delete", name.as_str(), error)),
            }
        })
    }
}

fn path(name: &ObjectName) -> Path {
    // Names are made of `[a-z0-9._-]` and `/`, which the crate takes as they are.
    Path::from(name.as_str())
}

fn exact(
    verb: &'static str,
    name: &ObjectName,
    bytes: Bytes,
    len: u64,
) -> Result<Bytes, ObjectError> {
    if u64::try_from(bytes.len()) == Ok(len) {
        return Ok(bytes);
    }
    let text = format!("{len} bytes asked for, {} came", bytes.len());
    Err(error(verb, name.as_str(), ObjectErrorKind::Corrupt, &text))
}

/// Makes an error of this crate's own finding.
pub(crate) fn error(
    verb: &'static str,
    name: &str,
    kind: ObjectErrorKind,
    text: &str,
) -> ObjectError {
    ObjectError {
        verb,
        name: name.to_owned(),
        kind,
        source: Some(text.to_owned().into()),
    }
}

/// Says what an error of the crate `object_store` means.
fn wrap(verb: &'static str, name: &str, source: Error) -> ObjectError {
    let kind = if matches!(source, Error::NotFound { .. }) {
        ObjectErrorKind::NotFound
    } else if matches!(
        source,
        Error::AlreadyExists { .. } | Error::Precondition { .. }
    ) {
        ObjectErrorKind::AlreadyExists
    } else if matches!(
        source,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
    ) {
        ObjectErrorKind::Denied
    } else {
        io_kind_in(&source).map_or(ObjectErrorKind::Other, kind_of_io)
    };
    ObjectError {
        verb,
        name: name.to_owned(),
        kind,
        source: Some(Box::new(source)),
    }
}

fn io_kind_in(error: &Error) -> Option<std::io::ErrorKind> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

/// Says what an I/O error means for an object.
pub(crate) fn kind_of_io(kind: std::io::ErrorKind) -> ObjectErrorKind {
    use std::io::ErrorKind;
    if kind == ErrorKind::NotFound {
        ObjectErrorKind::NotFound
    } else if kind == ErrorKind::AlreadyExists {
        ObjectErrorKind::AlreadyExists
    } else if matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        ObjectErrorKind::Full
    } else if matches!(
        kind,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    ) {
        ObjectErrorKind::Denied
    } else if matches!(
        kind,
        ErrorKind::TimedOut
            | ErrorKind::StaleNetworkFileHandle
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkDown
    ) {
        ObjectErrorKind::Unavailable
    } else if kind == ErrorKind::UnexpectedEof {
        ObjectErrorKind::Corrupt
    } else {
        ObjectErrorKind::Other
    }
}
