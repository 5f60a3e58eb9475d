//! Every rule of the format broken on purpose, one at a time; and what must be tolerated.

use vmcx::{Rule, Storage};

use crate::support::{put, sample, seal, seal_keys, u32_at, u64_at};

/// Where the first large value, the first key table and the replay log of the sample lie.
const VALUE: usize = 12_288;
const KEYS: usize = VALUE + 4096 + 3 * 4096 + 2 * 4096;

fn log(bytes: &[u8]) -> usize {
    usize::try_from(u64_at(bytes, 26)).unwrap()
}

/// Edits both headers.
fn headers(bytes: &mut [u8], at: usize, value: &[u8]) {
    for start in [0, 4096] {
        put(bytes, start + at, value);
        seal(&mut bytes[start..start + 46], 4);
    }
}

fn edit_log(bytes: &mut [u8], at: usize, value: &[u8]) {
    let start = log(bytes);
    put(bytes, start + at, value);
    seal(&mut bytes[start..start + 34], 4);
}

/// Edits the n-th entry of the object table.
fn object(bytes: &mut [u8], number: usize, at: usize, value: &[u8]) {
    let start = 8200 + number * 18;
    put(bytes, start + at, value);
    seal(&mut bytes[start..start + 18], 1);
}

/// Copies the place of one object into the entry of another.
fn same_place(bytes: &mut [u8], from: usize, to: usize) {
    let place = bytes[8200 + from * 18 + 5..][..8].to_vec();
    object(bytes, to, 5, &place);
}

/// Returns where the n-th key of the first key table lies.
fn nth_key(bytes: &[u8], number: usize) -> usize {
    (0..number).fold(KEYS + 10, |at, _| {
        at + usize::try_from(u32_at(bytes, at + 2)).unwrap()
    })
}

fn key(bytes: &mut [u8], number: usize, at: usize, value: &[u8]) {
    let start = nth_key(bytes, number);
    put(bytes, start + at, value);
    seal_keys(&mut bytes[KEYS..KEYS + 4096]);
}

/// The number of the first key of a type in the first key table.
fn of_type(bytes: &[u8], wanted: u8, flags: u8) -> usize {
    (0..60)
        .find(|number| bytes[nth_key(bytes, *number)..][..2] == [wanted, flags])
        .unwrap()
}

