"""Scenarios that change a VM's checkpoints and take what a backup takes."""

from xml.sax.saxutils import escape

import requests

import names
import values
from host import MIB, wait_for
from names import V2

USER, RECOVERY = 2, 32768
APPLICATION, CRASH = 1, 2


def snapshot_settings(level):
    return values.cim_instance(
        "Msvm_VirtualSystemSnapshotSettingData",
        [("ConsistencyLevel", "uint8", level), ("IgnoreNonSnapshottableDisks", "boolean", "FALSE")],
    )


def checkpoints_of(client, vm):
    query = (
        f"ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{vm}'}} "
        "WHERE AssocClass = Msvm_SnapshotOfVirtualSystem ResultClass = Msvm_VirtualSystemSettingData"
    )
    return client.wql(query)


def current_checkpoint(client, vm):
    query = (
        f"ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{vm}'}} "
        "WHERE AssocClass = Msvm_MostCurrentSnapshotInBranch ResultClass = Msvm_VirtualSystemSettingData"
    )
    return [item["InstanceID"] for item in client.wql(query)]


def files_of(client, settings):
    return [path for disk in client.disks_of(settings) for path in disk.list("HostResource")]


def a_job_passes_through_its_states(host, client):
    """4096 and a job: started or running at first, 7 at the end, the result by association only."""
    vm = host.vm()
    host.ctl("fault", "set", "job_millis=700")
    output = client.call(
        "CreateSnapshot",
        f"<p:AffectedSystem>{client.vm_reference(vm)}</p:AffectedSystem><p:SnapshotType>{USER}</p:SnapshotType>",
    )
    assert output["ReturnValue"] == "4096", output
    assert output.reference("ResultingSnapshot") is None, output
    job = client.job(output)
    assert job["JobState"] == "7" and job["ErrorCode"] == "0", job
    assert job.states[-1] == "7" and set(job.states[:-1]) <= {"2", "3", "4"} and len(job.states) > 1, job.states
    assert job["JobType"] == "70" and job["PercentComplete"] == "100", job
    assert job["Cancellable"] in ("true", "false"), job
    assert job["TimeBeforeRemoval"] == "P0DT0H5M0S", job["TimeBeforeRemoval"]
    again = client.only(f"SELECT * FROM Msvm_ConcreteJob WHERE InstanceID = '{values.wql(job['InstanceID'])}'")
    assert again["JobState"] == "7", again
    made = client.affected(job, "Msvm_VirtualSystemSettingData")
    assert [item["VirtualSystemType"] for item in made] == ["Microsoft:Hyper-V:Snapshot:Realized"], made
    systems = client.affected(job, "Msvm_ComputerSystem")
    assert [item["Name"] for item in systems] in ([], [vm]), systems
    links = client.wql(
        f"REFERENCES OF {{Msvm_ConcreteJob.InstanceID='{values.wql(job['InstanceID'])}'}} "
        "WHERE ResultClass = Msvm_AffectedJobElement"
    )
    ends = [link for link in links if link.reference("AffectedElement").keys.get("InstanceID") == made[0]["InstanceID"]]
    assert len(ends) == 1, links
    assert ends[0].reference("AffectingElement").keys["InstanceID"] == job["InstanceID"], links
    assert "5" in ends[0].list("ElementEffects"), ends


