"""One node: people talk, over both subprotocols and without a socket."""

import asyncio
import json
import os
import time
import urllib.error
import urllib.request

import pytest

from lib import wire
from lib.checked import SLOW, WAIT_S
from lib.device import Closed, Device, Refused, Stream, device_of, people
from lib.server import Node

PROTOCOLS = [wire.CBOR, wire.JSON]


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * WAIT_S))


def call(node, method, path, token=None, body=None, **headers):
    """(status, decoded body or text)"""
    if token:
        headers["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(f"http://{node.address}{path}", data,
                                     headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20 + WAIT_S) as answer:
            status, text, kind = (answer.status, answer.read(),
                                  answer.headers["Content-Type"])
    except urllib.error.HTTPError as e:
        status, text, kind = e.code, e.read(), e.headers["Content-Type"]
    return status, json.loads(text) if kind and "json" in kind else text


# ---- the stream ------------------------------------------------------------------

@pytest.mark.parametrize("theirs", PROTOCOLS)
@pytest.mark.parametrize("ours", PROTOCOLS)
def test_a_message_arrives_as_it_was_sent(node, ours, theirs):
    async def talk():
        (a,), (b,) = people(node, 2)
        welcome = await a.connect(node.address, ours)
        assert welcome["reason"] == "new" and not welcome["resumed"]
        assert welcome["n"] == 0 and welcome["heartbeat"] == 60
        await b.connect(node.address, theirs)
        body = bytes(range(256)) * 3
        key = {"device": b.number, "kind": 2, "bytes": b"for you alone"}
        sent = a.compose(b.account, body, ttl=3600, keys=[key], list=1)
        ack = await a.repeat(sent)
        assert ack["seq"] == 1 and not ack.get("dup")
        await b.wait_inbox(1)
        got = b.inbox[1]
        assert got["body"] == body and got["mid"] == sent["mid"]
        assert got["from"] == a.account and got["dev"] == a.number
        assert got["seq"] == 1 and got["class"] == 1 and got["ttl"] == 3600
        assert got["key"] == key and got["list"] == 1
        assert got["lamport"] == ack["lamport"]
        assert got["time"] == ack["time"]
        await b.until(lambda: b.caught_up is not None)
        await a.close()
        await b.close()
    run(talk())


def test_a_conversation_is_in_order_for_both(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        await b.connect(node.address, wire.JSON)
        for i in range(20):
            one, other = (a, b) if i % 2 == 0 else (b, a)
            ack = await one.send(other.account, f"{i}".encode())
            await other.until(lambda o=other, i=i: f"{i}".encode() in o.bodies())
            assert other.clock >= ack["lamport"]
        records = [*a.inbox.values(), *b.inbox.values()]
        records.sort(key=lambda r: (r["lamport"], r["from"], r["dev"]))
        assert [r["body"] for r in records] == [f"{i}".encode()
                                                for i in range(20)]
        await a.close()
        await b.close()
    run(talk())


def test_many_in_flight_are_acked_and_delivered_in_order(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        await b.connect(node.address)
        bodies = [os.urandom(i % 700) or b"x" for i in range(960)]
        for i in range(0, len(bodies), 32):
            await asyncio.gather(*[a.send(b.account, body)
                                   for body in bodies[i:i + 32]])
        await b.wait_inbox(len(bodies))
        assert b.bodies() == bodies
        assert b.twice == 0
        await a.close()
        await b.close()
    run(talk())


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535 - 4096, 61440])
def test_bodies_of_all_sizes(node, size):
    async def talk():
        (a,), (b,) = people(node, 2)
        body = os.urandom(size)
        for protocol in PROTOCOLS:
            await a.connect(node.address, protocol)
            await a.send(b.account, body)
            await a.close()
        for protocol in PROTOCOLS:
            b.cursor, b.epoch = 0, b.epoch or 1
            b.inbox.clear()
            b.stream = None
            await b.connect(node.address, protocol, recv=False)
            await b.until(lambda: len(b.inbox) == 2)
            assert [r.get("body", b"") for r in b.inbox.values()] == [body] * 2
            await b.close()
    run(talk())


