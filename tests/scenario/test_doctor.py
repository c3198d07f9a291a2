"""quipuctl doctor: on a cluster that is well, one with nodes down, and against admin
sockets that say whatever a check looks for."""

import copy
import json
import re
import socketserver
import subprocess
import threading
import time

import pytest

from lib.checked import BUILD, ROOT, WAIT_S
from lib.server import Cluster, until
from test_ca import Pki, ca

QUIPUCTL = BUILD / "quipuctl"
GOOD, WARN, ERROR = 0, 4, 5
IDS = re.findall(r'^X\(\w+, "([\w-]+)"', (ROOT / "tools/quipuctl/doctor.tbl").read_text(),
                 re.M)


def doctor(*where):
    """(exit status, [findings])"""
    done = subprocess.run([QUIPUCTL, *where, "--json", "doctor"], capture_output=True,
                          text=True, timeout=2 * WAIT_S)
    assert done.returncode in (GOOD, WARN, ERROR), done.stderr
    answer = json.loads(done.stdout)
    assert answer["worst"] == {GOOD: "good", WARN: "warning", ERROR: "error"}[
        done.returncode]
    return done.returncode, answer["findings"]


def ids(findings):
    return {f["id"] for f in findings}


def all_of(cluster):
    return [a for node in cluster.nodes.values() for a in ("-d", node.data)]


# ---- a real cluster ------------------------------------------------------------------

def test_a_cluster_by_and_by_less_well():
    cluster = Cluster()
    pki = Pki(cluster)
    for node in cluster.nodes.values():
        node.args += ["--set", f"tls.ca={pki.dir}/bundle.crt"]
    with cluster:
        for node in cluster.nodes.values():
            until(lambda n=node: all(p["up"] for p in n.admin("nodes")["nodes"]),
                  "links")
        # What a busy machine does to a disk's p99 is no fault of the cluster.
        status, found = doctor(*all_of(cluster))
        assert ids(found) <= {"fsync-slow"}, found

        key = cluster.folder / "node-1.key"
        key.chmod(0o644)
        ca(pki.dir, "issue", "node", 1, "--force", "--days", 3)
        pki.copy(1)
        key.chmod(0o644)
        cluster.nodes[1].admin("reload")
        status, found = doctor("-d", cluster.nodes[1].data)
        assert status == ERROR
        told = {f["id"]: f["what"] for f in found}
        assert "its links ends in" in told["cert-expiry"]
        assert "node-1.key" in told["config"] and "0644" in told["config"]

        cluster.nodes[3].kill()
        until(lambda: not cluster.nodes[1].admin("nodes")["nodes"][2]["up"], "seen")
        status, found = doctor(*all_of(cluster))
        assert status == ERROR
        assert {"unreachable", "node-down"} <= ids(found) and "no-quorum" not in ids(found)
        assert [f["where"] for f in found if f["id"] == "node-down"] == ["node 3"]
        # Asked alone it knows of its peers what it sees.
        assert "node-down" in ids(doctor("-d", cluster.nodes[2].data)[1])

        cluster.nodes[2].kill()
        until(lambda: not any(s["leader"] for s in
                              cluster.nodes[1].admin("leaders")["leaders"]), "no leader")
        status, found = doctor(*all_of(cluster))
        assert status == ERROR
        assert {"unreachable", "node-down", "no-quorum", "no-leader"} <= ids(found)
        cluster.nodes[1].kill()
        status, found = doctor(*all_of(cluster))
        assert status == ERROR and ids(found) == {"unreachable"} and len(found) == 3
        text = subprocess.run([QUIPUCTL, *all_of(cluster), "doctor"], text=True,
                              capture_output=True, timeout=WAIT_S).stdout
        assert "means: " in text and "do: " in text and "3 findings, 3 nodes" in text


# ---- forged answers --------------------------------------------------------------------

