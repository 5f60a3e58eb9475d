//! Values, objects, references and selectors as elements.

use std::borrow::Cow;
use std::collections::BTreeMap;

use roxmltree::Node;

use crate::xml::{self, NodeExt, Writer};
use crate::{CimTime, Epr, Instance, MessageError, Properties, Selector, Selectors, Value, uri};

const TYPE_SUFFIX: &str = "_Type";

/// Writes an object as an element with its own class as namespace.
pub(super) fn write_instance(w: &mut Writer, namespace: &str, instance: &Instance) {
    let class = xml::name(&instance.class);
    let tag = format!("p:{class}");
    let class_uri = uri::class_uri(namespace, &class);
    w.open_with(
        &tag,
        &[
            ("xmlns:p", &class_uri),
            ("xsi:type", &format!("p:{class}{TYPE_SUFFIX}")),
        ],
    );
    write_properties(w, instance);
    w.close(&tag);
}

/// Writes properties or parameters with the prefix `p`, which is declared outside.
pub(super) fn write_properties(w: &mut Writer, properties: &Properties) {
    for (name, value) in properties.iter() {
        write_value(w, &format!("p:{}", xml::name(name)), value);
    }
}

fn write_value(w: &mut Writer, tag: &str, value: &Value) {
    match value {
        Value::Null => w.empty_with(tag, &[("xsi:nil", "true")]),
        Value::Array(items) => items.iter().for_each(|item| write_value(w, tag, item)),
        Value::Epr(epr) => {
            w.open(tag);
            write_epr_content(w, epr);
            w.close(tag);
        }
        Value::Instance(instance) => {
            let type_name = format!("p:{}{TYPE_SUFFIX}", xml::name(&instance.class));
            w.open_with(tag, &[("xsi:type", &type_name)]);
            write_properties(w, instance);
            w.close(tag);
        }
        Value::Time(time) => {
            let kind = match time {
                CimTime::Moment(_) => "cim:Datetime",
                CimTime::Interval(_) => "cim:Interval",
            };
            w.open(tag);
            w.leaf(kind, &time.to_xml());
            w.close(tag);
        }
        scalar @ (Value::Text(_)
        | Value::Bool(_)
        | Value::U8(_)
        | Value::U16(_)
        | Value::U32(_)
        | Value::U64(_)
        | Value::I8(_)
        | Value::I16(_)
        | Value::I32(_)
        | Value::I64(_)
        | Value::F32(_)
        | Value::F64(_)) => w.leaf(tag, &scalar.to_text().unwrap_or_default()),
    }
}

/// Writes `a:EndpointReference`.
pub(super) fn write_epr(w: &mut Writer, epr: &Epr) {
    w.open("a:EndpointReference");
    write_epr_content(w, epr);
    w.close("a:EndpointReference");
}

fn write_epr_content(w: &mut Writer, epr: &Epr) {
    w.leaf("a:Address", &epr.address);
    w.open("a:ReferenceParameters");
    w.leaf("w:ResourceURI", &epr.resource_uri);
    write_selectors(w, &epr.selectors);
    w.close("a:ReferenceParameters");
}

/// Writes `w:SelectorSet`, or nothing where there are no selectors.
pub(super) fn write_selectors(w: &mut Writer, selectors: &Selectors) {
    if selectors.is_empty() {
        return;
    }
    w.open("w:SelectorSet");
    for (name, value) in &selectors.0 {
        let attributes = [("Name", name.as_str())];
        match value {
            Selector::Text(text) => w.leaf_with("w:Selector", &attributes, text),
            Selector::Epr(epr) => {
                w.open_with("w:Selector", &attributes);
                write_epr(w, epr);
                w.close("w:Selector");
            }
        }
    }
    w.close("w:SelectorSet");
}

/// Reads an object; its class is the element's name.
pub(super) fn read_instance(node: Node<'_, '_>) -> Result<Instance, MessageError> {
    Ok(Instance {
        class: node.tag_name().name().to_owned(),
        properties: read_properties(node)?,
    })
}

