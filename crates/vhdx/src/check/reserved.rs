//! Bytes that should be zero and that nothing reads.

use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::format::header::HEADER_AT;
use crate::format::region::{Region, TABLE_AT, TABLE_BYTES};
use crate::format::{FILE_SIGNATURE, HEADER_AREA, KIB, MIB, PAGE, index};
use crate::io::ReadAt;

/// Bytes read at a time.
const PART_BYTES: u64 = 256 * KIB;

/// The creator, behind the signature: 256 characters (2.2.1).
const CREATOR_BYTES: u64 = 512;

/// Looks at what lies between identifier, headers and region tables, and behind them (2.2).
pub(super) fn header_area(file: &dyn ReadAt, findings: &mut Findings) -> Result<(), Error> {
    let mut area = vec![0; index(HEADER_AREA)];
    file.read_exact_at(&mut area, 0)
        .map_err(|source| Error::Read {
            what: "the header area",
            at: 0,
            source,
        })?;
    let gaps = [
        (FILE_SIGNATURE.len() as u64 + CREATOR_BYTES, HEADER_AT[0]),
        (HEADER_AT[0] + PAGE, HEADER_AT[1]),
        (HEADER_AT[1] + PAGE, TABLE_AT[0]),
        (TABLE_AT[1] + TABLE_BYTES, HEADER_AREA),
    ];
    let mut reserved = gaps.into_iter().flat_map(|(start, end)| start..end);
    if let Some(at) = reserved.find(|at| area[index(*at)] != 0) {
        findings.report(Rule::HeaderAreaReserved, at, area[index(at)])?;
    }
    Ok(())
}

/// Looks at the rest of the block table's region, behind the `used` bytes that have a meaning (2.5).
pub(super) fn table_end(
    file: &Backing,
    region: Region,
    used: u64,
    findings: &mut Findings,
) -> Result<(), Error> {
    let mut at = region.offset + used;
    let mut buf = vec![0; index(PART_BYTES)];
    while at < region.end() {
        let part = &mut buf[..index(PART_BYTES.min(region.end() - at))];
        file.read(part, at, "the block table")?;
        if let Some(odd) = part.iter().position(|byte| *byte != 0) {
            let found = part[odd];
            return findings.report(Rule::BatPadding, at + odd as u64, found);
        }
        at += part.len() as u64;
    }
    debug_assert!(region.length.is_multiple_of(MIB));
    Ok(())
}
