"""The checker of tests/torture sees what it is there for, and a short torture of real
nodes holds.  The long one is `make torture`."""

import json
import subprocess
import sys
import zlib

import pytest

from lib.checked import BUILD, CHECKED, ROOT

sys.path.insert(0, str(ROOT / "tests" / "torture"))

import checker  # noqa: E402
from history import Event  # noqa: E402

A, B = "000000000000000a", "000000000000000b"
BODY = zlib.crc32(b"x")


class Story:
    """A sound history of A/1, who wrote to B/1 three times; tests break it."""

    def __init__(self):
        self.events = []
        self.clock = 0
        self.welcome(f"{B}/1", cursor=0, n=0, resumed=False, reason="new")
        for seq in (1, 2, 3):
            self.said(seq)

    def put(self, kind, *fields):
        self.clock += 1
        self.events.append(Event(kind, self.clock, *fields))

    def welcome(self, dev, cursor, n, resumed=True, reason=None, truncated=None):
        self.put("welcome", dev, "gateway", resumed, reason, cursor, n, truncated, 1)

    def send(self, seq, dev=f"{A}/1", to=B):
        self.put("send", dev, seq, seq - 1, f"m{seq}", to, 0, 1, BODY)

    def ack(self, seq, dev=f"{A}/1", lamport=None, offset=None, n=None):
        self.put("ack", dev, seq, f"m{seq}", lamport or 100 + seq, lamport or 100 + seq,
                 1, seq if offset is None else offset, n, False)

    def deliver(self, n, seq, dev=f"{B}/1", crc=BODY, lamport=None, flags=0):
        self.put("deliver", dev, n, A, 1, seq, f"m{seq}", lamport or 100 + seq,
                 lamport or 100 + seq, flags, 1, crc)

    def page(self, n):
        self.put("page", f"{B}/1", "gateway", n, A, 1, n, f"m{n}", 100 + n, 100 + n, 0, 1,
                 BODY)

    def said(self, seq):
        self.send(seq)
        self.ack(seq)
        self.deliver(seq, seq)
        self.put("recv", f"{B}/1", seq)

    def without(self, kind, **fields):
        self.events = [e for e in self.events if e.kind != kind or any(
            getattr(e, k) != v for k, v in fields.items())]
        return self

    def found(self):
        return {k for k, n in checker.judge(self.events).counts.items() if n}


def test_a_sound_history_is_sound():
    assert Story().found() == set()


def test_a_lost_message():
    story = Story().without("deliver", n=3).without("recv", cursor=3)
    assert story.found() == {"lost"}


def test_a_message_that_was_delivered_and_then_lost():
    story = Story()
    for n in (1, 2):
        story.page(n)
    story.put("paged", f"{B}/1", "gateway", 1, 2)
    counts = checker.judge(story.events, read=True).counts
    assert {k for k, n in counts.items() if n} == {"lost"}
    story.page(1), story.page(2), story.page(3)
    story.put("paged", f"{B}/1", "gateway", 1, 3)
    assert not +checker.judge(story.events, read=True).counts
    # Nobody can read it at all.
    assert checker.judge(Story().events, read=True).counts["lost"] == 3


def test_an_inbox_that_got_shorter():
    story = Story()
    story.welcome(f"{B}/1", None, 2)
    assert story.found() == {"lost"}


def test_a_device_that_is_ahead_of_the_server():
    story = Story()
    story.welcome(f"{B}/1", None, 3, resumed=False, reason="ahead")
    assert story.found() == {"stuck"}


def test_a_lost_own_copy():
    story = Story()
    story.send(4)
    story.ack(4, n=1)
    story.deliver(4, 4)
    assert story.found() == {"lost"}
    story.deliver(1, 4, dev=f"{A}/2", flags=1)
    assert story.found() == set()


def test_a_doubled_message():
    story = Story()
    story.deliver(4, 3)
    assert "doubled" in story.found()


def test_a_reordered_message():
    story = Story()
    for seq in (4, 5):
        story.send(seq)
        story.ack(seq)
    story.deliver(4, 5)
    story.deliver(5, 4)
    assert story.found() == {"reordered"}


def test_a_gap():
    story = Story()
    story.send(5)
    story.ack(5)
    story.deliver(5, 5)
    assert story.found() == {"gap"}
    # Told of it, it is none.
    story.welcome(f"{B}/1", None, 5, truncated=5)
    assert story.found() == set()


def test_a_gap_in_a_reading():
    story = Story()
    for n in (1, 3):
        story.page(n)
    story.put("paged", f"{B}/1", "gateway", 1, 3)
    assert story.found() == {"gap"}


@pytest.mark.parametrize("change", [
    {"crc": 1}, {"lamport": 200}, {"seq": 2}])
def test_another_content_under_a_number(change):
    story = Story()
    story.deliver(**({"n": 3, "seq": 3} | change))
    assert "changed" in story.found()


def test_a_place_that_is_given_twice():
    story = Story()
    story.send(4)
    story.ack(4, offset=3)
    story.deliver(4, 4)
    assert story.found() == {"changed"}


def test_a_message_that_nobody_sent():
    assert "unasked" in Story().without("send", seq=3).without("ack", seq=3).found()


def test_a_refused_message_that_shows_up():
    story = Story()
    story.send(4)
    story.put("refused", f"{A}/1", 4, "m4", "unknown-recipient")
    assert story.found() == set()
    story.deliver(4, 4)
    assert story.found() == {"unasked"}


def test_a_sound_message_that_is_refused():
    story = Story()
    story.send(4)
    story.put("refused", f"{A}/1", 4, "m4", "settled")
    assert story.found() == {"refused"}


def test_an_ack_below_what_its_writer_had_seen():
    story = Story()
    story.send(4)
    story.ack(4, lamport=103)   # it knows of 103, by the ack of its third
    story.deliver(4, 4, lamport=103)
    assert story.found() == {"causality"}


@pytest.mark.parametrize("kept", [[2, 1], [4]])
def test_a_cursor_that_falls_or_is_ahead(kept):
    story = Story()
    for cursor in kept:
        story.welcome(f"{B}/1", cursor, 3)
    assert story.found() == {"cursor"}


@pytest.mark.skipif(CHECKED, reason="sanitizers and a preloaded library do not mix")
def test_a_minute_of_torture(tmp_path):
    folder = tmp_path / "torture"
    made = subprocess.run(
        [ROOT / "tools/dev/torture", "--minutes", "0.6", "--rate", "120",
         "--accounts", "12", "--folder", folder], capture_output=True, text=True,
        timeout=600, env={"B": str(BUILD), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    if made.returncode == 77:
        pytest.skip(made.stderr.strip() or made.stdout.strip())
    assert made.returncode == 0, made.stdout[-6000:] + made.stderr[-2000:]
    report = json.loads((folder / "report.json").read_text())
    assert report["acked"] > 500 and report["faults"] >= 4, report
    linear = report["linear"]
    assert linear["operations"] > 200 and linear["keys"] >= 2, linear
    assert not linear["bad"] and not linear["undecided"], linear
