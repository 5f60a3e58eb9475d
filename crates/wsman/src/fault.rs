//! Faults, typed both ways: a server builds them, a client reads and classifies them.

use std::fmt;

use crate::uri;

/// WMI results that hosts report inside faults.
pub mod hresult {
    /// `WBEM_E_FAILED`
    pub const FAILED: u32 = 0x8004_1001;
    /// `WBEM_E_NOT_FOUND`
    pub const NOT_FOUND: u32 = 0x8004_1002;
    /// `WBEM_E_ACCESS_DENIED`
    pub const ACCESS_DENIED: u32 = 0x8004_1003;
    /// `WBEM_E_INVALID_PARAMETER`
    pub const INVALID_PARAMETER: u32 = 0x8004_1008;
    /// `WBEM_E_INVALID_NAMESPACE`
    pub const INVALID_NAMESPACE: u32 = 0x8004_100E;
    /// `WBEM_E_INVALID_CLASS`
    pub const INVALID_CLASS: u32 = 0x8004_1010;
    /// `WBEM_E_INVALID_QUERY`
    pub const INVALID_QUERY: u32 = 0x8004_1017;
    /// `WBEM_E_INVALID_METHOD`
    pub const INVALID_METHOD: u32 = 0x8004_1055;
}

/// WSManFault codes: errors of Windows Remote Management (`wsmerror.h`), Win32 errors, or results of WMI.
pub mod code {
    /// `ERROR_ACCESS_DENIED`, a Win32 error.
    pub const ACCESS_DENIED: u32 = 5;
    /// `ERROR_WSMAN_OPERATION_TIMEDOUT`: the operation took longer than its timeout.
    pub const TIMED_OUT: u32 = 2_150_858_793;
    /// `ERROR_WSMAN_UNREPORTABLE_SUCCESS`: the method ran, but its answer is too large to send.
    pub const UNREPORTABLE_SUCCESS: u32 = 2_150_858_829;
}

/// Last part of the detail URI of an answer that is too large, of a method that ran.
const UNREPORTABLE_SUCCESS: &str = "UnreportableSuccess";

macro_rules! subcodes {
    ($($variant:ident = $ns:ident : $name:literal, $doc:literal;)*) => {
        /// What a fault is about, by its qualified name.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Subcode {
            $(#[doc = $doc] $variant,)*
            /// One this crate does not know.
            Other {
                /// Namespace URI; empty where the name had none.
                namespace: String,
                /// Local name.
                name: String,
            },
            /// The fault had no subcode.
            None,
        }

        impl Subcode {
            /// Returns the subcode with this qualified name.
            #[must_use]
            pub fn from_name(namespace: &str, name: &str) -> Self {
                match (namespace, name) {
                    $((uri::$ns, $name) => Subcode::$variant,)*
                    _ => Subcode::Other { namespace: namespace.to_owned(), name: name.to_owned() },
                }
            }

            /// Returns namespace URI and local name.
            #[must_use]
            pub fn qualified(&self) -> (&str, &str) {
                match self {
                    $(Subcode::$variant => (uri::$ns, $name),)*
                    Subcode::Other { namespace, name } => (namespace, name),
                    Subcode::None => ("", ""),
                }
            }
        }
    };
}

subcodes! {
    InvalidSelectors = WSMAN: "InvalidSelectors", "No such object, or keys that fit none.";
    DestinationUnreachable = ADDRESSING: "DestinationUnreachable", "No such class or namespace.";
    ActionNotSupported = ADDRESSING: "ActionNotSupported", "The class has no such method, the service no such action.";
    MessageInformationHeaderRequired = ADDRESSING: "MessageInformationHeaderRequired", "A header is missing.";
    InvalidMessageInformationHeader = ADDRESSING: "InvalidMessageInformationHeader", "A header is wrong.";
    EndpointUnavailable = ADDRESSING: "EndpointUnavailable", "The service is not ready.";
    CannotProcessFilter = ENUMERATION: "CannotProcessFilter", "The query is wrong.";
    FilterDialectRequestedUnavailable = ENUMERATION: "FilterDialectRequestedUnavailable", "Unknown query language.";
    FilteringNotSupported = ENUMERATION: "FilteringNotSupported", "The class takes no query.";
    NoItemInTime = ENUMERATION: "TimedOut", "A Pull found no object in its time; the enumeration goes on.";
    InvalidEnumerationContext = ENUMERATION: "InvalidEnumerationContext", "The enumeration has expired or is unknown.";
    AccessDenied = WSMAN: "AccessDenied", "The account may not do that.";
    TimedOut = WSMAN: "TimedOut", "The operation took longer than its timeout; its result is unknown.";
    InternalError = WSMAN: "InternalError", "The provider failed; the WMI result tells more.";
    EncodingLimit = WSMAN: "EncodingLimit", "The reply does not fit the envelope size asked for.";
    QuotaLimit = WSMAN: "QuotaLimit", "Too many operations at once.";
    InvalidParameter = WSMAN: "InvalidParameter", "A parameter is wrong.";
    SchemaValidationError = WSMAN: "SchemaValidationError", "A parameter has the wrong type or the body is wrong.";
    InvalidResourceUri = WSMAN: "InvalidResourceURI", "The resource URI is missing or names nothing.";
    ActionMismatch = WSMAN: "ActionMismatch", "The class does not do that.";
    Concurrency = WSMAN: "Concurrency", "Somebody else is changing the object.";
    UnsupportedFeature = WSMAN: "UnsupportedFeature", "The service does not do that.";
    InvalidOptions = WSMAN: "InvalidOptions", "An option is wrong.";
}

