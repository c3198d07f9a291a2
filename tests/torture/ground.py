"""What the nodes stand on: a bridge with a name space and a veth for each of them, and
an ext4 of its own in a file for each.

The whole harness runs inside name spaces of its own (tools/dev/torture: mount, net and
pid), so nothing here has a name outside, and the kernel takes everything away when the
harness ends, however it ends.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

NET = "10.9.0"
SHUTDOWN, NO_FLUSH = 0x8004587D, 2      # FS_IOC_SHUTDOWN: what is not on the disk is gone


def run(*words, **more):
    done = subprocess.run(words, timeout=120, capture_output=True, text=True, **more)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def address(n):
    return f"{NET}.{n}"


HARNESS = address(254)
CLIENTS = [address(n) for n in range(100, 250)]     # nodes are below
OUTSIDE = f"{address(100)}-{HARNESS}"


def client(i):
    """The address of the i-th client: servers count connects by address, and people do
    not share one."""
    return CLIENTS[i % len(CLIENTS)]


def bridge():
    """The harness is at HARNESS, its clients at CLIENTS."""
    # Names of net name spaces are mounts; these must not be those of the machine.
    Path("/run/netns").mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "none", "/run/netns")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "link", "set", "br0", "up")
    for where in (HARNESS, *CLIENTS):
        run("ip", "addr", "add", f"{where}/24", "dev", "br0")


class Site:
    """A node's place on the net."""

    def __init__(self, n):
        self.n = n
        self.name = f"q{n}"
        self.address = address(n)
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", f"p{n}", "type", "veth", "peer", "name", "v0",
            "netns", self.name)
        run("ip", "link", "set", f"p{n}", "master", "br0", "up")
        self._ip("addr", "add", f"{self.address}/24", "dev", "v0")
        self._ip("link", "set", "v0", "up")
        self._ip("link", "set", "lo", "up")

    def _ip(self, *words):
        run("ip", "-n", self.name, *words)

    @property
    def wrap(self):
        """In front of a command that runs there."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def rules(self, incoming, outgoing):
        """Replaces what its packet filter does to what comes in and goes out."""
        text = "flush ruleset\n"
        for hook, lines in (("input", incoming), ("output", outgoing)):
            if lines:
                text += (f"table inet quipu_{hook} {{\nchain quipu {{\n"
                         f"type filter hook {hook} priority 0;\n"
                         + "".join(f"{line}\n" for line in lines) + "}\n}\n")
        run(*self.wrap, "nft", "-f", "-", input=text)

    def rate(self, kbit):
        """Slows what goes out; None: as fast as it goes."""
        if kbit is None:
            run("tc", "-n", self.name, "qdisc", "del", "dev", "v0", "root")
        else:
            run("tc", "-n", self.name, "qdisc", "add", "dev", "v0", "root", "tbf",
                "rate", f"{kbit}kbit", "burst", "16kb", "latency", "200ms")


class Disk:
    """An ext4 in a file, mounted at a folder."""

    def __init__(self, folder, name, mib):
        self.image = Path(folder) / f"{name}.img"
        self.path = Path(folder) / name
        self.mib = mib
        self.mounted = False
        self.path.mkdir()
        self.format()

    def format(self):
        assert not self.mounted
        self.image.unlink(missing_ok=True)
        with open(self.image, "wb") as f:
            f.truncate(self.mib << 20)
        run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0", str(self.image))
        self.mount()

    def mount(self):
        run("mount", "-o", "loop,errors=remount-ro", str(self.image), str(self.path))
        self.mounted = True

    def unmount(self):
        run("umount", str(self.path))
        self.mounted = False

    def cut(self):
        """The power goes: what is not synced is lost, what is written now fails."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(fd)

    def free(self):
        s = os.statvfs(self.path)
        return s.f_bavail * s.f_frsize


def missing(shim):
    """What this machine lacks for any of it; None when all is there."""
    if os.geteuid() != 0:
        return "root"
    for tool in ("ip", "nsenter", "unshare", "mkfs.ext4", "mount"):
        if not shutil.which(tool):
            return tool
    if not Path("/sys/fs/ext4").exists() and not _filesystem("ext4"):
        return "ext4"
    if not Path(shim).exists():
        return f"{shim} (make)"
    return None


def _filesystem(name):
    return name in Path("/proc/filesystems").read_text().split()
