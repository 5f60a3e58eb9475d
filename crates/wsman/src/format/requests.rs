//! Requests as envelopes.

use roxmltree::Node;

use super::{envelope_parts, number, open_envelope, values};
use crate::xml::{self, NodeExt, Writer};
use crate::{
    Enumerate, EnumerationMode, Filter, Header, MessageError, Operation, Properties, Pull, Request,
    duration_text, parse_duration, uri,
};

const MUST_UNDERSTAND: (&str, &str) = ("s:mustUnderstand", "true");

/// Writes a request.
pub(crate) fn write_request(request: &Request) -> String {
    let mut w = Writer::default();
    open_envelope(&mut w);
    match &request.operation {
        Operation::Identify => w.empty_with("s:Header", &[]),
        Operation::Enumerate(_)
        | Operation::Pull(_)
        | Operation::Release { .. }
        | Operation::Get
        | Operation::Put(_)
        | Operation::Delete
        | Operation::Invoke { .. } => write_header(&mut w, request),
    }
    w.open("s:Body");
    write_operation(&mut w, request);
    w.close("s:Body");
    w.close("s:Envelope");
    w.finish()
}

fn write_header(w: &mut Writer, request: &Request) {
    let header = &request.header;
    w.open("s:Header");
    w.leaf("a:To", &header.to);
    w.leaf_with("w:ResourceURI", &[MUST_UNDERSTAND], &header.resource_uri);
    w.open("a:ReplyTo");
    w.leaf_with("a:Address", &[MUST_UNDERSTAND], uri::ANONYMOUS);
    w.close("a:ReplyTo");
    w.leaf_with("a:Action", &[MUST_UNDERSTAND], &request.action());
    w.leaf("a:MessageID", &header.message_id);
    if let Some(bytes) = header.max_envelope_bytes {
        w.leaf_with("w:MaxEnvelopeSize", &[MUST_UNDERSTAND], &bytes.to_string());
    }
    if let Some(timeout) = header.timeout {
        w.leaf("w:OperationTimeout", &duration_text(timeout));
    }
    if let Some(locale) = &header.locale {
        let lang = [("xml:lang", locale.as_str()), ("s:mustUnderstand", "false")];
        w.empty_with("w:Locale", &lang);
        w.empty_with(
            "p:DataLocale",
            &[("xmlns:p", uri::MS_WSMAN), lang[0], lang[1]],
        );
    }
    values::write_selectors(w, &header.selectors);
    if !header.options.is_empty() {
        w.open_with("w:OptionSet", &[MUST_UNDERSTAND]);
        for (name, value) in &header.options {
            w.leaf_with("w:Option", &[("Name", name)], value);
        }
        w.close("w:OptionSet");
    }
    w.close("s:Header");
}

fn write_operation(w: &mut Writer, request: &Request) {
    match &request.operation {
        Operation::Identify => w.empty_with("wsmid:Identify", &[("xmlns:wsmid", uri::IDENTITY)]),
        Operation::Enumerate(enumerate) => write_enumerate(w, enumerate),
        Operation::Pull(pull) => {
            w.open("n:Pull");
            w.leaf("n:EnumerationContext", &pull.context);
            if let Some(time) = pull.max_time {
                w.leaf("n:MaxTime", &duration_text(time));
            }
            if let Some(max) = pull.max_elements {
                w.leaf("n:MaxElements", &max.to_string());
            }
            if let Some(max) = pull.max_characters {
                w.leaf("n:MaxCharacters", &max.to_string());
            }
            w.close("n:Pull");
        }
        Operation::Release { context } => {
            w.open("n:Release");
            w.leaf("n:EnumerationContext", context);
            w.close("n:Release");
        }
        Operation::Get | Operation::Delete => {}
        Operation::Put(instance) => {
            let namespace = uri::split_class_uri(&request.header.resource_uri)
                .map_or("", |(namespace, _)| namespace);
            values::write_instance(w, namespace, instance);
        }
        Operation::Invoke { method, parameters } => {
            let tag = format!("p:{}_INPUT", xml::name(method));
            w.open_with(&tag, &[("xmlns:p", &request.header.resource_uri)]);
            values::write_properties(w, parameters);
            w.close(&tag);
        }
    }
}

