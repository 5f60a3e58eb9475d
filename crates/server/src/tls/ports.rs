//! TLS of the two ports: people show a token later, agents a certificate now.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use model::AgentId;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tower::Layer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Authority;
use super::authority::AGENT_URI;

/// The agent at the other end, from the certificate it showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerAgent(pub(crate) AgentId);

/// Returns the TLS settings of the people's port.
pub(crate) fn people_config(authority: &Authority) -> anyhow::Result<RustlsConfig> {
    let (chain, key) = authority.server_identity();
    let config = builder()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("use the server's certificate")?;
    Ok(finish(config))
}

/// Returns the TLS settings of the agents' port: no handshake without a certificate of our CA.
pub(crate) fn agent_config(authority: &Authority) -> anyhow::Result<RustlsConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.ca_der().clone())
        .context("trust the CA")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .context("check agents' certificates")?;
    let (chain, key) = authority.server_identity();
    let config = builder()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("use the server's certificate")?;
    Ok(finish(config))
}

fn builder() -> anyhow::Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("set up TLS")
}

fn finish(mut config: ServerConfig) -> RustlsConfig {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    RustlsConfig::from_config(Arc::new(config))
}

/// Accepts TLS and tells each request which agent's certificate the connection showed.
#[derive(Clone)]
pub(crate) struct AgentAcceptor {
    tls: RustlsAcceptor,
}

impl AgentAcceptor {
    pub(crate) fn new(config: RustlsConfig) -> Self {
        Self {
            tls: RustlsAcceptor::new(config),
        }
    }
}

type Accepted<St, Se> = Pin<Box<dyn Future<Output = io::Result<(St, Se)>> + Send>>;

impl<S> Accept<TcpStream, S> for AgentAcceptor
where
    S: Send + 'static,
{
    type Stream = <RustlsAcceptor as Accept<TcpStream, S>>::Stream;
    type Service = axum::middleware::AddExtension<S, PeerAgent>;
    type Future = Accepted<Self::Stream, Self::Service>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accepting = self.tls.accept(stream, service);
        Box::pin(async move {
            let (stream, service) = accepting.await?;
            let agent = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|chain| chain.first())
                .and_then(agent_of)
                .ok_or_else(|| io::Error::other("the certificate names no agent"))?;
            let service = axum::Extension(PeerAgent(agent)).layer(service);
            Ok((stream, service))
        })
    }
}

fn agent_of(certificate: &CertificateDer<'_>) -> Option<AgentId> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        uri.strip_prefix(AGENT_URI)?.parse().ok()
    })
}
