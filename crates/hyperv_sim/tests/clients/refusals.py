"""Scenarios in which the host refuses: which fault, how it is written, and that the connection lives on."""

import names
import values
from names import N, V2, W
from psrp import Psrp
from pypsrp.exceptions import AuthenticationError

COMPUTER = V2 + "Msvm_ComputerSystem"
SERVICE = V2 + "Msvm_VirtualSystemManagementService"


def unknown_classes_and_namespaces(host, client):
    """a:DestinationUnreachable, with InvalidResourceURI, for Get, Enumerate, a query and a method."""
    host.vm(sizes_mib=())
    for action in (
        lambda: client.get(V2 + "Msvm_Nothing", Name="x"),
        lambda: client.get(names.WMI + "root/nothing/v2/Msvm_ComputerSystem", Name="x"),
        lambda: client.begin(V2 + "Msvm_Nothing"),
        lambda: client.begin(names.WMI + "root/MSCluster/*", "SELECT * FROM MSCluster_Cluster"),
        lambda: client.wql("SELECT * FROM Msvm_Nothing"),
        lambda: client.invoke(V2 + "Msvm_Nothing", "Start"),
    ):
        fault = client.refused("a:DestinationUnreachable", action)
        assert fault.code == "s:Sender" and fault.status == 500, fault
        assert fault.details == ["InvalidResourceURI"], fault
    assert client.get(COMPUTER, Name=host.name)["Name"] == host.name


def unknown_methods_and_actions(host, client):
    """a:ActionNotSupported for a method the class lacks, and for an action nobody knows."""
    vm = host.vm(sizes_mib=())
    for action in (
        lambda: client.invoke(SERVICE, "MakeCoffee", CreationClassName="Msvm_VirtualSystemManagementService"),
        lambda: client.invoke(COMPUTER, "CreateSnapshot", Name=vm),
        lambda: client.send("http://example.org/nothing", COMPUTER, selectors={"Name": vm}),
    ):
        fault = client.refused("a:ActionNotSupported", action)
        assert fault.code == "s:Sender", fault


def selectors_that_match_nothing(host, client):
    """w:InvalidSelectors: no such object, a key the class lacks, keys of several objects, another namespace."""
    vm = host.vm(sizes_mib=())
    host.vm("other", sizes_mib=())
    missing = "00000000-0000-0000-0000-000000000000"
    for keys in (
        {"CreationClassName": "Msvm_ComputerSystem", "Name": missing},
        {"Name": vm, "Colour": "blue"},
        {"CreationClassName": "Msvm_ComputerSystem"},
        {},
        {"Name": vm, "__cimnamespace": "root/cimv2"},
    ):
        fault = client.refused("w:InvalidSelectors", lambda: client.get(COMPUTER, **keys))
        assert fault.code == "s:Sender", fault
    client.refused(
        "w:InvalidSelectors",
        lambda: client.invoke(COMPUTER, "RequestStateChange", "<p:RequestedState>3</p:RequestedState>", Name=missing),
    )


def bad_queries(host, client):
    """n:CannotProcessFilter for text that is no query, and for a dialect nobody knows."""
    host.vm(sizes_mib=())
    for query in (
        "",
        "nonsense",
        "SELECT",
        "SELECT * FROM",
        "SELECT * FROM Msvm_ComputerSystem WHERE",
        "SELECT * FROM Msvm_ComputerSystem WHERE Name =",
        "SELECT * FROM Msvm_ComputerSystem WHERE Name = 'x",
        "SELECT * FROM Msvm_ComputerSystem WHERE (Name = 'x'",
        "SELECT * FROM Msvm_ComputerSystem; DROP",
        "ASSOCIATORS OF {Msvm_ComputerSystem.Name='x'",
        "ASSOCIATORS OF {} WHERE AssocClass = Msvm_SettingsDefineState",
    ):
        fault = client.refused("n:CannotProcessFilter", lambda: client.begin(names.EVERYTHING_V2, query))
        assert fault.code == "s:Sender", fault


def access_denied(host, client):
    """w:AccessDenied with the Windows code 5; afterwards all is as before."""
    host.vm(sizes_mib=())
    host.ctl("fault", "add", "access-denied", "--times", "1")
    fault = client.refused("w:AccessDenied", lambda: client.get(COMPUTER, Name=host.name))
    assert fault.wsman_code == 5, fault
    assert client.get(COMPUTER, Name=host.name)["Name"] == host.name


