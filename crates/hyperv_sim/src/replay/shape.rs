//! An answer against the schema: what this host writes for the same class, method or fault.

use std::collections::BTreeSet;

use wsman::{
    Epr, Fault, Instance, Item, Items, Operation, Properties, Reply, Request, Response, Subcode,
    Value, fault_code, hresult, uri,
};

use super::{DifferenceKind, Findings, signature};
use crate::cim::{CimType, Class, find};

/// Compares one answer.
pub(super) fn compare(
    request: &Request,
    response: &Response,
    sequence: u64,
    findings: &mut Findings,
) {
    let namespace =
        uri::split_class_uri(&request.header.resource_uri).map_or("", |(namespace, _)| namespace);
    let mut shape = Shape {
        findings,
        sequence,
        namespace,
    };
    shape.header(request, response);
    match &response.reply {
        Reply::Identify { .. } | Reply::Empty => {}
        Reply::Enumerate { batch, optimized } => {
            if let Operation::Enumerate(asked) = &request.operation {
                if asked.optimize && !optimized {
                    shape.enumeration(
                        "first batch",
                        "left out of the answer to an optimised Enumerate",
                    );
                }
                let most = asked.max_elements.filter(|_| *optimized);
                shape.batch(batch, None, most);
            }
        }
        Reply::Pull(batch) => {
            if let Operation::Pull(pull) = &request.operation {
                shape.batch(
                    batch,
                    Some(&pull.context),
                    Some(pull.max_elements.unwrap_or(1)),
                );
            }
        }
        Reply::Object(instance) => shape.object(instance, Part::Whole),
        Reply::Invoke { method, outputs } => shape.outputs(method, outputs),
        Reply::Fault(fault) => shape.fault(fault),
    }
}

/// Whether an object has to have all properties of its class.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// CIM-XML and nested objects leave NULL out.
    Some,
}

struct Shape<'a> {
    findings: &'a mut Findings,
    sequence: u64,
    namespace: &'a str,
}

