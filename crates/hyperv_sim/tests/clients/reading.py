"""Scenarios that only read: Get, the forms of Enumerate, Pull and Release, and queries."""

import names
import values
from names import A, CIMV2, N, V2, W
from values import Item, Reference

COMPUTER = V2 + "Msvm_ComputerSystem"
SETTINGS = V2 + "Msvm_VirtualSystemSettingData"
STORAGE = V2 + "Msvm_StorageAllocationSettingData"


def identity(item):
    """Returns what stays the same of an object while the host works."""
    return [item.get(name) or "" for name in ("InstanceID", "CreationClassName", "Name", "ElementName")]


def get_reads_one_object(host, client):
    """All keys, fewer keys, keys in any case, and the namespace as one more key."""
    vm = host.vm()
    found = client.get(COMPUTER, CreationClassName="Msvm_ComputerSystem", Name=vm)
    assert (found["Name"], found["ElementName"], found["EnabledState"]) == (vm, "web01", "2"), found
    assert found["Caption"] == "Virtual Machine", found
    assert found.list("OperationalStatus")[0] == "2", found
    for keys in (
        {"Name": vm},
        {"Name": vm.lower()},
        {"CreationClassName": "msvm_computersystem", "Name": vm},
        {"Name": vm, "__cimnamespace": "root/virtualization/v2"},
        {"Name": vm, "__cimnamespace": "ROOT/Virtualization/V2"},
    ):
        assert client.get(COMPUTER, **keys)["Name"] == vm, keys
    for uri in (COMPUTER.lower(), COMPUTER.replace("Msvm_ComputerSystem", "MSVM_COMPUTERSYSTEM")):
        assert client.get(uri, Name=vm)["Name"] == vm, uri
    itself = client.get(COMPUTER, Name=host.name)
    assert itself["Caption"] == "Hosting Computer System", itself


def get_reads_settings_and_host(host, client):
    """The settings of a VM, a service by one key, and the facts of the host in the other namespace."""
    vm = host.vm()
    settings = client.settings(vm)
    assert settings["VirtualSystemIdentifier"].upper() == vm, settings
    assert settings["VirtualSystemType"] == "Microsoft:Hyper-V:System:Realized", settings
    assert settings["VirtualSystemSubType"] == "Microsoft:Hyper-V:SubType:2", settings
    assert float(settings["Version"]) >= 8, settings
    assert settings["Parent"] is None, settings
    assert settings["ConfigurationFile"].lower().endswith(".vmcx"), settings
    assert vm.lower() in settings["ConfigurationFile"].lower(), settings
    service = V2 + "Msvm_VirtualSystemManagementService"
    found = client.get(service, CreationClassName="Msvm_VirtualSystemManagementService")
    assert found["SystemName"] == host.name, found
    system = client.wql("SELECT * FROM Win32_OperatingSystem", names.EVERYTHING_CIMV2)
    assert len(system) == 1 and system[0]["CSName"] == host.name, system
    assert int(system[0]["BuildNumber"]) >= 9600 and system[0]["Version"].startswith(("6.3", "10.0")), system
    computer = client.only("SELECT * FROM Win32_ComputerSystem", names.EVERYTHING_CIMV2)
    assert computer["DNSHostName"].upper() == host.name, computer
    product = client.only("SELECT * FROM Win32_ComputerSystemProduct", names.EVERYTHING_CIMV2)
    assert len(product["UUID"]) == 36, product
    volumes = client.wql("SELECT * FROM Win32_Volume WHERE DriveType = 3", names.EVERYTHING_CIMV2)
    drive = [volume for volume in volumes if volume["DriveLetter"] == "C:"]
    assert len(drive) == 1, volumes
    assert drive[0]["Name"] == "C:\\" and drive[0]["DeviceID"].startswith("\\\\?\\Volume{"), drive
    assert int(drive[0]["FreeSpace"]) < int(drive[0]["Capacity"]), drive
    # Selectors hold the backslashes and braces of such keys as they are.
    again = client.get(CIMV2 + "Win32_Volume", DeviceID=drive[0]["DeviceID"])
    assert again["Name"] == "C:\\", again


