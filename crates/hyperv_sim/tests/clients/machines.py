"""Scenarios that make, change, export, import and destroy VMs."""

import os
from xml.sax.saxutils import escape

import values
from checkpoints import files_of
from host import MIB
from names import V2

XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
COMPUTER = V2 + "Msvm_ComputerSystem"
PLANNED = V2 + "Msvm_PlannedComputerSystem"


def system_settings(name, generation=2, **more):
    """Returns the settings of a new VM as an embedded instance."""
    properties = [
        ("ElementName", "string", name),
        ("VirtualSystemSubType", "string", f"Microsoft:Hyper-V:SubType:{generation}"),
    ]
    properties += [(key, "string", value) for key, value in more.items()]
    return values.cim_instance("Msvm_VirtualSystemSettingData", properties)


def define(client, name, generation=2, method="DefineSystem", **more):
    """Defines a VM by a hand-written body and returns its id."""
    output = client.call(
        method,
        f"<p:SystemSettings>{escape(system_settings(name, generation, **more))}</p:SystemSettings>"
        f'<p:ReferenceConfiguration {XSI} xsi:nil="true"/>',
    )
    job = client.done(output)
    made = "Msvm_PlannedComputerSystem" if method == "DefinePlannedSystem" else "Msvm_ComputerSystem"
    if job is None:
        reference = output.reference("ResultingSystem")
        assert reference.uri.lower() == (V2 + made).lower(), reference
        return reference.keys["Name"]
    found = client.affected(job, made)
    assert len(found) == 1, found
    return found[0]["Name"]


def add(client, settings, class_name, properties):
    """Adds one resource to a VM and returns it."""
    text = values.cim_instance(class_name, properties)
    reference = values.reference(V2 + "Msvm_VirtualSystemSettingData", InstanceID=settings["InstanceID"])
    output = client.call(
        "AddResourceSettings",
        f"<p:AffectedConfiguration>{reference}</p:AffectedConfiguration>"
        f"<p:ResourceSettings>{escape(text)}</p:ResourceSettings>",
    )
    job = client.done(output)
    if job is None:
        found = output.reference("ResultingResourceSettings")
        return client.get(found.uri, **found.keys)
    found = client.affected(job, class_name) or client.affected(job, "CIM_ResourceAllocationSettingData")
    assert len(found) == 1, found
    return found[0]


def path_of(host, item):
    return values.path(host.name, item.class_name, InstanceID=item["InstanceID"])


def parts_of(client, settings):
    query = (
        f"ASSOCIATORS OF {{Msvm_VirtualSystemSettingData.InstanceID='{values.wql(settings['InstanceID'])}'}} "
        "WHERE AssocClass = Msvm_VirtualSystemSettingDataComponent"
    )
    return client.wql(query)


def attach(host, client, settings, path, slot, class_name="Msvm_StorageAllocationSettingData"):
    """Adds a drive at a slot of the first SCSI controller and a file to it; returns both."""
    scsi = "Microsoft:Hyper-V:Synthetic SCSI Controller"
    controllers = [item for item in parts_of(client, settings) if item.get("ResourceSubType") == scsi]
    if not controllers:
        properties = [("ResourceType", "uint16", 6), ("ResourceSubType", "string", scsi)]
        controllers = [add(client, settings, "Msvm_ResourceAllocationSettingData", properties)]
    drive = add(
        client,
        settings,
        "Msvm_ResourceAllocationSettingData",
        [
            ("ResourceType", "uint16", 17),
            ("ResourceSubType", "string", "Microsoft:Hyper-V:Synthetic Disk Drive"),
            ("Parent", "string", path_of(host, controllers[0])),
            ("AddressOnParent", "string", slot),
        ],
    )
    properties = [
        ("ResourceType", "uint16", 31),
        ("ResourceSubType", "string", "Microsoft:Hyper-V:Virtual Hard Disk"),
        ("Parent", "string", path_of(host, drive)),
        ("HostResource", "string", [path]),
    ]
    return drive, add(client, settings, class_name, properties)


