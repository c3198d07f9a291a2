"""The terminal client and quipuctl as people and scripts use them, also when they
are killed in the middle."""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import time

import pytest

from lib import certs
from lib.checked import BUILD, SLOW, WAIT_S
from lib.server import Node, until

QUIPU = BUILD / "quipu"
CTL = BUILD / "quipuctl"


# ---- words -----------------------------------------------------------------------

def run(args, stdin=None, want=0, timeout=WAIT_S * 2):
    """stdout of a finished program."""
    done = subprocess.run([str(a) for a in args], input=stdin, text=True,
                          capture_output=True, timeout=timeout)
    assert done.returncode == want, (args, done.returncode, done.stdout[-800:],
                                     done.stderr)
    return done


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def ctl(node, *args, want=0):
    return run([CTL, "--data", node.data, *args], want=want)


class People:
    """Homes of people who know each other."""

    def __init__(self, node, home, names=("alice", "bob"), gateways=None):
        self.home = home
        for name in names:
            urls = gateways or [f"ws://{node.address}"]
            ctl(node, "--home", home, *[a for url in urls for a in ("-g", url)],
                "invite", name)
        for i, one in enumerate(names):
            for other in names[i + 1:]:
                ctl(node, "--home", home, "introduce", one, other)

    def args(self, name, *args):
        return [str(a) for a in (QUIPU, "--home", self.home / name, *args)]

    def run(self, name, *args, stdin=None, want=0):
        return run(self.args(name, *args), stdin, want)

    def json(self, name, *args, stdin=None, want=0):
        return lines(self.run(name, "--json", *args, stdin=stdin, want=want).stdout)

    def start(self, name, *args):
        return Program(self.args(name, *args))

    def texts(self, name):
        """What is stored as received, with its numbers."""
        return [(m["n"], m["text"])
                for m in self.json(name, "history") if "from" in m]

    def gateways(self, name, urls):
        path = self.home / name / "profile.json"
        profile = json.loads(path.read_text())
        profile["gateways"] = urls
        path.write_text(json.dumps(profile))


class Program:
    """A running client with --json, fed by a pipe."""

    def __init__(self, args):
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.rest = b""
        self.events = []

    def read(self, timeout):
        """Take what there is; False at the end."""
        out = self.process.stdout.fileno()
        if not select.select([out], [], [], timeout)[0]:
            return True
        data = os.read(out, 1 << 20)
        *whole, self.rest = (self.rest + data).split(b"\n")
        self.events += [json.loads(line) for line in whole]
        return bool(data)

    def until(self, condition, what="", timeout=WAIT_S):
        end = time.monotonic() + timeout
        while not condition(self.events):
            left = end - time.monotonic()
            if left <= 0 or not self.read(left):
                self.process.kill()
                raise AssertionError((what, self.events[-5:],
                                      self.process.stderr.read()[-500:]))

    def has(self, **members):
        self.until(lambda events: any(
            all(e.get(k) == v for k, v in members.items()) for e in events),
            members)

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)
        self.close()

    def end(self, want=0):
        self.process.stdin.close()
        while self.read(WAIT_S):
            pass
        code = self.process.wait(WAIT_S)
        errors = self.process.stderr.read()
        assert code == want, (code, errors)
        self.close()

    def close(self):
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                pipe.close()
            except OSError:
                pass    # what was not written yet goes nowhere


@pytest.fixture
def two(node, folder):
    return People(node, folder / "people")


# ---- people ----------------------------------------------------------------------

def test_two_people_chat_and_see_ticks(two):
    alice = two.start("alice", "--json", "chat", "bob")
    bob = two.start("bob", "--json", "chat", "alice")
    alice.type("héllo \U0001f999")
    alice.has(event="message", text="héllo \U0001f999", state="acked", name="bob")
    bob.has(event="message", text="héllo \U0001f999", name="alice")
    alice.has(event="ticks", text="héllo \U0001f999", read=True)
    bob.type("//slash")
    alice.has(event="message", text="/slash", name="bob")
    bob.has(event="ticks", text="/slash", read=True)
    bob.end()
    alice.type("/quit")
    alice.end()
    said = [m["text"] for m in two.json("alice", "history", "bob")]
    assert said == ["héllo \U0001f999", "/slash"]
    assert said == [m["text"] for m in two.json("bob", "history", "alice")]


