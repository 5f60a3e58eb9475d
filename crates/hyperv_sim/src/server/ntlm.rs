//! NTLM as a host speaks it ([MS-NLMP]): the challenge, the check of the answer.
//!
//! Written from the specification and for this host only: the driver uses another implementation, so each judges the
//! other. Only what current Windows allows is taken: version 2, extended session security, 128-bit keys, Unicode.
//!
//! Invariants: the proof of the password is checked, then the integrity code where the client says there is one, then
//! the channel binding where there is one; no length of a message is trusted.
//! Not here: sealing (`ntlm_session`), the wrapping in SPNEGO (`spnego`), HTTP (`auth`).

use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::Md4;
use md5::{Digest as _, Md5};

use super::ntlm_session::{Rc4, Session};
use crate::Credentials;

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// Where the integrity code of the third message lies, and its length.
const MIC: std::ops::Range<usize> = 72..88;
/// Windows Server 2022, as the messages give it.
const VERSION: [u8; 8] = [10, 0, 0x7c, 0x4f, 0, 0, 0, 15];

/// Bits of `NegotiateFlags`.
mod flag {
    pub(super) const UNICODE: u32 = 1;
    pub(super) const REQUEST_TARGET: u32 = 1 << 2;
    pub(super) const SIGN: u32 = 1 << 4;
    pub(super) const SEAL: u32 = 1 << 5;
    pub(super) const NTLM: u32 = 1 << 9;
    pub(super) const ALWAYS_SIGN: u32 = 1 << 15;
    pub(super) const TARGET_TYPE_SERVER: u32 = 1 << 17;
    pub(super) const EXTENDED_SESSION_SECURITY: u32 = 1 << 19;
    pub(super) const TARGET_INFO: u32 = 1 << 23;
    pub(super) const VERSION: u32 = 1 << 25;
    pub(super) const KEY_128: u32 = 1 << 29;
    pub(super) const KEY_EXCHANGE: u32 = 1 << 30;
    pub(super) const KEY_56: u32 = 1 << 31;
    /// What the host grants where the client asks for it.
    pub(super) const GRANTED: u32 = UNICODE
        | REQUEST_TARGET
        | SIGN
        | SEAL
        | NTLM
        | ALWAYS_SIGN
        | EXTENDED_SESSION_SECURITY
        | VERSION
        | KEY_128
        | KEY_EXCHANGE
        | KEY_56;
}

/// Ids of pairs in the target information.
mod pair {
    pub(super) const END: u16 = 0;
    pub(super) const COMPUTER: u16 = 1;
    pub(super) const DOMAIN: u16 = 2;
    pub(super) const DNS_COMPUTER: u16 = 3;
    pub(super) const DNS_DOMAIN: u16 = 4;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const TIMESTAMP: u16 = 7;
    pub(super) const CHANNEL_BINDING: u16 = 10;
}

/// A log-in that waits for the third message.
#[derive(Clone)]
pub(super) struct Challenged {
    challenge: [u8; 8],
    first: Vec<u8>,
    second: Vec<u8>,
}

/// Tells whether bytes are an NTLM message, not wrapped in SPNEGO.
pub(super) fn is_message(token: &[u8]) -> bool {
    token.starts_with(SIGNATURE)
}

/// Tells whether a token is the first message.
pub(super) fn is_first(token: &[u8]) -> bool {
    is_message(token) && u32_at(token, 8) == Some(1)
}

/// Answers the first message with a challenge. `filetime` is the time now, `computer` the host's name.
pub(super) fn challenge(
    first: &[u8],
    computer: &str,
    challenge: [u8; 8],
    filetime: u64,
) -> Result<(Challenged, Vec<u8>), &'static str> {
    let asked = u32_at(first, 12)
        .filter(|_| is_first(first))
        .ok_or("it is no first message of NTLM")?;
    let needed = flag::UNICODE | flag::NTLM | flag::EXTENDED_SESSION_SECURITY | flag::KEY_128;
    if asked & needed != needed {
        return Err("the client can only do NTLM forms that are switched off here");
    }
    let flags = asked & flag::GRANTED | flag::TARGET_INFO | flag::TARGET_TYPE_SERVER;
    let name = utf16(computer);
    let mut info = Vec::new();
    for (id, value) in [
        (pair::DOMAIN, name.as_slice()),
        (pair::COMPUTER, &name),
        (pair::DNS_DOMAIN, &name),
        (pair::DNS_COMPUTER, &name),
        (pair::TIMESTAMP, &filetime.to_le_bytes()),
        (pair::END, &[]),
    ] {
        info.extend_from_slice(&id.to_le_bytes());
        info.extend_from_slice(&short(value.len()).to_le_bytes());
        info.extend_from_slice(value);
    }
    let mut second = Vec::new();
    second.extend_from_slice(SIGNATURE);
    second.extend_from_slice(&2_u32.to_le_bytes());
    second.extend_from_slice(&field(name.len(), 56));
    second.extend_from_slice(&flags.to_le_bytes());
    second.extend_from_slice(&challenge);
    second.extend_from_slice(&[0; 8]);
    second.extend_from_slice(&field(info.len(), 56 + name.len()));
    second.extend_from_slice(&VERSION);
    second.extend_from_slice(&name);
    second.extend_from_slice(&info);
    let waiting = Challenged {
        challenge,
        first: first.to_vec(),
        second: second.clone(),
    };
    Ok((waiting, second))
}

