//! Shadow copies of volumes: one volume of the host as it was at one moment.
//!
//! `Win32_ShadowCopy.Create` makes a copy without writers: a running guest is found as after a power cut. A shadow copy is
//! ours if we made it, and we know it by its id alone; others, such as a schedule's, look the same and are never deleted.

use std::fmt;
use std::time::Duration;

use model::Timestamp;
use tokio::time::Instant;
use wsman::{Epr, Instance, Properties, uri, wql_literal};

use super::{Host, VolumeFacts};
use crate::{Error, ErrorKind};

const CLASS: &str = "Win32_ShadowCopy";
/// Persistent, without writers, at most 64 on a volume: the only context the class makes on a server.
const CONTEXT: &str = "ClientAccessible";
/// How long a shadow copy whose answer was lost is looked for.
const LOOK_FOR: Duration = Duration::from_secs(120);

/// A shadow copy of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Its id, a GUID in braces.
    pub id: String,
    /// Such as `\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy3`: the root of the volume as it was.
    pub device: String,
    /// The volume's `\\?\Volume{GUID}\`.
    pub volume: String,
    /// When it was made, by the host's clock.
    pub created: Option<Timestamp>,
    /// State of the set it belongs to; 12 is "created".
    pub state: Option<u32>,
}

/// Why a host makes no shadow copy: the return codes of `Win32_ShadowCopy.Create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShadowRefusal {
    /// 1
    AccessDenied,
    /// 2
    InvalidArgument,
    /// 3
    VolumeNotFound,
    /// 4
    VolumeNotSupported,
    /// 5
    ContextNotSupported,
    /// 6
    NoStorage,
    /// 7
    VolumeInUse,
    /// 8
    TooMany,
    /// 9
    AnotherInProgress,
    /// 10
    ProviderVetoed,
    /// 11
    ProviderNotRegistered,
    /// 12
    ProviderFailed,
    /// 13
    Unknown,
    /// A code that is not documented.
    Other(u32),
}

impl ShadowRefusal {
    fn of(code: u32) -> Self {
        match code {
            1 => Self::AccessDenied,
            2 => Self::InvalidArgument,
            3 => Self::VolumeNotFound,
            4 => Self::VolumeNotSupported,
            5 => Self::ContextNotSupported,
            6 => Self::NoStorage,
            7 => Self::VolumeInUse,
            8 => Self::TooMany,
            9 => Self::AnotherInProgress,
            10 => Self::ProviderVetoed,
            11 => Self::ProviderNotRegistered,
            12 => Self::ProviderFailed,
            13 => Self::Unknown,
            other => Self::Other(other),
        }
    }

    /// Returns the code.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::AccessDenied => 1,
            Self::InvalidArgument => 2,
            Self::VolumeNotFound => 3,
            Self::VolumeNotSupported => 4,
            Self::ContextNotSupported => 5,
            Self::NoStorage => 6,
            Self::VolumeInUse => 7,
            Self::TooMany => 8,
            Self::AnotherInProgress => 9,
            Self::ProviderVetoed => 10,
            Self::ProviderNotRegistered => 11,
            Self::ProviderFailed => 12,
            Self::Unknown => 13,
            Self::Other(code) => code,
        }
    }

    /// Returns what an administrator does about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::AccessDenied => {
                "shadow copies need an account among the host's local Administrators (or Backup Operators)"
            }
            Self::InvalidArgument => {
                "this is a fault of Reprise, or of the host: send the agent's log"
            }
            Self::VolumeNotFound => {
                "the volume has gone from the host since it was listed; look at its disks (Get-Volume)"
            }
            Self::VolumeNotSupported => {
                "shadow copies need a fixed volume with NTFS or ReFS; move the VM's files to one, or use the RCT method"
            }
            Self::ContextNotSupported => {
                "only Windows Server makes such shadow copies; use the RCT method"
            }
            Self::NoStorage => {
                "give shadow copies more room on the volume: `vssadmin resize shadowstorage`, or free space"
            }
            Self::VolumeInUse => "the volume is being worked on; the job is tried again",
            Self::TooMany => {
                "delete shadow copies that are no longer needed: `vssadmin list shadows`, `vssadmin delete shadows`"
            }
            Self::AnotherInProgress => {
                "another program is making a shadow copy; the job is tried again"
            }
            Self::ProviderVetoed => {
                "look at the host's event log for VSS and volsnap, and at `vssadmin list providers`"
            }
            Self::ProviderNotRegistered => {
                "look at `vssadmin list providers`: the system provider must be listed"
            }
            Self::ProviderFailed => {
                "look at the host's event log for VSS and volsnap; a restart of the service VSS often helps"
            }
            Self::Unknown | Self::Other(_) => "look at the host's event log for VSS and volsnap",
        }
    }

    /// Returns what a caller can do about it.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::AccessDenied => ErrorKind::AccessDenied,
            Self::InvalidArgument | Self::NoStorage | Self::TooMany => ErrorKind::Refused,
            Self::VolumeNotFound => ErrorKind::NotFound,
            Self::VolumeNotSupported | Self::ContextNotSupported | Self::ProviderNotRegistered => {
                ErrorKind::Unsupported
            }
            Self::VolumeInUse | Self::AnotherInProgress => ErrorKind::InUse,
            Self::ProviderVetoed | Self::ProviderFailed | Self::Unknown | Self::Other(_) => {
                ErrorKind::Failed
            }
        }
    }

    /// Whether it passes by itself.
    fn passes(self) -> bool {
        matches!(self, Self::VolumeInUse | Self::AnotherInProgress)
    }
}

