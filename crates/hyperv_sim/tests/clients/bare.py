"""A second client, of nothing but the standard library, with the manners of libvirt's driver and its openwsman.

It sends To, ResourceURI, Action, MessageID, ReplyTo and selectors, and nothing else in the header; no MaxElements; the
first request of a connection without credentials; Pull with the URI of whatever class; lower-case GUIDs; as few
selectors as it can; `False`; embedded instances with an XML declaration and indentation. It takes the first item of each
Pull and drops the rest, and fails where a scalar is missing.
"""

import base64
import http.client
import os
import uuid
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import names
import rules
import values
import xmltree
from host import MIB, wait_for
from names import A, N, S, V2, W, XSI
from values import Item, Reference

UNRELATED = V2 + "Msvm_VirtualSystemManagementService"
COMPUTER = V2 + "Msvm_ComputerSystem"
DISK_BYTES = 8 * MIB


class Bare:
    """One connection; `answers` are the HTTP statuses it has seen, in order."""

    def __init__(self, url, user, password):
        self.address = urlsplit(url)
        self.connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=60)
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.authorization = f"Basic {token}"
        self.is_known = False
        self.checker = rules.Checker()
        self.answers = []

    def close(self):
        self.connection.close()

    def post(self, data, headers=None):
        """Posts once and returns (status, headers, body); the connection must live on."""
        sent = {"Content-Type": "application/soap+xml;charset=UTF-8", "User-Agent": "Openwsman", **(headers or {})}
        self.connection.request("POST", self.address.path, data, sent)
        response = self.connection.getresponse()
        body = response.read()
        self.answers.append(response.status)
        return response.status, response.headers, body

    def send(self, data, headers=None):
        """Posts without credentials first; after a 401 again, on the same connection."""
        headers = dict(headers or {})
        if self.is_known:
            headers["Authorization"] = self.authorization
        status, got, body = self.post(data, headers)
        if status == 401 and not self.is_known:
            schemes = got.get_all("WWW-Authenticate") or []
            basic = [scheme for scheme in schemes if scheme.lower().startswith("basic")]
            assert basic == ['Basic realm="WSMAN"'], f"WWW-Authenticate is {schemes}"
            socket = self.connection.sock
            assert socket is not None, "the host closed the connection with its 401"
            headers["Authorization"] = self.authorization
            status, got, body = self.post(data, headers)
            assert self.connection.sock is socket, "the connection was not kept"
            self.is_known = status != 401
        return status, got, body

    def ask(self, action, resource_uri, body, selectors=None, **expect):
        """Sends an envelope of the smallest header and returns the checked reply."""
        message_id = f"uuid:{uuid.uuid4()}"
        chosen = "".join(
            f'\n      <wsman:Selector Name="{name}">{escape(value)}</wsman:Selector>'
            for name, value in (selectors or {}).items()
        )
        selector_set = f"\n    <wsman:SelectorSet>{chosen}\n    </wsman:SelectorSet>" if chosen else ""
        text = f"""<?xml version="1.0" encoding="UTF-8"?>
<env:Envelope xmlns:env="{S}" xmlns:wsa="{A}" xmlns:wsman="{W}" xmlns:wsen="{N}">
  <env:Header>
    <wsa:To env:mustUnderstand="true">{self.address.geturl()}</wsa:To>
    <wsman:ResourceURI env:mustUnderstand="true">{resource_uri}</wsman:ResourceURI>
    <wsa:Action env:mustUnderstand="true">{action}</wsa:Action>
    <wsa:MessageID env:mustUnderstand="true">{message_id}</wsa:MessageID>
    <wsa:ReplyTo>
      <wsa:Address>{names.ANONYMOUS}</wsa:Address>
    </wsa:ReplyTo>{selector_set}
  </env:Header>
  <env:Body>
{body}
  </env:Body>
</env:Envelope>
"""
        status, headers, raw = self.send(text.encode())
        request = rules.Request(action, message_id, resource_uri, **expect)
        return self.checker.check(request, status, headers.get("Content-Type"), raw)

    def query(self, wql, mode=None, namespace=names.EVERYTHING_V2, pull_uri=None):
        """Enumerates by WQL, pulls with another URI, and keeps the first item of each Pull."""
        how = f"\n      <wsman:EnumerationMode>{mode}</wsman:EnumerationMode>" if mode else ""
        reply = self.ask(
            names.ENUMERATE,
            namespace,
            f'    <wsen:Enumerate>\n      <wsman:Filter Dialect="{names.WQL}">{escape(wql)}</wsman:Filter>{how}\n'
            "    </wsen:Enumerate>",
            mode=mode,
        )
        assert reply.fault is None, reply.fault
        response, found = reply.body.children[0], []
        while response.one(N, "EnumerationContext") is not None:
            context = response.one(N, "EnumerationContext").text
            reply = self.ask(
                names.PULL,
                pull_uri or UNRELATED,
                "    <wsen:Pull>\n"
                f"      <wsen:EnumerationContext>{escape(context)}</wsen:EnumerationContext>\n    </wsen:Pull>",
                mode=mode,
            )
            assert reply.fault is None, reply.fault
            response = reply.body.children[0]
            found += response.one(N, "Items").children[:1]
        return found

    def items(self, wql, **how):
        return [Item(element) for element in self.query(wql, **how)]

    def reference(self, wql):
        """Asks the host for the reference to the one object a query finds."""
        found = self.query(wql, mode="EnumerateEPR", pull_uri=V2 + "Msvm_ProcessorSettingData")
        assert len(found) == 1, f"{wql} finds {len(found)}"
        return Reference(found[0]).xml()

    def invoke(self, resource_uri, method, body, **selectors):
        content = f'    <q:{method}_INPUT xmlns:q="{resource_uri}">\n{body}\n    </q:{method}_INPUT>'
        reply = self.ask(f"{resource_uri}/{method}", resource_uri, content, selectors)
        assert reply.fault is None, reply.fault
        return Item(reply.body.children[0])

    def manage(self, method, body):
        """Invokes a method of the management service by one selector."""
        return self.invoke(UNRELATED, method, body, CreationClassName="Msvm_VirtualSystemManagementService")

    def done(self, output):
        """Waits for a job by query, as long as it takes."""
        if output["ReturnValue"] == "0":
            return
        assert output["ReturnValue"] == "4096", output
        job = values.wql(output.reference("Job").keys["InstanceID"])

        def ended():
            found = self.items(f"Select * from Msvm_ConcreteJob where InstanceID = '{job}'")
            assert len(found) == 1, found
            return found[0] if found[0]["JobState"] not in ("2", "3", "4") else None

        job = wait_for("the job", ended)
        assert job["JobState"] == "7", job


