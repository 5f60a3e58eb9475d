//! Envelopes over HTTP: one connection pool, authentication, limits.
//!
//! Not here: what the envelopes say (`wsman`), when to try again (`session`).

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::tls::{self, Trust};
use crate::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// What the network may add to the time the host is given for an operation.
const NETWORK_MARGIN: Duration = Duration::from_secs(30);
/// Idle connections are closed before the service does it (two minutes), so that a request seldom meets a dead one.
const POOL_IDLE: Duration = Duration::from_secs(60);
const SOAP: &str = "application/soap+xml;charset=UTF-8";

/// User and password of an account of the host.
#[derive(Clone)]
pub struct Credentials {
    /// User name.
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

/// Where a host is and how to talk to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `http://HOST:5985/wsman` or `https://HOST:5986/wsman`.
    pub url: String,
    /// Basic authentication; none for a host that asks for none.
    pub credentials: Option<Credentials>,
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
            trust: Trust::System,
            operation_timeout: Duration::from_secs(60),
        }
    }
}

/// The HTTP side of a session.
pub(super) struct Transport {
    client: reqwest::Client,
    url: String,
    user: String,
    authorization: Option<HeaderValue>,
}

impl Transport {
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        let wrong = |what: String| Error::Settings {
            url: endpoint.url.clone(),
            what,
        };
        let url = reqwest::Url::parse(&endpoint.url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("it must look like https://HOST:5986/wsman".into()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "user and password do not belong into the address".into(),
            ));
        }
        tls::ensure_provider();
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(endpoint.operation_timeout + NETWORK_MARGIN)
            .pool_idle_timeout(POOL_IDLE);
        if url.scheme() == "https"
            && let Some(config) = tls::client_config(&endpoint.trust).map_err(wrong)?
        {
            builder = builder.tls_backend_preconfigured(config);
        }
        let client = builder.build().map_err(|error| wrong(error.to_string()))?;
        let authorization = endpoint
            .credentials
            .as_ref()
            .map(basic)
            .transpose()
            .map_err(|()| {
                wrong("user or password holds a character that HTTP does not carry".into())
            })?;
        let user = endpoint
            .credentials
            .as_ref()
            .map_or("(no user)", |credentials| &credentials.user);
        Ok(Self {
            client,
            url: url.into(),
            user: user.to_owned(),
            authorization,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// Sends an envelope and returns the envelope that came back, be it a fault.
    pub(super) async fn send(&self, doing: &str, envelope: String) -> Result<Vec<u8>, Error> {
        let mut request = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, SOAP)
            .body(envelope);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let broken = |source: reqwest::Error| {
            let (url, source) = (self.url.clone(), source.without_url());
            if source.is_connect() {
                Error::Unreachable { url, source }
            } else {
                Error::Broken {
                    url,
                    doing: doing.to_owned(),
                    source,
                }
            }
        };
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(Error::LogIn {
                url: self.url.clone(),
                user: self.user.clone(),
            });
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            if body.len() + piece.len() > wsman::limits::ENVELOPE_BYTES {
                let source = wsman::MessageError::TooLarge {
                    bytes: body.len() + piece.len(),
                };
                return Err(Error::Message {
                    doing: doing.to_owned(),
                    source,
                });
            }
            body.extend_from_slice(&piece);
        }
        // Faults come with 500 or 400; whether a body is an envelope shows when it is read.
        let may_be_envelope = status.is_success() || matches!(status.as_u16(), 400 | 500);
        if !may_be_envelope || body.is_empty() {
            let text = String::from_utf8_lossy(&body[..body.len().min(400)])
                .trim()
                .to_owned();
            return Err(Error::Http {
                url: self.url.clone(),
                doing: doing.to_owned(),
                status: status.as_u16(),
                text,
            });
        }
        Ok(body)
    }
}

fn basic(credentials: &Credentials) -> Result<HeaderValue, ()> {
    let pair = SecretString::from(format!(
        "{}:{}",
        credentials.user,
        credentials.password.expose_secret()
    ));
    let mut value =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair.expose_secret())))
            .map_err(|_| ())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_addresses_that_cannot_be_meant() {
        for url in [
            "",
            "hv01",
            "ftp://hv01/wsman",
            "http://user:secret@hv01:5985/wsman",
        ] {
            let error = Transport::new(&Endpoint::new(url)).err().unwrap();
            assert_eq!(error.kind(), crate::ErrorKind::Refused, "{url}: {error}");
        }
        assert!(Transport::new(&Endpoint::new("http://hv01:5985/wsman")).is_ok());
    }

    #[test]
    fn passwords_do_not_show() {
        let credentials = Credentials {
            user: "backup".into(),
            password: SecretString::from("secret"),
        };
        let endpoint = Endpoint {
            credentials: Some(credentials.clone()),
            ..Endpoint::new("https://h:5986/wsman")
        };
        assert!(!format!("{endpoint:?}").contains("secret"));
        assert!(!format!("{:?}", basic(&credentials).unwrap()).contains("c2VjcmV0"));
    }
}
