"""Three nodes, mutual TLS: kill -9 of any, of all, and nothing acknowledged is lost,
doubled or out of order, on whichever gateway a device comes back."""

import asyncio
import os
import random
import signal

import pytest
import websockets

from lib import wire
from lib.checked import WAIT_S
from lib.device import Closed, Refused, device_of, people
from lib.server import AdminError, until

# What a client sees of a server that dies; all of it means: again, elsewhere.
TROUBLE = (Closed, Refused, OSError, EOFError, asyncio.TimeoutError,
           websockets.WebSocketException)


def run(coroutine, timeout=4 * WAIT_S):
    return asyncio.run(asyncio.wait_for(coroutine, timeout))


@pytest.fixture(autouse=True)
def whole(cluster):
    """Every test begins with three nodes that are ready."""
    for node in cluster.nodes.values():
        if not node.process:
            node.start(wait=False)
    cluster.wait_ready()
    yield
    for node in cluster.running():
        assert node.process.process.poll() is None, node.process.log


def hex_id(device):
    return f"{device.account:016x}"


class Sender:
    """Sends one after the other, or a few at a time, and never gives up one."""

    def __init__(self, cluster, device, to):
        self.cluster = cluster
        self.device = device
        self.to = to
        self.acked = []
        self.dups = 0
        self.retries = 0
        self.whys = []          # what each retry was for
        self.stopped = False

    async def connected(self):
        while True:
            running = self.cluster.running()
            if running:
                node = random.choice(running)
                try:
                    await self.device.connect(
                        node.address, random.choice([wire.CBOR, wire.JSON]))
                    return
                except TROUBLE:
                    await self.device.vanish()
            await asyncio.sleep(0.05)

    async def deliver(self, sends):
        """All of them, however often it takes; in order each time."""
        open_sends = list(sends)
        while open_sends:
            if not self.device.reader or self.device.closed:
                await self.device.vanish()
                await self.connected()
            answers = await asyncio.gather(
                *[self.device.repeat(s) for s in open_sends],
                return_exceptions=True)
            left = []
            for send, answer in zip(open_sends, answers):
                if isinstance(answer, dict):
                    self.dups += bool(answer.get("dup"))
                    self.acked.append((answer["lamport"], send["body"]))
                elif isinstance(answer, TROUBLE):
                    left.append(send)
                    self.whys.append(answer)
                else:
                    raise answer
            self.retries += len(left)
            open_sends = left

    async def go(self, batch=8):
        i = 0
        while not self.stopped:
            sends = [self.device.compose(self.to.account,
                                         b"%d:%d" % (self.device.number, i + k))
                     for k in range(batch)]
            await self.deliver(sends)
            i += batch
        await self.device.close()

    def start(self, batch=8):
        self.task = asyncio.ensure_future(self.go(batch))

    async def more(self, n, timeout=2 * WAIT_S):
        """Until n more sends are acked."""
        want, loop = len(self.acked) + n, asyncio.get_running_loop()
        end = loop.time() + timeout
        while len(self.acked) < want:
            if self.task.done():
                await self.task
            assert loop.time() < end, f"no {n} acks within {timeout} s"
            await asyncio.sleep(0.02)

    async def finish(self):
        self.stopped = True
        await self.task

    def bodies(self):
        return [body for _, body in self.acked]


async def inbox_of(cluster, device, n, node=None):
    """Everything up to n, on some gateway; on a named one nothing is acknowledged,
    so that it can be read again."""
    device.cursor = None
    device.inbox.clear()
    where = node or random.choice(cluster.running())
    await device.connect(where.address, recv=node is None)
    await device.wait_inbox(n, 2 * WAIT_S)
    await device.close()
    return [device.inbox[i] for i in sorted(device.inbox)]


def assert_complete(senders, inbox):
    """Exactly once, each sender's in order, Lamport numbers rising along."""
    for sender in senders:
        mine = [r for r in inbox if r["from"] == sender.device.account]
        assert [r["body"] for r in mine] == sender.bodies()
        lamports = [r["lamport"] for r in mine]
        assert lamports == sorted(set(lamports))
        assert lamports == [lamport for lamport, _ in sender.acked]
    assert len(inbox) == sum(len(s.acked) for s in senders)


