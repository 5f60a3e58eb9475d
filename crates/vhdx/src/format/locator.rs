//! The parent locator (2.6.2.6): how a differencing disk names its parent.

use uuid::{Uuid, uuid};

use super::{guid_at, index, put, u16_at, u32_at};
use crate::error::{Error, Rule};
use crate::findings::Findings;
use crate::info::ParentLocator;
use crate::params::ParentLink;

const VHDX_PARENT: Uuid = uuid!("B04AEFB7-D19E-4A81-B789-25B8E9445913");
const HEADER_BYTES: usize = 20;
const ENTRY_BYTES: usize = 12;

/// Reads the item, which lies at `at` in the file.
pub(crate) fn parse(item: &[u8], at: u64, findings: &mut Findings) -> Result<ParentLocator, Error> {
    if item.len() < HEADER_BYTES {
        return Err(findings.fatal(Rule::LocatorFormat, at, item.len() as u64));
    }
    if guid_at(item, 0) != VHDX_PARENT {
        return Err(findings.fatal(Rule::LocatorType, at, u32_at(item, 0)));
    }
    let reserved = u16_at(item, 16);
    findings.report_if(reserved != 0, Rule::LocatorReserved, at + 16, reserved)?;
    let count = usize::from(u16_at(item, 18));
    if HEADER_BYTES + count * ENTRY_BYTES > item.len() {
        return Err(findings.fatal(Rule::LocatorFormat, at, count as u64));
    }
    let text = |offset: u32, length: u16| {
        let (offset, length) = (index(u64::from(offset)), usize::from(length));
        let bytes = item.get(offset..offset.checked_add(length)?)?;
        (offset > 0 && length > 0 && length.is_multiple_of(2)).then_some(bytes)
    };
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for number in 0..count {
        let entry_at = HEADER_BYTES + number * ENTRY_BYTES;
        let entry = &item[entry_at..][..ENTRY_BYTES];
        let entry_at = at + entry_at as u64;
        let key = text(u32_at(entry, 0), u16_at(entry, 8));
        let value = text(u32_at(entry, 4), u16_at(entry, 10));
        let (Some(key), Some(value)) = (key, value) else {
            findings.report(Rule::LocatorFormat, at, number as u64)?;
            continue;
        };
        // 65,535 entries may share the same bytes: only what is understood is decoded.
        let Some(key) = KEYS
            .into_iter()
            .find(|known| known.len() * 2 == key.len() && utf16(key) == *known)
        else {
            findings.report(Rule::LocatorKey, entry_at, number as u64)?;
            continue;
        };
        if pairs.iter().any(|(other, _)| *other == key) {
            findings.report(Rule::LocatorFormat, at, number as u64)?;
            continue;
        }
        let value = utf16(value);
        let torn = value.contains(char::REPLACEMENT_CHARACTER);
        findings.report_if(torn, Rule::LocatorText, entry_at, number as u64)?;
        pairs.push((key, value));
    }
    let mut take = |wanted: &str| {
        let found = pairs.iter().position(|(key, _)| *key == wanted)?;
        Some(pairs.swap_remove(found).1)
    };
    let linkage = take(LINKAGE).and_then(|text| Uuid::parse_str(&text).ok());
    let Some(linkage) = linkage else {
        return Err(findings.fatal(Rule::LocatorLinkage, at, count as u64));
    };
    let linkage2 = match take(LINKAGE2) {
        Some(text) => match Uuid::parse_str(&text) {
            Ok(linkage2) => Some(linkage2),
            Err(_) => return Err(findings.fatal(Rule::LocatorLinkage, at, count as u64)),
        },
        None => None,
    };
    if let Some(linkage2) = linkage2 {
        findings.report(Rule::MergeUnfinished, at, linkage2.as_fields().0)?;
    }
    let locator = ParentLocator {
        linkage,
        linkage2,
        relative_path: take(RELATIVE),
        volume_path: take(VOLUME),
        absolute_path: take(ABSOLUTE),
    };
    if locator.relative_path.is_none()
        && locator.volume_path.is_none()
        && locator.absolute_path.is_none()
    {
        return Err(findings.fatal(Rule::LocatorPath, at, count as u64));
    }
    Ok(locator)
}

/// Paths may hold unpaired surrogates, which no path on this side can; they become a sign that matches nothing.
fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16_at(unit, 0)).collect();
    String::from_utf16_lossy(&units)
}

const LINKAGE: &str = "parent_linkage";
const LINKAGE2: &str = "parent_linkage2";
const RELATIVE: &str = "relative_path";
const VOLUME: &str = "volume_path";
const ABSOLUTE: &str = "absolute_win32_path";
const KEYS: [&str; 5] = [LINKAGE, LINKAGE2, RELATIVE, VOLUME, ABSOLUTE];

/// Returns the item as Windows writes it: entries, then keys and values packed.
///
/// Fails where a path is longer than the format can say (32,767 UTF-16 units) or none is given.
pub(crate) fn encode(locator: &ParentLocator) -> Result<Vec<u8>, Error> {
    let braced = |id: Uuid| Some(id.braced().to_string());
    let values = [
        (LINKAGE, braced(locator.linkage)),
        (LINKAGE2, locator.linkage2.and_then(braced)),
        (RELATIVE, locator.relative_path.clone()),
        (VOLUME, locator.volume_path.clone()),
        (ABSOLUTE, locator.absolute_path.clone()),
    ];
    let pairs: Vec<(&str, String)> = values
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect();
    let has_path = |(key, value): &(&str, String)| {
        [RELATIVE, VOLUME, ABSOLUTE].contains(key) && !value.is_empty()
    };
    if !pairs.iter().any(has_path) {
        return Err(Error::Parameters(
            "a differencing disk needs a path to its parent",
        ));
    }
    let count = u16::try_from(pairs.len()).expect("five keys at most");
    let mut item = vec![0; HEADER_BYTES + pairs.len() * ENTRY_BYTES];
    put(&mut item, 0, &VHDX_PARENT.to_bytes_le());
    put(&mut item, 18, &count.to_le_bytes());
    for (number, (key, value)) in pairs.iter().enumerate() {
        let entry = HEADER_BYTES + number * ENTRY_BYTES;
        for (at, text) in [(0, *key), (4, value.as_str())] {
            let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let offset = u32::try_from(item.len()).expect("five values of at most 64 KiB");
            let length = u16::try_from(units.len()).ok().filter(|length| *length > 0);
            let length = length.ok_or(Error::Parameters(
                "a path to the parent is empty or longer than 32,767 characters",
            ))?;
            put(&mut item, entry + at, &offset.to_le_bytes());
            put(&mut item, entry + 8 + at / 2, &length.to_le_bytes());
            item.extend(units);
        }
    }
    Ok(item)
}

impl From<&ParentLink> for ParentLocator {
    fn from(link: &ParentLink) -> Self {
        Self {
            linkage: link.data_write_guid,
            linkage2: None,
            relative_path: link.relative_path.clone(),
            volume_path: link.volume_path.clone(),
            absolute_path: link.absolute_path.clone(),
        }
    }
}
