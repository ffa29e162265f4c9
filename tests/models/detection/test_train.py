"""The trainings of this problem's networks, in a few small steps."""

from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import weights
from models.datasets.faults import BadData
from models.detection import phantoms
from models.detection.conventions import CHANNEL, CHANNELS
from models.detection.learning_views import grown, validate
from models.detection.network import FIRST, HandNet
from models.detection.predict import Detector
from models.detection.train import main
from models.runs import RunRefused

FOLDER = Path(models.__file__).parent / "bundles" / "detection" / "handnet-closer"


def test_a_film_without_a_hand_does_not_end_the_validation() -> None:
    torch.manual_seed(0)
    network = HandNet(width=8)
    measured = validate(network, [phantoms.other(1), phantoms.film(2)], 96)
    assert set(measured) == {"regions_median", "regions_within"}
    assert np.isfinite(measured["regions_median"])


def test_a_run_is_begun_resumed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--phantoms", "4", "--width", "8", "--size", "64", "--batch", "2", "--every", "2", "--precision", "fp32"]
    options += ["--out", str(tmp_path), "--phantom-cache", str(tmp_path / "cache")]
    main([*options, "--steps", "2"])
    main([*options, "--steps", "4"])
    steps = [line.split(",")[0] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert steps[-1] == '{"step": 4'
    metadata = weights.Metadata.read(tmp_path / "weights")
    assert metadata.hyperparameters["channels"] == len(CHANNELS)
    assert metadata.terms == weights.FREE_TERMS
    assert Detector(tmp_path / "weights").size == 64
    assert "Nothing was trained" not in capsys.readouterr().err
    main([*options, "--steps", "4"])
    said = capsys.readouterr().err
    assert f"has ended: 4 of 4 steps are done; its weights are in {tmp_path / 'weights'}" in said
    assert "Nothing was trained now: a larger --steps goes on" in said


def test_weights_of_fewer_channels_are_grown_by_the_joint_each_names() -> None:
    old = HandNet(width=8, channels=FIRST).state_dict()
    new = HandNet(width=8, channels=len(CHANNELS))
    new.load_state_dict(grown(old, len(CHANNELS)))
    bias = new.state_dict()["places.bias"]
    assert torch.equal(bias[:FIRST], old["places.bias"])
    assert float(bias[CHANNEL["tight mcp3"]]) == float(bias[CHANNEL["mcp3"]]) == float(bias[CHANNEL["spot mcp3"]])


def test_a_closer_look_completes_a_detector_and_leaves_the_rest_of_it_as_it_was(tmp_path: Path) -> None:
    options = [
        "--architecture",
        "closer",
        "--phantoms",
        "2",
        "--batch",
        "4",
        "--steps",
        "2",
        "--every",
        "2",
        "--out",
        str(tmp_path),
    ]
    options += ["--precision", "fp32"]
    with pytest.raises(RunRefused, match="--start"):
        main(options)
    main([*options, "--start", str(FOLDER)])
    state, metadata = weights.load(tmp_path / "weights", problem="detection", architectures=("handnet",))
    before, base = weights.load(FOLDER, problem="detection", architectures=("handnet",))
    assert state.keys() == before.keys()
    assert torch.equal(state["places.weight"], before["places.weight"])
    assert not torch.equal(state["closer.head.weight"], before["closer.head.weight"])
    assert metadata.terms == base.terms


def test_a_look_for_casts_completes_a_detector_and_leaves_the_rest_of_it_as_it_was(tmp_path: Path) -> None:
    options = ["--architecture", "cast", "--phantoms", "2", "--batch", "2", "--steps", "2", "--every", "2"]
    options += ["--precision", "fp32", "--out", str(tmp_path), "--phantom-cache", str(tmp_path / "cache")]
    with pytest.raises(RunRefused, match="--start"):
        main(options)
    main([*options, "--start", str(FOLDER)])
    state, metadata = weights.load(tmp_path / "weights", problem="detection", architectures=("handnet",))
    before, base = weights.load(FOLDER, problem="detection", architectures=("handnet",))
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert {name.split(".")[0] for name in state.keys() - before.keys()} == {"cast"}
    assert metadata.data == (*base.data, "look for casts: casts laid over 2 phantoms")
    assert Detector(tmp_path / "weights").cast is not None
    assert Detector(FOLDER).cast is None


def test_a_run_goes_on_with_the_same_split_wherever_it_lies_and_with_no_other(tmp_path: Path) -> None:
    (tmp_path / "data" / "thumbnails").mkdir(
        parents=True
    )  # without films: a run ends here once its options are accepted
    split = tmp_path / "split.csv"
    split.write_text("id,split\n1,train\n")
    words = ["--data", str(tmp_path / "data"), "--phantoms", "0", "--out", str(tmp_path / "run"), "--split"]
    with pytest.raises(BadData, match="thumbnails"):
        main([*words, str(split)])
    split = split.rename(tmp_path / "moved.csv")
    with pytest.raises(BadData, match="thumbnails"):
        main([*words, str(split)])
    split.write_text("id,split\n1,validation\n")
    with pytest.raises(RunRefused, match="holds a run with split_sha256"):
        main([*words, str(split)])


def test_a_folder_that_is_not_that_of_the_rsna_films_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match=r"holds no folder thumbnails.*--annotations"):
        main(["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--phantoms", "100000"])
    assert not (tmp_path / "run").exists()
