//! Passwords, kept as argon2id hashes. Hashing is slow on purpose and runs off the async threads.

use anyhow::Context;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use zeroize::Zeroizing;

/// Letters and digits that are not mistaken for each other; a power of two, so that every byte picks one evenly.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 100 bits.
const RANDOM_PASSWORD_CHARS: usize = 20;

/// Hashes a password.
pub(crate) async fn hash_password(password: Zeroizing<String>) -> anyhow::Result<String> {
    tokio::task::spawn_blocking(move || {
        Argon2::default()
            .hash_password(password.as_bytes())
            .map(|hash| hash.to_string())
            .map_err(|err| anyhow::anyhow!("{err}"))
            .context("hash a password")
    })
    .await
    .context("hash a password")?
}

/// Compares a password with a hash. Without a hash (no such user) the same work is done, and the answer is no.
pub(crate) async fn check_password(
    password: Zeroizing<String>,
    hash: Option<String>,
) -> anyhow::Result<bool> {
    tokio::task::spawn_blocking(move || match hash {
        Some(hash) => {
            let parsed = PasswordHash::new(&hash)
                .map_err(|err| anyhow::anyhow!("{err}"))
                .context("read a stored password hash")?;
            Ok(Argon2::default()
                .verify_password(password.as_bytes(), &parsed)
                .is_ok())
        }
        None => {
            let spent = Argon2::default().hash_password(password.as_bytes());
            spent.map(|_| false).map_err(|err| anyhow::anyhow!("{err}"))
        }
    })
    .await
    .context("compare a password")?
}

/// Returns a random password, in groups that are easy to copy.
pub(crate) fn random_password() -> anyhow::Result<String> {
    let mut bytes = Zeroizing::new([0_u8; RANDOM_PASSWORD_CHARS]);
    getrandom::fill(&mut *bytes).context("get random bytes")?;
    let mut password = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 && at % 5 == 0 {
            password.push('-');
        }
        password.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_same_password_passes() {
        let password = random_password().unwrap();
        assert_eq!(password.len(), 23);
        let hash = hash_password(Zeroizing::new(password.clone()))
            .await
            .unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(
            check_password(Zeroizing::new(password.clone()), Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(
            !check_password(Zeroizing::new("other".into()), Some(hash))
                .await
                .unwrap()
        );
        assert!(
            !check_password(Zeroizing::new(password), None)
                .await
                .unwrap()
        );
    }
}
