//! Sealing after a log-in with NTLM ([MS-NLMP] section 3.4), the host's side.
//!
//! A session belongs to one connection. Both directions have a cipher and a counter of their own that every message
//! moves on, so a message that is lost, repeated or changed makes all later ones unreadable.

use md5::{Digest as _, Md5};

use super::ntlm::hmac;

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 16;

/// The keys of a connection.
pub(super) struct Session {
    /// From the client.
    incoming: Direction,
    /// To the client.
    outgoing: Direction,
}

struct Direction {
    signing_key: [u8; 16],
    sealing_key: [u8; 16],
    cipher: Rc4,
    counter: u32,
    /// Whether checksums are sealed as well, which follows from the exchange of a key.
    seals_checksums: bool,
}

impl Session {
    /// Makes the keys from the exported session key.
    pub(super) fn new(exported: &[u8; 16], key_exchange: bool) -> Self {
        let direction = |name: &str| {
            let key = |what: &str| -> [u8; 16] {
                let magic = format!("session key to {name} {what} key magic constant\0");
                Md5::digest([exported.as_slice(), magic.as_bytes()].concat()).into()
            };
            let sealing_key = key("sealing");
            Direction {
                signing_key: key("signing"),
                sealing_key,
                cipher: Rc4::new(&sealing_key),
                counter: 0,
                seals_checksums: key_exchange,
            }
        };
        Self {
            incoming: direction("client-to-server"),
            outgoing: direction("server-to-client"),
        }
    }

    /// Opens a sealed message.
    pub(super) fn unseal(
        &mut self,
        signature: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, &'static str> {
        let mut plain = sealed.to_vec();
        self.incoming.cipher.apply(&mut plain);
        if self.incoming.sign(&[&plain]) == *signature {
            Ok(plain)
        } else {
            Err(
                "its signature does not fit: it was changed, repeated or belongs to another connection",
            )
        }
    }

    /// Seals a message in place and returns its signature.
    pub(super) fn seal(&mut self, message: &mut [u8]) -> [u8; SIGNATURE_BYTES] {
        let plain = message.to_vec();
        self.outgoing.cipher.apply(message);
        self.outgoing.sign(&[&plain])
    }

    /// Checks the code over SPNEGO's list of mechanisms and returns the host's own. Both are signatures; the ciphers
    /// start anew after them ([MS-SPNG] section 3.3.5.1).
    pub(super) fn exchange_codes(
        &mut self,
        list: &[u8],
        code: &[u8],
    ) -> Option<[u8; SIGNATURE_BYTES]> {
        let expected = self.incoming.sign(&[list]);
        let own = self.outgoing.sign(&[list]);
        for direction in [&mut self.incoming, &mut self.outgoing] {
            direction.cipher = Rc4::new(&direction.sealing_key);
        }
        (expected == code).then_some(own)
    }
}

impl Direction {
    /// Signs the next message of this direction.
    fn sign(&mut self, pieces: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
        let counter = self.counter.to_le_bytes();
        self.counter = self.counter.wrapping_add(1);
        let all = [&[counter.as_slice()], pieces].concat();
        let mut out = [0; SIGNATURE_BYTES];
        out[0] = 1;
        out[4..12].copy_from_slice(&hmac(&self.signing_key, &all)[..8]);
        if self.seals_checksums {
            self.cipher.apply(&mut out[4..12]);
        }
        out[12..].copy_from_slice(&counter);
        out
    }
}

/// The cipher RC4, as NTLM still asks for it.
pub(super) struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl Rc4 {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let mut state = std::array::from_fn(|n| u8::try_from(n).expect("there are 256 of them"));
        let mut j = 0_u8;
        for i in 0..=255_u8 {
            let at = usize::from(i);
            j = j.wrapping_add(state[at]).wrapping_add(key[at % key.len()]);
            state.swap(at, usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.i = self.i.wrapping_add(1);
            let first = self.state[usize::from(self.i)];
            self.j = self.j.wrapping_add(first);
            let second = self.state[usize::from(self.j)];
            self.state.swap(usize::from(self.i), usize::from(self.j));
            *byte ^= self.state[usize::from(first.wrapping_add(second))];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 4.2.4.4 of the specification, in the client's direction.
    #[test]
    fn seals_as_the_specification_shows() {
        let mut session = Session::new(&[0x55; 16], true);
        assert_eq!(session.incoming.sealing_key[..4], [0x59, 0xf6, 0x00, 0x97]);
        assert_eq!(session.incoming.signing_key[..4], [0x47, 0x88, 0xdc, 0x86]);
        std::mem::swap(&mut session.incoming, &mut session.outgoing);
        let mut message: Vec<u8> = "Plaintext"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let signature = session.seal(&mut message);
        assert_eq!(
            message,
            [
                0x54, 0xe5, 0x01, 0x65, 0xbf, 0x19, 0x36, 0xdc, 0x99, 0x60, 0x20, 0xc1, 0x81, 0x1b,
                0x0f, 0x06, 0xfb, 0x5f
            ]
        );
        assert_eq!(
            signature,
            [
                1, 0, 0, 0, 0x7f, 0xb3, 0x8e, 0xc5, 0xc5, 0x5d, 0x49, 0x76, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn what_was_changed_or_repeated_is_not_opened() {
        let pair = || {
            let mut client = Session::new(&[7; 16], true);
            std::mem::swap(&mut client.incoming, &mut client.outgoing);
            (client, Session::new(&[7; 16], true))
        };
        let (mut client, mut server) = pair();
        for text in ["one", "", "three"] {
            let mut message = text.as_bytes().to_vec();
            let signature = client.seal(&mut message);
            assert_eq!(
                server.unseal(&signature, &message).unwrap(),
                text.as_bytes()
            );
            assert!(server.unseal(&signature, &message).is_err());
            (client, server) = pair();
        }
        let mut message = b"secret".to_vec();
        let mut signature = client.seal(&mut message);
        signature[5] ^= 1;
        assert!(server.unseal(&signature, &message).is_err());
    }
}
