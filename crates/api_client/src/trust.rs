//! How a client knows the server: the system's roots, a CA file, or the fingerprint of the server's own CA.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What makes a server the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The certificates the operating system trusts.
    System,
    /// A CA certificate, PEM.
    CaPem(String),
    /// SHA-256 of the CA certificate (DER) the server shows in its chain, 64 hexadecimal digits.
    Fingerprint(String),
}

/// A trust that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Neither a fingerprint nor a readable file.
    #[error(
        "{text:?} is neither a SHA-256 fingerprint (64 hexadecimal digits) nor a readable CA file"
    )]
    Unreadable {
        /// What was given.
        text: String,
        /// Why the file could not be read.
        source: std::io::Error,
    },
    /// A file without a usable certificate.
    #[error("no usable certificate: {0}")]
    BadPem(String),
}

impl Trust {
    /// Reads what a person gave: a fingerprint, or the path of a PEM file.
    pub fn from_text(text: &str) -> Result<Self, TrustError> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Trust::Fingerprint(digits.to_ascii_lowercase()));
        }
        std::fs::read_to_string(Path::new(text))
            .map(Trust::CaPem)
            .map_err(|source| TrustError::Unreadable {
                text: text.to_owned(),
                source,
            })
    }

    /// Makes the TLS settings; `None` where the system's own verification is to be used.
    pub(crate) fn tls(
        &self,
        identity: Option<(&str, &str)>,
    ) -> Result<Option<ClientConfig>, TrustError> {
        let provider = Arc::new(provider::default_provider());
        let bad = |error: &dyn fmt::Display| TrustError::BadPem(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(&error))?;
        let builder = match self {
            Trust::System => return Ok(None),
            Trust::CaPem(pem) => {
                let mut roots = RootCertStore::empty();
                for cert in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let cert = cert.map_err(|error| bad(&error))?;
                    roots.add(cert).map_err(|error| bad(&error))?;
                }
                if roots.is_empty() {
                    return Err(TrustError::BadPem("the file holds none".into()));
                }
                builder.with_root_certificates(roots)
            }
            Trust::Fingerprint(fingerprint) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pinned {
                    fingerprint: fingerprint.clone(),
                    provider,
                })),
        };
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate_pem, key_pem)) => {
                let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| bad(&error))?;
                let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
                    .map_err(|error| bad(&error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| bad(&error))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(config))
    }
}

/// Accepts a server whose chain holds the pinned CA and verifies under that CA alone.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn verifier(
        &self,
        chain: &[CertificateDer<'_>],
    ) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let pinned = chain.iter().find(|cert| {
            hex::encode(ring::digest::digest(&ring::digest::SHA256, cert.as_ref()))
                == self.fingerprint
        });
        let Some(pinned) = pinned else {
            return Err(rustls::Error::General(
                "the server's CA has another fingerprint than the one expected".into(),
            ));
        };
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier(intermediates)?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_told_from_a_path() {
        let colons = "AB:".repeat(31) + "AB";
        assert_eq!(
            Trust::from_text(&colons).unwrap(),
            Trust::Fingerprint("ab".repeat(32))
        );
        assert!(matches!(
            Trust::from_text("/no/such/ca.pem"),
            Err(TrustError::Unreadable { .. })
        ));
        assert!(Trust::CaPem("nothing".into()).tls(None).is_err());
    }

    #[test]
    fn only_the_pinned_ca_is_accepted() {
        let make = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            (
                params.self_signed(&key).unwrap(),
                rcgen::Issuer::new(params, key),
            )
        };
        let ((ca, issuer), (other, _)) = (make("ca"), make("other"));
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let print = |cert: &rcgen::Certificate| {
            hex::encode(ring::digest::digest(
                &ring::digest::SHA256,
                cert.der().as_ref(),
            ))
        };
        let check = |fingerprint: String, chain: &[CertificateDer<'static>], name: &str| {
            let pinned = Pinned {
                fingerprint,
                provider: Arc::new(provider::default_provider()),
            };
            let name = ServerName::try_from(name.to_owned()).unwrap();
            pinned
                .verify_server_cert(leaf.der(), chain, &name, &[], UnixTime::now())
                .is_ok()
        };
        let chain = [ca.der().clone()];
        assert!(check(print(&ca), &chain, "localhost"));
        assert!(!check(print(&ca), &chain, "elsewhere"), "another name");
        assert!(
            !check(print(&other), &chain, "localhost"),
            "another fingerprint"
        );
        assert!(
            !check(print(&other), &[other.der().clone()], "localhost"),
            "a CA that did not sign the server"
        );
    }
}