def indented(class_name, properties):
    """Returns an embedded instance with an XML declaration, line breaks and tabs."""
    lines = ['<?xml version="1.0"?>', f'<INSTANCE CLASSNAME="{class_name}">']
    for name, kind, value in properties:
        if isinstance(value, list):
            lines += [f'\t<PROPERTY.ARRAY NAME="{name}" TYPE="{kind}">', "\t\t<VALUE.ARRAY>"]
            lines += [f"\t\t\t<VALUE>{escape(item)}</VALUE>" for item in value]
            lines += ["\t\t</VALUE.ARRAY>", "\t</PROPERTY.ARRAY>"]
        else:
            lines += [f'\t<PROPERTY NAME="{name}" TYPE="{kind}">', f"\t\t<VALUE>{escape(value)}</VALUE>", "\t</PROPERTY>"]
    return "\n".join([*lines, "</INSTANCE>", ""])


def first_request_has_no_credentials(host, client):
    """401 with a Basic challenge, then the same request on the same connection; later requests carry credentials."""
    vm = host.vm(sizes_mib=())
    found = client.items("Select * from Msvm_ComputerSystem where Name != __SERVER")
    assert [item["Name"] for item in found] == [vm], found
    assert client.answers[:2] == [401, 200] and set(client.answers[2:]) == {200}, client.answers


def lists_and_finds_vms(host, client):
    """What a person does first: the host, VMs that run, all VMs, one by id, by name, by number of its process."""
    web, db = host.vm("web01", sizes_mib=()), host.vm("db01", sizes_mib=(), running=False)
    system = client.items("Select * from Win32_ComputerSystem ", namespace=names.EVERYTHING_CIMV2)
    assert [item["DNSHostName"].upper() for item in system] == [host.name], system
    assert len(client.items("select * from Win32_OperatingSystem", namespace=names.EVERYTHING_CIMV2)) == 1
    physical = client.items("Select * from Msvm_ComputerSystem where Name = __SERVER ")
    assert [item["Name"] for item in physical] == [host.name], physical
    virtual = "Select * from Msvm_ComputerSystem where Name != __SERVER "
    active = "and (EnabledState != 0 and EnabledState != 3 and EnabledState != 32769) "
    inactive = "and (EnabledState = 0 or EnabledState = 3 or EnabledState = 32769) "
    assert sorted(item["Name"] for item in client.items(virtual)) == sorted([web, db])
    assert [item["Name"] for item in client.items(virtual + active)] == [web]
    assert [item["Name"] for item in client.items(virtual + inactive)] == [db]
    assert [item["Name"] for item in client.items(virtual + f'and Name = "{web.lower()}"')] == [web]
    assert [item["Name"] for item in client.items(virtual + 'and ElementName = "db01"')] == [db]
    number = client.items(virtual + active)[0]["ProcessID"]
    assert number not in (None, "0"), "a VM that runs has a process"
    assert [item["Name"] for item in client.items(virtual + f"and ProcessID = {number}")] == [web]


