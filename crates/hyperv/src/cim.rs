//! Requests to the CIM server of a host: HTTP, TLS, log-in, sessions.

mod challenge;
mod connection;
mod endpoint;
mod ntlm;
mod record;
mod session;
mod tls;
mod transport;

pub use connection::ConnectionError;
pub use endpoint::{Authentication, Credentials, Endpoint};
pub use record::Recorder;
pub use session::{CimSession, Identity};
pub use tls::Trust;
