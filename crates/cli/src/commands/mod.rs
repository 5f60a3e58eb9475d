//! The verbs: one file per noun. Each parses its own arguments, asks the library or server, and hands the result to the
//! output.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod demo;
pub(crate) mod documents;
pub(crate) mod host;
pub(crate) mod job;
mod list;
pub(crate) mod login;
pub(crate) mod point;
pub(crate) mod policy;
mod receipt_trust;
pub(crate) mod restore;
pub(crate) mod server;
pub(crate) mod sim;
mod sim_ctl;
pub(crate) mod token;
pub(crate) mod user;
pub(crate) mod verify_receipt;
pub(crate) mod vhdx;
pub(crate) mod vm;

use crate::failure::Failure;
use crate::output::Output;

/// Says that something without a result of its own was done: `{}` in JSON, a remark for people.
fn done(out: Output, text: &str) -> Result<(), Failure> {
    if out.is_json() {
        return out.json_line(&serde_json::json!({}));
    }
    out.note(text);
    Ok(())
}

/// Returns a new key that makes a request which starts work take effect once, however often it is sent.
fn new_key() -> String {
    uuid::Uuid::new_v4().to_string()
}