def reads_what_describes_a_vm(host, client):
    """Settings and resources by association from lower-case ids; each has all scalars of its class."""
    vm = host.vm(sizes_mib=(8, 8))
    settings = client.items(
        f'associators of {{Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="{vm.lower()}"}} '
        "where AssocClass = Msvm_SettingsDefineState ResultClass = Msvm_VirtualSystemSettingData"
    )
    assert [item["InstanceID"] for item in settings] == [f"Microsoft:{vm}"], settings
    start = f'associators of {{Msvm_VirtualSystemSettingData.InstanceID="{settings[0]["InstanceID"].lower()}"}} '
    through = "where AssocClass = Msvm_VirtualSystemSettingDataComponent ResultClass = "
    for class_name, count in (
        ("Msvm_ProcessorSettingData", 1),
        ("Msvm_MemorySettingData", 1),
        ("Msvm_StorageAllocationSettingData", 2),
        ("Msvm_SyntheticEthernetPortSettingData", 1),
        ("Msvm_EthernetPortAllocationSettingData", 1),
    ):
        found = client.items(start + through + class_name)
        assert [item.class_name for item in found] == [class_name] * count, found
    drives = client.items(start + through + "Msvm_ResourceAllocationSettingData")
    assert len([drive for drive in drives if drive["ResourceType"] == "17"]) == 2, drives
    assert client.items(start + through + "Msvm_SerialPortSettingData") is not None


def finds_by_path(host, client):
    """WHERE __PATH with the host's own way of writing, its backslashes doubled."""
    vm = host.vm(sizes_mib=(8,))
    disk = next(
        item
        for item in client.items("Select * from Msvm_StorageAllocationSettingData")
        if vm in item["InstanceID"] and item["ResourceType"] == "31"
    )
    drive = values.wql(disk["Parent"])
    found = client.items(f"Select * from Msvm_ResourceAllocationSettingData where __PATH = '{drive}'")
    assert len(found) == 1 and found[0]["ResourceType"] == "17", found
    again = client.items(f"Select * from CIM_ResourceAllocationSettingData where __PATH = '{drive.lower()}'")
    assert [item["InstanceID"] for item in again] == [found[0]["InstanceID"]], again


