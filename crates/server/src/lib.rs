//! The server: API, jobs, schedules, vault.
