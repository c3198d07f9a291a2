"""Frames as an outside client writes and reads them, from the rows of base/wire.tbl.

A frame is a dict by field name: ids are ints, byte strings bytes, keys and items
dicts of the same kind.
"""

import base64
import json
import re
from pathlib import Path

import cbor2

ROOT = Path(__file__).resolve().parents[3]
_TABLE = (ROOT / "base" / "wire.tbl").read_text()

FIELDS = {
    name: (int(key), kind)
    for key, name, kind in re.findall(
        r"^FIELD\((\d+), \w+, (\w+), (\w+), [^)]*\)", _TABLE, re.M)
}
NAMES = {key: (name, kind) for name, (key, kind) in FIELDS.items()}
FRAMES = {
    name: int(number)
    for number, name in re.findall(r"^FRAME\((\d+), \w+, (\w+),", _TABLE, re.M)
}
FRAME_NAMES = {number: name for name, number in FRAMES.items()}
KEY = {"device": 0, "kind": 1, "bytes": 2}
KEY_NAMES = {number: name for name, number in KEY.items()}

CBOR, JSON = "quipu.v1.cbor", "quipu.v1.json"


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _walk(value, kind, field, on_key, leaf):
    if kind == "ITEMS":
        return [field(item) for item in value]
    if kind == "KEYS":
        return [on_key(key) for key in value]
    if kind == "KEY":
        return on_key(value)
    if kind == "IDS":
        return [leaf(i, "ID") for i in value]
    return leaf(value, kind)


def _to_json(frame):
    def leaf(value, kind):
        if kind == "ID":
            return f"{value:016x}"
        return b64(value) if isinstance(value, bytes) else value

    def key(k):
        return {**k, "bytes": b64(k["bytes"])}

    return {name: _walk(value, FIELDS[name][1], _to_json, key, leaf)
            if name in FIELDS else value for name, value in frame.items()}


def _from_json(frame):
    def leaf(value, kind):
        if kind == "ID":
            return int(value, 16)
        return unb64(value) if kind in ("B", "B16") else value

    def key(k):
        return {**k, "bytes": unb64(k["bytes"])}

    return {name: _walk(value, FIELDS[name][1], _from_json, key, leaf)
            for name, value in frame.items()}


def _to_cbor(frame):
    def key(k):
        return {KEY[name]: value for name, value in k.items()}

    return {FIELDS[name][0]: _walk(value, FIELDS[name][1], _to_cbor, key,
                                   lambda v, _: v)
            for name, value in frame.items()}


def _from_cbor(frame):
    def key(k):
        return {KEY_NAMES[number]: value for number, value in k.items()}

    return {NAMES[number][0]: _walk(value, NAMES[number][1], _from_cbor, key,
                                    lambda v, _: v)
            for number, value in frame.items()}


def encode(name, fields, protocol):
    frame = {"t": FRAMES[name], **fields}
    if protocol == JSON:
        return json.dumps(_to_json(frame))
    return cbor2.dumps(_to_cbor(frame), canonical=True)


def decode(message):
    """(name of the frame, fields)"""
    if isinstance(message, str):
        frame = _from_json(json.loads(message))
    else:
        frame = _from_cbor(cbor2.loads(message))
    return FRAME_NAMES[frame.pop("t")], frame