impl fmt::Display for ShadowRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AccessDenied => "access denied",
            Self::InvalidArgument => "invalid argument",
            Self::VolumeNotFound => "the volume was not found",
            Self::VolumeNotSupported => "the volume does not support shadow copies",
            Self::ContextNotSupported => "this kind of shadow copy is not supported",
            Self::NoStorage => "there is not enough storage for it",
            Self::VolumeInUse => "the volume is in use",
            Self::TooMany => "the volume has as many shadow copies as it can have",
            Self::AnotherInProgress => "another shadow copy is being made",
            Self::ProviderVetoed => "the provider refused",
            Self::ProviderNotRegistered => "the provider is not registered",
            Self::ProviderFailed => "the provider failed",
            Self::Unknown => "an unknown error",
            Self::Other(_) => "a code unknown to Reprise",
        })?;
        write!(f, " (code {})", self.code())
    }
}

impl Host {
    /// Returns every shadow copy of the host, whoever made it.
    pub async fn shadows(&self) -> Result<Vec<Shadow>, Error> {
        let found = self
            .session
            .query(uri::NS_CIMV2, &format!("SELECT * FROM {CLASS}"))
            .await?;
        Ok(found.iter().filter_map(read).collect())
    }

    /// Returns a shadow copy; `None` where it is gone.
    pub async fn shadow(&self, id: &str) -> Result<Option<Shadow>, Error> {
        let wql = format!("SELECT * FROM {CLASS} WHERE ID = {}", wql_literal(id));
        let found = self.session.query(uri::NS_CIMV2, &wql).await?;
        Ok(found.iter().find_map(read))
    }

    /// Makes a shadow copy of a volume.
    ///
    /// `before` are the ids of all shadow copies just before the first attempt: where the answer is lost, the one of this
    /// volume that is new since then is the result. A volume that is in use, or another shadow copy under way, is waited
    /// for within [`super::Limits::settle`].
    pub async fn create_shadow(
        &self,
        volume: &VolumeFacts,
        before: &[String],
    ) -> Result<Shadow, Error> {
        let start = Instant::now();
        let mut pause = self.limits.first_poll;
        loop {
            let refusal = match self.try_create_shadow(volume, before).await {
                Err(Error::Shadow { refusal, .. }) if refusal.passes() => refusal,
                result => return result,
            };
            if start.elapsed() > self.limits.settle || self.cancel.is_cancelled() {
                return Err(refused(volume, refusal));
            }
            tracing::info!(
                "waiting to make a shadow copy of {}: {refusal}",
                volume.path
            );
            self.pause(&mut pause, true).await;
        }
    }

