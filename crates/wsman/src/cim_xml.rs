//! Embedded instances as CIM-XML text: one typed writer (CIM DTD 2.0), a tolerant reader (also WMI DTD 2.0).
//!
//! Qualifiers, origins and marks of change that Windows writes are read over. Invariant: what was read and is written
//! again reads the same, apart from a type that did not fit its value.

mod prolog;
mod references;

pub(crate) use prolog::skip_prolog;
use references::{read_reference, write_reference};

use roxmltree::Node;

use crate::xml::{self, NodeExt, Writer};
use crate::{CimTime, Instance, MessageError, Value};

impl Instance {
    /// Writes the object as a CIM-XML text. NULL properties are written as such: leave out what shall stay as it is.
    #[must_use]
    pub fn to_cim_xml(&self) -> String {
        let mut w = Writer::default();
        w.open_with("INSTANCE", &[("CLASSNAME", &self.class)]);
        for (name, value) in self.iter() {
            if let Value::Epr(epr) = value {
                w.open_with(
                    "PROPERTY.REFERENCE",
                    &[("NAME", name), ("REFERENCECLASS", epr.class())],
                );
                write_reference(&mut w, epr);
                w.close("PROPERTY.REFERENCE");
            } else if let Value::Array(items) = value {
                let cim_type = items
                    .iter()
                    .find(|item| !item.is_null())
                    .map_or("string", cim_type);
                w.open_with("PROPERTY.ARRAY", &[("NAME", name), ("TYPE", cim_type)]);
                w.open("VALUE.ARRAY");
                for item in items {
                    if let Value::Epr(epr) = item {
                        write_reference(&mut w, epr);
                        continue;
                    }
                    match scalar_text(item) {
                        Some(text) => w.leaf("VALUE", &text),
                        None => w.empty_with("VALUE.NULL", &[]),
                    }
                }
                w.close("VALUE.ARRAY");
                w.close("PROPERTY.ARRAY");
            } else {
                w.open_with("PROPERTY", &[("NAME", name), ("TYPE", cim_type(value))]);
                if let Some(text) = scalar_text(value) {
                    w.leaf("VALUE", &text);
                }
                w.close("PROPERTY");
            }
        }
        w.close("INSTANCE");
        w.finish()
    }

    /// Reads an object from a CIM-XML text, with or without XML declaration or document type. Elements it does not
    /// know are skipped; a value that does not fit its declared type is kept as text.
    pub fn from_cim_xml(text: &str) -> Result<Self, MessageError> {
        let document = xml::parse(skip_prolog(text)?)?;
        let instance = document
            .descendants()
            .find(|node| node.tag_name().name() == "INSTANCE")
            .ok_or(MessageError::Missing {
                what: "INSTANCE element",
            })?;
        let class = instance
            .attribute("CLASSNAME")
            .ok_or(MessageError::Missing {
                what: "CLASSNAME attribute",
            })?;
        let mut out = Instance::new(class);
        for property in instance.elements() {
            let Some(name) = property.attribute("NAME") else {
                continue;
            };
            let cim_type = property.attribute("TYPE").unwrap_or("string");
            let value = match property.tag_name().name() {
                "PROPERTY" => match named(property, "VALUE") {
                    Some(value) => typed(cim_type, value.own_text()?),
                    None => Value::Null,
                },
                "PROPERTY.ARRAY" => match named(property, "VALUE.ARRAY") {
                    Some(array) => read_array(cim_type, array)?,
                    None => Value::Null,
                },
                "PROPERTY.REFERENCE" => match named(property, "VALUE.REFERENCE") {
                    Some(reference) => read_reference(reference)?,
                    None => Value::Null,
                },
                _ => continue,
            };
            out.set(name, value);
        }
        Ok(out)
    }
}

fn named<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.elements()
        .find(|child| child.tag_name().name() == name)
}

