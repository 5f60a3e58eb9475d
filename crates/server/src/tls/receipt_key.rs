//! The key that signs receipts of restores (`docs/receipts.md`): Ed25519, made with the installation, certified by its CA.
//!
//! `receipts.key` (PKCS #8) and `receipts.pem` lie beside the CA's files and are never made anew once they are there: a receipt
//! can be checked as long as anyone has the CA's certificate or the key's fingerprint. The certificate lives as long as the CA.

use std::path::Path;

use anyhow::Context;
use api::receipt::{ReceiptFile, ReceiptKey, signed_bytes};
use model::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::authority::{CA_DAYS, named, set_life};
use crate::files::{self, Access};

/// What the certificate is for, as its only name.
const RECEIPTS_URI: &str = "urn:reprise:receipts";
const KEY_FILE: &str = "receipts.key";
const CERTIFICATE_FILE: &str = "receipts.pem";

/// Signs receipts.
pub(super) struct ReceiptSigner {
    pair: Ed25519KeyPair,
    key: ReceiptKey,
}

impl ReceiptSigner {
    /// Reads the key and its certificate; makes them where they are missing.
    pub(super) fn open(
        folder: &Path,
        issuer: &Issuer<'_, KeyPair>,
        ca: &CertificateDer<'_>,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let key_file = folder.join(KEY_FILE);
        if !key_file.exists() {
            let key = KeyPair::generate_for(&PKCS_ED25519).context("make the key of receipts")?;
            files::write_new(&key_file, key.serialize_pem().as_bytes(), Access::Secret)?;
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        let key = KeyPair::from_pem(&read(&key_file)?).context("read the key of receipts")?;
        let certificate_file = folder.join(CERTIFICATE_FILE);
        if !certificate_file.exists() {
            let mut params = CertificateParams::default();
            params.distinguished_name = named("Reprise restore receipts");
            let uri = Ia5String::try_from(RECEIPTS_URI).context("name the key of receipts")?;
            params.subject_alt_names = vec![SanType::URI(uri)];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            set_life(&mut params, now, CA_DAYS)?;
            let certificate = params
                .signed_by(&key, issuer)
                .context("certify the key of receipts")?;
            files::replace(
                &certificate_file,
                certificate.pem().as_bytes(),
                Access::Public,
            )?;
        }
        let certificate = CertificateDer::from_pem_slice(read(&certificate_file)?.as_bytes())
            .context("read the certificate of receipts")?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.serialized_der())
            .map_err(|why| anyhow::anyhow!("the key of receipts cannot be used: {why}"))?;
        let public = pair.public_key().as_ref();
        let fingerprint = hex::encode(ring::digest::digest(&ring::digest::SHA256, public));
        let key = ReceiptKey::new(public, fingerprint, &[&certificate, ca]);
        Ok(Self { pair, key })
    }

    /// Signs a payload.
    pub(super) fn sign(&self, payload: &[u8]) -> ReceiptFile {
        let signature = self.pair.sign(&signed_bytes(payload));
        ReceiptFile::new(payload, signature.as_ref(), self.key.clone())
    }
}
