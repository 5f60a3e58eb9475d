//! What a host offers in `WWW-Authenticate`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, WWW_AUTHENTICATE};

/// Schemes a host offers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Offers {
    /// Their names, in the host's order.
    pub(super) schemes: Vec<String>,
    /// What came with `Negotiate`.
    pub(super) token: Option<Vec<u8>>,
}

impl Offers {
    /// Reads the headers of an answer; one header may name several schemes.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut offers = Self::default();
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            for piece in pieces(text) {
                let (scheme, rest) = piece.split_once(' ').unwrap_or((piece, ""));
                // A parameter of the scheme before it.
                if scheme.is_empty() || scheme.contains('=') {
                    continue;
                }
                if scheme.eq_ignore_ascii_case("Negotiate") && !rest.trim().is_empty() {
                    offers.token = STANDARD.decode(rest.trim()).ok();
                }
                offers.schemes.push(scheme.to_owned());
            }
        }
        offers
    }

    /// Whether a scheme is among them.
    pub(super) fn has(&self, scheme: &str) -> bool {
        self.schemes
            .iter()
            .any(|offered| offered.eq_ignore_ascii_case(scheme))
    }
}

/// Splits at commas outside quotes.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Offers {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Offers::read(&headers)
    }

    #[test]
    fn schemes_come_in_one_header_or_in_many() {
        let one =
            read(&["Negotiate TlRM, Basic realm=\"WS,MAN\", Digest realm=\"a\", nonce=\"b\""]);
        let many = read(&[
            "Negotiate TlRM",
            "basic realm=\"WSMAN\"",
            "Digest realm=\"a\"",
        ]);
        for offers in [&one, &many] {
            assert_eq!(offers.schemes.len(), 3, "{offers:?}");
            assert_eq!(offers.token.as_deref(), Some(b"NTL".as_slice()));
            assert!(offers.has("Basic") && offers.has("digest") && !offers.has("Kerberos"));
        }
        assert_eq!(read(&[]), Offers::default());
        assert_eq!(read(&["Negotiate", "Kerberos"]).token, None);
        assert_eq!(read(&["Negotiate !"]).token, None);
    }
}
