"""The operators' door: every verb, its refusals, and answers in order."""

import json
import os
import socket
import stat
import threading

import pytest

from lib.server import Admin, AdminError, Node, until


@pytest.fixture
def admin(node):
    with Admin(node.data) as made:
        yield made


def error_of(admin, verb, **members):
    with pytest.raises(AdminError) as e:
        admin(verb, **members)
    return e.value.error


def test_only_the_owner_may_use_it(node):
    mode = os.stat(node.data / "admin.sock").st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_status(node, admin):
    s = admin("status")
    assert s["id"] == 1 and s["ready"] and not s["draining"]
    assert s["shards"] == s["led"] == 16 and s["faulty"] == 0
    assert s["listen"] == node.address and s["version"].count(".") == 2
    for name in ("uptime_s", "calls", "subs", "sessions", "http", "sends_open"):
        assert isinstance(s[name], int)
    before = s["journal"]
    assert before["syncs"] > 0 and before["files"] >= 1
    admin("account-add")
    after = admin("status")["journal"]
    assert after["entries"] > before["entries"]
    assert after["bytes"] > before["bytes"]


def test_nodes_and_leaders(admin):
    (one,) = admin("nodes")["nodes"]
    assert one.pop("disk") in ("ok", "warn")
    assert one == {"id": 1, "self": True, "up": True}
    assert admin("leaders")["leaders"] == [{"shard": i, "leader": 1}
                                           for i in range(16)]


def test_shards(admin):
    shards = admin("shards")["shards"]
    assert [s["shard"] for s in shards] == list(range(16))
    for s in shards:
        assert s["role"] == "leader" and s["leader"] == 1 and not s["faulty"]
        assert s["applied"] <= s["commit"] <= s["last"]
        assert s["durable"] <= s["applied"] and s["why"] == ""
        assert len(s["root"]) == 64 and int(s["root"], 16) >= 0
        assert [v["id"] for v in s["voters"]] == [1]
    assert [s["shard"] for s in admin("shards", shard=7)["shards"]] == [7]
    assert error_of(admin, "shards", shard=16) == "bad-request"
    assert error_of(admin, "shards", shard="0") == "bad-request"


def test_accounts_and_devices(admin):
    account = admin("account-add")["id"]
    assert len(account) == 16 and int(account, 16) >> 63 == 0
    assert error_of(admin, "account-add", id=account) == "exists"
    seen = admin("account", account=account)
    assert seen["n_devices"] == 0 and seen["devices"] == []
    assert seen["end"] == 0 and seen["oldest"] == 1
    for i in range(1, 7):
        added = admin("device-add", account=account)
        assert added["device"] == i and added["epoch"] == 1
    assert error_of(admin, "device-add", account=account) == "too-many-devices"
    assert admin("device-remove", account=account, device=2)["device"] == 2
    assert error_of(admin, "device-remove", account=account,
                    device=2) == "not-found"
    assert admin("account", account=account)["devices"] == [1, 3, 4, 5, 6]
    # Numbers are never used twice.
    assert admin("device-add", account=account)["device"] == 7


def test_an_id_of_ones_own_choice(admin):
    own = f"{int.from_bytes(os.urandom(8), 'big') >> 1 | 1:016x}"
    assert admin("account-add", id=own)["id"] == own
    for bad in ("0" * 16, "f" * 16, "1234", own.upper() + "X", 5, None, ""):
        assert error_of(admin, "account-add", id=bad) == "bad-request"


def test_who_is_not_there_is_not_found(admin):
    nobody = "00000000deadbeef"
    for verb, more in (("account", {}), ("device-add", {}),
                       ("device-remove", {"device": 1}),
                       ("token", {"device": 1})):
        assert error_of(admin, verb, account=nobody, **more) == "not-found"


