//! The catalog through its public face, over a database in a temporary folder. Written so that another engine can be
//! put under the same suite.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod bases;
mod jobs;
mod lists;
mod opening;
mod packs;
mod points;
mod publish;
mod queue;
mod random;
mod reports;
mod schedule;
mod support;