impl Shape<'_> {
    fn add(&mut self, kind: DifferenceKind, what: impl Into<String>, example: impl Into<String>) {
        self.findings.add(kind, self.sequence, what, example);
    }

    fn enumeration(&mut self, what: &str, example: impl Into<String>) {
        self.add(DifferenceKind::Enumeration, what, example);
    }

    fn header(&mut self, request: &Request, response: &Response) {
        if request.operation == Operation::Identify {
            return;
        }
        let expected = match &response.reply {
            Reply::Fault(fault) => fault.action().to_owned(),
            Reply::Identify { .. }
            | Reply::Enumerate { .. }
            | Reply::Pull(_)
            | Reply::Object(_)
            | Reply::Empty
            | Reply::Invoke { .. } => format!("{}Response", request.action()),
        };
        if !response.action.eq_ignore_ascii_case(&expected) {
            self.add(
                DifferenceKind::Header,
                "a:Action",
                format!("{}, here {expected}", response.action),
            );
        }
        if response.relates_to.as_deref() != Some(request.header.message_id.as_str()) {
            let found = response.relates_to.as_deref().unwrap_or("nothing");
            self.add(DifferenceKind::Header, "a:RelatesTo", found);
        }
    }

    fn batch(&mut self, batch: &Items, asked: Option<&str>, most: Option<u32>) {
        let items = batch.items.len();
        if let Some(most) = most.filter(|most| items > usize::try_from(*most).unwrap_or(usize::MAX))
        {
            self.enumeration(
                "items of a batch",
                format!("{items}, where {most} were asked for"),
            );
        }
        match (&batch.context, batch.end) {
            (Some(context), true) => self.enumeration("context at the end", context),
            (None, false) => self.enumeration("context", "neither a context nor the end"),
            (Some(context), false) if asked == Some(context) => {
                self.enumeration(
                    "context of a Pull",
                    "the same again, where this host gives a new one",
                );
            }
            (Some(_), false) | (None, true) => {}
        }
        for item in &batch.items {
            match item {
                Item::Object(instance) => self.object(instance, Part::Whole),
                Item::Epr(epr) => self.reference(epr),
                Item::Both(instance, epr) => {
                    self.object(instance, Part::Whole);
                    self.reference(epr);
                }
            }
        }
    }

    fn object(&mut self, instance: &Instance, part: Part) {
        let Some(class) = find(self.namespace, &instance.class) else {
            self.add(
                DifferenceKind::UnknownClass,
                &instance.class,
                self.namespace.to_owned(),
            );
            return;
        };
        for (name, value) in instance.iter() {
            self.property(class, name, value, part);
        }
        if part == Part::Whole {
            for property in class.properties() {
                if !property.array && !instance.contains(property.name) {
                    let what = format!("{}.{}", class.name, property.name);
                    self.add(
                        DifferenceKind::MissingProperty,
                        what,
                        "absent; this host writes nil",
                    );
                }
            }
        }
    }

    fn property(&mut self, class: &'static Class, name: &str, value: &Value, part: Part) {
        let what = format!("{}.{name}", class.name);
        let Some(property) = class.property(name) else {
            self.add(DifferenceKind::UnknownProperty, what, shown(value));
            return;
        };
        if value.is_null() {
            if property.array && part == Part::Whole {
                let example = "a nil element for an array; this host leaves it out";
                self.add(DifferenceKind::NullForm, what, example);
            }
            return;
        }
        if matches!(value, Value::Array(_)) && !property.array {
            let example = format!("{} elements for one value", value.items().len());
            self.add(DifferenceKind::ArrayForm, what, example);
            return;
        }
        let wrong = value
            .items()
            .iter()
            .find(|item| !fits(property.cim_type, item));
        if let Some(wrong) = wrong {
            let example = format!("{}; here {}", shown(wrong), property.cim_type.name());
            self.add(DifferenceKind::Type, what, example);
        }
        for item in value.items() {
            self.inside(item);
        }
    }

    /// Objects and references inside a value.
    fn inside(&mut self, value: &Value) {
        if let Some(epr) = value.as_epr() {
            self.reference(epr);
        } else if let Some(instance) = value.as_instance() {
            self.object(instance, Part::Some);
        } else if let Some(text) = value
            .as_text()
            .filter(|text| text.trim_start().starts_with('<'))
        {
            match Instance::from_cim_xml(text) {
                // KVP data is taken out of recordings.
                Ok(instance) if instance.properties == Properties::new() => {}
                Ok(instance) => self.object(&instance, Part::Some),
                Err(error) => self.add(DifferenceKind::Unreadable, "CIM-XML", error.to_string()),
            }
        }
    }

    fn reference(&mut self, epr: &Epr) {
        let Some(class) = find(epr.namespace(), epr.class()) else {
            self.add(
                DifferenceKind::UnknownClass,
                epr.class(),
                epr.resource_uri.clone(),
            );
            return;
        };
        let expected: BTreeSet<&str> = class
            .keys()
            .map(|key| key.name)
            .chain(["__cimnamespace"])
            .collect();
        let found: BTreeSet<&str> = epr.selectors.0.keys().map(String::as_str).collect();
        if found != expected {
            let example = format!("{found:?}, here {expected:?}");
            self.add(DifferenceKind::Reference, class.name, example);
        }
        if epr.address != uri::ANONYMOUS {
            self.add(
                DifferenceKind::Reference,
                format!("address of {}", class.name),
                epr.address.clone(),
            );
        }
    }

    fn outputs(&mut self, method: &str, outputs: &Properties) {
        match outputs.u32("ReturnValue") {
            Some(0..=13 | 32_768..=32_799) => {}
            Some(4096) if outputs.epr("Job").is_none() => {
                self.add(
                    DifferenceKind::Output,
                    format!("{method}.Job"),
                    "no reference where a job was started",
                );
            }
            Some(4096) => {}
            Some(code) => self.add(DifferenceKind::ReturnCode, method, code.to_string()),
            None => self.add(DifferenceKind::ReturnCode, method, "none"),
        }
        let known = known_outputs(method);
        for (name, value) in outputs.iter() {
            let common = matches!(name, "ReturnValue" | "Job");
            if known.is_some_and(|known| !common && !known.contains(&name)) {
                self.add(
                    DifferenceKind::Output,
                    format!("{method}.{name}"),
                    shown(value),
                );
            }
            value.items().iter().for_each(|item| self.inside(item));
        }
    }

    fn fault(&mut self, fault: &Fault) {
        let expected_code = if fault.subcode == Subcode::AccessDenied {
            Some(fault_code::ACCESS_DENIED)
        } else {
            (fault.subcode == Subcode::TimedOut).then_some(fault_code::TIMED_OUT)
        };
        let known_result = match fault
            .provider
            .as_ref()
            .and_then(|provider| provider.hresult)
        {
            None => true,
            Some(result) => [
                hresult::NOT_FOUND,
                hresult::INVALID_CLASS,
                hresult::INVALID_NAMESPACE,
                hresult::INVALID_QUERY,
            ]
            .contains(&result),
        };
        let (_, subcode) = fault.subcode.qualified();
        let unknown = matches!(fault.subcode, Subcode::Other { .. } | Subcode::None);
        if unknown || fault.code != expected_code || !known_result {
            self.add(DifferenceKind::Fault, subcode, signature(fault));
        }
    }
}