def test_what_came_before_the_chat_is_told_to_be_read_once(two):
    two.run("alice", "send", "bob", "are you there?")
    two.run("bob", "--sync", "-q", "follow")
    alice = two.start("alice", "--json", "--all", "follow")
    for _ in range(2):
        bob = two.start("bob", "--json", "chat", "alice")
        bob.has(event="message", text="are you there?")
        bob.type("yes")     # a second receipt would come with it
        bob.has(event="message", text="yes", state="acked")
        alice.has(event="message", text="yes")
        alice.has(event="message", **{"class": 2})
        bob.end()
    two.run("bob", "send", "alice", "bye")
    alice.has(event="message", text="bye")
    assert len([e for e in alice.events if e.get("class") == 2]) == 1
    alice.process.send_signal(signal.SIGTERM)
    alice.end()
    (said,) = [m for m in two.json("alice", "history") if m.get("to")]
    assert said["read"]


def test_a_terminal_shows_the_message_in_the_place_of_the_typed_line(two):
    bob = two.start("bob", "--json", "follow")
    bob.has(event="state", state="live")
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        args = two.args("alice", "chat", "bob")
        os.execv(args[0], args)
    seen = b""

    def shows(text):
        nonlocal seen
        if select.select([fd], [], [], 0.05)[0]:
            seen += os.read(fd, 65536)
        return text.encode() in seen

    until(lambda: shows("[connected]"), "connected")
    os.write(fd, b"good morning\n")
    until(lambda: shows("me: good morning  ✓"), "the tick")
    assert b"\x1b[A\x1b[2K" in seen
    bob.has(event="message", text="good morning")
    # A stranger's text moves nobody's cursor.
    two.run("bob", "--timeout", 0, "whoami")
    bob.process.send_signal(signal.SIGTERM)
    bob.end()
    two.run("bob", "send", "alice", "evil \x1b[2J\x07 text")
    until(lambda: shows("evil \\x1b[2J\\x07 text"), "harmless text")
    os.write(fd, b"/quit\n")
    until(lambda: os.waitpid(pid, os.WNOHANG)[0], "the end")
    os.close(fd)


def test_send_follow_list_history(two):
    sent = two.json("alice", "send", "bob", "one", "text")
    assert [s["outcome"] for s in sent] == ["acked"] and not sent[0]["dup"]
    sent = two.json("alice", "send", "bob", stdin="two\n\nthree\nlast without newline")
    assert [s["seq"] for s in sent] == [2, 3, 4]
    two.json("alice", "--whole", "send", "bob", stdin="several\nlines\n")
    got = [e for e in two.json("bob", "--sync", "follow") if e["event"] == "message"]
    texts = ["one text", "two", "three", "last without newline", "several\nlines\n"]
    assert [m["text"] for m in got] == texts
    assert [m["n"] for m in got] == [1, 2, 3, 4, 5]
    lamports = [m["lamport"] for m in got]
    assert lamports == sorted(set(lamports))
    # Nothing twice; what is stored can be had again.
    assert not [e for e in two.json("bob", "--sync", "follow")
                if e["event"] == "message"]
    again = two.json("bob", "--from", 3, "--count", 3, "follow")
    assert [m["text"] for m in again] == texts[2:]
    (talk,) = two.json("bob", "list")
    assert (talk["name"], talk["received"], talk["sent"]) == ("alice", 5, 0)
    assert "last without newline" in two.run("bob", "history", "alice").stdout
    # No line of a text looks like the beginning of another message.
    two.json("alice", "--whole", "send", "bob", stdin="a\n10:00 carol: b")
    two.run("bob", "--sync", "follow")
    assert re.search("^  10:00 carol: b", two.run("bob", "history", "alice").stdout,
                     re.M)


def test_history_that_the_server_holds(two):
    lines_ = [f"line {i}" for i in range(700)]
    two.json("alice", "send", "bob", stdin="\n".join(lines_))
    assert [m["text"] for m in two.json("bob", "--remote", "history")] == lines_[-100:]
    got = two.json("bob", "--remote", "--count", 1000, "history", "alice")
    assert [m["text"] for m in got] == lines_
    assert two.json("alice", "--remote", "history") == []
    # Reading there moved nothing that reading here does not know.
    assert two.texts("bob") == list(enumerate(lines_, 1))


def test_a_message_of_the_greatest_size_and_one_more(two):
    two.json("alice", "--whole", "send", "bob", stdin="x" * 61440)
    done = two.run("alice", "--whole", "send", "bob", stdin="x" * 61441, want=1)
    assert "61441" in done.stderr
    got = [e for e in two.json("bob", "--sync", "follow") if e["event"] == "message"]
    assert [len(m["text"]) for m in got] == [61440]


