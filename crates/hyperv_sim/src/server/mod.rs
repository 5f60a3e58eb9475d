//! Serving the host: WS-Management on its own port, control on another one of the loopback interface.

mod enumeration;
mod http;
mod operations;
mod targets;

pub use http::{Running, start};
