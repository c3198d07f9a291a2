"""A process of clerks: they make accounts, devices and cursors, change them, look at
them, and note each call with its begin, its end and its answer (linear.py judges them).

usage: clerk.py SPEC.json

SPEC: {seed, pace, history, ca, gateways: [ADDRESS:PORT], admins: [SOCKET],
sources: [ADDRESS], postmen: [{account, device, token}]}; a postman for each clerk, who
sends to the accounts so that their inboxes grow.  Three clerks share an account for some
hundred calls, then take a new one.  Commands on stdin as crew.py has them: after "quiet"
nothing new is begun.

What is known of a call: ok, with its answer, a refusal by the account being one; fail,
when nothing was done for sure (not sent, or the server says so); else unknown.  A send
and a cursor are repeated until they are known, as a device does: the same again is one.
"""

import base64
import http.client
import json
import os
import random
import socket
import ssl
import sys
import threading
import time

from history import History

SHARE = 3               # clerks on one account
LIFE = (100, 220)       # calls of one account
PATIENCE_S = 4.0
REPEAT_S = 60.0         # then even a repeated call stays unknown

# What an account itself answers.
ANSWERS = {"exists", "not-found", "too-many-devices", "device-removed", "ahead",
           "unknown-recipient", "settled", "seq-conflict", "gap", "clock"}
# Refused before anything was done.
NOTHING = {"busy", "draining", "mailbox-full", "too-many-open", "token-expired",
           "token-invalid", "not-enabled"}


class Unknown(Exception):
    pass


class Failed(Exception):
    """Nothing was done."""


class Record:
    """An account as its clerks think it is; only for drawing what to do next."""

    def __init__(self, dice):
        self.id = f"{dice.randrange(1, 1 << 63):016x}"
        self.devices = []
        self.end = 0
        self.left = dice.randint(*LIFE)
        self.made = False

    def learn(self, end, devices):
        self.end = max(self.end, end)
        self.devices = list(devices)


class Desk:
    """What the clerks share."""

    def __init__(self, spec):
        self.spec = spec
        self.history = History(spec["history"])
        self.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ssl.load_verify_locations(spec["ca"])
        self.lock = threading.Lock()
        self.calls = 0
        self.known = 0
        self.problems = {}
        self.records = {}
        self.quiet = self.over = False

    def record(self, group, dice):
        with self.lock:
            record = self.records.get(group)
            if not record or record.left <= 0:
                record = self.records[group] = Record(dice)
            record.left -= 1
            return record

    def begin(self, key, op, argument):
        with self.lock:
            self.calls += 1
            self.history.put("asked", self.calls, key, op, argument)
            return self.calls

    def end(self, call, outcome, value):
        with self.lock:
            self.known += outcome == "ok"
            self.history.put("answered", call, outcome, value)

    def problem(self, name):
        with self.lock:
            self.problems[name] = self.problems.get(name, 0) + 1

    def say(self, read):
        with self.lock:
            self.history.flush()
            print(json.dumps({"calls": self.calls, "known": self.known, "phones": 0,
                              "live": 0, "open": 0, "problems": self.problems,
                              "read": read}), flush=True)