def copy_disk(host, path, size_mib=8):
    """Puts a new disk file where the host finds it at `path`."""
    made, local = host.disk("new.vhdx", size_mib), host.local(path)
    os.makedirs(os.path.dirname(local), exist_ok=True)
    with open(made, "rb") as source, open(local, "xb") as target:
        target.write(source.read())


def power(client, vm, state):
    client.done(client.invoke(COMPUTER, "RequestStateChange", f"<p:RequestedState>{state}</p:RequestedState>", Name=vm))


def destroy(client, vm):
    reference = client.vm_reference(vm)
    return client.call("DestroySystem", f"<p:AffectedSystem>{reference}</p:AffectedSystem>")


def a_vm_is_defined_and_destroyed(host, client):
    """DefineSystem, disks and a network adapter; destroying is refused while it runs and leaves the disk files."""
    host.vm("existing", sizes_mib=(8,), running=False)
    vm = define(client, "restored <1>", Notes="from a backup")
    settings = client.settings(vm)
    assert settings["ElementName"] == "restored <1>" and settings["VirtualSystemIdentifier"].upper() == vm, settings
    path = "C:\\VMs\\restored.vhdx"
    copy_disk(host, path)
    drive, disk = attach(host, client, settings, path, 0)
    assert disk.list("HostResource") == [path] and disk["ResourceType"] == "31", disk
    assert disk.class_name == "Msvm_StorageAllocationSettingData", disk
    assert values.quoted(drive["InstanceID"]).lower() in disk["Parent"].lower(), disk
    assert drive["AddressOnParent"] == "0", drive
    assert files_of(client, client.settings(vm)) == [path]

    nic = add(
        client,
        settings,
        "Msvm_SyntheticEthernetPortSettingData",
        [
            ("ResourceType", "uint16", 10),
            ("ResourceSubType", "string", "Microsoft:Hyper-V:Synthetic Ethernet Port"),
            ("ElementName", "string", "Network Adapter"),
            ("StaticMacAddress", "boolean", "False"),
        ],
    )
    switch = client.only("SELECT * FROM Msvm_VirtualEthernetSwitch")
    switch_path = values.path(
        host.name,
        "Msvm_VirtualEthernetSwitch",
        CreationClassName="Msvm_VirtualEthernetSwitch",
        Name=switch["Name"],
    )
    connection = add(
        client,
        settings,
        "Msvm_EthernetPortAllocationSettingData",
        [
            ("ResourceType", "uint16", 33),
            ("ResourceSubType", "string", "Microsoft:Hyper-V:Ethernet Connection"),
            ("Parent", "string", path_of(host, nic)),
            ("HostResource", "string", [switch_path]),
            ("EnabledState", "uint16", 2),
        ],
    )
    assert switch["Name"].lower() in connection.list("HostResource")[0].lower(), connection

    power(client, vm, 2)
    host.write("restored <1>", 0, 0, MIB, 5)
    assert destroy(client, vm)["ReturnValue"] == "32775", "a running VM"
    power(client, vm, 3)
    client.done(destroy(client, vm))
    client.refused("w:InvalidSelectors", lambda: client.get(COMPUTER, Name=vm))
    assert client.wql(f"SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemIdentifier = '{vm}'") == []
    assert path in host.files(), host.files()


def a_storage_resource_may_be_written_as_any_resource(host, client):
    """A disk file added as Msvm_ResourceAllocationSettingData of type 31 becomes a storage object."""
    vm = host.vm(sizes_mib=(), running=False)
    path = "C:\\VMs\\extra.vhdx"
    copy_disk(host, path)
    _, disk = attach(host, client, client.settings(vm), path, 3, "Msvm_ResourceAllocationSettingData")
    assert disk.class_name == "Msvm_StorageAllocationSettingData", disk
    assert disk.list("HostResource") == [path], disk


