"""`carpus standards`: the printed tables by hand, without film, weights or torch."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from models.regions import CARPALS, RUS
from models.standards import RUS_CHN, TW3_RUS, carpal
from models.standards.provenance import TABLES, provenance
from service.commands.standards import standards
from service.errors import InvalidConfiguration


def _said(*words: str) -> str:
    run = CliRunner().invoke(standards, list(words), standalone_mode=False)
    if run.exception is not None:
        raise run.exception
    return run.output


def test_every_table_names_its_sources_and_what_is_doubtful_or_missing() -> None:
    said = _said()
    for one in provenance():
        assert one.sources, one.name
        assert one.confidence, one.name
        assert f"{one.name}: {one.title}" in said
    assert len(provenance()) == len(TABLES)
    assert "doubtful    girls, 11.5 to 12.5 years: the printed score at 12.0 years (597) is impossible" in said
    assert "missing     TW3-C Carpal score->age (China-05)" in said


def test_stages_by_hand_give_the_ages_of_the_printed_tables() -> None:
    labels = {bone: RUS_CHN.levels(bone)[5] for bone in RUS}
    said = _said("score", "--sex", "f", *(f"{bone}={label}" for bone, label in labels.items()))
    total = RUS_CHN.total(labels, "F")
    age = RUS_CHN.bone_age(total, "F")
    assert f"RUS-CHN      score {total}: {age.years:.2f} years (polynomial {age.cross_check_years:.2f}" in said
    assert f"TW3          score {TW3_RUS.total(labels, 'F')}: " in said


def test_letters_have_no_fine_stage_and_a_missing_bone_is_named() -> None:
    said = _said("score", "--sex", "M", *(f"{bone}=F" for bone in RUS if bone != "mp5"))
    assert "RUS-CHN      not applicable: a letter does not say which of its RUS-CHN stages was seen" in said
    assert "TW3          not applicable: no stage for mp5; the total needs all 13 bones" in said


def test_fused_hands_are_mature_and_never_older() -> None:
    said = _said("score", "--sex", "M", *(f"{bone}={RUS_CHN.levels(bone)[-1]}" for bone in RUS))
    assert "RUS-CHN      score 1000: mature: at least 18 years; the standard ends there" in said


def test_the_carpus_has_a_score_and_no_age_and_says_why() -> None:
    said = _said("score", "--sex", "M", *(f"{bone}={carpal.levels(bone)[4]}" for bone in CARPALS))
    assert "score only: no table from carpal score to age is available for TW3 and TW3-C" in said
    assert "TW3-C RUS" not in said  # no RUS bone was given


def test_heights_are_placed_and_what_a_prediction_lacks_is_said() -> None:
    said = _said("growth", "--sex", "F", "--age", "12", "--height", "150", "--gp", "12.5", "--tw2", "12")
    assert "the reference heights are not confirmed against the printed table" in said
    assert "adult height 159.4 cm by Bayley-Pinneau (average)" in said
    assert "not applicable by Tanner 1975: girls of 11 to 15 years: whether menarche has passed must be known" in said
    assert "not applicable: the reference holds 2 to 18 years" in _said(
        "growth", "--sex", "M", "--age", "19", "--height", "170"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("radius=Q",), "radius has no stage 'Q'; it has 0, 1, 2"),
        (("knee=5",), "bone 'knee' is not one of radius"),
        (("radius=5", "radius=6"), "bone radius is given twice: 5 and 6"),
        (("radius",), "'radius' is not BONE=STAGE"),
    ],
)
def test_what_is_no_stage_is_refused_by_name(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidConfiguration, match=text.split(";")[0]):
        _said("score", "--sex", "F", *words)


def test_neither_torch_nor_pydicom_is_loaded() -> None:
    code = (
        "import sys\nfrom service.__main__ import cli\n"
        "cli(['standards', 'growth', '--sex', 'M', '--age', '10', '--height', '138', '--gp', '10'], standalone_mode=False)\n"
        "sys.exit(bool({'torch', 'pydicom', 'xgboost'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
