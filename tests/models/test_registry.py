import json
from pathlib import Path

import pytest
import torch

from models import registry, weights
from models.registry import BundleRefused
from models.scoring import LateEnd
from models.standards import Classic, Top2, TopN
from models.standards.harmony import Contradiction, HandPrior
from models.weights import FREE_TERMS, RSNA_TERMS, Metadata, WeightsRefused


def _weights(folder: Path, problem: str, terms: str = FREE_TERMS) -> None:
    card = Metadata(problem=problem, architecture="small", terms=terms, data=("phantoms: 1",), seed=1)
    weights.save(folder, {"w": torch.ones(2)}, card)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    _weights(tmp_path / "detection" / "a", "detection")
    _weights(tmp_path / "grading" / "b", "grading", RSNA_TERMS)
    bundle = {
        "format_version": 1,
        "name": "site",
        "version": "3",
        "detection": "detection/a",
        "grading": "grading/b",
        "weighting": "TopN:0.6",
        "default_method": "RUS-CHN",
    }
    (tmp_path / "site.json").write_text(json.dumps(bundle))
    return tmp_path


def test_a_bundle_names_its_parts_what_it_lacks_and_the_terms_of_all(shelf: Path) -> None:
    found = registry.describe("site", folder=shelf)
    assert [(problem, metadata.architecture) for problem, _, metadata in found.parts] == [
        ("detection", "small"),
        ("grading", "small"),
    ]
    assert found.absent == ("segmentation", "regression")
    assert FREE_TERMS in found.terms
    assert RSNA_TERMS in found.terms
    assert found.scoring.weighting == TopN(0.6)


def test_a_bundle_is_also_found_by_its_path(shelf: Path) -> None:
    assert registry.describe(str(shelf / "site.json")).sha256 == registry.describe("site", folder=shelf).sha256


def test_the_sha256_changes_with_the_weights_and_with_the_rules(shelf: Path) -> None:
    first = registry.describe("site", folder=shelf).sha256
    _weights(shelf / "grading" / "b", "grading")
    second = registry.describe("site", folder=shelf).sha256
    text = (shelf / "site.json").read_text()
    (shelf / "site.json").write_text(text.replace("TopN:0.6", "TopN:0.7"))
    assert len({first, second, registry.describe("site", folder=shelf).sha256}) == 3


def test_changed_weights_are_refused_before_anything_is_loaded(shelf: Path) -> None:
    (shelf / "detection" / "a" / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(WeightsRefused, match=r"sha256 of weights\.safetensors: expected [0-9a-f]{64}, found"):
        registry.load("site", folder=shelf)


def test_an_architecture_no_predictor_knows_is_found_without_loading(shelf: Path) -> None:
    registry.check_runnable(registry.describe("default"))
    registry.check_runnable(registry.describe("regions"))
    with pytest.raises(WeightsRefused, match="detection/a are refused: architecture: expected handnet, found small"):
        registry.check_runnable(registry.describe("site", folder=shelf))


def test_weights_of_another_problem_are_refused(shelf: Path) -> None:
    text = (shelf / "site.json").read_text()
    (shelf / "site.json").write_text(text.replace("grading/b", "detection/a"))
    with pytest.raises(WeightsRefused, match="problem: expected grading, found detection"):
        registry.describe("site", folder=shelf)


def test_an_unknown_bundle_names_those_there_are(shelf: Path) -> None:
    with pytest.raises(BundleRefused, match="shipped bundles: site"):
        registry.describe("other", folder=shelf)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"version":' + b"9" * 10_000, b"\xff"], ids=["deep", "long", "bytes"]
)
def test_a_bundle_that_nobody_wrote_is_refused(shelf: Path, content: bytes) -> None:
    (shelf / "site.json").write_bytes(content)
    with pytest.raises(BundleRefused, match="is not JSON"):
        registry.describe("site", folder=shelf)


def test_another_format_version_is_refused_with_both_versions(shelf: Path) -> None:
    text = (shelf / "site.json").read_text()
    (shelf / "site.json").write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(BundleRefused, match="expected 1, found 2"):
        registry.describe("site", folder=shelf)


def test_a_bundle_without_detection_cannot_be_loaded(shelf: Path) -> None:
    text = (shelf / "site.json").read_text()
    (shelf / "site.json").write_text(text.replace('"detection": "detection/a",', ""))
    with pytest.raises(BundleRefused, match="no weights for detection"):
        registry.load("site", folder=shelf)


def test_a_weighting_is_read_from_its_name() -> None:
    assert registry.parse_weighting("classic") == Classic()
    assert registry.parse_weighting("Top2") == Top2()
    assert registry.parse_weighting("TopN:0.58") == TopN(0.58)
    with pytest.raises(ValueError, match="Top3"):
        registry.parse_weighting("Top3")