type Case = (Rule, &'static str, fn(&mut Vec<u8>));

#[rustfmt::skip]
const CASES: &[Case] = &[
    (Rule::HeaderNoneValid, "empty", Vec::clear),
    (Rule::HeaderNoneValid, "signatures", |b| headers(b, 0, &[1])),
    (Rule::HeaderNoneValid, "checksums", |b| { b[20] ^= 1; b[4116] ^= 1; }),
    (Rule::HeaderTie, "same number", |b| headers(b, 8, &[5, 0])),
    (Rule::HeaderVersion, "3.1", |b| headers(b, 10, &[1, 3])),
    (Rule::HeaderVersion, "5.0", |b| headers(b, 10, &[0, 5])),
    (Rule::HeaderAlignment, "zero", |b| headers(b, 22, &[0; 4])),
    (Rule::HeaderAlignment, "128 KiB", |b| headers(b, 22, &[0, 0, 2, 0])),
    (Rule::LogPlace, "over the headers", |b| headers(b, 26, &4096_u64.to_le_bytes())),
    (Rule::LogPlace, "far out", |b| headers(b, 26, &u64::MAX.to_le_bytes())),
    (Rule::LogPlace, "short", |b| headers(b, 34, &33_u64.to_le_bytes())),
    (Rule::LogHeader, "signature", |b| edit_log(b, 0, &[1])),
    (Rule::LogHeader, "checksum", |b| { let at = log(b); b[at + 33] = 1; }),
    (Rule::LogHeader, "no room", |b| edit_log(b, 13, &[0; 4])),
    (Rule::LogPending, "one", |b| edit_log(b, 8, &[1])),
    (Rule::TableSignature, "first", |b| b[8192] = 0),
    (Rule::TablePlace, "too many entries", |b| put(b, 8196, &u32::MAX.to_le_bytes())),
    (Rule::TableEntry, "first", |b| b[8200 + 10] ^= 1),
    (Rule::TableEntry, "to nothing", |b| b[8200] = 0),
    (Rule::ObjectType, "eight", |b| object(b, 0, 0, &[8])),
    (Rule::ObjectPlace, "over the headers", |b| object(b, 0, 5, &4096_u64.to_le_bytes())),
    (Rule::ObjectPlace, "beyond the end", |b| object(b, 0, 5, &(1_u64 << 40).to_le_bytes())),
    (Rule::ObjectPlace, "far out", |b| object(b, 0, 5, &u64::MAX.to_le_bytes())),
    (Rule::ObjectPlace, "empty", |b| object(b, 0, 13, &[0; 4])),
    (Rule::ObjectOverlap, "two values", |b| same_place(b, 0, 1)),
    (Rule::ObjectOverlap, "the object table", |b| object(b, 0, 5, &8192_u64.to_le_bytes())),
    (Rule::ObjectOverlap, "the log", |b| { let at = log(b) as u64; object(b, 0, 5, &at.to_le_bytes()); }),
    (Rule::ObjectOverlap, "a table that leads to itself", |b| { object(b, 226, 0, &[1]); object(b, 226, 5, &8192_u64.to_le_bytes());
        object(b, 226, 13, &4096_u32.to_le_bytes()); }),
    (Rule::KeysHeader, "signature", |b| { b[KEYS] = 3; seal_keys(&mut b[KEYS..KEYS + 4096]); }),
    (Rule::KeysHeader, "checksum", |b| b[KEYS + 6] ^= 1),
    (Rule::KeysHeader, "index", |b| { b[KEYS + 2] = 0; seal_keys(&mut b[KEYS..KEYS + 4096]); }),
    (Rule::KeysTwice, "index", |b| { b[KEYS + 2] = 2; seal_keys(&mut b[KEYS..KEYS + 4096]); }),
    (Rule::KeysFill, "a short last entry", |b| { let end = log(b); let size = last_entry_size(&b[end - 4096..end]);
        put(b, end - size + 2, &u32::try_from(size - 21).unwrap().to_le_bytes()); }),
    (Rule::EntrySize, "zero", |b| put(b, KEYS + 12, &[0; 4])),
    (Rule::EntrySize, "beyond the table", |b| put(b, KEYS + 12, &5000_u32.to_le_bytes())),
    (Rule::EntrySize, "a name beyond it", |b| put(b, KEYS + 10 + 20, &[200])),
    (Rule::EntrySize, "a text beyond it", |b| { let n = of_type(b, 6, 0); let at = nth_key(b, n); let name = usize::from(b[at + 20]);
        put(b, at + 21 + name, &9000_u32.to_le_bytes()); }),
    (Rule::EntryChecksum, "name", |b| b[KEYS + 10 + 21] ^= 1),
    (Rule::EntryChecksum, "parent", |b| b[KEYS + 10 + 6] ^= 1),
    (Rule::EntryType, "two", |b| key(b, 0, 0, &[2])),
    (Rule::EntryType, "ten", |b| key(b, 0, 0, &[10])),
    (Rule::EntryType, "a large number", |b| { let n = of_type(b, 3, 0); key(b, n, 1, &[1]); }),
    (Rule::EntryName, "not terminated", |b| { let name = usize::from(b[nth_key(b, 0) + 20]); key(b, 0, 20 + name, b"x"); }),
    (Rule::EntryName, "not UTF-8", |b| key(b, 0, 21, &[0xFF])),
    (Rule::EntryName, "a NUL within", |b| key(b, 0, 21, &[0])),
    (Rule::EntryParent, "no such key", |b| key(b, 1, 8, &[7])),
    (Rule::EntryParent, "no such table", |b| key(b, 1, 6, &[77])),
    (Rule::EntryParent, "no node", |b| { let n = of_type(b, 3, 0); let at = u32::try_from(nth_key(b, n) - KEYS).unwrap();
        key(b, n + 1, 8, &at.to_le_bytes()); }),
    (Rule::EntryLoop, "its own parent", |b| { let at = u32::try_from(nth_key(b, 1) - KEYS).unwrap();
        key(b, 1, 8, &at.to_le_bytes()); }),
    (Rule::ValueLength, "half a character", |b| { let n = of_type(b, 6, 0); let at = nth_key(b, n); let name = usize::from(b[at + 20]);
        let len = u32_at(b, at + 21 + name) - 1; key(b, n, 21 + name, &len.to_le_bytes()); }),
    (Rule::ValueLength, "neither yes nor no", |b| { let n = of_type(b, 8, 0); let name = usize::from(b[nth_key(b, n) + 20]);
        key(b, n, 21 + name, &[2]); }),
    (Rule::ValuePlace, "no object", |b| object(b, 0, 0, &[4])),
    (Rule::ValuePlace, "longer than its object", |b| object(b, 0, 13, &2047_u32.to_le_bytes())),
];

fn last_entry_size(table: &[u8]) -> usize {
    let (mut at, mut size) = (10, 0);
    while at + 21 < table.len() {
        size = usize::try_from(u32_at(table, at + 2)).unwrap();
        at += size;
    }
    size
}

#[test]
fn refuses_each_broken_rule_by_its_name() {
    for (rule, case, spoil) in CASES {
        let mut bytes = sample().encode().unwrap();
        spoil(&mut bytes);
        let Err(err) = Storage::read(&bytes) else {
            panic!("{}, {case}: was accepted", rule.code());
        };
        assert_eq!(err.rule(), Some(*rule), "{}, {case}: {err}", rule.code());
    }
}

#[test]
fn every_rule_has_a_case_and_a_code_of_its_own() {
    for (number, rule) in Rule::ALL.iter().enumerate() {
        assert!(
            CASES.iter().any(|(other, ..)| other == rule),
            "{}",
            rule.code()
        );
        let before = &Rule::ALL[..number];
        assert!(before.iter().all(|other| other.code() != rule.code()));
    }
}

#[test]
fn tolerates_what_leaves_no_doubt() {
    let same = |spoil: &dyn Fn(&mut Vec<u8>), what: &str| {
        let mut bytes = sample().encode().unwrap();
        spoil(&mut bytes);
        assert_eq!(Storage::read(&bytes).unwrap(), sample(), "{what}");
    };
    same(&|b| b[20] ^= 1, "the newer header damaged");
    same(&|b| b[4096] ^= 1, "the older header damaged");
    same(&|b| b.extend([7; 5000]), "something behind the end");
    // The second copy is the newer one.
    same(&|b| put(b, 4096 + 8, &[2]), "a number without its checksum");
    same(
        &|b| {
            put(b, 4096 + 8, &[2]);
            seal(&mut b[4096..4096 + 46], 4);
            put(b, 0, &[0; 46]);
        },
        "the first header gone",
    );
    // Entries of an object table that were never used.
    same(&|b| b[8200 + 18 * 100..8200 + 18 * 226].fill(0), "zeros");
    same(&|b| object(b, 100, 0, &[4]), "a free object");
    // A list that does not mark its file objects as in use.
    same(&|b| object(b, 0, 17, &[0]), "a value that is not marked");
}

/// Of two key tables of one index the newer one counts.
#[test]
fn the_newer_of_two_key_tables_counts() {
    let mut storage = Storage::new();
    storage.set("/name", "old");
    let mut bytes = storage.encode().unwrap();
    storage.set("/name", "new");
    let newer = storage.encode().unwrap();
    let at = bytes.len();
    bytes.extend(&newer[12_288..12_288 + 4096]);
    put(&mut bytes, at + 4, &[2]);
    seal_keys(&mut bytes[at..]);
    let mut entry = bytes[8200..8218].to_vec();
    put(&mut entry, 5, &(at as u64).to_le_bytes());
    object(&mut bytes, 1, 0, &entry);
    assert_eq!(Storage::read(&bytes).unwrap(), storage);
}
