//! Envelopes with everything taken out that says who and where.
//!
//! The envelope is read and written anew: nothing is copied that this module does not name. Elements, attributes and
//! their order stay; comments and processing instructions do not.

use roxmltree::Node;

use super::mapping::Mapping;
use super::vocabulary::{is_class, is_dropped, is_protocol_uri};
use crate::xml::{self, NodeExt, Writer};
use crate::{CimTime, Instance, MessageError, uri};

/// Takes out of envelopes what says who and where, the same way for as long as it lives.
#[derive(Debug, Default)]
pub struct Scrubber {
    mapping: Mapping,
}

impl Scrubber {
    /// Makes a scrubber that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes up a name for a text that is known to be private, such as a user's name, before it is met.
    pub fn hide(&mut self, text: &str) {
        for part in text.split(['\\', '@', '/']).chain([text]) {
            if !part.is_empty() {
                self.mapping.name(part);
            }
        }
    }

    /// Returns the envelope as it may be shown.
    pub fn envelope(&mut self, bytes: &[u8]) -> Result<String, MessageError> {
        let text = xml::decode(bytes)?;
        let document = xml::parse(&text)?;
        let mut w = Writer::default();
        self.element(&mut w, document.root_element())?;
        Ok(w.finish())
    }

    fn element(&mut self, w: &mut Writer, node: Node<'_, '_>) -> Result<(), MessageError> {
        let tag = qualified(node, node.tag_name().namespace(), node.tag_name().name());
        let attributes = self.attributes(node);
        let attributes: Vec<(&str, &str)> = attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        if !node.has_children() {
            w.empty_with(&tag, &attributes);
            return Ok(());
        }
        w.open_with(&tag, &attributes);
        if node.elements().next().is_none() {
            let text = self.content(node, &node.own_text()?);
            w.text(&text);
        } else if !is_dropped(node.tag_name().name()) {
            for child in node.children() {
                if child.is_element() {
                    self.element(w, child)?;
                } else if let Some(text) = child.text().filter(|text| !text.trim().is_empty()) {
                    // Only faults mix text and elements.
                    w.text(&self.mapping.message(text));
                }
            }
        }
        w.close(&tag);
        Ok(())
    }

    /// Declarations first, then attributes.
    fn attributes(&mut self, node: Node<'_, '_>) -> Vec<(String, String)> {
        let outside = |prefix: Option<&str>| {
            node.parent_element()
                .and_then(|parent| parent.lookup_namespace_uri(prefix))
        };
        let declared = node
            .namespaces()
            .filter(|space| space.uri() != uri::XML && outside(space.name()) != Some(space.uri()));
        let mut out: Vec<(String, String)> = declared
            .map(|space| {
                let name = space
                    .name()
                    .map_or("xmlns".to_owned(), |prefix| format!("xmlns:{prefix}"));
                (name, self.uri(space.uri()))
            })
            .collect();
        for attribute in node.attributes() {
            let name = qualified(node, attribute.namespace(), attribute.name());
            out.push((
                name,
                self.attribute(node, attribute.name(), attribute.value()),
            ));
        }
        out
    }

