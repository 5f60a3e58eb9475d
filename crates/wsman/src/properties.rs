//! Named values, and objects.

use std::collections::BTreeMap;

use crate::{CimTime, Epr, Value};

/// Named values: the properties of an object or the parameters of a method. Names are case-sensitive. A name that is
/// absent and one that is NULL read the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties(pub BTreeMap<String, Value>);

impl Properties {
    /// Returns no values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a value.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds or replaces a value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    /// Returns a value; NULL where it is absent.
    #[must_use]
    pub fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    /// Returns whether the name is present, be it NULL.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Removes a value.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// Returns names and values in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Returns a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).as_text()
    }

    /// Returns an unsigned number.
    #[must_use]
    pub fn u64(&self, name: &str) -> Option<u64> {
        self.get(name).as_u64()
    }

    /// Returns a 32-bit unsigned number.
    #[must_use]
    pub fn u32(&self, name: &str) -> Option<u32> {
        self.get(name).as_u32()
    }

    /// Returns a 16-bit unsigned number.
    #[must_use]
    pub fn u16(&self, name: &str) -> Option<u16> {
        self.get(name).as_u16()
    }

    /// Returns a boolean.
    #[must_use]
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.get(name).as_bool()
    }

    /// Returns a time.
    #[must_use]
    pub fn time(&self, name: &str) -> Option<CimTime> {
        self.get(name).as_time()
    }

    /// Returns a reference.
    #[must_use]
    pub fn epr(&self, name: &str) -> Option<&Epr> {
        self.get(name).as_epr()
    }

    /// Returns an embedded object, nested or as CIM-XML text.
    #[must_use]
    pub fn instance(&self, name: &str) -> Option<Instance> {
        self.get(name).to_instance()
    }

    /// Returns the items of an array; none where it is absent or NULL.
    #[must_use]
    pub fn items(&self, name: &str) -> &[Value] {
        self.get(name).items()
    }

    /// Returns the texts of an array of texts.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<&str> {
        self.items(name).iter().filter_map(Value::as_text).collect()
    }

    /// Returns the numbers of an array of numbers, or `None` where an item is none.
    #[must_use]
    pub fn u64s(&self, name: &str) -> Option<Vec<u64>> {
        self.items(name).iter().map(Value::as_u64).collect()
    }
}

impl<N: Into<String>> FromIterator<(N, Value)> for Properties {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(iter: I) -> Self {
        Self(
            iter.into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        )
    }
}

/// An object of a class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance {
    /// Class name, as the host wrote it.
    pub class: String,
    /// Its properties.
    pub properties: Properties,
}

impl Instance {
    /// Returns an object without properties.
    pub fn new(class: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            properties: Properties::new(),
        }
    }

    /// Adds or replaces a property.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.properties.set(name, value);
        self
    }
}

impl std::ops::Deref for Instance {
    type Target = Properties;
    fn deref(&self) -> &Properties {
        &self.properties
    }
}

impl std::ops::DerefMut for Instance {
    fn deref_mut(&mut self) -> &mut Properties {
        &mut self.properties
    }
}
