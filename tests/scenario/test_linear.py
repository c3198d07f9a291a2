"""The judge of cursors and accounts (tests/torture/linear.py) takes what one account
could have answered and nothing else: golden histories (tests/golden/linear), and drawn
ones against a judge that tries every order."""

import itertools
import random
import sys

import pytest

from lib.checked import ROOT

sys.path.insert(0, str(ROOT / "tests" / "torture"))

import history  # noqa: E402
import linear  # noqa: E402
from linear import Account, Call, Search, Verdict  # noqa: E402

GOLDEN = sorted((ROOT / "tests" / "golden" / "linear").glob("*.history"))


def verdict_of(path):
    calls = linear.Calls()
    for line in path.read_text().splitlines():
        calls.take(history.Event(*history.json.loads(line)))
    (verdict,) = calls.judge()
    return verdict


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden(path):
    verdict = verdict_of(path)
    assert verdict.what == (Verdict.GOOD if path.stem.startswith("good-")
                            else Verdict.BAD), verdict.text()


def test_what_is_told_of_a_bad_one():
    """The answers that contradict each other, and not the rest."""
    verdict = verdict_of(ROOT / "tests/golden/linear/bad-stale-read-after-an-ack.history")
    assert [str(c).split("] ")[1] for c in verdict.core] == [
        "cursor 1 3: ok", "read 1: [3, 2, [1]]"]
    assert "nothing explains the answer of call 8 of 8" in verdict.text()
    report = linear.summary([verdict])
    assert report["keys"] == 1 and report["operations"] == 8 and len(report["bad"]) == 1


class Drawn:
    """A history of a sound account: every call takes effect once between its begin and
    its end, or, where its outcome is unknown, any time later or never."""

    OPS = [("account-add", []), ("device-add", []), ("device-remove", [1]),
           ("device-remove", [2]), ("send", []), ("cursor", [1, 1]), ("cursor", [1, 2]),
           ("cursor", [2, 1]), ("read", [1]), ("read", [2]), ("look", []), ("erase", [])]
    ODDS = [1, 3, 1, 1, 4, 3, 3, 2, 4, 3, 4, 0.3]

    ONCE = {"account-add", "device-add", "device-remove", "erase"}

    def __init__(self, seed, calls, at_once, unknown, once=0.0):
        dice = random.Random(seed)
        state, self.calls, open_calls, late = Account.FIRST, [], [], []
        clock = itertools.count(1)
        made = dice.random() < 0.8

        def effect(call):
            nonlocal state
            state, answers = Account.step(state, call.op, call.argument)
            call.value = answers[0]

        while len(self.calls) < calls or open_calls:
            for call in [c for c in late if dice.random() < 0.2]:
                late.remove(call)
                effect(call)
            if len(self.calls) < calls and len(open_calls) < at_once and \
                    dice.random() < 0.5:
                op, argument = ("account-add", []) if made and not self.calls else \
                    dice.choices(self.OPS, self.ODDS)[0]
                call = Call(len(self.calls), next(clock), op, argument)
                self.calls.append(call)
                open_calls.append(call)
            elif open_calls:
                call = dice.choice(open_calls)
                odds = once if call.op in self.ONCE else unknown
                if call.value is None and dice.random() < odds:
                    open_calls.remove(call)
                    late.append(call)
                elif call.value is None:
                    effect(call)
                else:
                    open_calls.remove(call)
                    call.end = next(clock)
        for call in self.calls:
            if call.unknown:
                call.value = None


def every_order(calls):
    """Slow and simple: some order of all that ended and any of the others."""
    def go(state, left):
        must = [c for c in left if not c.unknown]
        if not must:
            return True
        first_end = min(c.end for c in must)
        for call in left:
            if call.begin > first_end:
                continue
            new, answers = Account.step(state, call.op, call.argument)
            if (call.unknown or call.value in answers) and go(
                    new, [c for c in left if c is not call]):
                return True
        return False
    return go(Account.FIRST, calls)


def test_drawn_ones_are_taken():
    for seed in range(150):
        calls = Drawn(seed, 120, 4, 0.03, 0.1).calls
        assert Search(Account, calls).run() is None, f"seed {seed}"


def test_many_unknown_calls():
    """As torture makes them: what can be repeated is known in the end, a third of the
    rest is not; that does not make the search endless."""
    for seed in range(60):
        calls = Drawn(seed, 220, 3, 0.0, 0.35).calls
        assert Verdict("a", calls).what == Verdict.GOOD, f"seed {seed}"


def test_the_same_as_every_order():
    """Changed answers: both judges say the same, and both are seen to say each."""
    said = []
    for seed in range(1500):
        calls = Drawn(seed, 7, 3, 0.15, 0.15).calls
        dice = random.Random(seed)
        known = [c for c in calls if not c.unknown]
        for call in dice.sample(known, min(len(known), dice.choice((0, 1, 1, 2)))):
            others = [c.value for c in known if c.op == call.op]
            call.value = dice.choice(others + ["ok", 2, [1, [1]], [1, 1, [1]]])
        good = Search(Account, calls).run() is None
        assert good == every_order(calls), f"seed {seed}"
        said.append(good)
    assert 300 < sum(said) < 1300


def test_a_read_that_is_moved_past_a_write_is_seen():
    """In long histories a single stale answer is found."""
    caught = tried = 0
    for seed in range(60):
        calls = Drawn(seed, 80, 4, 0.05).calls
        reads = [c for c in calls if c.op == "look" and isinstance(c.value, list)]
        pairs = [(a, b) for a, b in itertools.combinations(reads, 2)
                 if a.end < b.begin and a.value[0] < b.value[0]]
        if not pairs:
            continue
        early, late = random.Random(seed).choice(pairs)
        late.value = early.value
        # The inbox only grows: only what came between them may explain it.
        between = [c for c in reads if early.end < c.begin and c.end < late.begin
                   and c.value[0] > early.value[0]]
        if not between:
            continue
        tried += 1
        caught += Search(Account, calls).run() is not None
    assert tried > 10 and caught == tried


def test_too_much_is_said_to_be_undecided():
    calls = Drawn(1, 60, 6, 0.2).calls
    verdict = Verdict("a", calls, budget=5)
    assert verdict.what == Verdict.OPEN
    assert linear.summary([verdict])["undecided"] == 1
