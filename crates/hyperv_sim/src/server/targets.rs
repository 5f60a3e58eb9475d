//! What a request is about: namespace, class, operation.

use wsman::{Fault, Header, Operation, Request, Subcode, hresult, uri};

use crate::cim::{Class, MSCLUSTER, find, known_namespace};

pub(super) fn operation_name(request: &Request) -> String {
    match &request.operation {
        Operation::Identify => "identify".to_owned(),
        Operation::Enumerate(_) => "enumerate".to_owned(),
        Operation::Pull(_) => "pull".to_owned(),
        Operation::Release { .. } => "release".to_owned(),
        Operation::Get => "get".to_owned(),
        Operation::Put(_) => "put".to_owned(),
        Operation::Delete => "delete".to_owned(),
        Operation::Invoke { method, .. } => {
            let class =
                uri::split_class_uri(&request.header.resource_uri).map_or("", |(_, class)| class);
            format!("{class}.{method}")
        }
    }
}

pub(super) fn unsupported(what: &str) -> Fault {
    Fault::new(Subcode::ActionNotSupported, what)
}

fn unreachable(what: String) -> Fault {
    Fault::new(Subcode::DestinationUnreachable, what).with_detail("InvalidResourceURI")
}

/// Returns namespace (as this host spells it) and class of the resource URI.
pub(super) fn namespace_of(header: &Header) -> Result<(&'static str, &str), Box<Fault>> {
    let (namespace, class) = uri::split_class_uri(&header.resource_uri)
        .ok_or_else(|| unreachable(format!("{:?} is no WMI resource URI", header.resource_uri)))?;
    let known = known_namespace(namespace).ok_or_else(|| unknown_namespace(namespace))?;
    Ok((known, class))
}

/// Refuses the namespace of clusters on a host that is no node of one.
pub(super) fn check_cluster(request: &Request, is_node: bool) -> Result<(), Box<Fault>> {
    let (namespace, _) = uri::split_class_uri(&request.header.resource_uri).unwrap_or_default();
    let looks = match &request.operation {
        Operation::Enumerate(_)
        | Operation::Get
        | Operation::Put(_)
        | Operation::Delete
        | Operation::Invoke { .. } => true,
        // Of an enumeration under way only its context counts.
        Operation::Identify | Operation::Pull(_) | Operation::Release { .. } => false,
    };
    if !is_node && looks && known_namespace(namespace) == Some(MSCLUSTER) {
        return Err(unknown_namespace(namespace));
    }
    Ok(())
}

fn unknown_namespace(namespace: &str) -> Box<Fault> {
    unreachable(format!("this host has no namespace {namespace}"))
        .with_hresult(hresult::INVALID_NAMESPACE, "Invalid namespace")
        .into()
}

pub(super) fn class_of(header: &Header) -> Result<&'static Class, Box<Fault>> {
    let (namespace, class) = namespace_of(header)?;
    need_class(namespace, class)
}

pub(super) fn need_class(
    namespace: &'static str,
    class: &str,
) -> Result<&'static Class, Box<Fault>> {
    find(namespace, class).ok_or_else(|| {
        unreachable(format!("{namespace} has no class {class}"))
            .with_hresult(hresult::INVALID_CLASS, "Invalid class")
            .into()
    })
}

pub(super) fn check_namespace_selector(header: &Header, namespace: &str) -> Result<(), Box<Fault>> {
    match header.selectors.get("__cimnamespace") {
        Some(said) if known_namespace(said) != Some(namespace) => Err(Fault::new(
            Subcode::InvalidSelectors,
            format!("__cimnamespace says {said}, the resource URI {namespace}"),
        )
        .with_detail("UnexpectedSelectors")
        .into()),
        Some(_) | None => Ok(()),
    }
}