async def in_thread(function, *args):
    return await asyncio.get_running_loop().run_in_executor(None, function,
                                                            *args)


def test_people_on_different_gateways_talk(cluster):
    async def talk():
        (a,), (b,), (c,) = people(cluster.any(), 3)
        for device, node in zip((a, b, c), cluster.nodes.values()):
            await device.connect(node.address)
        for one in (a, b, c):
            for other in (a, b, c):
                if one is not other:
                    await one.send(other.account, b"%d" % one.account)
        for device in (a, b, c):
            await device.wait_inbox(2)
            await device.close()
            assert device.twice == 0
    run(talk())


def test_every_gateway_takes_every_token_and_shows_the_same(cluster):
    async def talk():
        (a,), (b,) = people(cluster.nodes[1], 2)
        await a.connect(cluster.nodes[2].address)
        for i in range(30):
            await a.send(b.account, b"%d" % i)
        await a.close()
        seen = []
        for node in cluster.nodes.values():
            seen.append(await inbox_of(cluster, b, 30, node))
        assert seen[0] == seen[1] == seen[2]
    run(talk())


def test_leaders_are_spread(cluster):
    def spread():
        leaders = {x["leader"]
                   for x in cluster.any().admin("leaders")["leaders"]}
        return leaders == {1, 2, 3}
    until(spread, "every node leads some shard")


def test_leadership_is_handed_over_without_loss(cluster):
    async def talk():
        (a,), (b,) = people(cluster.any(), 2)
        shard = cluster.shard_of(hex_id(b))
        sender = Sender(cluster, a, b)
        sender.start()
        for _ in range(3):
            leader = await in_thread(cluster.leader_of, shard)
            to = leader % 3 + 1
            try:
                cluster.nodes[leader].admin("transfer", shard=shard, to=to)
            except AdminError as e:
                assert e.error in ("busy", "no-leader")
            await sender.more(20)
        await sender.finish()
        assert sender.acked
        assert_complete([sender], await inbox_of(cluster, b, len(sender.acked)))
    run(talk())


def test_kill_of_the_leader_loses_nothing(cluster):
    async def talk():
        (a,), (c,), (b,) = people(cluster.any(), 3)
        shard = cluster.shard_of(hex_id(b))
        senders = [Sender(cluster, a, b), Sender(cluster, c, b)]
        for s in senders:
            s.start()
        for _ in range(3):
            leader = await in_thread(cluster.leader_of, shard)
            await in_thread(cluster.nodes[leader].kill)
            # Acks come again although one of three is gone.
            for s in senders:
                await s.more(50)
            await in_thread(cluster.nodes[leader].start, False)
            await in_thread(cluster.wait_ready)
        for s in senders:
            await s.finish()
        inbox = await inbox_of(cluster, b, sum(len(s.acked) for s in senders))
        assert_complete(senders, inbox)
    run(talk())


def test_kill_of_all_nodes_loses_nothing(cluster):
    async def talk():
        (a,), (b,) = people(cluster.any(), 2)
        sender = Sender(cluster, a, b)
        sender.start(batch=16)
        for _ in range(2):
            await sender.more(100)
            # All at one moment, as when the room loses power.
            for node in cluster.nodes.values():
                node.process.process.send_signal(signal.SIGKILL)
            for node in cluster.nodes.values():
                await in_thread(node.kill)
            for node in cluster.nodes.values():
                await in_thread(node.start, False)
            await in_thread(cluster.wait_ready)
        await sender.finish()
        assert_complete([sender], await inbox_of(cluster, b, len(sender.acked)))
    run(talk())


