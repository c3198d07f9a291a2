"""Are the calls of an account linearizable: is there one order of them, each between its
begin and its end, in which every answer is the one that a single account would give?

The search goes along the history by time (Wing and Gong's, in Lowe's form): it holds all
states that the account may be in, each with the calls that took effect but have not
ended.  When a call ends, whatever states have no way to its answer are dropped; where
none is left, that end is the first moment at which nothing explains what was seen.

A call whose outcome is unknown may take effect at any time after its begin, or never.
What keeps the search small: of two calls that might as well come in the other order,
with the same answers, one order is looked at, and a call that may wait until after the
end that is explained waits.  An unknown one that changes nothing need not happen; of
equal ones the first happens first; and of two states that are alike but for the unknown
calls that they used, the one that used fewer has all the other's futures.

Accounts are independent of one another, so each is judged by itself.
"""

import collections

FOREVER = float("inf")
BUDGET = 200_000        # states that are looked at for one account


class Call:
    __slots__ = ("number", "begin", "end", "op", "argument", "value", "kind")

    def __init__(self, number, begin, op, argument):
        self.number = number
        self.begin = begin
        self.end = FOREVER      # unknown until it is answered
        self.op = op
        self.argument = argument
        self.value = None
        self.kind = None        # of an unknown one: equal calls share it

    @property
    def unknown(self):
        return self.end == FOREVER

    def __str__(self):
        what = "".join(f" {a}" for a in self.argument)
        if self.unknown:
            return f"[{self.begin:.4f} ...] {self.op}{what}: nobody knows"
        return f"[{self.begin:.4f} {self.end:.4f}] {self.op}{what}: {self.value}"


class Account:
    """What one account is.  A state is a tuple (made, erased, number of the next device,
    end of the inbox, ((device, cursor), ...) of those that live).

        account-add                     ok, exists
        erase                           ok, exists, not-found
        device-add                      the number, not-found, too-many-devices
        device-remove DEVICE            ok, not-found
        send                            ok, unknown-recipient: the inbox grows by one
        cursor DEVICE N                 ok, ahead, not-found, device-removed: only rises
        read DEVICE                     [end, cursor, devices], device-removed
        look                            [end, devices], not-found
    """

    FIRST = (False, False, 1, 0, ())
    DEVICES_MAX = 6
    READERS = {"read", "look"}

    @classmethod
    def step(cls, state, op, argument):
        """The state after it, and the answers that are right."""
        made, erased, number, end, devices = state
        live = made and not erased
        if op == "account-add":
            return (state, ("exists",)) if made else (
                (True, False, number, end, devices), ("ok",))
        if op == "erase":
            if not made:
                return state, ("not-found",)
            # A repeated one that was done already is told as done.
            return (made, True, number, end, ()), ("ok",) if live else ("exists", "ok")
        if op == "device-add":
            if not live:
                return state, ("not-found",)
            if len(devices) == cls.DEVICES_MAX:
                return state, ("too-many-devices",)
            # The first device gets what waits, others start at the end.
            new = (number, end if devices else 0)
            return (made, erased, number + 1, end, devices + (new,)), (number,)
        if op == "send":
            if not live:
                return state, ("unknown-recipient",)
            return (made, erased, number, end + 1, devices), ("ok",)
        if op == "look":
            if not live:
                return state, ("not-found",)
            return state, ([end, [d for d, _ in devices]],)
        device = argument[0]
        cursor = dict(devices).get(device)
        if op == "device-remove":
            if cursor is None:
                return state, ("not-found",)
            left = tuple(d for d in devices if d[0] != device)
            return (made, erased, number, end, left), ("ok",)
        if op == "read":
            if cursor is None:
                return state, ("device-removed",)
            return state, ([end, cursor, [d for d, _ in devices]],)
        if op == "cursor":
            to = argument[1]
            if not made:
                return state, ("not-found",)
            if to > end:
                return state, ("ahead",)
            if cursor is None:
                return state, ("not-found" if device >= number else "device-removed",)
            moved = tuple((d, max(c, to) if d == device else c) for d, c in devices)
            return (made, erased, number, end, moved), ("ok",)
        raise ValueError(f"no operation {op}")


class TooMuch(Exception):
    """The search looked at more states than its budget."""