/// Reads the items of an array. Where one does not fit the type, or is a reference, the others are kept as text.
fn read_array(cim_type: &str, array: Node<'_, '_>) -> Result<Value, MessageError> {
    let mut items = Vec::new();
    for item in array.elements() {
        items.push(match item.tag_name().name() {
            "VALUE" => Value::Text(item.own_text()?),
            "VALUE.REFERENCE" => read_reference(item)?,
            _ => Value::Null,
        });
    }
    let fit = |item: &Value| match item.as_text() {
        Some(text) => {
            Some(typed(cim_type, text.to_owned())).filter(|value| value.as_text().is_none())
        }
        None => item.is_null().then_some(Value::Null),
    };
    let typed = items.iter().map(fit).collect::<Option<_>>();
    Ok(Value::Array(typed.unwrap_or(items)))
}

fn cim_type(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "boolean",
        Value::U8(_) => "uint8",
        Value::U16(_) => "uint16",
        Value::U32(_) => "uint32",
        Value::U64(_) => "uint64",
        Value::I8(_) => "sint8",
        Value::I16(_) => "sint16",
        Value::I32(_) => "sint32",
        Value::I64(_) => "sint64",
        Value::F32(_) => "real32",
        Value::F64(_) => "real64",
        Value::Time(_) => "datetime",
        Value::Null | Value::Text(_) | Value::Epr(_) | Value::Instance(_) | Value::Array(_) => {
            "string"
        }
    }
}

fn scalar_text(value: &Value) -> Option<String> {
    if let Value::Bool(value) = value {
        Some(if *value { "TRUE" } else { "FALSE" }.to_owned())
    } else if let Value::Instance(instance) = value {
        Some(instance.to_cim_xml())
    } else {
        value.to_text()
    }
}