/// Reads child elements as properties: one name several times is an array.
pub(super) fn read_properties(node: Node<'_, '_>) -> Result<Properties, MessageError> {
    let mut values: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for child in node.elements() {
        values
            .entry(child.tag_name().name())
            .or_default()
            .push(read_value(child)?);
    }
    Ok(values
        .into_iter()
        .map(|(name, mut items)| match items.len() {
            1 => (name, items.pop().unwrap_or(Value::Null)),
            _ => (name, Value::Array(items)),
        })
        .collect())
}

fn read_value(node: Node<'_, '_>) -> Result<Value, MessageError> {
    if node.nil() {
        return Ok(Value::Null);
    }
    let Some(first) = node.elements().next() else {
        return Ok(match embedded_class(node) {
            Some(class) => Value::Instance(Instance::new(class)),
            None => Value::Text(node.own_text()?),
        });
    };
    match first.tag_name().namespace() {
        Some(uri::ADDRESSING) => {
            let content = if first.named(uri::ADDRESSING, "EndpointReference") {
                first
            } else {
                node
            };
            Ok(Value::Epr(read_epr(content)?))
        }
        Some(uri::CIM) => {
            let text = first.trimmed()?;
            Ok(CimTime::parse(&text).map_or(Value::Text(text), Value::Time))
        }
        namespace => {
            let class = embedded_class(node)
                .or_else(|| {
                    namespace
                        .and_then(uri::split_class_uri)
                        .filter(|(_, class)| xml::is_name(class))
                        .map(|(_, class)| class.into())
                })
                .unwrap_or_else(|| node.tag_name().name().into());
            Ok(Value::Instance(Instance {
                class: class.into_owned(),
                properties: read_properties(node)?,
            }))
        }
    }
}

/// The class an element says it holds, by `xsi:type="p:Class_Type"`.
fn embedded_class<'a>(node: Node<'a, '_>) -> Option<Cow<'a, str>> {
    let type_name = node.attribute((uri::XSI, "type"))?.trim();
    let local = type_name
        .rsplit_once(':')
        .map_or(type_name, |(_, local)| local);
    local
        .strip_suffix(TYPE_SUFFIX)
        .filter(|class| xml::is_name(class))
        .map(Cow::Borrowed)
}

/// Reads the content of a reference: address, resource URI, selectors.
pub(super) fn read_epr(node: Node<'_, '_>) -> Result<Epr, MessageError> {
    let parameters = node
        .child(uri::ADDRESSING, "ReferenceParameters")
        .or_else(|| node.child(uri::ADDRESSING, "ReferenceProperties"))
        .ok_or(MessageError::Missing {
            what: "a:ReferenceParameters of a reference",
        })?;
    let resource_uri =
        parameters
            .child_text(uri::WSMAN, "ResourceURI")?
            .ok_or(MessageError::Missing {
                what: "w:ResourceURI of a reference",
            })?;
    let selectors = match parameters.child(uri::WSMAN, "SelectorSet") {
        Some(set) => read_selectors(set)?,
        None => Selectors::new(),
    };
    let address = node
        .child_text(uri::ADDRESSING, "Address")?
        .unwrap_or_default();
    Ok(Epr {
        address,
        resource_uri,
        selectors,
    })
}

/// Reads `w:SelectorSet`.
pub(super) fn read_selectors(set: Node<'_, '_>) -> Result<Selectors, MessageError> {
    let mut selectors = Selectors::new();
    for node in set
        .elements()
        .filter(|node| node.named(uri::WSMAN, "Selector"))
    {
        let name = node.attribute("Name").ok_or(MessageError::Missing {
            what: "Name of a selector",
        })?;
        let value = match node.child(uri::ADDRESSING, "EndpointReference") {
            Some(epr) => Selector::Epr(Box::new(read_epr(epr)?)),
            None => Selector::Text(node.own_text()?),
        };
        selectors.0.insert(name.to_owned(), value);
    }
    Ok(selectors)
}
