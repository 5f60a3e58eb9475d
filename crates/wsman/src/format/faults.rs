//! Faults as elements.

use roxmltree::Node;

use crate::fault::is_result;
use crate::xml::{NodeExt, Writer};
use crate::{ExtendedStatus, Fault, MessageError, ProviderFault, Subcode, uri};

const EXTENDED_STATUS: &str = "__ExtendedStatus";
/// Characters of a host's text that are kept.
const KEPT_CHARS: usize = 16 * 1024;
/// WSManFault codes of one fault that are named in its text.
const MAX_CODES: usize = 8;

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
            uri::XML => w.leaf("s:Value", &format!("xml:{name}")),
            other => w.leaf_with("s:Value", &[("xmlns:o", other)], &format!("o:{name}")),
        }
        w.close("s:Subcode");
    }
    w.close("s:Code");
    w.open("s:Reason");
    w.leaf_with("s:Text", &[("xml:lang", "en-US")], &fault.reason);
    w.close("s:Reason");
    // Windows writes it always, be it empty.
    write_detail(w, fault);
    w.close("s:Fault");
}

fn write_detail(w: &mut Writer, fault: &Fault) {
    w.open("s:Detail");
    if let Some(detail) = &fault.detail {
        w.leaf("w:FaultDetail", detail);
    }
    if fault.has_wsman_fault() {
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
            w.open_with("f:ProviderFault", &attributes);
            w.text(&provider.text);
            if let Some(code) = provider.code {
                w.empty_with("f:WSManFault", &[("Code", &code.to_string())]);
            }
            if let Some(status) = &provider.extended {
                write_extended_status(w, status);
            }
            w.close("f:ProviderFault");
        }
        w.close("f:Message");
        w.close("f:WSManFault");
    }
    w.close("s:Detail");
}

fn write_extended_status(w: &mut Writer, status: &ExtendedStatus) {
    w.open("f:ExtendedError");
    let namespace = uri::class_uri(uri::NS_VIRTUALIZATION, EXTENDED_STATUS);
    let tag = format!("p:{EXTENDED_STATUS}");
    w.open_with(&tag, &[("xmlns:p", &namespace)]);
    for (name, text) in [
        ("p:Description", &status.description),
        ("p:Operation", &status.operation),
        ("p:ParameterInfo", &status.parameter_info),
        ("p:ProviderName", &status.provider_name),
    ] {
        if text.is_empty() {
            w.empty_with(name, &[("xsi:nil", "true")]);
        } else {
            w.leaf(name, text);
        }
    }
    match status.status_code {
        Some(code) => w.leaf("p:StatusCode", &code.to_string()),
        None => w.empty_with("p:StatusCode", &[("xsi:nil", "true")]),
    }
    w.close(&tag);
    w.close("f:ExtendedError");
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
    let subcode = subcode.map_or(Ok(Subcode::None), read_subcode)?;
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
        // The codes are attributes, the outer one first, one of a provider inside.
        for fault in detail.descendants().filter(is_wsman_fault).take(MAX_CODES) {
            if let Some(code) = fault.attribute("Code") {
                full_text.push_str(&format!(" (WSManFault code {})", code.trim()));
            }
        }
    }
    fault.full_text = shorten(full_text);
    Ok(fault)
}

/// Reads a qualified name; one whose prefix stands for nothing has no namespace.
fn read_subcode(node: Node<'_, '_>) -> Result<Subcode, MessageError> {
    let text = node.trimmed()?;
    let name = text.rsplit(':').next().unwrap_or_default();
    if name.is_empty() {
        return Ok(Subcode::None);
    }
    let prefix = text.split_once(':').map(|(prefix, _)| prefix);
    let namespace = node.lookup_namespace_uri(prefix).unwrap_or_default();
    Ok(Subcode::from_name(namespace, name))
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
    fault.provider = provider.map(read_provider_fault).transpose()?;
    Ok(())
}

/// Reads what a provider said: free content, often a fault of its own and an extended status.
fn read_provider_fault(node: Node<'_, '_>) -> Result<ProviderFault, MessageError> {
    let codes = || {
        let nested = node.descendants().filter(is_wsman_fault);
        nested.filter_map(|node| node.attribute("Code")?.trim().parse().ok())
    };
    let status = node
        .descendants()
        .find(|node| node.tag_name().name() == EXTENDED_STATUS);
    let mut provider = ProviderFault {
        provider: node.attribute("provider").unwrap_or_default().to_owned(),
        path: node.attribute("path").unwrap_or_default().to_owned(),
        text: shorten(node.text_without(status)),
        code: codes()
            .find(|&code| is_result(code))
            .or_else(|| codes().next()),
        extended: status.map(read_extended_status).transpose()?.map(Box::new),
        hresult: None,
    };
    provider.hresult = provider.find_result();
    Ok(provider)
}

fn read_extended_status(node: Node<'_, '_>) -> Result<ExtendedStatus, MessageError> {
    let mut status = ExtendedStatus::default();
    for child in node.elements() {
        let text = shorten(child.trimmed()?);
        match child.tag_name().name() {
            "Description" => status.description = text,
            "Operation" => status.operation = text,
            "ParameterInfo" => status.parameter_info = text,
            "ProviderName" => status.provider_name = text,
            // A `uint32`, seen written as a signed number by other services of WMI.
            "StatusCode" => {
                let signed = || text.parse::<i32>().ok().map(i32::cast_unsigned);
                status.status_code = text.parse().ok().or_else(signed);
            }
            _ => {}
        }
    }
    Ok(status)
}

fn is_wsman_fault(node: &Node<'_, '_>) -> bool {
    node.named(uri::MS_FAULT, "WSManFault")
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(KEPT_CHARS) {
        Some((at, _)) => text[..at].trim_end().to_owned(),
        None => text,
    }
}

impl Fault {
    /// Whether Windows' part of the detail has anything to say.
    fn has_wsman_fault(&self) -> bool {
        self.code.is_some()
            || self.machine.is_some()
            || self.message.is_some()
            || self.provider.is_some()
    }
}
