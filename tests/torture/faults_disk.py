"""Faults of disks, of clocks, and of leaders that are moved."""

import os
import time

from faults import Fault, some
from node import AdminError, Silent


class DiskFull(Fault):
    """A file of somebody else's takes the disk, in two steps: between two looks of the
    node at its disk the last of the reserve must not go (docs/operations.md)."""

    kind = "disk full"
    hold = (3.0, 6.0)
    FIRST, LEFT = 40 << 20, 6 << 20     # bytes that stay free

    def begin(self):
        for node in self.nodes:
            self._fill(node, self.FIRST, "first")
        self.run.until(self._noticed, 10)
        for node in self.nodes:
            self._fill(node, self.LEFT, "second")

    def _noticed(self):
        for node in self.nodes:
            try:
                if node.ask("status")["disk"]["level"] != "readonly":
                    return False
            except (Silent, AdminError):
                return True     # its pair has it down
        return True

    def _path(self, node, name):
        return node.disk.path / f"filler-{name}"

    def _fill(self, node, left, name):
        room = node.disk.free() - left
        if room > 0:
            fd = os.open(self._path(node, name), os.O_CREAT | os.O_WRONLY)
            try:
                os.posix_fallocate(fd, 0, room)
            finally:
                os.close(fd)

    def end(self):
        for node in self.nodes:
            for name in ("first", "second"):
                self._path(node, name).unlink(missing_ok=True)
            # Else a power cut brings it back, and nobody takes it away again.
            fd = os.open(node.disk.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


class DiskFullMajority(DiskFull):
    kind = "disk full majority"
    weight = 0.5

    def draw(self):
        return some(self.dice, self.run.nodes, len(self.run.nodes) // 2 + 1)


class SlowDisk(Fault):
    kind = "slow disk"
    hold = (2.0, 6.0)

    def draw(self):
        self.ms = self.dice.choice((30, 100, 300, 1000))
        return super().draw()

    @property
    def detail(self):
        return f"a sync takes {self.ms} ms more"

    def begin(self):
        self.node.control["sync_delay_ms"] = self.ms

    def end(self):
        self.node.control["sync_delay_ms"] = 0


class Eio(Fault):
    """A call fails with EIO; that process has to end with a status that says so, and
    before it tells anybody anything."""

    hold = (0.2, 2.0)
    field = None
    STATUS = 3
    PATIENCE_S = 20.0       # until there is such a call at all
    GONE_S = 5.0            # the promise is a second, the machine is shared

    def draw(self):
        self.after = self.dice.randint(1, 40)
        return super().draw()

    @property
    def detail(self):
        return f"call {self.after} from now"

    def begin(self):
        node = self.node
        self.code = self.slow = None
        self.run.expected_dead.add(node.n)
        before = node.control["failed"]
        node.control[self.field] = self.after
        self.failed = self.run.until(
            lambda: node.control["failed"] > before or not node.up, self.PATIENCE_S)
        if self.failed:
            began = time.monotonic()
            self.slow = not self.run.until(lambda: not node.up, self.GONE_S)
            self.took = time.monotonic() - began
        node.control[self.field] = 0
        if self.failed and not self.slow:
            self.code = node.gone()
        self.run.expected_dead.discard(node.n)

    def verdict(self):
        if not self.failed:
            return None     # nothing was written: nothing was shown
        if self.slow:
            return f"node {self.node.n} goes on after EIO"
        if self.code != self.STATUS:
            return f"node {self.node.n} ended with status {self.code} after EIO"
        return None


class EioWrite(Eio):
    kind = "EIO on write"
    field = "fail_write"


class EioSync(Eio):
    kind = "EIO on sync"
    field = "fail_sync"


class ClockStep(Fault):
    kind = "clock step"
    hold = (1.0, 6.0)

    def draw(self):
        self.ms = self.dice.choice((-1, 1)) * self.dice.choice(
            (700, 5000, 60000, 600000, 3500000))
        return some(self.dice, self.run.nodes, self.dice.choice((1, 1, 2)))

    @property
    def detail(self):
        return f"{self.ms / 1000:+.1f} s"

    def begin(self):
        for node in self.nodes:
            node.control["clock_ms"] = self.ms

    def end(self):
        for node in self.nodes:
            node.control["clock_ms"] = 0


class Transfers(Fault):
    kind = "leader transfers"
    hold = (0.5, 2.0)

    def draw(self):
        return []

    def begin(self):
        self.moved = 0
        for shard in range(self.run.args.shards):
            target = self.dice.choice(self.run.nodes)
            for node in self.run.nodes:
                try:
                    node.ask("transfer", shard=shard, to=target.n)
                    self.moved += 1
                    break
                except (Silent, AdminError):
                    continue    # not the leader, or it is the target already

    def end(self):
        pass


ALL = [DiskFull, DiskFullMajority, SlowDisk, EioWrite, EioSync, ClockStep, Transfers]
