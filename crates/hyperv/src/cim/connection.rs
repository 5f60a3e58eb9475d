//! One connection to a host: TCP, TLS, and one request after the other.
//!
//! Invariants: a connection serves one request at a time; an answer is bounded before it is kept; what was certainly
//! not sent is told apart from what may have been.
//! Not here: who is logged in on it (`transport`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer: an envelope, and what sealing adds to it.
const MAX_ANSWER_BYTES: usize = wsman::limits::ENVELOPE_BYTES + (64 << 10);

/// Why a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No connection was made.
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    /// TLS was not agreed on.
    #[error("no TLS session")]
    Tls(#[source] std::io::Error),
    /// The host did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// HTTP broke off.
    #[error("HTTP broke off")]
    Http(#[source] hyper::Error),
}

/// Where to connect.
pub(super) struct Target {
    host: String,
    port: u16,
    authority: HeaderValue,
    path: Uri,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    /// Reads an address; says what is wrong with it.
    pub(super) fn new(url: &str, trust: &tls::Trust) -> Result<Self, String> {
        let shape = "it must look like https://HOST:5986/wsman";
        let uri: Uri = url.parse().map_err(|error| format!("{error}; {shape}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(shape.into()),
        };
        let authority = uri.authority().ok_or(shape)?;
        if authority.as_str().contains('@') {
            return Err("user and password do not belong into the address".into());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(shape.into());
        }
        let tls = if secure {
            let config: ClientConfig = tls::client_config(trust)?;
            let name = ServerName::try_from(host.clone())
                .map_err(|_| format!("{host:?} is no name of a host"))?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        Ok(Self {
            host,
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| shape)?,
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .parse()
                .map_err(|_| shape)?,
            tls,
        })
    }

    /// Whether it is HTTPS.
    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }
}

/// An answer of whatever status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
pub(super) enum PostError {
    /// The request was not sent: the connection had ended.
    NotSent(ConnectionError),
    /// It may have been.
    Broken(ConnectionError),
    /// The answer is larger than anything the host may send.
    TooLarge(usize),
}

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// `tls-server-end-point` of the TLS channel.
    pub(super) channel_binding: Option<Vec<u8>>,
    used: Instant,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self, ConnectionError> {
        tokio::time::timeout(CONNECT_TIMEOUT, Self::open_patiently(target))
            .await
            .unwrap_or(Err(ConnectionError::Timeout(CONNECT_TIMEOUT)))
    }

    async fn open_patiently(target: &Target) -> Result<Self, ConnectionError> {
        let stream = TcpStream::connect((target.host.as_str(), target.port))
            .await
            .map_err(ConnectionError::Connect)?;
        // Small requests go at once; without it only speed suffers.
        let _ = stream.set_nodelay(true);
        let Some((connector, name)) = &target.tls else {
            return Self::start(TokioIo::new(stream), None).await;
        };
        let stream = connector
            .connect(name.clone(), stream)
            .await
            .map_err(ConnectionError::Tls)?;
        let certificates = stream.get_ref().1.peer_certificates();
        let binding = certificates
            .and_then(|chain| chain.first())
            .map(|certificate| tls::channel_binding(certificate));
        Self::start(TokioIo::new(stream), binding).await
    }

    async fn start(
        io: impl hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
        channel_binding: Option<Vec<u8>>,
    ) -> Result<Self, ConnectionError> {
        let (sender, connection) = http1::handshake(io).await.map_err(ConnectionError::Http)?;
        // It ends with the sender.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection to the host ended: {error}");
            }
        });
        Ok(Self {
            sender,
            channel_binding,
            used: Instant::now(),
        })
    }

    /// Whether it may still be used, as far as one can see from here.
    pub(super) fn is_alive(&self, idle: Duration) -> bool {
        !self.sender.is_closed() && self.used.elapsed() < idle
    }

    /// Sends a request and waits for the whole answer.
    pub(super) async fn post(
        &mut self,
        target: &Target,
        content_type: &'static str,
        authorization: Option<&HeaderValue>,
        body: Vec<u8>,
    ) -> Result<Answer, PostError> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, target.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(value) = authorization {
            headers.insert(hyper::header::AUTHORIZATION, value.clone());
        }
        let not_sent = |error| PostError::NotSent(ConnectionError::Http(error));
        let broken = |error| PostError::Broken(ConnectionError::Http(error));
        self.sender.ready().await.map_err(not_sent)?;
        let response = match self.sender.try_send_request(request).await {
            Ok(response) => response,
            // The request comes back where no byte of it was written.
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let error = error.into_error();
                return Err(if unsent {
                    not_sent(error)
                } else {
                    broken(error)
                });
            }
        };
        let (head, mut content) = response.into_parts();
        let mut body = Vec::new();
        while let Some(frame) = content.frame().await {
            let Ok(piece) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(PostError::TooLarge(body.len() + piece.len()));
            }
            body.extend_from_slice(&piece);
        }
        self.used = Instant::now();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}
