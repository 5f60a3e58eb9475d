//! Messages of every kind, as both sides write them and as others do.

use std::collections::BTreeMap;
use std::time::Duration;

use wsman::{
    CimTime, Enumerate, EnumerationMode, Epr, ExtendedStatus, Fault, Filter, Header, Instance,
    Interval, Item, Items, Moment, Operation, Properties, Pull, Reply, Request, Response, Selector,
    Selectors, Subcode, Value, hresult, sealed, uri,
};

use crate::Seed;
use crate::message::compact;

const NAMESPACE: &str = uri::NS_CIMV2;

fn seed(name: &str, bytes: Vec<u8>) -> Seed {
    Seed {
        name: name.to_owned(),
        bytes,
    }
}

fn epr() -> Epr {
    Epr::new(NAMESPACE, "C")
        .with("Name", "a & b")
        .with("__cimnamespace", NAMESPACE)
}

/// An object with every kind of value.
fn object() -> Instance {
    let mut association = Epr::new(NAMESPACE, "A");
    association
        .selectors
        .0
        .insert("K".into(), Selector::Epr(Box::new(epr())));
    Instance::new("C")
        .with("Text", "<x> \u{E4}\u{1F600}")
        .with("Empty", "")
        .with("Null", Value::Null)
        .with("Flag", true)
        .with("Number", 18_446_744_073_709_551_615_u64)
        .with("Small", -128_i8)
        .with("Real", f64::INFINITY)
        .with(
            "When",
            CimTime::Moment(Moment::from_unix_millis(1_767_323_045_678).at_offset(60)),
        )
        .with("Long", CimTime::Interval(Interval { micros: 3_500_000 }))
        .with("List", Value::texts(["1", "2"]))
        .with("Reference", epr())
        .with("Association", association)
        .with(
            "Inner",
            Value::Instance(Instance::new("Inner").with("P", "q")),
        )
        .with(
            "Embedded",
            Value::embedded(&Instance::new("E").with("P", 7_u16)),
        )
}

fn header() -> Header {
    Header {
        to: "http://hv01:5985/wsman".into(),
        resource_uri: uri::class_uri(NAMESPACE, "C"),
        message_id: "uuid:1".into(),
        max_envelope_bytes: Some(153_600),
        timeout: Some(Duration::from_millis(60_500)),
        locale: Some("en-US".into()),
        selectors: Selectors::new()
            .with("Name", "x")
            .with("__cimnamespace", NAMESPACE),
        options: BTreeMap::from([("o".to_owned(), "1".to_owned())]),
    }
}

fn operations() -> Vec<(&'static str, Operation)> {
    let pull = Pull {
        context: "uuid:2".into(),
        max_elements: Some(200),
        max_characters: Some(1000),
        max_time: Some(Duration::from_secs(5)),
    };
    let eprs = Enumerate {
        filter: Some(Filter {
            dialect: uri::DIALECT_SELECTOR.into(),
            text: "x".into(),
        }),
        mode: EnumerationMode::ObjectAndEpr,
        optimize: false,
        max_elements: None,
    };
    let parameters = object().properties;
    vec![
        ("identify", Operation::Identify),
        (
            "query",
            Operation::Enumerate(Enumerate::wql("SELECT * FROM C WHERE a < 'b'", 200)),
        ),
        ("enumerate", Operation::Enumerate(eprs)),
        ("pull", Operation::Pull(pull)),
        (
            "release",
            Operation::Release {
                context: "uuid:2".into(),
            },
        ),
        ("get", Operation::Get),
        ("put", Operation::Put(object())),
        ("delete", Operation::Delete),
        (
            "invoke",
            Operation::Invoke {
                method: "M".into(),
                parameters,
            },
        ),
        (
            "empty call",
            Operation::Invoke {
                method: "M".into(),
                parameters: Properties::new(),
            },
        ),
    ]
}

