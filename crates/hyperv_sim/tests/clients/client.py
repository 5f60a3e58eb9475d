"""What scenarios do with a host, whatever carries the messages."""

from xml.sax.saxutils import escape

import names
import rules
import values
from host import wait_for
from names import N, V2, W
from values import Item, Reference

SERVICES = {
    "CreateSnapshot": "Msvm_VirtualSystemSnapshotService",
    "ApplySnapshot": "Msvm_VirtualSystemSnapshotService",
    "DestroySnapshot": "Msvm_VirtualSystemSnapshotService",
    "DestroySnapshotTree": "Msvm_VirtualSystemSnapshotService",
    "ConvertToReferencePoint": "Msvm_VirtualSystemSnapshotService",
    "DestroyReferencePoint": "Msvm_VirtualSystemReferencePointService",
    "GetVirtualHardDiskSettingData": "Msvm_ImageManagementService",
    "GetVirtualHardDiskState": "Msvm_ImageManagementService",
    "GetVirtualDiskChanges": "Msvm_ImageManagementService",
}
IN_PROGRESS = {"2", "3", "4", "5", "6"}


class Refused(Exception):
    """The host answered with a fault."""

    def __init__(self, fault):
        super().__init__(repr(fault))
        self.fault = fault


class Client:
    """Operations by hand-written bodies. A carrier implements `carry`, and sets `checker`."""

    def carry(self, action, resource_uri, body, selectors, expect):
        """Sends a request and returns the checked `rules.Reply`. `expect` are more facts for `rules.Request`."""
        raise NotImplementedError

    def send(self, action, resource_uri, body=None, selectors=None, **expect):
        reply = self.carry(action, resource_uri, body, selectors or {}, expect)
        if reply.fault is not None:
            raise Refused(reply.fault)
        return reply

    def get(self, resource_uri, **keys):
        """Returns one object by its keys."""
        return Item(self.send(names.GET, resource_uri, selectors=keys).body.children[0])

    def delete(self, resource_uri, **keys):
        self.send(names.DELETE, resource_uri, selectors=keys)

    def begin(self, resource_uri, query=None, mode=None, optimise=None):
        """Starts an enumeration; `optimise` is how many items may come at once. Returns the EnumerateResponse."""
        parts = []
        if optimise is not None:
            parts.append(f"<w:OptimizeEnumeration/><w:MaxElements>{optimise}</w:MaxElements>")
        if mode is not None:
            parts.append(f"<w:EnumerationMode>{mode}</w:EnumerationMode>")
        if query is not None:
            parts.append(f'<w:Filter Dialect="{names.WQL}">{escape(query)}</w:Filter>')
        body = f'<n:Enumerate xmlns:n="{N}" xmlns:w="{W}">{"".join(parts)}</n:Enumerate>'
        expect = {"max_elements": optimise, "optimised": optimise is not None, "mode": mode}
        return self.send(names.ENUMERATE, resource_uri, body, **expect).body.children[0]

    def pull(self, resource_uri, context, max_elements=None, mode=None):
        """Asks for the next items. Returns the PullResponse."""
        limit = "" if max_elements is None else f"<n:MaxElements>{max_elements}</n:MaxElements>"
        body = f'<n:Pull xmlns:n="{N}"><n:EnumerationContext>{escape(context)}</n:EnumerationContext>{limit}</n:Pull>'
        return self.send(names.PULL, resource_uri, body, max_elements=max_elements, mode=mode).body.children[0]

    def release(self, resource_uri, context):
        body = f'<n:Release xmlns:n="{N}"><n:EnumerationContext>{escape(context)}</n:EnumerationContext></n:Release>'
        self.send(names.RELEASE, resource_uri, body)

    def elements(self, resource_uri, query=None, mode=None, optimise=None, max_elements=None):
        """Enumerates to the end and returns all items as they came."""
        response = self.begin(resource_uri, query, mode, optimise)
        found = [child for holder in response.all(W, "Items") for child in holder.children]
        if response.all(W, "EndOfSequence"):
            return found
        context = response.one(N, "EnumerationContext").text
        while True:
            response = self.pull(resource_uri, context, max_elements, mode)
            found += response.one(N, "Items").children
            if response.all(N, "EndOfSequence"):
                return found
            context = response.one(N, "EnumerationContext").text

    def wql(self, query, resource_uri=names.EVERYTHING_V2):
        """Returns the objects a query finds, many at a time."""
        return [Item(element) for element in self.elements(resource_uri, query, optimise=50, max_elements=50)]

    def only(self, query, resource_uri=names.EVERYTHING_V2):
        """Returns the only object a query finds."""
        found = self.wql(query, resource_uri)
        assert len(found) == 1, f"{query} finds {len(found)}: {found}"
        return found[0]

    def invoke(self, resource_uri, method, body="", **keys):
        """Invokes a method; `body` is the hand-written content of its input. Returns the output."""
        content = f'<p:{method}_INPUT xmlns:p="{resource_uri}">{body}</p:{method}_INPUT>'
        return Item(self.send(f"{resource_uri}/{method}", resource_uri, content, keys).body.children[0])

    def call(self, method, body=""):
        """Invokes a method of the one service that has it."""
        service = SERVICES.get(method, "Msvm_VirtualSystemManagementService")
        return self.invoke(V2 + service, method, body, CreationClassName=service)

    def job(self, output):
        """Waits for the job of a method's output and returns it; None where the method answered 0."""
        code = output["ReturnValue"]
        if code == "0":
            return None
        assert code == str(names.JOB_STARTED), f"{output.class_name} returned {code}"
        job = output.reference("Job")
        assert job.uri.lower() == (V2 + "Msvm_ConcreteJob").lower(), f"the job is a {job.uri}"
        keys = {name: value for name, value in job.keys.items() if name != "__cimnamespace"}
        assert list(keys) == ["InstanceID"], f"the job's keys are {keys}"
        seen = []

        def ended():
            found = self.get(job.uri, **job.keys)
            if not seen or seen[-1]["JobState"] != found["JobState"]:
                seen.append(found)
            return None if found["JobState"] in IN_PROGRESS else found

        done = wait_for(f"the job of {output.class_name}", ended)
        done.states = [found["JobState"] for found in seen]
        return done

    def done(self, output):
        """Waits for a method's job, which must succeed, and returns it."""
        job = self.job(output)
        if job is not None:
            assert job["JobState"] == "7" and job["ErrorCode"] == "0", f"the job failed: {job}"
        return job

    def affected(self, job, result_class):
        """Returns the objects of a class that a job affected."""
        query = (
            f"ASSOCIATORS OF {{Msvm_ConcreteJob.InstanceID='{values.wql(job['InstanceID'])}'}} "
            f"WHERE AssocClass = Msvm_AffectedJobElement ResultClass = {result_class}"
        )
        return self.wql(query)

    def refused(self, subcode, action):
        """Returns the fault of something that must be refused in this way."""
        try:
            action()
        except Refused as refusal:
            fault = refusal.fault
            assert fault.subcode == subcode, f"the subcode is {fault.subcode}, not {subcode}: {fault}"
            return fault
        raise AssertionError(f"no fault; {subcode} was expected")

    def vm_reference(self, vm):
        """Returns the content of a REF parameter that names a VM."""
        return values.reference(V2 + "Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=vm)

    def settings(self, vm):
        """Returns the active settings of a VM."""
        return self.get(V2 + "Msvm_VirtualSystemSettingData", InstanceID=f"Microsoft:{vm}")

    def checkpoint_reference(self, checkpoint):
        return values.reference(V2 + "Msvm_VirtualSystemSettingData", InstanceID=checkpoint["InstanceID"])

    def create_checkpoint(self, vm, kind, settings=""):
        """Creates a checkpoint of a type (2 user, 32768 recovery); returns the job and the checkpoint."""
        output = self.call(
            "CreateSnapshot",
            f"<p:AffectedSystem>{self.vm_reference(vm)}</p:AffectedSystem>"
            f"<p:SnapshotSettings>{escape(settings)}</p:SnapshotSettings>"
            f"<p:SnapshotType>{kind}</p:SnapshotType>",
        )
        assert output["ReturnValue"] == str(names.JOB_STARTED), f"CreateSnapshot returned {output['ReturnValue']}"
        job = self.done(output)
        found = self.affected(job, "Msvm_VirtualSystemSettingData")
        assert len(found) == 1, f"the job affected {found}"
        return job, found[0]

    def destroy_checkpoint(self, checkpoint):
        reference = self.checkpoint_reference(checkpoint)
        return self.done(self.call("DestroySnapshot", f"<p:AffectedSnapshot>{reference}</p:AffectedSnapshot>"))

    def disks_of(self, settings):
        """Returns the virtual hard disks of a VM's settings or of a checkpoint, in the order of their ids."""
        query = (
            f"ASSOCIATORS OF {{Msvm_VirtualSystemSettingData.InstanceID='{values.wql(settings['InstanceID'])}'}} "
            "WHERE AssocClass = Msvm_VirtualSystemSettingDataComponent ResultClass = Msvm_StorageAllocationSettingData"
        )
        found = [item for item in self.wql(query) if item["ResourceSubType"] == "Microsoft:Hyper-V:Virtual Hard Disk"]
        return sorted(found, key=lambda item: item["InstanceID"])

    def disk_file(self, path):
        """Returns what the host says of a disk file, read from its embedded instance."""
        output = self.call("GetVirtualHardDiskSettingData", f"<p:Path>{escape(path)}</p:Path>")
        assert output["ReturnValue"] == "0", f"GetVirtualHardDiskSettingData returned {output['ReturnValue']}"
        class_name, properties = values.read_cim_instance(output["SettingData"])
        assert class_name == "Msvm_VirtualHardDiskSettingData", class_name
        return properties

    def status(self, vm):
        """Returns OperationalStatus of a VM."""
        found = self.get(V2 + "Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=vm)
        return found.list("OperationalStatus")

    def wait_until_idle(self, vm):
        """Waits until nothing goes on with a VM: no second status."""
        wait_for(f"the end of what VM {vm} does", lambda: len(self.status(vm)) == 1)


__all__ = ["Client", "Item", "Reference", "Refused", "rules"]
