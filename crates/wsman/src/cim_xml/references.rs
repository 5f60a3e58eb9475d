//! References inside CIM-XML: `VALUE.REFERENCE` as elements, or as the text of a path.

use roxmltree::Node;

use super::named;
use crate::xml::{NodeExt, Writer};
use crate::{Epr, MessageError, ObjectPath, Selector, Selectors, Value};

/// Writes `VALUE.REFERENCE`.
pub(super) fn write_reference(w: &mut Writer, epr: &Epr) {
    w.open("VALUE.REFERENCE");
    w.open("LOCALINSTANCEPATH");
    w.open("LOCALNAMESPACEPATH");
    for part in epr.namespace().split('/') {
        w.empty_with("NAMESPACE", &[("NAME", part)]);
    }
    w.close("LOCALNAMESPACEPATH");
    w.open_with("INSTANCENAME", &[("CLASSNAME", epr.class())]);
    for (name, key) in &epr.selectors.0 {
        w.open_with("KEYBINDING", &[("NAME", name)]);
        match key {
            Selector::Text(text) => w.leaf_with("KEYVALUE", &[("VALUETYPE", "string")], text),
            Selector::Epr(epr) => write_reference(w, epr),
        }
        w.close("KEYBINDING");
    }
    w.close("INSTANCENAME");
    w.close("LOCALINSTANCEPATH");
    w.close("VALUE.REFERENCE");
}

/// Reads `VALUE.REFERENCE`: a reference, or text where it names no namespace or is no path of an object.
pub(super) fn read_reference(node: Node<'_, '_>) -> Result<Value, MessageError> {
    let outer = named(node, "INSTANCEPATH").or_else(|| named(node, "LOCALINSTANCEPATH"));
    let outer = outer.unwrap_or(node);
    let Some(instance) = named(outer, "INSTANCENAME") else {
        let text = node.trimmed()?;
        let path = text.parse::<ObjectPath>().ok();
        let epr = path.and_then(|path| path.namespace.is_some().then(|| path.to_epr()));
        return Ok(epr
            .filter(is_complete)
            .map_or(Value::Text(text), Value::Epr));
    };
    let class = instance
        .attribute("CLASSNAME")
        .ok_or(MessageError::Missing {
            what: "CLASSNAME attribute",
        })?;
    let epr = Epr {
        selectors: read_keys(instance)?,
        ..Epr::new(&read_namespace(outer), class)
    };
    Ok(if is_complete(&epr) {
        Value::Epr(epr)
    } else {
        let keys = epr.selectors.texts();
        let path = keys.fold(ObjectPath::new(class), |path, (name, key)| {
            path.with(name, key)
        });
        Value::Text(path.to_string())
    })
}

/// Whether the resource URI of the reference names namespace and class, and nothing else.
fn is_complete(epr: &Epr) -> bool {
    !epr.namespace().is_empty()
        && Epr::new(epr.namespace(), epr.class()).resource_uri == epr.resource_uri
}

/// Reads the namespace; an `INSTANCEPATH` has it beside the host in a path of its own.
fn read_namespace(outer: Node<'_, '_>) -> String {
    let path = named(outer, "NAMESPACEPATH").unwrap_or(outer);
    named(path, "LOCALNAMESPACEPATH").map_or_else(String::new, |path| {
        let parts = path.elements().filter_map(|part| part.attribute("NAME"));
        parts.collect::<Vec<_>>().join("/")
    })
}

fn read_keys(instance: Node<'_, '_>) -> Result<Selectors, MessageError> {
    let mut selectors = Selectors::new();
    for binding in instance.elements() {
        let Some(name) = binding.attribute("NAME") else {
            continue;
        };
        let key = if let Some(reference) = named(binding, "VALUE.REFERENCE") {
            let value = read_reference(reference)?;
            match value.as_epr() {
                Some(epr) => Selector::Epr(Box::new(epr.clone())),
                None => Selector::Text(value.to_text().unwrap_or_default()),
            }
        } else if let Some(value) = named(binding, "KEYVALUE") {
            Selector::Text(value.own_text()?)
        } else {
            continue;
        };
        selectors.0.insert(name.to_owned(), key);
    }
    Ok(selectors)
}
