"""The simulated host from outside: its folder and its control verbs, never its protocol."""

import json
import os
import subprocess
import time

LIMIT_SECS = 60
MIB = 1 << 20


class Host:
    """A host whose server runs at `url`; VMs are made and guests write through `reprise sim ctl`."""

    def __init__(self, exe, folder, url):
        self.exe = exe
        self.folder = folder
        self.url = url
        self.dir = os.path.join(folder, "HV01")
        self.name = "HV01"

    def run(self, *words):
        done = subprocess.run([self.exe, *words], capture_output=True, timeout=LIMIT_SECS, check=False)
        shown = " ".join(words)
        assert done.returncode == 0, f"`reprise {shown}` ended with {done.returncode}: {done.stderr.decode()}"
        return done.stdout

    def ctl(self, *words):
        """Carries out a control verb and returns what it says."""
        return json.loads(self.run("sim", "ctl", "--dir", self.dir, *words, "--json"))

    def disk(self, name, size_mib):
        """Makes an empty disk file beside the host and returns its path."""
        path = os.path.join(self.folder, name)
        self.run("vhdx", "create", path, "--size", f"{size_mib}MiB", "--block", "1MiB")
        return path

    def vm(self, name="web01", sizes_mib=(32,), running=True, generation=2):
        """Adds a VM with one disk per size on C: and a network adapter; returns its id, upper case."""
        words = ["vm", "add", name, "--generation", str(generation), "--nic", "LAN"]
        for index, size in enumerate(sizes_mib):
            file = self.disk(f"{name}-{index}.vhdx", size)
            words += ["--disk", f"C:\\VMs\\{name}-{index}.vhdx={file}"]
        self.ctl(*words)
        if running:
            self.ctl("power", name, "on")
        return self.ctl("vm", "show", name)["id"].upper()

    def write(self, vm, disk, offset, length, seed):
        """Lets the guest write `length` bytes made from `seed`."""
        words = ["--offset", str(offset), "--pattern", str(seed), "--length", str(length)]
        self.ctl("guest", "write", vm, str(disk), *words)

    def read(self, vm, disk, offset, length):
        """Returns what the guest reads."""
        words = ["sim", "ctl", "--dir", self.dir, "guest", "read", vm, str(disk)]
        return self.run(*words, "--offset", str(offset), "--length", str(length))

    def files(self, glob="*"):
        """Returns the paths of files on the host's volumes."""
        return [file["path"] for file in self.ctl("files", "--glob", glob)]

    def local(self, path):
        """Returns the local file behind a path of the host."""
        return self.ctl("path", path)["local"]


def wait_for(what, condition):
    """Waits until `condition` returns something true, and returns that."""
    end = time.monotonic() + LIMIT_SECS
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {LIMIT_SECS} s for {what}"
        time.sleep(0.02)
