"""What every reply of a host must look like, whatever was asked.

`check` reads a reply by itself, holds it against the request that caused it, and raises `Wrong` with all that is wrong.
Nothing here knows how a simulated host is built.
"""

import re
import xml.parsers.expat

import names
import xmltree
from classes import ARRAY, CLASSES, ITEMS, OUT, REF
from names import A, CIM, F, N, S, W, XSI

INTEGER = re.compile(r"^-?(0|[1-9][0-9]*)$")
DATETIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")
DURATION = re.compile(r"^P(?=.)(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?$")
MESSAGE_ID = re.compile(r"^uuid:[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")


class Wrong(AssertionError):
    """A reply is not what a host would answer."""


def sealed_content_type(content_type, content):
    """Checks how a sealed reply is framed, byte by byte, and returns the type of what is sealed."""
    wanted = 'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"'
    if (content_type or "").replace("; ", ";") != wanted:
        raise Wrong(f"Content-Type of a sealed reply is {content_type!r}")
    begin = (
        rb"^--Encrypted Boundary\r\n"
        rb"\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
        rb"\tOriginalContent: type=([^\r\n]*);Length=([0-9]+)\r\n"
        rb"--Encrypted Boundary\r\n"
        rb"\tContent-Type: application/octet-stream\r\n"
        rb"\x10\0\0\0"
    )
    end = b"--Encrypted Boundary--"
    framed = re.match(begin, content)
    rest = content.rstrip(b"\r\n")
    if framed is None or not rest.endswith(end):
        raise Wrong(f"a sealed reply is framed as {content[:400]!r} … {content[-60:]!r}")
    sealed = len(rest) - len(end) - framed.end() - 16
    if sealed != int(framed[2]):
        raise Wrong(f"a sealed reply says Length={int(framed[2])} and holds {sealed} sealed bytes")
    return framed[1].decode()


class Request:
    """What the rules must know of a request."""

    def __init__(self, action, message_id, resource_uri, max_elements=None, optimised=False, mode=None):
        self.action = action
        self.message_id = message_id
        self.resource_uri = resource_uri
        self.max_elements = max_elements
        self.optimised = optimised
        self.mode = mode


class Reply:
    """A reply that obeys the rules; `fault` is None where the request succeeded."""

    def __init__(self, raw, envelope, body, fault):
        self.raw = raw
        self.envelope = envelope
        self.body = body
        self.fault = fault


class Fault:
    """A SOAP fault: subcode such as `w:InvalidSelectors`, whatever prefix the host wrote."""

    def __init__(self, status, code, subcode, reason, details, wsman_code, text):
        self.status = status
        self.code = code
        self.subcode = subcode
        self.reason = reason
        self.details = details
        self.wsman_code = wsman_code
        self.text = text

    def __repr__(self):
        return f"Fault({self.status} {self.code} {self.subcode} {self.details} {self.reason!r})"


