//! What goes over HTTP: requests, replies and errors of the two APIs.
//!
//! [`v1`] is for people and scripts (`/api/v1`, port 8443, bearer token); its types make the OpenAPI document and are
//! only ever extended. [`agent_v1`] is between agents and the server (`/agent/v1`, port 8444, mutual TLS);
//! its bodies for packs and chunks are binary and streamed, framed by [`frames`].
//! Errors of both are RFC 9457 problems, see [`Problem`]. [`receipt`] is a file format: what proves a restore.

pub mod agent_v1;
pub mod cells;
pub mod frames;
mod problem;
pub mod receipt;
mod token;
pub mod v1;

pub use problem::{Problem, codes};
pub use token::{EnrolToken, ParseTokenError};

/// Largest JSON body either side accepts, in bytes.
pub const JSON_BODY_BYTES: usize = 1 << 20;
/// Largest JSON body of agents: inventories and recovery points, in bytes.
pub const AGENT_JSON_BODY_BYTES: usize = 16 << 20;
/// Largest pack body, in bytes.
pub const PACK_BODY_BYTES: usize = 48 << 20;
/// Most ids in one "have?" or chunk request.
pub const IDS_PER_REQUEST: usize = 16_384;
