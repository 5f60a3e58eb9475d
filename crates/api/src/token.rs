//! Enrolment tokens as people carry them: `rpe1.<fingerprint>.<secret>`.
//!
//! The fingerprint is the SHA-256 of the server's own CA certificate (DER), so that the agent trusts the right server
//! before it has anything else.

use std::fmt;
use std::str::FromStr;

/// An enrolment token.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolToken {
    /// SHA-256 of the CA certificate, 64 hexadecimal digits.
    pub ca_fingerprint: String,
    /// The single-use secret.
    pub secret: String,
}

/// A text that is no enrolment token.
#[derive(Debug, thiserror::Error)]
#[error(
    "this is not an enrolment token (rpe1.<fingerprint>.<secret>); `reprise host token` on the server makes one"
)]
pub struct ParseTokenError;

impl fmt::Display for EnrolToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpe1.{}.{}", self.ca_fingerprint, self.secret)
    }
}

impl fmt::Debug for EnrolToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrolToken(ca {}, secret hidden)", self.ca_fingerprint)
    }
}

impl FromStr for EnrolToken {
    type Err = ParseTokenError;
    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let mut parts = text.trim().split('.');
        let (Some("rpe1"), Some(fingerprint), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseTokenError);
        };
        let hex = fingerprint.len() == 64 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex || secret.len() < 16 || secret.len() > 200 {
            return Err(ParseTokenError);
        }
        Ok(Self {
            ca_fingerprint: fingerprint.to_ascii_lowercase(),
            secret: secret.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_clipboard() {
        let token = EnrolToken {
            ca_fingerprint: "ab".repeat(32),
            secret: "s".repeat(43),
        };
        assert_eq!(format!(" {token}\n").parse::<EnrolToken>().unwrap(), token);
        for wrong in ["", "rpe1", "rpe1.ab.cdcdcdcdcdcdcdcdcd", "rpe2.x.y"] {
            assert!(wrong.parse::<EnrolToken>().is_err(), "{wrong}");
        }
        assert!(!format!("{token:?}").contains(&token.secret));
    }
}
