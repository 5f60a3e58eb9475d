//! Bytes that should be zero and that nothing reads.

use crate::backing::Backing;
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::format::header::HEADER_AT;
use crate::format::region::{Region, TABLE_AT, TABLE_BYTES};
use crate::format::{FILE_SIGNATURE, HEADER_AREA, KIB, PAGE, PAGE_BYTES, index};
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
    for (start, end) in gaps {
        let gap = &area[index(start)..index(end)];
        if let Some(odd) = first_odd(gap) {
            return findings.report(Rule::HeaderAreaReserved, start + odd as u64, gap[odd]);
        }
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
        if let Some(odd) = first_odd(part) {
            let found = part[odd];
            return findings.report(Rule::BatPadding, at + odd as u64, found);
        }
        at += part.len() as u64;
    }
    Ok(())
}

/// Returns where the first byte is that is not zero.
fn first_odd(bytes: &[u8]) -> Option<usize> {
    // Pages at a time: comparing them is fast.
    let zeros = [0; PAGE_BYTES];
    let page = bytes
        .chunks(PAGE_BYTES)
        .position(|page| *page != zeros[..page.len()])?;
    let start = page * PAGE_BYTES;
    let within = bytes[start..].iter().position(|byte| *byte != 0)?;
    Some(start + within)
}