fn write_enumerate(w: &mut Writer, enumerate: &Enumerate) {
    w.open("n:Enumerate");
    if enumerate.optimize {
        w.empty_with("w:OptimizeEnumeration", &[]);
    }
    if let Some(max) = enumerate.max_elements {
        w.leaf("w:MaxElements", &max.to_string());
    }
    match enumerate.mode {
        EnumerationMode::Object => {}
        EnumerationMode::Epr => w.leaf("w:EnumerationMode", "EnumerateEPR"),
        EnumerationMode::ObjectAndEpr => w.leaf("w:EnumerationMode", "EnumerateObjectAndEPR"),
    }
    if let Some(filter) = &enumerate.filter {
        w.leaf_with("w:Filter", &[("Dialect", &filter.dialect)], &filter.text);
    }
    w.close("n:Enumerate");
}

/// Reads a request.
pub(crate) fn read_request(bytes: &[u8]) -> Result<Request, MessageError> {
    let text = xml::decode(bytes)?;
    let document = xml::parse(&text)?;
    let (header, body) = envelope_parts(&document)?;
    if body.child(uri::IDENTITY, "Identify").is_some() {
        return Ok(Request {
            header: Header::default(),
            operation: Operation::Identify,
        });
    }
    let header = header.ok_or(MessageError::Missing { what: "s:Header" })?;
    let action = header
        .child_text(uri::ADDRESSING, "Action")?
        .ok_or(MessageError::Missing {
            what: "a:Action header",
        })?;
    let resource_uri = header
        .child_text(uri::WSMAN, "ResourceURI")?
        .unwrap_or_default();
    let operation = read_operation(&action, &resource_uri, body)?;
    Ok(Request {
        header: read_header(header, &operation)?,
        operation,
    })
}

pub(crate) fn read_message_id(bytes: &[u8]) -> Result<Option<String>, MessageError> {
    let text = xml::decode(bytes)?;
    let document = xml::parse(&text)?;
    let (header, _) = envelope_parts(&document)?;
    let id = header.map(|header| header.child_text(uri::ADDRESSING, "MessageID"));
    Ok(id.transpose()?.flatten())
}

fn read_header(node: Node<'_, '_>, operation: &Operation) -> Result<Header, MessageError> {
    let mut header = Header {
        to: node.child_text(uri::ADDRESSING, "To")?.unwrap_or_default(),
        resource_uri: node
            .child_text(uri::WSMAN, "ResourceURI")?
            .unwrap_or_default(),
        message_id: node
            .child_text(uri::ADDRESSING, "MessageID")?
            .unwrap_or_default(),
        max_envelope_bytes: number(node, uri::WSMAN, "MaxEnvelopeSize")?,
        ..Header::default()
    };
    // The URI of a Pull or Release says nothing: the context does.
    let by_context = matches!(operation, Operation::Pull(_) | Operation::Release { .. });
    if header.resource_uri.is_empty() && !by_context {
        return Err(MessageError::Missing {
            what: "w:ResourceURI header",
        });
    }
    if let Some(text) = node.child_text(uri::WSMAN, "OperationTimeout")? {
        let timeout = parse_duration(&text)
            .map_err(|_| MessageError::invalid("w:OperationTimeout", &text))?;
        header.timeout = Some(timeout);
    }
    if let Some(locale) = node.child(uri::WSMAN, "Locale") {
        header.locale = locale.attribute((uri::XML, "lang")).map(str::to_owned);
    }
    if let Some(set) = node.child(uri::WSMAN, "SelectorSet") {
        header.selectors = values::read_selectors(set)?;
    }
    if let Some(set) = node.child(uri::WSMAN, "OptionSet") {
        for option in set
            .elements()
            .filter(|option| option.named(uri::WSMAN, "Option"))
        {
            let name = option.attribute("Name").ok_or(MessageError::Missing {
                what: "Name of an option",
            })?;
            header.options.insert(name.to_owned(), option.own_text()?);
        }
    }
    Ok(header)
}

