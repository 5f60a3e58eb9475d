//! Enrolment: the agent makes its key, the server signs a certificate for it.

use anyhow::{Context as _, bail};
use api::EnrolToken;
use api::agent_v1::{EnrolReply, EnrolRequest};
use api_client::{AgentIdentity, Trust};
use model::{AgentId, Timestamp};

use crate::clock;
use crate::home::Home;
use crate::options::EnrollOptions;

/// An enrolment that worked.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The agent's id.
    pub agent: AgentId,
    /// The address it will poll.
    pub url: String,
    /// When its certificate ends.
    pub expires: Timestamp,
}

/// Enrols this agent. The token carries the fingerprint of the server's CA, so that nothing else need be trusted.
///
/// Fails where the folder belongs to an enrolled agent already, the token is not one, or the server refuses it.
pub async fn enroll(options: &EnrollOptions) -> anyhow::Result<Enrolled> {
    let token: EnrolToken = options.token.parse()?;
    let home = Home::open(&options.data_dir)?;
    if let Ok(known) = home.identity() {
        bail!(
            "{} already belongs to agent {} of {}; remove the folder to enrol anew",
            options.data_dir.display(),
            known.agent,
            known.url
        );
    }
    let (csr_pem, key_pem) = signing_request()?;
    let request = EnrolRequest {
        secret: token.secret,
        csr_pem,
        machine: machine_name(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let trust = Trust::Fingerprint(token.ca_fingerprint);
    let reply = api_client::enroll(&options.server, &trust, &request)
        .await
        .context("enrol at the server")?;
    let url = agents_url(&options.server, reply.agent_port)?;
    let identity = identity_from(&reply, url.clone(), key_pem);
    home.set_identity(&identity)?;
    Ok(Enrolled {
        agent: reply.agent,
        url,
        expires: reply.expires,
    })
}

/// Makes a key and a certificate signing request, both PEM. The server sets the names; it uses the public key alone.
pub(crate) fn signing_request() -> anyhow::Result<(String, String)> {
    let key = rcgen::KeyPair::generate().context("make a private key")?;
    let params =
        rcgen::CertificateParams::new(Vec::<String>::new()).context("make a signing request")?;
    let csr = params
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .context("make a signing request")?;
    Ok((csr, key.serialize_pem()))
}

/// Returns what to keep of a reply.
pub(crate) fn identity_from(reply: &EnrolReply, url: String, key_pem: String) -> AgentIdentity {
    AgentIdentity {
        agent: reply.agent,
        url,
        certificate_pem: reply.certificate_pem.clone(),
        key_pem,
        ca_pem: reply.ca_pem.clone(),
        since: clock::now(),
        expires: reply.expires,
    }
}

/// Returns the server's address with the agents' port in place of the people's.
fn agents_url(server: &str, port: u16) -> anyhow::Result<String> {
    let rest = server.trim_end_matches('/').strip_prefix("https://");
    let Some(authority) = rest
        .and_then(|rest| rest.split('/').next())
        .filter(|authority| !authority.is_empty())
    else {
        bail!("the server's address must look like https://backup.example:8443, not {server:?}");
    };
    let host = match authority.rfind(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    };
    Ok(format!("https://{host}:{port}"))
}

/// Returns this machine's name, for people.
fn machine_name() -> String {
    let from_variable = std::env::var("COMPUTERNAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .ok();
    from_variable
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
        .map_or_else(
            || "unknown".to_owned(),
            |name| name.trim().chars().take(64).collect(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_port_takes_the_place_of_the_peoples() {
        for (server, url) in [
            ("https://backup:8443", "https://backup:9"),
            ("https://backup/", "https://backup:9"),
            ("https://[::1]:8443", "https://[::1]:9"),
            ("https://[::1]", "https://[::1]:9"),
        ] {
            assert_eq!(agents_url(server, 9).unwrap(), url);
        }
        assert!(agents_url("http://backup", 9).is_err());
        assert!(agents_url("https://", 9).is_err());
    }

    #[test]
    fn a_signing_request_and_its_key_are_pem() {
        let (csr, key) = signing_request().unwrap();
        assert!(csr.contains("CERTIFICATE REQUEST") && key.contains("PRIVATE KEY"));
    }
}
