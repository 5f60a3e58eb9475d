"""A client on top of `pypsrp`, whose WSMan class carries the messages: headers, authentication, sealing, TLS."""

import xml.etree.ElementTree as ET

import pypsrp.exceptions
from pypsrp.wsman import SelectorSet, WSMan

import rules
import xmltree
from client import Client
from names import A, S


class Psrp(Client):
    """Basic, or NTLM with sealed messages over HTTP, or either over HTTPS."""

    def __init__(self, url, user, password, auth, certificate=None, sealed=None):
        self.checker = rules.Checker()
        self.url = url
        self.account = user, password
        self.auth = auth
        self.certificate = certificate
        self.sealed = (auth == "ntlm" and url.startswith("http:")) if sealed is None else sealed
        # The last message sent, the last HTTP response, and its content once it is unsealed.
        self.sent = None
        self.received = None
        self.plain = None
        self.wsman = None
        self.open()

    def open(self):
        """Begins anew, on another connection."""
        scheme, _, rest = self.url.partition("://")
        server, _, port = rest.partition("/")[0].partition(":")
        self.wsman = WSMan(
            server,
            port=int(port),
            username=self.account[0],
            password=self.account[1],
            ssl=scheme == "https",
            auth=self.auth,
            cert_validation=self.certificate or False,
            encryption="always" if self.sealed else "never",
            no_proxy=True,
        )
        transport = self.wsman.transport
        plain_send, plain_request = transport.send, transport._send_request

        def send(message, *args, **kwargs):
            self.sent = message
            return plain_send(message, *args, **kwargs)

        def send_request(request, *args, **kwargs):
            def keep(response, *_args, **_kwargs):
                self.received = response

            request.register_hook("response", keep)
            try:
                self.plain = plain_request(request, *args, **kwargs)
            except pypsrp.exceptions.WinRMTransportError as error:
                self.plain = error.response_text.encode()
                raise
            return self.plain

        transport.send, transport._send_request = send, send_request

    def close(self):
        self.wsman.close()

    def carry(self, action, resource_uri, body, selectors, expect):
        selector_set = None
        if selectors:
            selector_set = SelectorSet()
            for name, value in selectors.items():
                selector_set.add_option(name, value)
        content = ET.fromstring(body) if body is not None else None
        error = None
        self.received = None
        try:
            self.wsman.invoke(action, resource_uri, content, None, selector_set)
        except pypsrp.exceptions.WSManFaultError as fault:
            error = fault
        message_id = xmltree.parse(self.sent).one(S, "Header").one(A, "MessageID").text
        request = rules.Request(action, message_id, resource_uri, **expect)
        content_type = self.received.headers.get("content-type")
        if self.sealed:
            content_type = rules.sealed_content_type(content_type, self.received.content)
        reply = self.checker.check(request, self.received.status_code, content_type, self.plain)
        if error is not None:
            fault = reply.fault
            assert fault is not None, f"pypsrp saw a fault where there is none: {error}"
            same = error.code in (fault.wsman_code, fault.subcode)
            assert same, f"pypsrp reads the code {error.code!r}; the fault is {fault}"
        return reply