pub(crate) fn wsman_request() -> Vec<Seed> {
    let ours = operations().into_iter().map(|(name, operation)| {
        let request = Request {
            header: header(),
            operation,
        };
        seed(name, compact(&request.to_xml()))
    });
    // As openwsman sends it: few headers, other prefixes.
    let foreign = r#"<?xml version="1.0" encoding="utf-8"?><env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope" xmlns:wsa="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:wsm="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><env:Header><wsa:To>x</wsa:To><wsm:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/C</wsm:ResourceURI><wsa:Action>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/C/M</wsa:Action></env:Header><env:Body><m:M_INPUT xmlns:m="x"><m:P><![CDATA[<INSTANCE/>]]></m:P></m:M_INPUT></env:Body></env:Envelope>"#;
    let selector = r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body><i:Identify xmlns:i="http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"/></s:Body></s:Envelope>"#;
    ours.chain([
        seed("foreign", compact(foreign)),
        seed("bare identify", compact(selector)),
    ])
    .collect()
}

pub(crate) fn wsman_response() -> Vec<Seed> {
    let batch = |context: Option<&str>, items, end| Items {
        context: context.map(str::to_owned),
        items,
        end,
    };
    let all = vec![
        Item::Object(object()),
        Item::Epr(epr()),
        Item::Both(object(), epr()),
    ];
    let mut provider = Fault::new(Subcode::InternalError, "failed")
        .with_detail("ProviderFault")
        .with_code(2_150_858_778, "the provider failed")
        .with_hresult(hresult::NOT_FOUND, "Not found");
    if let Some(provider) = &mut provider.provider {
        provider.code = Some(hresult::NOT_FOUND);
        provider.extended = Some(Box::new(ExtendedStatus {
            description: "d".into(),
            operation: "GetObject".into(),
            status_code: Some(hresult::NOT_FOUND),
            ..ExtendedStatus::default()
        }));
    }
    let other = Subcode::Other {
        namespace: "urn:x".into(),
        name: "Odd".into(),
    };
    let replies = [
        (
            "identity",
            Reply::Identify {
                vendor: "v".into(),
                version: "OS: 1".into(),
            },
        ),
        (
            "first batch",
            Reply::Enumerate {
                batch: batch(None, all.clone(), true),
                optimized: true,
            },
        ),
        (
            "context",
            Reply::Enumerate {
                batch: batch(Some("uuid:3"), vec![], false),
                optimized: false,
            },
        ),
        ("batch", Reply::Pull(batch(Some("uuid:3"), all, false))),
        ("empty batch", Reply::Pull(batch(None, vec![], true))),
        ("object", Reply::Object(object())),
        ("empty", Reply::Empty),
        (
            "outputs",
            Reply::Invoke {
                method: "M".into(),
                outputs: object().properties,
            },
        ),
        ("provider fault", Reply::Fault(Box::new(provider))),
        (
            "timed out",
            Reply::Fault(Box::new(Fault::timed_out("slow"))),
        ),
        (
            "odd fault",
            Reply::Fault(Box::new(Fault::new(other, "odd"))),
        ),
        (
            "fault without subcode",
            Reply::Fault(Box::new(Fault::new(Subcode::None, "x"))),
        ),
    ];
    let request = Request {
        header: header(),
        operation: Operation::Get,
    };
    replies
        .into_iter()
        .map(|(name, reply)| {
            let response = Response::to(&request, "uuid:9", NAMESPACE, reply);
            seed(name, compact(&response.to_xml()))
        })
        .collect()
}

pub(crate) fn cim_xml() -> Vec<Seed> {
    let windows = r#"<?xml version="1.0" encoding="utf-8"?><!DOCTYPE CIM PUBLIC "SYSTEM" "CIM_DTD_V20.dtd"><INSTANCE CLASSNAME="C"><QUALIFIER NAME="q"><VALUE>TRUE</VALUE></QUALIFIER><PROPERTY NAME="P" TYPE="uint16" CLASSORIGIN="X" MODIFIED="TRUE"><VALUE>3</VALUE></PROPERTY><PROPERTY NAME="N" TYPE="string"></PROPERTY><PROPERTY.ARRAY NAME="A" TYPE="uint16"><VALUE.ARRAY><VALUE>1</VALUE><VALUE.NULL/></VALUE.ARRAY></PROPERTY.ARRAY><PROPERTY.REFERENCE NAME="R"><VALUE.REFERENCE>\\h\root\cimv2:C.K="v"</VALUE.REFERENCE></PROPERTY.REFERENCE></INSTANCE>"#;
    let nested = r#"<INSTANCE CLASSNAME="C"><PROPERTY.REFERENCE NAME="R"><VALUE.REFERENCE><LOCALINSTANCEPATH><LOCALNAMESPACEPATH><NAMESPACE NAME="root"/></LOCALNAMESPACEPATH><INSTANCENAME CLASSNAME="C"><KEYBINDING NAME="K"><VALUE.REFERENCE><INSTANCENAME CLASSNAME="C"><KEYBINDING NAME="K"><KEYVALUE VALUETYPE="string">v</KEYVALUE></KEYBINDING></INSTANCENAME></VALUE.REFERENCE></KEYBINDING></INSTANCENAME></LOCALINSTANCEPATH></VALUE.REFERENCE></PROPERTY.REFERENCE></INSTANCE>"#;
    vec![
        seed("ours", compact(&object().to_cim_xml())),
        seed("windows", compact(windows)),
        seed("nested", compact(nested)),
    ]
}

