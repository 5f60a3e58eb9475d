//! Which ranges of a disk changed since an RCT id.

use model::{ByteRange, ChangedRanges, FullReason, GIB, MIB};
use wsman::{FaultClass, Properties, Value};

use super::{Host, objects};
use crate::error::code;
use crate::{Error, ErrorKind};

/// Bytes of disk per question: each range costs about 90 bytes of reply.
const WINDOW_BYTES: u64 = 16 * GIB;
/// Smallest question asked after replies that did not fit.
const SMALLEST_WINDOW_BYTES: u64 = MIB;
/// Ranges kept at most; a disk changed in more places is read whole.
const MAX_RANGES: usize = 4 << 20;

/// What the host's change tracker answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// These ranges may have changed, and nothing else has.
    Ranges(ChangedRanges),
    /// It cannot tell: the disk is to be read whole.
    Unknown {
        /// Why.
        reason: FullReason,
        /// The host's words.
        detail: String,
    },
}

impl Host {
    /// Asks which ranges of a frozen disk changed since an RCT id. `path` is the frozen file, `disk_bytes` the virtual
    /// size. A host that cannot tell is no error; one that cannot be reached is.
    pub async fn changed_ranges(
        &self,
        path: &str,
        rct_id: &str,
        disk_bytes: u64,
    ) -> Result<Changes, Error> {
        let tracker_failed = |detail: String| Changes::Unknown {
            reason: FullReason::TrackerFailed,
            detail,
        };
        let mut reported = Vec::new();
        let (mut offset, mut window) = (0, WINDOW_BYTES);
        while offset < disk_bytes {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled {
                    method: "GetVirtualDiskChanges".into(),
                });
            }
            // Never beyond the disk's end.
            let len = window.min(disk_bytes - offset);
            let outputs = match self.ask_changes(path, rct_id, offset, len).await {
                Ok(outputs) => outputs,
                Err(error) => {
                    if error.fault_class() == Some(FaultClass::EncodingLimit)
                        && window > SMALLEST_WINDOW_BYTES
                    {
                        window = (window.min(len) / 2).max(SMALLEST_WINDOW_BYTES);
                        continue;
                    }
                    return unknown(error);
                }
            };
            let processed = outputs.u64("ProcessedByteLength").unwrap_or(0);
            if processed == 0 || processed > len {
                let detail =
                    format!("at offset {offset} the host processed {processed} of {len} bytes");
                return Ok(tracker_failed(detail));
            }
            let offsets = outputs.u64s("ChangedByteOffsets");
            let lengths = outputs.u64s("ChangedByteLengths");
            let (Some(offsets), Some(lengths)) = (offsets, lengths) else {
                return Ok(tracker_failed(
                    "the host's list of ranges holds something else than numbers".into(),
                ));
            };
            if offsets.len() != lengths.len() {
                let detail = format!(
                    "the host gave {} offsets and {} lengths",
                    offsets.len(),
                    lengths.len()
                );
                return Ok(tracker_failed(detail));
            }
            reported.extend(
                offsets
                    .into_iter()
                    .zip(lengths)
                    .map(|(offset, len)| ByteRange { offset, len }),
            );
            if reported.len() > MAX_RANGES {
                return Ok(tracker_failed(format!(
                    "the host gave more than {MAX_RANGES} ranges"
                )));
            }
            offset += processed;
            // Crowded places of a disk are short; behind them the questions grow again.
            window = (window * 2).min(WINDOW_BYTES);
        }
        Ok(match ChangedRanges::new(reported, disk_bytes) {
            Ok(ranges) => Changes::Ranges(ranges),
            Err(error) => tracker_failed(error.to_string()),
        })
    }

    /// [U] TargetSnapshotId is meant for VHD sets; for VHDX files the documentation leaves open whether it is left out,
    /// NULL or empty. It is NULL here.
    async fn ask_changes(
        &self,
        path: &str,
        rct_id: &str,
        offset: u64,
        len: u64,
    ) -> Result<Properties, Error> {
        let service = self.service(objects::IMAGES).await?;
        let parameters = Properties::new()
            .with("Path", path)
            .with("LimitId", rct_id)
            .with("TargetSnapshotId", Value::Null)
            .with("ByteOffset", offset)
            .with("ByteLength", len);
        let method = "GetVirtualDiskChanges";
        let outputs = self
            .session
            .invoke_reading(&service, method, parameters)
            .await?;
        Ok(self
            .finish(format!("{}.{method}", objects::IMAGES), outputs)
            .await?
            .outputs)
    }
}

/// Failures of the tracker mean a full read of this disk; failures of the host or of the way to it are errors.
fn unknown(error: Error) -> Result<Changes, Error> {
    let reason = match (error.code(), error.kind()) {
        (Some(code::INVALID_PARAMETER), _) => FullReason::RctIdLost,
        (Some(_), _) => FullReason::TrackerFailed,
        (
            None,
            ErrorKind::Failed | ErrorKind::NotFound | ErrorKind::Refused | ErrorKind::Unsupported,
        ) => FullReason::TrackerFailed,
        (
            None,
            ErrorKind::Retry
            | ErrorKind::ResultUnknown
            | ErrorKind::AccessDenied
            | ErrorKind::WrongState
            | ErrorKind::InUse
            | ErrorKind::Timeout
            | ErrorKind::Cancelled
            | ErrorKind::Protocol,
        ) => return Err(error),
    };
    Ok(Changes::Unknown {
        reason,
        detail: error.to_string(),
    })
}