def get_reads_defaults_and_services(host, client):
    """What tells whether an account has rights and the service runs, where new disks go, and the small volume class."""
    (rights,) = client.wql("SELECT * FROM Msvm_VirtualSystemManagementService")
    assert rights["SystemName"] == host.name, rights
    for service in ("Msvm_VirtualSystemSnapshotService", "Msvm_ImageManagementService"):
        (found,) = [Item(element) for element in client.elements(V2 + service)]
        assert (found["CreationClassName"], found["SystemName"]) == (service, host.name), found
    (defaults,) = client.wql("SELECT * FROM Msvm_VirtualSystemManagementServiceSettingData")
    assert defaults["DefaultVirtualHardDiskPath"][1:3] == ":\\", defaults
    assert defaults["DefaultExternalDataRoot"][1:3] == ":\\", defaults
    vmms = client.only("SELECT * FROM Win32_Service WHERE Name = 'vmms'", names.EVERYTHING_CIMV2)
    assert vmms["State"] == "Running", vmms
    disk = client.only("SELECT * FROM Win32_LogicalDisk WHERE DeviceID = 'C:'", names.EVERYTHING_CIMV2)
    volume = client.only("SELECT * FROM Win32_Volume WHERE DriveLetter = 'C:'", names.EVERYTHING_CIMV2)
    assert (disk["Size"], disk["FreeSpace"]) == (volume["Capacity"], volume["FreeSpace"]), (disk, volume)


def volumes_may_be_mounted_in_folders(host, client):
    """A volume without a letter has its mount path as name, with a backslash at the end."""
    host.ctl("volume", "set", "C:\\Mounts\\Data", "--capacity", "10GiB")
    volumes = client.wql("SELECT * FROM Win32_Volume WHERE DriveType = 3", names.EVERYTHING_CIMV2)
    (mounted,) = [volume for volume in volumes if volume["Name"] == "C:\\Mounts\\Data\\"]
    assert mounted["DriveLetter"] is None and mounted["Capacity"] == str(10 << 30), mounted
    assert len({volume["DeviceID"].lower() for volume in volumes}) == len(volumes), volumes


def a_cluster_shows_nodes_and_shared_volumes(host, client):
    """The namespace of clusters is there on nodes only; shared volumes with their partitions, in MB."""
    host.ctl("cluster", "CL01", "--node", "HV02")
    path = "C:\\ClusterStorage\\Volume1"
    host.ctl("volume", "set", path, "--capacity", "100GiB")
    namespace = names.WMI + "root/MSCluster/*"
    assert client.only("SELECT * FROM MSCluster_Cluster", namespace)["Name"] == "CL01"
    nodes = {node["Name"].upper() for node in client.wql("SELECT * FROM MSCluster_Node", namespace)}
    assert nodes == {"HV01", "HV02"}, nodes
    shared = client.only("SELECT * FROM MSCluster_ClusterSharedVolume", namespace)
    assert shared["Name"].rstrip("\\") == path, shared
    partition = client.only(
        f"ASSOCIATORS OF {{MSCluster_ClusterSharedVolume.Name='{values.wql(shared['Name'])}'}} "
        "WHERE AssocClass = MSCluster_ClusterSharedVolumeToPartition ResultClass = MSCluster_DiskPartition",
        namespace,
    )
    assert partition["TotalSize"] == str(100 << 10), partition
    assert 0 < int(partition["FreeSpace"]) <= 100 << 10, partition


def plain_enumeration_gives_one_item_a_pull(host, client):
    """No optimisation, no MaxElements: each Pull one item, a new context each time."""
    for name in ("a", "b", "c"):
        host.vm(name, sizes_mib=(), running=False)
    response = client.begin(COMPUTER)
    context = response.one(N, "EnumerationContext").text
    seen, contexts = [], [context]
    while True:
        response = client.pull(COMPUTER, context)
        items = response.one(N, "Items").children
        assert len(items) <= 1
        seen += [Item(item)["ElementName"] for item in items]
        if response.all(N, "EndOfSequence"):
            break
        context = response.one(N, "EnumerationContext").text
        contexts.append(context)
    assert sorted(seen) == sorted(["a", "b", "c", host.name]), seen
    assert len(set(contexts)) == len(contexts), contexts


