//! CIM values.
//!
//! On the WS-Management wire a scalar has no type: what arrives is [`Value::Text`], read with [`Value::as_u64`] and
//! its kin, which take typed and untyped values alike. CIM-XML text carries types both ways.

use crate::{CimTime, Epr, Instance};

/// A value of a property or parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value. A NULL array is the same: absent, and one `nil` element, both read as this.
    Null,
    /// Text, or a scalar whose type the message did not say.
    Text(String),
    /// `boolean`
    Bool(bool),
    /// `uint8`
    U8(u8),
    /// `uint16`
    U16(u16),
    /// `uint32`
    U32(u32),
    /// `uint64`
    U64(u64),
    /// `sint8`
    I8(i8),
    /// `sint16`
    I16(i16),
    /// `sint32`
    I32(i32),
    /// `sint64`
    I64(i64),
    /// `real32`
    F32(f32),
    /// `real64`
    F64(f64),
    /// `datetime`
    Time(CimTime),
    /// A reference to an object.
    Epr(Epr),
    /// An embedded object written as nested elements (CIM-XML text is [`Value::Text`]).
    Instance(Instance),
    /// Several values. On the wire one item and an array of one look the same: readers use [`Value::items`].
    Array(Vec<Value>),
}

impl Value {
    /// Returns a text value.
    pub fn text(text: impl Into<String>) -> Self {
        Value::Text(text.into())
    }

    /// Returns an embedded-instance parameter: the CIM-XML document as text.
    #[must_use]
    pub fn embedded(instance: &Instance) -> Self {
        Value::Text(instance.to_cim_xml())
    }

    /// Returns an array of texts.
    pub fn texts<I>(texts: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Value::Array(texts.into_iter().map(Value::text).collect())
    }

    /// Returns whether there is no value.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Returns the text of a text value.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        self.single().and_then(|value| {
            if let Value::Text(text) = value {
                Some(text.as_str())
            } else {
                None
            }
        })
    }

    /// Returns the scalar as the text it has on the wire; `None` for NULL, references, objects and arrays.
    #[must_use]
    pub fn to_text(&self) -> Option<String> {
        Some(match self {
            Value::Text(text) => text.clone(),
            Value::Bool(value) => value.to_string(),
            Value::U8(value) => value.to_string(),
            Value::U16(value) => value.to_string(),
            Value::U32(value) => value.to_string(),
            Value::U64(value) => value.to_string(),
            Value::I8(value) => value.to_string(),
            Value::I16(value) => value.to_string(),
            Value::I32(value) => value.to_string(),
            Value::I64(value) => value.to_string(),
            Value::F32(value) => real_text(f64::from(*value), value.to_string()),
            Value::F64(value) => real_text(*value, value.to_string()),
            Value::Time(time) => time.to_dmtf(),
            Value::Null | Value::Epr(_) | Value::Instance(_) | Value::Array(_) => return None,
        })
    }

    /// Returns the value as an unsigned number, where it is one.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        let single = self.single()?;
        if let Value::Text(text) = single {
            text.trim().parse().ok()
        } else {
            single.to_text()?.parse().ok()
        }
    }

    /// Returns the value as a 32-bit unsigned number, where it fits.
    #[must_use]
    pub fn as_u32(&self) -> Option<u32> {
        self.as_u64()?.try_into().ok()
    }

    /// Returns the value as a 16-bit unsigned number, where it fits.
    #[must_use]
    pub fn as_u16(&self) -> Option<u16> {
        self.as_u64()?.try_into().ok()
    }

    /// Returns the value as a boolean; text in any case (`False` is sent by real clients).
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        let text = self.single()?.to_text()?;
        let text = text.trim();
        match () {
            () if text.eq_ignore_ascii_case("true") || text == "1" => Some(true),
            () if text.eq_ignore_ascii_case("false") || text == "0" => Some(false),
            () => None,
        }
    }

    /// Returns the value as a time; text in the DMTF or the XML form.
    #[must_use]
    pub fn as_time(&self) -> Option<CimTime> {
        let single = self.single()?;
        if let Value::Time(time) = single {
            Some(*time)
        } else {
            CimTime::parse(single.as_text()?).ok()
        }
    }

    /// Returns the reference.
    #[must_use]
    pub fn as_epr(&self) -> Option<&Epr> {
        self.single().and_then(|value| {
            if let Value::Epr(epr) = value {
                Some(epr)
            } else {
                None
            }
        })
    }

    /// Returns the embedded object that was written as elements.
    #[must_use]
    pub fn as_instance(&self) -> Option<&Instance> {
        self.single().and_then(|value| {
            if let Value::Instance(instance) = value {
                Some(instance)
            } else {
                None
            }
        })
    }

    /// Returns the embedded object, be it nested elements or CIM-XML text.
    #[must_use]
    pub fn to_instance(&self) -> Option<Instance> {
        let single = self.single()?;
        if let Value::Instance(instance) = single {
            Some(instance.clone())
        } else {
            Instance::from_cim_xml(single.as_text()?).ok()
        }
    }

    /// Returns the items of an array; a single value is an array of one, NULL is none.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        if let Value::Array(items) = self {
            items
        } else if self.is_null() {
            &[]
        } else {
            std::slice::from_ref(self)
        }
    }

    /// The value itself, or the only item of an array of one.
    fn single(&self) -> Option<&Value> {
        let Value::Array(items) = self else {
            return Some(self);
        };
        items
            .first()
            .filter(|only| items.len() == 1 && !matches!(only, Value::Array(_)))
    }
}

/// The text of `xs:double`: as Rust has it, but for what is no number.
fn real_text(value: f64, finite: String) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "INF" } else { "-INF" }.to_owned()
    } else {
        finite
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Value::$variant(value)
            }
        })*
    };
}

from!(
    String => Text, bool => Bool, u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32,
    i64 => I64, f32 => F32, f64 => F64, CimTime => Time, Epr => Epr, Instance => Instance, Vec<Value> => Array,
);

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}
