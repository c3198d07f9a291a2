"""npm ws as a client; what it is made of comes from npm ci and the lock file."""
import json
import os
import shutil
import subprocess

import pytest

from conftest import BUILD, HERE


@pytest.fixture(scope="session")
def node_folder():
    """A copy of tests/interop/node with its node_modules, under the build folder."""
    folder = BUILD / "interop-node"
    lock = (HERE / "node/package-lock.json").read_text()
    mark = folder / "node_modules/.package-lock-of"
    if not mark.exists() or mark.read_text() != lock:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "node" / name, folder)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=300)
        mark.write_text(lock)
    return folder


def test_two_devices_talk(server, two, node_folder):
    alice, bob = two
    env = dict(os.environ, NODE_PATH=str(node_folder / "node_modules"))
    out = subprocess.run(
        ["node", HERE / "node/talk.js", server.ws, alice["token"], bob["token"],
         bob["account"], "20"],
        env=env, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    said = json.loads(out.stdout)
    assert sorted(said["acks"]) == list(range(1, 21))
    assert said["got"] == [f"from ws {i}" for i in range(1, 21)]
    assert said["pongs"] == 1
    assert said["codes"] == [1000, 1000]
