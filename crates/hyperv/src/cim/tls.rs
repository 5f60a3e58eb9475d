//! How the client knows the host: the system's certificates, a given CA, or the fingerprint of its certificate.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, ring as provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

/// What makes a host the right one, over HTTPS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The certificates the operating system trusts.
    #[default]
    System,
    /// Certificates of one or more CAs, PEM.
    CaPem(String),
    /// SHA-256 of the host's own certificate (DER), 64 hexadecimal digits; colons and blanks are skipped. The name in
    /// the certificate does not matter then: WinRM certificates are often self-signed.
    Fingerprint(String),
}

/// Makes the TLS settings.
pub(super) fn client_config(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match trust {
        Trust::System => {
            let verifier = Verifier::new(provider)
                .map_err(|error| format!("the system's certificates cannot be read: {error}"))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_no_client_auth()
        }
        Trust::CaPem(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate =
                    certificate.map_err(|error| format!("the CA file is no PEM file: {error}"))?;
                roots
                    .add(certificate)
                    .map_err(|error| format!("the CA certificate cannot be used: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the CA file holds no certificate".into());
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Fingerprint(text) => {
            let fingerprint = parse_fingerprint(text).ok_or(
                "the fingerprint must be 64 hexadecimal digits (SHA-256 of the host's certificate)",
            )?;
            let verifier = Arc::new(Pinned {
                fingerprint,
                provider,
            });
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth()
        }
    };
    Ok(config)
}

/// Returns `tls-server-end-point` of a host's certificate (RFC 5929): what a log-in is bound to.
pub(super) fn channel_binding(certificate: &[u8]) -> Vec<u8> {
    // The hash is that of the certificate's signature, and never a weaker one than SHA-256.
    const WITH_SHA384: [&str; 2] = ["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
    const WITH_SHA512: [&str; 2] = ["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];
    let signature = x509_parser::parse_x509_certificate(certificate)
        .map(|(_, parsed)| parsed.signature_algorithm.algorithm.to_id_string())
        .unwrap_or_default();
    let hash = if WITH_SHA384.contains(&signature.as_str()) {
        &ring::digest::SHA384
    } else if WITH_SHA512.contains(&signature.as_str()) {
        &ring::digest::SHA512
    } else {
        &ring::digest::SHA256
    };
    let digest = ring::digest::digest(hash, certificate);
    [b"tls-server-end-point:".as_slice(), digest.as_ref()].concat()
}

/// Tells whether a failure means that the host is not the one it should be.
pub(super) fn is_distrust(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|error| {
            matches!(
                error,
                rustls::Error::InvalidCertificate(_) | rustls::Error::General(_)
            )
        })
}

fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<char> = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let value = pair[0].to_digit(16)? * 16 + pair[1].to_digit(16)?;
        *byte = u8::try_from(value).ok()?;
    }
    Some(out)
}

/// Accepts exactly one certificate.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = ring::digest::digest(&ring::digest::SHA256, end_entity.as_ref());
        if found.as_ref() == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(
            "the host's certificate has another fingerprint than the one given".into(),
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
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
        verify_tls13_signature(
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
    fn fingerprints_are_read_as_people_copy_them() {
        let digits = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(parse_fingerprint(&digits), Some([0xAB; 32]));
        assert_eq!(parse_fingerprint(&colons), Some([0xAB; 32]));
        assert_eq!(parse_fingerprint(&digits[1..]), None);
        assert_eq!(parse_fingerprint(&"zz".repeat(32)), None);
    }
}
