//! Objects of a vault: their names, and what a place that keeps them must be able to do.
//!
//! Names (all lower case hexadecimal or digits): `vault.json`, `keys/<generation>` and later `keys/<generation>.<revision>`,
//! `packs/<aa>/<pack id>`, `points/<point id>` (a point or a void), `damage/…`, `locks/…`, `owner/<epoch>`.
//! Every object is written once under its name and never changed.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use model::PointId;

use crate::{BoxError, ErrorKind, PackId};

/// A future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The name of an object: parts of `[a-z0-9._-]` joined by `/`, no part empty or made of dots only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Takes a name as it comes from a listing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let part_ok = |part: &str| {
            part.bytes().all(|b| {
                b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
            }) && part.bytes().any(|b| b != b'.')
        };
        (text.len() <= 512 && text.split('/').all(part_ok)).then(|| Self(text.to_owned()))
    }

    /// Returns the name of the plain description of the vault.
    #[must_use]
    pub fn vault() -> Self {
        Self("vault.json".to_owned())
    }

    /// Returns the name of the wrapped keys of a generation; a later revision (new wraps of the same keys) has its own.
    #[must_use]
    pub fn keys(generation: u32, revision: u32) -> Self {
        Self(match revision {
            0 => format!("keys/{generation:08}"),
            _ => format!("keys/{generation:08}.{revision:04}"),
        })
    }

    /// Returns generation and revision where this is the name of a keys object.
    #[must_use]
    pub fn as_keys(&self) -> Option<(u32, u32)> {
        let rest = self.0.strip_prefix("keys/")?;
        let (generation, revision) = match rest.split_once('.') {
            Some((generation, revision)) => (generation.parse().ok()?, revision.parse().ok()?),
            None => (rest.parse().ok()?, 0),
        };
        (Self::keys(generation, revision) == *self).then_some((generation, revision))
    }

    /// Returns the name of a pack.
    #[must_use]
    pub fn pack(id: &PackId) -> Self {
        let hex = id.to_string();
        Self(format!("packs/{}/{hex}", &hex[..2]))
    }

    /// Returns the pack's id where this is the name of a pack.
    #[must_use]
    pub fn as_pack(&self) -> Option<PackId> {
        let id = self.0.strip_prefix("packs/")?.get(3..)?.parse().ok()?;
        (Self::pack(&id) == *self).then_some(id)
    }

    /// Returns the name of a recovery point, or of the void that takes its place.
    #[must_use]
    pub fn point(id: &PointId) -> Self {
        Self(format!("points/{id}"))
    }

    /// Returns the point's id where this is the name of a point.
    #[must_use]
    pub fn as_point(&self) -> Option<PointId> {
        let id = self.0.strip_prefix("points/")?.parse().ok()?;
        (Self::point(&id) == *self).then_some(id)
    }

    /// Returns the name of an ownership record.
    #[must_use]
    pub fn owner(epoch: u64) -> Self {
        Self(format!("owner/{epoch:012}"))
    }

    /// Returns the epoch where this is the name of an ownership record.
    #[must_use]
    pub fn as_owner(&self) -> Option<u64> {
        let epoch = self.0.strip_prefix("owner/")?.parse().ok()?;
        (Self::owner(epoch) == *self).then_some(epoch)
    }

    /// Returns the name of the `n`-th lock laid over a point.
    #[must_use]
    pub fn lock(point: &PointId, n: u32) -> Self {
        Self(format!("locks/{point}/{n:06}"))
    }

    /// Returns the name of a damage record about a pack.
    #[must_use]
    pub fn damage(pack: &PackId, n: u32) -> Self {
        Self(format!("damage/{pack}/{n:06}"))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub len: u64,
}

/// Why an operation on an object failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectErrorKind {
    /// No object of that name.
    NotFound,
    /// There is an object of that name already; it was left as it is.
    AlreadyExists,
    /// No room left.
    Full,
    /// Not allowed: credentials, or a lock.
    Denied,
    /// Not reachable, or too busy: try again.
    Unavailable,
    /// The bytes that came are not what was asked for (a range beyond the end, a failed checksum).
    Corrupt,
    /// Anything else; not known to be harmless when repeated.
    Other,
}

/// A failed operation on an object.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} object {name} ({kind:?})")]
pub struct ObjectError {
    /// What was tried: `put`, `get`, `head`, `list`, `delete`.
    pub verb: &'static str,
    /// The name, or prefix of a listing.
    pub name: String,
    /// Why, for programs.
    pub kind: ObjectErrorKind,
    /// Why, for people.
    #[source]
    pub source: Option<BoxError>,
}

impl ObjectError {
    /// Returns what a caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self.kind {
            ObjectErrorKind::NotFound => ErrorKind::NotFound,
            ObjectErrorKind::AlreadyExists | ObjectErrorKind::Denied => ErrorKind::Refused,
            ObjectErrorKind::Full | ObjectErrorKind::Unavailable => ErrorKind::Retry,
            ObjectErrorKind::Corrupt => ErrorKind::Corrupt,
            ObjectErrorKind::Other => ErrorKind::Bug,
        }
    }
}

/// A place that keeps objects: a folder, memory, a bucket.
///
/// A finished `put_new` is durable. Nothing is ever overwritten.
pub trait Objects: Send + Sync {
    /// Stores a new object durably; fails with [`ObjectErrorKind::AlreadyExists`] and changes nothing where there is one.
    fn put_new<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectError>>;

    /// Reads an object whole.
    fn get<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Bytes, ObjectError>>;

    /// Reads a range of an object; exactly that many bytes or an error.
    fn get_range<'a>(
        &'a self,
        name: &'a ObjectName,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytes, ObjectError>>;

    /// Returns an object's length without reading it.
    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, ObjectError>>;

    /// Lists the objects whose names start with `prefix` (whole parts: `packs/3f/`), in no order. Names that are not
    /// [`ObjectName`]s are left out.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectMeta>, ObjectError>>;

    /// Deletes an object; no error where there is none.
    fn delete<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<(), ObjectError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_to_what_they_name() {
        let pack = PackId([0xAB; 32]);
        let name = ObjectName::pack(&pack);
        assert!(name.as_str().starts_with("packs/ab/abab"), "{name}");
        assert_eq!(
            ObjectName::parse(name.as_str()).unwrap().as_pack(),
            Some(pack)
        );
        let point = PointId::random();
        assert_eq!(ObjectName::point(&point).as_point(), Some(point));
        assert_eq!(ObjectName::owner(7).as_owner(), Some(7));
        assert_eq!(ObjectName::keys(3, 0).as_keys(), Some((3, 0)));
        assert_eq!(ObjectName::keys(3, 2).as_keys(), Some((3, 2)));
        assert_eq!(ObjectName::keys(3, 2).as_pack(), None);
    }

    #[test]
    fn refuses_names_that_leave_the_vault() {
        for wrong in [
            "", "/", "a//b", "../x", "a/../b", "a/./b", "a\\b", "A", "a/", "a b", "é", "packs/..",
        ] {
            assert!(ObjectName::parse(wrong).is_none(), "{wrong}");
        }
        let zero = "0".repeat(64);
        assert!(
            ObjectName::parse(&format!("packs/ff/{zero}"))
                .unwrap()
                .as_pack()
                .is_none(),
            "other folder"
        );
    }
}
