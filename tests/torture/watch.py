"""Looks at the nodes all the time, by their admin sockets: who leads, who lags, who says
that it is damaged, and how long it took until all was whole again."""

import threading
import time

from node import AdminError, Silent


class Watch(threading.Thread):
    INTERVAL_S = 0.4

    def __init__(self, nodes):
        super().__init__(daemon=True)
        self.nodes = nodes
        self.lock = threading.Lock()
        self.shards = {node.n: None for node in nodes}  # what each said last
        self.ready = {node.n: False for node in nodes}
        self.has = {}           # node -> ready, and everything is applied
        self.floor = {}         # shard -> highest commit of the round before
        self.whole_since = None
        self.over = False
        self.began = 0.0        # of the last round

    def run(self):
        while not self.over:
            began = time.monotonic()
            self._look(began)
            time.sleep(max(0.05, self.INTERVAL_S - (time.monotonic() - began)))

    def _look(self, began):
        got, ready = {}, {}
        for node in self.nodes:
            try:
                ready[node.n] = node.ask("status", timeout=1.5)["ready"]
                got[node.n] = {s["shard"]: s for s in
                               node.ask("shards", timeout=1.5)["shards"]}
            except (Silent, AdminError, ValueError, KeyError):
                got[node.n], ready[node.n] = None, False
        with self.lock:
            self.has = {n: ready[n] and self._has_all(said)
                        for n, said in got.items()}
            whole = all(self.has.values())
            self.whole_since = (self.whole_since or began) if whole else None
            self.shards, self.ready = got, ready
            floor = dict(self.floor)
            for said in got.values():
                for n, s in (said or {}).items():
                    floor[n] = max(floor.get(n, 0), s["commit"])
            self.floor = floor
            self.began = began

    def _has_all(self, said):
        """Sound, and everything that was committed a round ago is applied."""
        return said is not None and all(
            not s["faulty"] and s["applied"] >= self.floor.get(n, 0)
            for n, s in said.items())

    def whole(self, after):
        """When all nodes had all: since `after` or later; 0 where they have not, as far
        as rounds tell that began after it."""
        with self.lock:
            if self.began < after or not self.whole_since:
                return 0.0
            return max(self.whole_since, after)

    def served(self, after):
        """Every node was ready in a round that began after that moment."""
        with self.lock:
            return self.began >= after and all(self.ready.values())

    def faulty(self):
        with self.lock:
            return {n: [s["shard"] for s in said.values() if s["faulty"]]
                    for n, said in self.shards.items() if said and
                    any(s["faulty"] for s in said.values())}

    def lagging(self):
        """Text: which node has not what."""
        with self.lock:
            lines = []
            for n, said in self.shards.items():
                if said is None:
                    lines.append(f"node {n} does not answer")
                    continue
                if not self.ready[n]:
                    lines.append(f"node {n} is not ready")
                for shard, s in said.items():
                    if s["faulty"]:
                        lines.append(f"node {n} shard {shard} faulty: {s['why']}")
                    elif s["applied"] < self.floor.get(shard, 0):
                        lines.append(f"node {n} shard {shard} applied {s['applied']} "
                                     f"of {self.floor[shard]}")
            return "; ".join(lines[:8])

    def others_have_all(self, n):
        """The nodes but this one have, and serve, all that was committed."""
        with self.lock:
            return all(self.has.get(m) for m in self.shards if m != n)

    def voters_are(self, nodes):
        """By their leaders, every shard has these nodes for its voters, and no others."""
        want, seen = {node.n for node in nodes}, {}
        with self.lock:
            for said in self.shards.values():
                for shard, s in (said or {}).items():
                    known = seen.setdefault(shard, False)
                    if s["role"] == "leader":
                        seen[shard] = known or {v["id"] for v in s["voters"]} == want
        return bool(seen) and all(seen.values())

    def leader_of_most(self):
        with self.lock:
            led = {node.n: 0 for node in self.nodes}
            for n, said in self.shards.items():
                for s in (said or {}).values():
                    led[n] += s["role"] == "leader"
        return max(self.nodes, key=lambda node: led[node.n])

    def alike(self):
        """Text where replicas of a shard differ at the same index; None: all equal."""
        with self.lock:
            said = {n: s for n, s in self.shards.items() if s}
        if len(said) < len(self.nodes):
            return "a node does not answer"
        first, *others = said.items()
        for n, shards in others:
            for number, s in shards.items():
                f = first[1][number]
                what = [key for key in ("applied", "records", "root", "digest")
                        if s[key] != f[key]]
                if what:
                    return (f"shard {number}: node {first[0]} and node {n} differ in "
                            f"{', '.join(what)}")
        return None
