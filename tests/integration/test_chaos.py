"""The fault-injection suite in short: a few films, one seed, the faults that need no more than this machine.

`make chaos` is the long form. Every run is judged by the same rules: acknowledged once, confirmed once, nothing lost or left over.
"""

import json
from pathlib import Path

import pytest

from benchmarks.chaos import load, table
from benchmarks.chaos.__main__ import one
from benchmarks.chaos.faults import BY_NAME
from tests.system.tools import tool

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SHORT = ("kill -9 Redis, its data wiped", "PACS accepts and forgets for 4 s", "PACS never reports a commitment")


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_doubled_or_left_over(name: str) -> None:
    tool("storescu", "dcmtk")
    run = one(BY_NAME[name], 4, 1)
    assert run["wrong"] == []
    assert (run["acknowledged"], run["confirmed"], run["objects_in_pacs"]) == (4, 4, 8)


def test_each_film_of_the_load_is_another_one(tmp_path: Path) -> None:
    films = load.films(tmp_path, 5, "x")
    assert len({film.SOPInstanceUID for film in films}) == len({film.path.read_bytes() for film in films}) == 5


def test_the_table_is_what_the_stored_runs_say() -> None:
    stored = json.loads(table.RESULTS.read_text(encoding="utf-8")) if table.RESULTS.exists() else None
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.render(page, stored) == page, "run python -m benchmarks.chaos.table"


def test_a_run_with_something_wrong_shows_in_the_table() -> None:
    run = {
        **{
            "fault": "nothing",
            "films": 4,
            "seed": 1,
            "acknowledged": 4,
            "confirmed": 3,
            "refused": 1,
            "without_answer": 2,
        },
        **{
            "accepted_more_than_once": 1,
            "recovery_seconds": 1.25,
            "all_confirmed_after_seconds": 9.0,
            "wrong_count": 2,
        },
    }
    series = {"command": "c", "machine": "m", "load_average_at_end": 1, "inference": "stub", "date": "d", "runs": [run]}
    page = table.render(f"a\n{table.BEGIN}\nold\n{table.END}\nb", {"series": [series]})
    assert "| nothing | 1 | 4 | 4 | 3 | 3 | 1 | 1.2, 1.2 | 9.0 | 2 |" in page
    assert "old" not in page
