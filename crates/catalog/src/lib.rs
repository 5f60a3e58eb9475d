//! What the server knows, in SQL: settings, users, agents, VMs, policies, jobs, sessions, packs, points, audit.
//!
//! One [`Catalog`] with typed methods, a module per subject. The moment is always an argument. Every change that
//! matters appends to the audit log in its own transaction, under the name of an [`Actor`].
//!
//! What it says of points, packs, bases and damage can be rebuilt from the store; it never knows single chunks.
//!
//! Engine: SQLite in WAL mode with `synchronous=FULL`, one writing connection and several reading ones. The SQL keeps
//! to what PostgreSQL also understands; what differs is in `db`.
//!
//! Invariants: a transaction is whole or absent; a write for a job is refused unless its fence is current; an answer
//! "committed" is given only after the commit is durable.
//!
//! Not here: what follows what in a job's life (`jobs`), bytes of packs and points (`store`, `object_storage`).

mod agents;
mod audit;
mod bases;
mod damage;
mod db;
mod enrolment;
mod error;
mod idempotency;
mod jobs;
mod packs;
mod page;
mod parked;
mod points;
mod policies;
mod protections;
mod publish;
mod receipts;
mod row;
mod sessions;
mod settings;
mod text;
mod tokens;
mod users;
mod vms;

pub use agents::{Agent, HostSeen, Poll, Polled};
pub use audit::{Actor, AuditEntry, AuditVerdict};
pub use bases::SettledBases;
pub use damage::{Damage, DamageId, NewDamage};
pub use db::{Catalog, Options};
pub use enrolment::NewAgent;
pub use error::{CatalogError, ErrorKind};
pub use idempotency::{IdempotencyKey, Remembered};
pub use jobs::{
    Created, Event, EventKind, Figures, Finished, Job, JobFilter, LogLevel, LogLine, MarkVerdict,
    NewJob, Progress, ReportOutcome, Step, Swept, Target,
};
pub use packs::{NewPack, Pack, PackState};
pub use page::{Cursor, Page};
pub use parked::{NewParked, Parked, ParkedState};
pub use points::{Point, PointState};
pub use policies::{NewPolicy, Policy, PolicyId, Retention};
pub use protections::{Protection, ScheduledRun};
pub use publish::{Begin, PublishRequest, Publishing};
pub use receipts::KeptReceipt;
pub use sessions::{Session, SessionKind};
pub use text::ParseTextError;
pub use tokens::{ApiToken, NewToken, SecretHash, TokenId};
pub use users::{Role, User};
pub use vms::{Vm, VmSeen};