def healthy(n):
    now = time.time()
    return {
        "status": {"id": n, "version": "1.0", "uptime_s": 1000,
                   "shards": 6, "led": 2, "calls": 0, "sends_open": 0,
                   "disk": {"level": "ok", "free_bytes": 1 << 40, "size_bytes": 2 << 40},
                   "journal": {"files_used": 2, "queued_bytes": 0}},
        "nodes": {"nodes": [{"id": i, "self": i == n, "up": True, "disk": "ok"}
                            for i in (1, 2, 3)]},
        "shards": {"shards": [
            {"shard": s, "role": "leader" if s % 3 + 1 == n else "follower",
             "leader": s % 3 + 1, "last": 9000, "faulty": False, "why": "",
             "voters": [{"id": i, "match": 9000} for i in (1, 2, 3)]}
            for s in range(6)]},
        "stats": {"stats": {"connections": 10, "dirty_bytes": 0, "journal_fsync_seconds":
                            {"count": 100, "p50_us": 900, "p99_us": 5000}}},
        "config": {"config": {
            "raft.election_ms": 1000, "raft.heartbeat_ms": 100, "node.cluster": "c",
            "shards.count": 6, "journal.file_size": 64 << 20, "journal.max": 4 << 30,
            "journal.queue": 1 << 20, "store.dirty_max": 8 << 20,
            "gateway.max_connections": 1000, "gateway.insecure": False,
            "disk.reserve": 1 << 29, "tls.ca": "x", "tls.key": "", "gateway.tls_key": ""}},
        "certs": {"now": int(now), "links_until": int(now) + 90 * 86400,
                  "gateway_until": 0},
    }


class Forged:
    """Three admin sockets; says[n][verb] is what node n answers, its clock being
    skew_ms[n] off."""

    def __init__(self, folder):
        self.skew_ms = {1: 0, 2: 0, 3: 0}
        self.says = {n: healthy(n) for n in (1, 2, 3)}
        self.where, self.servers = [], []
        for n in self.says:
            path = folder / f"{n}.sock"
            self.where += ["-s", path]
            server = socketserver.ThreadingUnixStreamServer(str(path), self._handler(n))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,),
                             daemon=True).start()
            self.servers.append(server)

    def _handler(forged, n):
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    verb = json.loads(line)["verb"]
                    answer = forged.says[n].get(verb)
                    if verb == "status" and isinstance(answer, dict):
                        answer = {"now_ms": int(time.time() * 1000) +
                                  forged.skew_ms[n], **answer}
                    if answer == "gone":
                        return
                    said = ({"ok": True, **answer} if answer is not None else
                            {"ok": False, "error": "bad-request", "detail": "unknown"})
                    self.wfile.write(json.dumps(said).encode() + b"\n")
        return Handler

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def forged(folder):
    made = Forged(folder)
    yield made
    made.close()


def put(path, value):
    """Sets says[2][path]."""
    def change(says):
        o = says[2]
        *way, last = path
        for name in way:
            o = o[name]
        o[last] = value
    return change


def everywhere(path, value):
    def change(says):
        for n in says:
            put(path, value)({2: says[n]})
    return change


def no_leader(says):
    for n in says:
        says[n]["shards"]["shards"][4].update(leader=0, role="follower")


def uneven(says):
    for n, led in (1, 6), (2, 0), (3, 0):
        says[n]["status"]["led"] = led


def two_nodes(says):
    for n in says:
        del says[n]["nodes"]["nodes"][2]


def old_server(says):
    del says[2]["certs"]
    says[2]["status"]["version"] = "0.9"


