"""The feature level: what is new waits for the oldest program of the cluster, and an
older program does not open what is newer (docs/operations.md, "Feature level").

`feature.max` makes a node an older program in all that it says and takes."""

import json
import subprocess

import pytest

from lib.checked import BUILD, WAIT_S
from lib.server import AdminError, Cluster, Process, until

RETAIN = ["retain.enabled=yes"]


def ctl(node, *args):
    return subprocess.run(
        [BUILD / "quipuctl", "--socket", node.data / "admin.sock", *args],
        capture_output=True, text=True, timeout=WAIT_S)


def level(node):
    return node.admin("feature")["level"]


def contents(node):
    return {p: p.read_bytes() for p in node.data.rglob("*")
            if p.is_file() and p.name != "lock"}    # that has the process's id


def test_the_oldest_program_is_waited_for():
    with Cluster(settings=RETAIN) as cluster:
        assert [level(n) for n in cluster.running()] == [2, 2, 2]
        cluster.any().admin("retention-ttl", seconds=1000)

    old = ["feature.max=1"]
    cluster = Cluster(settings=RETAIN)
    node = cluster.nodes[3]
    args = node.args
    node.args = args + ["--set", *old]
    with cluster:
        for n in cluster.running():
            until(lambda n=n: all(p["up"] for p in n.admin("nodes")["nodes"]), "links")
        assert [level(n) for n in cluster.running()] == [1, 1, 1]
        with pytest.raises(AdminError) as refused:
            cluster.any().admin("retention-ttl", seconds=1000)
        assert refused.value.error == "feature-level"
        shown = ctl(cluster.any(), "feature", "status")
        assert "level 1 is in force, all members know 1" in shown.stdout
        assert ctl(cluster.any(), "feature", "raise", "2").returncode == 1
        node.stop()
        node.args = args
        node.start()
        for n in cluster.running():
            until(lambda n=n: level(n) == 2, "the level")
        cluster.any().admin("retention-ttl", seconds=1000)
        shown = json.loads(ctl(cluster.any(), "--json", "feature", "status").stdout)
        assert shown["possible"] == 2 and not any(n["lacking"] for n in shown["nodes"])


def test_an_older_program_changes_nothing(fresh_node):
    node = fresh_node
    assert level(node) == 2
    node.stop()
    before = contents(node)
    process = Process([*node.args, "--set", "feature.max=1"])
    assert process.end() == 1
    assert "feature level 2; this program knows 1" in process.log
    assert contents(node) == before
    node.start()
