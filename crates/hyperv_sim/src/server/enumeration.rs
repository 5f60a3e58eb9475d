//! Enumerations under way, by context.
//!
//! Every Pull gives a new context; the one before, one that has ended, was released, or idle for too long is unknown.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;
use wsman::{EnumerationMode, Fault, Item, Items, Reply, Request, Response, Subcode};

use crate::cim::{Manner, Object, epr_of_path, instance};
use crate::engine::Engine;
use crate::objects::Source;

/// Most enumerations at once.
const MAX_OPEN: usize = 1500;
/// Most items of one answer.
const MAX_BATCH: u32 = 32_000;

/// An enumeration with what is left of it.
#[derive(Debug)]
pub(crate) struct Enumeration {
    pub(crate) source: Source,
    pub(crate) mode: EnumerationMode,
    pub(crate) namespace: &'static str,
    used: Instant,
}

impl Enumeration {
    pub(crate) fn new(source: Source, mode: EnumerationMode, namespace: &'static str) -> Self {
        Self {
            source,
            mode,
            namespace,
            used: Instant::now(),
        }
    }
}

/// How items are written.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    pub(crate) server: String,
    pub(crate) manner: Manner,
    /// Most bytes of an answer.
    pub(crate) envelope_bytes: usize,
}

/// The enumerations of all clients.
#[derive(Debug, Default)]
pub(crate) struct Enumerations {
    open: HashMap<String, Enumeration>,
}

impl Enumerations {
    /// Keeps an enumeration and returns its context; refused where there are too many.
    ///
    /// One that nobody asked for within `idle` is gone.
    pub(crate) fn put(
        &mut self,
        mut enumeration: Enumeration,
        idle: Duration,
    ) -> Result<String, Box<Fault>> {
        self.open
            .retain(|_, enumeration| enumeration.used.elapsed() < idle);
        if self.open.len() >= MAX_OPEN {
            return Err(Fault::new(Subcode::QuotaLimit, "too many enumerations are open").into());
        }
        enumeration.used = Instant::now();
        let context = format!("uuid:{}", Uuid::new_v4());
        self.open.insert(context.clone(), enumeration);
        Ok(context)
    }

    /// Takes the enumeration of a context, which is unknown from then on.
    pub(crate) fn take(
        &mut self,
        context: &str,
        idle: Duration,
    ) -> Result<Enumeration, Box<Fault>> {
        let found = self
            .open
            .remove(context.trim())
            .filter(|enumeration| enumeration.used.elapsed() < idle);
        found.ok_or_else(|| {
            Fault::new(
                Subcode::InvalidEnumerationContext,
                "the enumeration context is unknown, ended or expired",
            )
            .into()
        })
    }
}

/// Takes the next batch off an enumeration: at most `max_elements` (one by default), and as many as fit.
pub(crate) fn batch(
    engine: &Engine,
    enumeration: &mut Enumeration,
    request: &Request,
    max_elements: Option<u32>,
    style: &Style,
) -> Result<Vec<Item>, Box<Fault>> {
    let most = max_elements.unwrap_or(1).clamp(1, MAX_BATCH);
    let empty = size_of(request, enumeration.namespace, Vec::new());
    let mut left = style.envelope_bytes.saturating_sub(empty);
    let mut items = Vec::new();
    let (mode, namespace) = (enumeration.mode, enumeration.namespace);
    while items.len() < usize::try_from(most).unwrap_or(usize::MAX)
        && let Some(object) = enumeration.source.peek(engine)
    {
        let item = write(object, mode, style);
        let size = size_of(request, namespace, vec![item.clone()]).saturating_sub(empty);
        if size > left {
            if items.is_empty() {
                return Err(Fault::encoding_limit(format!(
                    "one {} alone takes more than the {} bytes of an envelope",
                    object.class.name, style.envelope_bytes
                ))
                .into());
            }
            break;
        }
        left -= size;
        items.push(item);
        enumeration.source.pop();
    }
    Ok(items)
}

fn size_of(request: &Request, namespace: &str, items: Vec<Item>) -> usize {
    let context = Some(format!("uuid:{}", Uuid::nil()));
    let reply = Reply::Pull(Items {
        context,
        items,
        end: true,
    });
    Response::to(request, format!("uuid:{}", Uuid::nil()), namespace, reply)
        .to_xml()
        .len()
}

fn write(object: &Object, mode: EnumerationMode, style: &Style) -> Item {
    let epr = || epr_of_path(&object.path(&style.server));
    match mode {
        EnumerationMode::Object => Item::Object(instance(object, style.manner)),
        EnumerationMode::Epr => Item::Epr(epr()),
        EnumerationMode::ObjectAndEpr => Item::Both(instance(object, style.manner), epr()),
    }
}
