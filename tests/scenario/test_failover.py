"""A short quipu-bench failover: one node is killed under load, and every device's sends
are acknowledged again; the same with one that is stopped."""

import json
import subprocess

import pytest

from lib.checked import BUILD, SLOW, WAIT_S
from lib.server import Cluster, until


@pytest.fixture(scope="module")
def three():
    with Cluster() as made:
        # A node that starts again is where it was: the bench knows addresses.
        for node in made.nodes.values():
            node.args[node.args.index("127.0.0.1:0")] = node.address
        yield made


@pytest.mark.parametrize("how, figure", [("kill", "resume"), ("stop", "ack_during_stop")])
def test_a_node_goes_and_comes_back(three, folder, how, figure):
    nodes = three.nodes.values()
    bench = subprocess.Popen(
        [BUILD / "quipu-bench", "failover", "--json", "--quiet", "--only", how,
         "--messages", "1", "--connections", "24", "--rate", str(200 // SLOW),
         # The number of the node is the name of the file.
         "--restart", f"cd {folder} && touch",
         "--gateway", ",".join(n.address for n in nodes),
         "--admin", ",".join(f"{n.data}/admin.sock" for n in nodes),
         "--token-key", three.folder / "token.key", "--data", three.folder],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: (folder / "1").exists() or bench.poll() is not None,
          "node 1 is to be started again", 3 * WAIT_S)
    three.nodes[1].kill()
    three.nodes[1].start()
    out, err = bench.communicate(timeout=3 * WAIT_S)
    result = json.loads(out)
    assert bench.returncode == 0 and result["ok"], (result, err)
    assert result[f"{how}s"] == 1
    assert 0 < result[f"{figure}_p50_us"] <= result[f"{figure}_max_us"]
    assert result["acks"] > 0 and result["fdatasyncs_of_servers"] > 0
