"""Rot on the disk: it is found, named and never cut, other shards and other nodes go
on, and the right bytes put back make everything whole."""

import asyncio
import json
import urllib.error
import urllib.request

import pytest

from lib.checked import WAIT_S
from lib.device import people
from lib.server import Cluster, Node, until

COUNT = 60


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 3 * WAIT_S))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def readyz(node):
    try:
        with urllib.request.urlopen(f"http://{node.address}/readyz",
                                    timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        assert json.loads(e.read())["type"] == "/problems/no-leader"
        return e.code


async def say(node, a, b, texts):
    await a.connect(node.address)
    for text in texts:
        await a.send(b.account, text)
    await a.close()


def texts(n=COUNT, start=0):
    return [b"message %04d " % i + b"." * 300 for i in range(start, start + n)]


async def all_there(node, b, want):
    b.cursor = None
    b.inbox.clear()
    await b.connect(node.address, recv=False)
    await b.wait_inbox(len(want))
    assert b.bodies() == want
    await b.close()


@pytest.fixture
def talked(folder):
    """A running node and two people who talked."""
    node = Node(folder / "data", ["shards.count=2"]).start()
    (a,), (b,) = people(node, 2)
    run(say(node, a, b, texts()))
    node.people = (a, b)
    yield node
    node.kill()


def faulty_shards(node):
    return [s for s in node.admin("shards")["shards"] if s["faulty"]]


def expect_faulty(node, *words):
    """Starts the node and looks at what it says; returns the faulty shards."""
    node.start(wait=False)
    line = node.process.wait_line("event=shard_faulty.*").group(0)
    for word in words:
        assert word in line
    bad = faulty_shards(node)
    assert bad and all(s["why"] for s in bad)
    assert not node.admin("status")["ready"] and readyz(node) == 503
    assert node.admin("status")["faulty"] == len(bad)
    return bad


def test_a_damaged_middle_of_the_journal(talked):
    node = talked
    a, b = node.people
    shard = node.admin("account", account=f"{b.account:016x}")["shard"]
    node.kill()
    journal = node.data / "journal" / "00000000.jnl"
    good = journal.read_bytes()
    at = good.index(b"message 0020 ")
    end = good.index(b"message %04d " % (COUNT - 1))
    flip(journal, at)
    bad = journal.read_bytes()
    shards = expect_faulty(node)
    assert shard in [s["shard"] for s in shards]
    node.stop()
    assert journal.read_bytes()[:end + 300] == bad[:end + 300]
    # Another start says the same.
    expect_faulty(node)
    node.kill()
    # From a copy of the disk, say.
    journal.write_bytes(good)
    node.start()
    run(all_there(node, b, texts()))
    node.stop()


def test_a_damaged_segment(talked):
    node = talked
    a, b = node.people
    node.stop()  # all is in segments now
    found = [p for p in (node.data / "shards").rglob("seg/*")
             if b"message 0020 " in p.read_bytes()]
    assert len(found) == 1
    segment = found[0]
    good = segment.read_bytes()
    flip(segment, good.index(b"message 0020 "))
    bad = segment.read_bytes()
    expect_faulty(node, segment.name.split(".")[0], "damaged at byte")
    node.stop()
    assert segment.read_bytes() == bad
    segment.write_bytes(good)
    node.start()
    run(all_there(node, b, texts()))
    node.stop()


def test_a_segment_that_is_gone(talked):
    node = talked
    a, b = node.people
    node.stop()
    segment = next(p for p in (node.data / "shards").rglob("seg/*")
                   if b"message 0020 " in p.read_bytes())
    aside = node.data / "aside"
    segment.rename(aside)
    expect_faulty(node, segment.name.split(".")[0])
    node.stop()
    aside.rename(segment)
    node.start()
    run(all_there(node, b, texts()))
    node.stop()


def test_a_tail_torn_by_a_crash_is_cut(talked):
    node = talked
    a, b = node.people
    journal = node.data / "journal" / "00000000.jnl"

    def last_group():
        """Where it begins, once it is the empty one that follows all work."""
        data = journal.read_bytes()
        at = data.rindex(b"QJG1")
        empty = int.from_bytes(data[at + 28:at + 30], "little") == 0
        return at if empty else None

    at = until(last_group, "the empty group")
    node.kill()
    data = bytearray(journal.read_bytes())
    data[at + 8:at + 40] = bytes(32)  # half of it was written
    journal.write_bytes(data)
    node.start()
    run(all_there(node, b, texts()))
    run(say(node, a, b, texts(10, COUNT)))
    node.kill()
    node.start()
    run(all_there(node, b, texts(COUNT + 10)))
    node.stop()


def test_one_damaged_replica_stops_nobody():
    with Cluster(3, shards=2,
                 settings=["gateway.send_timeout_ms=3s"]) as cluster:
        (a,), (b,) = people(cluster.nodes[1], 2)
        run(say(cluster.nodes[1], a, b, texts()))
        broken = cluster.nodes[3]
        broken.kill()
        journal = broken.data / "journal" / "00000000.jnl"
        flip(journal, journal.read_bytes().index(b"message 0020 "))
        broken.start(wait=False)
        broken.process.wait_line("event=shard_faulty")
        run(say(cluster.nodes[2], a, b, texts(COUNT, COUNT)))
        bad = faulty_shards(broken)
        assert bad and not broken.admin("status")["ready"]
        for node in (cluster.nodes[1], cluster.nodes[2]):
            assert not faulty_shards(node)
            until(lambda n=node: n.admin("status")["ready"], "ready")
            run(all_there(node, b, texts(2 * COUNT)))
        # Its gateway serves the shard all the same, from the other two, although
        # a balancer will send nobody there.
        assert readyz(broken) == 503
        run(all_there(broken, b, texts(2 * COUNT)))
        run(say(broken, a, b, texts(5, 2 * COUNT)))
        run(all_there(cluster.nodes[1], b, texts(2 * COUNT + 5)))


def zero_middle(path):
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at:at + 4096] = bytes(len(data[at:at + 4096]))
    path.write_bytes(data)


@pytest.mark.parametrize("what", ["segment", "segment gone", "state"])
def test_a_damaged_folder_is_repaired_from_peers(what):
    with Cluster(3, shards=2) as cluster:
        (a,), (b,) = people(cluster.nodes[1], 2)
        run(say(cluster.nodes[1], a, b, texts()))
        broken = cluster.nodes[3]
        broken.stop()  # all is in segments and rows now
        shards = broken.data / "shards"
        segment = next(p for p in shards.rglob("seg/*.seg")
                       if b"message 0020 " in p.read_bytes())
        if what == "segment":
            flip(segment, segment.read_bytes().index(b"message 0020 "))
        elif what == "segment gone":
            segment.unlink()
        else:
            zero_middle(segment.parent.parent / "state.mdb")
        # Others go on meanwhile.
        run(say(cluster.nodes[2], a, b, texts(COUNT, COUNT)))
        broken.start(wait=False)
        broken.process.wait_line("event=shard_faulty.*what=state")
        broken.process.wait_line("event=shard_repaired")
        until(lambda: broken.admin("status")["ready"], "ready")
        assert not faulty_shards(broken)
        # What was damaged is kept.
        assert [p.name for p in (broken.data / "quarantine").iterdir()
                if p.name.startswith("000001-")]
        # The repaired one is as good as any: with one of the others gone its ack is
        # one of the two that count, and the records are its own.
        cluster.nodes[1].kill()
        run(say(broken, a, b, texts(5, 2 * COUNT)))
        run(all_there(broken, b, texts(2 * COUNT + 5)))
