//! Envelopes: refused by a fault that can be sent, or written and read again the same; in UTF-16 as in UTF-8.

use wsman::{Fault, MessageError, Reply, Request, Response};

use crate::message::expand;

pub(crate) fn request(input: &[u8]) -> u64 {
    let bytes = expand(input);
    let read = Request::parse(&bytes);
    same_in_utf16(&bytes, &read, Request::parse);
    match read {
        Ok(request) => {
            let written = request.to_xml();
            let again = Request::parse(written.as_bytes());
            assert_eq!(again.as_ref(), Ok(&request), "{written}");
        }
        Err(error) => refused(&error),
    }
    bytes.len() as u64
}

pub(crate) fn response(input: &[u8]) -> u64 {
    let bytes = expand(input);
    let read = Response::parse(&bytes).map(comparable);
    same_in_utf16(&bytes, &read, |bytes| {
        Response::parse(bytes).map(comparable)
    });
    if let Ok(response) = read {
        let written = response.to_xml();
        let again = Response::parse(written.as_bytes()).map(comparable);
        assert_eq!(again.as_ref(), Ok(&response), "{written}");
        if let Reply::Fault(fault) = &response.reply {
            let _ = (fault.class(), fault.to_string(), fault.http_status());
        }
    }
    bytes.len() as u64
}

/// The host's whole text is for the log: it is not written.
fn comparable(mut response: Response) -> Response {
    if let Reply::Fault(fault) = &mut response.reply {
        assert!(
            fault.full_text.starts_with(&fault.reason),
            "the whole text lacks the reason"
        );
        fault.full_text.clear();
    }
    response
}

/// A request that cannot be read is answered by a fault the other side understands.
fn refused(error: &MessageError) {
    let request = Request {
        header: wsman::Header::default(),
        operation: wsman::Operation::Get,
    };
    assert!(matches!(error.http_status(), 400 | 500));
    let reply = Reply::Fault(Box::new(error.to_fault()));
    let response = Response::to(&request, "uuid:1", "root/cimv2", reply);
    let read = Response::parse(response.to_xml().as_bytes()).expect("own fault is read");
    let Reply::Fault(fault) = read.reply else {
        panic!("{:?} is no fault", read.reply)
    };
    let sent: Fault = error.to_fault();
    assert_eq!((fault.subcode, fault.detail), (sent.subcode, sent.detail));
}

fn same_in_utf16<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    read: &Result<T, MessageError>,
    parse: impl Fn(&[u8]) -> Result<T, MessageError>,
) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // With zeros in it a text may already be taken for UTF-16.
    if text.contains('\0') {
        return;
    }
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let units = || std::iter::once(0xFEFF).chain(text.encode_utf16());
    let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
    for wide in [little, big] {
        assert_eq!(&parse(&wide), read, "in UTF-16");
    }
}
