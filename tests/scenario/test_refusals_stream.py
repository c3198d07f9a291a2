"""Malformed upgrades, frames and messages on the stream: each gets its close code or
its error, and other connections do not notice."""

import asyncio
import base64
import json
import os
import socket
import struct

import cbor2
import pytest

from lib import wire
from lib.checked import WAIT_S
from lib.device import Closed, Device, Refused, Stream, people

KEY = base64.b64encode(bytes(range(16)))
GOOD = {b"Host": b"a", b"Upgrade": b"websocket", b"Connection": b"Upgrade",
        b"Sec-WebSocket-Version": b"13", b"Sec-WebSocket-Key": KEY,
        b"Sec-WebSocket-Protocol": b"quipu.v1.json"}


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * WAIT_S))


@pytest.fixture(autouse=True)
def still_well(node):
    yield
    assert node.process.process.poll() is None, node.process.log

    async def others():
        (a,), = people(node, 1)
        await a.connect(node.address)
        await a.ask("ping")
        await a.close()
    run(others())


class Raw:
    """A WebSocket by hand: every byte is the test's."""

    def __init__(self, node, fields=GOOD, line=b"GET /v1/stream HTTP/1.1",
                 behind=b""):
        self.sock = socket.create_connection((node.host, node.port), WAIT_S)
        lines = [line] + [k + b": " + v for k, v in fields.items()
                          if v is not None]
        self.sock.sendall(b"\r\n".join([*lines, b"", b""]) + behind)
        self.got = b""
        while b"\r\n\r\n" not in self.got:
            part = self.sock.recv(65536)
            assert part, self.got
            self.got += part
        self.head, _, self.got = self.got.partition(b"\r\n\r\n")
        self.status = int(self.head.split(b" ")[1])

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def frame(self, first, payload=b"", mask=True, length=None):
        n = len(payload)
        if length is None:
            length = (bytes([n]) if n < 126 else
                      b"\x7e" + struct.pack(">H", n) if n < 65536 else
                      b"\x7f" + struct.pack(">Q", n))
        key = b"abcd"
        if mask:
            length = bytes([length[0] | 0x80]) + length[1:]
            payload = key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))
        self.sock.sendall(bytes([first]) + length + payload)
        return self

    def _need(self, n):
        while len(self.got) < n:
            part = self.sock.recv(65536)
            if not part:
                raise EOFError
            self.got += part

    def read(self):
        """(first byte, payload) of the server's next frame"""
        self._need(2)
        n, at = self.got[1], 2
        assert n < 128, "a server does not mask"
        if n == 126:
            self._need(4)
            n, at = struct.unpack(">H", self.got[2:4])[0], 4
        elif n == 127:
            self._need(10)
            n, at = struct.unpack(">Q", self.got[2:10])[0], 10
        self._need(at + n)
        first, payload = self.got[0], self.got[at:at + n]
        self.got = self.got[at + n:]
        return first, payload

    def close_code(self):
        """Reads up to the close frame, answers it, and waits for the end."""
        while True:
            first, payload = self.read()
            if first == 0x88:
                break
        self.frame(0x88, payload[:2])
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return struct.unpack(">H", payload[:2])[0]


# ---- the upgrade ----------------------------------------------------------------------

