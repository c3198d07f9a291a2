"""Fixtures for tests against real processes."""

import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lib import checked  # noqa: E402
from lib.server import QUIPUD, Cluster, Node, drop_folder, new_folder  # noqa: E402


# Settings of whoever runs the tests would win over those of a test.
SECTIONS = re.findall(r"^SECTION\((\w+),", (checked.ROOT / "base/conf.tbl").read_text(), re.M)
for variable in list(os.environ):
    if re.match(rf"QUIPU_({'|'.join(SECTIONS)})_", variable, re.I):
        del os.environ[variable]


@pytest.fixture(scope="session", autouse=True)
def built():
    if not QUIPUD.exists():
        pytest.exit(f"{QUIPUD} is not built: make", 2)
    checked.begin()
    yield
    checked.end()


# Autouse fixtures are first to come and last to go: these look when the processes
# of a test, or those that the tests of a file share, are gone.

@pytest.fixture(scope="module", autouse=True)
def no_reports_of_the_file(built):
    yield
    checked.look()


@pytest.fixture(autouse=True)
def no_reports(built):
    yield
    checked.look()


@pytest.fixture
def folder():
    path = new_folder()
    yield path
    drop_folder(path)


@pytest.fixture
def fresh_node(folder):
    """A single node of this test's own, started."""
    node = Node(folder / "data").start()
    yield node
    node.finish()


@pytest.fixture(scope="module")
def node():
    """A single node that the tests of a file share."""
    path = new_folder()
    made = Node(path / "data").start()
    yield made
    try:
        made.finish()
    finally:
        drop_folder(path)


@pytest.fixture(scope="module")
def cluster():
    """Three nodes that the tests of a file share."""
    with Cluster(settings=["gateway.send_timeout_ms=3s"]) as made:
        yield made
