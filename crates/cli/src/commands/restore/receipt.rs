//! `reprise restore receipt`: the signed proof of a restore.

use std::path::PathBuf;

use api::receipt::{Receipt, ReceiptFile};
use api_client::People;
use clap::Args;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, clean};
use crate::view::{View, bytes};

/// Arguments of `restore receipt`.
#[derive(Args, Debug)]
pub(super) struct ReceiptArgs {
    /// Id of the restore's job
    job: String,
    /// Write the receipt to this new file; `reprise verify-receipt FILE` checks it anywhere
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the verb.
pub(super) async fn run(out: Output, client: &People, args: ReceiptArgs) -> Result<Exit, Failure> {
    let path = format!("/jobs/{}/receipt", People::segment(&args.job));
    let file: ReceiptFile = client.get(&path).await?;
    if let Some(path) = &args.out {
        let mut text = serde_json::to_vec_pretty(&file)
            .map_err(|error| Failure::new("failed", format!("cannot write JSON: {error}")))?;
        text.push(b'\n');
        write_new(path, &text).map_err(|error| {
            let taken = error.kind() == std::io::ErrorKind::AlreadyExists;
            let code = if taken {
                api::codes::CONFLICT
            } else {
                "failed"
            };
            Failure::new(code, format!("cannot write {}: {error}", path.display()))
        })?;
        out.note(&format!("the receipt is in {}", path.display()));
    }
    let unreadable = |error: api::receipt::ReceiptError| {
        Failure::new(
            "failed",
            format!("the server sent a receipt this program cannot read: {error}"),
        )
    };
    let parts = file.parts().map_err(unreadable)?;
    let receipt = Receipt::parse(&parts.payload).map_err(unreadable)?;
    out.show(&file, |_| View::Text(text(&receipt)))?;
    Ok(Exit::Ok)
}

fn write_new(path: &std::path::Path, text: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Returns a receipt for people.
pub(crate) fn text(receipt: &Receipt) -> String {
    let (point, plan) = (&receipt.point, &receipt.plan);
    let mut lines = vec![
        format!(
            "Restore of {} from recovery point {} ({}) to host {}: {}",
            point.vm.name, point.id, point.created, receipt.host.name, receipt.result
        ),
        format!(
            "asked for by {} at {}, ended {}, job {}",
            receipt.requested_by, receipt.asked, receipt.ended, receipt.job
        ),
        format!(
            "plan {} with {} effects",
            plan.fingerprint,
            plan.effects.len()
        ),
    ];
    if let Some(vm) = &receipt.vm {
        lines.push(format!("VM {} ({})", vm.name, vm.id));
        lines.extend(
            vm.disks
                .iter()
                .map(|disk| format!("  {}  {}", disk.slot, disk.path)),
        );
    }
    for disk in &receipt.disks {
        lines.push(format!(
            "disk {} ({}, id {})",
            disk.path,
            bytes(disk.size_bytes),
            disk.virtual_disk_id
        ));
        lines.push(format!(
            "  digest {}, {}",
            disk.digest.as_deref().unwrap_or("of parts only"),
            disk.read_back.text()
        ));
        let zeroed = disk.zeroed.iter();
        lines.extend(zeroed.map(|range| {
            format!(
                "  ZEROS at {} ({} bytes): damaged in the vault",
                range.offset, range.len
            )
        }));
    }
    lines.extend(
        receipt
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    lines
        .iter()
        .map(|line| format!("{}\n", clean(line)))
        .collect()
}
