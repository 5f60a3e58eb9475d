//! XML: reading within limits, writing with escapes.
//!
//! A document is scanned for its limits before the parser sees it, so that no reply of a broken or hostile host costs
//! more memory or time than the limits allow.

mod scan;
mod writer;

use std::borrow::Cow;

use roxmltree::{Document, Node, ParsingOptions};

use crate::{Fault, Subcode, uri};

use scan::check_limits;
pub(crate) use writer::{Writer, is_name, name};

/// What a message may be at most.
pub mod limits {
    /// Bytes of an envelope.
    pub const ENVELOPE_BYTES: usize = 16 << 20;
    /// Bytes of one text.
    pub const TEXT_BYTES: usize = 4 << 20;
    /// Elements inside each other.
    pub const DEPTH: usize = 64;
    /// Attributes of an element, namespace declarations included.
    pub const ATTRIBUTES: usize = 64;
    /// Namespace declarations in force at one place.
    pub const NAMESPACES_IN_SCOPE: usize = 64;
    /// Namespace declarations of a document: more than the largest batch of objects has (32,000).
    pub const NAMESPACES: usize = 40_000;
    /// Signs `<` of a document, wherever they are, and as many signs `=`: the parser makes room for each.
    pub const SIGNS: usize = 1 << 20;
    /// Elements, texts and comments of a document.
    pub const NODES: u32 = 1 << 20;
}

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Larger than [`limits::ENVELOPE_BYTES`].
    #[error(
        "message of {bytes} bytes is larger than the limit of {} bytes",
        limits::ENVELOPE_BYTES
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Beyond one of the other [`limits`].
    #[error("message exceeds the limit of {limit} for {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// Neither UTF-8 nor UTF-16.
    #[error("message is neither UTF-8 nor UTF-16")]
    Encoding,
    /// Not well-formed XML, or XML with a document type.
    #[error("message is not well-formed XML: {what}")]
    Malformed {
        /// What the parser says.
        what: String,
    },
    /// XML, but not what was expected.
    #[error("message has no {what}")]
    Missing {
        /// The missing element or attribute.
        what: &'static str,
    },
    /// An element holds what it must not.
    #[error("{what} in the message is {value:?}")]
    Invalid {
        /// The element or attribute.
        what: &'static str,
        /// What it holds, shortened.
        value: String,
    },
    /// An action this protocol does not have.
    #[error("action {action:?} is not supported")]
    UnknownAction {
        /// The action.
        action: String,
    },
}

impl MessageError {
    /// Returns the fault a service answers to such a request.
    #[must_use]
    pub fn to_fault(&self) -> Fault {
        let reason = self.to_string();
        match self {
            MessageError::TooLarge { .. } | MessageError::Limit { .. } => {
                Fault::encoding_limit(reason)
            }
            MessageError::Encoding
            | MessageError::Malformed { .. }
            | MessageError::Invalid { .. } => Fault::new(Subcode::SchemaValidationError, reason),
            MessageError::Missing { .. } => {
                Fault::new(Subcode::MessageInformationHeaderRequired, reason)
            }
            MessageError::UnknownAction { .. } => Fault::new(Subcode::ActionNotSupported, reason),
        }
    }

    /// Returns the HTTP status of that answer.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self {
            MessageError::Encoding | MessageError::Malformed { .. } => 400,
            MessageError::TooLarge { .. }
            | MessageError::Limit { .. }
            | MessageError::Invalid { .. }
            | MessageError::Missing { .. }
            | MessageError::UnknownAction { .. } => 500,
        }
    }

    pub(crate) fn invalid(what: &'static str, value: &str) -> Self {
        MessageError::Invalid {
            what,
            value: value.chars().take(80).collect(),
        }
    }
}

/// Turns the bytes of a message into text: UTF-8, or UTF-16 by its byte order mark or first character.
pub(crate) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, MessageError> {
    if bytes.len() > limits::ENVELOPE_BYTES {
        return Err(MessageError::TooLarge { bytes: bytes.len() });
    }
    let wide = |bytes: &[u8], little: bool| {
        if !bytes.len().is_multiple_of(2) {
            return Err(MessageError::Encoding);
        }
        let units = bytes.chunks_exact(2).map(|pair| {
            let pair = [pair[0], pair[1]];
            if little {
                u16::from_le_bytes(pair)
            } else {
                u16::from_be_bytes(pair)
            }
        });
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .map(Cow::Owned)
            .map_err(|_| MessageError::Encoding)
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => wide(rest, true),
        [0xFE, 0xFF, rest @ ..] => wide(rest, false),
        [b'<', 0, ..] => wide(bytes, true),
        [0, b'<', ..] => wide(bytes, false),
        [0xEF, 0xBB, 0xBF, rest @ ..] | rest => std::str::from_utf8(rest)
            .map(Cow::Borrowed)
            .map_err(|_| MessageError::Encoding),
    }
}

/// Parses a text within the limits.
pub(crate) fn parse(text: &str) -> Result<Document<'_>, MessageError> {
    if text.len() > limits::ENVELOPE_BYTES {
        return Err(MessageError::TooLarge { bytes: text.len() });
    }
    check_limits(text)?;
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: limits::NODES,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options).map_err(|err| MessageError::Malformed {
        what: err.to_string(),
    })
}

