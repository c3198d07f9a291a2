"""A node that joins a cluster: it waits to be let in, and founds nothing meanwhile."""

import subprocess

import pytest

from lib.checked import BUILD, WAIT_S
from lib.server import Node, own_address, until

PORT = 28100


@pytest.fixture
def pair(folder):
    """A founder, alone with its own row of [peers], and one that is to join it."""
    rows = [f"peers.{n}={own_address()}:{PORT + n}" for n in (1, 2)]
    # Below level 2 there is no table of nodes to be added to: [peers] says it all.
    founder = Node(folder / "data-1", ["node.id=1", "feature.max=1", rows[0]]).start()
    joiner = Node(folder / "data-2", ["node.id=2", *rows], ["--join"])
    yield founder, joiner, rows
    founder.finish()
    joiner.kill()


def begin(node):
    """As start(), for one that may not listen for clients yet."""
    from lib.server import Process

    node.process = Process(node.args)
    return node.process


def dumped(path):
    return subprocess.run([BUILD / "quipu-dump", path], capture_output=True, text=True,
                          timeout=WAIT_S).stdout


def test_who_is_not_let_in_waits(pair):
    founder, joiner, _ = pair
    process = begin(joiner)
    process.wait_line("event=folder_made node=2 joins=yes")
    process.wait_line("event=join_waits")
    assert not (joiner.data / "shards").exists()
    assert process.terminate() == 0
    joiner.process = None
    # The folder says what it is, also without the option.
    joiner.args.remove("--join")
    begin(joiner).wait_line("event=join_waits")


def test_a_peer_says_how_many_shards_there_are(pair):
    founder, joiner, rows = pair
    process = begin(joiner)
    process.wait_line("event=join_waits")
    # A row more makes a peer, not a founder.
    founder.stop()
    founder.args += ["--set", rows[1]]
    founder.start()
    process.wait_line("event=join_told peer=1 shards=16")
    until(lambda: "joined=1 level=0 epoch=0 founders=0 shards=16" in
          dumped(joiner.data / "node.meta"), "node.meta")
    founder.process.wait_line("event=peer_disk_known peer=2 joined=yes")
    assert "node=1" in dumped(joiner.data / "known")


def test_a_founder_is_none_afterwards(pair):
    """Without --join, an empty folder with two rows would found a cluster of two."""
    founder, joiner, rows = pair
    founder.stop()
    founder.args += ["--set", rows[1]]
    founder.start()
    joiner.args.remove("--join")
    begin(joiner)
    why = "made the cluster"
    until(lambda: why in founder.process.log or why in joiner.process.log, why)
    assert founder.admin("status")["ready"]
    assert not any(s["role"] == "leader" for s in joiner.admin("shards")["shards"])
