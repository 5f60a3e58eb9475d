//! Responses as envelopes.

use roxmltree::Node;

use super::{envelope_parts, faults, open_envelope, values};
use crate::xml::{self, NodeExt, Writer};
use crate::{Item, Items, MessageError, Reply, Response, uri};

/// Writes a response.
pub(crate) fn write_response(response: &Response) -> String {
    let mut w = Writer::default();
    open_envelope(&mut w);
    let named = !response.action.is_empty() || !response.message_id.is_empty();
    if !named && response.relates_to.is_none() {
        w.empty_with("s:Header", &[]);
    } else {
        w.open("s:Header");
        w.leaf("a:Action", &response.action);
        w.leaf("a:MessageID", &response.message_id);
        w.leaf("a:To", uri::ANONYMOUS);
        if let Some(request) = &response.relates_to {
            w.leaf("a:RelatesTo", request);
        }
        w.close("s:Header");
    }
    w.open("s:Body");
    write_reply(&mut w, response);
    w.close("s:Body");
    w.close("s:Envelope");
    w.finish()
}

fn write_reply(w: &mut Writer, response: &Response) {
    match &response.reply {
        Reply::Identify { vendor, version } => {
            w.open_with("wsmid:IdentifyResponse", &[("xmlns:wsmid", uri::IDENTITY)]);
            w.leaf("wsmid:ProtocolVersion", uri::WSMAN);
            w.leaf("wsmid:ProductVendor", vendor);
            w.leaf("wsmid:ProductVersion", version);
            w.close("wsmid:IdentifyResponse");
        }
        Reply::Enumerate { batch, optimized } => {
            w.open("n:EnumerateResponse");
            // The context is empty, not absent, where the first batch is the last.
            w.leaf(
                "n:EnumerationContext",
                batch.context.as_deref().unwrap_or_default(),
            );
            if *optimized {
                write_items(w, "w", batch, &response.namespace);
            } else if batch.end {
                w.empty_with("w:EndOfSequence", &[]);
            }
            w.close("n:EnumerateResponse");
        }
        Reply::Pull(batch) => {
            w.open("n:PullResponse");
            if let Some(context) = &batch.context {
                w.leaf("n:EnumerationContext", context);
            }
            write_items(w, "n", batch, &response.namespace);
            w.close("n:PullResponse");
        }
        Reply::Object(instance) => values::write_instance(w, &response.namespace, instance),
        Reply::Empty => {}
        Reply::Invoke { method, outputs } => {
            let tag = format!("p:{}_OUTPUT", xml::name(method));
            w.open_with(
                &tag,
                &[(
                    "xmlns:p",
                    &uri::class_uri(&response.namespace, &response.class),
                )],
            );
            values::write_properties(w, outputs);
            w.close(&tag);
        }
        Reply::Fault(fault) => faults::write_fault(w, fault),
    }
}

fn write_items(w: &mut Writer, prefix: &str, batch: &Items, namespace: &str) {
    let tag = format!("{prefix}:Items");
    w.open(&tag);
    for item in &batch.items {
        match item {
            Item::Object(instance) => values::write_instance(w, namespace, instance),
            Item::Epr(epr) => values::write_epr(w, epr),
            Item::Both(instance, epr) => {
                w.open("w:Item");
                values::write_instance(w, namespace, instance);
                values::write_epr(w, epr);
                w.close("w:Item");
            }
        }
    }
    w.close(&tag);
    if batch.end {
        w.empty_with(&format!("{prefix}:EndOfSequence"), &[]);
    }
}

