//! The vault's format through its public API.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod golden;
mod objects;
mod packs;
mod support;
mod trees;