def test_tokens(admin):
    account = admin("account-add")["id"]
    device = admin("device-add", account=account)["device"]
    made = admin("token", account=account, device=device, ttl=60)
    assert made["token"].count(".") == 2
    other = admin("token", account=account, device=device, epoch=1)
    assert other["token"] != made["token"]
    assert 500 < other["expires_s"] - made["expires_s"] < 560
    for bad in ({"device": 0}, {"device": "1"}, {"ttl": 0}, {"ttl": 1 << 40},
                {"ttl": "x"}, {"epoch": -1}, {"account": "x"}):
        members = {"account": account, "device": device, **bad}
        assert error_of(admin, "token", **members) == "bad-request"
    assert error_of(admin, "token", account=account, device=9) == "not-found"


def test_config_and_stats(node, admin):
    config = admin("config")["config"]
    assert config["node.data"] == str(node.data)
    assert config["gateway.max_connections"] == 16000
    assert config["gateway.insecure"] is False
    stats = admin("stats")["stats"]
    assert stats["sends"] >= 0 and set(stats["ack_seconds"]) >= {"count",
                                                                 "p99_us"}


def test_transfer_needs_another_node(admin):
    assert error_of(admin, "transfer", shard=0, to=2) == "not-found"
    assert error_of(admin, "transfer", shard=99, to=1) == "bad-request"
    assert error_of(admin, "transfer", shard=0) == "bad-request"


@pytest.mark.parametrize("line", [
    b"", b"nope", b"[]", b'"status"', b"{}", b'{"verb":1}', b'{"verb":"fly"}',
    b'{"verb":"status","verb":"status"}', b'{"verb":"status"', b"\xff\xfe",
    b'{"verb":"status\0"}'])
def test_a_bad_line_is_answered_and_the_next_one_too(admin, line):
    answer = admin.raw(line)
    assert answer["ok"] is False and answer["error"] == "bad-request"
    assert answer["detail"]
    assert admin("status")["ok"]


def test_answers_keep_the_order_of_requests(admin):
    account = admin("account-add")["id"]
    # Those that wait for the log among those that do not.
    lines, want = [], []
    for i in range(200):
        if i % 3 == 0:
            lines.append({"verb": "account", "account": account})
            want.append("shard")
        elif i % 3 == 1:
            lines.append({"verb": "nodes"})
            want.append("nodes")
        else:
            lines.append({"verb": "account-add"})
            want.append("id")

    def write():
        admin.file.write(b"".join(json.dumps(x).encode() + b"\n"
                                  for x in lines))
        admin.file.flush()
    writer = threading.Thread(target=write)
    writer.start()
    for name in want:
        answer = json.loads(admin.file.readline())
        assert answer["ok"] and name in answer
    writer.join()


def test_what_was_asked_before_the_end_is_answered(node):
    with Admin(node.data) as admin:
        admin.file.write(b'{"verb":"account-add"}\n' * 20)
        admin.file.flush()
        admin.sock.shutdown(socket.SHUT_WR)
        answers = [json.loads(line) for line in admin.file]
        assert len(answers) == 20 and all(a["ok"] for a in answers)


def test_who_does_not_read_is_not_read(admin):
    line = b'{"verb":"status","x":"%s"}\n' % (b"x" * 1000)
    admin.sock.settimeout(2)
    with pytest.raises(TimeoutError):
        admin.sock.sendall(line * 4000)


def test_a_line_too_long_ends_the_connection(node, admin):
    admin.file.write(b"x" * 5000)
    admin.file.flush()
    assert json.loads(admin.file.readline())["error"] == "bad-request"
    try:
        assert admin.file.readline() == b""
    except ConnectionResetError:
        pass
    with Admin(node.data) as other:
        assert other("status")["ok"]


def test_connections_have_a_number(node):
    taken = []
    try:
        for _ in range(20):
            taken.append(Admin(node.data))
        good = 0
        for admin in taken:
            try:
                good += admin("status")["ok"]
            except (json.JSONDecodeError, OSError):
                pass
        assert 10 <= good <= 16
    finally:
        for admin in taken:
            admin.close()

    def free():
        try:
            with Admin(node.data) as other:
                return other("status")["ok"]
        except (json.JSONDecodeError, OSError):
            return False
    until(free, "connections given back")


def test_a_long_folder_has_its_socket_too(folder):
    deep = folder / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    node = Node(deep / "data").start()
    try:
        assert node.admin("status")["ready"]
        node.stop()
    finally:
        node.kill()
