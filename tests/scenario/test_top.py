"""quipuctl top: figures of a cluster under load, with a node that is away, on a
terminal and in a pipe."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import threading

from lib.checked import BUILD, WAIT_S
from lib.device import people
from lib.server import until
from test_cluster import Sender

QUIPUCTL = BUILD / "quipuctl"


def command(nodes, *args):
    return [QUIPUCTL, *[a for n in nodes for a in ("-d", n.data)], *args, "top"]


def once(nodes, status=0):
    done = subprocess.run(command(nodes, "--once", "--json"), capture_output=True,
                          text=True, timeout=WAIT_S)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)["nodes"]


def under_load(cluster, look):
    """Runs look() in a thread while two devices send all the time."""
    async def run():
        *froms, to = [d for (d,) in people(cluster.any(), 3)]
        senders = [Sender(cluster, d, to) for d in froms]
        for s in senders:
            s.start()
            await s.more(20)
        try:
            return await asyncio.to_thread(look)
        finally:
            for s in senders:
                await s.finish()
    return asyncio.run(asyncio.wait_for(run(), 4 * WAIT_S))


def test_figures_under_load(cluster):
    nodes = list(cluster.nodes.values())
    rows = under_load(cluster, lambda: once(nodes))
    assert [r["id"] for r in rows] == [1, 2, 3]
    assert {r["state"] for r in rows} == {"ready"}
    assert sum(r["acks_s"] for r in rows) > 0
    assert sum(r["sends_s"] for r in rows) >= sum(r["acks_s"] for r in rows) * 0.5
    assert sum(r["led"] for r in rows) == 8
    assert all(0 < r["fsync_p99_ms"] < 10000 for r in rows)
    assert any(r["ack_p99_ms"] for r in rows)
    assert all(0 <= r["disk_percent"] <= 100 and r["faulty"] == 0 for r in rows)
    # Nobody sends: no rates but of nothing, and no percentile of nothing.
    quiet = once(nodes)
    assert {r["acks_s"] for r in quiet} == {0.0}
    assert {r["ack_p99_ms"] for r in quiet} == {None}


def test_a_node_that_is_away(cluster):
    nodes = list(cluster.nodes.values())
    nodes[1].kill()
    try:
        rows = once(nodes)
        assert [r["state"] == "down" for r in rows] == [False, True, False]
        assert rows[1]["acks_s"] is None
        done = subprocess.run(command(nodes, "--once"), capture_output=True, text=True,
                              timeout=WAIT_S)
        head, *lines = done.stdout.splitlines()
        assert head.split()[:3] == ["node", "state", "acks/s"]
        assert [line.split()[1] for line in lines[:3]].count("down") == 1
        assert once([nodes[1]], status=3)[0]["state"] == "down"
    finally:
        nodes[1].start(wait=False)
        cluster.wait_ready()


def test_a_node_that_hangs(cluster):
    """It takes the connection and never answers."""
    nodes = list(cluster.nodes.values())
    pid = nodes[2].process.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        assert once(nodes)[2]["state"] == "down"
        done = subprocess.run([QUIPUCTL, "-d", nodes[2].data, "--json", "doctor"],
                              capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 5
        found, = json.loads(done.stdout)["findings"]
        assert found["id"] == "unreachable" and "no answer in 5 s" in found["what"]
    finally:
        os.kill(pid, signal.SIGCONT)
        cluster.wait_ready()


def test_pictures_on_a_terminal_and_lines_in_a_pipe(cluster):
    nodes = list(cluster.nodes.values())
    main, side = pty.openpty()
    shown = bytearray()
    process = subprocess.Popen(command(nodes), stdout=side, stdin=side)
    os.close(side)

    def read():
        try:
            while part := os.read(main, 65536):
                shown.extend(part)
        except OSError:     # the terminal's other side is closed
            pass
    reader = threading.Thread(target=read)
    reader.start()
    try:
        until(lambda: shown.count(b"\x1b[H") >= 2, "two pictures")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(WAIT_S)
        reader.join(WAIT_S)
        os.close(main)
    assert shown.startswith(b"\x1b[2J\x1b[H") and shown.count(b"acks/s in all") >= 2

    process = subprocess.Popen(command(nodes), stdout=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(10)]
    finally:
        process.kill()
        process.wait(WAIT_S)
        process.stdout.close()
    assert not any("\x1b" in line for line in lines)
    assert [line.split()[0] for line in lines[:4]] == ["node", "1", "2", "3"]
    assert lines[5].split()[0] == "node"