def several_resources_in_one_call(host, client):
    """An array parameter is the element repeated: two controllers at once."""
    vm = define(client, "wide")
    subtype = "Microsoft:Hyper-V:Synthetic SCSI Controller"

    def count():
        return len([item for item in parts_of(client, client.settings(vm)) if item.get("ResourceSubType") == subtype])

    before = count()
    text = values.cim_instance(
        "Msvm_ResourceAllocationSettingData", [("ResourceType", "uint16", 6), ("ResourceSubType", "string", subtype)]
    )
    reference = values.reference(V2 + "Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{vm}")
    output = client.call(
        "AddResourceSettings",
        f"<p:AffectedConfiguration>{reference}</p:AffectedConfiguration>"
        f"<p:ResourceSettings>{escape(text)}</p:ResourceSettings>"
        f"<p:ResourceSettings>{escape(text)}</p:ResourceSettings>",
    )
    client.done(output)
    assert count() == before + 2


def resources_are_modified_and_removed(host, client):
    """A disk file replaced in one step; processors and memory; a disk taken out again."""
    vm = host.vm(sizes_mib=(8, 8), running=False)
    settings = client.settings(vm)
    disk = client.disks_of(settings)[0]
    other = disk.list("HostResource")[0]
    path = "C:\\VMs\\replacement.vhdx"
    copy_disk(host, path)

    def modify(class_name, properties):
        text = values.cim_instance(class_name, properties)
        client.done(client.call("ModifyResourceSettings", f"<p:ResourceSettings>{escape(text)}</p:ResourceSettings>"))

    modify(
        "Msvm_StorageAllocationSettingData",
        [("InstanceID", "string", disk["InstanceID"]), ("HostResource", "string", [path])],
    )
    changed = client.get(disk.uri, InstanceID=disk["InstanceID"])
    assert changed.list("HostResource") == [path], changed
    assert changed["Parent"] == disk["Parent"] and changed["ResourceSubType"] == disk["ResourceSubType"], changed
    assert other in host.files()

    for class_name, quantity in (("Msvm_ProcessorSettingData", 4), ("Msvm_MemorySettingData", 2048)):
        found = [item for item in parts_of(client, settings) if item.class_name == class_name]
        assert len(found) == 1, found
        modify(
            class_name,
            [("InstanceID", "string", found[0]["InstanceID"]), ("VirtualQuantity", "uint64", quantity)],
        )
        again = client.get(found[0].uri, InstanceID=found[0]["InstanceID"])
        assert again["VirtualQuantity"] == str(quantity), again

    reference = values.reference(disk.uri, InstanceID=disk["InstanceID"])
    client.done(client.call("RemoveResourceSettings", f"<p:ResourceSettings>{reference}</p:ResourceSettings>"))
    assert len(client.disks_of(client.settings(vm))) == 1
    client.refused("w:InvalidSelectors", lambda: client.get(disk.uri, InstanceID=disk["InstanceID"]))


def export(client, vm, folder):
    """Exports the configuration of a VM, without its disks, into a folder of its own."""
    text = values.cim_instance(
        "Msvm_VirtualSystemExportSettingData",
        [
            ("CopySnapshotConfiguration", "uint8", 1),
            ("CopyVmRuntimeInformation", "boolean", "FALSE"),
            ("CopyVmStorage", "boolean", "FALSE"),
            ("CreateVmExportSubdirectory", "boolean", "TRUE"),
        ],
    )
    return client.call(
        "ExportSystemDefinition",
        f"<p:ComputerSystem>{client.vm_reference(vm)}</p:ComputerSystem>"
        f"<p:ExportDirectory>{escape(folder)}</p:ExportDirectory>"
        f"<p:ExportSettingData>{escape(text)}</p:ExportSettingData>",
    )


