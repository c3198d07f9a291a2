"""Bad days at the start: each ends with a clear message and exit code, and what is on
the disk stays what it was."""

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess

import pytest

from lib import certs, space
from lib.checked import WAIT_S
from lib.device import people
from lib.server import QUIPUD, Cluster, Node, Process, own_address, until


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * WAIT_S))


def refused(args, code=1, env=None):
    """Text on stderr of a quipud that must not start."""
    done = subprocess.run([str(QUIPUD), *map(str, args)], timeout=2 * WAIT_S,
                          stdin=subprocess.DEVNULL, capture_output=True,
                          env={**os.environ, **(env or {})})
    text = done.stderr.decode()
    assert done.returncode == code, text
    return text


def digest(folder, but=("lock", "admin.sock")):
    """All names and bytes below a folder."""
    h = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.name in but or not path.is_file():
            continue
        h.update(str(path.relative_to(folder)).encode() + b"\0")
        h.update(path.read_bytes())
    return h.hexdigest()


@pytest.fixture
def used(folder):
    """A stopped node whose folder holds a conversation; check() looks for it."""
    node = Node(folder / "data").start()
    (a,), (b,) = people(node, 2)

    async def talk():
        await a.connect(node.address)
        for i in range(20):
            await a.send(b.account, b"%d" % i)
        await a.close()

    run(talk())
    node.stop()

    async def look():
        b.cursor = None
        await b.connect(node.address)
        await b.wait_inbox(20)
        assert b.bodies() == [b"%d" % i for i in range(20)]
        await b.close()

    def check():
        node.start()
        run(look())
        node.stop()

    node.check = check
    yield node
    node.kill()


# ---- what was asked for ------------------------------------------------------------------

@pytest.mark.parametrize("args, code, words", [
    (["--set", "gateway.listn=1"], 1, ["gateway.listn", "unknown"]),
    (["--set", "gatway.listen=1"], 1, ["gatway", "unknown"]),
    (["--set", "raft.election_ms=abc"], 1, ["raft.election_ms", "abc"]),
    (["--set", "node.id=99"], 1, ["node.id", "99", "63"]),
    (["--set", "journal.max=1KiB"], 1, ["journal.max"]),
    (["--set", "batch.bytes=1MiB"], 1, ["batch.bytes", "512KiB"]),
    (["--set", "batch.records=1025"], 1, ["batch.records", "1024"]),
    (["--set", "store.segment_size=2GiB"], 1, ["store.segment_size", "1GiB"]),
    (["--set", "node.cluster=a b"], 1, ["node.cluster"]),
    (["--set", "nope"], 2, ["nope", "="]),
    (["--listen", "127.0.0.1"], 1, ["gateway.listen", "127.0.0.1"]),
    (["--listen", "127.0.0.1:99999"], 1, ["gateway.listen", "65535"]),
    (["--listen", "0.0.0.0:0"], 1, ["gateway.listen", "tls_cert"]),
    (["--config", "/nonexistent"], 1, ["/nonexistent", "No such file"]),
    (["--join"], 1, ["node.join", "[peers]"]),
    (["--nonsense"], 2, ["nonsense", "--help"]),
    (["extra"], 2, ["extra"]),
])
def test_a_typo_is_named(folder, args, code, words):
    text = refused(["--data", folder / "data", *args], code)
    for word in words:
        assert word in text
    assert not (folder / "data").exists()


def test_a_typo_in_the_file_has_its_line(folder):
    file = folder / "quipud.conf"
    file.write_text("[node]\ndata = x\n\n[gateway]\nlisten = 127.0.0.1:0\n"
                    "heartbeet_s = 5\n")
    text = refused(["--config", file])
    assert f"{file}:6" in text and "heartbeet_s" in text
    assert "heartbeet_s" in refused(["--config", file, "--check-config"])


def test_a_typo_in_the_environment_is_named(folder):
    text = refused(["--data", folder / "data"],
                   env={"QUIPU_GATEWAY_HEARTBEAT_S": "often"})
    assert "QUIPU_GATEWAY_HEARTBEAT_S" in text and "often" in text


