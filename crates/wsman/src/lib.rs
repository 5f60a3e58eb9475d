//! WS-Management and CIM messages, without any I/O: both sides of the conversation with a Hyper-V host.
//!
//! A client builds a [`Request`], sends [`Request::to_xml`] and reads the answer with [`Response::parse`]; a server
//! does the reverse with [`Request::parse`] and [`Response::to_xml`]. Values inside are [`Value`]s, objects are
//! [`Instance`]s, references are [`Epr`]s; text forms that travel inside strings have their own types
//! ([`ObjectPath`], [`CimTime`], CIM-XML in [`Instance::to_cim_xml`]).
//!
//! Invariants: bytes of the other side never panic and never allocate beyond the limits in [`limits`]; elements are
//! found by namespace URI, never by prefix; replies are written with the prefixes `s a w n p` because existing
//! clients look for exactly those.
//! Messages sealed for plain HTTP are framed by [`sealed`]; the keys are elsewhere.
//! Not here: sockets, authentication, what a query means (WQL is text here), what a class does.

mod cim_xml;
mod epr;
mod fault;
mod format;
mod object_path;
mod properties;
pub mod recording;
mod request;
mod response;
pub mod sealed;
mod time;
pub mod uri;
mod value;
mod wql;
mod xml;

pub use epr::{Epr, Selector, Selectors};
pub use fault::{
    ExtendedStatus, Fault, FaultClass, ProviderFault, Subcode, code as fault_code, hresult,
};
pub use object_path::{ObjectKey, ObjectPath, ParsePathError};
pub use properties::{Instance, Properties};
pub use request::{Enumerate, EnumerationMode, Filter, Header, Operation, Pull, Request};
pub use response::{Item, Items, Reply, Response};
pub use time::{CimTime, Interval, Moment, ParseTimeError, duration_text, parse_duration};
pub use value::Value;
pub use wql::{
    association_query, like_literal as wql_like, literal as wql_literal, reference_query,
};
pub use xml::{MessageError, limits};
