//! Recordings say nothing about who and where, and keep their form.

use wsman::recording::Scrubber;
use wsman::{
    Epr, Fault, Header, Instance, Item, Items, Operation, Properties, Reply, Request, Response,
    Value, hresult, uri,
};

/// Everything private in the messages below, in lower case.
const PRIVATE: [&str; 16] = [
    "payroll",
    "m\u{FC}ller",
    "muller",
    "hv01",
    "contoso",
    "svc-backup",
    "6f9619ff-8b86-d011-b42d-00c04fc964ff",
    "6f9619ff8b86d011b42d00c04fc964ff",
    "00155d0a0b0c",
    "00-15-5d-0a-0b-0c",
    "10.20.30.40",
    "fe80::dead:beef",
    "sn-4711-0815",
    "471108151234567",
    "s3cret",
    "z\u{FC}rich",
];

const GUID: &str = "6F9619FF-8B86-D011-B42D-00C04FC964FF";

fn private_object() -> Instance {
    Instance::new("Msvm_VirtualSystemSettingData")
        .with("ElementName", "Payroll")
        .with("InstanceID", format!("Microsoft:{GUID}"))
        .with("VirtualSystemIdentifier", GUID)
        .with("Notes", Value::texts(["ask M\u{FC}ller in Z\u{FC}rich", "SN-4711-0815"]))
        .with("BIOSSerialNumber", "471108151234567")
        .with("ConfigurationDataRoot", r"D:\Contoso\Payroll")
        .with("HostResource", Value::texts([r"\\hv01.contoso.com\vms$\Payroll\Payroll_6F9619FF-8B86-D011-B42D-00C04FC964FF.avhdx"]))
        .with("Address", "00155D0A0B0C")
        .with("OtherAddress", "00-15-5D-0A-0B-0C")
        .with("NetworkAddresses", Value::texts(["10.20.30.40", "fe80::dead:beef"]))
        .with("UserName", r"CONTOSO\svc-backup")
        .with("GuestIntrinsicExchangeItems", Value::texts([
            Instance::new("Msvm_KvpExchangeDataItem").with("Name", "FullyQualifiedDomainName").with("Data", "payroll.contoso.com").to_cim_xml(),
        ]))
        .with("Parent", format!(r#"\\HV01\root\virtualization\v2:Msvm_X.InstanceID="Microsoft:{GUID}\\C\\0""#))
        .with("Embedded", Value::embedded(
            &Instance::new("Msvm_Y").with("Path", r"C:\Payroll & M\u{FC}ller\a.vhdx").with("Inner", Value::embedded(&Instance::new("Msvm_Z").with("Name", "Payroll"))),
        ))
        .with("Reference", Epr::new(uri::NS_VIRTUALIZATION, "Msvm_ComputerSystem").with("Name", GUID))
        .with("Number", 5_u16)
}

fn responses() -> Vec<String> {
    let request = Request {
        header: Header {
            message_id: format!("uuid:{GUID}"),
            resource_uri: uri::query_uri(uri::NS_VIRTUALIZATION),
            ..Header::default()
        },
        operation: Operation::Get,
    };
    let mut fault = Fault::not_found(format!(
        "'Payroll' was not found on HV01.contoso.com (Virtual machine ID {GUID})"
    ))
    .with_code(5, r"Access is denied to CONTOSO\svc-backup.")
    .with_hresult(
        hresult::NOT_FOUND,
        r#"The file "C:\Payroll\x.vhdx" of M\u{FC}ller is missing at 10.20.30.40"#,
    );
    fault.machine = Some("hv01.contoso.com".into());
    let epr = Epr::new(uri::NS_VIRTUALIZATION, "Msvm_X").with("Name", "Payroll");
    let items = vec![
        Item::Object(private_object()),
        Item::Both(private_object(), epr),
    ];
    let batch = Items {
        context: Some(format!("uuid:{GUID}")),
        items,
        end: false,
    };
    [
        Reply::Pull(batch),
        Reply::Object(private_object()),
        Reply::Fault(Box::new(fault)),
        Reply::Identify {
            vendor: "Microsoft Corporation".into(),
            version: "OS: 10.0.20348 SP: 0.0 Stack: 3.0".into(),
        },
    ]
    .into_iter()
    .map(|reply| {
        Response::to(
            &request,
            format!("uuid:{GUID}"),
            uri::NS_VIRTUALIZATION,
            reply,
        )
        .to_xml()
    })
    .collect()
}

fn requests() -> Vec<String> {
    let header = |class: &str| Header {
        to: "http://svc-backup:s3cret@hv01.contoso.com:5985/wsman".into(),
        resource_uri: uri::class_uri(uri::NS_VIRTUALIZATION, class),
        message_id: format!("uuid:{GUID}"),
        selectors: wsman::Selectors::new()
            .with("Name", GUID)
            .with("SystemName", "HV01"),
        options: [("owner".to_owned(), "Payroll".to_owned())].into(),
        ..Header::default()
    };
    let query = "SELECT * FROM Msvm_ComputerSystem WHERE ElementName = 'Payroll' OR ElementName LIKE '%M\u{FC}ller%' OR Notes = 'it\\'s Contoso'";
    let associators = format!(
        "ASSOCIATORS OF {{\\\\HV01\\root\\virtualization\\v2:Msvm_X.Name=\"{GUID}\"}} WHERE AssocClass = Msvm_Y"
    );
    let parameters = Properties::new().with("SystemSettings", Value::embedded(&private_object()));
    [
        Operation::Enumerate(wsman::Enumerate::wql(query, 200)),
        Operation::Enumerate(wsman::Enumerate::wql(associators, 200)),
        Operation::Invoke {
            method: "DefineSystem".into(),
            parameters,
        },
        Operation::Get,
    ]
    .into_iter()
    .map(|operation| {
        Request {
            header: header("Msvm_ComputerSystem"),
            operation,
        }
        .to_xml()
    })
    .collect()
}

#[track_caller]
fn check_clean(scrubbed: &str) {
    let mut forms = vec![scrubbed.to_lowercase()];
    // Escapes taken off once and twice, and doubled backslashes.
    for _ in 0..2 {
        let last = &forms[forms.len() - 1];
        let plain = [
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&quot;", "\""),
            ("&amp;", "&"),
            ("\\\\", "\\"),
            ("&#10;", "\n"),
        ];
        let plain = plain
            .iter()
            .fold(last.clone(), |text, (from, to)| text.replace(from, to));
        forms.push(plain);
    }
    for form in &forms {
        for private in PRIVATE {
            assert!(!form.contains(private), "{private} in {form}");
        }
        assert!(!form.replace('-', "").contains(PRIVATE[7]), "{form}");
    }
}

/// What stays: names of elements and classes, arrays, references, kinds of values.
fn shape(value: &Value) -> String {
    if value.is_null() {
        return "null".into();
    }
    if let Value::Array(items) = value {
        return format!(
            "[{}]",
            items.iter().map(shape).collect::<Vec<_>>().join(",")
        );
    }
    if let Some(epr) = value.as_epr() {
        let keys: Vec<_> = epr.selectors.0.keys().collect();
        return format!("{} {keys:?}", epr.resource_uri);
    }
    match value.to_instance() {
        Some(instance) if !instance.class.starts_with("Msvm_Kvp") => shape_of(&instance),
        Some(_) | None => "text".into(),
    }
}

fn shape_of(instance: &Instance) -> String {
    let properties = instance
        .iter()
        .map(|(name, value)| format!("{name}:{}", shape(value)));
    format!(
        "{}{{{}}}",
        instance.class,
        properties.collect::<Vec<_>>().join(",")
    )
}

#[test]
fn responses_say_nothing_about_anybody_and_keep_their_form() {
    let mut scrubber = Scrubber::new();
    scrubber.hide(r"CONTOSO\svc-backup");
    for xml in responses() {
        let scrubbed = scrubber.envelope(xml.as_bytes()).unwrap();
        check_clean(&scrubbed);
        let (before, after) = (
            Response::parse(xml.as_bytes()).unwrap(),
            Response::parse(scrubbed.as_bytes()).unwrap(),
        );
        assert_eq!(before.action, after.action);
        match (before.reply, after.reply) {
            (Reply::Pull(before), Reply::Pull(after)) => {
                assert_eq!(
                    (before.items.len(), before.end),
                    (after.items.len(), after.end)
                );
                let (Item::Object(before), Item::Object(after)) =
                    (&before.items[0], &after.items[0])
                else {
                    panic!("no objects")
                };
                assert_eq!(shape_of(before), shape_of(after));
            }
            (Reply::Object(before), Reply::Object(after)) => {
                assert_eq!(shape_of(&before), shape_of(&after));
                // The same is the same again.
                let path = after.text("HostResource").unwrap();
                assert!(
                    path.ends_with(".avhdx")
                        && path.contains(after.text("VirtualSystemIdentifier").unwrap()),
                    "{path}"
                );
                assert!(
                    after
                        .text("ConfigurationDataRoot")
                        .unwrap()
                        .ends_with(after.text("ElementName").unwrap())
                );
                assert_eq!(
                    after.text("Number"),
                    Some("1"),
                    "an unknown number keeps its length only"
                );
            }
            (Reply::Fault(before), Reply::Fault(after)) => {
                assert_eq!(
                    (before.subcode, before.code, before.detail),
                    (after.subcode, after.code, after.detail)
                );
                assert_eq!(
                    before.provider.unwrap().hresult,
                    after.provider.unwrap().hresult
                );
                assert!(
                    after.reason.contains("was not found on"),
                    "{}",
                    after.reason
                );
            }
            (
                Reply::Identify {
                    version: before, ..
                },
                Reply::Identify { version: after, .. },
            ) => assert_eq!(before, after),
            (before, after) => panic!("{before:?} became {after:?}"),
        }
    }
}

#[test]
fn requests_say_nothing_about_anybody_and_keep_their_form() {
    let mut scrubber = Scrubber::new();
    scrubber.hide("svc-backup");
    for xml in requests() {
        let scrubbed = scrubber.envelope(xml.as_bytes()).unwrap();
        check_clean(&scrubbed);
        let (before, after) = (
            Request::parse(xml.as_bytes()).unwrap(),
            Request::parse(scrubbed.as_bytes()).unwrap(),
        );
        assert_eq!(before.action(), after.action());
        assert_eq!(
            before.header.selectors.0.keys().collect::<Vec<_>>(),
            after.header.selectors.0.keys().collect::<Vec<_>>()
        );
    }
}

#[test]
fn what_is_not_text_is_not_passed_on_either() {
    let xml = r#"<?xml version="1.0"?><?payroll contoso?><!-- Payroll --><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:q="urn:contoso">
        <s:Header><q:Owner q:name="Payroll" id="sn-4711-0815">svc-backup</q:Owner></s:Header><s:Body><q:Thing><![CDATA[M]]>&#252;<![CDATA[ller]]></q:Thing>
        <q:Mixed>Payroll<q:X/>hv01</q:Mixed></s:Body></s:Envelope>"#;
    let wide: Vec<u8> = std::iter::once(0xFEFF)
        .chain(xml.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    for bytes in [xml.as_bytes(), &wide] {
        let scrubbed = Scrubber::new().envelope(bytes).unwrap();
        check_clean(&scrubbed);
        assert!(
            scrubbed.contains("<q:Thing>") && scrubbed.contains("<q:X/>"),
            "{scrubbed}"
        );
    }
}
