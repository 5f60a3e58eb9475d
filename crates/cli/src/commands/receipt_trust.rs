//! Whose signature a receipt bears, told from the receipt and one thing that is known from elsewhere.

use api::receipt::{ReceiptParts, signed_bytes};
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::failure::Failure;

/// The name in a certificate that may sign receipts. Agents have certificates of the same CA, without it.
const RECEIPTS_URI: &str = "urn:reprise:receipts";

/// Why a key is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// It is the one that was named.
    Key,
    /// The CA that was named made it for receipts.
    Ca,
}

/// Checks the signature with the key in the receipt; returns the key's fingerprint.
pub(super) fn check_signature(parts: &ReceiptParts) -> Result<String, Failure> {
    UnparsedPublicKey::new(&ED25519, &parts.public)
        .verify(&signed_bytes(&parts.payload), &parts.signature)
        .map_err(|_| {
            not_good("the signature is not that of this receipt: it was changed, or another key signed it")
        })?;
    Ok(fingerprint(&parts.public))
}

/// Tells whether the receipt's key is the one that `known` names, or one its CA made: a fingerprint, or a file with a
/// fingerprint or a certificate.
pub(super) fn trust(parts: &ReceiptParts, known: &str) -> Result<Trust, Failure> {
    if let Some(wanted) = as_fingerprint(known) {
        return by_fingerprint(parts, &wanted);
    }
    let bytes = std::fs::read(known).map_err(|error| {
        Failure::usage(format!(
            "--key {known}: neither a fingerprint nor a file that can be read: {error}"
        ))
        .hint(
            "a fingerprint is 64 hexadecimal digits; the CA's is printed by `reprise server init`",
        )
    })?;
    if let Some(wanted) = std::str::from_utf8(&bytes).ok().and_then(as_fingerprint) {
        return by_fingerprint(parts, &wanted);
    }
    let der = match x509_parser::pem::parse_x509_pem(&bytes) {
        Ok((_, pem)) => pem.contents,
        Err(_) => bytes,
    };
    let certificate = parse(&der).ok_or_else(|| {
        Failure::usage(format!(
            "{known} holds neither a fingerprint nor a certificate"
        ))
    })?;
    if public_key(&certificate) == parts.public {
        return Ok(Trust::Key);
    }
    by_ca(parts, &der)
}

fn by_fingerprint(parts: &ReceiptParts, wanted: &str) -> Result<Trust, Failure> {
    if fingerprint(&parts.public) == wanted {
        return Ok(Trust::Key);
    }
    // The CA's certificate lies in the receipt; its fingerprint says whether it is the known one.
    match parts
        .certificates
        .iter()
        .find(|der| fingerprint(der) == wanted)
    {
        Some(ca) => by_ca(parts, ca),
        None => Err(untrusted(parts)),
    }
}

/// Whether the first certificate of the receipt is of its key, for receipts, and signed by this CA.
fn by_ca(parts: &ReceiptParts, ca: &[u8]) -> Result<Trust, Failure> {
    let vouched = || {
        let ca = parse(ca)?;
        let leaf = parse(parts.certificates.first()?)?;
        let names = leaf.subject_alternative_name().ok()??;
        let for_receipts = names
            .value
            .general_names
            .iter()
            .any(|name| matches!(name, GeneralName::URI(uri) if *uri == RECEIPTS_URI));
        let signed = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key(&ca))
            .verify(leaf.tbs_certificate.as_ref(), &leaf.signature_value.data);
        let good =
            ca.is_ca() && for_receipts && public_key(&leaf) == parts.public && signed.is_ok();
        good.then_some(Trust::Ca)
    };
    vouched().ok_or_else(|| untrusted(parts))
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der)
        .ok()
        .map(|(_, certificate)| certificate)
}

fn public_key<'c>(certificate: &'c X509Certificate<'_>) -> &'c [u8] {
    &certificate
        .tbs_certificate
        .subject_pki
        .subject_public_key
        .data
}

fn fingerprint(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// Reads a SHA-256 in hexadecimal, with or without colons.
fn as_fingerprint(text: &str) -> Option<String> {
    let digits: String = text.trim().chars().filter(|c| *c != ':').collect();
    (digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()))
        .then(|| digits.to_ascii_lowercase())
}

fn untrusted(parts: &ReceiptParts) -> Failure {
    not_good(&format!(
        "the receipt was signed with key {}, which is not the trusted one nor made by the trusted CA",
        fingerprint(&parts.public)
    ))
}

fn not_good(text: &str) -> Failure {
    Failure::new("verify-failed", text)
        .hint("do not rely on this receipt; get it again from the server")
}