fn typed(cim_type: &str, text: String) -> Value {
    fn number<T: std::str::FromStr + Into<Value>>(text: &str) -> Option<Value> {
        text.trim().parse::<T>().ok().map(Into::into)
    }
    let value = match cim_type.to_ascii_lowercase().as_str() {
        "boolean" => Value::Text(text.clone()).as_bool().map(Value::Bool),
        "uint8" => number::<u8>(&text),
        "uint16" => number::<u16>(&text),
        "uint32" => number::<u32>(&text),
        "uint64" => number::<u64>(&text),
        "sint8" => number::<i8>(&text),
        "sint16" => number::<i16>(&text),
        "sint32" => number::<i32>(&text),
        "sint64" => number::<i64>(&text),
        "real32" => number::<f32>(&text),
        "real64" => number::<f64>(&text),
        "datetime" => CimTime::parse(&text).ok().map(Value::Time),
        _ => None,
    };
    value.unwrap_or(Value::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_windows_writes_is_read() {
        let text = r#"<?xml version="1.0" encoding="utf-8"?>
            <!DOCTYPE CIM PUBLIC "SYSTEM" "CIM_DTD_V20.dtd">
            <INSTANCE CLASSNAME="Msvm_VirtualHardDiskSettingData"><QUALIFIER NAME="dynamic" TYPE="boolean"><VALUE>TRUE</VALUE></QUALIFIER>
            <PROPERTY NAME="Path" CLASSORIGIN="X" PROPAGATED="true" TYPE="string"><QUALIFIER NAME="read"/><VALUE>C:\a &amp; b.vhdx</VALUE></PROPERTY>
            <PROPERTY NAME="ParentPath" TYPE="string"></PROPERTY>
            <PROPERTY NAME="Type" TYPE="uint16" MODIFIED="TRUE"><VALUE>3</VALUE></PROPERTY>
            <PROPERTY NAME="On" TYPE="boolean"><VALUE>true</VALUE></PROPERTY>
            <PROPERTY NAME="Odd" TYPE="uint8"><VALUE>300</VALUE></PROPERTY>
            <PROPERTY.ARRAY NAME="A" TYPE="uint16"><VALUE.ARRAY><VALUE>1</VALUE><VALUE.NULL/></VALUE.ARRAY></PROPERTY.ARRAY>
            <PROPERTY.ARRAY NAME="B" TYPE="uint8"><VALUE.ARRAY><VALUE>1</VALUE><VALUE>300</VALUE></VALUE.ARRAY></PROPERTY.ARRAY>
            <PROPERTY.ARRAY NAME="N" TYPE="uint16"></PROPERTY.ARRAY>
            <PROPERTY.OBJECT NAME="O"><VALUE.OBJECT/></PROPERTY.OBJECT>
            <PROPERTY.REFERENCE NAME="R" REFERENCECLASS="X"><VALUE.REFERENCE><INSTANCEPATH><NAMESPACEPATH><HOST>HV01</HOST>
            <LOCALNAMESPACEPATH><NAMESPACE NAME="root"/><NAMESPACE NAME="cimv2"/></LOCALNAMESPACEPATH></NAMESPACEPATH>
            <INSTANCENAME CLASSNAME="Win32_Volume"><KEYBINDING NAME="DeviceID"><KEYVALUE VALUETYPE="string">\\?\a</KEYVALUE></KEYBINDING>
            </INSTANCENAME></INSTANCEPATH></VALUE.REFERENCE></PROPERTY.REFERENCE>
            <PROPERTY.REFERENCE NAME="S"><VALUE.REFERENCE>\\HV01\root\cimv2:Win32_Volume.DeviceID="\\\\?\\a"</VALUE.REFERENCE></PROPERTY.REFERENCE>
            <PROPERTY.REFERENCE NAME="T"><VALUE.REFERENCE>x</VALUE.REFERENCE></PROPERTY.REFERENCE>
            <PROPERTY.REFERENCE NAME="U"/></INSTANCE>"#;
        let read = Instance::from_cim_xml(text).unwrap();
        assert_eq!(read.class, "Msvm_VirtualHardDiskSettingData");
        assert_eq!(read.text("Path"), Some(r"C:\a & b.vhdx"));
        assert!(read.get("ParentPath").is_null());
        assert_eq!(read.u16("Type"), Some(3));
        assert_eq!(read.get("On"), &Value::Bool(true));
        assert_eq!(read.text("Odd"), Some("300"));
        assert_eq!(read.items("A"), [Value::U16(1), Value::Null]);
        assert_eq!(read.texts("B"), ["1", "300"]);
        assert!(read.get("N").is_null() && read.get("U").is_null() && !read.contains("O"));
        let volume = crate::Epr::new("root/cimv2", "Win32_Volume").with("DeviceID", r"\\?\a");
        assert_eq!(read.epr("R"), Some(&volume));
        assert_eq!(read.epr("S"), Some(&volume));
        assert_eq!(read.text("T"), Some("x"));
        assert_eq!(
            Instance::from_cim_xml(&read.to_cim_xml()).unwrap().epr("R"),
            Some(&volume)
        );
    }

    #[test]
    fn types_are_written() {
        let instance = Instance::new("C")
            .with("A", 7_u16)
            .with("B", true)
            .with("C", "<x>")
            .with("D", Value::texts(["y"]));
        assert_eq!(
            instance.to_cim_xml(),
            "<INSTANCE CLASSNAME=\"C\"><PROPERTY NAME=\"A\" TYPE=\"uint16\"><VALUE>7</VALUE></PROPERTY>\
             <PROPERTY NAME=\"B\" TYPE=\"boolean\"><VALUE>TRUE</VALUE></PROPERTY>\
             <PROPERTY NAME=\"C\" TYPE=\"string\"><VALUE>&lt;x&gt;</VALUE></PROPERTY>\
             <PROPERTY.ARRAY NAME=\"D\" TYPE=\"string\"><VALUE.ARRAY><VALUE>y</VALUE></VALUE.ARRAY></PROPERTY.ARRAY></INSTANCE>"
        );
    }

    #[test]
    fn entities_are_refused() {
        let bomb = "<!DOCTYPE x [<!ENTITY a 'b'>]><INSTANCE CLASSNAME='C'/>";
        assert!(Instance::from_cim_xml(bomb).is_err());
        for wrong in [
            "",
            "<x/>",
            "<INSTANCE/>",
            "<INSTANCE CLASSNAME='C'>",
            "plain",
        ] {
            assert!(Instance::from_cim_xml(wrong).is_err(), "{wrong}");
        }
    }
}
