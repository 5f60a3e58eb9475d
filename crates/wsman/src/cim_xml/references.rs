//! References inside CIM-XML: `VALUE.REFERENCE` as elements, or as the text of a path.

use roxmltree::Node;

use super::named;
use crate::xml::{NodeExt, Writer};
use crate::{Epr, MessageError, ObjectPath, Selector, Selectors, Value, uri};

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

/// Reads `VALUE.REFERENCE`: a reference, or text where it is the path of no object.
pub(super) fn read_reference(node: Node<'_, '_>) -> Result<Value, MessageError> {
    if let Some(epr) = read_epr(node)? {
        return Ok(Value::Epr(epr));
    }
    let text = node.trimmed()?;
    Ok(match text.parse::<ObjectPath>() {
        Ok(path) if path.namespace.is_some() && !path.keys.is_empty() => Value::Epr(path.to_epr()),
        _ => Value::Text(text),
    })
}

fn read_epr(node: Node<'_, '_>) -> Result<Option<Epr>, MessageError> {
    let path = named(node, "INSTANCEPATH").or_else(|| named(node, "LOCALINSTANCEPATH"));
    let outer = path.unwrap_or(node);
    let Some(instance) = named(outer, "INSTANCENAME") else {
        return Ok(None);
    };
    let class = instance
        .attribute("CLASSNAME")
        .ok_or(MessageError::Missing {
            what: "CLASSNAME attribute",
        })?;
    // An INSTANCEPATH has the local path beside the host in a path of its own.
    let namespace = named(outer, "NAMESPACEPATH").unwrap_or(outer);
    let namespace = named(namespace, "LOCALNAMESPACEPATH").map_or_else(String::new, |path| {
        let parts = path.elements().filter_map(|part| part.attribute("NAME"));
        parts.collect::<Vec<_>>().join("/")
    });
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
    Ok(Some(Epr {
        address: uri::ANONYMOUS.to_owned(),
        resource_uri: uri::class_uri(&namespace, class),
        selectors,
    }))
}
