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
        (Subcode::Concurrency, FaultClass::Retry),
        (Subcode::NoItemInTime, FaultClass::ResultUnknown),
        (Subcode::FilteringNotSupported, FaultClass::BadQuery),
        (
            Subcode::FilterDialectRequestedUnavailable,
            FaultClass::BadQuery,
        ),
        (Subcode::InvalidResourceUri, FaultClass::UnknownClass),
        (Subcode::ActionMismatch, FaultClass::UnknownMethod),
        (Subcode::UnsupportedFeature, FaultClass::Unsupported),
        (Subcode::InvalidOptions, FaultClass::Unsupported),
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
fn what_a_provider_says_travels() {
    let provider = wsman::ProviderFault {
        provider: "WMI Provider".into(),
        path: "x.dll".into(),
        text: "The class does not exist.".into(),
        code: Some(2_150_858_778),
        extended: Some(Box::new(wsman::ExtendedStatus {
            operation: "ExecQuery".into(),
            parameter_info: "SELECT * FROM Nothing".into(),
            provider_name: "WinMgmt".into(),
            status_code: Some(hresult::INVALID_CLASS),
            ..Default::default()
        })),
        hresult: Some(hresult::INVALID_CLASS),
    };
    let fault = Fault {
        provider: Some(provider),
        ..Fault::new(Subcode::CannotProcessFilter, "no")
    };
    check(fault.clone(), FaultClass::UnknownClass);
    let text = sent(fault).full_text;
    for part in ["2150858778", "ExecQuery", "Nothing", "WinMgmt", "not exist"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn where_the_subcode_says_nothing_the_code_does() {
    for (code, class) in [
        (5, FaultClass::AccessDenied),
        (wsman::fault_code::TIMED_OUT, FaultClass::ResultUnknown),
        (2_150_858_817, FaultClass::InvalidParameter),
        (0x8033_8012, FaultClass::UnknownClass),
        (0x8033_8013, FaultClass::UnknownMethod),
        (0x8033_801B, FaultClass::InvalidContext),
        (0x8033_803D, FaultClass::NotFound),
        (0x8033_803F, FaultClass::Quota),
        (0x8033_8048, FaultClass::EncodingLimit),
        (hresult::NOT_FOUND, FaultClass::NotFound),
        (1, FaultClass::Failed),
    ] {
        check(
            Fault::new(Subcode::InternalError, "failed").with_code(code, "as the code says"),
            class,
        );
    }
    // The subcode is stronger, and so is the WMI result.
    let denied = Fault::new(Subcode::InvalidSelectors, "x").with_code(5, "x");
    check(denied, FaultClass::NotFound);
    let denied = Fault::new(Subcode::InternalError, "x")
        .with_code(wsman::fault_code::TIMED_OUT, "x")
        .with_hresult(hresult::ACCESS_DENIED, "x");
    check(denied, FaultClass::AccessDenied);
}

#[test]
fn an_answer_that_cannot_be_sent_means_that_the_method_ran() {
    let fault = Fault::new(Subcode::EncodingLimit, "x");
    check(
        fault.clone().with_detail("UnreportableSuccess"),
        FaultClass::ResultUnknown,
    );
    check(
        fault.with_code(wsman::fault_code::UNREPORTABLE_SUCCESS, "x"),
        FaultClass::ResultUnknown,
    );
}

#[test]
fn words_are_the_last_resort() {
    for (text, class) in [
        ("Access is denied.", FaultClass::AccessDenied),
        ("failed with 0x80041002", FaultClass::NotFound),
        ("Invalid class 0x80041010", FaultClass::UnknownClass),
        ("something else", FaultClass::Failed),
    ] {
        check(Fault::new(Subcode::InternalError, text), class);
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