def defines_and_starts_a_vm(host, client):
    """Define, two disks as plain resources, less memory, start, stop, destroy: with its own way of writing all of it."""
    text = indented(
        "Msvm_VirtualSystemSettingData",
        [
            ("ElementName", "string", 'of <libvirt> & "friends"'),
            ("VirtualSystemSubType", "string", "Microsoft:Hyper-V:SubType:2"),
            ("AutomaticSnapshotsEnabled", "boolean", "False"),
        ],
    )
    client.done(client.manage("DefineSystem", f"      <q:SystemSettings>{escape(text)}</q:SystemSettings>"))
    name = values.wql('of <libvirt> & "friends"')
    (made,) = client.items(f"Select * from Msvm_ComputerSystem where Name != __SERVER and ElementName = '{name}'")
    vm = made["Name"]
    settings = client.reference(f"Select * from Msvm_VirtualSystemSettingData where InstanceID = 'microsoft:{vm.lower()}'")

    def add(class_name, properties):
        text = indented(class_name, properties)
        client.done(
            client.manage(
                "AddResourceSettings",
                f"      <q:AffectedConfiguration>{settings}</q:AffectedConfiguration>\n"
                f"      <q:ResourceSettings>{escape(text)}</q:ResourceSettings>",
            )
        )

    def resources(subtype):
        query = f"Select * from CIM_ResourceAllocationSettingData where ResourceSubType = '{subtype}'"
        return [item for item in client.items(query) if vm in item["InstanceID"]]

    plain = "Msvm_ResourceAllocationSettingData"
    scsi, drive_type = "Microsoft:Hyper-V:Synthetic SCSI Controller", "Microsoft:Hyper-V:Synthetic Disk Drive"
    disk_type = "Microsoft:Hyper-V:Virtual Hard Disk"
    if not resources(scsi):
        add(plain, [("ResourceType", "uint16", "6"), ("ResourceSubType", "string", scsi)])
    controller = values.path(host.name, plain, InstanceID=resources(scsi)[0]["InstanceID"])
    for slot in ("0", "1"):
        path = f"C:\\disks\\libvirt-{slot}.vhdx"
        put(host, path)
        add(
            plain,
            [
                ("Parent", "string", controller),
                ("AddressOnParent", "string", slot),
                ("ResourceType", "uint16", "17"),
                ("ResourceSubType", "string", drive_type),
            ],
        )
        drive = next(item for item in resources(drive_type) if item["AddressOnParent"] == slot)
        add(
            plain,
            [
                ("Parent", "string", values.path(host.name, plain, InstanceID=drive["InstanceID"])),
                ("HostResource", "string", [path]),
                ("ResourceType", "uint16", "31"),
                ("ResourceSubType", "string", disk_type),
            ],
        )
    disks = resources(disk_type)
    assert {item.class_name for item in disks} == {"Msvm_StorageAllocationSettingData"} and len(disks) == 2, disks

    memory = next(item for item in client.items("Select * from Msvm_MemorySettingData") if vm in item["InstanceID"])
    text = indented(
        "Msvm_MemorySettingData",
        [
            ("InstanceID", "string", memory["InstanceID"].lower()),
            ("VirtualQuantity", "uint64", "512"),
            ("DynamicMemoryEnabled", "boolean", "False"),
        ],
    )
    body = f"      <q:ResourceSettings>{escape(text)}</q:ResourceSettings>"
    client.done(client.manage("ModifyResourceSettings", body))
    memory = next(item for item in client.items("Select * from Msvm_MemorySettingData") if vm in item["InstanceID"])
    assert (memory["VirtualQuantity"], memory["DynamicMemoryEnabled"]) == ("512", "false"), memory

    def request(state):
        body = f"      <q:RequestedState>{state}</q:RequestedState>"
        client.done(client.invoke(COMPUTER, "RequestStateChange", body, Name=vm.lower()))

    def state():
        return client.items(f"Select * from Msvm_ComputerSystem where Name = '{vm.lower()}'")[0]["EnabledState"]

    for wanted in (2, 9, 2, 3):
        request(wanted)
        assert state() == str(wanted)
    vm_reference = client.reference(f'Select * from Msvm_ComputerSystem where Name = "{vm.lower()}"')
    client.done(client.manage("DestroySystem", f"      <q:AffectedSystem>{vm_reference}</q:AffectedSystem>"))
    assert client.items(f"Select * from Msvm_ComputerSystem where Name = '{vm.lower()}'") == []


def put(host, path):
    """Puts an empty disk where the host finds it."""
    made, local = host.disk(path.rpartition("\\")[2], DISK_BYTES // MIB), host.local(path)
    os.makedirs(os.path.dirname(local), exist_ok=True)
    os.replace(made, local)


def embedded_text_may_be_cdata(host, client):
    """A checkpoint whose settings come in CDATA, with a declaration, a DOCTYPE and parts nobody needs."""
    vm = host.vm(sizes_mib=(8,))
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE CIM SYSTEM "CIM_DTD_V20.dtd">\n'
        '<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData">\n'
        '  <QUALIFIER NAME="dynamic" TYPE="boolean"><VALUE>TRUE</VALUE></QUALIFIER>\n'
        '  <PROPERTY NAME="ConsistencyLevel" CLASSORIGIN="Msvm_VirtualSystemSnapshotSettingData" TYPE="uint8" '
        'PROPAGATED="false" MODIFIED="TRUE">\n    <QUALIFIER NAME="write" TYPE="boolean"><VALUE>TRUE</VALUE></QUALIFIER>\n'
        "    <VALUE>2</VALUE>\n  </PROPERTY>\n"
        '  <PROPERTY NAME="InstanceID" TYPE="string"></PROPERTY>\n'
        '  <PROPERTY NAME="IgnoreNonSnapshottableDisks" TYPE="boolean"><VALUE>False</VALUE></PROPERTY>\n'
        "</INSTANCE>\n"
    )
    system = client.reference(f"Select * from Msvm_ComputerSystem where Name = '{vm.lower()}'")
    output = client.invoke(
        V2 + "Msvm_VirtualSystemSnapshotService",
        "CreateSnapshot",
        f"      <q:SnapshotType>32768</q:SnapshotType>\n      <q:SnapshotSettings><![CDATA[{text}]]></q:SnapshotSettings>\n"
        f'      <q:ResultingSnapshot xmlns:xsi="{XSI}" xsi:nil="true"/>\n'
        f"      <q:AffectedSystem>{system}</q:AffectedSystem>",
        CreationClassName="Msvm_VirtualSystemSnapshotService",
    )
    client.done(output)
    kind = "VirtualSystemType = 'Microsoft:Hyper-V:Snapshot:Recovery'"
    assert len(client.items(f"Select * from Msvm_VirtualSystemSettingData where {kind}")) == 1


