//! Where a host is, and who asks.

use std::fmt;
use std::time::Duration;

use secrecy::SecretString;

use super::tls::Trust;

/// User and password of an account of the host.
#[derive(Clone)]
pub struct Credentials {
    /// User name: `user`, `DOMAIN\user` or `user@domain`.
    pub user: String,
    /// Password.
    pub password: SecretString,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// How to log in, where there are credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// What the host offers: NTLM where it can be, else Basic; Basic over HTTPS only.
    #[default]
    Auto,
    /// User and password in every request. Over HTTP anybody on the network can read them.
    Basic,
    /// NTLM through Negotiate. Over HTTP every message is sealed; over HTTPS the log-in is bound to the channel.
    Ntlm,
}

/// Where a host is and how to talk to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `http://HOST:5985/wsman` or `https://HOST:5986/wsman`.
    pub url: String,
    /// Who asks; none for a host that asks for no log-in.
    pub credentials: Option<Credentials>,
    /// How to log in.
    pub authentication: Authentication,
    /// What makes the host the right one, over HTTPS.
    pub trust: Trust,
    /// How long the host may work on one operation; longer work runs as jobs.
    pub operation_timeout: Duration,
}

impl Endpoint {
    /// Returns an endpoint without credentials, with the system's certificates and 60 s per operation.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            credentials: None,
            authentication: Authentication::Auto,
            trust: Trust::System,
            operation_timeout: Duration::from_secs(60),
        }
    }
}