/// What a caller can do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// Busy or not ready: try again later.
    Retry,
    /// There is no such object.
    NotFound,
    /// There is no such class or namespace on this host.
    UnknownClass,
    /// The class has no such method.
    UnknownMethod,
    /// The account lacks rights.
    AccessDenied,
    /// The operation ran out of time: look for its effect, it may have happened.
    ResultUnknown,
    /// The reply is larger than the envelope size asked for: ask for less or allow more.
    EncodingLimit,
    /// A quota of the service is used up: try again later.
    Quota,
    /// A parameter is wrong.
    InvalidParameter,
    /// The query is wrong.
    BadQuery,
    /// The enumeration has expired: start it again.
    InvalidContext,
    /// The service does not do that.
    Unsupported,
    /// Anything else.
    Failed,
}

/// What a provider added to a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderFault {
    /// Name of the provider.
    pub provider: String,
    /// Path of its library.
    pub path: String,
    /// Its text, everything inside joined.
    pub text: String,
    /// WSManFault code of the fault inside, where there is one: often the WMI result.
    pub code: Option<u32>,
    /// What WMI says about the operation, where it does.
    pub extended: Option<Box<ExtendedStatus>>,
    /// The WMI result, where one was found: in a code, in the extended status, or in the text.
    pub hresult: Option<u32>,
}

/// WMI's `__ExtendedStatus`, which providers put inside their faults. What is not said is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtendedStatus {
    /// What went wrong.
    pub description: String,
    /// Such as `ExecQuery`.
    pub operation: String,
    /// Such as the query.
    pub parameter_info: String,
    /// Such as `WinMgmt`.
    pub provider_name: String,
    /// The WMI result.
    pub status_code: Option<u32>,
}

/// A SOAP fault of WS-Management.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whether the request is to blame (`s:Sender`) rather than the service (`s:Receiver`).
    pub sender: bool,
    /// What it is about.
    pub subcode: Subcode,
    /// The reason, for people.
    pub reason: String,
    /// Detail URI, such as `.../faultDetail/MaxEnvelopeSize`.
    pub detail: Option<String>,
    /// WSManFault code.
    pub code: Option<u32>,
    /// The machine that says so.
    pub machine: Option<String>,
    /// WSManFault message.
    pub message: Option<String>,
    /// What the provider said.
    pub provider: Option<ProviderFault>,
    /// Everything the host wrote in reason and detail, for the log. Only filled by the parser.
    pub full_text: String,
}

impl Fault {
    /// Returns a fault blamed on the sender, or on the service for the subcodes that mean that.
    pub fn new(subcode: Subcode, reason: impl Into<String>) -> Self {
        let receiver = matches!(
            subcode,
            Subcode::TimedOut
                | Subcode::InternalError
                | Subcode::QuotaLimit
                | Subcode::EndpointUnavailable
                | Subcode::InvalidEnumerationContext
                | Subcode::NoItemInTime
        );
        Self {
            sender: !receiver,
            subcode,
            reason: reason.into(),
            detail: None,
            code: None,
            machine: None,
            message: None,
            provider: None,
            full_text: String::new(),
        }
    }

    /// Adds a detail by its last part, such as `MaxEnvelopeSize`.
    #[must_use]
    pub fn with_detail(mut self, name: &str) -> Self {
        self.detail = Some(format!("{}{name}", uri::FAULT_DETAIL_PREFIX));
        self
    }

    /// Adds the WSManFault code and its message.
    #[must_use]
    pub fn with_code(mut self, code: u32, message: impl Into<String>) -> Self {
        self.code = Some(code);
        self.message = Some(message.into());
        self
    }

