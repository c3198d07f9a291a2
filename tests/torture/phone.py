"""A device that never gives up: it sends, follows its inbox, loses its connection, comes
back by another gateway, and repeats with the same number until it has an answer.

No code of the product is in it: python3-websockets, cbor2, and docs/protocol.md.  What
it sees goes to the history before it draws any conclusion from it.
"""

import asyncio
import os
import ssl
import sys
import time
from pathlib import Path

import websockets

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scenario"))

from lib import wire  # noqa: E402
from history import crc  # noqa: E402

OPEN_MAX = 12           # sends without an answer
SPAN_MAX = 31           # of seq: docs/protocol.md, Retries
SILENCE_S = 5.0         # then the gateway is thought dead
CONNECT_S = 5.0
TRY_S = 15.0            # a send without an answer: the connection is given up
AGAIN = {"unavailable", "busy", "disk-full", "draining", "no-leader", "mailbox-full",
         "too-many-open", "gap"}
OWN_COPY = 1 << 0       # flags of a record


def trust(ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    return context


class Send:
    __slots__ = ("fields", "tried", "told")

    def __init__(self, fields):
        self.fields = fields
        self.tried = None       # when it went out on this connection
        self.told = 0.0         # not before: the server said when to come back


class Phone:
    def __init__(self, spec, crew):
        self.account = int(spec["account"], 16)
        self.number = spec["device"]
        self.name = f"{spec['account']}/{self.number}"
        self.token = spec["token"]
        self.source = spec["source"]
        self.crew = crew
        self.dice = crew.dice
        self.seq = 0
        self.clock = 0
        self.cursor = None      # highest n without a hole before it
        self.heard = set()      # above the cursor
        self.epoch = None
        self.after = {}
        self.open = {}          # seq -> Send
        self.socket = None
        self.live = False
        self.wish = None        # the only gateway to use
        self.at = None          # the one that is used
        self.broken = None      # why this device cannot go on
        self.end = None         # of the inbox, as the last welcome said
        self.last_heard = 0.0
        self.waiting = {}       # id -> future of a page
        self.next_id = 1 << 40  # above every seq, which are the ids of sends

    # ---- sending

    def may_compose(self):
        if not self.live or len(self.open) >= OPEN_MAX:
            return False
        return not self.open or self.seq + 1 - min(self.open) < SPAN_MAX

    async def compose(self, to, cls=1, size=0):
        self.seq += 1
        mid = os.urandom(16)
        body = mid + self.dice.randbytes(size)
        fields = {"seq": self.seq, "after": self.after.get(to, 0), "mid": mid,
                  "to": to, "seen": self.clock, "class": cls, "body": body}
        self.after[to] = self.seq
        self.crew.history.put("send", self.name, self.seq, fields["after"], mid.hex(),
                              f"{to:016x}", self.clock, cls, crc(body))
        self.open[self.seq] = Send(fields)
        await self._try(self.open[self.seq])

    async def _try(self, send):
        send.tried = time.monotonic()
        await self._put("send", id=send.fields["seq"], **send.fields)

    async def _put(self, name, **fields):
        socket = self.socket
        if socket:
            try:
                await socket.send(wire.encode(name, fields, wire.CBOR))
            except websockets.ConnectionClosed:
                pass    # the reader sees it too

    # ---- what comes

    def _settled(self, frame):
        return self.open.pop(frame["seq"], None)

    def _on_ack(self, f):
        send = self._settled(f)
        if not send:
            return  # the second answer to a repeated one
        self.crew.history.put("ack", self.name, f["seq"], send.fields["mid"].hex(),
                              f["lamport"], f["stamp"], f["shard"], f["offset"],
                              f.get("n"), bool(f.get("dup")))
        self.clock = max(self.clock, f["lamport"], f["stamp"])
        self.crew.acked += 1

    def _on_error(self, f):
        problem = f["problem"]["type"].rsplit("/", 1)[-1]
        future = self.waiting.pop(f.get("id"), None)
        if future and not future.done():
            future.set_exception(ConnectionError(problem))
            return
        send = self.open.get(f.get("seq", f.get("id")))
        if not send:
            return
        self.crew.problems[problem] = self.crew.problems.get(problem, 0) + 1
        if problem in AGAIN:
            wait = min(f.get("retry_ms", 200) / 1000, 2.0)
            send.tried, send.told = None, time.monotonic() + wait
            return
        del self.open[send.fields["seq"]]
        self.crew.history.put("refused", self.name, send.fields["seq"],
                              send.fields["mid"].hex(), problem)

    async def _on_deliver(self, f):
        self.crew.history.put("deliver", self.name, f["n"], f"{f['from']:016x}",
                              f["dev"], f["seq"], f["mid"].hex(), f["lamport"],
                              f["stamp"], f["flags"], f["class"], crc(f.get("body")))
        self.crew.delivered += 1
        self.clock = max(self.clock, f["lamport"], f["stamp"])
        if f["n"] > self.cursor:
            self.heard.add(f["n"])
        moved = False
        while self.cursor + 1 in self.heard:
            self.cursor += 1
            self.heard.discard(self.cursor)
            moved = True
        if moved:
            self.crew.history.put("recv", self.name, self.cursor)
            await self._put("recv", cursor=self.cursor)

    async def _on(self, name, f):
        if name == "deliver":
            await self._on_deliver(f)
        elif name == "ack":
            self._on_ack(f)
        elif name == "error":
            self._on_error(f)
        elif name == "page":
            future = self.waiting.pop(f["id"], None)
            if future and not future.done():
                future.set_result(f)

    # ---- connections

    async def _hello(self, gateway):
        self.socket = await asyncio.wait_for(websockets.connect(
            f"wss://{gateway}/v1/stream", subprotocols=[wire.CBOR], max_size=None,
            ping_interval=None, compression=None, close_timeout=1,
            ssl=self.crew.ssl, local_addr=(self.source, 0)), CONNECT_S)
        hello = {"id": 1, "token": self.token, "agent": "torture", "window": 128}
        if self.cursor is not None:
            hello |= {"cursor": self.cursor, "epoch": self.epoch}
        await self._put("hello", **hello)
        name, f = wire.decode(await asyncio.wait_for(self.socket.recv(), 12.0))
        if name != "welcome":
            raise ConnectionError(f"{name}: {f.get('problem')}")
        reason = f.get("reason")
        self.crew.history.put("welcome", self.name, gateway, f["resumed"], reason,
                              f.get("cursor"), f["n"], f.get("truncated"), f["epoch"])
        if not f["resumed"] and reason in ("rollback", "ahead"):
            self.broken = reason
        if not f["resumed"]:
            self.cursor = f.get("cursor", 0)
            self.heard.clear()
        elif f.get("truncated"):
            self.cursor = max(self.cursor, f["truncated"] - 1)
        self.epoch, self.end = f["epoch"], f["n"]

    async def _serve(self, gateway):
        await self._hello(gateway)
        self.last_heard = time.monotonic()
        for seq in sorted(self.open):
            await self._try(self.open[seq])
        self.live, self.at = True, gateway
        async for message in self.socket:
            self.last_heard = time.monotonic()
            await self._on(*wire.decode(message))

    async def run(self):
        while not self.broken and not self.crew.over:
            gateway = self.wish or self.dice.choice(self.crew.gateways)
            self.at = code = None
            try:
                await self._serve(gateway)
            except websockets.ConnectionClosed as e:
                code = e.code
            except (OSError, ConnectionError, asyncio.TimeoutError, EOFError,
                    websockets.WebSocketException) as e:
                code = type(e).__name__
            if self.socket and code is None:
                code = self.socket.close_code
            self.crew.history.put("closed", self.name, code)
            self._drop()
            await asyncio.sleep(self.dice.uniform(0.05, 0.5))

    def _drop(self):
        self.live = False
        if self.socket and self.socket.transport:
            self.socket.transport.abort()
        self.socket = None
        for send in self.open.values():
            send.tried = None
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("closed"))
        self.waiting.clear()

    def cut(self):
        """The connection breaks without a word."""
        if self.socket and self.socket.transport:
            self.socket.transport.abort()

    async def tend(self):
        """Called again and again: pings, repeats, and the end of patience."""
        now = time.monotonic()
        if not self.live:
            return
        if now - self.last_heard > SILENCE_S:
            self.cut()
            return
        if now - self.last_heard > SILENCE_S / 3:
            self.next_id += 1
            await self._put("ping", id=self.next_id)
        for seq in sorted(self.open):
            send = self.open[seq]
            if send.tried is None and now >= send.told:
                await self._try(send)
            elif send.tried is not None and now - send.tried > TRY_S:
                self.cut()
                return

    # ---- the end: everything again, by every gateway

    async def until_live(self, patience=30.0):
        """Until it is connected by the gateway that was wished for."""
        end = time.monotonic() + patience
        while not self.live or self.at != self.wish:
            if time.monotonic() > end or self.broken:
                raise ConnectionError(f"no way by {self.wish}")
            await asyncio.sleep(0.05)

    async def _ask_page(self, cursor):
        self.next_id += 1
        future = asyncio.get_running_loop().create_future()
        self.waiting[self.next_id] = future
        await self._put("sync", id=self.next_id, cursor=cursor, limit=500)
        return await asyncio.wait_for(future, 20.0)

    async def read_all(self, gateway):
        """The whole inbox by pages; moves nothing."""
        cursor, first = 0, 1
        while True:
            page = await self._ask_page(cursor)
            self.crew.pages += 1
            if page.get("truncated"):
                first = max(first, page["truncated"])
            for f in page["items"]:
                self.crew.history.put(
                    "page", self.name, gateway, f["n"], f"{f['from']:016x}", f["dev"],
                    f["seq"], f["mid"].hex(), f["lamport"], f["stamp"], f["flags"],
                    f["class"], crc(f.get("body")))
            # `next` is the number that comes next, a cursor the one before it.
            cursor = page["next"] - 1
            if page["complete"]:
                self.crew.history.put("paged", self.name, gateway, first, cursor)
                return
