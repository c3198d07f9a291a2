"""A node that was away while the journals went on without it comes back by snapshot,
and levels: while people write on, and while either side is killed in the middle."""

import asyncio
import os
import re

import pytest

from lib.checked import WAIT_S
from lib.device import people
from lib.server import Cluster, until
from test_cluster import Sender, assert_complete, hex_id, in_thread, inbox_of, run

SMALL = ["gateway.send_timeout_ms=3s", "journal.file_size=1MiB",
         "journal.max=16MiB", "checkpoint.bytes=256KiB",
         "store.segment_size=1MiB"]
INSTALLED = r"event=snapshot_installed shard=(\d+)"


@pytest.fixture(scope="module")
def small():
    """Journals so small that a minute's work runs around them."""
    with Cluster(settings=SMALL, shards=2) as made:
        yield made


@pytest.fixture(autouse=True)
def whole(small):
    for node in small.nodes.values():
        if not node.process:
            node.start(wait=False)
    small.wait_ready()
    yield
    for node in small.running():
        assert node.process.process.poll() is None, node.process.log


class Writer(Sender):
    """Bodies that fill journals (random bytes do not shrink), then ordinary ones:
    people who write more in a second than a ring holds nobody catches up with."""

    size, pause = 16 << 10, 0

    def calm(self):
        self.size, self.pause = 100, 0.05

    async def go(self, batch=8):
        i = 0
        while not self.stopped:
            sends = [self.device.compose(self.to.account,
                                         b"%d:%d:" % (self.device.number, i + k) +
                                         os.urandom(self.size))
                     for k in range(batch)]
            await self.deliver(sends)
            await asyncio.sleep(self.pause)
            i += batch
        await self.device.close()


async def outrun(writer, mib=40):
    """Write until the journals have surely forgotten what a node away needs."""
    await writer.more(mib * 64, 4 * WAIT_S)
    writer.calm()


def level(cluster):
    """All replicas of all shards have the same root at the same size."""
    def same():
        seen = {}
        for node in cluster.nodes.values():
            if not node.up:
                return False
            for s in node.admin("shards")["shards"]:
                seen.setdefault(s["shard"], set()).add(
                    (s["applied"], s["records"], s["root"]))
        return all(len(x) == 1 for x in seen.values())
    until(same, "level replicas", 4 * WAIT_S)


def folders(node):
    """SHARD-INCARNATION"""
    return sorted(p.name for p in (node.data / "shards").iterdir())


def test_a_node_that_was_away_comes_back_by_snapshot(small):
    async def talk():
        (a,), (b,) = people(small.any(), 2)
        shard = small.shard_of(hex_id(b))
        away = small.nodes[3]
        away.kill()
        writer = Writer(small, a, b)
        writer.start()
        await outrun(writer)
        await in_thread(lambda: away.start(wait=False))
        # People write on meanwhile: the leader serves them and the newcomer.
        before = len(writer.acked)
        await in_thread(away.process.wait_line, INSTALLED, 4 * WAIT_S)
        await writer.finish()
        assert len(writer.acked) > before
        await in_thread(level, small)
        assert f"{shard:04d}-2" in await in_thread(folders, away)
        inbox = await inbox_of(small, b, len(writer.acked))
        assert_complete([writer], inbox)
    run(talk(), 12 * WAIT_S)


def test_it_serves_what_it_installed_after_a_restart(small):
    async def talk():
        (a,), (b,) = people(small.any(), 2)
        await a.connect(small.nodes[1].address)
        for i in range(5):
            await a.send(b.account, b"%d" % i)
        await a.close()
        await in_thread(level, small)
        away = small.nodes[3]
        await in_thread(away.stop)
        await in_thread(away.start)
        assert not re.search(INSTALLED, away.process.log)
        assert len(await inbox_of(small, b, 5, away)) == 5
        await in_thread(level, small)
    run(talk(), 8 * WAIT_S)


@pytest.mark.parametrize("victim", ["follower", "leader"])
def test_kill_in_the_middle_of_an_install(small, victim):
    async def talk():
        (a,), (b,) = people(small.any(), 2)
        shard = small.shard_of(hex_id(b))
        away = small.nodes[3]
        away.kill()
        writer = Writer(small, a, b)
        writer.start()
        await outrun(writer)
        for _ in range(3):
            await in_thread(lambda: away.start(wait=False))
            found = await in_thread(away.process.wait_line,
                                    r"event=install_begins shard=\d+ .*peer=(\d+)",
                                    4 * WAIT_S)
            if victim == "follower":
                away.kill()
                continue
            source = small.nodes[int(found.group(1))]
            source.kill()
            await in_thread(away.process.wait_line,
                            rf"event=link_down peer={found.group(1)}\b")
            await in_thread(lambda: source.start(wait=False))
            break
        if not away.up:
            await in_thread(lambda: away.start(wait=False))
        await writer.finish()
        await in_thread(level, small)
        inbox = await inbox_of(small, b, len(writer.acked))
        assert_complete([writer], inbox)
    run(talk(), 12 * WAIT_S)