def user_checkpoints_make_a_tree(host, client):
    """Two checkpoints; the second's parent is the first; "Now" hangs on the second; each disk has a new leaf."""
    vm = host.vm(sizes_mib=(16, 16))
    before = files_of(client, client.settings(vm))
    _, first = client.create_checkpoint(vm, USER)
    assert first["VirtualSystemType"] == "Microsoft:Hyper-V:Snapshot:Realized", first
    assert first["VirtualSystemIdentifier"].upper() == vm, first
    assert first["ConfigurationFile"].lower().startswith("snapshots\\"), first
    assert first["Parent"] is None, first
    assert files_of(client, first) == before, files_of(client, first)
    leaves = files_of(client, client.settings(vm))
    for old, new in zip(sorted(before), sorted(leaves)):
        stem = old.rpartition(".")[0]
        assert new.lower().startswith(stem.lower() + "_") and new.lower().endswith(".avhdx"), (old, new)
        facts = client.disk_file(new)
        assert facts["ParentPath"].lower() == old.lower() and facts["Type"] == "4", facts
    _, second = client.create_checkpoint(vm, USER)
    assert first["InstanceID"].split(":")[1] in second["Parent"].upper(), second
    assert sorted(item["InstanceID"] for item in checkpoints_of(client, vm)) == sorted(
        [first["InstanceID"], second["InstanceID"]]
    )
    assert current_checkpoint(client, vm) == [second["InstanceID"]]
    assert files_of(client, second) == leaves


def deleting_a_checkpoint_merges_its_files(host, client):
    """The job ends when the configuration is gone; the merge shows as a second status, then the files are one fewer."""
    vm = host.vm(sizes_mib=(16,))
    host.write("web01", 0, 0, MIB, 1)
    _, checkpoint = client.create_checkpoint(vm, USER)
    host.write("web01", 0, 512 * 1024, MIB, 2)
    seen = host.read("web01", 0, 0, 4 * MIB)
    leaf = files_of(client, client.settings(vm))[0]
    base = files_of(client, checkpoint)[0]
    host.ctl("fault", "set", "merge_millis=1500")
    job = client.destroy_checkpoint(checkpoint)
    assert job["JobType"] == "72", job
    assert checkpoints_of(client, vm) == []
    settings = V2 + "Msvm_VirtualSystemSettingData"
    client.refused("w:InvalidSelectors", lambda: client.get(settings, InstanceID=checkpoint["InstanceID"]))
    assert "32772" in client.status(vm), client.status(vm)
    client.wait_until_idle(vm)
    assert files_of(client, client.settings(vm)) == [base]
    assert leaf not in host.files(), host.files()
    assert not client.disk_file(base).get("ParentPath"), base
    assert host.read("web01", 0, 0, 4 * MIB) == seen


def a_subtree_is_deleted_at_once(host, client):
    """DestroySnapshotTree takes a checkpoint with all that hang on it; the guest's disk stays as it is."""
    vm = host.vm(sizes_mib=(16,))
    _, first = client.create_checkpoint(vm, USER)
    host.write("web01", 0, 0, MIB, 1)
    _, second = client.create_checkpoint(vm, USER)
    host.write("web01", 0, MIB, MIB, 2)
    client.create_checkpoint(vm, USER)
    seen = host.read("web01", 0, 0, 4 * MIB)
    reference = f"<p:SnapshotSettingData>{client.checkpoint_reference(second)}</p:SnapshotSettingData>"
    client.done(client.call("DestroySnapshotTree", reference))
    client.wait_until_idle(vm)
    assert [item["InstanceID"] for item in checkpoints_of(client, vm)] == [first["InstanceID"]]
    assert host.read("web01", 0, 0, 4 * MIB) == seen
    leaf = client.disk_file(files_of(client, client.settings(vm))[0])
    assert leaf["ParentPath"].lower() == files_of(client, first)[0].lower(), leaf