def test_the_accept_is_that_of_the_rfc(node):
    fields = {**GOOD, b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ=="}
    with Raw(node, fields) as w:
        assert w.status == 101
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in w.head
        assert b"Sec-WebSocket-Protocol: quipu.v1.json" in w.head


@pytest.mark.parametrize("change, status, name", [
    ({b"Upgrade": None}, 426, "upgrade-required"),
    ({b"Upgrade": b"h2c"}, 426, "upgrade-required"),
    ({b"Connection": None}, 426, "upgrade-required"),
    ({b"Connection": b"keep-alive"}, 426, "upgrade-required"),
    ({b"Sec-WebSocket-Version": b"8"}, 426, "upgrade-required"),
    ({b"Sec-WebSocket-Version": None}, 426, "upgrade-required"),
    ({b"Sec-WebSocket-Key": None}, 400, "bad-request"),
    ({b"Sec-WebSocket-Key": b"short"}, 400, "bad-request"),
    ({b"Sec-WebSocket-Key": b"!" * 22 + b"=="}, 400, "bad-request"),
    ({b"Sec-WebSocket-Key": b"A" * 24}, 400, "bad-request"),
    ({b"Sec-WebSocket-Protocol": None}, 400, "subprotocol"),
    ({b"Sec-WebSocket-Protocol": b"chat, quipu.v2.json"}, 400, "subprotocol"),
    ({b"Origin": b"http://evil.example"}, 403, "forbidden"),
    ({b"Origin": b"null"}, 403, "forbidden"),
])
def test_an_upgrade_asks_in_full(node, change, status, name):
    with Raw(node, {**GOOD, **change}) as w:
        assert w.status == status
        assert f"/problems/{name}".encode() in w.got or w._need(1) is None
        if status == 426:
            assert b"Sec-WebSocket-Version: 13" in w.head


@pytest.mark.parametrize("change", [
    {b"Origin": b"http://a"},
    {b"Connection": b"keep-alive, Upgrade"},
    {b"Upgrade": b"WebSocket"},
    {b"Sec-WebSocket-Protocol": b"chat, quipu.v1.cbor, quipu.v1.json"},
])
def test_upgrades_in_other_words(node, change):
    with Raw(node, {**GOOD, **change}) as w:
        assert w.status == 101


def test_http_1_0_cannot_upgrade(node):
    with Raw(node, line=b"GET /v1/stream HTTP/1.0") as w:
        assert w.status == 426


def test_bytes_right_behind_the_head_are_not_lost(node):
    hello = json.dumps({"t": 1, "id": 1, "token": "x", "agent": "a",
                        "window": 1}).encode()
    masked = bytes(b ^ 0 for b in hello)
    behind = bytes([0x81, 0x80 | len(masked)]) + bytes(4) + masked
    with Raw(node, behind=behind) as w:
        assert w.status == 101
        first, payload = w.read()
        assert first == 0x81
        assert json.loads(payload)["problem"]["type"] == "/problems/token-invalid"
        assert w.close_code() == 4401


# ---- frames (RFC 6455 5) ------------------------------------------------------------------

FRAMES = {
    "not masked": (lambda w: w.frame(0x81, b"{}", mask=False), 1002),
    "reserved bit": (lambda w: w.frame(0xc1, b"{}"), 1002),
    "reserved opcode": (lambda w: w.frame(0x83, b"{}"), 1002),
    "reserved control": (lambda w: w.frame(0x8b, b"{}"), 1002),
    "fragmented ping": (lambda w: w.frame(0x09, b"x"), 1002),
    "long ping": (lambda w: w.frame(0x89, b"x" * 126), 1002),
    "length in two bytes": (lambda w: w.frame(0x81, b"{}", length=b"\x7e\0\2"),
                            1002),
    "length in eight bytes": (lambda w: w.frame(
        0x81, b"x" * 200, length=b"\x7f" + struct.pack(">Q", 200)), 1002),
    "negative length": (lambda w: w.frame(
        0x81, b"", length=b"\x7f" + struct.pack(">Q", 1 << 63)), 1002),
    "continues nothing": (lambda w: w.frame(0x80, b"{}"), 1002),
    "begins inside": (lambda w: w.frame(0x01, b"{").frame(0x81, b"}"), 1002),
    "text is not UTF-8": (lambda w: w.frame(0x81, b"\xff"), 1007),
    "text ends in a character": (lambda w: w.frame(0x81, b"\xc3"), 1007),
    "surrogate": (lambda w: w.frame(0x81, b"\xed\xa0\x80"), 1007),
    "too large": (lambda w: w.frame(
        0x81, b"", length=b"\x7f" + struct.pack(">Q", (128 << 10) + 1)), 1009),
    "too large in pieces": (lambda w: [
        w.frame(0x01, b" " * 100000), w.frame(0x80, b" " * 100000)], 1009),
    "close of one byte": (lambda w: w.frame(0x88, b"\x03"), 1002),
    "close with a code of nobody": (lambda w: w.frame(0x88, b"\x03\xed"), 1002),
    "close reason not UTF-8": (lambda w: w.frame(0x88, b"\x03\xe8\xff"), 1007),
    "binary on text": (lambda w: w.frame(0x82, b"\xa0"), 4400),
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_bad_frame_closes_with_its_code(node, case):
    act, code = FRAMES[case]
    with Raw(node) as w:
        assert w.status == 101
        act(w)
        assert w.close_code() == code


def test_good_frames_in_odd_pieces(node):
    with Raw(node) as w:
        w.frame(0x89, b"are you there")
        assert w.read() == (0x8a, b"are you there")
        w.frame(0x01, b'{"t":1,').frame(0x89, b"x").frame(0x00, b"")
        assert w.read() == (0x8a, b"x")
        for byte in b'"id":9,"token":"","agent":"","window":1':
            w.frame(0x00, bytes([byte]))
        w.frame(0x80, b"}")
        first, payload = w.read()
        assert first == 0x81
        error = json.loads(payload)
        assert error["id"] == 9 and error["code"] == 4401
        assert error["problem"]["type"] == "/problems/token-missing"
        assert w.close_code() == 4401


def test_a_close_is_answered_with_its_code(node):
    with Raw(node) as w:
        w.frame(0x88, struct.pack(">H", 1000) + b"done")
        assert w.read() == (0x88, struct.pack(">H", 1000))


# ---- messages -------------------------------------------------------------------------------

TEXTS = {
    "empty": "", "not JSON": "hello", "an array": "[]", "cut": '{"t":1',
    "no t": '{"id":1}', "t is text": '{"t":"hello"}', "t twice":
    '{"t":1,"t":1}', "id twice": '{"t":1,"id":1,"id":2,"token":"","agent":"",'
    '"window":1}', "a float": '{"t":1,"id":1.5}', "an exponent":
    '{"t":1,"id":1e3}', "negative": '{"t":1,"id":-1}', "leading zero":
    '{"t":1,"id":01}', "2^53": '{"t":1,"id":9007199254740992}', "missing field":
    '{"t":1,"id":1}', "wrong type": '{"t":1,"id":1,"token":1,"agent":"",'
    '"window":1}', "agent too long": json.dumps(
        {"t": 1, "id": 1, "token": "", "agent": "a" * 65, "window": 1}),
    "window too large": '{"t":1,"id":1,"token":"","agent":"","window":1025}',
    "window zero": '{"t":1,"id":1,"token":"","agent":"","window":0}',
    "deep": '{"t":1,"x":' + "[" * 100 + "]" * 100 + "}",
    "trailing": '{"t":17,"id":1}{}', "another frame first": '{"t":17,"id":1}',
    "a server's frame": '{"t":4,"id":1}', "unknown frame first": '{"t":99,"id":1}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_bad_first_text_ends_the_session(node, case):
    async def talk():
        stream = await Stream.open(node.address, wire.JSON)
        await stream.socket.send(TEXTS[case])
        ended = await stream.ended()
        assert ended.code == 4400, ended
        assert ended.error["problem"]["type"] == "/problems/bad-frame"
    run(talk())


def hello_bytes(**change):
    frame = {0: 1, 1: 1, 2: "", 3: "", 6: 1}
    frame.update(change.get("more", {}))
    return cbor2.dumps(frame, canonical=True)


BYTES = {
    "empty": b"", "cut": hello_bytes()[:-1], "trailing": hello_bytes() + b"\0",
    "not a map": b"\x80", "text keys": b"\xa1\x61t\x01",
    "order": b"\xa5\x01\x01\x00\x01\x02\x60\x03\x60\x06\x01",
    "double key": b"\xa6\x00\x01\x01\x01\x01\x01\x02\x60\x03\x60\x06\x01",
    "open map": b"\xbf\x00\x01\x01\x01\x02\x60\x03\x60\x06\x01\xff",
    "open text": b"\xa5\x00\x01\x01\x01\x02\x7f\xff\x03\x60\x06\x01",
    "tag": b"\xa5\x00\xc1\x01\x01\x01\x02\x60\x03\x60\x06\x01",
    "float": b"\xa5\x00\x01\x01\xf9\x3c\x00\x02\x60\x03\x60\x06\x01",
    "negative": b"\xa5\x00\x01\x01\x20\x02\x60\x03\x60\x06\x01",
    "number not shortest": b"\xa5\x00\x01\x01\x18\x01\x02\x60\x03\x60\x06\x01",
    "length not shortest": b"\xa5\x00\x01\x01\x01\x02\x78\x00\x03\x60\x06\x01",
    "2^53": hello_bytes(more={1: 1 << 53}),
    "null": b"\xa5\x00\x01\x01\xf6\x02\x60\x03\x60\x06\x01",
    "text not UTF-8": b"\xa5\x00\x01\x01\x01\x02\x60\x03\x61\xff\x06\x01",
    "wrong type": hello_bytes(more={2: b"bytes"}),
    "a length that is not there": b"\xa5\x00\x01\x01\x01\x02\x7a\xff\xff\xff\xff",
    "deep": hello_bytes(more={99: [[[[[[[[[[1]]]]]]]]]]}),
    "missing field": cbor2.dumps({0: 1, 1: 1}),
}


@pytest.mark.parametrize("case", BYTES)
def test_bad_first_bytes_end_the_session(node, case):
    async def talk():
        stream = await Stream.open(node.address, wire.CBOR)
        await stream.socket.send(BYTES[case])
        ended = await stream.ended()
        assert ended.code == 4400, ended
        assert ended.error["problem"]["type"] == "/problems/bad-frame"
    run(talk())


def test_unknown_fields_are_skipped(node):
    async def talk():
        stream = await Stream.open(node.address, wire.CBOR)
        await stream.socket.send(hello_bytes(more={200: {"x": [1, b"y"]}}))
        ended = await stream.ended()
        assert ended.error["problem"]["type"] == "/problems/token-missing"
    run(talk())


async def error_of(device, name, **fields):
    with pytest.raises(Refused) as e:
        await device.ask(name, **fields)
    return e.value.name


def test_a_session_refuses_and_lives_on(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        good = a.compose(b.account, b"x")
        for change in ({"seq": 0}, {"after": 1}, {"after": 2}, {"to": 0},
                       {"class": 7}, {"class": 0},
                       {"class": 6}, {"ttl": 31 * 86400},
                       {"class": 2, "ttl": 8 * 86400}, {"class": 5, "ttl": 121},
                       {"class": 0, "body": b"", "ttl": 1 << 31}):
            assert await error_of(a, "send", **{**good, **change}) == \
                "bad-request", change
        assert await error_of(a, "send", **{**good, "to": 0xdeadbeef}) == \
            "unknown-recipient"
        assert await error_of(a, "send", **{**good, "seen": 1 << 50}) == "clock"
        assert await error_of(a, "sync", limit=0, cursor=0) == "bad-request"
        assert await error_of(a, "sync", limit=1) == "bad-request"
        assert await error_of(a, "sync", limit=1, cursor=0, before=1) == \
            "bad-request"
        assert await error_of(a, "watch", accounts=[1]) == "unknown-frame"
        await a.repeat(good)
        await a.ask("ping")
        await a.close()
    run(talk())


@pytest.mark.parametrize("name, fields", [
    ("hello", {"id": 5, "token": "x", "agent": "", "window": 1}),
    ("recv", {"cursor": 1}),
    ("credit", {"window": 0}),
])
def test_what_a_session_ends_for(node, name, fields):
    async def talk():
        (a,), = people(node, 1)
        await a.connect(node.address)
        await a.stream.put(name, **fields)
        await a.until(lambda: a.closed)
        assert a.closed.code == 4400
    run(talk())


def test_too_many_open_sends_are_told_so(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        sends = [a.compose(b.account, os.urandom(60000)) for _ in range(40)]
        answers = await asyncio.gather(*[a.repeat(s) for s in sends],
                                       return_exceptions=True)
        names = {e.name for e in answers if isinstance(e, Refused)}
        assert names <= {"too-many-open", "gap"}
        for send in sends:
            await a.repeat(send)
        await b.connect(node.address)
        await b.wait_inbox(40)
        assert b.bodies() == [s["body"] for s in sends]
        await a.close()
        await b.close()
    run(talk())


@pytest.mark.parametrize("cursor, epoch, reason", [
    (7, 1, "ahead"), (0, 2, "epoch")])
def test_a_resume_that_cannot_be_is_named(node, cursor, epoch, reason):
    async def talk():
        (a,), = people(node, 1)
        a.cursor, a.epoch = cursor, epoch
        welcome = await a.connect(node.address)
        assert welcome["resumed"] is False and welcome["reason"] == reason
        await a.close()
    run(talk())


def test_a_session_without_records_ends_as_others_do(node):
    async def talk():
        (a, b), = people(node, 1, devices=2)
        a.cursor, a.epoch = 7, 1
        b.cursor, b.epoch = 7, 1
        assert (await a.connect(node.address))["reason"] == "ahead"
        assert (await b.connect(node.address))["reason"] == "ahead"
        again = Device(a.account, a.number, a.token)
        await again.connect(node.address)
        await a.until(lambda: a.closed)
        assert a.closed.code == 4409
        node.admin("device-remove", account=f"{b.account:016x}",
                   device=b.number)
        await b.until(lambda: b.closed)
        assert b.closed.code == 4403
        await again.close()
    run(talk())


def test_storage_that_went_back_in_time_is_named(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        await b.connect(node.address)
        for i in range(3):
            await a.send(b.account, b"x")
        await b.wait_inbox(3)
        await b.close()
        old = Device(b.account, b.number, b.token)
        for _ in range(200):
            old.cursor, old.epoch = 1, 1
            welcome = await old.connect(node.address)
            await old.close()
            if not welcome["resumed"]:
                break
        assert welcome["reason"] == "rollback"
        with pytest.raises(Closed):
            await old.stream.put("ping", id=1)
        await a.close()
    run(talk())
