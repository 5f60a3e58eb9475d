//! Messages made to cost as much as they can: the work grows as they do.

use wsman::{Instance, Request, Response};

/// Processor time of this thread in nanoseconds, as the system counts it; `None` where it does not.
fn cpu_nanos() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// One message sixteen times as long takes at most five times the work of sixteen: it would be sixteen times if it grew
/// with the square.
#[track_caller]
fn check_linear(name: &str, message: impl Fn(usize) -> String, read: impl Fn(&str)) {
    const SMALL_BYTES: usize = 24 << 10;
    // The system counts in ticks.
    const GRAIN_NANOS: u64 = 40_000_000;
    let unit = message(1000).len();
    let small = message(SMALL_BYTES * 1000 / unit);
    let large = message(SMALL_BYTES * 16 * 1000 / unit);
    let cost = |text: &str, times: usize| {
        let once = |_| {
            let before = cpu_nanos()?;
            (0..times).for_each(|_| read(text));
            Some(cpu_nanos()?.saturating_sub(before))
        };
        (0..3).map(once).min().flatten()
    };
    let (Some(small), Some(large)) = (cost(&small, 16), cost(&large, 1)) else {
        return;
    };
    let allowed = small * 5 + GRAIN_NANOS;
    assert!(large <= allowed, "{name}: {small} ns, then {large} ns");
}

fn repeated(n: usize, item: impl Fn(usize) -> String) -> String {
    (0..n).map(item).collect()
}

fn envelope(body: &str) -> String {
    format!(
        r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration"
        xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"><s:Header/><s:Body>{body}</s:Body></s:Envelope>"#
    )
}

fn pull(items: &str) -> String {
    envelope(&format!(
        "<n:PullResponse><n:Items>{items}</n:Items></n:PullResponse>"
    ))
}

/// Makes a message of so many parts.
type Message = fn(usize) -> String;

#[test]
fn reading_costs_as_much_as_there_is_to_read() {
    let cases: [(&str, Message); 12] = [
        ("items", |n| {
            pull(&repeated(n, |i| format!("<C><Name>{i}</Name></C>")))
        }),
        ("declarations", |n| {
            pull(&repeated(n, |i| format!("<p:C xmlns:p='u{}'/>", i % 50)))
        }),
        ("properties of one object", |n| {
            pull(&format!(
                "<C>{}</C>",
                repeated(n, |i| format!("<P{i}>x</P{i}>"))
            ))
        }),
        ("one array", |n| {
            pull(&format!("<C>{}</C>", "<A>x</A>".repeat(n)))
        }),
        ("attributes", |n| {
            pull(&repeated(n / 60 + 1, |_| {
                format!("<C {}/>", repeated(60, |i| format!("a{i}='' ")))
            }))
        }),
        ("entities", |n| {
            pull(&format!("<C><P>{}</P></C>", "&amp;&#65;".repeat(n)))
        }),
        ("pieces of text", |n| {
            pull(&format!(
                "<C><P>{}</P></C>",
                "x<![CDATA[y]]><!-- -->".repeat(n)
            ))
        }),
        ("comments", |n| {
            pull(&"<!-- -- ->x-->".replace("-- ->", "").repeat(n))
        }),
        ("unended comments", |n| pull(&"<!--".repeat(n))),
        ("end tags", |n| pull(&"</a>".repeat(n))),
        ("fault", |n| {
            let inner = "<f:WSManFault Code='5'><f:Message>x</f:Message></f:WSManFault>".repeat(n);
            envelope(&format!(
                "<s:Fault><s:Detail><f:WSManFault xmlns:f='http://schemas.microsoft.com/wbem/wsman/1/wsmanfault'><f:Message><f:ProviderFault>{inner}</f:ProviderFault></f:Message></f:WSManFault></s:Detail></s:Fault>"
            ))
        }),
        ("selectors", |n| {
            let keys = repeated(n, |i| format!("<w:Selector Name='k{i}'>v</w:Selector>"));
            pull(&format!(
                "<C><R><a:Address/><a:ReferenceParameters><w:ResourceURI>u</w:ResourceURI><w:SelectorSet>{keys}</w:SelectorSet></a:ReferenceParameters></R></C>"
            ))
        }),
    ];
    for (name, message) in cases {
        check_linear(name, message, |text| {
            let _ = Response::parse(text.as_bytes());
            let _ = Request::parse(text.as_bytes());
        });
    }
    let properties = |n| {
        format!(
            "<!DOCTYPE CIM><INSTANCE CLASSNAME='C'>{}</INSTANCE>",
            repeated(n, |i| format!(
                "<PROPERTY NAME='p{i}' TYPE='uint8'><QUALIFIER NAME='q'/><VALUE>1</VALUE></PROPERTY>"
            ))
        )
    };
    check_linear("CIM-XML", properties, |text| {
        let _ = Instance::from_cim_xml(text);
    });
}

#[test]
fn utf16_messages_are_read_with_and_without_a_mark() {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"utf-16\"?>{}",
        pull("<C><Name>\u{E4}\u{1F600}</Name></C>")
    );
    for marked in [true, false] {
        for little in [true, false] {
            let text = if marked {
                format!("\u{FEFF}{xml}")
            } else {
                xml.clone()
            };
            let bytes: Vec<u8> = text
                .encode_utf16()
                .flat_map(|unit| {
                    if little {
                        unit.to_le_bytes()
                    } else {
                        unit.to_be_bytes()
                    }
                })
                .collect();
            let wsman::Reply::Pull(batch) = Response::parse(&bytes).unwrap().reply else {
                panic!("no batch")
            };
            let [wsman::Item::Object(object)] = batch.items.as_slice() else {
                panic!("{:?}", batch.items)
            };
            assert_eq!(object.text("Name"), Some("\u{E4}\u{1F600}"));
            // Half a character at the end is no message.
            assert_eq!(
                Response::parse(&bytes[..bytes.len() - 1]),
                Err(wsman::MessageError::Encoding)
            );
        }
    }
}

#[test]
fn envelopes_have_no_document_type() {
    let xml = format!("<!DOCTYPE x>{}", pull(""));
    assert!(matches!(
        Response::parse(xml.as_bytes()),
        Err(wsman::MessageError::Malformed { .. })
    ));
}