HOUR = 3600_000
CASES = [
    ("unreachable", ERROR, put(["shards"], "gone"), "closed the connection"),
    ("node-down", WARN, put(["nodes", "nodes", 0, "up"], False), "node 1, others have"),
    ("node-down", ERROR, everywhere(["nodes", "nodes", 2, "up"], False), "no node has"),
    ("disk-refused", ERROR, put(["status", "disk_refused"], {"by": 2, "why": "empty"}),
     "empty"),
    ("disk-refused", ERROR, put(["status", "disk_refused"], {"by": 0, "peers": [3]}),
     "node 2 does not let its disk in"),
    ("no-leader", ERROR, no_leader, "1 shard: 4"),
    ("faulty", ERROR, lambda s: s[2]["shards"]["shards"][3].update(
        faulty=True, why="rot"), "shard 3: rot"),
    ("disk", WARN, put(["status", "disk", "level"], "warn"), "level warn"),
    ("disk", ERROR, put(["status", "disk", "level"], "readonly"), "level readonly"),
    ("fsync-slow", WARN, put(["stats", "stats", "journal_fsync_seconds", "p99_us"],
                             300_000), "300 ms"),
    ("fsync-slow", ERROR, put(["stats", "stats", "journal_fsync_seconds", "p99_us"],
                              1_300_000), "1300 ms"),
    ("clock-skew", WARN, 5000, "ms from this machine's"),
    ("clock-skew", ERROR, -HOUR, "-3"),
    ("cert-expiry", WARN, lambda s: s[2]["certs"].update(
        gateway_until=int(time.time()) + 20 * 86400), "its gateway ends in"),
    ("cert-expiry", ERROR, lambda s: s[2]["certs"].update(links_until=5), "has expired"),
    ("version-skew", WARN, old_server, "version 0.9"),
    ("journal-pinned", WARN, put(["status", "journal", "files_used"], 60),
     "3840 of at most 4096 MiB"),
    ("replica-lag", WARN, lambda s: s[2]["shards"]["shards"][1]["voters"][2].update(
        match=10), "8990 entries behind node 2"),
    ("uneven-leaders", WARN, uneven, "6 of 6"),
    ("limits", WARN, put(["stats", "stats", "connections"], 900), "900 of at most 1000"),
    ("limits", WARN, put(["status", "sends_open"], 30000), "30000"),
    ("config", WARN, put(["config", "config", "gateway.insecure"], True), "insecure"),
    ("config", WARN, put(["config", "config", "disk.reserve"], 0), "disk.reserve"),
    ("config", WARN, put(["config", "config", "tls.ca"], ""), "not encrypted"),
    ("config", WARN, two_nodes, "2 nodes survive no more"),
    ("config", ERROR, put(["config", "config", "raft.election_ms"], 1500), "election_ms"),
]


def test_all_is_well(forged):
    assert doctor(*forged.where) == (GOOD, [])
    text = subprocess.run([QUIPUCTL, *forged.where, "doctor"], text=True,
                          capture_output=True, timeout=WAIT_S).stdout
    assert text == f"0 findings, 3 nodes asked, {len(IDS)} checks\n"


@pytest.mark.parametrize("check, grade, change, what", CASES)
def test_one_thing_is_wrong(forged, check, grade, change, what):
    if isinstance(change, int):
        forged.skew_ms[2] = change
    else:
        change(forged.says)
    status, found = doctor(*forged.where)
    assert status == grade and ids(found) == {check}, found
    assert what in found[0]["what"] and found[0]["do"] and found[0]["means"]


def test_every_check_has_a_case():
    assert set(IDS) == {check for check, *_ in CASES} | {"no-quorum"}


def test_answers_that_make_no_sense(forged):
    """Whatever a server says, or leaves out, is no crash and no endless answer."""
    for n, verb in ((1, "nodes"), (2, "shards"), (3, "stats"), (1, "config")):
        for nonsense in ({}, {verb: []}, {verb: "x"}, {verb: [{}, 7, None]},
                         {verb: [{"id": -5, "up": True, "shard": 1 << 60, "voters": 3}]}):
            kept = copy.deepcopy(forged.says[n][verb])
            forged.says[n][verb] = nonsense
            doctor(*forged.where)
            forged.says[n][verb] = kept
    assert doctor(*forged.where) == (GOOD, [])
