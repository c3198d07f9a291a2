"""`make run` and `make cluster` as a person uses them: tools/dev/run, tools/dev/cluster."""

import os
import signal
import subprocess
import sys

import pytest

from lib.checked import BUILD, ROOT, WAIT_S
from lib.server import own_address, until

HOST = own_address()


def script(name, *args, env, **more):
    return subprocess.run([ROOT / "tools/dev" / name, *args], cwd=ROOT, env=env,
                          capture_output=True, text=True, timeout=3 * WAIT_S, **more)


class Run:
    """tools/dev/run in the foreground of its own process group."""

    def __init__(self, folder):
        self.folder = folder
        self.listen = f"{HOST}:8080"
        self.env = dict(os.environ, B=str(BUILD), QUIPU_GATEWAY_LISTEN=self.listen,
                        QUIPU_NODE_DATA=str(folder / "data"),
                        QUIPU_PEOPLE=str(folder / "people"))
        self.out = folder / "out"

    def __enter__(self):
        with open(self.out, "w") as out:
            self.process = subprocess.Popen(
                [ROOT / "tools/dev/run"], cwd=ROOT, env=self.env, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True)
        until(lambda: "Ctrl-C ends it" in self.text() or self.process.poll() is not None,
              "run serves")
        assert self.process.poll() is None, self.text()
        return self

    def text(self):
        return self.out.read_text()

    def __exit__(self, *exc):
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(WAIT_S) == 0, self.text()


def test_run_serves_two_people_and_goes_on_with_its_data(folder):
    chat = [sys.executable, ROOT / "tools/dev/chat-check", BUILD / "quipu",
            folder / "people/alice", "bob", folder / "people/bob", "alice"]
    with Run(folder) as run:
        said = run.text()
        assert f"http://{run.listen}" in said
        assert f"quipu --home {folder}/people/alice chat bob" in said
        assert f"quipu --home {folder}/people/bob chat alice" in said
        subprocess.run(chat, check=True, timeout=2 * WAIT_S)
    token = (folder / "people/alice/profile.json").read_text()
    with Run(folder) as run:
        assert (folder / "people/alice/profile.json").read_text() == token
        subprocess.run(chat, check=True, timeout=2 * WAIT_S)


def test_run_names_who_has_the_port(folder):
    with Run(folder) as run:
        second = script("run", env=dict(run.env, QUIPU_NODE_DATA=str(folder / "data2"),
                                        QUIPU_PEOPLE=str(folder / "people2")))
        assert second.returncode == 1
        assert f"{run.listen} is in use" in second.stderr
        assert not (folder / "data2").exists()


def test_run_keeps_people_whose_server_is_gone(folder):
    (folder / "people/alice").mkdir(parents=True)
    (folder / "people/alice/profile.json").write_text("{}")
    with Run(folder) as run:
        assert "people of an earlier one are now in" in run.text()
    [kept] = folder.glob("people.*")
    assert (kept / "alice/profile.json").read_text() == "{}"


@pytest.fixture
def dev_cluster(folder):
    env = dict(os.environ, B=str(BUILD), QUIPU_CLUSTER_HOST=HOST,
               QUIPU_CLUSTER_DIR=str(folder / "cluster"), QUIPU_BASE_PORT="8090",
               QUIPU_CLUSTER_SET="shards.count=8 journal.file_size=4MiB")

    def cluster(*args, code=0):
        done = script("cluster", *args, env=env)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield cluster
    script("cluster", "stop", env=env)


def test_cluster_starts_loses_a_node_and_stops(dev_cluster, folder):
    said = dev_cluster("start")
    for n in (1, 2, 3):
        assert f"http://{HOST}:{8090 + n}" in said
    status = dev_cluster("status")
    assert status.count("ready") == 3
    keys = [folder / "cluster/ca/ca.key", folder / "cluster/token.key",
            *(folder / "cluster/ca").glob("node-[1-3].key")]
    assert len(keys) == 5
    for key in keys:
        assert key.stat().st_mode & 0o077 == 0, key
    assert "killed" in dev_cluster("kill", "2")
    assert "node 2   down" in dev_cluster("status", code=1)
    assert "does not run" in dev_cluster("kill", "2", code=1)
    home = folder / "people"
    gateways = [f"--gateway=ws://{HOST}:{8090 + n}" for n in (1, 2, 3)]
    ctl = [BUILD / "quipuctl", "--data", folder / "cluster/1/data"]
    for name in ("alice", "bob"):
        subprocess.run([*ctl, "invite", name, "--home", home, *gateways], check=True,
                       timeout=WAIT_S)
    subprocess.run([*ctl, "introduce", "alice", "bob", "--home", home], check=True,
                   timeout=WAIT_S)
    subprocess.run([BUILD / "quipu", "--home", home / "alice", "send", "bob", "two of three"],
                   check=True, timeout=2 * WAIT_S)
    assert "is ready" in dev_cluster("restart", "2")
    out = subprocess.run([BUILD / "quipu", "--home", home / "bob", "follow", "--sync"],
                         check=True, timeout=2 * WAIT_S, capture_output=True, text=True)
    assert out.stdout.count("two of three") == 1
    assert dev_cluster("start").count("runs already") == 3
    assert dev_cluster("stop").count("stopped") == 3
    assert "no node runs" in dev_cluster("stop")
    assert "no node '7'" in dev_cluster("kill", "7", code=1)