def a_cancellable_job_is_cancelled(host, client):
    """An export can be stopped by RequestStateChange on its job; the VM stays as it was."""
    vm = host.vm(sizes_mib=(8,), running=False)
    host.ctl("fault", "set", "job_millis=30000")
    output = export(client, vm, "D:\\Export")
    keys = {"InstanceID": output.reference("Job").keys["InstanceID"]}
    job = client.get(V2 + "Msvm_ConcreteJob", **keys)
    assert job["JobState"] in ("2", "3", "4") and job["Cancellable"] == "true", job
    body = f'<p:RequestedState>4</p:RequestedState><p:TimeoutPeriod {XSI} xsi:nil="true"/>'
    answer = client.invoke(V2 + "Msvm_ConcreteJob", "RequestStateChange", body, **keys)
    assert answer["ReturnValue"] in ("0", "4096"), answer
    job = client.job(output)
    assert job["JobState"] in ("8", "9"), job
    assert client.get(COMPUTER, Name=vm)["EnabledState"] == "3"
    assert client.status(vm) == ["2"], client.status(vm)
    host.ctl("fault", "set", "job_millis=50")
    client.done(export(client, vm, "D:\\Export2"))


def import_definition(client, file, new_id):
    """Imports a configuration file; returns the planned VM."""
    output = client.call(
        "ImportSystemDefinition",
        f"<p:SystemDefinitionFile>{escape(file)}</p:SystemDefinitionFile>"
        f'<p:SnapshotFolder {XSI} xsi:nil="true"/>'
        f"<p:GenerateNewSystemIdentifier>{new_id}</p:GenerateNewSystemIdentifier>",
    )
    assert output["ReturnValue"] == "4096", output
    found = client.affected(client.done(output), "Msvm_PlannedComputerSystem")
    assert len(found) == 1, found
    return found[0]


def planned_reference(vm):
    return values.reference(PLANNED, CreationClassName="Msvm_PlannedComputerSystem", Name=vm)


def a_vm_is_exported_imported_and_realised(host, client):
    """The whole way of a restore by import, as a copy with a new id; planned VMs are none of the VMs."""
    vm = host.vm(sizes_mib=(8,), running=False)
    source = files_of(client, client.settings(vm))[0]
    output = export(client, vm, "D:\\Export")
    assert output["ReturnValue"] == "4096", output
    assert client.done(output)["JobType"] == "62"
    exported = [path for path in host.files("D:\\Export\\*.vmcx")]
    assert len(exported) == 1 and vm in exported[0].upper(), exported

    planned = import_definition(client, exported[0], "true")
    new = planned["Name"]
    assert new.upper() != vm and planned["Caption"] == "Planned Virtual Machine", planned
    names = [item["Name"] for item in client.wql("SELECT * FROM Msvm_ComputerSystem")]
    assert new not in names, names
    settings = client.only(
        f"ASSOCIATORS OF {{Msvm_PlannedComputerSystem.CreationClassName='Msvm_PlannedComputerSystem',Name='{new}'}} "
        "WHERE AssocClass = Msvm_SettingsDefineState ResultClass = Msvm_VirtualSystemSettingData"
    )
    assert settings["VirtualSystemType"] == "Microsoft:Hyper-V:System:Planned", settings

    path = "C:\\VMs\\copy.vhdx"
    with open(host.local(source), "rb") as file, open(host.local(path), "xb") as target:
        target.write(file.read())
    disk = client.disks_of(settings)[0]
    text = values.cim_instance(
        "Msvm_StorageAllocationSettingData",
        [("InstanceID", "string", disk["InstanceID"]), ("HostResource", "string", [path])],
    )
    client.done(client.call("ModifyResourceSettings", f"<p:ResourceSettings>{escape(text)}</p:ResourceSettings>"))
    text = values.cim_instance(
        "Msvm_VirtualSystemSettingData",
        [("InstanceID", "string", settings["InstanceID"]), ("ElementName", "string", "web01-copy")],
    )
    client.done(client.call("ModifySystemSettings", f"<p:SystemSettings>{escape(text)}</p:SystemSettings>"))

    reference = f"<p:PlannedSystem>{planned_reference(new)}</p:PlannedSystem>"
    client.done(client.call("ValidatePlannedSystem", reference))
    output = client.call("RealizePlannedSystem", reference)
    assert output["ReturnValue"] == "4096", output
    made = client.affected(client.done(output), "Msvm_ComputerSystem")
    assert [item["Name"] for item in made] == [new] and made[0]["ElementName"] == "web01-copy", made
    assert client.wql("SELECT * FROM Msvm_PlannedComputerSystem") == []
    assert files_of(client, client.settings(new)) == [path]
    assert client.settings(new)["VirtualSystemType"] == "Microsoft:Hyper-V:System:Realized"
    power(client, new, 2)