def envelopes_have_a_limit(host, client):
    """What does not fit alone is w:EncodingLimit; a Pull gives as many items as fit; nothing is lost."""
    for index in range(6):
        host.vm(f"vm{index}", sizes_mib=(), running=False)
    query = "SELECT * FROM Msvm_VirtualSystemSettingData"
    everything = sorted(item["InstanceID"] for item in client.wql(query))
    client.wsman.max_envelope_size = 2048
    for action in (
        lambda: client.get(COMPUTER, Name=host.name),
        lambda: client.begin(COMPUTER, optimise=100),
    ):
        fault = client.refused("w:EncodingLimit", action)
        assert fault.details == ["MaxEnvelopeSize"], fault
    client.wsman.max_envelope_size = 20000
    found = client.elements(names.EVERYTHING_V2, query, optimise=100, max_elements=100)
    largest = len(client.plain)
    assert largest <= 20000, largest
    assert sorted(values.Item(item)["InstanceID"] for item in found) == everything
    first = client.begin(names.EVERYTHING_V2, query, optimise=100)
    assert 0 < len(first.one(W, "Items").children) < len(everything)
    client.wsman.max_envelope_size = 512000
    host.ctl("fault", "add", "envelope-limit", "--times", "1")
    fault = client.refused("w:EncodingLimit", lambda: client.get(COMPUTER, Name=host.name))
    assert fault.details == ["MaxEnvelopeSize"], fault


def stale_contexts(host, client):
    """The host forgets an enumeration: the Pull is refused, a new enumeration works."""
    host.vm(sizes_mib=())
    context = client.begin(COMPUTER).one(N, "EnumerationContext").text
    host.ctl("fault", "add", "stale-context", "--times", "1")
    client.refused("n:InvalidEnumerationContext", lambda: client.pull(COMPUTER, context))
    assert len(client.elements(COMPUTER)) == 2


def operations_time_out(host, client):
    """A method that takes longer than allowed is w:TimedOut, with its code; it may well have been carried out."""
    vm = host.vm(sizes_mib=())
    host.ctl("fault", "add", "timed-out", "--on", "RequestStateChange", "--times", "1")
    body = "<p:RequestedState>3</p:RequestedState>"
    fault = client.refused("w:TimedOut", lambda: client.invoke(COMPUTER, "RequestStateChange", body, Name=vm))
    assert fault.wsman_code == 2150858793, fault
    assert client.get(COMPUTER, Name=vm)["EnabledState"] in ("2", "3", "4")


def quotas_are_faults(host, client):
    """w:QuotaLimit for one request; the next is served."""
    host.ctl("fault", "add", "quota-limit", "--times", "1")
    client.refused("w:QuotaLimit", lambda: client.get(COMPUTER, Name=host.name))
    assert client.get(COMPUTER, Name=host.name)["Name"] == host.name


def wrong_credentials(host, client):
    """A wrong password and an unknown user get 401, every time."""
    wsman = client.wsman.transport
    for user, password in ((wsman.username, "wrong"), ("nobody", wsman.password), (wsman.username, "")):
        other = Psrp(host.url, user, password, wsman.auth, client.certificate)
        try:
            other.get(COMPUTER, Name=host.name)
            raise AssertionError(f"{user} was let in")
        except AuthenticationError:
            assert other.received.status_code == 401
            schemes = other.received.headers.get("www-authenticate", "")
            assert "Basic" in schemes or "Negotiate" in schemes, schemes
        finally:
            other.close()
    assert client.get(COMPUTER, Name=host.name)["Name"] == host.name


def a_wrong_state_is_refused_at_once(host, client):
    """32775 without a job; a planned VM that does not exist is no selector."""
    vm = host.vm(sizes_mib=(8,))
    reference = client.vm_reference(vm)
    output = client.call("DestroySystem", f"<p:AffectedSystem>{reference}</p:AffectedSystem>")
    assert output["ReturnValue"] == "32775" and output.reference("Job") is None, output
    assert client.get(COMPUTER, Name=vm)["EnabledState"] == "2"


SCENARIOS = [
    unknown_classes_and_namespaces,
    unknown_methods_and_actions,
    selectors_that_match_nothing,
    bad_queries,
    access_denied,
    envelopes_have_a_limit,
    stale_contexts,
    operations_time_out,
    quotas_are_faults,
    wrong_credentials,
    a_wrong_state_is_refused_at_once,
]
