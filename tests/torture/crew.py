"""A process full of phones.

usage: crew.py SPEC.json

SPEC: {name, seed, rate, history, ca, gateways, phones: [{account, device, token,
source}], talk: {account: [accounts it writes to]}}.  Reads commands on stdin, a line each:

    cut F       that share of the connections breaks
    quiet       no new message; what is open goes on
    read        when quiet: the whole inbox of every phone, by every gateway
    end

Writes a line of JSON twice a second: what was acked, what is open, who is stuck.
"""

import asyncio
import json
import random
import sys

from history import History
from phone import Phone, trust


class Crew:
    def __init__(self, spec):
        self.spec = spec
        self.dice = random.Random(spec["seed"])
        self.history = History(spec["history"])
        self.ssl = trust(spec["ca"])
        self.gateways = list(spec["gateways"])
        self.phones = [Phone(p, self) for p in spec["phones"]]
        self.talk = {a: [int(b, 16) for b in others]
                     for a, others in spec["talk"].items()}
        self.acked = self.delivered = self.pages = 0
        self.problems = {}
        self.composing = True
        self.over = False
        self.read = None

    async def compose(self):
        """Poisson arrivals over all phones; who cannot send now lets it be."""
        pace = self.spec["rate"]
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self.over:
            due = max(due, loop.time() - 1.0) + self.dice.expovariate(pace)
            await asyncio.sleep(max(0, due - loop.time()))
            if not self.composing:
                continue
            phone = self.dice.choice(self.phones)
            if phone.may_compose():
                account = phone.name.split("/")[0]
                cls = 2 if self.dice.random() < 0.15 else 1
                size = int(self.dice.expovariate(1 / 120)) % 4000
                await phone.compose(self.dice.choice(self.talk[account]), cls, size)

    async def tend(self):
        while not self.over:
            for phone in self.phones:
                await phone.tend()
            await asyncio.sleep(0.2)

    async def read_all(self):
        """Every phone by every gateway: what a new device would be told."""
        done = 0
        for gateway in self.gateways:
            for phone in self.phones:
                phone.wish = gateway
                phone.cut()
            for phone in self.phones:
                for _ in range(10):
                    try:
                        await phone.until_live()
                        await phone.read_all(gateway)
                        done += 1
                        break
                    except (ConnectionError, asyncio.TimeoutError):
                        await asyncio.sleep(0.5)
        self.read = done

    def say(self):
        self.history.flush()
        stuck = {p.name: p.broken for p in self.phones if p.broken}
        behind = sum(1 for p in self.phones
                     if p.end is None or (p.cursor or 0) < p.end)
        print(json.dumps({
            "acked": self.acked, "delivered": self.delivered,
            "open": sum(len(p.open) for p in self.phones),
            "live": sum(p.live for p in self.phones), "phones": len(self.phones),
            "behind": behind, "stuck": stuck, "problems": self.problems,
            "pages": self.pages, "read": self.read}), flush=True)

    async def report(self):
        while not self.over:
            self.say()
            await asyncio.sleep(0.5)

    async def obey(self):
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while not self.over:
            line = (await reader.readline()).decode().split()
            if not line or line[0] == "end":
                self.over = True
            elif line[0] == "cut":
                for phone in self.phones:
                    if self.dice.random() < float(line[1]):
                        phone.cut()
            elif line[0] == "quiet":
                self.composing = False
            elif line[0] == "again":
                # A welcome says where the inbox ends now.
                for phone in self.phones:
                    phone.cut()
            elif line[0] == "read":
                self.reading = asyncio.ensure_future(self.read_all())

    async def run(self):
        runs = [asyncio.ensure_future(p.run()) for p in self.phones]
        others = [asyncio.ensure_future(f()) for f in (self.compose, self.tend,
                                                       self.report)]
        await self.obey()
        for task in runs + others:
            task.cancel()
        got = await asyncio.gather(*runs, *others, return_exceptions=True)
        self.say()
        self.history.close()
        for g in got:
            if isinstance(g, Exception) and not isinstance(g, asyncio.CancelledError):
                raise g


if __name__ == "__main__":
    with open(sys.argv[1]) as f:
        asyncio.run(Crew(json.load(f)).run())