/// Whether a value has the form this host gives the type.
fn fits(cim_type: CimType, value: &Value) -> bool {
    match cim_type {
        CimType::Boolean => value.as_bool().is_some(),
        CimType::Unsigned(bits) => value
            .as_u64()
            .is_some_and(|number| bits >= 64 || number >> bits == 0),
        CimType::Signed(_) => value
            .to_text()
            .is_some_and(|text| text.trim().parse::<i64>().is_ok()),
        CimType::Datetime => matches!(value, Value::Time(_)),
        CimType::Reference => value.as_epr().is_some(),
        CimType::Text => value.as_text().is_some(),
        CimType::Object => value.to_instance().is_some(),
    }
}

fn shown(value: &Value) -> String {
    if let Some(text) = value.to_text() {
        text
    } else if let Some(epr) = value.as_epr() {
        format!("a reference to {}", epr.class())
    } else if let Some(instance) = value.as_instance() {
        format!("an object of {}", instance.class)
    } else {
        format!("{} values", value.items().len())
    }
}

/// Out-parameters beside `Job` and `ReturnValue`; nothing where this host does not know the method.
fn known_outputs(method: &str) -> Option<&'static [&'static str]> {
    Some(match method {
        "CreateSnapshot" => &["ResultingSnapshot"],
        "ConvertToReferencePoint" | "CreateReferencePoint" => &["ResultingReferencePoint"],
        "DefineSystem" | "DefinePlannedSystem" | "RealizePlannedSystem" => &["ResultingSystem"],
        "ImportSystemDefinition" => &["ImportedSystem"],
        "ImportSnapshotDefinitions" => &["ImportedSnapshots"],
        "AddResourceSettings" | "ModifyResourceSettings" => &["ResultingResourceSettings"],
        "AddFeatureSettings" | "ModifyFeatureSettings" => &["ResultingFeatureSettings"],
        "GetVirtualHardDiskSettingData" => &["SettingData"],
        "GetVirtualHardDiskState" => &["State"],
        "GetVirtualDiskChanges" => &[
            "ProcessedByteLength",
            "ChangedByteOffsets",
            "ChangedByteLengths",
        ],
        "GetSummaryInformation" => &["SummaryInformation"],
        "GetErrorEx" => &["Errors"],
        "Create" => &["ShadowID"],
        "ApplySnapshot"
        | "DestroySnapshot"
        | "DestroySnapshotTree"
        | "DestroySystem"
        | "DestroyReferencePoint"
        | "ModifySystemSettings"
        | "RemoveResourceSettings"
        | "ExportSystemDefinition"
        | "ValidatePlannedSystem"
        | "RequestStateChange"
        | "ValidateVirtualHardDisk"
        | "CreateVirtualHardDisk" => &[],
        _ => return None,
    })
}