def applying_a_checkpoint_goes_back(host, client):
    """Refused while the VM runs; from off, a new leaf on the checkpoint's disk, and "Now" moves there."""
    vm = host.vm(sizes_mib=(16,))
    host.write("web01", 0, 0, MIB, 1)
    then = host.read("web01", 0, 0, MIB)
    _, first = client.create_checkpoint(vm, USER)
    host.write("web01", 0, 0, MIB, 2)
    _, second = client.create_checkpoint(vm, USER)
    assert current_checkpoint(client, vm) == [second["InstanceID"]]
    reference = f"<p:Snapshot>{client.checkpoint_reference(first)}</p:Snapshot>"
    refused = client.call("ApplySnapshot", reference)
    assert refused["ReturnValue"] == "32775", refused
    client.done(
        client.invoke(
            V2 + "Msvm_ComputerSystem", "RequestStateChange", "<p:RequestedState>3</p:RequestedState>", Name=vm
        )
    )
    old_leaf = files_of(client, client.settings(vm))[0]
    output = client.call("ApplySnapshot", reference)
    assert output["ReturnValue"] == "4096", output
    job = client.done(output)
    assert job["JobType"] == "71", job
    new_leaf = files_of(client, client.settings(vm))[0]
    assert new_leaf != old_leaf and new_leaf.lower().endswith(".avhdx"), (old_leaf, new_leaf)
    assert client.disk_file(new_leaf)["ParentPath"].lower() == files_of(client, first)[0].lower()
    assert current_checkpoint(client, vm) == [first["InstanceID"]]
    applied = client.only(
        f"ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{vm}'}} "
        "WHERE AssocClass = Msvm_LastAppliedSnapshot ResultClass = Msvm_VirtualSystemSettingData"
    )
    assert applied["InstanceID"] == first["InstanceID"], applied
    host.ctl("power", "web01", "on")
    assert host.read("web01", 0, 0, MIB) == then


def checkpoints_can_be_renamed(host, client):
    """ModifySystemSettings with the InstanceID and one property changes that property alone."""
    vm = host.vm(sizes_mib=(8,))
    _, checkpoint = client.create_checkpoint(vm, USER)
    text = values.cim_instance(
        "Msvm_VirtualSystemSettingData",
        [("InstanceID", "string", checkpoint["InstanceID"]), ("ElementName", "string", 'before <"R&D"> ü')],
    )
    client.done(client.call("ModifySystemSettings", f"<p:SystemSettings>{escape(text)}</p:SystemSettings>"))
    found = client.get(V2 + "Msvm_VirtualSystemSettingData", InstanceID=checkpoint["InstanceID"])
    assert found["ElementName"] == 'before <"R&D"> ü', found
    assert found["VirtualSystemType"] == checkpoint["VirtualSystemType"], found
    assert client.settings(vm)["ElementName"] == "web01"


def a_recovery_checkpoint_freezes_the_disks(host, client):
    """Type 32768: its own type, never a user's parent, never "Now"; what the guest writes goes elsewhere."""
    vm = host.vm(sizes_mib=(16,))
    _, user = client.create_checkpoint(vm, USER)
    _, recovery = client.create_checkpoint(vm, RECOVERY, snapshot_settings(APPLICATION))
    assert recovery["VirtualSystemType"] == "Microsoft:Hyper-V:Snapshot:Recovery", recovery
    frozen = files_of(client, recovery)[0]
    leaf = files_of(client, client.settings(vm))[0]
    assert frozen != leaf and client.disk_file(leaf)["ParentPath"].lower() == frozen.lower()
    assert current_checkpoint(client, vm) == [user["InstanceID"]]
    with open(host.local(frozen), "rb") as file:
        before = file.read()
    host.write("web01", 0, 0, MIB, 3)
    with open(host.local(frozen), "rb") as file:
        assert file.read() == before, "a frozen file changed"
    _, second = client.create_checkpoint(vm, USER)
    assert user["InstanceID"].split(":")[1] in (second["Parent"] or "").upper(), second
    assert recovery["InstanceID"].split(":")[1] not in (second["Parent"] or "").upper(), second
    client.destroy_checkpoint(recovery)
    client.wait_until_idle(vm)
    left = sorted(item["InstanceID"] for item in checkpoints_of(client, vm))
    assert left == sorted([user["InstanceID"], second["InstanceID"]]), left


def convert(client, checkpoint):
    """Turns a recovery checkpoint into a reference point, which is returned."""
    output = client.call(
        "ConvertToReferencePoint",
        f"<p:AffectedSnapshot>{client.checkpoint_reference(checkpoint)}</p:AffectedSnapshot>"
        '<p:ReferencePointSettings xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"/>',
    )
    assert output["ReturnValue"] == "4096", output
    found = client.affected(client.done(output), "Msvm_VirtualSystemReferencePoint")
    assert len(found) == 1, found
    return found[0]


