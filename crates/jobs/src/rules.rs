//! The numbers jobs live by.

/// Seconds in a day.
pub const DAY_SECS: u64 = 24 * 60 * 60;
/// How long a lease holds without being renewed.
pub const LEASE_SECS: u64 = 60;
/// How often the holder renews its lease.
pub const LEASE_RENEW_SECS: u64 = 10;
/// When an agent that could not renew stops by itself, by its boot-time clock. Must be well below [`LEASE_SECS`].
pub const AGENT_STOPS_SECS: u64 = 40;
/// Without a poll for this long an agent counts as offline.
pub const AGENT_OFFLINE_SECS: u64 = 60;
/// How long a job waits in the queue before it expires.
pub const QUEUE_SECS: u64 = 7 * DAY_SECS;
/// How often a job is handed out at most.
pub const MAX_ATTEMPTS: u32 = 3;
/// Pause before the second attempt after a failure that may pass; doubles with each further one.
pub const RETRY_BASE_SECS: u64 = 30;
/// The longest pause between two attempts.
pub const RETRY_CAP_SECS: u64 = 60 * 60;
/// How many jobs run on one host at the same time.
pub const JOBS_PER_HOST: u32 = 4;

/// The rules of an installation; tests shorten them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// See [`LEASE_SECS`].
    pub lease_secs: u64,
    /// See [`AGENT_OFFLINE_SECS`].
    pub agent_offline_secs: u64,
    /// See [`QUEUE_SECS`].
    pub queue_secs: u64,
    /// See [`MAX_ATTEMPTS`].
    pub max_attempts: u32,
    /// See [`RETRY_BASE_SECS`].
    pub retry_base_secs: u64,
    /// See [`RETRY_CAP_SECS`].
    pub retry_cap_secs: u64,
    /// See [`JOBS_PER_HOST`].
    pub jobs_per_host: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            lease_secs: LEASE_SECS,
            agent_offline_secs: AGENT_OFFLINE_SECS,
            queue_secs: QUEUE_SECS,
            max_attempts: MAX_ATTEMPTS,
            retry_base_secs: RETRY_BASE_SECS,
            retry_cap_secs: RETRY_CAP_SECS,
            jobs_per_host: JOBS_PER_HOST,
        }
    }
}

const _: () = assert!(
    AGENT_STOPS_SECS + LEASE_RENEW_SECS < LEASE_SECS,
    "an agent must have stopped before its job is handed out again"
);
