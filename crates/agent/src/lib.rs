//! The agent: makes and restores recovery points on one Hyper-V host.
//!
//! It dials out to the server, asks for work and does it: `worker` polls and runs jobs, `job` has a job's life (lease,
//! steps, figures), `backup` and `restore` are the two kinds of work, `janitor` removes what a dead job left on the host.
//!
//! Invariants:
//! - Nothing is done for a job whose lease is not held: a job stops by itself 40 s after its last renewal, by the
//!   boot-time clock.
//! - Before anything is changed on the host it is written into the job's journal; what a journal names is undone before
//!   the next job runs, unless the job had come to its end.
//! - Nothing that another product or person made is removed.

mod backup;
mod clock;
mod enroll;
mod errors;
mod home;
mod host;
mod janitor;
mod job;
mod journal;
mod links;
mod monitor;
mod options;
mod parked;
mod record;
mod restore;
mod worker;

pub use enroll::{Enrolled, enroll};
pub use options::{
    CHECKPOINT_BYTES, EnrollOptions, HostAuth, HostOptions, RunOptions, SeveralVolumes,
};
pub use pipeline::RateLimit;
pub use record::{RECORDED, RecordOptions, Recorded, record};
pub use worker::run;
