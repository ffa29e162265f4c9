"""docs/reliability.md says what the code does, and every field lesson has its test."""

import re
import subprocess
import sys
from pathlib import Path

from service.queue.jobs import FINAL, State
from service.queue.reliability import PAGE, render
from service.web.display import STATES

ROOT = PAGE.parents[1]
LESSONS = {1, *range(4, 14), *range(26, 31), 32}


def rows() -> dict[int, list[str]]:
    """Return the test ids of each lesson."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| (\d+) \|", line):
            found[int(match[1])] = re.findall(r"`(tests/[\w/]+\.py::\w+)`", line)
    return found


def test_the_generated_tables_are_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert render(page) == page, "renew them: python -m service.queue.reliability"


def test_every_field_lesson_names_a_test_that_exists() -> None:
    assert rows().keys() == LESSONS
    for lesson, ids in rows().items():
        assert ids, f"lesson {lesson} has no test"
        for each in ids:
            path, name = each.split("::")
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), each


def test_inference_never_forks_and_its_parent_knows_no_cuda() -> None:
    source = (Path(ROOT) / "service" / "tasks.py").read_text(encoding="utf-8")
    assert 'pool="solo" if self._concurrency == 1 else "threads"' in source
    loaded = "import service.supervisor, service.tasks, sys; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "False\n"
    )


def test_excluded_rejected_failed_and_cancelled_are_told_apart() -> None:
    apart = {State.FILTERED, State.REJECTED, State.FAILED, State.CANCELLED}
    assert apart < set(FINAL)
    assert len({STATES[state] for state in apart}) == len(apart)
