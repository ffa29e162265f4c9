"""A script ends on what it cannot use with one line that names it, and with status 2."""

from pathlib import Path

import pytest

from models import refusal
from models.datasets.faults import BadData


def test_a_script_that_is_refused_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/data.py"])

    def refused() -> None:
        raise BadData(tmp_path / "films.csv", 3, "x", "is no number")

    def missing() -> None:
        (tmp_path / "none" / "result.json").write_text("{}")

    for main, text in (
        (refused, f"data.py: {tmp_path / 'films.csv'}:3: 'x': is no number"),
        (missing, f"data.py: {tmp_path / 'none' / 'result.json'}: No such file or directory"),
    ):
        with pytest.raises(SystemExit) as ended:
            refusal.command(main)
        assert ended.value.code == 2
        assert capsys.readouterr().err.splitlines() == [text]


def test_an_error_of_our_own_is_not_dressed_as_a_refusal() -> None:
    def broken() -> None:
        raise ValueError("shapes do not match")

    with pytest.raises(ValueError, match="shapes"):
        refusal.command(broken)