class Search:
    def __init__(self, model, calls, budget=BUDGET):
        self.model = model
        self.budget = budget
        # A reading that nobody knows says nothing.
        self.calls = [c for c in calls if not c.unknown or c.op not in model.READERS]
        self.pending = {}
        # (state, calls that took effect and have not ended) -> the smallest sets of
        # unknown calls that it may have taken.
        self.held = {(model.FIRST, frozenset()): [frozenset()]}
        for call in calls:
            call.kind = (call.op, tuple(call.argument)) if call.unknown else None

    @staticmethod
    def _put(into, key, used):
        """False: what is there already is as good."""
        sets = into.setdefault(key, [])
        if any(s <= used for s in sets):
            return False
        sets[:] = [s for s in sets if not used <= s]
        sets.append(used)
        return True

    def _choices(self, done, used):
        """Calls that may be the next to take effect."""
        first = {}
        for number, call in self.pending.items():
            if number in done or number in used:
                continue
            if call.kind is None:
                yield call
            elif call.kind not in first:
                first[call.kind] = call
        yield from first.values()

    def _swapped(self, last, call, new, ended):
        """Whether this call and the one before it are the same in the other order, and
        that is the order which is looked at."""
        if last is None:
            return False
        before, other = last

        def rank(c):
            return (c is not ended, c.unknown, c.number)

        if rank(call) > rank(other):
            return False
        state, answers = self.model.step(before, call.op, call.argument)
        if not call.unknown and call.value not in answers:
            return False
        state, answers = self.model.step(state, other.op, other.argument)
        return state == new and (other.unknown or other.value in answers)

    def _end(self, ended):
        """A call ends: it took effect by now, with the answer that it had."""
        seen, after, left = {}, {}, []
        for (state, done), sets in self.held.items():
            for used in sets:
                left.append((state, done, used, None))
        while left:
            # `last`: the call that came last, and the state before it.
            state, done, used, last = left.pop()
            if ended.number in done:
                self._put(after, (state, done - {ended.number}), used)
                continue
            for call in self._choices(done, used):
                self.budget -= 1
                if self.budget < 0:
                    raise TooMuch
                new, answers = self.model.step(state, call.op, call.argument)
                if call.unknown:
                    node = (new, done, used | {call.number})
                    useless = new == state
                else:
                    node = (new, done | {call.number}, used)
                    useless = call.value not in answers
                if useless or self._swapped(last, call, new, ended):
                    continue
                last_of = (state, call)
                if self._put(seen, (*node[:2], last_of), node[2]):
                    left.append((*node, last_of))
        return after

    def run(self):
        """None: linearizable.  Else the call whose end nothing explains."""
        # Where one begins at the moment another ends, they count as concurrent.
        moments = sorted([(c.begin, 0, c.number, c) for c in self.calls]
                         + [(c.end, 1, c.number, c) for c in self.calls
                            if not c.unknown])
        for _, is_end, _, call in moments:
            if not is_end:
                self.pending[call.number] = call
                continue
            after = self._end(call)
            if not after:
                return call
            del self.pending[call.number]
            self.held = after
        return None


def until(calls, end):
    """The calls as they were known at that moment."""
    known = []
    for c in calls:
        if c.begin > end:
            continue
        copy = Call(c.number, c.begin, c.op, c.argument)
        if c.end <= end:
            copy.end, copy.value = c.end, c.value
        known.append(copy)
    return known


def _still_bad(model, calls, budget):
    try:
        return Search(model, calls, budget).run() is not None
    except TooMuch:
        return False


def core(model, calls, budget=20_000):
    """The calls whose answers cannot all be right, whatever the others did: each of the
    others may take effect any time or never, which only allows more."""
    calls = until(calls, FOREVER)
    for call in sorted((c for c in calls if not c.unknown), key=lambda c: c.end):
        end, value = call.end, call.value
        call.end = FOREVER
        without = [c for c in calls if c is not call]
        # Who only reads does nothing when nobody knows what it read.
        attempt = without if call.op in model.READERS else calls
        if _still_bad(model, attempt, budget):
            calls = attempt
        else:
            call.end, call.value = end, value
    return [c for c in calls if not c.unknown]


class Verdict:
    GOOD, BAD, OPEN = "linearizable", "not linearizable", "undecided"

    def __init__(self, key, calls, budget=BUDGET, model=Account):
        self.key = key
        self.calls = calls
        self.last = None
        search = Search(model, calls, budget)
        try:
            self.last = search.run()
            self.what = self.BAD if self.last else self.GOOD
        except TooMuch:
            self.what = self.OPEN
        self.looked_at = budget - search.budget
        self.core = core(model, until(calls, self.last.end)) if self.last else []

    def text(self, most=30):
        if self.what != self.BAD:
            return f"account {self.key}: {len(self.calls)} calls, {self.what}"
        lines = sorted(self.core, key=lambda c: c.begin)
        hidden = max(0, len(lines) - most)
        return "\n    ".join([
            f"account {self.key}: nothing explains the answer of call "
            f"{self.last.number} of {len(self.calls)}; these cannot all be right"
            + (f" (and {hidden} before)" if hidden else "") + ":",
            *(f"{c.number} {c}" for c in lines[hidden:])])


class Calls:
    """Collects the calls of a history by account, and judges each."""

    def __init__(self):
        self.open = {}
        self.keys = collections.defaultdict(list)

    def take(self, e):
        if e.kind == "asked":
            call = Call(e.call, e.t, e.op, e.argument)
            self.open[e.call] = call
            self.keys[e.key].append(call)
        elif e.kind == "answered":
            call = self.open.pop(e.call)
            if e.outcome == "ok":
                call.end, call.value = e.t, e.value
            elif e.outcome == "fail":
                # It was said that nothing was done.
                call.kind = "void"

    def judge(self, budget=BUDGET):
        for key, calls in self.keys.items():
            yield Verdict(key, [c for c in calls if c.kind != "void"], budget)


def summary(verdicts):
    """A report of all of them."""
    bad = [v for v in verdicts if v.what == Verdict.BAD]
    # The one that is told best is the one with the least to read.
    bad.sort(key=lambda v: (len(v.core), len(v.calls)))
    return {"keys": len(verdicts), "operations": sum(len(v.calls) for v in verdicts),
            "unknown": sum(c.unknown for v in verdicts for c in v.calls),
            "undecided": sum(v.what == Verdict.OPEN for v in verdicts),
            "looked_at": sum(v.looked_at for v in verdicts),
            "bad": [v.text() for v in bad]}
