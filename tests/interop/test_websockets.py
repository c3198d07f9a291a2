"""python3-websockets speaks both subprotocols."""
import asyncio
import base64
import json
import os

import cbor2
import pytest
import websockets

WAIT_S = 20


def b64(raw):
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Device:
    """Frames as dictionaries by name, in either subprotocol."""

    NAMES = {0: "t", 1: "id", 2: "token", 3: "agent", 5: "cursor", 6: "window", 7: "seq",
             8: "after", 9: "to", 10: "mid", 11: "seen", 12: "class", 15: "body", 20: "n",
             21: "from", 23: "lamport", 24: "stamp", 25: "time", 26: "shard", 27: "offset",
             28: "dup", 39: "problem", 40: "code", 47: "reason"}
    KEYS = {v: k for k, v in NAMES.items()}

    def __init__(self, ws, cbor):
        self.ws, self.cbor = ws, cbor

    async def send(self, frame):
        if not self.cbor:
            frame = {k: b64(v) if isinstance(v, bytes) else v for k, v in frame.items()}
            await self.ws.send(json.dumps(frame))
            return
        frame = {self.KEYS[k]: int(v, 16) if k == "to" else v for k, v in frame.items()}
        await self.ws.send(cbor2.dumps(frame, canonical=True))

    async def recv(self):
        message = await asyncio.wait_for(self.ws.recv(), WAIT_S)
        if not self.cbor:
            return json.loads(message)
        frame = {self.NAMES.get(k, k): v for k, v in cbor2.loads(message).items()}
        if isinstance(frame.get("body"), bytes):
            frame["body"] = b64(frame["body"])
        if "from" in frame:
            frame["from"] = f"{frame['from']:016x}"
        return frame

    async def until(self, t):
        while True:
            frame = await self.recv()
            assert frame["t"] != 19, frame
            if frame["t"] == t:
                return frame

    async def hello(self, person, **more):
        await self.send({"t": 1, "id": 1, "token": person["token"], "agent": "interop",
                         "window": 64, **more})
        return await self.until(2)


def connect(server, cbor=False, **more):
    name = "quipu.v1.cbor" if cbor else "quipu.v1.json"
    return websockets.connect(server.ws, subprotocols=[name], compression=None, **more)


@pytest.mark.parametrize("cbor", [False, True], ids=["json", "cbor"])
def test_send_ack_deliver(server, two, cbor):
    alice, bob = two

    async def run():
        async with connect(server, cbor) as wa, connect(server, not cbor) as wb:
            a, b = Device(wa, cbor), Device(wb, not cbor)
            await a.hello(alice)
            await b.hello(bob)
            await b.until(11)
            mid = os.urandom(16)
            await a.send({"t": 5, "id": 7, "seq": 1, "after": 0, "mid": mid,
                          "to": bob["account"], "seen": 0, "class": 1,
                          "body": b"from websockets"})
            ack = await a.until(6)
            assert ack["id"] == 7 and ack["seq"] == 1
            got = await b.until(7)
            assert got["body"] == b64(b"from websockets")
            assert got["from"] == alice["account"] and got["n"] == 1
            assert got["lamport"] == ack["lamport"]
            await b.send({"t": 8, "cursor": 1})
    asyncio.run(run())


def test_fragments_and_protocol_pings(server, two):
    async def run():
        async with connect(server) as ws:
            d = Device(ws, False)
            hello = json.dumps({"t": 1, "id": 1, "token": two[0]["token"],
                                "agent": "interop", "window": 64})
            await ws.send([hello[:5], hello[5:40], hello[40:]])
            await d.until(2)
            await asyncio.wait_for(await ws.ping(b"are you there"), WAIT_S)
            await d.send({"t": 17, "id": 99})
            assert (await d.until(18))["id"] == 99
    asyncio.run(run())


def test_a_wrong_token_closes_with_4401(server, two):
    async def run():
        async with connect(server) as ws:
            d = Device(ws, False)
            await d.send({"t": 1, "id": 1, "token": two[0]["token"][:-6] + "AAAAAA",
                          "agent": "interop", "window": 64})
            with pytest.raises(websockets.ConnectionClosed):
                while True:
                    await d.recv()
            assert ws.close_code == 4401
    asyncio.run(run())


def test_text_that_is_no_frame_closes_with_4400(server):
    async def run():
        async with connect(server) as ws:
            await ws.send("this is not a frame")
            with pytest.raises(websockets.ConnectionClosed):
                while True:
                    await asyncio.wait_for(ws.recv(), WAIT_S)
            assert ws.close_code == 4400
    asyncio.run(run())


def test_no_common_subprotocol_is_400(server):
    async def run():
        with pytest.raises(websockets.InvalidStatusCode) as refused:
            await websockets.connect(server.ws, subprotocols=["chat"])
        assert refused.value.status_code == 400
    asyncio.run(run())


def test_a_foreign_origin_is_refused(server):
    async def run():
        with pytest.raises(websockets.InvalidStatusCode) as refused:
            await connect(server, origin="https://elsewhere.example")
        assert refused.value.status_code == 403
    asyncio.run(run())


def test_resume_on_a_new_socket_loses_and_doubles_nothing(server, two):
    alice, bob = two

    async def run():
        async with connect(server) as wa:
            a = Device(wa, False)
            await a.hello(alice)
            mids = [os.urandom(16) for _ in range(20)]
            for i, mid in enumerate(mids, 1):
                await a.send({"t": 5, "id": i, "seq": i, "after": i - 1, "mid": mid,
                              "to": bob["account"], "seen": 0, "class": 1,
                              "body": b"%d" % i})
                await a.until(6)
        seen = []
        cursor = None
        while len(seen) < 20:
            async with connect(server) as wb:
                b = Device(wb, False)
                await b.hello(bob, **({} if cursor is None else
                                      {"cursor": cursor, "epoch": 1}))
                for _ in range(7):
                    if len(seen) == 20:
                        break
                    got = await b.until(7)
                    seen.append(got)
                    cursor = got["n"]
                await b.send({"t": 8, "cursor": cursor})
                wb.transport.abort()    # no close frame: as if killed
        assert [g["n"] for g in seen] == list(range(1, 21))
        assert [g["mid"] for g in seen] == [b64(m) for m in mids]
    asyncio.run(run())
