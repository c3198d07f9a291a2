"""A disk that fills up under a running node: it says so, refuses, lives, and comes back
by itself (docs/operations.md, "Full disks")."""

import asyncio
import base64
import json
import os
import subprocess
import urllib.error
import urllib.request

import pytest

from lib import space
from lib.checked import BUILD, WAIT_S
from lib.device import Refused, people
from lib.server import Node, until

SETTINGS = ["journal.file_size=1MiB", "journal.max=8MiB", "journal.queue=2MiB",
            "shards.count=2", "checkpoint.age_s=1"]
SIZE = 64 << 20


@pytest.fixture
def small():
    with space.Space(SIZE) as made:
        yield made


@pytest.fixture
def node(small):
    node = Node(small.path / "data", SETTINGS, wrap=small.wrap)
    node.args[1] = f"{small.inside}/data"
    node.start()
    try:
        yield node
        assert node.stop()
    finally:
        node.kill()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 4 * WAIT_S))


def leave(small, free):
    """A file of somebody else's takes all but so many bytes; None: it is gone."""
    filler = small.path / "filler"
    filler.unlink(missing_ok=True)
    if free is not None:
        with open(filler, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, small.free() - free)


def wait_level(node, name):
    until(lambda: node.admin("status")["disk"]["level"] == name, f"level {name}")


def metric(node, name):
    with urllib.request.urlopen(f"http://{node.address}/metrics", timeout=WAIT_S) as a:
        for line in a.read().decode().splitlines():
            if line.split(" ")[0] == name:
                return float(line.split(" ")[1])
    raise AssertionError(name)


def rest(node, device, method, path, body):
    """Status, Retry-After, problem."""
    request = urllib.request.Request(
        f"http://{node.address}{path}", json.dumps(body).encode(),
        {"Authorization": f"Bearer {device.token}",
         "Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return answer.status, None, None
    except urllib.error.HTTPError as e:
        return e.code, e.headers["Retry-After"], json.load(e)


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def put(node, device, fields):
    body = {**fields, "mid": text(fields["mid"]), "body": text(fields["body"])}
    return rest(node, device, "PUT", "/v1/messages/%016x" % body.pop("to"), body)


async def refused(device, fields):
    with pytest.raises(Refused) as e:
        await device.repeat(fields)
    assert e.value.name == "disk-full" and e.value.problem["status"] == 503
    assert e.value.frame["retry_ms"] >= 1000


def test_refused_then_read_only_then_back(small, node):
    (a,), (b,) = people(node, 2)
    bodies = [os.urandom(5000) for _ in range(60)]

    async def story():
        await a.connect(node.address)
        await b.connect(node.address)
        assert node.admin("status")["disk"]["level"] == "ok"
        for body in bodies[:40]:
            await a.send(b.account, body)
        await b.wait_inbox(40)

        leave(small, SIZE // 6)
        wait_level(node, "warn")
        await a.send(b.account, bodies[40])

        leave(small, SIZE // 10)
        wait_level(node, "refuse")
        fields = a.compose(b.account, bodies[41])
        await refused(a, fields)
        status, retry, problem = put(node, a, fields)
        assert status == 503 and int(retry) >= 1
        assert problem["type"] == "/problems/disk-full"
        # Cursors, checkpoints, removals.
        await b.wait_inbox(41)
        applied = node.admin("status")["journal"]["entries"]
        assert rest(node, b, "POST", "/v1/sync/ack", {"cursor": 41})[0] == 204
        assert node.admin("status")["journal"]["entries"] > applied
        node.admin("device-remove", account="%016x" % node_third, device=1)
        assert metric(node, "quipu_disk_level") == 2
        assert metric(node, "quipu_disk_size_bytes") == SIZE
        assert 0 < metric(node, "quipu_disk_free_bytes") < SIZE / 8
        assert metric(node, 'quipu_sends_refused_total{reason="disk-full"}') >= 2

        # To the last byte: nothing is written that could fail.
        leave(small, 64 << 10)
        wait_level(node, "readonly")
        await refused(a, fields)
        shown = subprocess.run(
            [BUILD / "quipuctl", "--socket", node.data / "admin.sock", "status"],
            capture_output=True, text=True, timeout=WAIT_S)
        assert shown.returncode == 0
        assert "disk.level" in shown.stdout and "readonly" in shown.stdout
        assert node.process.process.poll() is None

        leave(small, None)
        wait_level(node, "ok")
        await a.repeat(fields)
        for body in bodies[42:]:
            await a.send(b.account, body)
        await b.wait_inbox(60)
        assert b.bodies() == bodies
        await a.close()
        await b.close()

    ((third,),) = people(node, 1)
    node_third = third.account
    run(story())
    log = node.process.log
    for level in ("warn", "refuse", "readonly", "ok"):
        assert f"event=disk_level level={level} " in log
    assert "fatal" not in log


def test_its_own_messages_fill_it(small, node):
    """Until it refuses, for a while longer, over a start, and then again."""
    (a,), (b,) = people(node, 2)
    acked = []

    async def fill():
        await a.connect(node.address)
        leave(small, SIZE // 4)
        try:
            while len(acked) < 3000:
                body = os.urandom(20000)
                fields = a.compose(b.account, body)
                await a.repeat(fields)
                acked.append(body)
        except Refused as e:
            assert e.name == "disk-full"
        assert 100 < len(acked) < 3000
        for _ in range(20):
            await refused(a, fields)
        return fields, body

    fields, body = run(fill())
    a.reader = None
    assert small.free() > SIZE // 32
    node.kill()
    node.start()

    async def again():
        await a.connect(node.address)
        await refused(a, fields)
        leave(small, None)
        wait_level(node, "ok")
        await a.repeat(fields)
        acked.append(body)
        await b.connect(node.address, window=50)
        await b.wait_inbox(len(acked))
        assert b.bodies() == acked
        await a.close()
        await b.close()
    run(again())
