//! The typed client of the server's two APIs.
//!
//! [`People`] speaks `/api/v1` with a bearer token; [`Agent`] speaks `/agent/v1` with a client certificate and repeats
//! what may be repeated while the server is away. Both trust the server by [`Trust`]. Neither decides anything.

mod agent;
mod error;
mod people;
mod stream;
mod trust;

pub use agent::{Agent, AgentIdentity, enroll};
pub use error::{ClientError, Kind};
pub use people::People;
pub use stream::FrameStream;
pub use trust::{Trust, TrustError};
