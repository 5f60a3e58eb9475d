//! The life of a job: states, leases, fences, retries, schedules.
