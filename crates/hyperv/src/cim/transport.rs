//! Envelopes over HTTP: log-ins, and the connections they belong to.
//!
//! A log-in by NTLM belongs to its connection, so every connection is logged in when it is made, serves one request at
//! a time and is kept for the next one. A connection that has ended, or that gets 401 although its log-in was good, is
//! replaced once; a request is sent again only where the host has certainly not begun with it.
//!
//! Invariants: over HTTP a password leaves only where Basic was asked for by name; where messages are sealed, nothing
//! that came in plain is believed; secrets are in no log, no error and no `Debug`.
//! Not here: what the envelopes say (`wsman`), when to try again (`session`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::challenge::Offers;
use super::connection::{Answer, Connection, ConnectionError, PostError, Target};
use super::endpoint::{Authentication, Credentials, Endpoint};
use super::ntlm::{self, Ntlm};
use super::tls;
use crate::Error;

/// What the network may add to the time the host is given for an operation.
const NETWORK_MARGIN: Duration = Duration::from_secs(30);
/// Idle connections are dropped before the service does it (two minutes), so that a request seldom meets a dead one.
const IDLE: Duration = Duration::from_secs(60);
/// Requests at the same time, each on a connection of its own. The service allows far more.
const MAX_CONNECTIONS: usize = 8;
const SOAP: &str = "application/soap+xml;charset=UTF-8";
const NEGOTIATE: &str = "Negotiate";

/// The HTTP side of a session.
pub(super) struct Transport {
    url: String,
    target: Target,
    credentials: Option<Credentials>,
    authentication: Authentication,
    limit: Duration,
    idle: Mutex<Vec<Channel>>,
    permits: Semaphore,
    /// Set when the host turned out to offer Basic only.
    falls_back: AtomicBool,
    /// Set when a log-in by Basic was good once.
    was_good: AtomicBool,
}

/// A connection with its log-in.
struct Channel {
    connection: Connection,
    log_in: LogIn,
}

enum LogIn {
    None,
    Basic(HeaderValue),
    /// Done over TLS.
    Bound,
    /// Done over HTTP: messages are sealed.
    Sealing(Box<Ntlm>),
}

/// How one try to send a request ended, where it did not fail for good.
enum Outcome {
    Envelope(Vec<u8>),
    /// The connection had ended before.
    NotSent(ConnectionError),
    /// The host wants another log-in, so it has not begun.
    Unauthorized(Offers),
}