def changes(client, path, limit_id, size, step=None):
    """Asks for what changed on a whole disk and returns {(offset, length)}, window after window."""
    step, at, found = step or size, 0, []
    while at < size:
        output = client.call(
            "GetVirtualDiskChanges",
            f"<p:Path>{escape(path)}</p:Path><p:LimitId>{escape(limit_id)}</p:LimitId>"
            f"<p:ByteOffset>{at}</p:ByteOffset><p:ByteLength>{min(step, size - at)}</p:ByteLength>",
        )
        assert output["ReturnValue"] == "0", output
        offsets = [int(text) for text in output.list("ChangedByteOffsets")]
        lengths = [int(text) for text in output.list("ChangedByteLengths")]
        processed = int(output["ProcessedByteLength"])
        assert len(offsets) == len(lengths) and 0 < processed <= min(step, size - at), output
        for offset, length in zip(offsets, lengths):
            assert offset % 512 == 0 and length % 512 == 0 and length > 0, (offset, length)
            assert at <= offset and offset + length <= at + processed, (at, processed, offset, length)
            found.append((offset, length))
        at += processed
    return found


def covered(ranges, at, length):
    """Tells whether every byte of a range is in one of the ranges."""
    end = at + length
    for offset, size in sorted(ranges):
        if offset <= at < offset + size:
            at = offset + size
    return at >= end


def an_incremental_reads_what_changed(host, client):
    """Reference points and RCT: what was written since the checkpoint of the last one, and little else."""
    vm = host.vm(sizes_mib=(32, 16))
    size = 32 * MIB
    host.write("web01", 0, 0, 2 * MIB, 1)
    _, first = client.create_checkpoint(vm, RECOVERY, snapshot_settings(CRASH))
    # Written after the checkpoint and before the conversion: belongs to the next increment.
    host.write("web01", 0, 8 * MIB, 4096, 2)
    point = convert(client, first)
    client.wait_until_idle(vm)
    assert checkpoints_of(client, vm) == []
    assert point["VirtualSystemIdentifier"].upper() == vm, point
    assert point["ReferencePointType"] == "2" and point["ConsistencyLevel"] == "2", point
    disks, ids = point.list("VirtualDiskIdentifiers"), point.list("ResilientChangeTrackingIdentifiers")
    active = client.disks_of(client.settings(vm))
    assert sorted(disks) == sorted(disk["InstanceID"] for disk in active), (disks, active)
    assert len(ids) == len(disks) == 2 and len(set(ids)) == 2 and all(ids), ids
    again = client.get(
        V2 + "Msvm_VirtualSystemReferencePoint",
        InstanceID=point["InstanceID"],
        VirtualSystemIdentifier=point["VirtualSystemIdentifier"],
    )
    assert again.list("ResilientChangeTrackingIdentifiers") == ids, again

    written = [(8 * MIB, 4096), (16 * MIB, 64 * 1024), (31 * MIB, MIB)]
    for offset, length in written[1:]:
        host.write("web01", 0, offset, length, offset)
    _, second = client.create_checkpoint(vm, RECOVERY, snapshot_settings(APPLICATION))
    host.write("web01", 0, 24 * MIB, 4096, 9)
    by_path = {disk.list("HostResource")[0].lower(): disk["InstanceID"] for disk in active}
    frozen = [path for path in files_of(client, second) if "web01-0" in path.lower()][0]
    base = [path for path in by_path if "web01-0" in path][0]
    limit_id = ids[disks.index(by_path[base])]
    for step in (None, 4 * MIB, 512 * 1024):
        found = changes(client, frozen, limit_id, size, step)
        for offset, length in written:
            assert covered(found, offset, length), (offset, length, found)
        assert not covered(found, 24 * MIB, 4096), "written after the checkpoint"
        assert not covered(found, 0, 2 * MIB), "written before the reference point"
    other = [path for path in files_of(client, second) if "web01-1" in path.lower()][0]
    other_id = ids[1 - disks.index(by_path[base])]
    assert changes(client, other, other_id, 16 * MIB) == []

    host.ctl("fault", "set", f"partial_changes={MIB}")
    host.ctl("fault", "set", "coarse_bytes=65536")
    coarse = changes(client, frozen, limit_id, size)
    for offset, length in written:
        assert covered(coarse, offset, length), (offset, length, coarse)

    newer = convert(client, second)
    client.wait_until_idle(vm)
    query = (
        f"ASSOCIATORS OF {{Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{vm}'}} "
        "WHERE AssocClass = Msvm_ReferencePointOfVirtualSystem ResultClass = Msvm_VirtualSystemReferencePoint"
    )
    assert sorted(item["InstanceID"] for item in client.wql(query)) == sorted([point["InstanceID"], newer["InstanceID"]])
    reference = values.reference(
        V2 + "Msvm_VirtualSystemReferencePoint", InstanceID=point["InstanceID"], VirtualSystemIdentifier=vm
    )
    client.done(
        client.call("DestroyReferencePoint", f"<p:AffectedReferencePoint>{reference}</p:AffectedReferencePoint>")
    )
    assert [item["InstanceID"] for item in client.wql(query)] == [newer["InstanceID"]]