impl Challenged {
    /// Checks the third message. `bindings` are hashes that mean this connection's TLS channel.
    pub(super) fn authenticate(
        &self,
        third: &[u8],
        account: &Credentials,
        bindings: Option<&[[u8; 16]]>,
    ) -> Result<Session, &'static str> {
        const BROKEN: &str = "the third message of NTLM is broken";
        if !is_message(third) || u32_at(third, 8) != Some(3) {
            return Err(BROKEN);
        }
        let response = payload(third, 20).ok_or(BROKEN)?;
        let domain = payload(third, 28).ok_or(BROKEN)?;
        let user = payload(third, 36).ok_or(BROKEN)?;
        let session_key = payload(third, 52).ok_or(BROKEN)?;
        let flags = u32_at(third, 60).ok_or(BROKEN)?;
        let needed = flag::UNICODE | flag::EXTENDED_SESSION_SECURITY | flag::KEY_128;
        if flags & needed != needed {
            return Err("the client ended with NTLM forms that are switched off here");
        }
        if user.is_empty() {
            return Err("nobody logs in here without a name");
        }
        let (user, domain) = (
            from_utf16(user).ok_or(BROKEN)?,
            from_utf16(domain).ok_or(BROKEN)?,
        );
        if !is_account(&account.user, &user, &domain) {
            return Err("there is no such account");
        }
        let Some((proof, content)) = response.split_first_chunk::<16>() else {
            return Err(BROKEN);
        };
        if content.len() < 28 {
            return Err("NTLM version 1 is switched off here");
        }
        let key = response_key(&account.password, &user, &domain);
        if hmac(&key, &[&self.challenge, content]) != *proof {
            return Err("the password is wrong");
        }
        let mut exported = hmac(&key, &[proof]);
        if flags & flag::KEY_EXCHANGE != 0 && flags & (flag::SIGN | flag::SEAL) != 0 {
            let sealed: [u8; 16] = session_key.try_into().map_err(|_| BROKEN)?;
            let mut open = sealed;
            Rc4::new(&exported).apply(&mut open);
            exported = open;
        }
        let info = &content[28..];
        let has_code = find(info, pair::FLAGS)
            .and_then(|value| u32_at(value, 0))
            .is_some_and(|flags| flags & 2 != 0);
        if has_code && !self.is_whole(third, &exported) {
            return Err("the messages of the log-in were changed on their way");
        }
        let given = find(info, pair::CHANNEL_BINDING).filter(|hash| hash.iter().any(|b| *b != 0));
        if let (Some(given), Some(bindings)) = (given, bindings)
            && !bindings.iter().any(|binding| binding == given)
        {
            return Err("the log-in belongs to another TLS connection");
        }
        Ok(Session::new(&exported, flags & flag::KEY_EXCHANGE != 0))
    }

    fn is_whole(&self, third: &[u8], exported: &[u8; 16]) -> bool {
        let Some(code) = third.get(MIC) else {
            return false;
        };
        let mut bare = third.to_vec();
        bare[MIC].fill(0);
        hmac(exported, &[&self.first, &self.second, &bare]) == code
    }
}

/// The hash of a TLS channel (`tls-server-end-point`) as NTLM carries it: of `gss_channel_bindings_struct`.
pub(super) fn channel_binding(certificate_hash: &[u8]) -> [u8; 16] {
    let mut content = vec![0; 16];
    let data = [b"tls-server-end-point:".as_slice(), certificate_hash].concat();
    content.extend_from_slice(&u32::from(short(data.len())).to_le_bytes());
    content.extend_from_slice(&data);
    Md5::digest(&content).into()
}

/// Whether a log-in means the account: names in any case; any domain where the account names none, as a host that
/// belongs to no domain does it.
fn is_account(account: &str, user: &str, domain: &str) -> bool {
    let same = |one: &str, other: &str| one.to_uppercase() == other.to_uppercase();
    if let Some((wanted, name)) = account.split_once('\\') {
        return same(name, user) && same(wanted, domain);
    }
    if same(account, user) {
        return true;
    }
    account
        .rsplit_once('@')
        .is_some_and(|(name, wanted)| same(name, user) && same(wanted, domain))
}

