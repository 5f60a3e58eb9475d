//! Laying out a file: headers, object table, large values, key tables, an empty replay log, further object tables.

use crate::error::Error;
use crate::format::{
    ALIGNMENT, DEPTH_MAX, FIRST_TABLE, FLAG_IN_OBJECT, HEADER_AT, HEADER_BYTES, HEADER_SIGNATURE,
    KEY_HEADER_BYTES, KEYS_BYTES, KEYS_HEADER_BYTES, KEYS_SIGNATURE, LARGE_BYTES, LOG_ENTRY_BYTES,
    LOG_HEADER_BYTES, LOG_SIGNATURE, TABLE_ENTRY_BYTES, TABLE_HEADER_BYTES, TABLE_SIGNATURE,
    VERSION, checksum, key, object, put,
};
use crate::tree::{Entry, Node, Storage, Value};

const PAGE: usize = 4096;
const PAGE_U32: u32 = 4096;
const TABLE_ENTRIES: usize = (PAGE - TABLE_HEADER_BYTES) / TABLE_ENTRY_BYTES;
const LOG_ENTRIES: usize = (PAGE - LOG_HEADER_BYTES) / LOG_ENTRY_BYTES;

/// Where large values begin: behind the first object table.
const FIRST_OBJECT: u64 = FIRST_TABLE + PAGE as u64;

impl Storage {
    /// Returns the tree as the bytes of a file of version 4.0.
    ///
    /// Fails where a name is empty, longer than 254 bytes or holds a NUL, a value is 4 GiB or longer, nodes are nested more
    /// than 128 deep, or the keys take more than 65,535 tables of 4 KiB.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut layout = Layout::default();
        layout.add_node(&self.root, Parent::ROOT, &mut String::new(), 0)?;
        let Layout {
            mut tables,
            values,
            mut listed,
        } = layout;
        tables.iter_mut().for_each(close);

        let mut end = FIRST_OBJECT + values.len() as u64;
        for _ in &tables {
            listed.push(Object {
                object_type: object::KEY_TABLE,
                at: end,
                len: PAGE_U32,
            });
            end += PAGE as u64;
        }
        let log_at = end;

        let mut bytes = Vec::new();
        // The copies must differ in their numbers.
        for (at, sequence) in HEADER_AT.iter().zip([1, 0]) {
            bytes.extend(self.header(log_at, sequence));
            bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
            debug_assert_eq!(bytes.len() as u64, at + PAGE as u64);
        }
        let object_tables = object_tables(&listed, log_at + PAGE as u64);
        let (first, further) = object_tables.split_at(1);
        bytes.extend(first.concat());
        bytes.extend(values);
        bytes.extend(tables.concat());
        bytes.extend(log());
        bytes.extend(further.concat());
        Ok(bytes)
    }

    fn header(&self, log_at: u64, sequence: u16) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        put(&mut header, 0, &HEADER_SIGNATURE.to_le_bytes());
        put(&mut header, 8, &sequence.to_le_bytes());
        put(&mut header, 10, &VERSION.to_le_bytes());
        put(&mut header, 14, &self.data_version.to_le_bytes());
        put(&mut header, 22, &ALIGNMENT.to_le_bytes());
        put(&mut header, 26, &log_at.to_le_bytes());
        put(&mut header, 34, &u64::from(PAGE_U32).to_le_bytes());
        put(&mut header, 42, &PAGE_U32.to_le_bytes());
        seal(&mut header, 4);
        header
    }
}

/// Key tables and large values as they grow.
#[derive(Default)]
struct Layout {
    tables: Vec<Vec<u8>>,
    /// Large values, each filled up to a whole page.
    values: Vec<u8>,
    listed: Vec<Object>,
}

/// An object that is listed in an object table.
struct Object {
    object_type: u8,
    at: u64,
    len: u32,
}

/// How keys name the node they belong to.
#[derive(Clone, Copy)]
struct Parent {
    table: u16,
    offset: u32,
}

impl Parent {
    const ROOT: Self = Self {
        table: 0,
        offset: 0,
    };
}

