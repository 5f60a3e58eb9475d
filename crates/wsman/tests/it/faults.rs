//! Every kind of fault is written, read and classified.

use wsman::{Fault, FaultClass, Reply, Request, Response, Subcode, hresult};

fn sent(fault: Fault) -> Fault {
    let request = Request {
        header: wsman::Header::default(),
        operation: wsman::Operation::Get,
    };
    let response = Response::to(
        &request,
        "uuid:1",
        "root/cimv2",
        Reply::Fault(Box::new(fault)),
    );
    let read = Response::parse(response.to_xml().as_bytes()).expect("own reply is read");
    let Reply::Fault(fault) = read.reply else {
        panic!("{:?} is no fault", read.reply)
    };
    *fault
}

#[track_caller]
fn check(fault: Fault, class: FaultClass) {
    let read = sent(fault.clone());
    assert_eq!(read.class(), class, "{read:?}");
    assert!(read.full_text.contains(&fault.reason), "{}", read.full_text);
    assert_eq!(
        Fault {
            full_text: String::new(),
            ..read
        },
        fault
    );
}

#[test]
fn faults_are_classified_by_subcode() {
    for (subcode, class) in [
        (Subcode::InvalidSelectors, FaultClass::NotFound),
        (Subcode::DestinationUnreachable, FaultClass::UnknownClass),
        (Subcode::ActionNotSupported, FaultClass::UnknownMethod),
        (Subcode::CannotProcessFilter, FaultClass::BadQuery),
        (
            Subcode::InvalidEnumerationContext,
            FaultClass::InvalidContext,
        ),
        (Subcode::AccessDenied, FaultClass::AccessDenied),
        (Subcode::TimedOut, FaultClass::ResultUnknown),
        (Subcode::EncodingLimit, FaultClass::EncodingLimit),
        (Subcode::QuotaLimit, FaultClass::Quota),
        (Subcode::InvalidParameter, FaultClass::InvalidParameter),
        (Subcode::SchemaValidationError, FaultClass::InvalidParameter),
        (Subcode::EndpointUnavailable, FaultClass::Retry),
        (Subcode::InternalError, FaultClass::Failed),
        (
            Subcode::Other {
                namespace: "urn:x".into(),
                name: "Odd".into(),
            },
            FaultClass::Failed,
        ),
        (Subcode::None, FaultClass::Failed),
    ] {
        check(Fault::new(subcode, "it <failed> & so on"), class);
    }
}

#[test]
fn provider_failures_are_classified_by_their_result() {
    for (result, class) in [
        (hresult::NOT_FOUND, FaultClass::NotFound),
        (hresult::ACCESS_DENIED, FaultClass::AccessDenied),
        (hresult::INVALID_CLASS, FaultClass::UnknownClass),
        (hresult::INVALID_NAMESPACE, FaultClass::UnknownClass),
        (hresult::INVALID_PARAMETER, FaultClass::InvalidParameter),
        (hresult::FAILED, FaultClass::Failed),
    ] {
        check(
            Fault::new(Subcode::InternalError, "provider failure").with_hresult(result, "failed:"),
            class,
        );
    }
}

#[test]
fn codes_and_details_travel() {
    let fault = sent(Fault::timed_out("too slow"));
    assert_eq!((fault.code, fault.sender), (Some(2_150_858_793), false));
    let fault = sent(Fault::encoding_limit("too large"));
    assert!(
        fault
            .detail
            .unwrap()
            .ends_with("faultDetail/MaxEnvelopeSize")
    );
    let fault = sent(Fault::access_denied("no"));
    assert_eq!(
        (fault.code, fault.message.as_deref()),
        (Some(5), Some("Access is denied."))
    );
}

#[test]
fn a_nested_provider_fault_is_read() {
    let xml = r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:q="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Body>
        <s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>q:InternalError</s:Value></s:Subcode></s:Code>
        <s:Reason><s:Text xml:lang="">The WS-Management service cannot process the request.</s:Text></s:Reason>
        <s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="2150858777" Machine="hv01"><f:Message>
        <f:ProviderFault provider="WMI Provider" path="x.dll"><f:WSManFault Code="2147749890" Machine="hv01"><f:Message>Not found </f:Message></f:WSManFault>
        <f:ExtendedError><e xmlns="urn:e"><Operation>ExecMethod</Operation></e></f:ExtendedError></f:ProviderFault></f:Message></f:WSManFault></s:Detail></s:Fault></s:Body></s:Envelope>"#;
    let Reply::Fault(fault) = Response::parse(xml.as_bytes()).unwrap().reply else {
        panic!("no fault")
    };
    assert_eq!(fault.class(), FaultClass::NotFound);
    assert_eq!(fault.machine.as_deref(), Some("hv01"));
    assert!(fault.to_string().contains("ExecMethod"), "{fault}");
}
