//! Tests only: the whole system as its users run it, every program a process of the built executable.
//!
//! A [`World`] is a temporary folder with a server, simulated hosts and an agent for each. Tests act through the
//! command line with `--json`, as scripts do; they kill and restart processes, and look at the hosts through
//! `reprise sim ctl`. Helpers panic: a test that cannot go on has failed.
//!
//! Invariants: everything ends with the world; ports are free ones on loopback and stay the same over restarts; nothing
//! of the user's own profile is used.

mod cli;
mod disks;
mod host;
mod process;
mod tools;
mod world;

pub use cli::{Cli, Done};
pub use disks::{DiskSpec, damage_disk, disk_hash, make_disk, pattern};
pub use host::SimHost;
pub use process::Process;
pub use tools::{is_ci, python, tool};
pub use world::{World, find_step, step_names};
