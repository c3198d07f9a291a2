"""Malformed heads, frames, messages and tokens: each gets its refusal, and the
server goes on."""

import asyncio
import json
import os
import re
import socket
import time

import pytest

from lib import wire
from lib.checked import WAIT_S
from lib.device import Closed, Device, people


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * WAIT_S))


@pytest.fixture(autouse=True)
def still_well(node):
    yield
    assert node.process.process.poll() is None, node.process.log
    status, _, _ = http(node, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status == 200


# ---- HTTP heads -----------------------------------------------------------------------

def raw(node, data, timeout=WAIT_S):
    """All that comes back until the server closes or a reply is whole."""
    with socket.create_connection((node.host, node.port), timeout) as s:
        s.sendall(data)
        got = b""
        while True:
            try:
                part = s.recv(65536)
            except ConnectionResetError:
                part = b""
            if not part:
                return got, True
            got += part
            head, sep, body = got.partition(b"\r\n\r\n")
            if sep and b" 204 " in head.split(b"\r\n")[0]:
                return got, False
            if sep:
                length = [line for line in head.lower().split(b"\r\n")
                          if line.startswith(b"content-length:")]
                if length and len(body) >= int(length[0].split(b":")[1]):
                    closes = b"connection: close" in head.lower()
                    return got, closes


def http(node, data):
    """(status, closes, decoded body)"""
    got, closes = raw(node, data)
    if not got:
        return None, closes, None
    head, _, body = got.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    if b"json" in head:
        body = json.loads(body)
    if b"problem+json" in head:
        assert body["status"] == status
    return status, closes, body


def head(*lines, host=True):
    return b"\r\n".join([*lines, *([b"Host: a"] if host else []), b"", b""])


GET = b"GET /livez HTTP/1.1"

BAD_HEADS = {
    "no host": head(GET, host=False),
    "two hosts": head(GET, b"Host: b"),
    "bad host": head(GET, b"Host: a/b", host=False),
    "length and coding": head(b"PUT /v1/messages/1 HTTP/1.1",
                              b"Content-Length: 3",
                              b"Transfer-Encoding: chunked"),
    "two equal lengths": head(b"PUT /v1/messages/1 HTTP/1.1",
                              b"Content-Length: 3", b"Content-Length: 3"),
    "two lengths": head(b"PUT /v1/messages/1 HTTP/1.1",
                        b"Content-Length: 3", b"Content-Length: 4"),
    "signed length": head(b"PUT /v1/messages/1 HTTP/1.1",
                          b"Content-Length: +3"),
    "listed length": head(b"PUT /v1/messages/1 HTTP/1.1",
                          b"Content-Length: 3, 3"),
    "unknown coding": head(b"PUT /v1/messages/1 HTTP/1.1",
                           b"Transfer-Encoding: gzip"),
    "coding twice": head(b"PUT /v1/messages/1 HTTP/1.1",
                         b"Transfer-Encoding: chunked",
                         b"Transfer-Encoding: chunked"),
    "coding in 1.0": head(b"PUT /v1/messages/1 HTTP/1.0",
                          b"Transfer-Encoding: chunked"),
    "folded line": head(GET, b"X: a", b" b"),
    "line feeds alone": GET + b"\nHost: a\n\n",
    "blank before colon": head(GET, b"X : a"),
    "no colon": head(GET, b"X"),
    "empty name": head(GET, b": a"),
    "illegal name": head(GET, b"X(: a"),
    "control character": head(GET, b"X: a\x01b"),
    "bare return": head(GET, b"X: a\rb"),
    "nul in a value": head(GET, b"X: a\x00b"),
    "8-bit name": head(GET, b"X\xe4: a"),
    "two tokens": head(b"GET /v1/account HTTP/1.1", b"Authorization: Bearer a",
                       b"Authorization: Bearer b"),
    "dot segments": head(b"GET /v1/../livez HTTP/1.1"),
    "spelt dots": head(b"GET /v1/%2e%2E/livez HTTP/1.1"),
    "encoded nul": head(b"GET /livez%00x HTTP/1.1"),
    "encoded slash": head(b"GET /v1%2fstream HTTP/1.1"),
    "8-bit target": head(b"GET /\xc3\xa4 HTTP/1.1"),
    "absolute target": head(b"GET http://b/livez HTTP/1.1"),
    "no path": head(b"GET livez HTTP/1.1"),
    "long target": head(b"GET /" + b"a" * 3000 + b" HTTP/1.1"),
    "version 1.2": head(b"GET /livez HTTP/1.2"),
    "version 2": head(b"GET /livez HTTP/2.0"),
    "no version": head(b"GET /livez"),
    "illegal method": head(b"G(T /livez HTTP/1.1"),
    "long method": head(b"A" * 40 + b" /livez HTTP/1.1"),
    "many fields": head(GET, *[b"X: 1"] * 70),
    "huge field": head(GET, b"X: " + b"a" * 40000),
    "nothing like it": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_bad_head_is_refused_and_the_connection_closed(node, name):
    # A second request right behind must not be answered as one of its own.
    second = head(b"GET /.well-known/jwks.json HTTP/1.1", b"Connection: close")
    got, closed = raw(node, BAD_HEADS[name] + second)
    assert closed
    assert len(re.findall(rb"HTTP/1\.1 \d", got)) == 1 and b"keys" not in got
    answer, _, body = got.partition(b"\r\n\r\n")
    status = int(answer.split(b" ")[1])
    assert status == {"huge field": 431, "version 2": 505}.get(name, 400), got
    assert b"content-type: application/problem+json" in answer.lower()
    problem = json.loads(body)
    assert problem["status"] == status and problem["detail"]
    assert b"X-Request-Id: " + problem["instance"].encode() in answer


@pytest.mark.parametrize("name", ["no host", "signed length", "folded line",
                                  "two hosts", "version 2"])
def test_a_bad_head_in_pieces_or_later_is_refused_too(node, name):
    """By the HTTP parser, which has its own page for some."""
    for first, rest in ((BAD_HEADS[name][:9], BAD_HEADS[name][9:]),
                        (head(GET), BAD_HEADS[name])):
        with socket.create_connection((node.host, node.port), WAIT_S) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.sendall(first)
            if rest == BAD_HEADS[name]:
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += s.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 ")
            s.sendall(rest)
            got = b""
            while b"HTTP/1.1 4" not in got and b"HTTP/1.1 505" not in got:
                part = s.recv(65536)
                assert part, got
                got += part


def test_the_refusal_says_why(node):
    status, closes, problem = http(node, BAD_HEADS["two lengths"])
    assert status == 400 and closes
    assert problem["type"] == "/problems/bad-request"
    assert "twice" in problem["detail"] and len(problem["instance"]) == 16


@pytest.mark.parametrize("line, status, name", [
    (b"GET /nothing HTTP/1.1", 404, "not-found"),
    (b"GET /v1/messages/4f0c9a1be2d37715/x HTTP/1.1", 404, "not-found"),
    (b"DELETE /livez HTTP/1.1", 405, "method-not-allowed"),
    (b"PUT /v1/messages/4f0c9a1be2d37715 HTTP/1.1", 411, "length-required"),
    (b"GET /v1/account HTTP/1.1", 401, "token-missing"),
    (b"GET /v1/stream HTTP/1.1", 426, "upgrade-required"),
])
def test_what_is_not_there(node, line, status, name):
    got, _, problem = http(node, head(line))
    assert got == status and problem["type"] == f"/problems/{name}"


def test_connections_live_on_after_an_answer(node):
    with socket.create_connection((node.host, node.port), WAIT_S) as s:
        for target in (b"/livez", b"/nothing", b"/v1/account", b"/readyz"):
            s.sendall(head(b"GET " + target + b" HTTP/1.1"))
            got = b""
            while b"\r\n\r\n" not in got:
                part = s.recv(65536)
                assert part, got
                got += part
            answer, _, body = got.partition(b"\r\n\r\n")
            length = int([line for line in answer.split(b"\r\n")
                          if line.lower().startswith(b"content-length")][0]
                         .split(b":")[1])
            while len(body) < length:
                body += s.recv(65536)
            assert b"connection: close" not in answer.lower()


def body_of(size, kind=b"application/json", length=None, token=b"x"):
    return head(b"POST /v1/sync/ack HTTP/1.1", b"Content-Type: " + kind,
                b"Authorization: Bearer " + token,
                b"Content-Length: %d" % (size if length is None else length))


def test_bodies_are_json_and_bounded(node):
    (a,), = people(node, 1)
    token = a.token.encode()
    status, closes, problem = http(node, body_of(10 << 20))
    assert (status, closes) == (413, True)
    assert problem["type"] == "/problems/too-large"
    status, _, problem = http(node, body_of(2, b"text/plain") + b"{}")
    assert status == 415 and problem["type"] == "/problems/media-type"
    status, _, _ = http(node, head(b"GET /livez HTTP/1.1",
                                   b"Content-Length: 3") + b"abc")
    assert status == 413
    bad = [b"", b"[]", b"{", b"{}x", b"nope", b'{"cursor":"1"}',
           b'{"cursor":-1}', b'{"cursor":1.0}', b'{"cursor":1e3}',
           b'{"cursor":0,"cursor":1}', b'{"cursor":9007199254740992}',
           b'{"t":8,"cursor":0}', b'{"cursor":0,"x":"\xff"}', b"{}",
           b"[" * 1000, b'{"a":' * 100]
    for body in bad:
        status, _, problem = http(node, body_of(len(body), token=token) + body)
        assert status == 400, body
        assert problem["type"] == "/problems/bad-request", body
    body = b' {"cursor":0} '
    got, _ = raw(node, body_of(len(body), token=token) + body)
    assert got.startswith(b"HTTP/1.1 204")


def test_only_get_opens_a_stream(node):
    want = [b"Connection: Upgrade", b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + b"A" * 22 + b"==",
            b"Sec-WebSocket-Protocol: quipu.v1.json"]
    for method, status in ((b"HEAD", b"426"), (b"GET", b"101")):
        with socket.create_connection((node.host, node.port), WAIT_S) as s:
            s.sendall(head(method + b" /v1/stream HTTP/1.1", *want))
            assert s.recv(12) == b"HTTP/1.1 " + status


def test_a_body_is_read_for_a_good_token_only(node):
    for token in (b"x", b""):
        status, closes, problem = http(node, body_of(100, token=token))
        assert (status, closes) == (401, True)
        assert problem["type"].startswith("/problems/token-")


def test_rest_sends_are_checked(node):
    (a,), (b,) = people(node, 2)
    good = {"seq": 1, "after": 0, "mid": wire.b64(os.urandom(16)), "seen": 0,
            "class": 1, "body": "AA"}

    def put(send, to=f"{b.account:016x}"):
        text = json.dumps(send).encode()
        return http(node, head(
            b"PUT /v1/messages/" + to.encode() + b" HTTP/1.1",
            b"Content-Type: application/json",
            b"Authorization: Bearer " + a.token.encode(),
            b"Content-Length: %d" % len(text)) + text)

    for change in ({"seq": 0}, {"after": 1}, {"mid": "AA"}, {"mid": "A"},
                   {"body": "AA=="}, {"body": "AB"}, {"class": 9},
                   {"class": 7}, {"class": 0}, {"ttl": 1 << 31},
                   {"class": 2, "ttl": 8 * 86400}, {"class": 5, "ttl": 121},
                   {"class": 6}, {"class": 0, "body": "", "ttl": 1 << 31},
                   {"to": "1" * 16}, {"id": 1}, {"t": 5}, {"seen": None}):
        status, _, problem = put({**good, **change})
        assert status == 400, change
        assert problem["type"] == "/problems/bad-request", change
    for gone in ("seq", "mid", "class", "seen", "after"):
        assert put({k: v for k, v in good.items() if k != gone})[0] == 400
    assert put(good, "0" * 16)[0] == 400
    assert put(good, "XYZ")[0] == 400
    status, _, problem = put(good, "00000000deadbeef")
    assert status == 404 and problem["type"] == "/problems/unknown-recipient"
    status, _, problem = put({**good, "seen": 1 << 50})
    assert status == 400 and problem["type"] == "/problems/clock"
    assert put(good)[0] == 200


@pytest.mark.parametrize("query", [
    "cursor=x", "cursor=-1", "cursor=", "limit=0", "limit=501", "wait=26",
    "cursor=1&before=2", "cursor=99999999999999999999", "limit=1e2"])
def test_queries_are_checked(node, query):
    (a,), = people(node, 1)
    status, _, problem = http(node, head(
        b"GET /v1/sync?" + query.encode() + b" HTTP/1.1",
        b"Authorization: Bearer " + a.token.encode()))
    assert status == 400 and problem["type"] == "/problems/bad-request"


# ---- tokens -----------------------------------------------------------------------------

def changed(token):
    signed, signature = token.rsplit(".", 1)
    first = "A" if signature[0] != "A" else "B"
    return f"{signed}.{first}{signature[1:]}"


def with_header(token, **more):
    header, rest = token.split(".", 1)
    claims = {**json.loads(wire.unb64(header)), **more}
    return wire.b64(json.dumps(claims).encode()) + "." + rest


def token_cases(token):
    return {
        "changed": (changed(token), "token-invalid"),
        "none": (with_header(token, alg="none").rsplit(".", 1)[0] + ".",
                 "token-invalid"),
        "hmac": (with_header(token, alg="HS256"), "token-invalid"),
        "jwk": (with_header(token, jwk={}), "token-invalid"),
        "jku": (with_header(token, jku="http://127.0.0.1/"), "token-invalid"),
        "kid": (with_header(token, kid="other"), "token-invalid"),
        "typ": (with_header(token, typ="JWT"), "token-invalid"),
        "padded": (token + "=", "token-invalid"),
        "two parts": (token.rsplit(".", 1)[0], "token-invalid"),
        "no token": ("x", "token-invalid"),
        "long": ("a" * 2040, "token-invalid"),
    }


@pytest.mark.parametrize("case", token_cases("e30.e30.AA"))
def test_a_bad_token_opens_nothing(node, case):
    (a,), = people(node, 1)
    token, name = token_cases(a.token)[case]
    status, _, problem = http(node, head(
        b"GET /v1/account HTTP/1.1", b"Authorization: Bearer " + token.encode()))
    assert status == 401 and problem["type"] == f"/problems/{name}"
    assert token not in json.dumps(problem)

    async def hello():
        with pytest.raises(Closed) as e:
            await Device(a.account, a.number, token).connect(node.address)
        assert e.value.code == 4401
        assert e.value.error["problem"]["type"] == f"/problems/{name}"
    run(hello())


def test_an_expired_token_is_called_that(node):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    (a,), = people(node, 1)
    stored = json.loads((node.data / "token.key").read_text())["keys"][0]
    key = Ed25519PrivateKey.from_private_bytes(wire.unb64(stored["d"]))

    def sign(**change):
        header, payload, _ = a.token.split(".")
        claims = {**json.loads(wire.unb64(payload)), **change}
        text = header + "." + wire.b64(json.dumps(claims).encode())
        return text + "." + wire.b64(key.sign(text.encode()))

    def status_of(token):
        status, _, problem = http(node, head(
            b"GET /v1/account HTTP/1.1",
            b"Authorization: Bearer " + token.encode()))
        return status, problem.get("type")

    now = int(time.time())
    assert status_of(sign())[0] == 200
    assert status_of(sign(iat=now - 900, exp=now - 300)) == (
        401, "/problems/token-expired")
    assert status_of(sign(iat=now + 300, exp=now + 900)) == (
        401, "/problems/token-invalid")
    assert status_of(sign(sub="00000000deadbeef")) == (
        403, "/problems/device-removed")
    assert status_of(sign(did=77)) == (403, "/problems/device-removed")
    assert status_of(sign(aud="other")) == (401, "/problems/token-invalid")
    assert status_of(sign(scope="admin")) == (401, "/problems/token-invalid")
