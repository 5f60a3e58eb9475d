//! Messages as inputs: text in which bytes from 128 on stand for the words of the protocols, and end tags for whatever is
//! open. So short inputs are well-formed envelopes, and a byte that changes changes the meaning rather than the form.
//!
//! Every string of bytes is an input, and every text can be written as one.

/// Closes the element opened last by a word.
const CLOSE: u8 = 128;
/// The next byte is itself.
const LITERAL: u8 = 129;
const FIRST_WORD: u8 = 130;

/// The words, longer ones before those they begin with. Those that end in `>` and not in `/>` open an element.
const WORDS: &[&str] = &[
    r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration" xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xml:lang="en-US">"#,
    r#"<f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault">"#,
    r#"<f:ProviderFault provider="WMI Provider" path="x.dll">"#,
    r#"<f:WSManFault Code=""#,
    "<f:Message>",
    "<f:ExtendedError>",
    "<p:__ExtendedStatus xmlns:p=\"u\">",
    "<p:StatusCode>",
    "<p:Description>",
    "<s:Header>",
    "<s:Body>",
    "<s:Fault>",
    "<s:Code>",
    "<s:Subcode>",
    "<s:Value>",
    "<s:Reason>",
    r#"<s:Text xml:lang="en-US">"#,
    "<s:Detail>",
    "<a:Action>",
    r#"<a:Action s:mustUnderstand="true">"#,
    "<a:To>",
    "<a:MessageID>",
    "<a:RelatesTo>",
    "<a:ReplyTo>",
    r#"<a:Address s:mustUnderstand="true">"#,
    "<a:Address>",
    "<a:EndpointReference>",
    "<a:ReferenceParameters>",
    r#"<w:ResourceURI s:mustUnderstand="true">"#,
    "<w:ResourceURI>",
    "<w:SelectorSet>",
    r#"<w:Selector Name="Name">"#,
    r#"<w:Selector Name=""#,
    r#"<w:OptionSet s:mustUnderstand="true">"#,
    r#"<w:Option Name=""#,
    r#"<w:MaxEnvelopeSize s:mustUnderstand="true">"#,
    "<w:OperationTimeout>",
    r#"<w:Locale xml:lang=""#,
    "<w:OptimizeEnumeration/>",
    "<w:EnumerationMode>",
    "<w:MaxElements>",
    r#"<w:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">"#,
    r#"<w:Filter Dialect=""#,
    "<w:FaultDetail>",
    "<w:Items>",
    "<w:Item>",
    "<w:EndOfSequence/>",
    "<n:Enumerate>",
    "<n:EnumerateResponse>",
    "<n:EnumerationContext>",
    "<n:Pull>",
    "<n:PullResponse>",
    "<n:Release>",
    "<n:MaxElements>",
    "<n:MaxCharacters>",
    "<n:MaxTime>",
    "<n:Items>",
    "<n:EndOfSequence/>",
    r#"<p:C xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/C" xsi:type="p:C_Type">"#,
    r#"<p:M_INPUT xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/C">"#,
    r#"<p:M_OUTPUT xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/C">"#,
    r#"<p:P xsi:type="p:Inner_Type">"#,
    "<p:P xsi:nil=\"true\"/>",
    "<p:P>",
    "<p:Q>",
    "<cim:Datetime>",
    "<cim:Interval>",
    "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/",
    "http://schemas.xmlsoap.org/ws/2004/09/enumeration/",
    "http://schemas.xmlsoap.org/ws/2004/09/transfer/",
    "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous",
    "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/",
    r#" xmlns:p=""#,
    r#"<INSTANCE CLASSNAME="C">"#,
    r#"<INSTANCE CLASSNAME=""#,
    r#"<PROPERTY NAME="P" TYPE=""#,
    r#"<PROPERTY NAME=""#,
    r#"<PROPERTY.ARRAY NAME="A" TYPE=""#,
    r#"<PROPERTY.REFERENCE NAME="R">"#,
    "<VALUE>",
    "<VALUE.ARRAY>",
    "<VALUE.NULL/>",
    "<VALUE.REFERENCE>",
    "<LOCALINSTANCEPATH>",
    "<LOCALNAMESPACEPATH>",
    r#"<NAMESPACE NAME=""#,
    r#"<INSTANCENAME CLASSNAME="C">"#,
    r#"<KEYBINDING NAME="K">"#,
    r#"<KEYVALUE VALUETYPE="string">"#,
    r#"<QUALIFIER NAME="q">"#,
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>",
    "<!DOCTYPE CIM PUBLIC \"SYSTEM\" \"CIM_DTD_V20.dtd\">",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "&amp;",
    "&lt;",
    "&#10;",
    "uint16",
    "uint64",
    "sint8",
    "boolean",
    "datetime",
    "real32",
    "real64",
    "string",
    "20260102030405.000000+060",
    "2026-01-02T03:04:05Z",
    "P0DT0H0M3S",
    "\u{E4}",
    "\u{1F600}",
];