class Checker:
    """The rules, for one host. `null_arrays_as_nil` is the host's switch for how it writes a NULL array."""

    def __init__(self, null_arrays_as_nil=False):
        self.null_arrays_as_nil = null_arrays_as_nil
        self.message_ids = set()
        self.problems = []

    def check(self, request, status, content_type, raw):
        """Returns the reply read; raises Wrong with everything that is wrong about it."""
        self.problems = []
        try:
            envelope = xmltree.parse(raw)
        except (xml.parsers.expat.ExpatError, ValueError) as error:
            raise Wrong(f"the reply ({status}) is no XML: {error}\n{raw[:2000]!r}") from error
        kind = (content_type or "").replace(" ", "").replace('"', "").lower()
        self.must(kind == "application/soap+xml;charset=utf-8", f"Content-Type is {content_type!r}")
        self.prefixes(envelope)
        header, body = self.parts(envelope)
        fault = None
        if body is not None and body.one(S, "Fault") is not None:
            fault = self.fault(body.one(S, "Fault"), status)
        if header is not None:
            self.header(header, request, fault)
        if fault is None:
            self.must(status == 200, f"HTTP status of a success is {status}")
            if body is not None:
                self.body(body, request)
        if self.problems:
            text = raw.decode("utf-8", "replace")
            shown = text if len(text) < 6000 else text[:6000] + "…"
            problems = "\n".join(f"- {problem}" for problem in dict.fromkeys(self.problems))
            raise Wrong(f"reply to {request.action} on {request.resource_uri}:\n{problems}\n{shown}")
        return Reply(raw, envelope, body, fault)

    def must(self, is_so, problem):
        if not is_so:
            self.problems.append(problem)
        return is_so

    def prefixes(self, envelope):
        for element in envelope.walk():
            wanted = names.PREFIXES.get(element.uri)
            if element.uri and element.uri.startswith(names.WMI):
                wanted = "p"
            if wanted is not None:
                self.must(element.prefix == wanted, f"{element!r} must have the prefix {wanted}: {element.uri}")
            for (uri, name), (prefix, _) in element.attributes.items():
                wanted = names.PREFIXES.get(uri)
                self.must(wanted in (None, prefix), f"attribute {prefix}:{name} must have the prefix {wanted}")

    def parts(self, envelope):
        is_envelope = (envelope.uri, envelope.name) == (S, "Envelope")
        self.must(is_envelope, f"the root is {envelope!r} in {envelope.uri}")
        order = [(child.uri, child.name) for child in envelope.children]
        self.must(order == [(S, "Header"), (S, "Body")], f"an envelope has s:Header and s:Body, not {envelope.children}")
        return envelope.one(S, "Header"), envelope.one(S, "Body")

    def header(self, header, request, fault):
        def only(name):
            found = header.all(A, name)
            self.must(len(found) == 1, f"the header has {len(found)} a:{name}")
            return found[0].text if found else ""

        action, message_id, to = only("Action"), only("MessageID"), only("To")
        self.must(to == names.ANONYMOUS, f"a:To is {to!r}")
        self.must(MESSAGE_ID.match(message_id), f"a:MessageID is {message_id!r}")
        self.must(message_id not in self.message_ids, f"a:MessageID {message_id} was used before")
        self.message_ids.add(message_id)
        if request.message_id is not None:
            relates_to = only("RelatesTo")
            self.must(relates_to == request.message_id, f"a:RelatesTo is {relates_to!r}, not {request.message_id}")
        if fault is None:
            wanted = request.action + "Response"
        elif fault.subcode.startswith("a:"):
            wanted = names.ADDRESSING_FAULT_ACTION
        else:
            wanted = names.FAULT_ACTION
        self.must(action == wanted, f"a:Action is {action!r}, not {wanted}")

    def fault(self, fault, status):
        def qname(element):
            if element is None:
                return ""
            uri, name = element.resolve(element.text)
            prefix = names.PREFIXES.get(uri)
            self.must(prefix is not None, f"the QName {element.text!r} has no known namespace")
            return f"{prefix}:{name}"

        code = fault.one(S, "Code")
        self.must(code is not None, "a fault has one s:Code")
        value = qname(code.one(S, "Value")) if code else ""
        self.must(value in ("s:Sender", "s:Receiver"), f"s:Code/s:Value is {value!r}")
        sub = code.one(S, "Subcode") if code else None
        self.must(sub is not None, "a fault has one s:Subcode")
        subcode = qname(sub.one(S, "Value")) if sub else ""
        reason = fault.one(S, "Reason")
        texts = reason.all(S, "Text") if reason else []
        self.must(texts and texts[0].text.strip(), "a fault has a reason in s:Reason/s:Text")
        self.must(all(text.attribute(names.XML, "lang") for text in texts), "s:Text has xml:lang")
        detail = fault.one(S, "Detail")
        self.must(detail is not None, "a fault has s:Detail")
        details = [found.text.strip() for found in detail.all(W, "FaultDetail")] if detail else []
        for uri in details:
            self.must(uri.startswith(names.FAULT_DETAIL), f"w:FaultDetail is {uri!r}")
        wsman = detail.one(F, "WSManFault") if detail else None
        if wsman is not None:
            # Which code Windows writes is known of two faults only.
            self.must((wsman.attribute(None, "Code") or "0").isdigit(), "the Code of f:WSManFault is a number")
            self.must(wsman.attribute(None, "Machine"), "f:WSManFault has a Machine")
        self.must(status in (400, 500, 503), f"HTTP status of a fault is {status}")
        everything = " ".join(element.text for element in fault.walk())
        return Fault(
            status,
            value,
            subcode,
            texts[0].text if texts else "",
            [uri.removeprefix(names.FAULT_DETAIL) for uri in details],
            int(wsman.attribute(None, "Code") or 0) if wsman is not None else None,
            everything,
        )

    def body(self, body, request):
        def only(uri, name):
            is_it = [(child.uri, child.name) for child in body.children] == [(uri, name)]
            self.must(is_it, f"the body holds {body.children}, not one {name}")
            return body.children[0] if is_it else None

        if request.action == names.GET:
            self.must(len(body.children) == 1, f"the body of a Get reply holds {body.children}")
            for instance in body.children:
                self.instance(instance)
        elif request.action == names.ENUMERATE:
            response = only(N, "EnumerateResponse")
            if response is not None:
                self.enumerate_response(response, request)
        elif request.action == names.PULL:
            response = only(N, "PullResponse")
            if response is not None:
                self.pull_response(response, request)
        elif request.action in (names.DELETE, names.RELEASE):
            self.must(not body.children, f"the body holds {body.children}, and should be empty")
        elif request.action.lower().startswith(names.WMI):
            method = request.action.rpartition("/")[2]
            self.must(len(body.children) == 1, f"the body of a method's reply holds {body.children}")
            for output in body.children:
                self.output(output, method, request.resource_uri)

    def enumerate_response(self, response, request):
        context = response.all(N, "EnumerationContext")
        self.must(len(context) == 1, f"an EnumerateResponse has one n:EnumerationContext, not {len(context)}")
        items, ended = response.all(W, "Items"), response.all(W, "EndOfSequence")
        known = len(context) + len(items) + len(ended)
        self.must(known == len(response.children), f"an EnumerateResponse holds {response.children}")
        if not request.optimised:
            self.must(not items and not ended, "items came although optimisation was not asked for")
        else:
            self.must(len(items) == 1, "an optimised EnumerateResponse has one w:Items")
            self.items(items, request)
        if not ended:
            self.context(context)

    def pull_response(self, response, request):
        context, items = response.all(N, "EnumerationContext"), response.all(N, "Items")
        ended = response.all(N, "EndOfSequence")
        known = len(context) + len(items) + len(ended)
        self.must(known == len(response.children), f"a PullResponse holds {response.children}")
        self.must(len(items) == 1, f"a PullResponse has one n:Items, not {len(items)}")
        self.must(len(context) + len(ended) == 1, "a PullResponse has either a context or the end of the sequence")
        if context:
            self.context(context)
        count = self.items(items, request)
        self.must(count > 0 or ended, "a PullResponse without items is the last one")

    def context(self, context):
        text = context[0].text if context else ""
        self.must(text.startswith("uuid:"), f"n:EnumerationContext is {text!r}")

    def items(self, items, request):
        """Checks the items of a reply and returns how many there are."""
        children = [child for holder in items for child in holder.children]
        limit = request.max_elements or 1
        self.must(len(children) <= limit, f"{len(children)} items came, and at most {limit} were asked for")
        for child in children:
            if request.mode == "EnumerateEPR":
                if self.must((child.uri, child.name) == (A, "EndpointReference"), f"an item is {child!r}"):
                    self.reference(child)
            elif request.mode == "EnumerateObjectAndEPR":
                if self.must((child.uri, child.name) == (W, "Item"), f"an item is {child!r}"):
                    references = child.all(A, "EndpointReference")
                    objects = [part for part in child.children if part not in references]
                    both = len(references) == 1 and len(objects) == 1
                    if self.must(both, f"w:Item holds {child.children}"):
                        self.reference(references[0])
                        self.instance(objects[0])
            else:
                self.instance(child)
        return len(children)

    def instance(self, instance):
        """Checks an object of a class: its name, type, namespace and properties."""
        if not self.must((instance.uri or "").startswith(names.WMI), f"{instance!r} is in {instance.uri!r}"):
            return
        owner = names.class_of(instance.uri)
        self.must(instance.name == owner, f"{instance!r} is in the namespace of class {owner}")
        self.must_be_typed(instance, f"{instance.name}_Type", instance.uri)
        groups = {}
        for child in instance.children:
            self.must(child.uri == instance.uri, f"{instance.name}: {child!r} is in {child.uri!r}")
            groups.setdefault(child.name, []).append(child)
        known = CLASSES.get(instance.name, {})
        for name, (_, is_array) in known.items():
            if not is_array:
                self.must(name in groups, f"{instance.name}.{name} is missing: a NULL scalar is written as nil")
        for name, elements in groups.items():
            where = f"{instance.name}.{name}"
            kind, is_array = known.get(name, (None, None))
            if kind is not None and not is_array:
                self.must(len(elements) == 1, f"{where} is there {len(elements)} times")
            for element in elements:
                if self.is_nil(element):
                    self.nil(element, where)
                    if is_array:
                        allowed = self.null_arrays_as_nil and len(elements) == 1
                        self.must(allowed, f"{where}: a NULL array is left out")
                else:
                    self.value(element, kind, where)

    def must_be_typed(self, element, name, uri):
        text = element.attribute(XSI, "type")
        if self.must(text is not None, f"{element!r} has no xsi:type"):
            found = element.resolve(text)
            self.must(found == (uri, name), f"xsi:type of {element!r} is {text!r}, which is {found}")
            self.must(text == f"p:{name}", f"xsi:type of {element!r} is {text!r}")

    def is_nil(self, element):
        text = element.attribute(XSI, "nil")
        self.must(text in (None, "true", "false"), f"xsi:nil is {text!r}")
        return text == "true"

    def nil(self, element, where):
        self.must(not element.children and not element.text, f"{where} is nil and has content")

    def value(self, element, kind, where):
        if kind is None:
            self.unknown_value(element, where)
        elif kind == "datetime":
            self.time(element, where)
        elif self.must(not element.children, f"{where} holds {element.children}"):
            self.scalar(element.text, kind, where)

    def unknown_value(self, element, where):
        """A property that this page does not know: a scalar, a time, a reference, or an object."""
        if not element.children:
            return
        if element.children[0].uri == CIM:
            self.time(element, where)
        elif element.children[0].uri == A:
            self.reference(element)

    def scalar(self, text, kind, where):
        if kind == "boolean":
            self.must(text in ("true", "false"), f"{where} is {text!r}, not a boolean")
        elif kind != "string":
            if not self.must(INTEGER.match(text), f"{where} is {text!r}, not a {kind}"):
                return
            bits = int(kind.partition("int")[2])
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if kind.startswith("s") else (0, 2**bits)
            self.must(low <= int(text) < high, f"{where} is {text}, beyond a {kind}")

    def time(self, element, where):
        names_of_children = [(child.uri, child.name) for child in element.children]
        if names_of_children == [(CIM, "Datetime")]:
            text = element.children[0].text
            self.must(DATETIME.match(text), f"{where} is the time {text!r}")
        elif names_of_children == [(CIM, "Interval")]:
            text = element.children[0].text
            self.must(DURATION.match(text), f"{where} is the interval {text!r}")
        else:
            self.must(False, f"{where} is a time and holds {element.children} {element.text!r}")

    def reference(self, holder):
        """Checks the content of an endpoint reference."""
        address = holder.one(A, "Address")
        found = address.text if address is not None else None
        self.must(found == names.ANONYMOUS, f"a:Address in {holder!r} is {found!r}")
        parameters = holder.one(A, "ReferenceParameters")
        if not self.must(parameters is not None, f"{holder!r} has no a:ReferenceParameters"):
            return
        uri = parameters.one(W, "ResourceURI")
        text = uri.text if uri is not None else ""
        self.must(text.startswith(names.WMI), f"w:ResourceURI of {holder!r} is {text!r}")
        selectors = parameters.one(W, "SelectorSet")
        if not self.must(selectors is not None, f"{holder!r} has no w:SelectorSet"):
            return
        keys = {}
        for selector in selectors.children:
            name = selector.attribute(None, "Name")
            self.must((selector.uri, selector.name) == (W, "Selector") and name, f"{selector!r} is no named w:Selector")
            keys[name] = selector.text
        namespace = keys.pop("__cimnamespace", None)
        self.must(namespace is not None, f"the reference in {holder!r} has no selector __cimnamespace")
        same = (namespace or "").lower() == names.namespace_of(text).lower()
        self.must(same, f"__cimnamespace is {namespace!r} in a reference to {text}")
        self.must(keys, f"the reference in {holder!r} has no keys")

    def output(self, output, method, resource_uri):
        self.must(output.name == f"{method}_OUTPUT", f"the output is {output!r}")
        self.must((output.uri or "").lower() == resource_uri.lower(), f"the output is in {output.uri!r}")
        groups = {}
        for child in output.children:
            self.must(child.uri == output.uri, f"{child!r} is in {child.uri!r}")
            groups.setdefault(child.name, []).append(child)
        code = groups.pop("ReturnValue", [])
        good = len(code) == 1 and INTEGER.match(code[0].text)
        if not self.must(good, f"ReturnValue is {[found.text for found in code]}"):
            return
        started = int(code[0].text) == names.JOB_STARTED
        known = OUT.get(f"{names.class_of(resource_uri)}.{method}", OUT.get(method))
        for name, kind in (known or {}).items():
            elements = groups.pop(name, [])
            if kind in (ARRAY, ITEMS):
                for element in elements:
                    if self.is_nil(element):
                        allowed = self.null_arrays_as_nil and len(elements) == 1
                        self.must(allowed, f"{method}: the NULL array {name} is left out")
                continue
            # What is NULL may be absent, but a job that was not started is nil.
            if not elements and name != "Job":
                continue
            if not self.must(len(elements) == 1, f"{method}: {name} is there {len(elements)} times"):
                continue
            nil = self.is_nil(elements[0])
            if nil:
                self.nil(elements[0], f"{method}: {name}")
            elif kind == REF:
                self.reference(elements[0])
            if name == "Job":
                self.must(nil != started, f"{method}: Job is {'nil' if nil else 'given'} with code {code[0].text}")
            elif kind == REF and started:
                self.must(nil, f"{method}: {name} is given although a job was started")
        if known is not None:
            self.must(not groups, f"{method}: unknown parameters {sorted(groups)}")
