//! HTTPS: the host's certificate.
//!
//! Without one of its own the host makes a self-signed certificate, as `winrm quickconfig -transport:https` users do,
//! and keeps it in `DIR/tls`: `cert.pem`, `key.pem`, and `fingerprint` (SHA-256 of the certificate in DER, hexadecimal)
//! for clients that pin it.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::ntlm;
use crate::state::save_bytes;
use crate::{SimError, TlsOptions};

/// What the WS-Management port needs.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// SHA-256 of the certificate, 64 hexadecimal digits.
    pub(super) fingerprint: String,
    /// What log-ins over it may be bound to.
    pub(super) bindings: Vec<[u8; 16]>,
}

/// Loads or makes the certificate of the host in `dir`.
pub(super) fn load(dir: &Path, name: &str, options: &TlsOptions) -> Result<Tls, SimError> {
    let folder = dir.join("tls");
    let (cert, key) = match options {
        TlsOptions::Files { cert, key } => (cert.clone(), key.clone()),
        TlsOptions::SelfSigned => (folder.join("cert.pem"), folder.join("key.pem")),
    };
    std::fs::create_dir_all(&folder)
        .map_err(|source| io(format!("make {}", folder.display()), source))?;
    if *options == TlsOptions::SelfSigned && !(cert.exists() && key.exists()) {
        make(name, &cert, &key)?;
    }
    let bad = |file: &Path, what: String| SimError::Usage {
        what: format!("{} cannot be used for HTTPS: {what}", file.display()),
    };
    let chain = CertificateDer::pem_file_iter(&cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|err| bad(&cert, err.to_string()))?;
    let Some(own) = chain.first() else {
        return Err(bad(&cert, "it holds no certificate".to_owned()));
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, own);
    let fingerprint: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // The hash is that of the certificate's signature; a certificate of ours is signed with SHA-256.
    let hashes: &[_] = match options {
        TlsOptions::SelfSigned => &[&ring::digest::SHA256],
        TlsOptions::Files { .. } => &[
            &ring::digest::SHA256,
            &ring::digest::SHA384,
            &ring::digest::SHA512,
        ],
    };
    let bindings = hashes
        .iter()
        .map(|hash| ntlm::channel_binding(ring::digest::digest(hash, own).as_ref()))
        .collect();
    let secret = PrivateKeyDer::from_pem_file(&key).map_err(|err| bad(&key, err.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain.clone(), secret)
        })
        .map_err(|err| bad(&cert, err.to_string()))?;
    let note = folder.join("fingerprint");
    save_bytes(&note, format!("{fingerprint}\n").as_bytes())
        .map_err(|source| io(format!("write {}", note.display()), source))?;
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        fingerprint,
        bindings,
    })
}

fn make(name: &str, cert: &Path, key: &Path) -> Result<(), SimError> {
    let failed = |err: rcgen::Error| SimError::Usage {
        what: format!("no certificate can be made for {name}: {err}"),
    };
    let pair = KeyPair::generate().map_err(failed)?;
    let names = [name, "localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let signed = params.self_signed(&pair).map_err(failed)?;
    write_secret(key, pair.serialize_pem().as_bytes())
        .map_err(|source| io(format!("write {}", key.display()), source))?;
    save_bytes(cert, signed.pem().as_bytes())
        .map_err(|source| io(format!("write {}", cert.display()), source))
}

/// Writes a file that only its owner may read.
fn write_secret(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    std::io::Write::write_all(&mut options.open(file)?, bytes)
}

fn io(action: String, source: std::io::Error) -> SimError {
    SimError::Io { action, source }
}
