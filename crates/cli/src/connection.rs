//! Which server a command talks to, and as whom.
//!
//! Each of address, CA and token comes from the flag or variable, else from the profile. What the profile holds is
//! used only for the server it was made for: a token never travels to another one.

use api_client::{People, Trust};
use clap::Args;

use crate::failure::Failure;
use crate::profile::Profile;

/// How to reach the server.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConnectionArgs {
    /// Address of the server, such as `https://backup.example:8443`; else the one of `reprise login`
    #[arg(
        long,
        global = true,
        env = "REPRISE_SERVER",
        value_name = "URL",
        help_heading = "Connection"
    )]
    pub(crate) server: Option<String>,
    /// CA of the server: a PEM file, or the SHA-256 fingerprint that `reprise server init` printed
    #[arg(
        long,
        global = true,
        env = "REPRISE_CA",
        value_name = "FILE|FINGERPRINT",
        help_heading = "Connection"
    )]
    pub(crate) ca: Option<String>,
}

/// A server, and how to know it is the right one.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// Its address.
    pub(crate) server: String,
    /// What makes it the right one.
    pub(crate) trust: Trust,
    /// The token to show.
    pub(crate) token: Option<String>,
}

impl ConnectionArgs {
    /// Opens the connection of a command that needs a login.
    pub(crate) fn open(&self) -> Result<People, Failure> {
        let destination = self.destination(token_from_environment(), Profile::read()?)?;
        if destination.token.is_none() {
            return Err(Failure::new(
                api::codes::NOT_AUTHENTICATED,
                format!("not logged in to {}", destination.server),
            )
            .hint("log in with `reprise login`, or set REPRISE_TOKEN"));
        }
        Ok(People::new(
            &destination.server,
            &destination.trust,
            destination.token,
        )?)
    }

    /// Puts together flags, environment and profile.
    pub(crate) fn destination(
        &self,
        token: Option<String>,
        profile: Option<Profile>,
    ) -> Result<Destination, Failure> {
        let asked = self
            .server
            .as_deref()
            .map(normal)
            .filter(|server| !server.is_empty());
        let profile = profile.filter(|profile| match &asked {
            Some(server) => normal(&profile.server) == *server,
            None => true,
        });
        let server = asked
            .or_else(|| profile.as_ref().map(|profile| profile.server.clone()))
            .ok_or_else(|| {
                Failure::usage("no server was named").hint(
                    "log in with `reprise login --server URL`, or give --server or REPRISE_SERVER",
                )
            })?;
        let trust = match (
            &self.ca,
            profile.as_ref().and_then(|profile| profile.ca.as_ref()),
        ) {
            (Some(text), _) if !text.is_empty() => {
                Trust::from_text(text).map_err(|error| Failure::usage(error.to_string()))?
            }
            (_, Some(text)) if text.contains("-----BEGIN") => Trust::CaPem(text.clone()),
            (_, Some(text)) => Trust::Fingerprint(text.clone()),
            (_, None) => Trust::System,
        };
        let token = token.or_else(|| profile.map(|profile| profile.token));
        Ok(Destination {
            server,
            trust,
            token,
        })
    }
}

/// Returns the text of a trust as the profile keeps it.
pub(crate) fn trust_text(trust: &Trust) -> Option<String> {
    match trust {
        Trust::System => None,
        Trust::CaPem(pem) => Some(pem.clone()),
        Trust::Fingerprint(fingerprint) => Some(fingerprint.clone()),
    }
}

fn normal(server: &str) -> String {
    server.trim().trim_end_matches('/').to_owned()
}

fn token_from_environment() -> Option<String> {
    std::env::var("REPRISE_TOKEN")
        .ok()
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile {
            server: "https://one:8443".to_owned(),
            user: "ann".to_owned(),
            token: "secret".to_owned(),
            expires: "2030-01-01T00:00:00Z".to_owned(),
            ca: Some("ab".repeat(32)),
        }
    }

    fn args(server: Option<&str>) -> ConnectionArgs {
        ConnectionArgs {
            server: server.map(str::to_owned),
            ca: None,
        }
    }

    #[test]
    fn the_profile_serves_its_own_server() {
        for server in [None, Some("https://one:8443/")] {
            let destination = args(server).destination(None, Some(profile())).unwrap();
            assert_eq!(destination.server, "https://one:8443");
            assert_eq!(destination.token.as_deref(), Some("secret"));
            assert_eq!(destination.trust, Trust::Fingerprint("ab".repeat(32)));
        }
    }

    #[test]
    fn a_token_never_travels_to_another_server() {
        let destination = args(Some("https://two:8443"))
            .destination(None, Some(profile()))
            .unwrap();
        assert_eq!(destination.token, None);
        assert_eq!(destination.trust, Trust::System);
    }

    #[test]
    fn a_variable_wins_over_the_profile() {
        let destination = args(None)
            .destination(Some("mine".to_owned()), Some(profile()))
            .unwrap();
        assert_eq!(destination.token.as_deref(), Some("mine"));
    }

    #[test]
    fn without_any_server_there_is_a_hint() {
        let failure = args(None).destination(None, None).unwrap_err();
        assert_eq!(failure.exit.number(), 2);
        assert!(failure.hint.unwrap().contains("reprise login"));
    }
}
