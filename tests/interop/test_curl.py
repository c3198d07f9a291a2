"""curl speaks to the gateway's REST side."""
import base64
import json
import os
import subprocess


def curl(*args, status=None):
    """(status, headers, body)"""
    out = subprocess.run(["curl", "-sS", "-i", "--noproxy", "*", "--max-time", "20",
                          *args], capture_output=True, check=True).stdout
    head, _, body = out.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    code = int(lines[0].split()[1])
    headers = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines[1:])}
    if status is not None:
        assert code == status, out.decode(errors="replace")
    return code, headers, body


def mid():
    return base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")


def b64(text):
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def bearer(person):
    return ["-H", "Authorization: Bearer " + person["token"]]


def put(server, sender, to, frame):
    return curl("-X", "PUT", *bearer(sender), "-H", "Content-Type: application/json",
                "-d", json.dumps(frame), f"{server.http}/v1/messages/{to['account']}")


def test_health_and_keys(server):
    curl(server.http + "/livez", status=200)
    curl(server.http + "/readyz", status=200)
    _, headers, body = curl(server.http + "/.well-known/jwks.json", status=200)
    assert headers["content-type"] == "application/jwk-set+json"
    key = json.loads(body)["keys"][0]
    assert key["kty"] == "OKP" and key["crv"] == "Ed25519" and "d" not in key


def test_metrics_in_both_formats(server):
    _, headers, body = curl(server.http + "/metrics", status=200)
    assert b"# TYPE quipu_sends" in body
    _, headers, body = curl("-H", "Accept: application/openmetrics-text; version=1.0.0",
                            server.http + "/metrics", status=200)
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_problems(server, two):
    code, headers, body = curl(server.http + "/v1/nothing-here")
    assert code == 404
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["status"] == 404
    code, headers, body = curl("-X", "DELETE", server.http + "/livez")
    assert code == 405 and "GET" in headers["allow"]
    code, headers, body = curl(server.http + "/v1/account")
    assert code == 401 and json.loads(body)["type"] == "/problems/token-missing"
    bad = dict(two[0], token=two[0]["token"][:-6] + "AAAAAA")
    code, headers, body = curl(*bearer(bad), server.http + "/v1/account")
    assert code == 401 and json.loads(body)["type"] == "/problems/token-invalid"


def test_a_send_its_repeat_and_the_inbox(server, two):
    alice, bob = two
    frame = {"seq": 1, "after": 0, "mid": mid(), "seen": 0, "class": 1,
             "body": b64("from curl")}
    code, _, first = put(server, alice, bob, frame)
    assert code == 200, first
    first = json.loads(first)
    code, _, again = put(server, alice, bob, frame)
    again = json.loads(again)
    assert code == 200 and again["dup"] is True
    for field in ("seq", "lamport", "stamp", "shard", "offset", "time"):
        assert first[field] == again[field]
    _, _, page = curl(*bearer(bob), server.http + "/v1/sync?cursor=0&limit=10", status=200)
    items = json.loads(page)["items"]
    assert [base64.urlsafe_b64decode(i["body"] + "==") for i in items] == [b"from curl"]
    assert items[0]["from"] == alice["account"] and items[0]["n"] == 1
    other = dict(frame, mid=mid())
    code, _, body = put(server, alice, bob, other)
    assert code == 409 and json.loads(body)["type"] == "/problems/seq-conflict"


def test_two_requests_on_one_connection(server):
    out = subprocess.run(["curl", "-sS", "-v", "--noproxy", "*", "--max-time", "20",
                          server.http + "/livez", server.http + "/readyz"],
                         capture_output=True, check=True, text=True)
    assert "Re-using existing connection" in out.stderr


def test_a_large_body_with_expect(server, two):
    alice, bob = two
    frame = {"seq": 1, "after": 0, "mid": mid(), "seen": 0, "class": 1,
             "body": b64("x" * 60000)}
    code, _, body = curl("-X", "PUT", *bearer(alice), "-H", "Expect: 100-continue", "-H",
                         "Content-Type: application/json", "-d", json.dumps(frame),
                         f"{server.http}/v1/messages/{bob['account']}")
    # curl -i shows the interim answer too, so the final status may follow it.
    assert code in (100, 200)
    assert b'"lamport"' in body
