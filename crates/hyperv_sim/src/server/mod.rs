//! Serving the host: WS-Management on its own port, control on another one of the loopback interface.

mod auth;
mod connections;
mod enumeration;
mod http;
mod ntlm;
mod ntlm_session;
pub(crate) mod operations;
mod spnego;
mod targets;
mod tls;

pub use http::{Running, start};
