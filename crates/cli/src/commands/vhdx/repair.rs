//! `reprise vhdx repair`: a file back in the state a clean close leaves.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use vhdx::{CheckReport, Durability, Kind, Severity};

use super::files::{in_file, open_locked};
use super::progress::Ctx;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::View;

/// Arguments of `vhdx repair`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  reprise vhdx repair disk.vhdx\n\nReplays the log of a file that was not closed cleanly, and makes both headers and both region tables good. What the disk reads as stays the same. It never guesses: a file with an error (see `check`) is refused and not touched."
)]
pub(super) struct RepairArgs {
    /// VHDX or AVHDX file; its parents are not needed
    file: PathBuf,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Repaired {
    path: PathBuf,
    changed: bool,
    replayed_entries: u64,
    renewed_headers: bool,
    renewed_region_table: bool,
    warnings_before: u64,
    warnings_after: u64,
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &RepairArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let report = vhdx::repair(open_locked(path)?, Durability::PowerLoss).map_err(|error| {
        let beyond_repair = error.kind() == Kind::Corrupt;
        let mut failure = in_file(path, error);
        if beyond_repair {
            failure.message = format!("{}; this cannot be repaired", failure.message);
        }
        failure
    })?;
    let warnings = |report: &CheckReport| report.count_of(Severity::Warning);
    let done = Repaired {
        path: path.clone(),
        changed: report.changed(),
        replayed_entries: report.replayed_entries,
        renewed_headers: report.renewed_headers,
        renewed_region_table: report.renewed_region_table,
        warnings_before: warnings(&report.before),
        warnings_after: warnings(&report.after),
    };
    ctx.out.show(&done, Repaired::view)?;
    if done.warnings_after > 0 {
        ctx.out.note(&format!(
            "warnings are left: `reprise vhdx check {}` lists them",
            path.display()
        ));
    }
    Ok(Exit::Ok)
}

impl Repaired {
    fn view(&self) -> View {
        let mut lines = Vec::new();
        if self.replayed_entries > 0 {
            lines.push(format!(
                "replayed {} entries of the log",
                self.replayed_entries
            ));
        }
        if self.renewed_headers {
            lines.push("wrote both headers anew".to_owned());
        }
        if self.renewed_region_table {
            lines.push("made one region table a copy of the other".to_owned());
        }
        if lines.is_empty() {
            lines.push("nothing to repair".to_owned());
        }
        View::Text(format!("{}: {}", self.path.display(), lines.join(", ")))
    }
}
