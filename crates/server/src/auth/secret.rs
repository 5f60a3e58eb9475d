//! Random secrets: tokens of people and scripts, enrolment. Only their SHA-256 is kept.

use std::fmt;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

/// A secret of 256 random bits, as text.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Returns a new secret that starts with `prefix`, so that scanners for leaked secrets can know it.
    pub(crate) fn random(prefix: &str) -> anyhow::Result<Self> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *bytes).context("get random bytes")?;
        Ok(Self(Zeroizing::new(format!(
            "{prefix}{}",
            URL_SAFE_NO_PAD.encode(*bytes)
        ))))
    }

    /// Returns the text, to show it once.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Returns what is kept of it.
    pub(crate) fn hash(&self) -> [u8; 32] {
        hash_secret(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Returns what is kept of a secret. A secret has 256 random bits, so a plain hash is enough, and looking the hash up
/// tells a guesser nothing through time.
pub(crate) fn hash_secret(secret: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, secret.as_bytes()).as_ref());
    hash
}
