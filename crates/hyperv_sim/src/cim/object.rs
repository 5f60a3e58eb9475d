//! Values and objects, and which WMI path names which.
//!
//! A property that is absent is NULL. Datetimes are held as DMTF text, references as [`ObjectPath`] text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wsman::ObjectPath;

use super::schema::{self, CimType, Class, Property};

/// A value of a property or parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Text(String),
    List(Vec<Value>),
    Embedded(Bag),
}

impl Value {
    pub(crate) fn texts<S: Into<String>>(items: impl IntoIterator<Item = S>) -> Self {
        Value::List(
            items
                .into_iter()
                .map(|item| Value::Text(item.into()))
                .collect(),
        )
    }

    pub(crate) fn numbers(items: impl IntoIterator<Item = u64>) -> Self {
        Value::List(items.into_iter().map(Value::Unsigned).collect())
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::List(_)
            | Value::Embedded(_) => None,
        }
    }

    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Unsigned(number) => Some(*number),
            Value::Signed(number) => u64::try_from(*number).ok(),
            Value::Text(text) => text.trim().parse().ok(),
            Value::Bool(_) | Value::List(_) | Value::Embedded(_) => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            Value::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
            Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Embedded(_) => None,
        }
    }

    pub(crate) fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Signed(_)
            | Value::Text(_)
            | Value::Embedded(_) => std::slice::from_ref(self),
        }
    }

    /// Reads one value of a type from its text on the wire; nothing where it does not fit.
    pub(crate) fn parse(cim_type: CimType, text: &str) -> Option<Self> {
        let bare = text.trim();
        Some(match cim_type {
            CimType::Boolean if bare == "1" => Value::Bool(true),
            CimType::Boolean if bare == "0" => Value::Bool(false),
            CimType::Boolean => Value::Bool(Value::Text(bare.to_owned()).as_bool()?),
            CimType::Unsigned(bits) => {
                let number: u64 = bare.parse().ok()?;
                if bits < 64 && number >> bits != 0 {
                    return None;
                }
                Value::Unsigned(number)
            }
            CimType::Signed(bits) => {
                let number: i64 = bare.parse().ok()?;
                let bound = i64::MAX >> (64 - u32::from(bits));
                if number > bound || number < -bound - 1 {
                    return None;
                }
                Value::Signed(number)
            }
            CimType::Text | CimType::Reference => Value::Text(text.to_owned()),
            CimType::Datetime => Value::Text(bare.to_owned()),
            CimType::Object => return None,
        })
    }

    /// Returns the text of a single value on the wire.
    pub(crate) fn wire_text(&self) -> String {
        match self {
            Value::Bool(flag) => flag.to_string(),
            Value::Unsigned(number) => number.to_string(),
            Value::Signed(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::Embedded(bag) => bag.class.clone(),
            Value::List(items) => items
                .iter()
                .map(Value::wire_text)
                .collect::<Vec<_>>()
                .join(","),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Bool(flag)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Unsigned(number)
    }
}

/// Properties of something that is kept on disk, with the name of its class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bag {
    pub(crate) class: String,
    pub(crate) props: BTreeMap<String, Value>,
}

