"""Every node of a cluster is restarted, one after the other, under load: nothing is
lost or doubled, no send fails, and none has to be repeated but those that crossed the
server's goodbye.  How long acks took is printed, not judged: the machine is shared.

QUIPU_ROLLING_ROUNDS=N makes N rounds of it instead of one, for figures."""

import asyncio
import os
import time

from lib.checked import WAIT_S
from lib.device import Closed, Refused, people
from lib.server import Cluster, until
from test_cluster import Sender, assert_complete, inbox_of

ROUNDS = int(os.environ.get("QUIPU_ROLLING_ROUNDS", 1))
SENDERS = 8


class Timed(Sender):
    """One send at a time, and how long each took from its first try to its ack."""

    def __init__(self, *args):
        super().__init__(*args)
        self.took = []      # (when, seconds)
        self.wishes = []    # retry_ms of goodbyes

    async def connected(self):
        if self.device.stream and self.device.goodbye:
            self.wishes.append(self.device.goodbye["retry_ms"])
            await asyncio.sleep(self.wishes[-1] / 1000)     # as it was asked
        await super().connected()

    async def deliver(self, sends):
        begun = time.monotonic()
        if self.device.reader and self.device.goodbye:
            await self.device.vanish()      # its acks are all here; back elsewhere
        await super().deliver(sends)
        self.took.append((begun, time.monotonic() - begun))


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p))]


def crossed_goodbye(why):
    """The send was under way when the server said that it goes."""
    return (isinstance(why, Refused) and why.name == "draining"
            or isinstance(why, Closed) and why.code == 1012)


def whole(cluster):
    cluster.wait_ready()
    for node in cluster.running():
        until(lambda n=node: all(p["up"] for p in n.admin("nodes")["nodes"]), "links")
    until(lambda: all(n.admin("status")["led"] for n in cluster.running()),
          "leaders on all nodes")


def test_rolling_restart(capsys):
    stops = []      # (from, to)

    def roll(cluster):
        for node in list(cluster.nodes.values()) * ROUNDS:
            begun = time.monotonic()
            log = node.stop()
            stops.append((begun, time.monotonic()))
            node.start(wait=False)
            whole(cluster)

    async def run(cluster):
        *froms, to = [d for (d,) in people(cluster.any(), SENDERS + 1)]
        senders = [Timed(cluster, d, to) for d in froms]
        for s in senders:
            s.start(1)
        for s in senders:
            await s.more(20)
        await asyncio.to_thread(roll, cluster)
        for s in senders:
            await s.more(20)
        for s in senders:
            await s.finish()
        total = sum(len(s.acked) for s in senders)
        assert_complete(senders, await inbox_of(cluster, to, total))
        return senders

    with Cluster(shards=16) as cluster:
        whole(cluster)
        senders = asyncio.run(asyncio.wait_for(run(cluster), (4 + 4 * ROUNDS) * WAIT_S))
    took = [t for s in senders for t in s.took]
    in_stops = [d for t, d in took if any(a <= t + d and t <= b for a, b in stops)]
    alone = [d for _, d in took]
    with capsys.disabled():
        print(f"\nrolling: {len(stops)} stops of "
              f"{percentile([b - a for a, b in stops], .5):.2f} s (median), "
              f"{len(alone)} acks, p99 {percentile(alone, .99) * 1000:.0f} ms, "
              f"max {max(alone) * 1000:.0f} ms; during stops {len(in_stops)}, "
              f"p99 {percentile(in_stops, .99) * 1000:.0f} ms, "
              f"max {max(in_stops) * 1000:.0f} ms; "
              f"{sum(s.retries for s in senders)} retries, "
              f"{sum(s.dups for s in senders)} repeated acks, "
              f"goodbyes {sorted(w for s in senders for w in s.wishes)}")
    needless = [why for s in senders for why in s.whys if not crossed_goodbye(why)]
    assert not needless, needless