def changes_of_an_unknown_id_are_refused(host, client):
    """An id that no disk has, and a file that does not exist, are errors by return code."""
    vm = host.vm(sizes_mib=(8,))
    _, checkpoint = client.create_checkpoint(vm, RECOVERY, snapshot_settings(CRASH))
    path = files_of(client, checkpoint)[0]
    for where, limit_id in ((path, "rctX:nobody"), ("C:\\VMs\\missing.vhdx", "rctX:nobody")):
        output = client.call(
            "GetVirtualDiskChanges",
            f"<p:Path>{escape(where)}</p:Path><p:LimitId>{limit_id}</p:LimitId>"
            f"<p:ByteOffset>0</p:ByteOffset><p:ByteLength>{8 * MIB}</p:ByteLength>",
        )
        assert output["ReturnValue"] in ("32768", "32773", "32779"), output
    output = client.call("GetVirtualHardDiskSettingData", "<p:Path>C:\\VMs\\missing.vhdx</p:Path>")
    assert output["ReturnValue"] in ("32768", "32779"), output


def a_failed_job_tells_why(host, client):
    """JobState 10, an error code, and GetErrorEx with instances of Msvm_Error."""
    vm = host.vm(sizes_mib=(8,))
    host.ctl("fault", "add", "app-consistency-failed", "--times", "1")
    output = client.call(
        "CreateSnapshot",
        f"<p:AffectedSystem>{client.vm_reference(vm)}</p:AffectedSystem>"
        f"<p:SnapshotSettings>{escape(snapshot_settings(APPLICATION))}</p:SnapshotSettings>"
        f"<p:SnapshotType>{RECOVERY}</p:SnapshotType>",
    )
    job = client.job(output)
    assert job["JobState"] in ("8", "9", "10", "11") and job["ErrorCode"] != "0", job
    assert job["ErrorDescription"], job
    errors = client.invoke(V2 + "Msvm_ConcreteJob", "GetErrorEx", InstanceID=job["InstanceID"])
    assert errors["ReturnValue"] == "0" and errors.list("Errors"), errors
    for text in errors.list("Errors"):
        class_name, error = values.read_cim_instance(text)
        assert class_name == "Msvm_Error" and error.get("Message") and error.get("MessageID"), text
        assert "ErrorSource" in error and "CIMStatusCode" in error, text
    assert checkpoints_of(client, vm) == []
    client.create_checkpoint(vm, RECOVERY, snapshot_settings(CRASH))


def a_lost_answer_may_hide_a_success(host, client):
    """The connection breaks after the method ran: no answer, and yet the checkpoint is made."""
    vm = host.vm(sizes_mib=(8,))
    host.ctl("fault", "add", "connection-lost-after", "--on", "CreateSnapshot", "--times", "1")
    try:
        client.create_checkpoint(vm, RECOVERY, snapshot_settings(CRASH))
        raise AssertionError("an answer came")
    except requests.exceptions.ConnectionError:
        client.open()
    (made,) = wait_for("the checkpoint", lambda: checkpoints_of(client, vm))
    assert made["VirtualSystemType"] == "Microsoft:Hyper-V:Snapshot:Recovery", made
    client.wait_until_idle(vm)
    client.destroy_checkpoint(made)


