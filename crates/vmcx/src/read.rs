//! Reading a file: headers, replay log, object tables, key tables, and of their keys the tree.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Rule};
use crate::format::{
    ALIGNMENT, ALIGNMENT_MAX, DEPTH_MAX, FIRST_TABLE, FLAG_IN_OBJECT, HEADER_AT, HEADER_BYTES,
    HEADER_SIGNATURE, KEY_HEADER_BYTES, KEYS_HEADER_BYTES, KEYS_SIGNATURE, LOG_HEADER_BYTES,
    LOG_SIGNATURE, TABLE_BYTES_MAX, TABLE_ENTRY_BYTES, TABLE_HEADER_BYTES, TABLE_SIGNATURE,
    VERSION, array_at, checksum, key, object, u16_at, u32_at, u64_at,
};
use crate::read_at::ReadAt;
use crate::tree::{Entry, Node, Storage, Value};

impl Storage {
    /// Reads a whole file, checking every rule there is; large values are loaded too.
    ///
    /// What is kept may be as much as the file is long: look at its length first where it comes from anybody.
    pub fn read(file: &(impl ReadAt + ?Sized)) -> Result<Self, Error> {
        let file = Source::new(file)?;
        let header = read_header(&file)?;
        let log = check_log(&file, &header)?;
        let objects = read_objects(&file, log)?;
        let mut tables = read_key_tables(&file, &objects)?;
        let mut large = objects.files;
        let mut keys = Vec::new();
        for table in tables.values_mut() {
            parse_keys(&file, table, &mut large, &mut keys)?;
        }
        Ok(Self {
            data_version: header.data_version,
            root: grow(keys)?,
        })
    }
}

/// A file and its length.
struct Source<'a, F: ?Sized> {
    file: &'a F,
    len: u64,
}

impl<'a, F: ReadAt + ?Sized> Source<'a, F> {
    fn new(file: &'a F) -> Result<Self, Error> {
        let len = file.len().map_err(|source| Error::Read {
            what: "the length",
            at: 0,
            source,
        })?;
        Ok(Self { file, len })
    }