def an_import_that_lacks_its_disk_fails_validation(host, client):
    """ValidatePlannedSystem fails and says why; the planned VM can be destroyed."""
    vm = host.vm(sizes_mib=(8,), running=False)
    client.done(export(client, vm, "D:\\Export"))
    planned = import_definition(client, host.files("D:\\Export\\*.vmcx")[0], "True")
    new = planned["Name"]
    settings = client.only(f"SELECT * FROM Msvm_VirtualSystemSettingData WHERE InstanceID = 'Microsoft:{new}'")
    disk = client.disks_of(settings)[0]
    text = values.cim_instance(
        "Msvm_StorageAllocationSettingData",
        [("InstanceID", "string", disk["InstanceID"]), ("HostResource", "string", ["C:\\VMs\\gone.vhdx"])],
    )
    client.done(client.call("ModifyResourceSettings", f"<p:ResourceSettings>{escape(text)}</p:ResourceSettings>"))
    output = client.call("ValidatePlannedSystem", f"<p:PlannedSystem>{planned_reference(new)}</p:PlannedSystem>")
    job = client.job(output)
    assert job["JobState"] == "10" and job["ErrorCode"] != "0", job
    errors = client.invoke(V2 + "Msvm_ConcreteJob", "GetErrorEx", InstanceID=job["InstanceID"])
    texts = " ".join(values.read_cim_instance(text)[1]["Message"] for text in errors.list("Errors"))
    assert "gone.vhdx" in texts, texts
    output = client.call("DestroySystem", f"<p:AffectedSystem>{planned_reference(new)}</p:AffectedSystem>")
    client.done(output)
    assert client.wql("SELECT * FROM Msvm_PlannedComputerSystem") == []


def a_planned_vm_is_defined_and_realised(host, client):
    """DefinePlannedSystem takes what DefineSystem takes."""
    vm = define(client, "planned", method="DefinePlannedSystem")
    found = client.get(PLANNED, Name=vm)
    assert found["ElementName"] == "planned", found
    client.done(client.call("RealizePlannedSystem", f"<p:PlannedSystem>{planned_reference(vm)}</p:PlannedSystem>"))
    assert client.get(COMPUTER, Name=vm)["ElementName"] == "planned"


def generation_one_has_its_controllers(host, client):
    """Generation 1: two IDE controllers, addresses 0 and 1."""
    vm = host.vm(sizes_mib=(8,), running=False, generation=1)
    settings = client.settings(vm)
    assert settings["VirtualSystemSubType"] == "Microsoft:Hyper-V:SubType:1", settings
    assert sorted(settings.list("BootOrder")) == ["0", "1", "2", "3"], settings
    ide = [
        item
        for item in parts_of(client, settings)
        if item.get("ResourceSubType") == "Microsoft:Hyper-V:Emulated IDE Controller"
    ]
    assert sorted(item["Address"] for item in ide) == ["0", "1"], ide
    assert all(item["ResourceType"] == "5" for item in ide), ide


SCENARIOS = [
    a_vm_is_defined_and_destroyed,
    a_storage_resource_may_be_written_as_any_resource,
    several_resources_in_one_call,
    resources_are_modified_and_removed,
    a_cancellable_job_is_cancelled,
    a_vm_is_exported_imported_and_realised,
    an_import_that_lacks_its_disk_fails_validation,
    a_planned_vm_is_defined_and_realised,
    generation_one_has_its_controllers,
]