class Clerk(threading.Thread):
    def __init__(self, desk, number):
        super().__init__(daemon=True)
        self.desk = desk
        self.number = number
        self.dice = random.Random(f"{desk.spec['seed']}/{number}")
        self.postman = desk.spec["postmen"][number]
        self.source = desk.spec["sources"][number]
        self.seq = 0
        self.links = {}         # gateway -> connection that is kept
        self.tokens = {}
        self.error = None

    # ---- asking

    def _admin(self, verb, **members):
        path = self.dice.choice(self.desk.spec["admins"])
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE_S)
            try:
                s.connect(path)
                s.sendall(json.dumps({"verb": verb, **members}).encode() + b"\n")
            except OSError as e:
                # Half a request is none: the server waits for its line's end.
                raise Failed(type(e).__name__) from None
            got = b""
            try:
                while not got.endswith(b"\n"):
                    more = s.recv(1 << 16)
                    if not more:
                        raise Unknown("hung up")
                    got += more
            except OSError as e:
                raise Unknown(type(e).__name__) from None
        answer = json.loads(got)
        if answer["ok"]:
            return answer
        name, detail = answer["error"], answer["detail"]
        if name == "bad-request":
            raise RuntimeError(f"{verb}: {detail}")
        if name in ANSWERS:
            return name
        if name in NOTHING or (name == "unavailable" and "nothing was done" in detail):
            raise Failed(name)
        raise Unknown(f"{name}: {detail}" if name == "internal" else name)

    def _connection(self, gateway):
        link = self.links.get(gateway)
        if not link:
            host, port = gateway.rsplit(":", 1)
            link = http.client.HTTPSConnection(
                host, int(port), timeout=PATIENCE_S, context=self.desk.ssl,
                source_address=(self.source, 0))
            try:
                link.connect()
            except OSError as e:
                link.close()
                raise Failed(type(e).__name__) from None
            self.links[gateway] = link
        return link

    def _rest(self, method, path, token, body=None):
        gateway = self.dice.choice(self.desk.spec["gateways"])
        link = self._connection(gateway)
        head = {"Authorization": f"Bearer {token}"}
        if body is not None:
            head["Content-Type"] = "application/json"
            body = json.dumps(body)
        try:
            link.request(method, path, body, head)
            answer = link.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as e:
            link.close()
            del self.links[gateway]
            raise Unknown(type(e).__name__) from None
        if answer.will_close:
            link.close()
            del self.links[gateway]
        if answer.status in (200, 204):
            return json.loads(text) if text else None
        problem = json.loads(text)
        name = problem["type"].rsplit("/", 1)[-1]
        if name == "bad-request":
            raise RuntimeError(f"{method} {path}: {problem}")
        if name in ANSWERS:
            return name
        if name in NOTHING or problem.get("outcome") == "none":
            raise Failed(name)
        raise Unknown(name)

    def _token(self, key, device):
        """By a node whose clock may be off; a refused one is asked for again."""
        token = self.tokens.get((key, device))
        if not token:
            answer = self._admin("token", account=key, device=device, epoch=1,
                                 ttl=24 * 3600)
            token = self.tokens[key, device] = answer["token"]
        return token

    # ---- the calls; each returns what linear.py takes for its answer

    def _account_add(self, key):
        answer = self._admin("account-add", id=key)
        return answer if isinstance(answer, str) else "ok"

    def _erase(self, key):
        answer = self._admin("account-erase", account=key)
        return answer if isinstance(answer, str) else "ok"

    def _device_add(self, key):
        answer = self._admin("device-add", account=key)
        return answer if isinstance(answer, str) else answer["device"]

    def _device_remove(self, key, device):
        answer = self._admin("device-remove", account=key, device=device)
        return answer if isinstance(answer, str) else "ok"

    def _look(self, key):
        answer = self._admin("account", account=key)
        if isinstance(answer, str):
            return answer
        return [answer["end"], sorted(answer["devices"])]

    def _read(self, key, device):
        answer = self._rest("GET", "/v1/account", self._token(key, device))
        if isinstance(answer, str):
            return answer
        return [answer["n"], answer["cursor"], sorted(answer["devices"])]

    def _cursor(self, key, device, to):
        answer = self._rest("POST", "/v1/sync/ack", self._token(key, device),
                            {"cursor": to})
        return answer or "ok"

    def _send(self, key, seq, mid):
        answer = self._rest("PUT", f"/v1/messages/{key}", self.postman["token"], {
            "seq": seq, "after": 0, "mid": mid, "seen": 0, "class": 2,
            "body": base64.urlsafe_b64encode(mid.encode()).rstrip(b"=").decode()})
        return answer if isinstance(answer, str) else "ok"

    # ---- one call, to its end or to the end of what can be known

    def _call(self, key, op, argument, ask, repeat):
        desk = self.desk
        number = desk.begin(key, op, argument)
        end, unknown = time.monotonic() + REPEAT_S, False
        while True:
            try:
                value = ask()
                desk.end(number, "ok", value)
                return value
            except Failed as e:
                desk.problem(str(e))
                if str(e).startswith("token-"):
                    self.tokens = {k: t for k, t in self.tokens.items() if k[0] != key}
                outcome = "unknown" if unknown else "fail"
            except Unknown as e:
                desk.problem(str(e))
                outcome, unknown = "unknown", True
            if not repeat or not unknown or time.monotonic() > end or desk.over:
                desk.end(number, outcome, None)
                return None
            time.sleep(self.dice.uniform(0.05, 0.3))

    def _look_at(self, record):
        got = self._call(record.id, "look", [], lambda: self._look(record.id), False)
        if isinstance(got, list):
            record.made = True
            record.learn(*got)

    def _work(self, record):
        key, dice = record.id, self.dice
        if not record.made:
            self._call(key, "account-add", [], lambda: self._account_add(key), False)
            self._look_at(record)
            return
        ops = {"look": 12, "send": 24, "device-add": 3 if record.devices else 20,
               "account-add": 1, "erase": 1 if record.left < 5 else 0}
        if record.devices:
            ops |= {"read": 26, "cursor": 30, "device-remove": len(record.devices)}
        op = dice.choices(list(ops), list(ops.values()))[0]
        # One that is gone, or was never there, now and then.
        device = dice.choice([*record.devices, dice.choice(record.devices) + 1]
                             ) if record.devices and dice.random() < 0.1 else \
            dice.choice(record.devices or [1])
        if op == "look":
            self._look_at(record)
        elif op == "send":
            self.seq += 1
            mid = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()
            self._call(key, "send", [], lambda: self._send(key, self.seq, mid), True)
        elif op == "device-add":
            if isinstance(self._call(key, op, [], lambda: self._device_add(key), False),
                          int):
                self._look_at(record)
        elif op == "account-add":
            self._call(key, op, [], lambda: self._account_add(key), False)
        elif op == "erase":
            self._call(key, op, [], lambda: self._erase(key), False)
        elif op == "device-remove":
            self._call(key, op, [device], lambda: self._device_remove(key, device),
                       False)
        elif op == "read":
            got = self._call(key, op, [device], lambda: self._read(key, device), False)
            if isinstance(got, list):
                record.learn(got[0], got[2])
        elif op == "cursor":
            to = max(0, record.end + dice.choice((-3, -2, -1, 0, 0, 0, 1)))
            self._call(key, op, [device, to], lambda: self._cursor(key, device, to),
                       True)

    def run(self):
        try:
            while not self.desk.quiet and not self.desk.over:
                self._work(self.desk.record(self.number // SHARE, self.dice))
                time.sleep(self.dice.expovariate(self.desk.spec["pace"]))
        except Exception as e:      # the process must end with it
            self.error = e
            raise


def main():
    with open(sys.argv[1]) as f:
        desk = Desk(json.load(f))
    clerks = [Clerk(desk, n) for n in range(len(desk.spec["postmen"]))]
    for clerk in clerks:
        clerk.start()

    def obey():
        for line in sys.stdin:
            desk.quiet |= line.split()[:1] == ["quiet"]
            if line.split()[:1] == ["end"]:
                break
        desk.over = True

    threading.Thread(target=obey, daemon=True).start()
    while not desk.over and not any(c.error for c in clerks):
        desk.say(None if any(c.is_alive() for c in clerks) else 0)
        time.sleep(0.5)
    for clerk in clerks:
        clerk.join(PATIENCE_S * 2)
    desk.say(0)
    desk.history.close()
    return 1 if any(c.error for c in clerks) else 0


if __name__ == "__main__":
    sys.exit(main())
