//! `reprise vhdx check`: everything that is wrong with a file, and with its parents. Never writes.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vhdx::{CheckReport, Finding, Rule, Severity};

use super::files::{in_file, open};
use super::format;
use super::parents::ParentArgs;
use super::progress::Ctx;
use crate::exit::{End, Exit, exit_of};
use crate::failure::Failure;
use crate::view::{Rows, View};

/// Arguments of `vhdx check`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  reprise vhdx check disk.vhdx\n  reprise vhdx check disk_2.avhdx --json\n\nEnds with 0 if there are no errors (warnings and notes are no errors), 7 if there are, 1 if the file is no virtual disk. A file with an error is refused by every other verb. Check never writes."
)]
pub(super) struct CheckArgs {
    /// Disk file: VHDX, AVHDX or VHD; its parents are checked too
    file: PathBuf,
    /// Check this file alone, not its parents
    #[arg(long, conflicts_with = "given")]
    own: bool,
    #[command(flatten)]
    parents: ParentArgs,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Checked {
    path: PathBuf,
    errors: u64,
    warnings: u64,
    notes: u64,
    findings: Vec<Found>,
    /// Findings that are counted but not listed, as there are too many of one kind.
    not_listed: u64,
    files: Vec<Counted>,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Found {
    path: PathBuf,
    code: &'static str,
    severity: String,
    /// In the file; nothing where it concerns the file as a whole.
    offset: Option<u64>,
    found: Option<u64>,
    section: &'static str,
    message: String,
    hint: &'static str,
}

/// What was counted in one file.
#[derive(Debug, Serialize)]
struct Counted {
    path: PathBuf,
    /// Where the metadata could be read.
    format: Option<&'static str>,
    file_bytes: u64,
    allocated_bytes: u64,
    leaked_bytes: u64,
    log_entries: u64,
    blocks: BlockCounts,
    bitmap_blocks: u64,
}

/// Blocks by state.
#[derive(Debug, Serialize)]
struct BlockCounts {
    not_present: u64,
    undefined: u64,
    zero: u64,
    unmapped: u64,
    fully_present: u64,
    partially_present: u64,
}

/// Runs the verb.
pub(super) fn run(ctx: &Ctx, args: &CheckArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let mut checked = Checked {
        path: path.clone(),
        errors: 0,
        warnings: 0,
        notes: 0,
        findings: Vec::new(),
        not_listed: 0,
        files: Vec::new(),
    };
    if args.own {
        let report = vhdx::check(open(path)?).map_err(|error| in_file(path, error))?;
        checked.add(path, &report);
    } else {
        for (file, found) in args.parents.check(path)? {
            checked.add(&file, &found.report);
            checked.add_link(&file, &found.link, &found.parent_candidates);
        }
    }
    ctx.out.show(&checked, Checked::view)?;
    if !ctx.out.is_json() {
        ctx.out.note(&checked.summary());
    }
    if checked.errors > 0 {
        return Ok(exit_of(End::Code(api::codes::DAMAGED)));
    }
    Ok(Exit::Ok)
}

impl Checked {
    fn add(&mut self, path: &Path, report: &CheckReport) {
        self.errors += report.count_of(Severity::Error);
        self.warnings += report.count_of(Severity::Warning);
        self.notes += report.count_of(Severity::Note);
        let all: u64 = report.totals.iter().map(|(_, count)| count).sum();
        self.not_listed += all.saturating_sub(report.findings.len() as u64);
        for finding in &report.findings {
            let message = finding.rule.to_string();
            self.findings.push(Found {
                offset: Some(finding.at),
                found: Some(finding.found),
                ..Found::new(path, finding, message)
            });
        }
        let figures = &report.figures;
        let blocks = &figures.blocks;
        self.files.push(Counted {
            path: path.to_owned(),
            format: report.info.as_ref().map(|info| format(info.format)),
            file_bytes: figures.file_bytes,
            allocated_bytes: figures.allocated_bytes,
            leaked_bytes: figures.leaked_bytes,
            log_entries: figures.log_entries,
            blocks: BlockCounts {
                not_present: blocks.not_present,
                undefined: blocks.undefined,
                zero: blocks.zero,
                unmapped: blocks.unmapped,
                fully_present: blocks.fully_present,
                partially_present: blocks.partially_present,
            },
            bitmap_blocks: figures.bitmap_blocks,
        });
    }

    /// Adds what is wrong between a file and its parent.
    fn add_link(&mut self, path: &Path, link: &[Finding], candidates: &[PathBuf]) {
        for finding in link {
            match finding.severity {
                Severity::Error => self.errors += 1,
                Severity::Warning => self.warnings += 1,
                Severity::Note => self.notes += 1,
            }
            let mut message = finding.rule.to_string();
            if finding.rule == Rule::ParentMissing && !candidates.is_empty() {
                let tried: Vec<String> = candidates
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                message = format!("{message} (looked for {})", tried.join(", "));
            }
            self.findings.push(Found::new(path, finding, message));
        }
    }

    fn view(&self) -> View {
        let several = self.files.len() > 1;
        let mut rows = Rows::new(
            ["SEVERITY", "CODE", "SECTION", "OFFSET", "WHAT"],
            "nothing found",
        );
        for finding in &self.findings {
            let message = if several {
                format!("{}: {}", finding.path.display(), finding.message)
            } else {
                finding.message.clone()
            };
            rows.row([
                finding.severity.clone(),
                finding.code.to_owned(),
                finding.section.to_owned(),
                finding
                    .offset
                    .map_or_else(|| "-".to_owned(), |offset| format!("{offset:#x}")),
                message,
            ]);
        }
        View::Table(rows)
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "{}: errors {}, warnings {}, notes {}",
            self.path.display(),
            self.errors,
            self.warnings,
            self.notes
        );
        if self.not_listed > 0 {
            text.push_str(&format!("; {} of them not listed", self.not_listed));
        }
        text
    }
}

impl Found {
    fn new(path: &Path, finding: &Finding, message: String) -> Self {
        Self {
            path: path.to_owned(),
            code: finding.rule.code(),
            severity: finding.severity.to_string(),
            offset: None,
            found: None,
            section: finding.rule.section(),
            message,
            hint: finding.rule.advice(),
        }
    }
}