    fn attribute(&mut self, node: Node<'_, '_>, name: &str, value: &str) -> String {
        let word = |value: &str| {
            value.len() <= 128
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b":_.-".contains(&byte))
        };
        match name {
            // Names of properties, keys and types; languages; flags; numbers of faults.
            "Name" | "NAME" | "type" | "TYPE" | "CLASSNAME" | "CLASSORIGIN" | "REFERENCECLASS"
            | "VALUETYPE" | "lang" | "nil" | "mustUnderstand" | "PROPAGATED" | "MODIFIED"
            | "Code" | "ARRAYSIZE" | "OVERRIDABLE" | "TOSUBCLASS" | "TOINSTANCE" | "AMENDED"
            | "EmbeddedObject" | "ISARRAY"
                if word(value) =>
            {
                value.to_owned()
            }
            "Dialect" => self.uri(value),
            "Machine" => self.mapping.host(value),
            "provider" => self.mapping.message(value),
            "path" => self.mapping.file_path(value),
            _ => {
                let hint = format!("{}.{name}", node.tag_name().name());
                self.mapping.value(&hint, value)
            }
        }
    }

    /// The text of an element without elements.
    fn content(&mut self, node: Node<'_, '_>, text: &str) -> String {
        if text.trim().is_empty() {
            return text.to_owned();
        }
        let name = node.tag_name().name();
        match (node.tag_name().namespace().unwrap_or_default(), name) {
            (uri::ADDRESSING, "To" | "Address") => self.url(text),
            (uri::ADDRESSING, "Action") | (uri::WSMAN, "ResourceURI" | "FaultDetail") => {
                self.uri(text)
            }
            (uri::ADDRESSING, "MessageID" | "RelatesTo")
            | (uri::ENUMERATION, "EnumerationContext") => self.mapping.identifier(text.trim()),
            (uri::WSMAN, "Filter") => self.mapping.query(text),
            (uri::WSMAN, "Selector") => {
                self.property(node.attribute("Name").unwrap_or_default(), text)
            }
            (uri::WSMAN | uri::ENUMERATION, _) if is_protocol_number(name) => plain(text),
            (uri::WSMAN, "Option") => {
                self.property(node.attribute("Name").unwrap_or_default(), text)
            }
            (uri::SOAP, "Value") => qname(text),
            (uri::SOAP, _) | (uri::MS_FAULT, _) => self.mapping.message(text),
            (uri::IDENTITY, "ProtocolVersion") => self.uri(text),
            (uri::IDENTITY, _) => self.mapping.message_of_product(text),
            (uri::CIM, _) if CimTime::parse(text).is_ok() => text.to_owned(),
            (_, "ParameterInfo") => self.mapping.query(text),
            (_, "Operation" | "ProviderName" | "StatusCode") => self.mapping.message(text),
            // CIM-XML: the property is named by an element around.
            (_, "VALUE" | "KEYVALUE" | "VALUE.REFERENCE" | "HOST") => {
                let around = node
                    .ancestors()
                    .skip(1)
                    .find_map(|node| node.attribute("NAME"));
                self.property(around.unwrap_or(name), text)
            }
            _ => self.property(name, text),
        }
    }

    fn property(&mut self, name: &str, text: &str) -> String {
        if let Ok(instance) = Instance::from_cim_xml(text)
            && text.trim_start().starts_with('<')
        {
            if is_dropped(name)
                || is_dropped(&instance.class)
                || instance.class.starts_with("Msvm_Kvp")
            {
                return Instance::new(class(&instance.class)).to_cim_xml();
            }
            return self.cim_xml(text).unwrap_or_default();
        }
        self.mapping.value(name, text)
    }

    fn cim_xml(&mut self, text: &str) -> Result<String, MessageError> {
        let document = xml::parse(crate::cim_xml::skip_prolog(text)?)?;
        let mut w = Writer::default();
        self.element(&mut w, document.root_element())?;
        Ok(w.finish())
    }

    fn uri(&mut self, text: &str) -> String {
        let text = text.trim();
        if is_protocol_uri(text) {
            text.to_owned()
        } else if text.is_empty() {
            String::new()
        } else {
            format!("urn:{}", self.mapping.name(text))
        }
    }

    /// An address: scheme, port and path stay.
    fn url(&mut self, text: &str) -> String {
        let text = text.trim();
        if is_protocol_uri(text) {
            return text.to_owned();
        }
        let Some((scheme @ ("http" | "https"), rest)) = text.split_once("://") else {
            return self.uri(text);
        };
        let authority = rest.split('/').next().unwrap_or(rest);
        let host = authority.rsplit('@').next().unwrap_or(authority);
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, format!(":{port}"))
            }
            _ => (host, String::new()),
        };
        format!("{scheme}://{}{port}/wsman", self.mapping.host(host))
    }
}

impl Mapping {
    /// Product and version of a service: numbers stay.
    fn message_of_product(&mut self, text: &str) -> String {
        let versions = |word: &str| {
            word.bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        };
        let words = text.split(' ').map(|word| {
            if versions(word)
                || matches!(word, "OS:" | "SP:" | "Stack:" | "Microsoft" | "Corporation")
            {
                word.to_owned()
            } else {
                self.message(word)
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// A name with the prefix that stands for its namespace here.
fn qualified(node: Node<'_, '_>, namespace: Option<&str>, name: &str) -> String {
    let prefix = match namespace {
        None => None,
        Some(uri::XML) => Some("xml"),
        Some(namespace) => node
            .namespaces()
            .filter(|space| space.uri() == namespace)
            .find_map(|space| space.name()),
    };
    match prefix {
        Some(prefix) => format!("{prefix}:{name}"),
        None => name.to_owned(),
    }
}

fn class(name: &str) -> &str {
    if is_class(name) { name } else { "Unknown" }
}

fn is_protocol_number(name: &str) -> bool {
    matches!(
        name,
        "MaxEnvelopeSize"
            | "OperationTimeout"
            | "MaxElements"
            | "MaxCharacters"
            | "MaxTime"
            | "EnumerationMode"
            | "Expires"
    )
}

/// Numbers, durations and modes of the protocol itself.
fn plain(text: &str) -> String {
    let text = text.trim();
    let word = text.len() <= 32
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    if word { text.to_owned() } else { String::new() }
}

fn qname(text: &str) -> String {
    let text = text.trim();
    let word = text.len() <= 80
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b':');
    if word { text.to_owned() } else { String::new() }
}
