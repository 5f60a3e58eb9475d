//! Backups and restores through links in memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod backup;
mod disks;
mod restore;
mod resume;
mod seeds;
mod support;
mod verify;
