"""The rules themselves: a good reply passes, and each single fault in it is found. Run by `run.py --test-rules`."""

import names
import rules
from names import A, CIM, F, N, S, V2, W, XSI

ID = "uuid:00000000-0000-0000-0000-000000000001"
URI = names.CIMV2 + "Win32_ShadowCopy"
DECLARED = f'xmlns:s="{S}" xmlns:a="{A}" xmlns:w="{W}" xmlns:n="{N}" xmlns:cim="{CIM}" xmlns:xsi="{XSI}"'
TYPE = "application/soap+xml;charset=UTF-8"


def envelope(action, body, relates=ID):
    return (
        f"<s:Envelope {DECLARED}><s:Header><a:Action>{action}</a:Action>"
        "<a:MessageID>uuid:00000000-0000-0000-0000-00000000000A</a:MessageID>"
        f"<a:To>{names.ANONYMOUS}</a:To><a:RelatesTo>{relates}</a:RelatesTo></s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )


INSTANCE = (
    f'<p:Win32_ShadowCopy xmlns:p="{URI}" xsi:type="p:Win32_ShadowCopy_Type"><p:ID>{{1}}</p:ID>'
    "<p:DeviceObject>d</p:DeviceObject><p:VolumeName>v</p:VolumeName><p:InstallDate>"
    '<cim:Datetime>2026-01-02T03:04:05Z</cim:Datetime></p:InstallDate><p:State xsi:nil="true"/></p:Win32_ShadowCopy>'
)
REFERENCE = (
    f"<a:Address>{names.ANONYMOUS}</a:Address><a:ReferenceParameters><w:ResourceURI>{V2}Msvm_ConcreteJob</w:ResourceURI>"
    '<w:SelectorSet><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector>'
    '<w:Selector Name="InstanceID">J</w:Selector></w:SelectorSet></a:ReferenceParameters>'
)
SERVICE = V2 + "Msvm_VirtualSystemSnapshotService"
OUTPUT = (
    f'<p:DestroySnapshot_OUTPUT xmlns:p="{SERVICE}"><p:Job>{REFERENCE}</p:Job>'
    "<p:ReturnValue>4096</p:ReturnValue></p:DestroySnapshot_OUTPUT>"
)
FAULT = (
    "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>w:AccessDenied</s:Value></s:Subcode></s:Code>"
    '<s:Reason><s:Text xml:lang="en-US">no</s:Text></s:Reason><s:Detail>'
    f'<f:WSManFault xmlns:f="{F}" Code="5" Machine="HV01"/></s:Detail></s:Fault>'
)
PULL = (
    f"<n:PullResponse><n:EnumerationContext>uuid:1</n:EnumerationContext><n:Items>{INSTANCE}</n:Items></n:PullResponse>"
)
GET = names.GET, URI, 200, envelope(names.GET + "Response", INSTANCE)
PULLED = names.PULL, URI, 200, envelope(names.PULL + "Response", PULL)
METHOD = SERVICE + "/DestroySnapshot"
INVOKED = METHOD, SERVICE, 200, envelope(METHOD + "Response", OUTPUT)
REFUSED = names.GET, URI, 500, envelope(names.FAULT_ACTION, FAULT)

# What is replaced in a good reply, and a word of what the rules must say about it.
WRONG = [
    (GET, "p:Win32_ShadowCopy ", "q:Win32_ShadowCopy ", "no XML"),
    (GET, "xmlns:p=", "xmlns:q=", "no XML"),
    (GET, f'xmlns:s="{S}"', 'xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"', "the root is"),
    (GET, ID, "uuid:00000000-0000-0000-0000-000000000002", "RelatesTo"),
    (GET, "GetResponse", "Get", "a:Action"),
    (GET, f"<a:To>{names.ANONYMOUS}</a:To>", "", "a:To"),
    (GET, '<p:State xsi:nil="true"/>', "", "State is missing"),
    (GET, '<p:State xsi:nil="true"/>', '<p:State xsi:nil="true">1</p:State>', "nil and has content"),
    (GET, '<p:State xsi:nil="true"/>', "<p:State>-1</p:State>", "beyond a uint32"),
    (GET, '<p:State xsi:nil="true"/>', "<p:State>one</p:State>", "not a uint32"),
    (GET, '<p:State xsi:nil="true"/>', "<p:State>1</p:State><p:State>1</p:State>", "2 times"),
    (GET, "<cim:Datetime>2026-01-02T03:04:05Z</cim:Datetime>", "20260102030405.000000+000", "is a time"),
    (GET, "2026-01-02T03:04:05Z", "2026-01-02 03:04:05", "is the time"),
    (GET, ' xsi:type="p:Win32_ShadowCopy_Type"', "", "no xsi:type"),
    (GET, "p:Win32_ShadowCopy_Type", "p:Win32_Volume_Type", "xsi:type"),
    (PULLED, INSTANCE, INSTANCE * 2, "at most 1"),
    (PULLED, f"<n:Items>{INSTANCE}</n:Items>", "", "one n:Items"),
    (PULLED, "uuid:1<", "1<", "EnumerationContext is"),
    (PULLED, "</n:PullResponse>", "<n:EndOfSequence/></n:PullResponse>", "either a context or the end"),
    (PULLED, "</n:PullResponse>", "<w:EndOfSequence/></n:PullResponse>", "a PullResponse holds"),
    (INVOKED, f"<p:Job>{REFERENCE}</p:Job>", "", "Job is there 0 times"),
    (INVOKED, f"<p:Job>{REFERENCE}</p:Job>", '<p:Job xsi:nil="true"/>', "Job is nil with code 4096"),
    (INVOKED, ">4096<", ">0<", "Job is given with code 0"),
    (INVOKED, "<p:ReturnValue>4096</p:ReturnValue>", "", "ReturnValue is"),
    (INVOKED, "DestroySnapshot_OUTPUT", "DestroySnapshotResponse", "the output is"),
    (INVOKED, "root/virtualization/v2<", "root/cimv2<", "__cimnamespace"),
    (INVOKED, "a:ReferenceParameters", "a:ReferenceProperties", "ReferenceParameters"),
    (INVOKED, "<p:ReturnValue>", "<p:Colour>1</p:Colour><p:ReturnValue>", "unknown parameters"),
    (REFUSED, "<s:Detail>", "<s:Extra>", "no XML"),
    (REFUSED, 'Machine="HV01"', "", "Machine"),
    (REFUSED, 'xml:lang="en-US"', "", "xml:lang"),
    (REFUSED, "s:Sender", "w:Sender", "s:Code"),
    (REFUSED, "w:AccessDenied", "q:AccessDenied", "no known namespace"),
    (REFUSED, names.FAULT_ACTION, names.GET + "Response", "a:Action"),
]


def check(case, text=None, status=None, content_type=TYPE):
    action, uri, expected_status, good = case
    request = rules.Request(action, ID, uri)
    return rules.Checker().check(request, status or expected_status, content_type, (text or good).encode())


def refused(word, *arguments, **keywords):
    try:
        check(*arguments, **keywords)
    except rules.Wrong as wrong:
        assert word in str(wrong), f"{word!r} is not in: {wrong}"
        return
    raise AssertionError(f"accepted, and {word!r} was expected")


def run():
    for case in (GET, PULLED, INVOKED, REFUSED):
        check(case)
    assert check(REFUSED).fault.subcode == "w:AccessDenied" and check(REFUSED).fault.wsman_code == 5
    for case, old, new, word in WRONG:
        assert old in case[3], f"{old!r} is not in {case[3]}"
        refused(word, case, case[3].replace(old, new))
    for case, prefix in ((GET, "s"), (GET, "a"), (GET, "p"), (PULLED, "n"), (INVOKED, "w")):
        text = case[3].replace(f"xmlns:{prefix}=", "xmlns:other=").replace(f"</{prefix}:", "</other:")
        text = text.replace(f"<{prefix}:", "<other:").replace(f'"{prefix}:', '"other:')
        refused(f"must have the prefix {prefix}", case, text)
    refused("HTTP status", GET, status=500)
    refused("HTTP status", REFUSED, status=200)
    refused("Content-Type", GET, content_type="text/xml")
    checker = rules.Checker()
    request = rules.Request(names.GET, ID, URI)
    checker.check(request, 200, TYPE, GET[3].encode())
    try:
        checker.check(request, 200, TYPE, GET[3].encode())
        raise AssertionError("the same MessageID was accepted twice")
    except rules.Wrong as wrong:
        assert "was used before" in str(wrong), wrong
