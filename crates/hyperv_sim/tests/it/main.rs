//! The simulated host, seen from outside: over HTTP, and through its control commands.

#![expect(
    clippy::unwrap_used,
    reason = "in tests a panic is a failure, and says where"
)]

mod backup;
mod crash;
mod exports;
mod faults;
mod images;
mod inventory;
mod jobs;
mod machines;
mod merges;
mod options;
mod random;
mod refusals;
mod restore;
mod rules;
mod shadow;
mod support;
mod world;
