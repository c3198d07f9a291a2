"""What is acknowledged leaves the disk, who comes late is told, what is erased is gone
from every segment (docs/operations.md, "Retention")."""

import asyncio
import os
import subprocess

import pytest

from lib.checked import BUILD, WAIT_S
from lib.device import Closed, Refused, people
from lib.server import AdminError, Node, until

SETTINGS = ["shards.count=1", "store.segment_size=64KiB", "checkpoint.age_s=1",
            "journal.file_size=1MiB", "journal.max=8MiB", "journal.queue=2MiB",
            "retain.enabled=yes", "retain.period_s=1", "retain.rate=64MiB",
            "retain.roll_s=1"]
SIZE = 3000


@pytest.fixture
def node(folder):
    made = Node(folder / "data", SETTINGS).start()
    try:
        yield made
        assert made.stop()
    finally:
        made.kill()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 6 * WAIT_S))


def shard(node):
    return node.admin("retention")["shards"][0]


def segments(node):
    return sorted((node.data / "shards").glob("*/seg/*.seg"))


def on_disk(node, body):
    return any(body in path.read_bytes() for path in segments(node))


def test_acknowledged_records_go_and_a_retry_is_still_known(node):
    (a,), (b,) = people(node, 2)

    async def story():
        await a.connect(node.address)
        await b.connect(node.address)
        for _ in range(99):
            await a.send(b.account, os.urandom(SIZE))
        # Of those that a device may still ask for.
        first = a.compose(b.account, os.urandom(SIZE))
        ack = await a.repeat(first)
        for _ in range(51):
            await a.send(b.account, os.urandom(SIZE))
        await b.wait_inbox(151)
        until(lambda: shard(node)["oldest"] > ack["offset"], "the trim")
        until(lambda: len(segments(node)) <= 3, "the files of what was trimmed")
        again = await a.repeat(first)
        assert (again["lamport"], again["offset"]) == (ack["lamport"], ack["offset"])
        assert again.get("dup")
        await a.close()
        await b.close()

    run(story())
    assert node.admin("retention")["enabled"]
    assert shard(node)["freed"] > 150 * SIZE / 2
    shown = subprocess.run(
        [BUILD / "quipuctl", "--socket", node.data / "admin.sock", "retention",
         "status"], capture_output=True, text=True, timeout=WAIT_S)
    assert shown.returncode == 0 and "live_%" in shown.stdout


def test_who_comes_late_is_told(node):
    (a,), (b,) = people(node, 2)
    node.admin("retention-ttl", seconds=2)

    async def story():
        await a.connect(node.address)
        await b.connect(node.address)
        await a.send(b.account, b"seen")
        await b.wait_inbox(1)
        await b.close()
        for _ in range(60):
            await a.send(b.account, os.urandom(SIZE))
        until(lambda: shard(node)["oldest"] > 40, "the trim of what is too old")
        welcome = await b.connect(node.address)
        assert welcome["resumed"] and welcome["truncated"] > 2
        await a.close()
        await b.close()

    run(story())


def test_an_erased_account(node):
    (a,), (b,) = people(node, 2)
    # It packs to nothing and so would not be found: no letter twice.
    body = os.urandom(SIZE)
    account = "%016x" % b.account

    async def story():
        await a.connect(node.address)
        await a.send(b.account, body)
        assert on_disk(node, body)
        node.admin("account-hold", account=account, on=True)
        with pytest.raises(AdminError) as e:
            node.admin("account-erase", account=account)
        assert e.value.error == "held"
        node.admin("account-hold", account=account, on=False)
        node.admin("account-erase", account=account)
        with pytest.raises(AdminError) as e:
            node.admin("account-erase", account=account)
        assert e.value.error == "exists"
        until(lambda: not on_disk(node, body), "the content's end")
        with pytest.raises(Refused) as e:
            await a.send(b.account, b"too late")
        assert e.value.name == "unknown-recipient"
        await a.close()

    run(story())
    with pytest.raises(Closed) as e:
        run(b.connect(node.address))
    assert (e.value.code, e.value.reason) == (4403, "device-removed")
