//! A real server over loopback TLS, with agents and people that are clients like any other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod access;
mod cells;
mod commit;
mod enrolment;
mod full;
mod input;
mod openapi;
mod queue;
mod setup;
mod support;
mod transfer;
mod vaultkit;
mod verify;