# ---- kill -9 ---------------------------------------------------------------------

def test_a_sender_killed_in_mid_send_loses_and_doubles_nothing(two):
    """The same command again, until it ends by itself."""
    dice = random.Random(1)
    want = [f"line {i}" for i in range(4000)]
    text = "\n".join(want).encode()
    killed = acked = 0
    while killed < 12:
        sender = two.start("alice", "--json", "--id", "batch", "send", "bob")
        try:
            sender.process.stdin.write(text[:60000])    # a pipe holds as much
            sender.process.stdin.flush()
            settled = dice.randrange(300)
            sender.until(lambda events: len([e for e in events if not e["dup"]])
                         >= settled, f"{settled} more")
        finally:
            sender.kill()
        acked += len([e for e in sender.events if not e["dup"]])
        killed += 1
    assert acked > 500
    last = two.json("alice", "--id", "batch", "send", "bob", stdin=text.decode())
    assert all(e["outcome"] == "acked" for e in last)
    once_more = two.json("alice", "--id", "batch", "send", "bob", stdin=text.decode())
    assert len(once_more) == 4000 and all(e["dup"] for e in once_more)
    got = [e for e in two.json("bob", "--sync", "follow") if e["event"] == "message"]
    assert [m["text"] for m in got] == want
    assert [m["n"] for m in got] == list(range(1, 4001))


def test_a_follower_killed_at_any_moment_has_all_once(two):
    dice = random.Random(2)
    want = [f"line {i}" for i in range(3000)]
    two.json("alice", "send", "bob", stdin="\n".join(want[:2000]))
    printed = set()
    for _ in range(10):
        bob = two.start("bob", "--json", "follow")
        n = dice.randrange(400)
        bob.until(lambda events: len([e for e in events if e["event"] == "message"])
                  >= n or any(e.get("state") == "live" for e in events))
        bob.kill()
        printed |= {e["n"] for e in bob.events if e["event"] == "message"}
    two.json("alice", "send", "bob", stdin="\n".join(want[2000:]))
    got = two.json("bob", "--sync", "follow")
    printed |= {e["n"] for e in got if e["event"] == "message"}
    assert not [e for e in got if e["event"] == "hole"]
    # Stored once each, in order; and no number was missing on stdout.
    assert two.texts("bob") == list(enumerate(want, 1))
    assert printed == set(range(1, 3001))


def test_a_killed_server_is_waited_for(fresh_node, folder):
    # A port that stays the same over restarts, of an address of our own.
    from lib.server import own_address
    fresh_node.stop()
    node = Node(folder / "data", args=["--listen", f"{own_address()}:19100"])
    node.start()
    two = People(node, folder / "people")
    sender = two.start("alice", "--json", "send", "bob")
    follower = two.start("bob", "--json", "--count", 600, "follow")
    for start in (0, 200, 400):
        for i in range(start, start + 200):
            sender.type(f"line {i}")
        sender.until(lambda events, n=start: len(events) > n)
        node.kill()
        node.start()
    sender.until(lambda events: len(events) == 600, "all acked", WAIT_S * 2)
    sender.end()
    follower.until(lambda events: len(
        [e for e in events if e["event"] == "message"]) == 600, "", WAIT_S * 2)
    follower.end()
    got = [e for e in follower.events if e["event"] == "message"]
    assert [m["text"] for m in got] == [f"line {i}" for i in range(600)]
    node.kill()


def test_a_sender_goes_on_at_another_gateway(cluster, folder):
    urls = [f"ws://{n.address}" for n in cluster.running()]
    two = People(cluster.any(), folder / "people", gateways=urls)
    sender = two.start("alice", "--json", "send", "bob")
    follower = two.start("bob", "--json", "--count", 400, "follow")
    for i in range(200):
        sender.type(f"line {i}")
    sender.until(lambda events: len(events) > 20)
    victim = cluster.nodes[random.Random(3).choice(sorted(cluster.nodes))]
    victim.kill()
    for i in range(200, 400):
        sender.type(f"line {i}")
    sender.until(lambda events: len(events) == 400, "all acked", WAIT_S * 2)
    sender.end()
    follower.until(lambda events: len(
        [e for e in events if e["event"] == "message"]) == 400, "", WAIT_S * 2)
    follower.end()
    got = [e for e in follower.events if e["event"] == "message"]
    assert [m["text"] for m in got] == [f"line {i}" for i in range(400)]
    victim.start(wait=False)
    cluster.wait_ready()


