//! Messages as other programs write them.

use wsman::{
    EnumerationMode, Fault, MessageError, Operation, Reply, Request, Response, Subcode, Value, uri,
};

const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?><env:Envelope xmlns:env="http://www.w3.org/2003/05/soap-envelope"
    xmlns:wsa="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:wsm="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
    xmlns:wen="http://schemas.xmlsoap.org/ws/2004/09/enumeration">"#;

#[test]
fn a_request_with_other_prefixes_and_few_headers_is_read() {
    let xml = format!(
        r#"{HEAD}<env:Header><wsa:Action env:mustUnderstand="true"> http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate</wsa:Action>
        <wsa:To>http://h:5985/wsman</wsa:To><wsm:ResourceURI>http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/*</wsm:ResourceURI>
        <wsa:MessageID>uuid:1</wsa:MessageID></env:Header><env:Body><wen:Enumerate>
        <wsm:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">select * from A where B = 'x &amp; y'</wsm:Filter></wen:Enumerate></env:Body></env:Envelope>"#
    );
    let request = Request::parse(xml.as_bytes()).unwrap();
    assert_eq!(request.header.max_envelope_bytes, None);
    assert_eq!(
        uri::split_class_uri(&request.header.resource_uri),
        Some(("root/virtualization/v2", "*"))
    );
    let Operation::Enumerate(enumerate) = request.operation else {
        panic!("no enumeration")
    };
    assert_eq!(
        enumerate.filter.unwrap().text,
        "select * from A where B = 'x & y'"
    );
    assert_eq!(
        (enumerate.mode, enumerate.optimize, enumerate.max_elements),
        (EnumerationMode::Object, false, None)
    );
}

#[test]
fn method_parameters_are_read_in_every_form() {
    let class = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_VirtualSystemManagementService";
    let xml = format!(
        r#"{HEAD}<env:Header><wsa:Action>{class}/ModifySystemSettings</wsa:Action><wsm:ResourceURI>{class}</wsm:ResourceURI>
        <wsm:SelectorSet><wsm:Selector Name="CreationClassName">Msvm_VirtualSystemManagementService</wsm:Selector></wsm:SelectorSet></env:Header>
        <env:Body><m:ModifySystemSettings_INPUT xmlns:m="{class}">
        <m:Escaped>&lt;?xml version="1.0"?&gt;
          &lt;INSTANCE CLASSNAME="C"&gt;&lt;PROPERTY NAME="P" TYPE="string"&gt;&lt;VALUE&gt;a &amp;amp; b&lt;/VALUE&gt;&lt;/PROPERTY&gt;&lt;/INSTANCE&gt;</m:Escaped>
        <m:Data><![CDATA[<INSTANCE CLASSNAME="C"><PROPERTY NAME="P" TYPE="string"><VALUE>a &amp; b</VALUE></PROPERTY></INSTANCE>]]></m:Data>
        <m:Nil xsi:nil="true" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"/>
        <m:Flag>False</m:Flag><m:List>1</m:List><m:List>2</m:List>
        <m:Reference><wsa:Address>x</wsa:Address><wsa:ReferenceParameters><wsm:ResourceURI>{class}</wsm:ResourceURI>
          <wsm:SelectorSet><wsm:Selector Name="Name">b637f346</wsm:Selector></wsm:SelectorSet></wsa:ReferenceParameters></m:Reference>
        </m:ModifySystemSettings_INPUT></env:Body></env:Envelope>"#
    );
    let request = Request::parse(xml.as_bytes()).unwrap();
    let Operation::Invoke { method, parameters } = request.operation else {
        panic!("no call")
    };
    assert_eq!(method, "ModifySystemSettings");
    for embedded in ["Escaped", "Data"] {
        assert_eq!(
            parameters.instance(embedded).unwrap().text("P"),
            Some("a & b"),
            "{embedded}"
        );
    }
    assert!(parameters.contains("Nil") && parameters.get("Nil").is_null());
    assert_eq!(parameters.bool("Flag"), Some(false));
    assert_eq!(parameters.u64s("List"), Some(vec![1, 2]));
    assert_eq!(
        parameters.epr("Reference").unwrap().get("name"),
        Some("b637f346")
    );
    assert!(parameters.get("Absent").is_null());
}

#[test]
fn identify_needs_no_header() {
    let xml = r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body>
        <i:Identify xmlns:i="http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"/></s:Body></s:Envelope>"#;
    assert_eq!(
        Request::parse(xml.as_bytes()).unwrap().operation,
        Operation::Identify
    );
}

