//! Faults as elements.

use roxmltree::Node;

use crate::xml::{NodeExt, Writer};
use crate::{Fault, MessageError, ProviderFault, Subcode, uri};

/// Characters of a host's text that are kept.
const KEPT_CHARS: usize = 16 * 1024;

pub(super) fn write_fault(w: &mut Writer, fault: &Fault) {
    w.open("s:Fault");
    w.open("s:Code");
    w.leaf(
        "s:Value",
        if fault.sender {
            "s:Sender"
        } else {
            "s:Receiver"
        },
    );
    let (namespace, name) = fault.subcode.qualified();
    if !name.is_empty() {
        w.open("s:Subcode");
        match namespace {
            uri::WSMAN => w.leaf("s:Value", &format!("w:{name}")),
            uri::ADDRESSING => w.leaf("s:Value", &format!("a:{name}")),
            uri::ENUMERATION => w.leaf("s:Value", &format!("n:{name}")),
            "" => w.leaf("s:Value", name),
            other => w.leaf_with("s:Value", &[("xmlns:o", other)], &format!("o:{name}")),
        }
        w.close("s:Subcode");
    }
    w.close("s:Code");
    w.open("s:Reason");
    w.leaf_with("s:Text", &[("xml:lang", "en-US")], &fault.reason);
    w.close("s:Reason");
    if fault.detail.is_some() || fault.code.is_some() || fault.provider.is_some() {
        write_detail(w, fault);
    }
    w.close("s:Fault");
}

fn write_detail(w: &mut Writer, fault: &Fault) {
    w.open("s:Detail");
    if let Some(detail) = &fault.detail {
        w.leaf("w:FaultDetail", detail);
    }
    if fault.code.is_some() || fault.provider.is_some() {
        let code = fault.code.map(|code| code.to_string()).unwrap_or_default();
        let mut attributes = vec![("xmlns:f", uri::MS_FAULT)];
        if !code.is_empty() {
            attributes.push(("Code", &code));
        }
        attributes.extend(fault.machine.as_deref().map(|machine| ("Machine", machine)));
        w.open_with("f:WSManFault", &attributes);
        w.open("f:Message");
        if let Some(message) = &fault.message {
            w.text(message);
        }
        if let Some(provider) = &fault.provider {
            let attributes = [
                ("provider", provider.provider.as_str()),
                ("path", provider.path.as_str()),
            ];
            w.leaf_with("f:ProviderFault", &attributes, &provider.text);
        }
        w.close("f:Message");
        w.close("f:WSManFault");
    }
    w.close("s:Detail");
}

pub(super) fn read_fault(node: Node<'_, '_>) -> Result<Fault, MessageError> {
    let code = node.child(uri::SOAP, "Code");
    let value = code
        .map(|code| code.child_text(uri::SOAP, "Value"))
        .transpose()?
        .flatten()
        .unwrap_or_default();
    let subcode = code
        .and_then(|code| code.child(uri::SOAP, "Subcode"))
        .and_then(|sub| sub.child(uri::SOAP, "Value"));
    let subcode = match subcode {
        Some(value) => {
            let text = value.trimmed()?;
            let (prefix, name) = text
                .split_once(':')
                .map_or((None, text.as_str()), |(p, n)| (Some(p), n));
            Subcode::from_name(value.lookup_namespace_uri(prefix).unwrap_or_default(), name)
        }
        None => Subcode::None,
    };
    let reason = node
        .child(uri::SOAP, "Reason")
        .map(NodeExt::all_text)
        .unwrap_or_default();
    let mut fault = Fault::new(subcode, shorten(reason));
    fault.sender = value.rsplit(':').next() != Some("Receiver");

    let mut full_text = fault.reason.clone();
    if let Some(detail) = node.child(uri::SOAP, "Detail") {
        fault.detail = detail.child_text(uri::WSMAN, "FaultDetail")?;
        if let Some(wsman) = detail.child(uri::MS_FAULT, "WSManFault") {
            read_wsman_fault(wsman, &mut fault)?;
        }
        let text = detail.all_text();
        if !text.is_empty() {
            full_text.push_str("; ");
            full_text.push_str(&text);
        }
        if let Some(code) = fault.code {
            full_text.push_str(&format!(" (WSManFault code {code})"));
        }
    }
    fault.full_text = shorten(full_text);
    Ok(fault)
}

fn read_wsman_fault(node: Node<'_, '_>, fault: &mut Fault) -> Result<(), MessageError> {
    fault.code = node
        .attribute("Code")
        .and_then(|code| code.trim().parse().ok());
    fault.machine = node.attribute("Machine").map(str::to_owned);
    if let Some(message) = node.child(uri::MS_FAULT, "Message") {
        let text = message.trimmed()?;
        fault.message = (!text.is_empty()).then(|| shorten(text));
    }
    let provider = node
        .descendants()
        .find(|node| node.named(uri::MS_FAULT, "ProviderFault"));
    fault.provider = provider.map(|provider| {
        let text = provider.all_text();
        // Providers nest a fault of their own, or only write the number into their text.
        let nested = provider
            .descendants()
            .filter(|node| node.named(uri::MS_FAULT, "WSManFault"));
        let nested = nested
            .filter_map(|node| node.attribute("Code"))
            .find_map(|code| code.trim().parse().ok());
        ProviderFault {
            provider: provider
                .attribute("provider")
                .unwrap_or_default()
                .to_owned(),
            path: provider.attribute("path").unwrap_or_default().to_owned(),
            hresult: nested.or_else(|| find_hresult(&text)),
            text: shorten(text),
        }
    });
    Ok(())
}

/// Finds the first `0x8.......` in a text.
fn find_hresult(text: &str) -> Option<u32> {
    text.match_indices("0x").find_map(|(at, _)| {
        let digits = text.get(at + 2..at + 10)?;
        let ends = !text[at + 10..].starts_with(|c: char| c.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16)
            .ok()
            .filter(|&value| ends && value >= 0x8000_0000)
    })
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(KEPT_CHARS) {
        Some((at, _)) => text[..at].to_owned(),
        None => text,
    }
}