# ---- refusals --------------------------------------------------------------------

def test_refusals_have_a_message_and_a_status(two, folder):
    done = two.run("alice", "send", "nobody", "x", want=1)
    assert "knows no \"nobody\"" in done.stderr
    (event,) = two.json("alice", "send", "0123456789abcdef", "x", want=1)
    assert (event["outcome"], event["problem"]) == ("refused", "unknown-recipient")
    # The refusal holds nothing up.
    assert two.json("alice", "send", "bob", "y")[0]["outcome"] == "acked"
    done = run([QUIPU, "--home", folder / "none", "list"], want=1)
    assert "no profile" in done.stderr
    run([QUIPU, "--home", folder, "dance"], want=2)
    run([QUIPU, "--no-such"], want=2)
    assert "usage" in run([QUIPU, "--help"]).stdout


def test_a_bad_token_is_told(two, node):
    path = two.home / "alice" / "profile.json"
    profile = json.loads(path.read_text())
    good = profile["token"]
    profile["token"] = good[:-8] + "AAAAAAAA"
    path.write_text(json.dumps(profile))
    done = two.run("alice", "send", "bob", "kept", want=1)
    assert "token" in done.stderr and "1 not acknowledged yet" in done.stderr
    fresh = ctl(node, "token", profile["account"], profile["device"]).stdout.strip()
    # What an earlier try left behind lends the secret neither its mode nor its place.
    profile = two.home / "alice" / "profile.json"
    left = profile.with_name("profile.json.new")
    left.write_text("half")
    left.chmod(0o644)
    two.run("alice", "--token", fresh, "login")
    assert profile.stat().st_mode & 0o777 == 0o600
    elsewhere = two.home / "elsewhere"
    left.symlink_to(elsewhere)
    two.run("alice", "--token", fresh, "login")
    assert not profile.is_symlink() and not elsewhere.exists()
    assert two.json("alice", "flush")[0]["outcome"] == "acked"
    done = two.run("bob", "--token", fresh, "login", want=1)
    assert "another's" in done.stderr


def test_without_a_server_messages_wait_in_the_outbox(two, node):
    address = f"ws://{node.address}"
    two.gateways("alice", ["ws://127.0.0.1:9"])
    done = two.run("alice", "--timeout", 0.3 * SLOW, "send", "bob", "later", want=3)
    assert "not connected" in done.stderr and "kept in the outbox" in done.stderr
    (talk,) = two.json("alice", "list")
    assert talk["waiting"] == 1
    two.gateways("alice", ["ws://127.0.0.1:9", address])
    (event,) = two.json("alice", "flush")
    assert event["outcome"] == "acked"
    assert two.json("alice", "flush") == []
    two.run("bob", "--sync", "-q", "follow")
    assert [t for _, t in two.texts("bob")] == ["later"]


def test_one_device_has_one_user(two, folder):
    chat = two.start("alice", "--json", "chat", "bob")
    # Connected: else it could come after the copy, and be the one that stays.
    chat.type("first")
    chat.has(event="message", text="first", state="acked")
    done = two.run("alice", "send", "bob", "x", want=1)
    assert "another program uses this device" in done.stderr
    # A copy of the profile is the same device at another place.
    (folder / "copy").mkdir()
    profile = (two.home / "alice" / "profile.json").read_text()
    (folder / "copy" / "profile.json").write_text(profile)
    copy = Program([str(QUIPU), "--home", str(folder / "copy"), "--json", "follow"])
    copy.has(event="state", state="live")
    chat.process.wait(WAIT_S)
    assert b"another place" in chat.process.stderr.read()
    chat.close()
    copy.process.send_signal(signal.SIGTERM)
    copy.end()


def test_a_copy_of_an_older_file_is_never_used(two, folder):
    """Restored from a backup: its numbers were used, and would be used twice."""
    two.run("alice", "send", "bob", "first")
    backup = (two.home / "alice" / "device.log").read_bytes()
    two.run("alice", "send", "bob", "second")
    (two.home / "alice" / "device.log").write_bytes(backup)
    done = two.run("alice", "send", "bob", "third", want=1)
    assert "older than what it did before" in done.stderr
    two.run("bob", "--sync", "-q", "follow")
    assert [t for _, t in two.texts("bob")] == ["first", "second"]


