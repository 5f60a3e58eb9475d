//! `reprise verify-receipt`: whether a receipt was signed by whom it says, and whether disks are still what it proves.
//!
//! Works on any machine, without a server. A signature by itself proves that nobody changed the receipt; whose key it is
//! can only be told by a key, or a CA, that is known from elsewhere (`--key`).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use api::receipt::{DiskEvidence, Receipt, ReceiptFile};
use clap::Args;
use pipeline::{ImageSource, Options, PlainFile, image_digest};
use serde::Serialize;
use vhdx::ReadAt;

use super::receipt_trust::{Trust, check_signature, trust};
use super::{restore, vhdx as vhdx_verbs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, clean};
use crate::view::View;

/// Stable code of what is not as the receipt says.
const MISMATCH: &str = "content-mismatch";

/// Arguments of `verify-receipt`.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 0 all is as the receipt says, 7 it is not\n\nExamples:\n  \
    reprise verify-receipt receipt.json --key ca.pem\n  \
    reprise verify-receipt receipt.json --key 3f1c...e2 --disk disk0.vhdx --disk disk1.vhdx"
)]
pub(crate) struct VerifyReceiptArgs {
    /// The receipt, as `reprise restore receipt JOB --out FILE` wrote it
    file: PathBuf,
    /// A disk to compare with what the receipt proves: VHDX, AVHDX with its parents beside it, VHD or raw image; may be repeated
    #[arg(long = "disk", value_name = "PATH")]
    disks: Vec<PathBuf>,
    /// Whom to trust: fingerprint of the receipt's key or of the server's CA, or a file with a certificate of either
    #[arg(long, value_name = "FINGERPRINT|FILE")]
    key: Option<String>,
}

/// What was found out.
#[derive(Debug, Serialize)]
struct Verdict {
    /// `good`; anything else is a failure.
    signature: &'static str,
    /// `key`, `ca`, or `unknown` where nobody said whom to trust.
    trusted: &'static str,
    /// SHA-256 of the public key.
    key: String,
    /// What was signed.
    receipt: Receipt,
    /// The disks that were given.
    disks: Vec<Compared>,
}

/// A disk that was compared.
#[derive(Debug, Serialize)]
struct Compared {
    /// The file.
    path: PathBuf,
    /// `equal` or `different`.
    verdict: &'static str,
    /// Its digest now.
    digest: String,
    /// Path on the host of the disk of the receipt that it is, or was.
    disk: Option<String>,
    /// For people.
    text: String,
}

/// Runs the verb.
pub(crate) async fn run(out: Output, args: VerifyReceiptArgs) -> Result<Exit, Failure> {
    let checked = tokio::task::spawn_blocking(move || check(&args));
    let verdict = checked
        .await
        .map_err(|error| Failure::new("failed", format!("cannot check the receipt: {error}")))??;
    if verdict.trusted == "unknown" {
        out.note(&format!(
            "warning: nobody said whom to trust, and anyone can make a key. The receipt was signed with key {}: \
             compare that with what the server's administrator says, or give --key",
            verdict.key
        ));
    }
    out.show(&verdict, |verdict| View::Text(view(verdict)))?;
    match verdict.disks.iter().find(|disk| disk.verdict != "equal") {
        None => Ok(Exit::Ok),
        Some(disk) => Err(Failure::new(MISMATCH, disk.text.clone()).hint(
            "a disk of a VM that has run since the restore has changed, naturally; one that has not may be damaged",
        )),
    }
}

fn check(args: &VerifyReceiptArgs) -> Result<Verdict, Failure> {
    let shown = args.file.display();
    let bytes = std::fs::read(&args.file).map_err(|error| cannot_read(&args.file, &error))?;
    let refused = |error: &dyn std::error::Error| {
        Failure::usage(format!(
            "{shown} is no receipt that can be checked: {error}"
        ))
        .hint("`reprise restore receipt JOB --out FILE` writes one")
    };
    let file = ReceiptFile::parse(&bytes).map_err(|error| refused(&error))?;
    let parts = file.parts().map_err(|error| refused(&error))?;
    let fingerprint = check_signature(&parts)?;
    let trusted = match &args.key {
        Some(key) => match trust(&parts, key)? {
            Trust::Key => "key",
            Trust::Ca => "ca",
        },
        None => "unknown",
    };
    let receipt = Receipt::parse(&parts.payload).map_err(|error| refused(&error))?;
    let disks = args.disks.iter().map(|path| compare(path, &receipt));
    Ok(Verdict {
        signature: "good",
        trusted,
        key: fingerprint,
        disks: disks.collect::<Result<_, _>>()?,
        receipt,
    })
}

