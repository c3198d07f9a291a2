"""The golden frames of tests/golden/wire, judged by another codec.

Every NAME.json there has its NAME.cbor: the same frame in both subprotocols.  This
test turns the JSON into CBOR with Python's cbor2 and the rows of base/wire.tbl, and
the bytes must be the committed ones; tests/unit/test_wire.c does the same in C.

    python3 tests/scenario/test_wire_golden.py --write    writes the .cbor files
"""

import base64
import json
import re
import sys
from pathlib import Path

import cbor2
import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "wire"
TABLE = (ROOT / "base" / "wire.tbl").read_text()

FIELDS = {
    name: (int(key), kind)
    for key, name, kind in re.findall(
        r"^FIELD\((\d+), \w+, (\w+), (\w+), [^)]*\)", TABLE, re.M)
}
FRAMES = {
    int(number): (name, side, set(re.findall(r"F\((\w+)\)", needed)))
    for number, name, side, needed in re.findall(
        r"^FRAME\((\d+), \w+, (\w+), (\w+),\s*((?:F\(\w+\)\s*)+)", TABLE, re.M)
}
KEY = {"device": 0, "kind": 1, "bytes": 2}


def unbase64(text):
    assert re.fullmatch(r"[A-Za-z0-9_-]*", text)
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == text
    return raw


def from_id(text):
    assert re.fullmatch(r"[0-9a-f]{16}", text)
    return int(text, 16)


def from_key(key):
    assert set(key) == set(KEY)
    return {0: key["device"], 1: key["kind"], 2: unbase64(key["bytes"])}


def from_value(kind, value):
    return {
        "U": lambda: value,
        "T": lambda: value,
        "S": lambda: value,
        "ID": lambda: from_id(value),
        "B": lambda: unbase64(value),
        "B16": lambda: unbase64(value),
        "IDS": lambda: [from_id(i) for i in value],
        "KEY": lambda: from_key(value),
        "KEYS": lambda: [from_key(k) for k in value],
        "ITEMS": lambda: [from_fields(i) for i in value],
        "PROBLEM": lambda: value,
        "LIMITS": lambda: value,
        "WORDS": lambda: value,
    }[kind]()


def from_fields(frame):
    return {FIELDS[name][0]: from_value(FIELDS[name][1], value)
            for name, value in frame.items()}


def to_cbor(text):
    # cbor2's canonical order is RFC 8949 4.2.3, the shorter key first; for our
    # keys (integers, and texts) it is the bytewise order of 4.2.1 as well.
    return cbor2.dumps(from_fields(json.loads(text)), canonical=True)


NAMES = sorted(p.stem for p in GOLDEN.glob("*.json"))


def test_the_table_was_read():
    assert len(FIELDS) == 52
    assert len(FRAMES) == 20
    assert FRAMES[8] == ("recv", "CLIENT", {"CURSOR"})


def test_every_frame_has_an_example():
    seen = {json.loads((GOLDEN / f"{n}.json").read_text())["t"] for n in NAMES}
    assert seen == set(FRAMES)


def test_every_field_has_an_example():
    seen = set()
    for name in NAMES:
        frame = json.loads((GOLDEN / f"{name}.json").read_text())
        seen |= set(frame)
        for item in frame.get("items", []):
            seen |= set(item)
    assert seen == set(FIELDS)


@pytest.mark.parametrize("name", NAMES)
def test_json_is_the_frame_in_cbor(name):
    text = (GOLDEN / f"{name}.json").read_text()
    frame = json.loads(text)
    want = (GOLDEN / f"{name}.cbor").read_bytes()
    assert to_cbor(text).hex() == want.hex()
    # as the server writes it: in the order of the field numbers, without space
    order = sorted(frame, key=lambda field: FIELDS[field][0])
    assert list(frame) == order
    for composite in (frame.get("problem", {}), frame.get("limits", {})):
        assert list(composite) == sorted(composite, key=lambda k: (len(k), k))
    assert text == json.dumps(frame, separators=(",", ":"),
                              ensure_ascii=False) + "\n"
    flags = frame.get("flags", 0)
    if not (FRAMES[frame["t"]][0] == "deliver" and flags & 16):
        needed = {f.lower() for f in FRAMES[frame["t"]][2]}
        assert needed <= set(frame)


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    for each in NAMES:
        (GOLDEN / f"{each}.cbor").write_bytes(
            to_cbor((GOLDEN / f"{each}.json").read_text()))
