"""TLS for clients: REST and streams over it, and what they cost.  A stream leaves the
HTTP parser and its socket pair: one descriptor is left of it."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap

import pytest

from lib import certs, wire
from lib.checked import WAIT_S
from lib.device import Closed, Stream, people
from lib.server import Node, drop_folder, new_folder, until

BODY_MAX = 60 << 10


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * WAIT_S))


@pytest.fixture(scope="module")
def secure():
    """A node with a certificate, and what its clients need."""
    path = new_folder()
    certs.ca(path)
    certs.leaf(path, "web", "localhost", addresses=["127.0.0.1"])
    made = Node(path / "data", [f"gateway.tls_cert={path}/web.crt",
                                f"gateway.tls_key={path}/web.key"]).start()
    made.ca = path / "ca.crt"
    made.context = ssl.create_default_context(cafile=str(made.ca))
    made.admin("status")    # on a connection that stays
    made.idle = descriptors(made)
    yield made
    try:
        made.finish()
    finally:
        drop_folder(path)


def options(node):
    return {"scheme": "wss", "ssl": node.context}


def descriptors(node):
    """Sockets; files of the log come and go."""
    folder = f"/proc/{node.process.process.pid}/fd"
    n = 0
    for name in os.listdir(folder):
        try:
            n += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:
            pass
    return n


def quiet(node):
    """How many when nobody is connected: clients of the test before have gone."""
    until(lambda: descriptors(node) == node.idle, "the last test's sockets closed")
    return node.idle


UPGRADE = (b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
           b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
           b"Sec-WebSocket-Protocol: quipu.v1.json\r\n\r\n")


def frame(op, payload, final=True):
    """A client's frame, its mask being zeros."""
    n = len(payload)
    size = (bytes([0x80 | n]) if n < 126 else
            b"\xfe" + n.to_bytes(2, "big") if n < 65536 else
            b"\xff" + n.to_bytes(8, "big"))
    return bytes([(0x80 if final else 0) | op]) + size + bytes(4) + payload


def connect(node):
    plain = socket.create_connection((node.host, node.port), WAIT_S)
    return node.context.wrap_socket(plain, server_hostname="localhost",
                                    suppress_ragged_eofs=False)


def read_until(s, mark, got=b""):
    while mark not in got:
        part = s.recv(65536)
        assert part, got
        got += part
    return got


# ---- REST ---------------------------------------------------------------------------

def test_rest_by_curl(secure):
    (a,), (b,) = people(secure, 2)
    body = os.urandom(BODY_MAX)
    send = {"seq": 1, "after": 0, "mid": wire.b64(os.urandom(16)), "seen": 0,
            "class": 1, "body": wire.b64(body)}

    def curl(path, *args, data=None):
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--fail", "--cacert", secure.ca,
             "--max-time", str(WAIT_S), "--tlsv1.3", *args,
             *(["--data-binary", "@-"] if data else []),
             f"https://localhost:{secure.port}{path}"],
            input=data, capture_output=True, timeout=2 * WAIT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def bearer(device):
        return "--header", f"Authorization: Bearer {device.token}"

    answer = curl(f"/v1/messages/{b.account:016x}", "--request", "PUT",
                  *bearer(a), "--header", "Content-Type: application/json",
                  "--header", "Expect:", data=json.dumps(send).encode())
    assert json.loads(answer)["offset"] >= 0
    page = json.loads(curl("/v1/sync?cursor=0", *bearer(b)))
    assert [wire.unb64(r["body"]) for r in page["items"]] == [body]
    # Two requests over one connection.
    each = curl("/livez")
    assert each and curl("/livez", "--write-out", "%{num_connects}\n",
                         f"https://localhost:{secure.port}/livez") == (
        each + b"1\n" + each + b"0\n")