def test_a_good_configuration_is_called_good(folder):
    file = folder / "quipud.conf"
    file.write_text(f"[node]\ndata = {folder}/data\n[gateway]\n"
                    "listen = 127.0.0.1:0\nheartbeat_s = 2min\n")
    done = subprocess.run([str(QUIPUD), "--config", str(file),
                           "--check-config"], capture_output=True, timeout=2 * WAIT_S)
    assert done.returncode == 0 and b"good" in done.stdout
    assert not (folder / "data").exists()


def test_a_used_port_is_named(used):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        address = f"127.0.0.1:{s.getsockname()[1]}"
        text = refused(["--data", used.data, "--listen", address])
        assert address in text and "in use" in text
    used.check()


def test_the_port_of_a_running_server_is_in_use(fresh_node, folder):
    text = refused(["--data", folder / "other", "--listen", fresh_node.address])
    assert fresh_node.address in text and "in use" in text


# ---- folders ---------------------------------------------------------------------------------

def test_a_folder_has_one_server(used):
    used.start()
    pid = used.process.process.pid
    text = refused(["--data", used.data, "--listen", "127.0.0.1:0"])
    assert str(used.data) in text and f"in use by process {pid}" in text
    assert used.admin("status")["ready"]
    used.stop()
    used.check()


def test_no_folder_can_be_made_there(folder):
    (folder / "file").write_text("x")
    for data, why in ((folder / "file", "Not a directory"),
                      (folder / "file" / "data", "Not a directory"),
                      (folder / "no" / "data", "No such file")):
        text = refused(["--data", data, "--listen", "127.0.0.1:0"])
        assert str(data) in text and why in text
    assert (folder / "file").read_text() == "x"


def test_the_folder_of_another_node(used):
    before = digest(used.data)
    text = refused([*used.args, "--set", "node.id=2"])
    assert str(used.data) in text and "node 1" in text.replace("id 1", "node 1")
    text = refused([*used.args, "--set", "node.cluster=other"])
    assert "cluster" in text
    assert digest(used.data) == before
    used.check()


def test_the_number_of_shards_is_fixed(used):
    locks = "lock", "admin.sock", "state.mdb-lock"
    before = digest(used.data, locks)
    for count in (32, 8):
        text = refused([*used.args, "--set", f"shards.count={count}"])
        assert "with 16 shards" in text and f"says {count}" in text
    assert len(list((used.data / "shards").iterdir())) == 16
    assert digest(used.data, locks) == before
    used.check()


def test_the_number_of_shards_is_fixed_before_the_first_checkpoint(folder):
    node = Node(folder / "data").start()
    account, _ = node.account()
    node.kill()     # all is in the journal only
    for count in (32, 8):
        text = refused([*node.args, "--set", f"shards.count={count}"])
        assert "with 16 shards" in text and f"says {count}" in text
    node.start()
    assert node.admin("status")["shards"] == 16
    assert node.token(account, 1)
    node.stop()


def test_a_key_that_others_can_read(used):
    key = used.data / "token.key"
    key.chmod(0o644)
    text = refused(used.args)
    assert str(key) in text and "0600" in text
    key.chmod(0o600)
    used.check()


def test_a_key_that_is_none(used):
    key = used.data / "token.key"
    good = key.read_bytes()
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    text = refused(used.args)
    assert str(key) in text and "JWK" in text
    key.write_bytes(good)
    used.check()


# ---- formats ---------------------------------------------------------------------------------

def newer_version(path, at=8):
    data = bytearray(path.read_bytes())
    version = int.from_bytes(data[at:at + 4], "little")
    assert version in (1, 2)
    data[at:at + 4] = (version + 1).to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("files", [
    ["node.meta", "node.meta.2"], ["journal/00000000.jnl"]])
def test_a_newer_format_is_left_alone(used, files):
    good = {f: (used.data / f).read_bytes() for f in files}
    for file in files:
        newer_version(used.data / file)
    before = digest(used.data)
    text = refused(used.args)
    assert "version" in text and "newer" in text
    assert files[0].rsplit("/", 1)[-1].split(".")[0] in text
    assert digest(used.data) == before
    for file, data in good.items():
        (used.data / file).write_bytes(data)
    used.check()


