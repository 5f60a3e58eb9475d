//! Objects on their way to and from messages.

use std::collections::BTreeMap;

use wsman::{CimTime, Epr, Instance, ObjectPath};

use super::object::{Object, Value};
use super::schema::{self, CimType, Class, Property};

/// What hosts do differently from one another when they write an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Whether NULL arrays are one nil element; left out otherwise.
    pub(crate) nil_arrays: bool,
    /// Time zone of datetimes in minutes east of UTC; `Z` for 0.
    pub(crate) offset_minutes: i16,
    /// Whether paths within texts say `Root\Virtualization\V2`.
    pub(crate) capital_paths: bool,
}

/// Writes an object as a message holds it: scalars that are NULL are there as nil.
pub(crate) fn instance(object: &Object, manner: Manner) -> Instance {
    let mut instance = Instance::new(object.class.name);
    for (property, value) in object.properties() {
        match value {
            Some(value) => instance.set(property.name, wire_value(property, value, manner)),
            None if property.array && !manner.nil_arrays => {}
            None => instance.set(property.name, wsman::Value::Null),
        }
    }
    instance
}

/// Writes an object as CIM-XML text; NULL properties are left out.
pub(crate) fn to_cim_xml(object: &Object) -> String {
    let mut instance = Instance::new(object.class.name);
    for (property, value) in object.properties() {
        if let Some(value) = value {
            instance.set(
                property.name,
                wire_value(property, value, Manner::default()),
            );
        }
    }
    instance.to_cim_xml()
}

fn wire_value(property: &Property, value: &Value, manner: Manner) -> wsman::Value {
    match value {
        Value::List(items) => wsman::Value::Array(
            items
                .iter()
                .map(|item| wire_value(property, item, manner))
                .collect(),
        ),
        Value::Embedded(bag) => {
            let mut instance = Instance::new(&bag.class);
            for (name, value) in &bag.props {
                instance.set(name, wsman::Value::Text(value.wire_text()));
            }
            wsman::Value::Instance(instance)
        }
        Value::Bool(_) | Value::Unsigned(_) | Value::Signed(_) | Value::Text(_) => {
            let plain = wire_scalar(property.cim_type, value);
            if let wsman::Value::Time(CimTime::Moment(moment)) = plain
                && manner.offset_minutes != 0
            {
                return CimTime::Moment(moment.at_offset(manner.offset_minutes)).into();
            }
            if let (wsman::Value::Text(text), true) = (&plain, manner.capital_paths) {
                return wsman::Value::Text(with_capitals(text));
            }
            plain
        }
    }
}

/// Writes the namespace of a path of this host the way some of its providers do.
fn with_capitals(text: &str) -> String {
    const PLAIN: &str = r"\root\virtualization\v2:";
    match text.find(PLAIN) {
        Some(at) if text.starts_with(r"\\") => {
            format!(
                r"{}\Root\Virtualization\V2:{}",
                &text[..at],
                &text[at + PLAIN.len()..]
            )
        }
        Some(_) | None => text.to_owned(),
    }
}

fn wire_scalar(cim_type: CimType, value: &Value) -> wsman::Value {
    let text = || wsman::Value::Text(value.wire_text());
    let number = |bits: u8, number: u64| match bits {
        8 => u8::try_from(number).map(wsman::Value::U8).ok(),
        16 => u16::try_from(number).map(wsman::Value::U16).ok(),
        32 => u32::try_from(number).map(wsman::Value::U32).ok(),
        _ => Some(wsman::Value::U64(number)),
    };
    match cim_type {
        CimType::Boolean => value.as_bool().map_or_else(text, wsman::Value::Bool),
        CimType::Unsigned(bits) => value
            .as_u64()
            .and_then(|value| number(bits, value))
            .unwrap_or_else(text),
        CimType::Signed(_) => match value {
            Value::Signed(number) => wsman::Value::I64(*number),
            Value::Bool(_)
            | Value::Unsigned(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Embedded(_) => text(),
        },
        CimType::Text | CimType::Object => text(),
        CimType::Datetime => value
            .as_text()
            .and_then(|text| CimTime::parse(text).ok())
            .map_or_else(text, Into::into),
        CimType::Reference => value
            .as_text()
            .and_then(|text| text.parse().ok())
            .map_or_else(text, |path| epr_of_path(&path).into()),
    }
}

/// Writes a reference as the host does, with `__cimnamespace`.
pub(crate) fn epr_of_path(path: &ObjectPath) -> Epr {
    let namespace = path
        .namespace
        .as_deref()
        .and_then(schema::known_namespace)
        .unwrap_or(schema::V2);
    let mut epr = Epr::new(namespace, &path.class).with("__cimnamespace", namespace);
    for (name, value) in &path.keys {
        epr = epr.with(name, value);
    }
    epr
}

/// An embedded instance that came in: its class, and the properties it sets.
#[derive(Clone, Debug)]
pub(crate) struct Embedded {
    pub(crate) class: &'static Class,
    pub(crate) given: BTreeMap<String, Value>,
}

impl Embedded {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.given.get(name).and_then(Value::as_text)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.given.get(name).and_then(Value::as_u64)
    }

    /// Returns the first text of an array property.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.given
            .get(name)
            .and_then(|value| value.items().first())
            .and_then(Value::as_text)
    }
}

/// Reads CIM-XML text. What is wrong with it is in the error.
pub(crate) fn read_embedded(text: &str) -> Result<Embedded, String> {
    let instance =
        Instance::from_cim_xml(text).map_err(|err| format!("no CIM-XML instance: {err}"))?;
    read_instance(&instance)
}

/// Reads an instance against its class: known properties only, of the right type, NULL as not given.
fn read_instance(instance: &Instance) -> Result<Embedded, String> {
    let class = schema::find(schema::V2, &instance.class)
        .ok_or_else(|| format!("no class {}", instance.class))?;
    let mut given = BTreeMap::new();
    for (name, value) in instance.iter() {
        if name.starts_with("__") {
            continue;
        }
        let property = class
            .property(name)
            .ok_or_else(|| format!("{} has no property {name}", class.name))?;
        if let Some(value) = read_value(property, value)? {
            given.insert(name.to_owned(), value);
        }
    }
    Ok(Embedded { class, given })
}

fn read_value(property: &Property, value: &wsman::Value) -> Result<Option<Value>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let mut items = Vec::new();
    for item in value.items() {
        items.push(read_scalar(property, item)?);
    }
    Ok(match (property.array, items.pop()) {
        (true, None) => Some(Value::List(Vec::new())),
        (true, Some(last)) => {
            items.push(last);
            Some(Value::List(items))
        }
        (false, None) => None,
        (false, Some(only)) if items.is_empty() => Some(only),
        (false, Some(_)) => return Err(format!("{} is no array", property.name)),
    })
}

fn read_scalar(property: &Property, value: &wsman::Value) -> Result<Value, String> {
    let text = match value.as_epr() {
        Some(epr) => epr.to_path().to_string(),
        None => value
            .to_text()
            .ok_or_else(|| format!("{} has no plain value", property.name))?,
    };
    Value::parse(property.cim_type, &text).ok_or_else(|| {
        format!(
            "{} does not take {text:?}: it is a {}",
            property.name,
            property.cim_type.name()
        )
    })
}
