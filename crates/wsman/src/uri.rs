//! Namespaces, actions, dialects and resource URIs.

/// SOAP 1.2 envelope.
pub const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
/// WS-Addressing, the 2004/08 version.
pub const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
/// WS-Management.
pub const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
/// WS-Enumeration.
pub const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration";
/// WS-Transfer.
pub const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
/// Microsoft's extensions of the header.
pub const MS_WSMAN: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd";
/// CIM values.
pub const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/common";
/// XML Schema instance attributes (`xsi:nil`, `xsi:type`).
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// Fault details of Windows.
pub const MS_FAULT: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault";
/// CIM binding.
pub const CIM_BINDING: &str = "http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd";
/// Identify.
pub const IDENTITY: &str = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd";
/// XML namespace of `xml:lang`.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// "The one who asked": the address of replies and of references.
pub const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";

/// Action of an Enumerate.
pub const ACTION_ENUMERATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
/// Action of a Pull.
pub const ACTION_PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
/// Action of a Release.
pub const ACTION_RELEASE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Release";
/// Action of a Get.
pub const ACTION_GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
/// Action of a Put.
pub const ACTION_PUT: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Put";
/// Action of a Delete.
pub const ACTION_DELETE: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete";
/// Action of most faults.
pub const ACTION_FAULT: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault";
/// Action of faults about addressing.
pub const ACTION_ADDRESSING_FAULT: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/fault";

/// Filter dialect of WQL.
pub const DIALECT_WQL: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";
/// Filter dialect by selectors.
pub const DIALECT_SELECTOR: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter";
/// Filter dialect by association.
pub const DIALECT_ASSOCIATION: &str =
    "http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter";

/// What every WMI resource URI begins with; the namespace follows.
pub const WMI_PREFIX: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/";
/// What the URIs of fault details begin with.
pub const FAULT_DETAIL_PREFIX: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/";

/// Namespace of the Hyper-V classes.
pub const NS_VIRTUALIZATION: &str = "root/virtualization/v2";
/// Namespace of the operating system's classes.
pub const NS_CIMV2: &str = "root/cimv2";
/// Namespace of failover clusters; exists on cluster nodes only.
pub const NS_CLUSTER: &str = "root/MSCluster";

/// Namespace of the storage classes: disks, partitions and volumes as Windows manages them.
pub const NS_STORAGE: &str = "root/Microsoft/Windows/Storage";

/// Returns the resource URI of a class, such as `.../wmi/root/cimv2/Win32_Volume`.
#[must_use]
pub fn class_uri(namespace: &str, class: &str) -> String {
    format!("{WMI_PREFIX}{}/{class}", forward(namespace))
}

/// Returns the resource URI for queries in a namespace, such as `.../wmi/root/cimv2/*`.
#[must_use]
pub fn query_uri(namespace: &str) -> String {
    class_uri(namespace, "*")
}

/// Splits a WMI resource URI into namespace and class (`*` for queries); `None` where it is no WMI URI.
#[must_use]
pub fn split_class_uri(uri: &str) -> Option<(&str, &str)> {
    let head = uri.get(..WMI_PREFIX.len())?;
    if !head.eq_ignore_ascii_case(WMI_PREFIX) {
        return None;
    }
    let rest = &uri[WMI_PREFIX.len()..];
    // A query such as `?__cimnamespace=...` may follow; nothing of it is needed.
    let rest = rest.split('?').next().unwrap_or(rest);
    let (namespace, class) = rest.rsplit_once('/')?;
    (!namespace.is_empty() && !class.is_empty()).then_some((namespace, class))
}

/// Returns whether both URIs name the same class or namespace: without regard to case, to the direction of slashes and
/// to a query behind.
#[must_use]
pub fn same_resource(one: &str, two: &str) -> bool {
    match (split_class_uri(one), split_class_uri(two)) {
        (Some((namespace, class)), Some((other_namespace, other_class))) => {
            class.eq_ignore_ascii_case(other_class)
                && forward(namespace).eq_ignore_ascii_case(&forward(other_namespace))
        }
        _ => one == two,
    }
}

/// Returns a namespace as resource URIs have it.
pub(crate) fn forward(namespace: &str) -> String {
    namespace.trim_matches(['\\', '/']).replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_uris_name_namespace_and_class() {
        let uri = class_uri(r"root\cimv2", "Win32_Volume");
        assert_eq!(
            uri,
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_Volume"
        );
        assert_eq!(split_class_uri(&uri), Some(("root/cimv2", "Win32_Volume")));
        assert_eq!(
            split_class_uri(&query_uri("root/cimv2")),
            Some(("root/cimv2", "*"))
        );
        assert!(same_resource(
            &uri,
            &class_uri("ROOT/CIMV2", "win32_VOLUME")
        ));
        assert!(same_resource(
            &uri,
            &format!("{uri}?__cimnamespace=root/cimv2")
        ));
        assert!(!same_resource(&uri, &query_uri("root/cimv2")));
        assert!(same_resource("urn:x", "urn:x") && !same_resource("urn:x", "urn:X"));
        assert_eq!(split_class_uri("http://example.org/x"), None);
        assert_eq!(split_class_uri(WMI_PREFIX), None);
    }
}
