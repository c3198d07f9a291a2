"""A file system of a few MiB in name spaces of its own: no root is needed, and it is
gone with the process that holds it."""

import os
import subprocess
from pathlib import Path

import pytest

from .checked import WAIT_S
from .server import Process, drop_folder, new_folder


class Space:
    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.folder = new_folder()
        self.inside = str(self.folder)
        script = (f"mount -t tmpfs -o size={self.size} none {self.inside} && "
                  "echo mounted && read end")
        try:
            self.holder = subprocess.Popen(
                ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                 script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL)
        except FileNotFoundError:
            pytest.skip("no unshare here")
        if self.holder.stdout.readline() != b"mounted\n":
            self.__exit__()
            pytest.skip("no name spaces for tmpfs here")
        pid = self.holder.pid
        self.wrap = ["nsenter", "--target", str(pid), "--user", "--mount",
                     "--preserve-credentials"]
        # The way in from outside.
        self.path = Path(f"/proc/{pid}/root{self.inside}")
        return self

    def __exit__(self, *exc):
        self.holder.stdin.close()
        self.holder.stdout.close()
        self.holder.wait(WAIT_S)
        drop_folder(self.folder)

    def process(self, args):
        return Process(args, self.wrap)

    def read_only(self):
        subprocess.run([*self.wrap, "mount", "-o", "remount,ro", self.inside],
                       check=True, timeout=WAIT_S)

    def free(self):
        s = os.statvfs(self.path)
        return s.f_bavail * s.f_frsize