fn texts(texts: &[&str]) -> Vec<Seed> {
    texts
        .iter()
        .enumerate()
        .map(|(number, text)| seed(&number.to_string(), text.as_bytes().to_vec()))
        .collect()
}

pub(crate) fn wmi_path() -> Vec<Seed> {
    texts(&[
        r#"\\HV01\root\virtualization\v2:Msvm_X.InstanceID="Microsoft:G\\C\\0",Name='a"b'"#,
        "\\\\HV01\\root\\virtualization\\v2:C.A=\"x\",B=\"Y\"\n\\\\hv01\\Root\\Virtualization\\V2:c.b=\"y\",a=\"X\"\nC.A='x',B=y",
        r"\\hv01.example.com\root\v2:C.K=1",
        r#"Win32_Service="vmms""#,
        "root/cimv2:Win32_Service=@",
        "\\\\.\\root\\v2:C.K=TRUE\nroot\\v2:C.K='true'",
        "//h/root/v2:C",
        "root\\a?b:C.K=1",
    ])
}

pub(crate) fn wmi_time() -> Vec<Seed> {
    texts(&[
        "2026-01-02T03:04:05Z",
        "20260102030405.500000+060",
        "2026-01-02T03:04:05.25-05:30",
        "P0DT0H0M3S",
        "PT60.5S",
        "00000001020304.500000:000",
        "20240229******.******+000",
        "16010101000000.000000-000",
        "99991231235959.999999+999",
    ])
}

pub(crate) fn wsman_sealed() -> Vec<Seed> {
    let one = sealed::write(sealed::Sealed {
        signature: &[1; 16],
        sealed: b"sealed",
    });
    let with = |head: &str, body: &[u8]| [head.as_bytes(), b"\n", body].concat();
    let other = String::from_utf8_lossy(&one).replace("Encrypted Boundary", "b");
    let head =
        "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"b\"";
    // Two pieces: the end of the first is the beginning of the second.
    let joined = [&one[..one.len() - "--Encrypted Boundary--\r\n".len()], &one].concat();
    vec![
        seed("one", with("", &one)),
        seed("two", with("", &joined)),
        seed("other boundary", with(head, other.as_bytes())),
        seed(
            "empty",
            with(
                "",
                &sealed::write(sealed::Sealed {
                    signature: &[],
                    sealed: &[],
                }),
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::expand;

    #[test]
    fn sound_messages_are_read() {
        for seed in wsman_request() {
            let read = Request::parse(&expand(&seed.bytes));
            assert!(read.is_ok(), "{}: {read:?}", seed.name);
            assert!(
                seed.bytes.len() < 1500,
                "{}: {} bytes",
                seed.name,
                seed.bytes.len()
            );
        }
        for seed in wsman_response() {
            let read = Response::parse(&expand(&seed.bytes));
            assert!(read.is_ok(), "{}: {read:?}", seed.name);
        }
        for seed in cim_xml() {
            let text = String::from_utf8(expand(&seed.bytes)).unwrap();
            let read = Instance::from_cim_xml(&text);
            assert!(read.is_ok(), "{}: {read:?}", seed.name);
        }
        for seed in wsman_sealed() {
            let at = seed.bytes.iter().position(|&byte| byte == b'\n').unwrap();
            let head = String::from_utf8_lossy(&seed.bytes[..at]);
            let head = if at == 0 { sealed::CONTENT_TYPE } else { &head };
            let read = sealed::read(head, &seed.bytes[at + 1..]);
            assert!(read.is_ok(), "{}: {read:?}", seed.name);
        }
    }
}
