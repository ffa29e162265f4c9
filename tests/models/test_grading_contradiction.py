"""The limits of the remark on a single bone: chosen by films somebody looked at, measured on others, written into the bundle."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from models.datasets.faults import BadData
from models.grading import contradiction
from models.grading.network import LEVELS, WIDEST
from models.reading import Region
from models.refusal import Refusal
from models.regions import RUS
from models.standards.harmony import Contradiction
from models.standards.stages import named_stage
from tests.service import readings

MC1 = RUS.index("mc1")


def _hand(**stages: str) -> np.ndarray:
    """Stage probabilities of one hand: the middle stage of every bone, others where said."""
    told = np.zeros((1, len(RUS), WIDEST))
    for i, bone in enumerate(RUS):
        place = LEVELS[i].index(stages[bone]) if bone in stages else len(LEVELS[i]) // 2
        told[0, i, place] = 1
    return told


def test_a_stage_that_is_too_high_is_unlikely_ahead_and_one_that_is_too_low_behind() -> None:
    likely = contradiction.likelihoods(np.concatenate([_hand(mc1="8"), _hand(mc1="0"), _hand()]), np.array([0, 0, 0]))
    ahead, behind = Contradiction(0.8, 0.02, 1e-9), Contradiction(0.8, 1e-9, 0.02)
    assert np.argwhere(contradiction.remarked_by(ahead, likely)).tolist() == [[0, MC1]]
    assert np.argwhere(contradiction.remarked_by(behind, likely)).tolist() == [[1, MC1]]


def test_letters_are_counted_and_what_nobody_looked_at_is_told_from_what_nobody_could_tell() -> None:
    seen = {("a", "mc1"): "F", ("a", "mc3"): "?", ("b", "mc1"): "I"}
    off = contradiction.letters_off(np.concatenate([_hand(mc1="8")] * 2), ["a", "b"], seen)
    # 8 is I: three letters from F, none from I.
    assert (off[0, MC1], off[0, RUS.index("mc3")], off[1, MC1]) == (3, 0, 0)
    assert np.isnan(off[1, RUS.index("mc3")])


def test_the_highest_limit_is_taken_with_which_needless_remarks_stay_rare() -> None:
    likely, off = np.ones((100, len(RUS))), np.full((100, len(RUS)), np.nan)
    likely[:20, MC1], off[:20, MC1] = 0.004, 2  # rightly remarked from 0.005 on
    likely[20, MC1], off[20, MC1] = 0.012, 1  # one film of 100 needlessly, from 0.015 on
    likely[21, MC1], off[21, MC1] = 0.024, 0  # and another one from 0.025 on
    likely[0, 0], off[0, 0] = 0.024, 0  # not a needless film: another remark on it is right
    assert contradiction.chosen(likely, off) == 0.02  # 1 of 100; two would be more than 1.25 %
    found = contradiction.on_films(likely < 0.025, off)
    assert found["films_remarked"]["value"] == 0.22
    assert found["films_remarked_needlessly"]["value"] == 0.02
    assert found["remarks_that_are_right"]["value"] == pytest.approx(20 / 23, abs=1e-4)
    assert (found["remarked_one_letter_off"], found["remarked_as_seen_or_untold"]) == (1, 2)
    assert found["remarked_that_nobody_looked_at"] == 0
    with pytest.raises(Refusal, match=r"from 0\.002 on are needless remarks as rare as 0\.0125"):
        contradiction.chosen(np.zeros((100, len(RUS))), np.zeros((100, len(RUS))))


def test_only_films_that_the_bundle_staged_whole_choose(tmp_path: Path) -> None:
    stages = {bone: named_stage(bone, _hand(mc1="8")[0, i]) for i, bone in enumerate(RUS)}
    whole = readings.reading(regions=tuple(Region(bone, (0, 0, 9, 9), 0.9, stages[bone]) for bone in RUS))
    unknown, lacking = dataclasses.replace(whole, sex=None), dataclasses.replace(whole, regions=whole.regions[:12])
    films = {"a": whole, "b": lacking, "c": whole, "d": unknown}
    lines = [{"file": file, **reading.to_dict()} for file, reading in films.items()] + [{"file": "e", "error": "no"}]
    path = tmp_path / "readings.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    hands = contradiction.as_read(path, {"c"}, {("a", "mc1"): "F"})
    assert hands.likely.shape == (1, len(RUS), 2)
    assert hands.letters_off[0, MC1] == 3
    with pytest.raises(BadData, match="holds no film with 13 stages that may choose"):
        contradiction.as_read(path, {"a", "c"}, {})


def test_what_was_seen_by_eye_names_bones_and_letters_once() -> None:
    table = Path(contradiction.__file__).with_name("seen.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in table[1:]]
    assert table[0] == "film,bone,seen"
    assert len({(film, bone) for film, bone, _ in rows}) == len(rows)
    assert {bone for _, bone, _ in rows} <= set(RUS)
    assert {seen for _, _, seen in rows} <= set("ABCDEFGHI?")
    held_out = range(4360, 4560)
    assert not [film for film, _, _ in rows if int(Path(film).stem) in held_out]
