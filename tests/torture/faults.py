"""What a fault is, and the faults of processes and of power.

A fault is drawn (its nodes and numbers come from the dice of the run), begins, is held
for a while, and ends; after that everything must come back by itself.  `kind` is its
name in the report.  What a machine or the product cannot do is skipped by that name,
with the reason that lacks() gives.
"""


class Fault:
    kind = None
    weight = 1.0
    hold = (1.0, 4.0)       # seconds
    damage = False          # takes something that was promised from one disk: only when
    #                         the others have everything, and nothing else befalls them
    alone = False           # is never one of two
    repaired = None         # seconds until damage was cured, known after verdict()

    @classmethod
    def lacks(cls, run):
        """Why there is none of this kind here; None: there is."""
        return None

    def __init__(self, run, dice):
        self.run = run
        self.dice = dice
        self.nodes = self.draw()

    def draw(self):
        """The nodes that it takes."""
        return [self.dice.choice(self.run.nodes)]

    @property
    def node(self):
        return self.nodes[0]

    @property
    def detail(self):
        return ""

    def begin(self):
        raise NotImplementedError

    def end(self):
        """Takes the cause away; a node that is down starts again."""
        for node in self.nodes:
            if not node.process:
                node.start()

    def verdict(self):
        """Looked at when it ended: a text where the product did wrong."""
        return None


def some(dice, nodes, n):
    return dice.sample(nodes, n)


def leader_of_most(run):
    """The node that leads most shards, as far as is known."""
    return run.watch.leader_of_most()


# ---- processes

class Kill(Fault):
    kind = "kill"
    weight = 2.0

    def draw(self):
        # Half of the time the one that hurts most.
        if self.dice.random() < 0.5:
            return [leader_of_most(self.run)]
        return super().draw()

    def begin(self):
        self.node.kill()


class KillMajority(Fault):
    kind = "kill majority"

    def draw(self):
        return some(self.dice, self.run.nodes, len(self.run.nodes) // 2 + 1)

    def begin(self):
        for node in self.nodes:
            node.kill()


class KillAll(KillMajority):
    kind = "kill all"
    weight = 0.5
    hold = (0.2, 1.5)
    alone = True

    def draw(self):
        return list(self.run.nodes)


class Pause(Kill):
    kind = "pause"
    hold = (1.0, 6.0)

    def begin(self):
        self.node.pause()

    def end(self):
        self.node.go_on()


class Restart(Fault):
    kind = "clean restart"
    hold = (0.1, 1.5)

    def begin(self):
        self.code = self.node.stop()

    def verdict(self):
        if self.code != 0:
            return f"node {self.node.n}: SIGTERM ended with status {self.code}"
        return None


# ---- power

class PowerCut(Fault):
    kind = "power cut"
    weight = 2.0
    hold = (0.3, 3.0)

    def draw(self):
        if self.dice.random() < 0.5:
            return [leader_of_most(self.run)]
        return super().draw()

    def begin(self):
        for node in self.nodes:
            node.disk.cut()
        for node in self.nodes:
            node.kill()

    def end(self):
        for node in self.nodes:
            node.mount_again()
        super().end()


class PowerCutMajority(PowerCut):
    kind = "power cut majority"
    weight = 1.0

    def draw(self):
        return some(self.dice, self.run.nodes, len(self.run.nodes) // 2 + 1)


class PowerCutAll(PowerCut):
    kind = "power cut all"
    weight = 1.5
    hold = (0.2, 1.5)
    alone = True

    def draw(self):
        return list(self.run.nodes)


ALL = [Kill, KillMajority, KillAll, Pause, Restart, PowerCut, PowerCutMajority,
       PowerCutAll]
