"""A cluster grows from one node to three and five, replaces a dead one, is drained and
restarted node by node, and shrinks to three again, while people write: nothing is
lost or doubled, and no send fails for good.  What docs/operations.md says, done."""

import asyncio
import json
import subprocess

from lib.checked import BUILD, WAIT_S
from lib.device import people
from lib.server import Cluster, until
from test_cluster import Sender, assert_complete, inbox_of

SHARDS = 6
SENDERS = 6


class Paced(Sender):
    """As many as one inbox has room for, however long it takes."""

    async def deliver(self, sends):
        await super().deliver(sends)
        await asyncio.sleep(0.02)


class Operator:
    """Types commands at a node that is ready."""

    def __init__(self, cluster):
        self.cluster = cluster

    def ctl(self, *args):
        node = next(n for n in self.cluster.running() if n.admin("status")["ready"])
        p = subprocess.run([BUILD / "quipuctl", "--socket", node.data / "admin.sock",
                            *map(str, args)],
                           capture_output=True, text=True, timeout=4 * WAIT_S)
        assert p.returncode == 0, (args, p.stdout + p.stderr)
        return p.stdout

    def json(self, *args):
        return json.loads(self.ctl("--json", *args))

    def nodes(self):
        return {n["id"]: n for n in self.json("node", "list")["nodes"]}

    def settled(self, ids):
        """Those nodes are the cluster: all are up, hold about as much as each other,
        and every shard has its three voters and no one else."""
        def so():
            nodes = self.nodes()
            if sorted(nodes) != sorted(ids) or not all(n["up"] for n in nodes.values()):
                return False
            held = [n["replicas"] for n in nodes.values()]
            voters = min(3, len(ids))
            return sum(held) == voters * SHARDS and max(held) - min(held) <= 2
        until(so, f"a cluster of {ids}", 4 * WAIT_S)

    def add(self, i):
        self.ctl("node", "add", i, "--addr", self.cluster.peer_address(i))
        self.cluster.joiner(i).start(wait=False)

    def restart(self, i):
        node = self.cluster.nodes[i]
        self.ctl("node", "drain", i, "--wait")
        assert node.admin("status")["led"] == 0
        node.stop()
        node.start()
        until(lambda: self.nodes()[i]["up"], f"node {i} to be back")
        self.ctl("node", "undrain", i)

    def remove(self, i):
        self.ctl("node", "decommission", i, "--wait")
        self.cluster.nodes.pop(i).stop()
        self.ctl("node", "forget", i)


def story(cluster, said):
    operator = Operator(cluster)
    said("one")
    operator.settled([1])
    for i in (2, 3):
        operator.add(i)
    operator.settled([1, 2, 3])
    said("three")
    for i in (4, 5):
        operator.add(i)
    operator.settled([1, 2, 3, 4, 5])
    said("five")
    cluster.nodes.pop(2).kill()
    operator.add(6)
    until(lambda: operator.nodes()[6]["up"], "node 6")
    operator.ctl("node", "replace", 2, "--with", 6, "--wait")
    operator.ctl("node", "forget", 2)
    operator.settled([1, 3, 4, 5, 6])
    said("2 replaced by 6")
    for i in list(cluster.nodes):
        operator.restart(i)
    operator.settled([1, 3, 4, 5, 6])
    said("all restarted")
    # Founders are nodes like the others.
    for i in (1, 5):
        operator.remove(i)
    operator.settled([3, 4, 6])
    said("three again")


def test_years_of_a_cluster(capsys):
    async def run(cluster):
        *froms, to = [d for (d,) in people(cluster.any(), SENDERS + 1)]
        senders = [Paced(cluster, d, to) for d in froms]

        def said(what):
            with capsys.disabled():
                print(f"\n  {what}: {sum(len(s.acked) for s in senders)} acked, "
                      f"{sum(s.retries for s in senders)} tried again", end="")
        for s in senders:
            s.start(1)
        for s in senders:
            await s.more(20)
        await asyncio.to_thread(story, cluster, said)
        for s in senders:
            await s.more(20)
        for s in senders:
            await s.finish()
        total = sum(len(s.acked) for s in senders)
        assert_complete(senders, await inbox_of(cluster, to, total))

    with Cluster(1, shards=SHARDS) as cluster:
        asyncio.run(asyncio.wait_for(run(cluster), 40 * WAIT_S))
