"""A device over WebSocket by python3-websockets: no code of ours beneath it.

It behaves as docs/protocol.md asks a client to: one counter of sends, `after` per
destination, the cursor moved only over what it has, and retries of the same seq.
"""

import asyncio
import os

import websockets

from . import wire
from .checked import WAIT_S


class Closed(Exception):
    def __init__(self, code, reason, error=None):
        super().__init__(f"closed: {code} {reason} {error or ''}")
        self.code = code
        self.reason = reason
        self.error = error


class Refused(Exception):
    def __init__(self, frame):
        self.problem = frame["problem"]
        self.name = self.problem["type"].rsplit("/", 1)[-1]
        self.frame = frame
        super().__init__(f"refused: {self.problem}")


class Stream:
    """Frames over one socket, no opinion about them."""

    def __init__(self, socket, protocol):
        self.socket = socket
        self.protocol = protocol

    @classmethod
    async def open(cls, address, protocol=wire.CBOR, offer=None, scheme="ws",
                   **options):
        socket = await asyncio.wait_for(websockets.connect(
            f"{scheme}://{address}/v1/stream",
            subprotocols=offer or [protocol], max_size=None, ping_interval=None,
            compression=None, close_timeout=5, **options), WAIT_S)
        return cls(socket, socket.subprotocol)

    async def put(self, name, **fields):
        try:
            await self.socket.send(wire.encode(name, fields, self.protocol))
        except websockets.ConnectionClosed as e:
            raise Closed(e.code, e.reason) from None

    async def get(self, timeout=WAIT_S):
        try:
            message = await asyncio.wait_for(self.socket.recv(), timeout)
        except websockets.ConnectionClosed as e:
            raise Closed(e.code, e.reason) from None
        assert isinstance(message, str) == (self.protocol == wire.JSON)
        return wire.decode(message)

    async def want(self, name, timeout=WAIT_S):
        """The next frame, which must be of this name."""
        got, frame = await self.get(timeout)
        assert got == name, (got, frame)
        return frame

    async def ended(self, timeout=WAIT_S):
        """Close code, and the error frame before it if there was one."""
        error = None
        while True:
            try:
                name, frame = await self.get(timeout)
            except Closed as e:
                e.error = error
                return e
            if name == "error":
                error = frame

    async def close(self):
        await self.socket.close()


class Device:
    """One device with its state: what a real one keeps in its store."""

    def __init__(self, account, number, token):
        self.account = account if isinstance(account, int) else int(account, 16)
        self.number = number
        self.token = token
        self.seq = 0
        self.clock = 0
        self.cursor = None      # highest number without a hole before it
        self.epoch = None
        self.after = {}         # destination -> seq of the send before
        self.inbox = {}         # n -> record
        self.twice = 0          # records that came again on one connection
        self.stream = None
        self.reader = None

    async def connect(self, address, protocol=wire.CBOR, window=256,
                      recv=True, **options):
        self.stream = await Stream.open(address, protocol, **options)
        hello = {"id": 1, "token": self.token, "agent": "scenario",
                 "window": window}
        if self.cursor is not None:
            hello |= {"cursor": self.cursor, "epoch": self.epoch}
        await self.stream.put("hello", **hello)
        name, welcome = await self.stream.get()
        if name in ("error", "goodbye"):
            raise await self._refusal(welcome)
        assert name == "welcome", (name, welcome)
        self.welcome = welcome
        self.epoch = welcome["epoch"]
        if not welcome["resumed"]:
            self.cursor = welcome.get("cursor", 0)
        self.waiting = {}       # id -> future of an answer
        self.changed = asyncio.Condition()
        self.caught_up = None
        self.goodbye = None
        self.closed = None
        self.auto_recv = recv
        self.next_id = 2
        self.reader = asyncio.ensure_future(self._read())
        return welcome

    async def _refusal(self, error):
        closed = await self.stream.ended()
        closed.error = error
        return closed

    def _answer(self, frame, value):
        future = self.waiting.pop(frame.get("id"), None)
        if future and not future.done():
            if isinstance(value, Exception):
                future.set_exception(value)
            else:
                future.set_result(value)

    async def _on(self, name, frame):
        if name == "deliver":
            if frame["n"] in self.inbox:
                self.twice += 1
            self.inbox[frame["n"]] = frame
            self.clock = max(self.clock, frame.get("lamport", 0),
                             frame.get("stamp", 0))
            while self.cursor + 1 in self.inbox:
                self.cursor += 1
            if self.auto_recv:
                await self.stream.put("recv", cursor=self.cursor)
        elif name == "ack":
            self.clock = max(self.clock, frame["lamport"], frame["stamp"])
            self._answer(frame, frame)
        elif name == "error":
            self._answer(frame, Refused(frame))
        elif name in ("page", "pong", "ok"):
            self._answer(frame, frame)
        elif name == "caught_up":
            self.caught_up = frame["n"]
        elif name == "goodbye":
            self.goodbye = frame

    async def _read(self):
        try:
            while True:
                name, frame = await self.stream.get(timeout=None)
                await self._on(name, frame)
                async with self.changed:
                    self.changed.notify_all()
        except Closed as e:
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(e)
            self.waiting.clear()
            async with self.changed:
                self.closed = e
                self.changed.notify_all()

    async def until(self, condition, timeout=WAIT_S):
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(
                lambda: condition() or self.closed), timeout)
        if not condition():
            raise self.closed

    async def ask(self, name, timeout=WAIT_S, **fields):
        """Sends a frame with an id and waits for what answers it."""
        number = self.next_id
        self.next_id += 1
        future = asyncio.get_running_loop().create_future()
        self.waiting[number] = future
        try:
            await self.stream.put(name, id=number, **fields)
            return await asyncio.wait_for(future, timeout)
        finally:
            self.waiting.pop(number, None)
            if future.done() and not future.cancelled():
                future.exception()  # seen, also when put() failed first

    def compose(self, to, body, cls=1, **more):
        """The fields of a new send; the same ones for each of its tries."""
        to = to if isinstance(to, int) else int(to, 16)
        self.seq += 1
        send = {"seq": self.seq, "after": self.after.get(to, 0),
                "mid": os.urandom(16), "to": to, "seen": self.clock,
                "class": cls, "body": body, **more}
        self.after[to] = self.seq
        return send

    async def send(self, to, body, **more):
        return await self.ask("send", **self.compose(to, body, **more))

    async def repeat(self, fields):
        return await self.ask("send", **fields)

    async def wait_inbox(self, n, timeout=WAIT_S):
        """Until everything up to number n is here without a hole."""
        await self.until(lambda: self.cursor >= n, timeout)

    async def close(self):
        if self.reader:
            await self.stream.close()
            await asyncio.wait_for(self.reader, WAIT_S)
            self.reader = None

    async def vanish(self):
        """The process dies: no close frame, nothing more is read."""
        if self.reader:
            self.stream.socket.transport.abort()
            await asyncio.wait_for(self.reader, WAIT_S)
            self.reader = None

    def bodies(self):
        return [self.inbox[n].get("body") for n in sorted(self.inbox)]


def device_of(node, account, number, **members):
    return Device(account, number, node.token(account, number, **members))


def people(node, n, devices=1):
    """n accounts with their devices: [[Device, ...], ...]"""
    made = []
    for _ in range(n):
        account, numbers = node.account(devices)
        made.append([device_of(node, account, d, ttl=86400) for d in numbers])
    return made
