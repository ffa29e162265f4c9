from pathlib import Path

import pytest
from click.testing import CliRunner

from service.__main__ import cli


@pytest.fixture(autouse=True)
def empty_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands open an installation that has received nothing yet."""
    monkeypatch.setenv("CARPUS_DATA_DIRECTORY", str(tmp_path))


@pytest.mark.parametrize("arguments", [[], ["list"], ["--state", "failed"], ["--limit", "3"]])
def test_jobs_without_a_subcommand_shows_the_queue(arguments: list[str]) -> None:
    run = CliRunner().invoke(cli, ["jobs", *arguments])
    assert run.exit_code == 0, run.output
    assert "no jobs" in run.output


def test_jobs_help_names_the_subcommands() -> None:
    run = CliRunner().invoke(cli, ["jobs", "--help"])
    assert run.exit_code == 0
    assert all(name in run.output for name in ("list", "show", "retry", "cancel", "again"))


def test_an_unknown_subcommand_of_jobs_is_a_usage_error() -> None:
    run = CliRunner().invoke(cli, ["jobs", "lost"])
    assert run.exit_code == 2
    assert "lost" in run.output
