//! What a plan comes to, as lines that can be compared: a plan that was agreed to is carried out only while it is the same.
//!
//! Free space, times and speeds are no effects. A shortage of space is a refusal.

use std::fmt;

use super::{CheckpointOutcome, RestorePlan};

/// First word of every fingerprint: what it is made of.
const VERSION: &str = "1";

/// A hash over the effects of a plan; equal for equal effects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Returns it as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RestorePlan {
    /// Returns everything it comes to, a line each.
    #[must_use]
    pub fn effects(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "Restore recovery point {} to host {}.",
            self.point, self.host
        )];
        lines.extend(self.steps.iter().map(ToString::to_string));
        if let Some(identities) = &self.identities {
            let after = &identities.after;
            lines.extend(after.adapters.iter().map(ToString::to_string));
            lines.extend(identities.collisions.iter().map(ToString::to_string));
        }
        if self.checkpoints.outcome != CheckpointOutcome::None {
            lines.push(format!(
                "{} checkpoints: {}",
                self.checkpoints.names.len(),
                self.checkpoints.outcome.as_str()
            ));
        }
        let warnings = self.warnings.iter();
        lines.extend(warnings.map(|warning| format!("warning: {warning}")));
        lines
    }

    /// Returns the hash of its effects.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("reprise 2026 restore plan effects");
        for line in self.effects() {
            // Lengths keep lines apart.
            let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
            hasher.update(&length.to_le_bytes());
            hasher.update(line.as_bytes());
        }
        let hash = hex::encode(&hasher.finalize().as_bytes()[..16]);
        Fingerprint(format!("{VERSION}-{hash}"))
    }
}

/// Returns what a plan that was agreed to and the plan of now do not share, a line each.
#[must_use]
pub fn differences(agreed: &[String], now: &[String]) -> Vec<String> {
    let only = |these: &[String], those: &[String], word: &str| -> Vec<String> {
        these
            .iter()
            .filter(|line| !those.contains(line))
            .map(|line| format!("{word}: {line}"))
            .collect()
    };
    let mut lines = only(agreed, now, "planned");
    lines.extend(only(now, agreed, "now"));
    lines
}
