//! Certificates: the server's own CA, its server certificate, the client certificates of agents, TLS for both ports.
//!
//! Invariants: only the public key of a signing request is used, subject and names are set here; agent certificates
//! cannot serve and the server certificate cannot be a client's (extended key usage).

mod authority;
mod ports;
mod receipt_key;

pub(crate) use authority::{AgentCertificate, Authority};
pub(crate) use ports::{AgentAcceptor, PeerAgent, agent_config, people_config};
