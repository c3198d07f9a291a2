"""One quipud: its process, its disk, its place on the net, its shim."""

import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

from ground import Disk, Site

GATEWAY, PEER = 8443, 9081


class AdminError(Exception):
    """The server's refusal."""

    def __init__(self, answer):
        self.error = answer["error"]
        super().__init__(f"{answer['error']}: {answer['detail']}")


class Silent(Exception):
    """No answer: the node is down, paused, or too slow.  What was asked may happen."""


class Control:
    """struct control of shim.c, in a file that the process shares."""

    FIELDS = {"no_sync": ("I", 0), "sync_delay_ms": ("I", 4), "fail_sync": ("I", 8),
              "fail_write": ("I", 12), "clock_ms": ("q", 16), "syncs": ("Q", 24),
              "failed": ("Q", 32)}

    def __init__(self, path):
        self.path = Path(path)
        self.path.write_bytes(bytes(4096))
        with open(self.path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 4096)

    def __setitem__(self, name, value):
        form, at = self.FIELDS[name]
        struct.pack_into(form, self.map, at, value)

    def __getitem__(self, name):
        form, at = self.FIELDS[name]
        return struct.unpack_from(form, self.map, at)[0]


class Node:
    def __init__(self, n, run, settings, mib):
        self.n = n
        self.run = run
        self.site = Site(n)
        self.disk = Disk(run.ground, f"node-{n}", mib)
        self.data = self.disk.path / "data"
        self.control = Control(run.ground / f"shim-{n}")
        self.log_path = run.folder / f"node-{n}.log"
        self.conf = run.ground / f"node-{n}.conf"
        self.process = None
        self.paused = False
        self.started = 0.0
        self.starts = 0
        self._configure(settings)

    def _configure(self, settings):
        sections = {}
        for key, value in settings.items():
            section, name = key.split(".", 1)
            sections.setdefault(section, []).append(f"{name} = {value}")
        self.conf.write_text("".join(
            f"[{name}]\n" + "".join(f"{line}\n" for line in lines)
            for name, lines in sections.items()))

    @property
    def gateway(self):
        return f"{self.site.address}:{GATEWAY}"

    # ---- the process

    @property
    def up(self):
        return self.process is not None and self.process.poll() is None

    def start(self, *options):
        assert not self.process, f"node {self.n} runs"
        env = dict(os.environ, LD_PRELOAD=str(self.run.shim),
                   QUIPU_SHIM=str(self.control.path))
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.site.wrap, str(self.run.quipud), "--config", str(self.conf),
                 *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                start_new_session=True)
        self.started = time.monotonic()
        self.starts += 1

    def kill(self):
        if self.process:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGKILL)
            self.process.wait(60)
        self.process, self.paused = None, False

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)
        self.paused = True

    def go_on(self):
        if self.paused and self.up:
            self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def stop(self, patience=60):
        """SIGTERM; returns the exit status, or None where it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self.process = None
        return code

    def gone(self):
        """The exit status of a process that ended by itself."""
        code = self.process.wait(60)
        self.process, self.paused = None, False
        return code

    def cut_power(self):
        self.disk.cut()
        self.kill()

    def mount_again(self):
        self.disk.unmount()
        self.disk.mount()

    # ---- asking it

    def ask(self, verb, timeout=3.0, **members):
        if not self.up or self.paused:
            raise Silent(f"node {self.n} is not running")
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(timeout)
                s.connect(str(self.data / "admin.sock"))
                s.sendall(json.dumps({"verb": verb, **members}).encode() + b"\n")
                got = b""
                while not got.endswith(b"\n"):
                    more = s.recv(1 << 20)
                    if not more:
                        raise Silent(f"node {self.n} hung up")
                    got += more
        except OSError as e:
            raise Silent(f"node {self.n}: {e}") from None
        answer = json.loads(got)
        if not answer["ok"]:
            raise AdminError(answer)
        return answer

    def tail(self, lines=12):
        text = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(line for line in text[-400:]
                         if "level=info" not in line and "level=debug" not in line
                         )[-200 * lines:]
