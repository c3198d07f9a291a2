"""The messages of a corpus through three nodes, by quipu-bench, which compares: all
there, once, byte for byte, in order.  Plain, with leaders killed, with all killed."""

import json
import random
import subprocess

import pytest

from lib.checked import BUILD, CHECKED, ROOT, SLOW, WAIT_S
from lib.server import Cluster, until

BENCH = BUILD / "quipu-bench"
CORPUS = ROOT.parent / "shared" / "data" / "sms-en.tsv.gz"
# All of it takes seconds, but minutes with a sanitizer.
MESSAGES = 3000 if CHECKED else 55835
# Some seconds of work, in which nodes are killed; with a sanitizer one needs as long
# as that to start again.
RATE = 1500 // SLOW
RATED = RATE * (30 if CHECKED else 6)


@pytest.fixture(scope="module")
def three():
    with Cluster() as made:
        # A node that starts again is where it was: the bench knows addresses.
        for node in made.nodes.values():
            node.args[node.args.index("127.0.0.1:0")] = node.address
        yield made


@pytest.fixture
def said(capsys):
    if not CORPUS.exists():
        with capsys.disabled():
            print(f"\n{CORPUS} is absent: made up messages of its shape", end=" ")


class Run:
    def __init__(self, cluster, *options):
        nodes = cluster.nodes.values()
        self.begun = cluster.folder / "begun"
        self.begun.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [BENCH, "corpus", "--json", "--quiet", "--begun", self.begun,
             "--gateway", ",".join(n.address for n in nodes),
             "--admin", ",".join(f"{n.data}/admin.sock" for n in nodes),
             "--token-key", cluster.folder / "token.key",
             "--data", cluster.folder, "--stall", str(WAIT_S), *options,
             *([CORPUS] if CORPUS.exists() else [])],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def sending(self):
        until(lambda: self.begun.exists() or self.process.poll() is not None,
              "the first message")
        assert self.process.poll() is None, self.process.communicate()

    def result(self):
        out, err = self.process.communicate(timeout=10 * WAIT_S)
        assert not err, err
        result = json.loads(out)
        assert result["ok"], result.get("failures", result)
        assert self.process.returncode == 0
        return result

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def bench(three):
    runs = []

    def start(*options):
        runs.append(Run(three, *options))
        return runs[-1]
    yield start
    for run in runs:
        run.end()
    for node in three.nodes.values():
        if not node.process:
            node.start(wait=False)
    three.wait_ready()


def wait_acks(cluster, run, n):
    """Until the gateways have sent n acks more, while the run goes on."""
    def acks():
        return sum(node.admin("stats")["stats"]["acks"] for node in cluster.running())
    before = acks()
    until(lambda: acks() - before >= n or run.process.poll() is not None, f"{n} acks")
    assert run.process.poll() is None, "the run was over too soon"


def complete(result, n):
    assert result["messages"] == n
    assert result["read_back"] == n
    return result


def test_the_whole_corpus(three, bench, said):
    result = complete(bench("-m", str(MESSAGES)).result(), MESSAGES)
    assert result["reconnects"] == 0
    assert result["replicas"] == 3
    assert result["fdatasyncs_of_servers"] > 0


def test_while_leaders_are_killed(three, bench, said):
    run = bench("-m", str(RATED), "--rate", str(RATE))
    run.sending()
    for _ in range(2):
        wait_acks(three, run, RATE)
        shard = random.randrange(8)
        node = three.nodes[three.leader_of(shard)]
        node.kill()
        node.start()
        three.wait_ready()
    result = complete(run.result(), RATED)
    assert result["reconnects"] > 0


def test_across_the_death_of_all(three, bench, said):
    run = bench("-m", str(RATED), "--rate", str(RATE))
    run.sending()
    wait_acks(three, run, RATE)
    for node in three.nodes.values():
        node.process.process.kill()
    for node in three.nodes.values():
        node.kill()
    for node in three.nodes.values():
        node.start(wait=False)
    result = complete(run.result(), RATED)
    assert result["reconnects"] >= 3


def test_a_failed_run_says_so(three, bench):
    """Nobody serves there: no ok, and not exit code 0."""
    run = subprocess.run(
        [BENCH, "corpus", "--json", "--quiet", "-m", "10", "--gateway", "127.0.0.1:1",
         "--admin", f"{three.nodes[1].data}/none.sock", "--token-key",
         three.folder / "token.key", "--data", three.folder],
        capture_output=True, text=True, timeout=WAIT_S)
    assert run.returncode == 1
    result = json.loads(run.stdout)
    assert not result["ok"] and "none.sock" in result["failures"][0]
