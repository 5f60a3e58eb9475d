//! What is written is read back equal.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use vmcx::{Entry, Node, Storage, Value};

use crate::support::{sample, seal_keys, u32_at};

#[test]
fn a_tree_is_read_back_equal() {
    let sample = sample();
    let bytes = sample.encode().unwrap();
    let read = Storage::read(&bytes).unwrap();
    assert_eq!(read, sample);
    assert_eq!(
        read.encode().unwrap(),
        bytes,
        "the same tree, the same bytes"
    );
    assert_eq!(Storage::read(&bytes[..]).unwrap(), sample);
}

#[test]
fn an_empty_tree_is_a_file_too() {
    let empty = Storage::new();
    assert_eq!(Storage::read(&empty.encode().unwrap()).unwrap(), empty);
}

#[test]
fn values_are_found_by_their_paths() {
    let sample = sample();
    let get = |path| sample.get(path);
    assert_eq!(
        get("/configuration/properties/version").and_then(Value::as_u64),
        Some(2560)
    );
    assert_eq!(
        get("configuration/properties/name").and_then(Value::as_str),
        Some("Würfel 🎲")
    );
    assert_eq!(
        get("/configuration/settings/secure").and_then(Value::as_bool),
        Some(true)
    );
    assert_eq!(get("/configuration/settings/none"), None);
    assert_eq!(get("/top/below"), None);
    assert_eq!(get("/"), None);
    let paths: Vec<String> = sample.values().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), 16 + 60 + 2);
    assert_eq!(paths[0], "/configuration/properties/version");
    assert_eq!(paths.last().unwrap(), "/tracked/node/same");
    let node = get("/configuration/bytes")
        .and_then(Value::as_node)
        .unwrap();
    assert_eq!(
        node.get("large").and_then(Value::as_bytes).unwrap().len(),
        2048
    );
}

#[test]
fn a_value_is_replaced_where_it_is() {
    let mut storage = sample();
    let before = storage.values().count();
    storage.set("/configuration/properties/name", "other");
    assert_eq!(storage.values().count(), before);
    assert_eq!(storage.values().nth(1).unwrap().1, &Value::from("other"));
    // A value in the way becomes a node.
    storage.set("/top/below", 5_u64);
    assert_eq!(storage.get("/top/below"), Some(&Value::UInt(5)));
}

/// Windows walks a key table only while more than the header of a key is left of it.
#[test]
fn keys_fill_their_tables_to_the_last_byte() {
    for len in 0..130 {
        let mut storage = Storage::new();
        for number in 0..200 {
            storage.set(&format!("/node/{number}"), vec![1; (number * 7 + len) % 90]);
        }
        let bytes = storage.encode().unwrap();
        let mut tables = 0;
        for page in bytes
            .chunks_exact(4096)
            .skip(3)
            .filter(|page| page[..2] == [2, 0])
        {
            tables += 1;
            let mut at = 10;
            while at + 21 < 4096 {
                at += usize::try_from(u32_at(page, at + 2)).unwrap();
            }
            assert_eq!(at, 4096);
        }
        assert!(tables > 2);
        assert_eq!(Storage::read(&bytes).unwrap(), storage);
    }
}

/// An object table lists 226 objects and leads to the next.
#[test]
fn object_tables_are_chained() {
    for count in [220, 225, 226, 227, 700] {
        let mut storage = Storage::new();
        for number in 0..count {
            let mut value = vec![0; 2048];
            value[..4].copy_from_slice(&u32::to_le_bytes(number));
            storage.set(&format!("/data/{number}"), value);
        }
        let bytes = storage.encode().unwrap();
        assert_eq!(Storage::read(&bytes).unwrap(), storage, "{count}");
    }
}

#[test]
fn what_cannot_be_stored_is_refused() {
    #[track_caller]
    fn refused(storage: &Storage) {
        assert!(storage.encode().unwrap_err().rule().is_none());
    }
    for name in ["", "a\0b", &"n".repeat(255)] {
        let mut storage = Storage::new();
        storage.root.entries.push(Entry::new(name, true));
        refused(&storage);
    }
    let mut storage = Storage::new();
    storage.set(&"n".repeat(254), true);
    assert_eq!(Storage::read(&storage.encode().unwrap()).unwrap(), storage);

    let nested = |depth| {
        let mut storage = Storage::new();
        storage.set(&"/n".repeat(depth), true);
        storage
    };
    refused(&nested(129));
    let deepest = nested(128);
    assert_eq!(Storage::read(&deepest.encode().unwrap()).unwrap(), deepest);
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        any::<u64>().prop_map(|bits| Value::Double(f64::from_bits(bits))),
        any::<bool>().prop_map(Value::Bool),
        ".{0,40}".prop_map(Value::String),
        vec(any::<u8>(), 0..60).prop_map(Value::Bytes),
        (2040..2060_usize, any::<u8>()).prop_map(|(len, byte)| Value::Bytes(vec![byte; len])),
        (1015..1030_usize).prop_map(|len| Value::String("z".repeat(len))),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 120, 8, |inner| {
        let entry = (
            "[a-z/]{1,12}",
            inner,
            prop_oneof![Just(0), Just(2), Just(4)],
        );
        let entry = entry.prop_map(|(name, value, flags)| Entry { name, value, flags });
        (vec(entry, 0..8), any::<u64>()).prop_map(|(entries, change_sequence)| {
            Value::Node(Node {
                entries,
                change_sequence,
            })
        })
    })
}

/// Some write the end of a text, Windows does not.
#[test]
fn a_text_with_its_end_reads_as_without() {
    let text = |content: &str| {
        let mut storage = Storage::new();
        storage.set("/t", content);
        storage.encode().unwrap()
    };
    // One that ends in a NUL is stored with two.
    let mut bytes = text("ab\0");
    let data = 12_288 + 10 + 21 + 2;
    assert_eq!(bytes[data..data + 12], *b"\x08\0\0\0a\0b\0\0\0\0\0");
    bytes[data] = 6;
    seal_keys(&mut bytes[12_288..12_288 + 4096]);
    assert_eq!(
        Storage::read(&bytes).unwrap().get("/t"),
        Some(&Value::from("ab"))
    );
    assert_eq!(text("ab")[data..data + 8], *b"\x04\0\0\0a\0b\0");
}

proptest! {
    #[test]
    fn any_tree_is_read_back_equal(values in vec(tree(), 0..6), data_version in any::<u32>()) {
        let entries = values.into_iter().enumerate();
        let entries = entries.map(|(number, value)| Entry::new(number.to_string(), value));
        let root = Node { entries: entries.collect(), change_sequence: 0 };
        let storage = Storage { data_version, root };
        let bytes = storage.encode().unwrap();
        let read = Storage::read(&bytes).unwrap();
        prop_assert_eq!(&read, &storage);
        prop_assert_eq!(read.encode().unwrap(), bytes);
    }
}