    async fn try_create_shadow(
        &self,
        volume: &VolumeFacts,
        before: &[String],
    ) -> Result<Shadow, Error> {
        let parameters = Properties::new()
            .with("Volume", mount_path(volume))
            .with("Context", CONTEXT);
        // A static method: it is called on the class.
        let class = Epr::new(uri::NS_CIMV2, CLASS);
        let outputs = match self.session.invoke(&class, "Create", parameters).await {
            Ok(outputs) => outputs,
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                return self.look_for_shadow(volume, before, error).await;
            }
            Err(error) => return Err(error),
        };
        let nonsense = |what: &str| Error::Nonsense {
            doing: format!("{CLASS}.Create of {}", volume.path),
            what: what.to_owned(),
        };
        match outputs.u32("ReturnValue") {
            Some(0) => {}
            Some(code) => return Err(refused(volume, ShadowRefusal::of(code))),
            None => return Err(nonsense("it has no return value")),
        }
        let id = outputs
            .text("ShadowID")
            .filter(|id| !id.is_empty())
            .ok_or_else(|| nonsense("it names no shadow copy"))?;
        let shadow = self.shadow(id).await?;
        shadow.ok_or_else(|| nonsense("the shadow copy it names is not there"))
    }

    /// Looks for the effect of a Create whose answer was lost.
    async fn look_for_shadow(
        &self,
        volume: &VolumeFacts,
        before: &[String],
        lost: Error,
    ) -> Result<Shadow, Error> {
        tracing::warn!("looking for the shadow copy, as the result is unknown: {lost}");
        let limit = LOOK_FOR.min(self.limits.settle);
        let start = Instant::now();
        let mut pause = self.limits.first_poll;
        loop {
            match self.shadows().await {
                Ok(all) => match new_of_volume(&all, &volume.device_id, before).as_slice() {
                    [] => {}
                    [only] => return Ok(Shadow::clone(only)),
                    several => {
                        let ids: Vec<&str> =
                            several.iter().map(|shadow| shadow.id.as_str()).collect();
                        return Err(Error::Refused {
                            what: format!(
                                "the answer to making a shadow copy of {} was lost, and several are new on the volume: \
                                 {}; which is ours cannot be told, so all are left there",
                                volume.path,
                                ids.join(", ")
                            ),
                        });
                    }
                },
                Err(error)
                    if matches!(error.kind(), ErrorKind::Retry | ErrorKind::ResultUnknown) => {}
                Err(error) => return Err(error),
            }
            if start.elapsed() > limit || self.cancel.is_cancelled() {
                return Err(lost);
            }
            self.pause(&mut pause, true).await;
        }
    }

    /// Deletes a shadow copy; one that is gone is no error.
    pub async fn delete_shadow(&self, id: &str) -> Result<(), Error> {
        let shadow = Epr::new(uri::NS_CIMV2, CLASS).with("ID", id);
        match self.session.delete(&shadow).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            // It takes the host a while; whether it is gone is what counts.
            Err(error) if error.kind() == ErrorKind::ResultUnknown => {
                let limit = LOOK_FOR.min(self.limits.settle);
                let start = Instant::now();
                let mut pause = self.limits.first_poll;
                while self.shadow(id).await?.is_some() {
                    if start.elapsed() > limit {
                        return Err(error);
                    }
                    self.pause(&mut pause, false).await;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the shadow copies of a volume (its `\\?\Volume{GUID}\`) whose ids are not among `before`.
#[must_use]
pub fn new_of_volume<'s>(all: &'s [Shadow], volume: &str, before: &[String]) -> Vec<&'s Shadow> {
    let same_volume = |shadow: &&Shadow| {
        let key = |text: &str| text.trim_end_matches('\\').to_lowercase();
        key(&shadow.volume) == key(volume)
    };
    all.iter()
        .filter(same_volume)
        .filter(|shadow| !before.iter().any(|id| id.eq_ignore_ascii_case(&shadow.id)))
        .collect()
}

/// How the method wants the volume named: a mount path that ends in a backslash.
fn mount_path(volume: &VolumeFacts) -> String {
    format!("{}\\", volume.path.trim_end_matches('\\'))
}

fn refused(volume: &VolumeFacts, refusal: ShadowRefusal) -> Error {
    Error::Shadow {
        volume: volume.path.clone(),
        refusal,
    }
}

fn read(shadow: &Instance) -> Option<Shadow> {
    let text = |name: &str| shadow.text(name).unwrap_or_default().to_owned();
    let created = shadow.time("InstallDate").and_then(|time| time.moment());
    Some(Shadow {
        id: shadow.text("ID")?.to_owned(),
        device: text("DeviceObject").trim_end_matches('\\').to_owned(),
        volume: text("VolumeName"),
        created: created.map(|moment| Timestamp::from_millis(moment.unix_millis())),
        state: shadow.u32("State"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_return_code_has_a_name_of_its_own_and_says_what_to_do() {
        let mut texts = Vec::new();
        for code in 1..=14 {
            let refusal = ShadowRefusal::of(code);
            assert_eq!(refusal.code(), code);
            assert!(refusal.hint().len() > 20, "{refusal}");
            texts.push(refusal.to_string());
        }
        texts.dedup();
        assert_eq!(texts.len(), 14);
    }

    #[test]
    fn only_what_is_new_on_the_volume_can_be_ours() {
        let shadow = |id: &str, volume: &str| Shadow {
            id: id.into(),
            device: String::new(),
            volume: volume.into(),
            created: None,
            state: None,
        };
        let all = [
            shadow("{A}", r"\\?\Volume{1}\"),
            shadow("{B}", r"\\?\Volume{1}\"),
            shadow("{C}", r"\\?\volume{2}"),
        ];
        let new = |volume: &str, before: &[&str]| -> Vec<String> {
            let before: Vec<String> = before.iter().map(|&id| id.into()).collect();
            new_of_volume(&all, volume, &before)
                .into_iter()
                .map(|shadow| shadow.id.clone())
                .collect()
        };
        assert_eq!(new(r"\\?\Volume{1}\", &["{a}"]), ["{B}"]);
        assert_eq!(new(r"\\?\Volume{2}\", &["{a}"]), ["{C}"]);
        assert_eq!(new(r"\\?\Volume{1}\", &[]), ["{A}", "{B}"]);
        assert!(new(r"\\?\Volume{2}\", &["{C}"]).is_empty());
    }
}