def pull_takes_as_many_as_asked(host, client):
    """MaxElements in Pull; the first items in the reply to an optimised Enumerate."""
    for index in range(7):
        host.vm(f"vm{index}", sizes_mib=(), running=False)
    response = client.begin(COMPUTER)
    response = client.pull(COMPUTER, response.one(N, "EnumerationContext").text, max_elements=3)
    assert len(response.one(N, "Items").children) == 3
    response = client.pull(COMPUTER, response.one(N, "EnumerationContext").text, max_elements=100)
    assert len(response.one(N, "Items").children) == 5
    assert response.all(N, "EndOfSequence")

    first = client.begin(COMPUTER, optimise=2)
    assert len(first.one(W, "Items").children) == 2 and not first.all(W, "EndOfSequence")
    rest = client.pull(COMPUTER, first.one(N, "EnumerationContext").text, max_elements=100)
    assert len(rest.one(N, "Items").children) == 6

    whole = client.begin(COMPUTER, optimise=100)
    assert len(whole.one(W, "Items").children) == 8 and whole.all(W, "EndOfSequence")

    assert len(client.elements(COMPUTER, optimise=1)) == 8


def an_empty_result_has_its_parts(host, client):
    """Nothing found is an empty list of items, never a missing one."""
    query = "SELECT * FROM Msvm_ComputerSystem WHERE ElementName = 'nobody'"
    response = client.begin(names.EVERYTHING_V2, query)
    response = client.pull(names.EVERYTHING_V2, response.one(N, "EnumerationContext").text)
    assert response.one(N, "Items").children == [] and response.all(N, "EndOfSequence")
    optimised = client.begin(names.EVERYTHING_V2, query, optimise=10)
    assert optimised.one(W, "Items").children == [] and optimised.all(W, "EndOfSequence")
    assert client.elements(V2 + "Msvm_PlannedComputerSystem") == []


def enumeration_gives_references(host, client):
    """EnumerateEPR and EnumerateObjectAndEPR; a Get through each reference gives the object."""
    host.vm(sizes_mib=(8, 8))
    for uri, query in (
        (COMPUTER, None),
        (names.EVERYTHING_V2, "SELECT * FROM Msvm_StorageAllocationSettingData WHERE InstanceID LIKE 'Microsoft:%'"),
    ):
        objects = [Item(element) for element in client.elements(uri, query, optimise=50, max_elements=50)]
        for how in ({"optimise": 2, "max_elements": 2}, {}):
            plain = [Reference(item) for item in client.elements(uri, query, mode="EnumerateEPR", **how)]
            assert len(plain) == len(objects) > 1, (plain, objects)
            found = [client.get(reference.uri, **reference.keys) for reference in plain]
            assert sorted(map(identity, found)) == sorted(map(identity, objects)), (found, objects)
            for item in client.elements(uri, query, mode="EnumerateObjectAndEPR", **how):
                reference = Reference(item.one(A, "EndpointReference"))
                inside = next(Item(child) for child in item.children if child.uri != A)
                assert names.class_of(reference.uri) == inside.class_name, (reference, inside)
                same = client.get(reference.uri, **reference.keys)
                assert identity(same) == identity(inside), (reference, inside)


def contexts_are_independent(host, client):
    """Two enumerations in turns, Gets between them, VMs added meanwhile: each gives what it began with, once."""
    first_vms = [host.vm(f"vm{index}", sizes_mib=(), running=False) for index in range(4)]
    vms = client.begin(COMPUTER).one(N, "EnumerationContext").text
    settings = client.begin(SETTINGS).one(N, "EnumerationContext").text
    seen = {COMPUTER: [], SETTINGS: []}
    contexts = {COMPUTER: vms, SETTINGS: settings}
    turns = 0
    while any(contexts.values()):
        for uri, context in list(contexts.items()):
            if context is None:
                continue
            response = client.pull(uri, context)
            seen[uri] += [Item(item) for item in response.one(N, "Items").children]
            following = response.one(N, "EnumerationContext")
            contexts[uri] = None if following is None else following.text
        assert client.get(COMPUTER, Name=host.name)["Name"] == host.name
        if turns == 1:
            host.vm("late", sizes_mib=(), running=False)
        turns += 1
    found = [item["Name"] for item in seen[COMPUTER]]
    assert len(found) == len(set(found)) and set(found) >= {*first_vms, host.name}, found
    found = [item["InstanceID"] for item in seen[SETTINGS]]
    assert len(found) == len(set(found)) and {f"Microsoft:{vm}" for vm in first_vms} <= set(found), found


