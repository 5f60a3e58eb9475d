//! The driver through its public API: against a scripted peer for what hosts seldom do, and against the simulated host
//! over real HTTP for everything else.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "scripts answer a few requests and treat the rest alike"
)]

mod answers;
mod auth;
mod backup;
mod between;
mod checkpoints;
mod conformance;
mod errors;
mod features;
mod inventory;
mod jobs;
mod lost;
mod merging;
mod open_points;
mod peer;
mod proxy;
mod record;
mod restore;
mod scale;
mod shadows;
mod sim;
mod tls;
mod wire;
