"""Faults of the net between nodes, and between clients and nodes: rules of each node's
packet filter, in its own name space."""

import shutil

from faults import Fault, leader_of_most, some
from ground import OUTSIDE


class NetFault(Fault):
    """Rules in the name spaces of `nodes`."""

    hold = (1.0, 6.0)

    @classmethod
    def lacks(cls, run):
        return None if shutil.which("nft") else "nft (package nftables)"

    def others(self, node):
        return [n for n in self.run.nodes if n is not node]

    def rules(self, node):
        """(what comes in, what goes out)"""
        raise NotImplementedError

    def begin(self):
        for node in self.nodes:
            node.site.rules(*self.rules(node))

    def end(self):
        for node in self.nodes:
            node.site.rules([], [])


def drop_from(nodes):
    return [f"ip saddr {node.site.address} drop" for node in nodes]


def drop_to(nodes):
    return [f"ip daddr {node.site.address} drop" for node in nodes]


class Isolate(NetFault):
    kind = "isolated node"

    def draw(self):
        if self.dice.random() < 0.5:
            return [leader_of_most(self.run)]
        return super().draw()

    def rules(self, node):
        return drop_from(self.others(node)), drop_to(self.others(node))


class Shatter(NetFault):
    kind = "no majority"
    hold = (1.0, 4.0)

    def draw(self):
        # Who is left over is alone by that.
        return some(self.dice, self.run.nodes, len(self.run.nodes) - 1)

    def rules(self, node):
        return drop_from(self.others(node)), drop_to(self.others(node))


class Deaf(NetFault):
    """It speaks, and hears nobody."""

    kind = "deaf node"

    def rules(self, node):
        return drop_from(self.others(node)), []


class OneWay(NetFault):
    kind = "one-way cut"

    def draw(self):
        self.pair = some(self.dice, self.run.nodes, 2)
        return [self.pair[0]]

    @property
    def detail(self):
        return f"nothing from node {self.pair[1].n}"

    def rules(self, node):
        return drop_from([self.pair[1]]), []


class Bridge(NetFault):
    """Two nodes that reach a third, and not each other."""

    kind = "bridge"

    def draw(self):
        self.pair = some(self.dice, self.run.nodes, 2)
        return [self.pair[0]]

    @property
    def detail(self):
        return f"not with node {self.pair[1].n}"

    def rules(self, node):
        return drop_from([self.pair[1]]), drop_to([self.pair[1]])


class Loss(NetFault):
    kind = "packet loss"

    def draw(self):
        self.percent = self.dice.choice((1, 3, 10, 20, 30))
        return some(self.dice, self.run.nodes, self.dice.choice((1, len(self.run.nodes))))

    @property
    def detail(self):
        return f"{self.percent} %"

    def rules(self, node):
        return [f"ip saddr {n.site.address} numgen random mod 100 < {self.percent} drop"
                for n in self.others(node)], []


class NoClients(NetFault):
    kind = "clients cannot reach"

    def rules(self, node):
        return [f"ip saddr {OUTSIDE} drop"], [f"ip daddr {OUTSIDE} drop"]


class SlowLink(Fault):
    kind = "slow link"
    hold = (2.0, 6.0)

    @classmethod
    def lacks(cls, run):
        return None if shutil.which("tc") else "tc (package iproute2)"

    def draw(self):
        self.kbit = self.dice.choice((500, 1000, 2000, 5000))
        return super().draw()

    @property
    def detail(self):
        return f"{self.kbit} kbit/s"

    def begin(self):
        self.node.site.rate(self.kbit)

    def end(self):
        self.node.site.rate(None)


class CutClients(Fault):
    kind = "client connections break"
    hold = (0.1, 0.5)

    def draw(self):
        self.share = self.dice.choice((0.2, 0.5, 1.0))
        return []

    @property
    def detail(self):
        return f"{self.share:.0%}"

    def begin(self):
        for crew in self.run.crews:
            crew.tell(f"cut {self.share}")

    def end(self):
        pass


ALL = [Isolate, Shatter, Deaf, OneWay, Bridge, Loss, NoClients, SlowLink, CutClients]
