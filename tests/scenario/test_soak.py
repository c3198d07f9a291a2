"""A short quipu-bench soak: its table and its plot are well-formed, and what the servers
keep stays below what docs/operations.md ("How much is kept") computes."""

import csv
import json
import subprocess
import xml.etree.ElementTree as xml

from lib.checked import BUILD, SLOW, WAIT_S
from lib.server import Cluster

NODES, SHARDS, SEGMENT, FILE, JOURNAL = 3, 4, 64 << 10, 1 << 20, 8 << 20
TTL, PERIOD, AGE, SECONDS = 3, 1, 1, 25
RATE, BODY, RECORD = 60 // SLOW, 2000, 2300
MIB = 1 << 20

SETTINGS = [f"store.segment_size={SEGMENT}", f"checkpoint.age_s={AGE}",
            f"journal.file_size={FILE}", f"journal.max={JOURNAL}",
            "journal.queue=2MiB", "retain.enabled=yes", f"retain.period_s={PERIOD}",
            "retain.rate=64MiB"]


def plateau():
    """MiB of segments of one node.  What a slow machine makes of periods: half as much
    again; each file has headers and ends in a page of its own."""
    time = (TTL + 2 * PERIOD + AGE + 2) * 1.5
    sealed_every = max(TTL / 4, PERIOD)
    files = SHARDS * (time / sealed_every + 2)
    return (RATE * RECORD * time + (SHARDS + 2) * SEGMENT + files * 5 * 4096) / MIB


def test_a_soak_reaches_its_plateau(folder):
    table, picture = folder / "soak.csv", folder / "soak.svg"
    with Cluster(NODES, SETTINGS, SHARDS) as cluster:
        nodes = cluster.nodes.values()
        done = subprocess.run(
            [BUILD / "quipu-bench", "soak", "--json", "--quiet", "-t", str(SECONDS),
             "--ttl", str(TTL), "--rate", str(RATE), "--bytes", str(BODY),
             "--connections", "8", "--csv", table, "--plot", picture,
             "--gateway", ",".join(n.address for n in nodes),
             "--admin", ",".join(f"{n.data}/admin.sock" for n in nodes),
             "--token-key", cluster.folder / "token.key", "--data", cluster.folder],
            capture_output=True, text=True, timeout=SECONDS + 4 * WAIT_S)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["ok"], result
    for name in ("kept_percent_per_hour", "memory_percent_per_hour", "ack_p99_us"):
        assert name in result

    with table.open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == result["samples"] >= SECONDS / 2
    for row in rows:
        assert None not in row and all(float(value) >= 0 for value in row.values())
        assert all(float(row[f"rss_{n}_mib"]) > 1 for n in range(1, NODES + 1))
    minutes = [float(row["minutes"]) for row in rows]
    assert minutes == sorted(minutes)
    assert max(float(row["segments_mib"]) for row in rows) < NODES * plateau()
    # Without retention it would be more by now.
    assert plateau() < RATE * RECORD * SECONDS / MIB or SLOW > 1
    # Whole files, and twice as many while a ring outgrows its size.
    assert all(float(row["journal_mib"]) <= NODES * 2 * JOURNAL / MIB + 1 for row in rows)

    root = xml.parse(picture).getroot()
    assert root.tag.endswith("svg")
    text = [e.text for e in root.iter() if e.tag.endswith("text")]
    for word in ("minutes", "MiB", "1/s", "ms", "segments", "trees", "node 3", "p99"):
        assert word in text
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    assert len(lines) == 4 + 1 + NODES + 2
    assert all(len(e.get("points").split()) == len(rows) for e in lines)
