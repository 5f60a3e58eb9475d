//! Ids. Those that Hyper-V gave are GUIDs and are shown the way Hyper-V shows them (upper case, no braces);
//! ours are shown in lower case.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that should have been a GUID.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a GUID")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
}

fn parse_guid(text: &str) -> Result<Uuid, ParseIdError> {
    let bare = text.trim();
    let bare = bare
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .unwrap_or(bare);
    Uuid::try_parse(bare).map_err(|_| ParseIdError {
        text: text.chars().take(80).collect(),
    })
}

macro_rules! guid_id {
    ($(#[$doc:meta])* $name:ident, $case:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub Uuid);

        impl $name {
            /// Returns a new random id.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::$case::fmt(&self.0.hyphenated(), f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_guid(text).map(Self)
            }
        }
        impl TryFrom<String> for $name {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

guid_id!(
    /// A virtual machine, by the GUID Hyper-V gave it.
    VmId, UpperHex
);
guid_id!(
    /// A Hyper-V host, by its `Win32_ComputerSystemProduct.UUID`: what "the same host" means.
    HostId, UpperHex
);
guid_id!(
    /// A virtual disk, by the VirtualDiskId (page 83 id) inside its VHDX; children of a chain inherit it.
    DiskId, LowerHex
);
guid_id!(
    /// An enrolled agent.
    AgentId, LowerHex
);
guid_id!(
    /// A job.
    JobId, LowerHex
);
guid_id!(
    /// A recovery point; made from job, VM and fence, so that one attempt can make only one.
    PointId, LowerHex
);
guid_id!(
    /// A backup or restore session of an agent with the server.
    SessionId, LowerHex
);
guid_id!(
    /// A question of the server to an agent.
    QuestionId, LowerHex
);
guid_id!(
    /// A vault: a store with its keys.
    VaultId, LowerHex
);
guid_id!(
    /// A person or script that may log in.
    UserId, LowerHex
);

/// How often a job has been handed out. Every write for a job carries it; an older one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_shown_as_hyper_v_shows_them() {
        let vm: VmId = "{b637f346-6a0e-4dec-af52-bd70cb80a21d}".parse().unwrap();
        assert_eq!(vm.to_string(), "B637F346-6A0E-4DEC-AF52-BD70CB80A21D");
        let disk: DiskId = "B637F346-6A0E-4DEC-AF52-BD70CB80A21D".parse().unwrap();
        assert_eq!(disk.to_string(), "b637f346-6a0e-4dec-af52-bd70cb80a21d");
    }

    #[test]
    fn refuses_what_is_no_guid() {
        assert!("web01".parse::<VmId>().is_err());
        assert!(serde_json_like("../../etc").is_err());
    }

    fn serde_json_like(text: &str) -> Result<VmId, ParseIdError> {
        VmId::try_from(text.to_owned())
    }
}
