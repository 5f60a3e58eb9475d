//! Fault rules: what can be made to go wrong, by name.
//!
//! A rule that needs a value has it after `=`: `return-code=32775`, `fault=QuotaLimit`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::command::ParseCommandError;

/// A fault rule to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSpec {
    /// What goes wrong.
    pub rule: FaultRule,
    /// Where: `Class.Method`, `Method`, or an operation (`identify enumerate pull get invoke merge guest-write`);
    /// everywhere it makes sense without.
    pub on: Option<String>,
    /// How often; until cleared without.
    pub times: Option<u32>,
    /// Only for this VM.
    pub vm: Option<String>,
}

macro_rules! fault_rules {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a fault rule does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub enum FaultRule {
            $($(#[$doc])* $name,)*
            /// `job-failed=N`: the job the method starts ends in state 10 with this error code.
            JobFailedWith(u16),
            /// `return-code=N`: the method is not run and answers this `ReturnValue`.
            ReturnCode(u32),
            /// `fault=WHICH`: the operation is not carried out and answers this fault.
            Fault(FaultName),
        }

        impl FaultRule {
            /// Every rule without a value.
            pub const PLAIN: &'static [FaultRule] = &[$(FaultRule::$name,)*];

            /// Returns the rule's name on the command line, without its value.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultRule::$name => $text,)*
                    FaultRule::JobFailedWith(_) => "job-failed",
                    FaultRule::ReturnCode(_) => "return-code",
                    FaultRule::Fault(_) => "fault",
                }
            }
        }

        impl fmt::Display for FaultRule {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(FaultRule::$name => f.write_str($text),)*
                    FaultRule::JobFailedWith(code) => write!(f, "job-failed={code}"),
                    FaultRule::ReturnCode(code) => write!(f, "return-code={code}"),
                    FaultRule::Fault(name) => write!(f, "fault={name}"),
                }
            }
        }
    };
}

fault_rules! {
    /// The operation is answered with `w:AccessDenied`.
    AccessDenied = "access-denied",
    /// HTTP 401.
    Unauthorized = "401",
    /// HTTP 503, as a service that has too much to do.
    Busy = "busy",
    /// `w:EncodingLimit`.
    EnvelopeLimit = "envelope-limit",
    /// `n:InvalidEnumerationContext` at Pull.
    StaleContext = "stale-context",
    /// `w:QuotaLimit`.
    QuotaLimit = "quota-limit",
    /// The operation is carried out and answered with `w:TimedOut`.
    TimedOut = "timed-out",
    /// The reply comes `slow_millis` late, or is `w:TimedOut` after the request's OperationTimeout where that is over before.
    SlowReply = "slow-reply",
    /// The connection breaks and nothing is done.
    ConnectionLostBefore = "connection-lost-before",
    /// The method runs, then the connection breaks before the reply.
    ConnectionLostAfter = "connection-lost-after",
    /// The job the method starts ends in state 10 and has done nothing.
    JobFailed = "job-failed",
    /// The job the method starts does its work and ends in state 10 all the same.
    JobFailedAfter = "job-failed-after",
    /// The job the method starts ends in state 8 and has done nothing.
    JobTerminated = "job-terminated",
    /// The job the method starts ends in state 32768, completed with warnings.
    JobWarnings = "job-warnings",
    /// The job the method starts is in state 5 for `suspend_millis`.
    JobSuspended = "job-suspended",
    /// The job the method starts cannot be found any more once it has ended.
    JobVanishes = "job-vanishes",
    /// The job the method starts is associated with nothing.
    AssociationMissing = "association-missing",
    /// CreateSnapshot with application consistency ends in a failed job.
    AppConsistencyFailed = "app-consistency-failed",
    /// GetVirtualDiskChanges does not know the id.
    RctIdUnknown = "rct-id-unknown",
    /// GetVirtualDiskChanges leaves out changed ranges (a broken host).
    ChangesOmitted = "changes-omitted",
    /// A merge waits for as long as the rule stands.
    MergeNeverEnds = "merge-never-ends",
    /// The volume has no room left for the guest, a merge or a checkpoint.
    DiskFull = "disk-full",
}

impl FaultRule {
    /// Returns what `fault add` takes, for help and messages.
    #[must_use]
    pub fn choices() -> String {
        let mut names: Vec<&str> = Self::PLAIN.iter().map(|rule| rule.name()).collect();
        names.extend(["job-failed=N", "return-code=N", "fault=WHICH"]);
        names.join(", ")
    }
}

impl From<FaultRule> for String {
    fn from(rule: FaultRule) -> Self {
        rule.to_string()
    }
}

impl TryFrom<String> for FaultRule {
    type Error = ParseCommandError;

