//! Who may talk: the log-in of a connection, and what goes sealed.
//!
//! Basic belongs to one request, Negotiate to the connection ([MS-WSMV], `hyperv-wmi.md` section 4): three legs, then
//! everything on that connection is the account's. The third leg may bring no body, a plain or a sealed one.
//!
//! Invariants: a connection on which a sealed message was exchanged takes and gives nothing in plain any more; a
//! message that cannot be opened ends the connection; secrets are in no log.
//! Not here: sockets (`connections`), keys (`ntlm`), the meaning of a request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use wsman::sealed::{self, Sealed};

use super::ntlm::{self, Challenged};
use super::ntlm_session::Session;
use super::spnego;
use crate::{AuthSchemes, Credentials};

/// Who may log in, and how.
#[derive(Debug)]
pub(super) struct Rules {
    /// Anybody may talk where there is none.
    pub(super) account: Option<Credentials>,
    pub(super) schemes: AuthSchemes,
    /// Name of the computer.
    pub(super) computer: String,
    /// What a log-in may be bound to; none without TLS. Over TLS nothing needs sealing.
    pub(super) bindings: Option<Vec<[u8; 16]>>,
}

impl Rules {
    fn offers(&self, scheme: AuthSchemes) -> bool {
        self.schemes == scheme || self.schemes == AuthSchemes::Both
    }

    /// Values of `WWW-Authenticate`, one per header.
    pub(super) fn challenges(&self) -> Vec<String> {
        let mut list = Vec::new();
        if self.offers(AuthSchemes::Negotiate) {
            list.push("Negotiate".to_owned());
        }
        if self.offers(AuthSchemes::Basic) {
            list.push("Basic realm=\"WSMAN\"".to_owned());
        }
        list
    }

    /// Whether messages may go in plain after a log-in: a host that offers Basic over HTTP allows it
    /// (`AllowUnencrypted`), one that does not wants them sealed.
    fn plain_allowed(&self) -> bool {
        self.bindings.is_some() || self.offers(AuthSchemes::Basic)
    }
}

/// The log-in of one connection.
#[derive(Default)]
pub(super) enum LogIn {
    #[default]
    None,
    /// NTLM was chosen in SPNEGO, and its first message is still to come.
    Chosen { list: Vec<u8> },
    Challenged {
        waiting: Challenged,
        /// SPNEGO's list of mechanisms; none where NTLM came bare.
        list: Option<Vec<u8>>,
    },
    Done {
        session: Box<Session>,
        /// Whether a sealed message was exchanged.
        sealed: bool,
    },
}

/// What the headers of a request say.
pub(super) struct Incoming<'a> {
    pub(super) authorization: Option<&'a str>,
    pub(super) content_type: &'a str,
    pub(super) body: &'a [u8],
}

/// What is to be done with a request.
pub(super) enum Verdict {
    /// Answer this envelope. `token` ends the log-in and goes with the answer.
    Serve { envelope: Vec<u8>, token: Option<String> },
    /// 200 with nothing: the log-in ended with an empty body.
    Welcome { token: Option<String> },
    /// 401 with the next leg.
    GoOn { token: String },
    /// 401 with the list of schemes.
    Refuse { why: &'static str },
    /// 500 with nothing: it had to be sealed.
    NeedsSealing,
    /// 400, and the connection ends.
    Drop { why: String },
}

impl LogIn {
    /// Decides about a request. `random` and `filetime` go into a challenge.
    pub(super) fn decide(
        &mut self,
        rules: &Rules,
        incoming: &Incoming<'_>,
        random: [u8; 8],
        filetime: u64,
    ) -> Verdict {
        let Some(account) = &rules.account else {
            return self.open(rules, incoming, None);
        };
        let given = incoming
            .authorization
            .and_then(|text| text.trim().split_once(' '));
        let mut token = None;
        match given {
            Some((scheme, text))
                if scheme.eq_ignore_ascii_case("Basic") && rules.offers(AuthSchemes::Basic) =>
            {
                let decoded = STANDARD.decode(text.trim()).unwrap_or_default();
                if !is_pair(account, &decoded) {
                    return Verdict::Refuse {
                        why: "user or password of Basic is wrong",
                    };
                }
                if matches!(self, Self::Done { sealed: true, .. }) {
                    return Verdict::NeedsSealing;
                }
                return Verdict::Serve {
                    envelope: incoming.body.to_vec(),
                    token: None,
                };
            }
            Some((scheme, text))
                if scheme.eq_ignore_ascii_case("Negotiate")
                    && rules.offers(AuthSchemes::Negotiate) =>
            {
                let Ok(bytes) = STANDARD.decode(text.trim()) else {
                    *self = Self::None;
                    return Verdict::Refuse {
                        why: "the token is not in base64",
                    };
                };
                match self.leg(rules, account, &bytes, random, filetime) {
                    Ok(Leg::GoOn(token)) => {
                        return Verdict::GoOn {
                            token: negotiate(&token),
                        };
                    }
                    Ok(Leg::Done(last)) => token = last.map(|token| negotiate(&token)),
                    Err(why) => {
                        *self = Self::None;
                        return Verdict::Refuse { why };
                    }
                }
            }
            Some(_) => {
                return Verdict::Refuse {
                    why: "the scheme is not offered",
                };
            }
            None if !matches!(self, Self::Done { .. }) => {
                return Verdict::Refuse {
                    why: "no log-in was sent",
                };
            }
            None => {}
        }
        self.open(rules, incoming, token)
    }

