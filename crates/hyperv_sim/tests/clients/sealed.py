"""Scenarios of NTLM over HTTP, where every message is sealed."""

import pypsrp.exceptions

from names import V2
from psrp import Psrp

COMPUTER = V2 + "Msvm_ComputerSystem"


def messages_are_sealed_both_ways(host, client):
    """Nothing of a request or reply can be read on the wire."""
    host.vm("payroll", sizes_mib=())
    found = client.wql("SELECT * FROM Msvm_ComputerSystem WHERE ElementName = 'payroll'")
    assert len(found) == 1, found
    for text in (b"payroll", b"Envelope", b"EnumerateResponse"):
        assert text in client.plain and text not in client.received.content, text
    sent = client.received.request.body
    assert b"Envelope" not in sent and b"HTTP-SPNEGO-session-encrypted" in sent, sent[:300]


def unsealed_messages_are_refused(host, client):
    """After a log-in, and with a log-in of their own, plain messages get no answer but a refusal."""
    assert client.get(COMPUTER, Name=host.name)["Name"] == host.name
    careless = Psrp(host.url, *client.account, "ntlm", sealed=False)
    for one in (client, careless):
        transport = one.wsman.transport
        transport.wrap_required, one.sealed = False, False
        try:
            one.get(COMPUTER, Name=host.name)
            raise AssertionError("a plain message was answered")
        except pypsrp.exceptions.WinRMTransportError as error:
            assert 400 <= error.code < 600, error
        except pypsrp.exceptions.AuthenticationError:
            pass
        assert b"ElementName" not in one.received.content, one.received.content
    careless.close()
    again = Psrp(host.url, *client.account, "ntlm")
    assert again.get(COMPUTER, Name=host.name)["Name"] == host.name
    again.close()


def an_account_has_several_names(host, client):
    """The user alone, with the host as its domain, and in any case."""
    user, password = client.account
    for name in (user, f"{host.name}\\{user}", f"{host.name.lower()}\\{user.upper()}", user.upper()):
        other = Psrp(host.url, name, password, "ntlm")
        assert other.get(COMPUTER, Name=host.name)["Name"] == host.name, name
        other.close()


def a_log_in_belongs_to_its_connection(host, client):
    """Another connection has to log in for itself, and then works beside the first."""
    host.vm(sizes_mib=())
    other = Psrp(host.url, *client.account, "ntlm")
    for _ in range(3):
        for one in (client, other):
            assert len(one.elements(COMPUTER)) == 2
    other.close()
    assert len(client.elements(COMPUTER)) == 2


SCENARIOS = [
    messages_are_sealed_both_ways,
    unsealed_messages_are_refused,
    an_account_has_several_names,
    a_log_in_belongs_to_its_connection,
]
