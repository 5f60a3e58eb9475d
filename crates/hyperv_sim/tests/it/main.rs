//! The simulated host, seen from outside: over HTTP, and through its control commands.

#![expect(
    clippy::unwrap_used,
    reason = "in tests a panic is a failure, and says where"
)]

mod backup;
mod crash;
mod faults;
mod inventory;
mod machines;
mod random;
mod refusals;
mod restore;
mod shadow;
mod support;
mod world;
