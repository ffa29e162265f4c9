"""The fault-injection suite in short: a few films, one seed, the faults that need no more than this machine.

`make chaos` is the long form. Every run is judged by the same rules: acknowledged once, confirmed once, nothing lost or left over.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import load, table
from benchmarks.chaos.faults import BY_NAME
from benchmarks.chaos.runs import one, several
from tests.system.tools import tool

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SHORT = ("kill -9 Redis, its data wiped", "PACS accepts and forgets for 4 s", "PACS never reports a commitment")


@pytest.mark.parametrize("name", SHORT[:-1])
def test_nothing_is_lost_doubled_or_left_over(name: str) -> None:
    tool("storescu", "dcmtk")
    run = one(BY_NAME[name], 4, 1)
    assert run["wrong"] == []
    assert (run["acknowledged"], run["confirmed"], run["objects_in_pacs"]) == (4, 4, 8)


def test_every_seed_on_one_installation_is_judged_for_itself() -> None:
    tool("storescu", "dcmtk")
    runs = list(several(BY_NAME[SHORT[-1]], 3, [1, 2]))
    assert [run["seed"] for run in runs] == [1, 2]
    assert [run["wrong"] for run in runs] == [[], []]
    assert [(run["acknowledged"], run["confirmed"], run["objects_in_pacs"]) for run in runs] == [(3, 3, 6)] * 2


def test_each_film_of_the_load_is_another_one(tmp_path: Path) -> None:
    films = load.films(tmp_path, 5, "x")
    assert len({film.SOPInstanceUID for film in films}) == len({film.path.read_bytes() for film in films}) == 5


def test_the_table_is_what_the_stored_runs_say() -> None:
    stored = json.loads(table.RESULTS.read_text(encoding="utf-8")) if table.RESULTS.exists() else None
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.render(page, stored) == page, "run python -m benchmarks.chaos.table"


def _run(**changes: Any) -> dict[str, Any]:
    run = {
        **{
            "fault": "nothing",
            "films": 4,
            "seed": 1,
            "acknowledged": 4,
            "confirmed": 4,
            "refused": 1,
            "without_answer": 2,
        },
        **{"accepted_more_than_once": 1, "recovery_seconds": 1.0, "all_confirmed_after_seconds": 9.0, "wrong_count": 0},
        **{"commit": "abcdef123456", "date": "2026-01-01", "load_average": 0.5},
    }
    return {**run, **changes}


def test_a_run_with_something_wrong_shows_in_the_table(tmp_path: Path) -> None:
    for run in (_run(), _run(seed=2, confirmed=3, wrong_count=2, recovery_seconds=2.0, commit="fedcba654321")):
        table.keep(tmp_path / "chaos.json", run)
    stored = json.loads((tmp_path / "chaos.json").read_text(encoding="utf-8"))
    page = table.render(f"a\n{table.BEGIN}\nold\n{table.END}\nb", stored)
    assert "| nothing | 4 | 2 | 8 | 8 | 7 | 6 | 2 | 1.5, 2.0 | 9.0 | 2 | abcdef1, fedcba6 |" in page
    assert "old" not in page


def test_a_run_that_is_made_again_takes_the_place_of_the_one_that_was_kept(tmp_path: Path) -> None:
    for run in (_run(confirmed=3), _run(), _run(films=100)):
        table.keep(tmp_path / "chaos.json", run)
    kept = table.stored(tmp_path / "chaos.json")
    assert [(run["films"], run["confirmed"]) for run in kept] == [(4, 4), (100, 4)]
