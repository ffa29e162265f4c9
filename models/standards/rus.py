"""The three standards of the 13 RUS bones: RUS-CHN, TW3 RUS (EA90) and TW3-C RUS (China-05).

The fine stages of RUS-CHN refine those of TW3, so one grading serves all three: every method here takes RUS-CHN labels
("0" where the centre is absent, else such as "5(2)"), and the TW3 standards take letters A to I as well.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np

from models.reading import BoneScore, MethodResult
from models.regions import RUS, Sex
from models.standards.curve import Age, Curve
from models.standards.tables import Uncertainty, table, uncertainties
from models.standards.weighting import CLASSIC, Weighting

MORE_LIKELY_THAN_NOT: Final = 0.5


class MissingBones(ValueError):
    """A total needs all 13 bones; `bones` names those without a stage."""

    def __init__(self, bones: Sequence[str]) -> None:
        super().__init__(f"no stage for {', '.join(bones)}; the total needs all {len(RUS)} bones")
        self.bones = tuple(bones)


@cache
def fine_levels(bone: str) -> tuple[str, ...]:
    """RUS-CHN labels of a bone in order of maturity, the absent centre "0" first."""
    levels: dict[str, list[str]] = table("rus_chn")["levels"]
    if bone not in levels:
        raise ValueError(f"bone {bone!r} is not one of {', '.join(RUS)}")
    return tuple(levels[bone])


@cache
def letter_of(bone: str, label: str) -> str:
    """TW3 letter of a RUS-CHN label: absent is A, stage number 1 is B ... 8 is I."""
    levels = fine_levels(bone)
    if label not in levels:
        raise ValueError(f"{bone} has no stage {label!r}; it has {', '.join(levels)}")
    return "ABCDEFGHI"[table("rus_chn")["tw3_stage_number"][bone][levels.index(label)]]


def labels_of(bone: str, letter: str) -> tuple[str, ...]:
    """RUS-CHN labels that refine a TW3 letter."""
    found = tuple(label for label in fine_levels(bone) if letter_of(bone, label) == letter)
    if not found:
        raise ValueError(f"{bone} has no TW3 stage {letter!r}")
    return found


@cache
def _letters(bone: str) -> tuple[str, ...]:
    """TW3 letters of a bone in order of maturity, the absent centre "A" first."""
    return tuple(dict.fromkeys(letter_of(bone, label) for label in fine_levels(bone)))


class RusStandard:
    """Score tables of the 13 bones and the curve from total score to bone age, for each sex.

    Parameters
    ----------
    name
        As it stands in a Reading.
    score_table
        Data file with `scores`, by sex and bone.
    age_table
        Data file with `age_score`, by sex.
    fine
        Whether the scores belong to RUS-CHN fine stages rather than TW3 letters.
    """

    def __init__(self, name: str, score_table: str, age_table: str, *, fine: bool) -> None:
        self.name = name
        self.fine = fine
        self._scores: Mapping[str, Mapping[str, list[int]]] = table(score_table)["scores"]
        self._curves = {sex: Curve(pairs) for sex, pairs in table(age_table)["age_score"].items()}
        self._uncertain: tuple[Uncertainty, ...] = uncertainties(age_table)
        self._polynomial: Mapping[str, list[float]] = table(age_table).get("polynomial", {})

    def levels(self, bone: str) -> tuple[str, ...]:
        """Return the stages this standard scores, in order, the absent centre first."""
        return fine_levels(bone) if self.fine else _letters(bone)

    def level_of(self, bone: str, label: str) -> str:
        """Return this standard's own stage for a RUS-CHN label or, where it scores letters, for a letter."""
        if label in self.levels(bone):
            return label
        if self.fine:
            raise ValueError(f"{bone} has no stage {label!r}; it has {', '.join(self.levels(bone))}")
        return letter_of(bone, label)

    def scores(self, bone: str, sex: Sex) -> tuple[int, ...]:
        """Return the score of each of `levels(bone)`."""
        self.levels(bone)
        return tuple(self._scores[_checked(sex)][bone])

    def score(self, bone: str, label: str, sex: Sex) -> int:
        """Return the score of one bone at one stage."""
        return self.scores(bone, sex)[self.levels(bone).index(self.level_of(bone, label))]

    def probabilities(self, bone: str, fine: Sequence[float]) -> tuple[float, ...]:
        """Sum the probabilities of RUS-CHN stages into those of `levels(bone)`."""
        labels = fine_levels(bone)
        if len(fine) != len(labels):
            raise ValueError(f"{bone} has {len(labels)} stages; {len(fine)} probabilities were given")
        totals = dict.fromkeys(self.levels(bone), 0.0)
        for label, chance in zip(labels, fine, strict=True):
            totals[self.level_of(bone, label)] += float(chance)
        return tuple(totals.values())

    def total(self, stages: Mapping[str, str], sex: Sex) -> int:
        """Sum the scores of the 13 bones.

        Raises
        ------
        MissingBones
            When a bone has no stage.
        """
        _complete(stages)
        return sum(self.score(bone, stages[bone], sex) for bone in RUS)

    def bone_age(self, total: float, sex: Sex) -> Age:
        """Read the bone age at a total score; 1000 is maturity."""
        if total > 1000:
            raise ValueError(f"total score is {total}; the highest is 1000")
        age = self._curves[_checked(sex)].age(total)
        if age.years is None:
            return age
        doubts = tuple(entry.text for entry in self._uncertain if entry.touches(sex, total))
        return Age(age.years, uncertain=doubts, cross_check_years=self.polynomial_age(total, sex))

    def polynomial_age(self, total: float, sex: Sex) -> float | None:
        """Evaluate the published polynomial, the cross-check of the curve; None outside the scores where it is monotone."""
        if sex not in self._polynomial or not table("rus_chn")["polynomial"]["valid_from_score"][sex] <= total <= 1000:
            return None
        return float(np.polynomial.polynomial.polyval(total, self._polynomial[sex]))

    def score_of_age(self, age_years: float, sex: Sex) -> float:
        """Return the total score whose bone age this is; ValueError outside the printed ages."""
        return self._curves[_checked(sex)].score(age_years)

    def age_range(self, sex: Sex) -> tuple[float, float]:
        """Return the printed ages between which the standard states a bone age, in years."""
        ages = self._curves[_checked(sex)].ages
        return ages[0], ages[-1]

    def read(self, stages: Mapping[str, str], sex: Sex) -> MethodResult:
        """Read stages, one label a bone; see `read_scores`."""
        present = {bone: stages[bone] for bone in RUS if bone in stages}
        return self.read_scores({b: float(self.score(b, label, sex)) for b, label in present.items()}, present, sex)

    def weighted(
        self, probabilities: Mapping[str, Sequence[float]], sex: Sex, weighting: Weighting = CLASSIC
    ) -> dict[str, float]:
        """Return the score of each bone given from its RUS-CHN stage probabilities, (levels,), by a weighting rule.

        A hand whose every bone is more likely than not in its last stage is scored as mature, one whose every bone is so in its
        first as without a centre: a weighted mean reaches neither end of the table, so that it could never be said.
        """
        chances = {bone: self.probabilities(bone, own) for bone, own in probabilities.items()}
        for end in (0, -1):
            if all(own[end] > MORE_LIKELY_THAN_NOT for own in chances.values()):
                return {bone: float(self.scores(bone, sex)[end]) for bone in chances}
        return {bone: weighting.score(own, self.scores(bone, sex)) for bone, own in chances.items()}

    def read_probabilities(
        self, probabilities: Mapping[str, Sequence[float]], sex: Sex, weighting: Weighting = CLASSIC
    ) -> MethodResult:
        """Read RUS-CHN stage probabilities by a weighting rule; see `weighted` and `read_scores`."""
        present = {bone: probabilities[bone] for bone in RUS if bone in probabilities}
        stages = {bone: fine_levels(bone)[int(np.argmax(own))] for bone, own in present.items()}
        return self.read_scores(self.weighted(present, sex, weighting), stages, sex)

    def read_scores(self, scores: Mapping[str, float], stages: Mapping[str, str], sex: Sex) -> MethodResult:
        """Return the bone age of weighted scores, each bone's part in it, and what one stage up or down would change.

        A missing bone, no visible centre or full maturity give a result without an age and with the reason. Where the
        age rests on a doubtful printed value, `reference` says so.
        """
        try:
            _complete(scores)
        except MissingBones as missing:
            return MethodResult(
                self.name, sex, None, reason=f"not applicable: {missing}", per_bone=_plain(scores, stages)
            )
        total = min(1000.0, sum(scores[bone] for bone in RUS))
        age = self.bone_age(total, sex)
        per_bone = {bone: self._part(bone, stages[bone], scores[bone], total, age, sex) for bone in RUS}
        return MethodResult(
            self.name,
            sex,
            age.years,
            score=round(total, 2),
            qualifier=age.qualifier,
            reason=age.reason,
            per_bone=per_bone,
            reference="; ".join(age.uncertain) or None,
        )

    def _part(self, bone: str, label: str, score: float, total: float, age: Age, sex: Sex) -> BoneScore:
        """Score of one bone and the change of age when its stage moves by one; None where no age can be read."""
        table_scores = self.scores(bone, sex)
        index = self.levels(bone).index(self.level_of(bone, label))
        changes: list[float | None] = []
        for neighbour in (index - 1, index + 1):
            change = None
            if age.years is not None and 0 <= neighbour < len(table_scores):
                moved = min(1000.0, max(0.0, total + table_scores[neighbour] - table_scores[index]))
                other = self.bone_age(moved, sex).years
                change = None if other is None else other - age.years
            changes.append(change)
        return BoneScore(self.level_of(bone, label), score, changes[0], changes[1])


def _checked(sex: Sex) -> Sex:
    if sex not in ("F", "M"):
        raise ValueError(f"sex is {sex!r}; the curves exist for 'F' and 'M'")
    return sex


def _complete(given: Mapping[str, object]) -> None:
    missing = [bone for bone in RUS if bone not in given]
    if missing:
        raise MissingBones(missing)


def _plain(scores: Mapping[str, float], stages: Mapping[str, str]) -> dict[str, BoneScore]:
    return {bone: BoneScore(stages[bone], score) for bone, score in scores.items()}


RUS_CHN: Final = RusStandard("RUS-CHN", "rus_chn", "rus_chn", fine=True)
TW3_RUS: Final = RusStandard("TW3", "tw3_rus", "tw3_age", fine=False)
TW3C_RUS: Final = RusStandard("TW3-C RUS", "tw3_rus", "tw3c_age", fine=False)
STANDARDS: Final = (RUS_CHN, TW3C_RUS, TW3_RUS)
