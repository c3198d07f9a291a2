"""Processes of quipud, alone or three as a cluster, and their admin sockets.

Every wait has an end.  Gateways listen on port 0 and say in their log which port they
got; peers of a cluster cannot, so each pytest process has loopback addresses of its
own, and nobody else is on them.
"""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from .checked import BUILD, WAIT_S

QUIPUD = BUILD / "quipud"


def until(condition, what, timeout=WAIT_S):
    """Waits until condition() is true and returns it."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.02)


class AdminError(Exception):
    def __init__(self, answer):
        super().__init__(f"{answer['error']}: {answer['detail']}")
        self.error = answer["error"]


class Admin:
    """A connection to DATA/admin.sock."""

    def __init__(self, data, timeout=WAIT_S):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        # An address holds 107 bytes; the way through an open folder is short.
        folder = os.open(data, os.O_PATH | os.O_DIRECTORY)
        try:
            until(lambda: self._connect(folder), "a place in the queue")
        finally:
            os.close(folder)
        self.file = self.sock.makefile("rwb")

    def _connect(self, folder):
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/admin.sock")
            return True
        except BlockingIOError:     # the server is slow to accept
            return False

    def raw(self, line):
        self.file.write(line + b"\n")
        self.file.flush()
        return json.loads(self.file.readline())

    def __call__(self, verb, **members):
        answer = self.raw(json.dumps({"verb": verb, **members}).encode())
        if not answer["ok"]:
            raise AdminError(answer)
        return answer

    def close(self):
        try:
            self.file.close()
        except OSError:
            pass  # the other side was first
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Process:
    """One quipud.  Its log (stderr) is read by a thread and kept."""

    def __init__(self, args, wrap=(), **popen):
        self.lines = []
        self.changed = threading.Condition()
        self.process = subprocess.Popen(
            [*wrap, str(QUIPUD), *map(str, args)], stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **popen)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self.changed:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self.changed.notify_all()
        self.process.stderr.close()
        with self.changed:
            self.lines.append(None)
            self.changed.notify_all()

    @property
    def log(self):
        with self.changed:
            return "\n".join(line for line in self.lines if line is not None)

    def wait_line(self, pattern, timeout=WAIT_S):
        """The first log line that matches; fails when the process ends before."""
        end = time.monotonic() + timeout
        seen = 0
        with self.changed:
            while True:
                for line in self.lines[seen:]:
                    if line is None:
                        raise AssertionError(f"ended before {pattern!r}:\n" +
                                             "\n".join(self.lines[:-1]))
                    match = re.search(pattern, line)
                    if match:
                        return match
                seen = len(self.lines)
                left = end - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    raise AssertionError(f"no {pattern!r} within {timeout} s")

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)
        self.reader.join(WAIT_S)

    def end(self, timeout=WAIT_S):
        """Exit code of a process that ends by itself."""
        code = self.process.wait(timeout)
        self.reader.join(timeout)
        return code

    def terminate(self, timeout=WAIT_S):
        self.process.send_signal(signal.SIGTERM)
        return self.end(timeout)


class Node:
    """A node with its data folder, which outlives its processes."""

    def __init__(self, data, settings=(), args=(), wrap=()):
        self.data = Path(data)
        self.wrap = wrap
        self.args = ["--data", self.data, "--listen", "127.0.0.1:0"]
        for setting in settings:
            self.args += ["--set", setting]
        self.args += args
        self.process = None
        self.port = None    # while it runs and listens
        self._admin = None

    def start(self, wait=True, **popen):
        assert self.process is None
        self.process = Process(self.args, self.wrap, **popen)
        address = self.process.wait_line(r"event=listening gateway=(\S+)")
        self.host, port = address.group(1).rsplit(":", 1)
        self.port = int(port)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        self.process.wait_line("event=ready")

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    @property
    def up(self):
        return self.port is not None

    def admin(self, verb, **members):
        if not self._admin:
            self._admin = Admin(self.data)
        return self._admin(verb, **members)

    def _gone(self):
        self.port = None
        if self._admin:
            self._admin.close()
        self._admin = self.process = None

    def kill(self):
        """As if the power went."""
        self.port = None
        if self.process:
            self.process.kill()
            self._gone()

    def stop(self):
        self.port = None
        code = self.process.terminate()
        log = self.process.log
        self._gone()
        assert code == 0, log
        return log

    def finish(self):
        """The end of a test: a clean one, so that a sanitizer can complain."""
        try:
            if self.process:
                self.stop()
        finally:
            self.kill()

    def account(self, devices=1):
        """(id, [device numbers])"""
        account = self.admin("account-add")["id"]
        return account, [self.admin("device-add", account=account)["device"]
                         for _ in range(devices)]

    def token(self, account, device, **members):
        return self.admin("token", account=account, device=device,
                          **members)["token"]


def new_folder():
    return Path(tempfile.mkdtemp(prefix="quipu-test-"))


def drop_folder(path):
    shutil.rmtree(path, ignore_errors=True)


def own_address():
    """A loopback address that no other test process has."""
    pid = os.getpid()
    return f"127.{64 + (pid >> 16 & 63)}.{pid >> 8 & 255}.{pid & 255}"


class Cluster:
    """Nodes 1..n with mutual TLS; used as a context manager."""

    clusters = 0

    def __init__(self, n=3, settings=(), shards=8):
        from . import certs

        Cluster.clusters += 1
        self.folder = new_folder()
        certs.ca(self.folder)
        self.host = own_address()
        # Where nobody listens yet: one range of ports per cluster.
        self.base = 20000 + Cluster.clusters * 16
        self.settings = settings
        self.founders = range(1, n + 1)
        self.nodes = {}
        for i in self.founders:
            self.nodes[i] = self._node(i, [f"shards.count={shards}"])

    def peer_address(self, i):
        """Where node i waits for the others."""
        return f"{self.host}:{self.base + i}"

    def _node(self, i, settings, args=()):
        from . import certs

        certs.leaf(self.folder, f"node-{i}", f"node-{i}.quipu.quipu")
        rows = [f"peers.{k}={self.peer_address(k)}" for k in {*self.founders, i}]
        return Node(self.folder / f"data-{i}",
                    [f"node.id={i}", *settings, f"tls.ca={self.folder}/ca.crt",
                     f"tls.cert={self.folder}/node-{i}.crt",
                     f"tls.key={self.folder}/node-{i}.key",
                     f"tokens.key={self.folder}/token.key", *rows, *self.settings],
                    args)

    def joiner(self, i):
        """Node i, which was added and is to be started; it knows the founders."""
        self.nodes[i] = self._node(i, [], ["--join"])
        return self.nodes[i]

    def __enter__(self):
        try:
            # The first makes the key that signs tokens, the others read it.
            for node in self.nodes.values():
                node.start(wait=False)
            self.wait_ready()
        except BaseException as e:
            self.__exit__(type(e))
            raise
        return self

    def __exit__(self, *exc):
        try:
            if not any(exc):
                for node in self.nodes.values():
                    node.finish()
        finally:
            for node in self.nodes.values():
                node.kill()
            drop_folder(self.folder)

    def wait_ready(self):
        for node in self.running():
            until(lambda n=node: n.admin("status")["ready"], "ready")

    def running(self):
        return [node for node in self.nodes.values() if node.up]

    def any(self):
        return self.running()[0]

    def shard_of(self, account):
        return self.any().admin("account", account=account)["shard"]

    def leader_of(self, shard):
        """Number of the node that leads, as the running ones agree."""
        def agreed():
            seen = {node.admin("shards", shard=shard)["shards"][0]["leader"]
                    for node in self.running()}
            leader = seen.pop() if len(seen) == 1 else 0
            return leader if leader and self.nodes[leader].up else 0
        return until(agreed, f"a leader of shard {shard}")