def contexts_end(host, client):
    """A context that was released, superseded, used up or never given is refused."""
    for index in range(3):
        host.vm(f"vm{index}", sizes_mib=(), running=False)

    def refused(context):
        return client.refused("n:InvalidEnumerationContext", lambda: client.pull(COMPUTER, context))

    context = client.begin(COMPUTER).one(N, "EnumerationContext").text
    client.release(COMPUTER, context)
    refused(context)

    old = client.begin(COMPUTER).one(N, "EnumerationContext").text
    new = client.pull(COMPUTER, old).one(N, "EnumerationContext").text
    if new != old:
        refused(old)
    assert client.pull(COMPUTER, new, max_elements=100).all(N, "EndOfSequence")
    refused(new)
    refused("uuid:00000000-0000-0000-0000-000000000000")
    refused("not a context")


def queries_compare(host, client):
    """WHERE with =, !=, <>, AND, OR, brackets, LIKE, numbers, NULL, and strings in any case."""
    web, db = host.vm("web01", sizes_mib=(8,)), host.vm("DB\\ O'Neil", sizes_mib=(), running=False)

    def vms(where):
        found = client.wql(f"SELECT * FROM Msvm_ComputerSystem WHERE {where}")
        return sorted(item["Name"] for item in found)

    both, everything = sorted([web, db]), sorted([web, db, host.name])
    assert vms("Name != __SERVER") == both
    assert vms("Name <> __SERVER") == both
    assert vms("__SERVER != Name") == both
    assert vms(f"Name = '{web}'") == [web]
    assert vms(f"Name = '{web.lower()}'") == [web]
    assert vms(f'Name = "{web.lower()}"') == [web]
    assert vms(f"Name = '{web}' OR Name = '{db}'") == both
    assert vms("Name != __SERVER AND (EnabledState = 3 OR EnabledState = 32769)") == [db]
    assert vms("name != __server and enabledstate != 3") == [web]
    assert vms("Caption = 'virtual machine' AND EnabledState > 2") == [db]
    assert vms("EnabledState >= 2 AND EnabledState <= 3 AND EnabledState < 3 AND Name <> __SERVER") == [web]
    assert vms("NOT EnabledState = 2 AND Name != __SERVER") == [db]
    assert vms("ElementName LIKE 'WEB%'") == [web]
    assert vms("ElementName LIKE '_eb0[0-9]'") == [web]
    assert vms(f"ElementName = '{values.wql(chr(68) + 'B' + chr(92) + ' O' + chr(39) + 'Neil')}'") == [db]
    assert vms("ElementName LIKE '%\\\\%'") == [db]
    assert vms("__CLASS = 'Msvm_ComputerSystem'") == everything
    whole = values.path(host.name, "Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=web)
    assert vms(f"__PATH = '{values.wql(whole)}'") == [web]
    assert vms(f"__PATH = '{values.wql(whole.upper())}'") == [web]
    root = client.only(f"SELECT * FROM Msvm_VirtualSystemSettingData WHERE Parent IS NULL AND InstanceID LIKE '%{web}'")
    assert root["InstanceID"] == f"Microsoft:{web}"
    settings = client.wql("SELECT * FROM Msvm_VirtualSystemSettingData WHERE Parent IS NOT NULL")
    assert settings == []


def queries_select_columns(host, client):
    """A column list leaves all other properties in place, as nil."""
    web = host.vm(sizes_mib=())
    found = client.only("SELECT Name, ElementName FROM Msvm_ComputerSystem WHERE Name != __SERVER")
    assert (found["Name"], found["ElementName"]) == (web, "web01"), found
    assert found["EnabledState"] is None and found["Caption"] is None, found
    assert found.list("OperationalStatus") == [], found


def queries_of_a_base_class_give_derived_ones(host, client):
    """Each object is named by its own class; planned VMs are none of the VMs."""
    web = host.vm(sizes_mib=(8,))
    found = client.wql("SELECT * FROM CIM_ResourceAllocationSettingData")
    classes = {item.class_name for item in found if web in item["InstanceID"]}
    for wanted in (
        "Msvm_ResourceAllocationSettingData",
        "Msvm_StorageAllocationSettingData",
        "Msvm_SyntheticEthernetPortSettingData",
        "Msvm_EthernetPortAllocationSettingData",
        "Msvm_MemorySettingData",
        "Msvm_ProcessorSettingData",
    ):
        assert wanted in classes, classes
    named = {item.class_name for item in client.wql("SELECT * FROM Msvm_ComputerSystem")}
    assert named == {"Msvm_ComputerSystem"}, named


def defaults_are_templates(host, client):
    """One \\Default object per kind of resource."""
    for class_name, subtype in (
        ("Msvm_ResourceAllocationSettingData", "Microsoft:Hyper-V:Synthetic SCSI Controller"),
        ("Msvm_ResourceAllocationSettingData", "Microsoft:Hyper-V:Synthetic Disk Drive"),
        ("Msvm_StorageAllocationSettingData", "Microsoft:Hyper-V:Virtual Hard Disk"),
        ("Msvm_SyntheticEthernetPortSettingData", "Microsoft:Hyper-V:Synthetic Ethernet Port"),
        ("Msvm_EthernetPortAllocationSettingData", "Microsoft:Hyper-V:Ethernet Connection"),
    ):
        found = client.only(
            f"SELECT * FROM {class_name} WHERE InstanceID LIKE '%\\\\Default' AND ResourceSubType = '{subtype}'"
        )
        assert found["InstanceID"].endswith("\\Default"), found


def associations_lead_from_vm_to_disk(host, client):
    """ASSOCIATORS and REFERENCES: VM, settings, disks, drives, controllers, by class and by role."""
    web = host.vm(sizes_mib=(8, 8))
    host.vm("other", sizes_mib=(8,))
    whole = f"Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{web}'"

    def associated(start, more):
        return client.wql(f"ASSOCIATORS OF {{{start}}} WHERE {more}")

    settings = associated(whole, "AssocClass = Msvm_SettingsDefineState ResultClass = Msvm_VirtualSystemSettingData")
    assert [item["InstanceID"] for item in settings] == [f"Microsoft:{web}"], settings
    from_settings = f"Msvm_VirtualSystemSettingData.InstanceID='Microsoft:{web}'"
    component = "AssocClass = Msvm_VirtualSystemSettingDataComponent"
    parts = associated(from_settings, component)
    assert len(parts) > 5 and all(web in item["InstanceID"] for item in parts), parts
    disks = associated(from_settings, f"{component} ResultClass = Msvm_StorageAllocationSettingData")
    assert len(disks) == 2, disks
    roles = f"{component} ResultClass = Msvm_StorageAllocationSettingData Role = GroupComponent"
    assert len(associated(from_settings, f"{roles} ResultRole = PartComponent")) == 2
    assert associated(from_settings, f"{component} ResultClass = Msvm_ComputerSystem") == []
    assert associated(whole, "AssocClass = Msvm_SnapshotOfVirtualSystem") == []
    back = associated(
        f"Msvm_StorageAllocationSettingData.InstanceID='{values.wql(disks[0]['InstanceID'])}'",
        f"{component} ResultClass = Msvm_VirtualSystemSettingData",
    )
    assert [item["InstanceID"] for item in back] == [f"Microsoft:{web}"], back
    # An absolute path, with double quotes, names the same object.
    long = values.path(host.name, "Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{web}")
    assert len(associated(long, f"{component} ResultClass = Msvm_StorageAllocationSettingData")) == 2
    references = client.wql(f"REFERENCES OF {{{whole}}} WHERE ResultClass = Msvm_SettingsDefineState")
    assert len(references) == 1, references
    ends = [references[0].reference(end).keys for end in ("ManagedElement", "SettingData")]
    assert ends[0]["Name"] == web and ends[1]["InstanceID"] == f"Microsoft:{web}", ends

    # file -> drive -> controller by the paths in Parent.
    resources = {item["InstanceID"].lower(): item for item in parts}

    def parent(item):
        _, _, tail = item["Parent"].partition(':Msvm_ResourceAllocationSettingData.InstanceID="')
        assert tail.endswith('"'), item
        return resources[tail[:-1].replace("\\\\", "\\").lower()]

    slots = set()
    for disk in disks:
        assert len(disk.list("HostResource")) == 1 and disk["ResourceType"] == "31", disk
        drive = parent(disk)
        assert drive["ResourceSubType"] == "Microsoft:Hyper-V:Synthetic Disk Drive", drive
        assert drive["ResourceType"] == "17", drive
        slots.add(drive["AddressOnParent"])
        controller = parent(drive)
        assert controller["ResourceSubType"] == "Microsoft:Hyper-V:Synthetic SCSI Controller", controller
        assert controller["ResourceType"] == "6", controller
    assert slots == {"0", "1"}, slots


def network_adapters_lead_to_switches(host, client):
    """Adapter, its connection by Parent, the switch by HostResource."""
    web = host.vm(sizes_mib=())
    nics = client.wql("SELECT * FROM Msvm_SyntheticEthernetPortSettingData")
    nics = [nic for nic in nics if web in nic["InstanceID"]]
    assert len(nics) == 1 and nics[0]["ResourceType"] == "10", nics
    address = nics[0]["Address"]
    assert len(address) == 12 and int(address, 16) >= 0, nics
    connections = client.wql("SELECT * FROM Msvm_EthernetPortAllocationSettingData WHERE ResourceType = 33")
    connections = [found for found in connections if web in found["InstanceID"]]
    assert len(connections) == 1, connections
    assert values.quoted(nics[0]["InstanceID"]).lower() in connections[0]["Parent"].lower(), connections
    assert connections[0]["EnabledState"] == "2", connections
    switch = client.only("SELECT * FROM Msvm_VirtualEthernetSwitch WHERE HealthState = 5")
    assert switch["ElementName"] == "LAN", switch
    assert switch["Name"].lower() in connections[0].list("HostResource")[0].lower(), connections


def summaries_are_objects(host, client):
    """GetSummaryInformation gives real embedded objects, one per VM asked for."""
    web = host.vm(sizes_mib=())
    host.vm("other", sizes_mib=())
    settings = values.reference(SETTINGS, InstanceID=f"Microsoft:{web}")
    asked = "".join(f"<p:RequestedInformation>{code}</p:RequestedInformation>" for code in (0, 1, 4, 100))
    output = client.call("GetSummaryInformation", f"<p:SettingData>{settings}</p:SettingData>{asked}")
    assert output["ReturnValue"] == "0", output
    found = [child for child in output.element.children if child.name == "SummaryInformation"]
    assert len(found) == 1, output
    inside = {child.name: child.text for element in found for child in element.walk()}
    assert inside.get("Name", "").upper() == web, inside
    assert inside.get("ElementName") == "web01", inside
    assert inside.get("EnabledState") == "2", inside


def null_arrays_can_be_nil(host, client):
    """The host's switch for NULL arrays: left out, or one nil element."""
    web = host.vm(sizes_mib=(8,))

    def drive():
        query = "SELECT * FROM Msvm_ResourceAllocationSettingData WHERE ResourceType = 17"
        return next(item for item in client.wql(query) if web in item["InstanceID"])

    def arrays():
        return [child for child in drive().element.children if child.name in ("HostResource", "Connection")]

    assert arrays() == []
    host.ctl("fault", "set", "nil_arrays=true")
    client.checker.null_arrays_as_nil = True
    found = arrays()
    assert [child.name for child in found].count("HostResource") == 1, found
    assert values.text_of(found[0]) is None, found


SCENARIOS = [
    get_reads_one_object,
    get_reads_settings_and_host,
    get_reads_defaults_and_services,
    volumes_may_be_mounted_in_folders,
    a_cluster_shows_nodes_and_shared_volumes,
    plain_enumeration_gives_one_item_a_pull,
    pull_takes_as_many_as_asked,
    an_empty_result_has_its_parts,
    enumeration_gives_references,
    contexts_are_independent,
    contexts_end,
    queries_compare,
    queries_select_columns,
    queries_of_a_base_class_give_derived_ones,
    defaults_are_templates,
    associations_lead_from_vm_to_disk,
    network_adapters_lead_to_switches,
    summaries_are_objects,
    null_arrays_can_be_nil,
]
