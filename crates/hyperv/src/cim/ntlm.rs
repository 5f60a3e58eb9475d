//! NTLM, the client's side: the messages of a log-in, then sealing. The work is done by the crate `sspi`.
//!
//! Invariant: `sspi` logs what passes through it, plain messages among it; nothing of that reaches our logs.
//! Not here: HTTP (`transport`), the framing of sealed messages (`wsman::sealed`).

use secrecy::ExposeSecret as _;
use sspi::{
    AuthIdentityBuffers, BufferType, ClientRequestFlags, DataRepresentation, EncryptionFlags,
    SecurityBuffer, SecurityBufferRef, Sspi as _, SspiImpl as _,
};
use wsman::sealed::Sealed;

use super::endpoint::Credentials;

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 16;
/// What `sspi` takes for a hash instead of a password.
const HASH_PREFIX: &str = "$NTLM$:";

/// The log-in of one connection.
pub(super) struct Ntlm {
    context: sspi::Ntlm,
    account: Option<AuthIdentityBuffers>,
}

impl Ntlm {
    /// Starts a log-in. `channel_binding` ties it to a TLS channel.
    pub(super) fn new(credentials: &Credentials, channel_binding: Option<&[u8]>) -> Self {
        let (domain, user) = split(&credentials.user);
        let mut context = sspi::Ntlm::new();
        if let Some(binding) = channel_binding {
            context.set_channel_bindings(binding);
        }
        Self {
            context,
            account: Some(AuthIdentityBuffers::from_utf8(
                user,
                domain,
                credentials.password.expose_secret(),
            )),
        }
    }

    /// Returns the next message to the host: the first one, or the answer to its challenge.
    pub(super) fn step(&mut self, challenge: Option<Vec<u8>>) -> Result<Vec<u8>, sspi::Error> {
        quietly(|| {
            let mut input = vec![SecurityBuffer::new(
                challenge.unwrap_or_default(),
                BufferType::Token,
            )];
            let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
            let mut builder = self
                .context
                .initialize_security_context()
                .with_credentials_handle(&mut self.account)
                .with_context_requirements(
                    ClientRequestFlags::CONFIDENTIALITY | ClientRequestFlags::INTEGRITY,
                )
                .with_target_data_representation(DataRepresentation::Native)
                .with_input(&mut input)
                .with_output(&mut output);
            self.context
                .initialize_security_context_impl(&mut builder)?
                .resolve_to_result()?;
            Ok(output.pop().map(|token| token.buffer).unwrap_or_default())
        })
    }

    /// Seals a message and frames it.
    pub(super) fn seal(&mut self, mut message: Vec<u8>) -> Result<Vec<u8>, sspi::Error> {
        let mut signature = [0; SIGNATURE_BYTES];
        quietly(|| {
            let mut buffers = [
                SecurityBufferRef::token_buf(&mut signature),
                SecurityBufferRef::data_buf(&mut message),
            ];
            self.context
                .encrypt_message(EncryptionFlags::empty(), &mut buffers)
        })?;
        Ok(wsman::sealed::write(Sealed {
            signature: &signature,
            sealed: &message,
        }))
    }

    /// Reads and opens a sealed message; says what is wrong with it.
    pub(super) fn unseal(&mut self, content_type: &str, body: &[u8]) -> Result<Vec<u8>, String> {
        let pieces = wsman::sealed::read(content_type, body).map_err(|error| error.to_string())?;
        let mut plain = Vec::new();
        for piece in pieces {
            let mut signature: [u8; SIGNATURE_BYTES] = piece
                .signature
                .try_into()
                .map_err(|_| "its signature has the wrong length".to_owned())?;
            let mut data = piece.sealed.to_vec();
            quietly(|| {
                let mut buffers = [
                    SecurityBufferRef::token_buf(&mut signature),
                    SecurityBufferRef::data_buf(&mut data),
                ];
                self.context.decrypt_message(&mut buffers)
            })
            .map_err(|error| error.description)?;
            plain.extend(data);
        }
        Ok(plain)
    }
}

/// Says what is wrong with credentials for NTLM.
pub(super) fn check(credentials: &Credentials) -> Result<(), String> {
    if credentials.user.is_empty() {
        return Err("the user name is empty".into());
    }
    if credentials
        .password
        .expose_secret()
        .starts_with(HASH_PREFIX)
    {
        return Err(format!(
            "a password that begins with {HASH_PREFIX} cannot be used with NTLM"
        ));
    }
    Ok(())
}

/// Splits a user name into domain and user; a name with `@` stays whole, as Windows wants it.
fn split(user: &str) -> (&str, &str) {
    user.split_once('\\').unwrap_or(("", user))
}

/// Runs what would log secrets.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    tracing::dispatcher::with_default(&tracing::Dispatch::none(), work)
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use sspi::{CredentialUse, ServerRequestFlags};

    use super::*;

    #[test]
    fn names_are_split_as_windows_wants_them() {
        assert_eq!(split(r"CORP\backup"), ("CORP", "backup"));
        assert_eq!(split("backup@corp.example"), ("", "backup@corp.example"));
        assert_eq!(split("backup"), ("", "backup"));
    }

    #[test]
    fn messages_of_several_mib_go_sealed_both_ways() {
        let account = sspi::AuthIdentity {
            username: sspi::Username::parse("backup").unwrap(),
            password: "pässwörd".to_owned().into(),
        };
        let mut server = sspi::Ntlm::new();
        let mut handle = server
            .acquire_credentials_handle()
            .with_credential_use(CredentialUse::Inbound)
            .with_auth_data(&account)
            .execute(&mut server)
            .unwrap()
            .credentials_handle;
        let mut accept = |server: &mut sspi::Ntlm, token: Vec<u8>| {
            let mut input = vec![SecurityBuffer::new(token, BufferType::Token)];
            let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
            let builder = server
                .accept_security_context()
                .with_credentials_handle(&mut handle)
                .with_context_requirements(ServerRequestFlags::empty())
                .with_target_data_representation(DataRepresentation::Native)
                .with_input(&mut input)
                .with_output(&mut output);
            server
                .accept_security_context_impl(builder)
                .unwrap()
                .resolve_to_result()
                .unwrap();
            output.remove(0).buffer
        };
        let credentials = Credentials {
            user: "backup".into(),
            password: SecretString::from("pässwörd"),
        };
        let mut client = Ntlm::new(&credentials, None);
        let challenge = accept(&mut server, client.step(None).unwrap());
        accept(&mut server, client.step(Some(challenge)).unwrap());
        server.complete_auth_token(&mut []).unwrap();
        let mut host = Ntlm {
            context: server,
            account: None,
        };
        let message: Vec<u8> = (0..5_u32 << 20)
            .flat_map(u32::to_le_bytes)
            .take(5 << 20)
            .collect();
        for _ in 0..2 {
            let there = client.seal(message.clone()).unwrap();
            assert_eq!(
                host.unseal(wsman::sealed::CONTENT_TYPE, &there),
                Ok(message.clone())
            );
            let back = host.seal(message.clone()).unwrap();
            assert_eq!(
                client.unseal(wsman::sealed::CONTENT_TYPE, &back),
                Ok(message.clone())
            );
        }
        let mut changed = client.seal(message).unwrap();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        assert!(host.unseal(wsman::sealed::CONTENT_TYPE, &changed).is_err());
    }
}