/// Reads a response.
pub(crate) fn read_response(bytes: &[u8]) -> Result<Response, MessageError> {
    let text = xml::decode(bytes)?;
    let document = xml::parse(&text)?;
    let (header, body) = envelope_parts(&document)?;
    let from_header = |name: &str| match header {
        Some(header) => header.child_text(uri::ADDRESSING, name),
        None => Ok(None),
    };
    let mut response = Response {
        action: from_header("Action")?.unwrap_or_default(),
        message_id: from_header("MessageID")?.unwrap_or_default(),
        relates_to: from_header("RelatesTo")?,
        namespace: String::new(),
        class: String::new(),
        reply: Reply::Empty,
    };
    let Some(content) = body.elements().next() else {
        return Ok(response);
    };
    let source = |node: Node<'_, '_>| {
        let (namespace, class) = node
            .tag_name()
            .namespace()
            .and_then(uri::split_class_uri)
            .unwrap_or_default();
        (uri::forward(namespace), class.to_owned())
    };
    let tag = content.tag_name();
    response.reply = match (tag.namespace(), tag.name()) {
        (Some(uri::SOAP), "Fault") => Reply::Fault(Box::new(faults::read_fault(content)?)),
        (Some(uri::IDENTITY), "IdentifyResponse") => Reply::Identify {
            vendor: content
                .child_text(uri::IDENTITY, "ProductVendor")?
                .unwrap_or_default(),
            version: content
                .child_text(uri::IDENTITY, "ProductVersion")?
                .unwrap_or_default(),
        },
        (Some(uri::ENUMERATION), "EnumerateResponse") => {
            let optimized = content.child(uri::WSMAN, "Items").is_some();
            Reply::Enumerate {
                batch: read_batch(content, uri::WSMAN, &mut response.namespace)?,
                optimized,
            }
        }
        (Some(uri::ENUMERATION), "PullResponse") => Reply::Pull(read_batch(
            content,
            uri::ENUMERATION,
            &mut response.namespace,
        )?),
        (Some(uri::ENUMERATION), "ReleaseResponse") => Reply::Empty,
        (_, name) => match name.strip_suffix("_OUTPUT") {
            Some(method) => {
                (response.namespace, response.class) = source(content);
                Reply::Invoke {
                    method: method.to_owned(),
                    outputs: values::read_properties(content)?,
                }
            }
            None => {
                response.namespace = source(content).0;
                Reply::Object(values::read_instance(content)?)
            }
        },
    };
    Ok(response)
}

fn read_batch(node: Node<'_, '_>, ns: &str, namespace: &mut String) -> Result<Items, MessageError> {
    let context = node
        .child_text(uri::ENUMERATION, "EnumerationContext")?
        .filter(|context| !context.is_empty());
    let mut items = Vec::new();
    for item in node
        .child(ns, "Items")
        .into_iter()
        .flat_map(NodeExt::elements)
    {
        let mut object = |node: Node<'_, '_>| {
            if namespace.is_empty() {
                let (found, _) = node
                    .tag_name()
                    .namespace()
                    .and_then(uri::split_class_uri)
                    .unwrap_or_default();
                *namespace = uri::forward(found);
            }
            values::read_instance(node)
        };
        items.push(if item.named(uri::WSMAN, "Item") {
            let epr = item.child(uri::ADDRESSING, "EndpointReference");
            let epr = epr.ok_or(MessageError::Missing {
                what: "a:EndpointReference of an item",
            })?;
            let instance = item
                .elements()
                .find(|node| !node.named(uri::ADDRESSING, "EndpointReference"));
            let instance = instance.ok_or(MessageError::Missing {
                what: "object of an item",
            })?;
            Item::Both(object(instance)?, values::read_epr(epr)?)
        } else if item.named(uri::ADDRESSING, "EndpointReference") {
            Item::Epr(values::read_epr(item)?)
        } else {
            Item::Object(object(item)?)
        });
    }
    // Each answer has the end in the namespace of its items; one in the other is taken for what it says.
    let end = [uri::WSMAN, uri::ENUMERATION]
        .iter()
        .any(|ns| node.child(ns, "EndOfSequence").is_some());
    Ok(Items {
        context,
        items,
        end,
    })
}
