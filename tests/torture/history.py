"""What the clients saw, outside of the system: one append-only file for each process,
one JSON array a line, [kind, time, ...].  Times are of the machine's monotonic clock.

    send     dev seq after mid to seen class crc       before it goes out first
    ack      dev seq mid lamport stamp shard offset n dup
    refused  dev seq mid problem                       for good
    deliver  dev n from fdev seq mid lamport stamp flags class crc
    page     dev gateway n from fdev seq mid lamport stamp flags class crc
    welcome  dev gateway resumed reason cursor n truncated epoch
    recv     dev cursor                                before it goes out
    closed   dev code
    paged    dev gateway first end                     a whole reading is done
    asked    call key op argument                      a call of the account or cursor kind
    answered call outcome value                        outcome: ok, fail, unknown

`dev` is "account/device" with the account in hex.
"""

import json
import time
import zlib
from pathlib import Path

KINDS = {
    "send": "dev seq after mid to seen cls crc",
    "ack": "dev seq mid lamport stamp shard offset n dup",
    "refused": "dev seq mid problem",
    "deliver": "dev n frm fdev seq mid lamport stamp flags cls crc",
    "page": "dev gateway n frm fdev seq mid lamport stamp flags cls crc",
    "welcome": "dev gateway resumed reason cursor n truncated epoch",
    "recv": "dev cursor",
    "closed": "dev code",
    "paged": "dev gateway first end",
    "asked": "call key op argument",
    "answered": "call outcome value",
}
FIELDS = {kind: tuple(names.split()) for kind, names in KINDS.items()}


def crc(body):
    return zlib.crc32(body or b"")


class History:
    """The writer of one process."""

    def __init__(self, path):
        self.file = open(path, "w", buffering=1 << 16)

    def put(self, kind, *fields):
        assert len(fields) == len(FIELDS[kind]), kind
        self.file.write(json.dumps([kind, round(time.monotonic(), 4), *fields],
                                   separators=(",", ":")) + "\n")

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


class Event:
    """One line, with the fields as attributes."""

    __slots__ = ("kind", "t", "__dict__")

    def __init__(self, kind, t, *fields):
        self.kind, self.t = kind, t
        self.__dict__.update(zip(FIELDS[kind], fields))

    def __repr__(self):
        return f"{self.kind}@{self.t} {self.__dict__}"


def read(folder):
    """Events of all files of a folder, in the order of each file."""
    for path in sorted(Path(folder).glob("*.history")):
        with open(path) as f:
            for line in f:
                yield Event(*json.loads(line))
