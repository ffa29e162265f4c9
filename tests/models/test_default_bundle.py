"""The bundle that ships, through the doors a person uses; the films are phantoms."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as Picture

from models import registry
from models.phantom import Phantom, draw
from models.reading import Reading
from models.regions import REGIONS, RUS
from service.__main__ import cli


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return draw(
        900_001, age_years=10.0, sex="F", rows=900, columns=720, rotation_degrees=5.0, laterality="L", furnished=False
    )


@pytest.fixture
def film(phantom: Phantom, tmp_path: Path) -> Path:
    path = tmp_path / "hand.png"
    Picture.fromarray((255 * phantom.image.pixels).astype(np.uint8)).save(path)
    return path


def test_the_default_bundle_reads_a_phantom_near_its_age(film: Path, phantom: Phantom, tmp_path: Path) -> None:
    run = CliRunner().invoke(
        cli, ["read", str(film), "--sex", "F", "--json", "--overlay", str(tmp_path / "o.png")], standalone_mode=False
    )
    assert run.exception is None, run.output
    reading = Reading.from_json(run.output)
    assert reading.verdict.accepted
    assert [region.name for region in reading.regions] == list(REGIONS)
    assert all(reading.region(bone).stage is not None for bone in RUS)  # type: ignore[union-attr]
    by_stages = {m.name: m for m in reading.methods if m.name in ("RUS-CHN", "TW3-C RUS", "TW3")}
    assert len(by_stages) == 3
    assert by_stages["RUS-CHN"].bone_age_years == pytest.approx(phantom.bone_age_years, abs=1.5)
    with Picture.open(tmp_path / "o.png") as picture:
        assert picture.size == (960, 1200)


def test_every_shipped_bundle_is_what_it_says() -> None:
    run = CliRunner().invoke(cli, ["models", "--json"], standalone_mode=False)
    assert run.exception is None, run.output
    listed = json.loads(run.output)
    assert [bundle["name"] for bundle in listed] == list(registry.names())
    assert all(bundle["verified"] and bundle["terms"] for bundle in listed)


def test_figures_of_the_weights_are_listed_as_lines_with_interval_and_n() -> None:
    run = CliRunner().invoke(cli, ["models", "default"], standalone_mode=False)
    assert run.exception is None, run.output
    figures = [line for line in run.output.splitlines() if line.startswith("    metrics  ")]
    assert any(re.search(r"mae_months [\d.]+ \([\d.]+ to [\d.]+\), n = \d+$", line) for line in figures)
    assert not any("{" in line for line in figures)


def test_a_changed_bundle_is_listed_as_refused_with_exit_status_one(tmp_path: Path) -> None:
    bundle = {"format_version": 1, "name": "x", "version": "1", "grading": "grading/none"}
    (tmp_path / "x.json").write_text(json.dumps(bundle))
    run = CliRunner().invoke(cli, ["models", str(tmp_path / "x.json")])
    assert run.exit_code == 1
    assert "REFUSED" in run.output


def test_a_folder_without_its_table_is_a_matter_of_usage(tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["read", str(tmp_path)])
    assert run.exit_code == 2
    assert "--cases" in run.output


def test_the_bundle_regions_is_the_default_one_with_one_method_more() -> None:
    folder = registry.FOLDER
    default, regions = (json.loads((folder / f"{name}.json").read_text()) for name in ("default", "regions"))
    assert regions.pop("regression") == [default.pop("regression"), "regression/region-xgboost"]
    for values in (default, regions):
        del values["name"], values["intended_use"]
    bands = regions["intervals"]["bands"]
    assert any(band["method"] == "region-xgboost" for band in bands)
    regions["intervals"]["bands"] = [band for band in bands if band["method"] != "region-xgboost"]
    # With a method more the ages of a film lie further apart.
    assert regions.pop("agreement_threshold_years") > default.pop("agreement_threshold_years")
    assert regions == default