    fn try_from(text: String) -> Result<Self, ParseCommandError> {
        text.parse()
    }
}

impl FromStr for FaultRule {
    type Err = ParseCommandError;

    fn from_str(text: &str) -> Result<Self, ParseCommandError> {
        let wrong = |hint: String| ParseCommandError::new("a fault rule", text, hint);
        let Some((name, value)) = text.split_once('=') else {
            let found = Self::PLAIN.iter().copied().find(|rule| rule.name() == text);
            return found.ok_or_else(|| wrong(format!("the rules are {}", FaultRule::choices())));
        };
        match name {
            "job-failed" => value
                .parse()
                .map(FaultRule::JobFailedWith)
                .map_err(|_| wrong("write an error code, such as job-failed=32775".to_owned())),
            "return-code" => value
                .parse()
                .map(FaultRule::ReturnCode)
                .map_err(|_| wrong("write a code, such as return-code=32775".to_owned())),
            "fault" => FaultName::from_str(value).map(FaultRule::Fault),
            _ => Err(wrong(format!("the rules are {}", FaultRule::choices()))),
        }
    }
}

macro_rules! fault_names {
    ($($name:ident,)*) => {
        /// A fault a rule answers with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FaultName {
            $(#[doc = concat!("The subcode `", stringify!($name), "`.")] $name,)*
            /// `w:InternalError` with this WMI result, written `0x80041002`.
            Result(u32),
            /// `w:InternalError` with this WSManFault code, written in decimal.
            Code(u32),
        }

        impl FaultName {
            const NAMES: &'static [(&'static str, FaultName)] =
                &[$((stringify!($name), FaultName::$name),)*];

            /// Returns the fault.
            pub(crate) fn fault(self) -> wsman::Fault {
                use wsman::{Fault, Subcode};
                let reason = "a fault rule says so";
                if self == FaultName::AccessDenied {
                    return Fault::access_denied("Access is denied.");
                }
                if self == FaultName::TimedOut {
                    return Fault::timed_out(reason);
                }
                match self {
                    $(FaultName::$name => Fault::new(Subcode::$name, reason),)*
                    FaultName::Result(result) => {
                        Fault::new(Subcode::InternalError, reason).with_hresult(result, reason)
                    }
                    FaultName::Code(code) => {
                        Fault::new(Subcode::InternalError, reason).with_code(code, reason)
                    }
                }
            }
        }

        impl fmt::Display for FaultName {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(FaultName::$name => f.write_str(stringify!($name)),)*
                    FaultName::Result(result) => write!(f, "0x{result:08x}"),
                    FaultName::Code(code) => write!(f, "{code}"),
                }
            }
        }
    };
}

fault_names! {
    InvalidSelectors,
    DestinationUnreachable,
    ActionNotSupported,
    MessageInformationHeaderRequired,
    InvalidMessageInformationHeader,
    EndpointUnavailable,
    CannotProcessFilter,
    FilterDialectRequestedUnavailable,
    InvalidEnumerationContext,
    AccessDenied,
    TimedOut,
    InternalError,
    EncodingLimit,
    QuotaLimit,
    InvalidParameter,
    SchemaValidationError,
    Concurrency,
    UnsupportedFeature,
    InvalidOptions,
}

impl FromStr for FaultName {
    type Err = ParseCommandError;

    fn from_str(text: &str) -> Result<Self, ParseCommandError> {
        let named = Self::NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, named)| *named);
        let result = || {
            let digits = text
                .strip_prefix("0x")
                .or_else(|| text.strip_prefix("0X"))?;
            u32::from_str_radix(digits, 16).ok().map(FaultName::Result)
        };
        let code = || text.parse().ok().map(FaultName::Code);
        named.or_else(result).or_else(code).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
            ParseCommandError::new(
                "a fault",
                text,
                format!(
                    "write a WMI result such as 0x80041002, a WSManFault code in decimal, or one of {}",
                    names.join(", ")
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_read_as_it_is_written() {
        let valued = [
            FaultRule::JobFailedWith(32775),
            FaultRule::ReturnCode(32773),
            FaultRule::Fault(FaultName::QuotaLimit),
            FaultRule::Fault(FaultName::Result(0x8004_1002)),
            FaultRule::Fault(FaultName::Code(2_150_858_793)),
        ];
        for rule in FaultRule::PLAIN.iter().copied().chain(valued) {
            assert_eq!(rule.to_string().parse::<FaultRule>().unwrap(), rule);
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<FaultRule>(&json).unwrap(), rule);
        }
        for wrong in [
            "",
            "fault",
            "return-code",
            "return-code=x",
            "fault=Nothing",
            "x=1",
        ] {
            assert!(wrong.parse::<FaultRule>().is_err(), "{wrong}");
        }
    }
}