def test_a_device_comes_back_on_another_gateway(cluster):
    async def talk():
        (a,), (b,) = people(cluster.any(), 2)
        await a.connect(cluster.nodes[1].address)
        await b.connect(cluster.nodes[2].address)
        for i in range(40):
            await a.send(b.account, b"%d" % i)
        await b.wait_inbox(40)
        await in_thread(cluster.nodes[2].kill)
        await b.vanish()
        for i in range(40, 80):
            send = a.compose(b.account, b"%d" % i)
            for _ in range(100):
                try:
                    await a.repeat(send)
                    break
                except Refused as e:
                    assert e.name in ("unavailable", "no-leader", "busy")
        welcome = await b.connect(cluster.nodes[3].address)
        assert welcome["resumed"]
        await b.wait_inbox(80)
        assert b.bodies() == [b"%d" % i for i in range(80)]
        assert b.twice == 0
        await a.close()
        await b.close()
    run(talk())


def test_a_client_killed_in_mid_send_doubles_nothing(cluster):
    async def talk():
        (a,), (b,) = people(cluster.any(), 2)
        for i in range(20):
            send = a.compose(b.account, b"%d" % i)
            await a.connect(random.choice(cluster.running()).address)
            await a.stream.put("send", id=99, **send)
            if i % 2:
                await asyncio.sleep(random.random() / 200)
            await a.vanish()
            await a.connect(random.choice(cluster.running()).address)
            await a.repeat(send)
            await a.close()
        await b.connect(cluster.any().address)
        await b.wait_inbox(20)
        assert b.bodies() == [b"%d" % i for i in range(20)]
        await b.close()
    run(talk())


def test_two_of_three_gone_is_unavailable_and_not_wrong(cluster):
    async def talk():
        (a,), (b,) = people(cluster.any(), 2)
        await a.connect(cluster.nodes[1].address)
        await a.send(b.account, b"before")
        for i in (2, 3):
            await in_thread(cluster.nodes[i].kill)
        send = a.compose(b.account, b"during")
        with pytest.raises(Refused) as e:
            await a.repeat(send)
        assert e.value.name == "unavailable"
        assert e.value.problem["outcome"] in ("none", "unknown")
        assert cluster.nodes[1].admin("status")["ready"] is False
        for i in (2, 3):
            await in_thread(cluster.nodes[i].start, False)
        await in_thread(cluster.wait_ready)
        await a.repeat(send)
        await a.send(b.account, b"after")
        inbox = await inbox_of(cluster, b, 3)
        assert [r["body"] for r in inbox] == [b"before", b"during", b"after"]
        await a.close()
    run(talk())


def test_replicas_end_with_equal_logs(cluster):
    async def talk():
        (a,), (b,) = people(cluster.any(), 2)
        await a.connect(cluster.any().address)
        for _ in range(50):
            await a.send(b.account, os.urandom(50))
        await a.close()
    run(talk())

    def equal():
        per_shard = {}
        for node in cluster.running():
            for s in node.admin("shards")["shards"]:
                assert not s["faulty"], s["why"]
                per_shard.setdefault(s["shard"], set()).add(
                    (s["records"], s["root"]))
        return all(len(x) == 1 for x in per_shard.values())
    until(equal, "the same Merkle roots on all nodes")


def test_a_stop_hands_leaders_over(cluster):
    async def talk():
        (a,), (b,) = people(cluster.any(), 2)
        sender = Sender(cluster, a, b)
        sender.start()
        for i in (1, 2, 3):
            log = await in_thread(cluster.nodes[i].stop)
            assert "event=stopped" in log
            await sender.more(30)
            await in_thread(cluster.nodes[i].start, False)
            await in_thread(cluster.wait_ready)
        await sender.finish()
        assert_complete([sender], await inbox_of(cluster, b, len(sender.acked)))
    run(talk())


def test_a_removed_device_is_refused_everywhere(cluster):
    async def talk():
        (a,), = people(cluster.nodes[1], 1)
        cluster.nodes[2].admin("device-remove", account=hex_id(a),
                               device=a.number)
        for node in cluster.nodes.values():
            other = device_of(cluster.nodes[1], hex_id(a), a.number, epoch=1)
            with pytest.raises(Closed) as e:
                await other.connect(node.address)
            assert e.value.code == 4403
    run(talk())
