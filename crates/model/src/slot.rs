//! Slots: where a drive hangs in a VM.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Controller, ControllerKind, Drive};

/// A slot of a controller: `ide 0:1`, `scsi 0:12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// IDE or SCSI.
    pub kind: ControllerKind,
    /// Number of the controller.
    pub controller: u32,
    /// Place on it.
    pub slot: u32,
}

impl Slot {
    /// Returns where a drive of a configuration hangs.
    #[must_use]
    pub fn of(controller: &Controller, drive: &Drive) -> Self {
        Self {
            kind: controller.kind,
            controller: controller.number,
            slot: drive.slot,
        }
    }

    /// Slots of one controller of this kind.
    #[must_use]
    pub fn per_controller(kind: ControllerKind) -> u32 {
        match kind {
            ControllerKind::Ide => 2,
            ControllerKind::Scsi => 64,
        }
    }

    fn order(&self) -> (bool, u32, u32) {
        (
            self.kind == ControllerKind::Scsi,
            self.controller,
            self.slot,
        )
    }
}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ControllerKind::Ide => "ide",
            ControllerKind::Scsi => "scsi",
        };
        write!(f, "{kind} {}:{}", self.controller, self.slot)
    }
}

/// A text that should have been a slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no slot such as \"scsi 0:1\"")]
pub struct ParseSlotError {
    text: String,
}

impl FromStr for Slot {
    type Err = ParseSlotError;

    fn from_str(text: &str) -> Result<Self, ParseSlotError> {
        let parse = || {
            let (kind, numbers) = text.trim().split_once(' ')?;
            let (controller, slot) = numbers.trim().split_once(':')?;
            let kind = match kind.to_ascii_lowercase().as_str() {
                "ide" => ControllerKind::Ide,
                "scsi" => ControllerKind::Scsi,
                _ => return None,
            };
            Some(Slot {
                kind,
                controller: controller.parse().ok()?,
                slot: slot.parse().ok()?,
            })
        };
        parse().ok_or_else(|| ParseSlotError {
            text: text.chars().take(80).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shown_and_read() {
        for text in ["ide 0:1", "scsi 2:63"] {
            assert_eq!(text.parse::<Slot>().unwrap().to_string(), text);
        }
        for wrong in ["", "scsi", "scsi 0", "nvme 0:0", "ide x:1"] {
            assert!(wrong.parse::<Slot>().is_err(), "{wrong}");
        }
    }
}
