//! A place that fails on purpose, for tests.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use store::{BoxFuture, ObjectError, ObjectErrorKind, ObjectMeta, ObjectName, Objects};

use crate::adapter::error;

/// An operation of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `put_new`.
    Put,
    /// `get` and `get_range`.
    Get,
    /// `head`.
    Head,
    /// `list`.
    List,
    /// `delete`.
    Delete,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails and has done nothing.
    Fail(ObjectErrorKind),
    /// It is done and reports failure: an answer that was lost.
    FailAfter(ObjectErrorKind),
    /// It is done twice; the second answer counts: a request that was repeated on the way.
    Twice,
    /// It reports success and has done nothing (puts and deletes).
    Lost,
    /// One bit of what is read is turned.
    FlipBit,
}

/// A fault to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which operation.
    pub verb: Verb,
    /// How many of it are let through first, counted from now.
    pub after: u64,
    /// How many fail then.
    pub times: u64,
    /// How.
    pub effect: Effect,
}

#[derive(Debug, Default)]
struct Plan {
    calls: HashMap<Verb, u64>,
    /// Faults with the call numbers they cover.
    faults: Vec<(Verb, Range<u64>, Effect)>,
}

/// A place around another one that fails as told.
#[derive(Debug)]
pub struct Faulty<O> {
    inner: O,
    plan: Mutex<Plan>,
}

impl<O> Faulty<O> {
    /// Wraps a place; until told otherwise it is sound.
    pub fn new(inner: O) -> Self {
        Self {
            inner,
            plan: Mutex::default(),
        }
    }

    /// Returns the place beneath.
    pub fn inner(&self) -> &O {
        &self.inner
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let first = plan
            .calls
            .get(&fault.verb)
            .copied()
            .unwrap_or(0)
            .saturating_add(fault.after);
        plan.faults.push((
            fault.verb,
            first..first.saturating_add(fault.times),
            fault.effect,
        ));
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .faults
            .clear();
    }

    /// Returns how often an operation was asked for.
    pub fn calls(&self, verb: Verb) -> u64 {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.calls.get(&verb).copied().unwrap_or(0)
    }

    fn next(&self, verb: Verb) -> Option<Effect> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let count = plan.calls.entry(verb).or_insert(0);
        let call = *count;
        *count = count.saturating_add(1);
        plan.faults
            .iter()
            .find(|(of, calls, _)| *of == verb && calls.contains(&call))
            .map(|(.., effect)| *effect)
    }
}

fn injected(verb: &'static str, name: &str, kind: ObjectErrorKind) -> ObjectError {
    error(verb, name, kind, "injected fault")
}

fn flip(bytes: Bytes) -> Bytes {
    let mut bytes = Vec::from(bytes);
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
    Bytes::from(bytes)
}

/// Does an operation as the fault of this call says; `done` is what "lost" answers.
macro_rules! act {
    ($self:ident, $verb:expr, $text:literal, $name:expr, $call:expr, $lost:expr, $flip:expr) => {{
        match $self.next($verb) {
            None => $call.await,
            Some(Effect::Fail(kind)) => Err(injected($text, $name, kind)),
            Some(Effect::FailAfter(kind)) => {
                $call.await?;
                Err(injected($text, $name, kind))
            }
            Some(Effect::Twice) => {
                drop($call.await);
                $call.await
            }
            Some(Effect::Lost) => $lost,
            Some(Effect::FlipBit) => $call.await.map($flip),
        }
    }};
}

impl<O: Objects> Objects for Faulty<O> {
    fn put_new<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            let call = || self.inner.put_new(name, bytes.clone());
            act!(
                self,
                Verb::Put,
                "put",
                name.as_str(),
                call(),
                Ok(()),
                |()| ()
            )
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<Bytes, ObjectError>> {
        Box::pin(async move {
            let lost = Err(injected("get", name.as_str(), ObjectErrorKind::NotFound));
            act!(
                self,
                Verb::Get,
                "get",
                name.as_str(),
                self.inner.get(name),
                lost,
                flip
            )
        })
    }

    fn get_range<'a>(
        &'a self,
        name: &'a ObjectName,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytes, ObjectError>> {
        Box::pin(async move {
            let lost = Err(injected("get", name.as_str(), ObjectErrorKind::NotFound));
            let call = || self.inner.get_range(name, range.clone());
            act!(self, Verb::Get, "get", name.as_str(), call(), lost, flip)
        })
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, ObjectError>> {
        Box::pin(async move {
            let lost = Err(injected("head", name.as_str(), ObjectErrorKind::NotFound));
            act!(
                self,
                Verb::Head,
                "head",
                name.as_str(),
                self.inner.head(name),
                lost,
                |meta| meta
            )
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<ObjectMeta>, ObjectError>> {
        Box::pin(async move {
            act!(
                self,
                Verb::List,
                "list",
                prefix,
                self.inner.list(prefix),
                Ok(Vec::new()),
                |list| list
            )
        })
    }

    fn delete<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            act!(
                self,
                Verb::Delete,
                "delete",
                name.as_str(),
                self.inner.delete(name),
                Ok(()),
                |()| ()
            )
        })
    }
}
