//! The installation's own CA. It signs the server's certificate and those of agents.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use api::receipt::ReceiptFile;
use model::{AgentId, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::receipt_key::ReceiptSigner;
use crate::files::{self, Access};

const DAY_SECS: u64 = 86_400;
pub(super) const CA_DAYS: u64 = 20 * 365;
const SERVER_DAYS: u64 = 365;
/// The server certificate is made anew at a start when it ends within this time.
const SERVER_RENEW_DAYS: u64 = 60;
const AGENT_DAYS: u64 = 90;
/// Certificates hold from a little before they were made: clocks differ.
const BACKDATE_SECS: u64 = 3600;
/// Names of agents in their certificates: `urn:reprise:agent:<id>`.
pub(super) const AGENT_URI: &str = "urn:reprise:agent:";

/// A certificate for an agent.
pub(crate) struct AgentCertificate {
    pub(crate) pem: String,
    pub(crate) expires: Timestamp,
}

/// The CA with its key, and the server's certificate.
pub(crate) struct Authority {
    folder: PathBuf,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    server_chain: Vec<CertificateDer<'static>>,
    server_key: PrivateKeyDer<'static>,
    receipts: ReceiptSigner,
}

impl Authority {
    /// Makes a CA and a server certificate in `folder`.
    pub(crate) fn create(folder: &Path, names: &[String], now: Timestamp) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("make the CA's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Reprise installation CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_life(&mut params, now, CA_DAYS)?;
        let certificate = params
            .self_signed(&key)
            .context("make the CA's certificate")?;
        files::write_new(
            &folder.join("ca.key"),
            key.serialize_pem().as_bytes(),
            Access::Secret,
        )?;
        files::write_new(
            &folder.join("ca.pem"),
            certificate.pem().as_bytes(),
            Access::Public,
        )?;
        make_server_certificate(folder, names, now)?;
        Self::load(folder, now)
    }

    /// Reads the CA; makes the server certificate anew where it ends soon or lacks a name.
    pub(crate) fn open(folder: &Path, names: &[String], now: Timestamp) -> anyhow::Result<Self> {
        let authority = Self::load(folder, now)?;
        let leaf = authority
            .server_chain
            .first()
            .context("the server certificate is empty")?;
        if leaf_is_good(leaf, names, now)? {
            return Ok(authority);
        }
        tracing::info!("the server certificate ends soon or lacks a name: making a new one");
        make_server_certificate(folder, names, now)?;
        Self::load(folder, now)
    }

    fn load(folder: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let ca_pem = read("ca.pem")?;
        let key = KeyPair::from_pem(&read("ca.key")?).context("read the CA's key")?;
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .context("read the CA's certificate")?;
        let issuer = Issuer::from_ca_cert_der(&ca_der, key).context("read the CA's certificate")?;
        let server = CertificateDer::from_pem_slice(read("server.pem")?.as_bytes())
            .context("read the server's certificate")?;
        let server_key = PrivateKeyDer::from_pem_slice(read("server.key")?.as_bytes())
            .context("read the server's key")?;
        let receipts = ReceiptSigner::open(folder, &issuer, &ca_der, now)?;
        Ok(Self {
            folder: folder.to_owned(),
            receipts,
            // The CA goes with the server's certificate, so that an agent that enrols sees what it has the fingerprint of.
            server_chain: vec![server, ca_der.clone()],
            ca_pem,
            ca_der,
            issuer,
            server_key,
        })
    }

    /// Returns the CA's certificate.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Returns where the CA's certificate lies.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Returns the SHA-256 of the CA's certificate.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(ring::digest::digest(&ring::digest::SHA256, &self.ca_der))
    }

    /// Signs what a receipt says.
    pub(crate) fn sign_receipt(&self, payload: &[u8]) -> ReceiptFile {
        self.receipts.sign(payload)
    }

    pub(super) fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca_der
    }

    pub(super) fn server_identity(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.server_chain.clone(), self.server_key.clone_key())
    }

    /// Signs an agent's public key. Everything else in the request is ignored.
    pub(crate) fn sign_agent(
        &self,
        agent: AgentId,
        csr_pem: &str,
        now: Timestamp,
    ) -> anyhow::Result<AgentCertificate> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .context("the certificate signing request cannot be read")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("Reprise agent {agent}"));
        let uri = Ia5String::try_from(format!("{AGENT_URI}{agent}")).context("name the agent")?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        set_life(&mut params, now, AGENT_DAYS)?;
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .context("sign the agent's certificate")?;
        Ok(AgentCertificate {
            pem: certificate.pem(),
            expires: now.plus_secs(AGENT_DAYS * DAY_SECS),
        })
    }
}

