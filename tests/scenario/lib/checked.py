"""What a build with sanitizers needs: time, and somebody who reads the reports.

Every program that a test starts inherits the options set here, also one that is wrapped
or starts another; a report goes to a file of REPORTS, whoever reads its stderr and
whatever becomes of its exit code.  look() fails for each report, once.
"""

import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("QUIPU_BUILD", ROOT / "build" / "release"))
CHECKED = BUILD.name in ("asan", "tsan")
# Every patience of these tests is a multiple of it.
SLOW = 6 if CHECKED else 1
WAIT_S = 30 * SLOW
REPORTED = 86   # exit code of a process with a report; no program of ours has it

REPORTS = None


def begin():
    global REPORTS
    if not CHECKED:
        return
    REPORTS = Path(tempfile.mkdtemp(prefix="quipu-reports-"))
    ours = f"log_path={REPORTS}/report:exitcode={REPORTED}"
    # UBSan beside ASan writes to stderr, but its abort() is in ASan's report.
    for name, more in (
            ("ASAN_OPTIONS", "detect_leaks=1:strict_string_checks=1:"
                             "detect_stack_use_after_return=1:handle_abort=1"),
            ("UBSAN_OPTIONS", "print_stacktrace=1:abort_on_error=1"),
            ("TSAN_OPTIONS", "second_deadlock_stack=1:history_size=4:"
                             "handle_abort=1")):
        given = os.environ.get(name)
        os.environ[name] = ":".join(x for x in (given, more, ours) if x)


def look():
    """The end of a test: what was reported since the last look fails it."""
    found = sorted(REPORTS.iterdir()) if REPORTS else []
    texts = [f"{path.name}:\n{path.read_text(errors='replace')}" for path in found]
    for path in found:
        path.unlink()
    assert not found, "sanitizer reports\n" + "\n".join(texts)


def end():
    if REPORTS:
        try:
            look()
        finally:
            shutil.rmtree(REPORTS, ignore_errors=True)