def test_a_prior_of_the_hand_is_read_and_one_outside_its_limits_refused(shelf: Path) -> None:
    values = json.loads((shelf / "site.json").read_text())
    for prior, why in (
        ({"weight": 9, "slack_stages": 0.8}, "weight of the hand's prior is 9; 0 to 2 are possible"),
        ({"weight": 1}, "slack_stages"),
    ):
        (shelf / "site.json").write_text(json.dumps({**values, "hand_prior": prior}))
        with pytest.raises(BundleRefused, match=f"hand_prior: .*{why}"):
            registry.describe("site", folder=shelf)
    (shelf / "site.json").write_text(json.dumps({**values, "hand_prior": {"weight": 1.0, "slack_stages": 0.8}}))
    described = registry.describe("site", folder=shelf)
    assert described.scoring.hand_prior == HandPrior(1.0, 0.8)


def test_when_the_other_bones_contradict_one_is_read_from_the_bundle(shelf: Path) -> None:
    values = json.loads((shelf / "site.json").read_text())
    assert registry.describe("site", folder=shelf).scoring.contradiction is None
    limits = {"slack_stages": 0.8, "ahead": 0.02, "behind": 0.01}
    (shelf / "site.json").write_text(json.dumps({**values, "contradiction": limits}))
    described = registry.describe("site", folder=shelf)
    assert described.scoring.contradiction == Contradiction(0.8, 0.02, 0.01)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"default_method": "GP"}, r"default method 'GP' is not one of RUS-CHN, TW3-C RUS, TW3$"),
        ({"hand_prioor": {"weight": 1}}, r"key hand_prioor: known are .*hand_prior"),
        ({"intervals": {"coverage": 0.9}}, r"intervals: KeyError: 'bands'"),
        ({"agreement_threshold_years": "2"}, r"agreement_threshold_years is '2'; a number above 0 is expected"),
        ({"late_end": {"F": {"from_years": 13.0, "films": 19, "too_young": 1.4}}}, r"late_end: .*a share of 0 to 1"),
        (
            {"late_end": {"O": {"from_years": 13.0, "films": 19, "too_young": 0.4}}},
            r"late_end: O is no sex; F and M are",
        ),
        ({"late_end": {"M": {"from": 13.0}}}, r"late_end: .*'from'"),
        ({"contradiction": {"slack_stages": 0.8}}, r"contradiction: .*'ahead'"),
        (
            {"contradiction": {"slack_stages": 0.8, "ahead": 0.7, "behind": 0.1}},
            r"contradiction: .* is 0.7; above 0 and below 0.5",
        ),
        ({"discord_threshold": -1}, r"discord_threshold is -1; a number above 0 is expected"),
    ],
)
def test_a_rule_that_cannot_be_followed_refuses_the_bundle(shelf: Path, changed: dict[str, object], said: str) -> None:
    values = json.loads((shelf / "site.json").read_text()) | changed
    (shelf / "site.json").write_text(json.dumps(values))
    with pytest.raises(BundleRefused, match=said):
        registry.check_runnable(registry.describe("site", folder=shelf))


def test_how_the_end_of_growth_is_read_reaches_the_rules(shelf: Path) -> None:
    values = json.loads((shelf / "site.json").read_text())
    ends = {"M": {"from_years": 14.8, "films": 28, "too_young": 0.21}}
    (shelf / "site.json").write_text(json.dumps({**values, "late_end": ends}))
    assert registry.describe("site", folder=shelf).scoring.late_end == {"M": LateEnd(14.8, 28, 0.21)}


def test_a_bundle_that_is_not_the_approved_one_is_refused_though_every_hash_in_it_is_right(shelf: Path) -> None:
    approved = registry.describe("site", folder=shelf).sha256
    assert registry.describe("site", folder=shelf, sha256=approved).sha256 == approved
    text = (shelf / "site.json").read_text()
    (shelf / "site.json").write_text(text.replace("TopN:0.6", "TopN:0.7"))
    registry.describe("site", folder=shelf)
    for look in (registry.describe, registry.load):
        with pytest.raises(
            BundleRefused, match=f"is not the one approved: expected sha256 {approved}, found [0-9a-f]{{64}}$"
        ):
            look("site", folder=shelf, sha256=approved)


def test_a_sites_default_method_must_be_one_of_the_bundle(shelf: Path) -> None:
    with pytest.raises(BundleRefused, match="default method 'rsna-cnn' is not one of RUS-CHN, TW3-C RUS, TW3"):
        registry.load("site", folder=shelf, default_method="rsna-cnn")
