//! HyperVStorage: every key with the names that lead to it, one after the other, nothing checked.

use std::collections::{BTreeMap, HashMap};

use vmcx::Value;

/// Where a key lies, or its parent: index of the key table, offset in it.
type Place = (u16, u32);

fn u16_at(file: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([file[at], file[at + 1]])
}

fn u32_at(file: &[u8], at: usize) -> u32 {
    u32::from(u16_at(file, at + 2)) << 16 | u32::from(u16_at(file, at))
}

fn index(file: &[u8], at: usize) -> usize {
    usize::try_from(u32_at(file, at)).expect("accepted: inside the file")
}

/// A value so that any two can be compared: its type and its bytes, of a text those of UTF-8.
pub(crate) type Content = (u8, Vec<u8>);

/// Returns the type and bytes of a value.
pub(crate) fn content(value: &Value) -> Content {
    match value {
        Value::Int(number) => (3, number.to_le_bytes().to_vec()),
        Value::UInt(number) => (4, number.to_le_bytes().to_vec()),
        Value::Double(number) => (5, number.to_le_bytes().to_vec()),
        Value::String(text) => (6, text.as_bytes().to_vec()),
        Value::Bytes(bytes) => (7, bytes.clone()),
        Value::Bool(yes) => (8, vec![u8::from(*yes)]),
        Value::Node(node) => (9, node.change_sequence.to_le_bytes().to_vec()),
    }
}

/// Returns the path and the value of every key of an accepted file, nodes left out, by path.
pub(crate) fn list(file: &[u8]) -> Vec<(String, Content)> {
    // By index, the newest.
    let mut tables: BTreeMap<u16, (u16, usize, usize)> = BTreeMap::new();
    let mut object_tables = vec![8192];
    while let Some(at) = object_tables.pop() {
        for number in 0..index(file, at + 4) {
            let entry = at + 8 + number * 18;
            let (place, len) = (index(file, entry + 5), index(file, entry + 13));
            match file[entry] {
                1 => object_tables.push(place),
                2 if file[entry + 17] & 1 == 1 => {
                    let (number, sequence) = (u16_at(file, place + 2), u16_at(file, place + 4));
                    let newest = tables.entry(number).or_insert((sequence, place, len));
                    if newest.0 < sequence {
                        *newest = (sequence, place, len);
                    }
                }
                _ => {}
            }
        }
    }
    let mut keys: HashMap<Place, (Place, usize)> = HashMap::new();
    for (number, (_, start, len)) in &tables {
        let mut pos = 10;
        while pos + 21 < *len {
            let at = start + pos;
            if file[at] != 1 {
                let parent = (u16_at(file, at + 6), u32_at(file, at + 8));
                let offset = u32::try_from(pos).expect("a key table is short");
                keys.insert((*number, offset), (parent, at));
            }
            pos += index(file, at + 2);
        }
    }
    let name = |at: usize| {
        let name = &file[at + 21..at + 20 + usize::from(file[at + 20])];
        String::from_utf8(name.to_vec()).expect("accepted: UTF-8")
    };
    let mut listed = Vec::new();
    for (parent, at) in keys.values() {
        let mut path = format!("/{}", name(*at));
        let mut above = *parent;
        while above != (0, 0) {
            let (next, at) = keys[&above];
            path = format!("/{}{path}", name(at));
            above = next;
        }
        if let Some(value) = value(file, *at) {
            listed.push((path, content(&value)));
        }
    }
    listed.sort();
    listed
}

/// Returns the value of the key at `at`, if it is no node.
fn value(file: &[u8], at: usize) -> Option<Value> {
    let data = at + 21 + usize::from(file[at + 20]);
    let bytes = if file[at + 1] & 1 == 1 {
        let place = index(file, data + 4);
        &file[place..place + index(file, data)]
    } else if [6, 7].contains(&file[at]) {
        &file[data + 4..data + 4 + index(file, data)]
    } else {
        &file[data..]
    };
    let eight = || std::array::from_fn(|byte| bytes[byte]);
    Some(match file[at] {
        3 => Value::Int(i64::from_le_bytes(eight())),
        4 => Value::UInt(u64::from_le_bytes(eight())),
        5 => Value::Double(f64::from_le_bytes(eight())),
        6 => {
            let units = bytes.chunks_exact(2);
            let units: Vec<u16> = units.map(|unit| u16_at(unit, 0)).collect();
            let text = units.strip_suffix(&[0]).unwrap_or(&units);
            Value::String(String::from_utf16_lossy(text))
        }
        7 => Value::Bytes(bytes.to_vec()),
        8 => Value::Bool(bytes[0] == 1),
        _ => return None,
    })
}
