"""The rows of the papers beside what was measured: verdicts follow the stored figures."""

from benchmarks import papers, results


def _difference(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 100}


def test_a_finding_comes_out_only_where_every_difference_lies_on_its_side() -> None:
    beyond, within, against = _difference(-1, -2, -0.5), _difference(-1, -2, 0.5), _difference(1, -0.5, 2)
    assert papers._verdict([beyond, beyond]) == papers.COMES_OUT
    assert papers._verdict([beyond, within]) == papers.BY_CHANCE
    assert papers._verdict([beyond, against]) == papers.NOT


def test_every_paper_of_the_reading_of_age_has_its_rows_and_a_miss_says_why() -> None:
    lines = [line for line in papers.section(results.FOLDER / "accuracy").splitlines() if line.startswith("| P")]
    assert {line[2:4] for line in lines} == {"P2", "P4", "P5"}
    for line in lines:
        row, theirs, ours, films, verdict = (cell.strip() for cell in line.strip("| ").split(" | "))
        assert all((row, theirs, ours, films))
        assert not verdict.endswith(papers.NOT), f"{row}: no reason is given"
