"""Namespaces, actions and resource URIs of WS-Management as Windows speaks it."""

S = "http://www.w3.org/2003/05/soap-envelope"
A = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
W = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
N = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
X = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
CIM = "http://schemas.dmtf.org/wbem/wscim/1/common"
F = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
WSMID = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
XML = "http://www.w3.org/XML/1998/namespace"

# The prefixes that replies carry; a class has its own namespace, always with the prefix p.
PREFIXES = {S: "s", A: "a", W: "w", N: "n", XSI: "xsi", CIM: "cim", F: "f", WSMID: "wsmid", XML: "xml"}

ANONYMOUS = A + "/role/anonymous"
GET = X + "/Get"
DELETE = X + "/Delete"
ENUMERATE = N + "/Enumerate"
PULL = N + "/Pull"
RELEASE = N + "/Release"
FAULT_ACTION = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"
ADDRESSING_FAULT_ACTION = A + "/fault"
FAULT_DETAIL = "http://schemas.dmtf.org/wbem/wsman/1/wsman/faultDetail/"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"

WMI = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
V2 = WMI + "root/virtualization/v2/"
CIMV2 = WMI + "root/cimv2/"
EVERYTHING_V2 = V2 + "*"
EVERYTHING_CIMV2 = CIMV2 + "*"

JOB_STARTED = 4096


def namespace_of(resource_uri):
    """Returns the WMI namespace of a resource URI, such as root/virtualization/v2."""
    return resource_uri[len(WMI) :].rpartition("/")[0]


def class_of(resource_uri):
    """Returns the class of a resource URI."""
    return resource_uri.rpartition("/")[2]