fn make_server_certificate(folder: &Path, names: &[String], now: Timestamp) -> anyhow::Result<()> {
    let ca_key = std::fs::read_to_string(folder.join("ca.key")).context("read the CA's key")?;
    let ca_pem = std::fs::read_to_string(folder.join("ca.pem")).context("read the CA")?;
    let ca_key = KeyPair::from_pem(&ca_key).context("read the CA's key")?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).context("read the CA")?;
    let key = KeyPair::generate().context("make the server's key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Reprise server");
    params.subject_alt_names = alternative_names(names)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    set_life(&mut params, now, SERVER_DAYS)?;
    let certificate = params
        .signed_by(&key, &issuer)
        .context("sign the server's certificate")?;
    // A crash between the two leaves a pair that does not match; the next start would say so. The key goes first, and
    // the pair is checked when TLS is set up.
    files::replace(
        &folder.join("server.key"),
        key.serialize_pem().as_bytes(),
        Access::Secret,
    )?;
    files::replace(
        &folder.join("server.pem"),
        certificate.pem().as_bytes(),
        Access::Public,
    )
}

fn alternative_names(extra: &[String]) -> anyhow::Result<Vec<SanType>> {
    let mut all = vec![
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    for name in dns_names(extra) {
        match name.parse::<IpAddr>() {
            Ok(address) => all.push(SanType::IpAddress(address)),
            Err(_) => all.push(SanType::DnsName(
                Ia5String::try_from(name.clone())
                    .with_context(|| format!("{name:?} cannot be a name in a certificate"))?,
            )),
        }
    }
    Ok(all)
}

fn dns_names(extra: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    for name in host_name().into_iter().chain(extra.iter().cloned()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Returns this machine's name, where it can be one in a certificate.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())?;
    let name = name.trim().to_owned();
    let fits = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    fits.then_some(name)
}

/// Tells whether the certificate lasts and holds every name asked for.
fn leaf_is_good(
    leaf: &CertificateDer<'_>,
    names: &[String],
    now: Timestamp,
) -> anyhow::Result<bool> {
    let (_, parsed) = X509Certificate::from_der(leaf).context("read the server's certificate")?;
    let ends = parsed.validity().not_after.timestamp().saturating_mul(1000);
    let lasts = Timestamp::from_millis(ends) > now.plus_secs(SERVER_RENEW_DAYS * DAY_SECS);
    let listed = parsed
        .subject_alternative_name()
        .context("read the server's certificate")?
        .map(|extension| extension.value.general_names.clone())
        .unwrap_or_default();
    let has = |name: &String| {
        listed
            .iter()
            .any(|entry| match (entry, name.parse::<IpAddr>()) {
                (x509_parser::extensions::GeneralName::DNSName(dns), Err(_)) => dns == name,
                (x509_parser::extensions::GeneralName::IPAddress(bytes), Ok(IpAddr::V4(ip))) => {
                    *bytes == ip.octets()
                }
                (x509_parser::extensions::GeneralName::IPAddress(bytes), Ok(IpAddr::V6(ip))) => {
                    *bytes == ip.octets()
                }
                _ => false,
            })
    };
    Ok(lasts && names.iter().all(has))
}

pub(super) fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Reprise");
    name.push(DnType::CommonName, common_name);
    name
}

pub(super) fn set_life(
    params: &mut CertificateParams,
    now: Timestamp,
    days: u64,
) -> anyhow::Result<()> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now_secs = now.millis_since(Timestamp::from_millis(0)) / 1000;
    ensure!(
        now_secs > BACKDATE_SECS,
        "the clock of this machine stands before 1970; set it"
    );
    params.not_before = epoch + Duration::from_secs(now_secs - BACKDATE_SECS);
    params.not_after = epoch + Duration::from_secs(now_secs + days * DAY_SECS);
    let mut serial = [0_u8; 16];
    getrandom::fill(&mut serial).context("get random bytes")?;
    // Positive, as RFC 5280 wants it.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn authority(names: &[String]) -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), names, clock::now()).unwrap();
        (dir, authority)
    }

    #[test]
    fn an_agents_certificate_says_what_the_server_says() {
        let (_dir, authority) = authority(&[]);
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        wish.distinguished_name = named("Reprise server");
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let csr = wish.serialize_request(&key).unwrap().pem().unwrap();
        let agent = AgentId::random();
        let made = authority.sign_agent(agent, &csr, clock::now()).unwrap();
        let der = CertificateDer::from_pem_slice(made.pem.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert!(parsed.subject().to_string().contains(&agent.to_string()));
        let usage = parsed.extended_key_usage().unwrap().unwrap();
        assert!(usage.value.client_auth && !usage.value.server_auth);
        assert!(!parsed.is_ca());
        assert!(
            authority
                .sign_agent(agent, "no request", clock::now())
                .is_err()
        );
    }

    #[test]
    fn the_server_certificate_is_renewed_in_time() {
        let (dir, authority) = authority(&["backup.example".to_owned()]);
        let same = |now, names: &[String]| {
            Authority::open(dir.path(), names, now)
                .unwrap()
                .server_chain[0]
                == authority.server_chain[0]
        };
        assert!(same(clock::now(), &["backup.example".to_owned()]));
        assert!(!same(clock::now(), &["10.1.2.3".to_owned()]));
        let (dir, authority) = self::authority(&[]);
        let later = clock::now().plus_secs(310 * DAY_SECS);
        let renewed = Authority::open(dir.path(), &[], later).unwrap();
        assert!(renewed.server_chain[0] != authority.server_chain[0]);
        assert_eq!(renewed.fingerprint(), authority.fingerprint());
    }
}
