//! The envelopes on the wire: SOAP 1.2, WS-Addressing 2004/08, WS-Enumeration 2004/09, WS-Transfer 2004/09.

mod faults;
mod requests;
mod responses;
mod values;

pub(crate) use requests::{read_message_id, read_request, write_request};
pub(crate) use responses::{read_response, write_response};

use roxmltree::{Document, Node};

use crate::xml::{NodeExt, Writer};
use crate::{MessageError, uri};

/// Opens an envelope with the prefixes every message uses.
fn open_envelope(w: &mut Writer) {
    w.open_with(
        "s:Envelope",
        &[
            ("xmlns:s", uri::SOAP),
            ("xmlns:a", uri::ADDRESSING),
            ("xmlns:w", uri::WSMAN),
            ("xmlns:n", uri::ENUMERATION),
            ("xmlns:cim", uri::CIM),
            ("xmlns:xsi", uri::XSI),
            ("xml:lang", "en-US"),
        ],
    );
}

/// Returns header (where there is one) and body.
fn envelope_parts<'a, 'i>(
    document: &'a Document<'i>,
) -> Result<(Option<Node<'a, 'i>>, Node<'a, 'i>), MessageError> {
    let root = document.root_element();
    if !root.named(uri::SOAP, "Envelope") {
        return Err(MessageError::Missing {
            what: "SOAP 1.2 envelope",
        });
    }
    let body = root
        .child(uri::SOAP, "Body")
        .ok_or(MessageError::Missing { what: "s:Body" })?;
    Ok((root.child(uri::SOAP, "Header"), body))
}

/// Reads a number of a body or header element.
fn number(node: Node<'_, '_>, ns: &str, name: &'static str) -> Result<Option<u32>, MessageError> {
    match node.child_text(ns, name)? {
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| MessageError::invalid(name, &text)),
        None => Ok(None),
    }
}
