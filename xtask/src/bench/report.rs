//! Figures as people and programs read them.

use std::fmt::Write as _;

use super::measure::Usage;

/// What a figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// At most so many times the processor time of the peer.
    CpuRatio(f64),
    /// At most so many times the wall time of the peer.
    WallRatio(f64),
    /// At most so many seconds, and so many KiB of memory.
    Limits { secs: f64, peak_kib: u64 },
    /// Shown only.
    None,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) what: String,
    /// Our program's use.
    pub(crate) ours: Usage,
    /// The peer, and its use.
    pub(crate) peer: Option<(String, Usage)>,
    /// What must hold.
    pub(crate) target: Target,
}

impl Figure {
    /// Returns our processor time as a multiple of the peer's.
    fn ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        // A tick of 10 ms: less cannot be told from nothing.
        Some(self.ours.cpu_secs / peer.cpu_secs.max(0.01))
    }

    /// Returns our wall time as a multiple of the peer's.
    fn wall_ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        Some(self.ours.wall_secs / peer.wall_secs.max(0.01))
    }

    /// Returns whether the target is met, if there is one.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.target {
            Target::CpuRatio(most) => self.ratio().map(|ratio| ratio <= most),
            Target::WallRatio(most) => self.wall_ratio().map(|ratio| ratio <= most),
            Target::Limits { secs, peak_kib } => {
                Some(self.ours.wall_secs <= secs && self.ours.peak_kib <= peak_kib)
            }
            Target::None => None,
        }
    }

    fn target(&self) -> String {
        match self.target {
            Target::CpuRatio(most) => format!("CPU ≤ {most} ×"),
            Target::WallRatio(most) => format!("wall ≤ {most} ×"),
            Target::Limits { secs, peak_kib } => {
                format!("≤ {secs} s, ≤ {} MiB", peak_kib >> 10)
            }
            Target::None => "–".to_owned(),
        }
    }
}

/// Returns the figures as a table of Markdown.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut table = "\
| What | CPU s | Wall s | Peak MiB | Peer | CPU s | Wall s | Peak MiB | CPU ratio | Wall ratio | Target | Met |
|---|--:|--:|--:|---|--:|--:|--:|--:|--:|---|---|
"
    .to_owned();
    for figure in figures {
        let (peer, theirs) = match &figure.peer {
            Some((name, usage)) => (name.as_str(), cells(usage)),
            None => ("–", "– | – | –".to_owned()),
        };
        let shown = |ratio: Option<f64>| {
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        let (ratio, wall_ratio) = (shown(figure.ratio()), shown(figure.wall_ratio()));
        let met = match figure.met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} | {peer} | {theirs} | {ratio} | {wall_ratio} | {} | {met} |",
            figure.what,
            cells(&figure.ours),
            figure.target()
        );
    }
    table
}

fn cells(usage: &Usage) -> String {
    format!(
        "{:.2} | {:.2} | {:.1}",
        usage.cpu_secs,
        usage.wall_secs,
        mib(usage.peak_kib)
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "shown with one digit after the point"
)]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Returns the figures as JSON.
pub(crate) fn json(facts: &[(String, String)], figures: &[Figure]) -> String {
    let usage = |usage: &Usage| {
        serde_json::json!({
            "cpu_secs": usage.cpu_secs,
            "wall_secs": usage.wall_secs,
            "peak_kib": usage.peak_kib,
        })
    };
    let figures: Vec<_> = figures
        .iter()
        .map(|figure| {
            serde_json::json!({
                "what": figure.what,
                "ours": usage(&figure.ours),
                "peer": figure.peer.as_ref().map(|(name, _)| name),
                "theirs": figure.peer.as_ref().map(|(_, theirs)| usage(theirs)),
                "cpu_ratio": figure.ratio(),
                "wall_ratio": figure.wall_ratio(),
                "target": figure.target(),
                "met": figure.met(),
            })
        })
        .collect();
    let facts: serde_json::Map<_, _> = facts
        .iter()
        .map(|(name, fact)| (name.clone(), fact.clone().into()))
        .collect();
    format!(
        "{:#}",
        serde_json::json!({ "machine": facts, "figures": figures })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(ours: f64, theirs: f64, target: Target) -> Figure {
        let usage = |cpu_secs| Usage {
            cpu_secs,
            wall_secs: cpu_secs,
            peak_kib: 2048,
            printed: String::new(),
        };
        Figure {
            what: "read".to_owned(),
            ours: usage(ours),
            peer: Some(("cp".to_owned(), usage(theirs))),
            target,
        }
    }

    #[test]
    fn a_target_is_met_or_not() {
        assert_eq!(figure(3.0, 2.0, Target::CpuRatio(1.5)).met(), Some(true));
        assert_eq!(figure(3.1, 2.0, Target::CpuRatio(1.5)).met(), Some(false));
        assert_eq!(figure(3.1, 2.0, Target::None).met(), None);
        let limits = |peak_kib| Target::Limits {
            secs: 1.0,
            peak_kib,
        };
        assert_eq!(figure(0.5, 1.0, limits(2048)).met(), Some(true));
        assert_eq!(figure(0.5, 1.0, limits(2047)).met(), Some(false));
    }

    #[test]
    fn a_line_shows_both_sides() {
        let table = table(&[figure(3.0, 2.0, Target::CpuRatio(1.5))]);
        let line = table.lines().last().unwrap();
        assert_eq!(
            line,
            "| read | 3.00 | 3.00 | 2.0 | cp | 2.00 | 2.00 | 2.0 | 1.50 | 1.50 | CPU ≤ 1.5 × | yes |"
        );
    }
}