impl Layout {
    /// Adds the keys of a node and all below; `path` is that of the node and is so again at the end.
    fn add_node(
        &mut self,
        node: &Node,
        parent: Parent,
        path: &mut String,
        depth: usize,
    ) -> Result<(), Error> {
        let node_len = path.len();
        for (number, entry) in (1..).zip(&node.entries) {
            path.push('/');
            path.push_str(&entry.name);
            if depth == DEPTH_MAX {
                return Err(unstorable("nodes are nested too deep", path));
            }
            let place = self.add_key(entry, parent, number, path)?;
            if let Value::Node(below) = &entry.value {
                self.add_node(below, place, path, depth + 1)?;
            }
            path.truncate(node_len);
        }
        Ok(())
    }

    /// Adds one key, the `number`-th of its node; returns its place.
    fn add_key(
        &mut self,
        entry: &Entry,
        parent: Parent,
        number: u32,
        path: &str,
    ) -> Result<Parent, Error> {
        let name = entry.name.as_bytes();
        let name_len = u8::try_from(name.len() + 1).ok().filter(|len| *len > 1);
        let name_len = name_len.filter(|_| !name.contains(&0));
        let name_len = name_len.ok_or_else(|| unstorable("the name of a key", path))?;
        let (key_type, in_object, data) = self.data(&entry.value, path)?;
        let meaningful = KEY_HEADER_BYTES + name.len() + 1 + data.len();

        let full = |table: &Vec<u8>| table.len() + meaningful > KEYS_BYTES;
        if self.tables.last().is_none_or(full) {
            self.begin_table(path)?;
        }
        let index = u16::try_from(self.tables.len()).expect("checked when it was begun");
        let table = self.tables.last_mut().expect("begun above");
        let at = table.len();
        // Too little space for another key at the end of the table belongs to this one.
        let left = KEYS_BYTES - at - meaningful;
        let slack = if left <= KEY_HEADER_BYTES { left } else { 0 };
        let size = u32::try_from(meaningful + slack).expect("below a table's length");

        table.resize(at + meaningful, 0);
        let bytes = &mut table[at..];
        put(
            bytes,
            0,
            &[key_type, entry.flags & !FLAG_IN_OBJECT | in_object],
        );
        put(bytes, 2, &size.to_le_bytes());
        put(bytes, 6, &parent.table.to_le_bytes());
        put(bytes, 8, &parent.offset.to_le_bytes());
        put(bytes, 16, &number.to_le_bytes());
        put(bytes, 20, &[name_len]);
        put(bytes, KEY_HEADER_BYTES, name);
        put(bytes, KEY_HEADER_BYTES + name.len() + 1, &data);
        seal(bytes, 12);
        table.resize(at + meaningful + slack, 0);
        Ok(Parent {
            table: index,
            offset: u32::try_from(at).expect("below a table's length"),
        })
    }

    /// Returns type, flag and data of a value; a large one takes an object.
    fn data(&mut self, value: &Value, path: &str) -> Result<(u8, u8, Vec<u8>), Error> {
        let (key_type, content) = match value {
            Value::Int(number) => return Ok((key::INT, 0, number.to_le_bytes().to_vec())),
            Value::UInt(number) => return Ok((key::UINT, 0, number.to_le_bytes().to_vec())),
            Value::Double(number) => return Ok((key::DOUBLE, 0, number.to_le_bytes().to_vec())),
            Value::Bool(yes) => {
                return Ok((key::BOOL, 0, u32::from(*yes).to_le_bytes().to_vec()));
            }
            Value::Node(node) => {
                let next = u32::try_from(node.entries.len() + 1)
                    .map_err(|_| unstorable("a node of too many keys", path))?;
                let mut data = node.change_sequence.to_le_bytes().to_vec();
                data.extend(next.to_le_bytes());
                return Ok((key::NODE, 0, data));
            }
            Value::String(text) => {
                // A last NUL is taken for the end of the text, which Windows leaves out and others write.
                let end = text.ends_with('\0').then_some(0);
                let units = text.encode_utf16().chain(end);
                (key::STRING, units.flat_map(u16::to_le_bytes).collect())
            }
            Value::Bytes(bytes) => (key::ARRAY, bytes.clone()),
        };
        let too_large = || unstorable("a value of 4 GiB or more", path);
        let len = u32::try_from(content.len()).map_err(|_| too_large())?;
        let mut data = len.to_le_bytes().to_vec();
        if content.len() < LARGE_BYTES {
            data.extend(content);
            return Ok((key_type, 0, data));
        }
        let at = FIRST_OBJECT + self.values.len() as u64;
        data.extend(at.to_le_bytes());
        self.listed.push(Object {
            object_type: object::FILE,
            at,
            len: len
                .checked_next_multiple_of(PAGE_U32)
                .ok_or_else(too_large)?,
        });
        self.values.extend(content);
        let padded = self.values.len().next_multiple_of(PAGE);
        self.values.resize(padded, 0);
        Ok((key_type, FLAG_IN_OBJECT, data))
    }