def test_damage_is_told_and_left_alone(two):
    two.run("alice", "send", "bob", "one")
    two.run("alice", "send", "bob", "two")
    path = two.home / "alice" / "device.log"
    data = bytearray(path.read_bytes())
    data[120] ^= 1
    path.write_bytes(data)
    for command in (["flush"], ["history"]):
        done = two.run("alice", *command, want=1)
        assert "damaged" in done.stderr
    assert path.read_bytes() == data
    # A cut tail is what a crash leaves.
    data[120] ^= 1
    path.write_bytes(data[:-9])
    assert len(two.json("alice", "history")) == 2
    two.run("alice", "send", "bob", "three")


# ---- TLS -------------------------------------------------------------------------

def test_wss_with_a_ca_of_our_own(folder):
    certs.ca(folder)
    certs.ca(folder, "other")
    certs.leaf(folder, "web", "localhost", addresses=["127.0.0.1"])
    node = Node(folder / "data", [f"gateway.tls_cert={folder}/web.crt",
                                  f"gateway.tls_key={folder}/web.key"]).start()
    try:
        home = folder / "people"
        for name in ("alice", "bob"):
            ctl(node, "-H", home, "--ca", folder / "ca.crt", "invite", name)
        ctl(node, "-H", home, "introduce", "alice", "bob")
        # The server said where it is: wss.
        profile = json.loads((home / "alice" / "profile.json").read_text())
        assert profile["gateways"] == [f"wss://{node.address}"]
        args = [QUIPU, "--home", home / "alice", "--json"]
        text = "\n".join(f"line {i}" for i in range(2000))
        sent = lines(run([*args, "send", "bob"], stdin=text).stdout)
        assert len(sent) == 2000
        got = lines(run([QUIPU, "--home", home / "bob", "--json", "--sync",
                         "follow"]).stdout)
        assert len([e for e in got if e["event"] == "message"]) == 2000
        profile["ca"] = str(folder / "other.crt")
        (home / "alice" / "profile.json").write_text(json.dumps(profile))
        done = run([*args, "--timeout", 0.5 * SLOW, "send", "bob", "x"], want=3)
        assert "certificate" in done.stderr.lower()
    finally:
        node.kill()


# ---- quipuctl --------------------------------------------------------------------

def test_quipuctl_of_a_node(node, folder):
    def ask(*args):
        (answer,) = lines(ctl(node, "--json", *args).stdout)
        return answer

    assert ask("status")["ready"]
    (one,) = ask("nodes")["nodes"]
    assert one.pop("disk") in ("ok", "warn")
    assert one == {"id": 1, "self": True, "up": True}
    assert {s["leader"] for s in ask("leaders")["leaders"]} == {1}
    assert ask("shards", 3)["shards"][0]["shard"] == 3
    assert ask("config")["config"]["node.id"] == 1
    assert ask("stats")["ok"]
    account = ask("account", "add")["id"]
    assert ask("device", "add", account)["device"] == 1
    assert ask("token", account, 1)["token"].count(".") == 2
    assert ask("account", "show", account)["devices"] == [1]
    assert ask("device", "remove", account, 1)["ok"]
    done = ctl(node, "--json", "token", account, 1, want=1)
    assert lines(done.stdout)[0]["error"] == "not-found" or "device" in done.stdout
    for table in (["status"], ["nodes"], ["shards"], ["shards", 0], ["leaders"],
                  ["config"], ["stats"], ["account", "show", account]):
        assert ctl(node, *table).stdout.strip()
    ctl(node, "account", "add", account, want=1)
    ctl(node, "device", "add", "xyz", want=2)
    ctl(node, "transfer", "x", 1, want=2)
    ctl(node, "shards", 999, want=1)
    ctl(node, "-H", folder, "invite", "eve")
    assert "there already" in ctl(node, "-H", folder, "invite", "eve", want=1).stderr
    assert "no profile" in ctl(node, "-H", folder, "introduce", "eve", "adam",
                               want=1).stderr
    done = run([CTL, "--data", folder / "none", "status"], want=3)
    assert "no server" in done.stderr


def test_quipuctl_checks_a_config_file_without_a_server(folder):
    good, bad = folder / "good.ini", folder / "bad.ini"
    good.write_text("[gateway]\nlisten = 127.0.0.1:9000\n")
    bad.write_text("[gateway]\nlisten = 127.0.0.1:9000\nlisen = x\n")
    run([CTL, "config", "check", good])
    done = run([CTL, "config", "check", bad], want=1)
    assert f"{bad}:3" in done.stderr


def test_quipuctl_drain_ends_the_server(fresh_node):
    ctl(fresh_node, "drain")
    assert fresh_node.process.end() == 0