/// The text an input stands for; what is open at its end is closed.
pub(crate) fn expand(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let mut bytes = input.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            CLOSE => {
                if let Some(name) = open.pop() {
                    close(&mut out, name);
                }
            }
            LITERAL => out.extend(bytes.next()),
            byte => match byte.checked_sub(FIRST_WORD).map(usize::from) {
                Some(number) => {
                    let word = WORDS[number % WORDS.len()];
                    out.extend(word.as_bytes());
                    open.extend(opened(word));
                }
                None => out.push(byte),
            },
        }
    }
    while let Some(name) = open.pop() {
        close(&mut out, name);
    }
    out
}

/// An input that stands for a text.
pub(crate) fn compact(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let end_tag = open.last().map(|name| format!("</{name}>"));
        let word = || WORDS.iter().position(|word| rest.starts_with(word));
        if let Some(after) = end_tag.and_then(|tag| rest.strip_prefix(tag.as_str())) {
            out.push(CLOSE);
            open.pop();
            rest = after;
        } else if let Some(number) = word() {
            out.push(FIRST_WORD + u8::try_from(number).expect("fewer words than bytes"));
            open.extend(opened(WORDS[number]));
            rest = &rest[WORDS[number].len()..];
        } else {
            let letter = rest.chars().next().map_or(1, char::len_utf8);
            if first < CLOSE {
                out.push(first);
            } else {
                out.extend(rest.bytes().take(letter).flat_map(|byte| [LITERAL, byte]));
            }
            rest = &rest[letter..];
        }
    }
    out
}

/// What an input means, for people.
pub(crate) fn describe(input: &[u8]) -> String {
    String::from_utf8_lossy(&expand(input)).into_owned()
}

/// The name of the element a word opens.
fn opened(word: &str) -> Option<&str> {
    let tag = word.strip_prefix('<')?.strip_suffix('>')?;
    let plain = !tag.ends_with('/') && !tag.starts_with(['!', '?']);
    plain.then(|| tag.split(' ').next().unwrap_or(tag))
}

fn close(out: &mut Vec<u8>, name: &str) {
    out.extend(b"</");
    out.extend(name.as_bytes());
    out.push(b'>');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_can_be_written() {
        let all: String = WORDS.concat();
        for text in [
            "",
            "<p:P>a\u{E4}\u{4E2D}</p:P>",
            "</p:P>",
            "<p:P><p:Q/></p:P>x",
            "\u{80}",
        ] {
            assert_eq!(expand(&compact(text)), text.as_bytes(), "{text}");
        }
        let bytes = compact(&all);
        assert!(expand(&bytes).starts_with(all.as_bytes()));
        assert!(bytes.len() < 400, "{} bytes", bytes.len());
    }

    #[test]
    fn every_word_has_a_byte_and_is_found() {
        assert!(WORDS.len() <= usize::from(u8::MAX - FIRST_WORD) + 1);
        for (number, word) in WORDS.iter().enumerate() {
            let byte = FIRST_WORD + u8::try_from(number).unwrap();
            assert_eq!(compact(word)[0], byte, "{word} is hidden by one before it");
        }
    }

    #[test]
    fn what_is_open_is_closed() {
        assert_eq!(expand(&compact("<p:P><p:Q>x")), b"<p:P><p:Q>x</p:Q></p:P>");
    }
}