    fn begin_table(&mut self, path: &str) -> Result<(), Error> {
        let index = u16::try_from(self.tables.len() + 1)
            .map_err(|_| unstorable("more keys than tables can hold", path))?;
        let mut header = vec![0; KEYS_HEADER_BYTES];
        put(&mut header, 0, &KEYS_SIGNATURE.to_le_bytes());
        put(&mut header, 2, &index.to_le_bytes());
        put(&mut header, 4, &1_u16.to_le_bytes());
        seal(&mut header, 6);
        self.tables.push(header);
        Ok(())
    }
}

/// Fills the rest of a key table with a free entry: none, or more than the header of one.
fn close(table: &mut Vec<u8>) {
    let at = table.len();
    let left = KEYS_BYTES - at;
    if left > 0 {
        table.resize(KEYS_BYTES, 0);
        put(table, at, &[key::FREE, 0]);
        let size = u32::try_from(left).expect("below a table's length");
        put(table, at + 2, &size.to_le_bytes());
    }
}

/// Returns the object tables that list the objects; those after the first lie from `further` on.
fn object_tables(listed: &[Object], further: u64) -> Vec<Vec<u8>> {
    let per_table = TABLE_ENTRIES - 1;
    let count = listed.len().div_ceil(per_table).max(1);
    let mut tables = Vec::new();
    for number in 0..count {
        let mut table = vec![0; TABLE_HEADER_BYTES];
        put(&mut table, 0, &TABLE_SIGNATURE.to_le_bytes());
        let entries = u32::try_from(TABLE_ENTRIES).expect("fits a page");
        put(&mut table, 4, &entries.to_le_bytes());
        let part = listed.iter().skip(number * per_table).take(per_table);
        part.for_each(|object| table.extend(table_entry(object)));
        while table.len() < TABLE_HEADER_BYTES + per_table * TABLE_ENTRY_BYTES {
            table.extend(table_entry(&NOTHING));
        }
        // The last entry leads on.
        table.extend(if number + 1 < count {
            table_entry(&Object {
                object_type: object::OBJECT_TABLE,
                at: further + (number * PAGE) as u64,
                len: PAGE_U32,
            })
        } else {
            table_entry(&NOTHING)
        });
        table.resize(PAGE, 0);
        tables.push(table);
    }
    tables
}

const NOTHING: Object = Object {
    object_type: object::EMPTY,
    at: 0,
    len: 0,
};

fn table_entry(object: &Object) -> [u8; TABLE_ENTRY_BYTES] {
    let mut entry = [0; TABLE_ENTRY_BYTES];
    entry[0] = object.object_type;
    put(&mut entry, 5, &object.at.to_le_bytes());
    put(&mut entry, 13, &object.len.to_le_bytes());
    // In use.
    entry[17] = u8::from(object.object_type != object::EMPTY);
    seal(&mut entry, 1);
    entry
}

/// Returns a replay log without entries.
fn log() -> Vec<u8> {
    let mut log = vec![0; LOG_HEADER_BYTES];
    put(&mut log, 0, &LOG_SIGNATURE.to_le_bytes());
    let entries = u32::try_from(LOG_ENTRIES).expect("fits a page");
    put(&mut log, 13, &entries.to_le_bytes());
    seal(&mut log, 4);
    log.resize(PAGE, 0);
    log
}

fn seal(bytes: &mut [u8], field: usize) {
    let sum = checksum(bytes, field);
    put(bytes, field, &sum.to_le_bytes());
}

fn unstorable(what: &'static str, path: &str) -> Error {
    Error::Unstorable {
        what,
        key: path.to_owned(),
    }
}
