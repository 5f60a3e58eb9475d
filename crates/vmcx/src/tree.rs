//! What a file holds: a tree of nodes and typed values, in the order in which they were added.

use std::fmt;

/// What a file holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Storage {
    /// A version the application gives its data.
    pub data_version: u32,
    /// The root of the tree, which has no name.
    pub root: Node,
}

/// A node: keys in the order in which they were added.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// The keys. Nothing in the format keeps two from having the same name.
    pub entries: Vec<Entry>,
    /// The sequence number of change tracking, 0 where there is none. That of the root is not stored.
    pub change_sequence: u64,
}

/// A key with its value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The name, at most 254 bytes of UTF-8, without NUL.
    pub name: String,
    /// The value.
    pub value: Value,
    /// Flags as they are stored: [`Entry::SUBCOMPONENT`], [`Entry::CHANGE_TRACKING`], and what else there may be.
    pub flags: u8,
}

impl Entry {
    /// The key is a subcomponent.
    pub const SUBCOMPONENT: u8 = 2;
    /// Changes of the node are tracked.
    pub const CHANGE_TRACKING: u8 = 4;

    /// Returns a key without flags.
    #[must_use]
    pub fn new(name: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
            flags: 0,
        }
    }
}

/// A value. Two are equal if they are of one type and stored alike: a NaN equals itself.
#[derive(Clone, Debug)]
pub enum Value {
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    UInt(u64),
    /// A floating-point number.
    Double(f64),
    /// A text, stored as UTF-16; what is no valid UTF-16 in a file is read as U+FFFD, a NUL at its end is left out.
    String(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Yes or no.
    Bool(bool),
    /// A node with keys of its own.
    Node(Node),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(one), Self::Int(two)) => one == two,
            (Self::UInt(one), Self::UInt(two)) => one == two,
            (Self::Double(one), Self::Double(two)) => one.to_bits() == two.to_bits(),
            (Self::String(one), Self::String(two)) => one == two,
            (Self::Bytes(one), Self::Bytes(two)) => one == two,
            (Self::Bool(one), Self::Bool(two)) => one == two,
            (Self::Node(one), Self::Node(two)) => one == two,
            (
                Self::Int(_)
                | Self::UInt(_)
                | Self::Double(_)
                | Self::String(_)
                | Self::Bytes(_)
                | Self::Bool(_)
                | Self::Node(_),
                _,
            ) => false,
        }
    }
}

impl Eq for Value {}

impl Value {
    /// Returns the text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Int(_)
            | Self::UInt(_)
            | Self::Double(_)
            | Self::Bytes(_)
            | Self::Bool(_)
            | Self::Node(_) => None,
        }
    }

    /// Returns the bytes, if they are some.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Int(_)
            | Self::UInt(_)
            | Self::Double(_)
            | Self::String(_)
            | Self::Bool(_)
            | Self::Node(_) => None,
        }
    }

    /// Returns the number, if it is an integer of either kind that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(number) => u64::try_from(*number).ok(),
            Self::UInt(number) => Some(*number),
            Self::Double(_) | Self::String(_) | Self::Bytes(_) | Self::Bool(_) | Self::Node(_) => {
                None
            }
        }
    }

    /// Returns whether it is yes, if it is yes or no.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(yes) => Some(*yes),
            Self::Int(_)
            | Self::UInt(_)
            | Self::Double(_)
            | Self::String(_)
            | Self::Bytes(_)
            | Self::Node(_) => None,
        }
    }

    /// Returns the node, if it is one.
    #[must_use]
    pub fn as_node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            Self::Int(_)
            | Self::UInt(_)
            | Self::Double(_)
            | Self::String(_)
            | Self::Bytes(_)
            | Self::Bool(_) => None,
        }
    }
}

/// Bytes in hexadecimal, at most 32 of them; a node as the number of its keys.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 32;
        match self {
            Self::Int(number) => number.fmt(f),
            Self::UInt(number) => number.fmt(f),
            Self::Double(number) => number.fmt(f),
            Self::String(text) => text.fmt(f),
            Self::Bool(yes) => yes.fmt(f),
            Self::Node(node) => write!(f, "({} keys)", node.entries.len()),
            Self::Bytes(bytes) => {
                for byte in bytes.iter().take(SHOWN) {
                    write!(f, "{byte:02x}")?;
                }
                if bytes.len() > SHOWN {
                    write!(f, "... ({} bytes)", bytes.len())?;
                }
                Ok(())
            }
        }
    }
}

macro_rules! from {
    ($($from:ty, $variant:ident;)*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

from! {
    i64, Int;
    u64, UInt;
    f64, Double;
    &str, String;
    String, String;
    &[u8], Bytes;
    Vec<u8>, Bytes;
    bool, Bool;
    Node, Node;
}

impl Node {
    /// Returns the value of the first key of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let found = self.entries.iter().find(|entry| entry.name == name);
        found.map(|entry| &entry.value)
    }

    /// Gives the first key of this name a value, or adds one.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        *self.value_mut(name) = value.into();
    }

    fn value_mut(&mut self, name: &str) -> &mut Value {
        let found = self.entries.iter().position(|entry| entry.name == name);
        let at = found.unwrap_or_else(|| {
            self.entries.push(Entry::new(name, Node::default()));
            self.entries.len() - 1
        });
        &mut self.entries[at].value
    }
}

impl Storage {
    /// Returns an empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the value at a path such as `/configuration/properties/name`.
    ///
    /// A name that holds a `/` itself is not found this way.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        let mut names = names(path);
        let first = names.next()?;
        names.try_fold(self.root.get(first)?, |value, name| {
            value.as_node()?.get(name)
        })
    }

    /// Gives the key at a path a value. Nodes on the way are made; a value in their place is replaced.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        let value = value.into();
        let mut node = &mut self.root;
        let mut names = names(path).peekable();
        while let Some(name) = names.next() {
            let found = node.value_mut(name);
            if names.peek().is_none() {
                *found = value;
                return;
            }
            if found.as_node().is_none() {
                *found = Value::Node(Node::default());
            }
            let Value::Node(next) = found else { return };
            node = next;
        }
    }

    /// Returns every value that is no node, with its path, in the order of the file.
    #[must_use]
    pub fn values(&self) -> Values<'_> {
        Values {
            path: String::new(),
            levels: vec![(0, self.root.entries.iter())],
        }
    }
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// The values of a tree with their paths. See [`Storage::values`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    path: String,
    /// Where the path of each node on the way ends, and what is left of it.
    levels: Vec<(usize, std::slice::Iter<'a, Entry>)>,
}

impl<'a> Iterator for Values<'a> {
    type Item = (String, &'a Value);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((end, entries)) = self.levels.last_mut() {
            self.path.truncate(*end);
            let Some(entry) = entries.next() else {
                self.levels.pop();
                continue;
            };
            self.path.push('/');
            self.path.push_str(&entry.name);
            let Some(node) = entry.value.as_node() else {
                return Some((self.path.clone(), &entry.value));
            };
            self.levels.push((self.path.len(), node.entries.iter()));
        }
        None
    }
}
