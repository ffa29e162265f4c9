"""Score the seven carpal bones.

The stage scores are shared by TW2, TW3 and TW3-C. The tables from score to age of TW3 and TW3-C are not available, so for
them Carpus states the score only; the one carpal age it can state is that of the Japanese TW2 standard, named as such.
"""

from collections.abc import Mapping
from typing import Final

from models.reading import BoneScore, MethodResult
from models.regions import CARPALS, Sex
from models.standards.curve import Age, Curve
from models.standards.tables import table

SCORE_ONLY: Final = "score only: no table from carpal score to age is available for TW3 and TW3-C"


def levels(bone: str) -> tuple[str, ...]:
    """TW letters of a carpal bone, A (absent) first; only the hamate and the trapezium reach I."""
    if bone not in CARPALS:
        raise ValueError(f"bone {bone!r} is not one of {', '.join(CARPALS)}")
    letters: list[str] = table("carpal")["levels"]
    return tuple(letters[: len(table("carpal")["scores"]["M"][bone])])


def scores(bone: str, sex: Sex) -> tuple[int, ...]:
    """Score of each of `levels(bone)`."""
    levels(bone)
    return tuple(table("carpal")["scores"][sex][bone])


def total(stages: Mapping[str, str], sex: Sex) -> int:
    """Sum the seven scores; ValueError names the bones without a stage."""
    missing = [bone for bone in CARPALS if bone not in stages]
    if missing:
        raise ValueError(f"no stage for {', '.join(missing)}; the carpal total needs all {len(CARPALS)} bones")
    return sum(scores(bone, sex)[levels(bone).index(stages[bone])] for bone in CARPALS)


def doubts(stages: Mapping[str, str], sex: Sex) -> tuple[str, ...]:
    """Say which of the given stages have a score that could not be confirmed."""
    return tuple(
        entry["text"]
        for entry in table("carpal")["uncertain"]
        if entry["sex"] == sex and stages.get(entry["bone"]) == entry["stage"]
    )


def read(stages: Mapping[str, str], sex: Sex) -> MethodResult:
    """TW3 carpal result: the score, no age, and why."""
    per_bone = {bone: BoneScore(stages[bone], scores(bone, sex)[levels(bone).index(stages[bone])]) for bone in CARPALS}
    return MethodResult(
        "TW3 carpal",
        sex,
        None,
        score=total(stages, sex),
        reason="; ".join((SCORE_ONLY, *doubts(stages, sex))),
        per_bone=per_bone,
    )


def japanese_tw2_age(score: float, sex: Sex) -> Age:
    """Carpal age of the Japanese TW2 standard; it is not the TW2 of the United Kingdom, nor TW3, nor TW3-C."""
    return Curve(table("carpal")["jp_tw2_age_score"][sex]).age(score)