impl Transport {
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        let wrong = |what: String| Error::Settings {
            url: endpoint.url.clone(),
            what,
        };
        let target = Target::new(&endpoint.url, &endpoint.trust).map_err(wrong)?;
        if let Some(credentials) = &endpoint.credentials {
            match endpoint.authentication {
                Authentication::Basic => drop(basic(credentials).map_err(wrong)?),
                Authentication::Auto | Authentication::Ntlm => {
                    ntlm::check(credentials).map_err(wrong)?;
                }
            }
        }
        Ok(Self {
            url: endpoint.url.clone(),
            target,
            credentials: endpoint.credentials.clone(),
            authentication: endpoint.authentication,
            limit: endpoint.operation_timeout + NETWORK_MARGIN,
            idle: Mutex::default(),
            permits: Semaphore::new(MAX_CONNECTIONS),
            falls_back: AtomicBool::new(false),
            was_good: AtomicBool::new(false),
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn user(&self) -> &str {
        self.credentials
            .as_ref()
            .map_or("(no user)", |credentials| &credentials.user)
    }

    /// Sends an envelope and returns the envelope that came back, be it a fault.
    ///
    /// Dropped half-way, the connection goes with it.
    pub(super) async fn send(&self, doing: &str, envelope: String) -> Result<Vec<u8>, Error> {
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        tokio::time::timeout(self.limit, self.send_patiently(doing, envelope))
            .await
            .unwrap_or_else(|_| Err(self.broken(doing, ConnectionError::Timeout(self.limit))))
    }

    async fn send_patiently(&self, doing: &str, envelope: String) -> Result<Vec<u8>, Error> {
        let mut logged_in_anew = false;
        loop {
            let (mut channel, is_new) = match self.take_idle() {
                Some(channel) => (channel, false),
                None => (self.log_in().await?, true),
            };
            match self.exchange(doing, &mut channel, &envelope).await? {
                Outcome::Envelope(envelope) => {
                    lock(&self.idle).push(channel);
                    return Ok(envelope);
                }
                // Idle connections end at any time, and each is tried at most once.
                Outcome::NotSent(error) if is_new => return Err(self.unreachable(error)),
                Outcome::NotSent(_) => {}
                Outcome::Unauthorized(offers) => {
                    let may_be_late = match channel.log_in {
                        LogIn::None => false,
                        LogIn::Basic(_) => self.was_good.load(Ordering::Relaxed),
                        LogIn::Bound | LogIn::Sealing(_) => true,
                    };
                    if logged_in_anew || !may_be_late {
                        return Err(self.refused(&offers, channel.log_in.name()));
                    }
                    logged_in_anew = true;
                    tracing::debug!(%doing, "the host wants a new log-in");
                    // The others have most likely lost theirs as well.
                    lock(&self.idle).clear();
                }
            }
        }
    }

    fn take_idle(&self) -> Option<Channel> {
        let mut idle = lock(&self.idle);
        while let Some(channel) = idle.pop() {
            if channel.connection.is_alive(IDLE) {
                return Some(channel);
            }
        }
        None
    }

    /// Sends one envelope on a connection.
    async fn exchange(
        &self,
        doing: &str,
        channel: &mut Channel,
        envelope: &str,
    ) -> Result<Outcome, Error> {
        let plain = envelope.as_bytes().to_vec();
        let (content_type, authorization, body) = match &mut channel.log_in {
            LogIn::None | LogIn::Bound => (SOAP, None, plain),
            LogIn::Basic(value) => (SOAP, Some(&*value), plain),
            LogIn::Sealing(ntlm) => {
                let sealed = ntlm.seal(plain).map_err(|error| self.no_log_in(&error))?;
                (wsman::sealed::CONTENT_TYPE, None, sealed)
            }
        };
        let posted = channel
            .connection
            .post(&self.target, content_type, authorization, body)
            .await;
        let answer = match posted {
            Ok(answer) => answer,
            Err(PostError::NotSent(error)) => return Ok(Outcome::NotSent(error)),
            Err(PostError::Broken(error)) => return Err(self.broken(doing, error)),
            Err(PostError::TooLarge(bytes)) => return Err(too_large(doing, bytes)),
        };
        if answer.status == StatusCode::UNAUTHORIZED {
            return Ok(Outcome::Unauthorized(Offers::read(&answer.headers)));
        }
        if matches!(channel.log_in, LogIn::Basic(_)) {
            self.was_good.store(true, Ordering::Relaxed);
        }
        let status = answer.status;
        let body = match &mut channel.log_in {
            LogIn::None | LogIn::Basic(_) | LogIn::Bound => answer.body,
            LogIn::Sealing(ntlm) => self.unseal(doing, ntlm, answer)?,
        };
        if body.len() > wsman::limits::ENVELOPE_BYTES {
            return Err(too_large(doing, body.len()));
        }
        // Faults come with 500 or 400; whether a body is an envelope shows when it is read.
        let may_be_envelope = status.is_success() || matches!(status.as_u16(), 400 | 500);
        if may_be_envelope && !body.is_empty() {
            return Ok(Outcome::Envelope(body));
        }
        let text = if status == StatusCode::INTERNAL_SERVER_ERROR && !self.target.is_secure() {
            "nothing, as hosts answer that forbid messages in plain text; use NTLM or HTTPS".into()
        } else {
            start_of(&body)
        };
        Err(Error::Http {
            url: self.url.clone(),
            doing: doing.to_owned(),
            status: status.as_u16(),
            text,
        })
    }

    fn unseal(&self, doing: &str, ntlm: &mut Ntlm, answer: Answer) -> Result<Vec<u8>, Error> {
        let content_type = answer
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !wsman::sealed::is_sealed(content_type) {
            return Err(Error::Unsealed {
                url: self.url.clone(),
                doing: doing.to_owned(),
                status: answer.status.as_u16(),
                text: start_of(&answer.body),
            });
        }
        ntlm.unseal(content_type, &answer.body)
            .map_err(|what| Error::Tampered {
                url: self.url.clone(),
                doing: doing.to_owned(),
                what,
            })
    }

    /// Makes a connection and logs in on it.
    async fn log_in(&self) -> Result<Channel, Error> {
        let connection = Connection::open(&self.target)
            .await
            .map_err(|error| self.unreachable(error))?;
        let Some(credentials) = &self.credentials else {
            return Ok(Channel {
                connection,
                log_in: LogIn::None,
            });
        };
        let by_basic = match self.authentication {
            Authentication::Basic => true,
            Authentication::Ntlm => false,
            Authentication::Auto => self.falls_back.load(Ordering::Relaxed),
        };
        if by_basic {
            return self.basic(connection, credentials);
        }
        let binding = connection.channel_binding.clone();
        let mut ntlm = Ntlm::new(credentials, binding.as_deref());
        self.negotiate(connection, credentials, &mut ntlm)
            .await
            .map(|(connection, fallen_back)| {
                if fallen_back {
                    return self.basic(connection, credentials);
                }
                let log_in = if self.target.is_secure() {
                    LogIn::Bound
                } else {
                    LogIn::Sealing(Box::new(ntlm))
                };
                Ok(Channel { connection, log_in })
            })?
    }

    fn basic(&self, connection: Connection, credentials: &Credentials) -> Result<Channel, Error> {
        let value = basic(credentials).map_err(|what| Error::Settings {
            url: self.url.clone(),
            what,
        })?;
        Ok(Channel {
            connection,
            log_in: LogIn::Basic(value),
        })
    }

    /// Goes through the legs of NTLM, with empty bodies. `true` where Basic is to be used instead.
    async fn negotiate(
        &self,
        mut connection: Connection,
        credentials: &Credentials,
        ntlm: &mut Ntlm,
    ) -> Result<(Connection, bool), Error> {
        let first = ntlm.step(None).map_err(|error| self.no_log_in(&error))?;
        let answer = self.leg(&mut connection, &first).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Err(if answer.status.is_server_error() {
                self.http_error(&answer)
            } else {
                Error::NotAsked {
                    url: self.url.clone(),
                }
            });
        }
        let offers = Offers::read(&answer.headers);
        let Some(challenge) = offers.token.clone() else {
            let may_fall_back = self.authentication == Authentication::Auto
                && self.target.is_secure()
                && !offers.has(NEGOTIATE)
                && offers.has("Basic")
                && basic(credentials).is_ok();
            if may_fall_back {
                tracing::debug!("the host offers no Negotiate; logging in with Basic");
                self.falls_back.store(true, Ordering::Relaxed);
                return Ok((connection, true));
            }
            return Err(self.no_scheme(&offers));
        };
        let third = ntlm
            .step(Some(challenge))
            .map_err(|error| self.no_log_in(&error))?;
        let answer = self.leg(&mut connection, &third).await?;
        match answer.status.as_u16() {
            401 | 403 => Err(self.refused(&Offers::read(&answer.headers), "NTLM")),
            // Some services complain about the empty body; the log-in is done all the same.
            200..=299 | 400 | 411 => Ok((connection, false)),
            _ => Err(self.http_error(&answer)),
        }
    }

    async fn leg(&self, connection: &mut Connection, token: &[u8]) -> Result<Answer, Error> {
        let mut value = HeaderValue::from_str(&format!("{NEGOTIATE} {}", STANDARD.encode(token)))
            .expect("base64 fits into a header");
        value.set_sensitive(true);
        let posted = connection
            .post(&self.target, SOAP, Some(&value), Vec::new())
            .await;
        // Nothing was asked of the host yet, so a broken connection is as good as none.
        posted.map_err(|error| match error {
            PostError::NotSent(error) | PostError::Broken(error) => self.unreachable(error),
            PostError::TooLarge(bytes) => too_large("the log-in", bytes),
        })
    }

    fn unreachable(&self, source: ConnectionError) -> Error {
        let url = self.url.clone();
        match source {
            ConnectionError::Tls(source) if tls::is_distrust(&source) => {
                Error::Untrusted { url, source }
            }
            ConnectionError::Connect(_)
            | ConnectionError::Tls(_)
            | ConnectionError::Timeout(_)
            | ConnectionError::Http(_) => Error::Unreachable { url, source },
        }
    }

    fn broken(&self, doing: &str, source: ConnectionError) -> Error {
        Error::Broken {
            url: self.url.clone(),
            doing: doing.to_owned(),
            source,
        }
    }

    fn http_error(&self, answer: &Answer) -> Error {
        Error::Http {
            url: self.url.clone(),
            doing: "the log-in".to_owned(),
            status: answer.status.as_u16(),
            text: start_of(&answer.body),
        }
    }

    /// The host said no to a log-in; what that means depends on what it offers.
    fn refused(&self, offers: &Offers, scheme: &'static str) -> Error {
        let is_offered = match scheme {
            "NTLM" => offers.schemes.is_empty() || offers.has(NEGOTIATE),
            "Basic" => offers.schemes.is_empty() || offers.has("Basic"),
            _ => true,
        };
        if !is_offered {
            return self.no_scheme(offers);
        }
        Error::LogIn {
            url: self.url.clone(),
            user: self.user().to_owned(),
            scheme,
        }
    }

    fn no_scheme(&self, offers: &Offers) -> Error {
        let secure = self.target.is_secure();
        let wanted = match self.authentication {
            Authentication::Basic => "Basic",
            Authentication::Ntlm => "NTLM through Negotiate",
            Authentication::Auto if secure => "NTLM through Negotiate, or Basic",
            Authentication::Auto => "NTLM through Negotiate (Basic over HTTPS only)",
        };
        let hint = if offers.has(NEGOTIATE) && self.authentication != Authentication::Basic {
            "the host takes Negotiate but refuses NTLM: allow NTLM there by policy, or use Basic over HTTPS"
        } else if offers.has("Basic") && !secure {
            "Basic over HTTP shows the password to the network: use HTTPS, or ask for Basic by name if that is meant"
        } else if offers.has("Basic") {
            "ask for Basic, or switch Negotiate on: winrm set winrm/config/service/auth @{Negotiate=\"true\"}"
        } else if self.authentication == Authentication::Basic {
            "use NTLM, or switch Basic on: winrm set winrm/config/service/auth @{Basic=\"true\"}"
        } else {
            "switch Negotiate on: winrm set winrm/config/service/auth @{Negotiate=\"true\"}"
        };
        Error::NoScheme {
            url: self.url.clone(),
            offered: if offers.schemes.is_empty() {
                "nothing".to_owned()
            } else {
                offers.schemes.join(", ")
            },
            wanted,
            hint,
        }
    }

    fn no_log_in(&self, error: &sspi::Error) -> Error {
        Error::Nonsense {
            doing: format!("the log-in at {}", self.url),
            what: error.description.clone(),
        }
    }
}

impl LogIn {
    fn name(&self) -> &'static str {
        match self {
            Self::None => "no scheme",
            Self::Basic(_) => "Basic",
            Self::Bound | Self::Sealing(_) => "NTLM",
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn too_large(doing: &str, bytes: usize) -> Error {
    Error::Message {
        doing: doing.to_owned(),
        source: wsman::MessageError::TooLarge { bytes },
    }
}

fn start_of(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(400)])
        .trim()
        .to_owned()
}

fn basic(credentials: &Credentials) -> Result<HeaderValue, String> {
    if credentials.user.contains(':') {
        return Err("a user name with a colon cannot be used with Basic".into());
    }
    let pair = SecretString::from(format!(
        "{}:{}",
        credentials.user,
        credentials.password.expose_secret()
    ));
    let text = SecretString::from(format!("Basic {}", STANDARD.encode(pair.expose_secret())));
    let mut value = HeaderValue::from_str(text.expose_secret())
        .map_err(|_| "user or password holds a character that HTTP does not carry".to_owned())?;
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
            "http://:5985/wsman",
        ] {
            let error = Transport::new(&Endpoint::new(url)).err().unwrap();
            assert_eq!(error.kind(), crate::ErrorKind::Refused, "{url}: {error}");
        }
        for url in [
            "http://hv01:5985/wsman",
            "https://hv01/wsman",
            "https://[::1]:5986/wsman",
        ] {
            assert!(Transport::new(&Endpoint::new(url)).is_ok(), "{url}");
        }
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