/// `NTOWFv2`: the key that proves the password.
fn response_key(password: &str, user: &str, domain: &str) -> [u8; 16] {
    let hash: [u8; 16] = Md4::digest(utf16(password)).into();
    hmac(&hash, &[&utf16(&user.to_uppercase()), &utf16(domain)])
}

/// HMAC-MD5 of pieces.
pub(super) fn hmac(key: &[u8], pieces: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("HMAC takes keys of any length");
    for piece in pieces {
        mac.update(piece);
    }
    mac.finalize().into_bytes().into()
}

/// Finds a pair of target information.
fn find(mut info: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (head, rest) = info.split_first_chunk::<4>()?;
        let id = u16::from_le_bytes([head[0], head[1]]);
        let (value, rest) =
            rest.split_at_checked(usize::from(u16::from_le_bytes([head[2], head[3]])))?;
        if id == wanted {
            return Some(value);
        }
        if id == pair::END {
            return None;
        }
        info = rest;
    }
}

/// Reads the bytes a field of a message points at.
fn payload(message: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_le_bytes(
        message.get(at..at + 2)?.try_into().ok()?,
    ));
    let offset = usize::try_from(u32_at(message, at + 4)?).ok()?;
    message.get(offset..offset.checked_add(length)?)
}

fn field(length: usize, offset: usize) -> [u8; 8] {
    let mut out = [0; 8];
    out[..2].copy_from_slice(&short(length).to_le_bytes());
    out[2..4].copy_from_slice(&short(length).to_le_bytes());
    out[4..].copy_from_slice(&u32::from(short(offset)).to_le_bytes());
    out
}

/// Lengths of what this host writes; a computer name has at most 63 characters.
fn short(length: usize) -> u16 {
    u16::try_from(length).expect("what this host writes is short")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn from_utf16(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    let text = char::decode_utf16(units).collect::<Result<String, _>>();
    text.ok().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 4.2.4 of the specification.
    #[test]
    fn keys_are_those_of_the_specification() {
        let key = response_key("Password", "User", "Domain");
        assert_eq!(hex(&key), "0c868a403bfd7a93a3001ef22ef02e3f");
        let server = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
        let mut content = vec![1, 1, 0, 0, 0, 0, 0, 0];
        content.extend_from_slice(&[0; 8]);
        content.extend_from_slice(&[0xaa; 8]);
        content.extend_from_slice(&[0; 4]);
        for (id, value) in [(2_u16, "Domain"), (1, "Server")] {
            content.extend_from_slice(&id.to_le_bytes());
            content.extend_from_slice(&12_u16.to_le_bytes());
            content.extend_from_slice(&utf16(value));
        }
        content.extend_from_slice(&[0; 8]);
        let proof = hmac(&key, &[&server, &content]);
        assert_eq!(hex(&proof), "68cd0ab851e51c96aabc927bebef6a1c");
        let base = hmac(&key, &[&proof]);
        assert_eq!(hex(&base), "8de40ccadbc14a82f15cb0ad0de95ca3");
        let mut session_key = [0x55; 16];
        Rc4::new(&base).apply(&mut session_key);
        assert_eq!(hex(&session_key), "c5dad2544fc9799094ce1ce90bc9d03e");
    }

    #[test]
    fn accounts_are_named_as_windows_takes_them() {
        for (account, user, domain, is) in [
            ("backup", "Backup", "", true),
            ("backup", "BACKUP", "HV01", true),
            ("backup", "backup2", "", false),
            ("größe", "GRÖßE", ".", true),
            (r"CORP\backup", "backup", "corp", true),
            (r"CORP\backup", "backup", "HV01", false),
            ("backup@corp.example", "backup@CORP.example", "", true),
            ("backup@corp.example", "backup", "corp.example", true),
            ("backup@corp.example", "backup", "", false),
        ] {
            assert_eq!(
                is_account(account, user, domain),
                is,
                "{account} {domain}\\{user}"
            );
        }
    }

    #[test]
    fn broken_messages_are_refused() {
        let account = Credentials {
            user: "u".into(),
            password: "p".into(),
        };
        let flags = flag::UNICODE | flag::NTLM | flag::EXTENDED_SESSION_SECURITY | flag::KEY_128;
        let first = [SIGNATURE, &1_u32.to_le_bytes()[..], &flags.to_le_bytes()].concat();
        let (waiting, second) = challenge(&first, "HV01", [1; 8], 0).unwrap();
        assert_eq!(payload(&second, 12), Some(utf16("HV01").as_slice()));
        assert!(challenge(&first[..13], "HV01", [1; 8], 0).is_err());
        assert!(challenge(&second, "HV01", [1; 8], 0).is_err());
        let third = [SIGNATURE, &3_u32.to_le_bytes()[..], &[0xff; 80]].concat();
        for length in 0..third.len() {
            assert!(
                waiting
                    .authenticate(&third[..length], &account, None)
                    .is_err()
            );
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