    /// Takes a token of Negotiate.
    fn leg(
        &mut self,
        rules: &Rules,
        account: &Credentials,
        token: &[u8],
        random: [u8; 8],
        filetime: u64,
    ) -> Result<Leg, &'static str> {
        const BROKEN: &str = "the token is neither NTLM nor SPNEGO with NTLM in it";
        let start = |first: &[u8]| ntlm::challenge(first, &rules.computer, random, filetime);
        if ntlm::is_first(token) {
            let (waiting, second) = start(token)?;
            *self = Self::Challenged {
                waiting,
                list: None,
            };
            return Ok(Leg::GoOn(second));
        }
        if let Some(init) = spnego::read_init(token) {
            let list = init.list.to_vec();
            let Some(first) = init.token else {
                *self = Self::Chosen { list };
                let answer = spnego::write_resp(spnego::State::Incomplete, true, None, None);
                return Ok(Leg::GoOn(answer));
            };
            let (waiting, second) = start(first)?;
            *self = Self::Challenged {
                waiting,
                list: Some(list),
            };
            let state = spnego::State::Incomplete;
            return Ok(Leg::GoOn(spnego::write_resp(
                state,
                true,
                Some(&second),
                None,
            )));
        }
        match std::mem::take(self) {
            Self::Chosen { list } => {
                let first = spnego::read_resp(token).and_then(|resp| resp.token);
                let (waiting, second) = start(first.ok_or(BROKEN)?)?;
                *self = Self::Challenged {
                    waiting,
                    list: Some(list),
                };
                let state = spnego::State::Incomplete;
                Ok(Leg::GoOn(spnego::write_resp(
                    state,
                    false,
                    Some(&second),
                    None,
                )))
            }
            Self::Challenged {
                waiting,
                list: None,
            } => {
                let session = waiting.authenticate(token, account, rules.bindings.as_deref())?;
                *self = Self::done(session);
                Ok(Leg::Done(None))
            }
            Self::Challenged {
                waiting,
                list: Some(list),
            } => {
                let resp = spnego::read_resp(token).ok_or(BROKEN)?;
                let third = resp.token.ok_or(BROKEN)?;
                let mut session =
                    waiting.authenticate(third, account, rules.bindings.as_deref())?;
                let code = resp
                    .code
                    .map(|code| {
                        session
                            .exchange_codes(&list, code)
                            .ok_or("the list of mechanisms was changed")
                    })
                    .transpose()?;
                *self = Self::done(session);
                let state = spnego::State::Completed;
                let code = code.as_ref().map(<[u8; 16]>::as_slice);
                Ok(Leg::Done(Some(spnego::write_resp(
                    state, false, None, code,
                ))))
            }
            Self::None | Self::Done { .. } => Err(BROKEN),
        }
    }

    fn done(session: Session) -> Self {
        Self::Done {
            session: Box::new(session),
            sealed: false,
        }
    }

    /// Opens the body of an allowed request.
    fn open(&mut self, rules: &Rules, incoming: &Incoming<'_>, token: Option<String>) -> Verdict {
        if sealed::is_sealed(incoming.content_type) {
            let Self::Done { session, sealed } = self else {
                return Verdict::Drop {
                    why: "a sealed message without a log-in by Negotiate".to_owned(),
                };
            };
            *sealed = true;
            return match unseal(session, incoming) {
                Ok(envelope) => Verdict::Serve { envelope, token },
                Err(why) => {
                    *self = Self::None;
                    Verdict::Drop { why }
                }
            };
        }
        let was_sealed = matches!(self, Self::Done { sealed: true, .. });
        let by_negotiate = matches!(self, Self::Done { .. });
        if by_negotiate && incoming.body.is_empty() {
            return Verdict::Welcome { token };
        }
        if was_sealed || (by_negotiate && !rules.plain_allowed()) {
            return Verdict::NeedsSealing;
        }
        Verdict::Serve {
            envelope: incoming.body.to_vec(),
            token,
        }
    }

    /// Seals a reply where the connection is sealed.
    pub(super) fn close(&mut self, reply: Vec<u8>) -> (&'static str, Vec<u8>) {
        if let Self::Done {
            session,
            sealed: true,
        } = self
        {
            let mut sealed = reply;
            let signature = session.seal(&mut sealed);
            let body = sealed::write(Sealed {
                signature: &signature,
                sealed: &sealed,
            });
            (sealed::CONTENT_TYPE, body)
        } else {
            ("application/soap+xml;charset=UTF-8", reply)
        }
    }
}

enum Leg {
    GoOn(Vec<u8>),
    Done(Option<Vec<u8>>),
}

/// Compares what Basic brings. Clients write characters beyond ASCII in UTF-8 or in Latin-1; both are taken.
fn is_pair(account: &Credentials, given: &[u8]) -> bool {
    let wanted = format!("{}:{}", account.user, account.password);
    let latin: Option<Vec<u8>> = wanted.chars().map(|c| u8::try_from(c).ok()).collect();
    given == wanted.as_bytes() || latin.is_some_and(|latin| given == latin)
}

fn negotiate(token: &[u8]) -> String {
    format!("Negotiate {}", STANDARD.encode(token))
}

fn unseal(session: &mut Session, incoming: &Incoming<'_>) -> Result<Vec<u8>, String> {
    let pieces =
        sealed::read(incoming.content_type, incoming.body).map_err(|error| error.to_string())?;
    let mut envelope = Vec::new();
    for piece in pieces {
        envelope.extend(session.unseal(piece.signature, piece.sealed)?);
    }
    Ok(envelope)
}