def test_who_founded_is_what_the_folder_says(used):
    """A row more in [peers] makes nobody wait for a majority of two, and nobody joins
    with a folder that is there."""
    host = own_address()
    used.args += ["--set", f"peers.1={host}:27990", "--set", f"peers.2={host}:27991",
                  "--join"]
    used.check()
    used.start()
    assert used.admin("status")["shards"] == 16
    assert "event=join_ignored" in used.process.log
    used.stop()


def test_one_bad_copy_of_node_meta_is_mended(used):
    path = used.data / "node.meta"
    good = path.read_bytes()
    path.write_bytes(good[:100] + b"\xff" + good[101:])
    used.check()
    assert path.read_bytes() == good


def test_two_bad_copies_of_node_meta_end_the_start(used):
    for name in ("node.meta", "node.meta.2"):
        path = used.data / name
        good = path.read_bytes()
        path.write_bytes(good[:100] + b"\xff" + good[101:])
    before = digest(used.data)
    text = refused(used.args)
    assert "node.meta" in text
    assert digest(used.data) == before


# ---- certificates ------------------------------------------------------------------------------

@pytest.fixture
def member(folder):
    """Arguments of node 1 of a cluster, good ones."""
    certs.ca(folder)
    certs.ca(folder, "other-ca")
    name = "node-1.quipu.quipu"
    certs.leaf(folder, "good", name)
    certs.leaf(folder, "wrong-name", "node-2.quipu.quipu")
    certs.leaf(folder, "wrong-cluster", "node-1.other.quipu")
    certs.leaf(folder, "expired", name, days=-1)
    certs.leaf(folder, "foreign", name, issuer="other-ca")
    (folder / "empty.crt").write_text("")
    shutil.copy(folder / "good.key", folder / "empty.key")
    shutil.copy(folder / "good.crt", folder / "mixed.crt")
    shutil.copy(folder / "foreign.key", folder / "mixed.key")
    host = own_address()
    peers = [f"peers.{i}={host}:{19000 + i}" for i in (1, 2, 3)]

    def args(cert, ca="ca"):
        settings = [*peers, f"tls.ca={folder}/{ca}.crt",
                    f"tls.cert={folder}/{cert}.crt",
                    f"tls.key={folder}/{cert}.key"]
        return ["--data", folder / "data", "--listen", "127.0.0.1:0",
                *[x for s in settings for x in ("--set", s)]]
    return args


@pytest.mark.parametrize("cert, ca, words", [
    ("wrong-name", "ca", ["node-1.quipu.quipu", "node-2.quipu.quipu"]),
    ("wrong-cluster", "ca", ["node-1.quipu.quipu", "node-1.other.quipu"]),
    ("expired", "ca", ["expired"]),
    ("foreign", "ca", ["foreign.crt"]),
    ("good", "other-ca", ["good.crt"]),
    ("missing", "ca", ["missing.crt", "No such file"]),
    ("empty", "ca", ["empty.crt"]),
    ("mixed", "ca", ["mixed"]),
    ("good", "nowhere", ["nowhere.crt", "No such file"]),
])
def test_a_wrong_certificate_is_named(member, cert, ca, words):
    text = refused(member(cert, ca))
    for word in words:
        assert word in text, text


def test_a_good_certificate_starts(member):
    process = Process(member("good"))
    try:
        process.wait_line("event=listening")
        assert process.terminate() == 0
    finally:
        process.kill()


def test_a_stranger_with_another_ca_stays_out():
    with Cluster(2) as cluster:
        cluster.nodes[2].stop()
        certs.ca(cluster.folder, "other-ca")
        certs.leaf(cluster.folder, "node-2", "node-2.quipu.quipu",
                   issuer="other-ca")
        own = f"tls.ca={cluster.folder}/other-ca.crt"
        stranger = cluster.nodes[2]
        stranger.args = [own if str(a).startswith("tls.ca=") else a
                         for a in stranger.args]
        stranger.start(wait=False)
        # The lower number calls: it says why it hung up, the other what it was
        # told.
        cluster.nodes[1].process.wait_line(
            r"event=link_failed peer=2 .*ERR_TLS.*certificate")
        stranger.process.wait_line(r"event=link_refused .*ERR_TLS")
        assert not cluster.nodes[1].admin("nodes")["nodes"][1]["up"]


