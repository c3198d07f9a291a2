"""Faults of what is on a disk, done while its node is stopped: a write that was torn, a
promise that a disk forgot, bits that flipped, files that are gone.

Where something promised is taken from one node (`damage`), the others have everything
before it happens and nothing else befalls the cluster until that node has it again.
"""

import os
import shutil
import struct
import time

from faults import Fault
from ground import address
from lib import certs
from node import AdminError, Silent

PAGE = 4096
JOURNAL_HEADER = 20480


def has_verb(run, verb):
    """Whether this build knows an admin verb."""
    for node in run.nodes:
        try:
            node.ask(verb)
            return True
        except AdminError as e:
            return "unknown verb" not in str(e)
        except Silent:
            continue
    return False


def counts(run, name):
    """Whether this build has a metric of that name."""
    for node in run.nodes:
        try:
            return name in node.ask("stats")["stats"]
        except (AdminError, Silent):
            continue
    return False


def last_group(data):
    """(path, begin, end) of the journal's newest group; docs/format.md."""
    best = None
    for path in sorted((data / "journal").glob("*.jnl")):
        raw = path.read_bytes()
        use = raw[16:24]
        for at in range(JOURNAL_HEADER, len(raw) - 40, PAGE):
            if raw[at:at + 4] != b"QJG1" or raw[at + 8:at + 16] != use:
                continue
            number, length = struct.unpack_from("<QI", raw, at + 16)
            if at + length <= len(raw) and (not best or number > best[0]):
                best = (number, path, at, at + length)
    return best[1:] if best else None


def overwrite(path, at, data):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


class OnDisk(Fault):
    """Stops the node as a power cut does, then does `harm` to its files."""

    hold = (0.1, 1.0)
    alone = True

    def draw(self):
        self.what = ""
        return super().draw()

    @property
    def detail(self):
        return self.what

    def begin(self):
        node = self.node
        node.cut_power()
        node.mount_again()
        if self.damage:
            self.run.until(lambda: self.run.watch.others_have_all(node.n), 60)
        self.what = self.harm(node.data) or "nothing was there"

    def harm(self, data):
        raise NotImplementedError

    def pick(self, files):
        files = sorted(files)
        return self.dice.choice(files) if files else None

    def flip(self, path, first=0, end=None):
        size = path.stat().st_size if end is None else end
        if size <= first:
            return None
        at = self.dice.randrange(first, size)
        with open(path, "rb") as f:
            f.seek(at)
            byte = f.read(1)[0]
        bit = 1 << self.dice.randrange(8)
        overwrite(path, at, bytes([byte ^ bit]))
        return f"bit {bit:#x} of byte {at} of {path.relative_to(self.node.data)}"


