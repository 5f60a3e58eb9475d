//! The whole system: the real executable as server, simulated host and agent.
//!
//! Requirements have tests that bear their number. Every test starts its own installation on free ports of the loopback
//! and compares what came back with what the guest had.

#![expect(
    clippy::unwrap_used,
    reason = "a helper that cannot go on fails its test"
)]

mod bad_input;
mod checkpoints;
mod crashes;
mod delta;
mod disks;
mod file_systems;
mod increments;
mod kills;
mod outside;
mod plans;
mod queue;
mod receipts;
mod restores;
mod resumes;
mod shadow_ends;
mod shadow_restores;
mod shadows;
mod support;
mod swaps;