impl Bag {
    pub(crate) fn new(class: &str) -> Self {
        Self {
            class: class.to_owned(),
            props: BTreeMap::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.props.insert(name.to_owned(), value.into());
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.props
            .get(name)
            .and_then(Value::as_text)
            .unwrap_or_default()
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.props.get(name).and_then(Value::as_u64)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.props
            .get(name)
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// Returns the first text of an array property (`HostResource`).
    pub(crate) fn first(&self, name: &str) -> &str {
        self.props
            .get(name)
            .and_then(|value| value.items().first())
            .and_then(Value::as_text)
            .unwrap_or_default()
    }

    pub(crate) fn instance_id(&self) -> &str {
        self.text("InstanceID")
    }

    pub(crate) fn object(&self) -> Object {
        Object {
            class: schema::v2(&self.class),
            props: self.props.clone(),
        }
    }
}

/// An instance of a class, as it goes out.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) class: &'static Class,
    props: BTreeMap<String, Value>,
}

impl Object {
    pub(crate) fn new(class: &'static Class) -> Self {
        Self {
            class,
            props: BTreeMap::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.props.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.props.get(name)
    }

    /// Keeps only the named properties; the others become NULL, as after `SELECT a, b FROM C`.
    pub(crate) fn project(mut self, columns: &[String]) -> Self {
        self.props.retain(|name, _| {
            columns
                .iter()
                .any(|column| column.eq_ignore_ascii_case(name))
        });
        self
    }

    /// Returns every property of the class with its value here.
    pub(crate) fn properties(&self) -> impl Iterator<Item = (&Property, Option<&Value>)> {
        self.class
            .properties()
            .iter()
            .map(|property| (property, self.props.get(property.name)))
    }

    pub(crate) fn path(&self, server: &str) -> ObjectPath {
        let mut path = ObjectPath::new(self.class.name).on(server, self.class.namespace);
        for key in self.class.keys() {
            path = path.with(
                key.name,
                self.get(key.name).map(Value::wire_text).unwrap_or_default(),
            );
        }
        path
    }
}

/// Whether a path, perhaps with some of the keys only, names the object: everything it says must agree, in any case.
pub(crate) fn names(path: &ObjectPath, object: &Object, server: &str) -> bool {
    let host = path
        .host
        .as_deref()
        .is_none_or(|host| host == "." || host.eq_ignore_ascii_case(server));
    let namespace = path
        .namespace
        .as_deref()
        .is_none_or(|namespace| schema::known_namespace(namespace) == Some(object.class.namespace));
    host && namespace && object.class.is_a(&path.class) && has_keys(object, &path.keys)
}

/// Whether the object has these keys; a key without name is the first.
pub(crate) fn has_keys(object: &Object, keys: &BTreeMap<String, String>) -> bool {
    keys.iter().all(|(name, value)| {
        let key = if name.is_empty() {
            object.class.keys().next()
        } else {
            object
                .class
                .keys()
                .find(|key| key.name.eq_ignore_ascii_case(name))
        };
        key.and_then(|key| object.get(key.name).map(|held| (key, held)))
            .is_some_and(|(key, held)| same_key(key, held, value))
    })
}

fn same_key(property: &Property, held: &Value, wanted: &str) -> bool {
    if property.cim_type == CimType::Reference {
        let paths = (held.as_text().map(str::parse), wanted.parse());
        return matches!(paths, (Some(Ok(one)), Ok(two)) if same_object(&one, &two));
    }
    held.wire_text().to_lowercase() == wanted.to_lowercase()
}

/// Whether both paths name the same object; `.` is this host.
pub(crate) fn same_object(one: &ObjectPath, two: &ObjectPath) -> bool {
    let bare = |path: &ObjectPath| {
        let mut path = path.clone();
        path.host = path.host.filter(|host| host != ".");
        path
    };
    bare(one).same_object(&bare(two))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_paths_name_objects_in_any_case() {
        let object = Object::new(schema::v2("Msvm_ConcreteJob")).with("InstanceID", r"AB\C");
        for (text, expected) in [
            ("msvm_concretejob.instanceid='ab\\\\c'", true),
            (
                r#"\\hv01\Root\Virtualization\V2:CIM_Job.InstanceID="AB\\C""#,
                true,
            ),
            (
                r#"\\.\root\virtualization\v2:Msvm_ConcreteJob.InstanceID="AB\\C""#,
                true,
            ),
            ("Msvm_ConcreteJob", true),
            ("Msvm_ConcreteJob.InstanceID='AB'", false),
            (
                r#"\\other\root\virtualization\v2:Msvm_ConcreteJob.InstanceID="AB\\C""#,
                false,
            ),
        ] {
            assert_eq!(
                names(&text.parse().unwrap(), &object, "HV01"),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn numbers_that_do_not_fit_their_type_are_refused() {
        assert_eq!(
            Value::parse(CimType::Unsigned(16), "65535"),
            Some(Value::Unsigned(65535))
        );
        assert_eq!(Value::parse(CimType::Unsigned(16), "65536"), None);
        assert_eq!(
            Value::parse(CimType::Signed(8), "-128"),
            Some(Value::Signed(-128))
        );
        assert_eq!(Value::parse(CimType::Signed(8), "128"), None);
        assert_eq!(
            Value::parse(CimType::Boolean, "False"),
            Some(Value::Bool(false))
        );
    }
}