    /// Adds what the WMI provider said, with its result.
    #[must_use]
    pub fn with_hresult(mut self, hresult: u32, text: impl Into<String>) -> Self {
        let text = text.into();
        self.provider = Some(ProviderFault {
            provider: "WMI Provider".into(),
            path: r"%systemroot%\system32\WsmWmiPl.dll".into(),
            text: format!("{text} HRESULT = 0x{hresult:08x}")
                .trim()
                .to_owned(),
            hresult: Some(hresult),
            ..ProviderFault::default()
        });
        self
    }

    /// Returns the fault of a missing object.
    pub fn not_found(reason: impl Into<String>) -> Self {
        Self::new(Subcode::InvalidSelectors, reason).with_detail("UnexpectedSelectors")
    }

    /// Returns the fault of missing rights.
    pub fn access_denied(reason: impl Into<String>) -> Self {
        Self::new(Subcode::AccessDenied, reason).with_code(code::ACCESS_DENIED, "Access is denied.")
    }

    /// Returns the fault of an operation that ran out of time.
    pub fn timed_out(reason: impl Into<String>) -> Self {
        Self::new(Subcode::TimedOut, reason)
            .with_code(code::TIMED_OUT, "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.")
    }

    /// Returns the fault of a reply that does not fit.
    pub fn encoding_limit(reason: impl Into<String>) -> Self {
        Self::new(Subcode::EncodingLimit, reason).with_detail("MaxEnvelopeSize")
    }

    /// Returns the action of the reply that carries this fault.
    #[must_use]
    pub fn action(&self) -> &'static str {
        if self.subcode.qualified().0 == uri::ADDRESSING {
            uri::ACTION_ADDRESSING_FAULT
        } else {
            uri::ACTION_FAULT
        }
    }

    /// Returns the HTTP status of the reply that carries this fault (malformed envelopes get 400 from the server).
    #[must_use]
    pub fn http_status(&self) -> u16 {
        if self.subcode == Subcode::EndpointUnavailable {
            503
        } else {
            500
        }
    }

    /// Classifies the fault: by subcode first, then by WMI result, then by WSManFault code, then by text.
    ///
    /// A refused query is [`FaultClass::BadQuery`] unless the WMI result says that it is the class or the account: some
    /// services check both only then.
    #[must_use]
    pub fn class(&self) -> FaultClass {
        let by_result = self
            .provider
            .as_ref()
            .and_then(|provider| provider.hresult)
            .and_then(class_of_hresult);
        match &self.subcode {
            Subcode::InvalidSelectors => FaultClass::NotFound,
            Subcode::DestinationUnreachable | Subcode::InvalidResourceUri => {
                FaultClass::UnknownClass
            }
            Subcode::ActionNotSupported | Subcode::ActionMismatch => FaultClass::UnknownMethod,
            Subcode::CannotProcessFilter => by_result.unwrap_or(FaultClass::BadQuery),
            Subcode::FilterDialectRequestedUnavailable | Subcode::FilteringNotSupported => {
                FaultClass::BadQuery
            }
            Subcode::InvalidEnumerationContext => FaultClass::InvalidContext,
            Subcode::AccessDenied => FaultClass::AccessDenied,
            Subcode::TimedOut | Subcode::NoItemInTime => FaultClass::ResultUnknown,
            Subcode::EncodingLimit if self.unreportable() => FaultClass::ResultUnknown,
            Subcode::EncodingLimit => FaultClass::EncodingLimit,
            Subcode::QuotaLimit => FaultClass::Quota,
            Subcode::InvalidParameter | Subcode::SchemaValidationError => {
                FaultClass::InvalidParameter
            }
            Subcode::EndpointUnavailable | Subcode::Concurrency => FaultClass::Retry,
            Subcode::UnsupportedFeature | Subcode::InvalidOptions => FaultClass::Unsupported,
            Subcode::MessageInformationHeaderRequired
            | Subcode::InvalidMessageInformationHeader
            | Subcode::InternalError
            | Subcode::Other { .. }
            | Subcode::None => by_result
                .or_else(|| self.code.and_then(class_of_code))
                .or_else(|| self.provider.as_ref()?.code.and_then(class_of_code))
                .or_else(|| self.class_of_text())
                .unwrap_or(FaultClass::Failed),
        }
    }

    /// Whether the method ran and only its answer is too large to send.
    fn unreportable(&self) -> bool {
        let detail = self.detail.as_deref().unwrap_or_default();
        self.code == Some(code::UNREPORTABLE_SUCCESS) || detail.ends_with(UNREPORTABLE_SUCCESS)
    }

    // [U] Which words real hosts write is not confirmed; they are the last resort.
    fn class_of_text(&self) -> Option<FaultClass> {
        const WORDS: [(&str, FaultClass); 8] = [
            ("0x80041002", FaultClass::NotFound),
            ("0x80041003", FaultClass::AccessDenied),
            ("0x80070005", FaultClass::AccessDenied),
            ("access is denied", FaultClass::AccessDenied),
            ("access denied", FaultClass::AccessDenied),
            ("0x80041010", FaultClass::UnknownClass),
            ("0x8004100e", FaultClass::UnknownClass),
            ("0x80041008", FaultClass::InvalidParameter),
        ];
        let text = format!("{} {}", self.reason, self.full_text).to_lowercase();
        let found = WORDS.iter().find(|(word, _)| text.contains(word));
        found.map(|&(_, class)| class)
    }
}

