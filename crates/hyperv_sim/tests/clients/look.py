"""Prints what a host has, as JSON, as a client by other authors sees it: VMs, their disks, checkpoints and adapters.

The environment says where the host is, as for `run.py`. Planned VMs are listed apart: none should be there.
"""

import json
import os
import sys

from run import connect

REALISED = "Microsoft:Hyper-V:System:Realized"
CHECKPOINT = "Microsoft:Hyper-V:Snapshot:Realized"
DISK = "Microsoft:Hyper-V:Virtual Hard Disk"
DRIVE = "Microsoft:Hyper-V:Synthetic Disk Drive"
STATES = {"2": "running", "3": "off", "32768": "paused", "32769": "saved"}


def quoted(text):
    """Returns a WQL string of a path or id."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def components(client, settings, class_name):
    path = f"Msvm_VirtualSystemSettingData.InstanceID='{quoted(settings['InstanceID'])}'"
    return client.wql(
        f"ASSOCIATORS OF {{{path}}} WHERE AssocClass = Msvm_VirtualSystemSettingDataComponent ResultClass = {class_name}"
    )


def disks(client, settings):
    """Returns slot (`SCSI 0:1`) and path of every disk, by slot."""
    parts = components(client, settings, "Msvm_ResourceAllocationSettingData")
    by_id = {part["InstanceID"].lower(): part for part in parts}
    controllers = {"Microsoft:Hyper-V:Synthetic SCSI Controller": "SCSI", "Microsoft:Hyper-V:Emulated IDE Controller": "IDE"}
    of_kind = {}
    for part in parts:
        if part["ResourceSubType"] in controllers:
            of_kind.setdefault(part["ResourceSubType"], []).append(part["InstanceID"].lower())
    found = []
    for disk in components(client, settings, "Msvm_StorageAllocationSettingData"):
        if disk["ResourceSubType"] != DISK:
            continue
        drive = by_id[parent(disk)]
        assert drive["ResourceSubType"] == DRIVE, drive
        controller = by_id[parent(drive)]
        kind = controller["ResourceSubType"]
        number = sorted(of_kind[kind]).index(controller["InstanceID"].lower())
        found.append({"slot": f"{controllers[kind]} {number}:{drive['AddressOnParent']}", "path": disk.list("HostResource")[0]})
    return sorted(found, key=lambda disk: disk["slot"])


def parent(part):
    """Returns the InstanceID in the path that names the parent of a part."""
    _, _, quoted_id = part["Parent"].partition('InstanceID="')
    return quoted_id.rstrip('"').replace("\\\\", "\\").lower()


def adapters(client, settings):
    switches = {switch["Name"].lower(): switch["ElementName"] for switch in client.wql("SELECT * FROM Msvm_VirtualEthernetSwitch")}
    connections = {parent(found): found for found in components(client, settings, "Msvm_EthernetPortAllocationSettingData")}
    found = []
    for port in components(client, settings, "Msvm_SyntheticEthernetPortSettingData"):
        connection = connections.get(port["InstanceID"].lower())
        resources = connection.list("HostResource") if connection else []
        switch = None
        if resources and connection["EnabledState"] == "2":
            name = resources[0].rpartition('Name="')[2].rstrip('"').lower()
            switch = switches[name]
        found.append({"name": port["ElementName"], "mac": port["Address"], "static": port["StaticMacAddress"], "switch": switch})
    return sorted(found, key=lambda adapter: adapter["name"])


def look(client):
    computers = client.wql("SELECT * FROM Msvm_ComputerSystem WHERE Caption = 'Virtual Machine'")
    settings = client.wql("SELECT * FROM Msvm_VirtualSystemSettingData")
    vms = []
    for computer in computers:
        own = [found for found in settings if found["VirtualSystemIdentifier"].upper() == computer["Name"].upper()]
        (realised,) = [found for found in own if found["VirtualSystemType"] == REALISED]
        checkpoints = [found for found in own if found["VirtualSystemType"] == CHECKPOINT]
        vms.append(
            {
                "id": computer["Name"].upper(),
                "name": computer["ElementName"],
                "state": STATES.get(computer["EnabledState"], computer["EnabledState"]),
                "generation": realised["VirtualSystemSubType"].rpartition(":")[2],
                "disks": disks(client, realised),
                "adapters": adapters(client, realised),
                "checkpoints": sorted(found["ElementName"] for found in checkpoints),
            }
        )
    planned = [found["ElementName"] for found in client.wql("SELECT * FROM Msvm_PlannedComputerSystem")]
    return {"vms": sorted(vms, key=lambda vm: vm["name"]), "planned": planned}


def main():
    client = connect(os.environ["REPRISE_URL"], "nobody", "nothing", "basic", None)
    try:
        json.dump(look(client), sys.stdout)
    finally:
        client.close()


if __name__ == "__main__":
    main()