def test_resume_brings_what_was_missed_and_no_more(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        await b.connect(node.address)
        for i in range(10):
            await a.send(b.account, b"%d" % i)
        await b.wait_inbox(10)
        await b.vanish()
        for i in range(10, 300):
            await a.send(b.account, b"%d" % i)
        welcome = await b.connect(node.address)
        assert welcome["resumed"] and welcome["n"] == 300
        await b.until(lambda: b.caught_up == 300)
        assert b.bodies() == [b"%d" % i for i in range(300)]
        assert b.twice == 0
        await a.close()
        await b.close()
    run(talk())


def test_a_device_without_a_cursor_begins_where_it_acknowledged(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        await b.connect(node.address)
        for i in range(5):
            await a.send(b.account, b"%d" % i)
        await b.wait_inbox(5)
        await b.close()  # reports its cursor on the way out
        again = Device(b.account, b.number, b.token)
        end = time.monotonic() + WAIT_S
        while True:
            welcome = await again.connect(node.address)
            if welcome["cursor"] == 5 or time.monotonic() > end:
                break
            await again.close()
            again.cursor = None
            again.inbox.clear()
        assert welcome["cursor"] == 5 and not welcome["resumed"]
        await a.send(b.account, b"5")
        await again.wait_inbox(6)
        assert sorted(again.inbox) == [6]
        await a.close()
        await again.close()
    run(talk())


def test_a_repeated_send_is_acked_again_and_delivered_once(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        await b.connect(node.address)
        sent = a.compose(b.account, b"once")
        first = await a.repeat(sent)
        again = await a.repeat(sent)
        assert again["dup"] is True and not first.get("dup")
        for field in ("seq", "lamport", "stamp", "shard", "offset", "time"):
            assert again[field] == first[field]
        await a.send(b.account, b"marker")
        await b.wait_inbox(2)
        assert b.bodies() == [b"once", b"marker"]
        with pytest.raises(Refused) as e:
            await a.repeat({**sent, "mid": os.urandom(16)})
        assert e.value.name == "seq-conflict"
        await a.close()
        await b.close()
    run(talk())


def test_a_send_may_not_overtake_the_one_it_names(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        first = a.compose(b.account, b"1")
        second = a.compose(b.account, b"2")
        with pytest.raises(Refused) as e:
            await a.repeat(second)
        assert e.value.name == "gap"
        await a.repeat(first)
        await a.repeat(second)
        await b.connect(node.address)
        await b.wait_inbox(2)
        assert b.bodies() == [b"1", b"2"]
        await a.close()
        await b.close()
    run(talk())


def test_a_void_takes_its_number_and_no_place(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        void = a.compose(b.account, None, cls=0)
        del void["body"]
        await a.repeat(void)
        late = {**void, "class": 1, "body": b"late"}
        assert (await a.repeat(late))["dup"] is True
        await a.send(b.account, b"next")
        await b.connect(node.address)
        await b.wait_inbox(1)
        assert b.bodies() == [b"next"]
        await a.close()
        await b.close()
    run(talk())


def test_other_devices_get_the_own_copy(node):
    async def talk():
        (a1, a2), (b,) = people(node, 1, devices=2)[0], people(node, 1)[0]
        await a1.connect(node.address)
        await a2.connect(node.address)
        own = [{"device": a2.number, "kind": 2, "bytes": b"own"}]
        ack = await a1.send(b.account, b"to b", own=own, ownlist=2)
        await a2.wait_inbox(1)
        copy = a2.inbox[1]
        assert copy["flags"] & 1 and copy["body"] == b"to b"
        assert copy["lamport"] == ack["lamport"] and copy["n"] == ack["n"]
        assert copy["from"] == a1.account and copy["key"] == own[0]
        await a1.close()
        await a2.close()
    run(talk())


def test_the_newest_socket_of_a_device_wins(node):
    async def talk():
        (a,), = people(node, 1)
        await a.connect(node.address)
        other = Device(a.account, a.number, a.token)
        await other.connect(node.address)
        await a.until(lambda: a.closed)
        assert a.closed.code == 4409
        await other.ask("ping")
        await other.close()
    run(talk())


def test_a_removed_device_is_shown_the_door(node):
    async def talk():
        (a, _), = people(node, 1, devices=2)
        await a.connect(node.address)
        node.admin("device-remove", account=f"{a.account:016x}",
                   device=a.number)
        # Its next send asks the shard, at the latest after the time for which
        # an answer is good.
        end = time.monotonic() + WAIT_S
        while not a.closed and time.monotonic() < end:
            try:
                await a.send(a.account, b"x", cls=1)
                await a.send(a.account ^ 1, b"x")
            except (Refused, Closed):
                pass
            await asyncio.sleep(0.1)
        assert a.closed and a.closed.code == 4403
        again = Device(a.account, a.number, a.token)
        with pytest.raises(Closed) as e:
            await again.connect(node.address)
        assert e.value.code == 4403
        assert e.value.error["problem"]["type"] == "/problems/device-removed"
        assert call(node, "GET", "/v1/account", a.token)[0] == 403
        await a.vanish()
    run(talk())


def test_pages_forward_and_backward(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        for i in range(25):
            await a.send(b.account, b"%d" % i)
        await b.connect(node.address, wire.JSON)
        got, cursor = [], 0
        while True:
            page = await b.ask("sync", cursor=cursor, limit=10)
            got += [item["body"] for item in page["items"]]
            if page["complete"]:
                break
            cursor = page["next"] - 1
        assert got == [b"%d" % i for i in range(25)]
        page = await b.ask("sync", before=26, limit=10)
        assert [i["n"] for i in page["items"]] == list(range(25, 15, -1))
        page = await b.ask("sync", before=page["next"], limit=500)
        assert [i["n"] for i in page["items"]] == list(range(15, 0, -1))
        assert page["complete"]
        await a.close()
        await b.close()
    run(talk())


def test_the_window_holds_records_back(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        for i in range(30):
            await a.send(b.account, b"%d" % i)
        await b.connect(node.address, window=10, recv=False)
        await b.until(lambda: len(b.inbox) >= 10)
        await b.ask("ping")
        await b.ask("ping")
        assert len(b.inbox) == 10
        b.auto_recv = True
        await b.stream.put("recv", cursor=b.cursor)
        await b.wait_inbox(30)
        await a.close()
        await b.close()
    run(talk())


# ---- without a socket --------------------------------------------------------------

def test_rest_sends_and_reads(node):
    (a,), (b,) = people(node, 2)
    to = f"{b.account:016x}"
    send = {"seq": 1, "after": 0, "mid": wire.b64(os.urandom(16)), "seen": 0,
            "class": 1, "body": wire.b64(b"by post")}
    status, ack = call(node, "PUT", f"/v1/messages/{to}", a.token, send)
    assert status == 200 and ack["t"] == 6 and ack["seq"] == 1
    status, again = call(node, "PUT", f"/v1/messages/{to}", a.token, send)
    assert status == 200 and again["dup"] is True
    assert again["offset"] == ack["offset"]
    status, page = call(node, "GET", "/v1/sync?cursor=0&limit=10", b.token)
    assert status == 200 and page["complete"] is True and page["next"] == 2
    assert [wire.unb64(i["body"]) for i in page["items"]] == [b"by post"]
    assert page["items"][0]["from"] == f"{a.account:016x}"
    assert call(node, "POST", "/v1/sync/ack", b.token, {"cursor": 1})[0] == 204
    status, account = call(node, "GET", "/v1/account", b.token)
    assert status == 200 and account["cursor"] == 1 and account["n"] == 1
    assert account["account"] == to and account["devices"] == [1]
    status, problem = call(node, "POST", "/v1/sync/ack", b.token, {"cursor": 2})
    assert status == 409 and problem["type"] == "/problems/ahead"


def test_a_retry_may_change_transport(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        sent = a.compose(b.account, b"either way")
        ack = await a.repeat(sent)
        body = {**sent, "mid": wire.b64(sent["mid"]),
                "body": wire.b64(sent["body"])}
        to = f"{body.pop('to'):016x}"
        status, again = await asyncio.get_running_loop().run_in_executor(
            None, lambda: call(node, "PUT", f"/v1/messages/{to}", a.token, body))
        assert status == 200 and again["dup"] and again["offset"] == ack["offset"]
        await a.close()
    run(talk())


def test_a_long_poll_waits_for_company(node):
    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        loop = asyncio.get_running_loop()
        begun = time.monotonic()
        poll = loop.run_in_executor(None, lambda: call(
            node, "GET", "/v1/sync?cursor=0&wait=20", b.token))
        done, _ = await asyncio.wait([poll], timeout=1)
        assert not done
        await a.send(b.account, b"at last")
        status, page = await poll
        assert status == 200 and len(page["items"]) == 1
        assert time.monotonic() - begun < 10 * SLOW
        await a.close()
    run(talk())


def test_a_long_poll_ends_empty(node):
    (b,), = people(node, 1)
    begun = time.monotonic()
    status, page = call(node, "GET", "/v1/sync?cursor=0&wait=1", b.token)
    assert status == 200 and page["items"] == [] and page["complete"]
    assert 0.9 < time.monotonic() - begun < 10 * SLOW


# ---- what operators see -----------------------------------------------------------

def test_health_and_metrics(node):
    assert call(node, "GET", "/livez") == (200, b"live\n")
    assert call(node, "GET", "/readyz") == (200, b"ready\n")
    status, text = call(node, "GET", "/metrics")
    assert status == 200 and b"quipu_sends_total" in text
    assert b"# EOF" not in text
    status, text = call(node, "GET", "/metrics",
                        Accept="application/openmetrics-text; version=1.0.0")
    assert status == 200 and text.endswith(b"# EOF\n")
    assert b"# TYPE quipu_sends counter" in text


def test_the_public_keys_verify_a_token(node):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    (a,), = people(node, 1)
    status, jwks = call(node, "GET", "/.well-known/jwks.json")
    assert status == 200 and len(jwks["keys"]) == 1
    key = jwks["keys"][0]
    assert key["kty"] == "OKP" and key["crv"] == "Ed25519" and "d" not in key
    signed, signature = a.token.rsplit(".", 1)
    header, payload = [json.loads(wire.unb64(p)) for p in signed.split(".")]
    assert header == {"alg": "EdDSA", "kid": key["kid"], "typ": "quipu-at+jwt"}
    assert payload["sub"] == f"{a.account:016x}" and payload["did"] == a.number
    assert payload["iss"] == payload["aud"] == "quipu" and payload["dep"] == 1
    Ed25519PublicKey.from_public_bytes(wire.unb64(key["x"])).verify(
        wire.unb64(signature), signed.encode())


def test_everything_survives_kill_and_stop(fresh_node):
    node = fresh_node

    async def talk():
        (a,), (b,) = people(node, 2)
        bodies = []
        for end in (node.kill, node.stop, node.kill):
            await a.connect(node.address)
            for _ in range(50):
                body = os.urandom(100)
                await a.send(b.account, body)
                bodies.append(body)
            await a.vanish()
            end()
            node.start()
        await b.connect(node.address)
        await b.wait_inbox(len(bodies))
        assert b.bodies() == bodies
        await b.close()
    run(talk())


def test_a_drain_says_goodbye_and_ends(folder):
    node = Node(folder / "data").start()

    async def talk():
        (a,), = people(node, 1)
        await a.connect(node.address)
        node.admin("drain")
        await a.until(lambda: a.closed)
        assert a.goodbye["code"] == 1012 and a.goodbye["retry_ms"] < 10000
        assert a.closed.code == 1012
        await a.close()
    try:
        run(talk())
        assert node.process.end() == 0
        assert "event=stopped" in node.process.log
    finally:
        node.kill()


def test_asked_twice_it_stops_at_once(fresh_node):
    node = fresh_node

    async def talk():
        (a,), (b,) = people(node, 2)
        await a.connect(node.address)
        acked = []

        async def flood():
            try:
                while True:
                    body = os.urandom(30000)
                    await a.send(b.account, body)
                    acked.append(body)
            except (Closed, Refused):
                pass
        task = asyncio.ensure_future(flood())
        while len(acked) < 20:
            await asyncio.sleep(0.01)
        process = node.process
        process.process.terminate()
        process.wait_line("event=stopping")
        process.process.terminate()
        assert process.end() in (0, 4), process.log
        await task
        node.kill()
        node.start()
        await b.connect(node.address)
        await b.wait_inbox(len(acked))
        assert b.bodies()[:len(acked)] == acked
        await b.close()
    run(talk())


def test_a_stream_that_says_nothing_is_closed(folder):
    node = Node(folder / "data", ["gateway.hello_ms=200"]).start()

    async def talk():
        stream = await Stream.open(node.address)
        ended = await stream.ended()
        assert ended.code == 4408
    try:
        run(talk())
    finally:
        node.kill()


def test_a_token_of_another_epoch_is_refused(node):
    async def talk():
        (a,), = people(node, 1)
        other = device_of(node, f"{a.account:016x}", a.number, epoch=7)
        with pytest.raises(Closed) as e:
            await other.connect(node.address)
        assert e.value.code == 4401
    run(talk())
