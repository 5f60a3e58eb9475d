//! SPNEGO, the wrapping of `Negotiate` tokens ([RFC 4178], [MS-SPNG]): as much as NTLM inside needs.
//!
//! Read tolerantly, written shortly. Every length is checked against the bytes there are.
//! Not here: which mechanism is good for what (`auth`).

/// NTLM's object identifier, 1.3.6.1.4.1.311.2.2.10, with tag and length.
const NTLM: &[u8] = &[
    0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x02, 0x0a,
];
/// SPNEGO's own, 1.3.6.1.5.5.2.
const SPNEGO: &[u8] = &[0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];

const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const APPLICATION_0: u8 = 0x60;

/// A client's first token.
pub(super) struct Init<'a> {
    /// The list of mechanisms as it came, to be signed later.
    pub(super) list: &'a [u8],
    /// The token of NTLM, where NTLM is the client's first choice and it sent one.
    pub(super) token: Option<&'a [u8]>,
}

/// A client's later token.
pub(super) struct Resp<'a> {
    pub(super) token: Option<&'a [u8]>,
    /// The code over the list of mechanisms.
    pub(super) code: Option<&'a [u8]>,
}

/// Where the negotiation is.
#[derive(Clone, Copy)]
pub(super) enum State {
    Completed,
    Incomplete,
}

/// Reads `NegTokenInit`; `None` where it is none or offers no NTLM.
pub(super) fn read_init(token: &[u8]) -> Option<Init<'_>> {
    let (content, _) = expect(token, APPLICATION_0)?;
    let content = content.strip_prefix(SPNEGO)?;
    let (content, _) = expect(content, context(0))?;
    let (content, _) = expect(content, SEQUENCE)?;
    let (list, mut rest) = expect(content, context(0))?;
    let (mechanisms, _) = expect(list, SEQUENCE)?;
    let first = mechanisms.starts_with(NTLM);
    if !first && !has(mechanisms, NTLM) {
        return None;
    }
    let mut found = None;
    while let Some((tag, content, after)) = element(rest) {
        if tag == context(2) {
            found = Some(expect(content, OCTETS)?.0);
        }
        rest = after;
    }
    Some(Init {
        list,
        token: found.filter(|_| first),
    })
}

/// Reads `NegTokenResp`.
pub(super) fn read_resp(token: &[u8]) -> Option<Resp<'_>> {
    let (content, _) = expect(token, context(1))?;
    let (mut rest, _) = expect(content, SEQUENCE)?;
    let (mut token, mut code) = (None, None);
    while let Some((tag, content, after)) = element(rest) {
        if tag == context(2) {
            token = Some(expect(content, OCTETS)?.0);
        } else if tag == context(3) {
            code = Some(expect(content, OCTETS)?.0);
        }
        rest = after;
    }
    Some(Resp { token, code })
}

/// Writes `NegTokenResp`; `first` names the mechanism, as the first answer must.
pub(super) fn write_resp(
    state: State,
    first: bool,
    token: Option<&[u8]>,
    code: Option<&[u8]>,
) -> Vec<u8> {
    let state: u8 = match state {
        State::Completed => 0,
        State::Incomplete => 1,
    };
    let mut fields = wrap(context(0), &[0x0a, 1, state]);
    if first {
        fields.extend(wrap(context(1), NTLM));
    }
    if let Some(token) = token {
        fields.extend(wrap(context(2), &wrap(OCTETS, token)));
    }
    if let Some(code) = code {
        fields.extend(wrap(context(3), &wrap(OCTETS, code)));
    }
    wrap(context(1), &wrap(SEQUENCE, &fields))
}

const fn context(number: u8) -> u8 {
    0xa0 | number
}

fn has(mut list: &[u8], wanted: &[u8]) -> bool {
    while let Some((_, _, after)) = element(list) {
        if list.starts_with(wanted) {
            return true;
        }
        list = after;
    }
    false
}

fn expect(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(bytes)?;
    (tag == wanted).then_some((content, rest))
}

/// Splits off one element: tag, content, rest.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        if digits.is_empty() || digits.len() > 3 {
            return None;
        }
        let value = digits
            .iter()
            .fold(0_usize, |value, digit| value << 8 | usize::from(*digit));
        (value, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let skip = length.iter().take_while(|byte| **byte == 0).count();
    let digits = &length[skip..];
    match digits {
        [] => out.push(0),
        [one] if *one < 0x80 => out.push(*one),
        _ => {
            out.push(0x80 | u8::try_from(digits.len()).expect("a length has at most 8 digits"));
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(mechanisms: &[&[u8]], token: &[u8]) -> Vec<u8> {
        let list = wrap(context(0), &wrap(SEQUENCE, &mechanisms.concat()));
        let token = wrap(context(2), &wrap(OCTETS, token));
        let content = wrap(context(0), &wrap(SEQUENCE, &[list, token].concat()));
        wrap(APPLICATION_0, &[SPNEGO, &content].concat())
    }

    #[test]
    fn the_first_token_is_used_where_it_is_ours() {
        let kerberos: &[u8] = &[0x06, 0x03, 1, 2, 3];
        let long = vec![7; 300];
        let token = init(&[NTLM, kerberos], &long);
        let read = read_init(&token).unwrap();
        assert_eq!(read.token, Some(long.as_slice()));
        assert_eq!(read.list, wrap(SEQUENCE, &[NTLM, kerberos].concat()));
        assert_eq!(
            read_init(&init(&[kerberos, NTLM], &long)).unwrap().token,
            None
        );
        assert!(read_init(&init(&[kerberos], &long)).is_none());
        for length in 0..token.len() {
            assert!(read_init(&token[..length]).is_none());
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let written = write_resp(State::Incomplete, true, Some(&[1; 200]), Some(b"code"));
        let read = read_resp(&written).unwrap();
        assert_eq!(
            (read.token, read.code),
            (Some([1; 200].as_slice()), Some(b"code".as_slice()))
        );
        assert!(read_resp(&written[..written.len() - 1]).is_none());
        let bare = write_resp(State::Completed, false, None, None);
        assert_eq!(bare, [0xa1, 7, 0x30, 5, 0xa0, 3, 0x0a, 1, 0]);
    }
}