class TornTail(OnDisk):
    """What a write leaves that the power cut in the middle: nobody was told of it."""

    kind = "torn journal tail"

    def harm(self, data):
        found = last_group(data)
        if not found:
            return None
        path, _, end = found
        at = -(-end // PAGE) * PAGE
        size = min(self.dice.randrange(512, 5 * PAGE, 512), path.stat().st_size - at)
        if size <= 0:
            return None
        junk = self.dice.randbytes(size)
        if self.dice.random() < 0.5:
            junk = (b"QJG1" + junk)[:size]
        overwrite(path, at, junk)
        return f"{size} bytes of {path.name} from {at}"


class LostTail(OnDisk):
    """The last group, which was promised: zeros now."""

    kind = "lost journal tail"
    damage = True

    def harm(self, data):
        found = last_group(data)
        if not found:
            return None
        path, begin, end = found
        begin = max(begin, end - self.dice.choice((16, 512, 4096)))
        overwrite(path, begin, bytes(end - begin))
        return f"{end - begin} bytes of {path.name} from {begin}"


class MetaRot(OnDisk):
    """One of the two copies of node.meta: rotten or gone."""

    kind = "node.meta rot"

    def harm(self, data):
        path = data / self.dice.choice(("node.meta", "node.meta.2"))
        if self.dice.random() < 0.5:
            path.unlink()
            return f"{path.name} is gone"
        return self.flip(path)


class IndexRot(OnDisk):
    """An index is made again from its segment."""

    kind = "index rot"

    def harm(self, data):
        path = self.pick(data.glob("shards/*/seg/*.idx"))
        if not path:
            return None
        if self.dice.random() < 0.3:
            path.unlink()
            return f"{path.relative_to(data)} is gone"
        return self.flip(path)


class Repaired(OnDisk):
    """Damage that peers have to cure, within REPAIR_S from the start of the node on."""

    damage = True
    REPAIR_S = 60.0
    verb = None             # which looks for damage that nobody reads

    @classmethod
    def lacks(cls, run):
        if not counts(run, "repairs"):
            return "not yet cured by the product: it finds and names it, and stays without"
        if cls.verb and not has_verb(run, cls.verb):
            return f"not yet found by the product: no verb {cls.verb}"
        return None

    def begin(self):
        self.path = self.rotten = None
        super().begin()

    def harm(self, data):
        path = self.pick(self.files(data))
        if not path:
            return None
        self.path, what = path, self.spoil(path)
        self.rotten = path.read_bytes() if path.exists() else None
        return what

    def files(self, data):
        raise NotImplementedError

    def spoil(self, path):
        return self.flip(path)

    def _cured(self):
        """The file is another one now, or its folder is not in force any more."""
        try:
            if self.path.read_bytes() != self.rotten:
                return True
        except OSError:
            if self.rotten is not None:
                return True
        parts = self.path.relative_to(self.node.data).parts
        if parts[0] != "shards":
            return False
        shard, incarnation = parts[1].rsplit("-", 1)
        return any(int(d.name.rsplit("-", 1)[1]) > int(incarnation)
                   for d in (self.node.data / "shards").glob(f"{shard}-*")
                   if d.name.rsplit("-", 1)[1].isdigit())

    def verdict(self):
        if not self.path:
            return None
        began, asked = self.node.started, 0.0
        # Whole, and not because nobody has looked yet.
        while not self.run.until(
                lambda: self._cured() and self.run.watch.whole(began), 3.0):
            now = time.monotonic()
            if now - began > self.REPAIR_S:
                return (f"node {self.node.n} is not repaired {self.REPAIR_S:.0f} s "
                        f"after {self.what}: {self.run.watch.lagging() or 'not noticed'}")
            if self.verb and now - asked > 10.0:
                asked = now
                try:
                    self.node.ask(self.verb)
                except (AdminError, Silent):
                    pass    # not ready yet
        self.repaired = max(0.0, (self.run.watch.whole(began) or time.monotonic()) - began)
        return None


class SegmentRot(Repaired):
    kind = "segment rot"
    verb = "scrub"

    def files(self, data):
        return data.glob("shards/*/seg/*.seg")


class TreeRot(Repaired):
    kind = "tree rot"

    def files(self, data):
        return data.glob("shards/*/tree/*.hash")


class StateRot(Repaired):
    kind = "state rot"
    verb = "scrub"

    def files(self, data):
        return data.glob("shards/*/state.mdb")


class LostFile(Repaired):
    kind = "lost directory entry"

    def files(self, data):
        return [*data.glob("shards/*/seg/*.seg"), *data.glob("shards/*/tree/*.hash"),
                *data.glob("shards/*/state.mdb")]

    def spoil(self, path):
        path.unlink()
        return f"{path.relative_to(self.node.data)} is gone"


class JournalRot(Repaired):
    """Promises may be lost: that replica must be replaced by another one."""

    kind = "journal rot"

    @classmethod
    def lacks(cls, run):
        return super().lacks(run) or \
            "not yet cured by the product: a replica that may have forgotten a promise " \
            "stays aside"

    def files(self, data):
        found = last_group(data)
        return [found[0]] if found else []

    def spoil(self, path):
        return self.flip(path, JOURNAL_HEADER, last_group(self.node.data)[1])


def ask_another(run, node, verb, **members):
    """The first answer of a node but that one."""
    for other in run.nodes:
        if other is node:
            continue
        try:
            return other.ask(verb, timeout=12, **members)
        except (AdminError, Silent) as e:
            last = e
    raise last


def row_of(run, node):
    """What the others' table says of a node; None where there is no table."""
    try:
        rows = ask_another(run, node, "node-list")["nodes"]
    except (AdminError, Silent):
        return None
    return next((row for row in rows if row["id"] == node.n), None)


class WipedDisk(Fault):
    """A known node comes back with an empty disk: nobody lets it in before it was
    replaced, then it gets everything anew (docs/operations.md, A lost disk)."""

    kind = "wiped disk"
    damage = True
    alone = True
    hold = (0.1, 0.5)
    ASKS_S, REPAIR_S = 30.0, 60.0

    @classmethod
    def lacks(cls, run):
        if not row_of(run, run.nodes[0]):
            return "not yet cured by the product: there is no table of nodes"
        return None

    def begin(self):
        node, run = self.node, self.run
        self.wrong = None
        node.cut_power()
        node.mount_again()
        run.until(lambda: run.watch.others_have_all(node.n), 60)
        shutil.rmtree(node.data)
        node.start("--join")
        if not run.until(lambda: (row_of(run, node) or {}).get("waits"), self.ASKS_S):
            self.wrong = f"nobody hears of its new disk for {self.ASKS_S:.0f} s"
            return
        try:
            ask_another(run, node, "node-set", id=node.n, op="replace")
        except (AdminError, Silent) as e:
            self.wrong = f"replace: {e}"

    def verdict(self):
        began = self.node.started
        watch = self.run.watch
        # A standby that has it all is no voter yet: until then one node less may go.
        if not self.wrong and not self.run.until(
                lambda: watch.whole(began) and watch.voters_are(self.run.nodes),
                self.REPAIR_S):
            self.wrong = (f"not whole in {self.REPAIR_S:.0f} s: "
                          f"{watch.lagging() or 'it does not vote everywhere'}")
        if self.wrong:
            return f"node {self.node.n} with an empty disk: {self.wrong}"
        self.repaired = time.monotonic() - began
        return None


class Drained(Fault):
    """A node gives its leaderships away and may lead again later."""

    kind = "drained node"
    hold = (2.0, 6.0)

    @classmethod
    def lacks(cls, run):
        if not row_of(run, run.nodes[0]):
            return "not in the product yet: there is no table of nodes"
        return None

    def _set(self, state):
        try:
            ask_another(self.run, None, "node-set", id=self.node.n, state=state)
            return True
        except (AdminError, Silent):
            return False    # others have it down, or the outcome is unknown

    def begin(self):
        self._set("draining")

    def end(self):
        self.run.until(lambda: self._set("active"), 30)


class Membership(Fault):
    kind = "membership change"

    @classmethod
    def lacks(cls, run):
        return "the harness has no story for it yet: all nodes have all shards"


class NewCertificate(Fault):
    """A node and its gateway get new certificates and read them without a stop."""

    kind = "certificate change"
    hold = (0.2, 1.0)

    @classmethod
    def lacks(cls, run):
        return None if has_verb(run, "reload") else "no verb reload"

    def begin(self):
        n, where = self.node.n, self.run.ground
        certs.leaf(where, f"node-{n}", f"node-{n}.torture.quipu")
        certs.leaf(where, f"gateway-{n}", f"gateway-{n}", addresses=[address(n)])
        self.refused = None
        try:
            self.node.ask("reload")
        except AdminError as e:
            self.refused = str(e)
        except Silent:
            pass    # its pair has it down: the next start reads them

    def verdict(self):
        return self.refused and f"node {self.node.n}: reload: {self.refused}"


ALL = [TornTail, LostTail, MetaRot, IndexRot, SegmentRot, TreeRot, StateRot, JournalRot,
       LostFile, WipedDisk, Drained, Membership, NewCertificate]