/// Computes the digest of a disk with all cores and looks which disk of the receipt it is.
fn compare(path: &Path, receipt: &Receipt) -> Result<Compared, Failure> {
    let digest_of = |source: &dyn ImageSource| {
        image_digest(source, &Options::default()).map_err(|error| {
            Failure::new(
                "failed",
                format!(
                    "cannot read {}: {:#}",
                    path.display(),
                    anyhow::Error::new(error)
                ),
            )
        })
    };
    let (digest, size, id) = match is_raw(path)? {
        true => {
            let file = File::open(path).and_then(PlainFile::new);
            let file = file.map_err(|error| cannot_read(path, &error))?;
            (digest_of(&file)?, ImageSource::len(&file), None)
        }
        false => {
            let disk = vhdx_verbs::chain(path)?.into_disk();
            (
                digest_of(&disk)?,
                disk.size(),
                Some(disk.disk_id().to_string()),
            )
        }
    };
    let digest = digest.to_string();
    let same =
        |disk: &&DiskEvidence| disk.digest.as_ref() == Some(&digest) && disk.size_bytes == size;
    let by_id = |disk: &&DiskEvidence| id.as_ref() == Some(&disk.virtual_disk_id);
    let equal = receipt.disks.iter().filter(same);
    let found = equal.clone().find(by_id).or_else(|| equal.clone().next());
    let shown = path.display();
    let (verdict, disk, text) = match found {
        Some(disk) => (
            "equal",
            Some(disk),
            format!("{shown} is {}, as it was read back then", disk.path),
        ),
        None => {
            let only = match receipt.disks.as_slice() {
                [only] => Some(only),
                _ => None,
            };
            let disk = receipt.disks.iter().find(by_id).or(only);
            let text = match disk {
                Some(disk) => format!(
                    "{shown} differs from {}: its digest is {digest}, the receipt says {}",
                    disk.path,
                    disk.digest.as_deref().unwrap_or("nothing")
                ),
                None => {
                    format!("{shown} is none of the disks of the receipt: its digest is {digest}")
                }
            };
            ("different", disk, text)
        }
    };
    Ok(Compared {
        path: path.to_owned(),
        verdict,
        digest,
        disk: disk.map(|disk| disk.path.clone()),
        text,
    })
}

/// Whether a file is a plain image: it has neither the mark of a VHDX nor that of a VHD.
fn is_raw(path: &Path) -> Result<bool, Failure> {
    let look = || -> io::Result<bool> {
        let file = File::open(path)?;
        let len = ReadAt::len(&file)?;
        let mut mark = [0; 8];
        if len >= 8 {
            file.read_exact_at(&mut mark, 0)?;
            if mark == *b"vhdxfile" || mark == *b"conectix" {
                return Ok(false);
            }
        }
        // The footer of a VHD; old ones are a byte shorter.
        for back in [512, 511] {
            if len >= back {
                file.read_exact_at(&mut mark, len - back)?;
                if mark == *b"conectix" {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    };
    look().map_err(|error| cannot_read(path, &error))
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let missing = error.kind() == io::ErrorKind::NotFound;
    let code = if missing {
        api::codes::NOT_FOUND
    } else {
        "failed"
    };
    Failure::new(code, format!("cannot read {}: {error}", path.display()))
}

fn view(verdict: &Verdict) -> String {
    let whose = match verdict.trusted {
        "key" => "by the key that is trusted",
        "ca" => "by a key that the trusted CA made for receipts",
        _ => "by a key that nobody has vouched for",
    };
    let mut text = format!("The signature is good, {whose}: {}\n\n", verdict.key);
    text.push_str(&restore::receipt_text(&verdict.receipt));
    for disk in &verdict.disks {
        text.push_str(&format!(
            "{}: {}\n",
            disk.verdict.to_uppercase(),
            clean(&disk.text)
        ));
    }
    text
}