/// Whether an action is a method of the class that a resource URI names.
fn names_class(action: &str, resource_uri: &str) -> bool {
    let class_uri = action
        .rsplit_once('/')
        .map_or("", |(class_uri, _)| class_uri);
    uri::split_class_uri(resource_uri).is_some() && uri::same_resource(class_uri, resource_uri)
}

fn read_operation(
    action: &str,
    resource_uri: &str,
    body: Node<'_, '_>,
) -> Result<Operation, MessageError> {
    let content = |name: &str, what: &'static str| {
        body.child(uri::ENUMERATION, name)
            .ok_or(MessageError::Missing { what })
    };
    let context = |node: Node<'_, '_>| {
        node.child_text(uri::ENUMERATION, "EnumerationContext")?
            .ok_or(MessageError::Missing {
                what: "n:EnumerationContext",
            })
    };
    Ok(match action {
        uri::ACTION_ENUMERATE => {
            Operation::Enumerate(read_enumerate(content("Enumerate", "n:Enumerate")?)?)
        }
        uri::ACTION_PULL => {
            let node = content("Pull", "n:Pull")?;
            let max_time = match node.child_text(uri::ENUMERATION, "MaxTime")? {
                Some(text) => Some(
                    parse_duration(&text).map_err(|_| MessageError::invalid("n:MaxTime", &text))?,
                ),
                None => None,
            };
            Operation::Pull(Pull {
                context: context(node)?,
                max_elements: number(node, uri::ENUMERATION, "MaxElements")?,
                max_characters: number(node, uri::ENUMERATION, "MaxCharacters")?,
                max_time,
            })
        }
        uri::ACTION_RELEASE => Operation::Release {
            context: context(content("Release", "n:Release")?)?,
        },
        uri::ACTION_GET => Operation::Get,
        uri::ACTION_DELETE => Operation::Delete,
        uri::ACTION_PUT => {
            let node = body.elements().next().ok_or(MessageError::Missing {
                what: "object in the body",
            })?;
            Operation::Put(values::read_instance(node)?)
        }
        action => {
            // The method's name follows the URI of the class, and is that of an element.
            let method = uri::split_class_uri(action)
                .map(|(_, method)| method)
                .filter(|method| xml::is_name(method) && names_class(action, resource_uri));
            let method = method.ok_or_else(|| MessageError::UnknownAction {
                action: action.chars().take(200).collect(),
            })?;
            let parameters = match body.elements().next() {
                Some(input) if input.tag_name().name().strip_suffix("_INPUT") == Some(method) => {
                    values::read_properties(input)?
                }
                Some(other) => {
                    return Err(MessageError::invalid(
                        "method element",
                        other.tag_name().name(),
                    ));
                }
                None => Properties::new(),
            };
            Operation::Invoke {
                method: method.to_owned(),
                parameters,
            }
        }
    })
}

fn read_enumerate(node: Node<'_, '_>) -> Result<Enumerate, MessageError> {
    let mode = match node.child_text(uri::WSMAN, "EnumerationMode")?.as_deref() {
        None | Some("EnumerateObject") => EnumerationMode::Object,
        Some("EnumerateEPR") => EnumerationMode::Epr,
        Some("EnumerateObjectAndEPR") => EnumerationMode::ObjectAndEpr,
        Some(other) => return Err(MessageError::invalid("w:EnumerationMode", other)),
    };
    let filter = node
        .child(uri::WSMAN, "Filter")
        .or_else(|| node.child(uri::ENUMERATION, "Filter"));
    let filter = match filter {
        Some(filter) => {
            let text = if filter.elements().next().is_some() {
                filter.all_text()
            } else {
                filter.own_text()?
            };
            Some(Filter {
                dialect: filter.attribute("Dialect").unwrap_or_default().to_owned(),
                text,
            })
        }
        None => None,
    };
    Ok(Enumerate {
        filter,
        mode,
        optimize: node.child(uri::WSMAN, "OptimizeEnumeration").is_some(),
        max_elements: number(node, uri::WSMAN, "MaxElements")?,
    })
}