def test_tls_for_clients(folder):
    import ssl

    certs.ca(folder)
    certs.leaf(folder, "web", "localhost", addresses=["127.0.0.1"])
    bad = refused(["--data", folder / "data", "--listen", "127.0.0.1:0",
                   "--set", f"gateway.tls_cert={folder}/no.crt",
                   "--set", f"gateway.tls_key={folder}/web.key"])
    assert "no.crt" in bad and "No such file" in bad
    node = Node(folder / "data", [f"gateway.tls_cert={folder}/web.crt",
                                  f"gateway.tls_key={folder}/web.key"])
    node.start()
    try:
        (a,), (b,) = people(node, 2)
        context = ssl.create_default_context(cafile=folder / "ca.crt")

        async def talk():
            for device in (a, b):
                await device.connect(node.address, scheme="wss", ssl=context)
            for size in (0, 1, 16384, 61440):
                await a.send(b.account, bytes(size))
            await b.wait_inbox(4)
            assert [len(x or b"") for x in b.bodies()] == [0, 1, 16384, 61440]
            await b.close()
            with pytest.raises(ssl.SSLError):
                await b.connect(node.address, scheme="wss",
                                ssl=ssl.create_default_context())
            await a.vanish()
        run(talk())
        # Plain bytes and half a handshake end without an answer.
        for data in (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03"):
            with socket.create_connection((node.host, node.port), WAIT_S) as s:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                while s.recv(4096):
                    pass
        until(lambda: node.admin("status")["http"] == 0, "sockets given back")
    finally:
        node.kill()


# ---- disks ---------------------------------------------------------------------------

@pytest.fixture
def small():
    with space.Space(48 << 20) as made:
        yield made


def test_a_disk_too_small_to_begin(small):
    settings = ["--set", "journal.file_size=64MiB"]
    process = small.process(["--data", small.inside, "--listen", "127.0.0.1:0",
                             *settings])
    try:
        assert process.end() == 1
        assert "No space left" in process.log or "no space" in process.log
    finally:
        process.kill()


def test_a_disk_that_cannot_be_written(small):
    small.read_only()
    process = small.process(["--data", f"{small.inside}/data", "--listen",
                             "127.0.0.1:0"])
    try:
        assert process.end() == 1
        assert "Read-only file system" in process.log
    finally:
        process.kill()


def test_a_disk_that_fills_up_loses_nothing_acknowledged(small):
    # Nothing stops it before the last byte: what a neighbour's file does that takes
    # the reserve faster than a node looks (test_disk_levels.py has the rest).
    settings = ["disk.warn=100", "disk.refuse=100", "disk.readonly=100",
                "disk.reserve=0",
                "journal.file_size=1MiB", "journal.max=8MiB",
                "journal.queue=2MiB", "shards.count=2"]
    node = Node(small.path / "data", settings, wrap=small.wrap)
    node.args[1] = f"{small.inside}/data"
    node.start()
    acked = []
    try:
        (a,), (b,) = people(node, 2)

        async def fill():
            await a.connect(node.address)
            (small.path / "filler").write_bytes(
                bytes(small.free() - (2 << 20)))
            try:
                while len(acked) < 3000:
                    body = os.urandom(20000)
                    await a.send(b.account, body)
                    acked.append(body)
            except Exception:
                pass
            await a.vanish()
        run(fill())
        assert 0 < len(acked) < 3000
        if node.process.process.poll() is None:
            node.kill()
        else:
            assert node.process.end() == 3
            assert "fatal" in node.process.log
            assert "space" in node.process.log.lower()
            node.kill()
        (small.path / "filler").unlink()
        node.start()

        async def look():
            await b.connect(node.address, window=50)
            await b.wait_inbox(len(acked))
            assert b.bodies()[:len(acked)] == acked
            await b.close()
        run(look())
        assert node.stop()
    finally:
        node.kill()
