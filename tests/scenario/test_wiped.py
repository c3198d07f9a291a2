"""A node that lost its disk comes back under its old number: nobody hears it, its vote
never counts, and it says so; with its own disk it is back."""

import asyncio
import json
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest

from lib.checked import BUILD, WAIT_S
from lib.device import people
from lib.server import AdminError, Cluster, until


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * WAIT_S))


@pytest.fixture
def three():
    with Cluster(settings=["gateway.send_timeout_ms=3s"]) as made:
        yield made


def refused_by(node):
    return node.admin("status")["disk_refused"]["by"]


def refuses(node):
    return node.admin("status")["disk_refused"].get("peers", [])


def readyz(node):
    try:
        with urllib.request.urlopen(f"http://{node.address}/readyz",
                                    timeout=WAIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def leads(node):
    return any(s["role"] == "leader" for s in node.admin("shards")["shards"])


def takes_nothing(node):
    """What is asked of it waits for a leader until the time for it is over, which is
    several election timeouts."""
    with pytest.raises(AdminError):
        node.admin("account-add")
    return not leads(node)


async def talk(node, a, b, bodies):
    await a.connect(node.address)
    for body in bodies:
        await a.send(b.account, body)
    await a.close()


async def look(node, b, bodies):
    b.cursor = None
    await b.connect(node.address)
    await b.wait_inbox(len(bodies))
    assert b.bodies() == bodies
    await b.close()


def wipe(cluster, n):
    """Kills the node and gives it an empty folder; the old one is kept aside."""
    node = cluster.nodes[n]
    node.kill()
    node.data.rename(cluster.folder / f"lost-{n}")
    return node


def test_a_wiped_disk_is_heard_by_nobody(three):
    one, two, three_ = three.nodes.values()
    (a,), (b,) = people(one, 2)
    said = [b"%d" % i for i in range(20)]
    run(talk(one, a, b, said))

    wipe(three, 3).start(wait=False)
    three_.process.wait_line("event=folder_made node=3 joins=no")
    three_.process.wait_line("event=disk_refused peer=1 .*node 3 came with another disk")
    until(lambda: refused_by(three_) == 2, "both refuse it")
    until(lambda: refuses(one) == [3] and refuses(two) == [3], "both say so")
    one.process.wait_line("event=peer_disk_refused peer=3 .*quipuctl node replace 3")
    status, text = readyz(three_)
    assert status == 503 and "disk-refused" in text and "node replace 3" in text
    found = subprocess.run([BUILD / "quipuctl", "-d", one.data, "-d", three_.data, "--json",
                            "doctor"], capture_output=True, text=True, timeout=2 * WAIT_S)
    wheres = [f["where"] for f in json.loads(found.stdout)["findings"]
              if f["id"] == "disk-refused"]
    assert wheres == ["node 3"]

    # The others go on, also after the wiped one started again.
    three_.stop()
    three_.start(wait=False)
    three_.process.wait_line("event=disk_refused")
    more = [b"more %d" % i for i in range(20)]
    three.nodes = {1: one, 2: two}
    three.wait_ready()
    run(talk(two, a, b, more))

    # One of two with a memory is no majority, whatever the wiped one would say.
    two.kill()
    until(lambda: not leads(one), "the majority is gone")
    assert takes_nothing(one) and takes_nothing(three_)
    two.start(wait=False)
    three.wait_ready()
    run(look(one, b, said + more))

    # It was only not mounted.
    three_.stop()
    shutil.rmtree(three_.data)
    (three.folder / "lost-3").rename(three_.data)
    three_.start()
    three.nodes = {1: one, 2: two, 3: three_}
    three.wait_ready()
    assert refuses(one) == refuses(two) == [] and refused_by(three_) == 0
    run(look(three_, b, said + more))


def test_two_wiped_disks_are_no_cluster(three):
    """They are a majority, and new to each other; who remembers keeps them apart."""
    one, two, three_ = three.nodes.values()
    (a,), (b,) = people(one, 2)
    said = [b"%d" % i for i in range(5)]
    run(talk(one, a, b, said))
    for node in wipe(three, 2), wipe(three, 3):
        node.start(wait=False)
    for node in two, three_:
        node.process.wait_line("event=disk_refused")
    until(lambda: refuses(one) == [2, 3], "both are known")
    for node in two, three_:
        assert takes_nothing(node)
        node.stop()
        shutil.rmtree(node.data)
        (three.folder / f"lost-{node.data.name[-1]}").rename(node.data)
        node.start(wait=False)
    three.wait_ready()
    run(look(two, b, said))
