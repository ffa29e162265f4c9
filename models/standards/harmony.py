"""How the bones of one hand go together: the maturity of each RUS bone to expect at a RUS-CHN bone age, and its scatter.

A total score says how far a hand has come, not which bone has come how far. Stages that no hand shows together mean a film unlike
those learnt from, a box on the wrong bone, or a grader that guesses; the distance from what is usual is stated as `discord`. A
single stage that the other bones contradict is a `Contradiction`.
The table is drawn, not measured on children: its courses and their scatter are those of the phantoms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.regions import RUS, Sex
from models.standards.rus import fine_levels
from models.standards.tables import table

SLACK: Final = 0.35  # stages: a stage is a step, its middle lies up to half a stage beside the maturity
GRID_YEARS: Final = np.arange(0.5, 18.51, 0.25)  # bone ages that a hand is compared with
MIDDLE: Final = 0.8  # of what the other bones let expect of one: the stages named are those of so much in the middle

ByBone: TypeAlias = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class HandPrior:
    """The prior that the bones of one hand belong together: what each bone is told by the others.

    Parameters
    ----------
    weight
        Power of the prior; 0 leaves every bone as it is.
    slack_stages
        Added to the scatter of phantoms' bones, in stages: how much less regular children are than phantoms, and graders err.
    """

    weight: float
    slack_stages: float

    def __post_init__(self) -> None:
        """Refuse what is no prior."""
        if not 0 <= self.weight <= 2:
            raise ValueError(f"weight of the hand's prior is {self.weight:g}; 0 to 2 are possible")
        if not 0.1 <= self.slack_stages <= 5:
            raise ValueError(f"slack of the hand's prior is {self.slack_stages:g} stages; 0.1 to 5 are possible")

    def told(
        self, probabilities: Mapping[str, Sequence[float]], sexes: Sequence[Sex]
    ) -> dict[str, NDArray[np.float64]]:
        """Return the probabilities of each bone given, after it was told what the others say of the hand's age.

        At every age the prior of a bone is normal about what is usual; the ages of all `sexes` are weighed by how well all bones
        fit them. A bone that is certain stays so.
        """
        chances, priors, fit = _heard(probabilities, sexes, self.weight, self.slack_stages)
        likelihood = np.sum([np.log(one) for one in fit.values()], axis=0)
        age = np.exp(likelihood - likelihood.max())
        age /= age.sum()
        found = {bone: own * ((age / fit[bone]) @ priors[bone]) for bone, own in chances.items()}
        return {bone: own / own.sum() for bone, own in found.items()}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """When the other bones of a hand contradict the stage of a single one, and what they let expect instead.

    Parameters
    ----------
    slack_stages
        As in `HandPrior`.
    ahead, behind
        The stage is contradicted where the others give less than this to it and all higher ones (`ahead`), or to it and all
        lower ones (`behind`). Two limits, because a grader may err more often to one side: where it calls many bones of a hand
        too old, the rest look too young.
    """

    slack_stages: float
    ahead: float
    behind: float

    def __post_init__(self) -> None:
        """Refuse what is no slack and no chance."""
        if not 0.1 <= self.slack_stages <= 5:
            raise ValueError(f"slack of a contradiction is {self.slack_stages:g} stages; 0.1 to 5 are possible")
        for name, chance in (("ahead", self.ahead), ("behind", self.behind)):
            if not 0 < chance < 0.5:
                raise ValueError(f"{name} of a contradiction is {chance:g}; above 0 and below 0.5 is possible")

    def found(
        self, probabilities: Mapping[str, Sequence[float]], stages: Mapping[str, str], sexes: Sequence[Sex]
    ) -> dict[str, tuple[str, str]]:
        """Return the contradicted among the bones of `stages`, each with the lowest and the highest stage to expect of it.

        Parameters
        ----------
        probabilities
            Of all bones of the hand; those without a stage in `stages` are heard and not judged.
        """
        expected = told_by_others(probabilities, sexes, self.slack_stages)
        result = {}
        for bone, label in stages.items():
            if bone not in expected:
                continue  # no others: nothing contradicts it
            levels, below = fine_levels(bone), np.cumsum(expected[bone])
            so_high, so_low = tails(expected[bone], levels.index(label))
            if so_high < self.ahead or so_low < self.behind:
                low, high = (int(np.searchsorted(below, edge)) for edge in ((1 - MIDDLE) / 2, (1 + MIDDLE) / 2))
                result[bone] = (levels[low], levels[high])
        return result


def tails(chances: NDArray[np.float64], place: int) -> tuple[float, float]:
    """Return the chance of a stage and all higher ones, and of it and all lower ones."""
    return float(chances[place:].sum()), float(chances[: place + 1].sum())


def told_by_others(
    probabilities: Mapping[str, Sequence[float]], sexes: Sequence[Sex], slack_stages: float
) -> dict[str, NDArray[np.float64]]:
    """Return the probabilities of each bone's stages by what the other bones say of the hand's age, and by nothing of its own."""
    if len(probabilities) < 2:
        return {}
    chances, priors, fit = _heard(probabilities, sexes, 1.0, slack_stages)
    fits = {bone: np.log(one) for bone, one in fit.items()}
    likelihood = np.sum(list(fits.values()), axis=0)
    found = {}
    for bone in chances:
        others = likelihood - fits[bone]
        age = np.exp(others - others.max())
        found[bone] = (age / age.sum()) @ priors[bone]
    return found


def _heard(
    probabilities: Mapping[str, Sequence[float]], sexes: Sequence[Sex], weight: float, slack_stages: float
) -> tuple[ByBone, ByBone, ByBone]:
    """Return of each bone the chances of its stages, its prior (ages, stages), and how well it fits each age; ages of all sexes in turn."""
    chances = {bone: np.asarray(own, np.float64) / np.sum(own) for bone, own in probabilities.items()}
    priors = {bone: np.concatenate([_prior(sex, bone, weight, slack_stages) for sex in sexes]) for bone in chances}
    return chances, priors, {bone: priors[bone] @ own + 1e-12 for bone, own in chances.items()}


@cache
def _prior(sex: Sex, bone: str, weight: float, slack_stages: float) -> NDArray[np.float64]:
    """Return the prior of a bone at every age, (ages, stages)."""
    ages, mean, spread = usual(sex)
    index = RUS.index(bone)
    centre, scatter = (np.interp(GRID_YEARS, ages, column[:, index])[:, None] for column in (mean, spread))
    middle = np.arange(len(fine_levels(bone))) + 0.5
    prior = np.exp(-0.5 * ((middle - centre) / (scatter + slack_stages)) ** 2)
    found: NDArray[np.float64] = (prior / prior.sum(1, keepdims=True)) ** weight
    return found


@cache
def usual(sex: Sex) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return ages in years, (n,), and mean and standard deviation of each bone's maturity in stages, each (n, 13)."""
    values = table("harmony")
    mean = np.array([values["mean"][sex][bone] for bone in RUS]).T
    spread = np.array([values["sd"][sex][bone] for bone in RUS]).T
    return np.array(values["ages_years"]), mean, spread


def deviations(probabilities: Mapping[str, Sequence[float]], bone_age_years: float, sex: Sex) -> dict[str, float]:
    """Return how far each bone given lies from what is usual at a bone age, in standard deviations, signed."""
    ages, mean, spread = usual(sex)
    found = {}
    for index, bone in enumerate(RUS):
        if bone not in probabilities:
            continue
        chances = np.asarray(probabilities[bone], np.float64)
        middle = float(chances @ (np.arange(len(fine_levels(bone))) + 0.5) / chances.sum())
        expected = float(np.interp(bone_age_years, ages, mean[:, index]))
        found[bone] = (middle - expected) / (float(np.interp(bone_age_years, ages, spread[:, index])) + SLACK)
    return found


def discord(probabilities: Mapping[str, Sequence[float]], bone_age_years: float, sex: Sex) -> float | None:
    """Return the root mean square of `deviations`; None without a bone. About 1 is usual for a hand."""
    found = deviations(probabilities, bone_age_years, sex)
    return float(np.sqrt(np.mean(np.square(list(found.values()))))) if found else None
