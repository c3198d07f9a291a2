"""A real browser's WebSocket, from a page whose origin the gateway knows or not."""
import json
import shutil
import signal
import subprocess
from urllib.parse import quote

import pytest

from conftest import wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


def visit(pages, tmp_path, job):
    """What the page reports."""
    url = f"{pages.origin}/page.html#" + quote(json.dumps(job))
    log = tmp_path / "chromium.log"
    with open(log, "wb") as out:
        browser = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
             "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
             f"--user-data-dir={tmp_path}/profile", url],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return wait_for("the page reports", lambda: pages.results.get(job["test"]), 60)
    except AssertionError:
        raise AssertionError(log.read_text(errors="replace")[-3000:])
    finally:
        browser.send_signal(signal.SIGTERM)
        try:
            browser.wait(15)
        except subprocess.TimeoutExpired:
            browser.kill()


def test_a_page_sends_and_receives(server, pages, tmp_path):
    person = server.person()
    said = visit(pages, tmp_path, {"test": "talk", "ws": server.ws, "count": 10,
                                   "token": person["token"], "to": person["account"]})
    assert said["opened"] and said["protocol"] == "quipu.v1.json", said
    assert sorted(said["acks"]) == list(range(1, 11)), said
    assert said["got"] == [f"from a page {i}" for i in range(1, 11)], said
    assert said["close"] == 1000


def test_a_page_of_a_foreign_origin_is_refused(server, foreign_pages, tmp_path):
    person = server.person()
    said = visit(foreign_pages, tmp_path,
                 {"test": "foreign", "ws": server.ws, "count": 1,
                  "token": person["token"], "to": person["account"]})
    assert not said["opened"], said
    assert said["close"] == 1006
