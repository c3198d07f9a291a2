"""quipuctl ca, and certificates that are read again while everything runs: what is
made, who is let in, a rotation to a new CA under load, and files that are no good."""

import asyncio
import datetime
import json
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import urllib.request

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lib.checked import BUILD, WAIT_S
from lib.device import people
from lib.server import AdminError, Cluster, Node, until
from test_cluster import Sender, assert_complete, inbox_of

QUIPUCTL = BUILD / "quipuctl"


def ca(folder, *args, fails=None):
    """quipuctl ca; `fails`: a part of what it must say."""
    done = subprocess.run([QUIPUCTL, "ca", *map(str, args), "--dir", folder],
                          capture_output=True, text=True, timeout=WAIT_S)
    if fails:
        assert done.returncode in (1, 2) and fails in done.stderr, done
    else:
        assert done.returncode == 0, done.stderr
    return done.stdout


def load(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def name_of(cert):
    return cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def usages(cert):
    return set(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def signed_by(cert, by):
    by.public_key().verify(cert.signature, cert.tbs_certificate_bytes,
                           ec.ECDSA(cert.signature_hash_algorithm))


# ---- files ------------------------------------------------------------------------

def test_what_is_made(folder):
    pki = folder / "ca"
    ca(pki, "init", "prod")
    ca(pki, "issue", "node", 7, "--days", 90)
    ca(pki, "issue", "gateway", "chat.example.com", "10.0.0.1", "::1")
    assert mode(pki) == 0o700
    assert {mode(p) for p in pki.glob("*.key")} == {0o600}
    root, node, web = (load(pki / f"{n}.crt") for n in ("ca", "node-7", "gateway"))
    assert (pki / "bundle.crt").read_bytes() == (pki / "ca.crt").read_bytes()
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    for cert, name in (node, "node-7.prod.quipu"), (web, "chat.example.com"):
        signed_by(cert, root)
        assert name_of(cert) == name
        assert not cert.extensions.get_extension_for_class(
            x509.BasicConstraints).value.ca
        names = cert.extensions.get_extension_for_class(
            x509.SubjectAlternativeName).value
        assert name in names.get_values_for_type(x509.DNSName)
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.1", "::1"]
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert usages(node) == both
    assert usages(web) == {ExtendedKeyUsageOID.SERVER_AUTH}
    left = node.not_valid_after - datetime.datetime.utcnow()
    assert datetime.timedelta(days=89) < left <= datetime.timedelta(days=90)
    shown = {c["file"]: c for c in json.loads(ca(pki, "show", "-j"))["certificates"]}
    assert sorted(shown) == ["ca.crt", "gateway.crt", "node-7.crt"]
    assert shown["node-7.crt"]["signed_by"] == "ca.crt"
    assert shown["node-7.crt"]["days"] in (89, 90)
    assert all(c["key"] == "ok" for c in shown.values())


def test_nothing_is_written_over(folder):
    pki = folder / "ca"
    ca(pki, "init", "prod")
    ca(pki, "issue", "node", 1)
    before = {p: p.read_bytes() for p in pki.iterdir()}
    ca(pki, "init", "prod", fails="--force")
    ca(pki, "issue", "node", 1, fails="--force")
    (pki / "node-2.key").write_text("mine")
    ca(pki, "issue", "node", 2, fails="node-2.key is there")
    assert (pki / "node-2.key").read_text() == "mine"
    assert not (pki / "node-2.crt").exists()
    (pki / "node-2.key").unlink()
    assert {p: p.read_bytes() for p in pki.iterdir()} == before
    ca(pki, "issue", "node", 1, "--force")
    assert (pki / "node-1.crt").read_bytes() != before[pki / "node-1.crt"]


@pytest.mark.parametrize("args, why", [
    (("init",), "CLUSTER"),
    (("init", "a,CA:TRUE"), "letters"),
    (("issue", "node", "0"), "1 to 63"),
    (("issue", "node", "64"), "1 to 63"),
    (("issue", "gateway", "a,DNS:b"), "neither"),
    (("issue", "gateway", "node-1.prod.quipu"), "those of nodes"),
    (("issue", "gateway", "*.example.com"), "neither"),
    (("issue", "node", "1", "--days", "3651"), "rotate"),
    (("rotate", "switch"), "begin"),
    (("rotate", "finish"), "begin, switch, finish"),
    (("rotate",), "begin, switch or finish"),
])
def test_refusals(folder, args, why):
    ca(folder / "ca", "init", "prod")
    files = sorted(folder.rglob("*"))
    ca(folder / "ca", *args, fails=why)
    assert sorted(folder.rglob("*")) == files


def test_without_a_ca(folder):
    ca(folder / "none", "issue", "node", 1, fails="ca.crt")
    ca(folder / "none", "show", fails="none")


# ---- a cluster with them -----------------------------------------------------------

class Pki:
    """The CA of a cluster, and the copying of its files to the nodes."""

    def __init__(self, cluster):
        self.cluster, self.dir = cluster, cluster.folder / "ca"
        ca(self.dir, "init", "quipu")
        for n in cluster.nodes:
            ca(self.dir, "issue", "node", n)
            self.copy(n)

    def copy(self, n):
        """What a node reads: its trust of its own, as on machines of their own."""
        for name, to in (("bundle.crt", f"trust-{n}.crt"),
                         (f"node-{n}.crt", f"node-{n}.crt"),
                         (f"node-{n}.key", f"node-{n}.key")):
            shutil.copy(self.dir / name, self.cluster.folder / to)

    def peer(self, n):
        for arg in self.cluster.nodes[n].args:
            if str(arg).startswith(f"peers.{n}="):
                host, port = arg.split("=")[1].rsplit(":", 1)
                return host, int(port)

    def shake(self, n, cert, trust):
        """A handshake with node n's peer port as `cert`: the serial it shows, or
        None where it refuses.  TLS 1.3 tells a client of that with its first read."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(trust)
        context.load_cert_chain(f"{cert}.crt", f"{cert}.key")
        with socket.create_connection(self.peer(n), WAIT_S) as plain:
            try:
                with context.wrap_socket(plain) as s:
                    serial = x509.load_der_x509_certificate(
                        s.getpeercert(True)).serial_number
                    s.settimeout(0.3)   # who is let in hears nothing before hello
                    try:
                        s.recv(1)
                    except TimeoutError:
                        return serial
            except (ssl.SSLError, ConnectionError):
                pass
        return None


def cluster_with_pki():
    made = Cluster(settings=["gateway.send_timeout_ms=3s"])
    pki = Pki(made)
    for n, node in made.nodes.items():
        node.args += ["--set", f"tls.ca={made.folder}/trust-{n}.crt"]
    return made, pki


def links_up(cluster):
    cluster.wait_ready()
    for node in cluster.running():
        until(lambda n=node: all(p["up"] for p in n.admin("nodes")["nodes"]), "links")


def test_a_rotation_without_a_stop(folder):
    cluster, pki = cluster_with_pki()

    def step(what, again=False):
        """On one node after the other: files, reload, and new handshakes of that
        node with others that have theirs, or not yet."""
        if what:
            ca(pki.dir, "rotate", what)
        for n, node in cluster.nodes.items():
            if again:
                ca(pki.dir, "issue", "node", n, "--force")
            pki.copy(n)
            serial = load(cluster.folder / f"node-{n}.crt").serial_number
            node.admin("reload")
            other = n % 3 + 1
            assert pki.shake(n, cluster.folder / f"node-{other}",
                             cluster.folder / f"trust-{other}.crt") == serial
        links_up(cluster)
        # Links that are new from one side, none of them from the other.
        cluster.nodes[2].kill()
        cluster.nodes[2].start(wait=False)
        links_up(cluster)

    async def run():
        (a,), (b,), (c,) = people(cluster.any(), 3)
        senders = [Sender(cluster, d, c) for d in (a, b)]
        for s in senders:
            s.start(4)
        for s in senders:
            await s.more(20)
        first = cluster.folder / "first"
        for end in "crt", "key":
            shutil.copy(pki.dir / f"node-3.{end}", first.with_suffix(f".{end}"))
        await asyncio.to_thread(step, "begin")
        await asyncio.to_thread(ca, pki.dir, "rotate", "finish", fails="begin")
        await asyncio.to_thread(ca, pki.dir, "rotate", "switch")
        await asyncio.to_thread(ca, pki.dir, "rotate", "finish", fails="old CA")
        await asyncio.to_thread(step, None, True)
        trust = cluster.folder / "trust-1.crt"
        # The old CA is good until the end of it, and not a handshake longer.
        assert pki.shake(1, first, trust)
        await asyncio.to_thread(step, "finish")
        assert pki.shake(1, first, trust) is None
        for s in senders:
            await s.more(20)
        for s in senders:
            await s.finish()
        assert_complete(senders, await inbox_of(
            cluster, c, sum(len(s.acked) for s in senders)))

    with cluster:
        asyncio.run(asyncio.wait_for(run(), 8 * WAIT_S))


def metric(node, name):
    return node.admin("stats")["stats"][name]


def test_bad_files_change_nothing():
    cluster, pki = cluster_with_pki()
    with cluster:
        links_up(cluster)
        node, cert = cluster.nodes[1], cluster.folder / "node-1.crt"
        good = {p: p.read_bytes() for p in (cert, cluster.folder / "node-1.key",
                                            cluster.folder / "trust-1.crt")}
        as2 = cluster.folder / "node-2", cluster.folder / "trust-2.crt"
        serial = load(cert).serial_number
        other = folder_ca(cluster.folder / "other")
        for path, content, why in (
                (cert, b"", "node-1.crt"),
                (cert, (pki.dir / "node-2.crt").read_bytes(), "node-1.key"),
                (cluster.folder / "node-1.key", b"x", "node-1.key"),
                (cluster.folder / "trust-1.crt", b"x", "trust-1.crt"),
                (cluster.folder / "trust-1.crt", (other / "ca.crt").read_bytes(),
                 "issuer")):
            path.write_bytes(content)
            with pytest.raises(AdminError, match=why) as refused:
                node.admin("reload")
            assert refused.value.error == "refused"
            assert pki.shake(1, *as2) == serial
            path.write_bytes(good[path])
        cert.unlink()
        node.process.process.send_signal(signal.SIGHUP)
        node.process.wait_line(r"event=certs_kept why=.*node-1\.crt.*No such file")
        assert metric(node, "cert_reloads_failed") == 6
        assert metric(node, "cert_reloads") == 0
        # Another node's certificate with its own key: good for TLS, but not for us.
        for end in "crt", "key":
            shutil.copy(pki.dir / f"node-2.{end}", cluster.folder / f"node-1.{end}")
        with pytest.raises(AdminError, match="is for node-2"):
            node.admin("reload")
        ca(pki.dir, "issue", "node", 1, "--force", "--days", 20)
        pki.copy(1)
        node.process.process.send_signal(signal.SIGHUP)
        node.process.wait_line("event=certs_reloaded links_until=[1-9]")
        assert pki.shake(1, *as2) == load(cert).serial_number != serial
        assert 19 * 86400 < metric(node, "link_cert_seconds") <= 20 * 86400
        assert metric(node, "gateway_cert_seconds") == 0
        links_up(cluster)


def folder_ca(path):
    ca(path, "init", "quipu")
    return path


def test_strangers_are_not_let_in():
    """Another CA; our CA, but the certificate of a gateway."""
    cluster, pki = cluster_with_pki()
    with cluster:
        links_up(cluster)
        other = folder_ca(cluster.folder / "other")
        ca(other, "issue", "node", 2)
        ca(pki.dir, "issue", "gateway", "localhost")
        trust = cluster.folder / "trust-2.crt"
        assert pki.shake(1, cluster.folder / "node-2", trust)

        def refused(cert, why):
            """In the log too, which has a line a second for all strangers."""
            assert pki.shake(1, cert, trust) is None
            return re.search(f"event=link_refused .*{why}", cluster.nodes[1].process.log)
        until(lambda: refused(other / "node-2", "issuer"), "another CA's is refused")
        until(lambda: refused(pki.dir / "gateway", "purpose"), "a gateway's is refused")


# ---- what clients see ---------------------------------------------------------------

def test_the_gateway_reads_its_certificate_again(folder):
    pki = folder / "ca"
    ca(pki, "init", "web")
    ca(pki, "issue", "gateway", "localhost", "127.0.0.1", "--days", 30)
    node = Node(folder / "data", [f"gateway.tls_cert={pki}/gateway.crt",
                                  f"gateway.tls_key={pki}/gateway.key"]).start()
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))

    def shown():
        with socket.create_connection((node.host, node.port), WAIT_S) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as s:
                return x509.load_der_x509_certificate(s.getpeercert(True)).serial_number

    async def run():
        (a,), (b,) = people(node, 2)
        for device in a, b:
            await device.connect(node.address, scheme="wss", ssl=context)
        before = load(pki / "gateway.crt").serial_number
        assert await asyncio.to_thread(shown) == before
        assert 29 * 86400 < metric(node, "gateway_cert_seconds") <= 30 * 86400
        ca(pki, "issue", "gateway", "localhost", "127.0.0.1", "--force", "--days", 60)
        assert await asyncio.to_thread(shown) == before
        done = subprocess.run([QUIPUCTL, "-d", node.data, "reload"],
                              capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 0 and "in force" in done.stdout, done
        after = load(pki / "gateway.crt").serial_number
        assert after != before and await asyncio.to_thread(shown) == after
        assert metric(node, "gateway_cert_seconds") > 59 * 86400
        (pki / "gateway.crt").write_text("no certificate")
        done = subprocess.run([QUIPUCTL, "-d", node.data, "reload"],
                              capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 1 and "gateway.crt" in done.stderr, done
        assert await asyncio.to_thread(shown) == after
        # Who was connected all the while still is.
        await a.send(b.account, b"still here")
        await b.wait_inbox(1)
        for device in a, b:
            await device.close()
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(
            f"https://localhost:{node.port}/metrics", context=context).read().decode())
        assert "quipu_cert_reloads_total 1" in page
        assert "quipu_cert_reloads_failed_total 1" in page
    try:
        asyncio.run(asyncio.wait_for(run(), 4 * WAIT_S))
    finally:
        node.finish()
