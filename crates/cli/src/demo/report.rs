//! What the demo tells: a line for each step as it ends, and the verdict.

use std::time::Instant;

use api::v1::Job;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Output;
use crate::view::{bytes, seconds};

/// The report of one run.
#[derive(Debug)]
pub(crate) struct Report {
    out: Output,
    begun: Instant,
    step: Instant,
    number: usize,
    comparisons: usize,
    differences: Vec<String>,
}

impl Report {
    /// Starts the clock.
    pub(crate) fn new(out: Output) -> Self {
        let now = Instant::now();
        Self {
            out,
            begun: now,
            step: now,
            number: 0,
            comparisons: 0,
            differences: Vec::new(),
        }
    }

    /// Reports a step that has just ended; `figures` go into the JSON.
    pub(crate) fn step(&mut self, what: &str, detail: &str, figures: Value) -> Result<(), Failure> {
        let took = self.step.elapsed();
        self.step = Instant::now();
        self.number += 1;
        if self.out.is_json() {
            return self.out.json_line(&json!({
                "step": self.number,
                "what": what,
                "detail": detail,
                "seconds": round(took.as_secs_f64()),
                "figures": figures,
            }));
        }
        let line = format!(
            "{:2}  {what:<34} {:>7}  {detail}\n",
            self.number,
            seconds(took)
        );
        self.out.data(line.as_bytes())
    }

    /// Reports a job of the server with what it moved.
    pub(crate) fn job(&mut self, what: &str, job: &Job, more: &str) -> Result<(), Failure> {
        let figures = &job.figures;
        let detail = format!(
            "read {}, sent {}, stored {}{more}",
            bytes(figures.bytes_read),
            bytes(figures.bytes_sent),
            bytes(figures.bytes_stored)
        );
        self.step(
            what,
            &detail,
            json!({
                "job": job.id,
                "state": job.state,
                "point": job.point,
                "bytes_read": figures.bytes_read,
                "bytes_sent": figures.bytes_sent,
                "bytes_stored": figures.bytes_stored,
                "bytes_reused": figures.bytes_reused,
            }),
        )
    }

    /// Notes a comparison: what was compared, and how it differs where it does.
    pub(crate) fn compared(&mut self, what: &str, difference: Option<String>) {
        self.comparisons += 1;
        if let Some(difference) = difference {
            self.differences.push(format!("{what}: {difference}"));
        }
    }

    /// Prints the verdict. Returns whether everything was equal.
    pub(crate) fn verdict(&self, kept: Option<&Value>) -> Result<bool, Failure> {
        let equal = self.differences.is_empty() && self.comparisons > 0;
        let took = self.begun.elapsed();
        if self.out.is_json() {
            self.out.json_line(&json!({
                "verdict": if equal { "equal" } else { "different" },
                "comparisons": self.comparisons,
                "differences": self.differences,
                "seconds": round(took.as_secs_f64()),
                "kept": kept,
            }))?;
            return Ok(equal);
        }
        let mut text = String::new();
        if equal {
            text.push_str(&format!(
                "\nEQUAL: all {} comparisons of restored content with what the host had at backup time agree ({}).\n",
                self.comparisons,
                seconds(took)
            ));
        } else {
            text.push_str(&format!(
                "\nDIFFERENT: of {} comparisons these failed:\n",
                self.comparisons
            ));
            for difference in &self.differences {
                text.push_str(&format!("  {difference}\n"));
            }
        }
        if let Some(kept) = kept {
            text.push_str(&kept_text(kept));
        }
        self.out.data(text.as_bytes())?;
        Ok(equal)
    }
}

fn kept_text(kept: &Value) -> String {
    let text = |name: &str| kept[name].as_str().unwrap_or("?").to_owned();
    let processes: Vec<String> = kept["processes"]
        .as_object()
        .map(|processes| processes.values().map(Value::to_string).collect())
        .unwrap_or_default();
    format!(
        "\nAll is left running in {folder}. Look at it:\n  \
           export REPRISE_PROFILE={profile}\n  \
           reprise status\n  \
           reprise point list\n  \
           reprise job list\n  \
           reprise sim ctl vm list --dir {host}\n\
         The API is at {server}; user {user}, password {password}, CA {ca}.\n\
         End it:\n  \
           kill {pids}; rm -r {folder}\n",
        folder = text("folder"),
        profile = text("profile"),
        host = text("host_dir"),
        server = text("server"),
        user = text("user"),
        password = text("password"),
        ca = text("ca_file"),
        pids = processes.join(" "),
    )
}

fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
