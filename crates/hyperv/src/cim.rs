//! Requests to the CIM server of a host: HTTP, TLS, sessions.

mod session;
mod tls;
mod transport;

pub use session::{CimSession, Identity};
pub use tls::Trust;
pub use transport::{Credentials, Endpoint};