#[test]
fn absent_and_nil_arrays_are_the_same() {
    let item = |array: &str| {
        format!(
            r#"{HEAD}<env:Body><wen:PullResponse><wen:Items><p:C xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/C"
            xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><p:Name>x</p:Name>{array}<p:At><c:Datetime xmlns:c="http://schemas.dmtf.org/wbem/wscim/1/common">2026-01-02T03:04:05Z</c:Datetime></p:At></p:C>
            </wen:Items><wen:EndOfSequence/></wen:PullResponse></env:Body></env:Envelope>"#
        )
    };
    for array in ["", r#"<p:List xsi:nil="true"/>"#] {
        let response = Response::parse(item(array).as_bytes()).unwrap();
        assert_eq!(response.namespace, "root/virtualization/v2");
        let Reply::Pull(batch) = response.reply else {
            panic!("no batch")
        };
        assert!(batch.end && batch.context.is_none());
        let [wsman::Item::Object(object)] = batch.items.as_slice() else {
            panic!("{:?}", batch.items)
        };
        assert_eq!(
            (
                object.class.as_str(),
                object.items("List"),
                object.get("List")
            ),
            ("C", &[][..], &Value::Null)
        );
        assert!(object.time("At").is_some());
    }
    let Reply::Pull(batch) = Response::parse(item("<p:List>1</p:List>").as_bytes())
        .unwrap()
        .reply
    else {
        panic!()
    };
    let [wsman::Item::Object(object)] = batch.items.as_slice() else {
        panic!()
    };
    assert_eq!(object.u64s("List"), Some(vec![1]));
}

#[test]
fn replies_carry_the_prefixes_clients_look_for() {
    let request = Request {
        header: wsman::Header {
            message_id: "uuid:7".into(),
            resource_uri: uri::query_uri("root/cimv2"),
            ..Default::default()
        },
        operation: Operation::Pull(wsman::Pull::default()),
    };
    let empty = wsman::Items {
        context: None,
        items: vec![],
        end: true,
    };
    let xml = Response::to(&request, "uuid:8", "root/cimv2", Reply::Pull(empty)).to_xml();
    for part in [
        "<s:Envelope",
        "<a:RelatesTo>uuid:7<",
        "<n:PullResponse><n:Items></n:Items><n:EndOfSequence/>",
        "enumeration/PullResponse</a:Action>",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    let object = wsman::Instance::new("Win32_Volume").with("Label", Value::Null);
    let xml = Response::to(&request, "uuid:8", "root/cimv2", Reply::Object(object)).to_xml();
    assert!(xml.contains(r#"<p:Win32_Volume xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_Volume" xsi:type="p:Win32_Volume_Type"><p:Label xsi:nil="true"/>"#), "{xml}");
}

#[test]
fn what_is_wrong_with_a_request_becomes_a_fault() {
    let envelope = |header: &str, body: &str| {
        format!("{HEAD}<env:Header>{header}</env:Header><env:Body>{body}</env:Body></env:Envelope>")
    };
    let cases = [
        ("<a".to_owned(), 400, Subcode::SchemaValidationError),
        (
            "<a/>".to_owned(),
            500,
            Subcode::MessageInformationHeaderRequired,
        ),
        (
            envelope("", ""),
            500,
            Subcode::MessageInformationHeaderRequired,
        ),
        (
            envelope("<wsa:Action>urn:x</wsa:Action>", ""),
            500,
            Subcode::ActionNotSupported,
        ),
        (
            envelope(&format!("<wsa:Action>{}</wsa:Action>", uri::ACTION_GET), ""),
            500,
            Subcode::MessageInformationHeaderRequired,
        ),
        (
            envelope(
                &format!("<wsa:Action>{}</wsa:Action>", uri::ACTION_PULL),
                "<wen:Pull><wen:EnumerationContext>x</wen:EnumerationContext><wen:MaxElements>many</wen:MaxElements></wen:Pull>",
            ),
            500,
            Subcode::SchemaValidationError,
        ),
    ];
    for (xml, status, subcode) in cases {
        let error = Request::parse(xml.as_bytes()).unwrap_err();
        assert_eq!(
            (error.http_status(), error.to_fault().subcode),
            (status, subcode),
            "{xml}: {error}"
        );
    }
    let huge = MessageError::TooLarge { bytes: 1 };
    assert_eq!(huge.to_fault().subcode, Fault::encoding_limit("").subcode);
}