def identify_says_who_answers(host, client):
    """Identify with credentials tells the version; without, only that this is a host."""
    envelope = f'<s:Envelope xmlns:s="{S}" xmlns:i="{names.WSMID}"><s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>'

    def identify(headers, known):
        client.is_known = known
        post = client.send if known else client.post
        status, got, raw = post(envelope.encode(), headers)
        assert status == 200, (status, raw)
        assert got["Content-Type"].replace(" ", "").lower() == "application/soap+xml;charset=utf-8", got
        reply = xmltree.parse(raw)
        assert reply.one(S, "Header").children == [], "Identify knows no addressing"
        body = reply.one(S, "Body").one(names.WSMID, "IdentifyResponse")
        assert body is not None and body.prefix == "wsmid", raw
        return {child.name: child.text for child in body.children}

    told = identify({}, known=True)
    assert told["ProtocolVersion"] == W and told["ProductVendor"] == "Microsoft Corporation", told
    version = client.items("select * from Win32_OperatingSystem", namespace=names.EVERYTHING_CIMV2)[0]["Version"]
    assert told["ProductVersion"].startswith(f"OS: {version} SP: "), told
    assert told["ProductVersion"].endswith(" Stack: 3.0"), told
    anonymous = identify({"WSMANIDENTIFY": "unauthenticated"}, known=False)
    assert "OS: 0.0.0" in anonymous["ProductVersion"], anonymous


def broken_requests_are_answered(host, client):
    """No XML, no envelope, half an envelope: 400, and the connection serves the next request."""
    host.vm(sizes_mib=())
    assert len(client.items("Select * from Msvm_ComputerSystem")) == 2
    socket = client.connection.sock
    for data in (
        b"",
        b"not XML",
        b"<a/>",
        f'<s:Envelope xmlns:s="{S}"><s:Header>'.encode(),
        f'<s:Envelope xmlns:s="{S}"><s:Body/></s:Envelope>'.encode(),
    ):
        status, _, raw = client.send(data)
        assert status == 400, (status, data, raw)
    assert client.connection.sock is socket, "the connection was not kept"
    assert len(client.items("Select * from Msvm_ComputerSystem")) == 2


def requests_may_be_utf_16(host, client):
    """A request in UTF-16 is understood like one in UTF-8."""
    host.vm(sizes_mib=())
    message_id = f"uuid:{uuid.uuid4()}"
    text = (
        f'<?xml version="1.0" encoding="UTF-16"?><s:Envelope xmlns:s="{S}" xmlns:a="{A}" xmlns:w="{W}"><s:Header>'
        f"<a:To>{client.address.geturl()}</a:To><w:ResourceURI>{COMPUTER}</w:ResourceURI>"
        f"<a:Action>{names.GET}</a:Action><a:MessageID>{message_id}</a:MessageID>"
        f"<a:ReplyTo><a:Address>{names.ANONYMOUS}</a:Address></a:ReplyTo>"
        f'<w:SelectorSet><w:Selector Name="Name">{host.name}</w:Selector></w:SelectorSet>'
        "</s:Header><s:Body/></s:Envelope>"
    )
    headers = {"Content-Type": "application/soap+xml;charset=UTF-16"}
    status, _, raw = client.send(text.encode("utf-16"), headers)
    assert status == 200, (status, raw[:500])
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    assert f"<p:Name>{host.name}</p:Name>" in raw.decode(encoding), raw[:500]


SCENARIOS = [
    first_request_has_no_credentials,
    lists_and_finds_vms,
    reads_what_describes_a_vm,
    finds_by_path,
    defines_and_starts_a_vm,
    embedded_text_may_be_cdata,
    identify_says_who_answers,
    broken_requests_are_answered,
    requests_may_be_utf_16,
]
