"""Limits of the gateway: numbers and times that keep one visitor from the others."""

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest

from lib.checked import CHECKED, WAIT_S
from lib.device import Stream, people
from lib.server import Node, until


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * WAIT_S))


def connect(node):
    return socket.create_connection((node.host, node.port), 30)


def get(s, path=b"/livez"):
    s.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    return s.recv(65536)


def is_closed(s, timeout):
    """Seconds until the server closed it."""
    s.settimeout(timeout)
    begun = time.monotonic()
    try:
        while s.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - begun


def test_sockets_have_a_number(folder):
    node = Node(folder / "data", ["gateway.max_connections=5"]).start()
    try:
        held = [connect(node) for _ in range(5)]
        for s in held:
            assert get(s).startswith(b"HTTP/1.1 200")
        with connect(node) as over:
            over.settimeout(20)
            try:
                assert get(over) == b""
            except (ConnectionResetError, BrokenPipeError):
                pass
        held.pop().close()

        def again():
            with connect(node) as s:
                try:
                    return get(s).startswith(b"HTTP/1.1 200")
                except (ConnectionResetError, BrokenPipeError):
                    return False
        until(again, "room for one more")

        async def stream():
            held.pop().close()
            s = await Stream.open(node.address)
            await s.close()
        until(lambda: node.admin("status")["http"] == 4, "given back")
        run(stream())
        for s in held:
            s.close()
        node.stop()
    finally:
        node.kill()


def test_clients_leave_descriptors_to_the_log(folder):
    # Without one a checkpoint cannot end, and the process would have to.
    node = Node(folder / "data", ["shards.count=1", "checkpoint.age_s=1",
                                  "store.segment_size=64KiB"],
                wrap=["sh", "-c", 'ulimit -n 300; exec "$@"', "sh"]).start()
    held = []

    def checkpoints():
        return node.admin("stats")["stats"]["checkpoints"]

    try:
        (a,), (b,) = people(node, 2)
        files = Path(f"/proc/{node.process.process.pid}/fd")

        async def talk():
            await a.connect(node.address)
            for _ in range(320):
                held.append(socket.create_connection((node.host, node.port), 30))
            before = checkpoints()
            for _ in range(100):
                await a.send(b.account, bytes(3000))
            return before

        before = run(talk())
        until(lambda: checkpoints() > before, "a checkpoint")
        assert len(list(files.iterdir())) < 300
        assert len(list((folder / "data/shards/0000-1/seg").glob("*.seg"))) > 3
        assert get(held[0]).startswith(b"HTTP/1.1 200")
    finally:
        for s in held:
            s.close()
        node.kill()


def test_times_of_heads_and_bodies_are_absolute(node):
    """A byte now and then keeps nothing open: 10 s for a head."""
    (a,), = people(node, 1)
    slow, silent, idle = connect(node), connect(node), connect(node)
    with slow, silent, idle:
        assert get(idle).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        text = b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1000
        ended = None
        slow.settimeout(0.5)
        for byte in text:
            try:
                slow.sendall(bytes([byte]))
                if slow.recv(1) == b"":
                    ended = time.monotonic() - begun
            except TimeoutError:
                pass
            except (ConnectionResetError, BrokenPipeError):
                ended = time.monotonic() - begun
            if ended or time.monotonic() - begun > 30:
                break
        assert ended and 9 < ended < 15
        assert is_closed(silent, 10) < 5
        # Between requests there is more time.
        assert get(idle).startswith(b"HTTP/1.1 200")


def test_a_reader_that_does_not_read_is_not_waited_for(folder):
    """Memory of a stalled socket is bounded, and others are served meanwhile."""
    node = Node(folder / "data").start()

    async def talk():
        (a,), (b,), (c,) = people(node, 3)
        await a.connect(node.address)
        body = bytes(50000)
        stalled = await Stream.open(node.address)
        await stalled.put("hello", id=1, token=b.token, agent="x", window=1024)
        stalled.socket.transport.pause_reading()
        for _ in range(40):
            await asyncio.gather(*[a.send(b.account, body) for _ in range(15)])
        await c.connect(node.address)
        await a.send(c.account, b"meanwhile")
        await c.wait_inbox(1)
        # 30 MB wait in the log for b; of them little is in memory.
        with open(f"/proc/{node.process.process.pid}/status") as f:
            rss = next(int(line.split()[1]) for line in f
                       if line.startswith("VmRSS"))
        # (A sanitizer keeps what was freed.)
        assert rss < 150 * 1024 or CHECKED, f"{rss} KiB"
        stalled.socket.transport.resume_reading()
        names = set()
        while "deliver" not in names:
            names.add((await stalled.get())[0])
        stalled.socket.transport.abort()
        await b.connect(node.address)
        await b.wait_inbox(600)
        assert all(x == body for x in b.bodies())
        for device in (a, b, c):
            await device.close()
    try:
        run(talk())
    finally:
        node.kill()


def test_a_connection_serves_many_requests(node):
    with connect(node) as s:
        for _ in range(300):
            assert get(s, b"/readyz").startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(node):
    paths = [b"/livez", b"/nothing", b"/readyz", b"/.well-known/jwks.json"] * 5
    with connect(node) as s:
        s.sendall(b"".join(b"GET " + p + b" HTTP/1.1\r\nHost: a\r\n\r\n"
                           for p in paths[:-1]) +
                  b"GET " + paths[-1] +
                  b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = b""
        while True:
            part = s.recv(65536)
            if not part:
                break
            got += part
    want = {b"/livez": b"live", b"/nothing": b"No such resource",
            b"/readyz": b"ready", b"/.well-known/jwks.json": b"Ed25519"}
    at = 0
    for path in paths:
        at = got.index(want[path], at) + 1
    assert got.count(b"HTTP/1.1 ") == len(paths)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_head_is_get_without_a_body(node, method):
    with connect(node) as s:
        s.sendall(method.encode() + b" /livez HTTP/1.1\r\nHost: a\r\n"
                  b"Connection: close\r\n\r\n")
        got = b""
        while True:
            part = s.recv(65536)
            if not part:
                break
            got += part
        assert b"Content-Length: 5" in got
        assert got.endswith(b"live\n") == (method == "GET")


def test_a_request_whose_client_left_is_forgotten(node):
    (a,), = people(node, 1)
    before = node.admin("status")["http"]
    for _ in range(20):
        with connect(node) as s:
            s.sendall(b"GET /v1/sync?cursor=0&wait=25 HTTP/1.1\r\nHost: a\r\n"
                      b"Authorization: Bearer " + a.token.encode() +
                      b"\r\n\r\n")
    # Long before the poll would end.
    until(lambda: node.admin("status")["http"] <= before, "given back", 10)
    assert json.loads(get(connect(node), b"/.well-known/jwks.json")
                      .split(b"\r\n\r\n")[1])
