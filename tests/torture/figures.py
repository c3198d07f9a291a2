"""Numbers of a run, from the history and the record of faults."""

import collections


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p / 100 * len(values)))] if values else 0.0


def spread(values):
    return {"n": len(values), "p50": round(percentile(values, 50), 3),
            "p99": round(percentile(values, 99), 3),
            "max": round(max(values, default=0.0), 3)}


class Windows:
    """Times in which a shard acknowledged nothing although a client waited for it."""

    LEAST_S = 0.5

    def __init__(self):
        self.begun = {}
        self.acks = collections.defaultdict(list)   # shard -> [(acked, begun)]
        self.latencies = []

    def take(self, e):
        if e.kind == "send":
            self.begun[e.mid] = e.t
        elif e.kind == "ack" and e.mid in self.begun:
            self.acks[e.shard].append((e.t, self.begun[e.mid]))
            self.latencies.append(e.t - self.begun[e.mid])

    def all(self):
        """[(begin, end)]"""
        found = []
        for acks in self.acks.values():
            acks.sort()
            # The oldest send that was still open at each ack.
            oldest, low = [0.0] * len(acks), float("inf")
            for i in range(len(acks) - 1, -1, -1):
                low = min(low, acks[i][1])
                oldest[i] = low
            for i in range(1, len(acks)):
                begin = max(acks[i - 1][0], oldest[i])
                if acks[i][0] - begin >= self.LEAST_S:
                    found.append((begin, acks[i][0]))
        return found


def by_kind(windows, faults, nodes):
    """kind -> lengths, of faults that came alone.  Where the fault takes a majority its
    own time is none of the product's: the window counts from its end."""
    together = collections.Counter(f["episode"] for f in faults)
    found = collections.defaultdict(list)
    for f in faults:
        if together[f["episode"]] > 1:
            continue
        over = f.get("end", f["begin"])
        last = f.get("served", over)
        since = over if 2 * len(f["nodes"]) > nodes else 0.0
        for begin, end in windows:
            if f["begin"] - 0.3 <= begin <= last and end > since:
                found[f["kind"]].append(end - max(begin, since))
    return {kind: spread(lengths) for kind, lengths in sorted(found.items())}


def repair_times(faults):
    """kind -> seconds from the end of a fault until every node had everything."""
    found = collections.defaultdict(list)
    for f in faults:
        if "whole" in f:
            found[f["kind"]].append(max(0.0, f["whole"] - f["end"]))
    return {kind: spread(times) for kind, times in sorted(found.items())}