def test_older_tls_is_refused(secure):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(secure.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((secure.host, secure.port), WAIT_S) as plain:
        with pytest.raises(ssl.SSLError, match="(?i)protocol.version|alert"):
            old.wrap_socket(plain, server_hostname="localhost")


def test_bad_heads_are_refused_with_a_problem(secure):
    before = quiet(secure)
    for status, head in (
            (400, b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n"),
            (400, b"GET /livez HTTP/1.1\nHost: a\n\n"),
            (431, b"GET /livez HTTP/1.1\r\nX: " + b"a" * 100000),
            (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")):
        with connect(secure) as s:
            s.sendall(head + b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            got = b""
            while part := s.recv(65536):    # until close_notify
                got += part
        answer, _, body = got.partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"application/problem+json" in answer
        assert json.loads(body)["status"] == status
        assert b"content-length: %d\r\n" % len(body) in answer.lower() + b"\r\n"
    until(lambda: descriptors(secure) == before, "closed")


# ---- streams -------------------------------------------------------------------------

@pytest.mark.parametrize("protocol", [wire.CBOR, wire.JSON])
def test_large_messages_both_ways(secure, protocol):
    async def talk():
        (a,), (b,) = people(secure, 2)
        for device in (a, b):
            await device.connect(secure.address, protocol, **options(secure))
        bodies = [os.urandom(n) for n in (1, 16384, BODY_MAX)] * 20
        for body in bodies:
            await a.send(b.account, body)
        await b.wait_inbox(len(bodies))
        assert b.bodies() == bodies and b.twice == 0
        for body in (b"x", bodies[2]):
            await b.send(a.account, body)
        await a.wait_inbox(2)
        assert a.bodies() == [b"x", bodies[2]]
        await a.close()
        await b.close()
    run(talk())


def test_a_slow_reader_gets_all(secure):
    """Far more than its socket holds, read when everything has been sent."""
    async def talk():
        (a,), (b,) = people(secure, 2)
        await b.connect(secure.address, **options(secure))
        b.stream.socket.transport.pause_reading()
        await a.connect(secure.address, **options(secure))
        bodies = [os.urandom(BODY_MAX) for _ in range(160)]
        for body in bodies:
            await a.send(b.account, body)
        b.stream.socket.transport.resume_reading()
        await b.wait_inbox(len(bodies))
        assert b.bodies() == bodies and b.twice == 0
        await a.close()
        await b.close()
    run(talk())


def test_a_stream_costs_one_descriptor(secure):
    async def count():
        devices = [d for (d,) in people(secure, 20)]
        before = quiet(secure)
        for device in devices:
            await device.connect(secure.address, **options(secure))
        assert descriptors(secure) - before == len(devices)
        for device in devices[1:]:
            await device.send(devices[0].account, b"still here")
        await devices[0].wait_inbox(len(devices) - 1)
        assert descriptors(secure) - before == len(devices)
        for device in devices:
            await device.close()
        until(lambda: descriptors(secure) == before, "all closed")
    run(count())


def frames(got):
    """(op, payload) of the server's whole frames in `got`."""
    at = 0
    while len(got) - at >= 2:
        n, start = got[at + 1], at + 2
        if n >= 126:
            start += 2 if n == 126 else 8
            n = int.from_bytes(got[at + 2:start], "big")
        if len(got) < start + n:
            break
        yield got[at] & 15, got[start:start + n]
        at = start + n


def test_frames_behind_the_request(secure):
    """One write holds the upgrade, a hello in pieces and many pings."""
    (a,), = people(secure, 1)
    hello = wire.encode("hello", {"id": 1, "token": a.token, "agent": "t",
                                  "window": 16}, wire.JSON).encode()
    pings = [b"first", b"second", *[b"%05d" % i for i in range(9000)]]
    with connect(secure) as s:
        s.sendall(UPGRADE + frame(9, b"first") + frame(1, hello[:9], False) +
                  frame(9, b"second") + frame(0, hello[9:]) +
                  b"".join(frame(9, ping) for ping in pings[2:]))
        got = read_until(s, b"\r\n\r\n")
        head, _, got = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        while True:
            answers = list(frames(got))
            texts = [wire.decode(p.decode())[0] for op, p in answers if op == 1]
            pongs = [p for op, p in answers if op == 10]
            if len(pongs) == len(pings) and len(texts) == 2:
                break
            part = s.recv(65536)
            assert part, answers[-5:]
            got += part
        assert pongs == pings and texts == ["welcome", "caught_up"]


def test_close_frames_and_close_notify(secure):
    before = quiet(secure)
    with connect(secure) as s:
        s.sendall(UPGRADE)
        read_until(s, b"\r\n\r\n")
        s.sendall(frame(8, b"\x03\xe8"))
        assert read_until(s, b"\x88\x02\x03\xe8")
        assert s.recv(10) == b""    # a close_notify: else SSLEOFError
    until(lambda: descriptors(secure) == before, "closed")


class Half:
    """A client that can end its direction of TLS and go on reading."""

    def __init__(self, node):
        self.plain = socket.create_connection((node.host, node.port), WAIT_S)
        self.out, self.come = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = node.context.wrap_bio(self.come, self.out,
                                         server_hostname="localhost")
        self._until_done(self.tls.do_handshake)

    def _until_done(self, call):
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                self.plain.sendall(self.out.read())
                part = self.plain.recv(65536)
                assert part
                self.come.write(part)

    def talk(self, data, mark):
        self.tls.write(data)
        got = b""
        while mark not in got:
            got += self._until_done(lambda: self.tls.read(65536))
        return got

    def last(self, data):
        """data and close_notify in one packet; the sealed bytes that come back."""
        self.tls.write(data)
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.plain.sendall(self.out.read())
        raw = b""
        while part := self.plain.recv(65536):
            raw += part
        self.plain.close()
        return raw


def lengths(raw):
    """What the records in `raw` hold: without heads, types and tags."""
    found = []
    while raw:
        n = int.from_bytes(raw[3:5], "big")
        found.append(n - 17)
        raw = raw[5 + n:]
    return found


def test_their_close_frame_and_end_at_once(secure):
    """A client that is gone as far as TLS goes still gets our close frame."""
    half = Half(secure)
    half.talk(UPGRADE, b"\r\n\r\n")
    assert lengths(half.last(frame(8, b"\x03\xe8"))) == [4, 2]


def test_a_request_and_end_at_once(secure):
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = len(Half(secure).talk(request, b"\r\n\r\n"))
    sizes = lengths(Half(secure).last(request))
    # The answer, longer by the header that it is the last, and close_notify.
    assert sizes[-1] == 2 and sum(sizes[:-1]) >= answer


def test_a_framing_error_is_told(secure):
    with connect(secure) as s:
        s.sendall(UPGRADE)
        read_until(s, b"\r\n\r\n")
        s.sendall(b"\x82\x01x")     # no mask
        got = read_until(s, b"\x03\xea")
        assert b"\x88" in got
        while s.recv(100):
            pass


def test_noise_behind_the_upgrade_ends_it(secure):
    before = quiet(secure)
    s = connect(secure)
    s.sendall(UPGRADE)
    read_until(s, b"\r\n\r\n")
    with socket.socket(fileno=s.detach()) as plain:
        plain.settimeout(WAIT_S)
        plain.sendall(b"no record of TLS at all" * 20)
        try:
            while plain.recv(65536):
                pass
        except ConnectionResetError:
            pass
    until(lambda: descriptors(secure) == before, "closed")


# ---- bad days --------------------------------------------------------------------------

def test_no_hello_in_time(secure):
    async def wait():
        stream = await Stream.open(secure.address, **options(secure))
        closed = await stream.ended()
        assert closed.code == 4408
    run(wait())


CLIENT = """
    import asyncio, os, sys
    sys.path.insert(0, sys.argv[1])
    import ssl
    from lib.device import Device

    async def main():
        address, ca, account, token, to = sys.argv[2:]
        d = Device(int(account), 1, token)
        await d.connect(address, scheme="wss",
                        ssl=ssl.create_default_context(cafile=ca))
        print("up", flush=True)
        while True:
            await d.stream.put("send", id=d.next_id, **d.compose(int(to), os.urandom(30000)))
            d.next_id += 1
    asyncio.run(main())
"""


def test_kill_9_of_a_client_in_mid_send(secure):
    (a,), (b,) = people(secure, 2)
    before = quiet(secure)
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CLIENT), os.path.dirname(__file__),
         f"localhost:{secure.port}", str(secure.ca), str(a.account), a.token,
         str(b.account)], stdout=subprocess.PIPE)
    try:
        assert client.stdout.readline() == b"up\n"

        async def receive():
            await b.connect(secure.address, **options(secure))
            await b.wait_inbox(20)
            client.send_signal(signal.SIGKILL)
            await asyncio.to_thread(client.wait, WAIT_S)
            assert sorted(b.inbox) == list(range(1, len(b.inbox) + 1))
            assert b.twice == 0
            await b.close()
        run(receive())
    finally:
        client.kill()
        client.wait(WAIT_S)
        client.stdout.close()
    until(lambda: descriptors(secure) == before, "the dead client's socket closed")
    assert secure.admin("status")["ready"]


def test_a_stop_says_goodbye(folder):
    certs.ca(folder)
    certs.leaf(folder, "web", "localhost", addresses=["127.0.0.1"])
    node = Node(folder / "data", [f"gateway.tls_cert={folder}/web.crt",
                                  f"gateway.tls_key={folder}/web.key"]).start()
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))

    async def talk():
        (a,), = people(node, 1)
        await a.connect(node.address, scheme="wss", ssl=context)
        stop = asyncio.to_thread(node.stop)
        await asyncio.gather(stop, a.until(lambda: a.closed))
        assert a.goodbye and isinstance(a.closed, Closed)
        assert a.closed.code == 1012
    try:
        run(talk())
    finally:
        node.finish()
