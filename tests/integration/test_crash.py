"""A process of ours dies with a patient in its memory: nothing of the patient is left in files or in what it printed."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

MARK = "WIESENGRUND-4711"
# What a service command does first, then a film in memory, then the end: by a signal, by an error nobody caught, in a thread.
DIES = """
import os, resource, sys, threading
from service.__main__ import cli
from service import log
sys.argv = ["carpus", "worker", "--help"]
try:
    cli(standalone_mode=False)
except SystemExit:
    pass
log.configure()
print("dumps of at most", *resource.getrlimit(resource.RLIMIT_CORE), flush=True)
held = [bytes.fromhex(sys.stdin.read()).decode() * 1000]
def end():
    raise ValueError(f"not a date: {held[0][:16]}")
how = os.environ["HOW"]
if how == "signal":
    os.abort()
if how == "thread":
    thread = threading.Thread(target=end, name="reactor"); thread.start(); thread.join()
else:
    end()
"""


def died(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    # An administrator who wants dumps of everything; 0 in some containers.
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        return subprocess.run(
            [sys.executable, "-c", DIES],
            input=MARK.encode().hex(),
            cwd=folder,
            env={**os.environ, "HOW": how, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.parametrize("how", ["signal", "error", "thread"])
def test_a_process_that_dies_leaves_nothing_of_a_patient(tmp_path: Path, how: str) -> None:
    run = died(tmp_path, how)
    assert run.returncode == {"signal": -6, "error": 1, "thread": 0}[how]
    assert list(tmp_path.iterdir()) == []
    said = run.stdout + run.stderr
    assert "dumps of at most 0 0" in said
    assert MARK not in said
    if how != "signal":
        assert "ValueError" in said, "whoever looks for the cause has the type and the place"
        assert '"at": "<string>:' in said