    /// Returns whether a range lies in the file, behind the headers.
    fn holds(&self, at: u64, len: u64) -> bool {
        at >= FIRST_TABLE && at.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// Reads a range that was checked to lie in the file, or is short.
    fn read(&self, at: u64, len: usize, what: &'static str) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|source| Error::Read { what, at, source })?;
        Ok(bytes)
    }
}

struct Header {
    at: u64,
    data_version: u32,
    log_at: u64,
    log_len: u64,
}

/// Reads both headers and returns the valid one of the higher sequence number.
fn read_header(file: &Source<'_, impl ReadAt + ?Sized>) -> Result<Header, Error> {
    let mut valid = Vec::new();
    for at in HEADER_AT {
        if at + HEADER_BYTES as u64 > file.len {
            continue;
        }
        let bytes = file.read(at, HEADER_BYTES, "a header")?;
        if u32_at(&bytes, 0) == HEADER_SIGNATURE && u32_at(&bytes, 4) == checksum(&bytes, 4) {
            valid.push((at, bytes));
        }
    }
    let sequence = |(_, bytes): &(u64, Vec<u8>)| u16_at(bytes, 8);
    if let [first, second] = &valid[..]
        && sequence(first) == sequence(second)
    {
        return Err(Error::format(
            Rule::HeaderTie,
            second.0 + 8,
            sequence(second),
        ));
    }
    let best = valid.into_iter().max_by_key(|header| sequence(header));
    let (at, bytes) = best.ok_or_else(|| Error::format(Rule::HeaderNoneValid, 0, file.len))?;
    let version = u32_at(&bytes, 10);
    if version != VERSION {
        return Err(Error::format(Rule::HeaderVersion, at + 10, version));
    }
    let alignment = u32_at(&bytes, 22);
    if !alignment.is_power_of_two() || !(ALIGNMENT..=ALIGNMENT_MAX).contains(&alignment) {
        return Err(Error::format(Rule::HeaderAlignment, at + 22, alignment));
    }
    Ok(Header {
        at,
        data_version: u32_at(&bytes, 14),
        log_at: u64_at(&bytes, 26),
        log_len: u64_at(&bytes, 34),
    })
}

/// Checks that there is a replay log, and nothing in it; returns where it lies.
fn check_log(file: &Source<'_, impl ReadAt + ?Sized>, header: &Header) -> Result<Range, Error> {
    let (at, len) = (header.log_at, header.log_len);
    if !file.holds(at, len) || len < LOG_HEADER_BYTES as u64 {
        return Err(Error::format(Rule::LogPlace, header.at + 26, at));
    }
    let bytes = file.read(at, LOG_HEADER_BYTES, "the replay log")?;
    let valid = u32_at(&bytes, 0) == LOG_SIGNATURE
        && u32_at(&bytes, 4) == checksum(&bytes, 4)
        && u32_at(&bytes, 13) > 0;
    if !valid {
        return Err(Error::format(Rule::LogHeader, at, u32_at(&bytes, 0)));
    }
    let pending = u32_at(&bytes, 8);
    if pending > 0 {
        return Err(Error::format(Rule::LogPending, at + 8, pending));
    }
    Ok(Range { at, len })
}

#[derive(Clone, Copy)]
struct Range {
    at: u64,
    len: u64,
}

/// What the object tables list.
struct Objects {
    key_tables: Vec<Range>,
    /// Lengths of file objects by where they lie.
    files: HashMap<u64, u64>,
}

/// Reads all object tables; no object overlaps another one.
fn read_objects(file: &Source<'_, impl ReadAt + ?Sized>, log: Range) -> Result<Objects, Error> {
    let mut taken = Taken::default();
    taken.claim(log, log.at)?;
    let mut objects = Objects {
        key_tables: Vec::new(),
        files: HashMap::new(),
    };
    // Where a table lies, and how long the entry that leads there says it is.
    let mut tables = vec![(FIRST_TABLE, None)];
    while let Some((at, listed)) = tables.pop() {
        let header_len = TABLE_HEADER_BYTES as u64;
        if !file.holds(at, header_len) {
            return Err(Error::format(Rule::TablePlace, at, file.len));
        }
        let header = file.read(at, TABLE_HEADER_BYTES, "an object table")?;
        let signature = u32_at(&header, 0);
        if signature != TABLE_SIGNATURE {
            return Err(Error::format(Rule::TableSignature, at, signature));
        }
        let count = u32_at(&header, 4);
        let entries_len = u64::from(count) * TABLE_ENTRY_BYTES as u64;
        let fits = listed.is_none_or(|listed| header_len + entries_len <= listed);
        let entries = usize::try_from(entries_len).ok();
        let fits =
            fits && entries_len <= TABLE_BYTES_MAX && file.holds(at, header_len + entries_len);
        let entries = entries.filter(|_| fits);
        let entries = entries.ok_or_else(|| Error::format(Rule::TablePlace, at + 4, count))?;
        // A table met again overlaps itself, so there are no circles.
        let range = Range {
            at,
            len: listed.unwrap_or(header_len + entries_len),
        };
        taken.claim(range, at)?;
        let entries = file.read(at + header_len, entries, "an object table")?;
        for (number, entry) in entries.chunks_exact(TABLE_ENTRY_BYTES).enumerate() {
            let entry_at = at + header_len + (number * TABLE_ENTRY_BYTES) as u64;
            if entry.iter().all(|byte| *byte == 0) {
                continue;
            }
            if u32_at(entry, 1) != checksum(entry, 1) {
                return Err(Error::format(Rule::TableEntry, entry_at, u32_at(entry, 1)));
            }
            let range = Range {
                at: u64_at(entry, 5),
                len: u64::from(u32_at(entry, 13)),
            };
            let in_use = entry[17] & 1 == 1;
            let wanted = match entry[0] {
                object::OBJECT_TABLE | object::FILE => true,
                object::KEY_TABLE => in_use,
                object::EMPTY | object::FREE..=object::LAST_KNOWN => false,
                other => return Err(Error::format(Rule::ObjectType, entry_at, other)),
            };
            if !wanted {
                continue;
            }
            if !file.holds(range.at, range.len) || range.len == 0 {
                return Err(Error::format(Rule::ObjectPlace, entry_at, range.at));
            }
            match entry[0] {
                object::OBJECT_TABLE => tables.push((range.at, Some(range.len))),
                object::KEY_TABLE => {
                    taken.claim(range, entry_at)?;
                    objects.key_tables.push(range);
                }
                _ => {
                    taken.claim(range, entry_at)?;
                    objects.files.insert(range.at, range.len);
                }
            }
        }
    }
    Ok(objects)
}

/// Ranges that are taken: start to end.
#[derive(Default)]
struct Taken(BTreeMap<u64, u64>);

impl Taken {
    /// Takes a range that is not empty and in the file; `entry_at` is where it is named.
    fn claim(&mut self, range: Range, entry_at: u64) -> Result<(), Error> {
        let end = range.at + range.len;
        let before = self.0.range(..end).next_back();
        if before.is_some_and(|(_, other_end)| *other_end > range.at) {
            return Err(Error::format(Rule::ObjectOverlap, entry_at, range.at));
        }
        self.0.insert(range.at, end);
        Ok(())
    }
}

/// A key table in memory.
struct KeyTable {
    at: u64,
    index: u16,
    sequence: u16,
    bytes: Vec<u8>,
}

/// Reads the key tables; of several with one index the one of the highest sequence number counts.
fn read_key_tables(
    file: &Source<'_, impl ReadAt + ?Sized>,
    objects: &Objects,
) -> Result<BTreeMap<u16, KeyTable>, Error> {
    let mut tables: BTreeMap<u16, KeyTable> = BTreeMap::new();
    for Range { at, len } in &objects.key_tables {
        let damaged = |found: u64| Error::format(Rule::KeysHeader, *at, found);
        let len = usize::try_from(*len).map_err(|_| damaged(*len))?;
        if len < KEYS_HEADER_BYTES || len as u64 > TABLE_BYTES_MAX {
            return Err(damaged(len as u64));
        }
        // They do not overlap, so all of them are no more than the file.
        let bytes = file.read(*at, len, "a key table")?;
        let header = &bytes[..KEYS_HEADER_BYTES];
        let valid = u16_at(header, 0) == KEYS_SIGNATURE
            && u32_at(header, 6) == checksum(header, 6)
            && u16_at(header, 2) > 0;
        if !valid {
            return Err(damaged(u64::from(u16_at(header, 0))));
        }
        let table = KeyTable {
            at: *at,
            index: u16_at(header, 2),
            sequence: u16_at(header, 4),
            bytes,
        };
        match tables.get(&table.index) {
            Some(other) if other.sequence == table.sequence => {
                return Err(Error::format(Rule::KeysTwice, at + 2, table.index));
            }
            Some(other) if other.sequence > table.sequence => {}
            Some(_) | None => {
                tables.insert(table.index, table);
            }
        }
    }
    Ok(tables)
}

/// The place of a key: key table and offset in it. That of the root is (0, 0).
type Place = (u16, u32);

/// A key as it is stored.
struct Key {
    at: u64,
    place: Place,
    parent: Place,
    sequence: u32,
    entry: Entry,
}

/// Reads the keys of a table; `large` loses the file objects they use.
fn parse_keys(
    file: &Source<'_, impl ReadAt + ?Sized>,
    table: &KeyTable,
    large: &mut HashMap<u64, u64>,
    keys: &mut Vec<Key>,
) -> Result<(), Error> {
    let bytes = &table.bytes;
    let mut pos = KEYS_HEADER_BYTES;
    while pos + KEY_HEADER_BYTES < bytes.len() {
        let at = table.at + pos as u64;
        let size = u32_at(bytes, pos + 2);
        let end = usize::try_from(size)
            .ok()
            .and_then(|size| pos.checked_add(size));
        let end = end.filter(|end| *end <= bytes.len() && *end >= pos + KEY_HEADER_BYTES);
        let end = end.ok_or_else(|| Error::format(Rule::EntrySize, at + 2, size))?;
        let stored = &bytes[pos..end];
        if stored[0] != key::FREE {
            let offset =
                u32::try_from(pos).map_err(|_| Error::format(Rule::EntrySize, at, size))?;
            keys.push(Key {
                at,
                place: (table.index, offset),
                parent: (u16_at(stored, 6), u32_at(stored, 8)),
                sequence: u32_at(stored, 16),
                entry: parse_key(file, stored, at, large)?,
            });
        }
        pos = end;
    }
    if pos != bytes.len() {
        return Err(Error::format(
            Rule::KeysFill,
            table.at + pos as u64,
            pos as u64,
        ));
    }
    Ok(())
}

fn parse_key(
    file: &Source<'_, impl ReadAt + ?Sized>,
    stored: &[u8],
    at: u64,
    large: &mut HashMap<u64, u64>,
) -> Result<Entry, Error> {
    let key_type = stored[0];
    let flags = stored[1];
    let in_object = flags & FLAG_IN_OBJECT != 0;
    let short = || Error::format(Rule::EntrySize, at + 2, stored.len() as u64);
    let data_at = KEY_HEADER_BYTES + usize::from(stored[20]);
    let data = stored.get(data_at..).ok_or_else(short)?;
    let data_len = match key_type {
        key::STRING | key::ARRAY if in_object => 12,
        key::STRING | key::ARRAY => {
            let prefix = data.get(..4).ok_or_else(short)?;
            let len = usize::try_from(u32_at(prefix, 0)).map_err(|_| short())?;
            len.checked_add(4).ok_or_else(short)?
        }
        // Nothing else is ever large.
        _ if in_object => return Err(Error::format(Rule::EntryType, at, key_type)),
        key::INT | key::UINT | key::DOUBLE => 8,
        key::BOOL => 4,
        key::NODE => 12,
        other => return Err(Error::format(Rule::EntryType, at, other)),
    };
    let data = data.get(..data_len).ok_or_else(short)?;
    let summed = &stored[..data_at + data_len];
    if u32_at(summed, 12) != checksum(summed, 12) {
        return Err(Error::format(
            Rule::EntryChecksum,
            at + 12,
            u32_at(summed, 12),
        ));
    }
    let name = match stored[KEY_HEADER_BYTES..data_at].split_last() {
        Some((0, name)) if !name.is_empty() && !name.contains(&0) => std::str::from_utf8(name).ok(),
        Some(_) | None => None,
    };
    let name = name.ok_or_else(|| Error::format(Rule::EntryName, at + 20, stored[20]))?;
    let loaded;
    let content = match key_type {
        key::STRING | key::ARRAY if in_object => {
            loaded = load(file, data, at, large)?;
            &loaded[..]
        }
        key::STRING | key::ARRAY => &data[4..],
        _ => data,
    };
    Ok(Entry {
        name: name.to_owned(),
        value: value(key_type, content, at)?,
        flags: flags & !FLAG_IN_OBJECT,
    })
}

/// Reads a large value. Each file object is used once, so that all values together are no longer than the file.
fn load(
    file: &Source<'_, impl ReadAt + ?Sized>,
    pointer: &[u8],
    at: u64,
    large: &mut HashMap<u64, u64>,
) -> Result<Vec<u8>, Error> {
    let (len, place) = (u32_at(pointer, 0), u64_at(pointer, 4));
    let wrong = || Error::format(Rule::ValuePlace, at, place);
    let object = large
        .remove(&place)
        .filter(|object| *object >= u64::from(len));
    object.ok_or_else(wrong)?;
    let len = usize::try_from(len).map_err(|_| wrong())?;
    file.read(place, len, "a large value")
}

fn value(key_type: u8, content: &[u8], at: u64) -> Result<Value, Error> {
    let bad = |found: u64| Error::format(Rule::ValueLength, at, found);
    Ok(match key_type {
        key::INT => Value::Int(i64::from_le_bytes(array_at(content, 0))),
        key::UINT => Value::UInt(u64_at(content, 0)),
        key::DOUBLE => Value::Double(f64::from_le_bytes(array_at(content, 0))),
        key::BOOL => match u32_at(content, 0) {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(bad(u64::from(other))),
        },
        key::STRING => {
            if !content.len().is_multiple_of(2) {
                return Err(bad(content.len() as u64));
            }
            let units = content.chunks_exact(2).map(|unit| u16_at(unit, 0));
            let mut units: Vec<u16> = units.collect();
            if units.last() == Some(&0) {
                units.pop();
            }
            Value::String(String::from_utf16_lossy(&units))
        }
        key::ARRAY => Value::Bytes(content.to_vec()),
        _ => Value::Node(Node {
            entries: Vec::new(),
            change_sequence: u64_at(content, 0),
        }),
    })
}

/// Puts the keys together to a tree and returns its root.
fn grow(keys: Vec<Key>) -> Result<Node, Error> {
    let places: HashMap<Place, bool> = keys
        .iter()
        .map(|key| (key.place, key.entry.value.as_node().is_some()))
        .collect();
    for key in &keys {
        let is_node = key.parent == (0, 0) || places.get(&key.parent) == Some(&true);
        if !is_node {
            return Err(Error::format(Rule::EntryParent, key.at + 6, key.parent.1));
        }
    }
    let mut left = keys.len();
    let mut first = keys.first().map_or(0, |key| key.at);
    let mut children: HashMap<Place, Vec<Key>> = HashMap::new();
    for key in keys {
        children.entry(key.parent).or_default().push(key);
    }
    let mut root = Node::default();
    fill(&mut root, (0, 0), &mut children, &mut left, 0)?;
    if left > 0 {
        // Keys that the root does not lead to: they belong to each other.
        first = children
            .values()
            .flatten()
            .map(|key| key.at)
            .min()
            .unwrap_or(first);
        return Err(Error::format(Rule::EntryLoop, first, left as u64));
    }
    Ok(root)
}

/// Gives a node its keys, in the order in which they were added, and their own in turn.
fn fill(
    node: &mut Node,
    place: Place,
    children: &mut HashMap<Place, Vec<Key>>,
    left: &mut usize,
    depth: usize,
) -> Result<(), Error> {
    let mut keys = children.remove(&place).unwrap_or_default();
    keys.sort_by_key(|key| (key.sequence, key.place));
    for mut key in keys {
        if depth == DEPTH_MAX {
            return Err(Error::format(Rule::EntryLoop, key.at, depth as u64));
        }
        *left -= 1;
        if let Value::Node(below) = &mut key.entry.value {
            fill(below, key.place, children, left, depth + 1)?;
        }
        node.entries.push(key.entry);
    }
    Ok(())
}