def states_change_by_request(host, client):
    """RequestStateChange: off, on, paused, saved; a guest shutdown; what the state refuses is refused at once."""
    vm = host.vm(sizes_mib=(8,))
    computer = V2 + "Msvm_ComputerSystem"

    def request(state):
        return client.invoke(computer, "RequestStateChange", f"<p:RequestedState>{state}</p:RequestedState>", Name=vm)

    def state():
        return client.get(computer, Name=vm)["EnabledState"]

    for wanted, shown in ((9, "9"), (2, "2"), (6, "6"), (2, "2"), (3, "3"), (2, "2")):
        output = request(wanted)
        assert output["ReturnValue"] == "4096", output
        client.done(output)
        assert state() == shown, (wanted, state())
    assert request(77)["ReturnValue"] in ("32773", "4"), "an unknown state"
    component = client.only(f"SELECT * FROM Msvm_ShutdownComponent WHERE SystemName = '{vm}'")
    body = "<p:Force>True</p:Force><p:Reason>maintenance</p:Reason>"
    keys = ("CreationClassName", "DeviceID", "SystemCreationClassName", "SystemName")
    output = client.invoke(
        V2 + "Msvm_ShutdownComponent", "InitiateShutdown", body, **{key: component[key] for key in keys}
    )
    assert output["ReturnValue"] == "0", output
    wait_for("the guest to shut down", lambda: state() == "3")


def shadow_copies_are_made_and_deleted(host, client):
    """Win32_ShadowCopy: Create is static, Delete is a transfer; a bad volume is a return code."""
    host.vm(sizes_mib=(8,))
    shadow = names.CIMV2 + "Win32_ShadowCopy"

    def create(volume):
        return client.invoke(
            shadow, "Create", f"<p:Volume>{volume}</p:Volume><p:Context>ClientAccessible</p:Context>"
        )

    output = create("C:\\")
    assert output["ReturnValue"] == "0", output
    made = output["ShadowID"]
    assert made.startswith("{") and made.endswith("}") and len(made) == 38, made
    found = client.only(f"SELECT * FROM Win32_ShadowCopy WHERE ID = '{made}'", names.EVERYTHING_CIMV2)
    prefix = "\\\\?\\GLOBALROOT\\Device\\HarddiskVolumeShadowCopy"
    assert found["DeviceObject"].startswith(prefix) and found["DeviceObject"][len(prefix) :].isdigit(), found
    volume = client.only("SELECT * FROM Win32_Volume WHERE DriveLetter = 'C:'", names.EVERYTHING_CIMV2)
    assert found["VolumeName"].lower() == volume["DeviceID"].lower(), found
    assert found["InstallDate"], found
    assert client.get(shadow, ID=made)["ID"] == made
    assert create("Q:\\")["ReturnValue"] in ("2", "3"), "an unknown volume"
    client.delete(shadow, ID=made)
    assert client.wql("SELECT * FROM Win32_ShadowCopy", names.EVERYTHING_CIMV2) == []
    client.refused("w:InvalidSelectors", lambda: client.delete(shadow, ID=made))


SCENARIOS = [
    a_job_passes_through_its_states,
    user_checkpoints_make_a_tree,
    deleting_a_checkpoint_merges_its_files,
    a_subtree_is_deleted_at_once,
    applying_a_checkpoint_goes_back,
    checkpoints_can_be_renamed,
    a_recovery_checkpoint_freezes_the_disks,
    an_incremental_reads_what_changed,
    changes_of_an_unknown_id_are_refused,
    a_failed_job_tells_why,
    a_lost_answer_may_hide_a_success,
    states_change_by_request,
    shadow_copies_are_made_and_deleted,
]
