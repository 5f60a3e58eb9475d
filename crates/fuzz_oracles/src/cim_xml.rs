//! CIM-XML: refused, or written and read again the same; and the same inside a method call.

use wsman::{Header, Instance, Operation, Properties, Request, Value, uri};

use crate::message::expand;

pub(crate) fn run(input: &[u8]) -> u64 {
    let bytes = expand(input);
    let length = bytes.len() as u64;
    let Ok(text) = String::from_utf8(bytes) else {
        return length;
    };
    let Ok(instance) = Instance::from_cim_xml(&text) else {
        return length;
    };
    let written = instance.to_cim_xml();
    let again = Instance::from_cim_xml(&written).expect("what was written can be read");
    // As text: a number that is none does not equal itself.
    assert_eq!(again.to_cim_xml(), written);
    let names = |instance: &Instance| {
        instance
            .iter()
            .map(|(name, _)| name.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (&again.class, names(&again)),
        (&instance.class, names(&instance))
    );

    let parameters = Properties::new().with("Settings", Value::embedded(&instance));
    let request = Request {
        header: Header {
            resource_uri: uri::class_uri(uri::NS_VIRTUALIZATION, "Msvm_Thing"),
            ..Header::default()
        },
        operation: Operation::Invoke {
            method: "Modify".to_owned(),
            parameters,
        },
    };
    let request = Request::parse(request.to_xml().as_bytes()).expect("own request is read");
    let Operation::Invoke { parameters, .. } = request.operation else {
        panic!("a call became something else")
    };
    let carried = parameters.instance("Settings").expect("the object arrives");
    assert_eq!(carried.to_cim_xml(), written);
    length
}
