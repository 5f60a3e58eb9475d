//! References to objects: resource URI and selectors.

use std::collections::BTreeMap;

use crate::{ObjectPath, uri};

/// The value of a selector: text, or (in the keys of associations) another reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A key as text.
    Text(String),
    /// A key that is a reference.
    Epr(Box<Epr>),
}

/// Selectors by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors(pub BTreeMap<String, Selector>);

impl Selectors {
    /// Returns no selectors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text selector.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), Selector::Text(value.into()));
        self
    }

    /// Returns a text selector; its name in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.get(name).or_else(|| {
            self.0
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        });
        match found? {
            Selector::Text(text) => Some(text),
            Selector::Epr(_) => None,
        }
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text selectors in order of name, `__cimnamespace` left out.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Selector::Text(text) if !name.eq_ignore_ascii_case("__cimnamespace") => {
                Some((name.as_str(), text.as_str()))
            }
            Selector::Text(_) | Selector::Epr(_) => None,
        })
    }
}

/// A reference to an object (an endpoint reference).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epr {
    /// Where the object is; normally [`uri::ANONYMOUS`].
    pub address: String,
    /// The class.
    pub resource_uri: String,
    /// The keys.
    pub selectors: Selectors,
}

impl Epr {
    /// Returns a reference to an object of a class, without keys yet.
    #[must_use]
    pub fn new(namespace: &str, class: &str) -> Self {
        Self {
            address: uri::ANONYMOUS.to_owned(),
            resource_uri: uri::class_uri(namespace, class),
            selectors: Selectors::new(),
        }
    }

    /// Adds a key.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.selectors = self.selectors.with(name, value);
        self
    }

    /// Returns the class name, empty where the URI is no WMI URI.
    #[must_use]
    pub fn class(&self) -> &str {
        uri::split_class_uri(&self.resource_uri).map_or("", |(_, class)| class)
    }

    /// Returns the CIM namespace, empty where the URI is no WMI URI.
    #[must_use]
    pub fn namespace(&self) -> &str {
        uri::split_class_uri(&self.resource_uri).map_or("", |(namespace, _)| namespace)
    }

    /// Returns a text key; its name in any case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.selectors.get(name)
    }

    /// Returns the path of the same object, without a host.
    #[must_use]
    pub fn to_path(&self) -> ObjectPath {
        let mut path = ObjectPath::new(self.class());
        path.namespace = Some(self.namespace().replace('/', "\\"));
        for (name, value) in self.selectors.texts() {
            path = path.with(name, value);
        }
        path
    }
}
