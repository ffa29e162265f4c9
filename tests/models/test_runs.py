import argparse
import json
from pathlib import Path

import pytest

from models import runs, training
from models.engine import EarlyStop
from models.runs import RunRefused


def _options(out: Path, *more: str) -> argparse.Namespace:
    made = runs.parser(
        None, architectures=("fine", "small"), steps=10, batch=2, rate=1e-3, decay=0.1, every=5, data="films"
    )
    return made.parse_args(["--data", "films", "--out", str(out), *more])


def test_a_run_keeps_its_options_and_goes_on_longer(tmp_path: Path) -> None:
    runs.keep(_options(tmp_path), split_sha256="ab")
    kept = runs.keep(_options(tmp_path, "--steps", "20", "--minutes", "3"), split_sha256="ab")
    assert json.loads((tmp_path / runs.CONFIG_FILE).read_text()) == kept
    assert (kept["steps"], kept["architecture"], kept["split_sha256"]) == (20, "fine", "ab")


def test_a_run_does_not_go_on_as_another(tmp_path: Path) -> None:
    runs.keep(_options(tmp_path))
    with pytest.raises(RunRefused, match="architecture fine, not small"):
        runs.keep(_options(tmp_path, "--architecture", "small"))


def test_a_run_does_not_go_on_from_other_weights_at_the_same_place(tmp_path: Path) -> None:
    options = _options(tmp_path / "run")
    options.start = tmp_path / "start"
    options.start.mkdir()
    (options.start / "metadata.json").write_text("{}")
    runs.keep(options)
    options.start = options.start.rename(tmp_path / "moved")
    runs.keep(options)
    (options.start / "metadata.json").write_text('{"version": "2"}')
    with pytest.raises(RunRefused, match="holds a run with start_sha256 44136fa3"):
        runs.keep(options)


def test_what_goes_with_the_weights_names_no_place_of_the_machine(tmp_path: Path) -> None:
    attached = json.loads(runs.attached(runs.keep(_options(tmp_path, "--seed", "7")))[runs.CONFIG_FILE])
    assert attached["seed"] == 7
    assert not {"data", "out", "weights"} & attached.keys()


@pytest.mark.parametrize("problem", training.PROBLEMS)
def test_every_problem_lists_its_options(problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        training.train(problem, ["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--out" in text
    assert "--seed" in text


def test_an_unknown_problem_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'ageing' is not one of detection, segmentation, grading"):
        training.train("ageing", [])


@pytest.mark.parametrize(
    ("more", "step", "waited", "why", "longer"),
    [
        (("--steps", "7"), 7, 0, "7 of 7 steps are done", "--steps"),
        (("--patience", "3"), 6, 3, "3 looks in a row were no better at step 6", "--patience"),
        (("--minutes", "5"), 4, 0, "its time is spent at step 4 of 10", "--minutes"),
    ],
)
def test_a_run_that_is_started_again_after_its_end_says_so_and_how_to_go_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, str],
    step: int,
    waited: int,
    why: str,
    longer: str,
) -> None:
    options = _options(tmp_path, *more)
    stop = EarlyStop(options.patience or options.steps, waited=waited)
    runs.ended(options, 0, step, stop)
    runs.ended(options, step, step, stop)
    first, again = capsys.readouterr().err.splitlines()
    assert first.endswith(f"has ended: {why}; its weights are in {tmp_path / 'weights'}")
    assert again.startswith(first)
    assert f"Nothing was trained now: a larger {longer} goes on, another --out begins anew" in again
