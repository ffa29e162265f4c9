"""Which bundle the service reads with: what the settings say of it holds."""

import json
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from models import registry
from service import bundle
from service.checkup import machine
from service.checkup.finding import Verdict
from service.errors import InvalidConfiguration
from service.settings import Settings


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A bundle of a site: a copy of a shipped one with its weights, which may be changed."""
    values = json.loads((registry.FOLDER / "phantom.json").read_text(encoding="utf-8"))
    for problem, folder in values.items():
        if problem in ("detection", "segmentation", "grading"):
            shutil.copytree(registry.FOLDER / folder, tmp_path / folder)
    path = tmp_path / "site.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_the_default_method_of_the_settings_is_that_of_the_readings() -> None:
    assert bundle.load(Settings(bundle="phantom")).default_method == "RUS-CHN"
    assert bundle.load(Settings(bundle="phantom", default_method="TW3")).default_method == "TW3"
    with pytest.raises(InvalidConfiguration, match="default method 'GP' is not one of") as refused:
        bundle.load(Settings(bundle="phantom", default_method="GP"))
    assert refused.value.code == "bundle-refused"
    assert machine.bundle(Settings(bundle="phantom", default_method="GP")).verdict == Verdict.FAILED


def test_only_the_approved_bundle_is_loaded(site: Path) -> None:
    settings = Settings(bundle=str(site), bundle_sha256=registry.describe(str(site)).sha256.upper())
    bundle.load(settings)
    assert machine.bundle(settings).verdict == Verdict.GOOD
    # Whoever can write the weights can write the hashes beside them: every file is then as its folder says.
    card = site.parent / json.loads(site.read_text())["grading"] / "metadata.json"
    card.write_text(card.read_text().replace('"version"', '"version" ', 1))
    registry.describe(str(site))
    with pytest.raises(InvalidConfiguration, match="is not the one approved"):
        bundle.load(settings)
    assert "is not the one approved" in machine.bundle(settings).text


@pytest.mark.parametrize("digest", ["abc", "g" * 64, "0" * 63])
def test_an_approval_that_is_no_hash_is_refused(digest: str) -> None:
    with pytest.raises(ValidationError, match="bundle_sha256"):
        Settings(bundle_sha256=digest)
