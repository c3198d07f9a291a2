"""Which fault comes when: episodes of one or two, drawn from a seed, each recorded with
its begin and its end.  After an episode the cluster must serve again by itself."""

import json
import time


class Record:
    """faults.jsonl, and the same in memory."""

    def __init__(self, path):
        self.file = open(path, "w", buffering=1)
        self.faults = []

    def begin(self, fault, episode):
        row = {"episode": episode, "kind": fault.kind, "detail": fault.detail,
               "nodes": [n.n for n in fault.nodes], "begin": round(time.monotonic(), 3)}
        self.faults.append(row)
        self._write("begin", row)
        return row

    def note(self, row, what, **more):
        row.update(more)
        self._write(what, row)

    def _write(self, what, row):
        self.file.write(json.dumps({"what": what, **row}) + "\n")


class Schedule:
    SERVED_S = 90.0         # patience until every node is ready after an episode
    WHOLE_S = 180.0         # and until every node has everything

    def __init__(self, run, dice, kinds):
        self.run = run
        self.dice = dice
        self.kinds = kinds
        self.record = Record(run.folder / "faults.jsonl")
        self.episode = 0
        self.bag = []

    def _next_kind(self, fits):
        """Every kind comes once before any comes twice, weights apart."""
        for _ in range(2):
            for i, kind in enumerate(self.bag):
                if fits(kind):
                    return self.bag.pop(i)
            fresh = [k for k in self.kinds for _ in range(max(1, round(k.weight)))]
            # A weight below one sits a round out now and then.
            fresh = [k for k in fresh if k.weight >= 1 or self.dice.random() < k.weight]
            self.dice.shuffle(fresh)
            self.bag += fresh
        return None

    def _draw(self):
        first = self._next_kind(lambda kind: True)(self.run, self.dice)
        faults = [first]
        if not first.alone and not first.damage and self.dice.random() < 0.4:
            taken = {n.n for n in first.nodes}
            kind = self._next_kind(lambda k: not k.alone and not k.damage and
                                   k is not type(first))
            if kind:
                for _ in range(4):
                    second = kind(self.run, self.dice)
                    if not taken & {n.n for n in second.nodes}:
                        faults.append(second)
                        break
                else:
                    self.bag.insert(0, kind)
        return faults

    def run_one(self):
        run = self.run
        faults = self._draw()
        self.episode += 1
        if any(f.damage for f in faults):
            now = time.monotonic()
            if not run.until(lambda: run.watch.whole(now), self.WHOLE_S):
                run.fault_of_product("not whole", run.watch.lagging())
                return
        rows = []
        for i, fault in enumerate(faults):
            if i:
                run.hold(self.dice.uniform(0.0, 1.0))
            fault.begin()
            rows.append(self.record.begin(fault, self.episode))
            run.say(f"{fault.kind} {[n.n for n in fault.nodes]} {fault.detail}")
        run.hold(self.dice.uniform(*faults[0].hold))
        for fault, row in zip(faults, rows):
            fault.end()
            self.record.note(row, "end", end=round(time.monotonic(), 3))
        ended = time.monotonic()
        for fault, row in zip(faults, rows):
            text = fault.verdict()
            if text:
                run.fault_of_product(fault.kind, text)
            if fault.repaired is not None:
                self.record.note(row, "repaired", repaired=round(fault.repaired, 3))
        if not run.until(lambda: run.watch.served(ended), self.SERVED_S):
            run.fault_of_product("not served", f"{[f.kind for f in faults]}: "
                                 + run.watch.lagging())
        for row in rows:
            self.record.note(row, "served", served=round(time.monotonic(), 3))
        # Whole again is waited for now and then: faults hit a cluster that still
        # catches up, too.
        if faults[0].damage or self.dice.random() < 0.5:
            if not run.until(lambda: run.watch.whole(ended), self.WHOLE_S):
                run.fault_of_product("not whole", run.watch.lagging())
                return
            for row in rows:
                self.record.note(row, "whole", whole=round(run.watch.whole(ended), 3))