/// What is read from elements.
pub(crate) trait NodeExt<'a, 'i: 'a> {
    /// Child elements.
    fn elements(self) -> impl Iterator<Item = Node<'a, 'i>>;
    /// First child element with this name.
    fn child(self, ns: &str, name: &str) -> Option<Node<'a, 'i>>;
    /// Whether the element has this name.
    fn named(self, ns: &str, name: &str) -> bool;
    /// Own text, CDATA included.
    fn own_text(self) -> Result<String, MessageError>;
    /// Own text without white space around it.
    fn trimmed(self) -> Result<String, MessageError>;
    /// All text below, pieces joined by blanks.
    fn all_text(self) -> String;
    /// The same without the text of one element below.
    fn text_without(self, left_out: Option<Node<'a, 'i>>) -> String;
    /// Trimmed text of the first child element with this name.
    fn child_text(self, ns: &str, name: &str) -> Result<Option<String>, MessageError>;
    /// Whether `xsi:nil` says so.
    fn nil(self) -> bool;
}

impl<'a, 'i: 'a> NodeExt<'a, 'i> for Node<'a, 'i> {
    fn elements(self) -> impl Iterator<Item = Node<'a, 'i>> {
        self.children().filter(Node::is_element)
    }

    fn child(self, ns: &str, name: &str) -> Option<Node<'a, 'i>> {
        self.elements().find(|node| node.named(ns, name))
    }

    fn named(self, ns: &str, name: &str) -> bool {
        self.is_element()
            && self.tag_name().name() == name
            && self.tag_name().namespace() == Some(ns)
    }

    fn own_text(self) -> Result<String, MessageError> {
        let mut out = String::new();
        for piece in self
            .children()
            .filter(Node::is_text)
            .filter_map(|node| node.text())
        {
            if out.len() + piece.len() > limits::TEXT_BYTES {
                return Err(MessageError::Limit {
                    what: "bytes of a text",
                    limit: limits::TEXT_BYTES,
                });
            }
            out.push_str(piece);
        }
        Ok(out)
    }

    fn trimmed(self) -> Result<String, MessageError> {
        Ok(self.own_text()?.trim().to_owned())
    }

    fn all_text(self) -> String {
        self.text_without(None)
    }

    fn text_without(self, left_out: Option<Node<'a, 'i>>) -> String {
        let left_out = left_out.map_or(0..0, |node| node.range());
        let mut out = String::new();
        let texts = self.descendants().filter(Node::is_text);
        for node in texts.filter(|text| !left_out.contains(&text.range().start)) {
            let piece = node.text().unwrap_or_default().trim();
            if piece.is_empty() {
                continue;
            }
            if out.len() + piece.len() > limits::TEXT_BYTES {
                break;
            }
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(piece);
        }
        out
    }

    fn child_text(self, ns: &str, name: &str) -> Result<Option<String>, MessageError> {
        self.child(ns, name).map(NodeExt::trimmed).transpose()
    }

    fn nil(self) -> bool {
        matches!(
            self.attribute((uri::XSI, "nil")).map(str::trim),
            Some("true" | "1")
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::writer::is_xml_char;
    use super::*;

    fn error(text: &str) -> MessageError {
        parse(text).unwrap_err()
    }

    #[test]
    fn document_types_are_refused() {
        assert!(matches!(
            error("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"),
            MessageError::Malformed { .. }
        ));
        assert!(matches!(
            error("<a>&b;</a>"),
            MessageError::Malformed { .. }
        ));
    }

    #[test]
    fn utf16_is_read() {
        for little in [true, false] {
            let units = "\u{FEFF}<ä/>".encode_utf16();
            let bytes: Vec<u8> = units
                .flat_map(|u| {
                    if little {
                        u.to_le_bytes()
                    } else {
                        u.to_be_bytes()
                    }
                })
                .collect();
            assert_eq!(decode(&bytes).unwrap(), "<ä/>");
            assert_eq!(decode(&bytes[2..]).unwrap(), "<ä/>");
        }
        assert_eq!(decode(b"\xEF\xBB\xBF<a/>").unwrap(), "<a/>");
        assert_eq!(decode(b"<\xFF"), Err(MessageError::Encoding));
    }

    proptest! {
        #[test]
        fn text_and_attributes_survive(text in "[\\x00-\\x7F\u{E9}\u{FFFF}\u{1F600}]{0,40}") {
            let expected: String = text.chars().map(|c| if is_xml_char(c) { c } else { '\u{FFFD}' }).collect();
            let mut w = Writer::default();
            w.leaf_with("a", &[("b", &text)], &text);
            let xml = w.finish();
            let document = parse(&xml).unwrap();
            prop_assert_eq!(document.root_element().own_text().unwrap(), expected.clone());
            prop_assert_eq!(document.root_element().attribute("b"), Some(expected.as_str()));
        }

        #[test]
        fn any_text_makes_a_name(text in ".{0,12}") {
            let xml = format!("<{}/>", name(&text));
            prop_assert!(parse(&xml).is_ok(), "{}", xml);
        }

        #[test]
        fn any_text_parses_or_fails(text in "([<>/=!?a-c\\[\\]'\" -]|xmlns|CDATA){0,60}") {
            let _ = parse(&text);
        }
    }
}
