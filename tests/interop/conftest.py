"""One quipud for all clients of other people: `make interop`.

The server listens where the system chooses; accounts, devices and tokens come
from its admin socket (gateway/admin.h), so that nothing here needs our own tools.
"""
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("QUIPU_BUILD", ROOT / "build/release"))
HERE = Path(__file__).resolve().parent
WAIT_S = 30
# The server must not hear the settings of whoever runs the tests.
ENV = {k: v for k, v in os.environ.items() if not re.match(r"QUIPU_[A-Z]+_", k)}


def wait_for(what, condition, seconds=WAIT_S):
    """The condition's value once it is true."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


class Pages:
    """Serves tests/interop/*.html; a page reports by POST /result."""

    def __init__(self):
        pages = self
        self.results = {}

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(HERE))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                said = json.loads(body)
                pages.results[said["test"]] = said
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Quipud:
    def __init__(self, folder, origins):
        self.data = folder / "data"
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [BUILD / "quipud", "--data", self.data, "--listen", "127.0.0.1:0",
                 "--set", "gateway.origins=" + ",".join(origins)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=ENV)
        self.address = wait_for("quipud listens", self.listening)
        wait_for("quipud is ready", lambda: self.has("event=ready"))
        self.http = f"http://{self.address}"
        self.ws = f"ws://{self.address}/v1/stream"

    def has(self, text):
        assert self.process.poll() is None, "quipud ended:\n" + self.log.read_text()
        return text in self.log.read_text()

    def listening(self):
        if not self.has("event=listening"):
            return None
        return re.search(r"event=listening gateway=(\S+)", self.log.read_text()).group(1)

    def admin(self, verb, **members):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(WAIT_S)
            s.connect(str(self.data / "admin.sock"))
            s.sendall(json.dumps({"verb": verb, **members}).encode() + b"\n")
            answer = json.loads(s.makefile().readline())
        assert answer["ok"], (verb, members, answer)
        return answer

    def person(self):
        """A new account with one device: {account, device, token}."""
        account = self.admin("account-add")["id"]
        device = self.admin("device-add", account=account)["device"]
        token = self.admin("token", account=account, device=device)["token"]
        return {"account": account, "device": device, "token": token}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture(scope="session")
def pages():
    p = Pages()
    yield p
    p.close()


@pytest.fixture(scope="session")
def foreign_pages():
    """Pages of an origin that the gateway does not know."""
    p = Pages()
    yield p
    p.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory, pages):
    s = Quipud(tmp_path_factory.mktemp("quipud"), [pages.origin])
    yield s
    assert s.stop() == 0, s.log.read_text()


@pytest.fixture
def two(server):
    return server.person(), server.person()
