"""quipuctl node and shard: the table of nodes of a cluster, who may change what into
what, and plans that are only shown."""

import json
import subprocess

import pytest

from lib.server import BUILD, Admin, AdminError, until


@pytest.fixture(scope="module")
def three(cluster):
    cluster.wait_ready()
    return cluster


def ctl(node, *args, status=0):
    p = subprocess.run([BUILD / "quipuctl", "--socket", node.data / "admin.sock", *args],
                       capture_output=True, text=True, timeout=60)
    assert p.returncode == status, p.stdout + p.stderr
    return p.stdout + p.stderr


def nodes(node):
    return {n["id"]: n for n in json.loads(ctl(node, "--json", "node", "list"))["nodes"]}


def entered(cluster):
    """All three are in the table, with their disks, wherever one asks."""
    def known():
        return all(sorted(nodes(n)) == [1, 2, 3] and
                   all(len(m["disk"]) == 32 for m in nodes(n).values())
                   for n in cluster.nodes.values())
    until(known, "a table of three nodes on all nodes")
    until(lambda: all(n["leads"] in (2, 3) for n in nodes(cluster.nodes[1]).values()),
          "leaderships to be where they are without anybody's doing")


def test_founders_are_in_the_table(three):
    entered(three)
    seen = nodes(three.nodes[2])
    assert all(n["state"] == "active" and n["up"] for n in seen.values())
    assert [n["self"] for n in seen.values()] == [False, True, False]
    assert sum(n["replicas"] for n in seen.values()) == 3 * 8
    assert sum(n["leads"] for n in seen.values()) == 8
    assert "active" in ctl(three.nodes[1], "node", "list")


def test_states_and_back(three):
    entered(three)
    one, other = three.nodes[1], three.nodes[3]
    ctl(one, "node", "cordon", "2")
    until(lambda: nodes(other)[2]["state"] == "cordoned", "the state on another node")
    ctl(other, "node", "drain", "2")
    until(lambda: nodes(one)[2]["state"] == "draining", "draining")
    ctl(one, "node", "undrain", "2")
    until(lambda: nodes(other)[2]["state"] == "active", "active again")


def test_what_is_refused(three):
    entered(three)
    node = three.nodes[1]
    assert "no node 9" in ctl(node, "node", "cordon", "9", status=1)
    assert "already" in ctl(node, "node", "add", "2", "--addr", "h:1", status=1)
    assert "--addr" in ctl(node, "node", "add", "4", status=2)
    assert "in-use" in ctl(node, "node", "forget", "2", status=1)
    assert "another disk" in ctl(node, "node", "replace", "2", status=1)
    assert "rack" in ctl(node, "node", "add", "5", "--addr", "h:1", "--rack", "a b",
                         status=1)
    assert "node" in ctl(node, "node", "explode", "2", status=2)
    # Somebody was faster.
    with Admin(node.data) as admin:
        version = nodes(node)[3]["version"]
        assert admin("node-set", id=3, state="cordoned", version=version)["version"]
        with pytest.raises(AdminError) as e:
            admin("node-set", id=3, state="active", version=version)
        assert e.value.error == "changed-meanwhile"
        admin("node-set", id=3, state="active")


def test_a_plan_changes_nothing(three):
    entered(three)
    node = three.nodes[1]
    assert "0 steps" in ctl(node, "node", "cordon", "2", "--dry-run")
    plan = json.loads(ctl(node, "--json", "node", "decommission", "3", "--dry-run"))
    # Two nodes are left: every shard loses a voter, some hand over first.
    ops = [s["op"] for s in plan["steps"]]
    assert ops.count("remove") == 8 and plan["total"] == len(ops)
    assert all(s["node"] == 3 for s in plan["steps"] if s["op"] == "remove")
    plan = json.loads(ctl(node, "--json", "node", "add", "4", "--dry-run"))
    ops = [s["op"] for s in plan["steps"]]
    assert ops.count("add") == ops.count("promote") == ops.count("remove") >= 4
    text = ctl(node, "node", "add", "4", "--dry-run")
    assert "replicas, node 4" in text and f"{plan['total']} steps" in text
    assert sorted(nodes(node)) == [1, 2, 3]
    assert all(n["state"] == "active" for n in nodes(node).values())


def test_shards(three):
    entered(three)
    node = three.nodes[1]
    table = ctl(node, "shard", "list")
    assert "1,2,3" in table
    replicas = ctl(node, "shard", "replicas", "3")
    assert "leader" in replicas and "voter" in replicas
    ctl(node, "shard", "replicas", "8", status=1)


def test_a_restart_knows_the_table(three):
    entered(three)
    node = three.nodes[2]
    until((node.data / "members").exists, "the file of members")
    node.stop()
    out = subprocess.run([BUILD / "quipu-dump", node.data / "members"], text=True,
                         capture_output=True, timeout=30, check=True).stdout
    assert out.count("state=active") == 3
    node.start()
    assert sorted(nodes(node)) == [1, 2, 3]


def test_a_drained_node_leads_nothing(three):
    entered(three)
    one, two = three.nodes[1], three.nodes[2]
    # A plan that was asked for first says as much.
    until(lambda: nodes(one)[2]["leads"] > 0, "node 2 to lead something")
    plan = json.loads(ctl(one, "--json", "node", "drain", "2", "--dry-run"))
    assert {s["op"] for s in plan["steps"]} == {"transfer"}
    assert "where it should be" in ctl(one, "node", "drain", "2", "--wait")
    until(lambda: nodes(one)[2]["leads"] == 0, "nothing to be led by node 2")
    assert sum(n["leads"] for n in nodes(two).values()) == 8
    ctl(two, "node", "undrain", "2", "--wait")
    until(lambda: nodes(one)[2]["leads"] > 0, "node 2 to lead again")
