//! Requests to the CIM server of a host: HTTP, TLS, log-in, sessions.

mod challenge;
mod connection;
mod endpoint;
mod ntlm;
mod session;
mod tls;
mod transport;

pub use connection::ConnectionError;
pub use endpoint::{Authentication, Credentials, Endpoint};

pub use session::{CimSession, Identity};
pub use tls::Trust;
