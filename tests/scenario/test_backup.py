"""A cluster is backed up while people write (docs/operations.md, "Backups")."""

import asyncio
import json
import shutil
import subprocess

import pytest

from lib.checked import BUILD, WAIT_S
from lib.device import device_of, people
from lib.server import Cluster, Node, Process, until
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


async def read_all(address, device):
    """All of an inbox of which nothing was acknowledged yet."""
    device.cursor = None
    device.inbox.clear()
    await device.connect(address)
    await device.until(lambda: device.caught_up is not None)
    await device.wait_inbox(device.caught_up)
    await device.close()
    return [device.inbox[n] for n in sorted(device.inbox)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A cluster that was written to while it was backed up: (cluster, backup folder,
    the first answer, acked before it began, the inbox in the end, its device)."""
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
        return told, before, await read_all(cluster.any().address, inbox), inbox

    with Cluster(shards=8, settings=["store.segment_size=64KiB"]) as cluster:
        told, before, whole, inbox = asyncio.run(asyncio.wait_for(run(cluster),
                                                                  8 * WAIT_S))
        yield cluster, to, told, before, whole, inbox


def test_it_is_whole(loaded):
    _, to, told, *_ = loaded
    assert told["shards"] == 8 and told["bytes"] > 0 and told["kept"] == 0
    shown = verified(to)
    assert shown["cut"] == told["cut"] and shown["cluster"] == "quipu"
    assert not list(to.rglob("*.part"))


def test_the_next_one_copies_what_is_new(loaded, tmp_path):
    cluster, first, *_ = loaded
    to = tmp_path / "to"
    shutil.copytree(first, to)
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


def test_what_it_does_not_know_stays(loaded, tmp_path):
    """A mistyped --to loses nothing and gets nothing mixed in; what lies in a backup's
    folder beside it stays."""
    cluster, *_ = loaded
    data = ["--data", cluster.any().data]
    for name in ("home/papers/letter.txt", "home/0001/x.seg", "home/notes.seg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    home = files(tmp_path / "home")
    for to in (tmp_path / "home", cluster.any().data):
        done = quipuctl(*data, "--to", to, "backup")
        assert done.returncode == 1 and "something else in it" in done.stderr
    assert files(tmp_path / "home") == home
    to = tmp_path / "to"
    backup(cluster, to)
    (to / "0000" / "gone.snap").write_text("of an earlier backup")
    beside = [to / "README", to / "0000" / "note.txt", to / "papers" / "x.seg"]
    for path in beside:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    backup(cluster, to)
    assert all(path.read_text() == "mine" for path in beside)
    assert not (to / "0000" / "gone.snap").exists()


def test_a_backup_json_that_is_not_whole(loaded, tmp_path):
    _, to, *_ = loaded
    copy = tmp_path / "copy"
    shutil.copytree(to, copy)
    text = (to / "backup.json").read_text()

    def refused(change, why):
        shown = json.loads(text)
        change(shown)
        (copy / "backup.json").write_text(json.dumps(shown))
        for done in (quipuctl("backup", "verify", copy),
                     quipuctl("--from", copy, "--data", tmp_path / "data", "restore")):
            assert done.returncode == 1 and why in done.stderr, done.stderr
            shutil.rmtree(tmp_path / "data", ignore_errors=True)

    def with_path(path):
        return lambda b: b["shard"][0]["files"][1].update(path=path)

    for path in ("../outside", "/etc/passwd", "0000/../../x", "", 7):
        refused(with_path(path), "files ascend")
    refused(lambda b: b["shard"].pop(), "as many shards")
    refused(lambda b: b["shard"].append(b["shard"].pop(0) | {"shard": 1}), "there once")
    refused(lambda b: b["shard"][0]["files"].pop(0), "first file is its manifest")
    refused(lambda b: b["shard"][0]["files"].reverse(), "first file is its manifest")
    # Named is what is there, but not all that the manifest has.
    refused(lambda b: max((s["files"] for s in b["shard"]), key=len).pop(), "no whole")
    refused(lambda b: b["shard"][0].update(files=b["shard"][1]["files"]), "is another's")
    (copy / "backup.json").write_text(text[:len(text) // 2])
    assert quipuctl("backup", "verify", copy).returncode == 1


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


# ---- restored ---------------------------------------------------------------------

def config(path, settings):
    """What --set would say, as a file."""
    sections = {}
    for setting in settings:
        name, value = setting.split("=", 1)
        section, key = name.split(".", 1)
        sections.setdefault(section, []).append(f"{key} = {value}")
    path.write_text("".join(f"[{s}]\n" + "\n".join(rows) + "\n"
                            for s, rows in sections.items()))
    return path


def settings_of(node):
    args = list(map(str, node.args))
    return [args[i + 1] for i, a in enumerate(args) if a == "--set"] + \
        [f"node.data={node.data}"]


def restore(to, *args):
    done = quipuctl("--json", "--from", to, *args, "restore")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_a_point_in_the_history(inbox, whole, before):
    """A prefix of what the old cluster came to hold, with all that it had
    acknowledged when the backup began."""
    key = [(r["n"], r["from"], r["lamport"], r["body"]) for r in inbox]
    assert key == [(r["n"], r["from"], r["lamport"], r["body"]) for r in whole][:len(key)]
    for account, bodies in before.items():
        mine = [r["body"] for r in inbox if r["from"] == account]
        assert mine[:len(bodies)] == bodies


async def goes_on(nodes, loaded, whole, epoch):
    """Devices of the old cluster are told, and go on."""
    _, _, _, before, _, inbox = loaded
    read = await read_all(nodes[0].address, inbox)
    assert_a_point_in_the_history(read, whole, before)
    account, (number,) = nodes[-1].account()
    new = device_of(nodes[-1], account, number)
    await new.connect(nodes[-1].address)
    await new.send(inbox.account, b"after the restore")
    await new.close()
    # One that had all, and more than there is now.
    inbox.cursor, inbox.epoch = len(whole), 1
    welcome = await inbox.connect(nodes[-1].address)
    assert not welcome["resumed"] and welcome["reason"] == "epoch"
    assert welcome["epoch"] == epoch
    await inbox.wait_inbox(len(read) + 1)
    assert inbox.inbox[len(read) + 1]["body"] == b"after the restore"
    await inbox.close()
    welcome = await inbox.connect(nodes[0].address)
    assert welcome["resumed"]
    await inbox.close()


def test_restored_into_one_node(loaded, tmp_path):
    cluster, to, *_, whole, _ = loaded
    told = restore(to, "--data", tmp_path / "data")
    assert told["shards"] == 8 and told["epoch"] >> 16 == 1
    again = quipuctl("--from", to, "--data", tmp_path / "data", "restore")
    assert again.returncode == 1 and "not empty" in again.stderr
    node = Node(tmp_path / "data", [f"tokens.key={cluster.folder}/token.key"]).start()
    try:
        assert node.admin("feature")["epoch"] == told["epoch"]
        asyncio.run(asyncio.wait_for(goes_on([node], loaded, whole, told["epoch"]),
                                     4 * WAIT_S))
        node.stop()
        node.start()
        assert node.admin("feature")["epoch"] == told["epoch"]
        # A backup of it goes on from there.
        backup_of = tmp_path / "second"
        done = quipuctl("--json", "--data", node.data, "--to", backup_of, "backup")
        assert done.returncode == 0, done.stderr
        later = restore(backup_of, "--data", tmp_path / "data2")
        assert later["epoch"] >> 16 == 2
    finally:
        node.kill()


def test_restored_into_three_nodes(loaded, tmp_path):
    old, to, *_, whole, _ = loaded
    cluster = Cluster(shards=8, settings=["store.segment_size=64KiB"])
    shutil.copy(old.folder / "token.key", cluster.folder / "token.key")
    epochs = set()
    for i, node in cluster.nodes.items():
        epochs.add(restore(to, "--config", config(tmp_path / f"{i}.ini",
                                                  settings_of(node)))["epoch"])
    assert len(epochs) == 1
    with cluster:
        asyncio.run(asyncio.wait_for(
            goes_on(cluster.running(), loaded, whole, *epochs), 4 * WAIT_S))
        for shard in range(8):
            until(lambda s=shard: len({
                (n.admin("shards", shard=s)["shards"][0]["applied"],
                 n.admin("shards", shard=s)["shards"][0]["root"])
                for n in cluster.running()}) == 1, "equal replicas")
        # Each may fail, as in any cluster.
        cluster.nodes[1].kill()
        cluster.nodes[1].start(wait=False)
        cluster.wait_ready()


def test_a_damaged_backup_makes_no_node(loaded, tmp_path):
    _, to, *_ = loaded
    copy = tmp_path / "copy"
    shutil.copytree(to, copy)
    victim = max(copy.glob("*/seg/*.seg"), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    done = quipuctl("--from", copy, "--data", tmp_path / "data", "restore")
    assert done.returncode == 1 and victim.name in done.stderr
    process = Process(["--data", tmp_path / "data", "--listen", "127.0.0.1:0"])
    assert process.end() == 1 and "node.meta is missing" in process.log


def test_what_restore_refuses(loaded, tmp_path):
    _, to, *_ = loaded
    assert quipuctl("restore").returncode == 2
    for text, why in (("[node]\ncluster = other\n", "keeps its name"),
                      ("[shards]\ncount = 9\n", "has 8 shards")):
        path = tmp_path / "n.ini"
        path.write_text(text + f"[node]\ndata = {tmp_path}/data\n")
        done = quipuctl("--from", to, "--config", path, "restore")
        assert done.returncode == 1 and why in done.stderr, done.stderr
    done = quipuctl("--from", to, "--data", tmp_path / "data", "--epoch", 70000, "restore")
    assert done.returncode == 0