impl ProviderFault {
    /// Finds the WMI result again: in the code, in the extended status, in the text.
    pub(crate) fn find_result(&self) -> Option<u32> {
        let extended = self.extended.as_deref();
        self.code
            .filter(|&code| is_result(code))
            .or_else(|| extended?.status_code.filter(|&code| code >= FIRST_ERROR))
            .or_else(|| find_hresult(&self.text))
            .or_else(|| find_hresult(&extended?.description))
            .or(self.code)
    }
}

/// Results below are successes.
const FIRST_ERROR: u32 = 0x8000_0000;

/// Whether a code is a result of WMI or a Win32 error in the form of one, rather than an error of the service itself.
pub(crate) fn is_result(code: u32) -> bool {
    matches!(code, 0x8004_1000..=0x8004_FFFF | 0x8007_0000..=0x8007_FFFF)
}

/// Finds the first `0x8.......` in a text.
fn find_hresult(text: &str) -> Option<u32> {
    text.match_indices("0x").find_map(|(at, _)| {
        let digits = text.get(at + 2..at + 10)?;
        let ends = !text[at + 10..].starts_with(|c: char| c.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16)
            .ok()
            .filter(|&value| ends && value >= FIRST_ERROR)
    })
}

fn class_of_hresult(hresult: u32) -> Option<FaultClass> {
    Some(match hresult {
        hresult::NOT_FOUND => FaultClass::NotFound,
        hresult::ACCESS_DENIED | 0x8007_0005 => FaultClass::AccessDenied,
        hresult::INVALID_CLASS | hresult::INVALID_NAMESPACE => FaultClass::UnknownClass,
        hresult::INVALID_METHOD => FaultClass::UnknownMethod,
        hresult::INVALID_PARAMETER => FaultClass::InvalidParameter,
        hresult::INVALID_QUERY => FaultClass::BadQuery,
        _ => return None,
    })
}

/// Classifies a WSManFault code as the header `wsmerror.h` documents it.
///
/// [U] Which of them a host sends beside which subcode is confirmed for access denied and the timeout only: this is asked
/// after subcode and WMI result.
fn class_of_code(code: u32) -> Option<FaultClass> {
    Some(match code {
        code::ACCESS_DENIED => FaultClass::AccessDenied,
        code::TIMED_OUT | code::UNREPORTABLE_SUCCESS | 0x8033_801C => FaultClass::ResultUnknown,
        0x8033_8000 | 0x8033_803D | 0x8033_8044 => FaultClass::NotFound,
        0x8033_8012 | 0x8033_803B => FaultClass::UnknownClass,
        0x8033_8013 | 0x8033_8031 => FaultClass::UnknownMethod,
        0x8033_8014 | 0x8033_8032 => FaultClass::Retry,
        0x8033_8018..=0x8033_801A => FaultClass::BadQuery,
        0x8033_801B => FaultClass::InvalidContext,
        0x8033_8026 | 0x8033_8035 | 0x8033_8048 | 0x8033_8049 => FaultClass::EncodingLimit,
        0x8033_803A | 0x8033_8041 => FaultClass::InvalidParameter,
        0x8033_803F => FaultClass::Quota,
        0x8033_8039 | 0x8033_8042 => FaultClass::Unsupported,
        other => return class_of_hresult(other),
    })
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = self.subcode.qualified();
        let text = if self.full_text.is_empty() {
            &self.reason
        } else {
            &self.full_text
        };
        if name.is_empty() {
            f.write_str(text)
        } else {
            write!(f, "{name}: {text}")
        }
    }
}

impl std::error::Error for Fault {}
