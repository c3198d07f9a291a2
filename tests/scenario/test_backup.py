"""A cluster is backed up while people write (docs/operations.md, "Backups")."""

import asyncio
import json
import subprocess

import pytest

from lib.checked import BUILD, WAIT_S
from lib.device import people
from lib.server import Cluster
from test_cluster import Sender

SENDERS = 4


def quipuctl(*args):
    return subprocess.run([BUILD / "quipuctl", *map(str, args)], capture_output=True,
                          text=True, timeout=4 * WAIT_S)


def backup(cluster, to, *args):
    data = [a for node in cluster.running() for a in ("--data", node.data)]
    done = quipuctl("--json", *data, "--to", to, *args, "backup")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def verified(to):
    done = quipuctl("--json", "backup", "verify", to)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def files(to):
    return {p.relative_to(to): p.read_bytes() for p in to.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A cluster that was written to while it was backed up: (backup folder, first
    answer, acked before it began, all acked)."""
    to = tmp_path_factory.mktemp("backup") / "to"

    async def run(cluster):
        *froms, inbox = [d for (d,) in people(cluster.any(), SENDERS + 1)]
        senders = [Sender(cluster, d, inbox) for d in froms]
        for s in senders:
            s.start(4)
        for s in senders:
            await s.more(40)
        before = {s.device.account: s.bodies()[:] for s in senders}
        told = await asyncio.to_thread(backup, cluster, to)
        for s in senders:
            await s.more(10)
        for s in senders:
            await s.finish()
        return told, before, {s.device.account: s.bodies() for s in senders}, inbox

    with Cluster(shards=8, settings=["store.segment_size=64KiB"]) as cluster:
        told, before, after, inbox = asyncio.run(asyncio.wait_for(run(cluster),
                                                                  8 * WAIT_S))
        yield cluster, to, told, before, after, inbox


def test_it_is_whole(loaded):
    _, to, told, *_ = loaded
    assert told["shards"] == 8 and told["bytes"] > 0 and told["kept"] == 0
    shown = verified(to)
    assert shown["cut"] == told["cut"] and shown["cluster"] == "quipu"
    assert not list(to.rglob("*.part"))


def test_the_next_one_copies_what_is_new(loaded):
    cluster, to, told, *_ = loaded
    backup(cluster, to)
    quiet = backup(cluster, to)     # nothing was written in between
    assert quiet["kept"] > 0
    verified(to)
    named = {f["path"] for s in json.loads((to / "backup.json").read_text())["shard"]
             for f in s["files"]}
    assert {str(p) for p in files(to)} == named | {"backup.json", "lock"}


def test_a_run_that_was_broken_off_goes_on(loaded, tmp_path):
    cluster, *_ = loaded
    to = tmp_path / "to"
    whole = backup(cluster, to)
    (to / "backup.json").unlink()
    victim = max(to.glob("*/seg/*.seg"), key=lambda p: p.stat().st_size)
    victim.rename(f"{victim}.part")
    again = backup(cluster, to)
    assert 0 < again["kept"] < whole["bytes"]
    verified(to)
    assert not list(to.rglob("*.part"))


def test_damage_is_found_and_mended(loaded, tmp_path):
    cluster, *_ = loaded
    to = tmp_path / "to"
    backup(cluster, to)
    victim = max(to.glob("*/seg/*.seg"), key=lambda p: p.stat().st_size)
    with open(victim, "r+b") as f:
        f.seek(100)
        byte = f.read(1)
        f.seek(100)
        f.write(bytes([byte[0] ^ 1]))
    done = quipuctl("backup", "verify", to)
    assert done.returncode == 1 and victim.name in done.stderr
    backup(cluster, to)
    verified(to)
    victim = max(to.glob("*/seg/*.seg"), key=lambda p: p.stat().st_size)
    victim.unlink()
    assert quipuctl("backup", "verify", to).returncode == 1


def test_what_it_refuses(loaded, tmp_path):
    cluster, to, *_ = loaded
    assert quipuctl("backup").returncode == 2
    assert quipuctl("backup", "verify", tmp_path).returncode == 1
    other = tmp_path / "other"
    other.mkdir()
    shown = json.loads((to / "backup.json").read_text())
    shown["cluster_id"] = "00" * 16
    (other / "backup.json").write_text(json.dumps(shown))
    data = ["--data", cluster.any().data]
    done = quipuctl(*data, "--to", other, "backup")
    assert done.returncode == 1 and "another cluster" in done.stderr
    shown["format"] = 99
    (other / "backup.json").write_text(json.dumps(shown))
    done = quipuctl(*data, "--to", other, "backup")
    assert done.returncode == 1 and "format 99" in done.stderr
